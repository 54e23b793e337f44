from collections.abc import Iterator

import pytest

from mpdf_rllib.engine import run
from mpdf_rllib.engine.models import PACKAGED_MODEL
from mpdf_rllib.engine.vllm_engine import VLLMEngine


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[VLLMEngine]:
    """The embedded model, loaded once for all tests; use it through `mpdf_rllib.engine.run`."""
    engine = VLLMEngine(PACKAGED_MODEL)
    yield engine
    run(engine.close())

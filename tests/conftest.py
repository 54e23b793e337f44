import os
import sys
from collections.abc import Iterator

import pytest
import ray

from mpdf_rllib.engine import run
from mpdf_rllib.engine.models import PACKAGED_MODEL
from mpdf_rllib.engine.vllm_engine import VLLMEngine


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[VLLMEngine]:
    """The embedded model, loaded once for all tests; use it through `mpdf_rllib.engine.run`."""
    engine = VLLMEngine(PACKAGED_MODEL)
    yield engine
    run(engine.close())


@pytest.fixture(scope="session")
def ray_instance() -> Iterator[None]:
    """Four CPUs for all tests that share them; each gives them back."""
    start_ray()
    yield
    ray.shutdown()


def start_ray() -> None:
    ray.shutdown()  # one that a command's own code started has neither these CPUs nor this environment
    # The workers import the tests' own envs; RLlib iterates over sets of agent ids.
    runtime_env = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}}
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=runtime_env)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """A test that failed may have left actors on Ray's CPUs, for which those after it would wait for ever."""
    report = yield
    if report.failed and ray.is_initialized():
        start_ray()
    return report

import os
import sys
from collections.abc import Iterator

import pytest
import ray
from process_fixtures import CONFIG, Experiment

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
def trained_run(tmp_path_factory) -> Experiment:
    """A finished run of two kinds of credit and two seeds, on the scripted engine; tests leave it as it is."""
    algorithm = CONFIG["algorithm"] | {"iterations": 1, "credits": {"step": {}, "outcome": {}}}
    experiment = Experiment(tmp_path_factory.mktemp("trained"), CONFIG | {"algorithm": algorithm})
    experiment.finish("train")
    return experiment


@pytest.fixture(scope="session")
def ray_instance() -> Iterator[None]:
    """The one Ray of all tests that use it in this process, with CPUs to spare for what failed tests leave behind."""
    assert not ray.is_initialized(), "a test before this one started Ray without this fixture"
    # The workers import the tests' own envs; RLlib iterates over sets of agent ids.
    runtime_env = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}}
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=runtime_env)
    yield
    ray.shutdown()

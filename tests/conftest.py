import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from playwright.sync_api import Browser, Page, sync_playwright
from process_fixtures import CONFIG, Experiment

from mpdf_rllib.engine import run
from mpdf_rllib.engine.models import PACKAGED_MODEL, resolve_model
from mpdf_rllib.engine.vllm_engine import VLLMEngine

# A shell has its jobs in the background ignore Ctrl-C, and so would the commands that are tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[VLLMEngine]:
    """The embedded model, loaded once for all tests; use it through `mpdf_rllib.engine.run`."""
    engine = VLLMEngine(PACKAGED_MODEL)
    yield engine
    run(engine.close())


@pytest.fixture
def random_model(tmp_path: Path) -> Path:
    """A model of two small layers that has learned nothing."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "random-model"
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(PACKAGED_MODEL).path)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    layers = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **layers)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory) -> Experiment:
    """A finished run of two kinds of credit and two seeds, on the scripted engine; tests leave it as it is."""
    algorithm = CONFIG["algorithm"] | {"iterations": 1, "credits": {"step": {}, "outcome": {}}}
    experiment = Experiment(tmp_path_factory.mktemp("trained"), CONFIG | {"algorithm": algorithm})
    experiment.finish("train")
    return experiment


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium is installed")
        pytest.skip("no chromium is installed")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a file in a new page, where nothing may go wrong until the test ends, and nothing else be asked for."""
    wrong, pages = [], []

    def open_file(file: Path, **context) -> Page:
        page = browser.new_context(**context).new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        pages.append(page)
        return page

    yield open_file
    for page in pages:
        page.context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def ray_instance() -> Iterator[None]:
    """The one Ray of all tests that use it in this process, with CPUs to spare for what failed tests leave behind."""
    assert not ray.is_initialized(), "a test before this one started Ray without this fixture"
    # The workers import the tests' own envs; RLlib iterates over sets of agent ids.
    runtime_env = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}}
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env=runtime_env,
    )
    yield
    ray.shutdown()

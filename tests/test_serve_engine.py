"""The shared Ray Serve LLM application, with the embedded model behind it."""

import asyncio
import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Iterator

import psutil
import pyarrow.parquet as pq
import pytest
import ray
from process_fixtures import CONFIG, Experiment
from ray import serve
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mpdf_rllib.engine import GenerationRequest, Position, RecordingEngine, SamplingParameters, generate_many, run
from mpdf_rllib.engine.config import ServeConfig
from mpdf_rllib.engine.models import PACKAGED_MODEL, resolve_model
from mpdf_rllib.engine.serve_engine import ServeEngine
from mpdf_rllib.errors import ConfigError, DataError

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("ray_instance")]

GREEDY = SamplingParameters(temperature=0.0, max_tokens=8, stop=("\n",))
CHAT = (("system", "Answer by a number."), ("user", "What is 3 times 4?"))
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string", "maxLength": 3}}, "required": ["answer"]}
FITTING = dataclasses.replace(GREEDY, max_tokens=24, json_schema=json.dumps(SCHEMA | {"additionalProperties": False}))
REQUESTS = {
    "text": GenerationRequest("Q: 3 * 4?\nA: 3 * 4 = 12\nQ: 5 * 6?\nA:", GREEDY, Position("text", 0)),
    "chat": GenerationRequest(CHAT, GREEDY, Position("chat", 0)),
    "words": GenerationRequest("Is 3 * 4 = 12?\nVerdict:", GREEDY, Position("words", 0), (" Correct", " Incorrect")),
    "continuation": GenerationRequest(
        "Q: 5 * 6?\nA:", GREEDY, Position("continuation", 0), continuation=" 5 * 6 = 30, naïvely"
    ),
    "chat words": GenerationRequest(CHAT, GREEDY, Position("chat words", 0), ("Correct", "Incorrect")),
    "schema": GenerationRequest("Q: 3 * 4?\nA: 3 * 4 = 12\nQ: 5 * 6?\nA:", FITTING, Position("schema", 0)),
    "chat schema": GenerationRequest(CHAT, FITTING, Position("chat schema", 0)),
}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def config() -> Iterator[ServeConfig]:
    yield ServeConfig(kind="serve", port=free_port())
    serve.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """The packaged model, whose own settings have a penalty that nobody asks for."""
    folder = tmp_path_factory.mktemp("models") / "penalised"
    shutil.copytree(resolve_model(PACKAGED_MODEL).path, folder, copy_function=os.symlink)
    settings = folder / "generation_config.json"
    penalised = json.loads(settings.read_text()) | {"repetition_penalty": 5.0}
    settings.unlink()
    settings.write_text(json.dumps(penalised))
    return str(folder)


@ray.remote(num_cpus=1)
class EnvRunner:
    """Of a trial: what it starts is put into the trial's placement group."""

    def ask(self, model: str, config: ServeConfig) -> str:
        return run(ServeEngine(model, config).generate(REQUESTS["text"])).text


@pytest.fixture(scope="module")
def engine(ray_instance, model, config) -> Iterator[ServeEngine]:
    trial = placement_group([{"CPU": 1}])
    in_trial = PlacementGroupSchedulingStrategy(trial, placement_group_capture_child_tasks=True)
    assert ray.get(EnvRunner.options(scheduling_strategy=in_trial).remote().ask.remote(model, config))
    remove_placement_group(trial)
    shared = ServeEngine(model, config)
    yield shared
    run(shared.close())


@pytest.mark.parametrize("name", REQUESTS)
def test_it_answers_as_the_engine_in_this_process_does(engine, vllm_engine, name):
    request = REQUESTS[name]
    served, own = run(engine.generate(request)), run(vllm_engine.generate(request))
    same = ("text", "token_ends", "finish_reason", "prompt_tokens", "generated_tokens")
    assert {key: getattr(served, key) for key in same} == {key: getattr(own, key) for key in same}
    assert served.logprobs == pytest.approx(own.logprobs, abs=0.1)
    assert served.word_logprobs == pytest.approx(own.word_logprobs, abs=0.1)


def test_a_second_engine_finds_the_application_and_leaves_it_running(engine, model, config):
    run(engine.generate(REQUESTS["text"]))
    (name,) = serve.status().applications
    second = ServeEngine(model, config)
    run(second.generate(REQUESTS["text"]))
    run(second.close())
    assert [*serve.status().applications] == [name]
    assert run(engine.generate(REQUESTS["text"])).text


def test_live_training_by_the_command_finds_the_application(engine, model, config, tmp_path):
    run(engine.generate(REQUESTS["text"]))
    before = [*serve.status().applications]
    team = {"model": model, "prompt": "completion", "critic": False}
    live = {"live": True, "seeds": 1, "engine": config.model_dump(), "team": team}
    few = {"questions": CONFIG["questions"] | {"train": 10, "test": 10}}
    algorithm = {"algorithm": CONFIG["algorithm"] | {"iterations": 1, "env_runners": 1}}
    experiment = Experiment(tmp_path, CONFIG | live | few | algorithm)
    experiment.join(ray.get_runtime_context().gcs_address)
    assert "10 held-out questions" in experiment.finish("train").stdout
    assert [*serve.status().applications] == before
    keys = experiment.recorded_keys()
    assert len(keys) == len({*keys}) == 10 * 12 + 10 * (12 + 3)


def test_a_prompt_that_is_too_long_names_its_question(engine):
    too_long = dataclasses.replace(REQUESTS["text"], prompt="one two " * 60_000, position=Position("q7", 0))
    with pytest.raises(DataError, match="'q7'"):
        run(engine.generate(too_long))


def test_an_argument_that_vllm_does_not_know_is_refused_by_name(model, config):
    wrong = ServeEngine(model, config.model_copy(update={"args": {"max_num_seq": 4}}))
    with pytest.raises(ConfigError, match="max_num_seqs"):
        run(wrong.generate(REQUESTS["text"]))
    run(wrong.close())


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        experiment = Experiment(tmp_path, CONFIG | {"engine": {"kind": "serve", "port": port}})
        said = experiment.finish("record", status=2).stderr
    assert f"engine.port: Ray Serve could not start its HTTP proxy on port {port}" in said and "Traceback" not in said


def processes(title: str) -> list[psutil.Process]:
    """Of this process's Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_killed_replica_is_started_again_and_nothing_recorded_is_made_again(engine, tmp_path):
    sampling = SamplingParameters(max_tokens=14)
    requests = [GenerationRequest(f"Count from {i}:", sampling, Position(f"q{i}", 0)) for i in range(200)]

    async def job() -> None:
        recording = RecordingEngine(str(tmp_path), PACKAGED_MODEL, lambda: engine, flush_every=20)
        answers = asyncio.ensure_future(generate_many(recording, requests))
        while not [*tmp_path.glob("*.parquet")]:
            assert not answers.done()
            await asyncio.sleep(0.02)
        (replica,) = processes("ServeReplica:" + (await asyncio.to_thread(_application)) + ":LLMServer")
        engines = replica.children(recursive=True)
        flushed = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
        replica.kill()
        assert len(await answers) == 200
        await recording.close()
        assert all(path.read_bytes() == contents for path, contents in flushed.items())
        assert engines and not psutil.wait_procs(engines, timeout=20)[1], "vLLM outlived its replica"

    run(job())
    keys = [key for path in tmp_path.glob("*.parquet") for key in pq.read_table(path)["key"].to_pylist()]
    assert len(keys) == len({*keys}) == 200


def _application() -> str:
    (name,) = serve.status().applications
    return name

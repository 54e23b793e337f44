import dataclasses
import functools
import importlib.util
import math
import random
import subprocess
import sys
from collections import Counter

import pyarrow.dataset as ds
import pytest
from process_fixtures import REPOSITORY

from mpdf_rllib import cost
from mpdf_rllib.config import TeamConfig
from mpdf_rllib.config_file import load_config
from mpdf_rllib.cost import cluster_of
from mpdf_rllib.cost_model import Cluster, Costs, Lengths, demand, estimate
from mpdf_rllib.engine import Generation, GenerationRequest, RecordingEngine, run
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import generate_questions
from mpdf_rllib.record import record
from mpdf_rllib.recorded_trees import RecordedTrees

CONFIG = """
name: small
questions: {families: [addition, arithmetic, multiplication], train: 90, test: 70}
engine: {kind: scripted}
"""
ANSWER = Generation("= 31", (1, 2, 3, 4), (-0.5,) * 4, (1, 2, 3, 4), "stop", 40, 10, 4)
VERDICT = Generation("", (), (), (), "score", 72, 18, 0, (-0.5, -1.0))
LENGTHS = Lengths(prompt=40, generated=4, verdict_prompt=72, cached_share=0.25)


@pytest.mark.parametrize(
    "settings",
    [
        {"critic": False},
        {"critic": True},
        {"agents": 5, "rounds": 2, "critic": False},
        {"agents": 8, "rounds": 1, "critic": True},  # more agents than fresh samples
        {"agents": 2, "rounds": 2, "critic": True, "refine_samples": 3},
        {"agents": 3, "rounds": 2, "critic": False, "refiner": "actor"},
        {"agents": 2, "rounds": 3, "critic": True, "refine_samples": 2, "refiner": "actor"},
        {"critic": True, "peer_likelihood": True},
        {"agents": 4, "rounds": 1, "critic": False, "peer_likelihood": True},
    ],
)
def test_what_is_predicted_is_what_an_engine_is_asked(tmp_path, settings):
    asked: Counter[str] = Counter()

    def respond(request: GenerationRequest) -> Generation:
        own = dataclasses.replace(ANSWER, text=f"= 31 {request.position}")  # equal texts are scored once
        likelihood = dataclasses.replace(VERDICT, prompt_tokens=44, cached_tokens=11)
        generation = likelihood if request.continuation else VERDICT if request.scores else own
        asked.update(
            requests=1,
            prompt=generation.prompt_tokens,
            cached=generation.cached_tokens,
            generated=generation.generated_tokens,
        )
        return generation

    async def fill() -> None:
        engine = RecordingEngine(str(tmp_path), "model", lambda: ScriptedEngine(respond))
        await trees.fill(team, engine)
        await engine.close()

    config = TeamConfig(**settings)
    team = Team(**config.model_dump(exclude={"model", "prompt", "temperature", "top_p"}))
    train, test = generate_questions(["addition"], "train", 4), generate_questions(["addition"], "test", 3)
    trees = RecordedTrees.empty(team, train, test)
    run(fill())
    predicted = demand(config, 4, 3, LENGTHS)
    assert (predicted.prompt_tokens, predicted.cached_tokens) == (asked["prompt"], asked["cached"])
    assert predicted.generated_tokens == asked["generated"]
    assert predicted.requests == asked["requests"] == ds.dataset(tmp_path).count_rows()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_recording_has_the_files_and_rows_that_are_predicted(ray_instance, tmp_path, workers):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    config = load_config(path, [f"recording={tmp_path}/recording", "team.critic=true", f"record.workers={workers}"])
    record(config)
    wanted = demand(config.team, 90, 70, LENGTHS)
    took = estimate(wanted, LENGTHS, Cluster(tokens_per_s=1e6, workers=workers), Costs())
    recording = ds.dataset(tmp_path / "recording")
    assert recording.count_rows() == wanted.requests
    if workers:
        assert len(recording.files) == took.files == took.shards
    else:  # while one file is written more rows come in than belong into the next
        assert 2 <= len(recording.files) <= took.files == 9


TEAM = TeamConfig(critic=False)
FAST = Cluster(tokens_per_s=2560, sequences=256, replicas=8, workers=8)
COSTS = Costs()
MANY = demand(TEAM, 80_000, 80_000, Lengths(generated=10))


def took(costs=COSTS, **changes):
    return estimate(MANY, Lengths(generated=10), dataclasses.replace(FAST, **changes), costs)


def test_replicas_shorten_the_work_as_long_as_requests_fill_them():
    # 160,000 questions with 12 solutions each, and 80,000 with 3 more: 2.16 M of 10 tokens at 8 * 256 a second.
    one_request = 256 / 256
    assert took().engine_s == pytest.approx(2_160_000 / 2048 + 3 * one_request)
    assert took(replicas=4).engine_s == pytest.approx(2_160_000 / 1024 + 3 * one_request)
    assert took().in_flight == 2048
    # With 128 requests of each actor in flight, half of the places stay empty.
    assert took(concurrency=128).engine_s == pytest.approx(2_160_000 / 1024 + 3 * one_request)
    assert took().replica_hours == pytest.approx(8 * took().engine_s / 3600)


def test_rows_a_file_are_what_a_shard_gets_in_ten_seconds_but_512_at_most():
    # 2,048 shards of 1,055 rows, 32 of them at once, which get 64 rows/s each.
    assert took().shards == 2048
    assert took().files == 2048 * 3
    assert took(tokens_per_s=256).files == 2048 * 17


def test_hours_and_files_are_what_a_simulation_event_by_event_comes_to():
    place = importlib.util.spec_from_file_location("scaling", REPOSITORY / "scripts" / "scaling.py")
    place.loader.exec_module(scaling := importlib.util.module_from_spec(place))
    lengths, cluster, costs = scaling.NODE
    team = TeamConfig(critic=True)
    predicted = estimate(demand(team, 8000, 8000, lengths), lengths, cluster, costs)
    drawn = functools.partial(random.Random(1).expovariate, 1 / predicted.request_s)
    seconds, files = scaling.simulate_recording(team, 8000, 8000, cluster, drawn)
    # Predicted is too early, as batches are not full at the end, and too many files, as answers come in bursts.
    assert 0.8 * seconds < predicted.engine_s < seconds
    assert files < predicted.files < 1.35 * files


def test_the_bottleneck_is_what_is_short_or_takes_longest():
    plenty = took().replay_bytes
    assert took().bottleneck(plenty) == "engine"
    assert took().bottleneck(plenty - 1) == "memory"
    assert took(Costs(list_s=1e-2)).bottleneck(plenty) == "files"
    assert took(Costs(replay_s=1e-3)).bottleneck(plenty) == "files"


@pytest.mark.parametrize(
    ("override", "cluster"),
    [
        ("engine={kind: vllm, args: {max_num_seqs: 64}}", Cluster(50, 64, replicas=2, workers=2)),
        ("engine={kind: serve, replicas: 4}", Cluster(50, 128, replicas=4, workers=2, concurrency=256)),
        ("engine={kind: serve, replicas: {max: 3}}", Cluster(50, 128, replicas=3, workers=2, concurrency=256)),
        ("engine={kind: endpoint, url: 'http://a/v1'}", Cluster(50, 128, workers=2, concurrency=64)),
        ("engine={kind: endpoint, url: 'http://a/v1', concurrency: 9}", Cluster(50, 18, workers=2, concurrency=9)),
        ("engine={kind: scripted, args: {max_num_seqs: 4}}", Cluster(50, 4, replicas=2, workers=2)),
    ],
)
def test_the_engines_of_a_config(tmp_path, override, cluster):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    assert cluster_of(load_config(path, [override, "record.workers=2"]), 50) == cluster


def test_the_commands_own_process_has_all_questions_in_flight_and_writes_one_file_after_the_other(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    cluster = cluster_of(load_config(path, ["engine={kind: vllm, args: {max_num_seqs: 512}}"]), 512)
    assert (cluster.places, cluster.workers) == (512, 0)
    lengths = Lengths(generated=10)
    wanted = demand(TEAM, 90, 70, lengths)
    alone = estimate(wanted, lengths, cluster, COSTS)
    # 160 questions of 3 chains, and 70 first answers more at three a question: 2,130 requests in chains of 4.
    assert alone.in_flight == 512
    assert alone.files == math.ceil(2_130 / 512)  # at 512 tokens/s of 10 a request: 512 rows in ten seconds
    assert estimate(wanted, lengths, dataclasses.replace(cluster, workers=1), COSTS).in_flight < 200


def test_the_command_prints_what_to_expect(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    command = [sys.executable, "-m", "mpdf_rllib.cost", "--config", path, "--generated-tokens", "100"]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    # 160 questions with 12 solutions, 70 with 3 more; each with its verdict.
    assert printed.startswith("160 questions: 2,130 solutions, 4,260 requests\n")
    assert "generated 213,000" in printed


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tokens-per-s", "0"),
        ("--generated-tokens", "-1"),
        ("--prompt-tokens", "nan"),
        ("--verdict-tokens", "many"),
        ("--cached-share", "90"),
    ],
)
def test_a_speed_or_length_that_is_none_is_named(option, value, capsys):
    with pytest.raises(SystemExit):
        cost._arguments().parse_args(["--config", "x.yaml", option, value])
    assert option in capsys.readouterr().err

import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest

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
ANSWER = Generation("= 3", (1, 2, 3), (-0.5,) * 3, (1, 2, 3), "stop", 40, 10, 3)
VERDICT = Generation("", (), (), (), "score", 72, 18, 0, (-0.5, -1.0))
LENGTHS = Lengths(prompt=40, generated=3, verdict_prompt=72, cached_share=0.25)


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
    ],
)
def test_what_is_predicted_is_what_an_engine_is_asked(tmp_path, settings):
    asked: Counter[str] = Counter()

    def respond(request: GenerationRequest) -> Generation:
        generation = VERDICT if request.score_words else ANSWER
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
    team = Team(**config.model_dump(exclude={"model", "prompt"}))
    train, test = generate_questions(["addition"], "train", 4), generate_questions(["addition"], "test", 3)
    trees = RecordedTrees.empty(team, train, test)
    run(fill())
    predicted = demand(config, 4, 3, LENGTHS)
    assert (predicted.prompt_tokens, predicted.cached_tokens) == (asked["prompt"], asked["cached"])
    assert predicted.generated_tokens == asked["generated"]
    assert predicted.requests == asked["requests"] == ds.dataset(tmp_path).count_rows()


def test_a_recording_has_the_files_and_rows_that_are_predicted(ray_instance, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    config = load_config(path, [f"recording={tmp_path}/recording", "team.critic=true", "record.workers=1"])
    record(config)
    wanted = demand(config.team, 90, 70, LENGTHS)
    took = estimate(wanted, LENGTHS, Cluster(tokens_per_s=1e6), Costs())
    recording = ds.dataset(tmp_path / "recording")
    assert recording.count_rows() == wanted.requests
    assert len(recording.files) == took.files == took.shards


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
        ("engine={kind: endpoint, url: 'http://a/v1'}", Cluster(50, workers=2)),
    ],
)
def test_the_engines_of_a_config(tmp_path, override, cluster):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    assert cluster_of(load_config(path, [override, "record.workers=2"]), 50) == cluster


def test_the_command_prints_what_to_expect(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    command = [sys.executable, "-m", "mpdf_rllib.cost", "--config", path, "--generated-tokens", "100"]
    printed = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True).stdout
    # 160 questions with 12 solutions, 70 with 3 more; each with its verdict.
    assert printed.startswith("160 questions: 2,130 solutions, 4,260 requests\n")
    assert "generated 213,000" in printed

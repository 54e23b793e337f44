import asyncio
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recording_fixtures import ODD, always, echo, make_request, record, replay, requests_of

from mpdf_rllib.engine import (
    Generation,
    GenerationRequest,
    Position,
    RecordingEngine,
    SamplingParameters,
    generate_many,
    run,
)
from mpdf_rllib.engine.recording_files import SCHEMA, RecordingFolder, owner, request_key
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.errors import DataError, EngineError


@pytest.mark.parametrize("place", ["local", "memory"])
def test_round_trip_is_exact(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "recording" if place == "local" else f"memory://{tmp_path.name}/recording"
    chat = (("system", "Be brief."), ("user", "2 + 3?"))
    requests = [
        make_request("plain"),
        make_request("chat", prompt=chat),
        make_request("scored", score_words=(" right", " wrong")),
    ]
    generations = {
        "plain": ODD,
        "chat": dataclasses.replace(ODD, text="", token_ids=(), logprobs=(), token_ends=(), generated_tokens=0),
        "scored": dataclasses.replace(ODD, finish_reason="score", word_logprobs=(-0.3, -1.7)),
    }
    fresh = record(folder, requests, ScriptedEngine(lambda request: generations[request.position.question]))
    assert replay(folder, requests) == fresh
    assert fresh[0].text == ODD.text
    assert fresh[0].logprobs == pytest.approx(ODD.logprobs)


def test_a_recording_continues(tmp_path: Path) -> None:
    first, second = ScriptedEngine(echo), ScriptedEngine(echo)
    record(tmp_path, requests_of(3), first)
    record(tmp_path, requests_of(5), second)
    assert (first.requests, second.requests) == (3, 2)
    assert len(list(tmp_path.iterdir())) == 2
    assert [g.text for g in replay(tmp_path, requests_of(5))] == [f"answer to q{i}" for i in range(5)]


def test_counters(tmp_path: Path) -> None:
    async def job() -> tuple[int, int]:
        engine = RecordingEngine(str(tmp_path), "model", lambda: ScriptedEngine(echo))
        await generate_many(engine, requests_of(3))
        await generate_many(engine, requests_of(4))
        await engine.close()
        return engine.hits, engine.made

    assert run(job()) == (3, 4)


def test_another_model_is_not_replayed(tmp_path: Path) -> None:
    record(tmp_path, requests_of(1), ScriptedEngine(echo))
    with pytest.raises(DataError, match=r"'q0'.*mpdf_rllib\.record"):
        replay(tmp_path, requests_of(1), fingerprint="other")


def test_equal_requests_in_flight_share_one_generation(tmp_path: Path) -> None:
    draws = itertools.count()
    inner = ScriptedEngine(lambda _: str(next(draws)), delay=0.01)
    generations = record(tmp_path, [make_request()] * 20 + [make_request(root=1)] * 20, inner)
    assert inner.requests == 2
    assert len(set(generations[:20])) == len(set(generations[20:])) == 1
    assert generations[0] != generations[-1]


def test_a_cancelled_caller_loses_nothing(tmp_path: Path) -> None:
    async def job() -> int:
        answering = asyncio.Event()

        class Slow(ScriptedEngine):
            async def generate(self, request: GenerationRequest) -> Generation:
                await answering.wait()
                return await super().generate(request)

        inner = Slow(echo)
        engine = RecordingEngine(str(tmp_path), "model", lambda: inner)
        caller = asyncio.ensure_future(engine.generate(make_request()))
        other = asyncio.ensure_future(engine.generate(make_request()))
        await asyncio.sleep(0)
        caller.cancel()
        answering.set()
        await other
        await engine.close()
        return inner.requests

    assert run(job()) == 1
    assert replay(tmp_path, [make_request()])


def test_close_gives_up_what_is_in_flight(tmp_path: Path) -> None:
    async def job() -> None:
        engine = RecordingEngine(str(tmp_path), "model", lambda: ScriptedEngine(echo, delay=3600))
        caller = asyncio.ensure_future(engine.generate(make_request()))
        await asyncio.sleep(0)
        await engine.close()
        await engine.close()
        with pytest.raises(asyncio.CancelledError):
            await caller

    run(job())
    assert not list(tmp_path.iterdir())


def test_a_failure_is_not_recorded(tmp_path: Path) -> None:
    def fail_on_q1(request: GenerationRequest) -> str:
        if request.position.question == "q1":
            raise EngineError("it died")
        return echo(request)

    with pytest.raises(EngineError, match="it died"):
        record(tmp_path, [make_request("q0"), make_request("q1")], ScriptedEngine(fail_on_q1))
    again = ScriptedEngine(echo)
    record(tmp_path, [make_request("q0"), make_request("q1")], again)
    assert again.requests == 1


def test_of_duplicates_the_first_file_wins(tmp_path: Path) -> None:
    for name, text in (("2", "second"), ("1", "first")):
        record(tmp_path / name, [make_request()], always(text))
        (file,) = (tmp_path / name).iterdir()
        (tmp_path / "both").mkdir(exist_ok=True)
        file.rename(tmp_path / "both" / f"{name}.parquet")
    assert replay(tmp_path / "both", [make_request()])[0].text == "first"


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "re[1]*?"
    generations = record(folder, requests_of(2), ScriptedEngine(echo))
    assert replay(folder, requests_of(2)) == generations


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "text"])
def test_an_unreadable_file_is_named_skipped_and_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    record(tmp_path, requests_of(2), ScriptedEngine(echo))
    (file,) = tmp_path.iterdir()
    contents = file.read_bytes()
    match damage:
        case "truncated":
            file.write_bytes(contents[: len(contents) // 2])
        case "empty":
            file.write_bytes(b"")
        case "foreign":
            pq.write_table(pa.table({"x": [1, 2]}), file)
        case "text":
            file.write_text("not Parquet at all\n" * 100)
    record(tmp_path, [make_request("q7")], ScriptedEngine(echo))

    engine = RecordingEngine(str(tmp_path), "model", None)
    assert engine.skipped == [file.name]
    assert file.name in caplog.text
    assert run(engine.generate(make_request("q7"))).text == "answer to q7"
    again = ScriptedEngine(echo)
    record(tmp_path, requests_of(2), again)
    assert again.requests == 2


def test_a_full_flush_is_written_at_once_and_the_rest_in_time(tmp_path: Path) -> None:
    async def job() -> list[int]:
        engine = RecordingEngine(
            str(tmp_path), "model", lambda: ScriptedEngine(echo), flush_every=4, flush_seconds=0.05
        )
        await generate_many(engine, requests_of(4))
        await generate_many(engine, requests_of(6)[4:])
        async with asyncio.timeout(20):
            while sum(rows := [pq.read_metadata(file).num_rows for file in sorted(tmp_path.glob("*.parquet"))]) < 6:
                await asyncio.sleep(0.01)
        await engine.close()
        return rows

    assert run(job()) in ([4, 2], [6])
    assert len(replay(tmp_path, requests_of(6))) == 6


def test_nothing_is_left_but_whole_files(tmp_path: Path) -> None:
    record(tmp_path, requests_of(40), ScriptedEngine(echo), flush_every=8)
    files = list(tmp_path.iterdir())
    assert all(file.suffix == ".parquet" for file in files)
    assert all(pq.read_schema(file).names == SCHEMA.names for file in files)


def test_loading_12000_generations_takes_less_than_a_second(tmp_path: Path) -> None:
    generation = Generation("14 * 9 = 126", tuple(range(12)), (-0.25,) * 12, tuple(range(12)), "stop", 282, 256, 12)
    requests = [make_request(f"q{i}", prompt="x" * 800 + str(i)) for i in range(12_000)]
    record(tmp_path, requests, ScriptedEngine(lambda _: generation), flush_every=512)
    started = time.process_time()
    engine = RecordingEngine(str(tmp_path), "model", None)
    seconds = time.process_time() - started
    assert run(engine.generate(requests[-1])) == generation
    assert seconds < 1.0


def test_a_loaded_generation_of_300_tokens_takes_6_kilobytes_of_memory(tmp_path: Path) -> None:
    generation = Generation("x" * 1200, tuple(range(300)), (-0.25,) * 300, tuple(range(300)), "stop", 282, 256, 300)
    requests = requests_of(1000)
    record(tmp_path, requests, ScriptedEngine(lambda _: generation))
    RecordingEngine(str(tmp_path), "model", None)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    engine = RecordingEngine(str(tmp_path), "model", None)
    held = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert run(engine.generate(requests[-1])) == generation
    assert held / 1000 < 7000


words = st.text(max_size=12)
steps = st.tuples(st.integers(0, 50), st.integers(0, 50))
positions = st.builds(Position, words, st.integers(0, 50), st.integers(0, 50), st.lists(steps, max_size=3).map(tuple))
samplings = st.builds(
    SamplingParameters,
    st.floats(0, 2),
    st.floats(0, 1, exclude_min=True),
    st.integers(1, 64),
    st.lists(words, max_size=2).map(tuple),
    st.none() | words,
)
prompts = words | st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), words), max_size=3).map(tuple)
requests_ = st.builds(GenerationRequest, prompts, samplings, positions)
scorings = st.builds(
    GenerationRequest, prompts, samplings, positions, st.lists(words, min_size=1, max_size=3).map(tuple)
)


@given(requests_ | scorings, requests_ | scorings)
def test_keys_are_equal_only_for_what_determines_a_draw(one: GenerationRequest, other: GenerationRequest) -> None:
    for changed in (
        other,
        dataclasses.replace(one, prompt=other.prompt),
        dataclasses.replace(one, position=other.position),
        dataclasses.replace(one, score_words=other.score_words),
    ):
        same = one == changed or (bool(one.score_words) and dataclasses.replace(changed, sampling=one.sampling) == one)
        assert (request_key("m", one) == request_key("m", changed)) == same
    assert request_key("m", one) != request_key("n", one)


@given(requests_, samplings)
def test_the_sampling_is_a_part_of_the_key_unless_words_are_scored(
    request_: GenerationRequest, sampling: SamplingParameters
) -> None:
    changed = dataclasses.replace(request_, sampling=sampling)
    assert (request_key("m", request_) == request_key("m", changed)) == (request_ == changed)
    scoring, changed = (dataclasses.replace(r, score_words=(" right",)) for r in (request_, changed))
    assert request_key("m", scoring) == request_key("m", changed)


@pytest.mark.parametrize(
    ("request_", "key"),
    [
        (
            GenerationRequest("2 + 3 =", SamplingParameters(0.7, 0.9, 14, ("\n",)), Position("q", 1, 2, ((0, 1),)), ()),
            "8014b614d9cdb25d11533fc490f0ce9b06252d690b7a929d975c212956edc68c",
        ),
        (
            GenerationRequest((("user", "2 + 3?"),), SamplingParameters(), Position("q", 0)),
            "1a05b04d2521d739f82f3a41c9edf024ff549be0dbbcef161ed4c66a684e9684",
        ),
    ],
    ids=["text", "chat"],
)
def test_what_earlier_versions_recorded_is_found(request_: GenerationRequest, key: str) -> None:
    assert request_key("model", request_) == key
    schema = dataclasses.replace(request_.sampling, json_schema="{}")
    assert request_key("model", dataclasses.replace(request_, sampling=schema)) != key


def test_a_generation_under_a_schema_is_recorded_with_it(tmp_path: Path) -> None:
    schema = '{"type": "object"}'
    plain = make_request()
    fitting = make_request(sampling=dataclasses.replace(plain.sampling, json_schema=schema))
    record(tmp_path, [plain], always("5"))
    record(tmp_path, [fitting], always("{}"))
    assert [generation.text for generation in replay(tmp_path, [plain, fitting])] == ["5", "{}"]
    rows = [row for file in tmp_path.iterdir() for row in pq.read_table(file).to_pylist()]
    assert {row["text"]: json.loads(row["sampling"]).get("json_schema") for row in rows} == {"5": None, "{}": schema}


def test_a_whole_number_is_the_same_temperature() -> None:
    one, other = (make_request(sampling=SamplingParameters(temperature=t, top_p=t)) for t in (1, 1.0))
    assert request_key("m", one) == request_key("m", other)


@given(words, st.integers(1, 64))
def test_a_question_has_one_owner(question: str, shards: int) -> None:
    assert 0 <= owner(question, shards) < shards
    assert owner(question, shards) == owner(question, shards)


def test_owners_are_stable_and_spread() -> None:
    owners = [owner(f"q{i}", 4) for i in range(400)]
    assert owners[:8] == [3, 2, 3, 3, 3, 1, 1, 3]
    assert all(owners.count(shard) > 60 for shard in range(4))


def test_closing_while_a_flush_is_due_writes_no_row_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, may_write = RecordingFolder.write, threading.Event()

    def write_when_told(self: RecordingFolder, rows: list[dict[str, Any]]) -> None:
        may_write.wait(20)
        write(self, rows)

    async def fill_and_close() -> None:
        engine = RecordingEngine(str(tmp_path), "model", lambda: always("7"), flush_every=2)
        await generate_many(engine, requests_of(2))
        await generate_many(engine, requests_of(6))
        closing = asyncio.ensure_future(engine.close())
        await asyncio.sleep(0)
        may_write.set()
        await closing

    monkeypatch.setattr(RecordingFolder, "write", write_when_told)
    asyncio.run(fill_and_close())
    keys = [key for file in tmp_path.glob("*.parquet") for key in pq.read_table(file)["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == 6


ROOT = Path(__file__).resolve().parents[1]

SCRIPT_WITHOUT_CLOSE = """
import sys
from mpdf_rllib.config_file import load_config
from mpdf_rllib.envs import DeliberationEnv

env = DeliberationEnv(load_config(sys.argv[1]).env_config())
env.reset(seed=0)
print(env.session.debates.visited.sum())
"""


def test_a_script_that_closes_nothing_loses_nothing_at_its_end(tmp_path: Path) -> None:
    """First answers, and the refinements that the rewards of the first round ask for."""
    config = tmp_path / "x.yaml"
    config.write_text(
        "{name: x, questions: {families: [addition], train: 10, test: 1},"
        " engine: {kind: scripted}, team: {critic: false}}"
    )
    script = subprocess.run(
        [sys.executable, "-c", SCRIPT_WITHOUT_CLOSE, config],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert script.stdout == "3\n" and "Traceback" not in script.stderr
    [file] = (tmp_path / "recordings" / "x").iterdir()
    assert pq.read_table(file).num_rows == 6

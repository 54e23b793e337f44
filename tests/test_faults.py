"""Faults as they happen to real processes: killed, out of room or of rights, two at once, with an engine that fails."""

import dataclasses
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from process_fixtures import CONFIG, TIMEOUT, Experiment, contents, small_disk, without_places  # noqa: F401

from mpdf_rllib.algorithms.checkpoints import load_module
from mpdf_rllib.engine import Generation, GenerationRequest, scripted
from mpdf_rllib.engine.recording_files import RecordingFolder
from mpdf_rllib.engine.scripted import answer_like_a_small_model
from mpdf_rllib.envs.credit import Calibration
from mpdf_rllib.envs.features import NUMBERS
from mpdf_rllib.errors import EngineError
from mpdf_rllib.record import record
from mpdf_rllib.train import train

# Each of the four depths of the trees takes a second, and the first answers alone fill a file.
MANY = CONFIG | {
    "questions": CONFIG["questions"] | {"train": 100, "test": 100},
    "engine": {"kind": "scripted", "args": {"delay": 1.0}},
}
GENERATIONS = 100 * 12 + 100 * 12 + 100 * 3  # two sets of trees, and more first answers
FEW_GENERATIONS = 12 * 12 + 12 * 12 + 12 * 3
WARM_START, ITERATIONS = 16, 20

SECOND_FLUSH_STOPS_HALF_WAY = """
import itertools, threading
from fsspec.implementations.local import LocalFileSystem

open_file, flushes = LocalFileSystem.open, itertools.count(1)

def open_(self, path, mode="rb", **settings):
    stream = open_file(self, path, mode, **settings)
    if mode == "wb" and next(flushes) == 2:
        write = stream.write
        def half(contents):
            write(contents[: len(contents) // 2])
            stream.flush()
            threading.Event().wait()
        stream.write = half
    return stream

LocalFileSystem.open = open_
"""

RESULTS_STOP_HALF_WAY = """
import io, threading
from pyarrow import parquet

write_table = parquet.write_table

def half(table, path, **settings):
    stream = io.BytesIO()
    write_table(table, stream, **settings)
    path.write_bytes(stream.getvalue()[: stream.tell() // 2])
    threading.Event().wait()

parquet.write_table = half
"""

TWO_BEGIN_TOGETHER_AND_PROMPT_TOKENS_TELL_WHICH = """
import dataclasses, os, pathlib, time
from mpdf_rllib.engine import scripted
from mpdf_rllib.engine.recording_files import RecordingFolder

read, answer, here = RecordingFolder.read, scripted.answer_like_a_small_model, pathlib.Path(__file__).parent

def read_and_wait(self):
    known = read(self)
    (here / f"{os.getpid()}.read").touch()
    while len([*here.glob("*.read")]) < 2:
        time.sleep(0.01)
    return known

RecordingFolder.read = read_and_wait
scripted.answer_like_a_small_model = lambda request: dataclasses.replace(answer(request), prompt_tokens=os.getpid())
"""


def test_killed_during_a_flush(tmp_path):
    experiment = Experiment(tmp_path, MANY)
    experiment.inject(SECOND_FLUSH_STOPS_HALF_WAY)

    def half_written() -> list[Path]:
        return [path for path in experiment.recording.glob(".*.tmp") if path.stat().st_size]

    experiment.kill_once(lambda: experiment.recorded() and half_written(), "record")
    flushed, made, leftover = experiment.recorded(), len(experiment.recorded_keys()), half_written()[0].read_bytes()
    assert 0 < made < GENERATIONS

    experiment.inject("")
    ended = experiment.finish("record")
    assert f"{GENERATIONS - made} generations made" in ended.stderr and "skipped" not in ended.stderr
    assert experiment.recorded().items() >= flushed.items()
    assert [*Counter(experiment.recorded_keys()).values()] == [1] * GENERATIONS
    assert half_written()[0].read_bytes() == leftover


@pytest.mark.parametrize("shards", [((), ()), (("--shard", "0/2"), ("--shard", "1/2"))], ids=["all", "shards"])
def test_two_processes_on_one_recording(tmp_path, shards):
    experiment = Experiment(tmp_path, MANY)
    experiment.inject(TWO_BEGIN_TOGETHER_AND_PROMPT_TOKENS_TELL_WHICH)
    processes = [experiment.start("record", *shard) for shard in shards]
    try:
        assert [process.wait(TIMEOUT) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()

    times_made = Counter(experiment.recorded_keys())
    assert len(times_made) == GENERATIONS
    assert set(times_made.values()) == ({1} if shards[0] else {2})
    first_by_name: dict[str, int] = {}
    for path in sorted(experiment.recording.glob("*.parquet")):
        rows = pq.read_table(path, columns=["key", "prompt_tokens"]).to_pydict()
        for key, made_by in zip(rows["key"], rows["prompt_tokens"], strict=True):
            first_by_name.setdefault(key, made_by)
    known = RecordingFolder(str(experiment.recording)).read()
    assert {key: generation.prompt_tokens for key, generation in known.items()} == first_by_name
    assert {*first_by_name.values()} <= {process.pid for process in processes}
    assert "0 generations made" in experiment.finish("record").stderr


def test_of_what_two_processes_record_at_once_both_read_the_first(tmp_path, monkeypatch):
    config, read, answer = Experiment(tmp_path, CONFIG).load(), RecordingFolder.read, answer_like_a_small_model
    others = []

    def let_another_record_after(folder):
        known = read(folder)
        monkeypatch.setattr(RecordingFolder, "read", read)
        with monkeypatch.context() as patched:
            patched.setattr(
                scripted, answer.__name__, lambda request: dataclasses.replace(answer(request), prompt_tokens=1)
            )
            others.append(record(config))
        return known

    monkeypatch.setattr(RecordingFolder, "read", let_another_record_after)
    ours = record(config)
    (first,) = others
    assert ours.made == first.made == FEW_GENERATIONS
    for name in ("train", "test", "fresh"):
        assert (getattr(ours, name).tokens[..., 0] == getattr(first, name).tokens[..., 0]).all()
        assert (getattr(ours, name).tokens[..., 0] == 1).all()


def test_recording_on_a_full_disk(tmp_path, small_disk):  # noqa: F811
    small_disk.remount("size=200k")
    experiment = Experiment(tmp_path, MANY)
    experiment.recording = small_disk.path / "recording"
    ended = experiment.finish("record", status=2)
    flushed, made = experiment.recorded(), len(experiment.recorded_keys())
    assert 0 < made < GENERATIONS
    assert ended.stderr.count(str(experiment.recording)) == 1
    assert "No space left on device" in ended.stderr and "Make room" in ended.stderr
    assert "Traceback" not in ended.stderr

    small_disk.remount("size=20m")
    assert f"{GENERATIONS - made} generations made" in experiment.finish("record").stderr
    assert experiment.recorded().items() >= flushed.items()
    assert [*Counter(experiment.recorded_keys()).values()] == [1] * GENERATIONS


def test_training_on_a_full_disk(tmp_path, small_disk):  # noqa: F811
    small_disk.remount("size=300k")
    experiment = Experiment(tmp_path, CONFIG | {"seeds": 1})
    experiment.run = small_disk.path / "run"
    ended = experiment.finish("train", status=2)
    recording = experiment.recorded()
    assert len(experiment.recorded_keys()) == FEW_GENERATIONS
    assert ended.stderr.count("No space left on device") == ended.stderr.count(f"run_folder {experiment.run}")
    assert "make room" in ended.stderr and "Traceback" not in ended.stderr
    assert not (experiment.run / "results.parquet").exists()

    small_disk.remount("size=20m")
    assert "oracle" in experiment.finish("train").stdout
    assert {*experiment.iterations(seed=0)} == {*range(1, 7)}
    assert experiment.recorded() == recording


@pytest.fixture(scope="module")
def warm_started(tmp_path_factory) -> Iterator[tuple[Experiment, str, list[int]]]:
    """An experiment killed in its warm start and then finished, its table, and the iterations before it was killed."""
    # With many debates an iteration takes long enough to be killed in the midst of the warm start.
    stages = {"warm_start_iterations": WARM_START, "iterations": ITERATIONS - WARM_START, "passes": 20}
    config = CONFIG | {"seeds": 1, "algorithm": CONFIG["algorithm"] | stages}
    experiment = Experiment(tmp_path_factory.mktemp("warm_started"), config)
    first_checkpoint = b"checkpoint_000000".hex()  # as Tune's file of the trials has it
    experiment.kill_once(lambda: [s for s in experiment.trial_states() if first_checkpoint in s.read_text()], "train")
    before = experiment.iterations(seed=0)
    experiment.cut_short(0)
    experiment.decide_to_stop()
    yield experiment, experiment.finish("train").stdout, before


def test_killed_in_the_warm_start(warm_started):
    experiment, table, before = warm_started
    assert before[-1] < WARM_START
    after = experiment.iterations(seed=0)
    assert {*after} == {*range(1, ITERATIONS + 1)}
    assert after.count(1) == 1, "it did not go on but began anew"
    assert "MPDF, warm start" in table and "oracle" in table

    # The reference is what the policy was when the whole warm start was over.
    over, last = (experiment.trial(0) / f"checkpoint_{n // 2 - 1:06}" for n in (WARM_START, ITERATIONS))
    frozen, learned = load_module(last).reference.state_dict(), load_module(last).policy.state_dict()
    for name, weights in load_module(over).policy.state_dict().items():
        assert (weights == frozen[name]).all()
    assert any((frozen[name] != learned[name]).any() for name in frozen)


def test_killed_while_the_results_are_written(warm_started, tmp_path):
    experiment, table, _ = warm_started
    copy = copied(experiment, tmp_path)
    results, temporary = copy.run / "results.parquet", copy.run / "results.tmp"
    before = results.read_bytes()
    copy.inject(RESULTS_STOP_HALF_WAY)
    copy.kill_once(lambda: temporary.exists() and temporary.stat().st_size, "evaluate")
    copy.inject("")
    assert results.read_bytes() == before
    results.unlink()

    assert without_places(copy.finish("evaluate").stdout) == without_places(table)
    assert results.read_bytes() == before and not temporary.exists()


def test_folders_that_cannot_be_written(warm_started, small_disk):  # noqa: F811
    experiment, table, _ = warm_started
    small_disk.remount("size=20m")
    copy = copied(experiment, small_disk.path)
    small_disk.remount("bind,ro")
    before = contents(copy.run)
    for command in ("train", "evaluate"):
        ended = copy.finish(command, status=2)
        assert f"run_folder {copy.run}: [Errno 30]" in ended.stderr
        assert "give a folder that can be written" in ended.stderr and "Traceback" not in ended.stderr
    assert contents(copy.run) == before

    assert "0 generations made" in copy.finish("record").stderr
    ended = copy.finish("record", "--set", "questions.test=13", status=2)
    assert f"The recording '{copy.recording}'" in ended.stderr and "Read-only file system" in ended.stderr
    assert "Make room or rights" in ended.stderr and "Traceback" not in ended.stderr


def test_an_engine_that_hangs_is_given_up(tmp_path):
    experiment = Experiment(tmp_path, CONFIG)
    hangs = ("--set", "engine.args.delay=3600", "--set", "engine.timeout_s=0.1")
    ended = experiment.finish("record", *hangs, status=2)
    assert "answered nothing for 0.1 s" in ended.stderr and "raise engine.timeout_s" in ended.stderr
    assert "Traceback" not in ended.stderr and not experiment.recorded()
    assert f"{FEW_GENERATIONS} generations made" in experiment.finish("record").stderr


def died(request: GenerationRequest) -> Generation:
    raise EngineError("it died")


def without_number(request: GenerationRequest) -> Generation:
    generation = answer_like_a_small_model(request)
    return dataclasses.replace(generation, logprobs=(math.nan,) * len(generation.logprobs))


def cut_short(request: GenerationRequest) -> Generation:
    generation = answer_like_a_small_model(request)
    return dataclasses.replace(generation, token_ids=generation.token_ids[:-1])


def test_an_engine_that_fails_costs_another_try_and_nothing_else(warm_started, tmp_path, monkeypatch):
    experiment, table, _ = warm_started
    copy = copied(experiment, tmp_path)
    shutil.rmtree(copy.recording)
    (copy.run / "results.parquet").unlink()
    config, recorded = copy.load(), 0
    faults = {died: "it died", without_number: "is nan", cut_short: "token_ids 4"}
    for depth, (fail, message) in enumerate(faults.items()):

        def respond(request: GenerationRequest, depth=depth, fail=fail) -> Generation:
            place = request.position
            return (fail if (place.root, place.depth) == (1, depth) else answer_like_a_small_model)(request)

        monkeypatch.setattr(scripted, "answer_like_a_small_model", respond)
        with pytest.raises(EngineError, match=message):
            train(config)
        assert not (copy.run / "results.parquet").exists()
        assert recorded < (recorded := len(copy.recorded_keys())) < FEW_GENERATIONS

    ended = copy.finish("evaluate")
    assert without_places(ended.stdout) == without_places(table)
    assert [*Counter(copy.recorded_keys()).values()] == [1] * FEW_GENERATIONS


def test_a_reward_that_is_no_number_names_the_question_in_one_clear_error(ray_instance, tmp_path, monkeypatch):
    algorithm = CONFIG["algorithm"] | {"credits": {"outcome": {}}}
    config = Experiment(tmp_path, CONFIG | {"seeds": 1, "algorithm": algorithm}).load()
    without_number = Calibration((math.nan,) * len(NUMBERS), 0.0)
    monkeypatch.setattr("mpdf_rllib.learners.fit_calibration", lambda trees: without_number)
    with pytest.raises(EngineError) as caught:
        train(config)
    assert re.fullmatch(
        r"1 of 1 trials failed; .* The first failed with:\nQuestion '\w+-\w+': in round 0 .* is worth nan\. .*",
        str(caught.value),
    )


def copied(experiment: Experiment, folder: Path) -> Experiment:
    copy = Experiment(folder, yaml.safe_load((experiment.run / "config.yaml").read_text()))
    shutil.copytree(experiment.run, copy.run)
    shutil.copytree(experiment.recording, copy.recording)
    return copy

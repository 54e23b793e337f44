"""The commands in real processes, killed and started again, on a scripted engine."""

import re
import shutil
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest
from process_fixtures import CONFIG, ITERATIONS, Experiment, contents, without_places


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_recording_goes_on_where_it_stopped(tmp_path, workers):
    questions = CONFIG["questions"] | {"train": 100, "test": 100}
    # Each of the four depths of the trees takes a second; a worker has 4 of 16 shards in flight at once.
    config = CONFIG | {"questions": questions, "engine": {"kind": "scripted", "args": {"delay": 1.0}}}
    experiment = Experiment(tmp_path, config | {"record": {"workers": workers}})
    nodes, more_first_answers = 100 * 12 + 100 * 12, 100 * 3

    experiment.kill_once(experiment.recorded, "record")
    flushed, keys = experiment.recorded(), experiment.recorded_keys()
    assert 0 < len(keys) < nodes + more_first_answers

    ended = experiment.finish("record")
    made = int(re.search(r"(\d+) generations made", ended.stderr)[1])
    left = nodes + more_first_answers - len(keys)
    assert 0 < made <= left if workers else made == left  # Ray's workers outlive their driver by some seconds
    assert experiment.recorded().items() >= flushed.items()
    assert len(experiment.recorded_keys()) == len({*experiment.recorded_keys()}) == nodes + more_first_answers

    before = experiment.recorded()
    assert "0 generations made" in experiment.finish("record").stderr
    assert experiment.recorded() == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Iterator[tuple[Experiment, str]]:
    """An experiment that was killed during its second trial and then finished, and the table that it printed."""
    experiment = Experiment(tmp_path_factory.mktemp("trained"), CONFIG)
    experiment.kill_once(lambda: [*experiment.trial(seed=1).glob("checkpoint_*")], "train")
    first_trial, recording = contents(experiment.trial(0)), experiment.recorded()
    assert experiment.iterations(seed=0) == [*range(1, ITERATIONS + 1)]
    assert not (experiment.run / "results.parquet").exists()

    table = experiment.finish("train").stdout
    assert contents(experiment.trial(0)) == first_trial, "the finished trial was touched"
    assert experiment.recorded() == recording, "recorded generations were made again"
    return experiment, table


def test_killed_training_goes_on_where_it_stopped(trained):
    experiment, table = trained
    assert {*experiment.iterations(seed=1)} == {*range(1, ITERATIONS + 1)}
    assert experiment.iterations(seed=1)[-1] == ITERATIONS
    for seed in (0, 1):
        # None is deleted, as what is saved of the trials may still name it.
        assert len([*experiment.trial(seed).glob("checkpoint_*")]) == ITERATIONS // 2
    results = pq.read_table(experiment.run / "results.parquet").to_pandas()
    learned = results[results["system"].str.startswith("SoftRankPO")]
    assert sorted(learned["seed"].unique()) == [0, 1]
    assert "SoftRankPO" in table and "oracle" in table


def test_a_finished_run_prints_the_same_table_without_training(trained):
    experiment, table = trained
    trials = [contents(experiment.trial(seed)) for seed in (0, 1)]
    assert experiment.finish("train", "--set", "record.workers=3").stdout == table
    assert [contents(experiment.trial(seed)) for seed in (0, 1)] == trials
    assert experiment.finish("evaluate").stdout == table


def test_other_settings_in_the_same_run_folder_are_refused_by_name(trained):
    experiment, _ = trained
    before = contents(experiment.run)
    ended = experiment.finish("train", "--set", "seeds=3", "--set", "algorithm.beta=0.7", status=2)
    assert "seeds" in ended.stderr and "algorithm.beta" in ended.stderr and "--fresh" in ended.stderr
    assert str(experiment.run) in ended.stderr
    assert contents(experiment.run) == before


def test_evaluate_leaves_the_results_of_other_settings_alone(trained):
    experiment, _ = trained
    before = contents(experiment.run)
    for setting in ("questions.test=15", "algorithm.credits={outcome: {}}"):
        assert setting.partition("=")[0] in experiment.finish("evaluate", "--set", setting, status=2).stderr
    assert contents(experiment.run) == before


def test_a_damaged_policy_is_named(trained, tmp_path):
    experiment, _ = trained
    copy = Experiment(tmp_path, CONFIG)
    shutil.copytree(experiment.run, copy.run)
    shutil.copytree(experiment.recording, copy.recording)
    for state in copy.run.rglob("module_state*"):
        state.write_bytes(state.read_bytes()[:-40])
    ended = copy.finish("evaluate", status=2)
    assert str(copy.run) in ended.stderr and "--fresh" in ended.stderr and "Traceback" not in ended.stderr


def test_fresh_begins_anew_and_keeps_the_recording_and_arrives_at_the_same_table(trained, tmp_path):
    experiment, table = trained
    copy = Experiment(tmp_path, CONFIG)
    shutil.copytree(experiment.run, copy.run)
    shutil.copytree(experiment.recording, copy.recording)
    states, recording = {*copy.trial_states()}, copy.recorded()
    copy.kill_once(lambda: {*copy.trial_states()} - states, "train", "--fresh")
    assert not (copy.run / "results.parquet").exists()
    assert not (copy.trial(0) / "result.json").exists()
    assert copy.recorded() == recording
    assert without_places(copy.finish("train").stdout) == without_places(table), (
        "a run that was killed elsewhere learned something else"
    )

"""What was logged of a trial is kept where it goes on."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mpdf_rllib.trial_logs import CSVLogger, JsonLogger


class Trial(SimpleNamespace):
    """What a log needs of Tune's."""

    __hash__ = object.__hash__


def a_trial(tmp_path: Path, checkpoint: object) -> Trial:
    local, saved = tmp_path / "session/run/driver_artifacts/trial", tmp_path / "saved/trial"
    local.mkdir(parents=True)
    saved.mkdir(parents=True)
    storage = SimpleNamespace(trial_fs_path=str(saved))
    return Trial(local_path=str(local), storage=storage, checkpoint=checkpoint, config={}, init_local_path=lambda: None)


LOGS = [
    (JsonLogger, "result.json", '{"training_iteration": 1}\n{"training_iteration": 2}\n'),
    (CSVLogger, "progress.csv", "training_iteration\r\n1\r\n2\r\n"),
]


def iterations(file: Path) -> list[int]:
    if file.suffix == ".csv":
        return [int(row["training_iteration"]) for row in csv.DictReader(file.read_text().splitlines())]
    return [json.loads(line)["training_iteration"] for line in file.read_text().splitlines()]


@pytest.mark.parametrize("cut", ["", '{"training_ite', "3,"])
@pytest.mark.parametrize(("logger", "name", "logged"), LOGS, ids=["json", "csv"])
def test_a_trial_that_goes_on_writes_behind_the_last_whole_line(tmp_path, logger, name, logged, cut):
    trial = a_trial(tmp_path, checkpoint="checkpoint_000000")
    saved, local = Path(trial.storage.trial_fs_path, name), Path(trial.local_path, name)
    saved.write_text(logged + cut, newline="")
    local.write_text("x" * 10**6)
    log = logger()
    with local.open() as saving:
        log.log_trial_result(3, trial, {"training_iteration": 3})
        assert saving.read() == "x" * 10**6, "it was rewritten while it was read"
    log.log_trial_end(trial)
    assert iterations(local) == [1, 2, 3]


def test_a_trial_that_goes_on_has_its_numbers_in_the_columns_of_before(tmp_path):
    trial = a_trial(tmp_path, checkpoint="checkpoint_000000")
    saved, local = (Path(place, "progress.csv") for place in (trial.storage.trial_fs_path, trial.local_path))
    saved.write_text("training_iteration,accuracy,learners/loss\r\n1,0.5,7\r\n", newline="")
    log = CSVLogger()
    log.log_trial_result(2, trial, {"new": 9, "learners": {"loss": 6}, "training_iteration": 2, "accuracy": 0.75})
    log.log_trial_result(3, trial, {"training_iteration": 3, "accuracy": 1.0})
    log.log_trial_end(trial)
    assert [[*row.values()] for row in csv.DictReader(local.read_text().splitlines())] == [
        ["1", "0.5", "7"],
        ["2", "0.75", "6"],
        ["3", "1.0", ""],
    ]


@pytest.mark.parametrize(("logger", "name", "logged"), LOGS, ids=["json", "csv"])
def test_a_trial_that_begins_anew_has_no_lines_of_before(tmp_path, logger, name, logged):
    trial = a_trial(tmp_path, checkpoint=None)
    Path(trial.storage.trial_fs_path, name).write_text(logged, newline="")
    log = logger()
    log.log_trial_result(1, trial, {"training_iteration": 1})
    log.log_trial_end(trial)
    assert iterations(Path(trial.local_path, name)) == [1]

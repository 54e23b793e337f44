"""Tune's logs of a trial, `result.json` and `progress.csv`, which keep their lines where the trial goes on."""

import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.logger.csv import EXPR_PROGRESS_FILE

RESULTS = "result.json"
"""A line an iteration; what a trial that went on did again after its last checkpoint stands there twice."""


def logged(file: Path) -> Iterator[dict[str, Any]]:
    """The results in a trial's `result.json`."""
    for line in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # cut short by a kill; what came later stands behind it
            yield json.loads(line)


class _Kept:
    """Fetches what was logged before as a whole, and up to its last whole line.

    Tune writes the file where another of its threads may read it to save it: that can empty both. And what was saved
    ends in half a line where a kill met the saving; Tune would go on in that line.
    """

    def _restore_from_remote(self, file_name: str, trial: Trial) -> None:
        saved, local = Path(trial.storage.trial_fs_path, file_name), Path(trial.local_path, file_name)
        if not trial.checkpoint or not saved.exists():
            return
        content = saved.read_bytes()
        # Not in the trials' folder, all of which is saved.
        with tempfile.NamedTemporaryFile(dir=local.parents[2], delete=False) as fetched:
            fetched.write(content[: content.rfind(b"\n") + 1])
        os.replace(fetched.name, local)


class JsonLogger(_Kept, JsonLoggerCallback):
    """Of `result.json`."""


class CSVLogger(_Kept, CSVLoggerCallback):
    """Of `progress.csv`, whose columns stay where the trial goes on: what RLlib restored names its results anew."""

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Tune's; writes a line."""
        if trial not in self._trial_files:
            self._setup_trial(trial)
            if self._trial_continue[trial]:
                with Path(trial.local_path, EXPR_PROGRESS_FILE).open(newline="") as before:
                    columns = next(csv.reader(before))
                self._trial_csv[trial] = csv.DictWriter(self._trial_files[trial], columns)
        super().log_trial_result(iteration, trial, result)

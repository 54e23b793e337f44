"""ASHA that goes on where a killed sweep stopped."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler


class ResumedASHA(ASHAScheduler):
    """Tune restores trials, but no scheduler: this one learns again what each trial came to, from its `result.json`.

    A trial that goes on reports anew what came after its last checkpoint.
    """

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        last = trial.last_result if trial.is_finished() else getattr(trial.latest_checkpoint_result, "metrics", {})
        if not last:
            return
        for result in _logged(Path(trial.path) / "result.json"):
            if result["training_iteration"] <= last["training_iteration"]:
                self.on_trial_result(tune_controller, trial, result)


def _logged(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # cut short by a kill; what came later stands behind it
            yield json.loads(line)

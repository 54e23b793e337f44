"""ASHA that goes on where a killed sweep stopped."""

from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from mpdf_rllib.trial_logs import RESULTS, logged


class ResumedASHA(ASHAScheduler):
    """Tune restores trials, but no scheduler: this one learns again what each trial came to, from its `result.json`.

    A trial that goes on reports anew what came after its last checkpoint.
    """

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        last = trial.last_result if trial.is_finished() else getattr(trial.latest_checkpoint_result, "metrics", {})
        if not last:
            return
        for result in logged(Path(trial.path) / RESULTS):
            if result["training_iteration"] <= last["training_iteration"]:
                self.on_trial_result(tune_controller, trial, result)

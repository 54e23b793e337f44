"""Weights & Biases: online, or, by WANDB_MODE=offline, in files in the run folder that `wandb sync` uploads."""

import logging
import os
import subprocess
import sys
import tempfile
from typing import Any

import ray
import wandb
from ray.air.integrations.wandb import WandbLoggerCallback, _WandbLoggingActor
from ray.air.util.node import _force_on_current_node
from ray.tune.experiment import Trial

from mpdf_rllib import run_folder
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.tracking import SettingsOf, wandb_login

_logger = logging.getLogger(__name__)


def check() -> None:
    """Checks that the server can be reached and knows the API key, unless nothing is to be uploaded.

    Raises:
        ConfigError: It cannot, or does not.
    """
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled"):
        return
    with tempfile.TemporaryFile("w+") as said:  # a pipe would be open for as long as W&B's service lives
        subprocess.run([sys.executable, wandb_login.__file__], stdout=said, check=True)
        said.seek(0)
        problem = said.read().strip()
    if problem:
        raise ConfigError(
            f"tracking wandb: {problem}; set WANDB_API_KEY, or run `wandb login`, or set WANDB_MODE=offline to write "
            "files that `wandb sync` uploads later"
        )


def tracker(config: ExperimentConfig, settings_of: SettingsOf) -> "WandbTracker":
    """Logs into the project that WANDB_PROJECT names, or that is called like the experiment."""
    folder = config.run_path / run_folder.TRACKING
    folder.mkdir(parents=True, exist_ok=True)
    return WandbTracker(
        settings_of,
        project=os.environ.get("WANDB_PROJECT", config.name),
        group=os.environ.get("WANDB_RUN_GROUP", config.name),
        dir=os.path.abspath(os.environ.get("WANDB_DIR", folder)),  # each trial has its own working directory
        resume="allow",
    )


class _Actor(_WandbLoggingActor):
    """Logs a trial in a process of its own, which has W&B's variables in its environment as the command does."""

    def __init__(self, *args: Any, environment: dict[str, str], **kwargs: Any):
        os.environ.update(environment)
        super().__init__(*args, **kwargs)

    def run(self) -> None:
        super().run()
        wandb.teardown()  # returns when all is written: Ray's callback then kills this process, and with it W&B's own


class WandbTracker(WandbLoggerCallback):
    """A run a trial, which goes on where the trial does; the experiment's settings in place of RLlib's config.

    Args:
        settings_of: A trial's settings, which become the config of its run.
        options: Of Ray's callback.
    """

    def __init__(self, settings_of: SettingsOf, **options: Any):
        super().__init__(**options)
        self._settings_of = settings_of

    def setup(self, **info: Any) -> None:
        # Ray's own has the API key in the actor's runtime environment, which is written to Ray's logs.
        remote = ray.remote(num_cpus=0, **_force_on_current_node())
        self._remote_logger_class = remote(_Actor)

    def _start_logging_actor(self, trial: Trial, exclude_results: list[str], **options: Any) -> None:
        options["config"] = self._settings_of(trial)
        options["environment"] = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
        super()._start_logging_actor(trial, exclude_results, **options)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        super().log_trial_result(iteration, trial, {key: result[key] for key in result if key != "config"})

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        if trial in self._trial_queues:  # it may have failed before it started
            super().log_trial_end(trial, failed)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        for trial in self._trial_queues:  # of an interrupted training; Ray would wait for their end
            self._signal_logging_actor_stop(trial)
        super().on_experiment_end(trials, **info)

    def _cleanup_logging_actor(self, trial: Trial) -> None:
        try:
            ray.get(self._trial_logging_futures[trial], timeout=0)
        except ray.exceptions.RayError as error:
            files = os.path.join(self.kwargs["dir"], "wandb", f"*run-*-{trial.trial_id}")
            _logger.warning(
                "tracking wandb: %s is not, or not wholly, in Weights & Biases: %s; `wandb sync %s` uploads it later",
                trial,
                error,
                files,
            )
        super()._cleanup_logging_actor(trial)

"""MLflow: on the server or store of MLFLOW_TRACKING_URI, or in a database in the run folder."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.experiment import Trial
from ray.tune.utils import flatten_dict

from mpdf_rllib import run_folder
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.errors import ConfigError, EngineError
from mpdf_rllib.tracking import SettingsOf

_URI = "MLFLOW_TRACKING_URI"
_TRIAL = "trial_id"
"""The tag by which a trial that goes on finds its run."""


def check() -> None:
    """Checks that the store which MLFLOW_TRACKING_URI names can be used.

    Raises:
        ConfigError: It cannot.
    """
    if uri := os.environ.get(_URI):
        try:
            MlflowClient(uri).search_experiments(max_results=1)
        except MlflowException as error:
            raise ConfigError(
                _without_password(
                    f"tracking mlflow: {_URI} {uri} cannot be used ({error}); give another, or unset it: MLflow then "
                    "writes into the run folder"
                )
            ) from error


def tracker(config: ExperimentConfig, settings_of: SettingsOf) -> "MLflowTracker":
    """Logs into the experiment that MLFLOW_EXPERIMENT_NAME names, or that is called like this one."""
    folder = config.run_path / run_folder.TRACKING
    uri = os.environ.get(_URI)
    if not uri:
        folder.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
    return MLflowTracker(settings_of, uri, os.environ.get("MLFLOW_EXPERIMENT_NAME", config.name))


class MLflowTracker(MLflowLoggerCallback):
    """A run a trial, which goes on where the trial does; the experiment's settings in place of RLlib's config.

    Args:
        settings_of: A trial's settings, which become the parameters of its run.
        uri: Where to log.
        experiment: MLflow's name of what the runs belong to.
    """

    def __init__(self, settings_of: SettingsOf, uri: str, experiment: str):
        super().__init__(uri, experiment_name=experiment)
        self._settings_of = settings_of

    def setup(self, **info) -> None:
        for chatty in ("mlflow.store", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        given = _URI in os.environ
        try:
            with _answering():
                super().setup(**info)
        finally:
            if not given:  # MLflow would have it hold for all that this process does later
                os.environ.pop(_URI, None)

    def log_trial_start(self, trial: Trial) -> None:
        util = self.mlflow_util
        with _answering():
            client = util._get_client()
            before = client.search_runs([util.experiment_id], f"tags.{_TRIAL} = '{trial.trial_id}'")
            if before:
                run_id = before[0].info.run_id
                client.update_run(run_id, status="RUNNING")
            else:
                run_id = util.start_run(tags={_TRIAL: trial.trial_id}, run_name=str(trial)).info.run_id
                util.log_params(flatten_dict(self._settings_of(trial)), run_id)
            self._trial_runs[trial] = run_id

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        with _answering():
            super().log_trial_result(iteration, trial, {key: result[key] for key in result if key != "config"})

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        with _answering():
            self.mlflow_util.end_run("FAILED" if failed else "FINISHED", self._trial_runs.pop(trial))

    def on_experiment_end(self, trials: list[Trial], **info) -> None:
        with _answering():
            for run_id in self._trial_runs.values():
                self.mlflow_util.end_run("KILLED", run_id)


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise EngineError(
            _without_password(
                f"tracking mlflow: MLflow failed ({error}); the same command, without --fresh, goes on where it "
                "stopped, with another tracking if you like"
            )
        ) from error


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)

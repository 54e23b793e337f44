"""MLflow: on the server or store of MLFLOW_TRACKING_URI, or in a database in the run folder."""

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT
from mlflow.exceptions import MlflowException
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.experiment import Trial
from ray.tune.utils import flatten_dict
from sqlalchemy.exc import SQLAlchemyError

from mpdf_rllib import run_folder
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.tracking import SettingsOf

_logger = logging.getLogger(__name__)
_URI = "MLFLOW_TRACKING_URI"
_TRIAL = "trial_id"
"""The tag by which a trial that goes on finds its run."""


def check() -> None:
    """Checks that the store which MLFLOW_TRACKING_URI names can be used.

    Raises:
        ConfigError: It cannot.
    """
    if uri := os.environ.get(_URI):
        with _usable(uri):
            MlflowClient(uri).search_experiments(max_results=1)


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
        self._lost = False

    def setup(self, **info) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # its errors are raised as well
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # the URL may hold a password
        given = _URI in os.environ
        try:
            with _usable(self.tracking_uri):
                super().setup(**info)
        finally:
            if not given:  # MLflow would have it hold for all that this process does later
                os.environ.pop(_URI, None)

    def log_trial_start(self, trial: Trial) -> None:
        self._unless_lost(self._start_or_go_on, trial)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        without_config = {key: result[key] for key in result if key != "config"}
        self._unless_lost(super().log_trial_result, iteration, trial, without_config)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        if trial in self._trial_runs:  # it may have failed before it started
            self._unless_lost(self._end, self._trial_runs.pop(trial), "FAILED" if failed else "FINISHED")

    def on_experiment_end(self, trials: list[Trial], **info) -> None:
        for run_id in self._trial_runs.values():
            self._unless_lost(self._end, run_id, "KILLED")

    def _start_or_go_on(self, trial: Trial) -> None:
        util = self.mlflow_util
        client = util._get_client()
        before = client.search_runs([util.experiment_id], f"tags.{_TRIAL} = '{trial.trial_id}'")
        if before:
            run_id = before[0].info.run_id
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = util.start_run(tags={_TRIAL: trial.trial_id}, run_name=str(trial)).info.run_id
            util.log_params(flatten_dict(self._settings_of(trial)), run_id)
        self._trial_runs[trial] = run_id

    def _end(self, run_id: str, status: str) -> None:
        self.mlflow_util._get_client().set_terminated(run_id, status)  # Ray's own does nothing where MLflow is gone

    def _unless_lost(self, log: Callable[..., object], *arguments: Any) -> None:
        """Logs, until MLflow first fails: whatever it raised would end the training, and be printed as it is."""
        if self._lost:
            return
        try:
            log(*arguments)
        except Exception as error:
            self._lost = True
            message = (
                f"tracking mlflow: MLflow failed ({error}); training goes on, and nothing more of these trials is "
                "logged there. Their result.json have all iterations; for MLflow to have the later ones, press Ctrl-C, "
                "mend it, and run the same command again, without --fresh"
            )
            _logger.warning("%s", _without_password(message))


@contextlib.contextmanager
def _usable(uri: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        message = (
            f"tracking mlflow: {uri} cannot be used ({error}); set {_URI} to another store, or unset it for MLflow to "
            "write into the run folder, or leave mlflow out"
        )
        raise ConfigError(_without_password(message)) from None  # the cause's message may hold the password


def _without_password(text: str) -> str:
    return re.sub(r"//[^/\s]*@", "//", text)

"""TensorBoard, whose event files lie in the trials' folders."""

from ray.tune.logger import TBXLoggerCallback

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.tracking import SettingsOf


def check() -> None:
    """Tune brings all that it needs."""


def tracker(config: ExperimentConfig, settings_of: SettingsOf) -> TBXLoggerCallback:
    return TBXLoggerCallback()

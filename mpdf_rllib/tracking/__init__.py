"""What tracks trials beside their own logs: TensorBoard, Weights & Biases and MLflow, by Ray's callbacks.

Each tracker's own environment variables say where it writes. What needs none writes into the run folder.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.errors import ConfigError

if TYPE_CHECKING:
    from ray import tune
    from ray.tune.experiment import Trial

SettingsOf = Callable[["Trial"], dict[str, Any]]
"""What the experiment's config says of a trial."""

_PACKAGES: Mapping[str, tuple[str, ...]] = {"wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""By tracker that has an extra of its own, the packages in it."""


def check(config: ExperimentConfig) -> None:
    """Checks that all trackers can be used.

    Raises:
        ConfigError: One is not installed, or is refused where it is to write to.
    """
    for name in config.tracking:
        if lacking := [package for package in _PACKAGES.get(name, ()) if not importlib.util.find_spec(package)]:
            raise ConfigError(
                f'tracking {name}: {", ".join(lacking)} is not installed; pip install "mpdf-rllib[{name}]", or leave '
                f"{name} out"
            )
        _module(name).check()


def trackers(config: ExperimentConfig, settings_of: SettingsOf) -> list["tune.Callback"]:
    """The callbacks of an experiment's trackers."""
    return [_module(name).tracker(config, settings_of) for name in dict.fromkeys(config.tracking)]


def _module(name: str) -> Any:
    """Imports a tracker when it is asked for: it may not be installed, and takes seconds."""
    return importlib.import_module(f"mpdf_rllib.tracking.of_{name}")

"""What lies in a run folder, and whether a run may begin or go on there."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.envs.credit import CreditKind
from mpdf_rllib.errors import ConfigError, DataError

CONFIG = "config.yaml"
"""The resolved config, from which it is known which run this is."""
TUNE = "tune"
"""The Tuner's experiment, with RLlib's progress files and checkpoints of every trial."""
CHECKPOINTS = "checkpoints.json"
"""By kind of credit, the trials' last checkpoints in the order of their seeds, relative to the run folder."""
RESULTS = "results.parquet"


def prepare(config: ExperimentConfig, fresh: bool) -> None:
    """Makes the folder ready for the run to begin or go on.

    Args:
        config: The experiment.
        fresh: Removes what an earlier run left, and nothing else that may lie there.

    Raises:
        ConfigError: It holds a run with other settings, holds files of that name but no run, or cannot be written.
    """
    path = config.run_path
    file = path / CONFIG
    results = [path / name for name in (RESULTS, CHECKPOINTS, TUNE)]
    try:
        if fresh and file.exists():
            for old in results:
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        elif file.exists():
            _check_same(config, file)
        elif foreign := [old.name for old in results if old.exists()]:
            raise ConfigError(
                f"run_folder {path}: it holds {', '.join(foreign)} but no {CONFIG}, so no run; give another folder"
            )
        path.mkdir(parents=True, exist_ok=True)
        _write(file, config.to_yaml())
    except OSError as error:
        raise ConfigError(f"run_folder {path}: {error}; give a folder that can be written") from error


def write_checkpoints(run_path: Path, checkpoints: dict[CreditKind, list[Path]]) -> None:
    """Notes a finished training's last checkpoints, by kind of credit in the order of their seeds."""
    relative = {kind: [os.path.relpath(path, run_path) for path in paths] for kind, paths in checkpoints.items()}
    _write(run_path / CHECKPOINTS, json.dumps(relative, indent=1))


def read_checkpoints(run_path: Path) -> dict[CreditKind, list[Path]]:
    """The run's last checkpoints by kind of credit, in the order of their seeds.

    Raises:
        DataError: Training is not finished.
    """
    try:
        named = json.loads((run_path / CHECKPOINTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{run_path} holds no trained policies ({error}); run `python -m mpdf_rllib.train` first"
        ) from error
    return {kind: [run_path / path for path in paths] for kind, paths in named.items()}


def _check_same(config: ExperimentConfig, file: Path) -> None:
    remedy = "give another run_folder, or --fresh to begin it anew (the recording is kept)"
    try:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"run_folder {config.run_path}: its {CONFIG} is not YAML ({error}); {remedy}") from error
    if changed := _changed_keys(before, config.model_dump(mode="json")):
        raise ConfigError(f"run_folder {config.run_path}: it holds a run with another {', '.join(changed)}; {remedy}")


def _changed_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [prefix or CONFIG] if old != new else []
    keys = old | new
    return [key for name in keys for key in _changed_keys(old.get(name), new.get(name), f"{prefix}.{name}".lstrip("."))]


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)

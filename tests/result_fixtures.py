"""Made-up results of systems."""

import numpy as np

from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.results import SystemResult


def outcome(correct: np.ndarray, tokens: int = 10, acts: bool = True) -> Outcome:
    count = len(correct)
    rng = np.random.default_rng(count + tokens)
    actions = rng.integers(0, 4, (count, 3)) if acts else np.zeros((count, 3), int)
    costs = np.tile([10 * tokens, 8 * tokens, tokens], (count, 1))
    return Outcome(np.asarray(correct, bool), costs, actions, np.zeros(count, bool))


def system(name: str, *correct: np.ndarray, **kwargs) -> SystemResult:
    return SystemResult(name, tuple(outcome(row, **kwargs) for row in correct))

"""The bootstrap over questions and seeds: intervals of means, p-values of differences, and Holm's correction."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple, Self

import numpy as np

REPLICATES = 2000
_ZERO = 1e-12
"""What rounding makes of 0 at most."""


class Estimate(NamedTuple):
    """A mean with its 95 % bootstrap interval over questions and seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, mean: float, replicates: np.ndarray) -> Self:
        """The mean with the interval between the replicates' 2.5 % and 97.5 % quantiles."""
        low, high = np.quantile(replicates, (0.025, 0.975))
        return cls(float(mean), float(low), float(high))


def replicates(
    values: Sequence[np.ndarray],
    seeds: Sequence[Hashable],
    sets: Sequence[np.ndarray],
    blocks: int = 1,
    stream: int = 0,
) -> list[np.ndarray]:
    """Means of several systems, again and again, over questions and seeds that are drawn anew.

    Questions are drawn within each set, the same for all systems; seeds for all sets together, the same for systems
    with the same seeds. So the difference of two systems' replicates is a replicate of their paired difference. Of the
    variance that S seeds make, a bootstrap holds (S - 1) / S: of a single seed nothing.

    Args:
        values: Of each system, float64, shape (seeds, Q).
        seeds: Of each system, what its seeds are of: those of equal entries and as many seeds have the same.
        sets: Of each question set, which questions are its own, bool, shape (Q,).
        blocks: How many times `REPLICATES` to draw; memory holds one block's draws of one set.
        stream: Which random numbers to draw by; replicates of different streams are independent.

    Returns:
        Of each system its means on each set, float64, shape (blocks * REPLICATES, sets).
    """
    rng = np.random.default_rng(stream)
    means = [np.empty((blocks, REPLICATES, len(sets))) for _ in values]
    for block in range(blocks):
        drawn: dict[Hashable, np.ndarray] = {}
        for column, chosen in enumerate(sets):
            questions = _drawn(rng, int(chosen.sum()))
            for system, of_system, kind in zip(means, values, seeds, strict=True):
                own = kind, len(of_system)
                if own not in drawn:
                    drawn[own] = _drawn(rng, len(of_system))
                system[block, :, column] = ((drawn[own] @ of_system[:, chosen]) * questions).sum(1)
    return [system.reshape(-1, len(sets)) for system in means]


def _drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """How much each of `count` weighs in each replicate, shape (REPLICATES, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), REPLICATES) / count


def p_value(replicates: np.ndarray) -> float:
    """Two-sided, of no difference: twice the smaller share of the difference's replicates at or beyond 0.

    The difference itself counts as one more replicate on either side, so that p is at least 2 / (replicates + 1).
    """
    beyond = min(np.count_nonzero(replicates <= _ZERO), np.count_nonzero(replicates >= -_ZERO))
    return min(1.0, 2 * (beyond + 1) / (len(replicates) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the smallest level at which each of several hypotheses is rejected, all at once.

    Args:
        p: Of each hypothesis, in any order.

    Returns:
        In the same order, at most 1.
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1).tolist()

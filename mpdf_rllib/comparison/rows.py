"""What each of several systems comes to on several question sets, and how far one of them is ahead of the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpdf_rllib.bootstrap import Estimate, holm, p_value, replicates
from mpdf_rllib.results import SystemResult

BLOCKS = 5
"""As many replicates as p-values need that are to stay small when they are corrected for thirty rows."""


@dataclass(frozen=True)
class Cell:
    """A system on one question set, or in the mean over all sets, of which each counts as much.

    Attributes:
        accuracy: Over all questions asked.
        difference: The reference system's accuracy less this one's, paired.
        tokens: Means a question: prompt, of which cached, generated.
        failed: How many times, in all seeds, it could not go on with a question, which is then wrong; for the mean, the
            sum over the sets.
    """

    accuracy: Estimate
    difference: Estimate
    tokens: tuple[float, float, float]
    failed: int


@dataclass(frozen=True)
class Row:
    """A system on all sets.

    Attributes:
        system: Its label.
        seeds: How many outcomes it has.
        sets: By question set.
        mean: Over the sets.
        p: Two-sided, of no difference in the mean.
        p_holm: The same, with Holm's correction for all rows of the table but the reference system's.
    """

    system: str
    seeds: int
    sets: dict[str, Cell]
    mean: Cell
    p: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """All systems, in their order.

    Attributes:
        reference: The row that all rows are compared with.
        questions: How many there are in each set.
        rows: One a system.
        beside: Of systems that are not in the table, and not corrected for.
    """

    reference: Row
    questions: dict[str, int]
    rows: tuple[Row, ...]
    beside: tuple[Row, ...]


def compared(results: Sequence[SystemResult], sets: Sequence[str], reference: str, beside: int = 0) -> Comparison:
    """Compares systems.

    Args:
        results: On the questions of all sets.
        sets: Which set each question is of, length Q.
        reference: The system, of those, that all are compared with.
        beside: How many systems at the end are no rows of the table.
    """
    names = [result.system for result in results]
    at = names.index(reference)
    of_set = {name: np.array([own == name for own in sets]) for name in dict.fromkeys(sets)}
    parts = [[result.of_questions(own) for own in of_set.values()] for result in results]
    means = _with_mean(np.array([[part.correct.mean() for part in of_system] for of_system in parts]))
    seeds = [result.seeds for result in results]
    draws = _with_mean(np.array(replicates([result.correct for result in results], seeds, [*of_set.values()], BLOCKS)))
    p = np.array([p_value(drawn) for drawn in draws[at, :, -1] - draws[:, :, -1]])
    p_holm = np.ones(len(results))
    in_table = len(results) - beside
    others = (np.arange(len(results)) != at) & (np.arange(len(results)) < in_table)
    p_holm[others] = holm(p[others])

    def row(system: int) -> Row:
        tokens = _with_mean(np.array([part.tokens for part in parts[system]]).T).T
        failed = [part.failed for part in parts[system]] + [results[system].failed]
        *cells, mean = (
            Cell(
                Estimate.of(means[system, column], draws[system, :, column]),
                Estimate.of(means[at, column] - means[system, column], draws[at, :, column] - draws[system, :, column]),
                tuple(tokens[column].tolist()),
                failed[column],
            )
            for column in range(len(of_set) + 1)
        )
        by_set = dict(zip(of_set, cells, strict=True))
        return Row(names[system], len(results[system].outcomes), by_set, mean, float(p[system]), float(p_holm[system]))

    rows = tuple(map(row, range(len(results))))
    questions = {name: int(own.sum()) for name, own in of_set.items()}
    return Comparison(rows[at], questions, rows[:in_table], rows[in_table:])


def _with_mean(values: np.ndarray) -> np.ndarray:
    """Values by set, shape (..., sets), and their mean, shape (..., sets + 1)."""
    return np.concatenate([values, values.mean(-1, keepdims=True)], -1)

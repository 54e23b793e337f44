"""What all compared systems came to, as it is kept in the run folder, and the tables that follow from it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from mpdf_rllib import run_folder
from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.comparison.frontier import Point
from mpdf_rllib.comparison.rows import Comparison, compared
from mpdf_rllib.results import SystemResult, read_notes, read_questions, read_results, write_results

REFERENCE = "MPDF, SoftRankPO"
"""With the paper's credit, where the experiment has it: what all others are compared with."""


@dataclass(frozen=True)
class Played:
    """All systems on the questions of all sets.

    Attributes:
        results: The table's rows, and behind them SoftRankPO at other prices of a token, for accuracy against tokens.
        questions: The questions' ids.
        sets: Which question set each is of.
        at_prices: How many of the results are SoftRankPO at other prices.
        curves: By name, the labels of systems that differ in one setting alone, for the figure.
        learned: What systems came to while they were fitted, a line each.
    """

    results: list[SystemResult]
    questions: list[str]
    sets: list[str]
    at_prices: int
    curves: dict[str, list[str]]
    learned: list[str]

    @cached_property
    def comparison(self) -> Comparison:
        """All systems compared with SoftRankPO, those at other prices beside the table."""
        return compared(self.results, self.sets, REFERENCE, self.at_prices)

    @property
    def points(self) -> list[Point]:
        """Accuracy and tokens of all systems."""
        rows = (*self.comparison.rows, *self.comparison.beside)
        return [Point(row.system, row.mean.accuracy, row.mean.tokens) for row in rows]

    @property
    def joined_points(self) -> dict[str, list[str]]:
        """The curves with their systems by the tokens that these cost, the cheapest first."""
        total = {point.system: point.total for point in self.points}
        return {name: sorted(labels, key=total.__getitem__) for name, labels in self.curves.items()}


def joined(parts: Sequence[Played]) -> Played:
    """The same systems on the questions of several sets, one behind the other."""
    results = [
        SystemResult(
            of_system[0].system,
            tuple(map(_behind_another, zip(*(result.outcomes for result in of_system), strict=True))),
        )
        for of_system in zip(*(part.results for part in parts), strict=True)
    ]
    questions, sets, learned = (
        list(chain(*(getattr(part, name) for part in parts))) for name in ("questions", "sets", "learned")
    )
    return Played(results, questions, sets, parts[0].at_prices, parts[0].curves, learned)


def _behind_another(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(np.concatenate(columns) for columns in zip(*outcomes, strict=True)))


def write_played(folder: Path, played: Played) -> None:
    """Writes it into a comparison's folder, which is made.

    Raises:
        ConfigError: It cannot be written.
    """
    notes = json.dumps({"at_prices": played.at_prices, "curves": played.curves, "learned": played.learned})
    with run_folder.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_results(folder / run_folder.RESULTS, played.results, played.questions, played.sets, notes)


def read_played(folder: Path) -> Played | None:
    """Reads what `write_played` wrote; None where nothing was.

    Raises:
        DataError: The file was damaged.
    """
    file = folder / run_folder.RESULTS
    if not file.exists() or not (notes := read_notes(file)):
        return None
    return Played(read_results(file), *read_questions(file), **json.loads(notes))

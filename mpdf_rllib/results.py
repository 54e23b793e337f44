"""Results as rows, one a system, seed and question, and the table that is a pure function of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.envs.debate import ACTIONS
from mpdf_rllib.errors import DataError

TOKENS = ("prompt_tokens", "cached_tokens", "generated_tokens")
REPLICATES = 2000


@dataclass(frozen=True)
class SystemResult:
    """One system on the held-out questions.

    Attributes:
        system: The row's label.
        outcomes: By seed, or by agent for a single agent; one where nothing is drawn.
    """

    system: str
    outcomes: tuple[Outcome, ...]

    @property
    def correct(self) -> np.ndarray:
        """float64, shape (seeds, Q)."""
        return np.stack([outcome.correct for outcome in self.outcomes]).astype(float)

    @property
    def tokens(self) -> np.ndarray:
        """Means a question: prompt, of which cached, generated; shape (3,)."""
        return np.mean([outcome.tokens.mean(0) for outcome in self.outcomes], 0)

    @property
    def action_shares(self) -> np.ndarray | None:
        """Shares of Persist, Refine, Concede, shape (3,); None for a system without these actions."""
        counts = np.sum([outcome.actions.sum(0) for outcome in self.outcomes], 0)
        return counts / counts.sum() if counts.sum() else None


class Estimate(NamedTuple):
    """A mean with its 95 % bootstrap interval over questions and seeds."""

    mean: float
    low: float
    high: float


def accuracy(result: SystemResult) -> Estimate:
    """Accuracy over all questions asked."""
    return _bootstrap(result.correct)


def paired_difference(result: SystemResult, other: SystemResult) -> Estimate:
    """Accuracy of one system less another's on the same questions; on the same seeds, where both have as many."""
    return _bootstrap(result.correct, other.correct)


def _bootstrap(correct: np.ndarray, other: np.ndarray | None = None) -> Estimate:
    """Percentile bootstrap: questions are drawn once for both systems, and so are seeds where both have as many."""
    rng = np.random.default_rng(0)
    n = correct.shape[1]
    questions = rng.multinomial(n, np.full(n, 1 / n), REPLICATES) / n

    def replicates(values: np.ndarray) -> np.ndarray:
        seeds = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), REPLICATES) / len(values)
        return ((seeds @ values) * questions).sum(1)

    if other is None:
        means, mean = replicates(correct), correct.mean()
    elif len(other) == len(correct):
        means, mean = replicates(correct - other), (correct - other).mean()
    else:
        means, mean = replicates(correct) - replicates(other), correct.mean() - other.mean()
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(float(mean), float(low), float(high))


def write_results(path: Path, results: Iterable[SystemResult], questions: list[str]) -> None:
    """Writes one row a system, seed and question."""
    tables = []
    for order, result in enumerate(results):
        for seed, outcome in enumerate(result.outcomes):
            columns = {
                "order": [order] * len(questions),
                "system": [result.system] * len(questions),
                "seed": [seed] * len(questions),
                "question": questions,
                "correct": outcome.correct,
                **{name: outcome.tokens[:, i] for i, name in enumerate(TOKENS)},
                **{name: outcome.actions[:, i] for i, name in enumerate(ACTIONS)},
                "failed": outcome.failed,
            }
            tables.append(pa.table(columns))
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.concat_tables(tables), temporary, write_page_checksum=True)
    temporary.rename(path)


def read_results(path: Path) -> list[SystemResult]:
    """Reads what `write_results` wrote.

    Raises:
        DataError: The file is missing or is not one.
    """
    try:
        frame = pq.read_table(path, page_checksum_verification=True).to_pandas()
        results = []
        for (_, system), rows in frame.groupby(["order", "system"], sort=True):
            outcomes = [
                Outcome(
                    seed["correct"].to_numpy(),
                    seed[list(TOKENS)].to_numpy(),
                    seed[list(ACTIONS)].to_numpy(),
                    seed["failed"].to_numpy(),
                )
                for _, seed in rows.groupby("seed", sort=True)
            ]
            results.append(SystemResult(system, tuple(outcomes)))
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} holds no results ({error}); run the experiment again") from error
    return results


def results_table(results: list[SystemResult], learned: dict[str, str]) -> Table:
    """The table of all systems.

    Args:
        results: Rows in their order.
        learned: Systems whose paired differences to every row are shown, each a column, with the column's short name.
    """
    by_name = {result.system: result for result in results}
    seeds = len(by_name[next(iter(learned))].outcomes)
    table = Table(
        title=f"{results[0].correct.shape[1]} held-out questions, {seeds} seeds; accuracy and differences with 95 % "
        "bootstrap intervals over questions and seeds; tokens a question; shares of Persist, Refine, Concede",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for header in ("system", "accuracy", *(f"{short} − row" for short in learned.values())):
        table.add_column(header, min_width=7, overflow="fold")
    for header in ("prompt (cached)", "generated", "P/R/C %"):
        table.add_column(header, min_width=8, overflow="fold", justify="right")
    for result in results:
        prompt, cached, generated = result.tokens
        shares = result.action_shares
        table.add_row(
            result.system,
            shown(accuracy(result)),
            *(
                "" if name == result.system else shown(paired_difference(by_name[name], result), "+")
                for name in learned
            ),
            f"{prompt:.0f} ({cached:.0f})",
            f"{generated:.0f}",
            "" if shares is None else "/".join(f"{100 * share:.0f}" for share in shares),
        )
    return table


def shown(estimate: Estimate, sign: str = "") -> str:
    """An estimate as tables print it."""
    mean, low, high = (
        f"{number:{form}.3f}".replace("0.", ".", 1) for number, form in zip(estimate, (sign, "", ""), strict=True)
    )
    return rf"{mean} \[{low}, {high}]"

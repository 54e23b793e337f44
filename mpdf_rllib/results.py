"""Results as rows, one a system, seed and question, and the table that is a pure function of them."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mpdf_rllib import run_folder
from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.bootstrap import Estimate, replicates
from mpdf_rllib.envs.debate import ACTIONS
from mpdf_rllib.errors import DataError
from mpdf_rllib.text_table import TextTable

CREDIT_LABELS: dict[str, str] = {"step": "paper's credit", "outcome": "soft outcome"}
_NOTES = b"mpdf-rllib"
"""Where they lie in the file's metadata."""
TOKENS = ("prompt_tokens", "cached_tokens", "generated_tokens")


def label(kind: str) -> str:
    """What SoftRankPO with such credit is called."""
    return f"SoftRankPO, {CREDIT_LABELS[kind]}"


@dataclass(frozen=True)
class SystemResult:
    """One system on the held-out questions.

    Attributes:
        system: The row's label.
        outcomes: By seed, or by agent for a single agent; one where nothing is drawn.
    """

    system: str
    outcomes: tuple[Outcome, ...]

    def of_questions(self, chosen: np.ndarray) -> "SystemResult":
        """Its outcomes on some of the questions, which are chosen by their indices or by flags, bool, shape (Q,)."""
        return SystemResult(
            self.system, tuple(Outcome(*(column[chosen] for column in outcome)) for outcome in self.outcomes)
        )

    @property
    def correct(self) -> np.ndarray:
        """float64, shape (seeds, Q)."""
        return np.stack([outcome.correct for outcome in self.outcomes]).astype(float)

    @property
    def tokens(self) -> np.ndarray:
        """Means a question: prompt, of which cached, generated; shape (3,)."""
        return np.mean([outcome.tokens.mean(0) for outcome in self.outcomes], 0)

    @property
    def failed(self) -> int:
        """How many times, in all seeds, it could not go on with a question."""
        return sum(int(outcome.failed.sum()) for outcome in self.outcomes)

    @property
    def seeds(self) -> str:
        """What its seeds are of: those of all that debates, such as policies, are the same; others are its own."""
        return "debates" if self.action_shares is not None else self.system

    @property
    def action_shares(self) -> np.ndarray | None:
        """Shares of Persist, Refine, Concede, shape (3,); None for a system without these actions."""
        counts = np.sum([outcome.actions.sum(0) for outcome in self.outcomes], 0)
        return counts / counts.sum() if counts.sum() else None


def accuracy(result: SystemResult) -> Estimate:
    """Accuracy over all questions asked."""
    correct = result.correct
    (means,) = replicates([correct], [result.seeds], [_all(correct)])
    return Estimate.of(correct.mean(), means)


def paired_difference(result: SystemResult, other: SystemResult) -> Estimate:
    """Accuracy of one system less another's on the same questions, and seeds where both debate with as many."""
    one, two = result.correct, other.correct
    means, others = replicates([one, two], [result.seeds, other.seeds], [_all(one)])
    return Estimate.of(one.mean() - two.mean(), means - others)


def _all(correct: np.ndarray) -> np.ndarray:
    return np.ones(correct.shape[1], bool)


def write_results(
    path: Path, results: Iterable[SystemResult], questions: list[str], sets: list[str], notes: str = ""
) -> None:
    """Writes one row a system, seed and question.

    Args:
        path: The file; what was there is replaced.
        results: Rows of the table, in their order.
        questions: Their ids.
        sets: Which question set each of them is of.
        notes: What `read_notes` gives back.
    """
    tables = []
    for order, result in enumerate(results):
        for seed, outcome in enumerate(result.outcomes):
            columns = {
                "order": [order] * len(questions),
                "system": [result.system] * len(questions),
                "seed": [seed] * len(questions),
                "set": sets,
                "question": questions,
                "correct": outcome.correct,
                **{name: outcome.tokens[:, i] for i, name in enumerate(TOKENS)},
                **{name: outcome.actions[:, i] for i, name in enumerate(ACTIONS)},
                "failed": outcome.failed,
            }
            tables.append(pa.table(columns))
    temporary = path.with_suffix(".tmp")
    rows = pa.concat_tables(tables).replace_schema_metadata({_NOTES: notes})
    pq.write_table(rows, temporary, write_page_checksum=True)
    temporary.rename(path)


def read_results(path: Path) -> list[SystemResult]:
    """Reads what `write_results` wrote.

    Raises:
        DataError: The file is missing or is not one.
    """
    with _reading(path):
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
    return results


def read_notes(path: Path) -> str:
    """Reads the notes that `write_results` was given, "" where it was given none.

    Raises:
        DataError: The file is missing or is not one.
    """
    with _reading(path):
        return (pq.read_schema(path).metadata or {}).get(_NOTES, b"").decode()


def read_questions(path: Path) -> tuple[list[str], list[str]]:
    """Reads the questions' ids and which set each is of, in the order of the outcomes that `read_results` reads.

    Raises:
        DataError: The file is missing, or does not say it.
    """
    with _reading(path):
        columns = ["order", "seed", "question", "set"]
        frame = pq.read_table(path, columns=columns, page_checksum_verification=True).to_pandas()
        first = frame[(frame["order"] == 0) & (frame["seed"] == 0)]
        return first["question"].tolist(), first["set"].tolist()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        config = path.with_name(run_folder.CONFIG)
        raise DataError(f"{path} is not there; `python -m mpdf_rllib.evaluate --config {config}` writes it") from error
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} holds no results ({error}); run the experiment again") from error


def results_table(results: list[SystemResult], learned: dict[str, str]) -> TextTable:
    """The table of all systems.

    Args:
        results: Rows in their order.
        learned: Systems whose paired differences to every row are shown, each a column, with the column's short name.
    """
    by_name = {result.system: result for result in results}
    seeds = len(by_name[next(iter(learned))].outcomes)
    lines = []
    for result in results:
        prompt, cached, generated = result.tokens
        shares = result.action_shares
        differences = (
            "" if name == result.system else shown(paired_difference(by_name[name], result), "+") for name in learned
        )
        lines.append(
            [
                result.system,
                shown(accuracy(result)),
                *differences,
                f"{prompt:.0f} ({cached:.0f})",
                f"{generated:.0f}",
                "" if shares is None else "/".join(f"{100 * share:.0f}" for share in shares),
            ]
        )
    title = (
        f"{results[0].correct.shape[1]} held-out questions, {seeds} seeds; accuracy and differences with 95 % "
        "bootstrap intervals over questions and seeds; tokens a question; shares of Persist, Refine, Concede"
    )
    differences_to = [f"{short} − row" for short in learned.values()]
    return TextTable(title, ["system", "accuracy", *differences_to, "prompt (cached)", "generated", "P/R/C %"], lines)


def shown(estimate: Estimate, sign: str = "") -> str:
    """An estimate as tables print it."""
    mean, low, high = (
        without_zero(f"{number:{form}.3f}") for number, form in zip(estimate, (sign, "", ""), strict=True)
    )
    return f"{mean} [{low}, {high}]"


def without_zero(number: str) -> str:
    """A number below 1 without the 0 before its point."""
    return re.sub(r"^([+-]?)0\.", r"\1.", number)

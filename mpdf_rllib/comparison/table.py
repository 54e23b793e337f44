"""The comparison as a table to read, and as one to compute with."""

import csv
import io

from mpdf_rllib.bootstrap import REPLICATES
from mpdf_rllib.comparison.config import MEAN
from mpdf_rllib.comparison.rows import BLOCKS, Cell, Comparison, Row
from mpdf_rllib.results import TOKENS, shown
from mpdf_rllib.text_table import TextTable


def comparison_table(comparison: Comparison) -> TextTable:
    """Accuracy and tokens of each system on each set, and the difference of the reference system to it in the mean.

    A single set is the mean itself, and has no column of its own. What failed is counted where anything did.
    """
    sets = [*comparison.questions]
    parts, mean = (sets, MEAN) if len(sets) > 1 else ([], sets[0])
    asked = sum(comparison.questions.values())
    any_failed = any(row.mean.failed for row in comparison.rows)

    def line(row: Row) -> list[str]:
        cells = [_shown_cell(cell) for cell in (*(row.sets[name] for name in parts), row.mean)]
        compared = [shown(row.mean.difference, "+"), f"{row.p_holm:.4f}".removeprefix("0")]
        failed = [f"{row.mean.failed} of {asked * row.seeds}"] if any_failed else []
        return [row.system, *cells, *(["", ""] if row is comparison.reference else compared), *failed]

    header = ["system", *parts, mean, f"{comparison.reference.system} − row", "p (Holm)", *["failed"] * any_failed]
    return TextTable(_title(comparison), header, [line(row) for row in comparison.rows])


def _title(comparison: Comparison) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in comparison.questions.items())
    weights, of_mean = (
        ("; mean: each set counts as much", " in the mean") if len(comparison.questions) > 1 else ("", "")
    )
    return (
        f"Questions: {counts}{weights}; {comparison.reference.seeds} seeds of {comparison.reference.system}; accuracy "
        f"over all questions asked, and difference{of_mean}, with 95 % bootstrap intervals over questions and seeds; "
        "below accuracy, tokens a question: prompt (of which cached) + generated; p of no difference: two-sided, of "
        f"{BLOCKS * REPLICATES} bootstrap replicates, Holm-corrected for {len(comparison.rows) - 1} rows"
    )


def _shown_cell(cell: Cell) -> str:
    prompt, cached, generated = cell.tokens
    return f"{shown(cell.accuracy)}\n{prompt:.0f} ({cached:.0f}) + {generated:.0f}"


def as_csv(comparison: Comparison) -> str:
    """All numbers in full: a row a system and set, the last set being the mean, which alone has p-values."""
    accuracy, difference = ("accuracy", "low", "high"), ("difference", "difference_low", "difference_high")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["system", "set", "questions", "seeds", *accuracy, *TOKENS, "failed", *difference, "p", "p_holm"])
    counts = comparison.questions | {MEAN: sum(comparison.questions.values())}
    for row in comparison.rows:
        for name, cell in (row.sets | {MEAN: row.mean}).items():
            p = (row.p, row.p_holm) if name == MEAN else ("", "")
            numbers = (*cell.accuracy, *cell.tokens, cell.failed, *cell.difference, *p)
            writer.writerow([row.system, name, counts[name], row.seeds, *numbers])
    return text.getvalue()

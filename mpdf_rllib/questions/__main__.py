"""`python -m mpdf_rllib.questions`: shows and counts the questions of a config, and checks every reference answer."""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mpdf_rllib import cli
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.errors import DataError
from mpdf_rllib.questions import Question, Split, checking
from mpdf_rllib.questions.boxes import BOX
from mpdf_rllib.questions.grader import grade

SHOWN = 20
"""Groups of rows, of a column that sorts them, that are listed."""


def fault(question: Question) -> str | None:
    """Why a question's reference answer does not pass the question's own checker; None where it does."""
    try:
        reference = question.reference
    except DataError as error:
        return str(error)
    again = question.checker.read(reference.canonical)
    if again is None or again.canonical != reference.canonical:
        return f"question {question.id}: its reference answer {reference.canonical!r:.100} is not read as itself"
    if not question.accepts(again.canonical) or not _equals_itself(question):
        return f"question {question.id}: its reference answer {reference.canonical!r:.100} does not pass its checker"
    return None


def _equals_itself(question: Question) -> bool:
    """Whether math-verify, which a checker does not ask about equal texts, takes the reference answer for itself."""
    canonical = question.reference.canonical
    if question.kind != "expression" or not canonical.startswith(BOX):
        return True
    latex = canonical[len(BOX) : -1]
    return bool(grade("equal", latex, latex))


def faults(questions: Sequence[Question], done: Callable[[], None]) -> list[str]:
    """The faults of questions, in parallel where that is slow; `done` is called after each question."""

    async def check(question: Question) -> str | None:
        found = await checking(question, fault, question)
        done()
        return found

    async def check_all() -> list[str | None]:
        return await asyncio.gather(*map(check, questions))

    return [wrong for wrong in asyncio.run(check_all()) if wrong is not None]


def _command(config: ExperimentConfig, options: argparse.Namespace) -> None:
    loaded = config.questions.benchmark_splits(config.agent_prompts)
    wrong: list[str] = []
    for split in get_args(Split):
        drawn = config.questions_of(split)
        everything = drawn
        if loaded:
            everything = config.questions.runnable(loaded[split].questions(loaded[split].kept))
        _show(split, drawn[0])
        table = Table(title=f"{split} questions", show_header=False)
        if loaded:
            table.add_row("rows", escape(f"{len(loaded[split].rows.data)} in {loaded[split].rows.place}"))
            for reason, count in loaded[split].left_out.items():
                table.add_row(f"left out: {reason}", str(count))
            for column, groups in loaded[split].groups().items():
                table.add_row(f"by {column}", _counts(groups))
        table.add_row("drawn", str(len(drawn)))
        table.add_row("by kind", _counts(Counter(question.kind for question in drawn)))
        cli.output.print(table)
        with _progress() as progress:
            task = progress.add_task(f"Checking {split}", total=len(everything))
            started = time.monotonic()
            found = faults(everything, partial(progress.advance, task))
        cli.console.print(f"{len(everything)} reference answers checked in {time.monotonic() - started:.1f} s")
        wrong += found
    if wrong:
        raise DataError("\n  ".join([f"{len(wrong)} reference answers do not pass their own checkers:", *wrong]))


def _show(split: str, question: Question) -> None:
    lines = [question.text, "", f"reference answer: {question.answer}"]
    cli.output.print(Panel(escape("\n".join(lines)), title=f"{split}: {question.id}", title_align="left"))


def _counts(groups: Counter[str]) -> str:
    most = ", ".join(f"{name} {count}" for name, count in groups.most_common(SHOWN))
    return escape(most + (f" and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""))


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=cli.console, transient=True)


def _arguments() -> argparse.ArgumentParser:
    return cli.parser("questions", "Show and count the questions, and check that every reference answer passes.")


if __name__ == "__main__":
    sys.exit(cli.main(_arguments(), _command))

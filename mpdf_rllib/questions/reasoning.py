"""Answers to tasks of reasoning-gym, judged by the task's own verifier.

The row that a verifier needs is made again, out of the task's seed and the row's number, in the process in which it
runs, within bounds on time and memory. Some verifiers evaluate what a model has written as Python: they are given only
what can do no more than compute.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from mpdf_rllib.questions.boxes import BOX, last_box
from mpdf_rllib.questions.checker import Answer
from mpdf_rllib.questions.grader import grade
from mpdf_rllib.questions.numbers import exact_number

MAX_ANSWER = 2_000
"""Characters of an answer; a longer one is none [ours]."""

_ARITHMETIC = re.compile(r"[0-9+\-*/(). \n]*")
_LISTS = re.compile(r"[\w\s\[\],'\"-]*")  # no call and no attribute
_HARMLESS = {
    **dict.fromkeys(("countdown", "puzzle24"), _ARITHMETIC),
    **dict.fromkeys(("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"), _LISTS),
}
"""What is evaluated, by the task; any other answer is wrong. Those of reasoning-gym 0.1.25."""

_OPEN, _CLOSE = "<answer>", "</answer>"
_STATED = re.compile(r"\banswer\b[\s*_]*(?:\bis\b|:)(?P<gap>[\s*_:]*)", re.IGNORECASE)
_MARKS = " \t\r\n*_$"


@dataclass(frozen=True)
class ReasoningRow:
    """A row of a task.

    Attributes:
        task: Its name.
        parameters: As a JSON object.
        seed: Of the task.
        index: Of the row.
    """

    task: str
    parameters: str
    seed: int
    index: int


@dataclass(frozen=True)
class ReasoningChecker:
    """The checker of one row's answers.

    Attributes:
        row: Whose verifier judges.
    """

    row: ReasoningRow
    slow = True

    def read(self, text: str) -> Answer | None:
        r"""What the last <answer>...</answer>, the last box, the last "answer is" or, without any, the last line holds.

        All of it [ours]. A box that is all that an <answer> holds is no part of the answer. An "answer is" holds the
        rest of its line, or, where it ends its line, the lines after it. Of it and of a last line, emphasis and a full
        stop are no part. Canonical is <answer>...</answer>; the value is the answer's where it is a number.
        """
        start, end = _answer_span(text)
        answer = text[start:end].strip()
        if not answer or len(answer) > MAX_ANSWER:
            return None
        number = exact_number(answer.rstrip("."))
        return Answer(as_answer(answer), float(number) if number is not None else 0.0, (start, end))

    def read_alone(self, text: str) -> Answer | None:
        """All of the text."""
        return self.read(as_answer(text))

    def same(self, gold: str, answer: str) -> bool:
        """Whether the texts agree, whatever their case, white space and full stop [ours]."""
        return _normal(gold) == _normal(answer)

    def correct(self, gold: str, answer: str) -> bool:
        """Whether the task's verifier gives the answer the full score, whatever the reference."""
        row, given = self.row, _inner(answer)
        if row.task in _HARMLESS and not _HARMLESS[row.task].fullmatch(given):
            return False
        return _full_score(row.task, row.parameters, str(row.seed), str(row.index), given)


def as_answer(text: str) -> str:
    """An answer in canonical form."""
    return f"{_OPEN}{text}{_CLOSE}"


@lru_cache(maxsize=2**16)
def _full_score(*row_and_answer: str) -> bool:
    return bool(grade("full_score", *row_and_answer))


def _answer_span(text: str) -> tuple[int, int]:
    closed = text.rfind(_CLOSE)
    start = text.rfind(_OPEN, 0, closed if closed >= 0 else None)
    box = last_box(text)
    if start >= 0:
        start += len(_OPEN)
        end = text.find(_CLOSE, start) if closed >= 0 else len(text)
        if box is not None and (text[start : box[0]].strip(" $\n"), text[box[1] : end].strip(" $\n")) == (BOX, "}"):
            return box
        return start, end
    if box is not None:
        return box
    end = len(text.rstrip())
    start = text.rfind("\n", 0, end) + 1
    if statements := list(_STATED.finditer(text, 0, end)):
        start = statements[-1].end()
        if "\n" not in statements[-1]["gap"]:
            line_end = text.find("\n", start, end)
            end = line_end if line_end >= 0 else end
    bare = text[start:end].strip(_MARKS).removesuffix(".").strip(_MARKS)
    start = text.find(bare, start)
    return start, start + len(bare)


def _inner(canonical: str) -> str:
    return canonical[len(_OPEN) : -len(_CLOSE)]


def _normal(canonical: str) -> str:
    return " ".join(_inner(canonical).casefold().split()).rstrip(". ")

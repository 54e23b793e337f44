"""The question type and the checkers that decide whether two answers are the same."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from mpdf_rllib.errors import DataError

Kind = Literal["number"]

# At most 40 digits before and after the point: longer digit strings are noise, not answers.
_NUMBER = re.compile(
    r"(?<![\w.,])-?\d{1,3}(?:,\d{3}){1,12}(?:\.\d{1,40})?(?!,?\w)|(?<!\w)-?(?:\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})(?!\w)"
)


@dataclass(frozen=True)
class Question:
    """A question and what its checker needs.

    Attributes:
        id: Unique in its set; recordings and results refer to it.
        text: What the agents are asked.
        answer: The reference answer, accepted by its own checker.
        kind: Which checker reads and compares answers.
        source: The prompts that it is asked with, called like its family, or the path of the user's own.
    """

    id: str
    text: str
    answer: str
    kind: Kind
    source: str

    def __post_init__(self):
        if parse_answer(self.answer, self.kind) is None:
            raise DataError(
                f"question {self.id}: its reference answer {self.answer!r} cannot be read as a {self.kind}; correct it"
            )


class Answer(NamedTuple):
    """An answer read out of a text.

    Attributes:
        canonical: Equal answers have equal forms ("15", "-7/2").
        value: The answer as a number.
        span: First and last-plus-one character of the answer in the text.
    """

    canonical: str
    value: float
    span: tuple[int, int]


def parse_answer(text: str, kind: Kind) -> Answer | None:
    """Reads the answer out of a model's text.

    Args:
        text: Any text.
        kind: For "number" the answer is the last number in it, an integer or a decimal, compared exactly.

    Returns:
        The answer, or None where the text holds none.
    """
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    last = numbers[-1]
    exact = Fraction(last[0].replace(",", ""))
    return Answer(str(exact), float(exact), last.span())

"""The question type and the checkers that decide whether two answers are the same."""

import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal, NamedTuple, ParamSpec, TypeVar

from mpdf_rllib.errors import DataError
from mpdf_rllib.questions.expressions import BOX, read_expression, same_expression
from mpdf_rllib.questions.grader import grading

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

Kind = Literal["number", "expression"]

# At most 40 digits before and after the point: longer digit strings are noise, not answers.
_NUMBER = re.compile(
    r"(?<![\w.,])-?\d{1,3}(?:,\d{3}){1,12}(?:\.\d{1,40})?(?!,?\w)|(?<!\w)-?(?:\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})(?!\w)"
)


_SHORT = reprlib.Repr()
_SHORT.maxstring = 100


@dataclass(frozen=True)
class Question:
    r"""A question and what its checker needs.

    Attributes:
        id: Unique in its set; recordings and results refer to it.
        text: What the agents are asked.
        answer: The reference answer, or a text that it can be read out of: of an expression, alone or in \boxed{...}.
        kind: Which checker reads and compares answers.
        source: The prompts that it is asked with, called like its family, or the path of the user's own.
    """

    id: str
    text: str
    answer: str
    kind: Kind
    source: str

    def __post_init__(self):
        self.reference  # noqa: B018

    @cached_property
    def reference(self) -> "Answer":
        """The reference answer as its checker reads it.

        Raises:
            DataError: The checker cannot read it.
        """
        bare = self.kind == "expression" and BOX not in self.answer
        text = f"{BOX}{self.answer}}}" if bare else self.answer
        reference = parse_answer(text, self.kind)
        if reference is None or (bare and reference.span[1] != len(text) - 1):
            answer, kind = _SHORT.repr(self.answer), {"number": "a number", "expression": "an expression"}[self.kind]
            raise DataError(f"question {self.id}: its reference answer {answer} cannot be read as {kind}; correct it")
        return reference


class Answer(NamedTuple):
    r"""An answer read out of a text.

    Attributes:
        canonical: A text that the same answer is read out of. Exactly equal numbers have equal forms ("15", "-7/2");
            expressions that differ in form ("\boxed{x+1}") can be equal all the same: see `equivalent`.
        value: The answer as a number, finite; 0 for an expression without a real value.
        span: First and last-plus-one character of the answer in the text.
    """

    canonical: str
    value: float
    span: tuple[int, int]


def parse_answer(text: str, kind: Kind) -> Answer | None:
    """Reads the answer out of a model's text.

    Args:
        text: Any text.
        kind: For "number" the answer is the last number in it, an integer or a decimal; for "expression" see
            `mpdf_rllib.questions.expressions`.

    Returns:
        The answer, or None where the text holds none.
    """
    if kind == "expression":
        found = read_expression(text)
        return found and Answer(*found)
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    last = numbers[-1]
    exact = Fraction(last[0].replace(",", ""))
    return Answer(str(exact), float(exact), last.span())


def equivalent(gold: str, answer: str, kind: Kind) -> bool:
    """Whether an answer is the same as a given one, both in canonical form.

    For expressions this is math-verify's relation, which is neither symmetric (for a given 1 <= x < 2 it accepts
    [1, 2), not the other way round) nor transitive (it accepts 50% for 50 and for 0.5). So the order counts: an answer
    is compared with the reference first and then with the other answers before it, each time as the second. What cannot
    be decided within the bounds on time and memory is different.
    """
    return gold == answer or (kind == "expression" and same_expression(gold, answer))


async def checking(
    question: Question, check: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Runs a function that reads or compares answers to a question, which must not hold up the event loop.

    The checks of one question run one after the other, in the order of the calls.
    """
    if question.kind == "number":
        return check(*args, **kwargs)
    return await grading(question.id, check, *args, **kwargs)

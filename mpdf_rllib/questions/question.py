"""The question type, with the checker of its kind."""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, ParamSpec, TypeVar

from mpdf_rllib.errors import DataError
from mpdf_rllib.questions.checker import Answer, Checker
from mpdf_rllib.questions.choices import ChoiceChecker
from mpdf_rllib.questions.code import CodeChecker
from mpdf_rllib.questions.expressions import ExpressionChecker
from mpdf_rllib.questions.grader import grading
from mpdf_rllib.questions.numbers import NumberChecker
from mpdf_rllib.questions.programs import CodeTask
from mpdf_rllib.questions.reasoning import ReasoningChecker, ReasoningRow

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

Kind = Literal["number", "expression", "choice", "code", "reasoning"]

_NAMES: dict[Kind, str] = {
    "number": "a number",
    "expression": "an expression",
    "choice": "a choice",
    "code": "a program",
    "reasoning": "an answer",
}
_SHORT = reprlib.Repr()
_SHORT.maxstring = 100


@dataclass(frozen=True)
class Question:
    r"""A question and what its checker needs.

    Attributes:
        id: Unique in its set; recordings and results refer to it.
        text: What the agents are asked.
        answer: The reference answer, or a text that it can be read out of: of an expression, alone or in \boxed{...}.
            None where nobody knows it: then no answer is right.
        kind: Which checker reads and compares answers.
        source: The prompts that it is asked with, called like its family, or the path of the user's own.
        choices: Of a choice, the texts that there are to choose from; the answer is a letter.
        task: Of code, what its checker needs; the answer is a program that passes the tests.
        row: Of a task of reasoning-gym's, which row of it; the answer is the one that comes with it.
    """

    id: str
    text: str
    answer: str | None
    kind: Kind
    source: str
    choices: tuple[str, ...] = ()
    task: CodeTask | None = None
    row: ReasoningRow | None = None

    @cached_property
    def checker(self) -> Checker:
        """What reads and compares the answers to it.

        Raises:
            DataError: It lacks what its kind needs.
        """
        match self.kind:
            case "number":
                return NumberChecker()
            case "expression":
                return ExpressionChecker()
            case "choice":
                return ChoiceChecker(self._needed("choices", self.choices))
            case "code":
                return CodeChecker(self._needed("task", self.task))
            case "reasoning":
                return ReasoningChecker(self._needed("row", self.row))

    def _needed(self, name: str, value: Result | None) -> Result:
        if not value:
            raise DataError(
                f"question {self.id}: it is of kind {self.kind!r} but has no {name}; give it what its kind needs"
            )
        return value

    @cached_property
    def reference(self) -> Answer:
        """The reference answer as its checker reads it, when it is first asked for.

        Raises:
            DataError: The checker cannot read it.
        """
        reference = None if self.answer is None else self.checker.read_alone(self.answer)
        if reference is None:
            answer, kind = _SHORT.repr(self.answer), _NAMES[self.kind]
            raise DataError(f"question {self.id}: its reference answer {answer} cannot be read as {kind}; correct it")
        return reference

    def accepts(self, answer: str) -> bool:
        """Whether an answer in canonical form is right.

        Raises:
            DataError: The checker cannot read the reference answer.
        """
        return self.answer is not None and self.checker.correct(self.reference.canonical, answer)


async def checking(
    question: Question, check: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Runs a function that reads or compares answers to a question, which must not hold up the event loop.

    The checks of one question run one after the other, in the order of the calls.
    """
    if not question.checker.slow:
        return check(*args, **kwargs)
    return await grading(question.id, check, *args, **kwargs)

"""Equivalent answers of a question under one number, so that the debate's rules never call a checker."""

from mpdf_rllib.questions import Question

UNPARSED = -1
"""The answer class of every solution without an answer; it is equivalent to none."""


class AnswerClasses:
    """The classes of one question's answers, numbered from 0 in the order in which they were met."""

    def __init__(self, question: Question):
        """Knows no answer yet."""
        self._question = question
        self._answers: list[str] = []

    def of(self, answer: str | None) -> int:
        """The first class of an equivalent answer, as far as a debate may know, else a new one; `UNPARSED` for None.

        To be called through `checking`, since it compares answers.
        """
        if answer is None:
            return UNPARSED
        for answer_class, other in enumerate(self._answers):
            if self._question.checker.same(other, answer):
                return answer_class
        self._answers.append(answer)
        return len(self._answers) - 1

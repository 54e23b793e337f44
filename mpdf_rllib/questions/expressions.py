r"""Mathematical expressions as answers: read out of a text, and compared by math-verify.

The answer is what the last \boxed{...} holds, or what math-verify finds in a text without one. Exact numbers are read
and compared here, without tolerance; all else is math-verify's, in a process of its own.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mpdf_rllib.questions.boxes import BOX, has_box, last_box
from mpdf_rllib.questions.checker import Answer
from mpdf_rllib.questions.grader import grade
from mpdf_rllib.questions.numbers import exact_number

MAX_TEXT = 5_000
"""Characters, the last ones of a text without a box, that are searched for an answer [ours]."""
MAX_ANSWER = 500
"""Characters of an answer; a longer one is none [ours]."""

_PAIR = re.compile(r"(?:\\left\s*)?[(\[][^()\[\]]*,[^()\[\]]*[)\]]")
_SET = re.compile(r"(?:\\left\s*)?\\\{(?:(?!\\[{}]).)*\\\}")
_IN_BASE = re.compile(r"[0-9A-Z]+\s*_\s*(?:\{\s*)?([0-9]+)(?:\s*\})?")
_WORDS = re.compile(r"[A-Za-z]{2,}(?:[ -][A-Za-z]+)*")
_IN_TEXT = re.compile(r"\\text\s*\{[^{}]*\}")


class ExpressionChecker:
    """The checker of mathematical expressions."""

    slow = True

    def read(self, text: str) -> Answer | None:
        r"""Reads the answer out of a text.

        Args:
            text: Any text.

        Returns:
            The answer as a number ("15", "-7/2") or as \boxed{...} with its white space evened out; its value, 0 where
            it has no finite real one; and its span, that of the whole text where math-verify has rewritten it. None
            where the text holds no answer, or none that math-verify can read within its bounds.
        """
        span = (0, len(text)) if _exact(text) is not None else last_box(text)
        if span is not None:
            answer = " ".join(text[slice(*span)].split())
        elif has_box(text):  # which was cut off
            return None
        else:
            answer = (grade("extract", text[-MAX_TEXT:]) or "").rstrip(". ")
            start = text.rfind(answer)
            span = (start, start + len(answer)) if start >= 0 else (0, len(text))
            answer = " ".join(answer.split())
        if (exact := _exact(answer)) is not None:
            return Answer(str(exact), float(exact), span)
        value = _graded("value", answer) if len(answer) <= MAX_ANSWER else None
        if value is None and _WORDS.fullmatch(answer):
            answer = f"\\text{{{answer}}}"
            value = _graded("value", answer)
        return None if value is None else Answer(f"{BOX}{answer}}}", value, span)

    def read_alone(self, text: str) -> Answer | None:
        r"""What all of the text is, or its last \boxed{...}."""
        if has_box(text):
            return self.read(text)
        answer = self.read(f"{BOX}{text}}}")
        if answer is None or answer.span[1] != len(BOX) + len(text):
            return None
        return answer._replace(span=(0, len(text)))

    def same(self, gold: str, answer: str) -> bool:
        r"""Whether math-verify accepts the answer for the given one.

        Its relation is neither symmetric (for a given 1 <= x < 2 it accepts [1, 2), not the other way round) nor
        transitive (it accepts 50% for 50 and for 0.5). Here a tuple or an interval is no set, numbers in other bases
        are not the same, and words are whatever their case and white space. What cannot be decided within the bounds on
        time and memory is different.
        """
        if gold == answer or not (gold.startswith(BOX) or answer.startswith(BOX)):
            return gold == answer
        gold, answer = (text[len(BOX) : -1] if text.startswith(BOX) else text for text in (gold, answer))
        if any(_PAIR.fullmatch(one) and _SET.fullmatch(other) for one, other in ((gold, answer), (answer, gold))):
            return False
        bases = [found[1] for found in map(_IN_BASE.fullmatch, (gold, answer)) if found]
        if bases and bases[0] != bases[-1]:
            return False
        if _IN_TEXT.fullmatch(gold) or _IN_TEXT.fullmatch(answer):
            bare = {re.sub(r"\\text\b|[\s{}]", "", text).casefold() for text in (gold, answer)}
            if len(bare) == 1:
                return True
        return bool(_graded("equal", gold, answer))

    correct = same


@lru_cache(maxsize=2**16)
def _graded(name: str, *answers: str) -> Any:
    return grade(name, *answers)


def _exact(text: str) -> Fraction | None:
    return exact_number(text) if len(text) <= MAX_ANSWER else None

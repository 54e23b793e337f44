"""Numbers as answers: the last one in a text, compared exactly."""

import re
from fractions import Fraction

from mpdf_rllib.questions.checker import Answer

# At most 40 digits before and after the point: longer digit strings are noise, not answers.
_NUMBER = re.compile(
    r"(?<![\w.,])-?\d{1,3}(?:,\d{3}){1,12}(?:\.\d{1,40})?(?!,?\w)|(?<!\w)-?(?:\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})(?!\w)"
)


class NumberChecker:
    """The checker of integers and decimals."""

    slow = False

    def read(self, text: str) -> Answer | None:
        """The last number in a text."""
        numbers = list(_NUMBER.finditer(text))
        if not numbers:
            return None
        last = numbers[-1]
        exact = Fraction(last[0].replace(",", ""))
        return Answer(str(exact), float(exact), last.span())

    def same(self, gold: str, answer: str) -> bool:
        """Exactly equal numbers have one canonical form."""
        return gold == answer

    correct = same

"""Numbers as answers: the one that a text states, or the last one in it, compared exactly."""

import re
from fractions import Fraction

from mpdf_rllib.questions.boxes import last_box
from mpdf_rllib.questions.checker import Answer

MAX_DIGITS = 200
"""Of the numerator and of the denominator of an exact number [ours]."""

# At most 40 digits before and after the point: longer digit strings are noise, not answers.
_NOISE = re.compile(r"\d{41}")
_NUMBER = re.compile(
    r"(?<![\w.,])(?:[-−]\\?\$?)?\d{1,3}(?:,\d{3}){1,12}(?:\.\d{1,40})?(?!,?\w)"
    r"|(?<!\w)(?:[-−]\\?\$?)?(?:\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})(?!\w)"
)
_MARK = re.compile(r"####[^\S\n]*\\?\$?")
_UNIT = re.compile(r"\\(?:text|mbox|mathrm|operatorname)\s*\{[^{}]*\}(?:\s*\^\s*(?:\{[0-9]\}|[0-9]))?")

_INTEGER = f"[0-9]{{1,{MAX_DIGITS}}}"
_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_EXACT = re.compile(
    rf"(?P<sign>[+-]?)(?:\\\$)?(?:(?P<decimal>{_DECIMAL}(?:[eE][+-]?[0-9]{{1,2}})?)|(?P<a>{_INTEGER})/(?P<b>{_INTEGER})"
    rf"|\\[dt]?frac(?:\{{(?P<c>{_INTEGER})\}}|(?P<d>[0-9]))(?:\{{(?P<e>{_INTEGER})\}}|(?P<f>[0-9])))"
)


class NumberChecker:
    """The checker of integers, decimals and fractions."""

    slow = False

    def read(self, text: str) -> Answer | None:
        r"""The number in the last \boxed{...}, after the last ####, or that the text is as a whole; else the last.

        In a box and as a whole text a fraction is one number, and in a box the 2 of cm^2 is none.
        """
        box = last_box(text)
        if box is not None and (answer := _whole(text, *box) or _last(_UNIT.sub(_blank, text[: box[1]]), box[0])):
            return answer
        marks = list(_MARK.finditer(text))
        if marks and (number := _NUMBER.match(text, marks[-1].end())):
            return _answer(number)
        last = _last(text)
        whole = _whole(text, 0, len(text))
        return whole if whole and (last is None or whole.canonical != last.canonical) else last

    def same(self, gold: str, answer: str) -> bool:
        """Exactly equal numbers have one canonical form."""
        return gold == answer

    correct = same


def exact_number(text: str) -> Fraction | None:
    r"""The number that a text is as a whole: 15, -1,234.5, 3e8, 7/2, \frac{7}{2}; with or without $."""
    text = text.strip().removeprefix("\\$").strip("$ ").replace("−", "-").replace("\\!", "").replace("{,}", ",")
    found = _EXACT.fullmatch(text)
    if found is None:
        return None
    top, bottom = found["a"] or found["c"] or found["d"], found["b"] or found["e"] or found["f"] or "1"
    if int(bottom) == 0:
        return None
    number = Fraction((found["decimal"] or top).replace(",", "")) / int(bottom)
    if max(len(str(abs(number.numerator))), len(str(number.denominator))) > MAX_DIGITS:
        return None
    return -number if found["sign"] == "-" else number


def _whole(text: str, start: int, end: int) -> Answer | None:
    content = text[start:end]
    if len(content) > MAX_DIGITS or _NOISE.search(content) or (number := exact_number(content)) is None:
        return None
    start += len(content) - len(content.lstrip())
    return Answer(str(number), float(number), (start, start + len(content.strip())))


def _last(text: str, start: int = 0) -> Answer | None:
    numbers = list(_NUMBER.finditer(text, start))
    return _answer(numbers[-1]) if numbers else None


def _answer(number: re.Match[str]) -> Answer:
    exact = Fraction(re.sub(r"[\\$,]", "", number[0]).replace("−", "-"))
    return Answer(str(exact), float(exact), number.span())


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])

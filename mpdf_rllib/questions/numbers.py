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

_SPACE = r"(?:\\[,:; ]|~|\s)"
_GROUPS = re.compile(rf"(?<![\d.,])[0-9]{{1,3}}(?:{_SPACE}[0-9]{{3}})+(?!\d)")
_INTEGER = f"[0-9]{{1,{MAX_DIGITS}}}"
_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_EXACT = re.compile(
    rf"(?P<sign>[+-]?)\s?(?:\\?\$)?(?:(?P<decimal>{_DECIMAL}(?:[eE][+-]?[0-9]{{1,2}})?)"
    rf"|(?:(?P<m>{_INTEGER}){_SPACE})?(?P<a>{_INTEGER})\s?/\s?(?P<b>{_INTEGER})"
    rf"|(?:(?P<n>{_INTEGER}){_SPACE}?)?\\[dt]?frac"
    rf"(?:\{{(?P<minus>-?)(?P<c>{_INTEGER})\}}|(?P<d>[0-9]))(?:\{{(?P<e>{_INTEGER})\}}|(?P<f>[0-9])))"
)

# Superscripts, subscripts and vulgar fractions are no letters.
_WORD = r"[^\W\d_²³¹¼-¾\u2070-\u218f]+"
_POWER = r"(?:\s*\^\s*(?:\{\s*-?[0-9]\s*\}|-?[0-9])|[²³])"
_TEXT = re.compile(r"\\(?:text|textbf|mbox|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_BESIDE = re.compile(
    rf"(?:/\s*|(?<![^\W\d])(?<!\\)){_WORD}{_POWER}?(?!\w)|\\?%|°|\^\s*\{{?\s*\\circ\s*\}}?"
    rf"|(?<!\d){_SPACE}|{_SPACE}(?!\d)"
)
_EQUALS = re.compile(r"=|\\approx(?![A-Za-z])")


class NumberChecker:
    """The checker of integers, decimals and fractions."""

    slow = False

    def read(self, text: str) -> Answer | None:
        r"""The number in the last \boxed{...}, after the last ####, or that the text is as a whole; else the last.

        A box decides alone: in it is one number, a fraction perhaps, beside words and units, or no answer.
        """
        if (box := last_box(text)) is not None:
            return _only(text, *box)
        if marked := _marked(text):
            return marked
        last = _last(text)
        # Of several words, 3 / 4, the last number counts, as in 10 - 7.
        whole = _whole(text, 0) if len(text.strip("$ ").split()) == 1 else None
        return whole if whole and (last is None or whole.canonical != last.canonical) else last

    def read_alone(self, text: str) -> Answer | None:
        """Likewise, but without box and #### there must be one number in the text, beside words and units."""
        return self.read(text) if last_box(text) is not None else _marked(text) or _only(text, 0, len(text))

    def same(self, gold: str, answer: str) -> bool:
        """Exactly equal numbers have one canonical form."""
        return gold == answer

    correct = same


def exact_number(text: str) -> Fraction | None:
    r"""The number that a text is as a whole: 15, -1,234.5, 1\,000, 3e8, 7/2, 3 1/2, 3\frac{1}{2}; with or without $."""
    text = text.strip().removeprefix("\\$").strip("$ ").replace("−", "-").replace("\\!", "").replace("{,}", ",")
    found = _EXACT.fullmatch(_GROUPS.sub(lambda groups: re.sub(_SPACE, "", groups[0]), text))
    if found is None:
        return None
    units = int(found["m"] or found["n"] or 0)
    top, bottom = found["a"] or found["c"] or found["d"], int(found["b"] or found["e"] or found["f"] or 1)
    if bottom == 0 or (units and found["minus"]):
        return None
    number = units + Fraction((found["decimal"] or top).replace(",", "")) / bottom
    if max(len(str(abs(number.numerator))), len(str(number.denominator))) > MAX_DIGITS:
        return None
    return -number if (found["sign"] == "-") != (found["minus"] == "-") else number


def _marked(text: str) -> Answer | None:
    """The number that follows the last ####."""
    marks = list(_MARK.finditer(text))
    if not marks or not (number := _NUMBER.match(text, start := marks[-1].end())):
        return None
    end = text.find("\n", start)
    return _only(text, start, end if end >= 0 else len(text)) or _answer(number)


def _only(text: str, start: int, end: int) -> Answer | None:
    """The one number that there is in a part of a text, after its last =, beside words, units and punctuation.

    A fragment of something else is none: 2^{10}, 2 + 3, 2 or 3, 5!.
    """
    for equals in _EQUALS.finditer(text, start, end):
        start = equals.end()
    content = text[start:end]
    if (answer := _whole(content, start)) or len(content) > MAX_DIGITS:
        return answer
    content = _TEXT.sub(lambda found: " " * (found.start(1) - found.start()) + found[1] + " ", content)
    content = _BESIDE.sub(lambda found: " " * len(found[0]), content)
    bare = content.lstrip(" :,;(*$")
    return _whole(bare.rstrip(" .:,;()*$"), start + len(content) - len(bare))


def _whole(content: str, start: int) -> Answer | None:
    """The number that a part of a text is, which is at a place in it."""
    if len(content) > MAX_DIGITS or _NOISE.search(content) or (number := exact_number(content)) is None:
        return None
    start += len(content) - len(content.lstrip())
    return Answer(str(number), float(number), (start, start + len(content.strip())))


def _last(text: str) -> Answer | None:
    numbers = list(_NUMBER.finditer(text))
    return _answer(numbers[-1]) if numbers else None


def _answer(number: re.Match[str]) -> Answer:
    exact = Fraction(re.sub(r"[\\$,]", "", number[0]).replace("−", "-"))
    return Answer(str(exact), float(exact), number.span())

"""Numbers as answers: the one that a text states, or the last one in it, compared exactly."""

import re
from fractions import Fraction

from mpdf_rllib.questions.boxes import has_box, last_box
from mpdf_rllib.questions.checker import Answer

MAX_DIGITS = 200
"""Of the numerator and of the denominator of an exact number [ours]."""

# At most 40 digits in the numerator and in the denominator: longer digit strings are noise, not answers.
_NOISE = re.compile(r"[0-9]{41}")

_MONEY = "$€£¥₹¢"
_SCRIPTS = "²³¹¼-¾\u2070-\u209f\u2150-\u218f"  # superscripts, subscripts, and vulgar fractions
_SPACE = r"(?:\\[,:; ]|~|\s)"
_GROUPS = re.compile(rf"(?<![\d.,])[0-9]{{1,3}}(?:{_SPACE}[0-9]{{3}})+(?!\d)")
_INTEGER = f"[0-9]{{1,{MAX_DIGITS}}}"
_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_FRAC = (
    rf"(?:(?P<n>{_INTEGER}){_SPACE}?)?\\[dt]?frac"
    rf"(?:\{{(?P<minus>-?)(?P<c>{_INTEGER})\}}|(?P<d>[0-9]))(?:\{{(?P<e>{_INTEGER})\}}|(?P<f>[0-9]))"
)
_EXACT = re.compile(
    rf"(?P<sign>[+-]?)\s?(?:\\?[{_MONEY}])?(?:(?P<decimal>{_DECIMAL}(?:[eE][+-]?[0-9]{{1,2}})?)"
    rf"|(?:(?P<m>{_INTEGER}){_SPACE})?(?P<a>{_INTEGER})\s?/\s?(?P<b>{_INTEGER})|{_FRAC})"
)

# A heading, #### 2. Total, is no mark.
_MARK = re.compile(rf"####(?![^\S\n]*[0-9]{{1,2}}[.):][^\S\n]+\S)[^\S\n]*(?:\\?[{_MONEY}])?")
# In running text, with its sign: \frac{1}{2}, 1/2, 2 1/2, 1,234.5, 1.5, .5; no part of a word or of a longer number.
_NUMBER = (
    rf"(?<!\w)(?:[-−–](?:\\?[{_MONEY}])?)?"
    rf"(?:(?<![.,])(?:{_FRAC}|(?:[0-9]{{1,40}} )?[0-9]{{1,40}}/[0-9]{{1,40}}"
    r"|[0-9]{1,3}(?:(?:,|\{,\}|\\,)[0-9]{3}){1,12}(?:\.[0-9]{1,40})?)"
    r"|[0-9]{1,40}(?:\.[0-9]{1,40})?|\.[0-9]{1,40})"
    rf"(?![^\W{_SCRIPTS}]|[.,]?[0-9])"
)
# An exponent, or a number and what makes it a part of something else: of a power, a quotient or a LaTeX command.
_TERM = re.compile(
    r"\^\s*(?:\{(?:[^{}]|\{[^{}]*\})*+\}|\([^()]*\)|[-−–]?[\w.]+)"
    rf"|(?P<before>[/^]|\}}\s*\{{\s*)?(?P<number>{_NUMBER})"
    rf"(?P<after>(?=[{_SCRIPTS}]|/[0-9]|\s*\}}\s*\{{|[)}}\s]*\^(?!\s*\{{?\s*\\circ)))?"
)

# Variables, and words that make it another number.
_NO_UNIT = r"(?:[bei-kn-ru-w]|[xyz]+|(?i:(?:hundred|thousand|million|billion|trillion|dozen)s?|half|minus|negative))"
_UNIT = (
    rf"(?!{_NO_UNIT}(?![^\W\d_{_SCRIPTS}]))[^\W\d_{_SCRIPTS}]+"
    r"(?:\s*\^\s*(?:\{\s*-?[0-9]\s*\}|-?[0-9])|[²³])?(?!\w)"
)
_FONT = r"\\(?:text|math|bold|display|mbox|operatorname)[a-z]*"
_BRACED = re.compile(rf"(?:{_FONT}\s*|(?<![^\s$]))\{{([^{{}}]*)\}}")
# Units over units only where they are \text, which is white space and the unit by then: \frac{C}{S} is none.
_BESIDE = re.compile(
    rf"(?:/\s*|(?<![^\W\d])(?<!\\)){_UNIT}|\\[dt]?frac\s*\{{\s+{_UNIT}\s*\}}\s*\{{\s+{_UNIT}\s*\}}"
    rf"|\\?[%{_MONEY}](?!\.?[0-9])|°|\^\s*\{{?\s*\\circ\s*\}}?|(?:{_FONT}|\\degree|\\q?quad)(?![A-Za-z])"
    rf"|(?<!\d){_SPACE}|{_SPACE}(?!\d)"
)
_EQUALS = re.compile(r"(?<![!<>])[=≈]|\\approx(?![A-Za-z])")
_SEVERAL = re.compile(r"(?<![\\{])[,;](?![0-9]{3})|\\q?quad|\\\\|\b(?:and|or)\b")


class NumberChecker:
    """The checker of integers, decimals and fractions."""

    slow = False

    def read(self, text: str) -> Answer | None:
        r"""The number in the last \boxed{...}, after the last ####, or that the text is as a whole; else the last.

        A box decides alone, closed or not: in it is one number, a fraction perhaps, beside words and units, or no
        answer. The last number is none where it is part of something else: 10^6, x/2, 1/2/3.
        """
        if has_box(text):
            box = last_box(text)
            return box and _only(text, *box)
        if marked := _marked(text):
            return marked
        last = _last(text)
        # Of several words, 3 / 4, the last number counts, as in 10 - 7.
        whole = _whole(text, 0) if len(text.strip("$ ").split()) == 1 else None
        return whole if whole and (last is None or whole.canonical != last.canonical) else last

    def read_alone(self, text: str) -> Answer | None:
        """Likewise, but without box and #### there must be one number in the text, beside words and units."""
        return self.read(text) if has_box(text) else _marked(text) or _only(text, 0, len(text))

    def same(self, gold: str, answer: str) -> bool:
        """Exactly equal numbers have one canonical form."""
        return gold == answer

    correct = same


def exact_number(text: str) -> Fraction | None:
    r"""The number that a text is as a whole: 15, -1,234.5, 1\,000, 3e8, 7/2, 3 1/2, 3\frac{1}{2}; with $ or €."""
    text = re.sub("[−–]", "-", text.strip().removeprefix("\\$").strip("$ ")).replace("\\!", "").replace("{,}", ",")
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
    if not marks or not (term := _TERM.match(text, start := marks[-1].end())):
        return None
    end = text.find("\n", start)
    return _only(text, start, end if end >= 0 else len(text)) or _number(term)


def _only(text: str, start: int, end: int) -> Answer | None:
    """The one number that there is in a part of a text, after its last =, beside words, units and punctuation.

    A fragment of something else is none: 2^{10}, 2 + 3, 2 or 3, 5!, 5x, 5 million; nor is one of several: x = 5, y = 3.
    """
    if equals := [found.span() for found in _EQUALS.finditer(text, start, end)]:
        if _SEVERAL.search(text, equals[0][1], equals[-1][0]):
            return None
        start = equals[-1][1]
    content = text[start:end]
    if (answer := _whole(content, start)) or len(content) > MAX_DIGITS:
        return answer
    while _BRACED.search(content):
        content = _BRACED.sub(lambda found: " " * (found.start(1) - found.start()) + found[1] + " ", content)
    content = _BESIDE.sub(lambda found: " " * len(found[0]), content)
    if content.count("(") != content.count(")"):  # 5 (n = 3)
        return None
    bare = content.lstrip(" :,;()*")
    return _whole(bare.rstrip(" .:,;()*"), start + len(content) - len(bare))


def _whole(content: str, start: int) -> Answer | None:
    """The number that a part of a text is, which is at a place in it."""
    if len(content) > MAX_DIGITS or (number := exact_number(content)) is None or _NOISE.search(str(number)):
        return None
    start += len(content) - len(content.lstrip())
    return Answer(str(number), float(number), (start, start + len(content.strip())))


def _last(text: str) -> Answer | None:
    """The last number of a text, whatever its exponents."""
    terms = [term for term in _TERM.finditer(text) if term["number"]]
    return _number(terms[-1]) if terms else None


def _number(term: re.Match[str]) -> Answer | None:
    """The number that a term is, unless it is part of something else."""
    if not term["number"] or term["before"] or term["after"] is not None:
        return None
    return _whole(term["number"], term.start("number"))

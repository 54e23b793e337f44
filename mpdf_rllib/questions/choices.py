"""Choices as answers: a letter, however it is stated, or the choice's own text."""

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mpdf_rllib.questions.boxes import last_box
from mpdf_rllib.questions.checker import Answer

LETTERS = string.ascii_uppercase
MAX_TEXT = 5_000
"""Characters, the last ones of a text, that are searched for an answer [ours]."""

_OPEN = r"(?:\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{|\\\(|[\s*_`'\"“‘$\[{(])*"
_CLOSE = r"[\s*_`'\"”’$\]})]*"
_STATED = re.compile(
    r"(?:\b(?:answer|choice|option|(?:correct|right|best)\s+one)\b[\s*_]*(?:\b(?:is|(?:would|must|should)\s+be)\b|:|=)"
    r"|\bgo\s+with\b|\bI\s+(?:choose|pick|select)\b)[\s*_:]*(?:not\b[^.\n]*?\b(?:but|it\s+is|it['’]s)\b[\s*_:]*)?",
    re.IGNORECASE,
)
_LEAD = re.compile(rf"{_OPEN}\b(?:option|choice|answer|therefore|thus|clearly)\b[\s*_:]*", re.IGNORECASE)
_CONFIRMED = re.compile(
    rf"(?<![\w'’])([A-Z]){_CLOSE}\bis\s+(?:(?:the\s+)?(?:correct|right)|the\s+(?:best\s+)?(?:answer|choice|option))\b"
)
_DOUBT = re.compile(r"\b(?:not|neither|nor|both|either|or|whether|if)\b|n['’]t\b", re.IGNORECASE)
_LETTER = re.compile(rf"(?P<open>{_OPEN})(?P<letter>[A-Za-z])(?P<close>{_CLOSE})(?P<after>[.:,;!?)-]*)(?![\w'’])")
_ALONE = re.compile(rf"{_OPEN}(?:(?i:option|choice|answer)\b:?{_OPEN})?([A-Za-z])[\s*_`'\"”’$\]}})!.:]*")
_LABEL = re.compile(rf"{_OPEN}([A-Za-z]){_CLOSE}[.:)-]?\s*")
_NOT_DENIED = r"(?!\s+is\s+(?:wrong|incorrect|false|not)\b)"
_OPENING = re.compile(rf"\s*(?:\*\*)?(?:\(([A-Z])\)|([A-Z])[.:)])(?:\*\*)?(?=\s|$|:){_NOT_DENIED}")
_WORD = re.compile(r"\s*([^\W\d_]+)")
_LINE = re.compile(r"[^\n]*\S[^\n]*")
_SENTENCE_END = re.compile(r"[.!?\n]")
_OTHER = re.compile(
    rf"\s*(?:or|and|/|,|&|\||\\text\s*\{{\s*(?:or|and)\s*\}})\s*{_OPEN}"
    r"(?P<letter>[A-HJ-Z](?![\w'’])|[Ia-z](?![\w'’]|\s+\w))"
)
_BRACKETED = re.compile(rf"\(\s*([A-Z])\s*\){_NOT_DENIED}")
_WORDS_AFTER_A = {"because", "since", "as", "due"}
"""What may follow a bare letter A; before any other word it is the article."""

Found = tuple[str, tuple[int, int]]


@dataclass(frozen=True)
class ChoiceChecker:
    """The checker of one question's choices.

    Attributes:
        choices: Their texts; the first one's letter is A.
    """

    choices: tuple[str, ...]
    slow = False

    def read(self, text: str) -> Answer | None:
        """See `read_choice`; the value is the choice's index."""
        found = read_choice(text, self.choices)
        return found and Answer(found[0], float(LETTERS.index(found[0])), found[1])

    read_alone = read

    def same(self, gold: str, answer: str) -> bool:
        """Whether the letters are the same."""
        return gold == answer

    correct = same


def read_choice(text: str, choices: Sequence[str]) -> Found | None:
    r"""Reads which choice a text states.

    A box decides alone, the last one. Else statements are, and the first kind that states a choice counts: "answer is",
    "answer:", "option is", "go with", "I choose"; the last line, where it is a letter, a letter with the choice's text,
    or the text; "C is correct", "C is the answer"; a letter that opens the text ("B. Because"); a letter in brackets.
    The last "answer is" that names a choice counts, unless a later one names several ("A or B") or denies some ("not
    B"); of the last three kinds none counts in a text that names several letters in the same way. The words a, A and I
    are no letters.

    Args:
        text: Any text.
        choices: The choices' texts, 26 at most; the first one's letter is A.

    Returns:
        The letter, and its first and last-plus-one character, or those of the choice's text; None where the text states
        no choice or several.
    """
    if (box := last_box(text)) is not None:
        return _stated(text, *box, choices) if box[1] - box[0] <= MAX_TEXT else None
    start = max(0, len(text) - MAX_TEXT)
    end = len(text)
    for statement in reversed(list(_STATED.finditer(text, start))):
        line_end = text.find("\n", statement.end(), end)
        line = statement.end(), line_end if line_end >= 0 else end
        if found := _stated(text, *line, choices):
            return found
        if _letter(text, *line, choices) or _DOUBT.search(text, line[0], _sentence_end(text, *line)):
            return None
        end = statement.start()
    lines = [match.span() for match in _LINE.finditer(text, start)]
    if not lines:
        return None
    labelled = {found[0] for line in lines if (found := _labelled(text, *line, choices))}
    if found := _whole(text, *lines[-1], choices) or _labelled(text, *lines[-1], choices):
        return found if len(labelled) < 2 or text[slice(*lines[-1])].strip("(). ") == found[0] else None
    confirmed = [
        match.span(1) for match in _CONFIRMED.finditer(text, start) if not _doubted(text, start, match.start())
    ]
    bracketed = [match.span(1) for match in _BRACKETED.finditer(text, start)]
    opening = [_opening(text, *line, choices) for line in lines] if _opening(text, *lines[0], choices) else []
    for named in (_named(text, confirmed, choices), list(filter(None, opening)), _named(text, bracketed, choices)):
        if len({letter for letter, _ in named}) == 1:
            return named[0]
    return None


def lettered(choices: Sequence[str]) -> Iterator[str]:
    """A line for each choice, as questions show them: A. the first."""
    return (f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _stated(text: str, start: int, end: int, choices: Sequence[str]) -> Found | None:
    """The choice that a statement names: it is one, or opens with a letter, perhaps after the word option."""
    if found := _whole(text, start, end, choices):
        return found
    if lead := _LEAD.match(text, start, end):
        start = lead.end()
    letter = _letter(text, start, end, choices)
    if letter is not None:
        several = any(_names_another(text, letter.end(group), end, choices) for group in ("letter", 0))
        return None if several else (letter["letter"].upper(), letter.span("letter"))
    return _whole(text, start, _sentence_end(text, start, end), choices)


def _letter(text: str, start: int, end: int, choices: Sequence[str]) -> re.Match[str] | None:
    """The letter that a text opens with, unless it is the word A or I, or a small letter that is part of a sentence."""
    found = _LETTER.match(text, start, end)
    if found is None or found["letter"].upper() not in LETTERS[: len(choices)]:
        return None
    marked = found["open"].strip() or found["close"].strip() or found["after"]
    following = _WORD.match(text, found.end(), end)
    if marked or following is None:
        return found
    if found["letter"].islower() or (found["letter"] in "AI" and following[1].lower() not in _WORDS_AFTER_A):
        return None
    return found


def _named(text: str, spans: Iterable[tuple[int, int]], choices: Sequence[str]) -> list[Found]:
    """The letters at some places that are choices'."""
    return [(text[slice(*span)], span) for span in spans if text[slice(*span)] in LETTERS[: len(choices)]]


def _sentence_end(text: str, start: int, end: int) -> int:
    found = _SENTENCE_END.search(text, start, end)
    return found.start() if found else end


def _doubted(text: str, start: int, end: int) -> bool:
    """Whether a sentence, within a part of a text, denies or leaves open what follows that part."""
    sentence = max(start, text.rfind(".", start, end) + 1, text.rfind("\n", start, end) + 1)
    return _DOUBT.search(text, sentence, end) is not None


def _names_another(text: str, start: int, end: int, choices: Sequence[str]) -> bool:
    other = _OTHER.match(text, start, end)
    return other is not None and other["letter"].upper() in LETTERS[: len(choices)]


def _whole(text: str, start: int, end: int, choices: Sequence[str]) -> Found | None:
    """The choice that a part of a text is, as a letter or as the choice's text."""
    letter = _ALONE.fullmatch(text, start, end)
    if letter and letter[1].upper() in LETTERS[: len(choices)]:
        return letter[1].upper(), letter.span(1)
    content = _normal(text[start:end])
    same = [index for index, choice in enumerate(choices) if content and _normal(choice) == content]
    if len(same) != 1:
        return None
    written = text[start:end]
    start += len(written) - len(written.lstrip())
    return LETTERS[same[0]], (start, start + len(written.strip()))


def _labelled(text: str, start: int, end: int, choices: Sequence[str]) -> Found | None:
    """The choice that a line is: its letter, and then its own text."""
    label = _LABEL.match(text, start, end)
    if not label or label[1].upper() not in LETTERS[: len(choices)]:
        return None
    index = LETTERS.index(label[1].upper())
    same = _normal(text[label.end() : end]) == _normal(choices[index])
    return (LETTERS[index], label.span(1)) if same and _normal(choices[index]) else None


def _opening(text: str, start: int, end: int, choices: Sequence[str]) -> Found | None:
    """The capital letter that a line opens with, set apart from what follows: B. or (B) or B:."""
    letter = _OPENING.match(text, start, end)
    if not letter or (letter[1] or letter[2]) not in LETTERS[: len(choices)]:
        return None
    group = letter.lastindex or 0
    return None if _names_another(text, letter.end(), end, choices) else (letter[group], letter.span(group))


def _normal(text: str) -> str:
    r"""A text whatever its case, white space, \text{...}, quotes, emphasis and full stop."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    return " ".join(text.casefold().split()).strip(" *_`'\"“”‘’$.")

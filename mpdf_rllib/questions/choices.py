"""Choices as answers: a letter, however it is stated, or the choice's own text."""

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from mpdf_rllib.questions.boxes import last_box
from mpdf_rllib.questions.checker import Answer

LETTERS = string.ascii_uppercase
MAX_TEXT = 5_000
"""Characters, the last ones of a text, that are searched for an answer [ours]."""

_words = partial(re.compile, flags=re.IGNORECASE)
_COMMAND = r"\\(?:(?:text|math)[a-z]*|boxed|emph|underline)\s*\{"
_OPEN = rf"(?:{_COMMAND}|\\[(\[]|</?\w+>|[\s#*_`'\"“‘$\[{{}}(])*+"
_CLOSE = r"(?:\\?[)\]}$]|</\w+>|[*_`'\"”’])"
_LETTER = r"(?<!\w)(?<!\w['’])(?P<letter>[a-z])(?!\w|['’]\w)"
_CHOICE = r"(?:answer|choice|option)"
_BEST = r"(?:correct|right|best|closest|most\s+(?:accurate|appropriate|likely|plausible|reasonable|suitable))"
_ADVERB = r"(?:actually|clearly|definitely|indeed|(?:most\s+)?likely|probably|simply|then|therefore|thus|to\s+be)"
_REASON = r"(?:as|because|due|given\s+that|since|which)"

_NOUN = rf"(?:answer|(?:{_BEST}|final|my|only)\s+(?:choice|option|one))\b[*_]*"
_OF = rf"(?:\s+(?:to|of|for|among|in|from|that|here)\b[^.,:;?!\n]{{0,60}}?)?(?:,?\s+{_ADVERB},?)?"
_STATED = _words(  # what comes before a choice's letter or text
    rf"\b(?:{_NOUN}\s*[:=]|(?:{_NOUN}|the\s+(?:choice|option)){_OF}\s+(?:is(?:n['’]t)?|(?!to\b)(?:[\w'’]+\s+){{1,3}}be)\b:?"
    r"|go(?:ing)?\s+with\b|I(?:['’]\w+|\s+w(?:ould|ill))?\s+(?:choose|pick|select)\b)"
)
_CONCLUDED = _words(  # what comes before a letter that ends its sentence
    r"\b(?:(?:so|thus|hence|therefore)\b[,:]?(?:\s+it(?:\s+is|['’]s)\b)?|(?:it|this)\s+(?:must|has\s+to)\s+be\b"
    r"|not\b[^.\n]{0,60}?(?:\bbut|[,;]\s*it(?:\s+is|['’]s))\b)"
)
_RIGHT = _words(  # a letter, and that it is right
    rf"(?-i:(?=[A-Z])){_LETTER}{_CLOSE}*+(?:\s*\([^()\n]{{0,80}}\))?\s+(?:is|(?:must|should|would)\s+be)\s+"
    rf"(?:{_ADVERB}\s+)?(?:not\s+)?(?:the\s+)?(?:(?P<noun>(?:{_BEST}\s+)?{_CHOICE}|{_BEST}\s+one)|{_BEST})\b"
    rf"(?={_CLOSE}*+\s*(?:\Z|[.;:!]|,(?!\s*but\b))|{_CLOSE}*+ *\n|\s+(?:{_REASON}|to|for|among|here)\b)"
)
_MARKED = re.compile(  # (B), or B. B) B:
    r"(?:\A[\s*]*)?(?:(?P<bracket>\()|(?<![\w'’(]))(?P<letter>[A-Z])(?(bracket)\)|\**[.):](?=[\s*]))"
    r"(?!\**\s+(?:is\s+(?:wrong|incorrect|false|not)|\w+n['’]t)\b)"
)

_ALONE = _words(rf"{_OPEN}(?:(?:the\s+)?{_CHOICE}\b:?{_OPEN})?{_LETTER}(?:{_CLOSE}|[\s!.])*+")
_LABEL = _words(rf"{_OPEN}{_LETTER}{_CLOSE}*+\s*[.:)–-]?")
_LEAD = _words(rf"(?:{_OPEN}(?:{_ADVERB}|not|neither|either|both|(?:the\s+)?(?:letter|{_CHOICE}))\b[,:]?)*+")
_FIRST = _words(  # a letter that is not the word a, nor part of a name, of a formula or of a question
    rf"{_OPEN}{_LETTER}(?:{_CLOSE}++(?!\w|\s*[?=+<>^]|\s+(?:is|if|unless|only)\b)"
    rf"|(?=\s*(?:\Z|[.:;!,](?!\w)|[–—-]+\s|[/&|]\W*[a-z]\b|\\text|\s\()|\s+(?:{_REASON}|and|but|or|rather\s+than)\b))"
    r"(?!,?\s*but\s+(?:it|that|this)\s+is\s+(?:wrong|incorrect|not)\b)"
)
_OTHER = _words(  # one more letter
    rf"[\s(]*(?:,?\s*(?:(?:and/)?or|and)\b(?:\s+(?:maybe|perhaps|possibly|{_CHOICE})\b)*|[/,&|–-]|\\text\s*\{{\s*(?:or|and)\s*\}})"
    rf"{_OPEN}{_LETTER}(?!(?-i:(?<=[Ia-z]))\s+\w){_CLOSE}*+"
)
_LINE = re.compile(r"\s*+[^\n]+")
_END = _words(rf"[!;]|\.(?!\w)|,?\s{_REASON}\b")
_BEFORE = _words(  # what may come before a choice's letter
    rf"(?:\A|\n|[^\w\s'’]|\b(?:{_CHOICE}|{_ADVERB}|be|believe|but|choose|hence|is|letter|means|only|so|that|think|with))\Z"
)
_CLAUSE = _words(r"[.,:;!?\n]|\b(?:but|so|thus|hence|therefore)\b")
_DOUBT = _words(  # what denies or supposes
    r"\b(?:not|neither|nor|never|cannot|disagree|wrong|incorrect|if|whether|what\s+the|unless|assum\w+|suppos\w+|might|may"
    r"|could|tempt\w+)\b|n['’]t\b"
)
_UNREAL = _words(r"\bif\b[^.!?\n]*\b(?:had|were)\b[^.!?\n]*\bwould\b[^.!?\n]*\Z")

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

    The last box decides alone: it is a letter or a choice's text, or is read as any text. Of a text's statements the
    last one counts [ours]:

    - "the answer is", "best option:", "I choose" or the like, and then a letter or a choice's text;
    - "thus", "it must be", "not A, but" or the like, and then a capital letter that ends the sentence;
    - "B is the answer", "B is the best option" or the like;
    - the first or the last line, where it is a letter, and no line another, or a choice's text, and no line another's.

    One that its clause denies or supposes ("the answer is not B", "if", "might") does not count, but where the last one
    left is so doubted after it, or names several choices, none is read. In a text without statements the letter counts
    that is called right ("B is correct"), else the one in brackets or that opens the text ("B. Because"), unless
    another is so too. A bare letter is a choice only before a mark, "because" or the like: not in "a plum", "B cells".

    Args:
        text: Any text.
        choices: The choices' texts, 26 at most; the first one's letter is A.

    Returns:
        The letter, and its first and last-plus-one character, or those of the choice's text; None where the text states
        no choice or several.
    """
    box = last_box(text)
    start, end = box or (max(0, len(text) - MAX_TEXT), len(text))
    if end - start > MAX_TEXT:
        return None
    before = "answer:" if box else "…" if start else ""  # what a cut text begins with does not open it
    texts = {letter: _normal(choice) for letter, choice in zip(LETTERS, choices, strict=False)}
    doubtful: set[str] = set()
    for _, doubted, named in sorted(_statements(before + text[start:end], texts), reverse=True):
        letters = {letter for letter, _ in named}
        if not doubted:
            letter, (first, last) = named[0]
            at = start - len(before)
            return (letter, (at + first, at + last)) if len(letters) == 1 and not letters & doubtful else None
        doubtful |= letters
    return None


def lettered(choices: Sequence[str]) -> Iterator[str]:
    """A line for each choice, as questions show them: A. the first."""
    return (f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _statements(text: str, texts: Mapping[str, str]) -> Iterator[tuple[int, bool, list[Found]]]:
    """Where statements are, whether they are in doubt, and what they name; `texts` are the choices', by letter.

    What counts only where nothing is stated has a place before the text.
    """
    for match in _STATED.finditer(text):
        if named := _named(text, match.end(), texts):
            yield match.start(), _doubted(text, match.start(), named[0][1][0]), named
    for match in _CONCLUDED.finditer(text):
        found = _letter(text, match.end(), _ends(text, match.end())[1], texts)
        if found and text[found[1][0]].isupper():
            yield match.start(), False, [found]
    lines = [match.span() for match in _LINE.finditer(text)]
    for alone in (_letter, _own_text):
        names = [alone(text, *line, texts) for line in lines]
        if len({found[0] for found in names if found}) == 1:
            yield from ((found[1][0], False, [found]) for found in (names[0], names[-1]) if found)
    right = []
    for match in _RIGHT.finditer(text):
        if match["letter"] in texts and _is_name(text, match.start()):
            found, doubted = (match["letter"], match.span("letter")), _doubted(text, *match.span())
            if match["noun"]:
                yield match.start(), doubted, [found]
            elif not doubted:
                right.append(found)
    if right:
        yield -1, False, right
    marked = [match for match in _MARKED.finditer(text) if match["letter"] in texts]
    if any(match.start() == 0 or (match["bracket"] and _is_name(text, match.start())) for match in marked):
        yield -2, False, [(match["letter"], match.span("letter")) for match in marked]


def _named(text: str, start: int, texts: Mapping[str, str]) -> list[Found]:
    """The choices that are named from a place on: one by its text, or those whose letters come first."""
    lead, ends = _LEAD.match(text, start), _ends(text, start)
    after = lead.end() if lead else start
    for first, last in product((start, after), ends):
        if found := _letter(text, first, last, texts) or _own_text(text, first, last, texts):
            return [found]
    named = []
    letter = _FIRST.match(text, after, ends[0])
    while letter and letter["letter"].upper() in texts:
        named.append((letter["letter"].upper(), letter.span("letter")))
        letter = _OTHER.match(text, letter.end(), ends[0])
    return named


def _letter(text: str, start: int, end: int, texts: Mapping[str, str]) -> Found | None:
    """The choice whose letter a part of a text is."""
    alone = _ALONE.fullmatch(text, start, end)
    return (alone["letter"].upper(), alone.span("letter")) if alone and alone["letter"].upper() in texts else None


def _own_text(text: str, start: int, end: int, texts: Mapping[str, str]) -> Found | None:
    """The choice whose text a part of a text is, perhaps after its letter."""
    content = _normal(text[start:end])
    same = [letter for letter, choice in texts.items() if choice and choice == content]
    if len(same) == 1 and content.upper() not in texts:
        return same[0], (end - len(text[start:end].lstrip()), start + len(text[start:end].rstrip()))
    label = _LABEL.match(text, start, end)
    if label and (own := texts.get(label["letter"].upper())) and _normal(text[label.end() : end]) == own:
        return label["letter"].upper(), label.span("letter")
    return None


def _is_name(text: str, at: int) -> bool:
    """Whether what precedes a letter leaves it a choice's name: no word in its clause, or one such as option or so."""
    return _BEFORE.search(text[max(0, at - 50) : at].rstrip(' *_`($"“')) is not None


def _doubted(text: str, start: int, end: int) -> bool:
    """Whether a part of a text is denied or supposed, in itself or by what precedes it in its clause."""
    before, part = text[max(0, start - 200) : start], text[start:end]
    return bool(_DOUBT.search(_CLAUSE.split(before)[-1] + part) or _UNREAL.search(before + part))


def _ends(text: str, start: int) -> tuple[int, int]:
    """Where the line ends that begins at a place, or else the next one with anything in it, and where its sentence."""
    line = _LINE.match(text, start)
    end = line.end() if line else start
    stop = _END.search(text, start, end)
    return end, stop.start() if stop else end


def _normal(text: str) -> str:
    r"""A text whatever its case, white space, \text{...}, quotes, emphasis and full stop."""
    return " ".join(re.sub(rf"{_COMMAND}([^{{}}]*)\}}", r"\1", text.casefold()).split()).strip(" *_`'\"“”‘’$.")

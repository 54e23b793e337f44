r"""Where a text states its answer in a box of LaTeX's."""

import re

BOX = "\\boxed{"

_OPENING = re.compile(r"\\(?:boxed|fbox)\s*\{|\\boxed\s+(?P<bare>[^\s\\${}]*[^\s\\${}.])")


def has_box(text: str) -> bool:
    """Whether a text opens a box, be it closed or not."""
    return _OPENING.search(text) is not None


def last_box(text: str) -> tuple[int, int] | None:
    r"""Where the content of the last box is, without its braces: \boxed{...}, \fbox{...}, or \boxed 5.

    Returns:
        The first and last-plus-one character; None where there is no box, or where the last one is not closed.
    """
    opening = None
    for opening in _OPENING.finditer(text):  # noqa: B007
        pass
    if opening is None:
        return None
    if opening["bare"] is not None:
        return opening.span("bare")
    depth, start = 1, opening.end()
    at = start
    while at < len(text):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return start, at
        at += 2 if text[at] == "\\" else 1
    return None

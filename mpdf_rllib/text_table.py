"""A table of plain text, to print and to keep as Markdown."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class TextTable:
    """What rich prints as a table.

    Attributes:
        title: A line above it.
        header: Of its columns.
        rows: Cells, which may have several lines.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich__(self) -> Table:
        """The table; where the terminal is narrow, cells are broken, and lose nothing."""
        table = Table(
            title=escape(self.title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
        for name in self.header:
            table.add_column(escape(name), overflow="fold")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """The table in Markdown, below its title."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        cells = [[_markdown(cell) for cell in line] for line in lines]
        return "\n".join([_markdown(self.title), "", *(f"| {' | '.join(line)} |" for line in cells), ""])


def _markdown(text: str) -> str:
    return html.escape(text, quote=False).replace("|", r"\|").replace("\n", "<br>")

"""What all sources of rows share: their values as text, when two are one question, and which are drawn."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np

from mpdf_rllib.errors import ConfigError
from mpdf_rllib.questions.families import Split

Row = TypeVar("Row")

MIN_TRAIN = 10
"""Training questions that an experiment needs at least."""


def draw(rows: Sequence[Row], split: Split, count: int | None, seed: int, place: str, key: str) -> list[Row]:
    """Draws rows without replacement; a smaller draw is the beginning of a larger one.

    Args:
        rows: All that there are.
        split: Whose they are.
        count: How many to draw; None for all, as they stand.
        seed: Of the draw.
        place: Where the rows are from, for messages.
        key: The config's key that says so.

    Raises:
        ConfigError: There are too few.
    """
    if split == "train" and len(rows) < MIN_TRAIN:
        raise ConfigError(f"{key}: {place} has {len(rows)} questions; give at least {MIN_TRAIN}")
    if count is None:
        return list(rows)
    if count > len(rows):
        raise ConfigError(f"questions.{split}: {count} is more than the {len(rows)} in {place}; ask for fewer")
    return [rows[row] for row in np.random.default_rng(seed).permutation(len(rows))[:count]]


def content_of(text: str) -> str:
    """The text whatever its case and white space: questions that agree in it are one."""
    return " ".join(text.split()).casefold()


def as_text(value: Any) -> str:
    """A text or a number as text.

    Raises:
        ValueError: It is neither, or empty; says what it is.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise ValueError("is empty")
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return format(Decimal(str(value)), "f")
    if not isinstance(value, str):
        raise ValueError(f"is {value!r:.40}, not a text or a number")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("holds half a surrogate pair")
    return value.strip()

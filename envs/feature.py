"""What the table of features is made of."""

from typing import NamedTuple


class Feature(NamedTuple):
    name: str
    low: float
    high: float
    part: str
    """Of z: what `algorithm.left_out` leaves out together."""
    source: str
    """[paper] for what is told there, [ours] for all else, such as how it is put into numbers."""

"""What a checker of one kind of answers does."""

from typing import NamedTuple, Protocol


class Answer(NamedTuple):
    r"""An answer read out of a text.

    Attributes:
        canonical: A text that the same answer is read out of. Exactly equal numbers have equal forms ("15", "-7/2");
            expressions that differ in form ("\boxed{x+1}") can be equal all the same: see `Checker.same`.
        value: The answer as a number, finite: of a number or expression its value, 0 where it has no real one; of a
            choice its index from 0; of a program its lines.
        span: First and last-plus-one character of the answer in the text.
    """

    canonical: str
    value: float
    span: tuple[int, int]


class Checker(Protocol):
    """Reads and compares the answers to a question.

    Attributes:
        slow: Whether it may hold up an event loop, so that it has to be called through `checking`.
    """

    slow: bool

    def read(self, text: str) -> Answer | None:
        """Reads the answer out of a model's text; None where the text holds none."""
        ...

    def read_alone(self, text: str) -> Answer | None:
        """Reads an answer that stands alone, not at the end of a solution; None where all of it is not one."""
        ...

    def same(self, gold: str, answer: str) -> bool:
        """Whether an answer is the same as a given one, both in canonical form, as far as a debate may know.

        The order counts where the relation is neither symmetric nor transitive: an answer is compared with the others
        before it, each time as the second.
        """
        ...

    def correct(self, gold: str, answer: str) -> bool:
        """Whether an answer is right, given the reference answer; both in canonical form."""
        ...

"""Generated question families, each as hard for a small model as a debate needs: neither hopeless nor trivial [ours].

The two numbers (a, b) of a question decide, as an unordered pair and for all families together, whether it belongs to
the training or to the test split, so that no test question asks for a sum, product or quotient that was trained on. Nor
does one ask for a difference that was, within a family: b is what is taken away, and a in subtraction what it is taken
from, in arithmetic what is left.
"""

import hashlib
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np

from mpdf_rllib.errors import ConfigError
from mpdf_rllib.prompts import load_prompts
from mpdf_rllib.questions.question import Question

Split = Literal["train", "test"]
Family = Literal["multiplication", "addition", "arithmetic", "subtraction", "division"]

TRAIN_SHARE = 0.33

NAMES = ("Amy", "Ann", "Ben", "Dan", "Eva", "Ivy", "Leo", "Max", "Mia", "Sam", "Tom", "Zoe")
THINGS = ("apples", "books", "cards", "coins", "cups", "eggs", "keys", "pens", "shells", "stamps")

MULTIPLICATION = (
    "{name} buys {b} {things} on each of {a} days. How many {things}?",
    "{name} has {a} boxes with {b} {things} each. How many {things}?",
    "{a} bags hold {b} {things} each. How many {things} in all?",
)
ADDITION = (
    "{name} found {a} {things} on one day and {b} {things} on the next day. How many {things}?",
    "There are {a} {things} in one bag and {b} in another bag. How many {things} in all?",
    "{name} has {a} {things} and buys {b} more. How many {things}?",
)
SUBTRACTION = (
    "{name} has {a} {things} and gives {b} away. How many {things} are left?",
    "There are {a} {things} in a bag. {name} takes {b} of them. How many {things} are left in the bag?",
    "{name} had {a} {things} and lost {b} of them. How many {things} are left?",
)
DIVISION = (
    "{name} shares {product} {things} equally among {a} friends. How many {things} does each get?",
    "{product} {things} are put into {a} bags, as many into each. How many {things} are in a bag?",
    "{name} needs {product} {things} and buys {a} a day. How many days does it take?",
)


def _split(a: int, b: int) -> Split:
    pair = f"{min(a, b)},{max(a, b)}".encode()
    return "train" if hashlib.sha256(pair).digest()[0] < TRAIN_SHARE * 256 else "test"


def _draw(family: Family, rng: np.random.Generator) -> tuple[int, int, str, int]:
    """The two numbers, the text and the answer of one question of the family."""
    words = {"name": rng.choice(NAMES), "things": rng.choice(THINGS)}
    if family == "multiplication":
        a, b = (int(n) for n in rng.integers(3, 13, 2))
        return a, b, rng.choice(MULTIPLICATION).format(a=a, b=b, **words), a * b
    if family == "addition":
        a, b = int(rng.integers(10, 50)), int(rng.integers(2, 10))
        return a, b, rng.choice(ADDITION).format(a=a, b=b, **words), a + b
    if family == "subtraction":
        a, b = int(rng.integers(10, 26)), int(rng.integers(2, 10))
        return a, b, rng.choice(SUBTRACTION).format(a=a, b=b, **words), a - b
    if family == "division":
        a, b = (int(n) for n in rng.integers(3, 13, 2))
        return a, b, rng.choice(DIVISION).format(a=a, product=a * b, **words), b
    a, b = (int(n) for n in rng.integers(2, 13, 2))
    operator = rng.choice(("+", "-", "*"))
    if operator == "-":
        return a, b, f"{a + b} - {b}", a
    return a, b, f"{a} {operator} {b}", a + b if operator == "+" else a * b


def generate_questions(
    families: Sequence[Family], split: Split, count: int, seed: int = 0, prompts: Collection[str] = ()
) -> list[Question]:
    """Draws distinct questions, the families in turn while they last; none is asked that the prompts' examples answer.

    Args:
        families: At least one family name.
        split: Which side of the split by numbers to draw from.
        count: How many questions, at least 1.
        seed: Of the draw; the split itself does not depend on it.
        prompts: What else agents are asked with than the families' own prompts.

    Returns:
        `count` questions with distinct texts.

    Raises:
        ConfigError: The families have fewer distinct questions on this side of the split.
    """
    rng = np.random.default_rng([seed, split == "test"])
    shown = set().union(*(load_prompts(source).questions for source in (*families, *prompts)))
    questions: dict[str, Question] = {}
    lasting = list(families)
    misses = 0
    while len(questions) < count:
        family = lasting[len(questions) % len(lasting)]
        a, b, text, answer = _draw(family, rng)
        if _split(a, b) != split or text in questions or text in shown:
            misses += 1
            if misses > 10_000:
                lasting.remove(family)
                misses = 0
            if not lasting:
                raise ConfigError(
                    f"questions.{split}: {count} is more than the {len(questions)} that {', '.join(families)} have in "
                    f"their {split} split; ask for fewer or add a family"
                )
            continue
        misses = 0
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        questions[text] = Question(f"{family}-{digest}", text, str(answer), "number", family)
    return list(questions.values())

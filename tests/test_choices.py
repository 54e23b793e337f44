"""Choices as answers: which text states which."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_rllib.errors import DataError
from mpdf_rllib.questions import Question
from mpdf_rllib.questions.choices import read_choice

FRUITS = ("apples", "pears", "a plum", "42 N")


def read(text: str, choices: tuple[str, ...] = FRUITS) -> str | None:
    found = read_choice(text, choices)
    return found and found[0]


@pytest.mark.parametrize(
    ("text", "letter", "written"),
    [
        ("B", "B", "B"),
        ("b", "B", "b"),
        ("(B)", "B", "B"),
        ("B.", "B", "B"),
        ("**B**", "B", "B"),
        ("A", "A", "A"),
        ("\\boxed{B}", "B", "B"),
        ("$\\boxed{\\textbf{(B)}}$", "B", "B"),
        ("\\boxed{B. pears}", "B", "B"),
        ("\\boxed{42 N}", "D", "42 N"),
        ("\\boxed{A plum}", "C", "A plum"),
        ("The answer is B.", "B", "B"),
        ("The answer is (B) because it grows on trees.", "B", "B"),
        ("The answer is B because it grows on trees.", "B", "B"),
        ("The answer is A because it grows on trees.", "A", "A"),
        ("The final answer is $\\boxed{C}$", "C", "C"),
        ("the correct answer is option D", "D", "D"),
        ("**Answer:** B", "B", "B"),
        ("answer: b", "B", "b"),
        ("Answer: A. apples", "A", "A"),
        ("Answer: B\nExplanation: (A) is wrong.", "B", "B"),
        ("the answer is pears.", "B", "pears."),
        ("the answer is a plum", "C", "a plum"),
        ("Pears.", "B", "Pears."),
        ("They grow on trees. So it is\nB) pears", "B", "B"),
        ("B. Because they grow on trees.", "B", "B"),
        ("Thus (C) is right.", "C", "C"),
        ("The answer is B. No, the answer is C.", "C", "C"),
        ("A. apples\nB. pears\nC. a plum\nD. 42 N\n\nB", "B", "B"),
        ("The answer is B, a fruit that grows on trees.", "B", "B"),
        ("\\boxed{B, a fruit}", "B", "B"),
        ("The answer is C, a plum", "C", "C"),
        ("The correct answer is: Option B", "B", "B"),
        ("The answer is **Option B**.", "B", "B"),
        ("\\boxed{Option C}", "C", "C"),
        ("\\boxed{\\text{Option C}}", "C", "C"),
        ("The answer is C. The choice is clear.", "C", "C"),
        ("The answer is C.\nI hope the answer is helpful! Tell me if not.", "C", "C"),
        ("The answer is B.\n\nExplanation: the other choice is wrong", "B", "B"),
        ("Which choice is right?\n\nB", "B", "B"),
        ("The answer is not B, it is C", "C", "C"),
        ("The answer is not A or B, but (C).", "C", "C"),
        ("I first thought the answer is B. However, the correct one is C.", "C", "C"),
        ("C is correct.", "C", "C"),
        ("Therefore C is correct.", "C", "C"),
        ("(A) is wrong.\n(B) is wrong.\n(C) is right.", "C", "C"),
        ("I'll go with option C.", "C", "C"),
        ("They grow on trees.\n\n**Option B**", "B", "B"),
        ("They grow on trees, so B is the answer.", "B", "B"),
        ("They grow on trees. I choose (B).", "B", "B"),
        ("(A) is wrong. (B) grows on trees.", "B", "B"),
    ],
)
def test_what_states_a_choice(text, letter, written):
    found = read_choice(text, FRUITS)
    assert found is not None
    assert (found[0], text[slice(*found[1])]) == (letter, written)


@pytest.mark.parametrize(
    "text",
    [
        *("A or B", "The answer is A or B", "The answer is A, B", "The answer is B or (C).", "(A) or (B)"),
        "\\boxed{A and B}",
        *("I think so", "A cat sat.", "I", "The answer is A fish", "The answer is a fish", "the answer is the plum"),
        *("E", "The answer is E.", "\\boxed{42}", "The answer is not B", "\\boxed{", "", "   \n"),
        "A. apples\nB. pears\nC. a plum\nD. 42 N",
        "A. Apples: no\nB. Pears: yes\nC. Plum: no\nD. no",
        *("(A) grows on trees.\n(B) grows on trees too.", "A is correct. B is correct.", "I ask whether C is right."),
        *("A or B is correct.", "The answer is B. No, the answer is not B.", "The answer is B. The answer is A or C."),
        *("The answer is neither B nor C", "E is correct.", "\\boxed{Option}", "(A) is wrong.", "Is B the answer?"),
    ],
)  # fmt: skip
def test_what_states_none_or_several(text):
    assert read(text) is None


def test_of_equal_choices_the_text_names_neither():
    assert read("pears", ("pears", "Pears", "plums")) is None
    assert read("B", ("pears", "Pears", "plums")) == "B"


STATEMENTS = ["{}", "({})", "{}.", "\\boxed{{{}}}", "The answer is {}.", "Answer: ({})", "So:\n**{}**", "answer: {}\n"]
CHOICES = st.lists(st.text("xyz ", min_size=1).filter(str.strip), min_size=2, max_size=8, unique_by=str.strip)


@settings(deadline=None)
@given(CHOICES, st.data(), st.sampled_from(STATEMENTS), st.text(max_size=50).filter(lambda text: "boxed" not in text))
def test_a_stated_letter_is_read_after_any_text(choices, data, statement, before):
    letter = "ABCDEFGH"[data.draw(st.integers(0, len(choices) - 1))]
    text = (
        f"{before}\n{statement.format(letter)}"
        if "nswer" in statement or "boxed" in statement
        else statement.format(letter)
    )
    found = read_choice(text, choices)
    assert found is not None
    assert found[0] == text[slice(*found[1])] == letter


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from([*"ABab().:*\n ", "answer is ", "or", "\\boxed{", "}", "pears"])).map("".join)
)
def test_any_text_states_a_choice_or_none(text):
    found = read_choice(text, FRUITS)
    if found is not None:
        letter, (start, end) = found
        assert letter in "ABCD"
        assert 0 <= start < end <= len(text)
        assert read(letter) == letter


@pytest.mark.parametrize(
    "unit",
    [
        "(",
        "A ",
        "answer is ",
        "\\boxed{",
        "\\boxed{B" + " " * 50,
        "(A) ",
        "A.\n",
        "**",
        "B" + " " * 99,
        "thus ",
        "answer is thus ",
    ],
)
def test_long_texts(unit):
    started = time.process_time()
    read(unit * 20_000 + "}")
    assert time.process_time() - started < 2  # a tenth of a second at most; were the whole text searched, many


def test_a_question_with_choices_accepts_their_letters():
    question = Question("q", "Which?", "B", "choice", "generic", choices=FRUITS)
    answer = question.checker.read("I say the answer is (B).")
    assert (answer.canonical, answer.value) == ("B", 1.0)
    assert question.accepts("B")
    assert not question.accepts("C")
    with pytest.raises(DataError, match="question q: its reference answer 'E' cannot be read as a choice"):
        Question("q", "Which?", "E", "choice", "generic", choices=FRUITS).reference  # noqa: B018

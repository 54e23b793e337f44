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
        ("The correct answer is B.\n\nIf the answer is A, the tree would be red.", "B", "B"),
        ("The correct answer is B. If the fruit were blue, the answer would be C.", "B", "B"),
        ("The correct answer is B.\n\nThe reason the answer is not A is that apples rot.", "B", "B"),
        ("The answer is B. Wait, B is not the answer. C is the answer.", "C", "C"),
        ("The answer can't be A. The answer is B.", "B", "B"),
        ("The draft's answer is A, which is wrong. The correct answer is B.", "B", "B"),
        (
            "For each option:\n\nOption A: apples rot.\nOption B: no.\n\nBased on this, B is the correct answer.",
            "B",
            "B",
        ),
        ("Let's analyze each option:\n\nA. apples: no\nB. pears: yes\n\nThey grow on trees, so it must be B", "B", "B"),
        ("(A) apples: they rot.\n(B) pears: they grow.\n\nTherefore, the correct answer is (B) pears.", "B", "B"),
        ("Option A is incorrect: they rot. Option B is correct because they grow. Option C is incorrect.", "B", "B"),
        ("Both (A) and (B) are fruits, but the correct answer is (B).\n\n(A) apples rot.", "B", "B"),
        ("B\n\nPears grow on trees.", "B", "B"),
        ("B\nExplanation: they grow on trees.", "B", "B"),
        ("**B. pears**\n\nApples rot.", "B", "B"),
        ("**B**: pears grow on trees", "B", "B"),
        ("The correct answer to this question is B.", "B", "B"),
        ("The option that best fits the description is B.", "B", "B"),
        ("The answer is most likely B", "B", "B"),
        ("The answer is actually B", "B", "B"),
        ("The answer is probably B.", "B", "B"),
        ("The answer is indeed B.", "B", "B"),
        ("The answer, therefore, is B.", "B", "B"),
        ("The answer should therefore be B", "B", "B"),
        ("The answer has to be B", "B", "B"),
        ("Hence, option B.", "B", "B"),
        ("They grow. Thus, B.", "B", "B"),
        ("Option B is the most appropriate.", "B", "B"),
        ("Option B (pears) is the correct answer.", "B", "B"),
        ("B is correct\n\nPears grow on trees.", "B", "B"),
        ("<b>B</b>", "B", "B"),
        ("#### B", "B", "B"),
        ("The answer is 'B'", "B", "B"),
        ("The answer is\n\n\\[ B \\]", "B", "B"),
        ("\\boxed{\\textit{B}}", "B", "B"),
        ("\\boxed{\\mathsf{B}}", "B", "B"),
        ("\\boxed{The answer is B}", "B", "B"),
        ("\\boxed{\\text{The correct answer is B}}", "B", "B"),
        ("\\boxed{\\text{Option } B}", "B", "B"),
        ("**Correct Answer:** (B) pears", "B", "B"),
        ("The correct answer is:\n\n**B. pears**\n\nExplanation: A. apples rot.", "B", "B"),
        ("The final answer is: B. I hope it is correct.", "B", "B"),
        ("If we apply the second law, the answer is D.", "D", "D"),
        ("I am not sure but the answer is B.", "B", "B"),
        ("The answer is B rather than A.", "B", "B"),
        ("The answer is B and I am sure", "B", "B"),
        ("The correct answer is B, as A is wrong and D is a force.", "B", "B"),
        ("The answer is B.\n\nA. apples\nB. pears\nC. a plum\nD. 42 N", "B", "B"),
        ("I would choose B.", "B", "B"),
        ("The answer is pears, since they grow on trees.", "B", "pears"),
        ('The answer is "a plum" because it is blue.', "C", '"a plum"'),
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
        "Answer: B is incorrect because they rot. C fits.",
        "One might think the answer is B, but this is wrong; they rot.",
        "The answer: A? No. B!",
        "I don't think the answer is B.",
        "I disagree that the answer is A.",
        "The answer cannot be A.",
        "The answer could be B.",
        "For the answer to be A, they must be red.",
        "If option B is the correct answer, the trees are tall.",
        "Let's check whether option A is correct.",
        "The answer is B only if they grow.",
        "The draft's answer is A, but that is wrong.",
        "The wrong answer is A.",
        "B is not the correct answer.",
        "\\boxed{not B}",
        "(A) is a fruit, but (B) has stones. It's C.",
        "A) apples rot; B) pears do not. So the second is right.",
        "A. apples are red, while (C) plums are blue; the blue ones win.",
        "**A**: no\n**B**: yes",
        "Vitamin C is correct.",
        "Statement A is correct. Statement B is not.",
        "Is A correct? They rot. So A is correct only in winter.",
        "A is correct, but incomplete. B is better.",
        "A and B is correct.",
        "The area (A) of the field is 3.",
        "Angle B is right.",
        "The answer is B cells because they make antibodies.",
        "The answer is B-cells.",
        "The answer is C++.",
        "The answer is a **very** sweet one.",
        "The answer is a so-called plum",
        "The answer is $B = 2$",
        "\\boxed{\\frac{A}{B}}",
        "The speed of light is c. Therefore, c.",
        "To answer this we need to know that the speed of light is c.",
        "Answer choices: A. apples, B. pears",
        "Let's find out what the answer is:\n\nA. apples: no",
        "The answer is B or possibly C.",
        "The answer is B (or C).",
        "The answer is A and/or B",
        "The answer is either A or B.",
        "\\boxed{A\\text{ and }B}",
        "apples\npears\na plum\n42 N",
        "A\nB\nC\nD",
        "B\n\nLet me think again.\n\nC",
        "**Option C:**",
    ],
)  # fmt: skip
def test_what_states_none_or_several(text):
    assert read(text) is None


def test_a_number_goes_on_after_its_decimal_point():
    assert read("The answer is 0.5 because the coin is fair.", ("0", "0.5", "1", "1.5")) == "B"
    assert read("The answer is 1.", ("0", "0.5", "1", "1.5")) == "C"
    assert read("The answer is 3.5 km, so the closest is B", ("3", "3.5", "4", "5")) is None
    assert read("\\boxed{1.5 m/s}", ("1", "2", "3", "1.5")) is None


def test_a_letter_that_is_another_choices_text_stays_a_letter():
    assert read("C", ("L", "R", "1/C", "C")) == "C"
    assert read("The answer is R.", ("L", "R", "1/C", "C")) == "B"


def test_a_text_that_is_cut_does_not_open_with_its_first_line():
    assert read("B\n" + "x" * 4_000) == "B"
    assert read("they are not\nB\n" + "x" * 4_997) is None


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
        "answer:",
        "not ",
        "if the option that ",
        "\n ",
    ],
)
def test_long_texts(unit):
    started = time.process_time()
    read(unit * 20_000 + "}")
    assert time.process_time() - started < 2  # some tenths of a second at most; were the whole text searched, many


def test_a_question_with_choices_accepts_their_letters():
    question = Question("q", "Which?", "B", "choice", "generic", choices=FRUITS)
    answer = question.checker.read("I say the answer is (B).")
    assert (answer.canonical, answer.value) == ("B", 1.0)
    assert question.accepts("B")
    assert not question.accepts("C")
    with pytest.raises(DataError, match="question q: its reference answer 'E' cannot be read as a choice"):
        Question("q", "Which?", "E", "choice", "generic", choices=FRUITS).reference  # noqa: B018

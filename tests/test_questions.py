import re
import time
from collections import Counter
from fractions import Fraction

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_rllib.errors import ConfigError, DataError
from mpdf_rllib.prompts import load_prompts
from mpdf_rllib.questions import Question, generate_questions
from mpdf_rllib.questions.numbers import NumberChecker

FAMILIES = ["multiplication", "addition", "arithmetic"]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Question]]:
    return {split: generate_questions(FAMILIES, split, 300, seed=5) for split in ("train", "test")}


def numbers(question: Question) -> tuple[str, int, int]:
    """The operator that the question is about, and the numbers whose sum or product it needs."""
    x, y = (int(digits) for digits in re.findall(r"\d+", question.text))
    if question.source != "arithmetic":
        return {"multiplication": "*", "addition": "+"}[question.source], x, y
    operator = question.text.split()[1]
    return (operator, x - y, y) if operator == "-" else (operator, x, y)


def test_every_reference_is_right_and_passes_its_own_checker(splits):
    for question in splits["train"] + splits["test"]:
        operator, a, b = numbers(question)
        assert int(question.answer) == {"+": a + b, "-": a, "*": a * b}[operator], question
        assert question.checker.read(question.answer).canonical == question.answer


def test_the_numbers_of_each_family_have_their_ranges(splits):
    ranges = {"multiplication": (range(3, 13),) * 2, "addition": (range(10, 50), range(2, 10))}
    for question in splits["train"] + splits["test"]:
        _, a, b = numbers(question)
        first, second = ranges.get(question.source, (range(2, 13),) * 2)
        # A text may name the second number of a product first.
        assert (a in first and b in second) or (question.source == "multiplication" and b in first and a in second)
    assert {numbers(question)[0] for question in splits["test"] if question.source == "arithmetic"} == set("+-*")


def test_train_and_test_share_no_pair_of_numbers_and_no_text(splits):
    pairs = {split: {frozenset(numbers(q)[1:]) for q in questions} for split, questions in splits.items()}
    assert not pairs["train"] & pairs["test"]
    assert not {q.text for q in splits["train"]} & {q.text for q in splits["test"]}
    assert not {q.id for q in splits["train"]} & {q.id for q in splits["test"]}


@pytest.mark.parametrize("seed", [0, 1])
def test_another_seed_keeps_the_sides_apart(splits, seed):
    train = {frozenset(numbers(q)[1:]) for q in generate_questions(FAMILIES, "train", 200, seed)}
    assert not train & {frozenset(numbers(q)[1:]) for q in splits["test"]}


def test_texts_and_ids_are_distinct_and_families_take_turns(splits):
    for questions in splits.values():
        assert len({q.text for q in questions}) == len({q.id for q in questions}) == 300
        assert [q.source for q in questions] == (FAMILIES * 300)[:300]
        assert {q.kind for q in questions} == {"number"}
    counts = Counter(q.source for q in generate_questions(["addition", "arithmetic"], "train", 25))
    assert counts == {"addition": 13, "arithmetic": 12}


@pytest.mark.parametrize("family", ["subtraction", "division"])
def test_differences_and_quotients_are_right_and_of_other_numbers_in_the_test_split(family):
    pairs: dict[str, set] = {"train": set(), "test": set()}
    for split, numbers_of in pairs.items():
        for question in generate_questions([family], split, 150, seed=1):
            x, y = (int(digits) for digits in re.findall(r"\d+", question.text))
            other = x - y if family == "subtraction" else Fraction(x, y)
            assert question.answer == str(other)
            numbers_of.add(frozenset((x, y) if family == "subtraction" else (y, int(other))))
    assert len(pairs["train"]) > 5 and not pairs["train"] & pairs["test"]


@pytest.mark.parametrize(("split", "all_but_the_shown"), [("train", 102), ("test", 208)])
def test_no_question_is_asked_that_the_prompts_answer(split, all_but_the_shown):
    asked = {question.text for question in generate_questions(["arithmetic"], split, all_but_the_shown)}
    assert not asked & load_prompts("arithmetic").questions


def test_a_family_that_is_exhausted_leaves_its_turns_to_the_others():
    questions = generate_questions(["addition", "arithmetic"], "train", 300)
    assert questions[:200] == generate_questions(["addition", "arithmetic"], "train", 200)
    assert Counter(q.source for q in questions) == {"addition": 198, "arithmetic": 102}


def test_no_question_is_asked_that_an_agents_own_prompts_answer(tmp_path):
    drawn = generate_questions(["addition"], "test", 20)
    own = tmp_path / "own.yaml"
    shots = [[drawn[3].text, drawn[3].answer]]
    own.write_text(yaml.safe_dump({"max_tokens": 9, "agents": [{"answer": shots, "refine": []}], "critic": []}))
    again = generate_questions(["addition"], "test", 19, prompts=[str(own)])
    assert again == drawn[:3] + drawn[4:]


def test_the_draw_is_its_seeds():
    drawn = generate_questions(FAMILIES, "train", 40, seed=3)
    assert drawn == generate_questions(FAMILIES, "train", 40, seed=3)
    assert drawn[:30] == generate_questions(FAMILIES, "train", 30, seed=3)
    assert {q.text for q in drawn} != {q.text for q in generate_questions(FAMILIES, "train", 40, seed=4)}


@pytest.mark.parametrize("split", ["train", "test"])
def test_too_many_are_refused_by_the_configs_key(split):
    # 11 x 11 pairs and three operators make at most 363 questions on both sides.
    with pytest.raises(ConfigError, match=rf"^questions\.{split}: 400 is more than the \d+ that arithmetic have"):
        generate_questions(["arithmetic"], split, 400)


@pytest.mark.parametrize(("kind", "lacks"), [("choice", "choices"), ("code", "task"), ("reasoning", "row")])
def test_a_question_without_what_its_kind_needs_is_refused(kind, lacks):
    with pytest.raises(DataError, match=f"question q7: it is of kind '{kind}' but has no {lacks}"):
        Question("q7", "Which?", "A", kind, "generic").accepts("A")


def test_a_question_without_a_readable_reference_is_refused():
    with pytest.raises(DataError, match="question q7: its reference answer 'many'"):
        Question("q7", "How many?", "many", "number", "addition").reference  # noqa: B018


@pytest.mark.parametrize(
    ("text", "canonical", "written"),
    [
        ("15", "15", "15"),
        (" 12 * 4 = 48", "48", "48"),
        ("48.", "48", "48"),
        ("It is 48, I think", "48", "48"),
        ("first 3, then 4", "4", "4"),
        ("-7", "-7", "-7"),
        ("10 - 7", "7", "7"),
        ("10-7", "7", "7"),
        ("= -7", "-7", "-7"),
        ("-0", "0", "-0"),
        ("007", "7", "007"),
        ("3.50", "7/2", "3.50"),
        ("2.0", "2", "2.0"),
        ("0.1", "1/10", "0.1"),
        ("= .5", "1/2", ".5"),
        ("-.25", "-1/4", "-.25"),
        ("1,234", "1234", "1,234"),
        ("$1,234,567.50", "2469135/2", "1,234,567.50"),
        ("12,34", "34", "34"),
        ("(48)", "48", "48"),
        ("**48**", "48", "48"),
        ("48%", "48", "48"),
        ("7/2", "7/2", "7/2"),
        ("so 7/2", "7/2", "7/2"),
        ("So she ate 3/4 of the cake.", "3/4", "3/4"),
        ("12/4 = 3", "3", "3"),
        ("12 / 4 = 3", "3", "3"),
        ("It takes 2 1/2 hours", "5/2", "2 1/2"),
        ("Step 2\n1/2", "1/2", "1/2"),
        ("Thus $x = -\\frac{3}{4}$.", "-3/4", "-\\frac{3}{4}"),
        ("The area is 35 cm^2.", "35", "35"),
        ("The area is 35\\text{ cm}^{2}.", "35", "35"),
        ("35 m/s²", "35", "35"),
        ("An angle of $90^{\\circ}$", "90", "90"),
        ("2^10 = 1024", "1024", "1024"),
        ("It is $1{,}000$.", "1000", "1{,}000"),
        ("a loss of –5", "-5", "–5"),
        ("pages 5–7", "7", "7"),
        ("$15/hour", "15", "15"),
        ("It costs €1,234.50", "2469/2", "1,234.50"),
        ("3e8", "300000000", "3e8"),
        ("−7", "-7", "−7"),
        ("10−7", "7", "7"),
        ("a loss of -$5", "-5", "-$5"),
        ("72 dollars", "72", "72"),
        ("\\boxed{42}, for 6 * 7 is 42 (step 3)", "42", "42"),
        ("\\boxed{x = 42}", "42", "42"),
        ("\\boxed{42 \\text{ cm}^2}", "42", "42"),
        ("\\boxed{\\text{42}}", "42", "42"),
        ("\\boxed{\\$1{,}000}", "1000", "\\$1{,}000"),
        ("\\boxed{\\frac{3}{4}}", "3/4", "\\frac{3}{4}"),
        ("\\boxed{50\\%}", "50", "50"),
        ("\\boxed{033}", "33", "033"),
        ("It is \\boxed 5$, of 6", "5", "5"),
        ("\\boxed{1\\,000\\,000}", "1000000", "1\\,000\\,000"),
        ("\\boxed{1 000}", "1000", "1 000"),
        ("\\boxed{1\\frac{1}{2}}", "3/2", "1\\frac{1}{2}"),
        ("\\boxed{-1 \\frac12}", "-3/2", "-1 \\frac12"),
        ("\\boxed{1 1/2}", "3/2", "1 1/2"),
        ("\\boxed{\\frac{-1}{2}}", "-1/2", "\\frac{-1}{2}"),
        ("\\boxed{3 / 4}", "3/4", "3 / 4"),
        ("\\boxed{\\frac{3}{4}\\text{ cups}}", "3/4", "\\frac{3}{4}"),
        ("\\boxed{70 cm^2}", "70", "70"),
        ("\\boxed{5\\,\\text{m}^{-2}}", "5", "5"),
        ("\\boxed{5 \\text{km}/\\text{h}}", "5", "5"),
        ("\\boxed{90^\\circ}", "90", "90"),
        ("\\boxed{6 * 7 = 42\\text{ in all}}", "42", "42"),
        ("\\boxed{\\text{The answer is -\\$42.}}", "-42", "-\\$42"),
        ("In 2 hours he drives \\boxed{36km}", "36", "36"),
        ("#### 3/4", "3/4", "3/4"),
        ("#### 3/4 cup", "3/4", "3/4"),
        ("#### 42.", "42", "42."),
        ("#### 42. \n\nOf 5", "42", "42."),
        ("#### 3. Of 5", "5", "5"),
        ("#### 1. The boxes\n3*4=12\n#### 2) The total\n\nIt is 40 apples.", "40", "40"),
        ("#### 42\n\n#### 1: Check\n6 * 7", "42", "42"),
        ("#### 1,200. Of 5", "1200", "1,200"),
        ("#### 5 (n = 3)", "5", "5"),
        ("#### Step 1\nIt is 42", "42", "42"),
        ("3 / 4", "4", "4"),
        ("1 000", "0", "000"),
        ("6 * 7\n#### 42\n\nQ: And 5?", "42", "42"),
        ("#### $1,200", "1200", "1,200"),
        *(
            (f"First 7. \\boxed{{{box}}}", None, None)
            for box in (
                *("2^{10}", "10^6", "12\\sqrt{2}", "3.5 \\times 10^3", "5!", "2\\pi", "\\frac{1}{x+1}", "\\frac{1}{0}"),
                *("2 + 3", "1, 2", "2 or 300", "3:30", "5½", "none", ""),
                *("x = 5, y = 3", "x=5; y=3", "x = 5 \\text{ or } x = 3", "x = 5 \\quad y = 3", "5 (n = 3)"),
                *("n \\neq 4", "n != 4", "n<=4", "n >= 4", "\\frac{2}{3}\\frac{C}{S}"),
                *("5x", "3x^2", "2i", "3xy", "5\\,n", "5/x", "5k"),
                *("5 million", "2 dozen", "3\\text{ Hundred}", "2 and a half", "\\text{minus }5"),
            )
        ),
        *(
            (f"First 7, then {last}", None, None)
            for last in (
                *("$10^6$", "$10^{6}$", "1.2 × 10^3", "1.2 × 10⁶", "(1.05)^3", "2^(1/2)", "2^1.5"),
                *("2^{\\frac{1}{2}}", "2^\\frac12", "x/2", "3.5/2", "3/4ths", "1/0", "1/2/3", "3/4/2020"),
                *(
                    "$\\frac{x}{2}$",
                    "$\\frac{2}{x}$",
                    "5½",
                    "\\boxed{12",
                    "\\boxed{\\frac{1}{2}",
                    "\\boxed{5}, \\fbox{12",
                ),
            )
        ),
        ("It has 1.5km", None, None),
        ("0." + "1" * 40, None, None),
        ("1e50", None, None),
        ("", None, None),
        ("no number", None, None),
        ("x15 15y", None, None),
        ("9" * 41, None, None),
    ],
)
def test_the_answer_is_the_stated_or_the_last_number(text, canonical, written):
    answer = NumberChecker().read(text)
    if canonical is None:
        assert answer is None
    else:
        assert answer.canonical == canonical
        assert answer.value == float(Fraction(canonical))
        assert NumberChecker().read(canonical).canonical == canonical
        assert text[slice(*answer.span)] == written


@pytest.mark.parametrize(
    "box",
    [
        *("{42}", "\\textrm{42}", "\\mathbf{42}", "\\bold{42}", "\\text{\\textbf{42}}", "\\displaystyle 42"),
        *("€42", "£42", "42\\$", "42€", "42¢", "42\\degree", "42\\frac{\\text{km}}{\\text{h}}", "\\textbf{(A) } 42"),
        *("42 \\quad", "42 m", "42 g", "42s", "42h", "42 L", "42km", "42 in^2", "42\\text{ yen}", "\\$42 a week"),
        *("f(6, 7) = 42", "a = 6 * 7 = 42", "2,000 - 1,958 = 2{,}000 - 1{,}958 = 42", "n = 42.01 \\approx 42", "≈ 42"),
    ],
)
def test_a_number_in_a_box_is_read_whatever_is_beside_it(box):
    text = f"Of 7, \\boxed{{{box}}}"
    answer = NumberChecker().read(text)
    assert answer.canonical == "42"
    assert text[slice(*answer.span)].strip("\\$€£") == "42"


@pytest.mark.parametrize(
    ("reference", "canonical"),
    [
        ("48", "48"),
        ("3/4 cup", "3/4"),
        ("70 cm^2", "70"),
        ("5 m/s²", "5"),
        ("1 1/2", "3/2"),
        ("$1,200", "1200"),
        ("x = 42", "42"),
        ("He buys 3 and 4.\n3 + 4 = <<3+4=7>>7\n#### 7", "7"),
        ("3 + 4 is \\boxed{7}.", "7"),
    ],
)
def test_a_reference_is_one_number_or_a_solution_that_states_one(reference, canonical):
    assert Question("q", "?", reference, "number", "generic").reference.canonical == canonical


@pytest.mark.parametrize(
    "reference", ["3 or 4", "10^6", "2\\sqrt{2}", "He buys 3 and 4.", "5!", "5½", "3:30", "5x", "#### 5, \\boxed{"]
)
def test_of_what_is_no_number_a_reference_is_not_a_fragment(reference):
    with pytest.raises(DataError, match=r"question q: its reference answer '.*' cannot be read as a number"):
        Question("q", "?", reference, "number", "generic").reference  # noqa: B018


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("3.5", "3.50", True),
        ("1,234", "1234.0", True),
        ("0.1", "0.10000000000000000555", False),  # equal as floats
        ("10000000000000000000000", "10000000000000000000001", False),
        ("-3", "3", False),
        ("-0", "0", True),
    ],
)
def test_answers_are_compared_exactly(one, other, equal):
    assert (NumberChecker().read(one).canonical == NumberChecker().read(other).canonical) is equal


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=300) | st.text("0123456789.,-+ =x\n٣²−/^{}", max_size=300))
def test_any_text_gives_an_answer_or_none(text):
    answer = NumberChecker().read(text)
    if answer is not None:
        start, end = answer.span
        assert 0 <= start < end <= len(text)
        assert NumberChecker().read(text[start:end]).canonical == answer.canonical
        assert NumberChecker().read(answer.canonical).canonical == answer.canonical
        assert float(Fraction(answer.canonical)) == answer.value


@pytest.mark.parametrize("groups", [20, 200, 2000])
def test_a_model_that_loops_in_digits_has_given_no_answer_worth_keeping(groups):
    answer = NumberChecker().read("The answer is " + ",".join(["999"] * groups))
    assert answer is None or len(answer.canonical) <= 40


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_numbers_are_read_however_they_are_written(units, decimals):
    value = Fraction(units, 10**decimals)
    for text in (f"{units / 10**decimals:.{decimals}f}", f"{units / 10**decimals:,.{decimals}f}"):
        assert NumberChecker().read(f"The answer is {text}").canonical == str(value)


@pytest.mark.parametrize(
    "unit",
    [
        *("1", "1,", "111,", "1.", "-", "-1", "1,1", "9 ", "1,111x", "٣", ".", "1.1.", "x1"),
        *("1/", "1 1/", "1^", "^{", "^{1}", "^{ {1}", "^(", "1)", "}{", "\\frac", "#### 1. ", "\\boxed{", "\\boxed{="),
    ],
)
def test_long_texts_take_no_longer_than_their_length(unit):
    text = unit * (200_000 // len(unit))
    started = time.process_time()
    NumberChecker().read(text)
    NumberChecker().read(text + "x")
    assert time.process_time() - started < 10  # milliseconds each; were it quadratic, hours

"""Expressions as answers: which text gives which, or none, in bounded time and memory."""

import asyncio
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from debate_fixtures import scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from process_fixtures import cpu_seconds

from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.answer_classes import UNPARSED
from mpdf_rllib.envs.features import NUMBERS
from mpdf_rllib.envs.solution import make_solution
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import DataError
from mpdf_rllib.questions import Question, expressions
from mpdf_rllib.questions.expressions import ExpressionChecker
from mpdf_rllib.questions.grader_process import CPU_SECONDS

ROOT = Path(__file__).resolve().parent.parent


def read(text: str) -> str | None:
    answer = ExpressionChecker().read(text)
    return answer and answer.canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("15", "15"),
        (" $-7/2$ ", "-7/2"),
        ("So it is \\boxed{42}.", "42"),
        ("First \\boxed{1}, no, \\boxed{ 2 }", "2"),
        ("\\boxed {2} or \\fbox{3}", "3"),
        ("It is $\\boxed 5$.", "5"),
        ("\\boxed{\\frac{3}{4}}", "3/4"),
        ("\\boxed{-\\dfrac34}", "-3/4"),
        ("\\boxed{\\$1,234.50}", "2469/2"),
        ("\\boxed{1{,}000}", "1000"),
        ("\\boxed{−5}", "-5"),
        ("\\boxed{4.5e33}", str(45 * 10**32)),
        ("\\boxed{0.1}", "1/10"),
        ("\\boxed{x^2 -\n 1}", "\\boxed{x^2 - 1}"),
        ("\\boxed{\\left\\{1, 2\\right\\}}", "\\boxed{\\left\\{1, 2\\right\\}}"),
        ("\\boxed{\\frac{1}{0}}", "\\boxed{\\frac{1}{0}}"),
        ("The final answer is $x^2-1$. I hope it is correct.", "\\boxed{x^2-1}"),
        ("We see that $a = 3$, thus\n\\[ x = \\sqrt{2} \\]", "\\boxed{x = \\sqrt{2}}"),
        ("12 * 4 = 48", "48"),
        ("The answer is 3/4.", "3/4"),
        ("The answer is \\boxed{\\frac{1}{2", None),  # cut off
        ("We get $x = 3$, so the total is \\boxed{12", None),
        ("\\boxed{" + "x+" * 300 + "x}", None),  # noise
        ("The final answer is $x^2-1$." + " I hope" * 1000, None),  # too far from the end
        ("\\boxed{}", None),
        ("\\boxed{\\frac}", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_the_answer_is_in_the_last_box_or_where_math_verify_finds_it(text, canonical):
    assert read(text) == canonical


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        ("It is \\boxed{2\\sqrt{2}}, yes", math.sqrt(8), "2\\sqrt{2}"),
        ("\\boxed{\\frac{1}{3}}", 1 / 3, "\\frac{1}{3}"),
        ("\\boxed{x+1}", 0, "x+1"),
        ("\\boxed{2+3i}", 0, "2+3i"),
        ("\\boxed{\\infty}", 0, "\\infty"),
        ("\\boxed{(1,2)}", 0, "(1,2)"),
        ("The final answer is $\\pi$.", math.pi, "\\pi"),
    ],
)
def test_the_value_and_the_place_of_an_answer(text, value, written):
    answer = ExpressionChecker().read(text)
    assert answer.value == pytest.approx(value)
    assert text[slice(*answer.span)] == written


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("1/2", "0.5", True),
        ("0.5", "\\frac12", True),
        ("0.5", "50\\%", True),
        ("1/3", "0.333333", False),  # exact numbers have no tolerance
        ("10^{40}", "10^{40}+1", False),
        ("x^2-1", "(x-1)(x+1)", True),
        ("x^2-1", "(x-1)^2", False),
        ("\\sqrt{8}", "2\\sqrt2", True),
        ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", True),
        ("(1,2)", "[1,2]", False),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "\\{1,2\\}", False),
        ("\\left(1,\\frac12\\right)", "\\left\\{1,\\frac12\\right\\}", False),
        ("\\{1,2\\}", "(1,2)", False),
        ("[0,1) \\cup \\{2\\}", "\\{2\\} \\cup [0,1)", True),
        ("1000", "1\\,000", True),
        ("\\{1,2\\}", "\\{2,1\\}", True),
        ("\\pi", "3.14", False),
        ("5", "x=5", True),
        ("5", "5\\text{ cm}", True),
        ("2", "2~\\text{cm}", True),
        ("13\\text{ cm}^2", "13", True),
        ("90", "90^\\circ", True),
        ("32348", "\\$32,\\!348", True),
        ("18.90", "18.9\\text{ dollars}", True),
        ("7", "7.", True),
        ("-\\frac13", "-1./3", True),
        ("\\frac16", "0.1\\overline{6}", True),
        ("\\frac16", "0.\\overline{16}", False),
        ("5, -3", "\\{-3, 5\\}", True),
        ("\\pm 5", "5, -5", True),
        ("x \\in [-2,7]", "[-2,7]", True),
        ("[1,2) \\cup (3,4]", "(3,4] \\cup [1,2)", True),
        ("\\emptyset", "\\varnothing", True),
        ("1\\frac{3}{4}", "\\frac74", True),
        ("x^2+1", "f(x)=x^2+1", True),
        ("\\text{Monday}", "Monday", True),
        ("\\frac13 E_1 + \\frac23 E_2", "\\frac{E_1 + 2E_2}{3}", True),
        ("E_1", "E_2", False),
        ("\\frac{M_\\odot}{2}", "0.5 M_{\\odot}", True),
        ("2x_{\\text{max}}", "x_{max} + x_{max}", True),
        ("x", "y", False),
        ("1 \\le x < 2", "[1,2)", True),
        ("[1,2)", "1 \\le x < 2", False),  # math-verify's relation has a direction
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}", False),
        ("\\text{Monday}", "\\text{Tuesday}", False),
        ("\\text{right triangle}", "Right triangle", True),
        ("\\text{June 20}", "\\text{June }20", True),
        ("\\text{B, C, E}", "B,C,E", True),
        ("6-5i", "6 - 5 i", True),
        ("\\frac15 + \\frac25 i", "\\frac{1+2i}{5}", True),
        ("1+i", "1-i", False),
        ("1210_5", "1210_{5}", True),
        ("1210_5", "1210_6", False),
    ],
)
def test_which_answers_are_the_same(gold, answer, equal):
    gold, answer = read(f"\\boxed{{{gold}}}"), read(f"\\boxed{{{answer}}}")
    assert ExpressionChecker().same(gold, answer) is equal
    assert ExpressionChecker().same(answer, answer)


def test_exact_numbers_need_no_process(monkeypatch):
    monkeypatch.delattr(expressions, "grade")
    answers = [read(text) for text in ("\\boxed{1/3}", "0.333333", "It is \\boxed{\\frac13}.", "$-2$")]
    assert answers == ["1/3", "333333/1000000", "1/3", "-2"]
    assert [ExpressionChecker().same("1/3", answer) for answer in answers] == [True, False, True, False]


PIECES = [
    *("\\frac{", "\\sqrt{", "\\boxed{", "\\text{", "\\left(", "\\right)", "\\begin{pmatrix}", "\\end{pmatrix}", "\\"),
    *("{", "}", "(", ")", "[", "]", "$", "$$", "^", "^{", "_", "&", "!", "=", "<", "|", ",", "%", " ", "\n", "/", "-"),
    *("−", "×", "٣", "½", "∞", "\x00", "\ud800", "\u2028", "e", "i", "1", "0", "9" * 9, "1e9", "10^{9}", "9" * 5000),
    *("\\infty", "\\pi", "\\int", "\\sum_{i=1}^{", "\\in", "\\cup", "[1,2)", "answer is ", "final answer is "),
]  # fmt: skip
SOUP = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
TEXTS = st.text(max_size=100) | SOUP | SOUP.map("So it is \\boxed{{{}}}.".format) | SOUP.map("Answer: ${}$".format)


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_any_text_gives_an_answer_or_none(text):
    started = cpu_seconds()
    answer = ExpressionChecker().read(text)
    if answer is not None:
        start, end = answer.span
        assert 0 <= start <= end <= len(text)
        assert math.isfinite(answer.value)
        again = ExpressionChecker().read(answer.canonical)
        assert (again.canonical, again.value) == (answer.canonical, answer.value)
        assert ExpressionChecker().same(answer.canonical, again.canonical)
        assert ExpressionChecker().same("\\boxed{x+1}", answer.canonical) in (True, False)
    assert cpu_seconds() - started < 5 * CPU_SECONDS


@pytest.mark.parametrize(
    "text",
    [
        "9" * 10**6,
        "\\boxed{" * 10**5,
        "\\boxed{" + "{" * 10**6,
        "\\boxed{" + "9" * 10**6 + "}",
        "\\boxed{" + "9" * 400 + "}",
        "\\boxed{" + "1," * 10**5 + "}",
        "$" * 10**6,
        "1+" * 10**6,
        "\\boxed{10^{10^{10}}!}",
        "\\boxed{(10^9)!}",
        "\\boxed{" + "\\sqrt{" * 60 + "2" + "}" * 61,
    ],
    ids=lambda text: f"{text[:12]}... {len(text)}",
)
def test_huge_texts_and_numbers(text):
    answer = ExpressionChecker().read(text)
    assert answer is None or len(answer.canonical) < 600


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from mpdf_rllib.questions.expressions import ExpressionChecker\n"
        "print(ExpressionChecker().read('\\\\boxed{2x}').canonical, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, script], env=environment, cwd="/", capture_output=True, text=True, timeout=60
    )
    assert (result.stdout, result.stderr) == ("\\boxed{2x}\n", "")


@pytest.mark.parametrize(
    "reference", ["\\frac{\\sqrt{3}}{2}", "$x+1$", "Thus it is \\boxed{x+1}, as said.", "1,000", "(0,1)"]
)
def test_a_reference_may_be_alone_or_in_a_box(reference):
    question = Question("q", "?", reference, "expression", "generic")
    boxed = reference if "\\boxed" in reference else f"\\boxed{{{reference}}}"
    assert question.reference.canonical == read(boxed)


@pytest.mark.parametrize("reference", ["", "{", "\\boxed{\\frac}", "\\frac{1}{", "x}{"])
def test_a_reference_that_cannot_be_read_is_refused(reference):
    with pytest.raises(DataError, match=r"question q: its reference answer '.*' cannot be read as an expression"):
        Question("q", "?", reference, "expression", "generic").reference  # noqa: B018


def test_equivalent_solutions_share_a_class_while_all_are_made_at_once():
    drafts = ["x^2-1", "(x-1)(x+1)", "x^2+1", "x^2-2", "1+x^2", "-1+x^2", "no answer", "nothing"]
    texts = [draft if "n" in draft else f"\\boxed{{{draft}}}" for draft in drafts]
    engine = ScriptedEngine(lambda request: scripted(texts[request.position.root], 0.5, 0))
    team = Team(agents=len(texts), rounds=1, critic=False)
    tree = team.tree([Question("q", "?", "(x+1)(x-1)", "expression", "generic")] * 2)
    first = [0, 2, 4, 6, 8, 10, 12, 14]
    asyncio.run(team.fill(engine, tree, [(question, node) for question in (0, 1) for node in first]))
    for classes in tree.answer_class[:, first]:
        right, plus, minus = classes[0], classes[2], classes[3]
        assert {right, plus, minus} == {0, 1, 2}
        assert classes.tolist() == [right, right, plus, minus, plus, right, UNPARSED, UNPARSED]
    assert tree.correct[:, first].tolist() == [[True, True, False, False, False, True, False, False]] * 2


def test_a_refinement_in_another_form_repeats_its_draft():
    question = Question("q", "?", "x", "expression", "generic")
    draft = make_solution(question, scripted("\\boxed{2(x+1)}", 0.5, 0), 9)
    for text, repeats in (("\\boxed{2x+2}", 1), ("\\boxed{2x+1}", 0)):
        refined = make_solution(question, scripted(text, 0.5, 0), 9, parent=draft)
        assert refined.features[[feature.name for feature in NUMBERS].index("repeats_parent")] == repeats

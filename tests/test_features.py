import dataclasses
import math

import numpy as np
import pytest
from debate_fixtures import HIGH, LOW
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_rllib.engine import Generation
from mpdf_rllib.envs.features import NUMBERS, span_logprob
from mpdf_rllib.envs.solution import Solution, make_solution
from mpdf_rllib.questions import Question

PENS = Question("pens", "12 bags hold 4 pens each. How many pens in all?", "48", "number", "multiplication")

# Tokens " 12", " *", " 4", " =", " 4", "8" and the newline that stopped it.
EQUATION = Generation(
    text=" 12 * 4 = 48",
    token_ids=(1, 2, 3, 4, 3, 5, 6),
    logprobs=(-0.1, -0.2, -0.3, -0.4, -0.5, -0.7, -0.05),
    token_ends=(3, 5, 7, 9, 11, 12, 12),
    finish_reason="stop",
    prompt_tokens=90,
    cached_tokens=80,
    generated_tokens=7,
)

LOGPROBS = st.floats(-1e300, 0) | st.sampled_from([-math.inf, -0.0])
TEXTS = st.text(max_size=80) | st.text("0123456789+-*/=.,x \n×÷−٣²", max_size=80)


@st.composite
def generations(draw):
    text = draw(TEXTS)
    logprobs = draw(st.lists(LOGPROBS, max_size=20))
    ends = draw(st.lists(st.integers(0, len(text)), min_size=len(logprobs), max_size=len(logprobs)))
    return Generation(
        text=text,
        token_ids=tuple(range(len(logprobs))),
        logprobs=tuple(logprobs),
        token_ends=tuple(sorted(ends)),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        prompt_tokens=draw(st.integers(0, 10**6)),
        cached_tokens=0,
        generated_tokens=len(logprobs),
    )


def judged(correct: float, incorrect: float) -> Generation:
    return Generation("", (), (), (), "score", 200, 100, 0, (correct, incorrect))


def named(solution: Solution) -> dict[str, float]:
    return {feature.name: float(z) for feature, z in zip(NUMBERS, solution.features, strict=True)}


@settings(deadline=None, max_examples=300)
@given(
    generations(),
    st.integers(1, 30),
    st.none() | st.builds(judged, LOGPROBS, LOGPROBS),
    st.none() | st.sampled_from(["48", "0", None]),
    st.floats(0, 1),
)
def test_every_generation_has_finite_features_within_the_table(generation, max_tokens, critic, draft, depth_share):
    parent = dataclasses.replace(make_solution(PENS, EQUATION, 14), answer=draft)
    solution = make_solution(PENS, generation, max_tokens, critic, parent, depth_share)
    assert solution.features.shape == (len(NUMBERS),)
    assert solution.features.dtype == np.float32
    z = solution.features
    assert ((z >= LOW[: len(NUMBERS)]) & (z <= HIGH[: len(NUMBERS)])).all(), named(solution)
    assert 0 <= solution.confidence <= 1
    if solution.answer is None:
        assert (solution.confidence, solution.correct, named(solution)["valid"]) == (0, False, 0)


def test_an_engine_without_log_probabilities_still_gives_a_solution():
    bare = dataclasses.replace(EQUATION, token_ids=(), logprobs=(), token_ends=())
    solution = make_solution(PENS, bare, 14)
    assert (solution.answer, solution.correct, solution.confidence) == ("48", True, 0)
    z = named(solution)
    assert (z["mean_probability"], z["min_probability"], z["answer_probability"]) == (0, 0, 0)


def test_a_right_refinement_in_numbers():
    parent = make_solution(PENS, EQUATION, 14)
    solution = make_solution(PENS, EQUATION, 14, judged(math.log(0.6), math.log(0.2)), parent, 1 / 3)
    assert (solution.text, solution.answer, solution.correct) == (EQUATION.text, "48", True)
    assert solution.tokens == (290, 180, 7)
    assert solution.confidence == pytest.approx(math.exp(-2.25 / 7))
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert named(solution) == pytest.approx(
        {
            "valid": 1,
            "answer": math.log(49) / math.log(10**6),
            "steps": 1 / 16,
            "additive_operators": 0,
            "multiplicative_operators": 1 / 8,
            "length": 0.5,
            "cut_off": 0,
            "critic_correct": 0.75,
            "critic_entropy": entropy,
            "mean_probability": math.exp(-2.25 / 7),
            "min_probability": math.exp(-0.7),
            "answer_probability": math.exp(-0.6),
            "depth": 1 / 3,
            "repeats_parent": 1,
        },
        abs=1e-6,
    )


def test_a_text_without_an_answer():
    solution = make_solution(PENS, dataclasses.replace(EQUATION, text=" I am sure"), 7, parent=None)
    assert (solution.answer, solution.correct, solution.confidence) == (None, False, 0)
    z = named(solution)
    assert (z["valid"], z["answer"], z["answer_probability"], z["repeats_parent"]) == (0, 0, 0, 0)
    assert (z["critic_correct"], z["critic_entropy"]) == (0.5, 1)
    # Nothing repeats nothing.
    assert (
        named(make_solution(PENS, dataclasses.replace(EQUATION, text="no"), 7, parent=solution))["repeats_parent"] == 0
    )


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("-48", "answer", -math.log(49) / math.log(10**6)),
        ("9" * 30, "answer", 1),
        ("-" + "9" * 30, "answer", -1),
        ("a\nb\nc 1", "steps", 3 / 16),
        ("\n" * 99 + "1", "steps", 1 / 16),
        ("1\n" * 99, "steps", 1),
        ("1 + 2 - 3 = 0", "additive_operators", 2 / 8),
        ("-1 = -1", "additive_operators", 0),
        ("1 * 2 / 3 x 4 × 5 ÷ 6", "multiplicative_operators", 5 / 8),
        (" + ".join("1" * 30), "additive_operators", 1),
    ],
)
def test_what_is_measured_from_the_trace(text, name, value):
    assert named(make_solution(PENS, dataclasses.replace(EQUATION, text=text), 14))[name] == pytest.approx(value)


@pytest.mark.parametrize(("answer", "repeats"), [("48.0", 1), ("048", 1), ("47", 0)])
def test_an_equal_answer_repeats_its_parents(answer, repeats):
    parent = make_solution(PENS, EQUATION, 14)
    child = make_solution(PENS, dataclasses.replace(EQUATION, text=answer), 14, parent=parent)
    assert named(child)["repeats_parent"] == repeats


def test_a_text_that_hit_its_bound_is_cut_off():
    assert named(make_solution(PENS, dataclasses.replace(EQUATION, finish_reason="length"), 7))["cut_off"] == 1


@pytest.mark.parametrize(
    ("span", "mean"),
    [
        ((10, 12), -0.6),  # "48" lies in " 4" and "8", not in the stop token
        ((1, 3), -0.1),
        ((6, 7), -0.3),
        ((0, 12), -2.2 / 6),
        (None, -math.inf),
        ((12, 12), -math.inf),
    ],
)
def test_the_answers_own_tokens(span, mean):
    assert span_logprob(EQUATION, span) == pytest.approx(mean)

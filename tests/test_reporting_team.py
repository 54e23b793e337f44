"""A team whose models report on their reasoning, in one generation with the answer."""

import asyncio
import json

import jsonschema
import numpy as np
import pytest
from debate_fixtures import DEBATE_FEATURES, PENS

from mpdf_rllib.engine import Generation, GenerationRequest
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.envs.features import NUMBERS, solution_table
from mpdf_rllib.envs.self_report import REPORT_FEATURES, REPORT_TOKENS, report_instruction
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.envs.team import Agent, Team
from mpdf_rllib.prompts import load_prompts
from mpdf_rllib.questions import Question

REPORT = {
    "reasoning": "12 bags of 4:\n12 * 4 = 48",
    "steps": 2,
    "operators": ["arithmetic"],
    "reasoning_type": "deductive",
    "answer": "48",
    "confidence": 9,
    "consistency": 10,
}


def filled(question: Question, respond, team: Team) -> SolutionTree:
    tree = team.tree([question])
    asyncio.run(team.fill(ScriptedEngine(respond), tree, [(0, node) for node in range(tree.num_nodes)]))
    return tree


def in_tokens(text: str, sure_of: str) -> Generation:
    """A token a character; those of a part of the text are sure, all others are not."""
    start = text.index(sure_of)
    sure = range(start, start + len(sure_of))
    logprobs = tuple(-0.01 if i in sure else -3.0 for i in range(len(text)))
    ends = tuple(range(1, len(text) + 1))
    return Generation(text, tuple(range(len(text))), logprobs, ends, "stop", 9, 0, len(text))


def test_a_solution_is_asked_for_as_a_report_and_read_as_one():
    asked: list[GenerationRequest] = []

    def respond(request: GenerationRequest) -> Generation:
        asked.append(request)
        text = json.dumps(REPORT)
        return in_tokens(text, '"answer": "48')

    tree = filled(PENS, respond, Team(2, 1, critic=False, self_report=True))
    assert tree.correct.all()
    z = dict(zip([feature.name for feature in tree.table], tree.features[0, 0].tolist(), strict=True))
    told = {name: value for name, value in z.items() if name.startswith("reported")}
    expected = dict.fromkeys([feature.name for feature in REPORT_FEATURES], 0.0) | {
        "reported": 1,
        "reported_steps": 2 / 16,
        "reported_arithmetic": 1,
        "reported_deductive": 1,
        "reported_confidence": 0.9,
        "reported_consistency": 1,
    }
    assert told == pytest.approx(expected)
    assert z["answer_probability"] > 0.9 > 0.1 > z["mean_probability"]
    assert (z["steps"], z["multiplicative_operators"]) == pytest.approx((2 / 16, 1 / 8))

    first, refinement = next(r for r in asked if not r.position.depth), next(r for r in asked if r.position.depth)
    for request in (first, refinement):
        assert request.prompt.startswith(report_instruction())
        assert request.sampling.max_tokens == load_prompts("multiplication").max_tokens + REPORT_TOKENS
        assert request.sampling.stop == ()
        jsonschema.validate(REPORT, json.loads(request.sampling.json_schema))
    assert refinement.prompt.endswith(f"Draft: 48\nQ: {PENS.text}\nA:")


@pytest.mark.parametrize("end", ['", "steps": 2, ', '", "steps": 2, "answer": "48", "confidence": 9', ""])
def test_a_report_that_was_cut_off_is_no_answer(end):
    text = '{"reasoning": "12 * 4 = 48' + end
    tree = filled(PENS, lambda _: text, Team(2, 1, critic=False, self_report=True))
    assert not (tree.answer_class >= 0).any()
    assert not tree.confidence.any()


def test_latex_has_no_line_ends():
    reports = [REPORT | {"reasoning": reasoning} for reasoning in ("x \\neq 3, \\nu = 2", "x\nis 3")]
    trees = [filled(PENS, lambda _, r=r: json.dumps(r), Team(2, 1, critic=False, self_report=True)) for r in reports]
    steps = [feature.name for feature in trees[0].table].index("steps")
    assert [tree.features[0, 0, steps] * 16 for tree in trees] == [1, 2]
    plain = filled(PENS, lambda _: "x \\neq 3 and \\nu is 48", Team(2, 1, critic=False))
    assert plain.features[0, 0, steps] * 16 == 1


def test_what_a_schema_forces_says_nothing_of_confidence():
    generation = Generation(json.dumps(REPORT), (1, 2, 3), (0.0, -0.5, 0.0), (1, 2, 3), "stop", 9, 0, 3)
    tree = filled(PENS, lambda _: generation, Team(2, 1, critic=False, self_report=True))
    assert tree.confidence == pytest.approx(np.exp(-0.5))


def test_a_text_without_a_report_is_a_solution_all_the_same():
    tree = filled(PENS, lambda _: "12 * 4 = 48", Team(2, 1, critic=False, self_report=True))
    assert tree.correct.all()
    z = dict(zip([feature.name for feature in tree.table], tree.features[0, 0].tolist(), strict=True))
    assert {value for name, value in z.items() if name.startswith("reported")} == {0}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (Question("x", "Factor x^2 - 1.", "(x-1)(x+1)", "expression", "generic"), "(x+1)(x-1)"),
        (Question("x", "A half?", "\\frac{1}{2}", "expression", "generic"), "\\frac12"),
        (Question("b", "Which is green?", "B", "choice", "generic", choices=("blood", "grass")), "B"),
    ],
)
def test_answers_of_all_kinds_are_read_out_of_reports(question, answer):
    text = json.dumps(REPORT | {"answer": answer})
    tree = filled(question, lambda _: text, Team((Agent(chat=True),) * 2, 1, critic=False, self_report=True))
    assert tree.correct.all()


def test_the_scripted_model_reports():
    tree = filled(PENS, answer_like_a_small_model, Team(3, 2, critic=False, self_report=True))
    reported = [feature.name for feature in tree.table].index("reported")
    assert (tree.features[..., reported] == 1).all()
    assert (tree.answer_class >= 0).all()


def test_z_holds_reports_where_they_are_asked_for():
    names = {feature.name for feature in solution_table(self_report=True)}
    assert names - {feature.name for feature in NUMBERS} == {feature.name for feature in REPORT_FEATURES}
    assert not names & {feature.name for feature in DEBATE_FEATURES}


def test_the_critic_judges_the_report_and_writes_none():
    asked: list[GenerationRequest] = []

    def respond(request: GenerationRequest) -> Generation | str:
        asked.append(request)
        verdict = Generation("", (), (), (), "score", 9, 0, 0, (-0.1, -2.4))
        return verdict if request.score_words else json.dumps(REPORT)

    tree = filled(PENS, respond, Team(2, 1, self_report=True))
    verdicts = [request for request in asked if request.score_words]
    assert len(verdicts) == tree.num_nodes
    for request in verdicts:
        assert request.sampling.json_schema is None
        assert request.prompt.endswith(f"A: {json.dumps(REPORT)}\nVerdict:")

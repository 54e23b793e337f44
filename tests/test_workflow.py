"""Workflows carried out operator by operator: what is asked, what comes out, and their edits."""

import asyncio

import pytest
from debate_fixtures import scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from workflow_fixtures import QUESTIONS, TEAM, WORKFLOWS, E, G, R, Script, at_random, workflows

from mpdf_rllib.baselines.self_consistency import SelfConsistency
from mpdf_rllib.baselines.system import outcome
from mpdf_rllib.baselines.workflow import (
    MAX_OPERATORS,
    MAX_REQUESTS,
    OPERATORS,
    edits,
    read_workflow,
    run,
    simplified,
)
from mpdf_rllib.engine import Position


def carried_out(workflow, answer, question=QUESTIONS[0]):
    """A workflow's solution, and the session and script that it was asked in."""
    script = Script(answer)
    session = script.panel.session(question)
    return asyncio.run(run(workflow, session)), session, script


def place(root: int, depth: int = 0, sample: int = 0) -> Position:
    return Position(QUESTIONS[0].id, root, sample, ((root, 0),) * depth)


def test_who_is_asked_and_in_which_order():
    def answer(place):
        said = 7 if place.root == 2 or place.sample else 48
        return scripted(f"= {said}", 0.9 if place.root == 1 else 0.5, 1)

    solution, _, script = carried_out((G, G, R, E, G, G, R), answer)
    firsts = [place(0), place(1), place(2), place(0, sample=1)]
    assert script.places == [*firsts, place(0, 1), place(1, 1), place(1, 2), place(2, 1), place(0, 1, sample=1)]
    assert solution.answer == "7"


def test_an_ensemble_keeps_the_solution_that_the_vote_takes():
    confidence = {0: 0.4, 1: 0.9, 2: 0.6, 3: 0.2}

    def answer(place):
        said = 48 if place.depth or place.root in (0, 2) else 40
        return scripted(f"= {said}", confidence[place.root], 1)

    _, _, script = carried_out((G, G, G, E, R), answer)
    assert script.places[3:] == [place(2, 1)]


def test_without_answers_an_ensemble_keeps_the_first_solution_which_a_revision_may_mend():
    solution, _, script = carried_out((G, G, E, R), lambda place: 48 if place.depth else "unknown")
    assert script.places == [place(0), place(1), place(0, 1)]
    assert solution.correct
    assert carried_out((G, G), lambda place: "unknown")[0] is None


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.booleans())
def test_generations_are_self_consistency(seed, samples, ensembled):
    script = Script(at_random(seed))
    workflow = (G,) * samples + (E,) * ensembled
    ours = asyncio.run(outcome(script.panel, QUESTIONS, lambda session: run(workflow, session)))
    theirs = asyncio.run(SelfConsistency(samples).answer(Script(at_random(seed)).panel, QUESTIONS))
    assert [array.tolist() for array in ours] == [array.tolist() for array in theirs]


def test_refinements_are_those_of_the_debates():
    debated, ours = Script(at_random(0)), Script(at_random(0))
    tree = TEAM.tree(QUESTIONS[:1])
    asyncio.run(TEAM.fill(debated.panel.engine, tree, [(0, node) for node in range(tree.num_nodes)]))
    asyncio.run(run((G, G, G, R, R), ours.panel.session(QUESTIONS[0])))
    assert len(ours.requests) == tree.num_nodes == 9
    assert set(ours.requests) == set(debated.requests)


@settings(deadline=None, max_examples=50)
@given(workflows)
def test_no_workflow_asks_more_than_is_allowed_for(workflow):
    _, session, script = carried_out(workflow, at_random(0))
    assert len(set(script.places)) == len(script.places) <= MAX_REQUESTS
    assert session.tokens[2] == sum(answer.generated_tokens for answer in map(at_random(0), script.places))


def test_the_longest_workflow_asks_as_much_as_is_allowed_for():
    assert len(carried_out((G, G, G, G, R, R, R, R), at_random(0))[2].requests) == MAX_REQUESTS


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(OPERATORS), max_size=6), st.integers(0, 2**32 - 1))
def test_what_is_simplified_does_the_same(rest, seed):
    workflow = (G, *rest)
    (long, _, asked_long), (short, _, asked_short) = (
        carried_out(operators, at_random(seed)) for operators in (workflow, simplified(workflow))
    )
    assert asked_long.requests == asked_short.requests
    assert (long and (long.answer, long.confidence)) == (short and (short.answer, short.confidence))


@pytest.mark.parametrize(
    ("workflow", "short"),
    [
        ((G, E), (G,)),
        ((G, G, E), (G, G)),
        ((G, G, E, E, R), (G, G, E, R)),
        ((G, G, E, R, E, G), (G, G, E, R, G)),
        ((G, E, G, E, R, E), (G, G, E, R)),
        ((G, G, R, E, G, R), (G, G, R, E, G, R)),
    ],
)
def test_ensembles_that_change_nothing_are_left_out(workflow, short):
    assert simplified(workflow) == short


def one_apart(short, long) -> bool:
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


@settings(deadline=None, max_examples=30)
@given(workflows)
def test_edits_are_all_workflows_with_one_operator_more_or_less(workflow):
    near = {other for other in WORKFLOWS if one_apart(workflow, other) or one_apart(other, workflow)}
    assert set(edits(workflow)) == near
    assert len(edits(workflow)) == len(near)


@pytest.mark.parametrize(
    ("text", "workflow"),
    [
        ("[generate]", (G,)),
        ("It is [generate, revise] now.\nBetter: [Generate, 'generate', \"ENSEMBLE\", revise]", (G, G, E, R)),
        ("```\n[\n  generate,\n  revise,\n]\n```", (G, R)),
        ("[generate -> revise -> generate]", (G, R, G)),
        ("[generate, generate, ensemble]", (G, G)),
        ("[" + "generate, " * MAX_OPERATORS + "ensemble]", (G,) * MAX_OPERATORS),
        ("[" + "generate, " * MAX_OPERATORS + "revise]", None),
        ("[revise, generate]", None),
        ("[generate, test]", None),
        ("[generate] but then []", None),
        ("generate, revise", None),
        ("", None),
    ],
)
def test_workflows_are_read(text, workflow):
    assert read_workflow(text) == workflow

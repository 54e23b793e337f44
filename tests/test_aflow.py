"""AFlow: the search for the best workflow, by drawn edits and by a model that proposes them."""

import asyncio
import re
from collections import Counter

import pytest
from debate_fixtures import scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from workflow_fixtures import AGENTS, MODEL, QUESTIONS, E, G, R, Script, at_random

from mpdf_rllib.baselines import aflow
from mpdf_rllib.baselines.aflow import AFlow, Trial, candidates, ranked, selection_probabilities
from mpdf_rllib.baselines.system import Requests
from mpdf_rllib.baselines.workflow import (
    INITIAL,
    MAX_OPERATORS,
    MAX_REQUESTS,
    OPERATORS,
    edits,
    is_valid,
    run,
    simplified,
)
from mpdf_rllib.engine import GenerationRequest, Position
from mpdf_rllib.questions import Question


def fitted(system: AFlow, script: Script, questions=QUESTIONS):
    """The workflows that fitting tried, in their order, each once."""
    tried: list = []

    async def noted(workflow, session):
        tried.append(workflow)
        return await run(workflow, session)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aflow, "run", noted)
        asyncio.run(system.fit(script.panel, questions))
    validation = min(system._validation, len(questions))
    assert set(Counter(tried).values()) == {validation}
    return list(dict.fromkeys(tried))


def test_selection_probabilities_by_hand():
    # exp(-0.4 * 2) = .4493 and exp(-0.4 * 5) = .1353 beside 1, sum 1.5847; 0.2 is spread over all.
    assert selection_probabilities([0.65, 0.70, 0.68]) == pytest.approx([0.1350, 0.5715, 0.2935], abs=1e-4)
    assert selection_probabilities([0.3] * 4) == pytest.approx([0.25] * 4)
    assert selection_probabilities([0.0, 1.0]) == pytest.approx([0.1, 0.9])


def trial(number: int, accuracy: float, generated: float = 1.0) -> Trial:
    return Trial((G,) * number, None, accuracy, generated)


def test_candidates_are_the_best_three_and_the_initial_one():
    worst, *rest = trials = [trial(1, 0.1), trial(2, 0.5), trial(3, 0.3), trial(4, 0.4), trial(5, 0.2)]
    assert candidates(trials) == [rest[0], rest[2], rest[1], worst]
    assert candidates(trials[:2]) == [rest[0], worst]
    assert candidates([trial(1, 0.6), *rest]) == [trial(1, 0.6), rest[0], rest[2]]


def test_of_equal_accuracies_the_cheaper_is_better_then_the_earlier():
    trials = [trial(1, 0.5, 9), trial(2, 0.5, 7), trial(3, 0.5, 7), trial(4, 0.4, 1), trial(5, 0.6, 20)]
    assert [one.workflow for one in ranked(trials)] == [(G,) * number for number in (5, 2, 3, 1, 4)]


def test_the_selection_is_drawn_by_its_probabilities():
    """Of two workflows one is right on one question of twenty more: it is selected four times out of five."""
    questions = [Question(f"q{i}", "1 + 1", "48", "number", "arithmetic") for i in range(20)]

    def answer(place):
        return 48 if int(place.question[1:]) < (11 if place.depth else 10) else 40

    seeds, selected = 100, Counter()
    for seed in range(seeds):
        script = Script(answer, ["[generate, revise]", "", "", ""])
        asyncio.run(AFlow(2, 20, seed, MODEL).fit(script.panel, questions))
        selected[selected_in(script.proposals[1])] += 1
    assert set(selected) == {"[generate]: 50.0 % right", "[generate, revise]: 55.0 % right"}
    assert selected["[generate]: 50.0 % right"] / seeds == pytest.approx(0.1954, abs=0.13)


def selected_in(proposal: GenerationRequest) -> str:
    ((_, prompt),) = proposal.prompt
    return prompt.split("The workflow to improve:\n")[1].split("\n")[0]


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_no_drawn_edit_is_tried_twice_and_each_is_an_edit_of_one_tried_before(seed):
    script, system = Script(at_random(seed)), AFlow(12, 4, seed, None)
    tried = fitted(system, script)
    assert tried[0] == INITIAL
    assert all(is_valid(workflow) and simplified(workflow) == workflow for workflow in tried)
    for i, workflow in enumerate(tried[1:], start=1):
        assert any(workflow in edits(before) for before in tried[:i])
    assert len(script.requests) <= system.requests(AGENTS).fit


def test_edits_are_drawn_by_the_seed():
    firsts = {tuple(fitted(AFlow(1, 1, seed, None), Script(lambda place: 48))[1:]) for seed in range(10)}
    assert firsts == {((G, G),), ((G, R),)}


def test_where_all_edits_of_the_selected_workflow_were_tried_others_are(monkeypatch):
    """The initial workflow has two edits, and is selected always."""
    monkeypatch.setattr(aflow, "candidates", lambda trials: trials[:1])
    monkeypatch.setattr(aflow, "PATIENCE", 100)
    tried = fitted(AFlow(10, 1, 0, None), Script(lambda place: 48))
    assert set(tried[1:3]) == {(G, G), (G, R)}
    assert len(tried) == 11


@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_that_revisions_are_right_and_takes_the_cheapest(seed):
    script, system = Script(lambda place: 48 if place.depth else 40), AFlow(20, 6, seed, None)
    tried = fitted(system, script)
    assert sum(R in workflow for workflow in tried) > 1
    assert re.fullmatch(r"generate, revise \(1\.000 of 6 validation questions; \d+ rounds\)", system.learned)
    assert asyncio.run(system.answer(script.panel, QUESTIONS)).accuracy == 1


def test_the_search_finds_that_a_vote_of_three_is_right():
    """Each agent is wrong on a third of the questions, and all but the first confident of it; revisions are wrong.

    Two answers are as good as one, so that a search may end before it sees what three are.
    """

    def answer(place):
        right = not place.depth and (int(place.question[1:]) - place.root) % AGENTS
        return scripted("= 48", 0.5, 1) if right else scripted("= 40", 0.9 if place.root else 0.1, 1)

    def found(seed):
        script, system = Script(answer), AFlow(20, 12, seed, None)
        fitted(system, script)
        searched = len(script.requests)
        answered = asyncio.run(system.answer(script.panel, QUESTIONS))
        return answered.accuracy == 1 and len(script.requests) - searched == 3 * len(QUESTIONS)

    assert sum(map(found, range(10))) > 5


def test_a_share_of_validation_questions_is_told_as_in_the_table():
    system = AFlow(0, 12, 0, None)
    fitted(system, Script(lambda place: 48 if int(place.question[1:]) < 5 else 40))
    assert system.learned == "generate (.417 of 12 validation questions; 0 rounds)"


def test_the_search_ends_after_five_rounds_without_a_change():
    assert len(fitted(AFlow(20, 4, 0, None), Script(lambda place: 48))) == 1 + 5
    assert len(fitted(AFlow(4, 4, 0, None), Script(lambda place: 48))) == 1 + 4


def test_a_change_of_the_best_three_lets_the_search_go_on():
    """Two rounds without a change, a better workflow, then five without a change."""
    third = {f"q{i}" for i in range(4)}

    def answer(place):
        return 48 if place.depth or place.question in third else 40

    replies = ["[generate, generate]", "[generate, generate, generate]", "[generate, revise]"]
    replies += [f"[{', '.join([G] * n)}]" for n in range(4, 9)]
    script, system = Script(answer, [*replies, "", "", ""]), AFlow(20, 12, 0, MODEL)
    tried = fitted(system, script)
    assert len(tried) == 1 + len(replies)
    assert len(script.proposals) == len(replies)
    assert system.learned.startswith("generate, revise (1.000")


def test_lost_rounds_change_nothing():
    script, system = Script(lambda place: 48, ["nothing"] * 15), AFlow(20, 4, 0, MODEL)
    assert fitted(system, script) == [INITIAL]
    assert system.learned.endswith("validation questions; 5 rounds, 5 of them without a new workflow)")
    assert len(script.proposals) == 5 * 3


def test_a_model_is_shown_what_was_tried(monkeypatch):
    """Of four questions the first agent knows two, the second one more, and revisions are right about one."""
    right = {(0, 0): 2, (1, 0): 3, (0, 1): 1, (1, 1): 1}

    def answer(place):
        is_right = int(place.question[1:]) < right.get((place.root, place.depth), 0)
        return scripted("= 48" if is_right else "= 40", 0.9 if place.root else 0.5, 1)

    replies = ["[generate, generate]", "[generate, revise]", "[generate, generate, revise]", *[""] * 6]
    script = Script(answer, replies)
    selected = iter([0, 0, 1, 0])
    monkeypatch.setattr(aflow, "candidates", lambda trials: [trials[next(selected)]])
    fitted(AFlow(4, 4, 0, MODEL), script, QUESTIONS[:4])
    prompts = [request.prompt[0][1] for request in script.proposals]
    for operator in OPERATORS:
        assert f"\n- {operator}: " in prompts[0]
    assert f"at most {MAX_OPERATORS} operators" in prompts[0]
    assert shown(prompts[0]) == ("[generate]: 50.0 % right", "none", "none")
    assert shown(prompts[2]) == (
        "[generate, generate]: 75.0 % right",
        "none",
        "[generate]: 50.0 % right\n[generate, revise]: 25.0 % right",
    )
    assert shown(prompts[3]) == (
        "[generate]: 50.0 % right",
        "[generate, generate]: 75.0 % right, a success\n[generate, revise]: 25.0 % right, a failure",
        "[generate, generate, revise]: 25.0 % right",
    )


def shown(prompt: str) -> tuple[str, ...]:
    """The selected workflow, its changes and the others, as a prompt shows them."""
    return tuple(part.split(":\n", 1)[1] for part in prompt.split("\n\n")[1:4])


def test_an_equal_score_is_a_failure():
    script = Script(lambda place: 48, ["[generate, generate]", "", "", ""])
    fitted(AFlow(2, 4, 0, MODEL), script)
    assert "a success" not in "".join(request.prompt[0][1] for request in script.proposals)


def test_a_model_is_asked_again_for_what_is_invalid_or_was_tried_and_then_the_round_is_lost():
    replies = ["[generate, ponder]", "[generate]", "[generate, revise]"]  # a workflow at the third attempt
    replies += ["[generate, revise]", "[generate, ensemble]", "[revise]"]  # none
    replies += ["[generate, generate, ensemble, revise]"]  # two changes at once
    script, system = Script(lambda place: 48, replies), AFlow(3, 4, 0, MODEL)
    assert fitted(system, script) == [INITIAL, (G, R), (G, G, E, R)]
    assert [request.position for request in script.proposals] == [Position("aflow", 0, i) for i in range(7)]
    assert {(request.sampling.temperature, request.model) for request in script.proposals} == {(1.0, "advisor")}


def test_the_bound_on_requests_holds_where_everything_is_asked():
    """One workflow of the most requests, and three attempts in each round."""
    replies = ["no", "no", "[generate, generate, generate, generate, revise, revise, revise, revise]", "no", "no", "no"]
    script, system = Script(lambda place: 48, replies), AFlow(2, 12, 0, MODEL)
    fitted(system, script)
    assert len(script.requests) == 12 * (1 + MAX_REQUESTS) + 6
    assert system.requests(AGENTS) == Requests(fit=6 + 12 * 3 * MAX_REQUESTS, answer=MAX_REQUESTS)


def test_without_a_model_no_proposals_are_paid_for():
    assert AFlow(20, 10, 0, None).requests(AGENTS) == Requests(fit=21 * 10 * MAX_REQUESTS, answer=MAX_REQUESTS)


def test_the_label_says_who_proposes():
    assert [AFlow(1, 1, 0, proposer).label for proposer in (MODEL, None)] == ["AFlow", "AFlow (edits enumerated)"]


def test_the_same_seed_comes_to_the_same():
    scripts, systems = [Script(at_random(5)) for _ in range(2)], [AFlow(12, 5, 3, None) for _ in range(2)]
    first, second = (fitted(system, script) for system, script in zip(systems, scripts, strict=True))
    assert first == second
    assert scripts[0].requests == scripts[1].requests
    assert systems[0].learned == systems[1].learned
    assert fitted(AFlow(12, 5, 4, None), Script(at_random(5))) != first


def test_validation_questions_are_drawn_by_the_seed():
    def asked(seed, validation=5):
        script = Script(lambda place: 48)
        asyncio.run(AFlow(0, validation, seed, None).fit(script.panel, QUESTIONS))
        return {place.question for place in script.places}

    assert [len(asked(seed)) for seed in range(3)] == [5, 5, 5]
    assert asked(0) == asked(0) != asked(1)
    assert len(asked(0, validation=100)) == len(QUESTIONS)


def test_what_was_not_fitted_answers_by_the_initial_workflow():
    script = Script(lambda place: 48)
    assert asyncio.run(AFlow(20, 5, 0, None).answer(script.panel, QUESTIONS)).accuracy == 1
    assert len(script.requests) == len(QUESTIONS)

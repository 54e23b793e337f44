import asyncio
import itertools

import numpy as np
import pytest
from debate_fixtures import PENS, TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from system_fixtures import Asked

from mpdf_rllib.baselines.cot import CoT
from mpdf_rllib.baselines.dylan import DyLAN, rating_turns, read_ratings
from mpdf_rllib.baselines.llm_debate import LLMDebate
from mpdf_rllib.baselines.php import PHP
from mpdf_rllib.baselines.schedules import play_schedule
from mpdf_rllib.baselines.self_consistency import SelfConsistency, SelfConsistencyAtCost, samples_for
from mpdf_rllib.baselines.system import Advisor, Panel, outcome
from mpdf_rllib.baselines.vanilla import Vanilla
from mpdf_rllib.baselines.votes import plurality, roots
from mpdf_rllib.engine import Generation
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.envs.debate import PERSIST
from mpdf_rllib.envs.team import Agent, Team
from mpdf_rllib.errors import EngineError, PromptError
from mpdf_rllib.prompts import load_prompts
from mpdf_rllib.questions import Question

RIGHT = 48
ANSWERS = st.lists(st.sampled_from([RIGHT, 44, 40, None]), min_size=5, max_size=5)


def answer_of(solution) -> int | None:
    return None if solution is None or solution.answer is None else int(solution.answer)


def test_vanilla_asks_one_agent_once_and_shows_no_working():
    asked = Asked(lambda agent, turn: "48")
    solution, session = asked.solve(Vanilla(1))
    assert solution.correct and asked.places == [(1, 0, 0)]
    (prompt,) = (request.prompt for request in asked.requests)
    assert prompt.endswith(f"Q: {TEXT}\nA:")
    shots = prompt.split("\n\n")[:-1]
    assert shots and all(shot.rpartition("A: ")[2].isdigit() for shot in shots)
    assert session.tokens.tolist() == [100, 90, 2]


def test_cot_is_a_root_of_the_debates():
    asked = Asked(lambda agent, turn: RIGHT)
    asked.solve(CoT(2))
    team = Team(3, critic=False)
    tree = team.tree([PENS])
    asyncio.run(team.fill(asked.engine, tree, [(0, tree.roots[2])]))
    first, root = asked.requests
    assert first == root


@pytest.mark.parametrize("answer", [40, RIGHT])
def test_self_consistency_with_one_sample_is_cot(answer):
    asked = Asked(lambda agent, turn: answer)
    one, session = asked.solve(SelfConsistency(1))
    cot, of_cot = asked.solve(CoT())
    assert answer_of(one) == answer_of(cot) == answer
    assert session.tokens.tolist() == of_cot.tokens.tolist()
    assert asked.requests[0] == asked.requests[1]


def test_self_consistency_takes_the_agents_in_turn_all_at_once():
    asked = Asked(lambda agent, turn: [44, RIGHT, RIGHT][agent])
    solution, session = asked.solve(SelfConsistency(7))
    assert asked.places == [(i % 3, i // 3, 0) for i in range(7)]
    assert asked.engine.peak_in_flight == 7
    assert answer_of(solution) == RIGHT
    assert session.tokens.tolist() == [700, 630, sum(1 + i % 3 for i in range(7))]


@given(st.lists(st.floats(1, 100), min_size=1, max_size=4), st.floats(1, 1000))
def test_as_many_samples_as_cost_what_another_system_does(costs, tokens):
    samples = samples_for(tokens, costs)

    def spent(number):
        return sum(costs[i % len(costs)] for i in range(number))

    assert spent(samples) >= tokens * (1 - 1e-6)
    assert samples == 1 or spent(samples - 1) < tokens


@pytest.mark.parametrize(("tokens", "samples"), [(1, 1), (101, 1), (102, 2), (306, 3), (307, 4), (900, 9)])
def test_self_consistency_at_a_cost(tokens, samples):
    """A sample costs 100 prompt tokens and 1, 2 or 3 generated ones."""
    asked = Asked(lambda agent, turn: RIGHT)
    system = SelfConsistencyAtCost(tokens)
    spent = asyncio.run(system.answer(asked.panel, [PENS])).tokens[0]
    assert system.learned == f"{samples} samples"
    alone = asyncio.run(SelfConsistency(samples).answer(asked.panel, [PENS])).tokens[0]
    assert spent.tolist() == alone.tolist()


def test_self_consistency_at_a_cost_where_nothing_can_be_asked():
    def refuse(request):
        raise PromptError("too long")

    system = SelfConsistencyAtCost(100)
    end = asyncio.run(system.answer(Panel(Team(3), ScriptedEngine(refuse)), [PENS]))
    assert end.failed.tolist() == [True] and system.learned == "1 samples"


def test_php_hints_all_former_answers_and_stops_when_two_in_a_row_agree():
    said = [44, 40, None, 44, RIGHT, RIGHT, 40]
    asked = Asked(lambda agent, turn: said[turn])
    solution, _ = asked.solve(PHP(turns=9, agent=1))
    assert answer_of(solution) == RIGHT
    assert asked.places == [(1, 0, turn) for turn in range(6)]
    hints = [query.split("\n")[0] for query in asked.queries]
    assert hints == [
        f"Q: {TEXT}",
        "Hint: the answer is near to 44.",
        "Hint: the answer is near to 44, 40.",
        "Hint: the answer is near to 44, 40.",
        "Hint: the answer is near to 44, 40, 44.",
        "Hint: the answer is near to 44, 40, 44, 48.",
    ]
    assert all(query.split("\n")[-2:] == [f"Q: {TEXT}", "A:"] for query in asked.queries)
    assert asked.engine.peak_in_flight == 1


@pytest.mark.parametrize(("said", "asks"), [([44, 44], 2), ([44, 40, 44, 40], 4), ([None, None, None, None], 4)])
def test_php_asks_at_most_as_often_as_it_may(said, asks):
    asked = Asked(lambda agent, turn: said[turn])
    solution, _ = asked.solve(PHP(turns=4))
    assert len(asked.requests) == asks
    assert answer_of(solution) == said[asks - 1]
    assert PHP(turns=4).requests(3).answer == 4


def test_the_shots_of_hints_have_the_drafts_as_hints():
    asked = Asked(lambda agent, turn: [44, 44][turn])
    asked.solve(PHP(turns=2))
    shots = asked.requests[1].prompt.split("\n\n")[:-1]
    refine = load_prompts("multiplication").refine[0]
    assert shots == [f"Hint: the answer is near to {d}.\nQ: {q}\nA: {a}" for d, q, a in refine]


def test_in_a_debate_every_agent_sees_its_own_and_the_others_full_solutions_of_the_round_before():
    said = {(a, t): 40 + 3 * a + t for a in range(3) for t in range(3)}
    asked = Asked(lambda agent, turn: said[agent, turn])
    asked.solve(LLMDebate(rounds=3))
    assert asked.places == [(agent, 0, turn) for turn in range(3) for agent in range(3)]
    for (agent, _, turn), query in zip(asked.places[3:], asked.queries[3:], strict=True):
        own, *peers, question, last = query.split("\n")
        assert own == f"Draft: 12 * 4 = {said[agent, turn - 1]}"
        others = [other for other in range(3) if other != agent]
        assert peers == [f"Peer: 12 * 4 = {said[other, turn - 1]}" for other in others]
        assert (question, last) == (f"Q: {TEXT}", "A:")
    assert asked.engine.peak_in_flight == 3
    assert LLMDebate(rounds=3).requests(3).answer == len(asked.requests)


def test_a_debate_takes_the_plurality_of_the_last_round():
    last = [44, RIGHT, RIGHT]
    solution, _ = Asked(lambda agent, turn: last[agent] if turn else 44).solve(LLMDebate(rounds=2))
    assert answer_of(solution) == RIGHT
    nobody, _ = Asked(lambda agent, turn: None).solve(LLMDebate(rounds=2))
    assert nobody is None


def test_what_an_agent_did_not_say_is_shown_as_a_question_mark():
    asked = Asked(lambda agent, turn: "" if agent == 1 else 44)
    asked.solve(LLMDebate(rounds=2))
    assert "Peer: ?" in asked.queries[3] and "Draft: ?" in asked.queries[4]


def drilled(**settings) -> DyLAN:
    return DyLAN(**{"candidates": 3, "layers": 4, "questions": 1} | settings)


def test_dylan_keeps_the_best_two_from_the_third_layer_on():
    asked = Asked(lambda agent, turn: 40 + agent + 3 * turn, confidence=lambda agent: [0.9, 0.2, 0.5][agent])
    solution, session = asked.solve(drilled())
    assert asked.places == [(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 0, 1), (1, 0, 1), (2, 0, 1)] + [
        (agent, 0, turn) for turn in (2, 3) for agent in (0, 2)
    ]
    assert asked.queries[3].split("\n")[:3] == ["Draft: 12 * 4 = 40", "Peer: 12 * 4 = 41", "Peer: 12 * 4 = 42"]
    assert asked.queries[7].split("\n")[:2] == ["Draft: 12 * 4 = 45", "Peer: 12 * 4 = 43"]
    assert len(asked.queries[7].split("\n")) == 4
    assert answer_of(solution) == 49
    assert session.tokens[2] == 2 * (1 + 2 + 3) + 2 * (1 + 3)
    assert drilled().requests(3).answer == len(asked.requests) == 10


@pytest.mark.parametrize(
    ("layers_of_answers", "asks"),
    [
        ([[48, 48, 48]], 3),  # three of three
        ([[48, 48, 44], [44, 44, 44]], 6),  # two of three are no more than two thirds
        ([[None, None, None], [48, 48, 48]], 6),  # no answer is no agreement
        ([[48, 44, 40], [48, 44, 40], [48, 48, 48]], 8),
    ],
)
def test_dylan_stops_as_soon_as_more_than_two_thirds_agree(layers_of_answers, asks):
    asked = Asked(lambda agent, turn: layers_of_answers[turn][agent])
    asked.solve(drilled())
    assert len(asked.requests) == asks


@settings(deadline=None, max_examples=50)
@given(ANSWERS)
def test_dylan_with_one_layer_and_no_ranker_is_the_plurality(answers):
    asked = Asked(lambda agent, turn: answers[agent], confidence=lambda agent: [0.5, 0.25, 0.75][agent])
    system = drilled(layers=1, candidates=3)
    asyncio.run(system.fit(asked.panel, [PENS]))
    by_layers, session = asked.solve(system)
    vote, of_vote = asked.solve(SelfConsistency(3))
    assert answer_of(by_layers) == answer_of(vote)
    assert session.tokens.tolist() == of_vote.tokens.tolist()


def test_the_team_is_those_whose_importance_is_the_highest():
    """In the first layer all are rated 1/5; in the last, agents 1, 3 and 4 agree with the final answer."""
    asked = Asked(lambda agent, turn: RIGHT if turn and agent in (1, 3, 4) else 30 + agent)
    system = drilled(candidates=5, layers=2)
    asyncio.run(system.fit(asked.panel, [PENS]))
    assert system.learned == "team 1, 3, 4 by importance (0: 0.20, 1: 0.53, 2: 0.20, 3: 0.53, 4: 0.53)"
    assert len(asked.requests) == 10 == system.requests(3).fit
    asked.requests.clear()
    asked.solve(system)
    assert [agent for agent, _, turn in asked.places if turn == 0] == [1, 3, 4]


def test_importance_flows_back_by_the_ratings_of_what_was_seen():
    confidence = [0.8, 0.1, 0.4, 0.2]
    asked = Asked(lambda agent, turn: 30 + agent + 4 * turn, confidence=confidence.__getitem__)
    system = drilled(candidates=4, layers=3)
    asyncio.run(system.fit(asked.panel, [PENS]))
    all_four, two = np.array(confidence) / 1.5, np.array([0.8, 0, 0.4, 0]) / 1.2
    last = np.array([1, 0, 0, 0])  # of the two last answers, which differ, the more confident is final
    expected = all_four + two + last
    scores = ", ".join(f"{agent}: {score:.2f}" for agent, score in enumerate(expected))
    assert system.learned == f"team 0, 2, 3 by importance ({scores})"


def test_a_ranker_rates_what_it_is_shown():
    ranker = Advisor("ranker", chat=True)
    requests = []

    def respond(request):
        requests.append(request)
        if request.model == "ranker":
            return Generation("I say [[2, 5, 4]]", (), (-0.1,), (17,), "stop", 1000, 0, 1)
        place = request.position
        return Generation(f" 12 * 4 = {40 + place.root + 3 * place.depth}", (), (-0.1,), (11,), "stop", 1, 0, 1)

    panel = Panel(Team(3), ScriptedEngine(respond))
    session = panel.session(PENS)
    system = drilled(layers=3, ranker=ranker)
    asyncio.run(system.solve(session))
    assert [(r.model, r.position.root) for r in requests[6:]] == [("ranker", 0), ("", 1), ("", 2)]
    ((role, told),) = requests[6].prompt
    assert role == "user" and requests[6].sampling.temperature == 0
    assert told.split("\n\n")[1:] == [f"Q: {TEXT}", *(f"Solution {i}: 12 * 4 = {42 + i}" for i in (1, 2, 3))]
    assert session.tokens.tolist() == [1008, 0, 9]
    assert system.requests(3).answer == len(requests) == 9
    assert system.label == "DyLAN" != drilled().label
    requests.clear()
    candidates = drilled(candidates=4, layers=3, ranker=ranker)
    asyncio.run(candidates.fit(panel, [PENS]))
    assert candidates.requests(3).fit == len({(r.prompt, r.position) for r in requests}) == 4 + 4 + 2 + 3


@pytest.mark.parametrize(
    ("text", "ratings"),
    [
        ("[[1, 5, 2]]", [1, 5, 2]),
        ("[3,4,5]", [3, 4, 5]),
        ("as [[1, 1, 1]] says, or rather [[2, 3, 4]].", [2, 3, 4]),
        ("[[1, 2]]", None),
        ("[[0, 9, 2]]", None),
        ("the second", None),
    ],
)
def test_ratings_are_read(text, ratings):
    read = read_ratings(text, 3)
    assert (None if read is None else read.tolist()) == ratings


def test_ratings_that_cannot_be_read_are_equal_and_counted():
    def respond(request):
        if request.model == "judge":
            return "[[1, 2, 5]]" if request.position.depth else "the second"
        return f" 12 * 4 = {40 + request.position.root}"

    system = drilled(layers=3, ranker=Advisor("judge", chat=True))
    asyncio.run(system.fit(Panel(Team(3), ScriptedEngine(respond)), [PENS]))
    # Of three that ranked a layer; of the first answers; of the two that were kept, for which three are no ratings.
    assert system.learned.endswith("; 2 of 3 ratings could not be read")


def test_a_rating_says_what_to_reply():
    ((_, told),) = rating_turns(PENS, [])
    assert "from 1 to 5" in told and read_ratings(told, 3).tolist() == [1, 5, 2]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 4))
def test_who_always_persists_is_the_plurality_and_self_consistency(offset, agents):
    """On a small model's answers to several questions: outcome and tokens."""
    text = "{} bags hold {} pens each. How many pens in all?"
    questions = [
        Question(f"q{offset}-{a}-{b}", text.format(a, b), str(a * b), "number", "addition")
        for a, b in itertools.product((3, 4, 7), (5, 8))
    ]
    team, engine = Team(agents, rounds=2, critic=False), ScriptedEngine(answer_like_a_small_model)
    tree = team.tree(questions)
    asyncio.run(team.fill(engine, tree, [(q, m) for q in range(len(questions)) for m in range(tree.num_nodes)]))
    persisting, vote = play_schedule(tree, (PERSIST, PERSIST)), plurality(tree, roots(tree))
    sampled = asyncio.run(SelfConsistency(agents).answer(Panel(team, engine), questions))
    for other in (vote, sampled):
        assert (persisting.correct == other.correct).all()
        assert (persisting.tokens == other.tokens).all()


def test_the_critic_and_the_report_are_the_debates_alone():
    asked = Asked(lambda agent, turn: RIGHT)
    asked.panel = Panel(Team(3, critic=True, self_report=True), asked.engine)
    asked.solve(SelfConsistency(3))
    assert len(asked.requests) == 3
    assert all(request.sampling.json_schema is None and not request.score_words for request in asked.requests)


def test_agents_beyond_the_team_are_its_members_with_other_examples():
    team = Team((Agent(model="a", temperature=0.5), Agent(model="b")), critic=False)
    requests = []
    engine = ScriptedEngine(lambda request: requests.append(request) or " 12 * 4 = 48")
    session = Panel(team, engine).session(PENS)
    for agent in range(6):
        asyncio.run(session.first(agent))
    assert [(r.model, r.sampling.temperature) for r in requests] == [("a", 0.5), ("b", 1.0)] * 3
    assert len({request.prompt for request in requests}) == 6


def test_what_is_asked_twice_costs_once():
    asked = Asked(lambda agent, turn: RIGHT)
    session = asked.panel.session(PENS)

    async def ask():
        await session.first(2)
        await session.first(2)
        await session.first(2, draw=1)

    asyncio.run(ask())
    assert session.tokens.tolist() == [200, 180, 6]


def test_a_prompt_that_is_too_long_is_a_failure_of_that_question_alone():
    questions = [PENS, Question("long", "long", "1", "number", "multiplication")]

    def respond(request):
        if request.position.question == "long" and request.position.depth and not request.position.root:
            raise PromptError("too long")
        return " 12 * 4 = 48"

    end = asyncio.run(LLMDebate(rounds=2).answer(Panel(Team(3), ScriptedEngine(respond)), questions))
    assert end.correct.tolist() == [True, False]
    assert end.failed.tolist() == [False, True]
    words = len(["12", "*", "4", "=", "48"])
    assert end.tokens[:, 2].tolist() == [6 * words, 5 * words]  # the other two agents' discussions are paid for


def test_a_question_that_fails_while_the_team_is_selected_counts_for_nobody():
    questions = [PENS, Question("long", "long", "1", "number", "multiplication")]

    def respond(request):
        if request.position.question == "long" and request.position.depth:
            raise PromptError("too long")
        return f" 12 * 4 = {40 + request.position.root}"

    system = drilled(layers=2, questions=2)
    asyncio.run(system.fit(Panel(Team(3), ScriptedEngine(respond)), questions))
    assert system.learned == "team 0, 1, 2 by importance (0: 0.67, 1: 0.17, 2: 0.17); 1 of 2 questions failed"


def test_without_an_answer_a_question_is_wrong_and_no_failure():
    asked = Asked(lambda agent, turn: None)
    end = asyncio.run(SelfConsistency(3).answer(asked.panel, [PENS]))
    assert end.correct.tolist() == [False] == end.failed.tolist()


def test_where_one_question_fails_the_others_are_given_up():
    questions = [PENS, Question("dead", "dead", "1", "number", "multiplication")]
    asked = []

    def respond(request):
        asked.append(request.position.question)
        if request.position.question == "dead":
            raise EngineError("the engine died")
        return " 12 * 4 = 48"

    with pytest.raises(EngineError, match="the engine died"):
        asyncio.run(LLMDebate(rounds=9).answer(Panel(Team(3), ScriptedEngine(respond)), questions))
    assert len(asked) < 3 * 9


def test_no_question_has_an_outcome_too():
    asked = Asked(lambda agent, turn: None)
    end = asyncio.run(outcome(asked.panel, [], CoT().solve))
    assert end.correct.shape == end.failed.shape == (0,) and end.tokens.shape == (0, 3)

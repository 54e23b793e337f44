"""Debates move by move, and what the batch asks the engine for."""

import asyncio

import numpy as np
import pytest
from debate_fixtures import (
    FEATURES,
    HIGH,
    LOW,
    PENS,
    TEXT,
    Script,
    nothing_is_missing,
    random_actions,
    random_tree,
    scripted,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from mpdf_rllib.engine import Position
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.answer_classes import UNPARSED
from mpdf_rllib.envs.debate import CONCEDE, PERSIST, REFINE
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.features import NUMBERS
from mpdf_rllib.envs.solution import make_solution
from mpdf_rllib.envs.team import Agent, Team
from mpdf_rllib.errors import EngineError
from mpdf_rllib.prompts import as_text, load_prompts
from mpdf_rllib.questions import Question


def test_a_debate_move_by_move():
    script = Script()
    debates = script.debates(Team(critic=False))
    debates.reset([0])
    assert debates.node.tolist() == [[0, 4, 8]]
    assert script.places == [(0, 0, 0), (1, 0, 1), (2, 0, 2)]
    assert debates.correct[0]  # 40, 48 and 44 tie, and 48 is the surest

    # Agent 0 adopts the solution that agent 1 held before refining it.
    debates.step([[CONCEDE, REFINE, PERSIST]])
    assert debates.node.tolist() == [[4, 5, 8]]
    assert script.places[3:] == [(1, 1, 1)]

    # Agent 0 refines what it adopted: the author's chain, written by the author, where the work is done already.
    debates.step([[REFINE, PERSIST, CONCEDE]])
    assert debates.node.tolist() == [[5, 5, 5]]
    assert len(script.requests) == 4
    assert debates.observe()["action_mask"].tolist() == [[[1, 1, 0]] * 3]

    # Two agents on one solution who refine it share the refinement.
    debates.step([[REFINE, REFINE, PERSIST]])
    assert debates.node.tolist() == [[6, 6, 5]]
    assert script.places[4:] == [(1, 2, 1)]
    assert debates.done
    assert not debates.correct[0]  # 50, 50, 48

    visited = 2**0 + 2**4 + 2**8 + 2**5 + 2**6
    assert debates.tokens.tolist() == [[visited, 0, visited]]


def test_a_refinement_is_asked_for_with_its_authors_prompt_and_its_parents_answer():
    script = Script()
    debates = script.debates(Team(critic=False))
    debates.reset([0])
    debates.step([[CONCEDE, PERSIST, PERSIST]])
    debates.step([[REFINE, PERSIST, PERSIST]])
    prompts = load_prompts("multiplication")
    assert script.requests[-1].position == Position("pens", root=1, path=((1, 0),))
    assert script.requests[-1].prompt == as_text(prompts.refine_turns(1, TEXT, "48"))
    assert script.requests[2].prompt == as_text(prompts.answer_turns(2, TEXT))


def test_the_critic_is_paid_for_too():
    script = Script()
    debates = script.debates(Team(critic=True))
    debates.reset([0])
    debates.step([[PERSIST, REFINE, PERSIST]])
    nodes = sum(2**node for node in (0, 4, 5, 8))
    assert len(script.requests) == 8
    assert debates.tokens.tolist() == [[nodes + nodes * 2**16, nodes * 2**16, nodes]]
    (judged,) = [r for r in script.requests if r.score_words and r.position.depth == 1]
    assert judged.prompt.endswith(f"\n\nQ: {TEXT}\nA: 12 * 4 = 48\nVerdict:")
    critic = debates.tree.solution(0, 5).features[[f.name for f in FEATURES].index("critic_correct")]
    assert critic == pytest.approx(expit(2.3))


def test_what_the_others_find_likely_is_told_and_paid_for():
    script = Script()
    team = Team(critic=False, peer_likelihood=True)
    debates = script.debates(team)
    debates.reset([0])
    debates.step([[PERSIST, REFINE, PERSIST]])
    (refined,) = [request for request in script.requests if not request.scores and request.position.depth == 1]
    judges = [r for r in script.requests if r.continuation == " 12 * 4 = 48\n" and r.position.root != 1]
    # Of agent 1's first answer and of its refinement, which are the same text.
    assert [r.position for r in judges] == [Position("pens", 0), Position("pens", 2)] * 2
    assert {r.prompt for r in judges} == {team.answer_prompt(other, PENS) for other in (0, 2)}
    assert refined.position.author == 1

    probability = (np.exp(np.mean([-0.5, -0.25])) + np.exp(np.mean([-1.5, -0.25]))) / 2
    entry = [feature.name for feature in team.table([PENS])].index("peer_probability")
    assert debates.tree.solution(0, 5).features[entry] == pytest.approx(probability)
    own = np.log(0.9)
    assert debates.tree.confidence[0, 5] == pytest.approx(np.exp((own + (-0.5 - 0.25) / 2 + (-1.5 - 0.25) / 2) / 3))
    nodes = sum(2**node for node in (0, 4, 5, 8))
    assert debates.tokens.tolist() == [[nodes + 4 * 2 * 2**20, 0, nodes]]


def test_an_empty_text_is_judged_by_nobody():
    team = Team(critic=False, peer_likelihood=True)
    silent = ScriptedEngine(lambda request: scripted("", 0.5, 0))
    tree = team.tree([PENS])
    asyncio.run(team.fill(silent, tree, [(0, 0)]))
    assert silent.requests == 1
    entry = [feature.name for feature in tree.table].index("peer_probability")
    assert tree.solution(0, 0).features[entry] == 0


def test_a_step_asks_for_what_was_chosen_and_rewards_for_every_refinement():
    script = Script()
    debates = script.debates(Team(critic=False))
    debates.reset([0])
    assert script.engine.requests == 3
    debates.step([[PERSIST, PERSIST, PERSIST]])
    assert script.engine.requests == 3
    debates.rewards([[PERSIST, REFINE, PERSIST]])
    assert script.engine.requests == 6
    assert sorted(script.places[3:]) == [(0, 1, 0), (1, 1, 1), (2, 1, 2)]
    debates.step([[PERSIST, REFINE, PERSIST]])
    assert script.engine.requests == 6
    # Solutions that were made only to know rewards are not the debate's cost.
    assert debates.tokens[0, 2] == 2**0 + 2**4 + 2**5 + 2**8


def test_the_rewards_of_a_scripted_round():
    debates = Script().debates(Team(critic=False))
    debates.reset([0])
    rewards = debates.rewards([[PERSIST, PERSIST, PERSIST]])
    # 40 .6, 48 .8, 44 .7, refined 48 .3, 48 .9, 44 .2. Agents 0 and 2 would concede to agent 1, who would to agent 2.
    assert rewards.local.tolist() == [[[0, 1, 1], [0, 0, -1], [0, 0, 1]]]
    assert rewards.consensus.tolist() == [[[0, 0, 0], [1, 1, 0], [0, 0, 0]]]
    assert rewards.tokens.tolist() == [[[0, 2**1, 0], [0, 2**5, 0], [0, 2**9, 0]]]

    debates.step([[CONCEDE, REFINE, PERSIST]])
    rewards = debates.rewards([[PERSIST, PERSIST, PERSIST]])
    # 48 .8, 48 .9, 44 .7: the two who are right lose the team's answer by conceding to the third.
    assert rewards.local.tolist() == [[[0, 0, -1], [0, -1, -1], [0, 0, 1]]]
    assert rewards.consensus.tolist() == [[[0, 0, -1], [0, 0, -1], [0, 0, 0]]]
    # Agent 0 stands where agent 1 stood, whose refinement is there already.
    assert rewards.tokens.tolist() == [[[0, 0, 0], [0, 2**6, 0], [0, 2**9, 0]]]


def test_illegal_actions_are_named():
    debates = Script().debates(Team(critic=False))
    debates.reset([0])
    debates.step([[CONCEDE, REFINE, CONCEDE]])
    with pytest.raises(ValueError, match="action 2 of agent 0 is illegal in round 1 of the debate on question pens"):
        debates.step([[CONCEDE, PERSIST, PERSIST]])
    assert debates.round == 1
    debates.step([[PERSIST, REFINE, PERSIST]])
    debates.step([[PERSIST, PERSIST, PERSIST]])
    with pytest.raises(ValueError, match="the debate is over"):
        debates.step([[PERSIST, PERSIST, PERSIST]])


def test_a_chain_ends_after_as_many_refinements_as_rounds():
    tree = random_tree(np.random.default_rng(0), agents=2, rounds=2)
    debates = DebateBatch(tree, nothing_is_missing)
    debates.reset([0])
    debates.step([[REFINE, PERSIST]])
    debates.step([[REFINE, PERSIST]])
    assert (debates.observe()["action_mask"][0, :, REFINE] == [0, 1]).all()


@pytest.mark.parametrize("action", [-1, 3])
def test_what_is_no_action_is_illegal_too(action):
    debates = DebateBatch(random_tree(np.random.default_rng(0), agents=2, rounds=2), nothing_is_missing)
    debates.reset([0])
    with pytest.raises(ValueError, match=f"action {action} of agent 1 is illegal"):
        debates.step([[PERSIST, action]])


def test_a_fork_leaves_the_original_alone():
    script = Script()
    debates = script.debates(Team(critic=False))
    debates.reset([0, 0])
    debates.step([[PERSIST, REFINE, PERSIST], [CONCEDE, PERSIST, PERSIST]])
    node, tokens, observation = debates.node.copy(), debates.tokens.copy(), debates.observe()
    fork = debates.fork(np.array([1, 0, 1]))
    assert fork.node.tolist() == node[[1, 0, 1]].tolist()
    assert (fork.tokens == tokens[[1, 0, 1]]).all()
    fork.step([[REFINE, REFINE, CONCEDE], [CONCEDE, REFINE, PERSIST], [PERSIST, PERSIST, PERSIST]])
    fork.step([[PERSIST, PERSIST, PERSIST]] * 3)
    assert fork.done
    assert (debates.round, debates.done) == (1, False)
    assert (debates.node == node).all()
    assert (debates.tokens == tokens).all()
    assert all((debates.observe()[key] == values).all() for key, values in observation.items())


def test_first_answers_of_all_debates_are_in_flight_together():
    engine = ScriptedEngine(lambda request: "= 1")
    team = Team(critic=False)
    tree = team.tree([Question(f"q{i}", TEXT, "48", "number", "multiplication") for i in range(16)])
    debates = DebateBatch(tree, lambda wanted: asyncio.run(team.fill(engine, tree, wanted)))
    debates.reset(range(16))
    assert (engine.requests, engine.peak_in_flight) == (48, 48)
    # Two debates on one question share its solutions.
    debates.reset([3, 3, 5])
    debates.step(np.full((3, 3), REFINE))
    assert engine.requests == 48 + 6


def test_a_deep_solution_brings_its_ancestors_in_order():
    script = Script()
    team = Team(critic=False)
    tree = team.tree([PENS])
    asyncio.run(team.fill(script.engine, tree, [(0, 6), (0, 5)]))
    assert script.places == [(1, 0, 1), (1, 1, 1), (1, 2, 1)]
    assert np.flatnonzero(tree.present[0]).tolist() == [4, 5, 6]
    with pytest.raises(KeyError):
        tree.solution(0, 0)


def test_an_unparsed_parent_is_a_question_mark():
    prompts = []
    engine = ScriptedEngine(lambda request: prompts.append(request.prompt) or "no idea")
    team = Team(critic=False)
    asyncio.run(team.fill(engine, team.tree([PENS]), [(0, 1)]))
    assert f"Draft: ?\nQ: {TEXT}\nA:" in prompts[1]


def test_after_a_failure_only_what_is_missing_is_asked_for_again():
    def respond(request):
        if request.position.root == 2 and broken:
            raise EngineError("gone")
        return "= 48"

    broken = True
    engine = ScriptedEngine(respond)
    team = Team(critic=False)
    tree = team.tree([PENS])
    roots = [(0, 0), (0, 4), (0, 8)]
    with pytest.raises(EngineError, match="gone"):
        asyncio.run(team.fill(engine, tree, roots))
    made = int(tree.present.sum())
    broken = False
    asyncio.run(team.fill(engine, tree, roots))
    assert engine.requests == 3 + 3 - made
    assert tree.present[0, [0, 4, 8]].all()


def test_fresh_samples_go_round_the_agents():
    tree = Team(3).fresh_tree([PENS], 5)
    places = [tree.position(0, node) for node in range(tree.num_nodes)]
    assert [(place.root, place.sample) for place in places] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]
    assert all((place.author, place.depth) == (place.root, 0) for place in places)


def test_all_requests_are_sampled_as_the_team_says_and_solutions_know_their_depth():
    script = Script()
    debates = script.debates(Team((Agent(temperature=0.7, top_p=0.9),) * 3, critic=False))
    debates.reset([0])
    debates.step([[REFINE, REFINE, REFINE]])
    assert {(r.sampling.temperature, r.sampling.top_p) for r in script.requests} == {(0.7, 0.9)}
    depth = [feature.name for feature in FEATURES].index("depth")
    assert debates.tree.features[0, debates.node[0], depth] == pytest.approx(1 / 3)
    assert debates.tree.features[0, [0, 4, 8], depth].tolist() == [0, 0, 0]


def test_chat_teams_send_turns():
    script = Script()
    script.debates(Team((Agent(chat=True),) * 3)).reset([0])
    answer = next(r for r in script.requests if not r.score_words)
    verdict = next(r for r in script.requests if r.score_words)
    assert answer.prompt == tuple(load_prompts("multiplication").answer_turns(0, TEXT))
    assert answer.sampling.stop == ()
    assert verdict.prompt[-1] == ("user", f"Q: {TEXT}\nA: 12 * 4 = 40")
    assert verdict.score_words == ("right", "wrong")


def test_equivalent_answers_share_a_class():
    tree = Team(2, 2).tree([PENS])
    texts = ["44", "= 44.0", "nothing", "48.00", "4,4", "no"]
    for node, text in enumerate(texts):
        tree.add(0, node, make_solution(PENS, scripted(text, 0.5, node), 14))
    classes = tree.answer_class[0].tolist()
    assert classes[0] == classes[1]
    assert classes[2] == classes[5] == UNPARSED
    assert len({UNPARSED, classes[0], classes[3], classes[4]}) == 4
    assert tree.correct[0].tolist() == [False, False, False, True, False, False]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 4))
def test_observations(seed, agents, rounds):
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, agents, rounds)
    debates = DebateBatch(tree, nothing_is_missing)
    debates.reset([0, 2, 0, 1])
    names = [feature.name for feature in FEATURES]
    for turn in range(rounds + 1):
        observation = debates.observe()
        own, peers = observation["own"], observation["peers"]
        assert (own.shape, peers.shape) == ((4, agents, len(FEATURES)), (4, agents, agents - 1, len(FEATURES)))
        assert all(array.dtype == np.float32 for array in observation.values())
        assert ((own >= LOW) & (own <= HIGH)).all()
        assert ((peers >= LOW) & (peers <= HIGH)).all()
        assert (observation["peer_mask"] == 1).all()
        assert (observation["action_mask"] == debates.legal()).all()
        for b, i in np.ndindex(4, agents):
            z = dict(zip(names, own[b, i], strict=True))
            answers, confidence = debates.answers.answer_class[b], debates.answers.confidence[b]
            equal = (answers == answers[i]) & (answers != UNPARSED)
            assert (own[b, i, : len(NUMBERS)] == tree.features[debates.question[b], debates.node[b, i]]).all()
            assert z["round"] == np.float32(turn / rounds)
            assert z["agreement"] == np.float32((equal.sum() - equal[i]) / (agents - 1))
            assert (z["same_answer"], z["is_target"]) == (answers[i] != UNPARSED, 0)
            others = [j for j in range(agents) if j != i]
            for peer, j in zip(peers[b, i], others, strict=True):
                assert (peer[:-2] == own[b, j, :-2]).all()
                assert peer[-2] == equal[j]
            marked = [j for peer, j in zip(peers[b, i], others, strict=True) if peer[-1]]
            eligible = [j for j in others if answers[j] not in (UNPARSED, answers[i])]
            assert marked == sorted(eligible, key=lambda j: (-confidence[j], j))[:1]
            if marked:
                assert debates.candidates()[b, i, CONCEDE, 0] == debates.node[b, marked[0]]
        on_the_winning_side = own[..., names.index("is_plurality")] == 1
        assert (on_the_winning_side.any(-1) == (debates.answers.answer_class != UNPARSED).any(-1)).all()
        for answers, winning in zip(debates.answers.answer_class, on_the_winning_side, strict=True):
            assert len(set(answers[winning])) <= 1
        if turn < rounds:
            debates.step(random_actions(rng, debates))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 3))
def test_tokens_are_those_of_every_solution_stood_on_and_its_ancestors(seed, agents, rounds):
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, agents, rounds)
    debates = DebateBatch(tree, nothing_is_missing)
    debates.reset([1, 2])
    stood_on = [set(nodes) for nodes in debates.node.tolist()]
    while not debates.done:
        debates.step(random_actions(rng, debates))
        for nodes, here in zip(stood_on, debates.node.tolist(), strict=True):
            nodes.update(here)
    for b, nodes in enumerate(stood_on):
        chains = {n for node in nodes for n in range(node - node % (rounds + 1), node + 1)}
        assert debates.tokens[b].tolist() == tree.tokens[debates.question[b], sorted(chains)].sum(0).tolist()

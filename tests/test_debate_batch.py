import asyncio
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from mpdf_rllib.engine import Generation, GenerationRequest, Position
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.credit import Calibration, Credit, merge_ties, outcome_credit
from mpdf_rllib.envs.debate import CONCEDE, PERSIST, REFINE
from mpdf_rllib.envs.debate_batch import DebateBatch, Rewards
from mpdf_rllib.envs.features import FEATURES, HIGH, LOW, NUM_SOLUTION_FEATURES
from mpdf_rllib.envs.solution import make_solution
from mpdf_rllib.envs.solution_tree import CORRECT, UNPARSED, SolutionTree
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import EngineError
from mpdf_rllib.prompts import as_text, load_prompts
from mpdf_rllib.questions import Question

TEXT = "12 bags hold 4 pens each. How many pens in all?"
PENS = Question("pens", TEXT, "48", "number", "multiplication")

# (root, depth) -> answer and confidence. Nodes are numbered root * 4 + depth.
SCRIPT = {
    (0, 0): ("40", 0.6),
    (0, 1): ("48", 0.3),
    (1, 0): ("48", 0.8),
    (1, 1): ("48", 0.9),
    (1, 2): ("50", 0.5),
    (2, 0): ("44", 0.7),
    (2, 1): ("44", 0.2),
}


def nothing_is_missing(wanted):
    raise AssertionError(f"asked for {wanted}")


def scripted(text: str, confidence: float, node: int) -> Generation:
    """A generation whose tokens tell which nodes were counted: 2 to the node's number."""
    return Generation(text, (1,), (math.log(confidence),), (len(text),), "stop", 2**node, 0, 2**node)


class Script:
    """Plays SCRIPT and keeps the requests in their order."""

    def __init__(self):
        self.requests: list[GenerationRequest] = []
        self.engine = ScriptedEngine(self.respond)

    def respond(self, request: GenerationRequest) -> Generation:
        self.requests.append(request)
        place = request.position
        answer, confidence = SCRIPT[place.root, place.depth]
        node = place.root * 4 + place.depth
        if request.score_words:
            return Generation("", (), (), (), "score", 2 ** (16 + node), 2 ** (16 + node), 0, (-0.1, -2.4))
        return scripted(f" 12 * 4 = {answer}", confidence, node)

    def debates(self, team: Team) -> DebateBatch:
        tree = team.tree([PENS])
        return DebateBatch(tree, lambda wanted: asyncio.run(team.fill(self.engine, tree, wanted)))

    @property
    def places(self) -> list[tuple[int, int, int]]:
        return [(r.position.root, r.position.depth, r.position.refiner) for r in self.requests]


def random_tree(rng: np.random.Generator, agents: int, rounds: int, questions: int = 3) -> SolutionTree:
    """A complete tree of random solutions; confidences are eighths, so that ties occur."""
    tree = Team(agents, rounds).tree([PENS] * questions)
    tree.present[:] = True
    tree.answer_class[:] = rng.integers(UNPARSED, 3, tree.present.shape)
    tree.confidence[:] = rng.integers(0, 9, tree.present.shape) / 8 * (tree.answer_class != UNPARSED)
    tree.features[:] = rng.uniform(LOW[:NUM_SOLUTION_FEATURES], HIGH[:NUM_SOLUTION_FEATURES], tree.features.shape)
    tree.tokens[:] = rng.integers(1, 50, tree.tokens.shape)
    return tree


def random_actions(rng: np.random.Generator, debates: DebateBatch) -> np.ndarray:
    legal = debates.candidates() >= 0
    return np.where(legal, rng.random(legal.shape), -1.0).argmax(-1)


def linear_policy(rng: np.random.Generator) -> Callable:
    weights = rng.normal(size=(len(FEATURES), 3))

    def policy(observation):
        scores = observation["own"].astype(float) @ weights
        return np.where(observation["action_mask"] > 0, scores, -np.inf).argmax(-1)

    return policy


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
    assert script.requests[-1].position == Position("pens", root=1, depth=1, refiner=1)
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
    assert all((place.refiner, place.depth) == (place.root, 0) for place in places)


def test_chat_teams_send_turns():
    script = Script()
    script.debates(Team(chat=True)).reset([0])
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
    assert classes[0] == classes[1] not in (CORRECT, UNPARSED)
    assert classes[2] == classes[5] == UNPARSED
    assert classes[3] == CORRECT
    assert classes[4] not in (CORRECT, UNPARSED, classes[0])


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
        assert (observation["action_mask"] == (debates.candidates() >= 0)).all()
        for b, i in np.ndindex(4, agents):
            z = dict(zip(names, own[b, i], strict=True))
            answers, confidence = debates.answer_class[b], debates.confidence[b]
            equal = (answers == answers[i]) & (answers != UNPARSED)
            assert (own[b, i, :NUM_SOLUTION_FEATURES] == tree.features[debates.question[b], debates.node[b, i]]).all()
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
                assert debates.candidates()[b, i, CONCEDE] == debates.node[b, marked[0]]
        on_the_winning_side = own[..., names.index("is_plurality")] == 1
        assert (on_the_winning_side.any(-1) == (debates.answer_class != UNPARSED).any(-1)).all()
        for answers, winning in zip(debates.answer_class, on_the_winning_side, strict=True):
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


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 3), st.booleans())
def test_outcome_credit_is_what_playing_on_comes_to(seed, agents, rounds, calibrated):
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, agents, rounds)
    policy = linear_policy(rng)
    calibration = Calibration(tuple(rng.normal(size=NUM_SOLUTION_FEATURES)), 0.3) if calibrated else None
    debates = DebateBatch(tree, nothing_is_missing)
    debates.reset([0, 2, 1])
    history = []
    for _ in range(rng.integers(rounds)):
        history.append(random_actions(rng, debates))
        debates.step(history[-1])
    actions = random_actions(rng, debates)
    legal = debates.candidates() >= 0
    outcome, tokens = outcome_credit(debates, actions, policy, calibration)
    assert (np.isnan(outcome) == ~legal).all()
    assert (np.isnan(tokens) == ~legal).all()

    for b, i, k in np.argwhere(legal):
        replay = DebateBatch(tree, nothing_is_missing)
        replay.reset([debates.question[b]])
        for taken in history:
            replay.step(taken[[b]])
        alternative = actions[[b]].copy()
        alternative[0, i] = k
        replay.step(alternative)
        while not replay.done:
            replay.step(policy(replay.observe()))
        votes = {True: 0.0, False: 0.0}
        for node in replay.node[0]:
            answer = tree.answer_class[replay.question[0], node]
            if answer != UNPARSED:
                weight = tree.confidence[replay.question[0], node]
                if calibration:
                    logit = tree.features[replay.question[0], node] @ np.array(calibration.weights) + calibration.bias
                    weight = expit(logit)
                votes[bool(answer == CORRECT)] += weight
        share = votes[True] / sum(votes.values()) if sum(votes.values()) else 0.0
        assert outcome[b, i, k] == pytest.approx(share)
        assert tokens[b, i, k] == replay.tokens[0, 2]


def test_outcome_credit_sees_what_a_refinement_makes_possible():
    """Agent 0 is wrong, and right only after two refinements."""

    def refine_first(observation):
        return np.tile([REFINE, PERSIST], (len(observation["own"]), 1))

    tree = random_tree(np.random.default_rng(0), agents=2, rounds=2, questions=1)
    tree.answer_class[:] = [[1, 2, CORRECT, 3, 3, 3]]
    tree.confidence[:] = 0.5
    debates = DebateBatch(tree, nothing_is_missing)
    debates.reset([0])
    persist = np.array([[PERSIST, PERSIST]])
    step = debates.rewards(persist)
    assert np.ptp((step.local + step.consensus)[0, 0]) == 0
    outcome, _ = outcome_credit(debates, persist, refine_first)
    assert outcome[0, 0].tolist() == [0, 0.5, 0]


def test_credit_prices_tokens_and_forgives_small_differences():
    terms = Rewards(
        local=np.array([[[0, 1, 1], [0, 0, np.nan]]]),
        consensus=np.array([[[0, 0, 0], [1, 1, np.nan]]]),
        tokens=np.array([[[0, 100, 0], [0, 20, np.nan]]]),
    )
    actions = np.zeros((1, 2), int)
    debates = DebateBatch(random_tree(np.random.default_rng(0), 2, 1), nothing_is_missing)
    debates.reset([0])
    nan = np.nan
    for credit, expected in (
        (Credit(), [[0, 1, 1], [1, 1, nan]]),
        (Credit(token_price=0.001), [[0, 0.9, 1], [1, 0.98, nan]]),
        (Credit(token_price=0.001, tie_tolerance=0.05), [[0, 0.9, 1], [1, 1, nan]]),
        (Credit(token_price=0.001, tie_tolerance=0.2), [[0, 1, 1], [1, 1, nan]]),
        (Credit("outcome", token_price=0.001), [[0, 0.9, 1], [1, 0.98, nan]]),  # nothing to follow yet
    ):
        np.testing.assert_allclose(credit(debates, actions, terms), [expected])


def test_credit_for_the_outcome_follows_the_policy():
    rng = np.random.default_rng(1)
    debates = DebateBatch(random_tree(rng, 3, 3), nothing_is_missing)
    debates.reset([0, 1, 2])
    actions, policy = random_actions(rng, debates), linear_policy(rng)
    outcome, tokens = outcome_credit(debates, actions, policy)
    credit = Credit("outcome", token_price=0.002)(debates, actions, debates.rewards(actions), policy)
    np.testing.assert_allclose(credit, outcome - 0.002 * tokens)


def test_ties_are_merged_with_the_best_only():
    nan = np.nan
    rewards = np.array([[0.5, 0.45, 0.38], [0.25, nan, 0.0], [-1.0, -1.0, nan]])
    assert merge_ties(rewards, 0.0).tolist()[0] == [0.5, 0.45, 0.38]
    np.testing.assert_array_equal(merge_ties(rewards, 0.1), [[0.5, 0.5, 0.38], [0.25, nan, 0], [-1, -1, nan]])
    np.testing.assert_array_equal(merge_ties(rewards, 0.25), [[0.5, 0.5, 0.5], [0.25, nan, 0.25], [-1, -1, nan]])


def test_calibration_is_logistic():
    rng = np.random.default_rng(0)
    weights, features = rng.normal(size=NUM_SOLUTION_FEATURES), rng.random((4, 5, NUM_SOLUTION_FEATURES))
    calibration = Calibration(tuple(weights), -0.7)
    np.testing.assert_allclose(calibration(features), expit(features @ weights - 0.7))

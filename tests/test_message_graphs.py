import asyncio
import math
from itertools import permutations, product

import numpy as np
import pytest
import torch
from debate_fixtures import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_rllib.baselines import agentprune
from mpdf_rllib.baselines.agentprune import AgentPrune, logit_matrix, nuclear_norm, prune
from mpdf_rllib.baselines.gptswarm import GPTSwarm
from mpdf_rllib.baselines.message_graph import (
    Edges,
    Reinforce,
    closes_cycle,
    messages_kept,
    reinforce_loss,
    speaking_order,
    without_cycles,
)
from mpdf_rllib.baselines.system import MAX_AGENTS, Panel
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import PromptError
from mpdf_rllib.questions import Question

QUESTIONS = [Question(f"pens {i}", TEXT, "48", "number", "multiplication") for i in range(5)]
THREE = [*permutations(range(3), 2)]
LOGITS = st.lists(st.floats(-3, 3), min_size=6, max_size=6)
ORDERS = st.permutations(THREE)


class Talk:
    """Agents that write who they are; keeps what each was asked, in order."""

    def __init__(self, answer_of=lambda agent, turn, said: "48", team: int = 3):
        self.asked: list[tuple[str, int, int, list[str]]] = []
        self._answer_of = answer_of
        self.engine = ScriptedEngine(self._respond)
        self.panel = Panel(Team(team), self.engine)

    def _respond(self, request):
        place = request.position
        agent, turn = place.author, place.depth
        last = request.prompt.split("\n\n")[-1]
        shown = [line for line in last.splitlines() if line.startswith(("Draft:", "Peer:"))]
        self.asked.append((place.question, agent, turn, shown))
        return f" {words(agent, turn)} {self._answer_of(agent, turn, shown)}"

    @property
    def exchanged(self) -> dict[tuple[int, int], list[str]]:
        """What an agent was shown in a turn; each once, as one question was asked."""
        assert len({(agent, turn) for _, agent, turn, _ in self.asked}) == len(self.asked)
        return {(agent, turn): shown for _, agent, turn, shown in self.asked}

    @property
    def order(self) -> list[int]:
        return [agent for _, agent, _, _ in self.asked]

    def answers(self, system, questions=QUESTIONS[:1]):
        self.asked.clear()
        return asyncio.run(system.answer(self.panel, questions))

    def fits(self, system, questions=QUESTIONS):
        asyncio.run(system.fit(self.panel, questions))
        return system


def words(agent: int, turn: int) -> str:
    return f"agent {agent} in turn {turn} says 12 * 4 ="


def peer(agent: int, turn: int, answer: str = "48") -> str:
    return f"Peer: {words(agent, turn)} {answer}"


def own(agent: int, turn: int, answer: str = "48") -> str:
    return f"Draft: {words(agent, turn)} {answer}"


def swarm(graph=(), agents: int = 3, **learning) -> GPTSwarm:
    system = GPTSwarm(agents, **{"iterations": 1, "batch": 4, "lr": 0.1, "seed": 0, **learning})
    system._graph = graph
    return system


def debate(graph=(), agents: int = 3, rounds: int = 3, pruned: float = 0.5, **learning) -> AgentPrune:
    learning = {"iterations": 1, "batch": 4, "lr": 0.1, "seed": 0, **learning}
    system = AgentPrune(agents, rounds, pruned=pruned, **learning)
    system._graph = graph
    return system


def fitted_logits(monkeypatch, talk: Talk, system: AgentPrune) -> dict:
    seen = []
    monkeypatch.setattr(agentprune, "prune", lambda logits, share: seen.append(logits) or [])
    talk.fits(system)
    return seen[0]


def has_cycle(edges) -> bool:
    """By walks: some walk in a graph of N nodes is N long if and only if there is a cycle."""
    n = 1 + max((node for edge in edges for node in edge), default=0)
    adjacency = np.zeros((n, n), np.int64)
    for heard, hears in edges:
        adjacency[heard, hears] = 1
    return bool(np.linalg.matrix_power(adjacency, n).any())


def with_logits(edges, logits) -> Edges:
    made = Edges(edges)
    made.logits.data[:] = torch.tensor(logits, dtype=torch.float64)
    return made


def all_graphs(edges, logits) -> dict[frozenset, float]:
    """Every graph that can be drawn and how likely: each edge in its order, on every way that led to it."""
    ways = {frozenset(): 1.0}
    for edge, logit in zip(edges, logits, strict=True):
        p, further = 1 / (1 + math.exp(-logit)), {}
        for graph, weight in ways.items():
            if has_cycle(graph | {edge}):
                further[graph] = further.get(graph, 0.0) + weight
            else:
                further[graph | {edge}] = further.get(graph | {edge}, 0.0) + weight * p
                further[graph] = further.get(graph, 0.0) + weight * (1 - p)
        ways = further
    return ways


def test_an_edge_closes_a_cycle():
    chain = [(0, 1), (1, 2), (2, 3)]
    assert closes_cycle(chain, (3, 0)) and closes_cycle(chain, (2, 1)) and closes_cycle(chain, (1, 1))
    assert not closes_cycle(chain, (0, 3)) and not closes_cycle(chain, (4, 0)) and not closes_cycle([], (0, 1))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=25, unique=True))
def test_no_more_edges_are_left_out_than_close_cycles(edges):
    graph = without_cycles(edges)
    assert not has_cycle(graph)
    for i, edge in enumerate(edges):
        before = [other for other in edges[:i] if other in graph]
        assert (edge in graph) != has_cycle([*before, edge])


@given(st.integers(1, 6), st.data())
def test_agents_speak_after_those_they_hear_and_no_later(agents, data):
    pairs = [*permutations(range(agents), 2)]
    graph = without_cycles(data.draw(st.permutations(pairs))[: data.draw(st.integers(0, len(pairs)))])
    others = ((0, agents), (agents + 1, 0))  # of nodes that are no agents
    layers = speaking_order((*graph, *others), agents)
    assert sorted(agent for layer in layers for agent in layer) == [*range(agents)]
    layer_of = {agent: i for i, layer in enumerate(layers) for agent in layer}
    for agent in range(agents):
        heard = [layer_of[other] for other, hears in graph if hears == agent]
        assert layer_of[agent] == max(heard, default=-1) + 1
    assert all(layer == sorted(layer) for layer in layers)


@settings(deadline=None, max_examples=30)
@given(ORDERS, LOGITS)
def test_probabilities_of_graphs_are_those_of_all_ways_to_draw_them(order, logits):
    edges = with_logits(order, logits)
    expected = all_graphs(order, logits)
    assert len(expected) == 25  # the acyclic graphs of three nodes
    for graph, probability in expected.items():
        assert edges.log_probability(tuple(graph)).item() == pytest.approx(math.log(probability))


def test_graphs_are_drawn_as_often_as_they_are_probable():
    order, logits = [(0, 1), (2, 0), (1, 2), (1, 0), (2, 1), (0, 2)], [0.5, -1.0, 1.0, 2.0, 0.0, -0.5]
    edges, rng, draws = with_logits(order, logits), np.random.default_rng(0), 4000
    expected = all_graphs(order, logits)
    counts = dict.fromkeys(expected, 0)
    for _ in range(draws):
        counts[frozenset(edges.draw(rng))] += 1
    for graph, probability in expected.items():
        assert abs(counts[graph] - draws * probability) < 4.5 * math.sqrt(draws * probability) + 1


@settings(deadline=None, max_examples=20)
@given(ORDERS, LOGITS, st.integers(0, 2**32 - 1))
def test_reinforce_follows_the_gradient_of_the_expected_utility(order, logits, seed):
    utility = dict(zip(all_graphs(order, logits), np.random.default_rng(seed).integers(0, 2, 25).tolist(), strict=True))

    def expected_utility(values) -> float:
        return sum(probability * utility[graph] for graph, probability in all_graphs(order, values).items())

    edges = with_logits(order, logits)
    probabilities = all_graphs(order, logits)
    log_probabilities = torch.stack([edges.log_probability(tuple(graph)) for graph in probabilities])
    # Graphs in proportion to their probability: the mean of 25 has to be made a sum.
    weights = 25 * torch.tensor([probability * utility[graph] for graph, probability in probabilities.items()])
    reinforce_loss(log_probabilities, weights).backward()
    step = 1e-5 * np.eye(6)
    slope = [(expected_utility(logits + h) - expected_utility(logits - h)) / 2e-5 for h in step]
    assert edges.logits.grad.numpy() == pytest.approx(-np.array(slope), abs=1e-6)


def test_gptswarm_agents_see_those_they_hear_in_full():
    talk = Talk()
    talk.answers(swarm(((2, 0), (1, 0), (0, 3), (3, 4)), agents=4))
    assert talk.exchanged == {(1, 0): [], (2, 0): [], (0, 1): [peer(1, 0), peer(2, 0)], (3, 1): [peer(0, 1)]}
    assert talk.order == [1, 2, 0, 3]
    assert talk.engine.peak_in_flight == 2


@pytest.mark.parametrize(("deciders", "right"), [((1,), True), ((0,), False), ((0, 1, 2), False), ((), False)])
def test_gptswarm_decides_by_the_agents_with_an_edge_to_the_decision(deciders, right):
    talk = Talk(lambda agent, turn, said: "48" if agent == 1 else "40")
    outcome = talk.answers(swarm(tuple((agent, 3) for agent in deciders)))
    assert outcome.correct.tolist() == [right]


def test_agents_beyond_the_team_are_its_members_again():
    talk = Talk(team=2)
    talk.answers(swarm(((15, 0),), agents=MAX_AGENTS))
    assert sorted(talk.order) == [*range(MAX_AGENTS)]
    assert talk.exchanged[0, 1] == [peer(15, 0)]


def test_gptswarm_learns_whom_to_believe():
    talk = Talk(lambda agent, turn, said: "48" if agent == 1 else f"{40 + agent}")
    system = swarm(iterations=60)
    assert not talk.answers(system).correct.any()
    assert "1" in talk.fits(system).learned.split("decide: ")[1]
    assert talk.answers(system).correct.all()


def test_gptswarm_learns_whom_to_hear():
    talk = Talk(lambda agent, turn, said: "48" if peer(2, 0, "40") in said else "40")
    system = talk.fits(swarm(iterations=100))
    assert "2>" in system.learned
    assert talk.answers(system).correct.all()


def test_messages_are_told_in_order():
    assert messages_kept(((2, 1), (0, 2), (0, 1)), 6) == "3 of 6 messages kept: 0>1, 0>2, 2>1"


def test_gptswarm_tells_what_it_learned():
    both = {peer(0, 0, "40"), peer(1, 0, "40")}  # so that a single graph is right, and it alone is ever reinforced
    talk = Talk(lambda agent, turn, said: "48" if set(said) == both else "40")
    system = talk.fits(swarm(iterations=200))
    assert system.learned == "2 of 6 messages kept: 0>2, 1>2; decide: 2"
    assert talk.answers(system).correct.all()


def test_where_nothing_is_ever_right_nothing_is_learned():
    talk = Talk(lambda agent, turn, said: "40")
    assert talk.fits(swarm()).learned == "0 of 6 messages kept; decide: 0, 1, 2"


def test_a_prompt_that_is_too_long_is_of_no_use():
    def refuses(agent, turn, said):
        if len(said) > 0:
            raise PromptError("too long")
        return "48"

    talk = Talk(refuses)
    assert talk.fits(swarm(iterations=60)).learned.startswith("0 of 6 messages kept")


def test_agentprune_shows_this_round_and_the_one_before():
    # Spatial 1>0 and temporal 0>0, 0>2 and 2>0: nodes 3 to 5 are agents 0 to 2 in the round before.
    talk = Talk(team=3)
    talk.answers(debate(((1, 0), (3, 0), (3, 2), (5, 0))))
    assert talk.exchanged == {
        (1, 0): [],
        (2, 0): [],
        (0, 1): [peer(1, 0)],
        (2, 2): [peer(0, 1)],
        (0, 2): [own(0, 1), peer(1, 0), peer(2, 0)],
        (2, 3): [peer(0, 2)],
        (0, 3): [own(0, 2), peer(1, 0), peer(2, 2)],
    }


def test_agentprune_asks_predecessors_first_in_every_round():
    talk = Talk()
    talk.answers(debate(((2, 1), (1, 0), (5, 2)), rounds=2))
    assert talk.order == [2, 1, 0, 2, 1, 0]
    assert talk.exchanged[1, 2] == [peer(2, 2)] and talk.exchanged[2, 2] == [own(2, 0)]


def test_agentprune_without_messages_is_a_vote_of_first_answers():
    talk = Talk(lambda agent, turn, said: "48" if agent else "40")
    assert talk.answers(debate()).correct.all()
    assert sorted(talk.exchanged) == [(0, 0), (1, 0), (2, 0)]


def test_agentprune_decides_by_the_last_round():
    talk = Talk(lambda agent, turn, said: "48" if turn == 2 else "40")
    assert talk.answers(debate(((3, 0), (4, 1)), rounds=2)).correct.all()
    assert not talk.answers(debate(((3, 0),), rounds=2)).correct.any()


def test_agentprune_reinforces_temporal_edges_of_the_second_round_on(monkeypatch):
    # Adam's first step is the learning rate, where there is a gradient. In the first round no such edge is drawn.
    monkeypatch.setattr(agentprune, "LOW_RANK_WEIGHT", 0.0)
    talk = Talk()
    logits = fitted_logits(monkeypatch, talk, debate(rounds=2, batch=1))
    temporal = {edge: logit for edge, logit in logits.items() if edge[0] >= 3}
    assert {round(abs(logit), 6) for logit in temporal.values()} == {0.1}
    first = {agent: turn for _, agent, turn, _ in talk.asked if turn < 2}
    second = {agent: shown for _, agent, turn, shown in talk.asked if turn == 2}
    for agent in range(3):
        assert (own(agent, first[agent]) in second.get(agent, [])) == (temporal[3 + agent, agent] > 0)


def test_agentprune_draws_a_graph_for_every_round():
    talk = Talk()
    questions = [Question(f"pens {i}", TEXT, "48", "number", "multiplication") for i in range(32)]
    talk.fits(debate(rounds=2, batch=32), questions)
    shown = {(question, agent, turn): lines for question, agent, turn, lines in talk.asked}
    # In the second round 2 hears of 1 what it said in that round, so that 1 does not hear 2; in the first it did.
    assert any(
        peer(1, 2) in shown.get((question.id, 2, 2), []) and peer(2, 0) in shown.get((question.id, 1, 1), [])
        for question in questions
    )
    assert not any(line.startswith("Draft:") for place, lines in shown.items() if place[2] == 1 for line in lines)


def test_agentprune_learns_which_messages_help_where_low_rank_weighs_less(monkeypatch):
    # Agent 0 has the last word where the two disagree, and is right where it hears agent 1.
    monkeypatch.setattr(agentprune, "LOW_RANK_WEIGHT", 0.1)
    helps = tuple(peer(1, turn, "40") for turn in range(3))
    talk = Talk(lambda agent, turn, said: "48" if agent == 0 and not {*helps}.isdisjoint(said) else "40")
    system = debate(agents=2, rounds=2, iterations=20, pruned=0.6)
    assert not talk.answers(system).correct.any()
    assert "1>0" in talk.fits(system).learned
    assert talk.answers(system).correct.all()


@given(
    st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 5)), st.floats(-3, 3), max_size=20),
    st.floats(0, 1),
)
def test_pruning_removes_the_lowest_share(logits, share):
    kept = prune(logits, share)
    removed = [edge for edge in logits if edge not in kept]
    assert len(removed) == round(share * len(logits)) and len(kept) + len(removed) == len(logits)
    values = [logits[edge] for edge in kept]
    assert values == sorted(values, reverse=True)
    assert max((logits[edge] for edge in removed), default=-9) <= min(values, default=9)


@pytest.mark.parametrize(
    ("pruned", "learned"),
    [
        (0.0, "3 of 6 messages kept: 0>1, 0>2, 1>2; of the round before 9 of 9 messages kept: "),
        (0.4, "3 of 6 messages kept: 0>1, 0>2, 1>2; of the round before 3 of 9 messages kept: 0>0, 0>1, 0>2"),
        (0.8, "2 of 6 messages kept: 0>1, 0>2; of the round before 0 of 9 messages kept"),
        (1.0, "0 of 6 messages kept; of the round before 0 of 9 messages kept"),
    ],
)
def test_agentprune_prunes_both_kinds_of_edges_together(pruned, learned):
    # Without a right answer all logits are 0, and the last of the 6 + 9 edges go.
    talk = Talk(lambda agent, turn, said: "40")
    assert talk.fits(debate(pruned=pruned)).learned.startswith(learned)


def test_the_logits_of_an_edge_are_where_it_starts_and_ends():
    spatial, temporal = (
        with_logits(THREE, range(1, 7)),
        with_logits([*product(range(3, 6), range(3))], range(1, 10)),
    )
    assert logit_matrix(spatial, 3).tolist() == [[0, 1, 2], [3, 0, 4], [5, 6, 0]]
    assert logit_matrix(temporal, 3).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@given(st.lists(st.floats(-3, 3), min_size=9, max_size=9))
def test_the_nuclear_norm_is_the_sum_of_the_singular_values(entries):
    matrix = np.array(entries).reshape(3, 3)
    assert nuclear_norm(torch.tensor(matrix)).item() == pytest.approx(np.linalg.norm(matrix, "nuc"), abs=1e-8)


def test_at_zero_the_nuclear_norm_draws_nowhere():
    matrix = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    nuclear_norm(matrix).backward()
    assert not matrix.grad.any()


def test_where_nothing_is_ever_right_the_logits_become_low_rank():
    talk = Talk(lambda agent, turn, said: "40")
    start = np.random.default_rng(0).normal(size=9)
    edges = with_logits([*product(range(3, 6), range(3))], start)

    async def play(graphs, session):
        return await session.first(0)

    norms = [np.linalg.norm(start.reshape(3, 3), "nuc")]
    for _ in range(4):
        reinforce = Reinforce(iterations=2, batch=2, lr=0.1, seed=0)
        asyncio.run(reinforce(talk.panel, QUESTIONS, [[edges]], play, lambda: nuclear_norm(logit_matrix(edges, 3))))
        norms.append(np.linalg.norm(edges.logits.detach().numpy().reshape(3, 3), "nuc"))
    assert norms == sorted(norms, reverse=True) and norms[-1] < norms[0] - 1


def test_each_step_follows_the_gradient_of_its_own_batch():
    talk, edges = Talk(lambda agent, turn, said: "40"), Edges(THREE)

    async def play(graphs, session):
        return await session.first(0)

    # Adam goes the learning rate a step along a gradient that stays as it is.
    reinforce = Reinforce(iterations=3, batch=1, lr=0.1, seed=0)
    asyncio.run(reinforce(talk.panel, QUESTIONS, [[edges]], play, lambda: edges.logits.sum()))
    assert edges.logits.tolist() == pytest.approx([-0.3] * 6, abs=1e-6)


def test_agentprune_is_fitted_with_the_low_rank_term(monkeypatch):
    def norms(weight: float) -> np.ndarray:
        monkeypatch.setattr(agentprune, "LOW_RANK_WEIGHT", weight)
        logits = fitted_logits(monkeypatch, Talk(), debate(iterations=10))
        matrices = [
            [[logits.get((heard, hears), 0.0) for hears in range(3)] for heard in nodes]
            for nodes in (range(3), range(3, 6))
        ]
        return np.linalg.norm(matrices, "nuc", axis=(1, 2))

    assert (norms(1.0) < 0.8 * norms(0.0)).all()


@pytest.mark.parametrize("system", [swarm(iterations=3, batch=2), debate(iterations=3, batch=2)])
def test_no_more_is_asked_than_was_told(system):
    talk = Talk()
    bound = system.requests(2)
    talk.fits(system)
    assert talk.engine.requests <= bound.fit
    talk.answers(system, QUESTIONS)
    assert len(talk.asked) <= bound.answer * len(QUESTIONS)


def test_what_is_asked_at_most():
    requests = swarm(agents=4, iterations=3, batch=2).requests(2)
    assert (requests.fit, requests.answer) == (3 * 2 * 4, 4)
    requests = debate(agents=4, rounds=3, iterations=3, batch=2).requests(2)
    assert (requests.fit, requests.answer) == (3 * 2 * 4 * 3, 12)
    talk = Talk()
    talk.fits(swarm(agents=4, iterations=3, batch=2))
    assert talk.engine.requests == 24
    talk.answers(debate(((3, 0), (4, 1), (5, 2))))
    assert len(talk.asked) == debate().requests(3).answer


def test_a_batch_is_in_flight_together():
    talk = Talk()
    talk.fits(swarm(batch=8))
    assert talk.engine.peak_in_flight > 8


def test_training_questions_come_again_only_after_all_came():
    talk = Talk()
    talk.fits(swarm(iterations=5, batch=3))
    asked = [question for question, *_ in talk.asked]
    assert sorted(asked) == sorted(question.id for question in QUESTIONS for _ in range(3 * 3))
    talk.asked.clear()
    talk.fits(swarm(iterations=1, batch=5))
    assert len({question for question, *_ in talk.asked}) == 5


@pytest.mark.parametrize("make", [swarm, debate])
def test_the_same_seed_gives_the_same_fit(make):
    def fitted(seed: int):
        talk = Talk(lambda agent, turn, said: "48" if agent == 1 or said else "40")
        learned = talk.fits(make(iterations=5, seed=seed)).learned
        return learned, talk.asked

    assert fitted(3) == fitted(3)
    assert fitted(3)[1] != fitted(4)[1]

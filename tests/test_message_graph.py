"""Graphs of messages: cycles, probabilities, REINFORCE, and who speaks when; of both systems that learn them."""

import asyncio
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from message_graph_fixtures import QUESTIONS, THREE, Talk, debate, swarm, with_logits

from mpdf_rllib.baselines.message_graph import (
    Edges,
    Reinforce,
    closes_cycle,
    leading_to,
    messages_kept,
    reinforce_loss,
    speaking_order,
    without_cycles,
)

LOGITS = st.lists(st.floats(-3, 3), min_size=6, max_size=6)
ORDERS = st.permutations(THREE)


def has_cycle(edges) -> bool:
    """By walks: some walk in a graph of N nodes is N long if and only if there is a cycle."""
    n = 1 + max((node for edge in edges for node in edge), default=0)
    adjacency = np.zeros((n, n), np.int64)
    for heard, hears in edges:
        adjacency[heard, hears] = 1
    return bool(np.linalg.matrix_power(adjacency, n).any())


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
    layers = speaking_order((*graph, *others), range(agents))
    assert sorted(agent for layer in layers for agent in layer) == [*range(agents)]
    layer_of = {agent: i for i, layer in enumerate(layers) for agent in layer}
    for agent in range(agents):
        heard = [layer_of[other] for other, hears in graph if hears == agent]
        assert layer_of[agent] == max(heard, default=-1) + 1
    assert all(layer == sorted(layer) for layer in layers)


@given(st.permutations([*permutations(range(5), 2)]), st.integers(0, 20), st.sets(st.integers(0, 4)))
def test_those_who_lead_to_nodes_are_the_ones_with_a_way_there(edges, taken, nodes):
    graph = without_cycles(edges[:taken])
    adjacency = np.eye(5, dtype=np.int64)
    for heard, hears in graph:
        adjacency[heard, hears] = 1
    ways = np.linalg.matrix_power(adjacency, 5)
    assert leading_to(graph, nodes) == {node for node in range(5) if any(ways[node, end] for end in nodes)}


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


def test_messages_are_told_in_order():
    assert messages_kept(((2, 1), (0, 2), (0, 1)), 6) == "3 of 6 messages kept: 0>1, 0>2, 2>1"


def test_each_step_follows_the_gradient_of_its_own_batch():
    talk, edges = Talk(lambda agent, turn, said: "40"), Edges(THREE)

    async def play(graphs, session):
        return await session.first(0)

    # Adam goes the learning rate a step along a gradient that stays as it is.
    reinforce = Reinforce(iterations=3, batch=1, lr=0.1, seed=0)
    asyncio.run(reinforce(talk.panel, QUESTIONS, [[edges]], play, lambda: edges.logits.sum()))
    assert edges.logits.tolist() == pytest.approx([-0.3] * 6, abs=1e-6)


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
    talk.answers(swarm(((0, 1), (1, 2), (2, 3), (3, 4)), agents=4))
    assert len(talk.asked) == 4
    talk.answers(debate(((3, 0), (4, 1), (5, 2))))
    assert len(talk.asked) == debate().requests(3).answer


def test_a_batch_is_in_flight_together():
    talk = Talk()
    talk.fits(swarm(batch=8))
    assert talk.engine.peak_in_flight > 8


def questions_asked(iterations: int, batch: int) -> list[str]:
    """By a way to play that asks once."""
    talk = Talk()

    async def play(graphs, session):
        return await session.first(0)

    asyncio.run(Reinforce(iterations, batch, lr=0.1, seed=0)(talk.panel, QUESTIONS, [[Edges(THREE)]], play))
    return [question for question, *_ in talk.asked]


def test_training_questions_come_again_only_after_all_came():
    names = sorted(question.id for question in QUESTIONS)
    assert sorted(questions_asked(iterations=5, batch=3)) == sorted(3 * names)
    assert sorted(questions_asked(iterations=1, batch=5)) == names


@pytest.mark.parametrize("make", [swarm, debate])
def test_the_same_seed_gives_the_same_fit(make):
    def fitted(seed: int):
        talk = Talk(lambda agent, turn, said: "48" if agent == 1 or said else "40")
        learned = talk.fits(make(iterations=5, seed=seed)).learned
        return learned, talk.asked

    assert fitted(3) == fitted(3)
    assert fitted(3)[1] != fitted(4)[1]

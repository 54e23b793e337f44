"""AgentPrune: rounds of messages, what is learned of them, and which are cut."""

import asyncio
from itertools import product

import numpy as np
import pytest
import torch
from debate_fixtures import TEXT
from hypothesis import given
from hypothesis import strategies as st
from message_graph_fixtures import QUESTIONS, THREE, Talk, debate, own, peer, with_logits

from mpdf_rllib.baselines import agentprune
from mpdf_rllib.baselines.agentprune import AgentPrune, logit_matrix, nuclear_norm, prune
from mpdf_rllib.baselines.message_graph import (
    Reinforce,
)
from mpdf_rllib.questions import Question


def fitted_logits(monkeypatch, talk: Talk, system: AgentPrune) -> dict:
    seen = []
    monkeypatch.setattr(agentprune, "prune", lambda logits, share: seen.append(logits) or [])
    talk.fits(system)
    return seen[0]


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

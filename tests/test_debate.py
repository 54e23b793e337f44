"""The rules as they are written in the design, a debate at a time, against the batched ones."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_rllib.envs.debate import (
    CONCEDE,
    PERSIST,
    REFINE,
    Answers,
    action_rewards,
    candidate_nodes,
    concede_targets,
    consensus,
    is_most_confident_correct,
    is_team_correct,
    is_team_correct_without_each,
    is_vote_correct,
    most_confident_rewards,
    right_share,
    same_answer,
    speaker,
)

NONE = -1
RIGHT = 0

# Eighths, so that sums are exact in every order and ties do occur.
CONFIDENCES = st.integers(0, 8).map(lambda eighths: eighths / 8)
ANSWERS = st.integers(NONE, 3)


@st.composite
def teams(draw, elements=(ANSWERS, CONFIDENCES), agents=None):
    """A batch of debates as one array of shape (B, N) for each kind of element."""
    b, n = draw(st.integers(1, 3)), agents or draw(st.integers(2, 6))
    batches = (st.lists(st.lists(element, min_size=n, max_size=n), min_size=b, max_size=b) for element in elements)
    return tuple(np.array(draw(batch)) for batch in batches)


def slow_consensus(answers, confidences):
    """The most frequent answer; of equally frequent ones the one with more confidence; of these the lowest agent's."""
    given_answers = [a for a in answers if a != NONE]
    if not given_answers:
        return NONE
    frequency = Counter(given_answers)
    confidence_in = {a: sum(c for b, c in zip(answers, confidences, strict=True) if b == a) for a in frequency}
    most = max(frequency.values())
    tied = [a for a in frequency if frequency[a] == most]
    strongest = max(confidence_in[a] for a in tied)
    return next(a for a in answers if a in tied and confidence_in[a] == strongest)


def slow_target(answers, confidences, i):
    """The peer with another answer and the highest confidence."""
    best = NONE
    for j, answer in enumerate(answers):
        if j != i and answer not in (NONE, answers[i]) and (best == NONE or confidences[j] > confidences[best]):
            best = j
    return best


@settings(deadline=None)
@given(teams())
def test_same_answer(batch):
    answers, _ = batch
    same = same_answer(answers)
    for b, i, j in np.ndindex(same.shape):
        assert same[b, i, j] == (answers[b, i] != NONE and answers[b, i] == answers[b, j])


@settings(deadline=None)
@given(teams())
def test_concede_targets(batch):
    answers, confidences = batch
    targets = concede_targets(answers, confidences)
    for b, i in np.ndindex(targets.shape):
        assert targets[b, i] == slow_target(answers[b].tolist(), confidences[b].tolist(), i)


@settings(deadline=None)
@given(teams())
def test_consensus(batch):
    expected = [slow_consensus(a.tolist(), c.tolist()) for a, c in zip(*batch, strict=True)]
    assert consensus(*batch).tolist() == expected


@settings(deadline=None)
@given(teams((ANSWERS, CONFIDENCES, st.booleans())))
def test_consensus_among_those_present(batch):
    answers, confidences, present = batch
    result = is_team_correct(Answers(answers, confidences, answers == RIGHT), present)
    for b, (given_answers, surety, votes) in enumerate(zip(*batch, strict=True)):
        assert result[b] == (slow_consensus(given_answers[votes].tolist(), surety[votes].tolist()) == RIGHT)


@settings(deadline=None)
@given(teams((ANSWERS, CONFIDENCES, st.booleans())))
def test_the_surest_of_those_who_hold_the_teams_answer_speaks_for_it(batch):
    answers, confidences, correct = batch
    who = speaker(answers, confidences)
    right = is_team_correct(Answers(*batch))
    for b, agent in enumerate(who):
        winner = slow_consensus(answers[b].tolist(), confidences[b].tolist())
        holders = [i for i, answer in enumerate(answers[b]) if answer == winner != NONE]
        assert agent == max(holders, key=lambda i: (confidences[b, i], -i), default=-1)
        assert right[b] == (bool(holders) and correct[b, agent])


@settings(deadline=None)
@given(teams())
def test_consensus_without_each(batch):
    without = is_team_correct_without_each(Answers(*batch, batch[0] == RIGHT))
    for b, (answers, confidences) in enumerate(zip(*batch, strict=True)):
        for i in range(len(answers)):
            expected = slow_consensus(np.delete(answers, i).tolist(), np.delete(confidences, i).tolist())
            assert without[b, i] == (expected == RIGHT)


@settings(deadline=None)
@given(teams(agents=2))
def test_with_two_agents_the_consensus_without_one_is_the_peers_answer(batch):
    right = batch[0] == RIGHT
    assert (is_team_correct_without_each(Answers(*batch, right)) == right[:, ::-1]).all()


def held(answers, confidences):
    return Answers(answers, confidences, answers == RIGHT)


SAMPLES = 2
ACTIONS_OF_AN_AGENT = 3


def nested(element):
    """What each of the samples of each of an agent's actions leads to."""
    return st.tuples(*[st.tuples(*[element] * SAMPLES)] * ACTIONS_OF_AN_AGENT)


@settings(deadline=None)
@given(teams((ANSWERS, nested(ANSWERS), nested(CONFIDENCES), st.tuples(st.integers(0, 2), st.integers(0, 1)))))
def test_rewards_are_the_means_of_really_taking_each_action(batch):
    before, answers, confidences, taken = batch
    agents = range(before.shape[1])
    after, trust = (
        np.array([[of_debate[i, *which] for i, which in enumerate(of_agents)] for of_debate, of_agents in pairs])
        for pairs in (list(zip(answers, taken, strict=True)), list(zip(confidences, taken, strict=True)))
    )
    r_local, r_global = action_rewards(before == RIGHT, held(after, trust), held(answers, confidences))
    for b, i, k in np.ndindex(*before.shape, ACTIONS_OF_AN_AGENT):
        local, team = [], []
        for s in range(SAMPLES):
            given_answers = [answers[b, j, k, s] if j == i else after[b, j] for j in agents]
            surety = [confidences[b, j, k, s] if j == i else trust[b, j] for j in agents]
            with_agent = slow_consensus(given_answers, surety) == RIGHT
            without = slow_consensus(given_answers[:i] + given_answers[i + 1 :], surety[:i] + surety[i + 1 :]) == RIGHT
            local.append(int(given_answers[i] == RIGHT) - int(before[b, i] == RIGHT))
            team.append(int(with_agent) - int(without))
        assert r_local[b, i, k] == sum(local) / SAMPLES
        assert r_global[b, i, k] == sum(team) / SAMPLES


@settings(deadline=None)
@given(teams())
def test_a_weighted_vote_is_won_by_the_largest_sum_of_equals_the_lowest_agents(batch):
    won = is_vote_correct(held(*batch), batch[1])
    for b, (answers, weights) in enumerate(zip(*batch, strict=True)):
        cast = Counter()
        for answer, weight in zip(answers, weights, strict=True):
            if answer != NONE:
                cast[answer] += weight
        assert won[b] == (bool(cast) and cast.most_common(1)[0][0] == RIGHT)  # of equals the one first met


@settings(deadline=None)
@given(teams(elements=(ANSWERS, CONFIDENCES, st.booleans())))
def test_the_most_confident_of_what_was_made_is_right_or_not(batch):
    won = is_most_confident_correct(held(*batch[:2]), batch[2])
    for b, rows in enumerate(zip(*batch, strict=True)):
        answered = [row for row in zip(*rows, strict=True) if row[2] and row[0] != NONE]
        best = max(answered, key=lambda row: row[1], default=(NONE, 0, True))
        assert won[b] == (best[0] == RIGHT)


@pytest.mark.parametrize(
    ("confidences", "actions", "expected"),
    [
        ((0.5, 0.6, 0.55, 0.9), (0, 2), [[0, 0], [0, -1]]),  # both stay; agent 1's refinement is surer, and wrong
        ((0.5, 0.6, 0.55, 0.58), (0, 2), [[0, 0], [0, -1]]),
        ((0.5, 0.6, 0.55, 0.58), (1, 2), [[0, 0], [0, 0]]),  # agent 0's refinement is surer still, and right
        ((0.7, 0.7, 0.55, 0.6), (0, 2), [[0, 0], [0, 0]]),  # of equals the first
        ((0.5, 0.8, 0.2, 0.9), (1, 3), [[0, 0], [0, -1]]),
        ((0.7, 0.8, 0.55, 0.6), (0, 2), [[0, 1], [0, 0]]),
        ((0.2, 0.3, 0.55, 0.5), (0, -1), [[0, 0], [0, 0]]),
    ],
)
def test_what_a_solution_does_to_an_answer_by_confidence(confidences, actions, expected):
    """Agent 0 writes a wrong solution and refines it to a right one; agent 1 the other way round."""
    solutions = Answers(np.array([[1, 0, 0, 2]]), np.array([confidences]), np.array([[False, True, True, False]]))
    visited = np.array([[True, False, True, False]])
    candidates = np.array([[[[0], [1]], [[2], [3]]]])
    after = np.array([[actions[0], max(actions[1], 2)]])
    assert most_confident_rewards(solutions, visited, after, candidates).tolist() == [expected]


@settings(deadline=None)
@given(teams())
def test_right_share(batch):
    share = right_share(batch[0], batch[0] == RIGHT, batch[1])
    for b, (answers, weights) in enumerate(zip(*batch, strict=True)):
        right = sum(w for a, w in zip(answers, weights, strict=True) if a == RIGHT)
        cast = sum(w for a, w in zip(answers, weights, strict=True) if a != NONE)
        assert share[b] == (right / cast if cast else 0)


@pytest.mark.parametrize(
    ("answers", "confidences", "team_answer"),
    [
        ([5, 5, 7], [0.1, 0.1, 1.0], 5),  # the plurality, however unsure
        ([5, 7, 9], [0.2, 0.6, 0.4], 7),  # a tie goes to the surest
        ([5, 7, 5, 7], [0.1, 0.4, 0.6, 0.4], 7),  # ... by summed confidence, not the highest
        ([7, 5], [0.5, 0.5], 7),  # equally sure: the lowest agent
        ([7, 5, 5, 7], [0.25, 0.5, 0.25, 0.5], 7),
        ([NONE, NONE, 5], [0.9, 0.9, 0.0], 5),  # no answer never wins over an answer
        ([NONE, NONE, NONE], [0.9, 0.9, 0.9], NONE),
        ([5, NONE, NONE, 7], [0.3, 0.9, 0.9, 0.4], 7),  # two without an answer do not agree
    ],
)
def test_who_wins(answers, confidences, team_answer):
    assert consensus(np.array(answers), np.array(confidences)) == team_answer


@pytest.mark.parametrize(
    ("answers", "confidences", "targets"),
    [
        ([5, 7, 9], [0.1, 0.5, 0.9], [2, 2, 1]),
        ([5, 5, 7], [0.1, 0.9, 0.5], [2, 2, 1]),  # an equal answer is no target, however sure
        ([5, 5, 5], [0.1, 0.2, 0.3], [-1, -1, -1]),
        ([5, 7, 9], [0.5, 0.5, 0.5], [1, 0, 0]),  # of equally sure peers the lowest
        ([5, NONE, NONE], [0.0, 0.9, 0.9], [-1, 0, 0]),  # nobody concedes to no answer
    ],
)
def test_whom_to_concede_to(answers, confidences, targets):
    assert concede_targets(np.array([answers]), np.array([confidences])).tolist() == [targets]


def test_where_the_actions_lead():
    # Three agents on nodes 0, 5 and 4; the second has no refinement left, the others have two each.
    refinements = np.array([[[1, 7], [-1, -1], [5, 8]]])
    targets = np.array([[[2], [0], [-1]]])
    candidates = candidate_nodes(np.array([[0, 5, 4]]), refinements, targets)
    assert candidates[0, :, PERSIST].tolist() == [[0, 0], [5, 5], [4, 4]]
    assert candidates[0, :, REFINE].tolist() == refinements[0].tolist()
    assert candidates[0, :, CONCEDE].tolist() == [[4, 4], [0, 0], [-1, -1]]

    each = np.array([[[1, 2], [0, -1], [-1, 1]]])
    candidates = candidate_nodes(np.array([[0, 5, 4]]), refinements, each)
    assert candidates[0, :, CONCEDE:, 0].tolist() == [[5, 4], [0, -1], [-1, 5]]


def test_the_rewards_of_one_round_in_words():
    # Agent 0 is wrong and concedes to agent 1, who is right and persists; agent 2 is wrong and persists.
    before = np.array([[1, RIGHT, 2]])
    answers = np.array([[[1, 3, RIGHT], [RIGHT, 4, 1], [2, RIGHT, RIGHT]]])[..., None]
    confidences = np.full(answers.shape, 0.5)
    confidences[0, 2] = 0.9
    after = held(np.array([[RIGHT, RIGHT, 2]]), np.array([[0.5, 0.5, 0.9]]))
    r_local, r_global = action_rewards(before == RIGHT, after, held(answers, confidences))
    # Agent 0: without it 2 beats RIGHT, being surer; only conceding makes RIGHT win.
    assert r_local[0, 0].tolist() == [0, 0, 1]
    assert r_global[0, 0].tolist() == [0, 0, 1]
    # Agent 1: without it 2 wins; if it left the right answer it would lose its own and the team's.
    assert r_local[0, 1].tolist() == [0, -1, -1]
    assert r_global[0, 1].tolist() == [1, 0, 0]
    # Agent 2: the others are right already.
    assert r_local[0, 2].tolist() == [0, 1, 1]
    assert r_global[0, 2].tolist() == [0, 0, 0]

"""The debate's rules as pure functions over a batch of debates.

Shapes: B debates, N agents, K actions, S refinements of a solution by one agent. `answer_class` holds an integer per
agent, equal for equivalent answers, and `UNPARSED` (-1) for no answer at all, which is equivalent to none. `confidence`
is in [0, 1]. Whether a solution is `correct` is told apart from its class: of two programs that do the same on all that
a debate can see, hidden tests may pass one alone. No model, no randomness, no RLlib.
"""

from typing import NamedTuple

import numpy as np

from mpdf_rllib.envs.answer_classes import UNPARSED

PERSIST, REFINE, CONCEDE = 0, 1, 2
"""Where an agent may choose whom to concede to, action CONCEDE + j concedes to the j-th of its peers."""
ACTIONS = ("persist", "refine", "concede")
NUM_ACTIONS = len(ACTIONS)


class Answers(NamedTuple):
    """What agents hold, or might; arrays of one shape.

    Attributes:
        answer_class: int64.
        confidence: In [0, 1].
        correct: bool.
    """

    answer_class: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray


def same_answer(answer_class: np.ndarray) -> np.ndarray:
    """Which agents' answers are equivalent: (..., N) -> bool (..., N, N); an unparsed answer is not even to itself."""
    parsed = answer_class != UNPARSED
    return (answer_class[..., :, None] == answer_class[..., None, :]) & parsed[..., :, None]


def may_concede(answer_class: np.ndarray) -> np.ndarray:
    """Which peers each agent may concede to, those with another answer: (..., N) -> bool (..., N, N)."""
    return ~same_answer(answer_class) & (answer_class != UNPARSED)[..., None, :]


def concede_targets(answer_class: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Of the peers that each agent may concede to the most confident, the lowest of equals [ours].

    Returns:
        int64, shape (B, N): the peer's index, -1 where no peer has another answer.
    """
    eligible = may_concede(answer_class)
    score = np.where(eligible, confidence[..., None, :], -1.0)
    return np.where(eligible.any(-1), score.argmax(-1), -1)


def candidate_nodes(node: np.ndarray, refinements: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Where each action leads: Persist stays, Refine goes to a refinement, Concede to the node where its target stands.

    Args:
        node: int64, shape (B, N): where the agents stand.
        refinements: int64, shape (B, N, S): the S refinements of that node, -1 at a chain's end.
        targets: int64, shape (B, N, C): whom each Concede adopts, -1 where it is illegal.

    Returns:
        int64, shape (B, N, 2 + C, S), the same for all S where the action is not Refine; -1 marks an illegal action.
    """
    peers = np.broadcast_to(node[:, None], (*node.shape, node.shape[-1]))
    adopted = np.where(targets >= 0, np.take_along_axis(peers, np.maximum(targets, 0), -1), -1)
    samples = refinements.shape[-1]
    persist, concede = (np.repeat(nodes[..., None], samples, -1) for nodes in (node[..., None], adopted))
    return np.concatenate([persist, refinements[..., None, :], concede], -2)


def speaker(answer_class: np.ndarray, confidence: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
    """The agent whose solution is the plurality's: of those who hold the plurality's answer the most confident [ours].

    Ties of answers go to the higher summed confidence, then to the lowest agent, as do ties of agents [ours].

    Args:
        answer_class: int64, shape (..., N).
        confidence: shape (..., N).
        present: bool, broadcastable to (..., N): which agents vote, by default all.

    Returns:
        int64, shape (...): an agent's index, -1 where nobody who votes has an answer.
    """
    votes_for = same_answer(answer_class)
    if present is not None:
        votes_for = votes_for & present[..., None, :] & present[..., :, None]
    votes = votes_for.sum(-1)
    trust = np.where(votes_for, confidence[..., None, :], 0.0).sum(-1)
    leads = votes == votes.max(-1, keepdims=True)
    winner = np.where(leads, trust, -1.0).argmax(-1)
    holds = np.take_along_axis(votes_for, winner[..., None, None], -2)[..., 0, :]
    return np.where(votes.max(-1) > 0, np.where(holds, confidence, -1.0).argmax(-1), -1)


def consensus(answer_class: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The plurality's answer, its speaker's: (..., N), (..., N) -> int64 (...), `UNPARSED` where nobody has one."""
    return _said(answer_class, speaker(answer_class, confidence), UNPARSED)


def is_team_correct(answers: Answers, present: np.ndarray | None = None) -> np.ndarray:
    """Whether the plurality's solution is right: arrays (..., N) -> bool (...); no answer is wrong."""
    return _said(answers.correct, speaker(answers.answer_class, answers.confidence, present), False)


def _said(values: np.ndarray, agent: np.ndarray, nobody: int | bool) -> np.ndarray:
    value = np.take_along_axis(values, np.maximum(agent, 0)[..., None], -1)[..., 0]
    return np.where(agent >= 0, value, nobody)


def is_team_correct_without_each(answers: Answers) -> np.ndarray:
    """Whether the solution of the other N - 1 agents is right, for each agent left out: (B, N) -> bool (B, N)."""
    n = answers.answer_class.shape[-1]
    everybody = Answers(*(np.broadcast_to(array[..., None, :], (*array.shape, n)) for array in answers))
    return is_team_correct(everybody, ~np.eye(n, dtype=bool))


def action_rewards(before: np.ndarray, after: Answers, candidates: Answers) -> tuple[np.ndarray, np.ndarray]:
    """The paper's two reward terms of every action of every agent, given what the peers did.

    r_local = [own answer correct after] - [correct before];
    r_global = [consensus correct] - [consensus correct without this agent], after the actions. Where an action leads to
    one of S solutions, both are the means over them [ours].

    Args:
        before: bool, shape (B, N): which agents were correct before the round.
        after: (B, N): what they hold after it, as they acted.
        candidates: (B, N, K, S): what each action may lead to.

    Returns:
        (r_local, r_global), float64, each of shape (B, N, K).
    """
    own = np.eye(before.shape[-1], dtype=bool)[:, None, None, :]
    alternative = Answers(
        *(
            np.where(own, candidate[..., None], held[:, None, None, None, :])
            for candidate, held in zip(candidates, after, strict=True)
        )
    )
    r_local = candidates.correct.mean(-1) - before[..., None]
    r_global = is_team_correct(alternative).mean(-1) - is_team_correct_without_each(after)[..., None]
    return r_local, r_global


def is_vote_correct(answers: Answers, weight: np.ndarray) -> np.ndarray:
    """Whether the answer with the largest sum of weights is right, of equals the lowest agent's [ours].

    Args:
        answers: Arrays of shape (..., N).
        weight: Non-negative, shape (..., N); an agent without an answer has no vote.

    Returns:
        bool, shape (...); no answer is wrong.
    """
    answer_class = answers.answer_class
    trust = np.where(same_answer(answer_class), weight[..., None, :], 0.0).sum(-1)
    winner = np.where(answer_class != UNPARSED, trust, -1.0).argmax(-1)[..., None]
    parsed = np.take_along_axis(answer_class, winner, -1)[..., 0] != UNPARSED
    return np.take_along_axis(answers.correct, winner, -1)[..., 0] & parsed


def most_confident(answer_class: np.ndarray, confidence: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Of solutions with an answer the most confident one, of equals that of the lowest index [ours].

    Args:
        answer_class: int64, shape (..., M).
        confidence: shape (..., M).
        made: bool, shape (..., M): which of the M solutions there are.

    Returns:
        int64, shape (...): its index, -1 where none has an answer.
    """
    eligible = made & (answer_class != UNPARSED)
    return np.where(eligible.any(-1), np.where(eligible, confidence, -1.0).argmax(-1), -1)


def is_most_confident_correct(solutions: Answers, made: np.ndarray) -> np.ndarray:
    """Whether the `most_confident` of the solutions (..., M) that are made is right: bool (...); no answer is wrong."""
    shape = np.broadcast_shapes(solutions.correct.shape, made.shape)
    best = most_confident(solutions.answer_class, solutions.confidence, made)
    return _said(np.broadcast_to(solutions.correct, shape), best, False)


def most_confident_rewards(
    solutions: Answers, visited: np.ndarray, after: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """The r_global of a team whose answer is the most confident of all solutions that the debate has made [ours].

    Whether that one is right with what the action leads to, less whether it is without; both with what the peers made.

    Args:
        solutions: (B, M): all of the question.
        visited: bool, shape (B, M): those that the debate made before the round.
        after: int64, shape (B, N): the solutions that the agents hold after it, as they acted.
        candidates: int64, shape (B, N, K, S): those that each action may lead to, -1 where it is illegal.

    Returns:
        float64, shape (B, N, K); meaningless where illegal.
    """
    debates, n = after.shape
    debate, agent, other = np.nonzero(np.broadcast_to(~np.eye(n, dtype=bool), (debates, n, n)))
    without = np.repeat(visited[:, None], n, 1)
    without[debate, agent, after[debate, other]] = True
    best = most_confident(solutions.answer_class[:, None], solutions.confidence[:, None], without)
    rows = np.arange(debates)
    of_best = Answers(*(array[rows[:, None], best] for array in solutions))
    of_candidate = Answers(*(array[rows[:, None, None, None], candidates] for array in solutions))
    right_without = of_best.correct & (best >= 0)

    best, confidence = best[..., None, None], of_best.confidence[..., None, None]
    ties = (of_candidate.confidence == confidence) & (candidates < best)
    wins = (best < 0) | (of_candidate.confidence > confidence) | ties
    wins &= of_candidate.answer_class != UNPARSED
    right = np.where(wins, of_candidate.correct, right_without[..., None, None])
    return right.mean(-1) - right_without[..., None]


def right_share(answer_class: np.ndarray, correct: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The share of right solutions in a weighted vote [ours].

    Args:
        answer_class: int64, shape (..., N).
        correct: bool, shape (..., N).
        weight: non-negative, shape (..., N); an agent without an answer has no vote.

    Returns:
        shape (...), in [0, 1]; 0 where nobody has an answer.
    """
    weight = np.where(answer_class != UNPARSED, weight, 0.0)
    total = weight.sum(-1)
    right = np.where(correct, weight, 0.0).sum(-1)
    return np.divide(right, total, out=np.zeros_like(total), where=total != 0)

"""The debate's rules as pure functions over a batch of debates.

Shapes: B debates, N agents, K actions. `answer_class` holds an integer per agent, equal for equivalent answers,
`CORRECT` (0) for the reference answer and `UNPARSED` (-1) for no answer at all, which is equivalent to none.
`confidence` is in [0, 1]. No model, no randomness, no RLlib.
"""

import numpy as np

from mpdf_rllib.envs.solution_tree import CORRECT, UNPARSED

PERSIST, REFINE, CONCEDE = 0, 1, 2
ACTIONS = ("persist", "refine", "concede")
NUM_ACTIONS = len(ACTIONS)


def same_answer(answer_class: np.ndarray) -> np.ndarray:
    """Which agents' answers are equivalent: (..., N) -> bool (..., N, N); an unparsed answer is not even to itself."""
    parsed = answer_class != UNPARSED
    return (answer_class[..., :, None] == answer_class[..., None, :]) & parsed[..., :, None]


def concede_targets(answer_class: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Whom each agent would concede to: the most confident peer with another answer, the lowest of equals [ours].

    Peers without an answer are nobody's target.

    Returns:
        int64, shape (B, N): the peer's index, -1 where no peer has another answer.
    """
    eligible = ~same_answer(answer_class) & (answer_class != UNPARSED)[..., None, :]
    score = np.where(eligible, confidence[..., None, :], -1.0)
    return np.where(eligible.any(-1), score.argmax(-1), -1)


def candidate_nodes(node: np.ndarray, child: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Where each action leads: Persist stays, Refine goes to the child, Concede to the node where the target stands.

    Args:
        node: int64, shape (B, N): where the agents stand.
        child: int64, shape (M,): each node's refinement, -1 at a chain's end.
        target: int64, shape (B, N): from `concede_targets`.

    Returns:
        int64, shape (B, N, K); -1 marks an illegal action.
    """
    adopted = np.where(target >= 0, np.take_along_axis(node, np.maximum(target, 0), -1), -1)
    return np.stack([node, child[node], adopted], -1)


def consensus(answer_class: np.ndarray, confidence: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
    """The team's answer: the plurality, ties by summed confidence, then by the lowest agent [ours].

    Args:
        answer_class: int64, shape (..., N).
        confidence: shape (..., N).
        present: bool, broadcastable to (..., N): which agents vote, by default all.

    Returns:
        int64, shape (...): an answer class, `UNPARSED` where nobody who votes has an answer.
    """
    votes_for = same_answer(answer_class)
    if present is not None:
        votes_for = votes_for & present[..., None, :] & present[..., :, None]
    votes = votes_for.sum(-1)
    trust = np.where(votes_for, confidence[..., None, :], 0.0).sum(-1)
    leads = votes == votes.max(-1, keepdims=True)
    winner = np.where(leads, trust, -1.0).argmax(-1)
    answer = np.take_along_axis(answer_class, winner[..., None], -1)[..., 0]
    return np.where(votes.max(-1) > 0, answer, UNPARSED)


def consensus_without_each(answer_class: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The consensus of the other N - 1 agents, for each agent left out: (B, N) -> int64 (B, N)."""
    n = answer_class.shape[-1]
    others = ~np.eye(n, dtype=bool)
    return consensus(
        np.broadcast_to(answer_class[..., None, :], (*answer_class.shape, n)),
        np.broadcast_to(confidence[..., None, :], (*confidence.shape, n)),
        others,
    )


def action_rewards(
    before: np.ndarray,
    candidate_class: np.ndarray,
    candidate_confidence: np.ndarray,
    actions: np.ndarray,
    legal: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The paper's two reward terms of every action of every agent, given what the peers did.

    r_local = [own answer correct after] - [correct before];
    r_global = [consensus correct] - [consensus correct without this agent], after the actions.

    Args:
        before: int64, shape (B, N): answer classes before the round.
        candidate_class: int64, shape (B, N, K): the class that each action leads to.
        candidate_confidence: shape (B, N, K).
        actions: int64, shape (B, N): what the agents did; legal ones.
        legal: bool, shape (B, N, K).

    Returns:
        (r_local, r_global), float64, each of shape (B, N, K), NaN where the action is illegal.
    """
    n, k = candidate_class.shape[-2:]
    taken = actions[..., None]
    after = np.take_along_axis(candidate_class, taken, -1)[..., 0]
    after_confidence = np.take_along_axis(candidate_confidence, taken, -1)[..., 0]

    shape = (*after.shape, k, n)
    own = np.eye(n, dtype=bool)[:, None, :]
    alternative = np.where(own, candidate_class[..., None], np.broadcast_to(after[:, None, None, :], shape))
    confidence = np.where(
        own, candidate_confidence[..., None], np.broadcast_to(after_confidence[:, None, None, :], shape)
    )

    without = consensus_without_each(after, after_confidence) == CORRECT
    r_local = (candidate_class == CORRECT) * 1.0 - (before == CORRECT)[..., None]
    r_global = (consensus(alternative, confidence) == CORRECT) * 1.0 - without[..., None]
    return np.where(legal, r_local, np.nan), np.where(legal, r_global, np.nan)


def reference_share(answer_class: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The reference answer's share of a weighted vote [ours].

    Args:
        answer_class: int64, shape (..., N).
        weight: non-negative, shape (..., N); an agent without an answer has no vote.

    Returns:
        shape (...), in [0, 1]; 0 where nobody has an answer.
    """
    weight = np.where(answer_class != UNPARSED, weight, 0.0)
    total = weight.sum(-1)
    right = np.where(answer_class == CORRECT, weight, 0.0).sum(-1)
    return np.divide(right, total, out=np.zeros_like(total), where=total > 0)

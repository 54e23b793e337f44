"""The debate's rules as pure functions over a batch of debates.

Shapes: B debates, N agents, K actions, S refinements of a solution by one agent. `answer_class` holds an integer per
agent, equal for equivalent answers, `CORRECT` (0) for the reference answer and `UNPARSED` (-1) for no answer at all,
which is equivalent to none. `confidence` is in [0, 1]. No model, no randomness, no RLlib.
"""

import numpy as np

from mpdf_rllib.envs.solution_tree import CORRECT, UNPARSED

PERSIST, REFINE, CONCEDE = 0, 1, 2
"""Where an agent may choose whom to concede to, action CONCEDE + j concedes to the j-th of its peers."""
ACTIONS = ("persist", "refine", "concede")
NUM_ACTIONS = len(ACTIONS)


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
    after: np.ndarray,
    after_confidence: np.ndarray,
    candidate_class: np.ndarray,
    candidate_confidence: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The paper's two reward terms of every action of every agent, given what the peers did.

    r_local = [own answer correct after] - [correct before];
    r_global = [consensus correct] - [consensus correct without this agent], after the actions. Where an action leads to
    one of S solutions, both are the means over them [ours].

    Args:
        before: int64, shape (B, N): answer classes before the round.
        after: int64, shape (B, N): after it, as the agents acted.
        after_confidence: shape (B, N).
        candidate_class: int64, shape (B, N, K, S): the classes that each action may lead to.
        candidate_confidence: shape (B, N, K, S).

    Returns:
        (r_local, r_global), float64, each of shape (B, N, K).
    """
    own = np.eye(after.shape[-1], dtype=bool)[:, None, None, :]
    alternative = np.where(own, candidate_class[..., None], after[:, None, None, None, :])
    confidence = np.where(own, candidate_confidence[..., None], after_confidence[:, None, None, None, :])
    with_agent = consensus(alternative, confidence) == CORRECT
    without = consensus_without_each(after, after_confidence) == CORRECT
    r_local = (candidate_class == CORRECT).mean(-1) - (before == CORRECT)[..., None]
    r_global = with_agent.mean(-1) - without[..., None]
    return r_local, r_global


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
    return np.divide(right, total, out=np.zeros_like(total), where=total != 0)

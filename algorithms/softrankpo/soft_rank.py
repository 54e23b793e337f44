"""The maths of SoftRankPO, pure functions of reward vectors."""

import numpy as np
from scipy.special import ndtri_exp
from scipy.stats import rankdata


def soft_rank_advantages(rewards: np.ndarray, tau: float = 0.5, mask: np.ndarray | None = None) -> np.ndarray:
    """Advantages from the ranks of the rewards in each state (Eq. 2 [paper]).

    p_i = ((rank(R_i) + 1/2) / K) ** tau, with ranks from 0, ascending, averaged over ties [ours]; A* = Phi^-1(p), then
    standardised over the K actions with the population's standard deviation. A state whose rewards are all equal has no
    preference: its advantages are exactly 0 [ours].

    Args:
        rewards: shape (..., K), finite where legal.
        tau: Positive; the temperature of the ranks.
        mask: bool, shape (..., K): legal actions, by default all. K counts, and ranks run over, these alone.

    Returns:
        float64, shape (..., K); 0 where illegal.

    Raises:
        ValueError: tau is not positive, shapes differ, or a legal reward is not finite.
    """
    rewards = np.asarray(rewards, np.float64)
    mask = np.ones(rewards.shape, bool) if mask is None else np.asarray(mask, bool)
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it must be positive")
    if mask.shape != rewards.shape:
        raise ValueError(f"mask has shape {mask.shape}, rewards {rewards.shape}")
    if not np.isfinite(rewards[mask]).all():
        raise ValueError("a legal action's reward is NaN or infinite")

    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    # Illegal actions rank above all legal ones and so change no legal rank.
    ranks = rankdata(np.where(mask, rewards, np.inf), axis=-1) - 1
    scores = np.where(mask, ndtri_exp(tau * np.log(np.where(mask, (ranks + 0.5) / count, 0.5))), 0.0)
    centred = np.where(mask, scores - scores.sum(-1, keepdims=True) / count, 0.0)
    deviation = np.sqrt((centred**2).sum(-1, keepdims=True) / count)
    differs = has_preference(rewards, mask)[..., None]
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=differs & mask)


def centred_rewards(rewards: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """R less its mean over a state's legal actions, what Eq. 4 [paper] matches as it is printed.

    Args:
        rewards: shape (..., K), finite where legal.
        mask: bool, shape (..., K): legal actions.

    Returns:
        float64, shape (..., K); 0 where illegal.
    """
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    rewards = np.where(mask, rewards, 0.0)
    return np.where(mask, rewards - rewards.sum(-1, keepdims=True) / count, 0.0)


def has_preference(rewards: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether the legal rewards of a state differ: (..., K) and bool (..., K) -> bool (...)."""
    highest = np.where(mask, rewards, -np.inf).max(-1)
    lowest = np.where(mask, rewards, np.inf).min(-1)
    return highest > lowest


def best_action_labels(rewards: np.ndarray) -> np.ndarray:
    """Distribution over a state's best actions, shared equally among ties [ours].

    Args:
        rewards: shape (..., K), NaN where illegal.

    Returns:
        float64, shape (..., K), sums to 1.
    """
    best = rewards == np.nanmax(rewards, -1, keepdims=True)
    return best / best.sum(-1, keepdims=True)

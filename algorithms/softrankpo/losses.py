"""The terms of SoftRankPO's objectives: pure functions of log-probabilities and advantages.

All take float tensors of shape (B, K) and `legal`, bool (B, K), with a legal action in every state, and return shape
(B,) unless they say otherwise; other or differing shapes raise ValueError. Sums and means run over legal actions alone:
what an illegal entry holds, be it -inf or NaN, changes neither a value nor a gradient.
"""

import torch
from torch import Tensor


def centred(values: Tensor, legal: Tensor) -> Tensor:
    """Subtracts the mean over legal actions: (B, K) and bool (B, K) -> (B, K), 0 where illegal."""
    values = torch.where(legal, values, 0.0)
    return torch.where(legal, values - values.sum(-1, keepdim=True) / legal.sum(-1, keepdim=True), 0.0)


def rank_matching_loss(logp: Tensor, reference_logp: Tensor, advantages: Tensor, legal: Tensor, beta: float) -> Tensor:
    """Mean over legal actions of (c(beta log pi / pi_ref) - A)^2: Eq. 4 [paper] with A in place of R [ours].

    c centres over the legal actions. It is convex in the log-ratios and least, 0, at pi = pi_ref exp(A / beta) / Z.

    Args:
        logp: Log-probabilities of the policy.
        reference_logp: Of the frozen reference.
        advantages: Centred over legal actions.
        legal: Which actions are legal.
        beta: Positive; the larger, the closer to the reference.
    """
    _check_shapes(logp, reference_logp, advantages, legal)
    gap = centred(beta * (logp - reference_logp), legal) - advantages
    return torch.where(legal, gap**2, 0.0).sum(-1) / legal.sum(-1)


def log_policy_loss(logp: Tensor, reference_logp: Tensor, advantages: Tensor, legal: Tensor, beta: float) -> Tensor:
    """Eq. 3 as printed but for its entropy [paper], to be minimised: beta KL(pi || pi_ref) - A . log pi.

    It has no minimum where an advantage is negative [ours]: giving that action up, pi_j -> 0, sends A_j log pi_j to
    infinity while the KL stays finite. So the policy drifts for as long as it is trained, whatever beta is.

    Args:
        logp: Log-probabilities of the policy.
        reference_logp: Of the frozen reference.
        advantages: Of each action.
        legal: Which actions are legal.
        beta: Positive; coefficient of the KL.
    """
    _check_shapes(logp, reference_logp, advantages, legal)
    logp = torch.where(legal, logp, 0.0)
    gain = torch.where(legal, advantages * logp, 0.0).sum(-1)
    return beta * kl_divergence(logp, reference_logp, legal) - gain


def kl_divergence(logp: Tensor, reference_logp: Tensor, legal: Tensor) -> Tensor:
    """KL(pi || pi_ref) in nats."""
    _check_shapes(logp, reference_logp, legal)
    logp = torch.where(legal, logp, 0.0)
    return torch.where(legal, logp.exp() * (logp - reference_logp), 0.0).sum(-1)


def entropy(logp: Tensor, legal: Tensor) -> Tensor:
    """H(pi) in nats."""
    _check_shapes(logp, legal)
    logp = torch.where(legal, logp, 0.0)
    return -torch.where(legal, logp.exp() * logp, 0.0).sum(-1)


def _check_shapes(first: Tensor, *others: Tensor) -> None:
    if first.ndim != 2 or any(other.shape != first.shape for other in others):
        raise ValueError(f"shapes {[tuple(tensor.shape) for tensor in (first, *others)]}; all must be the same (B, K)")


OBJECTIVES = {"rank_matching": rank_matching_loss, "log_policy": log_policy_loss}

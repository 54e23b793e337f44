"""SoftRankPO's losses: cross-entropy during the warm start, rank matching after."""

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.apis.target_network_api import TARGET_NETWORK_ACTION_DIST_INPUTS
from ray.rllib.utils.annotations import override
from ray.rllib.utils.typing import ModuleID
from torch import Tensor

from mpdf_rllib.algorithms.softrankpo.softrankpo_connector import ADVANTAGES, LABELS, PREFERENCE


def centred(values: Tensor, legal: Tensor) -> Tensor:
    """Subtracts the mean over legal actions: (B, K) and bool (B, K) -> (B, K), 0 where illegal."""
    values = torch.where(legal, values, 0.0)
    return torch.where(legal, values - values.sum(-1, keepdim=True) / legal.sum(-1, keepdim=True), 0.0)


def rank_matching_loss(logp: Tensor, reference_logp: Tensor, advantages: Tensor, legal: Tensor, beta: float) -> Tensor:
    """Mean over legal actions of (c(beta log pi / pi_ref) - A)^2: Eq. 4 [paper] with A in place of R [ours].

    c centres over the legal actions. The minimum is pi = pi_ref exp(A / beta) / Z.

    Args:
        logp: Log-probabilities of the policy, shape (B, K).
        reference_logp: Of the frozen reference, shape (B, K).
        advantages: Centred over legal actions, shape (B, K).
        legal: bool, shape (B, K).
        beta: Positive; the larger, the closer to the reference.

    Returns:
        Shape (B,).
    """
    gap = centred(beta * (logp - reference_logp), legal) - advantages
    return torch.where(legal, gap**2, 0.0).sum(-1) / legal.sum(-1)


class SoftRankPOTorchLearner(TorchLearner):
    """Minimises the loss of the stage that the module is in; states without preference are left out."""

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: ModuleID, config=None) -> None:
        parameters = [p for p in self.get_parameters(self.module[module_id]) if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=config.lr
        )

    @override(TorchLearner)
    def _update(self, batch: dict[ModuleID, dict[str, Any]], **kwargs):
        # Learners exchange the gradients of one module after the other; RLlib's order is that of a set in each process.
        return super()._update(dict(sorted(batch.items())), **kwargs)

    @override(TorchLearner)
    def compute_loss_for_module(self, *, module_id: ModuleID, config, batch: dict[str, Any], fwd_out: dict[str, Any]):
        legal = batch[Columns.OBS]["action_mask"] > 0
        logp = torch.log_softmax(fwd_out[Columns.ACTION_DIST_INPUTS], -1)
        reference_logp = torch.log_softmax(fwd_out[TARGET_NETWORK_ACTION_DIST_INPUTS], -1)
        if self.module[module_id].unwrapped().reference_frozen:
            losses = rank_matching_loss(logp, reference_logp, batch[ADVANTAGES], legal, config.beta)
        else:
            losses = -(batch[LABELS] * logp).sum(-1)
        preference = batch[PREFERENCE]
        learners, count = 1, preference.sum()
        if self.distributed:
            # Learners average their gradients: each divides by its share of all their states, not by its own states.
            learners = self.config.num_learners
            torch.distributed.all_reduce(count)
        policy_loss = learners * (losses * preference).sum() / count.clamp(min=1)

        p = logp.exp()
        entropy = -(p * logp).sum(-1).mean()
        self.metrics.log_dict(
            {
                POLICY_LOSS_KEY: policy_loss.detach(),
                ENTROPY_KEY: entropy.detach(),
                "kl_to_reference": (p * (logp - reference_logp)).sum(-1).mean().detach(),
            },
            key=module_id,
            window=1,
        )
        return policy_loss

"""SoftRankPO's learner: cross-entropy during the warm start, the config's objective after."""

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.apis.target_network_api import TARGET_NETWORK_ACTION_DIST_INPUTS
from ray.rllib.utils.annotations import override
from ray.rllib.utils.typing import ModuleID
from torch import Tensor

from mpdf_rllib.algorithms.softrankpo.losses import OBJECTIVES, entropy, kl_divergence
from mpdf_rllib.algorithms.softrankpo.softrankpo_connector import ADVANTAGES, LABELS, PREFERENCE
from mpdf_rllib.envs.seeding import seed_draws
from mpdf_rllib.errors import TrainingError


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
    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().before_gradient_based_update(timesteps=timesteps)
        if self.config.seed is not None:
            seed_draws([self.config.seed, self._weights_seq_no])

    @override(TorchLearner)
    def _update(self, batch: dict[ModuleID, dict[str, Any]], **kwargs):
        # Learners exchange the gradients of one module after the other; RLlib's order is that of a set in each process.
        return super()._update(dict(sorted(batch.items())), **kwargs)

    @override(TorchLearner)
    def compute_loss_for_module(self, *, module_id: ModuleID, config, batch: dict[str, Any], fwd_out: dict[str, Any]):
        legal = batch[Columns.OBS]["action_mask"] > 0
        logp = torch.log_softmax(fwd_out[Columns.ACTION_DIST_INPUTS], -1)
        reference_logp = torch.log_softmax(batch[TARGET_NETWORK_ACTION_DIST_INPUTS], -1)
        entropies = entropy(logp, legal)
        if self.module[module_id].unwrapped().reference_frozen:
            losses, counted = self.stage_two_losses(config, batch, logp, reference_logp, legal)
            losses = losses - config.entropy_coeff * entropies
        else:
            losses, counted = -(batch[LABELS] * logp).sum(-1), batch[PREFERENCE]
        learners, count = 1, counted.sum()
        if self.distributed:
            # Learners average their gradients: each divides by its share of all their states, not by its own states.
            learners = self.config.num_learners
            torch.distributed.all_reduce(count)
        policy_loss = learners * (losses * counted).sum() / count.clamp(min=1)
        if not policy_loss.isfinite():
            raise TrainingError(
                f"iteration {self._weights_seq_no}: the loss of {module_id} is {policy_loss.item()}; lower lr, now "
                f"{config.lr} (objective is {config.objective!r}: 'log_policy' has no minimum, 'rank_matching' has)"
            )

        self.metrics.log_dict(
            {
                POLICY_LOSS_KEY: policy_loss.detach(),
                ENTROPY_KEY: entropies.mean().detach(),
                "kl_to_reference": kl_divergence(logp, reference_logp, legal).mean().detach(),
            },
            key=module_id,
            window=1,
        )
        return policy_loss

    def stage_two_losses(
        self, config, batch: dict[str, Any], logp: Tensor, reference_logp: Tensor, legal: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses of agent steps without their entropy, and 1 for those that count, else 0, both of shape (B,).

        Args:
            config: Of the module.
            batch: What the connectors made.
            logp: Of the policy, shape (B, K).
            reference_logp: Of the frozen reference, shape (B, K).
            legal: bool, shape (B, K).
        """
        losses = OBJECTIVES[config.objective](logp, reference_logp, batch[ADVANTAGES], legal, config.beta)
        return losses, batch[PREFERENCE]

"""GRPO as published: a question's group is several whole debates, of which each is told its outcome alone."""

from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.utils.annotations import override
from torch import Tensor

from mpdf_rllib.algorithms.grpo.grpo import GRPO, GRPOConfig, z_score_advantages
from mpdf_rllib.algorithms.softrankpo.losses import kl_divergence
from mpdf_rllib.algorithms.softrankpo.softrankpo_torch_learner import SoftRankPOTorchLearner

ROLLOUT_ADVANTAGES = "rollout_advantages"

CLIP = 0.2
"""How far a ratio may go from 1, as in PPO [published]."""


def rollout_advantages(questions: list[str], outcomes: np.ndarray) -> np.ndarray:
    """The z-score of each debate's outcome among the debates on the same question, 0 where all came to the same.

    Args:
        questions: Ids, one a debate.
        outcomes: shape (debates,).

    Returns:
        float64, shape (debates,).
    """
    advantages = np.zeros(len(outcomes))
    of = np.array(questions)
    for question in dict.fromkeys(questions):
        group = of == question
        advantages[group] = z_score_advantages(np.asarray(outcomes, float)[group], np.ones(group.sum(), bool))
    return advantages


class RolloutAdvantages(ConnectorV2):
    """Adds the column `ROLLOUT_ADVANTAGES`, float32: of each agent step that of its debate; its outcome is 1 or 0.

    A group's debates have to come to one learner.
    """

    @override(ConnectorV2)
    def __call__(self, *, rl_module, batch: dict[str, Any], episodes, metrics=None, **kwargs) -> dict[str, Any]:
        firsts = [next(iter(episode.agent_episodes.values())) for episode in episodes]
        questions = [first.get_infos(0)["question"] for first in firsts]
        outcomes = np.array([first.get_infos(-1)["correct"] for first in firsts])
        by_debate = dict(
            zip((episode.id_ for episode in episodes), rollout_advantages(questions, outcomes), strict=True)
        )
        for episode in self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False):
            values = np.full(len(episode), by_debate[episode.multi_agent_episode_id], np.float32)
            self.add_n_batch_items(batch, ROLLOUT_ADVANTAGES, values, len(episode), episode)
        return batch


def clipped_loss(
    logp: Tensor,
    reference_logp: Tensor,
    legal: Tensor,
    taken: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    beta: float,
) -> Tensor:
    """GRPO's loss of each agent step, of r = pi / pi_old: -min(r A, clip(r, 1 +- CLIP) A) + beta KL(pi || pi_ref).

    Args:
        logp: Of the policy, shape (B, K).
        reference_logp: Of the frozen reference, shape (B, K).
        legal: bool, shape (B, K).
        taken: Actions, int64, shape (B,).
        old_logp: Of the actions, by the policy that took them, shape (B,).
        advantages: shape (B,).
        beta: Coefficient of the KL, which is exact here and an estimate in the paper of GRPO.

    Returns:
        Shape (B,).
    """
    ratio = (logp.gather(-1, taken.unsqueeze(-1)).squeeze(-1) - old_logp).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    return beta * kl_divergence(logp, reference_logp, legal) - gain


class RolloutGRPOTorchLearner(SoftRankPOTorchLearner):
    """Stage one is SoftRankPO's; stage two learns from the actions that were taken."""

    @override(SoftRankPOTorchLearner)
    def stage_two_losses(
        self, config, batch: dict[str, Any], logp: Tensor, reference_logp: Tensor, legal: Tensor
    ) -> tuple[Tensor, Tensor]:
        advantages = batch[ROLLOUT_ADVANTAGES]
        taken, old_logp = batch[Columns.ACTIONS].long(), batch[Columns.ACTION_LOGP]
        losses = clipped_loss(logp, reference_logp, legal, taken, old_logp, advantages, config.beta)
        return losses, torch.ones_like(losses)


class RolloutGRPOConfig(GRPOConfig):
    """Configures GRPO on groups of debates; as many as `num_envs_per_env_runner` has a question are its group.

    A group of one has nothing to compare: give it two debates at least on each question. `beta` is the coefficient of
    the KL to the reference; `objective` has no effect.
    """

    def __init__(self, algo_class=None):
        super().__init__(algo_class=algo_class or RolloutGRPO)

    @override(AlgorithmConfig)
    def get_default_learner_class(self):
        return RolloutGRPOTorchLearner

    @override(AlgorithmConfig)
    def build_learner_connector(self, input_observation_space, input_action_space, device=None):
        pipeline = super().build_learner_connector(input_observation_space, input_action_space, device)
        pipeline.insert_after("ActionAdvantages", RolloutAdvantages())
        return pipeline


class RolloutGRPO(GRPO):
    """Group-relative policy optimisation (Shao et al., arXiv 2402.03300), on debates as roll-outs.

    A debate's return, 1 where the team's answer is right and else 0, is the advantage of all of its agents' steps once
    it is standardised over the debates on the same question. What the other actions would have brought is not used.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> RolloutGRPOConfig:
        return RolloutGRPOConfig()

"""GRPO on RLlib, for comparison with SoftRankPO. Importing it registers "GRPO" and "RolloutGRPO" with Ray Tune."""

from ray import tune

from mpdf_rllib.algorithms.grpo.grpo import GRPO, GRPOConfig, z_score_advantages
from mpdf_rllib.algorithms.grpo.rollout_grpo import RolloutGRPO, RolloutGRPOConfig

tune.register_trainable("GRPO", GRPO)
tune.register_trainable("RolloutGRPO", RolloutGRPO)

__all__ = ["GRPO", "GRPOConfig", "RolloutGRPO", "RolloutGRPOConfig", "z_score_advantages"]

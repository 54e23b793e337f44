"""GRPO on RLlib, for comparison with SoftRankPO. Importing it registers "GRPO" with Ray Tune."""

from ray import tune

from mpdf_rllib.algorithms.grpo.grpo import GRPO, GRPOConfig, z_score_advantages

tune.register_trainable("GRPO", GRPO)

__all__ = ["GRPO", "GRPOConfig", "z_score_advantages"]

"""RLlib's own PPO on debates, for comparison with SoftRankPO."""

from mpdf_rllib.algorithms.ppo.ppo import PPOMetaPolicyRLModule, ppo_config

__all__ = ["PPOMetaPolicyRLModule", "ppo_config"]

"""SoftRankPO on RLlib: config, algorithm, learner, connector and the pure maths of its advantages.

Importing it registers "SoftRankPO" with Ray Tune, and "deliberation" as an env.
"""

from ray import tune

from mpdf_rllib.algorithms.debate_settings import POLICY
from mpdf_rllib.algorithms.softrankpo.soft_rank import soft_rank_advantages
from mpdf_rllib.algorithms.softrankpo.softrankpo import SoftRankPO, SoftRankPOConfig

tune.register_trainable("SoftRankPO", SoftRankPO)

__all__ = ["POLICY", "SoftRankPO", "SoftRankPOConfig", "soft_rank_advantages"]

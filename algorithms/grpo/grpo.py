"""GRPO's advantages in SoftRankPO's learner, so that what the two differ in is ranks or z-scores alone [ours]."""

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from mpdf_rllib.algorithms.softrankpo import SoftRankPO, SoftRankPOConfig
from mpdf_rllib.algorithms.softrankpo.soft_rank import centred_rewards, has_preference
from mpdf_rllib.algorithms.softrankpo.softrankpo_connector import Advantages

EPSILON = 1e-6


def z_score_advantages(rewards: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(R - mean R) / (std R + 1e-6) over a state's legal actions, with the population's standard deviation.

    Args:
        rewards: shape (..., K), finite where legal.
        mask: bool, shape (..., K): legal actions.

    Returns:
        float64, shape (..., K); 0 where illegal, and where all legal rewards are equal.
    """
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    centred = centred_rewards(rewards, mask)
    scores = centred / (np.sqrt((centred**2).sum(-1, keepdims=True) / count) + EPSILON)
    return np.where(has_preference(rewards, mask)[..., None], scores, 0.0)


class GRPOConfig(SoftRankPOConfig):
    """Configures GRPO for a `DeliberationEnv`: SoftRankPO's settings but `tau` and `advantages`."""

    def __init__(self, algo_class=None):
        super().__init__(algo_class=algo_class or GRPO)
        del self.tau, self.advantages

    @override(SoftRankPOConfig)
    def action_advantages(self) -> Advantages:
        return z_score_advantages


class GRPO(SoftRankPO):
    """Group-relative policy optimisation, where the group is a state's actions.

    The published one (Shao et al., arXiv 2402.03300) draws its group and clips a ratio to the policy that drew it; here
    all K rewards are known, and stages, objective and reference are SoftRankPO's.
    """

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> GRPOConfig:
        return GRPOConfig()

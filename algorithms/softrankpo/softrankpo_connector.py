"""Learner connectors: what the loss needs of each state, of the episodes' reward vectors and the frozen reference."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override

from mpdf_rllib.algorithms.softrankpo.soft_rank import best_action_labels, has_preference

ACTION_REWARDS = "action_rewards"
ADVANTAGES = "action_advantages"
LABELS = "best_action_labels"
PREFERENCE = "has_preference"

Advantages = Callable[..., np.ndarray]
"""Called with rewards, (..., K), and `mask`, the legal actions; returns float64, (..., K), 0 where illegal."""


class ActionAdvantages(ConnectorV2):
    """Adds what the loss needs of each agent step.

    Columns, float32: `ADVANTAGES` (K,); `LABELS` (K,), the warm start's; `PREFERENCE`, 1 where the rewards of the
    state's actions differ. Each is a function of one state, so episodes may be sharded over learners.
    """

    def __init__(self, advantages: Advantages):
        """Makes the connector.

        Args:
            advantages: Makes the advantages of the rewards.
        """
        super().__init__()
        self.advantages = advantages

    @override(ConnectorV2)
    def __call__(self, *, rl_module, batch: dict[str, Any], episodes, metrics=None, **kwargs) -> dict[str, Any]:
        agent_episodes = list(self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False))
        # The info that an action led to stands one index after the action's observation.
        rewards = np.stack(
            [
                info[ACTION_REWARDS]
                for episode in agent_episodes
                for info in episode.get_infos(slice(1, len(episode) + 1))
            ]
        ).astype(np.float64)
        legal = ~np.isnan(rewards)
        columns = {
            ADVANTAGES: self.advantages(rewards, mask=legal),
            LABELS: best_action_labels(rewards),
            PREFERENCE: has_preference(rewards, legal),
        }
        if metrics is not None:
            metrics.log_value("states_with_preference", float(columns[PREFERENCE].mean()), window=1)
        start = 0
        for episode in agent_episodes:
            steps = slice(start, start + len(episode))
            for name, values in columns.items():
                self.add_n_batch_items(batch, name, values[steps].astype(np.float32), len(episode), episode)
            start = steps.stop
        return batch


class ReferenceLogits(ConnectorV2):
    """Adds the reference's logits under `TARGET_NETWORK_ACTION_DIST_INPUTS`, (B, K), once for all of a batch's updates.

    It comes last: of each module it takes the tensors that the module is trained on.
    """

    @override(ConnectorV2)
    def __call__(self, *, rl_module, batch: dict[str, Any], **kwargs) -> dict[str, Any]:
        for module_id, columns in batch.items():
            columns.update(rl_module[module_id].unwrapped().forward_target(columns))
        return batch

"""How debates are shared out among learners."""

from dataclasses import dataclass
from typing import Any

from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.annotations import override

from mpdf_rllib.errors import ConfigError


@dataclass
class WholeDebates(TrainingData):
    """Episodes that learners share without cutting one in two: RLlib cuts, and what it cuts loses its infos."""

    @override(TrainingData)
    def shard(
        self, num_shards: int, minibatch_size: int | None = None, num_epochs: int = 1, **kwargs
    ) -> list[tuple[TrainingData, dict[str, Any]]]:
        """Deals the episodes out in turn, so that shards differ by one at most.

        All learners make the same number of updates, or those that make more would wait for the others for ever.

        Raises:
            ConfigError: There are fewer episodes than learners.
        """
        if len(self.episodes) < num_shards:
            raise ConfigError(
                f"num_learners is {num_shards}, but an iteration has {len(self.episodes)} debates; "
                "lower it or raise train_batch_size_per_learner"
            )
        updates = 0  # as many as the passes over the shard need
        if minibatch_size and num_shards > 1:
            updates = max(1, self._compute_num_total_minibatches(self.episodes, num_shards, minibatch_size, num_epochs))
        return [
            (TrainingData(episodes=self.episodes[first::num_shards]), {"num_total_minibatches": updates})
            for first in range(num_shards)
        ]

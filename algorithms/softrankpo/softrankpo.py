"""SoftRankPO: imitate the best actions of uniform debates, then match the policy's log-ratios to ranks of rewards."""

import logging
import math
import time
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    EVALUATION_RESULTS,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
    WEIGHTS_SEQ_NO,
)

from mpdf_rllib.algorithms.softrankpo.softrankpo_config import SoftRankPOConfig
from mpdf_rllib.algorithms.whole_debates import WholeDebates
from mpdf_rllib.envs.deliberation_env_runner import sample_or_error
from mpdf_rllib.errors import EngineError, MPDFError

logger = logging.getLogger(__name__)

STATIC_CORPUS = "static_corpus"
"""What a checkpoint calls the debates that stage two learns from, where they stay the same."""


class SoftRankPO(Algorithm):
    """Soft rank policy optimisation (Yang & Thomason, 2025)."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> SoftRankPOConfig:
        return SoftRankPOConfig()

    @override(Algorithm)
    def setup(self, config) -> None:
        self._corpus: list[MultiAgentEpisode] | None = None
        super().setup(config)

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """Runs an iteration, and an evaluation where one is due: without, there is no `evaluation` in the result.

        Raises:
            EngineError: No env runner, or a learner no longer, is there to go on with.
            TrainingError: The loss is NaN or infinite.
            ConfigError: There are fewer debates than learners.
        """
        try:
            result = super().step()
        except RayActorError as error:
            raise EngineError(
                f"an env runner or a learner was lost; go on from the last checkpoint\n{error}"
            ) from error
        interval = self.config.evaluation_interval
        if not interval or (self.iteration + 1) % interval:
            result.pop(EVALUATION_RESULTS, None)  # the last one's, repeated
        return result

    @override(Algorithm)
    def training_step(self) -> None:
        """One iteration of either stage; the loss and the exploration follow from whether the reference is frozen.

        1. Stage two begins once the warm start's iterations are over: the policy becomes the reference.
        2. Sample complete debates with the current policy, uniformly during the warm start; where the corpus is static,
           stage two does so only once.
        3. Update the policy on them for `num_epochs`.
        4. Send the weights to the env runners.
        """
        if self.iteration == self.config.warm_start_iterations:
            self._freeze_reference()

        episodes = self._corpus or self._sample()
        if self.config.static_corpus and self.iteration >= self.config.warm_start_iterations:
            self._corpus = episodes

        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            learner_results = self.learner_group.update(
                training_data=WholeDebates(episodes=episodes),
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size,
                shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
                timesteps={
                    NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(
                        (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0
                    )
                },
            )
        self.metrics.aggregate(learner_results, key=LEARNER_RESULTS)

        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self._sync_env_runners(self.env_runner_group)

    def _sample(self) -> list[MultiAgentEpisode]:
        """Complete debates of all env runners together; where all were lost, waits until one is back.

        Raises:
            EngineError: None came back, or answered, in time.
            MPDFError: A debate failed. Unlike a lost process it would fail again.
        """
        group, config = self.env_runner_group, self.config
        episodes: list[MultiAgentEpisode] = []
        metrics: list[dict[str, Any]] = []
        deadline = math.inf
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            while sum(map(len, episodes)) < config.total_train_batch_size:
                dropped_before = group.num_env_runners_dropped_lifetime()
                samples = group.foreach_env_runner(
                    sample_or_error,
                    local_env_runner=not group.num_remote_env_runners(),
                    timeout_seconds=config.sample_timeout_s,
                )
                for sample in samples:
                    if isinstance(sample, MPDFError):
                        raise sample
                    debates, their_metrics = sample
                    episodes += debates
                    metrics.append(their_metrics)
                dropped = group.num_env_runners_dropped_lifetime() - dropped_before
                if dropped:
                    logger.warning(
                        "samples dropped: %d; they took longer than sample_timeout_s=%s s: raise it for slow models",
                        dropped,
                        config.sample_timeout_s,
                    )
                if samples:
                    deadline = math.inf
                    continue
                if dropped:
                    raise EngineError(
                        f"no env runner returned a debate within sample_timeout_s={config.sample_timeout_s} s; "
                        "raise it for slow models"
                    )
                deadline = min(deadline, time.monotonic() + config.env_runner_restore_timeout_s)
                if not config.restart_failed_env_runners or time.monotonic() > deadline:
                    raise EngineError(
                        "all env runners were lost, and none came back "
                        f"(restart_failed_env_runners={config.restart_failed_env_runners}, "
                        f"env_runner_restore_timeout_s={config.env_runner_restore_timeout_s} s); "
                        "look for their errors in Ray's logs of the workers"
                    )
                time.sleep(1)
                self.restore_env_runners(group)
        self.metrics.aggregate(metrics, key=ENV_RUNNER_RESULTS)
        return episodes

    def _freeze_reference(self) -> None:
        """Makes the present policy the frozen reference, on all learners and, for exploration, all env runners."""
        results = self.learner_group.foreach_learner(
            lambda learner: learner.module.foreach_module(lambda _, module: module.unwrapped().freeze_reference())
        )
        for result in results:
            if not result.ok:
                raise result.get()
        self._sync_env_runners(self.env_runner_group)

    @override(Algorithm)
    def get_state(self, *args, **kwargs) -> dict[str, Any]:
        return super().get_state(*args, **kwargs) | {STATIC_CORPUS: self._corpus}

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._corpus = state.get(STATIC_CORPUS)

    @override(Algorithm)
    def restore_from_path(self, path, *args, **kwargs) -> None:
        super().restore_from_path(path, *args, **kwargs)
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                self._sync_env_runners(group)

    def _sync_env_runners(self, group: EnvRunnerGroup) -> None:
        """Gives env runners the learners' weights, and the lifetime's steps, before they do anything else.

        RLlib's own sync may be dropped where an env runner has another request in flight, and is ignored where the
        weights' number is not higher than the one that the env runner knows.
        """
        module = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        learner = self.learner_group.get_state(components=module, inference_only=True)[COMPONENT_LEARNER]
        steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
        state = ray.put(
            {key: learner[key] for key in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}
            | {NUM_ENV_STEPS_SAMPLED_LIFETIME: steps}
        )

        def set_state(env_runner) -> None:
            env_runner._weights_seq_no = 0
            env_runner.set_state(ray.get(state))

        # Not waited for: an env runner does what it is asked in order.
        group.foreach_env_runner(set_state, timeout_seconds=0.0)

"""SoftRankPO: imitate the best actions of uniform debates, then match the policy's log-ratios to ranks of rewards."""

import logging
import time
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
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

from mpdf_rllib.algorithms.meta_policy_rl_module import MetaPolicyRLModule
from mpdf_rllib.algorithms.softrankpo.softrankpo_connector import SoftRankAdvantages
from mpdf_rllib.algorithms.softrankpo.softrankpo_torch_learner import SoftRankPOTorchLearner
from mpdf_rllib.algorithms.whole_debates import WholeDebates
from mpdf_rllib.envs.debate_metrics import DebateMetrics
from mpdf_rllib.envs.deliberation_env_runner import DeliberationEnvRunner
from mpdf_rllib.errors import EngineError

logger = logging.getLogger(__name__)

POLICY = "meta_policy"
"""RLlib takes an algorithm whose only policy is `default_policy` for a single-agent one."""


def map_to_shared_policy(agent_id, episode, **kwargs) -> str:
    """All agents share one set of weights [paper]."""
    return POLICY


class SoftRankPOConfig(AlgorithmConfig):
    """Configures SoftRankPO for a `DeliberationEnv`."""

    def __init__(self, algo_class=None):
        super().__init__(algo_class=algo_class or SoftRankPO)
        self.tau = 0.5
        self.beta = 0.3
        self.warm_start_iterations = 2
        self.weight_decay = 1e-3

        self.lr = 2e-3
        self.num_epochs = 5
        self.minibatch_size = 256
        self.shuffle_batch_per_epoch = True
        self.train_batch_size_per_learner = 512
        self.batch_mode = "complete_episodes"
        self.num_env_runners = 0
        self.num_envs_per_env_runner = 64
        self.env_runner_cls = DeliberationEnvRunner
        # Of a remote env's errors RLlib tells only its log; this one's reach the user.
        self.create_env_on_local_worker = True
        # RLlib drops what takes longer; a language model may take this long.
        self.sample_timeout_s = 3600.0
        # How long an iteration waits for a lost env runner, where no other is left.
        self.env_runner_restore_timeout_s = 300.0
        self.evaluation_config = {"explore": False}
        self.callbacks_class = DebateMetrics
        self.policies = {POLICY}
        self.policy_mapping_fn = map_to_shared_policy

    @override(AlgorithmConfig)
    def training(
        self,
        *,
        tau: float = NotProvided,
        beta: float = NotProvided,
        warm_start_iterations: int = NotProvided,
        weight_decay: float = NotProvided,
        **kwargs,
    ) -> "SoftRankPOConfig":
        """Sets the training parameters.

        Args:
            tau: Positive; the temperature of the ranks, 0.5 [paper].
            beta: Positive; the larger, the closer the policy stays to its reference [ours: 0.3].
            warm_start_iterations: At least 0; iterations of stage one, cross-entropy on the best actions of uniform
                debates. The policy at their end is the frozen reference of stage two.
            weight_decay: AdamW's, at least 0.
            **kwargs: RLlib's own. `train_batch_size_per_learner` counts env steps, N agent steps each.
        """
        super().training(**kwargs)
        own = {
            "tau": tau,
            "beta": beta,
            "warm_start_iterations": warm_start_iterations,
            "weight_decay": weight_decay,
        }
        for name, value in own.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @override(AlgorithmConfig)
    def validate(self) -> None:
        super().validate()
        for name in ("tau", "beta"):
            if not getattr(self, name) > 0:
                self._value_error(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("warm_start_iterations", "weight_decay"):
            if not getattr(self, name) >= 0:
                self._value_error(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.batch_mode != "complete_episodes":
            self._value_error(f"batch_mode is {self.batch_mode!r}; SoftRankPO learns from 'complete_episodes'")

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=MetaPolicyRLModule)

    @property
    @override(AlgorithmConfig)
    def _model_config_auto_includes(self) -> dict[str, int]:
        return {"dim": 48, "heads": 2}

    @override(AlgorithmConfig)
    def get_default_learner_class(self):
        return SoftRankPOTorchLearner

    @override(AlgorithmConfig)
    def build_learner_connector(self, input_observation_space, input_action_space, device=None):
        pipeline = super().build_learner_connector(input_observation_space, input_action_space, device)
        pipeline.insert_after("AddColumnsFromEpisodesToTrainBatch", SoftRankAdvantages(tau=self.tau))
        return pipeline


class SoftRankPO(Algorithm):
    """Soft rank policy optimisation (Yang & Thomason, 2025)."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> SoftRankPOConfig:
        return SoftRankPOConfig()

    @override(Algorithm)
    def setup(self, config) -> None:
        # Torch would take all cores, also beside an engine that runs on them.
        torch.set_num_threads(int(config.num_cpus_for_main_process) or 1)
        super().setup(config)

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        """Runs an iteration, and an evaluation where one is due: without, there is no `evaluation` in the result.

        Raises:
            EngineError: No env runner, or a learner no longer, is there to go on with.
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
        2. Sample complete debates with the current policy, uniformly during the warm start.
        3. Update the policy on them for `num_epochs`.
        4. Send the weights to the env runners.
        """
        if self.iteration == self.config.warm_start_iterations:
            self._freeze_reference()

        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            episodes, env_runner_results = self._sample()
        self.metrics.aggregate(env_runner_results, key=ENV_RUNNER_RESULTS)

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

    def _sample(self) -> tuple[list, list]:
        """Complete debates of all env runners, and their metrics; where all were lost, waits until one is back."""
        group, config = self.env_runner_group, self.config
        deadline = time.monotonic() + config.env_runner_restore_timeout_s
        while True:
            dropped_before = group.num_env_runners_dropped_lifetime()
            episodes, results = synchronous_parallel_sample(
                worker_set=group,
                max_env_steps=config.total_train_batch_size,
                sample_timeout_s=config.sample_timeout_s,
                _uses_new_env_runners=True,
                _return_metrics=True,
            )
            if dropped := group.num_env_runners_dropped_lifetime() - dropped_before:
                logger.warning(
                    "samples dropped: %d; they took longer than sample_timeout_s=%s s: raise it for slow models",
                    dropped,
                    config.sample_timeout_s,
                )
            if episodes:
                return episodes, results
            if dropped:
                raise EngineError(
                    f"no env runner returned a debate within sample_timeout_s={config.sample_timeout_s} s; "
                    "raise it for slow models"
                )
            if not config.restart_failed_env_runners or time.monotonic() > deadline:
                raise EngineError(
                    "all env runners were lost, and within "
                    f"env_runner_restore_timeout_s={config.env_runner_restore_timeout_s} s none came back; "
                    "look for their errors in Ray's logs of the workers"
                )
            time.sleep(1)
            self.restore_env_runners(group)

    def _freeze_reference(self) -> None:
        """Makes the present policy the frozen reference, on all learners and, for exploration, all env runners."""
        self.learner_group.foreach_learner(
            lambda learner: learner.module.foreach_module(lambda _, module: module.unwrapped().freeze_reference())
        )
        self._sync_env_runners(self.env_runner_group)

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

"""What every RLlib algorithm needs to learn from debates."""

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from mpdf_rllib.envs.debate_metrics import DebateMetrics
from mpdf_rllib.envs.deliberation_env_runner import DeliberationEnvRunner

POLICY = "meta_policy"
"""RLlib takes an algorithm whose only policy is `default_policy` for a single-agent one."""


def map_to_shared_policy(agent_id, episode, **kwargs) -> str:
    """All agents share one set of weights [paper]."""
    return POLICY


def map_to_own_policy(agent_id, episode, **kwargs) -> str:
    """Each agent has weights of its own [ours], called like it."""
    return agent_id


def _take_reserved_threads(algorithm: Algorithm, **kwargs) -> None:
    """Torch would take all cores, also beside other trials, and an engine that runs on them."""
    torch.set_num_threads(int(algorithm.config.num_cpus_for_main_process) or 1)


def set_up_for_debates(config: AlgorithmConfig) -> None:
    """Gives the config our env runner, callbacks and shared policy, and batches of 512 env steps of whole debates."""
    config.train_batch_size_per_learner = 512
    config.batch_mode = "complete_episodes"
    config.num_env_runners = 0
    config.num_envs_per_env_runner = 64
    config.env_runner_cls = DeliberationEnvRunner
    # Of a remote env's errors RLlib tells only its log; this one's reach the user.
    config.create_env_on_local_worker = True
    # RLlib drops what takes longer; a language model may take this long.
    config.sample_timeout_s = 3600.0
    # How long an iteration waits for a lost env runner, where no other is left.
    config.env_runner_restore_timeout_s = 300.0
    # Actions are discrete: RLlib would copy them all, agent by agent, to leave them as they are.
    config.normalize_actions = config.clip_actions = False
    config.evaluation_config = {"explore": False}
    config.callbacks_class = DebateMetrics
    config.callbacks_on_algorithm_init = _take_reserved_threads
    config.policies = {POLICY}
    config.policy_mapping_fn = map_to_shared_policy

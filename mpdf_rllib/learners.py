"""What trains a policy, and the RLlib configs that an experiment comes to."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPO, PPOConfig

from mpdf_rllib import run_folder
from mpdf_rllib.algorithms.debate_settings import map_to_own_policy
from mpdf_rllib.algorithms.grpo import GRPO, GRPOConfig, RolloutGRPO, RolloutGRPOConfig
from mpdf_rllib.algorithms.ppo import ppo_config
from mpdf_rllib.algorithms.softrankpo import SoftRankPO, SoftRankPOConfig
from mpdf_rllib.baselines.bounds import fit_calibration
from mpdf_rllib.config import AlgorithmSection, ExperimentConfig
from mpdf_rllib.envs.debate_session import agent_id
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.features import DEBATE_FEATURES, entries_of
from mpdf_rllib.envs.solution_tree import SolutionTree

_CPUS = {"main_process": 1.0, "env_runner": 1.0}
_LIVE_CPUS = {"main_process": 0.5, "env_runner": 0.25}
"""Live debates wait for the engine."""


@dataclass(frozen=True)
class Learner:
    """An algorithm, and where its trials lie.

    Attributes:
        algorithm: Its class.
        folder: Of its trials, in the run folder.
        base: What the config of a seed's trials begins as.
        imitates: Whether stage one is its own, and not where it begins.
    """

    algorithm: type[Algorithm]
    folder: str
    base: Callable[[int], AlgorithmConfig]
    imitates: bool = True

    def iterations(self, setting: AlgorithmSection) -> int:
        """Of a trial."""
        return setting.iterations + (setting.warm_start_iterations if self.imitates else 0)


SOFTRANKPO = Learner(SoftRankPO, run_folder.TUNE, lambda seed: SoftRankPOConfig())
ROLLOUT_GROUPS = Learner(RolloutGRPO, f"{run_folder.TUNE}-rollout-grpo", lambda seed: RolloutGRPOConfig())
GROUP_RELATIVE = Learner(GRPO, f"{run_folder.TUNE}-grpo", lambda seed: GRPOConfig())


def proximal(warm_start: Callable[[int], Path]) -> Learner:
    """PPO from the reference in SoftRankPO's checkpoint of each seed."""

    def base(seed: int) -> AlgorithmConfig:
        # PPO's validation compares a minibatch of agent steps with a batch of env steps, and refuses small batches.
        return ppo_config(warm_start(seed)).experimental(_validate_config=False)

    return Learner(PPO, f"{run_folder.TUNE}-ppo", base, imitates=False)


def at_prices(names: Iterable[str]) -> Learner:
    """SoftRankPO for settings that are called so; others would be another experiment of Tune's."""
    return dataclasses.replace(SOFTRANKPO, folder="-".join([run_folder.TUNE, "prices", *names]))


def algorithm_config(
    config: ExperimentConfig, env_config: dict[str, Any], base: AlgorithmConfig | None = None
) -> AlgorithmConfig:
    """The experiment's RLlib config on the questions of an env config, for `build_algo()` or a Tuner.

    Args:
        config: The experiment.
        env_config: Of the debates to learn from.
        base: Of the algorithm that learns, SoftRankPO's by default.
    """
    settings = config.algorithm
    questions = env_config["questions"]()
    debates = len(questions) * settings.passes
    cpus = cpus_of(config)
    rllib_config = base or SoftRankPOConfig()
    if settings.policies == "per_agent":
        policies = [agent_id(agent) for agent in range(config.team.size)]
        rllib_config.multi_agent(policies=policies, policy_mapping_fn=map_to_own_policy)
    if isinstance(rllib_config, SoftRankPOConfig):
        left_out = entries_of(settings.left_out, env_config["team"].table(questions) + DEBATE_FEATURES)
        rllib_config.rl_module(model_config=_network(settings) | {"left_out": left_out})
        rllib_config.training(
            beta=settings.beta,
            objective=settings.objective,
            entropy_coeff=settings.entropy_coeff,
            static_corpus=settings.static_corpus,
            warm_start_iterations=settings.warm_start_iterations,
            weight_decay=settings.weight_decay,
        )
        if not isinstance(rllib_config, GRPOConfig):
            rllib_config.training(tau=settings.tau, advantages=settings.advantages)
    return (
        rllib_config.environment(DeliberationEnv, env_config=env_config)
        .env_runners(
            num_env_runners=settings.env_runners,
            num_envs_per_env_runner=math.ceil(debates / max(settings.env_runners, 1)),
            num_cpus_per_env_runner=cpus["env_runner"],
        )
        .resources(num_cpus_for_main_process=cpus["main_process"])
        .learners(num_cpus_per_learner=cpus["main_process"])  # the learner is there too, and the larger counts
        .training(
            num_epochs=settings.epochs,
            minibatch_size=_minibatch_size(config, rllib_config),
            lr=settings.lr,
            train_batch_size_per_learner=debates * config.team.rounds,
        )
    )


def _network(settings: AlgorithmSection) -> dict[str, Any]:
    return settings.model_dump(include={"dim", "heads", "network"})


def _minibatch_size(config: ExperimentConfig, rllib_config: AlgorithmConfig) -> int:
    """As many agent steps as the experiment says; to PPO's RLlib adds one an agent and debate, not learned from."""
    steps, rounds = config.algorithm.minibatch_size, config.team.rounds
    return math.ceil(steps * (rounds + 1) / rounds) if isinstance(rllib_config, PPOConfig) else steps


def cpus_of(config: ExperimentConfig) -> dict[str, float]:
    """What a trial's main process, and each of its env runners, reserves."""
    return _LIVE_CPUS if config.live else _CPUS


def replaying(config: ExperimentConfig, trees: SolutionTree) -> dict[str, Any]:
    """The env config of recorded debates on the training questions; the trees' solutions calibrate outcome credit."""
    engine = partial(config.make_engine, replay_only=True)
    return config.env_config() | {"engine": engine, "calibration": fit_calibration(trees)}

"""Every algorithm on debates that it should solve: one agent is right and sure, and all others should concede to it."""

from functools import partial
from typing import Any

import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from rllib_fixtures import debate_config, one_agent_knows, small_config

from mpdf_rllib.algorithms.grpo import GRPOConfig, RolloutGRPOConfig
from mpdf_rllib.algorithms.ppo import ppo_config
from mpdf_rllib.algorithms.softrankpo import SoftRankPOConfig
from mpdf_rllib.engine.scripted import ScriptedEngine

DEBATES = 48
THRESHOLD = 0.95

pytestmark = pytest.mark.usefixtures("ray_instance")


def accuracies(result: dict) -> dict[str, float]:
    """Of the team, and of the agents by themselves; a third of them is right at first."""
    debate = result["env_runners"]["debate"]
    return {"team": debate["accuracy"], "agents": (1 + 9 * debate["r_local"]) / 3}


def learned(
    config: AlgorithmConfig, questions: int = DEBATES, **settings: Any
) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracies of the first iteration's debates, and of greedy debates on other questions after six iterations."""
    settings |= {"engine": partial(ScriptedEngine, one_agent_knows)}
    algorithm = (
        small_config(DEBATES, config=config, questions=questions, **settings)
        .evaluation(
            evaluation_interval=1000,
            evaluation_duration=DEBATES,
            evaluation_config={"explore": False, "env_config": debate_config(DEBATES, split="test", **settings)},
        )
        .build_algo()
    )
    first = accuracies(algorithm.train())
    for _ in range(5):
        algorithm.train()
    last = accuracies(algorithm.evaluate())
    algorithm.stop()
    return first, last


@pytest.mark.parametrize(
    ("config", "settings", "credit"),
    [
        (SoftRankPOConfig, {}, "step"),
        (SoftRankPOConfig, {}, "outcome"),
        (SoftRankPOConfig, {"objective": "log_policy"}, "step"),
        (SoftRankPOConfig, {"static_corpus": True}, "step"),
        (GRPOConfig, {}, "step"),
    ],
)
def test_all_learn_to_concede_to_the_agent_that_is_right(config, settings, credit):
    uniform, last = learned(config().training(warm_start_iterations=1, **settings), credit=credit)
    assert max(uniform.values()) < THRESHOLD
    assert min(last.values()) >= THRESHOLD


def test_groups_of_roll_outs_teach_it_too():
    config = RolloutGRPOConfig().training(warm_start_iterations=1, beta=0.01, lr=1e-2)
    uniform, last = learned(config, questions=DEBATES // 8)
    assert max(uniform.values()) < THRESHOLD
    assert min(last.values()) >= THRESHOLD


def test_ppo_learns_it_too_from_a_policy_that_knows_nothing(tmp_path):
    unknowing = small_config().training(warm_start_iterations=0, lr=1e-9).build_algo()
    unknowing.train()
    unknowing.save_to_path(tmp_path)
    unknowing.stop()
    first, last = learned(ppo_config(tmp_path))
    assert max(first.values()) < THRESHOLD
    assert min(last.values()) >= THRESHOLD

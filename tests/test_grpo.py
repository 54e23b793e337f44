from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.tune.registry import get_trainable_cls
from rllib_fixtures import debate_config, small_config, train_batch
from scipy.stats import zscore

from mpdf_rllib.algorithms.grpo import GRPO, GRPOConfig, RolloutGRPO, RolloutGRPOConfig, z_score_advantages
from mpdf_rllib.algorithms.grpo.rollout_grpo import ROLLOUT_ADVANTAGES, clipped_loss, rollout_advantages
from mpdf_rllib.algorithms.softrankpo import POLICY, soft_rank_advantages
from mpdf_rllib.algorithms.softrankpo.softrankpo_connector import ADVANTAGES
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.deliberation_env_runner import DeliberationEnvRunner

REWARDS = st.lists(st.integers(-100, 100), min_size=1, max_size=6)
LEGAL = np.ones(3, bool)


@settings(deadline=None)
@given(REWARDS, st.integers(0, 2**32 - 1))
def test_advantages_are_the_z_scores_of_the_legal_rewards(legal_rewards, seed):
    mask = np.zeros(8, bool)
    mask[np.random.default_rng(seed).permutation(8)[: len(legal_rewards)]] = True
    rewards = np.full(8, np.nan)
    rewards[mask] = legal_rewards
    advantages = z_score_advantages(np.stack([rewards, rewards[::-1]]), np.stack([mask, mask[::-1]]))
    np.testing.assert_array_equal(advantages[0], advantages[1, ::-1])
    assert (advantages[0, ~mask] == 0).all()
    expected = zscore(np.array(legal_rewards, float)) if len({*legal_rewards}) > 1 else np.zeros(len(legal_rewards))
    np.testing.assert_allclose(advantages[0, mask], expected, atol=1e-5)


@pytest.mark.parametrize("reward", [0.1, 1e9 / 3, -1e-12])
def test_equal_rewards_give_exactly_zero(reward):
    assert (z_score_advantages(np.full((2, 3), reward), np.ones((2, 3), bool)) == 0).all()


@pytest.mark.parametrize("rewards", [[0, 1, 1], [-7, 0.01, -7], [0, 1, 2], [30, -10, 10]])
def test_two_levels_and_three_equally_spaced_ones_make_it_softrankpo(rewards):
    scores = z_score_advantages(np.array(rewards, float), LEGAL)
    np.testing.assert_allclose(soft_rank_advantages(rewards, tau=1.0), scores, atol=1e-5)
    assert 0 <= np.abs(soft_rank_advantages(rewards, tau=0.5) - scores).max() < 0.02


def test_outliers_part_the_two():
    usual, outlier = np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 100.0])
    np.testing.assert_array_equal(soft_rank_advantages(usual), soft_rank_advantages(outlier))
    assert z_score_advantages(usual, LEGAL)[1] == pytest.approx(0)
    assert z_score_advantages(outlier, LEGAL)[1] < -0.6


def test_the_learner_is_given_z_scores():
    """With outcome credit, under which rewards have many levels."""
    config = small_config(config=GRPOConfig(), credit="outcome")
    runner = DeliberationEnvRunner(config=config)
    runner.module[POLICY].reference_frozen.fill_(True)
    episodes = runner.sample()
    batch = train_batch(config, episodes)
    agents = [agent for episode in episodes for agent in episode.agent_episodes.values()]
    rewards = np.array([info["action_rewards"] for agent in agents for info in agent.get_infos()[1:]], np.float64)
    legal = ~np.isnan(rewards)
    scores = z_score_advantages(rewards, legal)
    assert np.abs(scores - soft_rank_advantages(rewards, mask=legal)).max() > 0.1
    assert sorted(batch[ADVANTAGES].tolist()) == sorted(scores.astype(np.float32).tolist())


def test_it_has_softrankpos_settings_but_neither_temperature_nor_ranks():
    grpo, softrankpo = GRPOConfig().to_dict(), small_config().to_dict()
    assert softrankpo.keys() - grpo.keys() == {"tau", "advantages"}
    with pytest.raises(ValueError, match="tau: unknown setting of GRPOConfig"):
        GRPOConfig().environment(DeliberationEnv, env_config=debate_config()).training(tau=1.0).validate()


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=30))
def test_a_roll_outs_advantage_is_its_z_score_among_those_on_its_question(debates):
    questions = [question for question, _ in debates]
    found = rollout_advantages(questions, np.array([right for _, right in debates]))
    for question in questions:
        group = [float(right) for other, right in debates if other == question]
        expected = zscore(group) if len({*group}) > 1 else np.zeros(len(group))
        mine = [advantage for other, advantage in zip(questions, found, strict=True) if other == question]
        np.testing.assert_allclose(mine, expected, atol=1e-5)


def test_all_steps_of_a_debate_have_its_advantage():
    config = small_config(16, config=RolloutGRPOConfig(), questions=4)
    runner = DeliberationEnvRunner(config=config)
    episodes = runner.sample()
    batch = train_batch(config, episodes)
    firsts = [episode.agent_episodes["agent_0"] for episode in episodes]
    questions = [first.get_infos(0)["question"] for first in firsts]
    found = rollout_advantages(questions, np.array([first.get_infos(-1)["correct"] for first in firsts]))
    assert {4} == {*Counter(questions).values()} and found.any()
    steps = sum(map(len, episodes)) // len(episodes) * len(episodes[0].agent_episodes)
    assert sorted(batch[ROLLOUT_ADVANTAGES].tolist()) == sorted(found.astype(np.float32).repeat(steps).tolist())


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain"), [(1, 2, 2), (1.5, 2, 2.4), (0.5, 2, 1), (1.5, -2, -3), (0.5, -2, -1.6), (9, 0, 0)]
)
def test_gains_are_clipped_where_they_would_go_on(ratio, advantage, gain):
    logp = torch.log_softmax(torch.tensor([[0.3, -0.2, 0.1]]), -1)
    taken = torch.tensor([1])
    old, legal = logp[:, 1] - np.log(ratio), torch.ones(1, 3, dtype=bool)
    loss = clipped_loss(logp, logp, legal, taken, old, torch.tensor([float(advantage)]), beta=0.5)
    torch.testing.assert_close(loss, torch.tensor([-float(gain)]))
    away = torch.log_softmax(torch.tensor([[1.0, 0.0, -1.0]]), -1)
    loss = clipped_loss(logp, away, legal, taken, logp[:, 1], torch.zeros(1), beta=0.5)
    torch.testing.assert_close(loss, 0.5 * (logp.exp() * (logp - away)).sum(-1))


def test_tune_knows_it_by_a_name_of_its_own():
    assert "GRPO" not in ALGORITHMS
    assert get_trainable_cls("GRPO") is GRPO and get_trainable_cls("RolloutGRPO") is RolloutGRPO

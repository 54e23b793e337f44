import math
from statistics import fmean, pstdev

import numpy as np
import pytest
from debate_fixtures import nothing_is_missing, random_actions, random_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, zscore

from mpdf_rllib.algorithms.softrankpo.soft_rank import best_action_labels, has_preference, soft_rank_advantages
from mpdf_rllib.envs.debate_batch import DebateBatch

TAUS = st.sampled_from([0.4, 0.5, 0.8, 1.0, 2.0, 5.0])
REWARDS = st.lists(st.integers(-3, 3) | st.floats(-1e6, 1e6), min_size=1, max_size=7)


def by_the_formula(rewards: list[float], tau: float) -> list[float]:
    """Eq. 2 of one state, a number at a time."""
    if len(set(rewards)) == 1:
        return [0.0] * len(rewards)
    ranks = [sum(r < own for r in rewards) + (sum(r == own for r in rewards) - 1) / 2 for own in rewards]
    scores = [float(norm.ppf(((rank + 0.5) / len(rewards)) ** tau)) for rank in ranks]
    return [(score - fmean(scores)) / pstdev(scores) for score in scores]


def paper_rewards(agents: int, debates: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Reward vectors of random debates, (..., 3), NaN where illegal, and which actions are legal."""
    rng = np.random.default_rng(agents)
    tree = random_tree(rng, agents, rounds=1, questions=debates)
    batch = DebateBatch(tree, nothing_is_missing)
    batch.reset(np.arange(debates))
    terms = batch.rewards(random_actions(rng, batch))
    rewards, legal = terms.local + terms.consensus, batch.legal()
    return rewards.reshape(-1, 3), legal.reshape(-1, 3)


@settings(deadline=None)
@given(REWARDS, TAUS)
def test_advantages_follow_the_formula(rewards, tau):
    np.testing.assert_allclose(soft_rank_advantages(np.array(rewards), tau), by_the_formula(rewards, tau), atol=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(REWARDS, st.integers(0, 2**32 - 1)), min_size=1, max_size=4), TAUS)
def test_illegal_actions_change_nothing(states, tau):
    legal_rewards = [np.array(rewards, float) for rewards, _ in states]
    rewards = np.full((len(states), 9), np.nan)
    mask = np.zeros(rewards.shape, bool)
    for i, (own, (_, seed)) in enumerate(zip(legal_rewards, states, strict=True)):
        mask[i, np.random.default_rng(seed).permutation(9)[: len(own)]] = True
        rewards[i, mask[i]] = own
    advantages = soft_rank_advantages(rewards, tau, mask)
    assert (advantages[~mask] == 0).all()
    for i, own in enumerate(legal_rewards):
        np.testing.assert_allclose(advantages[i, mask[i]], soft_rank_advantages(own, tau), atol=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=6), TAUS)
def test_only_the_order_of_rewards_matters(rewards, tau):
    rewards = np.array(rewards, float)
    expected = soft_rank_advantages(rewards, tau)
    for mapped in (0.1 * rewards, 10 * rewards + 7, rewards**3, np.exp(rewards)):
        np.testing.assert_array_equal(soft_rank_advantages(mapped, tau), expected)


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.integers(1, 6), TAUS)
def test_equal_rewards_give_exactly_zero(reward, count, tau):
    rewards = np.full((2, count), reward)
    assert (soft_rank_advantages(rewards, tau) == 0).all()
    assert not has_preference(rewards, np.ones(rewards.shape, bool)).any()


def test_states_of_any_leading_shape_are_ranked_by_themselves():
    rewards = np.arange(24.0).reshape(2, 4, 3) % 5
    advantages = soft_rank_advantages(rewards, 0.8)
    assert advantages.shape == rewards.shape
    for state in np.ndindex(2, 4):
        np.testing.assert_allclose(advantages[state], by_the_formula(rewards[state].tolist(), 0.8), atol=1e-9)


def test_a_state_without_legal_actions_has_no_advantages():
    assert soft_rank_advantages(np.array([np.nan, np.nan]), mask=np.zeros(2, bool)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], 0.0), "tau is 0.0"),
        (([1.0, 2.0], -1.0), "tau is -1.0"),
        (([1.0, 2.0], math.nan), "tau is nan"),
        (([1.0, math.nan], 0.5), "NaN or infinite"),
        (([1.0, math.inf], 0.5), "NaN or infinite"),
        (([1.0, 2.0, 3.0], 0.5, [True, True]), "shape"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        soft_rank_advantages(*arguments)


@pytest.mark.parametrize("tau", [1e-300, 1e-9, 50.0, 1000.0])
def test_extreme_temperatures_stay_finite_and_ordered(tau):
    advantages = soft_rank_advantages(np.array([2.0, 0.0, 1.0]), tau)
    assert np.isfinite(advantages).all()
    assert advantages[1] <= advantages[2] <= advantages[0]
    assert advantages[1] < advantages[0]


def test_the_numbers_in_our_reading_of_the_paper():
    np.testing.assert_allclose(soft_rank_advantages(np.array([0, 1, 2]), 0.5), [-1.22, -0.02, 1.23], atol=0.006)
    np.testing.assert_allclose(soft_rank_advantages(np.array([0, 1, 2]), 5.0), [-1.25, 0.04, 1.20], atol=0.006)
    two_levels = [soft_rank_advantages(np.array([0, 1, 1]), tau) for tau in (0.4, 1, 6)]
    np.testing.assert_allclose(two_levels, [[-math.sqrt(2), math.sqrt(0.5), math.sqrt(0.5)]] * 3)


@pytest.mark.parametrize("agents", [2, 3, 5])
def test_on_the_papers_reward_advantages_are_z_scores(agents):
    rewards, legal = paper_rewards(agents)
    levels = np.array([len(set(state[ok])) for state, ok in zip(rewards, legal, strict=True)])
    assert set(levels) == {1, 2, 3}
    expected = np.zeros(rewards.shape)
    for i in np.flatnonzero(levels > 1):
        expected[i, legal[i]] = zscore(rewards[i, legal[i]])
    np.testing.assert_allclose(soft_rank_advantages(rewards, 1.0, legal), expected, atol=1e-9)
    assert np.abs(soft_rank_advantages(rewards, 0.5, legal) - expected).max() < 0.02


def test_best_actions_share_the_label():
    rewards = np.array([[0, 2, 1], [1, np.nan, 1], [-1, -1, -1], [np.nan, np.nan, -5]])
    third = 1 / 3
    expected = [[0, 1, 0], [0.5, 0, 0.5], [third, third, third], [0, 0, 1]]
    np.testing.assert_allclose(best_action_labels(rewards), expected)


def test_preference_looks_at_legal_actions_alone():
    rewards = np.array([[1, 1, 5], [1, 2, np.nan], [3, np.nan, np.nan]])
    mask = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0]], bool)
    assert has_preference(rewards, mask).tolist() == [False, True, False]

"""What each action is worth."""

import dataclasses
import itertools

import numpy as np
import pytest
from debate_fixtures import linear_policy, nothing_is_missing, random_actions, random_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import kstest, norm

from mpdf_rllib.envs.answer_classes import UNPARSED
from mpdf_rllib.envs.credit import OUTLIER, Calibration, Credit, merge_ties, outcome_credit
from mpdf_rllib.envs.debate import PERSIST, REFINE
from mpdf_rllib.envs.debate_batch import DebateBatch, Rewards, Rules
from mpdf_rllib.envs.features import NUMBERS
from mpdf_rllib.errors import ConfigError, DataError


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 4),
    st.integers(1, 3),
    st.sampled_from(["most_confident", "each"]),
    st.sampled_from(["author", "actor"]),
    st.booleans(),
)
def test_outcome_credit_is_what_playing_on_comes_to(seed, agents, rounds, concede, refiner, calibrated):
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, agents, rounds, refiner=refiner)
    calibration = Calibration(tuple(rng.normal(size=len(NUMBERS))), 0.3) if calibrated else None
    rules = Rules(concede)
    debates = DebateBatch(tree, nothing_is_missing, rules)
    policy = linear_policy(rng, debates.num_actions)
    debates.reset([0, 2, 1])
    history = []
    for _ in range(rng.integers(rounds)):
        history.append(random_actions(rng, debates))
        debates.step(history[-1])
    actions = random_actions(rng, debates)
    legal = debates.legal()
    outcome, tokens = outcome_credit(debates, actions, policy, calibration)
    assert (np.isnan(outcome) == ~legal).all()
    assert (np.isnan(tokens) == ~legal).all()

    for b, i, k in np.argwhere(legal):
        replay = DebateBatch(tree, nothing_is_missing, rules)
        replay.reset([debates.question[b]])
        for taken in history:
            replay.step(taken[[b]])
        alternative = actions[[b]].copy()
        alternative[0, i] = k
        replay.step(alternative)
        while not replay.done:
            replay.step(policy(replay.observe()))
        votes = {True: 0.0, False: 0.0}
        for node in replay.node[0]:
            answer = tree.answer_class[replay.question[0], node]
            if answer != UNPARSED:
                weight = tree.confidence[replay.question[0], node]
                if calibration:
                    logit = tree.features[replay.question[0], node] @ np.array(calibration.weights) + calibration.bias
                    weight = expit(logit)
                votes[bool(tree.correct[replay.question[0], node])] += weight
        share = votes[True] / sum(votes.values()) if sum(votes.values()) else 0.0
        assert outcome[b, i, k] == pytest.approx(share)
        assert tokens[b, i, k] == replay.tokens[0, 2]


def test_outcome_credit_sees_what_a_refinement_makes_possible():
    """Agent 0 is wrong, and right only after two refinements."""

    def refine_first(observation):
        return np.tile([REFINE, PERSIST], (len(observation["own"]), 1))

    tree = random_tree(np.random.default_rng(0), agents=2, rounds=2, questions=1)
    tree.answer_class[:] = [[1, 2, 0, 3, 3, 3]]
    tree.correct[:] = tree.answer_class == 0
    tree.confidence[:] = 0.5
    debates = DebateBatch(tree, nothing_is_missing)
    debates.reset([0])
    persist = np.array([[PERSIST, PERSIST]])
    step = debates.rewards(persist)
    assert np.ptp((step.local + step.consensus)[0, 0]) == 0
    outcome, _ = outcome_credit(debates, persist, refine_first)
    assert outcome[0, 0].tolist() == [0, 0.5, 0]


def test_credit_prices_tokens_and_forgives_small_differences():
    terms = Rewards(
        local=np.array([[[0, 1, 1], [0, 0, np.nan]]]),
        consensus=np.array([[[0, 0, 0], [1, 1, np.nan]]]),
        tokens=np.array([[[0, 100, 0], [0, 20, np.nan]]]),
    )
    actions = np.zeros((1, 2), int)
    debates = DebateBatch(random_tree(np.random.default_rng(0), 2, 1), nothing_is_missing)
    debates.reset([0])
    nan = np.nan
    for credit, expected in (
        (Credit(), [[0, 1, 1], [1, 1, nan]]),
        (Credit(token_price=0.001), [[0, 0.9, 1], [1, 0.98, nan]]),
        (Credit(token_price=0.001, tie_tolerance=0.05), [[0, 0.9, 1], [1, 1, nan]]),
        (Credit(token_price=0.001, tie_tolerance=0.2), [[0, 1, 1], [1, 1, nan]]),
        (Credit("outcome", token_price=0.001), [[0, 0.9, 1], [1, 0.98, nan]]),  # nothing to follow yet
        (Credit(terms=["local"]), [[0, 1, 1], [0, 0, nan]]),
        (Credit(terms=["consensus"]), [[0, 0, 0], [1, 1, nan]]),
        (Credit(token_price=0.001, tie_tolerance=0.5, scale=10), [[0, 9, 10], [10, 10, nan]]),
    ):
        np.testing.assert_allclose(credit(debates, actions, terms), [expected])


@pytest.mark.parametrize("samples", [2, 3, 5, 6, 7])
def test_rewards_that_are_equal_tie_however_their_means_are_made(samples):
    rng = np.random.default_rng(samples)
    debates = DebateBatch(random_tree(rng, 3, 2, questions=200, refine_samples=samples), nothing_is_missing)
    debates.reset(np.arange(200))
    actions = random_actions(rng, debates)
    rewards = Credit()(debates, actions, debates.rewards(actions))
    parts = np.round(rewards * samples)
    assert len(np.unique(parts[~np.isnan(parts)])) > 4
    for one, two in itertools.combinations(range(3), 2):
        both = ~np.isnan(rewards[..., one] + rewards[..., two])
        tied = rewards[..., one] == rewards[..., two]
        assert (tied == (parts[..., one] == parts[..., two]))[both].all()


def test_disturbed_rewards_are_those_of_the_policy_with_what_is_said_added():
    debates = DebateBatch(random_tree(np.random.default_rng(0), 3, 1), nothing_is_missing)
    debates.reset(np.arange(len(debates.tree.questions)).repeat(500))
    actions = np.zeros((len(debates.question), 3), int)
    terms = debates.rewards(actions)
    legal, plain = debates.legal(), Credit()(debates, actions, terms)
    noise = Credit(noise=0.5)(debates, actions, terms) - plain
    assert (np.isnan(noise) == ~legal).all()
    assert kstest(noise[legal], norm(scale=0.5).cdf).pvalue > 1e-3
    outliers = Credit(outliers=0.2)(debates, actions, terms) - plain
    assert {*np.unique(outliers[legal]).round(9)} == {-OUTLIER, 0, OUTLIER}
    for sign in (-OUTLIER, OUTLIER):
        assert 0.08 < np.isclose(outliers[legal], sign).mean() < 0.12


@pytest.mark.parametrize(
    "wrong",
    [
        {"terms": []},
        {"terms": ["team"]},
        {"terms": ["local", "local"]},
        {"scale": 0},
        {"noise": -1},
        {"outliers": 1.5},
        {"outliers": np.nan},
    ],
)
def test_credit_that_cannot_be_given_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Credit(**wrong)


def test_credit_for_the_outcome_follows_the_policy():
    rng = np.random.default_rng(1)
    debates = DebateBatch(random_tree(rng, 3, 3), nothing_is_missing)
    debates.reset([0, 1, 2])
    actions, policy = random_actions(rng, debates), linear_policy(rng)
    outcome, tokens = outcome_credit(debates, actions, policy)
    credit = Credit("outcome", token_price=0.002)(debates, actions, debates.rewards(actions), policy)
    np.testing.assert_allclose(credit, outcome - 0.002 * tokens)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_no_number_names_its_question(number):
    rng = np.random.default_rng(2)
    tree = random_tree(rng, 3, 2)
    tree.questions = tuple(dataclasses.replace(q, id=f"q{i}") for i, q in enumerate(tree.questions))
    debates = DebateBatch(tree, nothing_is_missing)
    debates.reset([0, 2, 1])
    actions, policy = random_actions(rng, debates), linear_policy(rng)
    terms = debates.rewards(actions)
    assert np.isfinite(Credit("outcome")(debates, actions, terms, policy)[~np.isnan(terms.local)]).all()

    terms.tokens[1, 2, PERSIST] = number
    with pytest.raises(DataError, match=rf"'q2'.* agent 2, at node 6, is worth {-number}"):
        Credit(token_price=1.0)(debates, actions, terms)
    tree.confidence[1] = np.nan
    with pytest.raises(DataError, match=r"'q1'.*is worth nan.*record"):
        Credit("outcome")(debates, actions, terms, policy)


def test_ties_are_merged_with_the_best_only():
    nan = np.nan
    rewards = np.array([[0.5, 0.45, 0.38], [0.25, nan, 0.0], [-1.0, -1.0, nan]])
    assert merge_ties(rewards, 0.0).tolist()[0] == [0.5, 0.45, 0.38]
    np.testing.assert_array_equal(merge_ties(rewards, 0.1), [[0.5, 0.5, 0.38], [0.25, nan, 0], [-1, -1, nan]])
    np.testing.assert_array_equal(merge_ties(rewards, 0.25), [[0.5, 0.5, 0.5], [0.25, nan, 0.25], [-1, -1, nan]])


def test_calibration_is_logistic():
    rng = np.random.default_rng(0)
    weights, features = rng.normal(size=len(NUMBERS)), rng.random((4, 5, len(NUMBERS)))
    calibration = Calibration(tuple(weights), -0.7)
    np.testing.assert_allclose(calibration(features), expit(features @ weights - 0.7))

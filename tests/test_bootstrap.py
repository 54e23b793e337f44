from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mpdf_rllib.bootstrap import REPLICATES, Estimate, holm, p_value, replicates


def everything(count: int) -> list[np.ndarray]:
    return [np.ones(count, bool)]


def mean_of_sets(small: np.ndarray, large: np.ndarray, axis: int) -> np.ndarray:
    return (small.mean(axis) + large.mean(axis)) / 2


def test_the_mean_over_sets_is_drawn_within_each_of_them():
    """Of 40 and of 300 questions, mixed."""
    rng = np.random.default_rng(0)
    is_small = rng.permutation(340) < 40
    correct = rng.random(340) < np.where(is_small, 0.9, 0.4)
    (by_set,) = replicates([correct[None] * 1.0], [""], [is_small, ~is_small], blocks=3)
    assert by_set.shape == (3 * REPLICATES, 2)
    parts = (correct[is_small], correct[~is_small])
    for column, part in enumerate(parts):
        low, high = Estimate.of(part.mean(), by_set[:, column])[1:]
        reference = stats.bootstrap((part,), np.mean, method="percentile", rng=1).confidence_interval
        assert (low, high) == pytest.approx(tuple(reference), abs=0.006 if column else 0.026)
    reference = stats.bootstrap(parts, mean_of_sets, method="percentile", rng=1)
    means = by_set.mean(1)
    assert Estimate.of(0, means)[1:] == pytest.approx(tuple(reference.confidence_interval), abs=0.004)
    closed_form = np.sqrt(sum(part.var() / len(part) for part in parts)) / 2
    assert means.std() == pytest.approx(closed_form, rel=0.03)
    assert means.std() == pytest.approx(reference.standard_error, rel=0.03)


def test_seeds_are_drawn_for_all_sets_together():
    """Two seeds, of which one is all right and one all wrong: so are both sets, or half of each."""
    first = np.arange(10) < 4
    (by_set,) = replicates([np.repeat([[0.0], [1.0]], 10, 1)], [""], [first, ~first])
    assert by_set[:, 0] == pytest.approx(by_set[:, 1])
    assert by_set.mean(1).std() == pytest.approx(np.sqrt(1 / 8), rel=0.05)


def test_systems_share_questions_and_their_seeds_where_these_are_the_same():
    rng = np.random.default_rng(2)
    one, two, alone = rng.random((3, 50)), rng.random((3, 50)), rng.random((1, 50))
    together = replicates([one, two, alone], ["", "", ""], everything(50))
    assert together[0] - together[1] == pytest.approx(replicates([one - two], [""], everything(50))[0])
    # Where only questions are shared, differences vary by the seeds of either.
    few, many = np.repeat([[0.0], [1.0]], 50, 1), np.repeat([[0.0], [1.0], [0.5]], 50, 1)
    apart = replicates([few, many, few], ["one", "one", "two"], everything(50))
    assert (apart[0] - apart[1]).var() == pytest.approx(1 / 8 + 1 / 18, rel=0.1)
    assert (apart[0] - apart[2]).var() == pytest.approx(1 / 8 + 1 / 8, rel=0.1)


def test_every_block_is_another():
    (drawn,) = replicates([np.random.default_rng(3).random((2, 30))], [""], everything(30), blocks=2)
    assert len(np.unique(drawn)) > 0.99 * 2 * REPLICATES
    (first,) = replicates([np.random.default_rng(3).random((2, 30))], [""], everything(30))
    assert (drawn[:REPLICATES] == first).all()


def test_p_is_that_of_the_normal_distribution_where_differences_are_normal():
    rng = np.random.default_rng(4)
    for shift in (0, 0.05, 0.1, 0.2, -0.15):
        differences = rng.normal(shift, 1, 400)
        (drawn,) = replicates([differences[None]], [""], everything(400), blocks=5)
        z = differences.mean() / differences.std() * np.sqrt(400)
        assert p_value(drawn) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.1, abs=0.001)


def test_p_is_uniform_where_there_is_no_difference():
    differences = np.random.default_rng(5).normal(0, 1, (1500, 1, 100))
    p = [p_value(drawn) for drawn in replicates([*differences], [""] * 1500, everything(100))]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.015)


def test_p_of_right_and_wrong_is_seldom_small_where_systems_are_as_good():
    """Each right on the same share of questions, mostly the same ones; so differences are -1, 0 and 1."""
    rng = np.random.default_rng(6)
    differences = rng.choice([-1.0, 0.0, 1.0], (1500, 1, 100), p=[0.1, 0.8, 0.1])
    p = np.array([p_value(drawn) for drawn in replicates([*differences], [""] * 1500, everything(100))])
    for level in (0.01, 0.05, 0.2):
        assert np.mean(p <= level) < level + 4 * np.sqrt(level / 1500)


def test_p_has_bounds():
    none, all_above = np.zeros(999), np.full(999, 0.1)
    assert p_value(none) == 1
    assert p_value(all_above) == p_value(-all_above) == 2 / 1000
    assert p_value(np.r_[all_above, -0.1, 0.0, 0.0]) == pytest.approx(2 * (3 + 1) / (1002 + 1))


def test_p_counts_as_zero_what_rounding_made_of_it():
    drawn = np.array([0.1 + 0.2 - 0.3, -(0.1 + 0.2 - 0.3), 0.5, -0.5])
    assert drawn[0] != 0
    assert p_value(drawn) == 1
    assert p_value(np.r_[drawn[:2], np.full(97, 0.5)]) == pytest.approx(2 * 3 / 100)


levels = st.sampled_from([0.0, 1e-4, 0.01, 0.02, 0.3, 1.0]) | st.floats(0, 1)


@settings(deadline=None)
@given(st.lists(levels, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    """A hypothesis is rejected where Bonferroni's test rejects every intersection of hypotheses that it is in."""
    subsets = [subset for size in range(1, len(p) + 1) for subset in combinations(range(len(p)), size)]
    worst = [
        max(len(subset) * min(p[other] for other in subset) for subset in subsets if index in subset)
        for index in range(len(p))
    ]
    assert holm(p) == pytest.approx([min(1, level) for level in worst])

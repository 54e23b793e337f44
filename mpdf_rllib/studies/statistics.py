"""Estimates with 95 % intervals: of arms, of their differences, and, over whole runs, as rliable has them.

Bootstraps draw seeds and, within each question set, questions (percentile intervals); of the spread over seeds, seeds
alone. Interquartile mean and probability of improvement are of Agarwal et al. (arXiv 2108.13264): a score is a run's
accuracy on a question set, and replicates draw runs within each set.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import trim_mean

from mpdf_rllib.bootstrap import REPLICATES, Estimate, replicates
from mpdf_rllib.envs.debate import ACTIONS
from mpdf_rllib.studies.config import Measure
from mpdf_rllib.studies.playing import PlayedArm


def values_of(arm: PlayedArm, measure: Measure) -> np.ndarray:
    """What is measured, float64, shape (seeds, Q); of a log-ratio, which is not a question's, (seeds, 1)."""
    if measure == "log_ratio":
        return np.array([[history[-1]["log_ratio"]] for history in arm.histories])
    outcomes = arm.result.outcomes
    if measure in ACTIONS:
        column = ACTIONS.index(measure)
        return np.stack([outcome.actions[:, column] / outcome.actions.sum(1) for outcome in outcomes])
    if measure == "tokens":
        return np.stack([outcome.tokens[:, 0] + outcome.tokens[:, 2] for outcome in outcomes]).astype(float)
    if measure == "generated_tokens":
        return np.stack([outcome.tokens[:, 2] for outcome in outcomes]).astype(float)
    return arm.result.correct


def estimate(arm: PlayedArm, measure: Measure) -> Estimate:
    """A mean over seeds and questions; of the measure `spread`, the standard deviation of the seeds' accuracies."""
    mean, (drawn,) = _drawn([arm], measure)
    return Estimate.of(mean[0], drawn)


def difference(arm: PlayedArm, other: PlayedArm, measure: Measure) -> Estimate:
    """Of two arms' means, paired by question where both are played on the same, and by seed where both have as many."""
    if measure != "log_ratio" and arm.questions != other.questions:
        ((one,), (means,)), ((two,), (others,)) = (_drawn([each], measure, i) for i, each in enumerate((arm, other)))
    else:
        (one, two), (means, others) = _drawn([arm, other], measure)
    return Estimate.of(one - two, means - others)


def share_won(arm: PlayedArm, floor: PlayedArm, ceiling: PlayedArm) -> Estimate | None:
    """How much of the way from the floor's accuracy to the ceiling's an arm comes, all on the same questions.

    None where the interval of that way holds 0.
    """
    (own, low, high), (of_arm, of_floor, of_ceiling) = _drawn([arm, floor, ceiling], "accuracy")
    if Estimate.of(high - low, of_ceiling - of_floor).low <= 0:
        return None
    way = of_ceiling - of_floor
    return Estimate.of((own - low) / (high - low), ((of_arm - of_floor)[way > 0]) / way[way > 0])


def _drawn(arms: Sequence[PlayedArm], measure: Measure, stream: int = 0) -> tuple[list[float], list[np.ndarray]]:
    """Of each arm the mean, and its replicates."""
    values = [values_of(arm, measure) for arm in arms]
    if measure == "spread":
        return [float(_spread(each.mean(1))) for each in values], _spread_replicates(values, stream)
    sets = _sets(arms[0]) if measure != "log_ratio" else [np.ones(1, bool)]
    weights = np.array([chosen.mean() for chosen in sets])
    drawn = replicates(values, [arm.result.seeds for arm in arms], sets, stream=stream)
    return [float(each.mean()) for each in values], [each @ weights for each in drawn]


def _spread(accuracies: np.ndarray) -> np.ndarray:
    return accuracies.std(-1, ddof=1) if accuracies.shape[-1] > 1 else np.zeros(accuracies.shape[:-1])


def _spread_replicates(values: Sequence[np.ndarray], stream: int) -> list[np.ndarray]:
    """Over seeds alone: questions drawn anew would add to what they add to the seeds' differences already."""
    rng = np.random.default_rng(stream)
    seeds = {number: rng.integers(number, size=(REPLICATES, number)) for number in map(len, values)}
    return [_spread(each.mean(1)[seeds[len(each)]]) for each in values]


def _sets(arm: PlayedArm) -> list[np.ndarray]:
    names = np.array(arm.sets)
    return [names == name for name in dict.fromkeys(arm.sets)]


def scores(arm: PlayedArm) -> np.ndarray:
    """Accuracies, float64, shape (seeds, sets)."""
    return np.stack([arm.result.correct[:, chosen].mean(1) for chosen in _sets(arm)], -1)


def interquartile_mean(arm: PlayedArm) -> Estimate:
    """The mean of the middle half of all scores."""
    of_arm = scores(arm)
    return Estimate.of(float(_interquartile(of_arm)), _interquartile(_runs(np.random.default_rng(0), of_arm)))


def probability_of_improvement(arm: PlayedArm, other: PlayedArm) -> Estimate:
    """The chance that a run of the arm scores more than one of the other, mean over the sets; ties count half."""
    of_arm, of_other = scores(arm), scores(other)
    rng = np.random.default_rng(0)
    drawn = _improves(_runs(rng, of_arm), _runs(rng, of_other))
    return Estimate.of(float(_improves(of_arm, of_other)), drawn)


def _interquartile(of_arm: np.ndarray) -> np.ndarray:
    """Of scores of shape (..., seeds, sets)."""
    return trim_mean(of_arm.reshape(*of_arm.shape[:-2], -1), 0.25, axis=-1)


def _improves(of_arm: np.ndarray, of_other: np.ndarray) -> np.ndarray:
    """Of scores of shape (..., seeds, sets)."""
    gap = of_arm[..., :, None, :] - of_other[..., None, :, :]
    return ((gap > 0) + (gap == 0) / 2).mean((-3, -2, -1))


def _runs(rng: np.random.Generator, of_arm: np.ndarray) -> np.ndarray:
    """Scores of runs that are drawn within each set, shape (REPLICATES, seeds, sets)."""
    drawn = rng.integers(len(of_arm), size=(REPLICATES, *of_arm.shape))
    return np.take_along_axis(of_arm[None], drawn, 1)

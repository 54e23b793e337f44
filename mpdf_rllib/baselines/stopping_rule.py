"""Refine all until one solution's calibrated confidence passes a threshold, then take the best one.

That is the one with the highest log-probability, or the one that is most probably right.
"""

import math

import numpy as np

from mpdf_rllib.baselines.outcome import Outcome, outcome_of_nodes
from mpdf_rllib.envs.credit import Calibration
from mpdf_rllib.envs.debate import Answers, is_most_confident_correct
from mpdf_rllib.envs.solution_tree import SolutionTree


def stop_at(tree: SolutionTree, calibration: Calibration, threshold: float, calibrated: bool = False) -> Outcome:
    """Plays the rule with a threshold in [0, 1]; all chains grow together, to at most `rounds` refinements.

    Args:
        tree: All solutions.
        calibration: How probably a solution is right, which stops.
        threshold: For that.
        calibrated: Whether the answer is by that, too, in place of the log-probability.
    """
    probability = calibration(tree.features)
    # The highest probability seen once all nodes up to a depth are there, per depth.
    seen = np.stack([probability[:, tree.depth <= d].max(-1) for d in range(tree.rounds + 1)], -1)
    stops = seen >= threshold
    last = np.where(stops.any(-1), stops.argmax(-1), tree.rounds)
    used = tree.depth <= last[:, None]
    answers = Answers(tree.answer_class, probability if calibrated else tree.confidence, tree.correct)
    return outcome_of_nodes(tree, is_most_confident_correct(answers, used), used)


def best_threshold(
    train: SolutionTree, calibration: Calibration, calibrated: bool = False, budget: float = math.inf
) -> float:
    """The threshold with the highest accuracy on the training questions, the cheapest of equals.

    Args:
        train: Their solutions.
        calibration: See `stop_at`.
        calibrated: See `stop_at`.
        budget: Generated tokens a training question that the rule may take at most; first answers alone may take more.
    """
    thresholds = np.unique(np.quantile(calibration(train.features), np.linspace(0, 1, 101)))

    def merit(threshold: float) -> tuple[bool, float, float]:
        outcome = stop_at(train, calibration, threshold, calibrated)
        fits = outcome.generated <= budget
        return fits, outcome.accuracy if fits else 0.0, -outcome.generated

    return float(max(thresholds, key=merit))

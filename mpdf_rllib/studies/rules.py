"""Rules without learning that studies hold policies against; what has a setting is set on the training questions."""

from collections.abc import Callable

from mpdf_rllib.baselines.bounds import fit_calibration, informed_ceiling, oracle
from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.baselines.schedules import best_schedule, play_schedule
from mpdf_rllib.baselines.stopping_rule import best_threshold, stop_at
from mpdf_rllib.baselines.votes import highest_logprob, nodes_to_depth, plurality, roots
from mpdf_rllib.recorded_trees import RecordedTrees


def _best_threshold(trees: RecordedTrees) -> Outcome:
    calibration = fit_calibration(trees.train)
    return stop_at(trees.test, calibration, best_threshold(trees.train, calibration))


RULES: dict[str, Callable[[RecordedTrees], Outcome]] = {
    "plurality": lambda trees: plurality(trees.test, roots(trees.test)),
    "highest log-probability": lambda trees: highest_logprob(trees.test, roots(trees.test)),
    "refine all once, highest log-probability": lambda trees: highest_logprob(
        trees.test, nodes_to_depth(trees.test, 1)
    ),
    "highest log-probability of all": lambda trees: highest_logprob(trees.test, [*range(trees.test.num_nodes)]),
    "best fixed schedule": lambda trees: play_schedule(trees.test, best_schedule(trees.train)),
    "refine until confident": _best_threshold,
    "informed ceiling": lambda trees: informed_ceiling(trees.train, trees.test, fit_calibration(trees.train)),
    "oracle": lambda trees: oracle(trees.test),
}
"""By name."""

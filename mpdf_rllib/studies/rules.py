"""What studies hold policies against: rules that are set on the training questions, and published systems."""

from collections.abc import Callable
from functools import partial

from mpdf_rllib.baselines.bounds import fit_calibration, informed_ceiling, oracle
from mpdf_rllib.baselines.llm_debate import LLMDebate
from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.baselines.schedules import best_schedule, play_schedule
from mpdf_rllib.baselines.stopping_rule import best_threshold, stop_at
from mpdf_rllib.baselines.system import System
from mpdf_rllib.baselines.votes import highest_logprob, nodes_to_depth, plurality, roots
from mpdf_rllib.comparison.systems import play_systems
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.recorded_trees import RecordedTrees


def _best_threshold(trees: RecordedTrees, calibrated: bool = False) -> Outcome:
    calibration = fit_calibration(trees.train)
    return stop_at(trees.test, calibration, best_threshold(trees.train, calibration, calibrated), calibrated)


RULES: dict[str, Callable[[RecordedTrees], Outcome]] = {
    "plurality": lambda trees: plurality(trees.test, roots(trees.test)),
    "plurality of all": lambda trees: plurality(trees.test, [*range(trees.test.num_nodes)]),
    "highest log-probability": lambda trees: highest_logprob(trees.test, roots(trees.test)),
    "refine all once, highest log-probability": lambda trees: highest_logprob(
        trees.test, nodes_to_depth(trees.test, 1)
    ),
    "highest log-probability of all": lambda trees: highest_logprob(trees.test, [*range(trees.test.num_nodes)]),
    "best fixed schedule": lambda trees: play_schedule(trees.test, best_schedule(trees.train)),
    "refine until confident": _best_threshold,
    "refine until confident, calibrated answer": partial(_best_threshold, calibrated=True),
    "informed ceiling": lambda trees: informed_ceiling(trees.train, trees.test, fit_calibration(trees.train)),
    "oracle": lambda trees: oracle(trees.test),
}
"""By name: what they come to on the test questions."""

SYSTEMS: dict[str, Callable[[ExperimentConfig], System]] = {
    "LLM-Debate": lambda config: LLMDebate(config.compare.llm_debate.rounds),
}
"""By name; they ask for more than debates do."""


def play_rule(name: str, trees: RecordedTrees, config: ExperimentConfig) -> Outcome:
    """What a rule or a system of that name comes to on the test questions.

    Raises:
        EngineError: The engine failed, where something is not recorded.
    """
    if name in RULES:
        return RULES[name](trees)
    (result,) = play_systems(config, [[SYSTEMS[name](config)]], train=[], test=trees.test.questions)
    return result.outcomes[0]

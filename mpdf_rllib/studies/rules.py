"""What studies hold policies against: rules that are set on the training questions, and published systems."""

import math
from collections.abc import Callable

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


def _until_confident(trees: RecordedTrees, calibrated: bool, budget: float) -> Outcome:
    calibration = fit_calibration(trees.train)
    threshold = best_threshold(trees.train, calibration, calibrated, budget)
    return stop_at(trees.test, calibration, threshold, calibrated)


RULES: dict[str, Callable[[RecordedTrees], Outcome]] = {
    "plurality": lambda trees: plurality(trees.test, roots(trees.test)),
    "plurality of all": lambda trees: plurality(trees.test, [*range(trees.test.num_nodes)]),
    "refine all once, highest log-probability": lambda trees: highest_logprob(
        trees.test, nodes_to_depth(trees.test, 1)
    ),
    "highest log-probability of all": lambda trees: highest_logprob(trees.test, [*range(trees.test.num_nodes)]),
    "informed ceiling": lambda trees: informed_ceiling(trees.train, trees.test, fit_calibration(trees.train)),
    "oracle": lambda trees: oracle(trees.test),
}
"""By name: what they come to on the test questions."""

UNTIL_CONFIDENT: dict[str, bool] = {
    "refine until confident": False,
    "refine until confident, calibrated answer": True,
}
"""By name, whether the answer is by the calibrated probability; with a threshold, and so with a budget."""

SYSTEMS: dict[str, Callable[[ExperimentConfig], System]] = {
    "LLM-Debate": lambda config: LLMDebate(config.compare.llm_debate.rounds),
}
"""By name; they ask for more than debates do."""


BEST_SCHEDULE = "best fixed schedule"
"""The one that answers by the team's own rule."""

NAMES = (*RULES, BEST_SCHEDULE, *UNTIL_CONFIDENT, *SYSTEMS)


def play_rule(name: str, trees: RecordedTrees, config: ExperimentConfig, budget: float = math.inf) -> Outcome:
    """What a rule or a system of that name comes to on the test questions.

    Args:
        name: One of `NAMES`.
        trees: All solutions.
        config: Of what is played.
        budget: Generated tokens a training question that a rule of `UNTIL_CONFIDENT` may take.

    Raises:
        EngineError: The engine failed, where something is not recorded.
    """
    if name in RULES:
        return RULES[name](trees)
    if name == BEST_SCHEDULE:
        answer = config.team.answer
        return play_schedule(trees.test, best_schedule(trees.train, answer), answer)
    if name in UNTIL_CONFIDENT:
        return _until_confident(trees, UNTIL_CONFIDENT[name], budget)
    (result,) = play_systems(config, [[SYSTEMS[name](config)]], train=[], test=trees.test.questions)
    return result.outcomes[0]

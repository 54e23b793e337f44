"""Trained policies, played on recorded trees."""

from collections.abc import Iterable
from pathlib import Path

from mpdf_rllib.algorithms.checkpoints import load_modules
from mpdf_rllib.algorithms.meta_policy import greedy
from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.baselines.schedules import play
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.envs.solution_tree import SolutionTree


def play_policies(
    config: ExperimentConfig, tree: SolutionTree, checkpoints: Iterable[str | Path], references: bool = False
) -> tuple[Outcome, ...]:
    """What the greedy policies of checkpoints come to on all questions of a complete tree, in the order given.

    Args:
        config: Of the experiment that trained them.
        tree: The questions.
        checkpoints: Their folders.
        references: Plays the frozen references, which are the warm starts, in place of the policies.

    Raises:
        DataError: A checkpoint is missing, or was damaged.
    """
    outcomes = []
    for checkpoint in checkpoints:
        modules = load_modules(checkpoint, config.team.size)
        networks = [module.reference if references else module.policy for module in modules]
        outcomes.append(play(tree, greedy(networks), config.team.rules))
    return tuple(outcomes)

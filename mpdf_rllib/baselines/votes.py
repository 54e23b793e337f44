"""Votes over a given set of solutions: plurality, and the single most probable one."""

from collections.abc import Sequence

import numpy as np

from mpdf_rllib.baselines.outcome import Outcome, outcome_of_nodes
from mpdf_rllib.envs.debate import Answers, is_team_correct
from mpdf_rllib.envs.solution_tree import SolutionTree


def plurality(tree: SolutionTree, nodes: Sequence[int]) -> Outcome:
    """The most frequent answer among the nodes, ties by summed confidence, then by the first node."""
    answers = Answers(*(array[:, nodes] for array in (tree.answer_class, tree.confidence, tree.correct)))
    return outcome_of_nodes(tree, is_team_correct(answers), _used(tree, nodes))


def highest_logprob(tree: SolutionTree, nodes: Sequence[int]) -> Outcome:
    """The answer of the node with the highest mean token log-probability."""
    best = tree.confidence[:, nodes].argmax(-1)
    correct = np.take_along_axis(tree.correct[:, nodes], best[:, None], -1)[:, 0]
    return outcome_of_nodes(tree, correct, _used(tree, nodes))


def roots(tree: SolutionTree) -> list[int]:
    """The nodes that hold first answers."""
    return nodes_to_depth(tree, 0)


def nodes_to_depth(tree: SolutionTree, depth: int) -> list[int]:
    """The nodes with at most `depth` refinements."""
    return np.flatnonzero(tree.depth <= depth).tolist()


def _used(tree: SolutionTree, nodes: Sequence[int]) -> np.ndarray:
    used = np.zeros(tree.present.shape, bool)
    used[:, list(nodes)] = True
    return used

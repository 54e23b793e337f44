"""What every system comes to on a set of questions."""

from typing import NamedTuple

import numpy as np

from mpdf_rllib.envs.solution_tree import SolutionTree


class Outcome(NamedTuple):
    """Per question.

    Attributes:
        correct: bool, shape (Q,): the system's answer is the reference answer; no answer is wrong.
        tokens: int64, shape (Q, 3): prompt tokens, of which cached, and generated tokens.
        actions: int64, shape (Q, 3): how often agents persisted, refined and conceded; zeros where a system has no such
            actions.
        failed: bool, shape (Q,): the system could not go on, as a prompt of it was too long for its model; not correct.
    """

    correct: np.ndarray
    tokens: np.ndarray
    actions: np.ndarray
    failed: np.ndarray

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def generated(self) -> float:
        """Mean generated tokens a question."""
        return float(self.tokens[:, 2].mean())


def outcome_of_nodes(tree: SolutionTree, correct: np.ndarray, used: np.ndarray) -> Outcome:
    """The outcome of a rule that pays for the `used` nodes, bool (Q, M), without actions of agents."""
    actions, failed = np.zeros((len(correct), 3), np.int64), np.zeros(len(correct), bool)
    return Outcome(correct, (used[..., None] * tree.tokens).sum(1), actions, failed)

"""All solutions of a set of questions, as arrays that the debate's rules index."""

from collections.abc import Sequence

import numpy as np

from mpdf_rllib.engine.types import Position
from mpdf_rllib.envs.features import NUM_SOLUTION_FEATURES
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.questions import Question, equivalent

CORRECT = 0
"""The answer class of the reference answer."""
UNPARSED = -1
"""The answer class of every solution without an answer; it is equivalent to none."""


class SolutionTree:
    """The trees of `Q` questions: for each of `roots` a first answer and the chain of its refinements.

    A node is numbered root * (rounds + 1) + depth, so that M = len(roots) * (rounds + 1) nodes hold every debate that
    any policy could have. Nodes are added as they are made; arrays hold zeros where a node is missing.

    Attributes:
        questions: The Q questions.
        roots: Per root (agent that wrote it, which of its draws).
        rounds: Refinements below each root.
        child: int64, shape (M,): the node that refines a node, -1 at a chain's end.
        present: bool, shape (Q, M): the node is here.
        answer_class: int64, shape (Q, M): equivalent answers of a question share it; `CORRECT` is the reference's.
        confidence: float64, shape (Q, M), in [0, 1].
        features: float32, shape (Q, M, NUM_SOLUTION_FEATURES).
        tokens: int64, shape (Q, M, 3): prompt, of which cached, generated.
    """

    def __init__(self, questions: Sequence[Question], roots: Sequence[tuple[int, int]], rounds: int):
        self.questions = tuple(questions)
        self.roots = tuple(roots)
        self.rounds = rounds
        self.num_nodes = len(self.roots) * (rounds + 1)
        shape = (len(self.questions), self.num_nodes)
        nodes = np.arange(self.num_nodes)
        self.child = np.where(nodes % (rounds + 1) < rounds, nodes + 1, -1)
        self.present = np.zeros(shape, bool)
        self.answer_class = np.full(shape, UNPARSED)
        self.confidence = np.zeros(shape)
        self.features = np.zeros((*shape, NUM_SOLUTION_FEATURES), np.float32)
        self.tokens = np.zeros((*shape, 3), np.int64)
        self._solutions: dict[tuple[int, int], Solution] = {}
        self._wrong_answers: list[list[str]] = [[] for _ in self.questions]

    def parent(self, node: int) -> int | None:
        """The node that `node` refines, None for a first answer."""
        return node - 1 if node % (self.rounds + 1) else None

    def position(self, question: int, node: int) -> Position:
        """The node's position in the engine's words."""
        root, depth = divmod(node, self.rounds + 1)
        agent, sample = self.roots[root]
        return Position(self.questions[question].id, root=agent, depth=depth, refiner=agent, sample=sample)

    def solution(self, question: int, node: int) -> Solution:
        """The solution at a node.

        Raises:
            KeyError: The node is missing.
        """
        return self._solutions[question, node]

    def add(self, question: int, node: int, solution: Solution) -> None:
        """Puts a solution at a node; to be called through `checking`, since it compares answers."""
        self._solutions[question, node] = solution
        self.answer_class[question, node] = self._class_of(question, solution)
        self.confidence[question, node] = solution.confidence
        self.features[question, node] = solution.features
        self.tokens[question, node] = solution.tokens
        self.present[question, node] = True

    def _class_of(self, question: int, solution: Solution) -> int:
        """The first class, in the order in which they were met, of an equivalent answer; else a new one."""
        if solution.correct:
            return CORRECT
        if solution.answer is None:
            return UNPARSED
        known = self._wrong_answers[question]
        for answer_class, answer in enumerate(known, 1):
            if equivalent(answer, solution.answer, self.questions[question].kind):
                return answer_class
        known.append(solution.answer)
        return len(known)

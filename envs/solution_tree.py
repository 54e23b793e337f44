"""All solutions of a set of questions, as arrays that the debate's rules index."""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np

from mpdf_rllib.engine.types import Position
from mpdf_rllib.envs.answer_classes import UNPARSED, AnswerClasses
from mpdf_rllib.envs.features import NUMBERS, FeatureTable
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.questions import Question


class SolutionTree:
    """The trees of `Q` questions: first answers, below each its refinements, below these theirs, `rounds` deep.

    All questions share one numbering of the M nodes. Where only its author refines a solution, all places of the tree
    are numbered at once: they hold every debate that any policy could have. Where whoever stands on a solution may
    refine it, there are far more, and they are numbered as they are asked for. Solutions are added as they are made;
    arrays hold zeros where one is missing.

    Attributes:
        questions: The Q questions.
        table: The F features of a solution.
        rounds: Refinements below each first answer.
        roots: int64, shape (R,): the nodes of the first answers.
        child: int64, shape (M, F, S): the S refinements of a node by each of F agents who may refine it (F is 1 where
            only the author may), -1 at a chain's end and where nobody has asked for it.
        depth: int64, shape (M,): refinements before it.
        present: bool, shape (Q, M): the solution is here.
        answer_class: int64, shape (Q, M): equivalent answers of a question share it, as far as a debate may
            know; from 0 in the order in which they were met.
        correct: bool, shape (Q, M): the solution is right.
        confidence: float64, shape (Q, M), in [0, 1].
        features: float32, shape (Q, M, F): the table's entries.
        tokens: int64, shape (Q, M, 3): prompt, of which cached, generated.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        roots: Sequence[tuple[int, int]],
        rounds: int,
        refine_samples: int = 1,
        refiners: int | None = None,
        table: FeatureTable = NUMBERS,
    ):
        """Numbers the places; no solution is there yet.

        Args:
            questions: The Q questions.
            roots: Per first answer the agent that writes it, and which of its draws it is.
            rounds: Refinements below each first answer, at least 0.
            refine_samples: S, refinements of a solution by one agent, at least 1.
            refiners: How many agents may refine any solution; None where only its author may.
            table: The features of a solution.
        """
        self.questions = tuple(questions)
        self.table = table
        self.rounds = rounds
        self._by_author = refiners is None
        self._places: list[Position] = []
        self._parents: list[int | None] = []
        self._children: list[list[list[int]]] = []
        self._no_children = [[-1] * refine_samples for _ in range(refiners or 1)]
        self._solutions: dict[tuple[int, int], Solution] = {}
        self._classes = [AnswerClasses(question) for question in self.questions]

        q = len(self.questions)
        self.present = np.zeros((q, 0), bool)
        self.answer_class = np.zeros((q, 0), np.int64)
        self.correct = np.zeros((q, 0), bool)
        self.confidence = np.zeros((q, 0))
        self.features = np.zeros((q, 0, len(table)), np.float32)
        self.tokens = np.zeros((q, 0, 3), np.int64)
        first = []
        for agent, sample in roots:
            first.append(self._number(Position("", agent, sample), None))
            if self._by_author:
                self._number_all_below(first[-1])
        self.roots = np.array(first, np.int64)
        self._grow()

    @property
    def num_nodes(self) -> int:
        """M, the places that have a number."""
        return len(self._places)

    def number_all(self) -> None:
        """Numbers every place of the tree, also where they are numbered as they are asked for."""
        for root in self.roots.tolist():
            self._number_all_below(root)
        self._grow()

    def refinements(self, node: np.ndarray, agent: np.ndarray) -> np.ndarray:
        """The refinements of a node by an agent, numbered now where nobody has asked for them before.

        Args:
            node: int64, any shape.
            agent: int64, broadcastable to it.

        Returns:
            int64, shape (*node.shape, S), -1 at a chain's end.
        """
        refiner = np.zeros_like(node) if self._by_author else np.broadcast_to(agent, node.shape)
        unasked = (self.child[node, refiner, 0] < 0) & (self.depth[node] < self.rounds)
        if unasked.any():
            for pair in sorted(set(zip(node[unasked].tolist(), refiner[unasked].tolist(), strict=True))):
                self._number_refinements(*pair)
            self._grow()
        return self.child[node, refiner]

    def parent(self, node: int) -> int | None:
        """The node that `node` refines, None for a first answer."""
        return self._parents[node]

    def position(self, question: int, node: int) -> Position:
        """The node's position in the engine's words."""
        return dataclasses.replace(self._places[node], question=self.questions[question].id)

    def solution(self, question: int, node: int) -> Solution:
        """The solution at a node.

        Raises:
            KeyError: The solution is missing.
        """
        return self._solutions[question, node]

    def of_questions(self, chosen: np.ndarray) -> "SolutionTree":
        """A complete tree's part with some of the questions, in their order.

        Args:
            chosen: bool, shape (Q,).
        """
        indices = np.flatnonzero(chosen).tolist()
        part = copy.copy(self)
        part.questions = tuple(self.questions[q] for q in indices)
        part._classes = [self._classes[q] for q in indices]
        part._solutions = {
            (i, node): self._solutions[q, node] for i, q in enumerate(indices) for node in range(self.num_nodes)
        }
        for name in ("present", "answer_class", "correct", "confidence", "features", "tokens"):
            setattr(part, name, getattr(self, name)[indices])
        return part

    def add(self, question: int, node: int, solution: Solution) -> None:
        """Puts a solution at a node; to be called through `checking`, since it compares answers."""
        self._solutions[question, node] = solution
        self.answer_class[question, node] = self._classes[question].of(solution.answer)
        self.correct[question, node] = solution.correct
        self.confidence[question, node] = solution.confidence
        self.features[question, node] = solution.features
        self.tokens[question, node] = solution.tokens
        self.present[question, node] = True

    def _number(self, place: Position, parent: int | None) -> int:
        self._places.append(place)
        self._parents.append(parent)
        self._children.append([samples[:] for samples in self._no_children])
        return len(self._places) - 1

    def _number_refinements(self, node: int, refiner: int) -> None:
        place = self._places[node]
        children = self._children[node][refiner]
        for sample, child in enumerate(children):
            if child < 0:
                step = (place.root if self._by_author else refiner, sample)
                children[sample] = self._number(dataclasses.replace(place, path=(*place.path, step)), node)

    def _number_all_below(self, node: int) -> None:
        if self._places[node].depth == self.rounds:
            return
        for refiner, children in enumerate(self._children[node]):
            self._number_refinements(node, refiner)
            for child in children:
                self._number_all_below(child)

    def _grow(self) -> None:
        """Makes the arrays as long as there are nodes."""
        self.child = np.array(self._children, np.int64)
        self.depth = np.array([place.depth for place in self._places], np.int64)

        def grown(array: np.ndarray, value: int = 0) -> np.ndarray:
            wider = np.full((len(array), self.num_nodes, *array.shape[2:]), value, array.dtype)
            wider[:, : array.shape[1]] = array
            return wider

        self.present = grown(self.present)
        self.answer_class = grown(self.answer_class, UNPARSED)
        self.correct = grown(self.correct)
        self.confidence = grown(self.confidence)
        self.features = grown(self.features)
        self.tokens = grown(self.tokens)

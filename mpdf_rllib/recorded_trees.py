"""All solutions that an experiment's debates and baselines can ask for."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from mpdf_rllib.engine import Engine
from mpdf_rllib.engine.recording import NotRecordedError
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import Question, Split

FRESH_SAMPLES = 6
"""First answers a question, in the agents' turn, for the votes over more samples; the first N are the trees' roots."""


@dataclass(frozen=True)
class RecordedTrees:
    """All solutions of an experiment, or of some of its questions.

    Attributes:
        train: Trees of the training questions.
        test: Trees of the held-out questions.
        fresh: `FRESH_SAMPLES` first answers to each held-out question.
        made: Generations that an engine made for them; the others were replayed.
    """

    train: SolutionTree
    test: SolutionTree
    fresh: SolutionTree
    made: int = 0

    @classmethod
    def empty(cls, team: Team, train: Sequence[Question], test: Sequence[Question]) -> Self:
        """Trees with a place for every solution, none of which is there yet."""
        trees = cls(team.tree(train), team.tree(test), team.fresh_tree(test, FRESH_SAMPLES))
        for tree in trees.all:
            tree.number_all()
        return trees

    @cached_property
    def digest(self) -> str:
        """What tells these training and test solutions from any others, a hash in hexadecimal."""
        digest = hashlib.sha256()
        for tree in (self.train, self.test):
            digest.update("\n".join(question.id for question in tree.questions).encode())
            for array in (tree.child, tree.answer_class, tree.correct, tree.confidence, tree.features, tree.tokens):
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def all(self) -> tuple[SolutionTree, SolutionTree, SolutionTree]:
        """The trees."""
        return self.train, self.test, self.fresh

    async def fill(self, team: Team, engine: Engine) -> None:
        """Makes all solutions, whose chains are in flight together.

        Raises:
            EngineError: The engine failed; what was made before stays.
        """
        await asyncio.gather(*(team.fill(engine, tree, _places(tree, range(len(tree.questions)))) for tree in self.all))

    async def replay(self, team: Team, recording: Engine) -> dict[Split, list[str]]:
        """Takes over what is recorded; returns the ids of the questions, by split, of which something is missing."""

        async def replayed(tree: SolutionTree, question: int) -> bool:
            try:
                await team.fill(recording, tree, _places(tree, [question]))
            except NotRecordedError:
                return False
            return True

        async def missing(tree: SolutionTree) -> list[str]:
            there = await asyncio.gather(*(replayed(tree, question) for question in range(len(tree.questions))))
            return [question.id for question, all_there in zip(tree.questions, there, strict=True) if not all_there]

        train, test, fresh = await asyncio.gather(*map(missing, self.all))
        return {"train": train, "test": list(dict.fromkeys([*test, *fresh]))}


def _places(tree: SolutionTree, questions: Sequence[int]) -> list[tuple[int, int]]:
    return [(question, node) for question in questions for node in range(tree.num_nodes)]

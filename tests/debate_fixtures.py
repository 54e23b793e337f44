"""Debates of known and of random solutions."""

import asyncio
import math
from collections.abc import Callable

import numpy as np

from mpdf_rllib.engine import Generation, GenerationRequest
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.answer_classes import UNPARSED
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.features import DEBATE_FEATURES, NUMBERS, bounds
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import Question

FEATURES = NUMBERS + DEBATE_FEATURES
LOW, HIGH = bounds(FEATURES)

TEXT = "12 bags hold 4 pens each. How many pens in all?"
PENS = Question("pens", TEXT, "48", "number", "multiplication")

# (root, depth) -> answer and confidence. Nodes are numbered root * 4 + depth.
SCRIPT = {
    (0, 0): ("40", 0.6),
    (0, 1): ("48", 0.3),
    (1, 0): ("48", 0.8),
    (1, 1): ("48", 0.9),
    (1, 2): ("50", 0.5),
    (2, 0): ("44", 0.7),
    (2, 1): ("44", 0.2),
}


def nothing_is_missing(wanted):
    raise AssertionError(f"asked for {wanted}")


def scripted(text: str, confidence: float, node: int) -> Generation:
    """A generation whose tokens tell which nodes were counted: 2 to the node's number."""
    return Generation(text, (1,), (math.log(confidence),), (len(text),), "stop", 2**node, 0, 2**node)


class Script:
    """Plays SCRIPT and keeps the requests in their order."""

    def __init__(self):
        self.requests: list[GenerationRequest] = []
        self.engine = ScriptedEngine(self.respond)

    def respond(self, request: GenerationRequest) -> Generation:
        self.requests.append(request)
        place = request.position
        if request.continuation:
            return Generation("", (), (), (), "score", 2**20, 0, 0, (-0.5 - 0.5 * place.root, -0.25))
        answer, confidence = SCRIPT[place.root, place.depth]
        node = place.root * 4 + place.depth
        if request.score_words:
            return Generation("", (), (), (), "score", 2 ** (16 + node), 2 ** (16 + node), 0, (-0.1, -2.4))
        return scripted(f" 12 * 4 = {answer}", confidence, node)

    def debates(self, team: Team) -> DebateBatch:
        tree = team.tree([PENS])
        return DebateBatch(tree, lambda wanted: asyncio.run(team.fill(self.engine, tree, wanted)), team.rules)

    @property
    def places(self) -> list[tuple[int, int, int]]:
        return [(r.position.root, r.position.depth, r.position.author) for r in self.requests]


def random_tree(rng: np.random.Generator, agents: int, rounds: int, questions: int = 3, **settings) -> SolutionTree:
    """A complete tree of random solutions for such a team; confidences are eighths, so that ties occur."""
    tree = Team(agents, rounds, **settings).tree([PENS] * questions)
    tree.number_all()
    tree.present[:] = True
    tree.answer_class[:] = rng.integers(UNPARSED, 3, tree.present.shape)
    tree.correct[:] = (tree.answer_class != UNPARSED) & rng.integers(0, 2, tree.present.shape).astype(bool)
    tree.confidence[:] = rng.integers(0, 9, tree.present.shape) / 8 * (tree.answer_class != UNPARSED)
    tree.features[:] = rng.uniform(LOW[: len(NUMBERS)], HIGH[: len(NUMBERS)], tree.features.shape)
    tree.tokens[:] = rng.integers(1, 50, tree.tokens.shape)
    return tree


def random_actions(rng: np.random.Generator, debates: DebateBatch) -> np.ndarray:
    legal = debates.legal()
    return np.where(legal, rng.random(legal.shape), -1.0).argmax(-1)


def linear_policy(rng: np.random.Generator, actions: int = 3) -> Callable:
    weights = rng.normal(size=(len(FEATURES), actions))

    def policy(observation):
        scores = observation["own"].astype(float) @ weights
        return np.where(observation["action_mask"] > 0, scores, -np.inf).argmax(-1)

    return policy

"""Workflows on a scripted engine, which says what was asked and of whom."""

import itertools
from collections.abc import Callable

import numpy as np
from debate_fixtures import scripted
from hypothesis import strategies as st

from mpdf_rllib.baselines.system import Advisor, Panel
from mpdf_rllib.baselines.workflow import MAX_OPERATORS, OPERATORS, simplified
from mpdf_rllib.engine import Generation, GenerationRequest, Position
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import Question

G, R, E = OPERATORS
AGENTS = 3
TEAM = Team(AGENTS, 2, critic=False)
QUESTIONS = [Question(f"q{i}", f"Day {i}: 12 bags, 4 pens. Pens?", "48", "number", "multiplication") for i in range(12)]
MODEL = Advisor("advisor", chat=True)

WORKFLOWS = [
    workflow
    for length in range(1, MAX_OPERATORS + 1)
    for rest in itertools.product(OPERATORS, repeat=length - 1)
    if simplified(workflow := (G, *rest)) == workflow
]
workflows = st.sampled_from(WORKFLOWS)


class Script:
    """Answers questions by position, and what the advisor is asked by its replies in turn; keeps all requests."""

    def __init__(self, answer: Callable[[Position], object], replies: list[str] | None = None):
        self.requests: list[GenerationRequest] = []
        self._answer = answer
        self._replies = iter(replies or [])
        self.panel = Panel(TEAM, ScriptedEngine(self.respond))

    def respond(self, request: GenerationRequest) -> str | Generation:
        self.requests.append(request)
        if request.model == MODEL.model:
            return next(self._replies)
        answer = self._answer(request.position)
        return answer if isinstance(answer, Generation) else f"= {answer}"

    @property
    def places(self) -> list[Position]:
        return [request.position for request in self.requests if request.model != MODEL.model]

    @property
    def proposals(self) -> list[GenerationRequest]:
        return [request for request in self.requests if request.model == MODEL.model]


def at_random(seed: int) -> Callable[[Position], Generation]:
    """Answers of which a third is right and one in five is none; confidences are eighths, so that ties occur."""

    def answer(place: Position) -> Generation:
        entropy = [seed, *place.question.encode(), 99, place.root, place.sample, place.depth]
        rng = np.random.default_rng(entropy)
        text = rng.choice(["= 48", "= 48", "= 40", "= 41", "none"])
        return scripted(str(text), int(rng.integers(1, 9)) / 8, int(rng.integers(1, 12)))

    return answer

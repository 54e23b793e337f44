"""Systems that ask a scripted engine: who was asked what, in which order."""

import asyncio
import math
from collections.abc import Callable

from debate_fixtures import PENS

from mpdf_rllib.baselines.system import Panel, Session, System
from mpdf_rllib.engine import Generation, GenerationRequest
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.envs.team import Team

Answer = Callable[[int, int], int | str | None]
"""(agent, turn) -> its answer; a text is said as it is, None is no answer."""


class Asked:
    """A scripted engine whose agents answer by agent and turn, with the requests in their order.

    An agent's `confidence` is the probability of each of its tokens, of which a solution has one more than the agent's
    index.
    """

    def __init__(self, answer: Answer, confidence: Callable[[int], float] = lambda agent: 0.5, agents: int = 3):
        self.requests: list[GenerationRequest] = []
        self._answer, self._confidence = answer, confidence
        self.engine = ScriptedEngine(self._respond)
        self.panel = Panel(Team(agents), self.engine)

    def _respond(self, request: GenerationRequest) -> Generation:
        self.requests.append(request)
        place = request.position
        answer = self._answer(place.root, place.depth)
        text = answer if isinstance(answer, str) else f" 12 * 4 = {answer}" if answer is not None else " hm"
        logprob = math.log(self._confidence(place.root))
        tokens = (logprob,) * (1 + place.root)
        return Generation(text, (), tokens, (len(text),) * len(tokens), "stop", 100, 90, len(tokens))

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """(agent, draw, turn) of each request."""
        return [(r.position.root, r.position.sample, r.position.depth) for r in self.requests]

    @property
    def queries(self) -> list[str]:
        """What each request asks after its examples."""
        return [str(request.prompt).rpartition("\n\n")[2] for request in self.requests]

    def solve(self, system: System) -> tuple[Solution | None, Session]:
        session = self.panel.session(PENS)
        return asyncio.run(system.solve(session)), session

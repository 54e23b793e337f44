"""What all systems have in common that answer questions in their own way, with a team's frozen models.

A system asks for solutions in sessions, one a question, through whatever engine there is; a recording keeps them, so
that a system is replayed like a debate. Its first answers and refinements are those of the debates, unless these have
self-reports: where two systems ask the same of the same agent, they are told the same.
"""

import asyncio
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.engine import Engine, GenerationRequest, Message, Position, SamplingParameters
from mpdf_rllib.envs.answer_classes import AnswerClasses
from mpdf_rllib.envs.debate import speaker
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.envs.team import Prompt, Team
from mpdf_rllib.errors import PromptError
from mpdf_rllib.prompts import as_text
from mpdf_rllib.questions import Question, checking

Result = TypeVar("Result")

MAX_AGENTS = 16
"""Of a system; those beyond the team's are its members again, with other examples where they are shown any."""


class Panel:
    """A team as systems ask it: its members over and over, up to `MAX_AGENTS`; they neither judge nor report.

    Attributes:
        team: The agents.
        size: How many of them are the team's own, N.
        engine: What runs their models.
    """

    def __init__(self, team: Team, engine: Engine):
        """Asks nothing yet."""
        members = team.members
        agents = tuple(members[agent % len(members)] for agent in range(MAX_AGENTS))
        self.team = dataclasses.replace(team, agents=agents, critic=False, self_report=False, peer_likelihood=False)
        self.size = len(members)
        self.engine = engine

    def session(self, question: Question) -> "Session":
        """A session about a question, in which nothing was asked yet."""
        return Session(self, question)


class Session:
    """What a system asks about one question, and what that costs.

    Attributes:
        question: The question.
        size: N, the team's own agents.
        tokens: int64, shape (3,): prompt, of which cached, and generated tokens of all that was asked, each request
            once.
    """

    def __init__(self, panel: Panel, question: Question):
        """Asks nothing yet."""
        self.question = question
        self.size = panel.size
        self._team, self._engine = panel.team, panel.engine
        self._table = panel.team.table([question])
        self._costs: dict[tuple[int, Position], tuple[int, int, int]] = {}
        self._classes = AnswerClasses(question)

    @property
    def tokens(self) -> np.ndarray:
        return np.array([*self._costs.values()], np.int64).reshape(-1, 3).sum(0)

    async def first(self, agent: int, draw: int = 0) -> Solution:
        """An agent's first answer, in one of its draws: a root of the debates' trees."""
        return await self._written(self._team.answer_prompt(agent, self.question), agent, draw=draw)

    async def direct(self, agent: int) -> Solution:
        """An agent's answer without working."""
        return await self._written(self._team.direct_prompt(agent, self.question), agent)

    async def refined(self, agent: int, solution: Solution, depth: int = 1, draw: int = 0) -> Solution:
        """An agent's refinement of its own solution, which is its draw's `depth`-th: a node of the debates' trees."""
        draft = self._team.draft_of(agent, self.question, solution)
        return await self._written(self._team.refine_prompt(agent, self.question, draft), agent, depth, draw)

    async def hinted(self, agent: int, hints: Sequence[str], turn: int) -> Solution:
        """An agent's solution, given answers that it may be near to, in its turn-th turn after the first answer."""
        return await self._written(self._team.hint_prompt(agent, self.question, hints), agent, turn)

    async def discussed(self, agent: int, own: Solution | None, peers: Sequence[Solution], turn: int) -> Solution:
        """An agent's solution in sight of its own so far and of peers' in full, in its turn-th turn after the first."""
        own_text = _shown(own) if own else None
        prompt = self._team.discuss_prompt(agent, self.question, own_text, [_shown(peer) for peer in peers])
        return await self._written(prompt, agent, turn)

    async def advised(self, advisor: "Advisor", turns: Sequence[Message], turn: int) -> str:
        """What an advisor says, greedily, to what it is asked in the turn-th turn after the first answers."""
        position = Position(self.question.id, 0, 0, ((0, 0),) * turn)
        request = advisor.request(turns, position, temperature=0.0)
        generation = await self._engine.generate(request)
        self._costs[hash(request.prompt), position] = (
            generation.prompt_tokens,
            generation.cached_tokens,
            generation.generated_tokens,
        )
        return generation.text

    async def classes(self, solutions: Sequence[Solution]) -> np.ndarray:
        """The solutions' answer classes, int64, shape (S,)."""
        return np.array(
            [await checking(self.question, self._classes.of, solution.answer) for solution in solutions], np.int64
        )

    async def vote(self, solutions: Sequence[Solution]) -> Solution | None:
        """The most confident solution with the most frequent answer, as a debate's consensus; None without answers."""
        said = speaker(await self.classes(solutions), np.array([solution.confidence for solution in solutions]))
        return None if said < 0 else solutions[int(said)]

    async def _written(self, prompt: Prompt, agent: int, depth: int = 0, draw: int = 0) -> Solution:
        position = Position(self.question.id, agent, draw, ((agent, 0),) * depth)
        solution = await self._team.write(self._engine, self.question, position, prompt, self._table)
        self._costs[hash(prompt), position] = solution.tokens
        return solution


def _shown(solution: Solution) -> str:
    return solution.text.strip() or "?"


async def together(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All results in their order; where one fails, the others are cancelled and over before its error is raised."""
    running = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*running)
    except BaseException:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise


async def settled(work: Iterable[Awaitable[Result]]) -> list[Result]:
    """All results in their order; where one fails, its error is raised once the others are over.

    What a system asks about one question at once is asked so: what it costs then does not depend on which ended first.
    """
    ends = await asyncio.gather(*work, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return [end for end in ends if not isinstance(end, BaseException)]


@dataclasses.dataclass(frozen=True)
class Advisor:
    """A model that ranks solutions or proposes workflows; it may be another than the team's.

    Attributes:
        model: Its name, by which the engine knows it.
        chat: Whether it takes chat turns, or plain text to complete.
    """

    model: str
    chat: bool

    def request(
        self, turns: Sequence[Message], position: Position, temperature: float, max_tokens: int = 256
    ) -> GenerationRequest:
        """What asks it."""
        prompt = tuple(turns) if self.chat else as_text(list(turns))
        sampling = SamplingParameters(temperature, max_tokens=max_tokens)
        return GenerationRequest(prompt, sampling, position, model=self.model)


@dataclasses.dataclass(frozen=True)
class Requests:
    """How often a system asks at most.

    Attributes:
        fit: While it is fitted.
        answer: For each question that it answers.
    """

    fit: int
    answer: int


class System(ABC):
    """A way to answer questions; a row of the comparison."""

    label: str
    """Of the row, with what is not as published."""
    learned: str = ""
    """What fitting came to, in words."""

    async def fit(self, panel: Panel, questions: Sequence[Question]) -> None:
        """Learns from training questions; most systems have nothing to learn.

        Raises:
            EngineError: The engine failed.
        """
        return

    @abstractmethod
    async def solve(self, session: Session) -> Solution | None:
        """Answers a session's question; None where no answer is found.

        Raises:
            PromptError: A prompt was too long for its model.
            EngineError: The engine failed.
        """

    @abstractmethod
    def requests(self, agents: int) -> Requests:
        """How often the system asks a team of `agents` at most."""

    async def answer(self, panel: Panel, questions: Sequence[Question]) -> Outcome:
        """Answers a batch of questions, all in flight together.

        Raises:
            EngineError: The engine failed.
        """
        return await outcome(panel, questions, self.solve)


async def outcome(
    panel: Panel, questions: Sequence[Question], solve: Callable[[Session], Awaitable[Solution | None]]
) -> Outcome:
    """What a way to solve one question comes to on several; a prompt that is too long for its model is a failure."""
    sessions = [panel.session(question) for question in questions]

    async def solved(session: Session) -> tuple[bool, bool]:
        try:
            solution = await solve(session)
        except PromptError:
            return False, True
        return solution is not None and solution.correct, False

    ends = await together(map(solved, sessions))
    correct, failed = np.array(ends, bool).reshape(-1, 2).T
    tokens = np.array([session.tokens for session in sessions], np.int64).reshape(-1, 3)
    return Outcome(correct, tokens, np.zeros((len(sessions), 3), np.int64), failed)

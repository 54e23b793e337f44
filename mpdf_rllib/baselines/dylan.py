"""DyLAN: a network of agents in layers, and the team that its importance scores select (Liu et al., arXiv 2310.02170).

Every agent answers; in each further layer those that are still active see all solutions of the layer before, their own
included, and write new ones. It is over as soon as more than two thirds of a layer's agents agree. Before the third
layer a ranker keeps the best two solutions' agents alone. The most frequent answer of the last layer is taken.

The team is selected on training questions, which candidates more than it needs debate: those who agree with the final
answer share an importance of 1, which flows back from layer to layer by the ratings of the solutions that an agent saw;
the agents whose importance, summed over layers and averaged over questions, is the highest are the team.

Ours: candidates are the team's members over and over, with other examples where they are shown any, and no personas of
their own; as many are selected as the team has members. One ranker rates and ranks a layer at once, where the published
agents rate each other in their replies, from 1 to 5, and a ranker names the best two: so an agent's importance in a
layer that was rated is its share of the ratings. Without a ranker a solution's token probability is its rating: a small
model cannot rate. Ratings that cannot be read are equal, so that the first agents are kept; they are counted. Whether a
layer agrees is looked at when all of it has answered. Ties go to the more confident, as in a debate.
"""

import re
from collections.abc import Sequence

import numpy as np

from mpdf_rllib.baselines.system import Advisor, Panel, Requests, Session, System, settled, together
from mpdf_rllib.engine import Message
from mpdf_rllib.envs.answer_classes import UNPARSED
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.errors import PromptError
from mpdf_rllib.prompts import packaged_text
from mpdf_rllib.questions import Question

RANKED_LAYER = 2
"""The index of the layer before which the ranker is asked, and of all after it."""
KEPT = 2
"""Solutions that the ranker keeps."""

Layer = dict[int, Solution]
"""By agent."""


class DyLAN(System):
    """A selected team in at most `layers` layers."""

    def __init__(self, candidates: int, layers: int, questions: int, seed: int = 0, ranker: Advisor | None = None):
        """Sets it up.

        Args:
            candidates: Agents to select the team from, up to `MAX_AGENTS`; those of the team where they are fewer.
            layers: At least 1, the first answers included.
            questions: How many training questions the team is selected on.
            seed: Of the draw of these.
            ranker: What rates and ranks solutions; their token probabilities do where there is none.
        """
        self.label = "DyLAN" if ranker else "DyLAN (ranked by token probability)"
        self._candidates, self._layers, self._questions = candidates, layers, questions
        self._rng = np.random.default_rng(seed)
        self._ranker = ranker
        self._team: list[int] | None = None
        self._read = self._unread = 0

    async def fit(self, panel: Panel, questions: Sequence[Question]) -> None:
        candidates = range(max(self._candidates, panel.size))
        drawn = self._rng.permutation(len(questions))[: self._questions]
        sessions = [panel.session(questions[q]) for q in drawn]
        importance = await together(self._importance_or_failure(session, candidates) for session in sessions)
        mean = np.mean([np.zeros(len(candidates)) if one is None else one for one in importance], 0)
        self._team = sorted(np.argsort(-mean, kind="stable")[: panel.size].tolist())
        scores = ", ".join(f"{agent}: {mean[agent]:.2f}" for agent in candidates)
        failures = sum(one is None for one in importance)
        failed = f"; {failures} of {len(importance)} questions failed" if failures else ""
        unread = f"; {self._unread} of {self._read + self._unread} ratings could not be read" if self._unread else ""
        self.learned = f"team {', '.join(map(str, self._team))} by importance ({scores}){failed}{unread}"

    async def solve(self, session: Session) -> Solution | None:
        layers = await self._debate(session, self._team or range(session.size))
        return await session.vote([*layers[-1].values()])

    def requests(self, agents: int) -> Requests:
        # Importance asks for the ratings of all that was seen: of a layer's best two apart from those of all of it.
        rated = self._rated(self._layers - 1) + self._rated(self._layers - RANKED_LAYER)
        return Requests(
            fit=self._questions * (self._asked(max(self._candidates, agents)) + rated),
            answer=self._asked(agents) + self._rated(self._layers - RANKED_LAYER),
        )

    def _asked(self, agents: int) -> int:
        kept = min(KEPT, agents)
        return agents * min(self._layers, RANKED_LAYER) + kept * max(self._layers - RANKED_LAYER, 0)

    def _rated(self, layers: int) -> int:
        return max(layers, 0) if self._ranker else 0

    async def _debate(self, session: Session, agents: Sequence[int]) -> list[Layer]:
        layers = [dict(zip(agents, await settled(map(session.first, agents)), strict=True))]
        while len(layers) < self._layers and not await _agree(session, layers[-1]):
            seen, turn = layers[-1], len(layers)
            if turn >= RANKED_LAYER:
                scores = await self._ratings(session, seen, turn - 1)
                best = np.argsort(-scores, kind="stable")[:KEPT].tolist()
                seen = {agent: seen[agent] for i, agent in enumerate(seen) if i in best}
            written = (
                session.discussed(agent, own, [s for other, s in seen.items() if other != agent], turn)
                for agent, own in seen.items()
            )
            layers.append(dict(zip(seen, await settled(written), strict=True)))
        return layers

    async def _importance_or_failure(self, session: Session, candidates: Sequence[int]) -> np.ndarray | None:
        try:
            return await self._importance(session, candidates)
        except PromptError:
            return None

    async def _importance(self, session: Session, candidates: Sequence[int]) -> np.ndarray:
        """The candidates' importance on a question, shape (C,), at least 0."""
        layers = await self._debate(session, candidates)
        last = [*layers[-1].values()]
        final = await session.vote(last)
        total = np.zeros(len(candidates))
        if final is None:
            return total
        (said,) = await session.classes([final])
        agrees = await session.classes(last) == said
        total[[*layers[-1]]] += agrees / agrees.sum()
        for turn, layer in enumerate(layers[:-1]):
            seen = {agent: layer[agent] for agent in layers[turn + 1]}
            ratings = await self._ratings(session, seen, turn)
            total[[*seen]] += ratings / ratings.sum() if ratings.any() else 1 / len(seen)
        return total

    async def _ratings(self, session: Session, layer: Layer, turn: int) -> np.ndarray:
        """How good a layer's solutions are, shape (A,), at least 0."""
        solutions = [*layer.values()]
        if self._ranker is None:
            return np.array([solution.confidence for solution in solutions])
        said = await session.advised(self._ranker, rating_turns(session.question, solutions), turn)
        ratings = read_ratings(said, len(solutions))
        if ratings is None:
            self._unread += 1
            return np.ones(len(solutions))
        self._read += 1
        return ratings


def rating_turns(question: Question, solutions: Sequence[Solution]) -> list[Message]:
    """Chat turns that ask for ratings of solutions."""
    told = [f"Solution {i}: {solution.text.strip() or '?'}" for i, solution in enumerate(solutions, 1)]
    return [("user", "\n\n".join([packaged_text("rate.txt"), f"Q: {question.text}", *told]))]


def read_ratings(text: str, number: int) -> np.ndarray | None:
    """The last list of as many ratings from 1 to 5, shape (number,); None where there is none."""
    for found in reversed(re.findall(r"\[([\d\s,]+)\]", text)):
        ratings = [int(rating) for rating in re.findall(r"\d+", found)]
        if len(ratings) == number and all(1 <= rating <= 5 for rating in ratings):
            return np.array(ratings, float)
    return None


async def _agree(session: Session, layer: Layer) -> bool:
    """Whether more than two thirds of a layer's agents give the same answer."""
    classes = await session.classes([*layer.values()])
    given = classes[classes != UNPARSED]
    return len(given) > 0 and np.bincount(given).max() > 2 * len(classes) // 3

"""SC, self-consistency: the most frequent of several independently drawn answers (Wang et al., arXiv 2203.11171).

The published one draws all samples, 40 mostly, with one prompt. Ours takes the team's agents in turn: of agents that
are alike it is the same, and of others as many samples as there are agents are the debates' first answers. Ties go to
the higher summed confidence, as in a debate.
"""

import itertools
from collections.abc import Sequence

from mpdf_rllib.baselines.cot import CoT
from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.baselines.system import Panel, Requests, Session, System, settled, together
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.questions import Question

ROUNDING = 1e-9
"""Of a mean, relative."""


class SelfConsistency(System):
    """The plurality of `samples` first answers, at least one."""

    def __init__(self, samples: int):
        """Draws at least one sample."""
        self._samples = samples
        self.label = f"SC, {samples} samples"

    async def solve(self, session: Session) -> Solution | None:
        draws = (session.first(i % session.size, i // session.size) for i in range(self._samples))
        return await session.vote(await settled(draws))

    def requests(self, agents: int) -> Requests:
        return Requests(fit=0, answer=self._samples)


class SelfConsistencyAtCost(SelfConsistency):
    """The plurality of as many first answers as cost what another system does."""

    def __init__(self, tokens: float):
        """Takes the other's mean tokens a question, prompts included."""
        super().__init__(samples=1)
        self.label = "SC at MPDF's tokens"
        self._tokens = tokens

    async def answer(self, panel: Panel, questions: Sequence[Question]) -> Outcome:
        """Answers a batch of questions, after one sample of every agent, which tells what samples cost.

        Raises:
            EngineError: The engine failed.
        """
        each = await together(CoT(agent).answer(panel, questions) for agent in range(panel.size))
        self._samples = samples_for(self._tokens, [float(one.tokens[:, [0, 2]].sum(1).mean()) for one in each])
        self.learned = f"{self._samples} samples"
        return await super().answer(panel, questions)


def samples_for(tokens: float, costs: Sequence[float]) -> int:
    """The fewest samples, the agents in turn, that cost as many tokens; one where they cost nothing.

    Args:
        tokens: A question.
        costs: Of a sample of each agent, tokens a question, at least 0: all are 0 where every prompt is too long.
    """
    if not any(costs):
        return 1
    for samples, spent in enumerate(itertools.accumulate(itertools.cycle(costs)), 1):
        if spent >= tokens * (1 - ROUNDING):
            return samples
    raise ValueError("there are no agents")

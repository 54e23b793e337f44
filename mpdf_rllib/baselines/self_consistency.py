"""SC, self-consistency: the most frequent of several independently drawn answers (Wang et al., arXiv 2203.11171).

The published one draws all samples, 40 mostly, with one prompt. Ours takes the team's agents in turn: of agents that
are alike it is the same, and of others as many samples as there are agents are the debates' first answers. Ties go to
the higher summed confidence, as in a debate.
"""

import asyncio

from mpdf_rllib.baselines.system import Requests, Session, System
from mpdf_rllib.envs.solution import Solution


class SelfConsistency(System):
    """The plurality of `samples` first answers."""

    def __init__(self, samples: int, label: str | None = None):
        """Draws at least one sample; is called like their number by default."""
        self._samples = samples
        self.label = label or f"SC, {samples} samples"

    async def solve(self, session: Session) -> Solution | None:
        draws = (session.first(i % session.size, i // session.size) for i in range(self._samples))
        return await session.vote(await asyncio.gather(*draws))

    def requests(self, agents: int) -> Requests:
        return Requests(fit=0, answer=self._samples)

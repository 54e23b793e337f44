"""CoT: one agent's first answer, a chain of thought (Wei et al., arXiv 2201.11903; Kojima et al., arXiv 2205.11916).

It is what all debates begin with, drawn at the team's temperature where the published ones are greedy, so that it is
self-consistency with one sample.
"""

from mpdf_rllib.baselines.system import Requests, Session, System
from mpdf_rllib.envs.solution import Solution


class CoT(System):
    """One agent's first answer."""

    label = "CoT"

    def __init__(self, agent: int = 0):
        """Takes an agent of the team."""
        self._agent = agent

    async def solve(self, session: Session) -> Solution | None:
        return await session.first(self._agent)

    def requests(self, agents: int) -> Requests:
        return Requests(fit=0, answer=1)

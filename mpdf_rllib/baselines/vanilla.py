"""Vanilla: one agent answers without working.

The weakest row of the paper's Table 1. Ours asks for the final answer alone, and shows examples of final answers alone
where the prompts have any.
"""

from mpdf_rllib.baselines.system import Requests, Session, System
from mpdf_rllib.envs.solution import Solution


class Vanilla(System):
    """One agent's answer without working."""

    label = "Vanilla"

    def __init__(self, agent: int = 0):
        """Takes an agent of the team."""
        self._agent = agent

    async def solve(self, session: Session) -> Solution | None:
        return await session.direct(self._agent)

    def requests(self, agents: int) -> Requests:
        return Requests(fit=0, answer=1)

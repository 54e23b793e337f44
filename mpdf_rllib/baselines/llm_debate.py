"""LLM-Debate: agents revise their solutions in full sight of each other's (Du et al., arXiv 2305.14325).

Every agent answers; in every further round each writes a new solution, shown its own of the round before and the full
text of all others'. The most frequent answer of the last round is taken.

As published: three agents and two rounds, of which the first answer is one. Ours: an agent sees its own last solution
in place of the whole chat so far; ties of the vote go to the higher summed confidence.
"""

from mpdf_rllib.baselines.system import Requests, Session, System, settled
from mpdf_rllib.envs.solution import Solution


class LLMDebate(System):
    """The team's agents in `rounds` rounds, the first answers included."""

    label = "LLM-Debate"

    def __init__(self, rounds: int):
        """Takes at least one round."""
        self._rounds = rounds

    async def solve(self, session: Session) -> Solution | None:
        agents = range(session.size)
        solutions = await settled(map(session.first, agents))
        for turn in range(1, self._rounds):
            heard = [[solutions[other] for other in agents if other != agent] for agent in agents]
            revised = (session.discussed(agent, solutions[agent], heard[agent], turn) for agent in agents)
            solutions = await settled(revised)
        return await session.vote(solutions)

    def requests(self, agents: int) -> Requests:
        return Requests(fit=0, answer=agents * self._rounds)

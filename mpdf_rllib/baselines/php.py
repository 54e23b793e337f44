"""PHP, progressive-hint prompting (Zheng et al., arXiv 2304.09797).

One agent answers; then it answers again, told that the answer is near to all of its former ones, until two answers in a
row agree. The last one is taken.

Ours: an answer that cannot be read hints at nothing and agrees with none; there is a bound on the turns, where the
published one has none; the hint stands before the question, where the small model makes better use of it; examples are
those of refinements, with their drafts as hints; answers are drawn at the team's temperature, not greedily; of a choice
the hint is its letter, of code the whole program, where the published one asks for numbers alone.
"""

from mpdf_rllib.baselines.system import Requests, Session, System
from mpdf_rllib.envs.solution import Solution


class PHP(System):
    """One agent, hinted by its own former answers."""

    label = "PHP"

    def __init__(self, turns: int, agent: int = 0):
        """Takes the bound on the answers, at least 2, and an agent of the team."""
        self._turns, self._agent = turns, agent

    async def solve(self, session: Session) -> Solution | None:
        solutions = [await session.first(self._agent)]
        for turn in range(1, self._turns):
            hints = [solution.answer for solution in solutions if solution.answer is not None]
            solutions.append(await session.hinted(self._agent, hints, turn))
            if await _agree(session, solutions[-2:]):
                break
        return solutions[-1]

    def requests(self, agents: int) -> Requests:
        return Requests(fit=0, answer=self._turns)


async def _agree(session: Session, pair: list[Solution]) -> bool:
    before, now = await session.classes(pair)
    return before == now and pair[0].answer is not None

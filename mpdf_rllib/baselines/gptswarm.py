"""GPTSwarm: agents as a graph whose edges are learned (Zhuge et al., arXiv 2402.16823).

There is an edge from every agent to every other and one from each to the final decision. Each has a probability, at
first 1/2, and graphs without cycles are drawn from them, one for each of the training questions of a batch; REINFORCE
raises those of graphs that lead to right answers. Questions are then answered with the edges whose probability is above
1/2. An agent that hears others is asked once, shown their solutions in full; a majority vote of the agents with an edge
to the decision is taken. Agents that neither decide nor are heard by any who does are not asked.

As published, in the paper and its code (metauto-ai/GPTSwarm): the order of the edges, who is asked, Adam at a rate of
0.1, batches of 4, and 200 iterations, later 50 by default. Ours: the nodes are the team's agents over and over, in
place of the published kinds (direct answers, adversaries, ...); where no agent has an edge to the decision, all vote;
ties of the vote go to the higher summed confidence; every pass through the training questions has an order of its own,
where the published ones share one.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations

from mpdf_rllib.baselines.message_graph import (
    Edges,
    Graph,
    Reinforce,
    heard_by,
    leading_to,
    messages_kept,
    speak_in_turn,
    without_cycles,
)
from mpdf_rllib.baselines.system import Panel, Requests, Session, System
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.questions import Question


class GPTSwarm(System):
    """A graph of agents and, as node N, the decision; until it is fitted nobody hears anybody."""

    label = "GPTSwarm"

    def __init__(self, agents: int, iterations: int, batch: int, lr: float, seed: int):
        """Takes 2 to `MAX_AGENTS` agents, and how to learn: see `Reinforce`."""
        self._agents = agents
        self._reinforce = Reinforce(iterations, batch, lr, seed)
        self._graph: Graph = ()

    async def fit(self, panel: Panel, questions: Sequence[Question]) -> None:
        n = self._agents
        messages = [*permutations(range(n), 2)]
        edges = Edges([*messages, *((agent, n) for agent in range(n))])
        await self._reinforce(panel, questions, [[edges]], self._play)
        self._graph = without_cycles(edge for edge, logit in edges.logit_of.items() if logit > 0)
        kept = messages_kept(tuple(edge for edge in self._graph if edge[1] < n), len(messages))
        self.learned = f"{kept}; decide: {', '.join(map(str, self._deciders(self._graph)))}"

    async def solve(self, session: Session) -> Solution | None:
        return await self._play([self._graph], session)

    def requests(self, agents: int) -> Requests:
        return Requests(self._reinforce.iterations * self._reinforce.batch * self._agents, self._agents)

    async def _play(self, graphs: Sequence[Graph], session: Session) -> Solution | None:
        async def speak(agent: int, heard: Mapping[int, Solution]) -> Solution:
            if heard:
                return await session.discussed(agent, None, [*heard.values()], turn=1)
            return await session.first(agent)

        (graph,) = graphs
        deciders = self._deciders(graph)
        solutions = await speak_in_turn(graph, leading_to(graph, deciders), speak)
        return await session.vote([solutions[agent] for agent in deciders])

    def _deciders(self, graph: Graph) -> list[int]:
        return heard_by(graph, self._agents) or [*range(self._agents)]

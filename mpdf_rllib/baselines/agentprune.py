"""AgentPrune: a debate whose needless messages are cut (Zhang et al., arXiv 2410.02506).

In every round an agent may hear others of the same round, along spatial edges without cycles, and from the second round
on any agent's solution of the round before, its own among them, along temporal edges. Graphs are drawn for every round
and learned by REINFORCE as in GPTSwarm, with the nuclear norms of both matrices of logits as a term that makes them
low-rank. Then the edges with the lowest logits are pruned.

As published, in the paper and its code (yanweiyue/AgentPrune): Adam at a rate of 0.1, batches of 4, 10 iterations, and
weight 1 of the nuclear norms; pruning once, as in the paper. Ours:

- The published code's further term relu(||mask - logits||_F - delta), which draws all logits towards 1, is left out.
- A singular value of 0 has no gradient, where in the published code it has an arbitrary one. The spatial matrix has
  zeros in its diagonal, where the published one has logits that no edge uses.
- Spatial and temporal edges are pruned together, where the published code prunes the same share of each, a quarter
  every fifth iteration.
- What is left after pruning is always there, spatial edges by descending logit where they close no cycle; the published
  code goes on drawing.
- An agent that hears nothing after the first round keeps its solution, unasked.
- A vote of the last round decides, with ties to the higher summed confidence, where the published one mostly asks a
  model.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import permutations, product

import torch
from torch import Tensor

from mpdf_rllib.baselines.message_graph import (
    Edge,
    Edges,
    Graph,
    Reinforce,
    messages_kept,
    speak_in_turn,
    without_cycles,
)
from mpdf_rllib.baselines.system import Panel, Requests, Session, System
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.questions import Question

LOW_RANK_WEIGHT = 1.0
"""Of the nuclear norms in the loss [published]. Their gradient is larger than that of the utilities, so that logits
stay near 0, and little tells the edges to prune from the others."""
ZERO = 1e-9
"""A singular value up to this counts as none."""


class AgentPrune(System):
    """A graph of agents and, as nodes N to 2N - 1, the agents of the round before; until it is fitted without edges."""

    label = "AgentPrune"

    def __init__(self, agents: int, rounds: int, iterations: int, batch: int, lr: float, pruned: float, seed: int):
        """Takes 2 to `MAX_AGENTS` agents, at least 2 rounds, the share to prune in [0, 1], the rest of `Reinforce`."""
        self._agents, self._rounds, self._pruned = agents, rounds, pruned
        self._reinforce = Reinforce(iterations, batch, lr, seed)
        self._graph: Graph = ()

    async def fit(self, panel: Panel, questions: Sequence[Question]) -> None:
        n = self._agents
        spatial = Edges(permutations(range(n), 2))
        temporal = Edges(product(range(n, 2 * n), range(n)))

        def penalty() -> Tensor:
            return LOW_RANK_WEIGHT * (nuclear_norm(logit_matrix(spatial, n)) + nuclear_norm(logit_matrix(temporal, n)))

        rounds = [[spatial], *[[spatial, temporal]] * (self._rounds - 1)]
        await self._reinforce(panel, questions, rounds, self._play, penalty)
        logits = spatial.logit_of | temporal.logit_of
        self._graph = without_cycles(prune(logits, self._pruned))
        now = messages_kept(tuple(edge for edge in self._graph if edge in spatial.edges), len(spatial.edges))
        earlier = tuple((heard - n, hears) for heard, hears in self._graph if heard >= n)
        self.learned = f"{now}; of the round before {messages_kept(earlier, len(temporal.edges))}"

    async def solve(self, session: Session) -> Solution | None:
        return await self._play([self._graph] * self._rounds, session)

    def requests(self, agents: int) -> Requests:
        answer = self._agents * self._rounds
        return Requests(self._reinforce.iterations * self._reinforce.batch * answer, answer)

    async def _play(self, graphs: Sequence[Graph], session: Session) -> Solution | None:
        solutions: dict[int, Solution] = {}
        for turn, graph in enumerate(graphs, 1):
            before = {self._agents + agent: solution for agent, solution in solutions.items()}
            speak = partial(self._speak, session, before, turn)
            solutions = await speak_in_turn(graph, range(self._agents), speak, before)
        return await session.vote([*solutions.values()])

    async def _speak(
        self, session: Session, before: Mapping[int, Solution], turn: int, agent: int, heard: Mapping[int, Solution]
    ) -> Solution:
        itself = self._agents + agent
        if heard:
            peers = [solution for node, solution in heard.items() if node != itself]
            return await session.discussed(agent, heard.get(itself), peers, turn)
        return before[itself] if before else await session.first(agent)


def logit_matrix(edges: Edges, agents: int) -> Tensor:
    """The logits by who is heard and who hears, shape (N, N); 0 where there is no edge."""
    heard, hears = torch.tensor(edges.edges).T
    return torch.zeros(agents, agents, dtype=torch.float64).index_put((heard % agents, hears), edges.logits)


def nuclear_norm(matrix: Tensor) -> Tensor:
    """The sum of the singular values: (N, N) -> scalar."""
    values = torch.linalg.svdvals(matrix)
    return values[values > ZERO].sum()


def prune(logits: Mapping[Edge, float], share: float) -> list[Edge]:
    """All edges but the share in [0, 1] with the lowest logits, of equals the last; by descending logit."""
    descending = sorted(logits, key=lambda edge: -logits[edge])
    return descending[: len(logits) - round(share * len(logits))]

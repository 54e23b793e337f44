"""Which agents hear which: graphs of messages, drawn edge by edge from probabilities that are learned by REINFORCE.

The part that GPTSwarm (arXiv 2402.16823) and AgentPrune (arXiv 2410.02506) have in common. Agents are the nodes 0 to
N - 1 of a graph; what further nodes stand for is the system's to say.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from graphlib import TopologicalSorter
from itertools import chain, compress, islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mpdf_rllib.baselines.system import Panel, Session, outcome, settled, together
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.questions import Question

Edge = tuple[int, int]
"""From a node that is heard to one that hears it."""
Graph = tuple[Edge, ...]
"""Its edges; it has no cycle."""
Play = Callable[[Sequence[Graph], Session], Awaitable[Solution | None]]
"""Answers a session's question by one graph a round."""


def closes_cycle(graph: Collection[Edge], edge: Edge) -> bool:
    """Whether a further edge would close a cycle in a graph that has none."""
    start, end = edge
    reached = {end}
    while further := {hears for heard, hears in graph if heard in reached} - reached:
        reached |= further
    return start in reached


def without_cycles(edges: Iterable[Edge]) -> Graph:
    """The edges in their order, but for those that would close a cycle with the ones taken before."""
    taken: list[Edge] = []
    for edge in edges:
        if not closes_cycle(taken, edge):
            taken.append(edge)
    return tuple(taken)


def heard_by(graph: Graph, agent: int) -> list[int]:
    """The nodes that an agent hears, ascending."""
    return sorted(heard for heard, hears in graph if hears == agent)


def leading_to(graph: Graph, nodes: Iterable[int]) -> set[int]:
    """The nodes, and all that they hear themselves or through others."""
    reached = {*nodes}
    while further := {heard for heard, hears in graph if hears in reached} - reached:
        reached |= further
    return reached


def speaking_order(graph: Graph, agents: Collection[int]) -> list[list[int]]:
    """Who speaks when: agents in layers, each of them after all others that it hears, ascending within a layer."""
    sorter = TopologicalSorter({agent: {*heard_by(graph, agent)}.intersection(agents) for agent in agents})
    sorter.prepare()
    layers = []
    while sorter.is_active():
        layers.append(sorted(sorter.get_ready()))
        sorter.done(*layers[-1])
    return layers


async def speak_in_turn(
    graph: Graph,
    agents: Collection[int],
    speak: Callable[[int, Mapping[int, Solution]], Awaitable[Solution]],
    before: Mapping[int, Solution] | None = None,
) -> dict[int, Solution]:
    """Plays one round; the agents of a layer are in flight together.

    Args:
        graph: Who hears whom.
        agents: Who speaks.
        speak: Gives the solution of an agent who hears those of some nodes.
        before: Solutions of other nodes, there from the start. A node without a solution is heard by none.

    Returns:
        The agents' solutions.
    """
    said = dict(before or {})
    for layer in speaking_order(graph, agents):
        heard = [{node: said[node] for node in heard_by(graph, agent) if node in said} for agent in layer]
        said.update(zip(layer, await settled(map(speak, layer, heard)), strict=True))
    return {agent: said[agent] for agent in agents}


class Edges:
    """A distribution over the graphs that some edges make, each edge with a probability of its own.

    The edges are visited in their order. One that would close a cycle is left out for certain; any other is there with
    the sigmoid of its logit, at first 1/2.

    Attributes:
        edges: The E edges.
        logits: float64, shape (E,), with gradients.
    """

    def __init__(self, edges: Iterable[Edge]):
        """Takes at least one edge."""
        self.edges = tuple(edges)
        self.logits = torch.zeros(len(self.edges), dtype=torch.float64, requires_grad=True)

    @property
    def logit_of(self) -> dict[Edge, float]:
        return dict(zip(self.edges, self.logits.tolist(), strict=True))

    def draw(self, rng: np.random.Generator) -> Graph:
        """Draws a graph."""
        there = rng.random(len(self.edges)) < torch.sigmoid(self.logits.detach()).numpy()
        return without_cycles(compress(self.edges, there))

    def log_probability(self, graph: Graph) -> Tensor:
        """The log-probability of drawing what a graph has of these edges, a scalar; it may have others."""
        taken: list[Edge] = []
        signs = []
        for edge in self.edges:
            if edge in graph:
                taken.append(edge)
                signs.append(1.0)
            else:
                signs.append(0.0 if closes_cycle(taken, edge) else -1.0)
        sign = torch.tensor(signs, dtype=torch.float64)
        return logsigmoid(sign * self.logits)[sign != 0].sum()


def reinforce_loss(log_probabilities: Tensor, utilities: Tensor) -> Tensor:
    """REINFORCE without a baseline, mean(-log p u) [published]: (B,) and (B,) -> scalar."""
    return -(log_probabilities * utilities).mean()


@dataclass(frozen=True)
class Reinforce:
    """Learns edges by playing graphs that are drawn from them, in batches of questions with graphs of their own.

    Attributes:
        iterations: Steps of Adam.
        batch: Questions a step.
        lr: Adam's learning rate.
        seed: Of the questions' order, without replacement until all were there, then anew; and of the graphs.
    """

    iterations: int
    batch: int
    lr: float
    seed: int

    async def __call__(
        self,
        panel: Panel,
        questions: Sequence[Question],
        rounds: Sequence[Sequence[Edges]],
        play: Play,
        penalty: Callable[[], Tensor | float] = lambda: 0.0,
    ) -> None:
        """Changes the edges' logits.

        Args:
            panel: Who is asked.
            questions: At least one.
            rounds: The edges that a round's graph is drawn from.
            play: Its utility is 1 where the answer is right, else 0, as where a prompt is too long for its model.
            penalty: A term of the loss, of the logits as they are.

        Raises:
            EngineError: The engine failed.
        """
        rng = np.random.default_rng(self.seed)
        order = _endless(questions, rng)
        adam = torch.optim.Adam([edges.logits for edges in dict.fromkeys(chain(*rounds))], self.lr)
        for _ in range(self.iterations):
            drawn = [[_draw(edges, rng) for edges in rounds] for _ in range(self.batch)]
            plays = zip(islice(order, self.batch), drawn, strict=True)
            ends = await together(outcome(panel, [asked], partial(play, graphs)) for asked, graphs in plays)
            log_probabilities = torch.stack([_log_probability(rounds, graphs) for graphs in drawn])
            utilities = torch.tensor([end.accuracy for end in ends], dtype=torch.float64)
            adam.zero_grad()
            (reinforce_loss(log_probabilities, utilities) + penalty()).backward()
            adam.step()


def messages_kept(graph: Graph, of: int) -> str:
    """What is left of so many messages, in words."""
    named = ", ".join(f"{heard}>{hears}" for heard, hears in sorted(graph))
    return f"{len(graph)} of {of} messages kept" + (f": {named}" if graph else "")


def _endless(questions: Sequence[Question], rng: np.random.Generator) -> Iterator[Question]:
    while True:
        for q in rng.permutation(len(questions)):
            yield questions[q]


def _draw(parts: Sequence[Edges], rng: np.random.Generator) -> Graph:
    return tuple(chain.from_iterable(edges.draw(rng) for edges in parts))


def _log_probability(rounds: Sequence[Sequence[Edges]], graphs: Sequence[Graph]) -> Tensor:
    parts = [edges.log_probability(graph) for of, graph in zip(rounds, graphs, strict=True) for edges in of]
    return torch.stack(parts).sum()

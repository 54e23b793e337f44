"""Agents that hear each other, on a scripted engine: what each is shown, in which order."""

import asyncio
from itertools import permutations

import torch
from debate_fixtures import TEXT

from mpdf_rllib.baselines.agentprune import AgentPrune
from mpdf_rllib.baselines.gptswarm import GPTSwarm
from mpdf_rllib.baselines.message_graph import Edges
from mpdf_rllib.baselines.system import Panel
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import Question

QUESTIONS = [Question(f"pens {i}", TEXT, "48", "number", "multiplication") for i in range(5)]
THREE = [*permutations(range(3), 2)]


class Talk:
    """Agents that write who they are; keeps what each was asked, in order."""

    def __init__(self, answer_of=lambda agent, turn, said: "48", team: int = 3):
        self.asked: list[tuple[str, int, int, list[str]]] = []
        self._answer_of = answer_of
        self.engine = ScriptedEngine(self._respond)
        self.panel = Panel(Team(team), self.engine)

    def _respond(self, request):
        place = request.position
        agent, turn = place.author, place.depth
        last = request.prompt.split("\n\n")[-1]
        shown = [line for line in last.splitlines() if line.startswith(("Draft:", "Peer:"))]
        self.asked.append((place.question, agent, turn, shown))
        return f" {words(agent, turn)} {self._answer_of(agent, turn, shown)}"

    @property
    def exchanged(self) -> dict[tuple[int, int], list[str]]:
        """What an agent was shown in a turn; each once, as one question was asked."""
        assert len({(agent, turn) for _, agent, turn, _ in self.asked}) == len(self.asked)
        return {(agent, turn): shown for _, agent, turn, shown in self.asked}

    @property
    def order(self) -> list[int]:
        return [agent for _, agent, _, _ in self.asked]

    def answers(self, system, questions=QUESTIONS[:1]):
        self.asked.clear()
        return asyncio.run(system.answer(self.panel, questions))

    def fits(self, system, questions=QUESTIONS):
        asyncio.run(system.fit(self.panel, questions))
        return system


def words(agent: int, turn: int) -> str:
    return f"agent {agent} in turn {turn} says 12 * 4 ="


def peer(agent: int, turn: int, answer: str = "48") -> str:
    return f"Peer: {words(agent, turn)} {answer}"


def own(agent: int, turn: int, answer: str = "48") -> str:
    return f"Draft: {words(agent, turn)} {answer}"


def swarm(graph=(), agents: int = 3, **learning) -> GPTSwarm:
    system = GPTSwarm(agents, **{"iterations": 1, "batch": 4, "lr": 0.1, "seed": 0, **learning})
    system._graph = graph
    return system


def debate(graph=(), agents: int = 3, rounds: int = 3, pruned: float = 0.5, **learning) -> AgentPrune:
    learning = {"iterations": 1, "batch": 4, "lr": 0.1, "seed": 0, **learning}
    system = AgentPrune(agents, rounds, pruned=pruned, **learning)
    system._graph = graph
    return system


def with_logits(edges, logits) -> Edges:
    made = Edges(edges)
    made.logits.data[:] = torch.tensor(logits, dtype=torch.float64)
    return made

"""A team of agents: which prompt and sampling writes which node of a solution tree."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mpdf_rllib.engine.types import Engine, GenerationRequest, Message, Position, SamplingParameters
from mpdf_rllib.envs.debate_batch import Concede
from mpdf_rllib.envs.solution import Solution, make_solution
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.prompts import VERDICTS, as_text, load_prompts
from mpdf_rllib.questions import Question, checking

Refiner = Literal["author", "actor"]


@dataclass(frozen=True)
class Team:
    """Agents that answer, refine and judge.

    Attributes:
        agents: Number of agents N, at least 2.
        rounds: Number of rounds T, at least 1.
        chat: Prompts are rendered with the tokenizer's chat template; otherwise as plain text to complete.
        critic: Each solution gets a verdict, whose probability is a part of the state.
        temperature: At least 0.
        top_p: In (0, 1].
        concede: Whom an agent may concede to; see `debate_batch.Concede`.
        refine_samples: Refinements of a solution by one agent, at least 1: the reward of Refine is their mean, and the
            one that an agent gets is drawn [ours; 1 in the paper].
        refiner: Whose model and prompt refine a solution that was conceded to: its author's, or the agent's own [ours].
    """

    agents: int = 3
    rounds: int = 3
    chat: bool = False
    critic: bool = True
    temperature: float = 1.0
    top_p: float = 1.0
    concede: Concede = "most_confident"
    refine_samples: int = 1
    refiner: Refiner = "author"

    def tree(self, questions: Iterable[Question]) -> SolutionTree:
        """An empty tree for every debate of this team."""
        first_answers = [(agent, 0) for agent in range(self.agents)]
        refiners = self.agents if self.refiner == "actor" else None
        return SolutionTree(list(questions), first_answers, self.rounds, self.refine_samples, refiners)

    def fresh_tree(self, questions: Iterable[Question], samples: int) -> SolutionTree:
        """An empty tree of `samples` first answers a question without refinements, the agents in turn."""
        return SolutionTree(list(questions), [(i % self.agents, i // self.agents) for i in range(samples)], rounds=0)

    async def fill(self, engine: Engine, tree: SolutionTree, wanted: Iterable[tuple[int, int]]) -> None:
        """Makes the wanted (question, node) pairs that are missing, and their missing ancestors.

        All chains are in flight together; only a refinement waits, for its own parent.

        Raises:
            EngineError: The engine failed; what was made before stays in the tree.
        """
        tasks: dict[tuple[int, int], asyncio.Task[Solution]] = {}

        def task(question: int, node: int) -> asyncio.Task[Solution]:
            if (question, node) not in tasks:
                tasks[question, node] = asyncio.ensure_future(make(question, node))
            return tasks[question, node]

        async def make(question: int, node: int) -> Solution:
            if tree.present[question, node]:
                return tree.solution(question, node)
            parent_node = tree.parent(node)
            parent = None if parent_node is None else await task(question, parent_node)
            solution = await self.solve(engine, tree.questions[question], tree.position(question, node), parent)
            await checking(tree.questions[question], tree.add, question, node, solution)
            return solution

        pairs = [task(question, node) for question, node in wanted if not tree.present[question, node]]
        try:
            await asyncio.gather(*pairs)
        except BaseException:
            for pending in tasks.values():
                pending.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            raise

    async def solve(self, engine: Engine, question: Question, position: Position, parent: Solution | None) -> Solution:
        """Writes one solution, a refinement of `parent` where there is one, and has it judged."""
        prompts = load_prompts(question.source)
        if parent is None:
            turns = prompts.answer_turns(position.author, question.text)
        else:
            turns = prompts.refine_turns(position.author, question.text, parent.answer or "?")
        stop = () if self.chat else ("\n",)
        sampling = SamplingParameters(self.temperature, self.top_p, prompts.max_tokens, stop)
        generation = await engine.generate(GenerationRequest(self._render(turns, "A:"), sampling, position))
        critic = None
        if self.critic:
            judged = self._render(prompts.critic_turns(question.text, generation.text.strip()), "Verdict:")
            words = tuple(word.strip() for word in VERDICTS) if self.chat else VERDICTS
            critic = await engine.generate(GenerationRequest(judged, SamplingParameters(), position, words))
        depth_share = position.depth / self.rounds
        return await checking(
            question, make_solution, question, generation, prompts.max_tokens, critic, parent, depth_share
        )

    def _render(self, turns: list[Message], label: str) -> str | tuple[Message, ...]:
        return tuple(turns) if self.chat else as_text(turns, label)

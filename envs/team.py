"""A team of agents: which model, prompt and sampling write which node of a solution tree."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mpdf_rllib.engine.types import (
    Engine,
    Generation,
    GenerationRequest,
    Message,
    Position,
    SamplingParameters,
    generate_many,
)
from mpdf_rllib.envs.debate_batch import Answer, Concede, Rules
from mpdf_rllib.envs.features import FeatureTable, solution_table
from mpdf_rllib.envs.self_report import REPORT_TOKENS, report_instruction, report_schema
from mpdf_rllib.envs.solution import Solution, make_solution
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.prompts import VERDICTS, Prompts, as_text, load_prompts
from mpdf_rllib.questions import Question, checking

Refiner = Literal["author", "actor"]

Prompt = str | tuple[Message, ...]
"""Text to complete, or the turns of a chat."""


@dataclass(frozen=True)
class Agent:
    """How an agent answers, refines and judges.

    Attributes:
        model: The model's name, by which the engine knows it; "" for the engine's only one.
        chat: Prompts are rendered with the tokenizer's chat template; otherwise as plain text to complete.
        prompts: What it is asked with in place of the question's own prompts; see `load_prompts`. Of agents with the
            same prompts each is shown examples of its own.
        persona: What opens the prompts of its answers and refinements; "" for nothing.
        shots: How many of the prompts' examples it is shown; all by default.
        temperature: At least 0.
        top_p: In (0, 1].
    """

    model: str = ""
    chat: bool = False
    prompts: str | None = None
    persona: str = ""
    shots: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Team:
    """Agents that answer, refine and judge.

    Attributes:
        agents: The N agents, or how many there are of the plain kind; at least 2.
        rounds: Number of rounds T, at least 1.
        critic: Each solution gets a verdict of its author's model, whose probability is a part of the state.
        concede: Whom an agent may concede to; see `debate_batch.Concede`.
        answer: What the team answers; see `debate_batch.Answer`.
        refine_samples: Refinements of a solution by one agent, at least 1: the reward of Refine is their mean, and the
            one that an agent gets is drawn [ours; 1 in the paper].
        peer_likelihood: Each solution is also scored by all other agents, as their own first answer; how likely they
            find it is a part of the state [ours].
        self_report: Each solution is one JSON object, with the model's report on its reasoning, which is a part of the
            state [paper].
        refiner: Whose model and prompt refine a solution that was conceded to: its author's, or the agent's own [ours].
    """

    agents: int | tuple[Agent, ...] = 3
    rounds: int = 3
    critic: bool = True
    concede: Concede = "most_confident"
    answer: Answer = "plurality"
    refine_samples: int = 1
    refiner: Refiner = "author"
    self_report: bool = False
    peer_likelihood: bool = False

    @property
    def members(self) -> tuple[Agent, ...]:
        """The N agents."""
        return (Agent(),) * self.agents if isinstance(self.agents, int) else self.agents

    @property
    def rules(self) -> Rules:
        """Of its debates."""
        return Rules(self.concede, self.answer)

    def table(self, questions: Iterable[Question]) -> FeatureTable:
        """The features of this team's solutions to such questions: their author is one where the agents differ."""
        kinds = {question.kind for question in questions}
        return solution_table(kinds, self.self_report, self.members, self.peer_likelihood)

    def tree(self, questions: Iterable[Question], table: FeatureTable | None = None) -> SolutionTree:
        """An empty tree for every debate of this team.

        Args:
            questions: The questions.
            table: The features of a solution, by default those of such questions.
        """
        questions = list(questions)
        n = len(self.members)
        refiners = n if self.refiner == "actor" else None
        return SolutionTree(
            questions,
            [(agent, 0) for agent in range(n)],
            self.rounds,
            self.refine_samples,
            refiners,
            table or self.table(questions),
        )

    def fresh_tree(self, questions: Iterable[Question], samples: int) -> SolutionTree:
        """An empty tree of `samples` first answers a question without refinements, the agents in turn."""
        questions = list(questions)
        n = len(self.members)
        drawn = [(i % n, i // n) for i in range(samples)]
        return SolutionTree(questions, drawn, rounds=0, table=self.table(questions))

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
            asked, position = tree.questions[question], tree.position(question, node)
            solution = await self.solve(engine, asked, position, parent, tree.table)
            await checking(asked, tree.add, question, node, solution)
            return solution

        pairs = [task(question, node) for question, node in wanted if not tree.present[question, node]]
        try:
            await asyncio.gather(*pairs)
        except BaseException:
            for pending in tasks.values():
                pending.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            raise

    def answer_prompt(self, author: int, question: Question) -> Prompt:
        """What asks an agent for a first answer."""
        agent = self.members[author]
        prompts = self._prompts(author, question)
        turns = prompts.answer_turns(self._shots(author), question.text, agent.shots, agent.persona, self._addition)
        return _rendered(agent, turns, "A:")

    def refine_prompt(self, author: int, question: Question, draft: str) -> Prompt:
        """What asks an agent to revise a draft, of which it is shown the answer or the solution."""
        agent = self.members[author]
        prompts = self._prompts(author, question)
        turns = prompts.refine_turns(
            self._shots(author), question.text, draft, agent.shots, agent.persona, self._addition
        )
        return _rendered(agent, turns, "A:")

    def direct_prompt(self, author: int, question: Question) -> Prompt:
        """What asks an agent for an answer without working."""
        agent = self.members[author]
        turns = self._prompts(author, question).direct_turns(question.text, agent.shots, agent.persona)
        return _rendered(agent, turns, "A:")

    def hint_prompt(self, author: int, question: Question, hints: Sequence[str]) -> Prompt:
        """What asks an agent for a solution whose answer may be near to those given."""
        agent = self.members[author]
        turns = self._prompts(author, question).hint_turns(
            self._shots(author), question.text, hints, agent.shots, agent.persona
        )
        return _rendered(agent, turns, "A:")

    def discuss_prompt(self, author: int, question: Question, own: str | None, peers: Sequence[str]) -> Prompt:
        """What asks an agent for a solution in sight of its own so far, if there is one, and of others'."""
        agent = self.members[author]
        turns = self._prompts(author, question).discuss_turns(
            self._shots(author), question.text, own, peers, agent.shots, agent.persona
        )
        return _rendered(agent, turns, "A:")

    def critic_prompt(self, author: int, question: Question, solution: str) -> Prompt:
        """What asks an agent's model for its verdict on a solution."""
        turns = self._prompts(author, question).critic_turns(question.text, solution)
        return _rendered(self.members[author], turns, "Verdict:")

    @property
    def _addition(self) -> str:
        return report_instruction() if self.self_report else ""

    async def solve(
        self, engine: Engine, question: Question, position: Position, parent: Solution | None, table: FeatureTable
    ) -> Solution:
        """Writes one solution, a refinement of `parent` where there is one, and has it judged."""
        author = position.author
        if parent is None:
            prompt = self.answer_prompt(author, question)
        else:
            prompt = self.refine_prompt(author, question, self.draft_of(author, question, parent))
        return await self.write(engine, question, position, prompt, table, parent)

    def draft_of(self, author: int, question: Question, solution: Solution) -> str:
        """What an agent is shown of a solution that it is to revise: its answer alone, or all of it."""
        whole = self._prompts(author, question).draft == "solution"
        return (solution.text.strip() if whole else solution.answer) or "?"

    async def write(
        self,
        engine: Engine,
        question: Question,
        position: Position,
        prompt: Prompt,
        table: FeatureTable,
        parent: Solution | None = None,
    ) -> Solution:
        """Has the position's author answer a prompt, and has the solution judged where the team asks for that.

        Args:
            engine: What runs the author's model.
            question: What the solution is to.
            position: Of the solution.
            prompt: Rendered by one of this team's methods.
            table: The features that the solution has.
            parent: What it is a refinement of.

        Raises:
            DataError: The prompt cannot be given to the model; names the question.
            EngineError: The engine failed.
        """
        author = position.author
        agent = self.members[author]
        sampling = self._sampling(agent, question, self._prompts(author, question).max_tokens)
        generation = await engine.generate(GenerationRequest(prompt, sampling, position, model=agent.model))
        judges = self._verdict(question, position, generation) + self._peers(question, author, generation)
        judgements = await generate_many(engine, judges)
        critic = judgements.pop(0) if self.critic else None
        return await checking(
            question,
            make_solution,
            question,
            generation,
            sampling.max_tokens,
            critic,
            parent,
            position.depth / self.rounds,
            author,
            self.self_report,
            table,
            judgements,
        )

    def _verdict(self, question: Question, position: Position, generation: Generation) -> list[GenerationRequest]:
        if not self.critic:
            return []
        agent = self.members[position.author]
        prompt = self.critic_prompt(position.author, question, generation.text.strip())
        words = tuple(word.strip() for word in VERDICTS) if agent.chat else VERDICTS
        return [GenerationRequest(prompt, SamplingParameters(), position, words, model=agent.model)]

    def _peers(self, question: Question, author: int, generation: Generation) -> list[GenerationRequest]:
        """How likely a text is as each other agent's first answer: not a draw, so that equal texts are scored once."""
        if not (self.peer_likelihood and generation.text):
            return []
        ends = generation.finish_reason == "stop" and not self.members[author].chat
        return [
            GenerationRequest(
                self.answer_prompt(other, question),
                SamplingParameters(),
                Position(question.id, other),
                model=agent.model,
                continuation=generation.text + ("\n" if ends else ""),
            )
            for other, agent in enumerate(self.members)
            if other != author
        ]

    def _sampling(self, agent: Agent, question: Question, max_tokens: int) -> SamplingParameters:
        if self.self_report:
            schema = report_schema(question.kind, len(question.choices), max_tokens=max_tokens)
            return SamplingParameters(agent.temperature, agent.top_p, max_tokens + REPORT_TOKENS, json_schema=schema)
        return SamplingParameters(agent.temperature, agent.top_p, max_tokens, () if agent.chat else ("\n",))

    def _shots(self, author: int) -> int:
        """Which of its prompts' sets of examples an agent is shown: of agents with the same prompts each its own."""
        prompts = [agent.prompts for agent in self.members]
        return prompts[:author].count(prompts[author])

    def _prompts(self, author: int, question: Question) -> Prompts:
        return load_prompts(self.members[author].prompts or question.source, question.kind)


def _rendered(agent: Agent, turns: list[Message], label: str) -> Prompt:
    return tuple(turns) if agent.chat else as_text(turns, label)

"""Few-shot prompts: one YAML file a question source, rendered as plain completion or as chat turns."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TypeVar

import yaml

from mpdf_rllib.engine.types import Message
from mpdf_rllib.errors import DataError

Shot = TypeVar("Shot")

VERDICTS = (" right", " wrong")
"""The critic's words, [correct, incorrect]."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of one question source.

    Attributes:
        answer: Per agent, the shots of a first answer as (question, answer).
        refine: Per agent, the shots of a refinement as (draft, question, answer).
        critic: Shots of the verdict as (question, answer, verdict).
        max_tokens: Bound on the tokens of a solution.
    """

    answer: tuple[tuple[tuple[str, str], ...], ...]
    refine: tuple[tuple[tuple[str, str, str], ...], ...]
    critic: tuple[tuple[str, str, str], ...]
    max_tokens: int

    @property
    def questions(self) -> set[str]:
        """The texts of all questions in the shots."""
        shots = [shot for agents in (self.answer, self.refine) for agent in agents for shot in agent]
        return {shot[-2] for shot in shots} | {question for question, _, _ in self.critic}

    def answer_turns(self, agent: int, question: str) -> list[Message]:
        """Chat turns that ask `agent` for a first answer."""
        shots = _agent_shots(self.answer, agent)
        return _turns([(f"Q: {q}", a) for q, a in shots], f"Q: {question}")

    def refine_turns(self, agent: int, question: str, draft: str) -> list[Message]:
        """Chat turns that ask `agent` to revise the draft answer."""
        shots = _agent_shots(self.refine, agent)
        return _turns([(f"Draft: {d}\nQ: {q}", a) for d, q, a in shots], f"Draft: {draft}\nQ: {question}")

    def critic_turns(self, question: str, solution: str) -> list[Message]:
        """Chat turns that ask for a verdict on a solution."""
        shots = [(f"Q: {q}\nA: {a}", verdict) for q, a, verdict in self.critic]
        return _turns(shots, f"Q: {question}\nA: {solution}")


def as_text(turns: list[Message], label: str = "A:") -> str:
    """Renders turns as one text to complete; `label` opens each reply ("A:", or "Verdict:" for the critic)."""
    blocks = [f"{ask}\n{label} {reply}" for (_, ask), (_, reply) in zip(turns[:-1:2], turns[1::2], strict=True)]
    return "\n\n".join([*blocks, f"{turns[-1][1]}\n{label}"])


@cache
def load_prompts(source: str) -> Prompts:
    """Reads the prompts of a question source.

    Raises:
        DataError: The package has no prompts for it.
    """
    file = resources.files(__package__) / f"{source}.yaml"
    if not file.is_file():
        raise DataError(f"no prompts for questions of source {source!r}; add mpdf_rllib/prompts/{source}.yaml")
    book = yaml.safe_load(file.read_text(encoding="utf-8"))
    return Prompts(
        answer=tuple(tuple(map(tuple, agent["answer"])) for agent in book["agents"]),
        refine=tuple(tuple(map(tuple, agent["refine"])) for agent in book["agents"]),
        critic=tuple(map(tuple, book["critic"])),
        max_tokens=book["max_tokens"],
    )


def _turns(shots: list[tuple[str, str]], query: str) -> list[Message]:
    turns: list[Message] = []
    for ask, reply in shots:
        turns += [("user", ask), ("assistant", reply)]
    return [*turns, ("user", query)]


def _agent_shots(shots: tuple[tuple[Shot, ...], ...], agent: int) -> tuple[Shot, ...]:
    """Agents beyond the written sets reuse one with its shots rotated, so that no two prompts are equal."""
    own = shots[agent % len(shots)]
    turn = agent // len(shots) % len(own)
    return own[turn:] + own[:turn]

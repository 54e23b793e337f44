"""Prompts: files, read here and rendered as plain completion or as chat turns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from mpdf_rllib import strict_yaml
from mpdf_rllib.engine.types import Message
from mpdf_rllib.errors import DataError

Shot = TypeVar("Shot")

Draft = Literal["answer", "solution"]

VERDICTS = (" right", " wrong")
"""The critic's words, [correct, incorrect]."""

ROLES = ("answer", "refine", "critic", "direct")
"""What a model is asked for: a first answer, a refinement of a draft, a verdict on a solution, an answer without
working. A solution in sight of others' is asked for as a first answer is, with more before it."""

_PROMPT_FILE = (".yaml", ".yml")
"""What the path of a file of prompts ends in, and the name of packaged prompts does not."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Instructions(_Part):
    """What opens the prompts of each role, "" for nothing; the last two follow from the first where missing."""

    answer: str = ""
    refine: str = ""
    critic: str = ""
    direct: str = ""
    discuss: str = ""


@dataclass(frozen=True)
class Prompts:
    """The prompts of one question source.

    Attributes:
        answer: Per agent, the shots of a first answer as (question, answer).
        refine: Per agent, the shots of a refinement as (draft, question, answer).
        critic: Shots of the verdict as (question, answer, verdict).
        max_tokens: Bound on the tokens of a solution.
        draft: Whether a refinement is shown its draft's answer alone, or the whole solution.
        instructions: What opens the prompts.
        direct: Shots of an answer without working as (question, answer).
        discuss: Shots of a solution in sight of others' as (solutions, question, answer), of the solutions the agent's
            own first.
    """

    answer: tuple[tuple[tuple[str, str], ...], ...]
    refine: tuple[tuple[tuple[str, str, str], ...], ...]
    critic: tuple[tuple[str, str, str], ...]
    max_tokens: int
    instructions: Instructions = Instructions()
    draft: Draft = "answer"
    direct: tuple[tuple[str, str], ...] = ()
    discuss: tuple[tuple[tuple[str, ...], str, str], ...] = ()

    @property
    def questions(self) -> set[str]:
        """The texts of all questions in the shots."""
        shots = [shot for agents in (self.answer, self.refine) for agent in agents for shot in agent]
        common = {question for question, _, _ in self.critic} | {question for question, _ in self.direct}
        return {shot[-2] for shot in (*shots, *self.discuss)} | common

    def answer_turns(
        self, agent: int, question: str, shots: int | None = None, persona: str = "", addition: str = ""
    ) -> list[Message]:
        """Chat turns that ask `agent` for a first answer.

        Args:
            agent: Its index among those with these prompts.
            question: The question's text.
            shots: How many of its examples it is shown, all by default.
            persona: What opens the first turn; "" for nothing.
            addition: What is added to the instruction; "" for nothing.
        """
        asked = [(_asked(q), a) for q, a in _agent_shots(self.answer, agent)[:shots]]
        return _turns(_opening(persona, self.instructions.answer, addition), asked, _asked(question))

    def refine_turns(
        self, agent: int, question: str, draft: str, shots: int | None = None, persona: str = "", addition: str = ""
    ) -> list[Message]:
        """Chat turns that ask `agent` to revise the draft answer; see `answer_turns`."""
        asked = [(_asked(q, d), a) for d, q, a in _agent_shots(self.refine, agent)[:shots]]
        return _turns(_opening(persona, self.instructions.refine, addition), asked, _asked(question, draft))

    def critic_turns(self, question: str, solution: str) -> list[Message]:
        """Chat turns that ask for a verdict on a solution."""
        shots = [(f"{_asked(q)}\nA: {a}", verdict) for q, a, verdict in self.critic]
        return _turns(_opening(self.instructions.critic), shots, f"{_asked(question)}\nA: {solution}")

    def direct_turns(self, question: str, shots: int | None = None, persona: str = "") -> list[Message]:
        """Chat turns that ask any agent for the answer without working; see `answer_turns`."""
        asked = [(_asked(q), a) for q, a in self.direct[:shots]]
        return _turns(_opening(persona, self.instructions.direct), asked, _asked(question))

    def hint_turns(
        self, agent: int, question: str, hints: Sequence[str], shots: int | None = None, persona: str = ""
    ) -> list[Message]:
        """Chat turns that ask `agent` for a solution, given answers that it may be near to; see `answer_turns`.

        The examples are those of refinements where these are shown answers, too.
        """
        refined = _agent_shots(self.refine, agent)[:shots] if self.draft == "answer" else ()
        asked = [(_asked(q, hints=[d]), a) for d, q, a in refined]
        return _turns(_opening(persona, self.instructions.answer), asked, _asked(question, hints=hints))

    def discuss_turns(
        self,
        agent: int,
        question: str,
        own: str | None,
        peers: Sequence[str],
        shots: int | None = None,
        persona: str = "",
    ) -> list[Message]:
        """Chat turns that ask for a solution in sight of others'; see `answer_turns`.

        The examples are those of refinements where there are no others. To an agent without a solution of its own, all
        solutions in them are others'.

        Args:
            agent: Its index among those with these prompts.
            question: The question's text.
            own: The agent's solution so far, if it has one.
            peers: The other solutions that it is shown.
            shots: How many examples it is shown, all by default.
            persona: What opens the first turn; "" for nothing.
        """
        given = self.discuss or [((d,), q, a) for d, q, a in _agent_shots(self.refine, agent)]
        asked = [
            (_asked(q, None, solutions) if own is None else _asked(q, solutions[0], solutions[1:]), a)
            for solutions, q, a in given[:shots]
        ]
        return _turns(_opening(persona, self.instructions.discuss), asked, _asked(question, own, peers))


def as_text(turns: list[Message], label: str = "A:") -> str:
    """Renders turns as one text to complete; `label` opens each reply ("A:", or "Verdict:" for the critic)."""
    blocks = [f"{ask}\n{label} {reply}" for (_, ask), (_, reply) in zip(turns[:-1:2], turns[1::2], strict=True)]
    return "\n\n".join([*blocks, f"{turns[-1][1]}\n{label}"])


_OWN, _BY_KIND = "own", "by kind"


class _Agent(_Part):
    answer: tuple[tuple[str, str], ...]
    refine: tuple[tuple[str, str, str], ...]


class _Book(_Part):
    max_tokens: Annotated[int, Field(ge=1)]
    agents: Annotated[tuple[_Agent, ...], Field(min_length=1)]
    critic: tuple[tuple[str, str, Literal["right", "wrong"]], ...]
    instructions: Annotated[
        Annotated[Instructions, Tag(_OWN)] | Annotated[Literal["by kind"], Tag(_BY_KIND)],
        Discriminator(lambda instructions: _BY_KIND if isinstance(instructions, str) else _OWN),
    ] = Instructions()
    draft: Draft = "answer"
    direct: tuple[tuple[str, str], ...] = ()
    discuss: tuple[tuple[Annotated[tuple[str, ...], Field(min_length=2)], str, str], ...] = ()


def packaged_text(name: str) -> str:
    """An instruction of this package's files, by the name of its file."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8").strip()


def resolved_prompts(source: str) -> str:
    """The name of packaged prompts as it is, the path of a file as an absolute one."""
    return str(Path(source).expanduser().absolute()) if source.endswith(_PROMPT_FILE) else source


@cache
def load_prompts(source: str, kind: str = "number") -> Prompts:
    """Reads prompts.

    Args:
        source: The name of packaged prompts, or the path of a .yaml file in their format: `max_tokens`; `agents`, each
            with the examples `answer: [[question, answer], ...]` and `refine: [[draft, question, answer], ...]`;
            `critic: [[question, answer, right or wrong], ...]`; and, where the examples (none of which need be there)
            do not say what to do, `instructions: {answer: ..., refine: ..., critic: ...}`, or `by kind` for the
            packaged ones; and `draft: solution` where a refinement is to be shown all of its draft, by default its
            answer. For the systems that the policy is compared with, `direct: [[question, answer without working],
            ...]` and `discuss: [[[own solution, another agent's, ...], question, answer], ...]`, common to all agents,
            and `direct` and `discuss` among the instructions.
        kind: Of the questions.

    Raises:
        DataError: There are no such prompts, or the file has another format; names all wrong keys.
    """
    packaged = resources.files(__package__)
    file = Path(source) if source.endswith(_PROMPT_FILE) else packaged / f"{source}.yaml"
    try:
        book = _Book.model_validate(strict_yaml.load(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        names = sorted(entry.name.removesuffix(".yaml") for entry in packaged.iterdir() if entry.name.endswith(".yaml"))
        raise DataError(f"no prompts {source}; give one of {', '.join(names)}, or the path of a .yaml file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"prompts {source}: {error}; give a YAML file that can be read") from error
    except ValidationError as error:
        raise DataError("\n  ".join([f"prompts {source}:", *_faults(error)])) from error
    return Prompts(
        answer=tuple(agent.answer for agent in book.agents),
        refine=tuple(agent.refine for agent in book.agents),
        critic=book.critic,
        max_tokens=book.max_tokens,
        instructions=_instructions(book.instructions, kind),
        draft=book.draft,
        direct=book.direct,
        discuss=book.discuss,
    )


def _instructions(given: Instructions | Literal["by kind"], kind: str) -> Instructions:
    if given == "by kind":
        given = Instructions(**{role: packaged_text(f"{kind}/{role}.txt") for role in ROLES})
    if not given.answer:
        return given
    in_sight = _opening(packaged_text("discuss.txt"), given.answer)
    follow = {"direct": packaged_text(f"{kind}/direct.txt"), "discuss": in_sight}
    return given.model_copy(update={role: getattr(given, role) or text for role, text in follow.items()})


def _faults(error: ValidationError) -> Iterator[str]:
    """What is wrong, by key; not that a list has too few items where some of them are wrong."""
    details = error.errors()
    parents = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    for detail in details:
        if detail["loc"] in parents and detail["type"] == "too_short":
            continue
        message = "give keys and values" if detail["type"] == "model_type" else detail["msg"].lower()
        key = ".".join(str(part) for part in detail["loc"] if part not in (_OWN, _BY_KIND))
        value = "" if detail["type"] == "missing" else f"{detail['input']!r:.100}: "
        yield f"{key}: {value}{message}" if key else f"{value}{message}"


def _asked(question: str, own: str | None = None, peers: Sequence[str] = (), hints: Sequence[str] = ()) -> str:
    """A question below what is told of its answer."""
    told = [f"Draft: {own}"] if own is not None else []
    told += [f"Peer: {peer}" for peer in peers]
    told += [f"Hint: the answer is near to {', '.join(hints)}."] if hints else []
    return "\n".join([*told, f"Q: {question}"])


def _opening(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _turns(instruction: str, shots: list[tuple[str, str]], query: str) -> list[Message]:
    asked = [ask for ask, _ in shots] + [query]
    asked[0] = f"{instruction}\n\n{asked[0]}" if instruction else asked[0]
    turns: list[Message] = []
    for ask, (_, reply) in zip(asked, shots, strict=False):
        turns += [("user", ask), ("assistant", reply)]
    return [*turns, ("user", asked[-1])]


def _agent_shots(shots: tuple[tuple[Shot, ...], ...], agent: int) -> tuple[Shot, ...]:
    """Agents beyond the written sets reuse one with its shots rotated, so that no two prompts are equal.

    Without shots they are, and the agents differ by what they draw.
    """
    own = shots[agent % len(shots)]
    turn = agent // len(shots) % max(len(own), 1)
    return own[turn:] + own[:turn]

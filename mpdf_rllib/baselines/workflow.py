"""Workflows as data: operators over the solutions to a question, carried out in their order [ours].

- `generate`: one more first answer; the team's agents write them in turn.
- `revise`: every solution so far is replaced by its refinement, a node of the debates' trees.
- `ensemble`: of the solutions so far the one stays that their vote takes, the first where none has an answer.

What is left at the end is ensembled.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeGuard, get_args

from mpdf_rllib.baselines.system import Session, settled
from mpdf_rllib.envs.solution import Solution

Operator = Literal["generate", "revise", "ensemble"]
OPERATORS: tuple[Operator, ...] = get_args(Operator)

Workflow = tuple[Operator, ...]

INITIAL: Workflow = ("generate",)
"""One call, as the published search begins."""
MAX_OPERATORS = 8
"""Of a workflow."""
MAX_REQUESTS = max(answers * (1 + MAX_OPERATORS - answers) for answers in range(1, MAX_OPERATORS + 1))
"""Of a workflow on one question: so many first answers, all of which the other operators revise."""


class _Draft(NamedTuple):
    """A solution, and its place in the debates' trees: its author, which of its draws, and refinements before it."""

    solution: Solution
    agent: int
    draw: int
    depth: int = 0


async def run(workflow: Workflow, session: Session) -> Solution | None:
    """Answers a session's question by a workflow; None where no answer is left. First answers are in flight together.

    Raises:
        PromptError: A prompt was too long for its model.
        EngineError: The engine failed.
    """
    firsts = iter(await settled(_first(session, i) for i in range(workflow.count("generate"))))
    drafts: list[_Draft] = []
    for operator in workflow:
        match operator:
            case "generate":
                drafts.append(next(firsts))
            case "revise":
                drafts = await settled(_revised(session, draft) for draft in drafts)
            case "ensemble":
                said = await _vote(session, drafts)
                drafts = [draft for draft in drafts if draft.solution is said] or drafts[:1]
    return await _vote(session, drafts)


def is_valid(operators: tuple[str, ...]) -> TypeGuard[Workflow]:
    """Whether operators are a workflow that may be tried: first `generate`, and at most `MAX_OPERATORS` of them."""
    return operators[:1] == INITIAL and len(operators) <= MAX_OPERATORS and {*operators} <= {*OPERATORS}


def simplified(operators: Sequence[str]) -> tuple[str, ...]:
    """Without the ensembles that change nothing: those of one solution, and the last, which comes at the end anyway."""
    kept: list[str] = []
    solutions = 0
    for operator in operators:
        if operator != "ensemble" or solutions > 1:
            kept.append(operator)
        if operator == "generate":
            solutions += 1
        elif operator == "ensemble":
            solutions = 1
    return tuple(kept[:-1] if kept[-1:] == ["ensemble"] else kept)


def edits(workflow: Workflow) -> list[Workflow]:
    """The simplified workflows with one operator more or one less, each once, in a fixed order."""
    places = range(len(workflow) + 1)
    shorter = [workflow[:i] + workflow[i + 1 :] for i in places[:-1]]
    longer = [(*workflow[:i], operator, *workflow[i:]) for i in places for operator in OPERATORS]
    return [edit for edit in dict.fromkeys(shorter + longer) if is_valid(edit) and simplified(edit) == edit]


def as_list(workflow: Workflow) -> str:
    """A workflow as it is read."""
    return f"[{', '.join(workflow)}]"


def read_workflow(text: str) -> Workflow | None:
    """The last list in square brackets, however it is separated, simplified; None where it may not be tried."""
    lists = re.findall(r"\[([^][]*)\]", text)
    operators = simplified(re.findall(r"\w+", lists[-1].lower())) if lists else ()
    return operators if is_valid(operators) else None


async def _first(session: Session, i: int) -> _Draft:
    agent, draw = i % session.size, i // session.size
    return _Draft(await session.first(agent, draw), agent, draw)


async def _revised(session: Session, draft: _Draft) -> _Draft:
    depth = draft.depth + 1
    solution = await session.refined(draft.agent, draft.solution, depth, draft.draw)
    return draft._replace(solution=solution, depth=depth)


async def _vote(session: Session, drafts: Sequence[_Draft]) -> Solution | None:
    return await session.vote([draft.solution for draft in drafts])

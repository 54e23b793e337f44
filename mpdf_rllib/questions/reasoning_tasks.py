"""Questions of reasoning-gym's tasks, which have no end."""

import difflib
import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from mpdf_rllib.errors import ConfigError
from mpdf_rllib.prompts import load_prompts
from mpdf_rllib.questions.benchmarks import SOURCE
from mpdf_rllib.questions.draws import content_of
from mpdf_rllib.questions.families import Split
from mpdf_rllib.questions.question import Question
from mpdf_rllib.questions.reasoning import ReasoningRow

PREFIX = "reasoning_gym:"
"""What the name of a task has before it in `questions.benchmark`."""
TRAIN_SHARE = 0.5
MAX_MISSES = 1000
"""Rows, one after the other, that are of no use, after which a task has no more questions [ours]."""
REFUSED = {
    **dict.fromkeys(
        (
            "acre",
            "codeio",
            "isomorphic_strings",
            "knight_swap",
            "polynomial_multiplication",
            "ransom_note",
            "word_ladder",
        ),
        "asks other questions in every process, whatever the seed",
    ),
    **dict.fromkeys(("intermediate_integration", "simple_integration"), "runs what a model writes as Python"),
    "composite": "is made of other tasks",
}
"""Why a task is not to be used; tried with reasoning-gym 0.1.25."""

_STRIDE = 10**7


def reasoning_questions(
    task: str, parameters: Mapping[str, Any], prompts: Collection[str], split: Split, count: int, seed: int = 0
) -> list[Question]:
    """Makes rows of a task with distinct texts; which split a text belongs to is decided by its hash.

    Args:
        task: Its name.
        parameters: The task's own.
        prompts: What agents are asked with beside the questions' own prompts: no question is in their examples.
        split: Whose rows.
        count: How many, at least 1. Fewer are the first ones.
        seed: Of the rows.

    Raises:
        ConfigError: reasoning-gym is not installed or has no such task with such parameters, the task's rows are not to
            be used here, or it has fewer distinct questions.
    """
    own = json.dumps(parameters, sort_keys=True)
    first = (2 * seed + (split == "test")) * _STRIDE
    rows = _task(task, own, first)
    seen = {content_of(text) for source in (SOURCE, *prompts) for text in load_prompts(source).questions}
    questions: list[Question] = []
    index, last = -1, 0
    while len(questions) < count:
        index += 1
        if index - last > MAX_MISSES:
            raise ConfigError(
                f"questions.{split}: {count} is more than the {len(questions)} distinct questions that {PREFIX}{task} "
                "gives for it; ask for fewer, or change questions.parameters"
            )
        row = rows[index]
        content = content_of(row["question"])
        train = hashlib.sha256(content.encode()).digest()[0] < TRAIN_SHARE * 256
        if content in seen or train != (split == "train"):
            continue
        if row["answer"] is None:
            raise ConfigError(f"questions.benchmark: {PREFIX}{task} gives no reference answers; take another task")
        seen.add(content)
        last = index
        questions.append(
            Question(
                id=f"{task}-{split}-{index}",
                text=row["question"].strip(),
                answer=str(row["answer"]),
                kind="reasoning",
                source=SOURCE,
                row=ReasoningRow(task, own, first, index),
            )
        )
    return questions


def _task(task: str, parameters: str, seed: int) -> Any:
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise ConfigError(
            f"questions.benchmark: {PREFIX}{task} needs reasoning-gym, which could not be imported ({error}); install "
            "it by pip install 'mpdf-rllib[reasoning]'"
        ) from error
    known = sorted(set(DATASETS) - set(REFUSED))
    if task in REFUSED:
        raise ConfigError(f"questions.benchmark: {PREFIX}{task} {REFUSED[task]}; take another task")
    if task not in known:
        nearest = difflib.get_close_matches(task, known, n=1)
        hint = f"did you mean {PREFIX}{nearest[0]}?" if nearest else f"known: {', '.join(known)}"
        raise ConfigError(f"questions.benchmark: reasoning-gym has no task {task!r}; {hint}")
    own = json.loads(parameters)
    fields = sorted(set(DATASETS[task][1].__dataclass_fields__) - {"seed", "size"})
    if unknown := [name for name in own if name not in fields]:
        raise ConfigError(
            f"questions.parameters.{unknown[0]}: {PREFIX}{task} has no such parameter; known: {', '.join(fields)}"
        )
    try:
        return create_dataset(task, seed=seed, **own)
    except Exception as error:  # each task's own checks, assertions among them
        raise ConfigError(f"questions.parameters: {own} is not for {PREFIX}{task}: {error}; correct it") from error

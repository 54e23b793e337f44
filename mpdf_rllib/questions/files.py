"""Questions from the user's own files."""

import difflib
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mpdf_rllib.errors import DataError
from mpdf_rllib.prompts import load_prompts
from mpdf_rllib.questions.draws import as_text, content_of, draw
from mpdf_rllib.questions.families import Split
from mpdf_rllib.questions.question import Kind, Question
from mpdf_rllib.questions.tables import Complain, read_rows

Role = Literal["text", "answer", "id"]

LISTED = 20
"""Problems that an error describes; of the others it names the rows."""


class _Problem(NamedTuple):
    path: Path
    place: str
    """"" where the whole file is concerned."""
    text: str


def file_questions(
    files: Mapping[Split, str],
    columns: Mapping[Role, str],
    kind: Kind,
    prompts: Sequence[str],
    split: Split,
    count: int | None = None,
    seed: int = 0,
) -> list[Question]:
    """Draws the questions of one split. The other's file is read too: no question may be in both.

    Args:
        files: The .jsonl, .csv or .parquet file of each split.
        columns: Which column holds the question's text, its reference answer and, if any does, its id; otherwise the
            id is a hash of the text.
        kind: Which checker reads and compares the answers.
        prompts: What the questions are asked with, see `load_prompts`; the first are their own, the others an agent's.
        split: Whose questions.
        count: How many to draw, all by default. A smaller draw is the beginning of a larger one.
        seed: Of the draw.

    Returns:
        The questions as they were drawn, or all as they stand in the file.

    Raises:
        DataError: The prompts, a file or rows cannot be used; names all rows of both files.
        ConfigError: More are asked for than there are.
    """
    if Path(files["train"]).absolute() == Path(files["test"]).absolute():
        raise DataError(f"questions.file: {files['test']} is both train and test; give each a file of its own")
    problems: list[_Problem] = []
    first = {
        ("text", content_of(text)): f"the prompts {source}"
        for source in prompts
        for text in load_prompts(source).questions
    }
    questions: dict[Split, list[Question]] = {name: [] for name in files}
    for split_name, file in files.items():
        path = Path(file).absolute()
        found = len(problems)

        def complain(place: str, problem: str, path: Path = path) -> None:
            problems.append(_Problem(path, place, problem))

        for place, values in _values(path, columns, complain):
            content = content_of(values["text"])
            own_id = values.get("id") or hashlib.sha256(content.encode()).hexdigest()[:16]
            here = f"{path} {place}"
            same_text, same_id = (first.setdefault(key, here) for key in (("text", content), ("id", own_id)))
            if same_text != here:
                complain(place, f"the same question is in {same_text}; leave one out")
            elif same_id != here:
                complain(place, f"id {own_id!r} again, first in {same_id}; give each question its own")
            question = Question(own_id, values["text"], values["answer"], kind, prompts[0])
            try:
                question.reference  # noqa: B018
                questions[split_name].append(question)
            except DataError as error:
                complain(place, str(error))
        if not questions[split_name] and len(problems) == found:
            complain("", "it holds no questions")
    if problems:
        raise DataError("\n  ".join(["questions.file:", *_listed(problems)]))
    return draw(questions[split], split, count, seed, files[split], "questions.file.train")


def _listed(problems: list[_Problem]) -> Iterator[str]:
    """The first problems, whole files' before rows', and then, file by file, the rows of all others."""
    problems = sorted(problems, key=lambda problem: bool(problem.place))
    for path, place, text in problems[:LISTED]:
        yield f"{path} {place}: {text}" if place else f"{path}: {text}"
    for path, others in itertools.groupby(problems[LISTED:], key=lambda problem: problem.path):
        units, numbers = zip(*(problem.place.split() for problem in others), strict=True)
        yield f"{path} {units[0]}s {_ranges(sorted({*map(int, numbers)}))}: likewise not to be used"


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers in short: 1-3, 7."""
    runs = itertools.groupby(enumerate(numbers), key=lambda item: item[1] - item[0])
    ends = ([number for _, number in run] for _, run in runs)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in ends)


def _values(path: Path, columns: Mapping[Role, str], complain: Complain) -> Iterator[tuple[str, dict[Role, str]]]:
    """The place and, by role, the text of each row that has all that it should."""
    rows = read_rows(path, complain)
    there = list(dict.fromkeys(column for row in rows for column in row.values))
    missing = {role: column for role, column in columns.items() if rows and column not in there}
    for role, column in missing.items():
        nearest = difflib.get_close_matches(column, there, n=1)
        remedy = f"did you mean {nearest[0]!r}?" if nearest else "set questions.file.columns."
        complain("", f"no column {column!r} for the {role}; {remedy} There are {', '.join(map(repr, there))}")
    if missing:
        return
    for place, row in rows:
        values: dict[Role, str] = {}
        for role, column in columns.items():
            try:
                values[role] = as_text(row.get(column))
            except ValueError as error:
                complain(place, f"no {role}: {column!r} {error}")
        if len(values) == len(columns):
            yield place, values

r"""The paper's benchmarks by name: which data sets of the hub they are, and what their rows mean.

| name | test (rows) | trains on | kind | official metric |
| --- | --- | --- | --- | --- |
| gsm8k | GSM8K (1319) [paper] | GSM8K (7473) | number | accuracy, exact |
| math | MATH (5000) | MATH (7500) | expression | accuracy, equivalent |
| math500 | MATH-500 (500 of MATH's test) | MATH | expression | accuracy, equivalent |
| aime | AIME 2022 to 2024 (90) [inferred] | MATH | number | accuracy, exact |
| amc | AMC 12 of 2022 and 2023 (83) [inferred] | MATH | number | accuracy, exact |
| mmlu | MMLU, 57 subjects (14042) | auxiliary_train (99842) | choice | accuracy over all rows |
| humaneval | HumanEval (164) [paper] | MBPP (374) [ours] | code | pass@1 by the tests |

Inferred: the paper's cells are multiples of 1/90 and 1/83, which are the rows of the sets named here. Its MATH cells
are multiples of 1/550, a subset that it does not name. Where a benchmark has no training split of its own, what it
trains on is ours.

A training row is left out when its text, whatever its case and white space, is that of a test row, of a question in the
prompts' examples or of an earlier training row, or when something is missing in it: of MBPP also where the tests need
more of the solution than the function. The test split is official and whole.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal

from mpdf_rllib.errors import DataError
from mpdf_rllib.prompts import load_prompts
from mpdf_rllib.questions.code_sets import HUMANEVAL, MBPP
from mpdf_rllib.questions.data_sets import (
    AIME,
    AMC,
    GSM8K,
    MATH,
    MATH500,
    MMLU,
    DataSet,
    Values,
)
from mpdf_rllib.questions.draws import content_of, draw
from mpdf_rllib.questions.families import Split
from mpdf_rllib.questions.hub import Rows, read_rows
from mpdf_rllib.questions.question import Kind, Question

BenchmarkName = Literal["gsm8k", "math", "math500", "aime", "amc", "mmlu", "humaneval"]
TrainOn = Literal["gsm8k", "math", "mmlu", "mbpp"]
"""Data sets with a training split."""

SOURCE = "generic"
"""The prompts of all benchmarks, whose instructions are those of the question's kind."""
LISTED = 20
"""Rows that an error describes."""
_BATCH = 1000

_TRAINED: Mapping[TrainOn, DataSet] = {"gsm8k": GSM8K, "math": MATH, "mmlu": MMLU, "mbpp": MBPP}
_TESTED: Mapping[BenchmarkName, tuple[DataSet, TrainOn]] = {
    "gsm8k": (GSM8K, "gsm8k"),
    "math": (MATH, "math"),
    "math500": (MATH500, "math"),
    "aime": (AIME, "math"),
    "amc": (AMC, "math"),
    "mmlu": (MMLU, "mmlu"),
    "humaneval": (HUMANEVAL, "mbpp"),
}


def default_train_on(benchmark: BenchmarkName) -> TrainOn:
    """The data set that a benchmark trains on by default."""
    return _TESTED[benchmark][1]


def kinds(benchmark: BenchmarkName, train_on: TrainOn) -> list[Kind]:
    """The kinds of the questions of both splits, each once."""
    return list(dict.fromkeys((_TESTED[benchmark][0].kind, _TRAINED[train_on].kind)))


@dataclass(frozen=True)
class BenchmarkSplit:
    """One split of a benchmark.

    Attributes:
        data_set: Whose rows.
        split: Whose of the benchmark.
        rows: All of them, mapped into memory.
        columns: The column of what is needed.
        kept: The rows that may be drawn, counted from 0.
        left_out: How many are not, by the reason.
    """

    data_set: DataSet
    split: Split
    rows: Rows
    columns: Mapping[str, str]
    kept: Sequence[int]
    left_out: Mapping[str, int]

    def questions(self, rows: Sequence[int]) -> list[Question]:
        """The questions of some of the rows that may be drawn."""
        name, kind = self.data_set.files.name, self.data_set.kind
        parts = _parts(self.data_set, self.rows.data.select(rows), self.columns)
        return [
            Question(id=f"{name}-{self.split}-{row}", kind=kind, source=SOURCE, **own)
            for row, own in zip(rows, parts, strict=True)
            if not isinstance(own, Exception)
        ]

    def groups(self) -> dict[str, Counter[str]]:
        """How many rows there are of what, by each column that sorts them."""
        there = [name for name in ("subject", "type", "level") if name in self.rows.data.column_names]
        return {name: Counter(map(str, self.rows.data[name])) for name in there}


def benchmark_questions(
    benchmark: BenchmarkName,
    train_on: TrainOn,
    path: str | None,
    prompts: Collection[str],
    split: Split,
    count: int | None = None,
    seed: int = 0,
) -> list[Question]:
    """Draws the questions of one split. Their ids end in the number of the row, counted from 0.

    Args:
        benchmark: Its name.
        train_on: The data set of the training split.
        path: The folder of the files, None for the hub; see `hub.read_rows`.
        prompts: What agents are asked with beside the questions' own prompts; no training question is in their
            examples.
        split: Whose questions.
        count: How many to draw, all by default. A smaller draw is the beginning of a larger one.
        seed: Of the draw.

    Raises:
        ConfigError: The files are not there, or more are asked for than there are.
        DataError: A file cannot be used, or rows of the test split; names them.
    """
    loaded = load_benchmark(benchmark, train_on, path, frozenset(prompts))[split]
    return loaded.questions(draw(loaded.kept, split, count, seed, loaded.rows.place, "questions.train_on"))


@lru_cache(maxsize=4)
def load_benchmark(
    benchmark: BenchmarkName, train_on: TrainOn, path: str | None, prompts: frozenset[str] = frozenset()
) -> dict[Split, BenchmarkSplit]:
    """Both splits of a benchmark, read once by a process; see `benchmark_questions`."""
    test, train = _read(_TESTED[benchmark][0], "test", path), _read(_TRAINED[train_on], "train", path)
    parts = list(_parts(test.data_set, test.rows.data, test.columns))
    if wrong := [(row, own) for row, own in enumerate(parts) if isinstance(own, Exception)]:
        listed = [f"row {row}: {error}" for row, error in wrong[:LISTED]]
        more = [f"and {len(wrong) - LISTED} rows more"] if len(wrong) > LISTED else []
        fault = f"{test.rows.place}: the test split cannot be used whole; correct or replace these rows:"
        raise DataError("\n  ".join([fault, *listed, *more]))
    held_out = {_digest(own["text"]) for own in parts if not isinstance(own, Exception)}
    shown = {_digest(text) for source in (SOURCE, *prompts) for text in load_prompts(source).questions}
    return {"train": _without(train, held_out, shown), "test": test}


def _read(data_set: DataSet, split: Split, path: str | None) -> BenchmarkSplit:
    needed = ", ".join(" or ".join(names) for names in data_set.columns.values())
    rows = read_rows(data_set.files, split, path, f"the columns {needed}")
    if isinstance(rows.data.features.get("train"), dict):  # some of MMLU's files have all columns in this one
        nested = rows.data.select_columns("train").flatten()
        own_names = {name: name.removeprefix("train.") for name in nested.column_names}
        rows = rows._replace(data=nested.rename_columns(own_names))
    there = rows.data.column_names
    columns: dict[str, str] = {}
    missing = []
    for role, choices in {**data_set.columns, **data_set.optional}.items():
        found = [name for name in choices if name in there]
        if found:
            columns[role] = found[0]
        elif role in data_set.columns:
            missing.append(f"no column {' or '.join(map(repr, choices))} for the {role}")
    if missing:
        raise DataError(f"{rows.place}: {'; '.join(missing)}; there are {', '.join(map(repr, there))}")
    return BenchmarkSplit(data_set, split, rows, columns, range(len(rows.data)), {})


def _without(train: BenchmarkSplit, held_out: Collection[bytes], shown: Collection[bytes]) -> BenchmarkSplit:
    """The training split without the rows that the module's docstring names."""
    kept: list[int] = []
    left_out: Counter[str] = Counter()
    seen: set[bytes] = set()
    for row, own in enumerate(_parts(train.data_set, train.rows.data, train.columns)):
        if isinstance(own, Exception):
            left_out["incomplete"] += 1
            continue
        digest = _digest(own["text"])
        if digest in held_out:
            left_out["in the test split"] += 1
        elif digest in shown:
            left_out["in the prompts' examples"] += 1
        elif digest in seen:
            left_out["repeated"] += 1
        else:
            kept.append(row)
        seen.add(digest)
    return replace(train, kept=kept, left_out=left_out)


def _parts(data_set: DataSet, data: Any, columns: Mapping[str, str]) -> Iterator[Values | Exception]:
    """What is each row's own in a question, or what is wrong with it."""
    for batch in data.select_columns(sorted(set(columns.values()))).iter(_BATCH):
        for values in zip(*(batch[column] for column in columns.values()), strict=True):
            try:
                yield data_set.parts(dict(zip(columns, values, strict=True)))
            except (ValueError, DataError) as error:
                yield error


def _digest(text: str) -> bytes:
    return blake2b(content_of(text).encode(), digest_size=16).digest()

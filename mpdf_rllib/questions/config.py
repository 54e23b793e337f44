"""The part of the config that says where questions come from."""

import difflib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import Field, field_validator, model_validator

from mpdf_rllib.prompts import resolved_prompts
from mpdf_rllib.questions.benchmarks import (
    SOURCE,
    BenchmarkName,
    BenchmarkSplit,
    TrainOn,
    benchmark_questions,
    default_train_on,
    kinds,
    load_benchmark,
)
from mpdf_rllib.questions.draws import MIN_TRAIN
from mpdf_rllib.questions.families import Family, Split, generate_questions
from mpdf_rllib.questions.files import Role, file_questions
from mpdf_rllib.questions.question import Kind, Question
from mpdf_rllib.questions.reasoning_tasks import PREFIX, reasoning_questions
from mpdf_rllib.questions.sandbox import check_sandbox
from mpdf_rllib.section import Section


class ColumnsConfig(Section):
    """Which columns of a file are read."""

    text: str = "question"
    """The question's text."""
    answer: str = "answer"
    """The reference answer, or a text that it is read out of as it is out of a model's."""
    id: str | None = None
    """By default a question's id is a hash of its text."""


class FileConfig(Section):
    """Questions from files: .jsonl, .csv or .parquet."""

    train: str
    """The file of the training questions."""
    test: str
    """The file of the held-out questions; none may be in both."""
    columns: ColumnsConfig = ColumnsConfig()
    kind: Literal["number", "expression"] = "number"
    """How answers are read and compared."""
    prompts: str = "generic"
    """Packaged prompts, or the path of a .yaml file like them; "generic" has no examples and is for chat models."""


class QuestionsConfig(Section):
    """Which questions to train and to test on: a benchmark's, generated families, or files."""

    benchmark: str | None = None
    """gsm8k, math, math500, aime, amc, mmlu, humaneval, or reasoning_gym: with the name of one of its tasks."""
    path: str | None = None
    """Of a benchmark: a folder with files in place of the hub, in it one for each data set: see `hub.read_rows`."""
    train_on: TrainOn | None = None
    """Of a benchmark: the data set of the training questions; by default its own, or as `benchmarks` says."""
    unsafe_code_without_sandbox: bool = False
    """Of questions of code: whether programs that models have written run with all that the user may do, in place of a
    sandbox, for which bubblewrap has to be installed."""
    parameters: dict[str, Any] = {}
    """Of a reasoning_gym task."""
    families: Annotated[list[Family], Field(min_length=1)] | None = None
    """Generated families, drawn from in turn."""
    file: FileConfig | None = None
    train: Annotated[int, Field(ge=MIN_TRAIN)] | None = None
    """Number of training questions; all of the benchmark's or file's by default."""
    test: Annotated[int, Field(ge=1)] | None = None
    """Number of held-out questions; in families they are about other numbers than the training questions'."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draw."""

    @field_validator("benchmark")
    @classmethod
    def _is_known(cls, benchmark: str | None) -> str | None:
        known = get_args(BenchmarkName)
        if benchmark is not None and benchmark not in known and not benchmark.startswith(PREFIX):
            nearest = difflib.get_close_matches(benchmark, [*known, PREFIX], n=1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise ValueError(f"{hint}known: {', '.join(known)}, and {PREFIX} with the name of a task")
        return benchmark

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if sum(source is not None for source in (self.benchmark, self.families, self.file)) != 1:
            raise ValueError("give one of benchmark, families and file")
        hub = self._hub_benchmark
        for key in ("path", "train_on"):
            if getattr(self, key) is not None and hub is None:
                raise ValueError(f"{key} is of the benchmarks {', '.join(get_args(BenchmarkName))}; leave it out")
        if hub is not None and (of_both := kinds(hub, self._trains_on(hub)))[0] != of_both[-1] and "choice" in of_both:
            raise ValueError(
                f"train_on {self._trains_on(hub)}: its answers are of another kind than those of {hub}; leave it out"
            )
        if self.parameters and self._task is None:
            raise ValueError(f"parameters are of a {PREFIX} task; leave them out")
        if self.unsafe_code_without_sandbox and "code" not in [kind for _, kind in self.prompts]:
            raise ValueError("unsafe_code_without_sandbox is of questions of code; leave it out")
        if (self.families or self._task) and not (self.train and self.test):
            source = "families have" if self.families else "a task has"
            raise ValueError(f"{source} no end; give the numbers of train and test questions")
        return self

    @property
    def _task(self) -> str | None:
        has_task = self.benchmark is not None and self.benchmark.startswith(PREFIX)
        return self.benchmark.removeprefix(PREFIX) if self.benchmark and has_task else None

    @property
    def _hub_benchmark(self) -> BenchmarkName | None:
        return cast(BenchmarkName, self.benchmark) if self.benchmark and self._task is None else None

    def _trains_on(self, benchmark: BenchmarkName) -> TrainOn:
        return self.train_on or default_train_on(benchmark)

    def of(self, split: Split, prompts: Collection[str] = ()) -> list[Question]:
        """The questions of a split.

        Args:
            split: Whose questions.
            prompts: What agents are asked with beside the questions' own prompts: no question is in their examples.

        Raises:
            ConfigError: More are asked for than there are; or questions are of code, and there is no sandbox.
            DataError: The files cannot be used; names all rows.
        """
        count = self.train if split == "train" else self.test
        if (benchmark := self._hub_benchmark) is not None:
            train_on = self._trains_on(benchmark)
            questions = benchmark_questions(benchmark, train_on, self.path, prompts, split, count, self.seed)
            return self.runnable(questions)
        if self.file is None:
            assert count is not None
            if self._task is not None:
                return reasoning_questions(self._task, self.parameters, prompts, split, count, self.seed)
            assert self.families is not None
            return generate_questions(self.families, split, count, self.seed, prompts)
        files: dict[Split, str] = {"train": self.file.train, "test": self.file.test}
        columns: dict[Role, str] = {"text": self.file.columns.text, "answer": self.file.columns.answer}
        if self.file.columns.id is not None:
            columns["id"] = self.file.columns.id
        return file_questions(files, columns, self.file.kind, (self.file.prompts, *prompts), split, count, self.seed)

    def runnable(self, questions: list[Question]) -> list[Question]:
        """Those of code with the sandbox that is to keep their programs, which is tried, or without one."""
        if not any(question.task for question in questions):
            return questions
        if not self.unsafe_code_without_sandbox:
            check_sandbox()
            return questions
        return [replace(q, task=replace(q.task, unsafe=True)) if q.task else q for q in questions]

    @property
    def prompts(self) -> list[tuple[str, Kind]]:
        """What the questions are asked with, and their kinds."""
        if (benchmark := self._hub_benchmark) is not None:
            return [(SOURCE, kind) for kind in kinds(benchmark, self._trains_on(benchmark))]
        if self._task is not None:
            return [(SOURCE, "reasoning")]
        if self.file is None:
            return [(family, "number") for family in self.families or ()]
        return [(self.file.prompts, self.file.kind)]

    def benchmark_splits(self, prompts: Collection[str] = ()) -> dict[Split, BenchmarkSplit] | None:
        """Both splits of a benchmark of the hub's, with what is left out of them; None for other questions.

        Raises:
            ConfigError, DataError: See `of`.
        """
        if (benchmark := self._hub_benchmark) is None:
            return None
        return load_benchmark(benchmark, self._trains_on(benchmark), self.path, frozenset(prompts))

    def resolved(self) -> "QuestionsConfig":
        """The same with the files' absolute paths, and with what a benchmark trains on."""
        if (benchmark := self._hub_benchmark) is not None:
            path = self.path and str(Path(self.path).expanduser().absolute())
            return self.model_copy(update={"path": path, "train_on": self._trains_on(benchmark)})
        if self.file is None:
            return self
        places = {"train": self.file.train, "test": self.file.test}
        absolute = {key: str(Path(place).expanduser().absolute()) for key, place in places.items()}
        absolute["prompts"] = resolved_prompts(self.file.prompts)
        return self.model_copy(update={"file": self.file.model_copy(update=absolute)})

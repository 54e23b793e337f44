"""The part of the config that says where questions come from."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from mpdf_rllib.prompts import resolved_prompts
from mpdf_rllib.questions.families import Family, Split, generate_questions
from mpdf_rllib.questions.files import MIN_TRAIN, Role, file_questions
from mpdf_rllib.questions.question import Kind, Question
from mpdf_rllib.section import Section


class ColumnsConfig(Section):
    """Which columns of a file are read."""

    text: str = "question"
    answer: str = "answer"
    """The reference answer, or a text that it is read out of as it is out of a model's."""
    id: str | None = None
    """By default a question's id is a hash of its text."""


class FileConfig(Section):
    """Questions from files: .jsonl, .csv or .parquet."""

    train: str
    test: str
    columns: ColumnsConfig = ColumnsConfig()
    kind: Kind = "number"
    """How answers are read and compared."""
    prompts: str = "generic"
    """Packaged prompts, or the path of a .yaml file like them; "generic" has no examples and is for chat models."""


class QuestionsConfig(Section):
    """Which questions to train and to test on: generated families, or files."""

    families: Annotated[list[Family], Field(min_length=1)] | None = None
    """Generated families, drawn from in turn."""
    file: FileConfig | None = None
    train: Annotated[int, Field(ge=MIN_TRAIN)] | None = None
    """Number of training questions; all of the file's by default."""
    test: Annotated[int, Field(ge=1)] | None = None
    """Number of held-out questions; in families they are about other numbers than the training questions'."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draw."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.families is None) == (self.file is None):
            raise ValueError("give either families or file")
        if self.families and not (self.train and self.test):
            raise ValueError("families have no end; give the numbers of train and test questions")
        return self

    def of(self, split: Split, prompts: Collection[str] = ()) -> list[Question]:
        """The questions of a split.

        Args:
            split: Whose questions.
            prompts: What agents are asked with beside the questions' own prompts: no question is in their examples.

        Raises:
            ConfigError: More are asked for than there are.
            DataError: The files cannot be used; names all rows.
        """
        count = self.train if split == "train" else self.test
        if self.file is None:
            assert self.families is not None and count is not None
            return generate_questions(self.families, split, count, self.seed, prompts)
        files: dict[Split, str] = {"train": self.file.train, "test": self.file.test}
        columns: dict[Role, str] = {"text": self.file.columns.text, "answer": self.file.columns.answer}
        if self.file.columns.id is not None:
            columns["id"] = self.file.columns.id
        return file_questions(files, columns, self.file.kind, (self.file.prompts, *prompts), split, count, self.seed)

    @property
    def prompts(self) -> list[tuple[str, Kind]]:
        """What the questions are asked with, and their kinds."""
        if self.file is None:
            return [(family, "number") for family in self.families or ()]
        return [(self.file.prompts, self.file.kind)]

    def resolved(self) -> "QuestionsConfig":
        """The same with the files' absolute paths."""
        if self.file is None:
            return self
        places = {"train": self.file.train, "test": self.file.test}
        absolute = {key: str(Path(place).expanduser().absolute()) for key, place in places.items()}
        absolute["prompts"] = resolved_prompts(self.file.prompts)
        return self.model_copy(update={"file": self.file.model_copy(update=absolute)})

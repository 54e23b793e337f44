"""The data sets of the benchmarks: where their rows are, and what these mean."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mpdf_rllib.questions.boxes import last_box
from mpdf_rllib.questions.choices import LETTERS, lettered
from mpdf_rllib.questions.draws import as_text
from mpdf_rllib.questions.hub import HubFiles
from mpdf_rllib.questions.question import Kind

Values = dict[str, Any]
"""Of a row, by what they are for."""


@dataclass(frozen=True)
class DataSet:
    """A data set of the hub, and how its rows are read.

    Attributes:
        files: Where the rows are.
        kind: Which checker reads and compares the answers.
        columns: What is needed, and the columns that may hold it; of several the first that is there counts.
        parts: Makes what is a row's own in a `Question` from the values; raises ValueError and DataError.
        optional: Likewise what is used where it is there.
    """

    files: HubFiles
    kind: Kind
    columns: Mapping[str, tuple[str, ...]]
    parts: Callable[[Values], Values]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def text_in(row: Values, role: str) -> str:
    """A value of a row as text.

    Raises:
        ValueError: It is none; names it.
    """
    try:
        return as_text(row[role])
    except ValueError as error:
        raise ValueError(f"the {role} {error}") from error


def _plain(row: Values) -> Values:
    return {"text": text_in(row, "text"), "answer": text_in(row, "answer")}


def _mathematics(row: Values) -> Values:
    """The answer has a column of its own, or is boxed at the end of the solution."""
    answer = text_in(row, "answer")
    if (box := last_box(answer)) is not None:
        answer = answer[slice(*box)].strip()
        if not answer:
            raise ValueError("the box with the answer is empty")
    elif "\n" in answer or "boxed" in answer:
        raise ValueError("there is no box with the answer")
    return {"text": text_in(row, "text"), "answer": answer}


def _choice(row: Values) -> Values:
    choices, answer = tuple(as_text(choice) for choice in row["choices"] or ()), row["answer"]
    letters = LETTERS[: len(choices)]
    letter = letters[answer] if answer in range(len(letters)) else str(answer).strip().upper()
    if letter not in tuple(letters):
        raise ValueError(f"the answer {answer!r:.40} is neither the letter of a choice nor its number from 0")
    text = "\n".join([text_in(row, "text"), *lettered(choices)])
    return {"text": text, "answer": letter, "choices": choices}


# None of these could be downloaded where they were written down. Each commit was found in at least two public sources,
# as one that they pin or as what main was when they downloaded it.
GSM8K = DataSet(
    HubFiles(
        "gsm8k",
        "openai/gsm8k",
        "740312add88f781978c0658806c59bc2815b9866",
        {"train": ("main/train-*.parquet",), "test": ("main/test-*.parquet",)},
    ),
    "number",
    {"text": ("question",), "answer": ("answer",)},
    _plain,
)
_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_MATH_COLUMNS = {"text": ("problem", "question"), "answer": ("answer", "solution")}
MATH = DataSet(
    HubFiles(
        "math",
        "EleutherAI/hendrycks_math",
        "21a5633873b6a120296cce3e2df9d5550074f4a3",
        {
            "train": tuple(f"{subject}/train-*.parquet" for subject in _MATH_SUBJECTS),
            "test": tuple(f"{subject}/test-*.parquet" for subject in _MATH_SUBJECTS),
        },
    ),
    "expression",
    _MATH_COLUMNS,
    _mathematics,
)
MATH500 = DataSet(
    HubFiles(
        "math500",
        "HuggingFaceH4/MATH-500",
        "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        {"test": ("test.jsonl",)},
    ),
    "expression",
    _MATH_COLUMNS,
    _mathematics,
)
AIME = DataSet(
    HubFiles(
        "aime",
        "AI-MO/aimo-validation-aime",
        "13f9e12f613e720c2a2b2f345dd04b998a29494d",
        {"test": ("data/train-*.parquet",)},
    ),
    "number",
    {"text": ("problem", "question"), "answer": ("answer",)},
    _plain,
)
AMC = DataSet(
    HubFiles(
        "amc",
        "AI-MO/aimo-validation-amc",
        "69d78a4a2c840e82d69af6bc742bda09005f6316",
        {"test": ("data/train-*.parquet",)},
    ),
    "number",
    {"text": ("problem", "question"), "answer": ("answer",)},
    _plain,
)
MMLU = DataSet(
    HubFiles(
        "mmlu",
        "cais/mmlu",
        "c30699e8356da336a370243923dbaf21066bb9fe",
        {"train": ("all/auxiliary_train-*.parquet",), "test": ("all/test-*.parquet",)},
    ),
    "choice",
    {"text": ("question",), "choices": ("choices",), "answer": ("answer",)},
    _choice,
)

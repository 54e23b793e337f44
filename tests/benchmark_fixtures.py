"""Small files of our own in the formats of the benchmarks."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.config_file import load_config


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes .parquet, .jsonl or .jsonl.gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
        return
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def experiment(folder: Path, **questions: Any) -> ExperimentConfig:
    """A config with these questions, its file in the folder."""
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "questions": questions}))
    return load_config(path)


GSM8K = [
    {
        "question": f"Ann has {n} figs and eats one. How many?",
        "answer": f"{n} - 1 = <<{n}-1={n - 1}>>{n - 1}\n#### {n - 1}",
    }
    for n in range(1, 31)
]
MATH = [
    {
        "problem": f"What is $x$ if $2x = {n}$?",
        "level": f"Level {n % 3 + 1}",
        "type": "Algebra",
        "solution": f"Half of it, so $x = \\boxed{{\\frac{{{n}}}{{2}}}}$.",
    }
    for n in range(1, 25)
]
HUMANEVAL = [
    {
        "task_id": f"HumanEval/{n}",
        "prompt": f"from math import prod\n\n\ndef times_{n}(x):\n"
        f'    """{n} times x.\n\n    >>> times_{n}(2)\n    {2 * n}\n    """\n',
        "entry_point": f"times_{n}",
        "canonical_solution": f"    return prod([x, {n}])\n",
        "test": f"def check(candidate):\n    assert candidate(3) == {3 * n}\n    assert candidate(-1) == {-n}\n",
    }
    for n in range(2, 5)
]
MBPP = [
    {
        "task_id": n,
        "text": f"Write a function that adds {n} to each number.",
        "code": f"def added(numbers):\r\n    return {{number + {n} for number in numbers}}",
        "test_list": [f"assert set(added([1, 2])) == {{{n + 1}, {n + 2}}}", "assert not added(EMPTY)"],
        "test_setup_code": "EMPTY = []",
    }
    for n in range(12)
]
MMLU = [
    {"question": "Which is even?", "subject": "numbers", "choices": [f"{n}", f"{n + 1}", f"{n + 3}"], "answer": n % 2}
    for n in range(20)
]

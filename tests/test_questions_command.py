"""`python -m mpdf_rllib.questions`: what it shows, and what it finds."""

import pytest
import yaml
from benchmark_fixtures import GSM8K, HUMANEVAL, MATH, MBPP, write_rows

from mpdf_rllib import cli
from mpdf_rllib.questions.__main__ import _arguments, _command


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command; returns its exit status, its output and its messages."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def run(*arguments: str, **questions) -> tuple[int, str, str]:
        path = tmp_path / "x.yaml"
        path.write_text(yaml.safe_dump({"name": "x", "questions": questions}))
        status = cli.main(_arguments(), _command, ["--config", str(path), *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_benchmark_is_shown_counted_and_checked(tmp_path, run):
    write_rows(tmp_path / "gsm8k/train.jsonl", [*GSM8K[:20], GSM8K[25]])
    write_rows(tmp_path / "gsm8k/test.jsonl", GSM8K[20:])
    status, out, err = run("--set", "questions.train=12", benchmark="gsm8k", path=str(tmp_path))
    assert status == 0
    lines = [" ".join(line.replace("│", " ").split()) for line in out.splitlines()]
    assert GSM8K[20]["question"] in lines
    assert [line for line in lines if line.startswith(("rows", "left out", "drawn", "by kind"))] == [
        f"rows 21 in {tmp_path}/gsm8k/train.jsonl",
        "left out: in the test split 1",
        "drawn 12",
        "by kind number 12",
        f"rows 10 in {tmp_path}/gsm8k/test.jsonl",
        "drawn 10",
        "by kind number 10",
    ]
    assert "20 reference answers checked" in err


def test_references_that_do_not_pass_are_listed_by_their_rows(tmp_path, run):
    write_rows(tmp_path / "math/train.jsonl", [*MATH[:14], {**MATH[14], "solution": "It is $\\boxed{\\frac{1}{}$."}])
    write_rows(
        tmp_path / "math/test.jsonl", [*MATH[15:18], {**MATH[18], "solution": "It is $\\boxed{\\frac}$."}, MATH[19]]
    )
    status, out, err = run(benchmark="math", path=str(tmp_path))
    assert status == 2
    shown = " ".join(out.replace("│", " ").split())
    assert "by level Level 2 5, Level 3 5, Level 1 5" in shown and "by level Level 2 2, Level 3 2, Level 1 1" in shown
    assert [line.strip() for line in err.splitlines() if line.startswith(("error", "  "))] == [
        "error: 1 reference answers do not pass their own checkers:",
        "question math-test-3: its reference answer '\\\\frac' cannot be read as an expression; correct it",
    ]


def test_a_reference_that_does_not_equal_itself_is_listed(tmp_path, run):
    boxes = ["\\frac{0}{0}", "x+1", "[1,2)", "\\text{east}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "11\\sqrt2"]
    write_rows(tmp_path / "math/train.jsonl", MATH[:14])
    write_rows(
        tmp_path / "math/test.jsonl",
        [{**MATH[15 + n], "solution": f"It is $\\boxed{{{box}}}$."} for n, box in enumerate(boxes)],
    )
    status, _, err = run(benchmark="math", path=str(tmp_path))
    assert status == 2
    assert [line.strip() for line in err.splitlines() if line.startswith(("error", "  "))] == [
        "error: 1 reference answers do not pass their own checkers:",
        "question math-test-0: its reference answer '\\\\boxed{\\\\frac{0}{0}}' does not pass its checker",
    ]


def test_programs_that_fail_their_own_tests_are_listed(tmp_path, run):
    write_rows(tmp_path / "mbpp/full/train-00000-of-00001.parquet", MBPP)
    wrong = {**HUMANEVAL[2], "canonical_solution": "    return x\n"}
    write_rows(tmp_path / "humaneval/HumanEval.jsonl.gz", [*HUMANEVAL[:2], wrong])
    status, _, err = run(benchmark="humaneval", path=str(tmp_path), unsafe_code_without_sandbox=True)
    assert status == 2
    assert err.count("does not pass its checker") == err.count("question humaneval-test-2: ") == 1


def test_other_questions_too(run):
    status, out, err = run(families=["addition"], train=10, test=5)
    assert status == 0
    assert out.count("drawn") == 2
    assert "5 reference answers checked" in err

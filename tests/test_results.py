import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from result_fixtures import system
from rich.console import Console
from scipy import stats

from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.errors import DataError
from mpdf_rllib.results import (
    SystemResult,
    accuracy,
    paired_difference,
    read_questions,
    read_results,
    results_table,
    write_results,
)

NOBODY = np.zeros(2, bool)


def render(results: list[SystemResult], learned: dict[str, str], width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(results_table(results, learned))
    return console.file.getvalue()


@pytest.fixture
def results() -> list[SystemResult]:
    rng = np.random.default_rng(0)
    return [
        system("vote", rng.random(40) < 0.5, acts=False),
        system("learned", *(rng.random((3, 40)) < 0.8), tokens=17),
        system("a rule", rng.random(40) < 0.6),
    ]


QUESTIONS = [f"q{i}" for i in range(40)]
SETS = [("addition", "multiplication")[i % 3 == 0] for i in range(40)]


def test_the_interval_of_one_run_is_the_bootstraps_and_the_binomials():
    correct = np.random.default_rng(1).random(600) < 0.7
    estimate = accuracy(system("s", correct))
    assert estimate.mean == correct.mean()
    reference = stats.bootstrap((correct,), np.mean, method="percentile", n_resamples=9999, rng=2).confidence_interval
    half = 1.96 * np.sqrt(correct.mean() * (1 - correct.mean()) / 600)
    for low, high in (reference, (correct.mean() - half, correct.mean() + half)):
        assert estimate.low == pytest.approx(low, abs=0.005)
        assert estimate.high == pytest.approx(high, abs=0.005)


def slow_bootstrap(values: np.ndarray, other: np.ndarray | None = None) -> tuple[float, float]:
    """Questions are drawn together, the runs of each system by themselves."""
    rng = np.random.default_rng(3)
    means = []
    for _ in range(3000):
        question = rng.integers(values.shape[1], size=values.shape[1])
        mean = values[rng.integers(len(values), size=len(values))][:, question].mean()
        if other is not None:
            mean -= other[rng.integers(len(other), size=len(other))][:, question].mean()
        means.append(mean)
    return tuple(np.quantile(means, [0.025, 0.975]))


def test_the_interval_of_several_runs_is_over_questions_and_runs():
    rng = np.random.default_rng(4)
    easy = rng.random(300)
    correct = np.stack([rng.random(300) < np.clip(easy + shift, 0, 1) for shift in (-0.2, 0, 0, 0.1, 0.2)])
    other = np.stack([rng.random(300) < easy for _ in range(2)])
    one, two = system("one", *correct), system("two", *other)
    estimate = accuracy(one)
    assert (estimate.low, estimate.high) == pytest.approx(slow_bootstrap(correct), abs=0.012)
    difference = paired_difference(one, two)
    assert difference.mean == pytest.approx(correct.mean() - other.mean())
    assert (difference.low, difference.high) == pytest.approx(slow_bootstrap(correct, other), abs=0.012)


def test_the_paired_difference_of_one_run_each_is_the_bootstrap_of_the_differences():
    rng = np.random.default_rng(5)
    one = rng.random(400) < 0.6
    two = np.where(rng.random(400) < 0.9, one, ~one)
    difference = paired_difference(system("one", one), system("two", two))
    reference = stats.bootstrap((one * 1.0 - two,), np.mean, method="percentile", rng=6).confidence_interval
    assert (difference.low, difference.high) == pytest.approx(tuple(reference), abs=0.005)
    # Pairing is what makes it this narrow.
    alone = accuracy(system("one", one))
    assert difference.high - difference.low < 0.7 * (alone.high - alone.low)


def test_seeds_are_paired_where_both_have_as_many():
    """Trials of different worth, each better by the same ten questions of a hundred."""
    before = np.arange(100) < np.array([20, 40, 60, 80])[:, None]
    after = before | (np.arange(100) >= 90)
    difference = paired_difference(system("after", *after), system("before", *before))
    assert difference.mean == pytest.approx(0.1)
    assert difference.high - difference.low < 0.15
    shorter = paired_difference(system("after", *after), system("before", *before[:3]))
    assert shorter.high - shorter.low > 0.3


def test_equal_systems_do_not_differ():
    correct = np.random.default_rng(7).random(200) < 0.6
    one, two = system("one", correct), system("two", correct)
    difference = paired_difference(one, two)
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)


def test_one_system_is_better_as_the_other_is_worse(results):
    there, back = paired_difference(results[1], results[0]), paired_difference(results[0], results[1])
    assert there.mean == pytest.approx(-back.mean)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.03)


def test_estimates_are_the_same_every_time(results):
    assert accuracy(results[1]) == accuracy(results[1])
    assert paired_difference(results[1], results[0]) == paired_difference(results[1], results[0])


def test_estimates_are_those_that_the_readme_shows(results):
    """What was computed before question sets were told apart."""
    vote, learned, _ = results
    assert accuracy(learned) == pytest.approx((0.725, 0.5916666666666667, 0.85), abs=1e-12)
    assert paired_difference(learned, vote) == pytest.approx((0.325, 0.1333333333333333, 0.5166666666666666), abs=1e-12)
    assert paired_difference(vote, results[2]) == pytest.approx((-0.15, -0.35, 0.05), abs=1e-12)


def test_means_and_shares():
    one = Outcome(np.array([True, False]), np.array([[10, 4, 2], [30, 8, 4]]), np.array([[1, 2, 3], [1, 2, 0]]), NOBODY)
    two = Outcome(np.array([True, True]), np.array([[20, 0, 0], [20, 0, 2]]), np.array([[1, 0, 0], [0, 0, 0]]), NOBODY)
    result = SystemResult("s", (one, two))
    assert result.correct.tolist() == [[1, 0], [1, 1]]
    assert result.tokens.tolist() == [20, 3, 2]
    assert result.action_shares.tolist() == [0.3, 0.4, 0.3]
    assert system("vote", np.array([True]), acts=False).action_shares is None
    assert result.of_questions(np.array([False, True])).correct.tolist() == [[0], [1]]
    assert result.of_questions(np.array([False, True])).tokens.tolist() == [25, 4, 3]


def test_what_is_written_is_read_back(results, tmp_path):
    path = tmp_path / "results.parquet"
    path.write_text("an older file")
    write_results(path, results, QUESTIONS, SETS)
    assert [file.name for file in tmp_path.iterdir()] == ["results.parquet"]
    read = read_results(path)
    assert [result.system for result in read] == [result.system for result in results]
    assert read_questions(path) == (QUESTIONS, SETS)
    write_results(path, results[1:], QUESTIONS, SETS)
    assert read_questions(path) == (QUESTIONS, SETS)
    for result, again in zip(results, read, strict=True):
        assert len(again.outcomes) == len(result.outcomes)
        for expected, got in zip(result.outcomes, again.outcomes, strict=True):
            assert all((a == b).all() for a, b in zip(expected, got, strict=True))


def test_the_file_has_a_row_for_every_system_seed_and_question(results, tmp_path):
    path = tmp_path / "results.parquet"
    write_results(path, results, QUESTIONS, SETS)
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 5 * 40
    row = next(row for row in rows if (row["system"], row["seed"], row["question"]) == ("learned", 2, "q7"))
    expected = results[1].outcomes[2]
    assert row["set"] == SETS[7]
    assert row["correct"] == expected.correct[7]
    assert [row["prompt_tokens"], row["cached_tokens"], row["generated_tokens"]] == expected.tokens[7].tolist()
    assert [row["persist"], row["refine"], row["concede"]] == expected.actions[7].tolist()


def test_the_table_is_a_function_of_the_file(results, tmp_path):
    path = tmp_path / "results.parquet"
    write_results(path, results, QUESTIONS, SETS)
    learned = {"learned": "ours"}
    assert render(read_results(path), learned) == render(results, learned)


def test_the_table_says_what_the_results_say(results):
    lines = render(results, {"learned": "ours"}).splitlines()
    assert "40 held-out questions, 3 seeds" in lines[0]
    vote, ours, rule = (next(line for line in lines if name in line) for name in ("vote", "learned ", "a rule"))
    for result, line in zip(results, (vote, ours, rule), strict=True):
        estimate = accuracy(result)
        assert short(f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]") in line
    difference = paired_difference(results[1], results[0])
    assert short(f"{difference.mean:+.3f} [{difference.low:.3f}, {difference.high:.3f}]") in vote
    assert vote.count("[") == rule.count("[") == 2
    assert ours.count("[") == 1  # no difference to itself
    assert "170 (136)" in ours
    shares = results[1].action_shares * 100
    assert f"{shares[0]:.0f}/{shares[1]:.0f}/{shares[2]:.0f}" in ours
    assert "/" not in vote


def test_perfect_and_hopeless_systems_are_shown_in_full():
    results = [system("all", np.ones(10, bool)), system("none", np.zeros(10, bool))]
    text = render(results, {"all": "ours"})
    assert "1.000 [1.000, 1.000]" in text
    assert ".000 [.000, .000]" in text
    assert "+1.000 [1.000, 1.000]" in text


def test_a_narrow_terminal_loses_no_number(results):
    wide, narrow = (render(results, {"learned": "ours"}, width) for width in (200, 80))
    assert max(map(len, narrow.splitlines())) <= 80
    numbers = re.compile(r"[+-]?\d*\.\d{3}")
    assert sorted(numbers.findall(narrow)) == sorted(numbers.findall(wide)) != []
    assert "…" not in narrow


def short(numbers: str) -> str:
    return numbers.replace("0.", ".")


def test_files_without_results_are_named(tmp_path):
    missing, text, other = (tmp_path / name for name in ("missing", "text", "other"))
    text.write_text("no parquet")
    pq.write_table(pa.table({"a": [1]}), other)
    for read in (read_results, read_questions):
        for path in (text, other):
            with pytest.raises(DataError, match=f"{path} holds no results"):
                read(path)
        with pytest.raises(DataError, match=f"{missing} is not there; .*evaluate --config {tmp_path}/config.yaml"):
            read(missing)


def test_damaged_numbers_are_found_out(results, tmp_path):
    path = tmp_path / "results.parquet"
    write_results(path, results, QUESTIONS, SETS)
    contents = path.read_bytes()
    columns = {column.path_in_schema: column for column in map(pq.read_metadata(path).row_group(0).column, range(12))}
    for name in ("correct", "seed", "set", "generated_tokens", "refine"):
        column = columns[name]
        # The last bytes of a column are its values, or which of its dictionary's they are.
        last = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1
        path.write_bytes(contents[:last] + bytes([contents[last] ^ 1]) + contents[last + 1 :])
        with pytest.raises(DataError, match="holds no results"):
            read_results(path)

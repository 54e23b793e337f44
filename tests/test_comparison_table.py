import csv
import io
import re

import numpy as np
import pytest
from result_fixtures import outcome, system
from rich.console import Console
from scipy import stats

from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.comparison.rows import Comparison, compared
from mpdf_rllib.comparison.table import as_csv, comparison_table
from mpdf_rllib.results import SystemResult

SIZES = {"small": 50, "large": 150}
ORDER = np.random.default_rng(0).permutation(200)
SETS = np.repeat([*SIZES], [*SIZES.values()])[ORDER].tolist()
IS_SMALL = np.array(SETS) == "small"


def right(chance_on_small: float, chance_on_large: float, seed: int, seeds: int = 1) -> np.ndarray:
    chance = np.where(IS_SMALL, chance_on_small, chance_on_large)
    return np.random.default_rng(seed).random((seeds, 200)) < chance


def with_tokens(name: str, correct: np.ndarray, seed: int) -> SystemResult:
    tokens = np.random.default_rng(seed).integers(1, 1000, (len(correct), 200, 3))
    outcomes = (outcome(row)._replace(tokens=tokens[i]) for i, row in enumerate(correct))
    return SystemResult(name, tuple(outcomes))


def failing(result: SystemResult, *questions: int) -> SystemResult:
    """The system, which in its first seed could not go on with some questions."""
    first, *others = result.outcomes
    failed = np.isin(np.arange(200), questions)
    return SystemResult(result.system, (first._replace(correct=first.correct & ~failed, failed=failed), *others))


@pytest.fixture(scope="module")
def results() -> list[SystemResult]:
    return [
        with_tokens("vote", right(0.3, 0.3, 1), 1),
        with_tokens("ours", right(0.8, 0.6, 2, seeds=3), 2),
        with_tokens("warm start", right(0.78, 0.6, 3, seeds=3), 3),
        with_tokens("oracle", right(0.95, 0.9, 4), 4),
    ]


@pytest.fixture(scope="module")
def comparison(results) -> Comparison:
    return compared(results, SETS, "ours")


def printed(comparison: Comparison, width: int = 250) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(comparison_table(comparison))
    return console.file.getvalue()


def test_means_are_those_of_the_sets(results, comparison):
    assert comparison.questions == {name: SIZES[name] for name in dict.fromkeys(SETS)}
    for result, row in zip(results, comparison.rows, strict=True):
        assert (row.system, row.seeds) == (result.system, len(result.outcomes))
        small, large = result.correct[:, IS_SMALL].mean(), result.correct[:, ~IS_SMALL].mean()
        assert row.sets["small"].accuracy.mean == pytest.approx(small)
        assert row.sets["large"].accuracy.mean == pytest.approx(large)
        assert row.mean.accuracy.mean == pytest.approx((small + large) / 2)
        tokens = np.mean([outcome.tokens for outcome in result.outcomes], 0)
        small, large = tokens[IS_SMALL].mean(0), tokens[~IS_SMALL].mean(0)
        assert row.sets["small"].tokens == pytest.approx(small)
        assert row.mean.tokens == pytest.approx((small + large) / 2)


def test_intervals_are_the_bootstraps_within_the_sets(results, comparison):
    def mean(small: np.ndarray, large: np.ndarray, axis: int) -> np.ndarray:
        return (small.mean(axis) + large.mean(axis)) / 2

    oracle = results[3].correct[0]
    reference = stats.bootstrap((oracle[IS_SMALL], oracle[~IS_SMALL]), mean, method="percentile", rng=0)
    assert comparison.rows[3].mean.accuracy[1:] == pytest.approx(tuple(reference.confidence_interval), abs=0.006)
    reference = stats.bootstrap((oracle[~IS_SMALL],), np.mean, method="percentile", rng=0)
    found = comparison.rows[3].sets["large"].accuracy[1:]
    assert found == pytest.approx(tuple(reference.confidence_interval), abs=0.008)


def test_differences_are_the_bootstraps_of_paired_questions():
    one = right(0.7, 0.6, 5)
    two = np.where(right(0.85, 0.9, 6), one, ~one)
    row = compared([system("one", *one), system("two", *two)], SETS, "one").rows[1]
    differences = (one * 1.0 - two)[0]

    def mean(small: np.ndarray, large: np.ndarray, axis: int) -> np.ndarray:
        return (small.mean(axis) + large.mean(axis)) / 2

    small, large = differences[IS_SMALL], differences[~IS_SMALL]
    assert row.mean.difference.mean == pytest.approx((small.mean() + large.mean()) / 2)
    reference = stats.bootstrap((small, large), mean, method="percentile", rng=0)
    assert row.mean.difference[1:] == pytest.approx(tuple(reference.confidence_interval), abs=0.006)
    reference = stats.bootstrap((small,), np.mean, method="percentile", rng=0)
    assert row.sets["small"].difference[1:] == pytest.approx(tuple(reference.confidence_interval), abs=0.021)
    z = row.mean.difference.mean / (np.sqrt(small.var() / 50 + large.var() / 150) / 2)
    assert row.p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.15)


def test_seeds_are_paired_where_both_have_as_many():
    """Trials of different worth, each better by the same twenty questions of two hundred."""
    before = np.arange(200) < np.array([40, 80, 120, 160])[:, None]
    after = before | (np.arange(200) >= 180)
    result = compared([system("after", *after), system("before", *before), system("some", *before[:3])], SETS, "after")
    paired, unpaired = (row.mean.difference for row in result.rows[1:])
    assert paired.high - paired.low < 0.15
    assert unpaired.high - unpaired.low > 0.3


def test_the_reference_system_does_not_differ_from_itself(comparison):
    row = comparison.rows[1]
    assert comparison.reference is row
    assert row.mean.difference == row.sets["small"].difference == (0, 0, 0)
    assert (row.p, row.p_holm) == (1, 1)


def test_p_is_corrected_for_all_other_rows(comparison):
    vote, _, warm, oracle = comparison.rows
    assert vote.p == oracle.p == pytest.approx(2 / 10001)
    assert warm.p > 0.05
    assert vote.p_holm == oracle.p_holm == pytest.approx(3 * vote.p)
    assert warm.p_holm == warm.p
    assert vote.mean.difference.low > 0 > oracle.mean.difference.high


def test_thirty_rows_can_all_differ():
    worse = [system(f"rule {i}", *right(0.3, 0.3, i)) for i in range(29)]
    rows = compared([*worse, system("ours", *right(0.9, 0.9, 30))], SETS, "ours").rows
    assert max(row.p_holm for row in rows[:-1]) < 0.01


def test_the_csv_has_all_numbers(comparison):
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert [(row["system"], row["set"]) for row in rows] == [
        (row.system, name) for row in comparison.rows for name in (*comparison.questions, "mean")
    ]
    by_name = {(row["system"], row["set"]): row for row in rows}
    for row in comparison.rows:
        for name, cell in (row.sets | {"mean": row.mean}).items():
            line = by_name[row.system, name]
            assert tuple(float(line[key]) for key in ("accuracy", "low", "high")) == cell.accuracy
            keys = ("difference", "difference_low", "difference_high")
            assert tuple(float(line[key]) for key in keys) == cell.difference
            keys = ("prompt_tokens", "cached_tokens", "generated_tokens")
            assert tuple(float(line[key]) for key in keys) == cell.tokens
            assert [int(line["questions"]), int(line["seeds"])] == [SIZES.get(name, 200), row.seeds]
            p = [row.p, row.p_holm] if name == "mean" else ["", ""]
            assert [line["p"] and float(line["p"]), line["p_holm"] and float(line["p_holm"])] == p


def shortened(number: float, form: str = ".3f") -> str:
    return format(number, form).replace("0.", ".", 1)


def test_the_printed_table_says_what_the_comparison_says(comparison):
    lines = printed(comparison).splitlines()
    title = " ".join(" ".join(lines).split())
    assert "150 large" in title
    assert "50 small" in title
    assert "3 seeds of ours" in title
    assert "Holm-corrected for 3 rows" in title
    assert "10000 bootstrap" in title
    for row in comparison.rows:
        at = next(i for i, line in enumerate(lines) if line.startswith(f" {row.system} "))
        for cell in (*row.sets.values(), row.mean):
            mean, low, high = map(shortened, cell.accuracy)
            assert f"{mean} [{low}, {high}]" in lines[at]
            prompt, cached, generated = cell.tokens
            assert f"{prompt:.0f} ({cached:.0f}) + {generated:.0f}" in lines[at + 1]
        if row is comparison.reference:
            assert lines[at].count("[") == 3
        else:
            mean, low, high = row.mean.difference
            assert f"{shortened(mean, '+.3f')} [{shortened(low)}, {shortened(high)}]" in lines[at]
            assert shortened(row.p_holm, ".4f") in lines[at]


def test_one_set_is_its_own_mean(results):
    table = comparison_table(compared(results, ["gsm8k"] * 200, "ours"))
    assert table.header == ["system", "gsm8k", "ours − row", "p (Holm)"]
    assert "200 gsm8k" in table.title
    assert "mean" not in table.title


def test_failures_are_wrong_and_counted_apart(results):
    assert comparison_table(compared(results, SETS, "ours")).header[-1] != "failed"
    small = np.flatnonzero(IS_SMALL)
    comparison = compared([*results[:2], failing(results[2], 0, 1, *small[:10])], SETS, "ours")
    row, cleared = comparison.rows[2], compared(results, SETS, "ours").rows[2]
    expected = len({0, 1, *small[:10].tolist()})
    assert row.mean.failed == sum(cell.failed for cell in row.sets.values()) == expected
    assert row.sets["small"].failed == len({*small[:10].tolist()} | ({0, 1} & {*small.tolist()}))
    assert row.mean.accuracy.mean < cleared.mean.accuracy.mean
    table = comparison_table(comparison)
    assert table.header[-1] == "failed"
    assert [line[-1] for line in table.rows] == ["0 of 200", "0 of 600", f"{expected} of 600"]
    lines = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert [int(line["failed"]) for line in lines if line["set"] == "mean"] == [0, 0, expected]


def test_a_narrow_terminal_loses_no_number(comparison):
    numbers = re.compile(r"[+-]?\d*\.\d{3,4}")
    wide, narrow = (printed(comparison, width).split("replicates", 1)[1] for width in (250, 80))
    assert max(map(len, narrow.splitlines())) <= 80
    assert sorted(numbers.findall(narrow)) == sorted(numbers.findall(wide)) != []
    assert "…" not in narrow


def test_the_markdown_has_a_row_a_system_and_two_lines_a_cell(comparison):
    title, blank, *table = comparison_table(comparison).markdown().splitlines()
    assert title.startswith("Questions: ")
    assert not blank
    columns = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert columns[0] == ["system", *comparison.questions, "mean", "ours − row", "p (Holm)"]
    assert all(set(cell) == {"-"} for cell in columns[1])
    assert [line[0] for line in columns[2:]] == ["vote", "ours", "warm start", "oracle"]
    for line, printed_line in zip(columns[2:], comparison_table(comparison).rows, strict=True):
        assert line == [cell.replace("\n", "<br>") for cell in printed_line]
        assert all(cell.count("<br>") == 1 for cell in line[1:4])


def test_names_are_neither_markup_nor_columns():
    names = ["[bold]a[/bold]", "b|c", "<script>"]
    outcomes = (Outcome(np.ones(200, bool), np.ones((200, 3), int), np.zeros((200, 3), int), np.zeros(200, bool)),)
    comparison = compared([SystemResult(name, outcomes) for name in names], ["[red]set"] * 200, names[0])
    text, markdown = printed(comparison), comparison_table(comparison).markdown()
    assert [text.count(name) for name in names] == [3, 1, 1]  # the first also in the title and as a column
    assert text.count("[red]set") == 2
    assert "&lt;script&gt;" in markdown
    assert "<script>" not in markdown
    assert r"| b\|c |" in markdown

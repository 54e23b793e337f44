import io
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from result_fixtures import system
from rich.console import Console

from mpdf_rllib.comparison.frontier import Point, frontier_figure, frontier_table, on_front
from mpdf_rllib.comparison.rows import Row, compared

CURVES = {"votes": ["vote of 3", "vote of 5"], "ours by price": ["ours", "ours, cheap", "vote of 3"]}


@pytest.fixture(scope="module")
def rows() -> tuple[Row, ...]:
    rng = np.random.default_rng(0)
    chances = {"vote of 5": 0.6, "ours": 0.75, "ours, cheap": 0.7, "vote of 3": 0.55, "one": 0.5, "<script>": 0.4}
    tokens = {"vote of 5": 50, "ours": 30, "ours, cheap": 20, "vote of 3": 35, "one": 10, "<script>": 90}
    results = [system(name, rng.random(100) < chance, tokens=tokens[name]) for name, chance in chances.items()]
    return compared(results, ["small"] * 30 + ["large"] * 70, "ours").rows


@pytest.fixture(scope="module")
def points(rows) -> list[Point]:
    return [Point(row.system, row.mean.accuracy, row.mean.tokens) for row in rows]


@pytest.fixture(scope="module")
def figure(points) -> dict:
    """The traces and the layout that are drawn."""
    return json.loads(frontier_figure(points, CURVES).to_json())


few = st.sampled_from([0.0, 1.0, 2.0]) | st.floats(0, 3)


@given(st.lists(st.tuples(few, few), min_size=1, max_size=12))
def test_the_front_is_what_no_system_beats(systems):
    front = on_front(*np.array(systems).T)
    for (tokens, accuracy), marked in zip(systems, front, strict=True):
        beaten = False
        for other_tokens, other_accuracy in systems:
            more_accurate = other_accuracy > accuracy and other_tokens <= tokens
            cheaper = other_accuracy == accuracy and other_tokens < tokens
            beaten = beaten or more_accurate or cheaper
        assert marked == (not beaten)
    on_it = sorted(point for point, marked in zip(systems, front, strict=True) if marked)
    assert all(one == two or (one[0] < two[0] and one[1] < two[1]) for one, two in pairwise(on_it))


def test_the_table_is_sorted_by_tokens_and_marks_the_front(rows, points):
    table = frontier_table(points)
    assert [line[0] for line in table.rows] == ["one", "ours, cheap", "ours", "vote of 3", "vote of 5", "<script>"]
    marks = {line[0]: line[-1] for line in table.rows}
    assert marks["one"] and marks["ours, cheap"] and marks["ours"]
    assert not (marks["vote of 3"] or marks["vote of 5"] or marks["<script>"])
    assert table.rows[0][1:3] == ["110", "10"]
    by_name = {row.system: row for row in rows}
    mean, low, high = by_name["ours"].mean.accuracy
    assert table.rows[2][3] == f"{mean:.3f} [{low:.3f}, {high:.3f}]".replace("0.", ".")
    console = Console(file=io.StringIO(), width=150)
    console.print(table)
    assert all(row.system in console.file.getvalue() for row in rows)


def test_every_system_is_a_point_with_its_interval(rows, figure):
    traces = figure["data"]
    names = ["votes", "ours by price", "one", "&lt;script&gt;"]
    assert [trace["name"] for trace in traces] == names
    by_name = {row.system: row for row in rows}
    drawn = [*CURVES.values(), ["one"], ["<script>"]]
    assert {name for points in drawn for name in points} == set(by_name)
    for trace, systems in zip(traces, drawn, strict=True):
        assert "lines" in trace["mode"] and "markers" in trace["mode"]
        for i, row in enumerate(by_name[name] for name in systems):
            mean, low, high = row.mean.accuracy
            prompt, cached, generated = row.mean.tokens
            assert trace["x"][i] == pytest.approx(prompt + generated)
            assert trace["y"][i] == pytest.approx(mean)
            assert trace["y"][i] + trace["error_y"]["array"][i] == pytest.approx(high)
            assert trace["y"][i] - trace["error_y"]["arrayminus"][i] == pytest.approx(low)
            hover = trace["hovertext"][i]
            assert hover.startswith(row.system.replace("<", "&lt;").replace(">", "&gt;") + "<br>")
            assert f"{mean:.3f}".removeprefix("0") in hover
            assert f"{prompt:.0f} prompt tokens ({cached:.0f} cached), {generated:.0f} generated" in hover


def test_the_axis_can_be_chosen(rows, figure):
    both, generated = figure["layout"]["meta"]["axes"].values()
    assert both == [trace["x"] for trace in figure["data"]]
    by_name = {row.system: row for row in rows}
    assert generated[0] == [by_name[name].mean.tokens[2] for name in CURVES["votes"]]
    assert figure["layout"]["xaxis"]["title"]["text"] == "prompt + generated tokens a question"

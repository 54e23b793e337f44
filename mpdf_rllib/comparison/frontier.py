"""Accuracy against tokens: which systems are worth theirs, as a table and as a figure."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain

import numpy as np
from plotly import colors
from plotly import graph_objects as go

from mpdf_rllib.comparison.rows import Row
from mpdf_rllib.comparison.text_table import TextTable
from mpdf_rllib.results import shown


def on_front(tokens: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """The Pareto front, bool, shape (systems,).

    A system is on it where none is more accurate for as many tokens or fewer, or as accurate for fewer.

    Args:
        tokens: A question, shape (systems,).
        accuracy: shape (systems,).
    """
    no_worse = (tokens[:, None] <= tokens) & (accuracy[:, None] >= accuracy)
    better = (tokens[:, None] < tokens) | (accuracy[:, None] > accuracy)
    return ~np.any(no_worse & better, axis=0)


def frontier_table(rows: Sequence[Row]) -> TextTable:
    """The systems by their tokens, with a mark for those on the front."""
    rows = sorted(rows, key=lambda row: (_total(row), -row.mean.accuracy.mean))
    front = on_front(np.array([_total(row) for row in rows]), np.array([row.mean.accuracy.mean for row in rows]))
    title = (
        "Accuracy with 95 % bootstrap intervals against tokens a question, means over the sets; front: no system is "
        "more accurate for as many tokens (prompt + generated) or fewer, or as accurate for fewer"
    )
    lines = [
        [row.system, f"{_total(row):.0f}", f"{_generated(row):.0f}", shown(row.mean.accuracy), "✓" if marked else ""]
        for row, marked in zip(rows, front, strict=True)
    ]
    return TextTable(title, ["system", "prompt + generated", "generated", "accuracy", "front"], lines)


def frontier_figure(rows: Sequence[Row], curves: Mapping[str, Sequence[str]]) -> str:
    """Accuracy over tokens, as a page that needs no network: a point with its interval for every system.

    Which tokens are on the axis is chosen in the page.

    Args:
        rows: The systems.
        curves: By the curve's name, the systems that it joins, in its order.
    """
    of_system = {row.system: row for row in rows}
    on_curves = set(chain.from_iterable(curves.values()))
    drawn = [(name, [of_system[system] for system in systems]) for name, systems in curves.items()]
    drawn += [(row.system, [row]) for row in rows if row.system not in on_curves]
    axes = {
        label: [[tokens(row) for row in points] for _, points in drawn]
        for label, tokens in (("prompt + generated tokens", _total), ("generated tokens", _generated))
    }
    buttons = [
        {"label": label, "method": "update", "args": [{"x": x}, {"xaxis.title.text": f"{label} a question"}]}
        for label, x in axes.items()
    ]
    label, x = next(iter(axes.items()))
    figure = go.Figure(
        [_trace(name, points, tokens) for (name, points), tokens in zip(drawn, x, strict=True)],
        go.Layout(
            title="Accuracy against tokens, with 95 % bootstrap intervals",
            colorway=colors.qualitative.Dark24,
            xaxis={"type": "log", "title": f"{label} a question"},
            yaxis={"title": "accuracy, mean over the question sets"},
            updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.1}],
        ),
    )
    return figure.to_html(div_id="frontier")


def _trace(name: str, points: Sequence[Row], tokens: Sequence[float]) -> go.Scatter:
    accuracies = [row.mean.accuracy for row in points]
    return go.Scatter(
        name=escape(name),
        x=tokens,
        y=[accuracy.mean for accuracy in accuracies],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [accuracy.high - accuracy.mean for accuracy in accuracies],
            "arrayminus": [accuracy.mean - accuracy.low for accuracy in accuracies],
            "thickness": 1,
        },
        mode="lines+markers",
        hovertext=[_hover(row) for row in points],
        hoverinfo="text",
    )


def _hover(row: Row) -> str:
    prompt, cached, generated = row.mean.tokens
    tokens = f"{prompt:.0f} prompt tokens ({cached:.0f} cached), {generated:.0f} generated"
    return f"{escape(row.system)}<br>{shown(row.mean.accuracy)}<br>{tokens}"


def _total(row: Row) -> float:
    prompt, _, generated = row.mean.tokens
    return prompt + generated


def _generated(row: Row) -> float:
    return row.mean.tokens[2]

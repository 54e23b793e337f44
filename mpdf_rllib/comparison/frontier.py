"""Accuracy against tokens: which systems are worth theirs, as a table and as a figure."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import chain
from typing import NamedTuple

import numpy as np
from plotly import colors
from plotly import graph_objects as go

from mpdf_rllib.bootstrap import Estimate
from mpdf_rllib.results import shown
from mpdf_rllib.text_table import TextTable


class Point(NamedTuple):
    """What a system comes to: its accuracy, and its tokens a question: prompt, of which cached, generated."""

    system: str
    accuracy: Estimate
    tokens: tuple[float, float, float]

    @property
    def total(self) -> float:
        """Prompt and generated tokens a question."""
        return self.tokens[0] + self.tokens[2]


AXES: dict[str, Callable[[Point], float]] = {
    "prompt + generated tokens": lambda point: point.total,
    "generated tokens": lambda point: point.tokens[2],
}
"""By name, which tokens accuracy is drawn over."""


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


def frontier_table(points: Sequence[Point]) -> TextTable:
    """The systems by their tokens, with a mark for those on the front."""
    points = sorted(points, key=lambda point: (point.total, -point.accuracy.mean))
    front = on_front(np.array([point.total for point in points]), np.array([point.accuracy.mean for point in points]))
    title = (
        "Accuracy with 95 % bootstrap intervals against tokens a question, means over the sets; front: no system is "
        "more accurate for as many tokens (prompt + generated) or fewer, or as accurate for fewer"
    )
    lines = [
        [point.system, f"{point.total:.0f}", f"{point.tokens[2]:.0f}", shown(point.accuracy), "✓" if marked else ""]
        for point, marked in zip(points, front, strict=True)
    ]
    return TextTable(title, ["system", "prompt + generated", "generated", "accuracy", "front"], lines)


def frontier_figure(points: Sequence[Point], curves: Mapping[str, Sequence[str]]) -> go.Figure:
    """Accuracy over tokens: a point with its interval for every system; `layout.meta.axes` has each of `AXES`.

    Args:
        points: The systems.
        curves: By the curve's name, the systems that it joins, in its order.
    """
    of_system = {point.system: point for point in points}
    on_curves = set(chain.from_iterable(curves.values()))
    drawn = [(name, [of_system[system] for system in systems]) for name, systems in curves.items()]
    drawn += [(point.system, [point]) for point in points if point.system not in on_curves]
    axes = {name: [[tokens(point) for point in on_line] for _, on_line in drawn] for name, tokens in AXES.items()}
    shown_first = next(iter(AXES))
    return go.Figure(
        [_trace(name, on_line, tokens) for (name, on_line), tokens in zip(drawn, axes[shown_first], strict=True)],
        go.Layout(
            title="Accuracy against tokens, with 95 % bootstrap intervals",
            colorway=colors.qualitative.Dark24,
            xaxis={"type": "log", "title": f"{shown_first} a question"},
            yaxis={"title": "accuracy"},
            meta={"axes": axes},
        ),
    )


def _trace(name: str, points: Sequence[Point], tokens: Sequence[float]) -> go.Scatter:
    accuracies = [point.accuracy for point in points]
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
        hovertext=[_hover(point) for point in points],
        hoverinfo="text",
    )


def _hover(point: Point) -> str:
    prompt, cached, generated = point.tokens
    tokens = f"{prompt:.0f} prompt tokens ({cached:.0f} cached), {generated:.0f} generated"
    return f"{escape(point.system)}<br>{shown(point.accuracy)}<br>{tokens}"

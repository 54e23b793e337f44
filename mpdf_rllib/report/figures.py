"""The report's plots."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np
from plotly import colors
from plotly import graph_objects as go

from mpdf_rllib.bootstrap import REPLICATES
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.report.curves import METRICS, Curve

COLOURS = colors.qualitative.Plotly
DASHES = ("solid", "dash", "dot", "dashdot")
"""Of lines beyond the first ten, which have their colours."""
BINS = 10
"""Of a feature's range, in a reliability diagram."""
_OF_CONFIDENCE = (
    "critic_correct",
    "mean_probability",
    "min_probability",
    "answer_probability",
    "peer_probability",
    "reported_confidence",
)


def learning_curves(curves: Sequence[Curve]) -> Iterator[go.Figure]:
    """A plot a metric: a line a setting, the mean of its seeds, in a band from the lowest to the highest."""
    for title in METRICS:
        lines = {curve.setting: (curve.iterations, curve.metrics[title]) for curve in curves}
        if any(np.isfinite(values).any() for _, values in lines.values()):
            yield _lines(title, lines)


def action_shares(curve: Curve) -> Iterator[go.Figure]:
    """A plot a round of a setting's shares of Persist, Refine and Concede."""
    rounds = next(iter(curve.shares.values())).shape[-1] if curve.shares else 0
    for number in range(rounds):
        lines = {action: (curve.iterations, shares[..., number]) for action, shares in curve.shares.items()}
        figure = _lines(f"shares of actions in round {number + 1}", lines)
        yield figure.update_yaxes(range=[0, 1])


def reliability(tree: SolutionTree) -> go.Figure:
    """How often solutions are right, by what each confidence feature says of them.

    Solutions are put into `BINS` of equal width; intervals are 95 % bootstrap intervals over questions, of which
    one alone has none. ECE, the expected calibration error, is the mean distance to the diagonal over all solutions.
    """
    figure = go.Figure(
        [go.Scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"dash": "dot", "color": "gray"})],
        _layout("Reliability: share of right solutions by confidence", "what the feature says", "share right"),
    )
    weights = np.random.default_rng(0).multinomial(
        len(tree.questions), np.full(len(tree.questions), 1 / len(tree.questions)), REPLICATES
    )
    of_name = {feature.name: tree.features[..., index] for index, feature in enumerate(tree.table)}
    for name in _OF_CONFIDENCE:
        values = of_name.get(name, np.zeros(1))
        said = of_name["reported"] > 0 if name == "reported_confidence" and name in of_name else tree.present
        if values.min() < values.max():
            figure.add_trace(_reliability(name, values, said, tree.correct, weights))
    return figure.update_xaxes(range=[0, 1]).update_yaxes(range=[0, 1])


def _reliability(
    name: str, values: np.ndarray, said: np.ndarray, correct: np.ndarray, weights: np.ndarray
) -> go.Scatter:
    """Of values, whether there are any, and correctness, shape (Q, M), with the replicates' weights, shape (R, Q)."""
    bins = (np.minimum((values * BINS).astype(int), BINS - 1)[..., None] == np.arange(BINS)) & said[..., None]
    number, right = bins.sum(1), (bins & correct[..., None]).sum(1)
    filled = number.sum(0) > 0
    total, means = number.sum(0)[filled], (bins * values[..., None]).sum((0, 1))[filled] / number.sum(0)[filled]
    share = right.sum(0)[filled] / total
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile((weights @ right)[:, filled] / (weights @ number)[:, filled], (0.025, 0.975), axis=0)
    low, high = (np.where((number > 0).sum(0)[filled] > 1, end, np.nan) for end in (low, high))
    error = (total * np.abs(share - means)).sum() / total.sum()
    return go.Scatter(
        name=f"{name} (ECE {error:.3f})",
        x=means,
        y=share,
        error_y={"type": "data", "symmetric": False, "array": high - share, "arrayminus": share - low, "thickness": 1},
        mode="lines+markers",
        hovertext=[
            f"{name} {mean:.3f}: {part:.3f} of {n} right" for mean, part, n in zip(means, share, total, strict=True)
        ],
        hoverinfo="text",
    )


def _lines(title: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> go.Figure:
    """Lines with bands, by name: iterations, shape (I,), and values, shape (seeds, I), of which some may be NaN."""
    figure = go.Figure(layout=_layout(title, "iteration", None))
    for number, (name, (x, values)) in enumerate(lines.items()):
        some = np.isfinite(values).any(0)
        if not some.any():
            continue
        x, values = x[some], values[:, some]
        again, which = divmod(number, len(COLOURS))
        colour, dash = COLOURS[which], DASHES[again % len(DASHES)]
        shared = {"x": x, "legendgroup": name, "name": escape(name)}
        edge = shared | {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
        if len(values) > 1:
            figure.add_scatter(y=np.nanmin(values, 0), **edge)
            band = "rgba({}, {}, {}, 0.2)".format(*colors.hex_to_rgb(colour))
            figure.add_scatter(y=np.nanmax(values, 0), fill="tonexty", fillcolor=band, **edge)
        figure.add_scatter(
            y=np.nanmean(values, 0), mode="lines+markers", line={"color": colour, "dash": dash}, **shared
        )
    return figure


def _layout(title: str, x: str, y: str | None) -> go.Layout:
    return go.Layout(
        title=title,
        xaxis={"title": x},
        yaxis={"title": y},
        legend={"orientation": "h", "y": -0.3},
        hoverlabel={"namelength": -1},
    )

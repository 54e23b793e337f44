"""The report as a page."""

import dataclasses
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly import graph_objects as go
from plotly.offline import get_plotlyjs
from ray.tune.utils import flatten_dict

from mpdf_rllib.comparison.frontier import AXES, Point, frontier_figure
from mpdf_rllib.report.curves import Curve
from mpdf_rllib.report.figures import action_shares, learning_curves
from mpdf_rllib.report.runs import Run
from mpdf_rllib.results import shown
from mpdf_rllib.text_table import TextTable

HERE = Path(__file__).parent
UNSET = "(not set)"


def page(runs: Sequence[Run]) -> str:
    """One page of one run, or of several beside each other."""
    names = _names(runs)
    tables = [
        dataclasses.replace(table, title=_named(name, table.title, runs))
        for name, run in zip(names, runs, strict=True)
        for table in run.tables
    ]
    curves = [
        dataclasses.replace(curve, setting=_named(name, curve.setting, runs))
        for name, run in zip(names, runs, strict=True)
        for curve in run.curves
    ]
    if len(runs) > 1:
        tables = [*_side_by_side(names, runs), *tables]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"json": _json, "figure": _figure}
    return environment.get_template("page.html").render(
        title=", ".join(names),
        tables=tables,
        frontier=_frontier(names, runs),
        axes=AXES,
        curves=[*learning_curves(curves)],
        shares=_shares(curves),
        reliability=[
            go.Figure(figure).update_layout(title=escape(_named(name, figure.layout.title.text, runs)))
            for name, run in zip(names, runs, strict=True)
            if (figure := run.reliability)
        ],
        debates=[
            {"index": debates.index | {"name": name}, "questions": debates.questions}
            for name, run in zip(names, runs, strict=True)
            if (debates := run.debates)
        ],
        runs=[
            {
                "name": name,
                "path": run.config.run_path,
                "versions": run.versions,
                "config": run.config.to_yaml(),
                "sets": [*run.config.compare.sets] if len(runs) == 1 and run.joined else [],
            }
            for name, run in zip(names, runs, strict=True)
        ],
        plotly=Markup(get_plotlyjs()),
        js=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
    )


def _names(runs: Sequence[Run]) -> list[str]:
    """The folders' names, or their paths where two are called the same."""
    names = [run.config.run_path.name for run in runs]
    return names if len({*names}) == len(names) else [str(run.config.run_path) for run in runs]


def _named(name: str, what: str, runs: Sequence[Run]) -> str:
    return f"{name}: {what}" if len(runs) > 1 else what


def _shares(curves: Sequence[Curve]) -> list[tuple[str, list[go.Figure]]]:
    return [(curve.setting, [*action_shares(curve)]) for curve in curves if curve.shares]


def _frontier(names: Sequence[str], runs: Sequence[Run]) -> go.Figure | None:
    points: list[Point] = []
    joined: dict[str, list[str]] = {}
    for name, run in zip(names, runs, strict=True):
        points += [point._replace(system=_named(name, point.system, runs)) for point in run.points]
        joined |= {
            _named(name, curve, runs): [_named(name, system, runs) for system in systems]
            for curve, systems in run.joined.items()
        }
    return frontier_figure(points, joined) if points else None


def _side_by_side(names: Sequence[str], runs: Sequence[Run]) -> list[TextTable]:
    """Accuracy of every system in every run, and the keys of the config in which the runs differ."""
    accuracies = [{point.system: shown(point.accuracy) for point in run.points} for run in runs]
    systems = dict.fromkeys(system for of_run in accuracies for system in of_run)
    rows = [[system, *(of_run.get(system, "") for of_run in accuracies)] for system in systems]
    flat = [flatten_dict(run.config.model_dump(mode="json"), delimiter=".") for run in runs]
    keys = dict.fromkeys(key for of_run in flat for key in of_run)
    of_key = {key: [json.dumps(of_run[key]) if key in of_run else UNSET for of_run in flat] for key in keys}
    differing = [[key, *values] for key, values in of_key.items() if len({*values}) > 1]
    return [
        TextTable("Accuracy with 95 % bootstrap intervals, by run", ["system", *names], rows),
        TextTable("In what the runs differ", ["key", *names], differing),
    ]


def _json(value: Any) -> Markup:
    """JSON for a script element: no tag can end it, or begin another."""
    return _inert(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _figure(figure: go.Figure) -> Markup:
    return _inert(figure.update_layout(template="none").to_json())


def _inert(text: str) -> Markup:
    return Markup(text.replace("<", "\\u003c"))

"""What a report shows of a run: read from its folder, and replayed from its recording."""

import csv
from dataclasses import dataclass
from typing import Any

import numpy as np
from plotly import graph_objects as go

from mpdf_rllib import run_folder
from mpdf_rllib.comparison.frontier import Point
from mpdf_rllib.comparison.played import Played, read_played
from mpdf_rllib.comparison.table import comparison_table
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.record import replay
from mpdf_rllib.recorded_trees import RecordedTrees
from mpdf_rllib.report.curves import Curve, read_curves
from mpdf_rllib.report.debates import index_entry, question_values
from mpdf_rllib.report.figures import reliability
from mpdf_rllib.results import CREDIT_LABELS, SystemResult, accuracy, label, read_results, results_table
from mpdf_rllib.text_table import TextTable
from mpdf_rllib.trained_policies import read_policy
from mpdf_rllib.transcript import Transcript, play


@dataclass(frozen=True)
class Debates:
    """The test questions' debates, as values for JSON.

    Attributes:
        index: The policies, the features' names, and what each question is listed by.
        questions: Each with its solutions and walks, in the order of the index.
    """

    index: dict[str, Any]
    questions: list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """A run; what it has not come to is empty.

    Attributes:
        config: Its experiment.
        versions: Of Python and packages.
        curves: Of all settings that were trained.
        tables: Of results.
        points: All systems that were played.
        joined: By name, those of them that a line joins.
        reliability: Of its confidence features.
        debates: Of its policies of seed 0.
    """

    config: ExperimentConfig
    versions: dict[str, str]
    curves: list[Curve]
    tables: list[TextTable]
    points: list[Point]
    joined: dict[str, list[str]]
    reliability: go.Figure | None
    debates: Debates | None


def read_run(config: ExperimentConfig, trees: RecordedTrees | None = None, played: Played | None = None) -> Run:
    """What there is of a run.

    Args:
        config: The experiment.
        trees: All its solutions, where they are there already; replayed by default.
        played: What it was compared with, where it is there already; read by default.

    Raises:
        DataError: A file of the run was damaged, or the recording is not whole.
    """
    path = config.run_path
    played = played or read_played(path / run_folder.COMPARISON)
    if trees is None and (path / run_folder.POLICIES).exists():
        trees = replay(config)
    tables, points, joined = [], [], {}
    if (path / run_folder.SWEEP).exists():
        tables.append(_sweep_table(config))
    if (path / run_folder.RESULTS).exists():
        results = read_results(path / run_folder.RESULTS)
        tables.append(results_table(results, {label(kind): CREDIT_LABELS[kind] for kind in config.algorithm.credits}))
        points = [_point(result) for result in results]
    if played:
        tables.append(comparison_table(played.comparison))
        compared = {point.system for point in played.points}
        others = [] if config.compare.sets else [point for point in points if point.system not in compared]
        points = [*played.points, *others]
        joined = played.joined_points
    return Run(
        config,
        run_folder.read_versions(path),
        read_curves(path),
        tables,
        points,
        joined,
        reliability(trees.test) if trees else None,
        _debates(config, trees.test) if trees else None,
    )


def _sweep_table(config: ExperimentConfig) -> TextTable:
    with (config.run_path / run_folder.SWEEP).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    shown = [[_short_number(cell) for cell in row] for row in rows]
    return TextTable("Settings on held-out training questions, the best first", header, shown)


def _short_number(cell: str) -> str:
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell


def _point(result: SystemResult) -> Point:
    prompt, cached, generated = result.tokens.tolist()
    return Point(result.system, accuracy(result), (prompt, cached, generated))


def _debates(config: ExperimentConfig, tree: SolutionTree) -> Debates:
    kinds = sorted(run_folder.read_checkpoints(config.run_path), key=[*CREDIT_LABELS].index)
    of_policies = []
    for kind in kinds:
        debates = DebateBatch(tree, lambda wanted: None, config.team.rules)
        debates.reset(np.arange(len(tree.questions)))
        began = debates.correct.tolist()
        disagree = (np.ptp(debates.answers.answer_class, axis=1) > 0).tolist()
        of_policies.append(play(debates, read_policy(config.run_path, kind)))
    walks: list[tuple[Transcript, ...]] = [*zip(*of_policies, strict=True)]
    index = {
        "policies": [label(kind) for kind in kinds],
        "features": [feature.name for feature in tree.table],
        "questions": [index_entry(*each) for each in zip(walks, began, disagree, strict=True)],
    }
    return Debates(index, [question_values(of_question) for of_question in walks])

"""What each entry of the meta-cognitive state tells of correctness, and what is lost without each part of it."""

from collections.abc import Iterable, Iterator

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from mpdf_rllib import run_folder
from mpdf_rllib.bootstrap import REPLICATES, Estimate
from mpdf_rllib.config import AlgorithmSection, ExperimentConfig
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.features import DEBATE_FEATURES, Feature, entries_of
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.learners import replaying
from mpdf_rllib.policies import play_policies
from mpdf_rllib.recorded_trees import RecordedTrees
from mpdf_rllib.results import SystemResult, accuracy, paired_difference, shown
from mpdf_rllib.trials import run_trials

_EVERYTHING = "everything"
_OF_FIRST_ANSWERS = ("agreement", "is_plurality")
"""Debate features that say something of a solution; they are those of the debate's start."""


def auroc(score: np.ndarray, correct: np.ndarray) -> Estimate | None:
    """How well a score tells right solutions from wrong ones: the chance that of one of each the right one has more.

    Args:
        score: shape (Q, M): of M solutions to each of Q questions.
        correct: bool, shape (Q, M).

    Returns:
        The AUROC with its 95 % bootstrap interval over questions; ties count half. None where all are right, or none.
    """
    if correct.all() or not correct.any():
        return None
    order = np.argsort(score, axis=None, kind="stable")
    question = np.repeat(np.arange(len(score)), score.shape[1])[order]
    right = correct.ravel()[order]
    starts = np.flatnonzero(np.r_[True, np.diff(score.ravel()[order]) > 0])

    def area(weight: np.ndarray) -> float:
        drawn = weight[question]
        rights, wrongs = (np.add.reduceat(drawn * chosen, starts) for chosen in (right, ~right))
        below = np.cumsum(wrongs) - wrongs
        return float((rights * (below + wrongs / 2)).sum() / (rights.sum() * wrongs.sum()))

    draws = np.random.default_rng(0).multinomial(len(score), np.full(len(score), 1 / len(score)), REPLICATES)
    with np.errstate(invalid="ignore"):
        replicates = [area(weight) for weight in draws]
    low, high = np.nanquantile(replicates, (0.025, 0.975))
    return Estimate(area(np.ones(len(score))), float(low), float(high))


def auroc_of_each(tree: SolutionTree) -> Iterator[tuple[Feature, Estimate | None]]:
    """Each entry of z, with its AUROC for correctness over all solutions, or over the first answers."""
    for index, feature in enumerate(tree.table):
        yield feature, auroc(tree.features[..., index], tree.correct)
    debates = DebateBatch(tree, lambda wanted: None)
    debates.reset(np.arange(len(tree.questions)))
    own, correct = debates.observe()["own"], debates.answers.correct
    for index, feature in enumerate(DEBATE_FEATURES, len(tree.table)):
        if feature.name in _OF_FIRST_ANSWERS:
            yield feature, auroc(own[..., index], correct)


def leave_each_out(config: ExperimentConfig, trees: RecordedTrees) -> list[SystemResult]:
    """Trains anew with all of z, and without each of its parts, and plays the held-out questions.

    The trials lie in the run's folder, and go on where they were stopped; the credit is the config's first.

    Raises:
        EngineError: A trial failed.
    """
    kind, credit = next(iter(config.algorithm.credits.items()))
    plain = config.algorithm.model_copy(update={"credits": {kind: credit}})
    settings: dict[str, AlgorithmSection] = {_EVERYTHING: plain}
    table = trees.train.table + DEBATE_FEATURES
    unseen = entries_of(plain.left_out, table)
    for part in parts_of([feature for i, feature in enumerate(table) if i not in unseen]):
        settings[part] = plain.model_copy(update={"left_out": [*plain.left_out, part]})
    own_folder = str(config.run_path / run_folder.ABLATIONS)
    ablations = config.model_copy(update={"run_folder": own_folder, "live": False})
    run_folder.prepare(ablations, fresh=False)
    results = []
    for name, trials in run_trials(ablations, settings, replaying(config, trees.train)).items():
        results.append(SystemResult(name, play_policies(config, trees.test, [t.checkpoint.path for t in trials])))
    return results


def parts_of(table: Iterable[Feature]) -> list[str]:
    """The parts of z, in the order of the table."""
    return list(dict.fromkeys(feature.part for feature in table))


def auroc_table(tree: SolutionTree) -> Group:
    """What each entry of z tells of correctness."""
    title = (
        f"{len(tree.questions)} held-out questions, {tree.correct.size} solutions, {tree.correct.mean():.3f} of them "
        "right; AUROC for correctness with 95 % bootstrap intervals over questions"
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in ("part", "entry", "AUROC"):
        table.add_column(header)
    for feature, estimate in auroc_of_each(tree):
        table.add_row(feature.part, feature.name, "-" if estimate is None else shown(estimate))
    return Group(title, table)


def ablation_table(config: ExperimentConfig, results: list[SystemResult]) -> Group:
    """What the policy loses without each part of z."""
    everything, *others = results
    questions, seeds = everything.correct.shape[::-1]
    title = (
        f"{questions} held-out questions, {seeds} seeds, credit {next(iter(config.algorithm.credits))}; trained anew "
        "without a part of z: accuracy, and what is lost, with 95 % bootstrap intervals over questions and seeds"
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in ("left out", "accuracy", "lost", "generated"):
        table.add_column(header)
    table.add_row("nothing", shown(accuracy(everything)), "", f"{everything.tokens[2]:.0f}")
    for result in others:
        lost = shown(paired_difference(everything, result), "+")
        table.add_row(result.system, shown(accuracy(result)), lost, f"{result.tokens[2]:.0f}")
    return Group(title, table)

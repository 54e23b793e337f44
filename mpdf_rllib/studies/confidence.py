"""How well confidences tell right solutions from wrong ones, and what they cost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mpdf_rllib.baselines.bounds import boosting, fit_calibration
from mpdf_rllib.bootstrap import Estimate
from mpdf_rllib.envs.answer_classes import UNPARSED
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.feature_values import auroc
from mpdf_rllib.recorded_trees import RecordedTrees

_JUDGED = {"critic_correct": "critic", "peer_probability": "likelihood under the others' prompts"}
_REPORTED = {"reported_confidence": "the model's own report"}


@dataclass(frozen=True)
class Confidence:
    """One way to tell how likely solutions are right, on the test questions.

    Attributes:
        name: Of the way.
        of_first: AUROC over the first answers.
        of_all: AUROC over all solutions; None where it is of first answers alone.
        tokens: Of prompts and generated, that a solution and its confidence take.
        generated: Those of them that are generated.
    """

    name: str
    of_first: Estimate | None
    of_all: Estimate | None
    tokens: float
    generated: float


def confidences_of(trees: RecordedTrees) -> list[Confidence]:
    """All ways that there are, those with something to fit fitted to the training questions.

    Where solutions are judged, those alone that their judgement enters, as it is paid for.
    """
    test, roots = trees.test, trees.test.roots
    judged = list(_entries(test, _JUDGED))
    own = [("mean log-probability", test.confidence), *_entries(test, _REPORTED)]
    tokens = (test.tokens[..., 0] + test.tokens[..., 2], test.tokens[..., 2])
    found = [
        Confidence(
            name,
            auroc(score[:, roots], test.correct[:, roots]),
            auroc(score, test.correct),
            *(float(each.mean()) for each in tokens),
        )
        for name, score in [*(judged or own), *_fitted(trees)]
    ]
    if judged:
        return found
    below = _below(test)
    of_chain = [float((each[:, roots] + each @ below).mean()) for each in tokens]
    for name, score in _of_first(trees):
        found.append(Confidence(name, auroc(score, test.correct[:, roots]), None, *of_chain))
    return found


def _entries(tree: SolutionTree, names: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    for index, feature in enumerate(tree.table):
        if feature.name in names and np.ptp(tree.features[..., index]):
            yield names[feature.name], tree.features[..., index]


def _fitted(trees: RecordedTrees) -> Iterator[tuple[str, np.ndarray]]:
    train, test = trees.train, trees.test
    if train.correct.all() or not train.correct.any():
        return
    yield "all of a solution's z, logistic", fit_calibration(train)(test.features)
    with threadpool_limits(1):
        boosted = boosting().fit(_rows(train.features), train.correct.ravel())
        score = boosted.predict_proba(_rows(test.features))[:, 1]
    yield "all of a solution's z, boosted", score.reshape(test.correct.shape)


def _of_first(trees: RecordedTrees) -> Iterator[tuple[str, np.ndarray]]:
    """What is told of a first answer once its refinements are there."""
    agreement = [_agreement(tree) for tree in (trees.train, trees.test)]
    yield "agreement of its refinements", agreement[1]
    train, test = (
        np.concatenate([_rows(tree.features[:, tree.roots]), share.reshape(-1, 1)], -1)
        for tree, share in zip((trees.train, trees.test), agreement, strict=True)
    )
    correct = trees.train.correct[:, trees.train.roots].ravel()
    if correct.all() or not correct.any():
        return
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    score = model.fit(train, correct).predict_proba(test)[:, 1]
    yield "z and the agreement, logistic", score.reshape(agreement[1].shape)


def _agreement(tree: SolutionTree) -> np.ndarray:
    """Of each first answer, the share of the solutions below it that have its answer, shape (Q, R); 0 without one."""
    answers, below = tree.answer_class, _below(tree)
    of_first = answers[:, tree.roots]
    same = (answers[:, :, None] == of_first[:, None]) & (of_first != UNPARSED)[:, None]
    return (same * below).sum(1) / below.sum(0)


def _below(tree: SolutionTree) -> np.ndarray:
    """1 where a node is a refinement below a first answer, shape (M, R)."""
    below = np.zeros((tree.num_nodes, len(tree.roots)))
    place = {root: column for column, root in enumerate(tree.roots.tolist())}
    for node in range(tree.num_nodes):
        first = node
        while (parent := tree.parent(first)) is not None:
            first = parent
        below[node, place[first]] = first != node
    return below


def _rows(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1]).astype(float)

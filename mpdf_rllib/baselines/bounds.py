"""Where some solution is right, which no debate can pass, and what a selector that sees all solutions reaches."""

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from mpdf_rllib.baselines.outcome import Outcome, outcome_of_nodes
from mpdf_rllib.envs.answer_classes import UNPARSED
from mpdf_rllib.envs.credit import Calibration
from mpdf_rllib.envs.solution_tree import SolutionTree

FOLDS = 5
HIGHEST_CONFIDENCE = 7
"""Of the entries of an answer's description."""


def fit_calibration(train: SolutionTree) -> Calibration:
    """Logistic regression of correctness on a solution's features, over all solutions of the training questions."""
    entries = len(train.table)
    features = train.features.reshape(-1, entries).astype(float)
    correct = train.correct.ravel()
    if correct.all() or not correct.any():
        return Calibration((0.0,) * entries, 0.0)
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(features), correct)
    weights = model.coef_[0] / scaler.scale_
    return Calibration(tuple(weights.tolist()), float(model.intercept_[0] - weights @ scaler.mean_))


def boosting() -> HistGradientBoostingClassifier:
    """Trees for some hundreds of questions, to be fitted."""
    return HistGradientBoostingClassifier(max_iter=100, learning_rate=0.05, max_leaf_nodes=8, random_state=0)


def oracle(tree: SolutionTree) -> Outcome:
    """Right where any solution is right, at the tokens of all."""
    return _with_all_nodes(tree, np.any(tree.correct, -1))


def informed_ceiling(train: SolutionTree, test: SolutionTree, calibration: Calibration) -> Outcome:
    """The best cross-fitted selector among the answers that sees the features of all solutions.

    Two learned selectors score every distinct answer of a question from its solutions' features, fitted on the other
    folds of both splits' questions; the third takes the answer of the most confident solution. The one that is best on
    the training questions is taken.
    """
    described = [_describe_answers(tree, calibration) for tree in (train, test)]
    offset = len(train.questions)
    question = np.concatenate([described[0][0], described[1][0] + offset])
    features = np.concatenate([part[1] for part in described])
    right = np.concatenate([part[2] for part in described])
    if len(np.unique(question)) < FOLDS:
        return oracle(test)

    selectors = (
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        boosting(),
    )
    scored = [_cross_fitted(selector, features, right, question) for selector in selectors]
    outcomes = []
    for scores in [*scored, features[:, HIGHEST_CONFIDENCE]]:
        correct = np.zeros(offset + len(test.questions), bool)
        best = np.full(len(correct), -1.0)
        for q, score, is_right in zip(question, scores, right, strict=True):
            if score > best[q]:
                best[q], correct[q] = score, is_right
        outcomes.append(correct)
    chosen = max(outcomes, key=lambda correct: correct[:offset].mean())
    return _with_all_nodes(test, chosen[offset:])


def _cross_fitted(selector, features: np.ndarray, right: np.ndarray, question: np.ndarray) -> np.ndarray:
    scores = np.zeros(len(right))
    with threadpool_limits(1):
        for fitted, held_out in GroupKFold(FOLDS).split(features, right, question):
            if right[fitted].any() and not right[fitted].all():
                model = clone(selector).fit(features[fitted], right[fitted])
                scores[held_out] = model.predict_proba(features[held_out])[:, 1]
    return scores


def _describe_answers(tree: SolutionTree, calibration: Calibration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Question index, features and correctness of every distinct answer of every question."""
    probability = calibration(tree.features)
    rows = []
    for q, classes in enumerate(tree.answer_class):
        for answer in dict.fromkeys(classes[classes != UNPARSED].tolist()):
            gives = classes == answer
            rest = classes[~gives & (classes != UNPARSED)]
            own, confidence = probability[q, gives], tree.confidence[q, gives]
            others = probability[q, ~gives].max(initial=0.0)
            description = [
                gives.mean(),
                gives[tree.depth == 0].mean(),
                len(np.unique(rest)) / tree.num_nodes,
                own.max(),
                own.mean(),
                own.sum() / probability[q].sum(),
                own.max() - others,
                confidence.max(),
                confidence.mean(),
                *tree.features[q, gives].mean(0),
            ]
            best = np.where(gives, tree.confidence[q], -1.0).argmax()
            rows.append((q, description, tree.correct[q, best]))
    features = np.array([description for _, description, _ in rows]).reshape(len(rows), 9 + len(tree.table))
    return np.array([q for q, _, _ in rows], np.int64), features, np.array([right for _, _, right in rows], bool)


def _with_all_nodes(tree: SolutionTree, correct: np.ndarray) -> Outcome:
    return outcome_of_nodes(tree, correct, np.ones(tree.present.shape, bool))

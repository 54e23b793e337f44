"""What a study's arms come to on the test questions."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpdf_rllib.algorithms.meta_policy import greedy
from mpdf_rllib.baselines.bounds import fit_calibration
from mpdf_rllib.baselines.schedules import play
from mpdf_rllib.envs.debate import is_vote_correct
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.recorded_trees import RecordedTrees
from mpdf_rllib.results import SystemResult
from mpdf_rllib.studies.confidence import Confidence, confidences_of
from mpdf_rllib.studies.config import Answer, Arm, Study
from mpdf_rllib.studies.rules import play_rule
from mpdf_rllib.studies.training import jobs_of, read_trained, trees_key
from mpdf_rllib.studies.training_cost import training_tokens


@dataclass(frozen=True)
class PlayedArm:
    """An arm's outcomes.

    Attributes:
        result: On its questions, a row of outcomes a seed.
        questions: Their ids.
        sets: Of each question its source, within which bootstraps draw.
        histories: Of each seed, what it came to after 0, 1, ... iterations; none where nothing is trained, or what is
            played is not what was measured then. See `TrainedPolicy`.
        training_accuracy: On the questions that it was trained on, the mean over seeds; None where nothing is trained.
        training_tokens: Generated tokens a training question that the first iteration of stage two needs; None where no
            stage two is trained, or by outcome credit. See `mpdf_rllib.studies.training_cost`.
        confidences: In its solutions, where the study shows them; see `mpdf_rllib.studies.confidence`.
    """

    result: SystemResult
    questions: Sequence[str]
    sets: Sequence[str]
    histories: Sequence[Sequence[Mapping[str, float]]]
    training_accuracy: float | None = None
    training_tokens: float | None = None
    confidences: Sequence[Confidence] = ()

    def of_set(self, name: str) -> "PlayedArm":
        """The same on the questions of one set."""
        chosen = np.array(self.sets) == name
        questions = [question for question, of_set in zip(self.questions, chosen, strict=True) if of_set]
        return PlayedArm(self.result.of_questions(chosen), questions, [name] * len(questions), self.histories)


def play_study(study: Study, trees: Mapping[str, RecordedTrees]) -> dict[str, PlayedArm]:
    """Plays all arms, whose policies are trained.

    Args:
        study: The study.
        trees: All solutions of what its arms are trained and played on, by `trees_key`.

    Raises:
        DataError: A policy is not trained, or a file was damaged.
    """
    played = {arm.name: _played(arm, trees) for arm in study.arms}
    if study.config.confidences:
        first = {trees_key(arm.played): arm.name for arm in reversed(study.arms) if not arm.config.is_rule}
        for key, name in first.items():
            played[name] = dataclasses.replace(played[name], confidences=confidences_of(trees[key]))
    return played


def _played(arm: Arm, all_trees: Mapping[str, RecordedTrees]) -> PlayedArm:
    # What is set on training questions is set on those of the arm's training.
    learned_from = all_trees[trees_key(arm.trained)].train
    trees = dataclasses.replace(all_trees[trees_key(arm.played)], train=learned_from)
    questions = trees.test.questions
    ids, sets = [question.id for question in questions], [question.source for question in questions]
    trained = [read_trained(job) for job in jobs_of(arm, all_trees)]
    if not trained:
        outcome = play_rule(arm.config.system, trees, arm.played, arm.config.budget or math.inf)
        return PlayedArm(SystemResult(arm.name, (outcome,)), ids, sets, [])
    is_correct = _answering(arm.config.answer, trees)
    at_start = arm.config.system == "warm start"
    policies = [greedy([each.warm_start if at_start else each.policy]) for each in trained]
    outcomes = tuple(play(trees.test, policy, arm.played.team.rules, is_correct) for policy in policies)
    in_training = arm.trained.team.rules._replace(answer=arm.played.team.answer)
    fit = float(np.mean([play(learned_from, policy, in_training, is_correct).accuracy for policy in policies]))
    cost, settings = None, arm.trained.algorithm
    if not at_start and "step" in settings.credits:
        alternatives, rules = arm.config.algorithm in ("SoftRankPO", "GRPO"), arm.trained.team.rules
        asked = [training_tokens(learned_from, t.warm_start, rules, settings.passes, alternatives) for t in trained]
        cost = float(np.mean(asked))
    histories = [each.history for each in trained] if arm.config.has_curve else []
    return PlayedArm(SystemResult(arm.name, outcomes), ids, sets, histories, fit, cost)


def _answering(answer: Answer, trees: RecordedTrees) -> Callable[[DebateBatch], np.ndarray]:
    """Whether the team's answers are right, of debates that are over; calibrated on the training questions."""
    if answer == "team.answer":
        return lambda debates: debates.correct
    calibration = fit_calibration(trees.train)

    def is_correct(debates: DebateBatch) -> np.ndarray:
        probability = calibration(debates.tree.features[debates.question[:, None], debates.node])
        if answer == "highest confidence":
            probability = np.where(probability == probability.max(-1, keepdims=True), probability, 0.0)
        return is_vote_correct(debates.answers, probability)

    return is_correct

"""A solution: a generation parsed into what the debate and the policy need of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpdf_rllib.engine.types import Generation
from mpdf_rllib.envs.features import (
    NUMBERS,
    FeatureTable,
    answer_features,
    as_vector,
    critic_features,
    free_logprobs,
    likelihood_features,
    measured_profile,
    peer_features,
)
from mpdf_rllib.envs.self_report import is_cut_off, read_report, report_features
from mpdf_rllib.questions import Question


@dataclass(frozen=True)
class Solution:
    """One node of a solution tree.

    Attributes:
        text: The model's text.
        answer: Canonical answer, or None where the text holds none.
        correct: Whether it is right; unparsed is wrong.
        confidence: Geometric mean of the token probabilities, in [0, 1], of a report those that its schema did not
            force; where other agents score it, of theirs, too, each agent's with equal weight; 0 where unparsed.
        features: float32, shape (F,): the entries of z that `features.solution_table` names.
        tokens: Tokens of the solution, and of what judged it: prompt, of which cached, generated.
    """

    text: str
    answer: str | None
    correct: bool
    confidence: float
    features: np.ndarray
    tokens: tuple[int, int, int]


def make_solution(
    question: Question,
    generation: Generation,
    max_tokens: int,
    critic: Generation | None = None,
    parent: Solution | None = None,
    depth_share: float = 0.0,
    author: int = 0,
    asked_to_report: bool = False,
    table: FeatureTable = NUMBERS,
    peers: Sequence[Generation] = (),
) -> Solution:
    """Parses a generation.

    Args:
        question: What it answers.
        generation: The model's text.
        max_tokens: The bound that it was generated under.
        critic: A scoring generation whose `word_logprobs` are (correct, incorrect), if the team has a critic.
        parent: The solution that it refines, if it refines one.
        depth_share: Refinements before it / rounds, in [0, 1].
        author: The agent that wrote it.
        asked_to_report: Whether the text is a self-report, or was to be one.
        table: Which entries its features have.
        peers: What scored its text as each other agent's answer, if the team asks for that.
    """
    checker = question.checker
    report = read_report(generation.text) if asked_to_report else None
    if report:
        answer = checker.read_alone(report.answer)
    else:
        answer = None if asked_to_report and is_cut_off(generation.text) else checker.read(generation.text)
    logprobs = (report and free_logprobs(generation)) or generation.logprobs
    span = report.answer_span if report else answer and answer.span
    canonical = answer.canonical if answer else None
    draft = parent.answer if parent else None
    z = {
        **answer_features(answer, question.kind),
        **measured_profile(report.reasoning if report else generation.text, generation, max_tokens),
        **report_features(report),
        **critic_features(critic),
        **likelihood_features(generation, logprobs, span if answer else None),
        **peer_features(peers),
        "depth": depth_share,
        "repeats_parent": draft is not None and canonical is not None and checker.same(draft, canonical),
        f"author_{author}": 1.0,
    }
    calls = [generation, *([] if critic is None else [critic]), *peers]
    return Solution(
        text=generation.text,
        answer=canonical,
        correct=canonical is not None and question.accepts(canonical),
        confidence=_confidence([logprobs, *(peer.word_logprobs for peer in peers)]) if answer and logprobs else 0.0,
        features=as_vector(table, z),
        tokens=(
            sum(call.prompt_tokens for call in calls),
            sum(call.cached_tokens for call in calls),
            sum(call.generated_tokens for call in calls),
        ),
    )


def _confidence(logprobs_by_agent: Sequence[Sequence[float]]) -> float:
    return math.exp(float(np.mean([np.mean(logprobs) for logprobs in logprobs_by_agent])))

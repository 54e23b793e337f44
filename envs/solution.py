"""A solution: a generation parsed into what the debate and the policy need of it."""

import math
from dataclasses import dataclass

import numpy as np

from mpdf_rllib.engine.types import Generation
from mpdf_rllib.envs.features import solution_features
from mpdf_rllib.questions import Question


@dataclass(frozen=True)
class Solution:
    """One node of a solution tree.

    Attributes:
        text: The model's text.
        answer: Canonical answer, or None where the text holds none.
        correct: Whether it is right; unparsed is wrong.
        confidence: Geometric mean of the token probabilities, in [0, 1]; 0 where unparsed.
        features: float32, shape (NUM_SOLUTION_FEATURES,): see `features.SOLUTION_FEATURES`.
        tokens: Tokens of the solution and its critic: prompt, of which cached, generated.
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
) -> Solution:
    """Parses a generation.

    Args:
        question: What it answers.
        generation: The model's text.
        max_tokens: The bound that it was generated under.
        critic: A scoring generation whose `word_logprobs` are (correct, incorrect), if the team has a critic.
        parent: The solution that it refines, if it refines one.
        depth_share: Refinements before it / rounds, in [0, 1].
    """
    answer = question.checker.read(generation.text)
    canonical = answer.canonical if answer else None
    verdict = (critic.word_logprobs[0], critic.word_logprobs[1]) if critic else None
    earlier = parent.answer if parent else None
    repeats = earlier is not None and canonical is not None and question.checker.same(earlier, canonical)
    calls = [generation] if critic is None else [generation, critic]
    return Solution(
        text=generation.text,
        answer=canonical,
        correct=canonical is not None and question.accepts(canonical),
        confidence=math.exp(float(np.mean(generation.logprobs))) if answer and generation.logprobs else 0.0,
        features=solution_features(generation, max_tokens, answer, verdict, depth_share, repeats),
        tokens=(
            sum(call.prompt_tokens for call in calls),
            sum(call.cached_tokens for call in calls),
            sum(call.generated_tokens for call in calls),
        ),
    )

"""The meta-cognitive state z of an agent, one table.

Every entry is finite and within its range for every input. A peer's z has the same entries as one's own, the last three
relative to the observer. There is deliberately no entry for "the written equation holds": a calculator that checks the
trace would be a verifier, not meta-cognition.
"""

import math
from typing import NamedTuple

import numpy as np

from mpdf_rllib.engine.types import Generation
from mpdf_rllib.questions.question import Answer


class Feature(NamedTuple):
    name: str
    low: float
    high: float
    source: str
    """[paper] for what is told there, [ours] for all else, such as how it is put into numbers."""


SOLUTION_FEATURES = (
    Feature("valid", 0, 1, "[ours] z_ans: the answer could be parsed"),
    Feature("answer", -1, 1, "[paper] z_ans: the number; [ours] as sign(x) log(1 + |x|) / log(10^6), clipped"),
    Feature("steps", 0, 1, "[ours] z_prof measured from the trace: lines / 16, at most 1"),
    Feature("additive_operators", 0, 1, "[ours] z_prof measured: count of + and - between operands / 8, at most 1"),
    Feature("multiplicative_operators", 0, 1, "[ours] z_prof measured: count of * and / / 8, at most 1"),
    Feature("length", 0, 1, "[ours] z_prof measured: generated tokens / their bound"),
    Feature("cut_off", 0, 1, "[ours] z_prof measured: the text hit its bound of tokens"),
    Feature(
        "critic_correct", 0, 1, "[paper] z_conf: the critic's verdict, [ours] as a probability; 0.5 without critic"
    ),
    Feature("critic_entropy", 0, 1, "[ours] z_conf: entropy of the verdict in bits; 1 without critic"),
    Feature("mean_probability", 0, 1, "[ours] z_lp: exp of the mean token log-probability"),
    Feature("min_probability", 0, 1, "[ours] z_lp: exp of the smallest token log-probability"),
    Feature("answer_probability", 0, 1, "[ours] z_lp: exp of the mean over the answer's own tokens"),
    Feature("depth", 0, 1, "[ours] refinements before it / rounds"),
    Feature("repeats_parent", 0, 1, "[ours] the refinement kept its draft's answer"),
)
DEBATE_FEATURES = (
    Feature("agreement", 0, 1, "[ours] social: share of the other agents with an equal answer"),
    Feature("is_plurality", 0, 1, "[ours] social: the answer is the team's present consensus"),
    Feature("round", 0, 1, "[ours] rounds played / rounds"),
    Feature("same_answer", 0, 1, "[ours] the answer equals the observer's; 1 in one's own z where it is parsed"),
    Feature("is_target", 0, 1, "[ours] the peer whom Concede would adopt; 0 in one's own z"),
)
FEATURES = SOLUTION_FEATURES + DEBATE_FEATURES

LOW = np.array([f.low for f in FEATURES], np.float32)
HIGH = np.array([f.high for f in FEATURES], np.float32)
NUM_SOLUTION_FEATURES = len(SOLUTION_FEATURES)
IS_TARGET = [f.name for f in FEATURES].index("is_target")


def solution_features(
    generation: Generation,
    max_tokens: int,
    answer: Answer | None,
    verdict: tuple[float, float] | None,
    depth_share: float,
    repeats_parent: bool,
) -> np.ndarray:
    """The entries of z that belong to one solution.

    Args:
        generation: The text with its tokens' log-probabilities.
        max_tokens: The bound that it was generated under.
        answer: The answer parsed from the text, or None.
        verdict: The critic's natural log-probabilities of its words for (correct, incorrect), or None without critic.
        depth_share: Refinements before it / rounds, in [0, 1].
        repeats_parent: Whether a refinement kept its draft's answer.

    Returns:
        float32, shape (NUM_SOLUTION_FEATURES,), finite and within the table's ranges.
    """
    text = generation.text
    additive = sum(text.count(sign) for sign in (" + ", " - "))
    multiplicative = sum(text.count(sign) for sign in (" * ", " / ", " x ", "×", "÷"))
    correct, entropy = 0.5, 1.0
    if verdict is not None and max(verdict) > -math.inf:
        correct = 1 / (1 + math.exp(min(verdict[1] - verdict[0], 700)))
        entropy = -sum(p * math.log2(p) for p in (correct, 1 - correct) if p > 0)
    scaled, span = 0.0, None
    if answer is not None:
        scaled, span = math.copysign(math.log1p(abs(answer.value)) / math.log(1e6), answer.value), answer.span
    logprobs = np.array(generation.logprobs or (-math.inf,))
    z = np.array(
        [
            answer is not None,
            scaled,
            (text.strip().count("\n") + 1) / 16,
            additive / 8,
            multiplicative / 8,
            generation.generated_tokens / max_tokens,
            generation.finish_reason == "length",
            correct,
            entropy,
            np.exp(logprobs.mean()),
            np.exp(logprobs.min()),
            np.exp(span_logprob(generation, span)),
            depth_share,
            repeats_parent,
        ]
    )
    return np.clip(z, LOW[:NUM_SOLUTION_FEATURES], HIGH[:NUM_SOLUTION_FEATURES]).astype(np.float32)


def span_logprob(generation: Generation, span: tuple[int, int] | None) -> float:
    """Mean natural log-probability of the tokens that overlap a span of characters; -inf where there is none."""
    if span is None:
        return -math.inf
    starts = (0, *generation.token_ends)[: len(generation.token_ends)]
    inside = [
        logprob
        for logprob, start, end in zip(generation.logprobs, starts, generation.token_ends, strict=True)
        if start < span[1] and end > span[0]
    ]
    return float(np.mean(inside)) if inside else -math.inf

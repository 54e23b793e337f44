"""The meta-cognitive state z of an agent: which entries it has, and what they are of one solution.

Every entry is finite and within its range for every input. A peer's z has the same entries as one's own, the last three
relative to the observer. There is deliberately no entry for "the written equation holds": a calculator that checks the
trace would be a verifier, not meta-cognition.
"""

import math
import string
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

import numpy as np

from mpdf_rllib.engine.types import Generation
from mpdf_rllib.envs.feature import Feature
from mpdf_rllib.envs.self_report import REPORT_FEATURES
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.questions import Answer, Kind

FeatureTable = tuple[Feature, ...]

LETTERS = string.ascii_lowercase[:10]
"""Of the choices that have an entry of their own."""

_VALID = Feature("valid", 0, 1, "z_ans", "[ours] z_ans: the answer could be parsed")
_SCALAR = Feature(
    "answer", -1, 1, "z_ans", "[paper] z_ans: the number; [ours] as sign(x) log(1 + abs(x)) / log(10^6), clipped"
)
_CHOICES = tuple(Feature(f"choice_{letter}", 0, 1, "z_ans", "[paper] z_ans: the choice, one-hot") for letter in LETTERS)
_PROFILE = (
    Feature("steps", 0, 1, "z_prof", "[ours] z_prof measured from the trace: lines / 16, at most 1"),
    Feature(
        "additive_operators", 0, 1, "z_prof", "[ours] z_prof measured: count of + and - between operands / 8, at most 1"
    ),
    Feature("multiplicative_operators", 0, 1, "z_prof", "[ours] z_prof measured: count of * and / / 8, at most 1"),
    Feature("length", 0, 1, "z_prof", "[ours] z_prof measured: generated tokens / their bound"),
    Feature("cut_off", 0, 1, "z_prof", "[ours] z_prof measured: the text hit its bound of tokens"),
)
_CRITIC = (
    Feature(
        "critic_correct",
        0,
        1,
        "z_conf",
        "[paper] z_conf: the critic's verdict, [ours] as a probability; 0.5 without critic",
    ),
    Feature("critic_entropy", 0, 1, "z_conf", "[ours] z_conf: entropy of the verdict in bits; 1 without critic"),
)
_LIKELIHOOD = (
    Feature("mean_probability", 0, 1, "z_lp", "[ours] z_lp: exp of the mean token log-probability"),
    Feature("min_probability", 0, 1, "z_lp", "[ours] z_lp: exp of the smallest token log-probability"),
    Feature("answer_probability", 0, 1, "z_lp", "[ours] z_lp: exp of the mean over the answer's own tokens"),
)
_PEERS = (
    Feature(
        "peer_probability",
        0,
        1,
        "z_peer",
        "[ours] z_peer: exp of the text's mean token log-probability as the other agents' first answer, their mean",
    ),
)
_CHAIN = (
    Feature("depth", 0, 1, "chain", "[ours] refinements before it / rounds"),
    Feature("repeats_parent", 0, 1, "chain", "[ours] the refinement kept its draft's answer"),
)
DEBATE_FEATURES = (
    Feature("agreement", 0, 1, "social", "[ours] social: share of the other agents with an equal answer"),
    Feature("is_plurality", 0, 1, "social", "[ours] social: the answer is the agents' present plurality"),
    Feature("round", 0, 1, "round", "[ours] rounds played / rounds"),
    Feature(
        "same_answer", 0, 1, "social", "[ours] the answer equals the observer's; 1 in one's own z where it is parsed"
    ),
    Feature("is_target", 0, 1, "social", "[ours] the peer whom Concede would adopt; 0 in one's own z"),
)
IS_TARGET = -1
"""Where `is_target` stands in z."""


def solution_table(
    kinds: Collection[Kind] = frozenset[Kind](["number"]),
    self_report: bool = False,
    agents: Sequence[Hashable] = (),
    peer_likelihood: bool = False,
) -> FeatureTable:
    """The entries of z that belong to one solution.

    Args:
        kinds: Of the questions: choices are told one-hot, all else as a scalar, of a program its lines.
        self_report: Whether models report on their reasoning; it is measured all the same.
        agents: Who may have written it: where they differ, it is told who did.
        peer_likelihood: Whether it is told how likely the other agents find it.
    """
    answer = (*([_SCALAR] if set(kinds) - {"choice"} else []), *(_CHOICES if "choice" in kinds else ()))
    authors = range(len(agents) if len(set(agents)) > 1 else 0)
    author = tuple(Feature(f"author_{i}", 0, 1, "author", f"[ours] agent {i} wrote it") for i in authors)
    report = REPORT_FEATURES if self_report else ()
    peers = _PEERS if peer_likelihood else ()
    return (_VALID, *answer, *_PROFILE, *report, *_CRITIC, *_LIKELIHOOD, *peers, *_CHAIN, *author)


NUMBERS = solution_table()
"""Of solutions to questions about numbers, by agents that are alike."""


def bounds(table: FeatureTable) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest values, float32, each of shape (len(table),)."""
    return np.array([f.low for f in table], np.float32), np.array([f.high for f in table], np.float32)


def entries_of(names: Iterable[str], table: FeatureTable) -> list[int]:
    """Where the entries with these names, or of the parts with these names, stand in a table.

    Raises:
        ConfigError: There is no such entry or part.
    """
    entries = []
    for name in names:
        found = [index for index, feature in enumerate(table) if name in (feature.name, feature.part)]
        if not found:
            known = list(dict.fromkeys([*(f.part for f in table), *(f.name for f in table)]))
            raise ConfigError(f"left_out: {name!r}: no part or entry of z; give some of {', '.join(known)}")
        entries += found
    return sorted(set(entries))


def as_vector(table: FeatureTable, values: Mapping[str, float]) -> np.ndarray:
    """The table's entries out of the values by name, float32, shape (len(table),), within their ranges.

    Entries of which there is no value, such as those of other authors, are 0.
    """
    return np.clip([values.get(feature.name, 0.0) for feature in table], *bounds(table)).astype(np.float32)


def answer_features(answer: Answer | None, kind: Kind) -> dict[str, float]:
    """z_ans of an answer, or of None where the text held none."""
    if answer is None:
        return {"valid": 0.0}
    if kind == "choice":
        return {"valid": 1.0, f"choice_{chr(ord('a') + int(answer.value))}": 1.0}
    return {"valid": 1.0, "answer": math.copysign(math.log1p(abs(answer.value)) / math.log(1e6), answer.value)}


def measured_profile(text: str, generation: Generation, max_tokens: int) -> dict[str, float]:
    """z_prof as it is measured from a trace, the whole text or what a report says of it, and from its generation."""
    additive = sum(text.count(sign) for sign in (" + ", " - "))
    multiplicative = sum(text.count(sign) for sign in (" * ", " / ", " x ", "×", "÷"))
    return {
        "steps": (text.strip().count("\n") + 1) / 16,
        "additive_operators": additive / 8,
        "multiplicative_operators": multiplicative / 8,
        "length": generation.generated_tokens / max_tokens,
        "cut_off": generation.finish_reason == "length",
    }


def critic_features(critic: Generation | None) -> dict[str, float]:
    """z_conf of a scoring generation whose `word_logprobs` are (correct, incorrect), or of None without critic."""
    if critic is None or max(critic.word_logprobs) == -math.inf:
        return {"critic_correct": 0.5, "critic_entropy": 1.0}
    right, wrong = critic.word_logprobs
    correct = 1 / (1 + math.exp(min(wrong - right, 700)))
    entropy = -sum(p * math.log2(p) for p in (correct, 1 - correct) if p > 0)
    return {"critic_correct": correct, "critic_entropy": entropy}


def peer_features(scored: Sequence[Generation]) -> dict[str, float]:
    """z_peer of what scored a text as other agents' answer, each with a log-probability a token; 0 without text."""
    return {
        "peer_probability": float(np.mean([math.exp(float(np.mean(each.word_logprobs))) for each in scored] or [0.0]))
    }


def free_logprobs(generation: Generation) -> tuple[float, ...]:
    """The log-probabilities of the tokens that were free to be another: where a schema forces one, it is 0."""
    return tuple(logprob for logprob in generation.logprobs if logprob < 0)


def likelihood_features(
    generation: Generation, logprobs: Sequence[float], span: tuple[int, int] | None
) -> dict[str, float]:
    """z_lp of a text, by those of its tokens' log-probabilities that count, and of the answer in it, by its span."""
    counted = np.array(logprobs or (-math.inf,))
    return {
        "mean_probability": np.exp(counted.mean()),
        "min_probability": np.exp(counted.min()),
        "answer_probability": np.exp(span_logprob(generation, span)),
    }


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

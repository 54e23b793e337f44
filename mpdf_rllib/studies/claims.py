"""Claims about a study's arms, held against what was measured."""

from collections.abc import Mapping

from mpdf_rllib.bootstrap import Estimate
from mpdf_rllib.results import shown
from mpdf_rllib.studies.config import ClaimConfig, Measure
from mpdf_rllib.studies.playing import PlayedArm
from mpdf_rllib.studies.statistics import difference

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "can't be told at this size"

NAMES: dict[Measure, str] = {
    "accuracy": "accuracy",
    "spread": "standard deviation over seeds",
    "tokens": "tokens a question, of prompts and generated",
    "generated_tokens": "generated tokens a question",
    "persist": "share of Persist",
    "refine": "share of Refine",
    "concede": "share of Concede",
    "log_ratio": "mean largest log-ratio to the warm start",
}
_SOURCES = {"paper": "the paper", "algebra": "the algebra", "ours": "ours"}


def verdict(claim: ClaimConfig, gap: Estimate) -> str:
    """What a difference, with its 95 % interval, says of a claim: one of `HOLDS`, `FAILS`, `OPEN`.

    More, or less, holds where the interval is beyond 0 on that side, and fails where it is beyond 0 on the other, or
    within `claim.margin` of 0. Equal holds where it is within that, and fails where it is beyond that.
    """
    small = -claim.margin < gap.low and gap.high < claim.margin
    if claim.expected == "equal":
        return HOLDS if small else FAILS if max(gap.low, -gap.high) > claim.margin else OPEN
    low, high = (gap.low, gap.high) if claim.expected == "more" else (-gap.high, -gap.low)
    return HOLDS if low > 0 else FAILS if high < 0 or small else OPEN


def sentence(claim: ClaimConfig, arms: Mapping[str, PlayedArm]) -> str:
    """The claim, who makes it, its verdict and the difference."""
    gap = difference(arms[claim.arm], arms[claim.than], claim.measure)
    within = ""
    if claim.expected == "equal" or claim.within:
        within = f" ({'equal' if claim.expected == 'equal' else 'no difference'}: within {claim.margin:g})"
    return (
        f"{claim.says} ({_SOURCES[claim.source]}): **{verdict(claim, gap)}**. {in_front(NAMES[claim.measure])} of "
        f"{claim.arm} less that of {claim.than}: {told(gap, claim.measure, '+')}{within}."
    )


def in_front(words: str) -> str:
    """As a sentence begins."""
    return words[:1].upper() + words[1:]


def told(estimate: Estimate, measure: Measure, sign: str = "") -> str:
    """An estimate with the digits that its measure has."""
    if measure in ("tokens", "generated_tokens", "log_ratio"):
        low, mean, high = (f"{number:{sign}.1f}" for number in (estimate.low, estimate.mean, estimate.high))
        return f"{mean} [{low}, {high}]"
    return shown(estimate, sign)

"""Whether what an engine returned is an answer: a broken one is an error to ask again, never a wrong answer."""

import itertools
import math
import re

from mpdf_rllib.engine.types import Generation, GenerationRequest
from mpdf_rllib.errors import EngineError

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")  # no text that a file can hold


def check_generation(request: GenerationRequest, generation: Generation) -> None:
    """Checks that a generation is what `Generation` promises for such a request.

    Raises:
        EngineError: It is not. Names the question, the node and what is wrong.
    """
    if fault := fault_of(request, generation):
        raise EngineError(
            f"Question {request.position.question!r}: the engine's answer is none: {fault} ({request.position}). It is "
            "not recorded; the same command asks again. If it happens again, the model or its number format is at "
            "fault: try engine.args.dtype=float32 or another model."
        )


def fault_of(request: GenerationRequest, generation: Generation) -> str | None:
    """What keeps a generation from being an answer to the request."""
    return _length_fault(request, generation) or _number_fault(generation)


def _length_fault(request: GenerationRequest, generation: Generation) -> str | None:
    if not isinstance(generation.text, str) or _HALF_A_PAIR.search(generation.text):
        return f"its text is {generation.text!r:.100}"
    reasons = ("score",) if request.scores else ("stop", "length")
    if generation.finish_reason not in reasons:
        return f"it ended with {generation.finish_reason!r}, not with {' or '.join(map(repr, reasons))}"
    if request.continuation and not generation.word_logprobs:
        return "no log-probability of a continuation"
    if not request.continuation and len(generation.word_logprobs) != len(request.score_words):
        return f"{len(generation.word_logprobs)} log-probabilities for {len(request.score_words)} score words"
    lengths = {
        "token_ids": len(generation.token_ids or generation.logprobs),
        "logprobs": len(generation.logprobs),
        "token_ends": len(generation.token_ends),
        "generated_tokens": generation.generated_tokens,
    }
    if len(set(lengths.values())) > 1:
        return "these differ in length: " + ", ".join(f"{name} {length}" for name, length in lengths.items())
    return None


def _number_fault(generation: Generation) -> str | None:
    for logprob in (*generation.logprobs, *generation.word_logprobs):
        if not (math.isfinite(logprob) and logprob <= 0):
            return f"a log-probability is {logprob}"
    ends = (0, *generation.token_ends, len(generation.text))
    if any(end < start for start, end in itertools.pairwise(ends)):
        return f"token_ends {generation.token_ends} do not rise to the {len(generation.text)} characters of its text"
    if not 0 <= generation.cached_tokens <= generation.prompt_tokens:
        return f"{generation.cached_tokens} cached of {generation.prompt_tokens} prompt tokens"
    return None

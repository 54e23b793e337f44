"""Requests to and generations from a language-model engine, named as vLLM names them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

Message = tuple[str, str]
"""A chat message: (role, content), with role one of "system", "user", "assistant"."""


@dataclass(frozen=True)
class SamplingParameters:
    """How the next tokens are drawn.

    Attributes:
        temperature: At least 0; 0 is greedy.
        top_p: In (0, 1].
        max_tokens: Bound on generated tokens, at least 1.
        stop: Strings that end the generation; the stop string is not part of the text.
        json_schema: A JSON schema, as text: the generation is one JSON object that fits it, unless it is cut off by
            `max_tokens` or the server does not know schemas. The log-probabilities are those of the tokens that fit.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    json_schema: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Position:
    """Where in a question's solution tree a generation belongs.

    Equal requests at different positions are different draws, as they would be live.

    Attributes:
        question: The question's id.
        root: Index of the agent that wrote the first answer.
        sample: Which of its several draws of that answer, from 0.
        path: For every refinement since, itself included: the index of the agent whose model and prompt wrote it, and
            which of several draws it is, from 0. Empty for a first answer.
    """

    question: str
    root: int
    sample: int = 0
    path: tuple[tuple[int, int], ...] = ()

    @property
    def depth(self) -> int:
        """Number of refinements since the first answer, 0 for the answer itself."""
        return len(self.path)

    @property
    def author(self) -> int:
        """Index of the agent whose model and prompt write this generation."""
        return self.path[-1][0] if self.path else self.root


@dataclass(frozen=True)
class GenerationRequest:
    """One call of a language model.

    Attributes:
        prompt: Text to complete, or chat messages to be rendered with the tokenizer's chat template.
        sampling: How tokens are drawn; ignored where nothing is generated.
        position: The place of the generation in the question's tree.
        score_words: Where not empty, nothing is generated: the log-probabilities of these words (each by its first
            token; the first tokens must differ) as the prompt's continuation are asked for instead.
        model: Which of an engine's models is asked, by its name; "" for its only one.
        continuation: Where not empty, nothing is generated: the log-probabilities of this text's tokens as the
            prompt's continuation are asked for instead.
    """

    prompt: str | tuple[Message, ...]
    sampling: SamplingParameters
    position: Position
    score_words: tuple[str, ...] = ()
    model: str = field(default="", repr=False)
    continuation: str = field(default="", repr=False)

    @property
    def scores(self) -> bool:
        """Whether nothing is generated."""
        return bool(self.score_words or self.continuation)


@dataclass(frozen=True)
class Generation:
    """What the engine returned.

    Attributes:
        text: Generated text without the stop string; empty for a scoring request.
        token_ids: Ids of the generated tokens, the ones that spelled the stop string included; empty where a server
            does not tell them.
        logprobs: Natural log-probability of each of these tokens under the model, at most 0.
        token_ends: Where in `text` each token ends (characters, non-decreasing, at most len(text)); as long as
            `logprobs`.
        finish_reason: "stop", "length", or "score" for a scoring request.
        prompt_tokens: Length of the prompt in tokens, that of a continuation to score included.
        cached_tokens: How many of them came from the prefix cache, 0 to `prompt_tokens`.
        generated_tokens: Number of tokens generated; 0 for a scoring request.
        word_logprobs: Natural log-probabilities of `score_words`, in their order, or of the continuation's tokens;
            empty where neither was given.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    token_ends: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    word_logprobs: tuple[float, ...] = ()

    @classmethod
    def scored(cls, word_logprobs: tuple[float, ...], prompt_tokens: int, cached_tokens: int) -> "Generation":
        """The answer to a scoring request."""
        return cls("", (), (), (), "score", prompt_tokens, cached_tokens, 0, word_logprobs)


class Engine(Protocol):
    """Anything that answers generation requests. Batching is the engine's own: callers await many requests at once."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """Answers one request.

        Raises:
            EngineError: The request failed although it was tried again.
        """
        ...

    async def close(self) -> None:
        """Ends the engine and every process it started. Idempotent."""
        ...


async def generate_many(engine: Engine, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """Answers all requests, in flight together, in the order given."""
    return list(await asyncio.gather(*(engine.generate(request) for request in requests)))

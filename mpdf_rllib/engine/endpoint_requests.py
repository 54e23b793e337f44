"""What an OpenAI-compatible server is asked, and what it answers, in its own words and in ours."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpdf_rllib.engine.types import Generation, GenerationRequest
from mpdf_rllib.engine.vllm_requests import at_most_zero
from mpdf_rllib.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from openai import AsyncOpenAI


_STOPPED = {"eos": "stop", "eos_token": "stop", "stop_sequence": "stop"}
"""What servers other than OpenAI's say for it."""


class Garbage(Exception):
    """What a server answered is no answer; asking again may help."""


async def ask(client: "AsyncOpenAI", model: str, request: GenerationRequest, words: Sequence[int] = ()) -> Generation:
    """Puts one request to the server.

    Args:
        client: The official client, which asks again what failed on its way.
        model: The model's name on the server.
        request: What is asked.
        words: Token ids of the request's score words, from `first_token`.

    Raises:
        ConfigError: The server gives no log-probabilities, or none of chosen tokens.
        PromptError: It withholds its answer.
        Garbage: It answered something else.
        openai.OpenAIError: It refused the request, or was not reached.
    """
    if request.continuation:
        answer = await _post(client, model, _continued(request), {"max_tokens": 1, "extra_body": {"echo": True}})
    else:
        answer = await _post(client, model, request, _scoring(words) if words else _sampling(request))
    try:
        if request.continuation:
            return _echoed(answer, request.continuation)
        return _scored(answer, words) if words else _generated(request, answer)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Garbage(json.dumps(answer)) from error


async def first_token(client: "AsyncOpenAI", model: str, word: str) -> int:
    """Id of a word's first token.

    Raises:
        ConfigError: The server does not tell.
        Garbage: It answered something else.
        openai.OpenAIError: It refused the request, or was not reached.
    """
    extra = {"return_token_ids": True, "add_special_tokens": False}
    response = await client.completions.with_raw_response.create(
        model=model, prompt=word, max_tokens=1, extra_body=extra
    )
    answer = _json(response.content)
    try:
        ids = answer["choices"][0].get("prompt_token_ids")
        if ids is None:
            raise not_scored(model)
        return int(ids[0])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Garbage(json.dumps(answer)) from error


def not_scored(model: str) -> ConfigError:
    """The error where a server cannot score words."""
    return ConfigError(
        f"engine.url: the log-probabilities of given words, which the critic of {model!r} needs, are not supported by "
        "this server, use vLLM 0.29 or newer (`vllm serve`, or engine={kind: serve}), or set team.critic=false."
    )


def not_continued() -> ConfigError:
    """The error where a server cannot score a given text."""
    return ConfigError(
        "engine.url: the log-probabilities of a given text, by echo in completions, which other agents' judgement of "
        "a solution needs, are not supported by this server, use vLLM, or set team.peer_likelihood=false."
    )


async def _post(client: "AsyncOpenAI", model: str, request: GenerationRequest, settings: dict[str, Any]) -> Any:
    if isinstance(request.prompt, str):
        response = await client.completions.with_raw_response.create(
            model=model, prompt=request.prompt, logprobs=1 if request.score_words else 0, **settings
        )
    else:
        messages: Any = [{"role": role, "content": content} for role, content in request.prompt]
        response = await client.chat.completions.with_raw_response.create(
            model=model, messages=messages, logprobs=True, **settings
        )
    return _json(response.content)


def _sampling(request: GenerationRequest) -> dict[str, Any]:
    sampling = request.sampling
    settings: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.stop:
        settings["stop"] = list(sampling.stop)
    if sampling.json_schema is not None:
        schema = {"name": "report", "schema": json.loads(sampling.json_schema), "strict": True}
        settings["extra_body"] = {"response_format": {"type": "json_schema", "json_schema": schema}}
    return settings


def _scoring(words: Sequence[int]) -> dict[str, Any]:
    extra = {"logprob_token_ids": list(words), "return_tokens_as_token_ids": True}
    return {"max_tokens": 1, "extra_body": extra}


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:  # broken characters, or no JSON
        raise Garbage(repr(content)) from error


def _generated(request: GenerationRequest, answer: Any) -> Generation:
    choice = answer["choices"][0]
    if choice["finish_reason"] == "content_filter":
        raise PromptError(
            f"Question {request.position.question!r}: the server withheld its answer (finish_reason content_filter). "
            "Take another server or model, or leave the question out."
        )
    logprobs = choice.get("logprobs")
    if not logprobs:
        raise ConfigError(
            "engine.url: log-probabilities of the answer's tokens, which agents are told of, are not supported by this "
            "server, use another server or model, such as one that vLLM serves."
        )
    if "message" in choice:
        text = choice["message"]["content"] or ""
        tokens = [(entry["token"], entry["logprob"]) for entry in logprobs["content"] or ()]
    else:
        text = choice["text"]
        tokens = list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))
    ends = itertools.accumulate(len(token) for token, _ in tokens)
    return Generation(
        text=text,
        token_ids=(),
        logprobs=tuple(at_most_zero(float(logprob)) for _, logprob in tokens),
        token_ends=tuple(min(end, len(text)) for end in ends),
        finish_reason=_STOPPED.get(choice["finish_reason"], choice["finish_reason"]),
        generated_tokens=len(tokens),
        prompt_tokens=_prompt_tokens(answer),
        cached_tokens=_cached_tokens(answer),
    )


def _continued(request: GenerationRequest) -> GenerationRequest:
    if not isinstance(request.prompt, str):
        raise not_continued()
    return dataclasses.replace(request, prompt=request.prompt + request.continuation)


def _echoed(answer: Any, continuation: str) -> Generation:
    """The last of the prompt's tokens that a continuation takes; one that begins before it is a part of it."""
    logprobs, length = answer["choices"][0].get("logprobs") or {}, _prompt_tokens(answer)
    tokens = list(zip(logprobs.get("tokens", ()), logprobs.get("token_logprobs", ()), strict=True))[:length]
    if len(tokens) < length:
        raise not_continued()
    scored: list[float] = []
    missing = len(continuation)
    while missing > 0:
        token, logprob = tokens.pop()
        scored.insert(0, at_most_zero(float(logprob)))
        missing -= len(token)
    return Generation.scored(tuple(scored), length, _cached_tokens(answer))


def _scored(answer: Any, words: Sequence[int]) -> Generation:
    choice = answer["choices"][0]
    logprobs = choice.get("logprobs") or {}
    table: Mapping[str, float]
    if "message" in choice:
        table = {
            entry["token"]: entry["logprob"]
            for token in (logprobs.get("content") or [])[:1]
            for entry in token["top_logprobs"]
        }
    else:
        table = (logprobs.get("top_logprobs") or [{}])[0]
    names = [f"token_id:{word}" for word in words]
    if not all(name in table for name in names):
        raise not_scored(answer.get("model"))
    return Generation.scored(
        tuple(at_most_zero(float(table[name])) for name in names), _prompt_tokens(answer), _cached_tokens(answer)
    )


def _prompt_tokens(answer: Any) -> int:
    return int(answer["usage"]["prompt_tokens"])


def _cached_tokens(answer: Any) -> int:
    return int((answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

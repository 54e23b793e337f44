"""What vLLM is asked, and what it answers, in its own words and in ours."""

import uuid
from typing import TYPE_CHECKING, Any

from mpdf_rllib.engine.types import Generation, GenerationRequest, Message
from mpdf_rllib.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

_ROUNDING = 1e-3


async def ask(llm: "AsyncLLM", request: GenerationRequest) -> Generation:
    """Puts one request to vLLM.

    Raises:
        ConfigError: Two score words start alike for this model.
        PromptError: The prompt is longer than the model's context, or the JSON schema is none that vLLM knows.
        One of `failures`: vLLM died or gave the request up.
    """
    if request.continuation:
        return await _likelihood(llm, request)
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    tokenizer = llm.get_tokenizer()
    words = _first_tokens(tokenizer, request.score_words)
    if words:
        parameters = SamplingParams(max_tokens=1, logprob_token_ids=words, output_kind=RequestOutputKind.FINAL_ONLY)
    else:
        sampling, schema = request.sampling, request.sampling.json_schema
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            logprobs=0,
            structured_outputs=StructuredOutputsParams(json=schema) if schema is not None else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
    final = await _answer(llm, request, _rendered(tokenizer, request.prompt), parameters)
    return _scored(final, words) if words else _generated(final, set(tokenizer.all_special_ids))


async def _likelihood(llm: "AsyncLLM", request: GenerationRequest) -> Generation:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    tokenizer = llm.get_tokenizer()
    rendered = _rendered(tokenizer, request.prompt)
    prompt = rendered.get("prompt_token_ids") or tokenizer.encode(rendered["prompt"])
    given = tokenizer.encode(request.continuation, add_special_tokens=False)
    for cached in (True, False):
        parameters = SamplingParams(
            max_tokens=1,
            prompt_logprobs=0,
            skip_reading_prefix_cache=not cached,
            detokenize=False,  # what stands for cached tokens are no tokens
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final = await _answer(llm, request, {"prompt_token_ids": [*prompt, *given]}, parameters)
        if (final.num_cached_tokens or 0) < len(prompt):
            break  # otherwise a part of the continuation itself was cached, of which vLLM tells nothing
    tables = (final.prompt_logprobs or ())[-len(given) :]  # vLLM may leave cached tokens out of them
    if len(tables) != len(given):
        raise _Unfinished(f"it returned {len(tables)} log-probabilities for {len(given)} tokens")
    return Generation.scored(
        tuple(at_most_zero((table or {})[token].logprob) for table, token in zip(tables, given, strict=True)),
        prompt_tokens=len(prompt) + len(given),
        cached_tokens=final.num_cached_tokens or 0,
    )


async def _answer(llm: "AsyncLLM", request: GenerationRequest, prompt: Any, parameters: Any) -> "RequestOutput":
    from vllm.exceptions import VLLMClientError

    try:
        async for output in llm.generate(prompt, parameters, uuid.uuid4().hex):
            final = output
    except VLLMClientError as error:
        given = "prompt" if request.scores or request.sampling.json_schema is None else "prompt or its JSON schema"
        raise PromptError(
            f"Question {request.position.question!r}: its {given} cannot be given to the model ({error}). "
            "Shorten the prompt or the question, raise engine.args.max_model_len, or take a model of a longer context."
        ) from error
    return final


def without_template(turns: tuple[Message, ...]) -> str:
    """Chat turns as a model without a chat template reads them."""
    return "\n\n".join(content for _, content in turns)


def _rendered(tokenizer: Any, prompt: str | tuple[Message, ...]) -> Any:
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if not tokenizer.chat_template:
        return {"prompt": without_template(prompt)}
    messages = [{"role": role, "content": content} for role, content in prompt]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return {"prompt_token_ids": ids}


def _first_tokens(tokenizer: Any, words: tuple[str, ...]) -> list[int]:
    ids = [tokenizer.encode(word, add_special_tokens=False)[0] for word in words]
    if len(set(ids)) < len(ids):
        raise ConfigError(
            f"score words {words} do not differ in their first tokens for this model: set team.critic=false."
        )
    return ids


def _generated(output: "RequestOutput", special: set[int]) -> Generation:
    completion = output.outputs[0]
    if completion.finish_reason not in ("stop", "length"):
        raise _Unfinished(f"it ended a generation with {completion.finish_reason!r}")
    token_ids, tables = tuple(completion.token_ids), completion.logprobs or ()
    if len(tables) != len(token_ids):
        raise _Unfinished(f"it returned {len(tables)} log-probabilities for {len(token_ids)} tokens")
    chosen = [table[token] for table, token in zip(tables, token_ids, strict=True)]
    ends, end = [], 0
    for token, entry in zip(token_ids, chosen, strict=True):
        end += 0 if token in special else len(entry.decoded_token or "")
        ends.append(min(end, len(completion.text)))
    return Generation(
        text=completion.text,
        token_ids=token_ids,
        logprobs=tuple(at_most_zero(entry.logprob) for entry in chosen),
        token_ends=tuple(ends),
        finish_reason=completion.finish_reason,
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=output.num_cached_tokens or 0,
        generated_tokens=len(token_ids),
    )


def _scored(output: "RequestOutput", words: list[int]) -> Generation:
    completion = output.outputs[0]
    if not completion.logprobs:
        raise _Unfinished(f"it ended a scoring with {completion.finish_reason!r}")
    return Generation.scored(
        tuple(at_most_zero(completion.logprobs[0][word].logprob) for word in words),
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=output.num_cached_tokens or 0,
    )


def at_most_zero(logprob: float) -> float:
    """Takes off what rounding added; what is wrong stays wrong."""
    return 0.0 if 0 < logprob < _ROUNDING else logprob


class _Unfinished(Exception):
    """vLLM gave a request up."""


def failures() -> tuple[type[Exception], ...]:
    """What `ask` raises where asking again may help."""
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    return EngineDeadError, EngineGenerateError, _Unfinished

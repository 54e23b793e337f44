import asyncio
import dataclasses
import json
import math
import os
import random
import re
import signal

import jsonschema
import pytest

from mpdf_rllib.engine import Generation, GenerationRequest, Position, SamplingParameters, generate_many, run
from mpdf_rllib.engine.check import check_generation
from mpdf_rllib.engine.models import PACKAGED_MODEL
from mpdf_rllib.engine.vllm_engine import VLLMEngine
from mpdf_rllib.engine.watchdog import marked_processes
from mpdf_rllib.envs.features import span_logprob
from mpdf_rllib.envs.self_report import REPORT_TOKENS, read_report, report_schema
from mpdf_rllib.errors import ConfigError, DataError, EngineError

pytestmark = pytest.mark.model

SHOTS = "".join(
    f"Q: {a} boxes with {b} eggs each. How many eggs?\nA: {a} * {b} = {a * b}\n\n" for a, b in [(3, 4), (7, 2)]
)
GREEDY = SamplingParameters(temperature=0.0, max_tokens=14, stop=("\n",))


def make_requests(number: int, sampling: SamplingParameters = GREEDY) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            f"{SHOTS}Q: {3 + i} boxes with 5 eggs each. How many eggs?\nA:", sampling, Position(f"q{i}", 0)
        )
        for i in range(number)
    ]


def test_generations(vllm_engine: VLLMEngine) -> None:
    sampling = SamplingParameters(max_tokens=14, stop=("\n",))
    for generation in run(generate_many(vllm_engine, make_requests(8, sampling))):
        assert "\n" not in generation.text
        assert 1 <= generation.generated_tokens <= 14
        number = generation.generated_tokens
        assert len(generation.token_ids) == len(generation.logprobs) == len(generation.token_ends) == number
        assert all(math.isfinite(p) and p <= 0 for p in generation.logprobs)
        assert list(generation.token_ends) == sorted(generation.token_ends)
        assert generation.token_ends[-1] == len(generation.text)
        assert generation.finish_reason == ("stop" if number < 14 else generation.finish_reason)
        assert 0 <= generation.cached_tokens <= generation.prompt_tokens
        assert generation.word_logprobs == ()


def test_an_answer_makes_sense(vllm_engine: VLLMEngine) -> None:
    (generation,) = run(generate_many(vllm_engine, make_requests(1)))
    assert generation.text.startswith(" 3 * 5 =")
    assert generation.finish_reason == "stop"


def test_words_are_scored(vllm_engine: VLLMEngine) -> None:
    words = (" right", " wrong", " the")
    (generation,) = run(
        generate_many(vllm_engine, [GenerationRequest(make_requests(1)[0].prompt, GREEDY, Position("q", 0), words)])
    )
    assert generation.finish_reason == "score"
    assert (generation.text, generation.token_ids, generation.generated_tokens) == ("", (), 0)
    probabilities = [math.exp(p) for p in generation.word_logprobs]
    assert len(probabilities) == 3
    assert sum(probabilities) <= 1 + 1e-6
    assert len(set(probabilities)) == 3


@pytest.mark.parametrize("chat", [False, True])
def test_a_text_is_scored_as_the_continuation_that_it_was(vllm_engine: VLLMEngine, chat: bool) -> None:
    (request,) = make_requests(1)
    if chat:
        request = dataclasses.replace(request, prompt=(("user", "How much is 3 * 5?"),))
    own = run(vllm_engine.generate(request))
    long = " 3 * 5 = 15, which is 3 + 3 + 3 + 3 + 3 or 5 + 5 + 5, and so is 15 * 1 and 1 * 15"

    def scored(text: str) -> Generation:
        asked = dataclasses.replace(request, continuation=text)
        generation = run(vllm_engine.generate(asked))
        check_generation(asked, generation)
        return generation

    again = scored(own.text)
    assert again.word_logprobs == pytest.approx(own.logprobs[: len(again.word_logprobs)], abs=0.2)  # in bfloat16
    assert again.prompt_tokens == own.prompt_tokens + len(again.word_logprobs)
    assert (again.text, again.finish_reason, again.generated_tokens) == ("", "score", 0)
    assert sum(scored(own.text + " 99 99").word_logprobs) < sum(again.word_logprobs) - 1
    first, second = scored(long), scored(long)  # of the second the engine has a part in its cache
    assert len(first.word_logprobs) > 40
    assert second.word_logprobs == pytest.approx(first.word_logprobs, abs=0.2)


def test_words_that_start_alike_are_refused(vllm_engine: VLLMEngine) -> None:
    request = GenerationRequest("2 + 2 =", GREEDY, Position("q", 0), (" right", " right now"))
    with pytest.raises(ConfigError, match="right now.*first tokens"):
        run(vllm_engine.generate(request))


def test_messages_are_rendered_with_the_chat_template(vllm_engine: VLLMEngine) -> None:
    chat = (("system", "You answer."), ("user", "What is the capital of France?"))
    sampling = SamplingParameters(temperature=0.0, max_tokens=24)
    rendered = (
        "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in chat) + "<|im_start|>assistant\n"
    )
    messages, text = run(
        generate_many(vllm_engine, [GenerationRequest(p, sampling, Position("q", 0)) for p in (chat, rendered)])
    )
    assert messages.text == text.text
    assert messages.prompt_tokens == text.prompt_tokens


def test_generations_do_not_depend_on_the_order_of_requests(vllm_engine: VLLMEngine) -> None:
    requests = make_requests(12)
    shuffled = random.Random(0).sample(requests, len(requests))
    answers = dict(zip(shuffled, run(generate_many(vllm_engine, shuffled)), strict=True))
    for i, generation in enumerate(run(generate_many(vllm_engine, requests))):
        assert generation.text.startswith(f" {3 + i} *")
        assert answers[requests[i]].text.startswith(f" {3 + i} *")


def test_equal_requests_are_different_draws(vllm_engine: VLLMEngine) -> None:
    sampling = SamplingParameters(temperature=1.5, max_tokens=14)
    generations = run(generate_many(vllm_engine, make_requests(1, sampling) * 4))
    assert len({generation.text for generation in generations}) > 1


def test_the_prefix_cache_is_used_and_reset(vllm_engine: VLLMEngine) -> None:
    request = GenerationRequest(SHOTS * 8 + "Q:", GREEDY, Position("q", 0))

    async def cached() -> int:
        return (await vllm_engine.generate(request)).cached_tokens

    run(vllm_engine.reset_prefix_cache())
    assert run(cached()) == 0
    assert run(cached()) > 0
    run(vllm_engine.reset_prefix_cache())
    assert run(cached()) == 0


def test_a_prompt_that_is_too_long_names_its_question(vllm_engine: VLLMEngine) -> None:
    request = GenerationRequest("one two three " * 5000, GREEDY, Position("the-long-one", 0))
    with pytest.raises(DataError, match=r"'the-long-one'.*maximum context length is \d+ tokens"):
        run(vllm_engine.generate(request))


def test_a_report_fits_its_schema_and_its_answer_has_tokens_of_its_own(vllm_engine: VLLMEngine) -> None:
    schema = report_schema("number", max_tokens=32)
    sampling = SamplingParameters(max_tokens=32 + REPORT_TOKENS, stop=("\n",), json_schema=schema)
    generations = run(generate_many(vllm_engine, make_requests(8, sampling)))
    ended = [generation for generation in generations if generation.finish_reason == "stop"]
    assert len(ended) >= 6
    for request, generation in zip(make_requests(8, sampling), generations, strict=True):
        check_generation(request, generation)
        report = read_report(generation.text)
        assert (report is None) == (generation.finish_reason == "length")
        if report:
            jsonschema.validate(json.loads(generation.text), json.loads(schema))
            assert " " not in re.sub(r'"(?:[^"\\]|\\.)*"', "", generation.text)
            assert generation.token_ends[-1] == len(generation.text)
            assert report.answer == "" or math.isfinite(span_logprob(generation, report.answer_span))
            assert generation.logprobs[0] == pytest.approx(0, abs=1e-3)  # nothing but the brace was allowed


@pytest.mark.parametrize("schema", ["", "not JSON", "[]", '{"type": "nonsense"}', '{"$ref": "#/nowhere"}'])
def test_a_wrong_schema_is_told_with_its_question(vllm_engine: VLLMEngine, schema: str) -> None:
    wrong = GenerationRequest("2 + 2 =", SamplingParameters(json_schema=schema), Position("q7", 0))
    with pytest.raises(DataError, match="'q7': its prompt or its JSON schema"):
        run(vllm_engine.generate(wrong))
    assert run(vllm_engine.generate(make_requests(1)[0])).text.startswith(" 3 * 5 =")


def test_an_engine_that_dies_is_started_again_and_answers_everything(vllm_engine: VLLMEngine) -> None:
    async def job() -> list[str]:
        await vllm_engine.generate(make_requests(1)[0])
        sampling = SamplingParameters(temperature=0.0, max_tokens=100)
        answers = generate_many(vllm_engine, make_requests(6) + make_requests(6, sampling))
        pending = asyncio.ensure_future(answers)
        await vllm_engine.generate(make_requests(7)[-1])
        assert vllm_engine._watchdog
        for pid in marked_processes(vllm_engine._watchdog.mark):
            os.kill(pid, signal.SIGKILL)
        return [generation.text for generation in await pending]

    texts = run(job())
    assert len(texts) == 12
    assert all(text.startswith(f" {3 + i % 6} * 5") for i, text in enumerate(texts))


def test_an_engine_is_closed_while_it_loads() -> None:
    async def job() -> None:
        engine = VLLMEngine(PACKAGED_MODEL)
        request = asyncio.ensure_future(engine.generate(make_requests(1)[0]))
        async with asyncio.timeout(120):
            while not (engine._watchdog and marked_processes(engine._watchdog.mark)):
                await asyncio.sleep(0.02)
        await engine.close()
        await engine.close()
        assert not marked_processes(engine._watchdog.mark)
        with pytest.raises(EngineError, match="was closed"):
            await request

    run(job())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"revision": "v1"}, r"engine\.args\.revision: 'v1': .* give its folder as team\.model"),
        ({"max_num_seq": 4}, r"engine\.args\.max_num_seq: .*engine\.args\.max_num_seqs"),
        ({"qqqqqq": 4}, r"engine\.args\.qqqqqq"),
        ({"dtype": "float3"}, r"engine\.args.*float3"),
    ],
)
def test_wrong_arguments(args: dict[str, object], message: str) -> None:
    engine = VLLMEngine(PACKAGED_MODEL, args)
    with pytest.raises(ConfigError, match=message):
        run(engine.generate(make_requests(1)[0]))
    run(engine.close())

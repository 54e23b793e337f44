"""What the tests of the recording share."""

import dataclasses
from typing import Any

from mpdf_rllib.engine import (
    Generation,
    GenerationRequest,
    Position,
    RecordingEngine,
    SamplingParameters,
    generate_many,
    run,
)
from mpdf_rllib.engine.scripted import ScriptedEngine

SAMPLING = SamplingParameters(max_tokens=14, stop=("\n",))


def make_request(question: str = "q", root: int = 0, **changes: Any) -> GenerationRequest:
    return dataclasses.replace(GenerationRequest("2 + 3 =", SAMPLING, Position(question, root)), **changes)


def requests_of(number: int) -> list[GenerationRequest]:
    return [make_request(f"q{i}") for i in range(number)]


def echo(request: GenerationRequest) -> str:
    return f"answer to {request.position.question}"


def always(text: str) -> ScriptedEngine:
    return ScriptedEngine(lambda _: text)


def record(
    folder: object, requests: list[GenerationRequest], inner: ScriptedEngine, **settings: Any
) -> list[Generation]:
    async def job() -> list[Generation]:
        engine = RecordingEngine(str(folder), "model", lambda: inner, **settings)
        try:
            return await generate_many(engine, requests)
        finally:
            await engine.close()

    return run(job())


def replay(folder: object, requests: list[GenerationRequest], fingerprint: str = "model") -> list[Generation]:
    return run(generate_many(RecordingEngine(str(folder), fingerprint, None), requests))


ODD = Generation(
    text="Zürich \N{SNOWMAN}\n",
    token_ids=(7, 49151),
    logprobs=(-0.1, -87.3),
    token_ends=(3, 9),
    finish_reason="length",
    prompt_tokens=280,
    cached_tokens=256,
    generated_tokens=2,
)

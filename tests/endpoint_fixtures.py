"""A scripted OpenAI-compatible server on localhost, which answers as vLLM's does and fails as it is told to."""

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from mpdf_rllib.engine import GenerationRequest, Position, SamplingParameters
from mpdf_rllib.engine.endpoint_engine import EndpointEngine
from mpdf_rllib.engine.scripted import answer_like_a_small_model

MODEL = "small"
VOCABULARY = {" Correct": 11, " Incorrect": 12, "Correct": 21, "Incorrect": 22, " Corr": 11}
CLOSING = web.AppKey("closing", asyncio.Event)

Fault = Callable[[web.Request], Any]
"""Answers in place of the server; None lets it answer."""


class ScriptedServer:
    """Answers each prompt with " 4 five", or by what fits its JSON schema; a fault, where one is left, comes first.

    Attributes:
        faults: What happens to the next requests, one each.
        always: What happens to all others.
        bodies: Every request's JSON, in order.
        times: When each arrived, seconds.
        keys: Authorization headers that were seen.
        connections: Distinct client connections.
        in_flight, peak: Requests that are being answered, and the most at once.
        delay: Seconds until an answer.
        lacks: Fields of vLLM's that this server refuses or leaves out.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.bodies: list[dict] = []
        self.times: list[float] = []
        self.keys: set[str] = set()
        self.connections: set = set()
        self.in_flight = self.peak = 0
        self.delay = 0.0
        self.lacks: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._run(self._start())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def answered(self) -> Counter:
        """How often each prompt was sent."""
        return Counter(str(body.get("prompt") or body["messages"]) for body in self.bodies)

    def engine(self, **settings: Any) -> EndpointEngine:
        return EndpointEngine(MODEL, self.url, **settings)

    def close(self) -> None:
        """Idempotent."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._closing.set)
        self._run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _start(self) -> int:
        app = web.Application()
        app[CLOSING] = self._closing = asyncio.Event()
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        assert request.transport
        self.connections.add(request.transport.get_extra_info("peername"))
        self.keys.add(request.headers.get("Authorization", ""))
        self.bodies.append(await request.json())
        self.times.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.delay)
            fault = self.faults.pop(0) if self.faults else self.always
            answer = fault and await fault(request)
            return answer or web.json_response(self._completion(self.bodies[-1]))
        finally:
            self.in_flight -= 1

    def _completion(self, body: dict) -> dict:
        usage = {"prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 16}, "completion_tokens": 2}
        ids = (
            {}
            if "logprob_token_ids" in self.lacks
            else {f"token_id:{word}": -word / 8 for word in body.get("logprob_token_ids", ())}
        )
        text, tokens = " 4 five", [(" 4", -0.25), (" five", -0.5)]
        if "response_format" in body and "response_format" not in self.lacks:
            text, tokens = _fitting(body)
        if "messages" in body:
            content: list[dict] = [{"token": token, "logprob": logprob} for token, logprob in tokens]
            content[0] |= {"top_logprobs": [{"token": name, "logprob": value} for name, value in ids.items()]}
            logprobs = None if "logprobs" in self.lacks else {"content": content}
            choice: dict = {"message": {"role": "assistant", "content": text}}
        else:
            if body.get("echo") and "echo" not in self.lacks:
                words = re.findall(r"\s*\S+", body["prompt"])
                tokens = [("<s>", None), *((word, -len(word) / 8) for word in words), (" more", -0.5)]
                usage |= {"prompt_tokens": len(words) + 1, "prompt_tokens_details": {"cached_tokens": 1}}
            names, values = zip(*tokens, strict=True)
            logprobs = {"tokens": names, "token_logprobs": values, "top_logprobs": [ids]}
            choice = {"text": text}
            if body.get("return_token_ids") and "return_token_ids" not in self.lacks:
                choice["prompt_token_ids"] = [VOCABULARY[body["prompt"]], 99]
        return {"model": MODEL, "choices": [choice | {"finish_reason": "stop", "logprobs": logprobs}], "usage": usage}


def _fitting(body: dict) -> tuple[str, list[tuple[str, float]]]:
    """The text and its tokens."""
    prompt = body.get("prompt") or tuple((turn["role"], turn["content"]) for turn in body["messages"])
    schema = json.dumps(body["response_format"]["json_schema"]["schema"])
    request = GenerationRequest(prompt, SamplingParameters(json_schema=schema), Position("", 0))
    generation = answer_like_a_small_model(request)
    starts = (0, *generation.token_ends)
    tokens = [generation.text[start:end] for start, end in zip(starts, generation.token_ends, strict=False)]
    return generation.text, list(zip(tokens, generation.logprobs, strict=True))


def status(code: int, message: str = "no", **headers: str) -> Fault:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": message}}, status=code, headers=headers)

    return answer


def body(text: str, kind: str = "application/json") -> Fault:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type=kind)

    return answer


async def half_an_answer(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"choices": [{"text"')
    assert request.transport
    request.transport.close()
    return response


async def no_answer(request: web.Request) -> None:
    await request.app[CLOSING].wait()


@pytest.fixture(name="server")
def start_server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.close()

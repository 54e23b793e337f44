"""An engine that answers from a function: for tests, and for measuring everything else."""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import Any

from mpdf_rllib.engine.types import Generation, GenerationRequest


class ScriptedEngine:
    """Answers each request with what a function says, without any model.

    Attributes:
        requests: How many requests were made.
        peak_in_flight: The most that were in flight at once.
    """

    def __init__(
        self,
        respond: Callable[[GenerationRequest], str | Generation],
        delay: float = 0.0,
        max_num_seqs: int | None = None,
    ) -> None:
        """Makes an engine that has nothing to load.

        Args:
            respond: Gives the generation, or just its text: then one token a word, each of log-probability -0.5.
                For a scoring request a text gives each word, or each of a continuation, the log-probability -1.
            delay: Seconds until a request is answered.
            max_num_seqs: Requests that are answered at once, at least 1; all by default.
        """
        self.requests = 0
        self.peak_in_flight = 0
        self._respond = respond
        self._delay = delay
        self._slots = asyncio.Semaphore(max_num_seqs) if max_num_seqs else contextlib.nullcontext()
        self._in_flight = 0

    async def generate(self, request: GenerationRequest) -> Generation:
        """Answers one request."""
        self.requests += 1
        self._in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
        try:
            async with self._slots:
                await asyncio.sleep(self._delay)
            answer = self._respond(request)
        finally:
            self._in_flight -= 1
        return answer if isinstance(answer, Generation) else _generation(request, answer)

    async def close(self) -> None:
        """Does nothing: there is nothing to end."""


def _generation(request: GenerationRequest, text: str) -> Generation:
    prompt = request.prompt if isinstance(request.prompt, str) else " ".join(content for _, content in request.prompt)
    words = [] if request.scores else text.split()
    ends, end = [], 0
    for word in words:
        end = text.index(word, end) + len(word)
        ends.append(end)
    return Generation(
        text="" if request.scores else text,
        token_ids=tuple(range(len(words))),
        logprobs=(-0.5,) * len(words),
        token_ends=tuple(ends),
        finish_reason="score" if request.scores else "stop",
        prompt_tokens=len(prompt.split()),
        cached_tokens=0,
        generated_tokens=len(words),
        word_logprobs=(-1.0,) * len(request.score_words or request.continuation.split()),
    )


def answer_like_a_small_model(request: GenerationRequest) -> Generation:
    """Answers a prompt of the generated families as a small model would; a pure function of the request.

    It is right about every other time, in refinements somewhat more often, and more confident where it is right. What
    it is given a JSON schema for, it answers by a flat object of texts, integers and lists that fits.
    """
    digest = hashlib.sha256(repr(request).encode()).digest()
    luck, doubt = digest[0] / 256, digest[1] / 256
    prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[-1][1]
    query = prompt.rsplit("Q: ", 1)[-1]
    a, b = (int(number) for number in re.findall(r"\d+", query)[:2])
    operator = "*" if "each" in query else next((sign for sign in "*-+" if f" {sign} " in query), "+")
    answer = {"*": a * b, "-": a - b, "+": a + b}[operator]
    if request.score_words:
        right = f"= {answer}\n" in query
        p = 0.5 + (0.3 if right else -0.3) * doubt
        return dataclasses.replace(_generation(request, ""), word_logprobs=(math.log(p), math.log(1 - p)))
    if request.continuation:
        p = 0.5 + (0.3 if request.continuation.endswith(f"= {answer}") else -0.3) * doubt
        return dataclasses.replace(_generation(request, ""), word_logprobs=(math.log(p),))
    right = luck < (0.6 if request.position.depth else 0.5)
    said = answer if right else answer + 1 + digest[2] % 3
    confidence = -0.6 * doubt if right else -0.2 - 0.8 * doubt
    text = f" {a} {operator} {b} = {said}"
    if schema := request.sampling.json_schema:
        text = _fitting(json.loads(schema), text.strip(), str(said), math.exp(confidence))
    generation = _generation(request, text)
    return dataclasses.replace(generation, logprobs=(confidence,) * len(generation.logprobs))


def _fitting(schema: dict[str, Any], worked: str, answer: str, probability: float) -> str:
    """An object of the schema with the answer as its "answer"; what is to be counted or chosen goes by probability."""

    def value(name: str, part: dict[str, Any]) -> Any:
        if options := part.get("enum"):
            return answer if answer in options else options[min(int(probability * len(options)), len(options) - 1)]
        match part["type"]:
            case "array":
                return [value(name, part["items"])]
            case "integer":
                return part["minimum"] + round(probability * (part["maximum"] - part["minimum"]))
            case _:
                return (answer if name == "answer" else worked)[: part.get("maxLength")]

    return json.dumps({name: value(name, part) for name, part in schema["properties"].items()})

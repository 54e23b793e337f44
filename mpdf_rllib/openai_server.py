"""A trained team behind the OpenAI API, as a Ray Serve deployment."""

import asyncio
import dataclasses
import hmac
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from openai.types import CompletionUsage, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion_usage import PromptTokensDetails
from pydantic import BaseModel, Field
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mpdf_rllib.deliberation_team import DeliberationTeam
from mpdf_rllib.envs.credit import CreditKind
from mpdf_rllib.errors import ConfigError, DataError, EngineError, MPDFError
from mpdf_rllib.transcript import Transcript

API_KEY = "MPDF_API_KEY"
"""The environment variable that holds the key, where one is asked for."""
MAX_BYTES = 1 << 20
"""Of a request's body."""
_STATUS: dict[type[MPDFError], int] = {ConfigError: 404, DataError: 400, EngineError: 500}


class TextPart(BaseModel):
    """A part of a message; there are none but texts."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn of the chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """All that it says."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class ChatRequest(BaseModel):
    """What the team makes use of in a request; what else it says, such as how to sample, is the team's own to say.

    Attributes:
        model: One of `/v1/models`.
        messages: The last of the user's is the question.
        stream: Whether the answer comes as events, all of it in one, as there is none before the debate is over.
        n: One answer.
    """

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool = False
    n: Literal[1] = 1

    @property
    def question(self) -> str:
        """The last message of the user's.

        Raises:
            DataError: There is none.
        """
        asked = [message.text.strip() for message in self.messages if message.role == "user"]
        if not asked or not asked[-1]:
            raise DataError("messages: there is no question; let the last message of role user ask one")
        return asked[-1]


class Guard:
    """Lets in only requests with the key, where one is asked for, and of no more than `MAX_BYTES`."""

    def __init__(self, app: ASGIApp):
        """Guards an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or refuses it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        key, given = os.environ.get(API_KEY), dict(scope["headers"]).get(b"authorization", b"")
        if key and not hmac.compare_digest(given, f"Bearer {key}".encode()):
            return await _refusal(401, "Incorrect API key provided.", "invalid_api_key")(scope, receive, send)
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BYTES:
                raise HTTPException(413, f"The request is longer than {MAX_BYTES} bytes.")
            return message

        await self._app(scope, bounded, send)


api = FastAPI(title="mpdf-rllib")
api.add_middleware(Guard)


@api.exception_handler(HTTPException)
async def _tell_status(request: Request, error: HTTPException) -> Response:
    return _refusal(error.status_code, str(error.detail))


@api.exception_handler(RequestValidationError)
async def _tell_what_is_wrong(request: Request, error: RequestValidationError) -> Response:
    wrong = [f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()]
    return _refusal(400, "; ".join(wrong), "invalid_request")


@api.exception_handler(MPDFError)
async def _tell_error(request: Request, error: MPDFError) -> Response:
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    return _refusal(status, str(error))


def _refusal(status: int, message: str, code: str | None = None) -> JSONResponse:
    """An error as the OpenAI API tells it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)


def _models(team: DeliberationTeam) -> dict[str, str]:
    """By model's name its prompts: by the experiment's the first, and where it has several each by that and its own."""
    prompts, name = team.prompts, team.config.name
    return {name: prompts[0]} | ({f"{name}:{source}": source for source in prompts} if len(prompts) > 1 else {})


def _completion(debate: Transcript, model: str) -> dict[str, Any]:
    prompt, cached, generated = debate.tokens
    text = debate.said.text.strip() if debate.said else ""
    told = ChatCompletion.model_validate(
        {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": CompletionUsage(
                prompt_tokens=prompt,
                completion_tokens=generated,
                total_tokens=prompt + generated,
                prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
            ),
        }
    )
    trace = dataclasses.asdict(debate) | {"question": debate.question.text, "answer": debate.answer}
    return told.model_dump(exclude_none=True) | {"deliberation": trace}


def _events(completion: dict[str, Any]) -> Iterator[str]:
    (choice,) = completion["choices"]
    chunk = completion | {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": choice["message"], "finish_reason": choice["finish_reason"]}],
    }
    yield f"data: {ChatCompletionChunk.model_validate(chunk).model_dump_json(exclude_none=True)}\n\n"
    yield "data: [DONE]\n\n"


# Serve copies the class as it is defined: what it calls has to stand above it.
@serve.deployment(name="team")
@serve.ingress(api)
class TeamServer:
    """Answers questions that are asked at once at once, on one engine."""

    def __init__(
        self,
        run_path: str,
        credit: CreditKind | None,
        seed: int,
        overrides: Sequence[str],
        concurrency: int,
        asks_for_key: bool,
    ):
        """Loads the team and its models.

        Args:
            run_path: The run folder.
            credit: See `DeliberationTeam.from_run`, as for `seed` and `overrides`.
            seed: Of the policy.
            overrides: Of the run's config.
            concurrency: Questions that are debated at once.
            asks_for_key: Whether whoever started it expects the key to be asked for.

        Raises:
            ConfigError: The key is not in this process's environment.
            ConfigError, DataError, EngineError: The team cannot be loaded, or its models cannot.
        """
        if asks_for_key and not os.environ.get(API_KEY):
            raise ConfigError(f"{API_KEY}: it is set where the server was started, and not where it runs; set it there")
        self._team = DeliberationTeam.from_run(run_path, credit, seed, overrides)
        self._models = _models(self._team)
        self._pool = ThreadPoolExecutor(concurrency)
        self._started = int(time.time())
        self._dead: EngineError | None = None
        self._team.answer(["1 + 1"], next(iter(self._models.values())))

    def check_health(self) -> None:
        """What Serve asks from time to time, to start another where it fails.

        Raises:
            EngineError: The engine failed.
        """
        if self._dead:
            raise self._dead

    @api.get("/v1/models")
    def models(self) -> dict[str, Any]:
        """The team, once for each of its prompts."""
        told = [Model(id=name, created=self._started, object="model", owned_by="mpdf-rllib") for name in self._models]
        return {"object": "list", "data": [model.model_dump(exclude_none=True) for model in told]}

    @api.post("/v1/chat/completions")
    async def answer(self, request: ChatRequest) -> Response:
        """Debates a question; what happened stands in the answer's field `deliberation`."""
        if request.model not in self._models:
            raise ConfigError(f"model: there is none called {request.model}; give one of {', '.join(self._models)}")
        asked = [request.question], self._models[request.model]
        try:
            (debate,) = await asyncio.get_running_loop().run_in_executor(self._pool, self._team.answer, *asked)
        except EngineError as error:
            if self._team.config.engine.kind == "vllm":  # another replica would not mend an engine elsewhere
                self._dead = error
            raise
        completion = _completion(debate, request.model)
        if request.stream:
            return StreamingResponse(_events(completion), media_type="text/event-stream")
        return JSONResponse(completion)

"""Any OpenAI-compatible server, through the official client."""

import asyncio
import os
import time
from typing import TYPE_CHECKING

from mpdf_rllib.engine.check import fault_of
from mpdf_rllib.engine.endpoint_requests import Garbage, ask, first_token, not_continued, not_scored
from mpdf_rllib.engine.types import Generation, GenerationRequest
from mpdf_rllib.errors import ConfigError, EngineError, MPDFError, PromptError

if TYPE_CHECKING:
    from openai import OpenAIError

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
"""Seconds, as the client waits."""
_SHOWN = 200
"""Characters of what a server said."""
_REFUSED_KEY = (401, 403)
_NOT_FOUND = 404
_RETRIED = (408, 409, 429)
_SERVER_ERROR = 500


class EndpointEngine:
    """A model behind an OpenAI-compatible server.

    The client keeps its connections and asks again, with growing waits or after the server's Retry-After, what fails on
    its way: no connection, no answer in time, status 408, 409, 429 or 5xx. A Retry-After of more than two minutes ends
    that. What is no answer is asked again as often. All requests are to be made from one event loop.
    """

    def __init__(
        self,
        model: str,
        url: str,
        api_key_env: str | None = None,
        concurrency: int = 64,
        request_timeout_s: float = 600.0,
        retries: int = 8,
        patience_s: float = 0.0,
    ) -> None:
        """Connects to nothing yet.

        Args:
            model: Its name on the server.
            url: The server's base URL, such as http://127.0.0.1:8000/v1.
            api_key_env: Environment variable that holds the key, which is kept nowhere else; None where none is asked.
            concurrency: Requests in flight at most, at least 1.
            request_timeout_s: Seconds until a request that is not answered is asked again.
            retries: How often a request is asked again.
            patience_s: Seconds after a request's first failure in which it is asked again nevertheless, and also where
                the server does not know the model: for one that is still starting.

        Raises:
            ConfigError: The environment variable is not set, or holds what cannot be sent.
        """
        from openai import AsyncOpenAI

        self._model = model
        self._url = url
        self._api_key_env = api_key_env
        self._key = os.environ.get(api_key_env, "").strip() if api_key_env else "none"
        if not (self._key and self._key.isascii() and self._key.isprintable()):
            wrong = "holds characters that no key has" if self._key else "is not set"
            raise ConfigError(
                f"engine.api_key_env: the environment variable {api_key_env} {wrong}; put the key of {url} into it, "
                "in the environment of every process that asks."
            )
        self._client = AsyncOpenAI(api_key=self._key, base_url=url, timeout=request_timeout_s, max_retries=retries)
        self._retries = retries
        self._patience_s = patience_s
        self._slots = asyncio.Semaphore(concurrency)
        self._words: dict[str, asyncio.Task[int]] = {}

    async def generate(self, request: GenerationRequest) -> Generation:
        """Answers one request.

        Raises:
            ConfigError: The server refuses the key, does not know the model, or lacks what is asked for; or two score
                words start alike.
            PromptError: The server refuses the prompt, or withholds its answer.
            EngineError: It could not be reached, or failed, or answered what is no answer, more often than is allowed.
        """
        from openai import OpenAIError

        async with self._slots:
            failing_since, tries, wait = None, 0, _FIRST_WAIT
            while True:
                try:
                    return await self._asked(request)
                except (Garbage, OpenAIError) as error:
                    failing_since = failing_since or time.monotonic()
                    may_wait = time.monotonic() - failing_since < self._patience_s and not _is_refusal(error)
                    if not (may_wait or (isinstance(error, Garbage) and tries < self._retries)):
                        # Not as its cause, which holds the request with its headers, and what the server said of them.
                        raise self._explained(request, error) from None
                await asyncio.sleep(wait)
                tries, wait = tries + 1, min(2 * wait, _LONGEST_WAIT)

    async def _asked(self, request: GenerationRequest) -> Generation:
        generation = await ask(self._client, self._model, request, await self._word_ids(request.score_words))
        if fault := fault_of(request, generation):
            raise Garbage(fault)
        return generation

    async def close(self) -> None:
        """Closes all connections. Idempotent."""
        await self._client.close()

    async def _word_ids(self, words: tuple[str, ...]) -> list[int]:
        ids = [await self._word_id(word) for word in words]
        if len(set(ids)) < len(ids):
            raise ConfigError(
                f"score words {words} do not differ in their first tokens for this model: set team.critic=false."
            )
        return ids

    async def _word_id(self, word: str) -> int:
        task = self._words.get(word)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._words[word] = asyncio.ensure_future(first_token(self._client, self._model, word))
        return await asyncio.shield(task)

    def _explained(self, request: GenerationRequest, error: "Garbage | OpenAIError") -> MPDFError:
        from openai import APIStatusError

        failed = f"The server {self._url} failed on question {request.position.question!r}:"
        again = "What was answered before is recorded: the same command goes on there."
        if isinstance(error, Garbage):
            return EngineError(
                f"{failed} it answered as often as engine.retries allows what is no answer, at last "
                f"{self._shown(str(error))}. {again} "
                "Check that engine.url is the base URL of an OpenAI-compatible server."
            )
        if not isinstance(error, APIStatusError):
            cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
            return EngineError(f"{failed} {error}{cause} It was asked again as often as engine.retries allows. {again}")
        said = self._shown(error.message)
        if error.status_code in _REFUSED_KEY:
            key = f"the key in {self._api_key_env}" if self._api_key_env else "a request without a key"
            return ConfigError(f"engine.url: {self._url} refused {key} ({said}). Set engine.api_key_env and the key.")
        if error.status_code == _NOT_FOUND:
            return ConfigError(
                f"team.model: {self._url} does not know {self._model!r} ({said}). Give the name of a model that "
                "it serves as team.model, and its base URL, which mostly ends in /v1, as engine.url."
            )
        if not _is_refusal(error):
            return EngineError(
                f"{failed} {said}. It was asked again as often as engine.retries and its Retry-After allow. {again} "
                "Lower engine.concurrency where it is the server's limit."
            )
        if request.score_words and "token_ids" in error.message:
            return not_scored(self._model)
        if request.continuation and ("echo" in error.message or "logprobs" in error.message):
            return not_continued()
        if request.sampling.json_schema and "response_format" in error.message:
            return ConfigError(
                f"engine.url: answers that fit a JSON schema, as the agents' reports are to, are not supported by this "
                f"server for {self._model!r} ({said}), use vLLM 0.29 or newer (`vllm serve`, or "
                "engine={kind: serve}), or set team.self_report=false."
            )
        return PromptError(
            f"Question {request.position.question!r}: {self._url} refuses its prompt or the team's sampling "
            f"({said}). Shorten the prompt or the question, or take a model of a longer context."
        )

    def _shown(self, said: str) -> str:
        """The beginning of what a server said, without the key."""
        return (said.replace(self._key, "***") if self._api_key_env else said)[:_SHOWN]


def _is_refusal(error: "Garbage | OpenAIError") -> bool:
    """Whether the server would refuse the request again; it may not know a model yet that it is to serve."""
    status = getattr(error, "status_code", None)
    return status is not None and status < _SERVER_ERROR and status not in (_NOT_FOUND, *_RETRIED)

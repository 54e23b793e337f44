"""A model in the Ray Serve LLM application that all processes share."""

import asyncio
import dataclasses

from mpdf_rllib.engine.config import ServeConfig
from mpdf_rllib.engine.endpoint_engine import EndpointEngine
from mpdf_rllib.engine.event_loop import in_thread
from mpdf_rllib.engine.models import resolve_model
from mpdf_rllib.engine.types import Generation, GenerationRequest
from mpdf_rllib.engine.vllm_requests import without_template

_PATIENCE = 0.5
"""Of the engine's time limit, so that a request that keeps failing ends with what Serve said of it."""


class ServeEngine:
    """Asks the application, which the first request of all processes starts, through its OpenAI-compatible endpoint.

    A request whose replica dies is asked again until another replica has loaded the model, for half of
    `engine.timeout_s`. All requests are to be made from one event loop.
    """

    def __init__(self, model: str, config: ServeConfig) -> None:
        """Starts nothing yet.

        Args:
            model: The packaged model's name, a local folder that all nodes see, or a Hugging Face hub id.
            config: Replicas and engine arguments.
        """
        self._model = model
        self._config = config
        self._connecting: asyncio.Task[EndpointEngine] | None = None
        self._renders_chat = True

    async def generate(self, request: GenerationRequest) -> Generation:
        """Answers one request.

        Raises:
            ConfigError: Ray Serve LLM is not installed or refuses the settings, or two score words start alike.
            PromptError: The prompt is longer than the model's context.
            EngineError: The application could not be started or reached, or failed.
        """
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
        endpoint = await asyncio.shield(self._connecting)
        if not (self._renders_chat or isinstance(request.prompt, str)):
            request = dataclasses.replace(request, prompt=without_template(request.prompt))
        return await endpoint.generate(request)

    async def close(self) -> None:
        """Closes all connections; the application goes on serving others. Idempotent."""
        connecting, self._connecting = self._connecting, None
        if connecting is None:
            return
        if not connecting.done():
            connecting.cancel()
        elif not connecting.exception():
            await connecting.result().close()

    async def _connect(self) -> EndpointEngine:
        from mpdf_rllib.cluster import connect
        from mpdf_rllib.engine.serve_application import application_url, served_name

        connect()  # in the event loop's thread, which lasts: Ray's processes end with the thread that starts them
        resolved = await in_thread(lambda: resolve_model(self._model))
        self._renders_chat = resolved.chat_template
        url = await in_thread(lambda: application_url({self._model: resolved}, self._config))
        return EndpointEngine(
            served_name(self._model, resolved),
            url,
            concurrency=self._config.concurrency,
            request_timeout_s=self._config.timeout_s,
            patience_s=_PATIENCE * self._config.timeout_s,
        )

"""Several models, each with an engine of its own."""

import asyncio
from collections.abc import Callable, Mapping

from mpdf_rllib.engine.check import check_generation
from mpdf_rllib.engine.types import Engine, Generation, GenerationRequest


class ModelRouter:
    """Puts each request to its model's engine, which the first such request makes."""

    def __init__(self, makers: Mapping[str, Callable[[], Engine]]) -> None:
        """Makes no engine yet.

        Args:
            makers: What makes the engine of each model, by the model's name.
        """
        self._makers = makers
        self._engines: dict[str, Engine] = {}

    async def generate(self, request: GenerationRequest) -> Generation:
        """Answers one request.

        Raises:
            EngineError: The request failed although it was tried again, or what came is no answer.
        """
        engine = self._engines.get(request.model)
        if engine is None:
            engine = self._engines[request.model] = self._makers[request.model]()
        generation = await engine.generate(request)
        check_generation(request, generation)
        return generation

    async def close(self) -> None:
        """Ends all engines. Idempotent."""
        await asyncio.gather(*(engine.close() for engine in self._engines.values()))

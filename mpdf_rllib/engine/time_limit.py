"""A time limit on an engine that hangs."""

import asyncio

from mpdf_rllib.engine.types import Engine, Generation, GenerationRequest
from mpdf_rllib.errors import EngineError


class TimeLimitedEngine:
    """Gives up on another engine that has answered none of the requests in flight for too long.

    With continuous batching all requests are in flight at once, so that how long one of them takes tells nothing: the
    limit is on the time since anything was answered, or since the first request of an idle engine, which loads the
    model. All requests are to be made from one event loop.
    """

    def __init__(self, inner: Engine, seconds: float) -> None:
        """Limits `inner` to `seconds` without any answer."""
        self._inner = inner
        self._seconds = seconds
        self._waiting: set[asyncio.Timeout] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def generate(self, request: GenerationRequest) -> Generation:
        """Answers one request.

        Raises:
            EngineError: The other engine failed, or no request was answered within the limit.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._waiting.add(limit)
                if len(self._waiting) == 1:
                    self._begin_anew()
                generation = await self._inner.generate(request)
                self._begin_anew()
                return generation
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise EngineError(
                f"The engine hangs: it answered nothing for {self._seconds:g} s while it was asked question "
                f"{request.position.question!r} among others. What it answered before is recorded: the same command "
                "goes on there. Where the model is only slow to load or to answer, raise engine.timeout_s."
            ) from error
        finally:
            self._waiting.discard(limit)
            if not self._waiting:
                self._stop()

    async def close(self) -> None:
        """Ends the other engine."""
        await self._inner.close()

    def _begin_anew(self) -> None:
        self._stop()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._give_up)

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _give_up(self) -> None:
        while self._waiting:
            self._waiting.pop().reschedule(asyncio.get_running_loop().time())

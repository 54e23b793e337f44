"""A recording of generations: what was generated once is replayed for ever.

A generation is found by a key over all that determines its draw; of several with one key the one in the first file by
name wins (see `recording_files`).
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mpdf_rllib.engine.check import check_generation
from mpdf_rllib.engine.event_loop import in_thread
from mpdf_rllib.engine.recording_files import RecordingFolder, as_row, as_stored, request_key
from mpdf_rllib.engine.types import Engine, Generation, GenerationRequest
from mpdf_rllib.errors import DataError

FLUSH_EVERY = 512
"""Generations."""
FLUSH_SECONDS = 10.0


class NotRecordedError(DataError):
    """A generation is not in the recording, and nothing may make it."""


class RecordingEngine:
    """Replays recorded generations, and records those that another engine has to make.

    All requests are to be made from one event loop.

    Attributes:
        hits: Number of requests that were replayed.
        made: Number of generations made by the inner engine.
        made_tokens: Tokens generated for them.
    """

    def __init__(
        self,
        folder: str,
        fingerprint: str | Mapping[str, str],
        make_inner: Callable[[], Engine] | None,
        flush_every: int = FLUSH_EVERY,
        flush_seconds: float = FLUSH_SECONDS,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """Loads what is recorded.

        Args:
            folder: Path or fsspec URL; made by the first flush.
            fingerprint: The model's, or each model's by the name that requests give it. It is a part of every key:
                generations of other models in the folder are not replayed.
            make_inner: Makes the engine for what isn't recorded, on the first miss; None to replay only.
            flush_every: Number of new generations that are written at once.
            flush_seconds: How long a new generation waits at most until it is written.
            shard: (index, number of shards): requests are about questions that this shard owns; see `owner`.

        Raises:
            ConfigError: The folder cannot be opened.
        """
        self.hits = 0
        self.made = 0
        self.made_tokens = 0
        self._fingerprint = fingerprint
        self._folder = RecordingFolder(folder, shard)
        self._make_inner = make_inner
        self._inner: Engine | None = None
        self._flush_every = flush_every
        self._flush_seconds = flush_seconds
        self._making: dict[str, asyncio.Task[Generation]] = {}
        self._pending: list[dict[str, Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._failure: DataError | None = None
        self._new: dict[str, Generation] = {}
        self._recorded = self._folder.read()

    @property
    def skipped(self) -> list[str]:
        """Names of the files that could not be read; their generations are made again."""
        return self._folder.skipped

    async def generate(self, request: GenerationRequest) -> Generation:
        """Answers one request. Equal requests that are in flight together are made once.

        Raises:
            NotRecordedError: It isn't recorded and there is no inner engine.
            DataError: The recording could not be written.
            EngineError: The inner engine failed, or what it returned is no answer; nothing is recorded then.
        """
        key = request_key(self._fingerprint_of(request), request)
        if generation := self._new.get(key) or self._recorded.get(key):
            self.hits += 1
            return generation
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.ensure_future(self._make(key, request))
            task.add_done_callback(lambda _: self._making.pop(key))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Gives up what is in flight, writes what is not yet written and ends the inner engine. Idempotent.

        Raises:
            DataError: The recording could not be written.
        """
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            if self._flushing:
                await self._flushing
            await self._flush()
            if self._failure:
                raise self._failure
        finally:
            if self._inner:
                await self._inner.close()

    async def _make(self, key: str, request: GenerationRequest) -> Generation:
        if self._make_inner is None:
            raise NotRecordedError(
                f"Question {request.position.question!r}: a generation of it is not in the recording "
                f"{self._folder.url!r} ({request.position}). Record it by `python -m mpdf_rllib.record`."
            )
        if self._failure:
            raise self._failure
        if self._inner is None:
            self._inner = self._make_inner()
        generation = as_stored(await self._inner.generate(request))
        check_generation(request, generation)
        self.made += 1
        self.made_tokens += generation.generated_tokens
        self._new[key] = generation
        self._pending.append(as_row(key, self._fingerprint_of(request), request, generation))
        self._schedule_flush()
        return generation

    def _fingerprint_of(self, request: GenerationRequest) -> str:
        return self._fingerprint if isinstance(self._fingerprint, str) else self._fingerprint[request.model]

    def _schedule_flush(self) -> None:
        if self._failure or (self._flushing and not self._flushing.done()):
            return
        if len(self._pending) >= self._flush_every:
            self._start_flush()
        elif self._pending and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._flush_seconds, self._start_flush)

    def _start_flush(self) -> None:
        self._flushing = asyncio.ensure_future(self._flush())
        self._flushing.add_done_callback(lambda _: self._schedule_flush())

    async def _flush(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        async with self._writing:  # so that no row is written twice
            rows = self._pending[:]
            if not rows:
                return
            try:
                await in_thread(partial(self._folder.write, rows))
            except Exception as error:  # a remote file system has errors of its own
                only_read = isinstance(error, NotImplementedError)
                reason = "it can only be read" if only_read else str(error) or type(error).__name__
                self._failure = DataError(
                    f"The recording {self._folder.url!r} could not be written ({reason}): {len(rows)} new generations "
                    "are not in it, all earlier ones are. Make room or rights there and run the same command again."
                )
                self._failure.__cause__ = error
                return
            self._failure = None
            del self._pending[: len(rows)]

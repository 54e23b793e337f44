"""A recording of generations in Parquet files: what was generated once is replayed for ever.

A recording is a folder (any that fsspec opens) of files that are written once: a flush writes a new one under a
temporary name and renames it. Rows are found by a key over all that determines a draw; of rows with one key the first
file by name wins.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mpdf_rllib.engine.types import Engine, Generation, GenerationRequest
from mpdf_rllib.errors import ConfigError, DataError

_logger = logging.getLogger(__name__)

_INTEGERS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float32())
_GENERATION = {
    "text": pa.string(),
    "token_ids": _INTEGERS,
    "logprobs": _FLOATS,
    "token_ends": _INTEGERS,
    "finish_reason": pa.string(),
    "prompt_tokens": pa.int32(),
    "cached_tokens": pa.int32(),
    "generated_tokens": pa.int32(),
    "word_logprobs": _FLOATS,
}
_REQUEST = {
    "key": pa.string(),
    "fingerprint": pa.string(),
    "question": pa.string(),
    "root": pa.int32(),
    "sample": pa.int32(),
    "path": pa.list_(_INTEGERS),
    "prompt": pa.string(),
    "sampling": pa.string(),
    "score_words": pa.list_(pa.string()),
}
SCHEMA = pa.schema(_REQUEST | _GENERATION)
"""Columns of a recording file: the request (prompt and sampling as JSON) and the generation, field by field."""

_flushes = itertools.count()


class RecordingEngine:
    """Replays recorded generations, and records those that another engine has to make.

    All requests are to be made from one event loop.

    Attributes:
        fingerprint: Of the model whose generations these are.
        hits: Number of requests that were replayed.
        made: Number of generations made by the inner engine.
        skipped: Names of the files that could not be read; their generations are made again.
    """

    def __init__(
        self,
        folder: str,
        fingerprint: str,
        make_inner: Callable[[], Engine] | None,
        flush_every: int = 512,
        flush_seconds: float = 10.0,
    ) -> None:
        """Loads what is recorded.

        Args:
            folder: Path or fsspec URL; made by the first flush.
            fingerprint: A part of every key: generations of other models in the folder are not replayed.
            make_inner: Makes the engine for what isn't recorded, on the first miss; None to replay only.
            flush_every: Number of new generations that are written at once.
            flush_seconds: How long a new generation waits at most until it is written.

        Raises:
            ConfigError: The folder cannot be opened.
        """
        self.fingerprint = fingerprint
        self.hits = 0
        self.made = 0
        self.skipped: list[str] = []
        self._folder = folder
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
        self._files, self._root = _open(folder)
        self._known = self._load()

    async def generate(self, request: GenerationRequest) -> Generation:
        """Answers one request. Equal requests that are in flight together are made once.

        Raises:
            DataError: It isn't recorded and there is no inner engine, or the recording could not be written.
            EngineError: The inner engine failed; nothing is recorded then.
        """
        key = request_key(self.fingerprint, request)
        if generation := self._known.get(key):
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
            raise DataError(
                f"Question {request.position.question!r}: a generation of it is not in the recording "
                f"{self._folder!r} ({request.position}). Record it by `python -m mpdf_rllib.record`."
            )
        if self._failure:
            raise self._failure
        if self._inner is None:
            self._inner = self._make_inner()
        generation = _as_stored(await self._inner.generate(request))
        self.made += 1
        self._known[key] = generation
        self._pending.append(_row(key, self.fingerprint, request, generation))
        self._schedule_flush()
        return generation

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
                await asyncio.to_thread(self._write, rows)
            except (OSError, pa.ArrowException) as error:
                self._failure = DataError(
                    f"The recording {self._folder!r} could not be written ({error}): {len(rows)} new generations are "
                    "not in it, all earlier ones are. Make room or rights there and run the same command again."
                )
                return
            self._failure = None
            del self._pending[: len(rows)]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self._files.makedirs(self._root, exist_ok=True)
        name = f"{time.time_ns():020d}-{os.getpid()}-{next(_flushes)}"
        temporary, final = f"{self._root}/.{name}.tmp", f"{self._root}/{name}.parquet"
        try:
            with self._files.open(temporary, "wb") as stream:
                pq.write_table(pa.Table.from_pylist(rows, SCHEMA), stream)
            self._files.mv(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                self._files.rm(temporary)
            raise

    def _load(self) -> dict[str, Generation]:
        known: dict[str, Generation] = {}
        there = self._files.ls(self._root, detail=False) if self._files.exists(self._root) else []
        for path in sorted(path for path in there if _is_recording(path)):
            try:
                with self._files.open(path, "rb") as stream:
                    for key, generation in _rows(pq.ParquetFile(stream).read(["key", *_GENERATION])):
                        known.setdefault(key, generation)
            except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
                name = path.rsplit("/", 1)[-1]
                self.skipped.append(name)
                _logger.warning(
                    "Recording %s: skipped %s, which cannot be read (%s); what it alone holds is made again.",
                    self._folder,
                    name,
                    str(error).splitlines()[0] if str(error) else type(error).__name__,
                )
        return known


def _is_recording(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name.endswith(".parquet") and not name.startswith(".")


def request_key(fingerprint: str, request: GenerationRequest) -> str:
    """SHA-256, in hexadecimal, over all that determines a draw: model, prompt, sampling (or score words), position."""
    content = (
        fingerprint,
        request.prompt,
        None if request.score_words else _sampling(request),
        dataclasses.astuple(request.position),
        request.score_words,
    )
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def owner(question_id: str, shards: int) -> int:
    """Which of `shards` processes owns a question: in 0 .. shards - 1, the same in every process and run."""
    return int.from_bytes(hashlib.sha256(question_id.encode()).digest()[:8]) % shards


def _sampling(request: GenerationRequest) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "max_tokens": int(sampling.max_tokens),
        "stop": list(sampling.stop),
    }


def _as_stored(generation: Generation) -> Generation:
    """The generation as it reads back: log-probabilities are stored in single precision."""
    return dataclasses.replace(
        generation, logprobs=_single(generation.logprobs), word_logprobs=_single(generation.word_logprobs)
    )


def _single(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float32).tolist())


def _row(key: str, fingerprint: str, request: GenerationRequest, generation: Generation) -> dict[str, Any]:
    return {
        "key": key,
        "fingerprint": fingerprint,
        **dataclasses.asdict(request.position),
        "prompt": json.dumps(request.prompt),
        "sampling": json.dumps(_sampling(request)),
        "score_words": request.score_words,
        **vars(generation),
    }


def _rows(table: pa.Table) -> Iterator[tuple[str, Generation]]:
    if table.schema.names != ["key", *_GENERATION]:
        raise ValueError("it has other columns")
    keys, *fields = (_values(table.column(name)) for name in table.schema.names)
    for key, *values in zip(keys, *fields, strict=True):
        yield key, Generation(*values)


def _values(column: pa.ChunkedArray) -> list[Any]:
    array = column.combine_chunks()
    if not pa.types.is_list(array.type):
        return array.to_pylist()
    flat = array.flatten().to_numpy().tolist()
    bounds = array.offsets.to_numpy().tolist()
    first = bounds[0] if bounds else 0
    return [tuple(flat[start - first : end - first]) for start, end in itertools.pairwise(bounds)]


def _open(folder: str) -> tuple[Any, str]:
    try:
        files, root = fsspec.core.url_to_fs(folder)
        if files.exists(root) and not files.isdir(root):
            raise OSError("it is a file")
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(
            f"The recording {folder!r} cannot be opened: {error}. "
            "Give a folder, or a URL whose fsspec package is installed."
        ) from error
    return files, root.rstrip("/")

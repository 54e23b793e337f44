"""The files of a recording: their format, how they are written whole, and how damaged ones are found out.

A file is written once, under a temporary name, and renamed; in an object store, whose puts are whole or nothing, it is
put there at once. Its final name tells when it was written, which shard of the questions it is about, and the digest of
its contents, so that no flipped bit is read as another answer. What a killed process leaves under a temporary name is
never read, and never removed: another process may be writing it.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mpdf_rllib.engine.types import Generation, GenerationRequest
from mpdf_rllib.errors import ConfigError

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
    "continuation": pa.string(),
}
SCHEMA = pa.schema(_REQUEST | _GENERATION)
"""Columns of a recording file: the request (prompt and sampling as JSON) and the generation, field by field."""

_READ = pa.schema([SCHEMA.field(name) for name in ("question", "key", *_GENERATION)])

_WRITTEN = re.compile(r"\d{20}-\d+-\d+(?:-(?P<shard>\d+)of(?P<shards>\d+))?-(?P<digest>[0-9a-f]{16})\.parquet")

_OBJECT_STORES = {"s3", "gs"}
"""By fsspec's names of their protocols."""

_FETCHED_AT_ONCE, _FETCHED_AHEAD = 16, 64
"""Files of a recording, while it is read."""

_written = itertools.count()


class RecordingFolder:
    """The folder of a recording, local or any other that fsspec opens; several processes may write there at once.

    Attributes:
        url: Its path or fsspec URL, as given.
        skipped: Names of the files that `read` could not use.
    """

    def __init__(self, url: str, shard: tuple[int, int] = (0, 1)) -> None:
        """Opens the folder, which need not exist yet.

        Args:
            url: Path or fsspec URL.
            shard: (index, number of shards): only questions that it owns are written and read. Files that by their
                names hold none of them are not opened.

        Raises:
            ConfigError: It cannot be opened.
        """
        self.url = url
        self.skipped: list[str] = []
        self._shard = shard
        with _opening(url):
            self._files, root = fsspec.core.url_to_fs(url)
            self._root = root.rstrip("/")
            named = self._files.protocol
            protocols = {named} if isinstance(named, str) else {*named}
            self._is_object_store = bool(_OBJECT_STORES & protocols)
            try:
                if self._files.info(root)["type"] != "directory":
                    raise OSError("it is a file")
            except FileNotFoundError:
                if "s3" in protocols:
                    self._see_bucket()

    def _see_bucket(self) -> None:
        bucket = self._root.partition("/")[0]
        try:
            self._files.info(bucket)
        except FileNotFoundError as error:
            raise OSError(f"there is no bucket {bucket!r}") from error
        except PermissionError:
            pass  # rights may begin below it

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Writes rows of `SCHEMA` as a new file, whole or not at all.

        Raises:
            Exception: It could not be written; file systems have errors of their own.
            NotImplementedError: Such URLs can only be read.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink)
        contents = sink.getvalue().to_pybytes()
        shard = "-{}of{}".format(*self._shard) if self._shard[1] > 1 else ""
        name = f"{time.time_ns():020d}-{os.getpid()}-{next(_written)}{shard}-{_digest(contents)}"
        temporary, final = f"{self._root}/.{name}.tmp", f"{self._root}/{name}.parquet"
        if self._is_object_store:
            self._files.pipe_file(final, contents)
            return
        self._files.makedirs(self._root, exist_ok=True)
        try:
            with self._files.open(temporary, "wb") as stream:
                stream.write(contents)
            self._files.mv(temporary, final)
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.rm(temporary)
            raise

    def read(self) -> "Generations":
        """All generations by key; of several with one key the one in the first file by name.

        Files that are damaged or none of a recording are logged and skipped. Files of other names than `write` gives,
        copied together by hand for instance, have no digest to be checked against.

        Raises:
            ConfigError: What is there cannot be listed or fetched.
        """
        known = Generations()
        with _opening(self.url):
            self._files.invalidate_cache()  # other processes write here too
            try:
                there = self._files.ls(self._root, detail=False)
            except FileNotFoundError:  # fsspec's `exists` takes any error for it
                there = []
        paths = [path for path in sorted(there) if _is_recording(path) and self._may_concern(_name(path))]
        for path, contents in self._fetched(paths):
            name = _name(path)
            written = _WRITTEN.fullmatch(name)
            try:
                if written and written["digest"] != _digest(contents):
                    raise ValueError("it is not what was written: cut short, or changed since")
                table = pq.ParquetFile(pa.BufferReader(contents)).read(_READ.names)
                if table.schema.names != _READ.names:
                    raise ValueError("it has other columns")
                known.add(self._owned(table.cast(_READ)))
            except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
                self.skipped.append(name)
                _logger.warning(
                    "Recording %s: skipped %s, which cannot be read (%s); what it alone holds is made again.",
                    self.url,
                    name,
                    str(error).splitlines()[0] if str(error) else type(error).__name__,
                )
        return known

    def _may_concern(self, name: str) -> bool:
        """Whether a file may hold a question of this shard, also where it was written for one of another division."""
        written = _WRITTEN.fullmatch(name)
        if not written or not written["shards"]:
            return True
        index, number = self._shard
        return (index - int(written["shard"])) % math.gcd(number, int(written["shards"])) == 0

    def _fetched(self, paths: list[str]) -> Iterator[tuple[str, bytes]]:
        """Paths and contents in the order given, several fetched at once: an object store takes its time for each."""
        with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
            for start in range(0, len(paths), _FETCHED_AHEAD):
                ahead = paths[start : start + _FETCHED_AHEAD]
                fetched = pool.map(self._files.cat_file, ahead)
                for path in ahead:
                    with _opening(self.url):
                        contents = next(fetched)
                    yield path, contents

    def _owned(self, table: pa.Table) -> pa.Table:
        """The table without the rows about other shards' questions, and without the column of questions."""
        index, number = self._shard
        if number > 1:
            table = table.filter(
                pa.array([owner(question, number) == index for question in table["question"].to_pylist()])
            )
        return table.drop_columns("question")


def owner(question_id: str, shards: int) -> int:
    """Which of `shards` processes owns a question: in 0 .. shards - 1, the same in every process and run."""
    return int.from_bytes(hashlib.sha256(question_id.encode()).digest()[:8]) % shards


def request_key(fingerprint: str, request: GenerationRequest) -> str:
    """SHA-256, in hexadecimal, over what determines a draw: model, prompt, sampling (or what is scored), position."""
    content = (
        fingerprint,
        request.prompt,
        None if request.scores else _sampling(request),
        [*vars(request.position).values()],
        request.score_words,
        *([request.continuation] if request.continuation else []),
    )
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def _sampling(request: GenerationRequest) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "temperature": float(sampling.temperature),
        "top_p": float(sampling.top_p),
        "max_tokens": int(sampling.max_tokens),
        "stop": list(sampling.stop),
        **({} if sampling.json_schema is None else {"json_schema": sampling.json_schema}),
    }


def as_stored(generation: Generation) -> Generation:
    """The generation as it reads back: log-probabilities are stored in single precision."""
    return dataclasses.replace(
        generation, logprobs=_single(generation.logprobs), word_logprobs=_single(generation.word_logprobs)
    )


def _single(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(np.asarray(values, np.float32).tolist())


def as_row(key: str, fingerprint: str, request: GenerationRequest, generation: Generation) -> dict[str, Any]:
    """The row of `SCHEMA` that holds a generation."""
    return {
        "key": key,
        "fingerprint": fingerprint,
        **dataclasses.asdict(request.position),
        "prompt": json.dumps(request.prompt),
        "sampling": json.dumps(_sampling(request)),
        "score_words": request.score_words,
        "continuation": request.continuation,
        **vars(generation),
    }


class Generations(Mapping[str, Generation]):
    """Generations by key, left in the arrays that they were read into: as Python's own numbers they take far more."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[list[Callable[[int], Any]], int]] = {}

    def add(self, table: pa.Table) -> None:
        """Adds rows of the columns key and Generation's fields, but for those whose keys are there."""
        keys, *columns = (column.combine_chunks() for column in table.columns)
        if keys.null_count:
            raise ValueError("it has gaps")
        fields = [_by_row(column) for column in columns]
        for row, key in enumerate(keys.to_pylist()):
            self._places.setdefault(key, (fields, row))

    def __getitem__(self, key: str) -> Generation:
        fields, row = self._places[key]
        return Generation(*(field(row) for field in fields))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _by_row(array: pa.Array) -> Callable[[int], Any]:
    """What gives the value in a row: a text, a number, or a tuple of numbers."""
    lists = pa.types.is_list(array.type)
    flat = array.flatten() if lists else array
    if array.null_count or flat.null_count:
        raise ValueError("it has gaps")
    if not lists:
        return lambda row: array[row].as_py()
    numbers, ends = array.values.to_numpy(), array.offsets.to_numpy()
    return lambda row: tuple(numbers[ends[row] : ends[row + 1]].tolist())


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _is_recording(path: str) -> bool:
    return _name(path).endswith(".parquet") and not _name(path).startswith(".")


def _digest(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()[:16]


@contextlib.contextmanager
def _opening(folder: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a remote file system has errors of its own
        raise ConfigError(
            f"The recording {folder!r} cannot be opened: {error}. "
            "Give a folder that you may read, or a URL whose fsspec package is installed: "
            "mpdf-rllib[s3] has that of s3://, mpdf-rllib[gcs] that of gs://."
        ) from error

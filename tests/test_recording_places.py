"""Places that are full, may not be read or written, or are none."""

import asyncio
import dataclasses
import itertools
import threading
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from recording_fixtures import ODD, echo, make_request, record, replay, requests_of

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.engine import RecordingEngine, run
from mpdf_rllib.engine.recording_files import RecordingFolder, as_row
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.errors import ConfigError, DataError
from mpdf_rllib.recording_pipeline import _Recorder


class Closed(ScriptedEngine):
    """Counts how many times it was closed."""

    times = 0

    async def close(self) -> None:
        self.times += 1


class FullDisk(MemoryFileSystem):
    """Takes what it is given until `room` is false, then half of it."""

    protocol = "fulldisk"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    room = True
    error: Exception = OSError(28, "No space left on device")

    def open(self, path: str, mode: str = "rb", **settings: Any) -> Any:
        file = super().open(path, mode, **settings)
        if "w" in mode and not self.room:
            file.write(b"PAR1")
            file.close()
            raise self.error
        return file


def test_a_full_disk_is_one_clear_error_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("fulldisk", FullDisk, clobber=True)
    record("fulldisk://recording", requests_of(3), ScriptedEngine(echo))
    before = dict(FullDisk.store)
    monkeypatch.setattr(FullDisk, "room", False)
    closed = Closed(echo)
    with pytest.raises(DataError, match=r"fulldisk://recording.*No space left.*2 new generations"):
        record("fulldisk://recording", requests_of(5), closed)
    assert closed.times == 1
    assert FullDisk.store == before
    monkeypatch.setattr(FullDisk, "room", True)
    again = ScriptedEngine(echo)
    record("fulldisk://recording", requests_of(5), again)
    assert again.requests == 2


def test_a_place_that_can_only_be_read_is_one_clear_error() -> None:
    class ReadOnly(MemoryFileSystem):
        protocol = "readonly"

        def open(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError  # as for http

    fsspec.register_implementation("readonly", ReadOnly, clobber=True)
    with pytest.raises(DataError, match=r"readonly://recording.*it can only be read"):
        record("readonly://recording", requests_of(1), ScriptedEngine(echo))


class Refused(Exception):
    """What a remote file system may raise: no OSError."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Refused("No space left in the bucket")])
def test_after_a_failed_flush_no_more_is_made(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def job() -> int:
        inner = ScriptedEngine(echo)
        engine = RecordingEngine("fulldisk://other", "model", lambda: inner, flush_every=1)
        async with asyncio.timeout(20):
            with pytest.raises(DataError, match="No space left"):
                for i in itertools.count():
                    await engine.generate(make_request(f"q{i}"))
                    await asyncio.sleep(0.001)
        made = inner.requests
        monkeypatch.setattr(FullDisk, "room", True)
        await engine.close()
        return made

    fsspec.register_implementation("fulldisk", FullDisk, clobber=True)
    monkeypatch.setattr(FullDisk, "room", False)
    monkeypatch.setattr(FullDisk, "error", error)
    FullDisk.store.clear()
    made = run(job())
    assert len(replay("fulldisk://other", requests_of(made))) == made


@pytest.mark.parametrize("folder", ["nosuch://place", "file-in-its-place"])
def test_a_folder_that_cannot_be_opened(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file-in-its-place").touch()
    with pytest.raises(ConfigError, match=folder.split(":")[0]):
        RecordingEngine(folder if "://" in folder else str(tmp_path / folder), "model", None)


class Locked(MemoryFileSystem):
    """A folder that may be seen but not read."""

    protocol = "locked"

    def info(self, path: str, **settings: Any) -> Any:
        return {"name": path, "type": "directory"}

    def ls(self, path: str, **settings: Any) -> Any:
        raise PermissionError(13, "Permission denied")


class Stale(MemoryFileSystem):
    """A network's folder that is gone for now; fsspec's own `exists` says that there is none."""

    protocol = "stale"

    def info(self, path: str, **settings: Any) -> Any:
        raise OSError(116, "Stale file handle")


@pytest.mark.parametrize(("place", "reason"), [(Locked, "Permission denied"), (Stale, "Stale file handle")])
def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(place: type, reason: str) -> None:
    fsspec.register_implementation(place.protocol, place, clobber=True)
    with pytest.raises(ConfigError, match=rf"'{place.protocol}://recording' cannot be opened: .*{reason}.*may read"):
        RecordingEngine(f"{place.protocol}://recording", "model", None)


class Together(MemoryFileSystem):
    """Hands out a file only when four are asked for at once."""

    protocol = "together"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    four = threading.Barrier(4, timeout=30)

    def cat_file(self, path: str, **settings: Any) -> Any:
        self.four.wait()
        return super().cat_file(path, **settings)


def test_files_are_fetched_several_at_once_and_the_first_of_them_still_wins() -> None:
    fsspec.register_implementation("together", Together, clobber=True)
    folder = RecordingFolder("together://recording")
    for text in map(str, range(8)):
        folder.write([as_row("key", "model", make_request(), dataclasses.replace(ODD, text=text))])
    assert [generation.text for generation in folder.read().values()] == ["0"]


def test_listing_a_slow_place_does_not_hold_up_the_shards_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExperimentConfig.model_validate(
        {
            "name": "small",
            "recording": str(tmp_path),
            "questions": {"families": ["addition"], "train": 10, "test": 1},
            "engine": {"kind": "scripted"},
        }
    )
    places: list[str] = []
    read = RecordingFolder.read

    def listening(folder: RecordingFolder) -> Any:
        places.append(threading.current_thread().name)
        return read(folder)

    monkeypatch.setattr(RecordingFolder, "read", listening)
    questions = [question.id for question in config.questions_of("train")]
    _Recorder(config, 1)(pa.table({"shard": [0], "train": [questions], "test": [[]]}))
    assert places and "mpdf-event-loop" not in places

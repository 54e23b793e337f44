"""No damage to a recording's files is read as another answer."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_rllib.engine import Generation, GenerationRequest, Position, RecordingEngine, SamplingParameters, run
from mpdf_rllib.engine.recording_files import SCHEMA, RecordingFolder
from mpdf_rllib.engine.scripted import ScriptedEngine

REQUESTS = [GenerationRequest("2 + 3 =", SamplingParameters(max_tokens=14), Position(f"q{i}", 0)) for i in range(5)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, bytes, dict[str, Generation]]:
    """A recording of one file, its contents, and what is read of it."""
    folder = tmp_path_factory.mktemp("recorded")
    make(folder, REQUESTS)
    (file,) = folder.iterdir()
    return file, file.read_bytes(), RecordingFolder(str(folder)).read()


def make(folder: Path, requests: list[GenerationRequest]) -> int:
    """Records, and tells how many generations had to be made."""
    inner = ScriptedEngine(lambda request: f"answer to {request.position.question}")

    async def job() -> None:
        engine = RecordingEngine(str(folder), "model", lambda: inner)
        for request in requests:
            await engine.generate(request)
        await engine.close()

    run(job())
    return inner.requests


def read(file: Path, contents: bytes) -> tuple[dict[str, Generation], list[str]]:
    file.write_bytes(contents)
    folder = RecordingFolder(str(file.parent))
    return folder.read(), folder.skipped


@settings(deadline=None, max_examples=500)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_found_out(recorded, data):
    file, contents, _ = recorded
    place = data.draw(st.integers(0, len(contents) - 1), "byte")
    flipped = contents[place] ^ 1 << data.draw(st.integers(0, 7), "bit")
    assert read(file, contents[:place] + bytes([flipped]) + contents[place + 1 :]) == ({}, [file.name])


@settings(deadline=None)
@given(data=st.data())
def test_a_file_cut_short_anywhere_or_with_something_behind_it_is_found_out(recorded, data):
    file, contents, known = recorded
    length = data.draw(st.integers(0, len(contents) - 1), "length")
    assert read(file, contents[:length]) == ({}, [file.name])
    assert read(file, contents + data.draw(st.binary(min_size=1), "behind it")) == ({}, [file.name])
    assert read(file, contents) == (known, [])


def test_what_was_damaged_is_made_again_and_all_else_is_kept(tmp_path, caplog):
    make(tmp_path, REQUESTS[:3])
    (damaged,) = tmp_path.iterdir()
    make(tmp_path, REQUESTS)
    contents = bytearray(damaged.read_bytes())
    contents[len(contents) // 3] ^= 1
    damaged.write_bytes(contents)

    assert make(tmp_path, REQUESTS) == 3
    assert damaged.name in caplog.text and str(tmp_path) in caplog.text
    engine = RecordingEngine(str(tmp_path), "model", None)
    assert [run(engine.generate(request)).text for request in REQUESTS] == [f"answer to q{i}" for i in range(5)]
    assert damaged.read_bytes() == contents


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty", ""),
        ("text", ""),
        ("half", ""),
        ("other columns", "it has other columns"),
        ("other types", ""),
        ("nulls", "it has gaps"),
        ("nulls in a list", "it has gaps"),
    ],
)
def test_files_of_other_names_are_read_where_they_hold_a_recording(recorded, tmp_path, name, said, caplog):
    _, contents, known = recorded
    (tmp_path / "by hand.parquet").write_bytes(contents)
    other = tmp_path / f"{name}.parquet"
    other.write_bytes({"empty": b"", "text": b"not Parquet\n" * 100}.get(name, contents[: len(contents) // 2]))
    columns = {field.name: pa.nulls(1, field.type) for field in SCHEMA}
    match name:
        case "other columns":
            pq.write_table(pa.table({"x": [1, 2]}), other)
        case "other types":
            table = pq.read_table(pa.BufferReader(contents))
            place = table.schema.get_field_index("prompt_tokens")
            keys, many = pa.array(list("abcde")), pa.array(["many"] * 5)
            pq.write_table(table.set_column(place, "prompt_tokens", many).set_column(0, "key", keys), other)
        case "nulls":
            pq.write_table(pa.table(columns | {"key": ["k"]}), other)
        case "nulls in a list":
            table = pq.read_table(pa.BufferReader(contents))
            rows = [row | {"key": f"k{i}", "token_ids": [None]} for i, row in enumerate(table.to_pylist())]
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), other)
    folder = RecordingFolder(str(tmp_path))
    assert folder.read() == known
    assert folder.skipped == [other.name] and other.name in caplog.text and said in caplog.text

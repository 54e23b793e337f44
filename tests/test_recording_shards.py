"""Recordings in shards: what each reads, and that together they are the whole."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recording_fixtures import always, requests_of

from mpdf_rllib.engine import GenerationRequest, RecordingEngine, generate_many, run
from mpdf_rllib.engine.recording import NotRecordedError
from mpdf_rllib.engine.recording_files import owner
from mpdf_rllib.recording_pipeline import number_of_shards

REQUESTS = requests_of(60)
Shard = tuple[int, int]


def owned(shard: Shard) -> list[GenerationRequest]:
    return [request for request in REQUESTS if owner(request.position.question, shard[1]) == shard[0]]


def record_in(folder: Path, shard: Shard) -> None:
    async def job() -> None:
        engine = RecordingEngine(str(folder), "model", lambda: always("yes"), shard=shard)
        await generate_many(engine, owned(shard))
        await engine.close()

    run(job())


def readable(folder: Path, shard: Shard) -> set[str]:
    recording = RecordingEngine(str(folder), "model", None, shard=shard)

    async def is_there(request: GenerationRequest) -> bool:
        try:
            return bool(await recording.generate(request))
        except NotRecordedError:
            return False

    return {request.position.question for request in REQUESTS if run(is_there(request))}


@pytest.fixture(scope="module")
def in_eight(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recording")
    for index in range(8):
        record_in(folder, (index, 8))
    return folder


@pytest.mark.parametrize("number", [1, 2, 3, 4, 8, 12, 16])
def test_every_division_reads_its_own_questions_out_of_every_other(in_eight, number):
    for index in range(number):
        shard = (index, number)
        assert readable(in_eight, shard) == {request.position.question for request in owned(shard)}


def test_files_without_a_question_of_the_shard_are_not_opened(in_eight):
    files = sorted(in_eight.glob("*.parquet"))
    assert len(files) == 8
    for file in files:
        if "-3of8-" not in file.name:
            file.rename(file.with_suffix(".whole"))
            file.write_text("none of a recording")
    try:
        recording = RecordingEngine(str(in_eight), "model", None, shard=(3, 8))
        assert recording.skipped == []
        assert readable(in_eight, (11, 16)) == {request.position.question for request in owned((11, 16))}
    finally:
        for file in in_eight.glob("*.whole"):
            file.rename(file.with_suffix(".parquet"))


@given(st.integers(1, 2_000_000), st.integers(1, 2_000_000))
def test_each_shard_of_more_questions_lies_in_one_of_fewer(some, more):
    coarse, fine = sorted((number_of_shards(some), number_of_shards(more)))
    assert fine % coarse == 0


@given(st.integers(1, 2_000_000))
def test_a_shard_has_no_more_questions_than_a_worker_has_at_hand_twice(questions):
    assert questions / number_of_shards(questions) <= 2 * 64

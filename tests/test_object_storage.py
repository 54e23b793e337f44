"""Recordings in an object store, of which a local server of S3 takes the place."""

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from moto.server import ThreadedMotoServer
from process_fixtures import CONFIG, ENVIRONMENT, REPOSITORY, TIMEOUT, Experiment
from recording_fixtures import echo, make_request, record, replay, requests_of

from mpdf_rllib.engine import RecordingEngine, run
from mpdf_rllib.engine.recording_files import RecordingFolder
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.errors import ConfigError, DataError

BUCKET = "recordings"
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "2",  # a server that is down is given up soon
}
MANY = CONFIG | {
    "questions": CONFIG["questions"] | {"train": 100, "test": 100},
    # Each of the four depths of the trees takes a second, and the first answers alone fill a file.
    "engine": {"kind": "scripted", "args": {"delay": 1.0}},
}
GENERATIONS = 200 * 12 + 100 * 3


class Store:
    """A server of S3 that can be down for a while, at a port that it keeps."""

    def __init__(self) -> None:
        self._port = 0
        self.start()
        self.settings = SETTINGS | {"AWS_ENDPOINT_URL": f"http://localhost:{self._port}"}

    def start(self) -> None:
        self._server = ThreadedMotoServer("localhost", self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    store = Store()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in store.settings.items():
            environment.setenv(name, value)
        client().create_bucket(Bucket=BUCKET)
        yield store
    store.stop()


def client() -> Any:
    return boto3.client("s3")


def files(name: str) -> dict[str, bytes]:
    """What lies in a folder of the bucket, by name."""
    listed = client().list_objects_v2(Bucket=BUCKET, Prefix=f"{name}/").get("Contents", [])
    return {
        entry["Key"].removeprefix(f"{name}/"): client().get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
        for entry in listed
    }


@contextlib.contextmanager
def denied(action: str, bucket: str = BUCKET) -> Iterator[None]:
    """Within, the store lets nobody do such a thing to what lies in the bucket."""
    deny = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": f"arn:aws:s3:::{bucket}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    client().put_bucket_policy(Bucket=bucket, Policy=policy)
    try:
        yield
    finally:
        client().delete_bucket_policy(Bucket=bucket)


class RemoteExperiment(Experiment):
    """One whose recording lies in the bucket, under the name of its folder."""

    def __init__(self, folder: Path, config: dict[str, Any], store: Store) -> None:
        super().__init__(folder, config)
        self.name = folder.name
        self.recording = f"s3://{BUCKET}/{self.name}"
        self._environment = ENVIRONMENT | store.settings

    def recorded(self) -> dict[str, bytes]:
        return files(self.name)

    def recorded_keys(self) -> list[str]:
        tables = [pq.read_table(pa.BufferReader(contents)) for contents in self.recorded().values()]
        return [key for table in tables for key in table["key"].to_pylist()]


@pytest.mark.parametrize("place", [f"s3://{BUCKET}/back", f"s3://{BUCKET}/a/b/c", "file://{}/back", "memory://back"])
def test_what_is_recorded_reads_back_and_is_not_made_again(store: Store, tmp_path: Path, place: str) -> None:
    url = place.format(tmp_path)
    generations = record(url, requests_of(5), ScriptedEngine(echo), flush_every=2)
    assert [generation.text for generation in generations] == [f"answer to q{i}" for i in range(5)]
    assert replay(url, requests_of(5)) == generations
    again = ScriptedEngine(echo)
    assert record(url, requests_of(7), again)[:5] == generations
    assert again.requests == 2


def test_a_bucket_may_be_the_recording_and_nothing_need_be_deleted_there(store: Store) -> None:
    client().create_bucket(Bucket="whole-bucket")
    with denied("s3:DeleteObject", "whole-bucket"):
        record("s3://whole-bucket", requests_of(5), ScriptedEngine(echo))
    (entry,) = client().list_objects_v2(Bucket="whole-bucket")["Contents"]
    contents = client().get_object(Bucket="whole-bucket", Key=entry["Key"])["Body"].read()
    assert pq.read_table(pa.BufferReader(contents)).num_rows == 5
    assert len(replay("s3://whole-bucket", requests_of(5))) == 5


def test_what_another_process_wrote_since_the_last_reading_is_read(store: Store) -> None:
    url = f"s3://{BUCKET}/grows"
    record(url, requests_of(1), ScriptedEngine(echo))
    folder = RecordingFolder(url)
    assert len(folder.read()) == 1
    record(f"s3://{BUCKET}/elsewhere", requests_of(3), ScriptedEngine(echo))
    (name,) = files("elsewhere")
    client().copy_object(Bucket=BUCKET, Key=f"grows/{name}", CopySource=f"{BUCKET}/elsewhere/{name}")
    assert len(folder.read()) == len(RecordingFolder(url).read()) == 3


def test_a_bucket_that_is_not_there_is_named_and_not_made(store: Store) -> None:
    inner = ScriptedEngine(echo)
    with pytest.raises(ConfigError, match=r"'s3://recordnigs/math' cannot be opened: there is no bucket 'recordnigs'"):
        record("s3://recordnigs/math", requests_of(1), inner)
    assert inner.requests == 0
    assert "recordnigs" not in [bucket["Name"] for bucket in client().list_buckets()["Buckets"]]


def test_a_store_that_may_only_be_read_is_one_clear_error(store: Store) -> None:
    url = f"s3://{BUCKET}/readable"
    record(url, requests_of(2), ScriptedEngine(echo))
    with denied("s3:PutObject"):
        with pytest.raises(DataError, match=r"s3://recordings/readable.*Forbidden.*3 new generations are not in it"):
            record(url, requests_of(5), ScriptedEngine(echo))
        assert len(replay(url, requests_of(2))) == 2


def test_a_store_that_is_down_for_a_while_loses_nothing_and_has_nothing_made_again(store: Store) -> None:
    url = f"s3://{BUCKET}/down"
    inner = ScriptedEngine(echo)

    async def job() -> None:
        engine = RecordingEngine(url, "model", lambda: inner, flush_every=1)
        await engine.generate(make_request("q0"))
        while not files("down"):
            await asyncio.sleep(0.01)
        store.stop()
        try:
            async with asyncio.timeout(60):
                with pytest.raises(DataError, match=r"s3://recordings/down.*could not be written.*localhost"):
                    for i in itertools.count(1):
                        await engine.generate(make_request(f"q{i}"))
                        await asyncio.sleep(0.01)
        finally:
            store.start()
        await engine.close()

    run(job())
    assert inner.requests > 1
    assert len(replay(url, requests_of(inner.requests))) == inner.requests
    again = ScriptedEngine(echo)
    record(url, requests_of(inner.requests), again)
    assert again.requests == 0


def test_a_store_that_stays_down_is_one_clear_error_and_keeps_what_it_has(store: Store) -> None:
    url = f"s3://{BUCKET}/stays-down"
    record(url, requests_of(3), ScriptedEngine(echo))

    async def job() -> None:
        engine = RecordingEngine(url, "model", lambda: ScriptedEngine(echo))
        for request in requests_of(5):
            await engine.generate(request)
        store.stop()
        with pytest.raises(DataError, match=r"s3://recordings/stays-down.*2 new generations are not in it"):
            await engine.close()

    try:
        run(job())
        with pytest.raises(ConfigError, match=r"s3://recordings/stays-down' cannot be opened.*localhost"):
            RecordingEngine(url, "model", None)
    finally:
        store.start()
    again = ScriptedEngine(echo)
    record(url, requests_of(5), again)
    assert again.requests == 2


def test_a_file_that_the_store_does_not_hand_out_is_an_error_and_is_not_made_again(store: Store) -> None:
    url = f"s3://{BUCKET}/kept-back"
    record(url, requests_of(2), ScriptedEngine(echo))
    again = ScriptedEngine(echo)
    with denied("s3:GetObject"), pytest.raises(ConfigError, match=r"kept-back' cannot be opened: Forbidden"):
        record(url, requests_of(2), again)
    assert again.requests == 0


@pytest.mark.parametrize(("url", "package", "extra"), [("gs://b/r", "gcsfs", "gcs"), ("s3://b/r", "s3fs", "s3")])
def test_a_url_whose_package_is_missing_names_the_extra(url: str, package: str, extra: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from mpdf_rllib.engine.recording_files import RecordingFolder\n"
        f"RecordingFolder({url!r})"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT
    )
    message = ended.stderr.splitlines()[-1]
    assert "ConfigError" in message and url in message and f"mpdf-rllib[{extra}]" in message


def test_a_killed_recording_goes_on_where_it_stopped(store: Store, tmp_path: Path) -> None:
    experiment = RemoteExperiment(tmp_path, MANY, store)
    experiment.kill_once(experiment.recorded, "record")
    flushed, keys = experiment.recorded(), experiment.recorded_keys()
    assert 0 < len(keys) < GENERATIONS

    assert f"{GENERATIONS - len(keys)} generations made" in experiment.finish("record").stderr
    assert experiment.recorded().items() >= flushed.items()
    assert [*Counter(experiment.recorded_keys()).values()] == [1] * GENERATIONS


def test_two_processes_share_a_recording(store: Store, tmp_path: Path) -> None:
    experiment = RemoteExperiment(tmp_path, MANY, store)
    processes = [experiment.start("record", "--shard", f"{index}/2") for index in range(2)]
    try:
        assert [process.wait(TIMEOUT) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert [*Counter(experiment.recorded_keys()).values()] == [1] * GENERATIONS
    assert "0 generations made" in experiment.finish("record").stderr


def test_training_records_there_and_its_trials_replay_from_there(store: Store, tmp_path: Path) -> None:
    experiment = RemoteExperiment(tmp_path, CONFIG | {"seeds": 1}, store)
    trained = experiment.finish("train")
    assert "SoftRankPO" in trained.stdout and experiment.recording in trained.stdout
    recorded = experiment.recorded()
    assert [*Counter(experiment.recorded_keys()).values()] == [1] * (24 * 12 + 12 * 3)
    assert experiment.finish("evaluate").stdout == trained.stdout
    assert experiment.recorded() == recorded


SCRIPT_WITHOUT_CLOSE = """
import sys
from mpdf_rllib.config_file import load_config
from mpdf_rllib.envs import DeliberationEnv

env = DeliberationEnv(load_config(*sys.argv[1:2], sys.argv[2:]).env_config())
env.reset(seed=0)
"""


def test_a_script_that_closes_nothing_loses_nothing_at_its_end(store: Store, tmp_path: Path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    # The server's name is looked up anew, as after a while, by an executor that does not outlive the script.
    forget = json.dumps({"config_kwargs": {"connector_args": {"use_dns_cache": False}}})
    script = subprocess.run(
        [sys.executable, "-c", SCRIPT_WITHOUT_CLOSE, config, f"recording=s3://{BUCKET}/no-close"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "FSSPEC_S3": forget},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (script.stderr, script.returncode) == ("", 0)
    (contents,) = files("no-close").values()
    assert pq.read_table(pa.BufferReader(contents)).num_rows == 6  # three first answers and their refinements

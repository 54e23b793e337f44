"""A whole run on an OpenAI-compatible server, with a key."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint_fixtures import MODEL, ScriptedServer, start_server  # noqa: F401
from process_fixtures import CONFIG, Experiment

KEY = b"sk-very-secret-0123456789"


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # paths of sockets are to be short
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_run_keeps_the_key_nowhere(server: ScriptedServer, tmp_path, ray_folder, monkeypatch):
    experiment = Experiment(
        tmp_path,
        CONFIG
        | {"engine": {"kind": "endpoint", "url": server.url, "api_key_env": "TEST_KEY"}, "seeds": 1}
        | {"team": {"model": MODEL, "prompt": "completion", "critic": False}},
    )
    experiment.set(TEST_KEY=KEY.decode(), RAY_TMPDIR=str(ray_folder))
    ended = experiment.finish("train")
    assert "SoftRankPO" in ended.stdout
    assert server.keys == {f"Bearer {KEY.decode()}"}

    assert KEY.decode() not in ended.stdout + ended.stderr
    files = [path for folder in (tmp_path, ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert {"checkpoint_000002", "logs"} <= {part for path in files for part in path.parts}
    assert not [path for path in files if KEY in path.read_bytes()]

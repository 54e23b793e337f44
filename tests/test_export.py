"""A trained policy to share: files that others read, a card whose code runs, and what keeps it from being written."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard
from process_fixtures import REPOSITORY
from safetensors.torch import load_file

from mpdf_rllib.algorithms.checkpoints import load_module
from mpdf_rllib.errors import ConfigError, DataError, EngineError
from mpdf_rllib.export import export, push


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("to") / "math"
    command = [
        sys.executable,
        "-m",
        "mpdf_rllib.export",
        "--run",
        str(trained_run.run),
        "--credit",
        "step",
        "--seed",
        "1",
        "--to",
        str(folder),
    ]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_the_weights_are_those_of_rllibs_checkpoint(trained_run, exported):
    (checkpoint,) = sorted(trained_run.trial(1).glob("checkpoint_*"))[-1:]
    weights, expected = load_file(exported / "model.safetensors"), load_module(checkpoint).policy.state_dict()
    assert weights.keys() == expected.keys()
    assert all(value.equal(expected[name]) for name, value in weights.items())


def test_the_card_tells_results_as_the_run_has_them(trained_run, exported):
    card = ModelCard.load(exported / "README.md")
    frame = pq.read_table(trained_run.run / "results.parquet").to_pandas()
    own = frame[(frame["system"] == "SoftRankPO, paper's credit") & (frame["seed"] == 1)]
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", round(own["correct"].mean(), 4))
    assert card.data.license == "apache-2.0" and card.data.library_name == "mpdf-rllib"
    rows = re.findall(r"^\| (.*?) \| (\S+) \[\S+, \S+\] \| \d+ \|$", card.text, re.MULTILINE)
    assert [name for name, _ in rows] == ["this policy, seed 1", *dict.fromkeys(frame["system"])]
    assert rows[0][1] == f"{own['correct'].mean():.3f}".removeprefix("0")
    (config,) = re.findall(r"```yaml\n(.*?)```", card.text, re.DOTALL)
    assert yaml.safe_load(config) == yaml.safe_load((exported / "experiment.yaml").read_text())
    assert str(trained_run.run) not in card.text and str(trained_run.recording) not in card.text
    for heading in ("Data", "Results", "Limits", "Config"):
        assert f"\n## {heading}\n" in card.text


def test_the_cards_code_runs(exported):
    (code,) = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=exported.parent, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert re.match(r"(\d+|None) ", ended.stdout)


def test_what_keeps_it_from_being_written_is_named(trained_run, exported, tmp_path):
    with pytest.raises(ConfigError, match="to: .* is there already"):
        export(trained_run.run, exported)
    with pytest.raises(ConfigError, match="to: .* cannot be written"):
        export(trained_run.run, exported / "README.md" / "below")
    with pytest.raises(DataError, match="no run"):
        export(tmp_path, tmp_path / "to")


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A scripted hub, which takes what its client sends: its address, and the files that it came to have by path."""
    taken: dict[str, bytes] = {}

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer: dict[str, Any] = {}
            if self.headers["Authorization"] != "Bearer hf_ours":
                self.send_response(401)
            else:
                self.send_response(200)
                if self.path == "/api/repos/create":
                    answer = {"url": f"{address}/somebody/{json.loads(body)['name']}"}
                elif self.path == "/api/models/somebody/math/preupload/main":
                    files = json.loads(body)["files"]
                    regular = {"uploadMode": "regular", "shouldIgnore": False}
                    answer = {"files": [{"path": file["path"], **regular} for file in files]}
                elif self.path == "/api/models/somebody/math/commit/main":
                    lines = [json.loads(line) for line in body.splitlines()]
                    files = [line["value"] for line in lines if line["key"] == "file"]
                    taken.update({file["path"]: base64.b64decode(file["content"]) for file in files})
                    commit = "0" * 40
                    answer = {"commitUrl": f"{address}/somebody/math/commit/{commit}", "commitOid": commit}
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever).start()
        yield address, taken
        server.shutdown()


def test_what_is_pushed_is_what_was_exported(trained_run, tmp_path, hub):
    address, taken = hub
    folder = tmp_path / "math"
    command = [sys.executable, "-m", "mpdf_rllib.export", "--run", str(trained_run.run), "--to", str(folder)]
    ended = subprocess.run(
        [*command, "--push-to-hub", "somebody/math"],
        cwd=REPOSITORY,
        env=os.environ | {"HF_ENDPOINT": address, "HF_TOKEN": "hf_ours", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"{address}/somebody/math"
    assert taken == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_hub_that_is_not_there_is_named(exported, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(EngineError, match="The hub did not take somebody/math"):
        push(exported, "somebody/math")

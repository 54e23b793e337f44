"""The main job, small, on the real model, killed once on its way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from mpdf_rllib.results import read_results

pytestmark = pytest.mark.model

CONFIG = {
    "name": "tiny",
    "seeds": 2,
    "questions": {"families": ["multiplication", "addition", "arithmetic"], "train": 12, "test": 9},
    "team": {"prompt": "completion", "critic": True},
    "algorithm": {"credits": {"step": {}, "outcome": {"token_price": 0.001, "tie_tolerance": 0.1}}, "iterations": 2},
}
MINUTES = 60.0


def recorded_keys(folder: Path) -> list[str]:
    return [key for file in sorted(folder.glob("*.parquet")) for key in pq.read_table(file)["key"].to_pylist()]


def test_killed_while_recording_then_trained_then_replayed(tmp_path: Path) -> None:
    file, recording = tmp_path / "tiny.yaml", tmp_path / "recording"
    file.write_text(yaml.safe_dump(CONFIG | {"recording": str(recording), "run_folder": str(tmp_path / "run")}))

    def command(name: str) -> list[str]:
        return [sys.executable, "-m", f"mpdf_rllib.{name}", "--config", str(file)]

    with subprocess.Popen(command("record"), stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 5 * MINUTES
        while not list(recording.glob("*.parquet")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    flushed = recorded_keys(recording)

    first = subprocess.run(command("train"), capture_output=True, text=True, timeout=10 * MINUTES)
    assert first.returncode == 0, first.stderr
    keys = recorded_keys(recording)
    # 12 and 9 questions of 12 solutions, 3 more fresh samples for the 9 held out; each with its verdict.
    assert len(keys) == len(set(keys)) == 2 * ((12 + 9) * 12 + 9 * 3)
    assert set(flushed) < set(keys)

    results = read_results(tmp_path / "run" / "results.parquet")
    assert {"MPDF, warm start", "SoftRankPO, paper's credit", "SoftRankPO, soft outcome"} < {r.system for r in results}
    assert all(result.correct.shape[1] == 9 for result in results)

    again = subprocess.run([*command("train"), "--fresh"], capture_output=True, text=True, timeout=5 * MINUTES)
    assert again.returncode == 0, again.stderr
    assert "replayed" in again.stderr
    assert recorded_keys(recording) == keys
    assert again.stdout == first.stdout

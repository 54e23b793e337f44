"""The main job, small, on the real model, killed twice on its way."""

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
    "seeds": 1,
    "questions": {"families": ["multiplication", "addition", "arithmetic"], "train": 12, "test": 9},
    "team": {"prompt": "completion", "critic": True},
    "algorithm": {"credits": {"step": {}, "outcome": {"token_price": 0.001, "tie_tolerance": 0.1}}, "iterations": 2},
}
MINUTES = 60.0


def recorded_keys(folder: Path) -> list[str]:
    return [key for file in sorted(folder.glob("*.parquet")) for key in pq.read_table(file)["key"].to_pylist()]


def kill_once(command: list[str], folder: Path, pattern: str) -> None:
    """Starts a command and sends SIGKILL as soon as there is such a file."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 5 * MINUTES
        while not list(folder.glob(pattern)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL


def test_killed_while_recording_and_while_training_then_finished_then_replayed(tmp_path: Path) -> None:
    file, recording, run = tmp_path / "tiny.yaml", tmp_path / "recording", tmp_path / "run"
    file.write_text(yaml.safe_dump(CONFIG | {"recording": str(recording), "run_folder": str(run)}))

    def command(name: str) -> list[str]:
        return [sys.executable, "-m", f"mpdf_rllib.{name}", "--config", str(file)]

    kill_once(command("record"), recording, "*.parquet")
    flushed = recorded_keys(recording)
    kill_once(command("train"), run, "tune/step-seed0/checkpoint_*")
    keys = recorded_keys(recording)
    assert set(flushed) < set(keys)

    first = subprocess.run(command("train"), capture_output=True, text=True, timeout=5 * MINUTES)
    assert first.returncode == 0, first.stderr
    assert "replayed" in first.stderr
    assert recorded_keys(recording) == keys
    # 12 and 9 questions of 12 solutions, 3 more fresh samples for the 9 held out; each with its verdict.
    assert len(keys) == len(set(keys)) == 2 * ((12 + 9) * 12 + 9 * 3)

    results = read_results(run / "results.parquet")
    assert {"MPDF, warm start", "SoftRankPO, paper's credit", "SoftRankPO, soft outcome"} < {r.system for r in results}
    assert all(result.correct.shape[1] == 9 for result in results)

    again = subprocess.run([*command("train"), "--fresh"], capture_output=True, text=True, timeout=5 * MINUTES)
    assert again.returncode == 0, again.stderr
    assert "replayed" in again.stderr
    assert recorded_keys(recording) == keys
    assert again.stdout == first.stdout

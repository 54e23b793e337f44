"""The commands in real processes, on a scripted engine, with what can happen to them."""

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.config_file import load_config

REPOSITORY = Path(__file__).parents[1]
TIMEOUT = 180
CONFIG = {
    "name": "processes",
    "seeds": 2,
    "questions": {"families": ["multiplication", "addition", "arithmetic"], "train": 12, "test": 12},
    "team": {"critic": False},
    "engine": {"kind": "scripted"},
    "algorithm": {"credits": {"step": {}}, "warm_start_iterations": 1, "iterations": 5, "epochs": 1, "dim": 8},
}
ITERATIONS = 6
# With one core for Ray one trial runs after the other; what Tune knows of them is saved every second.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
    "RAY_OVERRIDE_RESOURCES": '{"CPU": 1}',
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
}


class Experiment:
    """A config in a folder of its own."""

    def __init__(self, folder: Path, config: dict):
        self.run, self.recording = folder / "run", folder / "recording"
        self._folder = folder
        self._environment = ENVIRONMENT
        self._config = folder / "config.yaml"
        self._config.write_text(yaml.safe_dump(config))

    def inject(self, fault: str) -> None:
        """Has every later process run this code before its own; "" ends it."""
        (self._folder / "sitecustomize.py").write_text(fault)
        self._environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(self._folder), str(REPOSITORY)])}

    def set(self, **variables: str) -> None:
        """Has every later process find these in its environment."""
        self._environment = self._environment | variables

    def join(self, address: str) -> None:
        """Has every later process run on this cluster."""
        own = ("RAY_OVERRIDE_RESOURCES", "RAY_ADDRESS")
        token = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}
        self._environment = {k: v for k, v in self._environment.items() if k not in own} | token
        self._environment["RAY_ADDRESS"] = address

    def load(self) -> ExperimentConfig:
        return load_config(self._config, self._places())

    def _places(self) -> list[str]:
        return [f"run_folder={self.run}", f"recording={self.recording}"]

    def command(self, module: str, *arguments: str) -> list[str]:
        places = [argument for place in self._places() for argument in ("--set", place)]
        return [sys.executable, "-m", f"mpdf_rllib.{module}", "--config", str(self._config), *places, *arguments]

    def finish(self, module: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess:
        return self._finish(self.command(module, *arguments), status)

    def finish_command(self, module: str, *arguments: str | Path, status: int = 0) -> subprocess.CompletedProcess:
        """Of a command that takes no config."""
        return self._finish([sys.executable, "-m", f"mpdf_rllib.{module}", *map(str, arguments)], status)

    def _finish(self, command: list[str], status: int) -> subprocess.CompletedProcess:
        ended = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert ended.returncode == status, ended.stderr
        return ended

    def start(self, module: str, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(module, *arguments),
            cwd=REPOSITORY,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill_once(self, ready: Callable[[], object], module: str, *arguments: str) -> None:
        """Starts a command and sends SIGKILL as soon as `ready`."""
        assert self._signal_once(signal.SIGKILL, ready, module, *arguments) == -signal.SIGKILL

    def interrupt_once(self, ready: Callable[[], object], module: str, *arguments: str) -> None:
        """Starts a command and sends SIGINT, as Ctrl-C does, as soon as `ready`; it ends by itself."""
        assert self._signal_once(signal.SIGINT, ready, module, *arguments) == 130

    def _signal_once(self, number: int, ready: Callable[[], object], module: str, *arguments: str) -> int:
        process = self.start(module, *arguments)
        deadline = time.monotonic() + TIMEOUT
        try:
            while not ready():
                assert process.poll() is None, "the command ended before it could be killed"
                assert time.monotonic() < deadline, "the command did not get as far as it should"
                time.sleep(0.01)
            process.send_signal(number)
            return process.wait(TIMEOUT)
        finally:
            process.kill()
            process.wait()

    def recorded(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.recording.glob("*.parquet"))}

    def recorded_keys(self) -> list[str]:
        return [key for path in self.recording.glob("*.parquet") for key in pq.read_table(path)["key"].to_pylist()]

    def trial(self, seed: int) -> Path:
        return self.run / "tune" / f"step-seed{seed}"

    def trial_states(self) -> list[Path]:
        """What Tune saves of the trials, a file a run."""
        return [*self.run.glob("tune/experiment_state*")]

    def results(self, seed: int) -> str:
        """What a trial came to, a line an iteration, without half a line that a kill left."""
        text = (self.trial(seed) / "result.json").read_text()
        return text[: text.rfind("\n") + 1]

    def iterations(self, seed: int) -> list[int]:
        return [json.loads(line)["training_iteration"] for line in self.results(seed).splitlines()]

    def plot(self, title: str) -> dict:
        """A plot of the report's."""
        report = (self.run / "report.html").read_text()
        plots = map(json.loads, re.findall(r'<script type="application/json">(.*?)</script>', report))
        (plot,) = (each for each in plots if each["layout"]["title"]["text"] == title)
        return plot

    def cut_short(self, seed: int) -> None:
        """Makes a trial's results end in half a line, as where a kill met Tune copying them."""
        with (self.trial(seed) / "result.json").open("a") as file:
            file.write('{"training_ite')

    def decide_to_stop(self) -> None:
        """Notes that each trial is to stop once it is saved, as where it failed or was stopped while it was saved."""
        for file in self.trial_states():
            state = json.loads(file.read_text())
            names = [json.loads(trial)["trial_id"] for trial, _ in state["trial_data"]]
            state["runner_data"]["_cached_trial_decisions"] = dict.fromkeys(names, "STOP")
            file.write_text(json.dumps(state))


def without_places(output: str) -> list[str]:
    """What was printed but where the run and its recording lie."""
    return [line for line in output.splitlines() if not line.startswith(("run:", "recording:", "best:"))]


def cpu_seconds() -> float:
    """Of this process, of its ended children, and of its graders so far: what one did before it ended is not new."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any(word.endswith("grader_process.py") for word in child.cmdline()):
                total += sum(child.cpu_times()[:2])
    return total


def lives(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


class SmallDisk:
    """A file system of its own, in a mount namespace that ends with the process that keeps it.

    Attributes:
        path: Where it is seen from outside the namespace.
    """

    def __init__(self, keeper: subprocess.Popen, mounted: Path, enter: list[str]):
        self.path = Path(f"/proc/{keeper.pid}/root{mounted}")
        self._remount = ["nsenter", "-t", str(keeper.pid), *enter, "mount", "-t", "tmpfs", "disk", str(mounted), "-o"]

    def remount(self, options: str) -> None:
        subprocess.run([*self._remount, f"remount,{options}"], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    keep = f"mount -t tmpfs -o size=64k disk {mounted} && echo mounted && exec cat"
    tries = {("-m",): ["-m"], ("-r", "-m"): ["-U", "-m", "--preserve-credentials"]}  # as root, or as anybody
    for unshare, enter in tries.items():
        with contextlib.ExitStack() as stack:
            keeper = stack.enter_context(
                subprocess.Popen(
                    ["unshare", *unshare, "sh", "-c", keep],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(keeper.kill)
            if keeper.stdout and keeper.stdout.readline() == b"mounted\n":
                yield SmallDisk(keeper, mounted, enter)
                return
    pytest.skip("neither root nor an unprivileged user may mount a file system here")

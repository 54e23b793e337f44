"""`ray job submit` on a cluster of two nodes, both on this machine."""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from process_fixtures import CONFIG, REPOSITORY, TIMEOUT, Experiment
from ray.util import get_node_ip_address

from mpdf_rllib.config_file import load_config
from mpdf_rllib.ray_job import passing_places

RAY = Path(sys.executable).with_name("ray")
ITERATIONS = 60
TOKEN = secrets.token_hex(16)
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("RAY_")
} | {
    "PATH": os.pathsep.join([str(RAY.parent), os.environ["PATH"]]),
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # what Tune knows of the trials is saved every second
}


def until(done: Callable[[], Any], of: str) -> Any:
    """Polls until something is true, and returns it."""
    deadline = time.monotonic() + TIMEOUT
    while not (result := done()):
        assert time.monotonic() < deadline, f"{of} did not come about"
        time.sleep(0.05)
    return result


class Cluster:
    """A head and a worker with a CPU each, at ports of their own."""

    def __init__(self, folder: Path) -> None:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            gcs, dashboard, client, *agents = [one.getsockname()[1] for one in sockets]
        self._url = f"http://127.0.0.1:{dashboard}"
        self._nodes: list[psutil.Popen] = []
        head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        worker = [f"--address={get_node_ip_address()}:{gcs}"]
        for name, arguments, agent in (("head", head, agents[0]), ("worker", worker, agents[1])):
            command = [
                *(RAY, "start", "--block", "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"),
                *(f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder / name}", *arguments),
            ]
            with (folder / f"{name}.log").open("w") as log:
                self._nodes.append(psutil.Popen(command, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT))
            until(lambda: self._alive() == len(self._nodes), f"the {name} node")

    def _alive(self) -> int:
        assert all(node.poll() is None for node in self._nodes), "a node ended"
        with contextlib.suppress(OSError):  # until the head answers
            return len([node for node in self.states("nodes") if node["state"] == "ALIVE"])
        return 0

    def states(self, what: str) -> list[dict[str, Any]]:
        """All nodes or actors that there are or were."""
        return self.request(f"/api/v0/{what}")["data"]["result"]["result"]

    def request(self, path: str, method: str = "GET") -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with urllib.request.urlopen(urllib.request.Request(self._url + path, headers=headers, method=method)) as answer:
            return json.load(answer)

    def stop(self) -> None:
        """Ends both nodes, the worker first, and whatever they started."""
        for node in reversed(self._nodes):
            processes = [node, *node.children(recursive=True)]
            node.terminate()
            for process in psutil.wait_procs(processes, timeout=15)[1]:
                process.kill()

    def submit(self, working_dir: Path, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [RAY, "job", "submit", f"--address={self._url}", "--working-dir", ".", *arguments],
            cwd=working_dir,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # paths of sockets are to be short
    try:
        with contextlib.ExitStack() as stack:
            cluster = Cluster(folder)
            stack.callback(cluster.stop)
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository where something was set up, recorded and trained."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("mpdf_rllib", "envs", "algorithms", "tuned_examples"):
        shutil.copytree(REPOSITORY / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / ".gitignore", folder)
    for name in (".venv", "runs", "recordings"):
        (folder / name).mkdir()
        (folder / name / "file").touch()
    return folder


def test_a_stopped_job_on_two_nodes_goes_on_and_prints_the_table(
    cluster: Cluster, checkout: Path, tmp_path: Path
) -> None:
    experiment = Experiment(tmp_path, CONFIG | {"algorithm": CONFIG["algorithm"] | {"iterations": ITERATIONS - 1}})
    train = ["--", "python", *experiment.command("train")[1:]]

    def is_saved(seed: int) -> bool:
        """Whether Tune saved where the trial's last checkpoint is, in a pickle in hexadecimal."""
        checkpoint = f"step-seed{seed}/checkpoint".encode().hex()
        return any(checkpoint in state.read_text() for state in experiment.trial_states())

    begun = cluster.submit(checkout, "--no-wait", "--submission-id", "first", *train)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    until(lambda: is_saved(0) and is_saved(1), "a checkpoint of both trials")
    cluster.request("/api/jobs/first/stop", "POST")
    until(lambda: cluster.request("/api/jobs/first")["status"] == "STOPPED", "the end of the job")
    recorded = experiment.recorded()
    progress = [experiment.results(seed) for seed in (0, 1)]
    experiment.cut_short(0)
    assert recorded and not (experiment.run / "results.parquet").exists()
    trials = [actor for actor in cluster.states("actors") if actor["class_name"] == "SoftRankPO"]
    assert len({trial["node_id"] for trial in trials}) == len(trials) == 2

    ended = cluster.submit(checkout, *train)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "SoftRankPO, paper's credit" in ended.stdout and "oracle" in ended.stdout
    assert "warning:" not in ended.stdout
    assert experiment.recorded() == recorded, "recorded generations were made again"
    for seed in (0, 1):
        assert experiment.results(seed).startswith(progress[seed]), "it was begun anew"
        assert {*experiment.iterations(seed)} == {*range(1, ITERATIONS + 1)}
        assert experiment.iterations(seed).count(1) == 1
    results = pq.read_table(experiment.run / "results.parquet").to_pandas()
    assert sorted(results[results["system"].str.startswith("SoftRankPO")]["seed"].unique()) == [0, 1]


def test_a_job_is_told_which_results_end_with_it_and_takes_none_along(cluster: Cluster, checkout: Path) -> None:
    command = ["--", "python", "-m", "mpdf_rllib.train", "--config", "tuned_examples/math.yaml", "--dry-run"]
    ended = cluster.submit(checkout, *command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (run_folder,) = re.findall("^run_folder: (.*)$", ended.stdout, re.MULTILINE)
    (warning,) = [line for line in ended.stdout.splitlines() if line.startswith("warning:")]
    assert run_folder in warning and "--set run_folder=" in warning and "--set recording=" in warning

    working_dir = Path(run_folder).parents[1]
    assert {path.name for path in working_dir.iterdir() if path.is_dir()} == {
        *("mpdf_rllib", "envs", "algorithms", "tuned_examples"),
    }
    assert (working_dir / "mpdf_rllib" / "envs" / "debate.py").exists()


@pytest.mark.parametrize(
    ("working_dir", "settings", "passing"),
    [
        ("gcs://_ray_pkg_0.zip", [], {"run_folder", "recording"}),
        ("gcs://_ray_pkg_0.zip", ["recording=s3://bucket/math"], {"run_folder"}),
        ("gcs://_ray_pkg_0.zip", ["run_folder=/shared/math", "recording=/shared/recording"], set()),
        (None, [], set()),
    ],
)
def test_places_in_the_working_directory_of_a_job_pass(
    monkeypatch: pytest.MonkeyPatch, working_dir: str | None, settings: list[str], passing: set[str]
) -> None:
    runtime_env = {"working_dir": working_dir} if working_dir else {}
    config = load_config(REPOSITORY / "tuned_examples" / "math.yaml", settings)
    assert not passing_places(config)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": runtime_env, "metadata": {}}))
    assert passing_places(config).keys() == passing

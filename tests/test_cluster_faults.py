"""What is lost on the way, really killed: the run goes on, and no flushed generation is lost or made again."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from process_fixtures import CONFIG, ENVIRONMENT, TIMEOUT, Experiment
from ray.cluster_utils import Cluster

QUESTIONS = CONFIG["questions"] | {"train": 24, "test": 24}
GENERATIONS = 24 * 12 + 24 * (12 + 3)
# A shard's four rounds of requests take four seconds each, and what is made is written after ten: half of a shard.
SLOW = CONFIG | {"questions": QUESTIONS, "engine": {"kind": "scripted", "args": {"delay": 4.0}}}


def until(done: Callable[[], object], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not done():
        assert process.poll() is None, "the command ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ray_processes(kind: str, of: psutil.Process) -> list[psutil.Process]:
    """Processes by the beginning of their title, which is the actor's class."""
    found = []
    for process in of.children(recursive=True):
        try:
            if process.cmdline() and process.cmdline()[0].startswith(f"ray::{kind}"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_all_is_recorded_once(experiment: Experiment, flushed: dict[str, bytes], lost: set[str]) -> None:
    """And shards that lost processes had begun, by what they wrote, were ended by others."""
    assert experiment.recorded().items() >= flushed.items()
    keys = experiment.recorded_keys()
    assert len(keys) == len({*keys}) == GENERATIONS
    writers: dict[str, set[str]] = {}
    for name in experiment.recorded():
        _, process, _, shard, _ = name.split("-")
        writers.setdefault(shard, set()).add(process)
    assert any(len(processes) > 1 and processes & lost for processes in writers.values())


def finished(process: subprocess.Popen) -> bool:
    try:
        return process.wait(TIMEOUT) == 0
    finally:
        process.kill()


def test_a_killed_worker_of_the_recording_is_started_again(tmp_path):
    experiment = Experiment(tmp_path, SLOW | {"record": {"workers": 1}})
    process = experiment.start("record")
    until(experiment.recorded, process)
    flushed = experiment.recorded()
    (worker,) = ray_processes("MapWorker", psutil.Process(process.pid))
    worker.kill()
    assert finished(process)
    assert_all_is_recorded_once(experiment, flushed, {str(worker.pid)})


@pytest.mark.parametrize(
    ("command", "settings", "key", "lacking"),
    [
        ("record", ["record.gpus_per_worker=1"], "gpus_per_worker", "1 GPUs, of which Ray has 0"),
        ("record", ["engine={kind: serve}"], "engine.replicas", "2 CPUs, of which Ray has 1"),
        ("train", ["sweep={space: {env_runners: {grid: [0, 2]}}}"], "env_runners 2", "3 CPUs, of which Ray has 1"),
    ],
)
def test_what_this_machine_has_no_room_for_is_refused_by_its_key(tmp_path, command, settings, key, lacking):
    experiment = Experiment(tmp_path, CONFIG)
    overrides = [part for setting in ["record.workers=1", *settings] for part in ("--set", setting)]
    said = experiment.finish(command, *overrides, status=2).stderr
    assert key in said and lacking in said and "Traceback" not in said


def test_a_cluster_that_is_not_there_is_told_by_its_address(tmp_path):
    experiment = Experiment(tmp_path, CONFIG | {"record": {"workers": 1}})
    experiment.join("nowhere")
    said = experiment.finish("record", status=2).stderr
    assert "RAY_ADDRESS nowhere: no Ray cluster can be joined there" in said and "Traceback" not in said


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_without_an_address_a_command_has_a_ray_of_its_own(two_nodes):
    started = (
        "import ray; from mpdf_rllib.cluster import connect; connect(); print(ray.get_runtime_context().gcs_address)"
    )
    said = subprocess.run([sys.executable, "-c", started], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() not in ("", two_nodes.address)


def test_a_lost_node_costs_the_recording_time_and_nothing_else(tmp_path, two_nodes, monkeypatch):
    experiment = Experiment(tmp_path, SLOW | {"record": {"workers": 2}})
    experiment.join(two_nodes.address)
    process = experiment.start("record")
    (node,) = two_nodes.worker_nodes
    (raylet,) = node.all_processes["raylet"]

    def wrote() -> set[str]:
        """Processes of this node that record and have written."""
        workers = {str(worker.pid) for worker in ray_processes("MapWorker", psutil.Process(raylet.process.pid))}
        return workers & {name.split("-")[1] for name in experiment.recorded()}

    until(wrote, process)
    flushed, lost = experiment.recorded(), wrote()
    two_nodes.remove_node(node, allow_graceful=False)
    two_nodes.add_node(num_cpus=1)
    assert finished(process)
    assert_all_is_recorded_once(experiment, flushed, lost)


def test_a_killed_env_runner_of_live_training_comes_back_and_what_it_recorded_is_replayed(tmp_path):
    algorithm = CONFIG["algorithm"] | {"env_runners": 1, "iterations": 2}
    slow = {"kind": "scripted", "args": {"delay": 2.0}}
    questions = QUESTIONS | {"train": 48, "test": 12}
    live = {"live": True, "seeds": 1, "algorithm": algorithm, "questions": questions, "engine": slow}
    experiment = Experiment(tmp_path, CONFIG | live)
    process = experiment.start("train")
    until(experiment.recorded, process)
    flushed = experiment.recorded()
    (runner,) = ray_processes("DeliberationEnvRunner", psutil.Process(process.pid))
    runner.send_signal(signal.SIGKILL)
    assert finished(process)
    assert experiment.recorded().items() >= flushed.items()
    keys = experiment.recorded_keys()
    assert len(keys) == len({*keys}) == 48 * 12 + 12 * (12 + 3)
    assert (experiment.run / "results.parquet").exists()

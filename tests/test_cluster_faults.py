"""What is lost on the way, really killed: the run goes on, and no flushed generation is lost or made again."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from process_fixtures import CONFIG, TIMEOUT, Experiment
from ray.cluster_utils import Cluster

QUESTIONS = CONFIG["questions"] | {"train": 48, "test": 48}
GENERATIONS = 48 * 12 + 48 * (12 + 3)
# Four rounds of requests a shard take two seconds each, and of the eight shards four are in flight.
SLOW = CONFIG | {"questions": QUESTIONS, "engine": {"kind": "scripted", "args": {"delay": 2.0}}}


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


def assert_all_is_recorded_once(experiment: Experiment, flushed: dict[str, bytes]) -> None:
    assert experiment.recorded().items() >= flushed.items()
    keys = experiment.recorded_keys()
    assert len(keys) == len({*keys}) == GENERATIONS


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
    assert_all_is_recorded_once(experiment, flushed)


def test_what_this_machine_has_no_room_for_is_refused_by_its_key(tmp_path):
    experiment = Experiment(tmp_path, CONFIG)
    needed = ("--set", "record.workers=1", "--set", "record.gpus_per_worker=1")
    said = experiment.finish("record", *needed, status=2).stderr
    assert "gpus_per_worker" in said and "1 GPUs, of which Ray has 0" in said


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_a_lost_node_costs_the_recording_time_and_nothing_else(tmp_path, two_nodes, monkeypatch):
    experiment = Experiment(tmp_path, SLOW | {"record": {"workers": 2}})
    experiment.join(two_nodes.address)
    process = experiment.start("record")
    until(lambda: len(experiment.recorded()) >= 2, process)
    flushed = experiment.recorded()
    (node,) = two_nodes.worker_nodes
    workers = [
        ray_processes("MapWorker", psutil.Process(started.process.pid)) for started in node.all_processes["raylet"]
    ]
    assert any(workers), "the pool does not use this node"
    two_nodes.remove_node(node, allow_graceful=False)
    two_nodes.add_node(num_cpus=1)
    assert finished(process)
    assert_all_is_recorded_once(experiment, flushed)


def test_a_killed_env_runner_of_live_training_comes_back_and_what_it_recorded_is_replayed(tmp_path):
    algorithm = CONFIG["algorithm"] | {"env_runners": 1, "iterations": 2}
    live = SLOW | {"live": True, "seeds": 1, "algorithm": algorithm}
    experiment = Experiment(tmp_path, live | {"questions": QUESTIONS | {"test": 12}})
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

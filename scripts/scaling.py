"""What docs/scaling.md says, measured and predicted: python scripts/scaling.py measure|check|simulate [SIZES]|table."""

import contextlib
import functools
import gc
import hashlib
import heapq
import itertools
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import fsspec
import numpy as np
import pyarrow as pa
from fsspec.implementations.memory import MemoryFileSystem

from mpdf_rllib.cluster import start_ray
from mpdf_rllib.config import ExperimentConfig, TeamConfig
from mpdf_rllib.cost_model import Cluster, Costs, Lengths, demand, estimate
from mpdf_rllib.engine import Generation, GenerationRequest, Position, RecordingEngine, SamplingParameters, run
from mpdf_rllib.engine.recording import FLUSH_EVERY, FLUSH_SECONDS
from mpdf_rllib.engine.recording_files import RecordingFolder, as_row
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import Question
from mpdf_rllib.recorded_trees import FRESH_SAMPLES, RecordedTrees
from mpdf_rllib.recording_pipeline import SHARDS_IN_FLIGHT, SPLITS, number_of_shards, record_questions

TEAMS = [TeamConfig(agents=agents, rounds=rounds, critic=False) for agents, rounds in ((3, 3), (5, 3), (3, 5), (5, 5))]
SIZES = (10**3, 10**4, 10**5, 10**6)
"""Questions, half of them held out."""

TWO_CORES = (Lengths(), Cluster(), Costs())
"""SmolLM2-135M, as `make math` recorded with it."""
NODE = (
    Lengths(prompt=200, generated=300, verdict_prompt=500, cached_share=0.5),
    Cluster(tokens_per_s=3000, sequences=256, replicas=8, workers=8, concurrency=256),
    Costs(list_s=1e-4, fetch_s=2.4e-3, replay_s=400e-6),
)
"""Eight GPUs with a 7B model each, and a store that lists 1,000 files in 0.1 s and answers each request after 30 ms.

The tokens a request, a GPU's speed and the store's are assumed, not measured.
"""


def measure() -> None:
    """Prints what `Costs` holds."""
    for tokens in (9, 300):
        _measure_driver(tokens)
    with tempfile.TemporaryDirectory() as folder:
        _measure_files("a local folder", folder, 2000)
    fsspec.register_implementation("distant", Distant)
    _measure_files("a store that answers after 30 ms", "distant://recording", 500)
    with _s3_server() as bucket:
        _measure_files("moto, an S3 server in Python on the same machine", f"{bucket}/recording", 500)


def _measure_driver(tokens: int, questions: int = 500) -> None:
    rng = np.random.default_rng(0)
    team = Team(critic=False)
    asked = [Question(str(number), f"{number} + 1 = ?", "1", "number", "addition") for number in range(questions)]
    with tempfile.TemporaryDirectory() as folder:
        made = _filled(
            team, asked, RecordingEngine(folder, "model", lambda: ScriptedEngine(lambda _: _draw(rng, tokens)))
        )
        disk = sum(entry.stat().st_size for entry in os.scandir(folder))
        RecordingEngine(folder, "model", None)  # so that what is loaded once does not count
        reading, replaying = _differences(team, asked, folder, time.perf_counter) / made
        tracemalloc.start()  # it would slow the above
        read, replayed = _differences(team, asked, folder, _held) / made
        tracemalloc.stop()
    print(
        f"{made:,} generations of {tokens} tokens: {disk / made:,.0f} bytes each in a file; "
        f"read in {1e6 * reading:.1f} us and {read:,.0f} bytes of memory, "
        f"replayed in {1e6 * replaying:.0f} us and {replayed:,.0f} bytes"
    )


def _differences(team: Team, questions: list[Question], folder: str, meter: Callable[[], float]) -> np.ndarray:
    """What reading a recording and replaying it each add to a meter."""
    readings = [meter()]
    recording = RecordingEngine(folder, "model", None)
    readings.append(meter())
    trees = RecordedTrees.empty(team, questions, [])
    run(trees.replay(team, recording))
    readings.append(meter())
    return np.diff(readings)


def _filled(team: Team, questions: list[Question], engine: RecordingEngine) -> int:
    async def fill() -> int:
        await RecordedTrees.empty(team, questions, []).fill(team, engine)
        await engine.close()
        return engine.made

    return run(fill())


def _held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()


def _draw(rng: np.random.Generator, tokens: int) -> Generation:
    words = [f"{word:x}"[:4] for word in rng.integers(1 << 12, 1 << 16, tokens - 1)] + [str(rng.integers(9))]
    return Generation(
        text=" ".join(words),
        token_ids=tuple(rng.integers(49152, size=tokens).tolist()),
        logprobs=tuple((-rng.exponential(0.3, tokens)).tolist()),
        token_ends=tuple((np.cumsum([len(word) + 1 for word in words]) - 1).tolist()),
        finish_reason="stop",
        prompt_tokens=250,
        cached_tokens=225,
        generated_tokens=tokens,
    )


class Distant(MemoryFileSystem):
    """An object store that takes its time to answer."""

    protocol = "distant"
    store: dict = {}
    pseudo_dirs = [""]

    def cat_file(self, path: str, **settings) -> bytes:
        time.sleep(0.03)
        return super().cat_file(path, **settings)


@contextlib.contextmanager
def _s3_server() -> Iterator[str]:
    import boto3

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ["AWS_ENDPOINT_URL"] = f"http://localhost:{port}"
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            with contextlib.suppress(Exception):
                boto3.client("s3").create_bucket(Bucket="scaling")
                break
        yield "s3://scaling"
    finally:
        server.terminate()
        server.wait()


def _measure_files(name: str, url: str, files: int, rows: int = 20) -> None:
    rng = np.random.default_rng(0)
    request = GenerationRequest("Q: how many? " * 20, SamplingParameters(), Position("q", 0))
    folder = RecordingFolder(url)
    for file in range(files):
        keys = [hashlib.sha256(f"{file}-{row}".encode()).hexdigest() for row in range(rows)]
        folder.write([as_row(key, "model", request, _draw(rng, 9)) for key in keys])
    other = RecordingFolder(url, (1, 2))  # a part of the recording of which these files could hold something
    start = time.perf_counter()
    entries = folder._files.ls(folder._root, detail=False, refresh=True)
    listing = time.perf_counter() - start
    start = time.perf_counter()
    other.read()
    reading = time.perf_counter() - start
    print(f"{name}: {1e6 * listing / len(entries):.1f} us a file to list, {1e3 * reading / files:.2f} ms to read")


def check() -> None:
    """Records with a scripted engine through Ray Data, and prints what was predicted and what came."""
    start_ray()
    for workers, slots, delay, train, test, team in (
        (1, 1000, 0.0, 10, 10, TEAMS[0]),  # what the start of the actors takes
        (1, 128, 1.0, 250, 250, TEAMS[0]),
        (1, 64, 0.25, 500, 500, TEAMS[0]),
        (2, 64, 0.5, 250, 250, TEAMS[0].model_copy(update={"critic": True})),
        (2, 32, 0.25, 500, 500, TEAMS[0]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            config = ExperimentConfig.model_validate(
                {
                    "name": "check",
                    "recording": folder,
                    "questions": {"families": ["addition", "multiplication"], "train": train, "test": test},
                    "team": team.model_dump() | {"prompt": "completion"},
                    "engine": {"kind": "scripted", "args": {"delay": delay, "max_num_seqs": slots}},
                    "record": {"workers": workers, "cpus_per_worker": 0.5},
                }
            )
            asked = {split: [question.id for question in config.questions_of(split)] for split in SPLITS}
            start = time.perf_counter()
            made = sum(recorded.made for recorded in record_questions(config, asked))
            seconds = time.perf_counter() - start
            files = len(os.listdir(folder))
        lengths = Lengths(generated=1)
        solutions_per_s = slots / max(delay, 1e-6) / (2 if team.critic else 1)
        cluster = Cluster(tokens_per_s=solutions_per_s, sequences=slots, replicas=workers, workers=workers)
        wanted = demand(config.team, train, test, lengths)
        predicted = estimate(wanted, lengths, cluster, Costs())
        simulated, simulated_files = simulate_recording(config.team, train, test, cluster, lambda delay=delay: delay)
        print(
            f"{train + test} questions, critic {team.critic}, {workers} workers of {slots} slots of {delay} s: "
            f"{made} requests (predicted {wanted.requests}); {seconds:.0f} s with the start of the actors "
            f"(predicted {predicted.engine_s:.0f}, simulated {simulated:.0f}); "
            f"{files} files (predicted {predicted.files}, simulated {simulated_files})",
            flush=True,
        )


def simulate_recording(
    team: TeamConfig, train: int, test: int, cluster: Cluster, request_s: Callable[[], float]
) -> tuple[float, int]:
    """Event by event: seconds until all chains have ended, and files written. For teams without branches.

    Shards are of the sizes that hashes give. Each worker has its share of the places of all replicas.
    """
    shards, calls = number_of_shards(train + test), 2 if team.critic else 1
    rng = np.random.default_rng(0)
    asked = zip(*(rng.multinomial(count, np.full(shards, 1 / shards)).tolist() for count in (train, test)), strict=True)
    undealt = deque(enumerate(asked))
    free = [int(min(cluster.concurrency, cluster.places / cluster.workers))] * cluster.workers
    waiting: list[deque[tuple[int, int]]] = [deque() for _ in free]
    events: list[tuple[float, int, int, int]] = []
    chains, unwritten, since = [0] * shards, [0] * shards, [0.0] * shards
    now, files = 0.0, 0

    def deal(worker: int) -> None:
        if undealt:
            shard, (training, held_out) = undealt.popleft()
            deep = (training + held_out) * team.size
            flat = held_out * max(FRESH_SAMPLES - team.size, 0)
            chains[shard] = deep + flat
            waiting[worker].extend([(shard, (team.rounds + 1) * calls)] * deep + [(shard, calls)] * flat)

    def begin(worker: int) -> None:
        while free[worker] and waiting[worker]:
            free[worker] -= 1
            heapq.heappush(events, (now + request_s(), worker, *waiting[worker].popleft()))

    for worker in [*range(cluster.workers)] * SHARDS_IN_FLIGHT:
        deal(worker)
    for worker in range(cluster.workers):
        begin(worker)
    while events:
        now, worker, shard, left = heapq.heappop(events)
        free[worker] += 1
        if unwritten[shard] == FLUSH_EVERY or (unwritten[shard] and now - since[shard] > FLUSH_SECONDS):
            files += 1
            unwritten[shard] = 0
        if not unwritten[shard]:
            since[shard] = now
        unwritten[shard] += 1
        if left > 1:
            waiting[worker].append((shard, left - 1))
        else:
            chains[shard] -= 1
            if not chains[shard]:
                files += 1
                deal(worker)
        begin(worker)
    return now, files


def simulate(sizes: Sequence[int]) -> None:
    """Prints, of a node's recordings, what is predicted and what happens event by event."""
    lengths, cluster, costs = NODE
    for questions, team in itertools.product(sizes, TEAMS):
        half = questions // 2
        predicted = estimate(demand(team, half, half, lengths), lengths, cluster, costs)
        drawn = functools.partial(random.Random(0).expovariate, 1 / predicted.request_s)
        seconds, files = simulate_recording(team, half, half, cluster, drawn)
        print(
            f"{questions:,} questions, N {team.size}, T {team.rounds}: {seconds:,.0f} s (predicted "
            f"{predicted.engine_s:,.0f}), {files:,} files ({predicted.files:,})",
            flush=True,
        )


def table() -> None:
    """Prints the table of docs/scaling.md."""
    columns = ("questions", "N, T", "requests", "2 cores: recording", "memory", "short first")
    columns += ("node: recording", "GPU-hours", "files", "disk", "a replay", "memory", "short first")
    print("|", " | ".join(columns), "|")
    print("| --- " * len(columns) + "|")
    for questions, team in itertools.product(SIZES, TEAMS):
        half = questions // 2
        cores, node = (
            estimate(demand(team, half, half, lengths), lengths, cluster, costs)
            for lengths, cluster, costs in (TWO_CORES, NODE)
        )
        cells = (
            f"{questions:,}",
            f"{team.size}, {team.rounds}",
            f"{demand(team, half, half, Lengths()).requests:,}",
            _time(cores.engine_s),
            _gigabytes(cores.replay_bytes),
            cores.bottleneck(memory_bytes=8e9),
            _time(node.engine_s),
            f"{node.replica_hours:.1f}",
            f"{node.files:,}",
            _gigabytes(node.disk_bytes),
            _time(node.replay_s),
            _gigabytes(node.replay_bytes),
            node.bottleneck(memory_bytes=90e9),
        )
        print("|", " | ".join(cells), "|")


def _gigabytes(bytes_: float) -> str:
    return f"{bytes_ / 1e9:.1f} GB" if bytes_ > 1e9 else f"{bytes_ / 1e6:.0f} MB"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["measure"]:
            measure()
        case ["check"]:
            check()
        case ["simulate", *sizes]:
            simulate([int(size) for size in sizes] or SIZES)
        case ["table"]:
            table()
        case _:
            sys.exit(__doc__)

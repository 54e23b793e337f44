"""What an experiment asks of its engine, and what that takes in hours, files and memory [ours].

Counts follow from the team and are exact. Times and sizes follow from measured speeds, and from simplifications:
batches are full until the work ends, shards are of one size, and nothing that goes on at once slows the rest down.
docs/scaling.md compares both with what happens.
"""

import math
from dataclasses import dataclass

from mpdf_rllib.config import TeamConfig
from mpdf_rllib.engine.recording import FLUSH_EVERY, FLUSH_SECONDS
from mpdf_rllib.recorded_trees import FRESH_SAMPLES
from mpdf_rllib.recording_pipeline import SHARDS_IN_FLIGHT, number_of_shards


@dataclass(frozen=True)
class Lengths:
    """Tokens of a request, on average; by default those of `make math`.

    Attributes:
        prompt: Of a solution.
        generated: For a solution.
        verdict_prompt: Of the critic's request about a solution, for which nothing is generated; another agent's is as
            long as a solution with its prompt.
        cached_share: Of all prompt tokens, what the prefix cache holds already, in [0, 1].
    """

    prompt: float = 250
    generated: float = 9
    verdict_prompt: float = 250
    cached_share: float = 0.9


@dataclass(frozen=True)
class Demand:
    """What is recorded of an experiment.

    Attributes:
        questions: Training and held-out ones.
        solutions: Nodes of all trees, and the first answers beyond them.
        requests: Of the engine, verdicts among them; each is a row of the recording. Equal texts are scored by other
            agents once, but counted each.
        prompt_tokens: Of all requests.
        cached_tokens: Those of them that the prefix cache holds.
        generated_tokens: Of all requests.
        depth: Requests of which each waits for the one before.
    """

    questions: int
    solutions: int
    requests: int
    prompt_tokens: float
    cached_tokens: float
    generated_tokens: float
    depth: int


def demand(team: TeamConfig, train: int, test: int, lengths: Lengths) -> Demand:
    """What is recorded about `train` training and `test` held-out questions."""
    beyond = max(FRESH_SAMPLES - team.size, 0)
    solutions = (train + test) * team.solutions + test * beyond
    peers = team.peer_likelihood * (team.size - 1)
    judging = team.critic * lengths.verdict_prompt + peers * (lengths.prompt + lengths.generated)
    prompt_tokens = solutions * (lengths.prompt + judging)
    return Demand(
        questions=train + test,
        solutions=solutions,
        requests=solutions * (1 + team.critic + peers),
        prompt_tokens=prompt_tokens,
        cached_tokens=prompt_tokens * lengths.cached_share,
        generated_tokens=solutions * lengths.generated,
        depth=(team.rounds + 1) * (1 + (team.critic or team.peer_likelihood)),
    )


@dataclass(frozen=True)
class Cluster:
    """The engines, and the processes that ask them; by default as `make math` ran on two cores.

    Attributes:
        tokens_per_s: Generated tokens/s of a replica with full batches, what prompts and verdicts take included.
        sequences: Requests that a replica answers at once; by default as on a CPU, on a GPU vLLM takes 256 to 1024.
        replicas: Copies of the model.
        workers: Actors that record: `record.workers`; with 0 one process does, all questions at once.
        concurrency: Requests that one of them has in flight at most.
    """

    tokens_per_s: float = 257
    sequences: int = 128
    replicas: int = 1
    workers: int = 0
    concurrency: float = math.inf

    @property
    def processes(self) -> int:
        """Those that record."""
        return max(self.workers, 1)

    @property
    def places(self) -> int:
        """Requests that all replicas answer at once."""
        return self.sequences * self.replicas


@dataclass(frozen=True)
class Costs:
    """What the recording's files and the replaying of them take; by default as measured in a local folder.

    Attributes:
        list_s: Seconds to list a file.
        fetch_s: Seconds to fetch a file, where several are fetched at once.
        read_s: Seconds to read a generation out of a file.
        replay_s: Seconds to replay a solution into its tree, its checking included.
        row_bytes: Bytes of a generation in a file, without its tokens.
        token_bytes: Bytes of a generated token in a file.
        held_row_bytes: Bytes of memory of a generation that was read, without its tokens.
        held_token_bytes: Bytes of memory of a generated token.
        solution_bytes: Bytes of memory of a solution in its tree.
    """

    list_s: float = 2e-6
    fetch_s: float = 1.3e-3
    read_s: float = 10e-6
    replay_s: float = 150e-6
    row_bytes: float = 160
    token_bytes: float = 13
    held_row_bytes: float = 300
    held_token_bytes: float = 17
    solution_bytes: float = 2200


@dataclass(frozen=True)
class Estimate:
    """What recording takes, and then replaying the recording.

    Attributes:
        engine_s: Seconds that the engines generate.
        listing_s: Seconds that each process that records lists the folder, once a shard, beside the generating.
        replay_s: Seconds in which a process reads the recording and replays it: the driver before and after the
            recording, and each trial.
        replica_hours: Of all replicas, while they generate; GPU-hours where each has one GPU.
        in_flight: Requests in flight, at most as many as all replicas answer at once.
        request_s: Seconds that a request takes in full batches.
        shards: Parts that the questions are dealt out in.
        files: Of the recording.
        disk_bytes: Of all of them.
        replay_bytes: Memory of a process that replays.
    """

    engine_s: float
    listing_s: float
    replay_s: float
    replica_hours: float
    in_flight: int
    request_s: float
    shards: int
    files: int
    disk_bytes: float
    replay_bytes: float

    def bottleneck(self, memory_bytes: float) -> str:
        """What is short, or else takes longest.

        Args:
            memory_bytes: What a process that replays may take.

        Returns:
            "memory", "engine", or "files" where listing and replaying them takes longer.
        """
        if self.replay_bytes > memory_bytes:
            return "memory"
        return "files" if self.listing_s + 2 * self.replay_s > self.engine_s else "engine"


def estimate(demand: Demand, lengths: Lengths, cluster: Cluster, costs: Costs) -> Estimate:
    """Predicts from the demand and from speeds what recording takes."""
    shards = number_of_shards(demand.questions) if cluster.workers else 1
    together = min(SHARDS_IN_FLIGHT * cluster.processes, shards)
    chains = demand.requests / demand.depth * together / shards
    in_flight = int(min(chains, cluster.processes * cluster.concurrency, cluster.places))
    request_s = cluster.sequences * lengths.generated / cluster.tokens_per_s * demand.solutions / demand.requests
    requests_per_s = in_flight / request_s
    engine_s = demand.requests / requests_per_s + (demand.depth - 1) * request_s

    rows = demand.requests / shards
    rows_a_file = min(max(requests_per_s / together * FLUSH_SECONDS, 1), FLUSH_EVERY)
    files = shards * math.ceil(rows / rows_a_file)
    listing_s = shards * files / 2 * costs.list_s / cluster.processes
    reading_s = files * (costs.list_s + costs.fetch_s) + demand.requests * costs.read_s
    return Estimate(
        engine_s=engine_s,
        listing_s=listing_s,
        replay_s=reading_s + demand.solutions * costs.replay_s,
        replica_hours=engine_s * cluster.replicas / 3600,
        in_flight=in_flight,
        request_s=request_s,
        shards=shards,
        files=files,
        disk_bytes=demand.requests * costs.row_bytes + demand.generated_tokens * costs.token_bytes,
        replay_bytes=demand.requests * costs.held_row_bytes
        + demand.generated_tokens * costs.held_token_bytes
        + demand.solutions * costs.solution_bytes,
    )

"""A Ray Data pipeline that records: a pool of actors, each with an engine, to which shards of the questions are dealt.

A shard holds the questions whose ids have one hash; it is one task, and its questions one actor's. An actor has many
shards at hand, so that their chains are in flight together and none waits for the slowest of its shard. What an actor
that dies had flushed is read again by the one that takes its shards over. Ray Data hands out no more than the pool has
room for, and starts lost actors again.
"""

import functools
import logging
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.exceptions import ExecutionTimeoutError

from mpdf_rllib.cluster import check_room, gpus_of
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.engine import Engine, Generation, GenerationRequest, run
from mpdf_rllib.engine.event_loop import in_thread
from mpdf_rllib.engine.recording_files import owner
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import EngineError, MPDFError
from mpdf_rllib.questions import Question, Split
from mpdf_rllib.recorded_trees import RecordedTrees

SPLITS: tuple[Split, ...] = ("train", "test")
SHARDS_IN_FLIGHT = 4
"""Of an actor: together some hundred requests, which fill the batches of its engine."""
_FEWEST_SHARDS, _SMALLEST_SHARD, _LARGEST_SHARD = 32, 8, 64
_PATIENCE = 10.0
"""Times an engine's limit: how long one shard may take."""


@dataclass(frozen=True)
class Recorded:
    """What came of a shard.

    Attributes:
        questions: Questions of which all is recorded now.
        made: Generations that were made; the others had been recorded.
        tokens: Tokens that were generated for them.
        seconds: How long the shard was worked on, beside others.
    """

    questions: int
    made: int
    tokens: int
    seconds: float


def record_questions(config: ExperimentConfig, questions: dict[Split, list[str]]) -> Iterator[Recorded]:
    """Records all that debates and baselines ask for about some questions, shard by shard.

    Args:
        config: The experiment.
        questions: Ids by split.

    Raises:
        MPDFError: What an engine raised; what it had made is recorded, but for the last seconds.
    """
    count = sum(map(len, questions.values()))
    shards = number_of_shards(count)
    rows: dict[int, dict[str, Any]] = {}
    for split, ids in questions.items():
        for question in ids:
            row = rows.setdefault(owner(question, shards), {"train": [], "test": []})
            row[split].append(question)
    dealt = [{"shard": shard, **row} for shard, row in sorted(rows.items())]
    size = min(config.record.workers, len(dealt))
    pool = ActorPoolStrategy(
        size=size,
        max_tasks_in_flight_per_actor=SHARDS_IN_FLIGHT,
        max_concurrent_calls_per_actor=SHARDS_IN_FLIGHT,
        enable_true_multi_threading=True,
    )
    gpus, serving_cpus = gpus_of(config), config.serving_cpus
    # One actor is enough, but all that there is room for begin, also where none is left then for Serve's replicas.
    check_room(
        "record.workers, cpus_per_worker and gpus_per_worker, and engine.replicas: lower them or run on a cluster",
        CPU=config.record.cpus_per_worker * (size if serving_cpus else 1) + serving_cpus,
        GPU=gpus,
    )
    patience = _PATIENCE * config.engine.timeout_s
    _configure(patience)
    results = ray.data.from_items(dealt, override_num_blocks=len(dealt)).map_batches(
        _Recorder,
        batch_size=1,
        batch_format="pyarrow",
        compute=pool,
        fn_constructor_args=(config, shards),
        num_cpus=config.record.cpus_per_worker,
        num_gpus=gpus,
    )
    try:
        for row in results.iter_rows():
            if error := row.pop("error"):
                raise pickle.loads(error)
            yield Recorded(**row)
    except ExecutionTimeoutError as error:
        raise EngineError(
            f"Recording stands still: no shard of questions was finished for {patience:g} s, 10 engine.timeout_s. "
            f"If a node was lost, Ray waits for room for one of {config.record.workers} workers: add a node or lower "
            "record.workers. What was made is recorded: the same command goes on there."
        ) from error
    except ray.exceptions.RayActorError as error:
        raise EngineError(
            "The processes that record were lost more often than Ray starts them again. What they made is recorded but "
            f"for the last seconds: the same command goes on there.\n{error}"
        ) from error


def number_of_shards(questions: int) -> int:
    """A power of two, so that each shard of one division lies within one shard of every coarser one."""
    size = min(max(questions // _FEWEST_SHARDS, _SMALLEST_SHARD), _LARGEST_SHARD)
    return 1 << max(questions // size, 1).bit_length() - 1


class _Recorder:
    """An actor of the pool."""

    def __init__(self, config: ExperimentConfig, shards: int):
        self._config = config
        self._shards = shards

    def __call__(self, batch: pa.Table) -> dict[str, list[Any]]:
        """Records a shard; says what kept it from that, of which Ray would lose all but the traceback."""
        (row,) = batch.to_pylist()
        recorded, said = Recorded(0, 0, 0, 0.0), b""
        try:
            recorded = run(self._record(row["shard"], {split: row[split] for split in SPLITS}))
        except MPDFError as error:
            said = pickle.dumps(error)
        return {name: [value] for name, value in (vars(recorded) | {"error": said}).items()}

    @functools.cached_property
    def _team(self) -> Team:
        return self._config.make_team()

    @functools.cached_property
    def _questions(self) -> dict[Split, dict[str, Question]]:
        return {split: {q.id: q for q in self._config.questions_of(split)} for split in SPLITS}

    @functools.cached_property
    def _engine(self) -> Engine:
        return _KeptOpen(self._config.make_inner_engine())

    async def _record(self, shard: int, asked: dict[Split, list[str]]) -> Recorded:
        # All is made with a shard, in the event loop's one thread, and not with the actor: Ray loses errors of that.
        train, test = ([self._questions[split][question] for question in asked[split]] for split in SPLITS)
        trees = RecordedTrees.empty(self._team, train, test)
        recording = partial(self._config.make_recording, lambda: self._engine, (shard, self._shards))
        engine = await in_thread(recording)  # listing the folder does not hold up the other shards
        started = time.monotonic()
        try:
            await trees.fill(self._team, engine)
        finally:
            await engine.close()
        return Recorded(len(train) + len(test), engine.made, engine.made_tokens, time.monotonic() - started)


class _KeptOpen:
    """An engine that many recordings share, none of which closes it: it ends with its process."""

    def __init__(self, inner: Engine):
        self._inner = inner

    async def generate(self, request: GenerationRequest) -> Generation:
        return await self._inner.generate(request)

    async def close(self) -> None:
        pass


def _configure(patience: float) -> None:
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = patience
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)

"""The systems that a policy is compared with, and how they are played."""

import itertools
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from mpdf_rllib import cli
from mpdf_rllib.baselines.aflow import AFlow
from mpdf_rllib.baselines.agentprune import AgentPrune
from mpdf_rllib.baselines.cot import CoT
from mpdf_rllib.baselines.dylan import DyLAN
from mpdf_rllib.baselines.gptswarm import GPTSwarm
from mpdf_rllib.baselines.llm_debate import LLMDebate
from mpdf_rllib.baselines.php import PHP
from mpdf_rllib.baselines.self_consistency import SelfConsistency, SelfConsistencyAtCost
from mpdf_rllib.baselines.system import Panel, System, together
from mpdf_rllib.baselines.vanilla import Vanilla
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.engine import RecordingEngine, run
from mpdf_rllib.questions import Question
from mpdf_rllib.recorded_trees import FRESH_SAMPLES
from mpdf_rllib.results import SystemResult

Result = TypeVar("Result")

SAMPLES = (3, 9)
"""Of self-consistency."""

Instances = Sequence[System]
"""One system, once for every agent or seed."""


def rows_of(config: ExperimentConfig, tokens: float) -> list[Instances]:
    """The systems to compare with, in the table's order.

    Args:
        config: The experiment.
        tokens: What the policy's debates cost a question, prompts included.
    """
    settings, agents = config.compare, range(config.team.size)
    seeds = range(settings.seeds)
    ranker, proposer = config.advisor(settings.ranker), config.advisor(settings.proposer)
    return [
        [Vanilla(agent) for agent in agents],
        [CoT(agent) for agent in agents],
        *([SelfConsistency(number)] for number in SAMPLES),
        [SelfConsistencyAtCost(tokens)],
        [PHP(settings.php.turns, agent) for agent in agents],
        [LLMDebate(settings.llm_debate.rounds)],
        [DyLAN(**settings.dylan.model_dump(), seed=seed, ranker=ranker) for seed in seeds],
        [GPTSwarm(**settings.gptswarm.model_dump(), seed=seed) for seed in seeds],
        [AgentPrune(**settings.agentprune.model_dump(), seed=seed) for seed in seeds],
        [AFlow(**settings.aflow.model_dump(), seed=seed, proposer=proposer) for seed in seeds],
    ]


def by_samples(rows: Iterable[Instances]) -> list[str]:
    """The labels of those that are self-consistency, of which CoT is that of one sample."""
    return [row[0].label for row in rows if isinstance(row[0], CoT | SelfConsistency)]


def expected_requests(config: ExperimentConfig, train: int, test: int) -> Iterator[tuple[str, int, int | None]]:
    """By system: how often it asks at most, while it is fitted to `train` questions and for `test` answers together.

    None where it is not known before the policy is trained. What several systems ask alike is made once.
    """
    size = config.team.size
    for row in rows_of(config, tokens=0.0):
        most = [system.requests(size) for system in row]
        known = not isinstance(row[0], SelfConsistencyAtCost)
        yield row[0].label, sum(one.fit for one in most), test * sum(one.answer for one in most) if known else None
    calls = 1 + config.team.critic + config.team.peer_likelihood * (size - 1)
    debates, more = calls * config.team.solutions, calls * max(FRESH_SAMPLES - size, 0)
    yield "MPDF, all that any policy can ask", train * debates, test * debates
    yield "more first answers, for `train`'s table", 0, test * more


def play_systems(
    config: ExperimentConfig, rows: Sequence[Instances], train: Sequence[Question], test: Sequence[Question]
) -> list[SystemResult]:
    """Fits all systems to the training questions, then has them answer the others; what is asked is recorded.

    Raises:
        EngineError: The engine failed; what was made before is recorded.
        DataError: The recording could not be written.
    """
    engine = config.make_comparing_engine()
    return run(_played(engine, Panel(config.make_team(), engine), rows, train, test))


async def _played(
    engine: RecordingEngine,
    panel: Panel,
    rows: Sequence[Instances],
    train: Sequence[Question],
    test: Sequence[Question],
) -> list[SystemResult]:
    systems = [system for row in rows for system in row]
    try:
        with _progress(engine) as progress:
            # All are fitted before any answers, so that no fit's small batches wait behind thousands of answers.
            await together(_shown(progress, "Fitting", [system.fit(panel, train) for system in systems]))
            answers = [system.answer(panel, test) for system in systems]
            outcomes = iter(await together(_shown(progress, "Answering", answers)))
    finally:
        await engine.close()
    return [SystemResult(row[0].label, tuple(itertools.islice(outcomes, len(row)))) for row in rows]


def _shown(
    progress: Progress, doing: str, work: Sequence[Coroutine[Any, Any, Result]]
) -> Iterator[Coroutine[Any, Any, Result]]:
    task = progress.add_task(doing, total=len(work))

    async def advancing(each: Coroutine[Any, Any, Result]) -> Result:
        result = await each
        progress.advance(task)
        return result

    return map(advancing, work)


class _Made(ProgressColumn):
    """How much the engine had to make."""

    def __init__(self, engine: RecordingEngine):
        super().__init__()
        self._engine = engine

    def render(self, task: Task) -> Text:
        return Text(f"{self._engine.made} solutions made, {self._engine.hits} replayed")


def _progress(engine: RecordingEngine) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Made(engine),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=cli.console)

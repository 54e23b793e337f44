"""`python -m mpdf_rllib.record`: makes every generation that the experiment's debates and baselines can ask for."""

import argparse
import asyncio
import dataclasses
import sys
import time
from dataclasses import dataclass

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from mpdf_rllib import cli
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.engine import RecordingEngine, run
from mpdf_rllib.engine.recording import owner
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import ConfigError

FRESH_SAMPLES = 6
"""First answers a question, in the agents' turn, for the votes over more samples; the first N are the trees' roots."""


@dataclass(frozen=True)
class RecordedTrees:
    """All solutions of an experiment.

    Attributes:
        train: Trees of the training questions.
        test: Trees of the held-out questions.
        fresh: `FRESH_SAMPLES` first answers to each held-out question.
        made: Generations that the engine made; the others were replayed.
    """

    train: SolutionTree
    test: SolutionTree
    fresh: SolutionTree
    made: int


def record(config: ExperimentConfig, shard: tuple[int, int] = (0, 1)) -> RecordedTrees:
    """Fills all trees from the recording, and from the engine what is missing there.

    What was made is read back: where another process recorded the same, the first of the two counts for everybody.

    Args:
        config: The experiment.
        shard: (index, number): only the questions that this shard owns, so that several machines can share the work.

    Raises:
        ConfigError: The shard owns no question.
        EngineError: The engine failed; what it made before is recorded.
    """
    trees = _filled(config, shard)
    if made := trees.made:
        del trees
        trees = dataclasses.replace(_filled(config, shard, replay_only=True), made=made)
    return trees


def _filled(config: ExperimentConfig, shard: tuple[int, int], replay_only: bool = False) -> RecordedTrees:
    team = config.make_team()
    train, test = (
        [q for q in config.questions_of(split) if owner(q.id, shard[1]) == shard[0]] for split in ("train", "test")
    )
    if not train + test:
        raise ConfigError(f"--shard {shard[0]}/{shard[1]}: it owns no question; take fewer shards")
    trees = team.tree(train), team.tree(test), team.fresh_tree(test, FRESH_SAMPLES)
    for tree in trees:
        tree.number_all()
    engine = config.make_engine(replay_only)
    run(_fill(engine, team, trees, "Reading back" if replay_only else "Recording"))
    return RecordedTrees(*trees, made=engine.made)


async def _fill(engine: RecordingEngine, team: Team, trees: tuple[SolutionTree, ...], doing: str) -> None:
    total = sum(tree.present.size for tree in trees)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("solutions {task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=cli.console) as progress:
        task = progress.add_task(doing, total=total, speed="")
        replayed_tokens = None
        started = time.monotonic()

        async def report() -> None:
            nonlocal replayed_tokens, started
            while True:
                tokens = sum(int(tree.tokens[..., 2].sum()) for tree in trees)
                if engine.made == 0 or replayed_tokens is None:
                    replayed_tokens, started = tokens, time.monotonic()
                speed = (tokens - replayed_tokens) / max(time.monotonic() - started, 1e-9)
                done = sum(int(tree.present.sum()) for tree in trees)
                progress.update(
                    task, completed=done, speed=f"{speed:.0f} tokens/s" if engine.made else "loading the engine"
                )
                await asyncio.sleep(0.5)

        reporter = asyncio.ensure_future(report())
        try:
            wanted = [(tree, range(len(tree.questions)), range(tree.num_nodes)) for tree in trees]
            await asyncio.gather(
                *(
                    team.fill(engine, tree, [(q, m) for q in questions for m in nodes])
                    for tree, questions, nodes in wanted
                )
            )
            progress.update(task, completed=total)
            if not engine.made:
                progress.update(task, speed="replayed")
        finally:
            reporter.cancel()
            await engine.close()


def _arguments() -> argparse.ArgumentParser:
    arguments = cli.parser(
        "record", "Record every generation that the experiment can ask for; again, only what is missing."
    )
    arguments.add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="record the I-th of N shares of the questions, from 0",
    )
    return arguments


def _shard(text: str) -> tuple[int, int]:
    try:
        index, number = (int(part) for part in text.split("/"))
    except ValueError:
        index, number = 0, 0
    if not 0 <= index < number:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 0 <= I < N")
    return index, number


def _command(config: ExperimentConfig, options: argparse.Namespace) -> None:
    trees = record(config, options.shard)
    cli.console.print(f"{trees.made} generations made; the recording is {config.recording_url}", highlight=False)


if __name__ == "__main__":
    sys.exit(cli.main(_arguments(), _command))

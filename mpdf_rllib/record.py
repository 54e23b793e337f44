"""`python -m mpdf_rllib.record`: makes every generation that the experiment's debates and baselines can ask for."""

import argparse
import asyncio
import dataclasses
import os
import sys
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from mpdf_rllib import cli
from mpdf_rllib.cluster import start_ray
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.engine import RecordingEngine, run
from mpdf_rllib.engine.recording_files import owner
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import ConfigError, DataError
from mpdf_rllib.questions import Split
from mpdf_rllib.recorded_trees import RecordedTrees


def record(config: ExperimentConfig, shard: tuple[int, int] = (0, 1)) -> RecordedTrees:
    """Fills all trees from the recording, and has made what is missing there, in this process or by Ray's actors.

    What was made is read back: where another process recorded the same, the first of the two counts for everybody.

    Args:
        config: The experiment.
        shard: (index, number): only the questions that this shard owns, so that several machines without a common Ray
            cluster can share the work.

    Raises:
        ConfigError: The shard owns no question.
        EngineError: The engine failed; what it made before is recorded, but by actors for the last seconds.
    """
    if config.record.workers == 0:
        trees = _recorded_here(config, shard)
        if not trees.made:
            return trees
        made = trees.made
    else:
        trees, missing = _replayed(config, shard)
        if not any(missing.values()):
            return trees
        made = _record_by_workers(config, missing)
    del trees
    trees, missing = _replayed(config, shard)
    if any(missing.values()):
        raise DataError(
            f"The recording {config.recording_url!r} does not hold what was just written: something is missing of "
            f"{sum(map(len, missing.values()))} questions. Run the same command again; if that does not help, its file "
            "system hides new files, or another process removes them."
        )
    return dataclasses.replace(trees, made=made)


def replay(config: ExperimentConfig) -> RecordedTrees:
    """Fills all trees from the recording, without an engine.

    Raises:
        DataError: The recording does not hold all of them.
    """
    trees, missing = _replayed(config, (0, 1))
    if count := sum(map(len, missing.values())):
        raise DataError(
            f"The recording {config.recording_url!r} lacks solutions of {count} questions; if it was moved, say where "
            "it is by --set recording=..., or else record them by `python -m mpdf_rllib.record`"
        )
    return trees


def _empty(config: ExperimentConfig, shard: tuple[int, int]) -> RecordedTrees:
    train, test = (
        [q for q in config.questions_of(split) if owner(q.id, shard[1]) == shard[0]] for split in ("train", "test")
    )
    if not train + test:
        raise ConfigError(f"--shard {shard[0]}/{shard[1]}: it owns no question; take fewer shards")
    return RecordedTrees.empty(config.make_team(), train, test)


def _replayed(config: ExperimentConfig, shard: tuple[int, int]) -> tuple[RecordedTrees, dict[Split, list[str]]]:
    """The trees, and the ids of the questions of which something is not recorded."""
    trees = _empty(config, shard)
    with cli.console.status("Reading the recording"):
        return trees, run(trees.replay(config.make_team(), config.make_engine(replay_only=True)))


def _recorded_here(config: ExperimentConfig, shard: tuple[int, int]) -> RecordedTrees:
    trees, engine = _empty(config, shard), config.make_engine()
    run(_fill(engine, config.make_team(), trees))
    return dataclasses.replace(trees, made=engine.made)


async def _fill(engine: RecordingEngine, team: Team, trees: RecordedTrees) -> None:
    with _progress("solutions") as progress:
        task = progress.add_task("Recording", total=sum(tree.present.size for tree in trees.all), speed="")
        started = time.monotonic()

        def show(speed: str) -> None:
            progress.update(task, completed=sum(int(tree.present.sum()) for tree in trees.all), speed=speed)

        async def report() -> None:
            nonlocal started
            while True:
                if engine.made == 0:
                    started = time.monotonic()
                speed = engine.made_tokens / max(time.monotonic() - started, 1e-9)
                show(f"{speed:.0f} tokens/s" if engine.made else "loading the engine")
                await asyncio.sleep(0.5)

        reporter = asyncio.ensure_future(report())
        try:
            await trees.fill(team, engine)
        finally:
            reporter.cancel()
            await engine.close()
        show(f"{engine.made} made" if engine.made else "replayed")


def _record_by_workers(config: ExperimentConfig, missing: dict[Split, list[str]]) -> int:
    """Returns the number of generations made."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's core calls every pool of Ray Data's an error
    start_ray()
    from mpdf_rllib.recording_pipeline import record_questions  # Ray Data is slow to import

    made = tokens = 0
    with _progress("questions") as progress:
        total = sum(map(len, missing.values()))
        task = progress.add_task("Recording", total=total, speed="loading the engine")
        started = time.monotonic()
        for recorded in record_questions(config, missing):
            made += recorded.made
            tokens += recorded.tokens
            speed = tokens / (time.monotonic() - started)
            progress.update(task, advance=recorded.questions, speed=f"{speed:.0f} tokens/s")
    return made


def _progress(unit: str) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + " {task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=cli.console)


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

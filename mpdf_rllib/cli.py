"""What all commands share: arguments, the console, and how errors reach the user."""

import argparse
import logging
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import get_args

from rich.console import Console
from rich.markup import escape

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.config_file import load_config
from mpdf_rllib.envs.credit import CreditKind
from mpdf_rllib.errors import MPDFError
from mpdf_rllib.ray_job import passing_places
from mpdf_rllib.shown_prompts import shown_prompts

console = Console(stderr=True)
"""Progress and messages."""
output = Console(width=None if sys.stdout.isatty() else 200)
"""Results."""


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser with the arguments of every command: --config, --set, --dry-run."""
    arguments = argparse.ArgumentParser(prog=f"python -m mpdf_rllib.{command}", description=description)
    arguments.add_argument(
        "--config", required=True, metavar="FILE", help="YAML file, such as tuned_examples/math.yaml"
    )
    arguments.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", dest="overrides", help="replace a value of the file"
    )
    arguments.add_argument("--dry-run", action="store_true", help="print the resolved config and the prompts, and stop")
    return arguments


def add_fresh(arguments: argparse.ArgumentParser) -> None:
    """Adds --fresh, of commands that train."""
    arguments.add_argument(
        "--fresh", action="store_true", help="begin the run anew; the recording is kept. Leave it out to go on"
    )


def add_policy(arguments: argparse.ArgumentParser) -> None:
    """Adds --run, --credit and --seed, which say what trained policy is meant; see `DeliberationTeam.from_run`."""
    arguments.add_argument("--run", required=True, metavar="FOLDER", help="run folder of `train`, such as runs/math")
    arguments.add_argument("--credit", choices=get_args(CreditKind), help="of the policy; the run's first by default")
    arguments.add_argument("--seed", type=int, default=0, help="of the policy; 0 by default")


def add_team(arguments: argparse.ArgumentParser) -> None:
    """Adds what `add_policy` does and --set, of commands that have a trained team debate."""
    add_policy(arguments)
    add_overrides(arguments)


def add_overrides(
    arguments: argparse.ArgumentParser,
    said: str = "replace a value of the run's config, such as where its models run or its recording lies",
) -> None:
    """Adds --set, of commands that take the config of a run, or of something else that the help then says."""
    arguments.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="a.b=c",
        dest="overrides",
        help=said,
    )


def main(
    arguments: argparse.ArgumentParser,
    command: Callable[[ExperimentConfig, argparse.Namespace], None],
    argv: Sequence[str] | None = None,
    dry_run: Callable[[ExperimentConfig], str] = lambda config: "",
) -> int:
    """Runs a command; returns the exit status: 0, 2 for an error that the user can mend, 130 when interrupted.

    Args:
        arguments: Its parser.
        command: What it does.
        argv: The command line; the process's by default.
        dry_run: What it would do, which `--dry-run` prints beside the config and the prompts.
    """
    options = arguments.parse_args(argv)

    def work() -> None:
        config = load_config(options.config, options.overrides)
        _warn_of_passing_places(config)
        if options.dry_run:
            sys.stdout.write(config.to_yaml())
            for heading, text in shown_prompts(config):
                sys.stdout.write(textwrap.indent(f"\n{heading}\n\n{text}\n", "# ", lambda line: True))
            if said := dry_run(config):
                sys.stdout.write(textwrap.indent(f"\n{said}\n", "# ", lambda line: True))
        else:
            command(config, options)

    again = "the same command again" + (" without --fresh" if getattr(options, "fresh", False) else "")
    return status_of(work, f"{again} goes on where it stopped")


def status_of(work: Callable[[], None], when_interrupted: str) -> int:
    """Runs a command's work and tells its errors; returns the exit status: see `main`."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for chatty in ("ray", "ray.rllib"):  # RLlib warns of its own deprecated classes
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        work()
    except MPDFError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", markup=True, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print(f"interrupted; {when_interrupted}", highlight=False)
        return 130
    return 0


def _warn_of_passing_places(config: ExperimentConfig) -> None:
    if places := passing_places(config):
        named = " and ".join(f"{key} {place}" for key, place in places.items())
        remedy = " ".join(f"--set {key}=..." for key in places)
        console.print(
            f"[bold yellow]warning:[/] {escape(named)}: in this job's copy of the working directory, which Ray may "
            f"remove after it. To keep what comes out, give folders that all nodes share, by {remedy}; a recording may "
            "also be a URL, such as s3://bucket/folder.",
            highlight=False,
            soft_wrap=True,
        )

"""`python -m mpdf_rllib.experiment`: trains and plays what the paper's claims are about, and writes what came out."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mpdf_rllib import cli, run_folder
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.record import record
from mpdf_rllib.studies.config import Study, load_study, packaged_studies
from mpdf_rllib.studies.page import section, tables, with_section
from mpdf_rllib.studies.playing import PlayedArm, play_study
from mpdf_rllib.studies.training import jobs_of, train, trees_key


def run_studies(studies: Sequence[Study], fresh: bool = False) -> list[dict[str, PlayedArm]]:
    """Records, trains and plays the arms of studies, from where an interrupted run stopped.

    Args:
        studies: The studies; a policy that several need is trained once.
        fresh: Trains all anew; recordings are kept.

    Returns:
        Of each study its arms, by name.

    Raises:
        ConfigError: A run folder cannot be written.
        EngineError: The engine failed, or a policy could not be trained; what was done before is kept.
    """
    arms = [arm for study in studies for arm in study.arms]
    configs = {trees_key(config): config for arm in arms for config in (arm.trained, arm.played)}
    # The largest first: what the others need is mostly a part of it, and is made by one engine.
    trees = {key: record(configs[key]) for key in sorted(configs, key=lambda key: -_solutions(configs[key]))}
    train([job for arm in arms for job in jobs_of(arm, trees)], trees, fresh)
    with cli.console.status("Playing"):
        return [play_study(study, trees) for study in studies]


def _solutions(config: ExperimentConfig) -> int:
    return config.team.solutions * (config.number_of("train") + config.number_of("test"))


def _command(options: argparse.Namespace) -> None:
    order = [path.stem for path in packaged_studies()]
    studies = [load_study(name, options.overrides) for name in options.names or order]
    page = Path(options.results)
    for study, arms in zip(studies, run_studies(studies, options.fresh), strict=True):
        with cli.console.status(f"Writing {study.name}"):
            shown = tables(study, arms)
            text = section(study, arms, shown)
            _write_section(page, study.name, text, order)
        for table in shown:
            cli.output.print(table)
        cli.output.print(text[text.rindex("\n\n") :], highlight=False, soft_wrap=True)
    cli.output.print(f"page: {page}", highlight=False, soft_wrap=True)


def _write_section(page: Path, name: str, text: str, order: Sequence[str]) -> None:
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        before = page.read_text(encoding="utf-8") if page.exists() else ""
        run_folder.write(page, with_section(before, name, text, order))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--results {page}: {error}; give a file that can be written") from error
    except ValueError as error:
        raise ConfigError(
            f"--results {page}: it is no page of this command's, and would be lost; give another"
        ) from error


def _arguments() -> argparse.ArgumentParser:
    names = ", ".join(path.stem for path in packaged_studies())
    arguments = argparse.ArgumentParser(
        prog="python -m mpdf_rllib.experiment",
        description="Train and play what claims are about. The same command again goes on where it stopped.",
    )
    arguments.add_argument("names", nargs="*", metavar="NAME", help=f"{names}, or the path of a study; all by default")
    cli.add_overrides(arguments, "replace a value of all arms, but not an arm's own")
    arguments.add_argument("--results", default="docs/results.md", metavar="FILE", help="the page; docs/results.md")
    cli.add_fresh(arguments)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, see `cli.main`."""
    options = _arguments().parse_args(argv)
    return cli.status_of(lambda: _command(options), "the same command again goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main())

"""`python -m mpdf_rllib.report RUN [RUN ...]`: makes a run's report anew, or one in which several are compared."""

import argparse
import sys
from pathlib import Path

from mpdf_rllib import cli, run_folder
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.report.page import page
from mpdf_rllib.report.runs import read_run


def _command(options: argparse.Namespace) -> None:
    paths = [Path(run).expanduser().absolute() for run in options.runs]
    if len({*paths}) < len(paths):
        raise ConfigError(f"RUN: {', '.join(options.runs)}: one is given twice; give each once")
    if options.to is None and len(paths) > 1:
        raise ConfigError("to: say by --to FILE where the report of several runs goes")
    file = Path(options.to).expanduser().absolute() if options.to else paths[0] / run_folder.REPORT
    text = page([read_run(run_folder.read_config(path, options.overrides)) for path in paths])
    try:
        run_folder.write(file, text)
    except OSError as error:
        raise ConfigError(f"to: {file} cannot be written ({error}); give another file by --to") from error
    cli.output.print(f"report: {file}", highlight=False, soft_wrap=True)


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m mpdf_rllib.report", description="Make a run's report anew, or one that compares several runs."
    )
    arguments.add_argument("runs", nargs="+", metavar="RUN", help="run folder, such as runs/math")
    arguments.add_argument("--to", metavar="FILE", help=f"where to; {run_folder.REPORT} in the run folder by default")
    cli.add_overrides(arguments)
    return arguments


if __name__ == "__main__":
    given = _arguments().parse_args()
    sys.exit(cli.status_of(lambda: _command(given), "the same command again makes the report"))

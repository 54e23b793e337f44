"""`python -m mpdf_rllib.train`: records, trains a policy for every seed and kind of credit, and prints the table.

A config with a `sweep` compares settings instead; see `mpdf_rllib.sweep`.
"""

import argparse
import sys
from pathlib import Path

from mpdf_rllib import cli, run_folder
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.evaluate import evaluate, print_table
from mpdf_rllib.learners import replaying
from mpdf_rllib.record import record
from mpdf_rllib.recorded_trees import RecordedTrees
from mpdf_rllib.results import SystemResult
from mpdf_rllib.sweep import print_sweep, sweep
from mpdf_rllib.sweep_config import settings_of
from mpdf_rllib.trained_policies import write_policies
from mpdf_rllib.trials import run_trials


def train(config: ExperimentConfig, fresh: bool = False) -> list[SystemResult]:
    """Runs the whole experiment, from where an earlier, interrupted run of the same config stopped.

    Args:
        config: The experiment, without a sweep.
        fresh: Begins the run anew; the recording is kept.

    Returns:
        The rows of the table.

    Raises:
        ConfigError: The run folder holds a run with other settings, or cannot be written.
        EngineError: The engine or a trial failed; what was done before is kept.
    """
    if config.sweep is not None:
        raise ConfigError("sweep: `train` trains one setting; call `mpdf_rllib.sweep.sweep`, or leave it out")
    run_folder.prepare(config, fresh)
    trees = None if config.live else record(config)
    train_policies(config, trees)
    trees = trees or record(config)
    with cli.console.status("Evaluating"):
        return evaluate(config, trees)


def train_policies(config: ExperimentConfig, trees: RecordedTrees | None) -> None:
    """Trains the run's policies, where they are not trained already.

    Args:
        config: The experiment, whose run folder is ready.
        trees: All solutions; None to ask the engine while the policy learns.

    Raises:
        ConfigError: The run folder cannot be written.
        EngineError: The engine or a trial failed.
    """
    if run_folder.is_trained(config.run_path):
        return
    env_config = replaying(config, trees.train) if trees else config.env_config()
    trials = run_trials(config, settings_of(config.algorithm, None), env_config)
    checkpoints = {kind: [Path(trial.checkpoint.path) for trial in of_kind] for kind, of_kind in trials.items()}
    write_policies(config.run_path, checkpoints, config.team.size)
    run_folder.write_checkpoints(config.run_path, checkpoints)


def _arguments() -> argparse.ArgumentParser:
    arguments = cli.parser("train", "Record, train and evaluate. The same command again goes on where it stopped.")
    cli.add_fresh(arguments)
    return arguments


def _command(config: ExperimentConfig, options: argparse.Namespace) -> None:
    if config.sweep is None:
        print_table(config, train(config, options.fresh))
    else:
        print_sweep(config, sweep(config, options.fresh))


if __name__ == "__main__":
    sys.exit(cli.main(_arguments(), _command))

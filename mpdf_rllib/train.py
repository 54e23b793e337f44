"""`python -m mpdf_rllib.train`: records, trains a policy for every seed and kind of credit, and prints the table."""

import argparse
import errno
import logging
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mpdf_rllib import cli, run_folder
from mpdf_rllib.algorithms.softrankpo import SoftRankPO, SoftRankPOConfig
from mpdf_rllib.baselines.bounds import fit_calibration
from mpdf_rllib.cluster import start_ray
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.envs.credit import Calibration
from mpdf_rllib.envs.debate import ACTIONS
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.errors import EngineError, MPDFError
from mpdf_rllib.evaluate import evaluate, print_table
from mpdf_rllib.record import record
from mpdf_rllib.results import SystemResult

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def train(config: ExperimentConfig, fresh: bool = False) -> list[SystemResult]:
    """Runs the whole experiment, from where an earlier, interrupted run of the same config stopped.

    Args:
        config: The experiment.
        fresh: Begins the run anew; the recording is kept.

    Returns:
        The rows of the table.

    Raises:
        ConfigError: The run folder holds a run with other settings, or cannot be written.
        EngineError: The engine or every trial failed; what was done before is kept.
    """
    run_folder.prepare(config, fresh)
    trees = record(config)
    _fit(config, fit_calibration(trees.train))
    with cli.console.status("Evaluating"):
        return evaluate(config, trees)


def algorithm_config(config: ExperimentConfig, env_config: dict[str, Any]) -> SoftRankPOConfig:
    """The experiment's RLlib config, for `build_algo()` or a Tuner."""
    settings = config.algorithm
    debates = len(config.questions_of("train")) * settings.passes
    return (
        SoftRankPOConfig()
        .environment(DeliberationEnv, env_config=env_config)
        .env_runners(num_envs_per_env_runner=debates)
        .training(
            tau=settings.tau,
            beta=settings.beta,
            objective=settings.objective,
            entropy_coeff=settings.entropy_coeff,
            static_corpus=settings.static_corpus,
            warm_start_iterations=settings.warm_start_iterations,
            num_epochs=settings.epochs,
            minibatch_size=settings.minibatch_size,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            train_batch_size_per_learner=debates * config.team.rounds,
        )
        .rl_module(model_config={"dim": settings.dim, "heads": settings.heads})
    )


def _fit(config: ExperimentConfig, calibration: Calibration) -> None:
    """Trains all trials that are not finished and notes their checkpoints."""
    settings = config.algorithm
    iterations = settings.warm_start_iterations + settings.iterations
    credits = settings.credits
    env_config = config.env_config() | {
        "engine": partial(config.make_engine, replay_only=True),
        "calibration": calibration,
        "credit": tune.grid_search(list(credits)),
        "token_price": tune.sample_from(lambda spec: credits[spec.config.env_config.credit].token_price),
        "tie_tolerance": tune.sample_from(lambda spec: credits[spec.config.env_config.credit].tie_tolerance),
    }
    space = algorithm_config(config, env_config).debugging(seed=tune.grid_search(list(range(config.seeds))))

    start_ray()
    with run_folder.writing(config.run_path):
        trials = _run(_tuner(config, space, iterations))
    if any((trial.metrics or {}).get("training_iteration", 0) < iterations for trial in trials):
        raise KeyboardInterrupt  # the Tuner stops gracefully at the first Ctrl-C

    by_seed = sorted(trials, key=lambda trial: trial.config["seed"])
    checkpoints = {
        kind: [Path(trial.checkpoint.path) for trial in by_seed if trial.config["env_config"]["credit"] == kind]
        for kind in settings.credits
    }
    run_folder.write_checkpoints(config.run_path, checkpoints)


def _tuner(config: ExperimentConfig, space: SoftRankPOConfig, iterations: int) -> tune.Tuner:
    """Of all trials: the one that an interrupted run saved, or a new one."""
    folder = config.run_path / run_folder.TUNE
    if run_folder.has_trials(config.run_path):
        return tune.Tuner.restore(str(folder), SoftRankPO, resume_errored=True, param_space=space)
    run_config = tune.RunConfig(
        name=run_folder.TUNE,
        storage_path=str(config.run_path),
        stop={"training_iteration": iterations},
        # All are kept: what was last saved of the trials, which a killed run goes on from, may name an earlier one.
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=2, checkpoint_at_end=True),
        callbacks=[_TrialProgress(len(config.algorithm.credits) * config.seeds * iterations)],
        verbose=0,
    )
    tune_config = tune.TuneConfig(trial_name_creator=_trial_name, trial_dirname_creator=_trial_name)
    return tune.Tuner(SoftRankPO, param_space=space, run_config=run_config, tune_config=tune_config)


def _run(tuner: tune.Tuner) -> tune.ResultGrid:
    """Runs all trials that are not finished.

    Raises:
        EngineError: A trial failed.
        OSError: What comes of the trials could not be written.
    """
    logger, errors = logging.getLogger("ray.tune"), _Errors()
    logger.addHandler(errors)
    logger.propagate = False
    try:
        trials = tuner.fit()
        if not trials.errors:
            return trials
    except Exception:  # what Tune could not write, it may fail to read
        errors.raise_unwritable()
        raise
    finally:
        logger.removeHandler(errors)
        logger.propagate = True
    errors.raise_unwritable()
    first = trials.errors[0]
    cause = getattr(first, "cause", None)
    raise EngineError(
        f"{len(trials.errors)} of {len(trials)} trials failed; the same command tries them again. "
        f"The first failed with:\n{cause if isinstance(cause, MPDFError) else first}"
    )


class _Errors(logging.Handler):
    """Keeps the exceptions of trials and of saving them, which Tune logs with their tracebacks."""

    def __init__(self):
        super().__init__()
        self._exceptions: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            logging.getLogger("ray").handle(record)
        elif record.exc_info and record.exc_info[1]:
            self._exceptions.append(record.exc_info[1])

    def raise_unwritable(self) -> None:
        """Raises the first that says that a folder cannot be written."""
        for exception in self._exceptions:
            cause = getattr(exception, "cause", exception)
            if isinstance(cause, OSError) and cause.errno in _UNWRITABLE:
                raise cause


def _trial_name(trial: Trial) -> str:
    return f"{trial.config['env_config']['credit']}-seed{trial.config['seed']}"


class _TrialProgress(tune.Callback):
    """Iterations of all trials together, with the last one's accuracy and shares of Persist, Refine and Concede."""

    def __init__(self, total: int):
        self._total = total
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[debates]}"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=cli.console)
        self._task = self._bar.add_task("Training", total=total, debates="")

    def __reduce__(self):
        """The Tuner saves its callbacks; a terminal's progress bar begins anew."""
        return type(self), (self._total,)

    def setup(self, **info) -> None:
        self._bar.start()

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info) -> None:
        debate = result["env_runners"]["debate"]
        shares = "/".join(f"{100 * debate[name]:.0f}" for name in ACTIONS)
        held = not math.isnan(debate["accuracy"])  # not where the corpus is static
        self._bar.update(
            self._task,
            completed=sum((trial.last_result or {}).get("training_iteration", 0) for trial in trials),
            debates=f"accuracy {debate['accuracy']:.3f}, P/R/C {shares} %" if held else "no new debates",
        )

    def on_experiment_end(self, trials: list[Trial], **info) -> None:
        self._bar.stop()


def _arguments() -> argparse.ArgumentParser:
    arguments = cli.parser("train", "Record, train and evaluate. The same command again goes on where it stopped.")
    arguments.add_argument("--fresh", action="store_true", help="begin the run anew; the recording is kept")
    return arguments


def _command(config: ExperimentConfig, options: argparse.Namespace) -> None:
    print_table(config, train(config, options.fresh))


if __name__ == "__main__":
    sys.exit(cli.main(_arguments(), _command))

"""The trials of an experiment, each a setting and a seed: one `tune.Tuner`, which goes on where it stopped."""

import errno
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ray import cloudpickle, tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.experiment import Trial
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mpdf_rllib import cli, run_folder
from mpdf_rllib.asha import ResumedASHA
from mpdf_rllib.cluster import check_room, start_ray
from mpdf_rllib.config import AlgorithmSection, ExperimentConfig
from mpdf_rllib.envs.debate import ACTIONS
from mpdf_rllib.envs.debate_metrics import VALIDATION_ACCURACY
from mpdf_rllib.errors import EngineError, MPDFError
from mpdf_rllib.learners import SOFTRANKPO, Learner, algorithm_config, cpus_of
from mpdf_rllib.questions import Question
from mpdf_rllib.tracking import trackers
from mpdf_rllib.trial_logs import CSVLogger, JsonLogger

Questions = Callable[[], Sequence[Question]]
Settings = Mapping[str, AlgorithmSection]
"""By name, each with one kind of credit."""

TRIAL = "__trial__"
"""Where a trial's config has its name, of setting and seed; RLlib has no such key."""
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def run_trials(
    config: ExperimentConfig,
    settings: Settings,
    env_config: dict[str, Any],
    validation: Questions | None = None,
    learner: Learner = SOFTRANKPO,
) -> dict[str, list[tune.Result]]:
    """Trains every setting for every seed, from where an earlier, interrupted run stopped.

    Args:
        config: The experiment.
        settings: What to train.
        env_config: Of the debates to learn from; the settings give the credit.
        validation: Questions that the greedy policy answers after each iteration; by its accuracy a sweep's scheduler
            ends trials.
        learner: What trains.

    Returns:
        By setting, the trials' results in the order of their seeds.

    Raises:
        ConfigError: The run folder cannot be written, or MLflow cannot be used.
        EngineError: A trial failed.
        KeyboardInterrupt: Training was interrupted.
    """
    configs: dict[str, AlgorithmConfig] = {}
    for name, setting in settings.items():
        ((kind, credit),) = setting.credits.items()
        own_credit = {"credit": kind, **credit.model_dump()}
        of_setting = config.model_copy(update={"algorithm": setting})
        for seed in range(config.seeds):
            trial = algorithm_config(of_setting, env_config | own_credit, learner.base(seed)).debugging(seed=seed)
            configs[f"{name}-seed{seed}"] = trial
            if validation:
                _evaluate_on(validation, trial)
    start_ray()
    cpus = cpus_of(config)
    env_runners = max(setting.env_runners for setting in settings.values())
    serving_cpus = config.serving_cpus if config.live else 0
    check_room(
        f"algorithm.env_runners {env_runners}, lower it or run on a cluster",
        CPU=cpus["main_process"] + env_runners * cpus["env_runner"] + serving_cpus,
    )
    with run_folder.writing(config.run_path):
        trials = _run(_tuner(config, settings, learner, _space(configs)))
    if not all((trial.metrics or {}).get("done") for trial in trials):
        raise KeyboardInterrupt  # the Tuner stops gracefully at the first Ctrl-C
    by_seed = sorted(trials, key=lambda trial: trial.config["seed"])
    return {name: [trial for trial in by_seed if _setting(trial.config) == name] for name in settings}


def _evaluate_on(questions: Questions, config: AlgorithmConfig) -> None:
    """Has the greedy policy answer all questions once after each iteration."""
    debates = len(questions())
    config.evaluation(
        evaluation_interval=1,
        evaluation_duration=debates,
        evaluation_config={
            "num_envs_per_env_runner": debates,
            "env_config": {"questions": questions, "credit": "step"},
        },
    )


def _space(configs: dict[str, AlgorithmConfig]) -> dict[str, Any]:
    """What Tune makes trials of: their names, from which follows what they differ in."""
    by_name = {name: config.to_dict() for name, config in configs.items()}
    space = dict(next(iter(by_name.values())))
    for key in space:
        values = {name: config[key] for name, config in by_name.items()}
        if len({cloudpickle.dumps(value) for value in values.values()}) > 1:  # tensors are not simply equal or not
            space[key] = tune.sample_from(partial(_value_of, values))
    return space | {TRIAL: tune.grid_search(list(configs))}


def _value_of(values: dict[str, Any], config: dict[str, Any]) -> Any:
    return values[config[TRIAL]]


def _setting(config: Mapping[str, Any]) -> str:
    return config[TRIAL].rpartition("-seed")[0]


def _tuner(config: ExperimentConfig, settings: Settings, learner: Learner, space: dict[str, Any]) -> tune.Tuner:
    """Of all trials: the one that an interrupted run saved, or a new one, with the callbacks of this run."""
    tuner = _saved_or_new_tuner(config, settings, learner, space)
    tuner._local_tuner.get_run_config().callbacks = [
        _TrialProgress({name: learner.iterations(setting) for name, setting in settings.items()}, config.seeds),
        JsonLogger(),
        CSVLogger(),
        *trackers(config, partial(_tracked_settings, config, settings, learner)),
    ]
    return tuner


def _tracked_settings(config: ExperimentConfig, settings: Settings, learner: Learner, trial: Trial) -> dict[str, Any]:
    """What a trial does, but neither where nor by what means."""
    of_trial = config.model_copy(update={"algorithm": settings[_setting(trial.config)]})
    said = of_trial.model_dump(mode="json", include={"questions", "team", "live", "algorithm"})
    return said | {"learner": learner.algorithm.__name__, "seed": trial.config["seed"]}


def _saved_or_new_tuner(
    config: ExperimentConfig, settings: Settings, learner: Learner, space: dict[str, Any]
) -> tune.Tuner:
    folder = config.run_path / learner.folder
    iterations = {name: learner.iterations(setting) for name, setting in settings.items()}
    if run_folder.has_trials(folder):
        return tune.Tuner.restore(str(folder), learner.algorithm, resume_errored=True, param_space=space)
    run_config = tune.RunConfig(
        name=learner.folder,
        storage_path=str(config.run_path),
        stop=partial(_is_trained, iterations),
        # All are kept: what was last saved of the trials, which a killed run goes on from, may name an earlier one.
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=2, checkpoint_at_end=True),
        verbose=0,
    )
    scheduler = None
    if config.sweep and config.sweep.scheduler == "asha":
        warm_start = max(setting.warm_start_iterations for setting in settings.values())
        scheduler = _asha(warm_start + 1, max(iterations.values()))
    tune_config = tune.TuneConfig(
        scheduler=scheduler,
        trial_name_creator=_trial_name,
        trial_dirname_creator=_trial_name,
        max_concurrent_trials=1 if config.live else None,  # what one has recorded the next replays
    )
    return tune.Tuner(learner.algorithm, param_space=space, run_config=run_config, tune_config=tune_config)


def _asha(first: int, last: int) -> ResumedASHA:
    """Of those that came as far, ends what is worse than the better half after `first`, 2 `first`, ... iterations."""
    return ResumedASHA(metric=VALIDATION_ACCURACY, mode="max", grace_period=first, max_t=last, reduction_factor=2)


def _is_trained(iterations: dict[str, int], trial_id: str, result: dict[str, Any]) -> bool:
    return result["training_iteration"] >= iterations[_setting(result["config"])]


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
        f"{len(trials.errors)} of {len(trials)} trials failed; the same command, without --fresh, tries them again. "
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
    return trial.config[TRIAL]


class _TrialProgress(tune.Callback):
    """Iterations of all trials together, with the last one's accuracy and shares of Persist, Refine and Concede."""

    def __init__(self, iterations: dict[str, int], seeds: int):
        self._iterations, self._seeds = iterations, seeds
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[debates]}"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=cli.console)
        self._task = self._bar.add_task("Training", total=sum(iterations.values()) * seeds, debates="")

    def setup(self, **info) -> None:
        self._bar.start()

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info) -> None:
        debate = result["env_runners"]["debate"]
        shares = "/".join(f"{100 * debate[name]:.0f}" for name in ACTIONS)
        held = not math.isnan(debate["accuracy"])  # not where the corpus is static
        self._bar.update(
            self._task,
            completed=sum(self._done(other, result if other is trial else other.last_result or {}) for other in trials),
            debates=f"accuracy {debate['accuracy']:.3f}, P/R/C {shares} %" if held else "no new debates",
        )

    def _done(self, trial: Trial, result: dict) -> int:
        """Iterations, those included that a trial that was ended early is spared."""
        return self._iterations[_setting(trial.config)] if result.get("done") else result.get("training_iteration", 0)

    def on_experiment_end(self, trials: list[Trial], **info) -> None:
        self._bar.stop()

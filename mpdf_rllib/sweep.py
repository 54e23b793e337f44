"""A sweep: settings of the algorithm compared on training questions that are held out for it, and the best one.

The test questions are not looked at: the best setting is trained on all training questions, and tested, by the config
that comes of the sweep.
"""

import csv
import io
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mpdf_rllib import cli, run_folder
from mpdf_rllib.bootstrap import Estimate
from mpdf_rllib.config import AlgorithmSection, ExperimentConfig
from mpdf_rllib.learners import replaying
from mpdf_rllib.policies import play_policies
from mpdf_rllib.questions import Question
from mpdf_rllib.record import record
from mpdf_rllib.report.write import write_report
from mpdf_rllib.results import SystemResult, accuracy, shown
from mpdf_rllib.sweep_config import are_held_out, settings_of, swept_values
from mpdf_rllib.text_table import TextTable
from mpdf_rllib.trials import run_trials


@dataclass(frozen=True)
class ComparedSetting:
    """A row of the sweep's table.

    Attributes:
        name: As its trials' folders are called: the kind of credit with a number.
        setting: Of the algorithm, with this kind of credit alone.
        accuracy: Of the greedy policies on the validation questions, over questions and seeds.
        generated_tokens: A question.
        iterations: Mean over the seeds, of which some may have been ended early.
    """

    name: str
    setting: AlgorithmSection
    accuracy: Estimate
    generated_tokens: float
    iterations: float


def sweep(config: ExperimentConfig, fresh: bool = False) -> list[ComparedSetting]:
    """Trains all settings for all seeds, from where an earlier, interrupted sweep stopped, and writes what came out.

    Args:
        config: An experiment with a sweep.
        fresh: Begins it anew; the recording is kept.

    Returns:
        The settings, the most accurate first; of equals the cheapest.

    Raises:
        ConfigError: The run folder holds a run with other settings, or cannot be written.
        EngineError: The engine or a trial failed; what was done before is kept.
    """
    assert config.sweep is not None
    run_folder.prepare(config, fresh)
    trees = record(config).train
    validation = np.array(are_held_out(trees.questions, config.sweep.validation))
    training = replaying(config, trees.of_questions(~validation)) | {"questions": partial(training_questions, config)}
    settings = settings_of(config.algorithm, config.sweep)
    trials = run_trials(config, settings, training, partial(validation_questions, config))

    unseen = trees.of_questions(validation)
    compared = []
    for name, of_setting in trials.items():
        result = SystemResult(name, play_policies(config, unseen, [trial.checkpoint.path for trial in of_setting]))
        iterations = np.mean([trial.metrics["training_iteration"] for trial in of_setting])
        compared.append(
            ComparedSetting(name, settings[name], accuracy(result), float(result.tokens[2]), float(iterations))
        )
    compared.sort(key=lambda row: (-row.accuracy.mean, row.generated_tokens))
    with run_folder.writing(config.run_path):
        run_folder.write(config.run_path / run_folder.SWEEP, _csv(config, compared))
        run_folder.write(config.run_path / run_folder.BEST, best_config(config, compared).to_yaml())
    write_report(config)
    return compared


def training_questions(config: ExperimentConfig) -> list[Question]:
    """The training questions that the sweep's trials learn from."""
    return _part(config, held_out=False)


def validation_questions(config: ExperimentConfig) -> list[Question]:
    """The training questions that the sweep compares settings on."""
    return _part(config, held_out=True)


def _part(config: ExperimentConfig, held_out: bool) -> list[Question]:
    assert config.sweep is not None
    questions = config.questions_of("train")
    flags = are_held_out(questions, config.sweep.validation)
    return [question for question, flag in zip(questions, flags, strict=True) if flag == held_out]


def best_config(config: ExperimentConfig, compared: list[ComparedSetting]) -> ExperimentConfig:
    """The experiment with the best setting and without a sweep, in a run folder beside the sweep's."""
    name = f"{config.run_path.name}-best"
    changed = {
        "name": f"{config.name}-best",
        "run_folder": str(config.run_path.with_name(name)),
        "algorithm": compared[0].setting,
        "sweep": None,
    }
    return config.model_copy(update=changed)


def print_sweep(config: ExperimentConfig, compared: list[ComparedSetting]) -> None:
    """Prints the table, and the command that trains the best setting."""
    cli.output.print(sweep_table(config, compared))
    best = config.run_path / run_folder.BEST
    cli.output.print(f"run: {config.run_path}\nrecording: {config.recording_url}", highlight=False, soft_wrap=True)
    cli.output.print(f"best: python -m mpdf_rllib.train --config {best}", highlight=False, soft_wrap=True)


def sweep_table(config: ExperimentConfig, compared: list[ComparedSetting]) -> TextTable:
    """The table of all settings."""
    assert config.sweep is not None
    questions = len(validation_questions(config))
    title = (
        f"{questions} of the training questions, held out to compare settings, {config.seeds} seeds; accuracy "
        "with 95 % bootstrap intervals over questions and seeds; generated tokens a question; iterations trained"
    )
    keys = ("setting", *config.sweep.space, "accuracy", "tokens", "trained")
    lines = [
        [
            row.name,
            *("" if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in values),
            shown(row.accuracy),
            f"{row.generated_tokens:.0f}",
            f"{row.iterations:.3g}",
        ]
        for row in compared
        for values in [swept_values(row.setting, config.sweep).values()]
    ]
    return TextTable(title, [key.rpartition(".")[2].replace("_", " ") for key in keys], lines)


def _csv(config: ExperimentConfig, compared: list[ComparedSetting]) -> str:
    assert config.sweep is not None
    measures = ("accuracy", "low", "high", "generated_tokens", "iterations")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", *config.sweep.space, *measures])
    for row in compared:
        values: list[Any] = [*swept_values(row.setting, config.sweep).values()]
        writer.writerow([row.name, *values, *row.accuracy, row.generated_tokens, row.iterations])
    return text.getvalue()

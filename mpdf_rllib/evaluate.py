"""`python -m mpdf_rllib.evaluate`: plays every system on the held-out questions and prints the table."""

import argparse
import sys

from mpdf_rllib import cli, run_folder
from mpdf_rllib.baselines.bounds import fit_calibration, informed_ceiling, oracle
from mpdf_rllib.baselines.schedules import always_refine, best_schedule, play_schedule
from mpdf_rllib.baselines.stopping_rule import best_threshold, stop_at
from mpdf_rllib.baselines.votes import highest_logprob, nodes_to_depth, plurality, roots
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.envs.debate import ACTIONS
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.feature_values import ablation_table, auroc_table, leave_each_out
from mpdf_rllib.policies import play_policies
from mpdf_rllib.record import RecordedTrees, record
from mpdf_rllib.report.write import write_report
from mpdf_rllib.results import CREDIT_LABELS, SystemResult, label, results_table, write_results

WARM_START = "MPDF, warm start"
CEILING = "informed ceiling (cross-fitted, sees all)"
ORACLE = "oracle (some solution is right)"


def evaluate(config: ExperimentConfig, trees: RecordedTrees) -> list[SystemResult]:
    """Plays all systems, the learned ones from the run's checkpoints; writes results.parquet and report.html.

    Raises:
        ConfigError: The run folder cannot be written.
        DataError: The run has no trained checkpoints yet.
    """
    results = [*_baselines(config, trees), *_learned(config, trees), *bounds(trees)]
    questions = trees.test.questions
    ids, sets = [question.id for question in questions], [question.source for question in questions]
    with run_folder.writing(config.run_path):
        write_results(config.run_path / run_folder.RESULTS, results, ids, sets)
    write_report(config, trees)
    return results


def _baselines(config: ExperimentConfig, trees: RecordedTrees) -> list[SystemResult]:
    """Rules without learning; what has a setting is set on the training questions."""
    train, test, fresh = trees.train, trees.test, trees.fresh
    first = roots(test)
    agents = len(first)
    rules = [
        SystemResult("one agent (mean of the agents)", tuple(plurality(test, [root]) for root in first)),
        SystemResult(f"plurality of {agents}", (plurality(test, first),)),
        SystemResult(f"highest log-probability of {agents}", (highest_logprob(test, first),)),
    ]
    for samples in range(agents + 1, fresh.num_nodes + 1):
        drawn = list(range(samples))
        rules += [
            SystemResult(f"plurality of {samples} fresh samples", (plurality(fresh, drawn),)),
            SystemResult(f"highest log-probability of {samples} fresh samples", (highest_logprob(fresh, drawn),)),
        ]
    once = nodes_to_depth(test, 1)
    everything = list(range(test.num_nodes))
    schedule = best_schedule(train, config.team.answer)
    steps = ", ".join(ACTIONS[action].capitalize() for action in schedule)
    calibration = fit_calibration(train)
    threshold = best_threshold(train, calibration)
    return [
        *rules,
        SystemResult("always Refine, then plurality", (play_schedule(test, always_refine(test)),)),
        SystemResult(f"refine all once, highest log-probability of the {len(once)}", (highest_logprob(test, once),)),
        SystemResult(f"plurality of all {len(everything)} solutions", (plurality(test, everything),)),
        SystemResult(f"highest log-probability of all {len(everything)}", (highest_logprob(test, everything),)),
        SystemResult(f"best fixed schedule ({steps})", (play_schedule(test, schedule, config.team.answer),)),
        SystemResult(f"refine all until confidence passes {threshold:.2f}", (stop_at(test, calibration, threshold),)),
    ]


def _learned(config: ExperimentConfig, trees: RecordedTrees) -> list[SystemResult]:
    checkpoints = run_folder.read_checkpoints(config.run_path)
    warm_starts = play_policies(config, trees.test, next(iter(checkpoints.values())), references=True)
    return [
        SystemResult(WARM_START, warm_starts),
        *(SystemResult(label(kind), play_policies(config, trees.test, paths)) for kind, paths in checkpoints.items()),
    ]


def bounds(trees: RecordedTrees) -> list[SystemResult]:
    """What a selector that sees all solutions reaches, and what no debate can pass."""
    ceiling = informed_ceiling(trees.train, trees.test, fit_calibration(trees.train))
    return [
        SystemResult(CEILING, (ceiling,)),
        SystemResult(ORACLE, (oracle(trees.test),)),
    ]


def print_table(config: ExperimentConfig, results: list[SystemResult]) -> None:
    """Prints the table and where everything lies."""
    learned = {label(kind): CREDIT_LABELS[kind] for kind in config.algorithm.credits}
    cli.output.print(results_table(results, learned))
    cli.output.print(f"run: {config.run_path}\nrecording: {config.recording_url}", highlight=False, soft_wrap=True)


def _command(config: ExperimentConfig, options: argparse.Namespace) -> None:
    if config.sweep is not None:
        raise ConfigError(f"sweep: it has no policy of its own; evaluate the {run_folder.BEST} that `train` writes")
    run_folder.check(config)
    run_folder.read_checkpoints(config.run_path)
    trees = record(config)
    if options.features:
        cli.output.print(auroc_table(trees.test))
        cli.output.print(ablation_table(config, leave_each_out(config, trees)))
    else:
        print_table(config, evaluate(config, trees))


def _arguments() -> argparse.ArgumentParser:
    arguments = cli.parser("evaluate", "Play every system on the held-out questions and print the table.")
    arguments.add_argument(
        "--features",
        action="store_true",
        help="print what each entry of the state tells of correctness, and what training without each part loses",
    )
    return arguments


if __name__ == "__main__":
    sys.exit(cli.main(_arguments(), _command))

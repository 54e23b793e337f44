"""`python -m mpdf_rllib.compare`: the policy beside other systems, on the same engine and questions, in one table.

What the paper's Table 1 compares, from single answers over published systems to SoftRankPO, and the debates' bounds.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from mpdf_rllib import cli, run_folder
from mpdf_rllib.comparison.frontier import frontier_table
from mpdf_rllib.comparison.played import REFERENCE, Played, joined, write_played
from mpdf_rllib.comparison.rivals import credits_by_price, reference_credit, train_rivals
from mpdf_rllib.comparison.systems import by_samples, expected_requests, play_systems, rows_of
from mpdf_rllib.comparison.table import as_csv, comparison_table
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.evaluate import CEILING, ORACLE, WARM_START, bounds
from mpdf_rllib.policies import play_policies
from mpdf_rllib.prompts import packaged_text
from mpdf_rllib.questions import Question, Split
from mpdf_rllib.record import record
from mpdf_rllib.recorded_trees import RecordedTrees
from mpdf_rllib.report.write import write_report
from mpdf_rllib.results import CREDIT_LABELS, SystemResult
from mpdf_rllib.shown_prompts import shown_system_prompts
from mpdf_rllib.text_table import TextTable
from mpdf_rllib.train import train_policies


def compare(config: ExperimentConfig, fresh: bool = False) -> Played:
    """Records, trains and plays all that is compared, from where an interrupted run stopped; writes results.parquet.

    Args:
        config: The experiment, without a sweep.
        fresh: Trains anew; the recording is kept.

    Raises:
        ConfigError: The experiment cannot be compared, or its run folder holds a run with other settings or cannot be
            written.
        EngineError: The engine or a trial failed; what was done before is kept.
    """
    for key in ("sweep", "live"):
        if getattr(config, key):
            raise ConfigError(f"{key}: systems are compared on recorded debates of one setting; leave it out")
    if config.algorithm.policies == "per_agent":
        raise ConfigError("algorithm.policies: per_agent: PPO begins with one policy that all share; set it to shared")
    compared_on = list(experiments(config))
    for _, own in compared_on:
        for split in get_args(Split):  # what is wrong with any of them is said before hours are spent on another
            own.questions_of(split)
    for own in {each.run_path: each for each in (config, *(own for _, own in compared_on))}.values():
        run_folder.prepare(own, fresh)
    parts = []
    for name, own in compared_on:
        trees = record(own)
        parts.append(_played_on(own, trees, name))
        if name:
            write_report(own, trees)
    played = joined(parts)
    write_played(config.run_path / run_folder.COMPARISON, played)
    write_report(config, None if config.compare.sets else trees, played)
    return played


def experiments(config: ExperimentConfig) -> Iterator[tuple[str | None, ExperimentConfig]]:
    """The experiments whose questions are played, each with the name of its question set if it is one."""
    if not config.compare.sets:
        yield None, config
    for name, questions in config.compare.sets.items():
        folder = config.run_path / run_folder.SETS / name
        yield name, config.model_copy(update={"questions": questions, "run_folder": str(folder)})


def _played_on(config: ExperimentConfig, trees: RecordedTrees, name: str | None) -> Played:
    train_policies(config, trees)
    policies, at_prices, by_price = _policies(config, trees)
    train, test = trees.train.questions, trees.test.questions
    prompt, _, generated = policies[-1].tokens
    rows = rows_of(config, tokens=prompt + generated)
    systems = play_systems(config, rows, train, test)
    learned = [
        f"{name or config.name}: {system.label}, seed {seed}: {system.learned}"
        for row in rows
        for seed, system in enumerate(row)
        if system.learned
    ]
    return Played(
        results=[*systems, *policies, *bounds(trees), *at_prices],
        at_prices=len(at_prices),
        curves={
            "SoftRankPO with outcome credit, by the price of a token": by_price,
            "self-consistency, by the number of samples": by_samples(rows),
        },
        questions=[question.id for question in test],
        sets=[name] * len(test) if name else sets_of(test, config.name),
        learned=learned,
    )


def _policies(
    config: ExperimentConfig, trees: RecordedTrees
) -> tuple[list[SystemResult], list[SystemResult], list[str]]:
    """The policies' rows, SoftRankPO's that all are compared with the last.

    Then its rows at other prices of a token than the experiment's, and the labels of all prices, ascending.
    """
    rivals, own = train_rivals(config, trees), run_folder.read_checkpoints(config.run_path)
    reference = reference_credit(config)
    others = [kind for kind in own if kind != reference]
    labels = {reference: REFERENCE} | {kind: f"{REFERENCE} ({CREDIT_LABELS[kind]})" for kind in others}

    def row(name: str, checkpoints: Sequence[Path], references: bool = False) -> SystemResult:
        return SystemResult(name, play_policies(config, trees.test, checkpoints, references))

    policies = [
        row(WARM_START, own[reference], references=True),
        row("MPDF, PPO", rivals["PPO"]),
        row("MPDF, GRPO", rivals["GRPO"]),
        *(row(labels[kind], own[kind]) for kind in (*others, reference)),
    ]
    at_prices: list[SystemResult] = []
    by_price: list[str] = []
    for price, credit in credits_by_price(config).items():
        if credit == config.algorithm.credits.get("outcome"):
            by_price.append(labels["outcome"])
        else:
            name = labels.get("outcome", f"{REFERENCE} ({CREDIT_LABELS['outcome']})")
            at_prices.append(row(f"{name}, price {price}", rivals[price]))
            by_price.append(at_prices[-1].system)
    return policies, at_prices, by_price


def sets_of(questions: Sequence[Question], alone: str) -> list[str]:
    """Each question's source, which a family's name or a file of prompts is; another name where there is one alone."""
    sources = {question.source for question in questions}
    if len(sources) == 1:
        return [alone] * len(questions)
    short = {source: Path(source).stem for source in sources}
    told_apart = len({*short.values()}) == len(sources)
    return [short[question.source] if told_apart else question.source for question in questions]


def _tables(played: Played) -> tuple[TextTable, TextTable, dict[str, str]]:
    """The table, accuracy against tokens, and the files that come of them, by name."""
    table = comparison_table(played.comparison)
    tokens = frontier_table([point for point in played.points if point.system not in (CEILING, ORACLE)])
    learned = "\n".join(f"- {line}" for line in played.learned)
    files = {
        "table.csv": as_csv(played.comparison),
        "table.md": f"{table.markdown()}\nWhat was learned:\n\n{learned}\n",
        "tokens.md": tokens.markdown(),
    }
    return table, tokens, files


def _command(config: ExperimentConfig, options: argparse.Namespace) -> None:
    played = compare(config, options.fresh)
    folder = config.run_path / run_folder.COMPARISON
    with cli.console.status("Comparing"):
        table, tokens, files = _tables(played)
        with run_folder.writing(folder):
            for name, text in files.items():
                run_folder.write(folder / name, text)
    cli.output.print(table)
    cli.output.print(tokens)
    for line in played.learned:
        cli.output.print(line, highlight=False, soft_wrap=True)
    cli.output.print(f"run: {folder}\nrecording: {config.recording_url}", highlight=False, soft_wrap=True)


def _dry_run(config: ExperimentConfig) -> str:
    """The systems' prompts, and how often each asks at most."""
    lines = []
    for name, own in experiments(config):
        for heading, text in shown_system_prompts(own):
            lines += [heading, "", text, ""]
        if own.compare.ranker:
            lines += ["rating, for DyLAN", "", packaged_text("rate.txt"), ""]
        if own.compare.proposer:
            lines += ["workflow, for AFlow", "", packaged_text("workflow.txt"), ""]
        train, test = own.number_of("train"), own.number_of("test")
        lines.append(f"{name or own.name}: requests at most, to fit to {train} questions + to answer {test}")
        for system, fit, answer in expected_requests(own, train, test):
            lines.append(f"  {system}: {fit:,} + {'as many as the policy spends' if answer is None else f'{answer:,}'}")
    return "\n".join(lines)


def _arguments() -> argparse.ArgumentParser:
    arguments = cli.parser("compare", "Compare the policy with other systems. The same command again goes on.")
    cli.add_fresh(arguments)
    return arguments


if __name__ == "__main__":
    sys.exit(cli.main(_arguments(), _command, dry_run=_dry_run))

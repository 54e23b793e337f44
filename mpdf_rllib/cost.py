"""`python -m mpdf_rllib.cost`: what an experiment will ask of its engine, and what that takes."""

import argparse
import math
import sys

from mpdf_rllib import cli
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.cost_model import Cluster, Costs, Lengths, demand, estimate
from mpdf_rllib.engine.config import EndpointConfig, ScriptedConfig, VLLMConfig


def cluster_of(config: ExperimentConfig, tokens_per_s: float) -> Cluster:
    """The engines of a config: each recording process's own, the replicas that all share, or a server.

    A server counts as one replica that answers all requests at once that it gets.
    """
    engine, workers = config.engine, config.record.workers
    processes = max(workers, 1)
    if isinstance(engine, EndpointConfig):
        return Cluster(tokens_per_s, engine.concurrency * processes, 1, workers, engine.concurrency)
    if isinstance(engine, ScriptedConfig):
        return Cluster(tokens_per_s, engine.args.max_num_seqs or Cluster.sequences, processes, workers)
    sequences = engine.args.get("max_num_seqs", Cluster.sequences)
    if isinstance(engine, VLLMConfig):
        return Cluster(tokens_per_s, sequences, processes, workers)
    return Cluster(tokens_per_s, sequences, engine.replicas.max * len(config.team.models), workers, engine.concurrency)


def _arguments() -> argparse.ArgumentParser:
    arguments = cli.parser(
        "cost", "Print what recording asks for, and what it takes at speeds and lengths that you give."
    )
    for name, type_, value, help_ in (
        (
            "--tokens-per-s",
            _positive,
            Cluster.tokens_per_s,
            "generated tokens/s of a replica, as a recording shows",
        ),
        ("--prompt-tokens", _positive, Lengths.prompt, "of a solution"),
        ("--generated-tokens", _positive, Lengths.generated, "of a solution"),
        ("--verdict-tokens", _positive, Lengths.verdict_prompt, "of the prompt for a verdict"),
        ("--cached-share", _share, Lengths.cached_share, "of the prompt tokens, in the prefix cache"),
    ):
        arguments.add_argument(name, type=type_, default=value, metavar="X", help=f"{help_} (default: {value})")
    return arguments


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share, 0 to 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _command(config: ExperimentConfig, options: argparse.Namespace) -> None:
    lengths = Lengths(options.prompt_tokens, options.generated_tokens, options.verdict_tokens, options.cached_share)
    cluster = cluster_of(config, options.tokens_per_s)
    wanted = demand(config.team, config.number_of("train"), config.number_of("test"), lengths)
    took = estimate(wanted, lengths, cluster, Costs())
    cli.output.print(
        f"{wanted.questions:,} questions: {wanted.solutions:,} solutions, {wanted.requests:,} requests\n"
        f"prompt tokens {wanted.prompt_tokens:,.0f}, of which cached {wanted.cached_tokens:,.0f}; "
        f"generated {wanted.generated_tokens:,.0f}\n"
        f"recording: {took.engine_s / 3600:.2f} h, {took.replica_hours:.2f} replica-hours, at {cluster.tokens_per_s:g} "
        f"tokens/s of {cluster.replicas} replicas with {took.in_flight} of {cluster.places} requests in flight\n"
        f"files: {took.files:,}, {took.disk_bytes / 1e9:.3f} GB; each process that replays them: "
        f"{took.replay_s:.0f} s, {took.replay_bytes / 1e9:.2f} GB of memory",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(cli.main(_arguments(), _command))

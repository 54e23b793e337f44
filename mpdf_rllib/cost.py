"""`python -m mpdf_rllib.cost`: what an experiment will ask of its engine, and what that takes."""

import argparse
import sys

from mpdf_rllib import cli
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.cost_model import Cluster, Costs, Lengths, demand, estimate
from mpdf_rllib.engine.config import ReplicasConfig, ServeConfig, VLLMConfig
from mpdf_rllib.questions import Split


def cluster_of(config: ExperimentConfig, tokens_per_s: float) -> Cluster:
    """The engines of a config: each recording actor's own, the replicas that all share, or a server as one replica."""
    engine, workers = config.engine, max(config.record.workers, 1)
    if not isinstance(engine, ServeConfig | VLLMConfig):
        return Cluster(tokens_per_s, workers=workers)
    sequences = engine.args.get("max_num_seqs", Cluster.sequences)
    if isinstance(engine, VLLMConfig):
        return Cluster(tokens_per_s, sequences, workers, workers)
    replicas = engine.replicas.max if isinstance(engine.replicas, ReplicasConfig) else engine.replicas
    return Cluster(tokens_per_s, sequences, replicas, workers, engine.concurrency)


def _arguments() -> argparse.ArgumentParser:
    arguments = cli.parser(
        "cost", "Print what recording asks for, and what it takes at speeds and lengths that you give."
    )
    for name, value, help_ in (
        ("--tokens-per-s", Cluster.tokens_per_s, "generated tokens/s of one replica, as a recording shows them"),
        ("--prompt-tokens", Lengths.prompt, "of a solution"),
        ("--generated-tokens", Lengths.generated, "of a solution"),
        ("--verdict-tokens", Lengths.verdict_prompt, "of the prompt for a verdict"),
        ("--cached-share", Lengths.cached_share, "of the prompt tokens, in the prefix cache"),
    ):
        arguments.add_argument(name, type=float, default=value, metavar="X", help=f"{help_} (default: {value})")
    return arguments


def _command(config: ExperimentConfig, options: argparse.Namespace) -> None:
    lengths = Lengths(options.prompt_tokens, options.generated_tokens, options.verdict_tokens, options.cached_share)
    cluster = cluster_of(config, options.tokens_per_s)
    wanted = demand(config.team, _count(config, "train"), _count(config, "test"), lengths)
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


def _count(config: ExperimentConfig, split: Split) -> int:
    given = config.questions.train if split == "train" else config.questions.test
    return len(config.questions_of(split)) if given is None else given


if __name__ == "__main__":
    sys.exit(cli.main(_arguments(), _command))

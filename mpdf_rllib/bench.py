"""`python -m mpdf_rllib.bench`: speeds as ratios, each pair measured in one run on the same machine."""

import argparse
import contextlib
import copy
import functools
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median
from unittest import mock

import numpy as np
import psutil
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from mpdf_rllib import cli
from mpdf_rllib.algorithms.ppo import ppo_config
from mpdf_rllib.algorithms.softrankpo import SoftRankPOConfig
from mpdf_rllib.algorithms.whole_debates import WholeDebates
from mpdf_rllib.bench_engines import FAMILIES, bench_live, bench_recording, bench_serving, bench_workers
from mpdf_rllib.engine import run
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.debate_metrics import DebateMetrics
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.deliberation_env_runner import DeliberationEnvRunner
from mpdf_rllib.envs.deliberation_vector_env import DeliberationVectorEnv
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import generate_questions

SECONDS = 5.0


def bench_batch(debates: int = 1024) -> float:
    """Agent steps/s of `DebateBatch` alone with random legal actions: observation, rewards of all actions and step."""
    team = Team(critic=False)
    tree = team.tree(generate_questions(FAMILIES, "test", 300))
    engine = ScriptedEngine(answer_like_a_small_model)
    run(team.fill(engine, tree, [(q, node) for q in range(len(tree.questions)) for node in range(tree.num_nodes)]))
    rng = np.random.default_rng(0)
    batch = DebateBatch(tree, fill=lambda wanted: None)

    def play() -> int:
        batch.reset(rng.integers(len(tree.questions), size=debates))
        while not batch.done:
            legal = batch.observe()["action_mask"]
            actions = (rng.random(legal.shape) * legal).argmax(-1)
            batch.rewards(actions)
            batch.step(actions)
        return debates * len(team.members) * team.rounds

    return _rate(play)


def bench_env_runner(runner: DeliberationEnvRunner) -> float:
    """Agent steps/s of RLlib's env runner on recorded debates, one thread."""
    return _rate(partial(_sample, runner))


def bench_costs(runner: DeliberationEnvRunner) -> dict[str, float]:
    """Microseconds an agent step in each part of RLlib's env runner, without the parts that it calls."""
    parts = {
        "env": [(DeliberationVectorEnv, "step"), (DeliberationVectorEnv, "reset")],
        "connectors": [(ConnectorPipelineV2, "__call__")],
        "network": [(RLModule, "forward_exploration")],
        "episodes": [(MultiAgentEpisode, name) for name in ("__init__", "add_env_reset", "add_env_step", "to_numpy")],
        "metrics": [(MetricsLogger, name) for name in ("log_value", "log_dict", "reduce")]
        + [(DeliberationEnvRunner, "_increase_sampled_metrics"), (DebateMetrics, "on_sample_end")],
    }
    seconds: defaultdict[str, float] = defaultdict(float)
    running = ["the loop"]
    since = time.perf_counter()

    def enter(part: str) -> None:
        nonlocal since
        now = time.perf_counter()
        seconds[running[-1]] += now - since
        since = now
        running.append(part)

    def leave() -> None:
        nonlocal since
        now = time.perf_counter()
        seconds[running.pop()] += now - since
        since = now

    def timed(function: Callable, part: str) -> Callable:
        @functools.wraps(function)
        def call(*args, **kwargs):
            enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                leave()

        return call

    with contextlib.ExitStack() as patches:
        for part, methods in parts.items():
            for owner, name in methods:
                patches.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), part)))
        _sample(runner)
        seconds.clear()
        steps = sum(_sample(runner) for _ in range(20))
        enter("the loop")
    return {part: 1e6 * spent / steps for part, spent in sorted(seconds.items(), key=lambda item: -item[1])}


def bench_update(debates: int = 300, updates: int = 10) -> tuple[float, float]:
    """Seconds of an update by SoftRankPO and by RLlib's PPO, on the same debates, network, epochs and minibatches."""
    softrankpo = _debates(debates).training(warm_start_iterations=0).build_algo()
    softrankpo.train()
    episodes = softrankpo.env_runner.sample()
    with tempfile.TemporaryDirectory() as checkpoint:
        softrankpo.save_to_path(checkpoint)
        config = ppo_config(checkpoint).environment(DeliberationEnv, env_config=softrankpo.config.env_config)
        ppo = config.env_runners(num_envs_per_env_runner=1).build_algo()
    seconds: dict[Algorithm, list[float]] = {softrankpo: [], ppo: []}
    for _ in range(updates):
        for algorithm, spent in seconds.items():
            config = algorithm.config
            data = WholeDebates(episodes=copy.deepcopy(episodes))  # PPO adds a step to each
            start = time.perf_counter()
            algorithm.learner_group.update(
                training_data=data,
                num_epochs=config.num_epochs,
                minibatch_size=config.minibatch_size,
                shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
            )
            spent.append(time.perf_counter() - start)
    for algorithm in seconds:
        algorithm.stop()
    return median(seconds[softrankpo]), median(seconds[ppo])


def bench_memory(iterations: int = 1000, settled: int = 200) -> tuple[float, float]:
    """MiB that the process holds after `settled` and after all iterations of SoftRankPO on 8 recorded debates."""
    config = _debates(8).training(num_epochs=1, minibatch_size=24, train_batch_size_per_learner=24)
    algorithm = config.build_algo()
    held = []
    for iteration in range(1, iterations + 1):
        algorithm.train()
        if iteration in (settled, iterations):
            held.append(psutil.Process().memory_info().rss / 2**20)
    algorithm.stop()
    return held[0], held[1]


def _debates(debates: int) -> SoftRankPOConfig:
    """So many debates at once on 300 questions that a scripted engine answers."""
    env_config = {
        "questions": partial(generate_questions, FAMILIES, "test", 300),
        "team": Team(critic=False),
        "engine": partial(ScriptedEngine, answer_like_a_small_model),
    }
    config = SoftRankPOConfig().environment(DeliberationEnv, env_config=env_config)
    return config.env_runners(num_envs_per_env_runner=debates)


def _recorded_runner(debates: int) -> DeliberationEnvRunner:
    runner = DeliberationEnvRunner(config=_debates(debates))
    session = runner.env.session
    tree = session.debates.tree
    session.fill([(q, node) for q in range(len(tree.questions)) for node in range(tree.num_nodes)])
    return runner


def _sample(runner: DeliberationEnvRunner) -> int:
    steps = sum(episode.agent_steps() for episode in runner.sample())
    runner.get_metrics()
    return steps


def _rate(work: Callable[[], int]) -> float:
    work()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        done += work()
    return done / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> None:
    """Prints all speeds; the ratios are what to compare between machines."""
    arguments = argparse.ArgumentParser(prog="python -m mpdf_rllib.bench", description=__doc__)
    arguments.add_argument("--without-model", action="store_true", help="only what needs no language model")
    options = arguments.parse_args(argv)
    out = partial(cli.output.print, highlight=False)

    batch = bench_batch()
    out(f"DebateBatch alone, 1,024 debates: {batch:,.0f} agent steps/s (at least 100,000)")
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    torch.set_num_threads(1)
    runner = _recorded_runner(64)
    rate = bench_env_runner(runner)
    out(
        f"RLlib env runner, 64 recorded debates: {rate:,.0f} agent steps/s (at least 5,000), 1/{batch / rate:.0f} of it"
    )
    costs = ", ".join(f"{part} {microseconds:.0f}" for part, microseconds in bench_costs(runner).items())
    out(f"    of which microseconds an agent step: {costs}")
    ours, ppo = bench_update()
    out(f"update on 300 debates: SoftRankPO {ours:.2f} s, RLlib's PPO {ppo:.2f} s; ratio {ours / ppo:.2f} (at most 1)")
    settled, at_last = bench_memory()
    out(f"memory: {settled:.0f} MiB after 200 iterations, {at_last:.0f} after 1,000")
    ray.shutdown()
    one, *more = bench_workers()
    scales = ", ".join(f"{workers} {rate / workers / one[1]:.2f}" for workers, rate in more)
    out(
        f"recording workers, engines of fixed speed: 1 makes {one[1]:,.0f} generations/s; scaling with "
        f"{scales} (at least 0.9)"
    )
    if options.without_model:
        return
    recording, raw = bench_recording()
    out(
        f"recording: {recording:,.0f} tokens/s, raw vLLM on the same requests at once: {raw:,.0f}; "
        f"ratio {recording / raw:.2f} (at least 0.9)"
    )
    live, raw = bench_live()
    out(
        f"live training, 2 env runners: {live:,.0f} tokens/s, the same requests straight to the shared engine: "
        f"{raw:,.0f}; ratio {live / raw:.2f} (at least 0.9)"
    )
    served, offline = bench_serving()
    out(
        f"serving, 64 questions at once: {served:.2f} debates/s, the same team offline: {offline:.2f}; "
        f"ratio {served / offline:.2f} (at least 0.9)"
    )


if __name__ == "__main__":
    main()

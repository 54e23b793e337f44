"""`python -m mpdf_rllib.bench`: speeds as ratios, each pair measured in one run on the same machine."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import ray
import torch

from mpdf_rllib import cli
from mpdf_rllib.algorithms.softrankpo import SoftRankPOConfig
from mpdf_rllib.engine import GenerationRequest, RecordingEngine, run
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.engine.vllm_engine import VLLMEngine
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.deliberation_env_runner import DeliberationEnvRunner
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import Family, Split, generate_questions

FAMILIES: tuple[Family, ...] = ("multiplication", "addition", "arithmetic")
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
        return debates * team.agents * team.rounds

    return _rate(play)


def bench_env_runner(debates: int = 64) -> float:
    """Agent steps/s of RLlib's env runner on recorded debates, one thread."""
    torch.set_num_threads(1)
    config = SoftRankPOConfig().environment(
        DeliberationEnv,
        env_config={
            "questions": partial(generate_questions, FAMILIES, "test", 300),
            "team": Team(critic=False),
            "engine": partial(ScriptedEngine, answer_like_a_small_model),
        },
    )
    runner = DeliberationEnvRunner(config=config.env_runners(num_envs_per_env_runner=debates))
    session = runner.env.session
    tree = session.debates.tree
    session.fill([(q, node) for q in range(len(tree.questions)) for node in range(tree.num_nodes)])

    def sample() -> int:
        steps = sum(episode.agent_steps() for episode in runner.sample())
        runner.get_metrics()
        return steps

    return _rate(sample)


def _rate(work: Callable[[], int]) -> float:
    work()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        done += work()
    return done / (time.perf_counter() - start)


async def bench_recording(engine: VLLMEngine, questions: int = 120) -> tuple[float, float]:
    """Generated tokens/s of recording whole trees, and of raw vLLM given the same requests all at once."""
    team = Team(critic=False)
    requests: list[GenerationRequest] = []
    llm = await engine.llm()

    class Listening:
        fingerprint = engine.fingerprint

        async def generate(self, request: GenerationRequest):
            requests.append(request)
            return await engine.generate(request)

        async def close(self) -> None:
            pass

    async def record(split: Split) -> float:
        tree = team.tree(generate_questions(FAMILIES, split, questions))
        await engine.reset_prefix_cache()
        with tempfile.TemporaryDirectory() as folder:
            recording = RecordingEngine(folder, engine.fingerprint, Listening)
            start = time.perf_counter()
            await team.fill(recording, tree, [(q, n) for q in range(questions) for n in range(tree.num_nodes)])
            await recording.close()
            return tree.tokens[..., 2].sum() / (time.perf_counter() - start)

    async def raw() -> float:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        async def ask(index: int, request: GenerationRequest) -> int:
            sampling = SamplingParams(
                temperature=request.sampling.temperature,
                max_tokens=request.sampling.max_tokens,
                stop=list(request.sampling.stop),
                logprobs=0,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            async for output in llm.generate(request.prompt, sampling, f"raw-{index}"):
                final = output
            return len(final.outputs[0].token_ids)

        await engine.reset_prefix_cache()
        start = time.perf_counter()
        tokens = await asyncio.gather(*(ask(index, request) for index, request in enumerate(requests)))
        return sum(tokens) / (time.perf_counter() - start)

    await record("train")
    requests.clear()
    return await record("test"), await raw()


def main(argv: list[str] | None = None) -> None:
    """Prints all speeds; the ratios are what to compare between machines."""
    arguments = argparse.ArgumentParser(prog="python -m mpdf_rllib.bench", description=__doc__)
    arguments.add_argument("--without-model", action="store_true", help="only what needs no language model")
    options = arguments.parse_args(argv)
    out = partial(cli.output.print, highlight=False)

    batch = bench_batch()
    out(f"DebateBatch alone, 1,024 debates: {batch:,.0f} agent steps/s (at least 100,000)")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    runner = bench_env_runner()
    share = f"1/{batch / runner:.0f} of it"
    out(f"RLlib env runner, 64 recorded debates: {runner:,.0f} agent steps/s (at least 5,000), {share}")
    ray.shutdown()
    if options.without_model:
        return
    engine = VLLMEngine("smollm2-135m-instruct")
    try:
        recording, raw = run(bench_recording(engine))
    finally:
        run(engine.close())
    out(
        f"recording: {recording:,.0f} tokens/s, raw vLLM on the same requests at once: {raw:,.0f}; "
        f"ratio {recording / raw:.2f} (at least 0.9)"
    )


if __name__ == "__main__":
    main()

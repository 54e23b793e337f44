"""How much of an engine's speed arrives: in recordings, in live training, with several workers, and in serving."""

import asyncio
import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
from ray import serve

from mpdf_rllib import run_folder
from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork
from mpdf_rllib.algorithms.policy_files import save_policy
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.deliberation_team import DeliberationTeam
from mpdf_rllib.engine import GenerationRequest, RecordingEngine, run
from mpdf_rllib.engine.config import ServeConfig
from mpdf_rllib.engine.models import PACKAGED_MODEL, resolve_model
from mpdf_rllib.engine.serve_application import application_url, served_name
from mpdf_rllib.engine.vllm_engine import VLLMEngine
from mpdf_rllib.envs.features import DEBATE_FEATURES
from mpdf_rllib.envs.team import Team
from mpdf_rllib.learners import algorithm_config
from mpdf_rllib.questions import Family, Split, generate_questions
from mpdf_rllib.recording_pipeline import record_questions
from mpdf_rllib.serve import arguments, start

FAMILIES: tuple[Family, ...] = ("multiplication", "addition", "arithmetic")


def bench_recording(questions: int = 120) -> tuple[float, float]:
    """Generated tokens/s of recording whole trees, and of raw vLLM given the same requests all at once."""
    engine = VLLMEngine(PACKAGED_MODEL)
    try:
        return run(_recorded_and_raw(engine, questions))
    finally:
        run(engine.close())


async def _recorded_and_raw(engine: VLLMEngine, questions: int) -> tuple[float, float]:
    team = Team(critic=False)
    requests: list[GenerationRequest] = []
    llm = await engine.llm()

    class Listening:
        async def generate(self, request: GenerationRequest):
            requests.append(request)
            return await engine.generate(request)

        async def close(self) -> None:
            pass

    async def record(split: Split) -> float:
        tree = team.tree(generate_questions(FAMILIES, split, questions))
        await engine.reset_prefix_cache()
        with tempfile.TemporaryDirectory() as folder:
            recording = RecordingEngine(folder, PACKAGED_MODEL, Listening)
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


def bench_workers(questions: int = 320, workers: tuple[int, ...] = (1, 2, 4)) -> list[tuple[int, float]]:
    """Generations/s of pools that record, by their size, on engines that answer 16 requests at once in 0.25 s.

    Each worker has as many questions; what is measured begins when the first of a pool begins, with all started.
    """
    rates = []
    with _ray(num_cpus=max(workers)):
        ray.data.DataContext.get_current().wait_for_min_actors_s = 600
        for number in workers:
            with tempfile.TemporaryDirectory() as folder:
                engine = {"kind": "scripted", "args": {"delay": 0.25, "max_num_seqs": 16}}
                config = _config(folder, questions * number, engine, record={"workers": number})
                ids = [question.id for question in config.questions_of("train")]
                begun, ended, made = [], 0.0, 0
                for shard in record_questions(config, {"train": ids}):
                    ended = time.perf_counter()
                    begun.append(ended - shard.seconds)
                    made += shard.made
                rates.append((number, made / (ended - min(begun))))
    return rates


def bench_live(questions: int = 200) -> tuple[float, float]:
    """Generated tokens/s of an iteration of live training with two env runners, learning included, and straight.

    Straight are the same requests, all at once, to the same application, whose prefix cache is told to forget.
    """
    with _ray(), tempfile.TemporaryDirectory() as folder:
        algorithm_section = {"env_runners": 2, "warm_start_iterations": 0}
        engine = ServeConfig(kind="serve")
        config = _config(folder, questions, engine.model_dump(), live=True, algorithm=algorithm_section)
        algorithm = algorithm_config(config, config.env_config()).debugging(seed=0).build_algo()
        algorithm.env_runner_group.foreach_env_runner(_ask_once, local_env_runner=False)
        start = time.perf_counter()
        algorithm.train()
        seconds = time.perf_counter() - start
        algorithm.stop()
        rows = [row for file in Path(folder).glob("*.parquet") for row in pq.read_table(file).to_pylist()]
        straight = run(_straight(engine, rows))
        return sum(row["generated_tokens"] for row in rows) / seconds, straight


def _ask_once(runner: Any) -> None:
    """Connects the env runner's engine."""
    runner.env.session.fill([(0, 0)])


async def _straight(engine: ServeConfig, rows: list[dict[str, Any]]) -> float:
    from openai import AsyncOpenAI

    model = resolve_model(PACKAGED_MODEL)
    url = application_url({PACKAGED_MODEL: model}, engine)
    async with AsyncOpenAI(base_url=url, api_key="none", timeout=3600) as client:

        async def ask(row: dict[str, Any]) -> int:
            completion = await client.completions.create(
                model=served_name(PACKAGED_MODEL, model),
                prompt=json.loads(row["prompt"]),
                logprobs=0,
                extra_body={"cache_salt": "straight"},
                **json.loads(row["sampling"]),
            )
            return completion.usage.completion_tokens

        start = time.perf_counter()
        tokens = await asyncio.gather(*map(ask, rows))
        return sum(tokens) / (time.perf_counter() - start)


def bench_serving(questions: int = 64, warm: int = 8) -> tuple[float, float]:
    """Debates/s of a team that is served and asked all questions at once, and of the same team in this process.

    Both are there all the time, and asked in turn, offline first and last: a machine's speed may change meanwhile. The
    policy is one that has learned nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        config = _config(folder, questions, {"kind": "vllm"}, run_folder=str(path))
        network = MetaPolicyNetwork(len(config.feature_table) + len(DEBATE_FEATURES))
        save_policy(path / run_folder.POLICIES / "step-seed0", network)
        run_folder.write(path / run_folder.CONFIG, config.to_yaml())
        run_folder.write_checkpoints(path, {"step": [path]})
        asked = [question.text for question in generate_questions(FAMILIES[:1], "test", warm + 2 * questions)]
        few, first, second = asked[:warm], asked[warm:-questions], asked[-questions:]
        at_once = ["--concurrency", str(questions), "--queue", str(questions)]
        with DeliberationTeam.from_run(path) as team, _ray():
            try:
                url = start(arguments().parse_args(["--run", str(path), *at_once]))

                def served(of: list[str]) -> float:
                    return _seconds(lambda: run(_ask(url, of)))

                def offline(of: list[str]) -> float:
                    return _seconds(lambda: team.answer(of))

                offline(few)
                served(few)
                before, between, after = offline(first), served(first) + served(second), offline(second)
            finally:
                serve.shutdown()
    return 2 * questions / between, 2 * questions / (before + after)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


async def _ask(url: str, questions: list[str]) -> None:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none", timeout=3600, max_retries=0) as client:
        asked = (
            client.chat.completions.create(model=f"bench:{FAMILIES[0]}", messages=[{"role": "user", "content": text}])
            for text in questions
        )
        await asyncio.gather(*asked)


def _config(folder: str, questions: int, engine: dict[str, Any], **sections: Any) -> ExperimentConfig:
    families = FAMILIES if questions <= 300 else FAMILIES[:2]  # there are not as many of the third
    values = {
        "name": "bench",
        "recording": folder,
        "questions": {"families": families, "train": questions, "test": 1},
        "team": {"critic": False, "prompt": "completion"},
        "engine": engine,
    }
    return ExperimentConfig.model_validate(values | sections)


@contextlib.contextmanager
def _ray(**settings: Any) -> Iterator[None]:
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", **settings)
    try:
        yield
    finally:
        ray.shutdown()

"""Engines that answer what is no answer, in another order, or not at all."""

import asyncio
import dataclasses
import math
import selectors
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_rllib.engine import (
    Engine,
    Generation,
    GenerationRequest,
    Position,
    RecordingEngine,
    SamplingParameters,
    generate_many,
)
from mpdf_rllib.engine.check import check_generation
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.engine.time_limit import TimeLimitedEngine
from mpdf_rllib.envs.debate import same_answer
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import EngineError
from mpdf_rllib.questions import generate_questions

ANSWER = GenerationRequest("2 + 3 =", SamplingParameters(), Position("q7", root=2, sample=1))
SCORING = dataclasses.replace(ANSWER, score_words=(" right", " wrong"))
GOOD = Generation(" 5.", (7, 8), (-0.5, 0.0), (2, 3), "stop", 4, 2, 2)
SCORED = Generation("", (), (), (), "score", 4, 4, 0, (-0.2, -1.7))


class SkippingSelector(selectors.DefaultSelector):
    """Instead of waiting it sets the clock on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list:
        self.now += timeout or 0.0
        return super().select(0 if timeout is not None else None)


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop in which hours pass at once."""

    def __init__(self) -> None:
        self._clock = SkippingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run_at_once(job: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        return runner.run(job)


class Delayed(ScriptedEngine):
    """Answers each request after a time of its own."""

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__(lambda request: request.position.question)
        self.seconds = seconds
        self.closed = False

    async def generate(self, request: GenerationRequest) -> Generation:
        await asyncio.sleep(self.seconds[request.position.question])
        return await super().generate(request)

    async def close(self) -> None:
        self.closed = True


def ask(engine: Engine, *questions: str) -> Coroutine[Any, Any, list[Generation]]:
    return generate_many(engine, [dataclasses.replace(ANSWER, position=Position(q, 0)) for q in questions])


@pytest.mark.parametrize(
    ("request_", "good"),
    [
        (ANSWER, GOOD),
        (ANSWER, Generation("", (), (), (), "stop", 4, 0, 0)),
        (ANSWER, dataclasses.replace(GOOD, finish_reason="length", token_ends=(0, 3))),
        (SCORING, SCORED),
    ],
)
def test_what_an_engine_may_answer(request_, good):
    check_generation(request_, good)


@pytest.mark.parametrize(
    ("request_", "changes", "said"),
    [
        (ANSWER, {"logprobs": (math.nan, -0.5)}, "a log-probability is nan"),
        (ANSWER, {"logprobs": (-0.5, -math.inf)}, "a log-probability is -inf"),
        (ANSWER, {"logprobs": (-0.5, math.inf)}, "a log-probability is inf"),
        (ANSWER, {"logprobs": (-0.5, 0.25)}, "a log-probability is 0.25"),
        (ANSWER, {"logprobs": (-0.5,)}, "token_ids 2, logprobs 1"),
        (ANSWER, {"token_ids": (7,)}, "token_ids 1, logprobs 2"),
        (ANSWER, {"token_ends": (2, 3, 3)}, "token_ends 3"),
        (ANSWER, {"generated_tokens": 9}, "generated_tokens 9"),
        (ANSWER, {"token_ends": (2, 4)}, r"token_ends \(2, 4\)"),
        (ANSWER, {"token_ends": (3, 2)}, r"token_ends \(3, 2\)"),
        (ANSWER, {"token_ends": (-1, 3)}, r"token_ends \(-1, 3\)"),
        (ANSWER, {"text": None}, "its text is None"),
        (ANSWER, {"text": "5 \ud83d"}, r"its text is '5 \\ud83d'"),
        (ANSWER, {"finish_reason": "abort"}, "it ended with 'abort'"),
        (ANSWER, {"finish_reason": "score"}, "it ended with 'score'"),
        (ANSWER, {"word_logprobs": (-0.1,)}, "1 log-probabilities for 0 score words"),
        (ANSWER, {"cached_tokens": 5}, "5 cached of 4 prompt tokens"),
        (ANSWER, {"cached_tokens": -1}, "-1 cached of 4 prompt tokens"),
        (SCORING, {"word_logprobs": (-0.1,)}, "1 log-probabilities for 2 score words"),
        (SCORING, {"word_logprobs": (-0.1, math.nan)}, "a log-probability is nan"),
        (SCORING, {"finish_reason": "stop"}, "it ended with 'stop'"),
    ],
)
def test_what_is_no_answer_names_the_question_and_is_not_recorded(tmp_path, request_, changes, said):
    broken = dataclasses.replace(SCORED if request_.score_words else GOOD, **changes)

    async def job(answer: Generation) -> Generation:
        engine = RecordingEngine(str(tmp_path), "model", lambda: ScriptedEngine(lambda _: answer))
        try:
            return await engine.generate(request_)
        finally:
            await engine.close()

    with pytest.raises(EngineError, match=rf"(?s)'q7'.*{said}.*root=2.*sample=1.*same command"):
        asyncio.run(job(broken))
    assert not [*tmp_path.iterdir()]
    good = SCORED if request_.score_words else GOOD
    assert asyncio.run(job(good)).text == good.text


def test_a_hanging_engine_is_an_error_that_names_the_limit_and_the_remedy(tmp_path):
    hanging = Delayed({"a": 1.0, "b": 2.0, "c": 1e9, "d": 1e9})

    async def job() -> tuple[list, float]:
        engine = RecordingEngine(str(tmp_path), "model", lambda: TimeLimitedEngine(hanging, 60))
        answers = await asyncio.gather(*(ask(engine, question) for question in "abcd"), return_exceptions=True)
        when = asyncio.get_running_loop().time()
        await engine.close()
        return answers, when

    (a, b, *hung), when = run_at_once(job())
    assert [a[0].text, b[0].text] == ["a", "b"]
    assert when == pytest.approx(62)
    for error, question in zip(hung, "cd", strict=True):
        assert isinstance(error, EngineError)
        for part in (f"'{question}'", "60 s", "engine.timeout_s", "same command"):
            assert part in str(error)
    assert hanging.closed
    rows = pq.read_table(next(tmp_path.iterdir()))["question"].to_pylist()
    assert sorted(rows) == ["a", "b"]


def test_a_request_may_take_longer_than_the_limit_while_others_are_answered():
    engine = TimeLimitedEngine(Delayed({str(n): 50.0 * n for n in range(1, 9)}), 60)
    assert [g.text for g in run_at_once(ask(engine, *map(str, range(1, 9))))] == [*map(str, range(1, 9))]


def test_new_requests_are_no_sign_of_life():
    async def job() -> float:
        engine = TimeLimitedEngine(Delayed({"a": 1e9, "b": 1e9}), 60)
        first = asyncio.ensure_future(ask(engine, "a"))
        await asyncio.sleep(40)
        await asyncio.gather(first, ask(engine, "b"), return_exceptions=True)
        return asyncio.get_running_loop().time()

    assert run_at_once(job()) == pytest.approx(60)


def test_the_time_without_requests_does_not_count():
    async def job() -> None:
        engine = TimeLimitedEngine(Delayed({"a": 59.0, "b": 59.0, "c": 61.0}), 60)
        for question in "ab":
            await ask(engine, question)
            await asyncio.sleep(1e6)
        with pytest.raises(EngineError, match="'c'"):
            await ask(engine, "c")
        await ask(engine, "a")  # what failed is over

    run_at_once(job())


def test_a_cancelled_request_is_no_hanging_one():
    async def job() -> None:
        engine = TimeLimitedEngine(Delayed({"a": 1e9, "b": 59.0}), 60)
        caller = asyncio.ensure_future(ask(engine, "a"))
        await asyncio.sleep(30)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await ask(engine, "b")

    run_at_once(job())


def test_an_engines_own_timeout_is_not_the_limits():
    class Own(ScriptedEngine):
        async def generate(self, request: GenerationRequest) -> Generation:
            raise TimeoutError("a socket's")

    with pytest.raises(TimeoutError, match="a socket's"):
        run_at_once(ask(TimeLimitedEngine(Own(lambda _: ""), 60), "a"))


QUESTIONS = generate_questions(("multiplication", "addition"), "train", 2)
TEAM = Team(agents=2, rounds=2)


class AnyOrder(ScriptedEngine):
    """Answers so that which of the requests in flight comes next is drawn."""

    def __init__(self, delays: list[int]) -> None:
        super().__init__(answer_like_a_small_model)
        self._delays = iter(delays)

    async def generate(self, request: GenerationRequest) -> Generation:
        await asyncio.sleep(next(self._delays))
        return await super().generate(request)


def recorded_tree(inner: ScriptedEngine) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The arrays of the whole tree, and the recording's rows in the order of their keys."""
    tree = TEAM.tree(QUESTIONS)
    with tempfile.TemporaryDirectory() as folder:

        async def job() -> None:
            engine = RecordingEngine(folder, "model", lambda: inner, flush_every=4)
            await TEAM.fill(engine, tree, [(q, m) for q in range(len(QUESTIONS)) for m in range(tree.num_nodes)])
            await engine.close()

        run_at_once(job())
        rows = [row for file in Path(folder).iterdir() for row in pq.read_table(file).to_pylist()]
    arrays = {name: getattr(tree, name).tolist() for name in ("present", "correct", "confidence", "features", "tokens")}
    arrays["same answer"] = same_answer(tree.answer_class).tolist()
    return arrays, sorted(rows, key=lambda row: row["key"])


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(2 * 2 * 2 * 3)))
def test_the_order_of_the_answers_does_not_matter(delays):
    assert recorded_tree(AnyOrder(delays)) == recorded_tree(ScriptedEngine(answer_like_a_small_model))

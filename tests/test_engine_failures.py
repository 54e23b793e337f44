"""What an engine that keeps dying, or hangs, comes to, on a stand-in for vLLM's."""

import asyncio
import threading

import pytest

from mpdf_rllib.engine import GenerationRequest, Position, SamplingParameters, generate_many, run
from mpdf_rllib.engine.time_limit import TimeLimitedEngine
from mpdf_rllib.engine.vllm_engine import VLLMEngine
from mpdf_rllib.errors import EngineError


class Dying:
    """Takes requests and dies with all of them."""

    errored = True

    def get_tokenizer(self):
        return None

    async def generate(self, *request):
        from vllm.v1.engine.exceptions import EngineDeadError

        await asyncio.sleep(0)
        raise EngineDeadError()
        yield

    def shutdown(self, timeout: float = 0) -> None:
        pass


class Hanging(Dying):
    """Takes requests and never answers."""

    errored = False

    async def generate(self, *request):
        await asyncio.Event().wait()
        yield


REQUESTS = [GenerationRequest("Q:", SamplingParameters(), Position(f"q{i}", 0)) for i in range(4)]


def test_an_engine_that_dies_twice_names_the_question_and_the_remedy(monkeypatch):
    loaded = []
    monkeypatch.setattr(VLLMEngine, "_load_alone", lambda self: loaded.append(self) or Dying())
    engine = VLLMEngine("smollm2-135m-instruct")
    with pytest.raises(EngineError, match=r"failed twice on question 'q\d'.*same command goes on.*max_num_seqs"):
        run(generate_many(engine, REQUESTS))
    assert len(loaded) == 2


@pytest.mark.parametrize("loads", [True, False])
def test_an_engine_that_hangs_in_its_answers_or_while_it_loads_is_given_up(monkeypatch, loads):
    for_ever = threading.Event()
    monkeypatch.setattr(VLLMEngine, "_load_alone", lambda self: Hanging() if loads else for_ever.wait())
    engine = TimeLimitedEngine(VLLMEngine("smollm2-135m-instruct"), 0.05)
    with pytest.raises(EngineError, match=r"answered nothing for 0.05 s .*question 'q\d'.*engine\.timeout_s"):
        run(generate_many(engine, REQUESTS))
    run(engine.close())
    for_ever.set()

"""What an engine that keeps dying comes to, on a stand-in for vLLM's."""

import asyncio

import pytest

from mpdf_rllib.engine import GenerationRequest, Position, SamplingParameters, generate_many, run
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


def test_an_engine_that_dies_twice_names_the_question_and_the_remedy(monkeypatch):
    loaded = []
    monkeypatch.setattr(VLLMEngine, "_load_alone", lambda self: loaded.append(self) or Dying())
    engine = VLLMEngine("smollm2-135m-instruct")
    requests = [GenerationRequest("Q:", SamplingParameters(), Position(f"q{i}", 0)) for i in range(4)]
    with pytest.raises(EngineError, match=r"failed twice on question 'q\d'.*same command goes on.*max_num_seqs"):
        run(generate_many(engine, requests))
    assert len(loaded) == 2

"""The engine for OpenAI-compatible servers: what it asks, what it makes of answers, and its secrets."""

import dataclasses
import email.utils
import json
import logging
import time
from contextlib import closing
from functools import partial

import pytest
from endpoint_fixtures import MODEL, ScriptedServer, body, half_an_answer, no_answer, status
from endpoint_fixtures import start_server as start_server
from recording_fixtures import make_request, requests_of

from mpdf_rllib.engine import Generation, GenerationRequest, RecordingEngine, generate_many, run
from mpdf_rllib.envs.features import span_logprob
from mpdf_rllib.envs.self_report import read_report, report_schema
from mpdf_rllib.errors import ConfigError, DataError, EngineError, MPDFError

KEY = "sk-very-secret-0123456789"
CHAT = (("system", "Answer."), ("user", "2 + 3?"))
COMPLETION_WORDS, CHAT_WORDS = (" Correct", " Incorrect"), ("Correct", "Incorrect")


def ask(server: ScriptedServer, *requests: GenerationRequest, **settings) -> list[Generation]:
    async def job() -> list[Generation]:
        engine = server.engine(**settings)
        try:
            return await generate_many(engine, requests)
        finally:
            await engine.close()

    return run(job())


def complaint(kind: type[MPDFError], server: ScriptedServer, request: GenerationRequest, **settings) -> str:
    with pytest.raises(kind) as error:
        ask(server, request, **settings)
    return str(error.value)


@pytest.mark.parametrize("prompt", ["2 + 3 =", CHAT], ids=["completion", "chat"])
def test_an_answer_has_its_text_log_probabilities_and_tokens(server, prompt):
    (generation,) = ask(server, make_request(prompt=prompt))
    assert generation == Generation(
        text=" 4 five",
        token_ids=(),
        logprobs=(-0.25, -0.5),
        token_ends=(2, 7),
        finish_reason="stop",
        prompt_tokens=20,
        cached_tokens=16,
        generated_tokens=2,
    )
    (sent,) = server.bodies
    assert sent["model"] == MODEL
    assert sent.get("prompt") == "2 + 3 =" or sent["messages"] == [{"role": r, "content": c} for r, c in CHAT]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["stop"]) == (1.0, 1.0, 14, ["\n"])


@pytest.mark.parametrize(
    "prompt, words", [("Right?", COMPLETION_WORDS), (CHAT, CHAT_WORDS)], ids=["completion", "chat"]
)
def test_words_are_scored_by_their_first_tokens_which_the_server_tells_once(server, prompt, words):
    asked = [make_request(f"q{i}", prompt=prompt, score_words=words) for i in range(5)]
    first, *others = ask(server, *asked)
    ids = (11, 12) if words == COMPLETION_WORDS else (21, 22)
    assert first.word_logprobs == tuple(-word / 8 for word in ids)
    assert (first.text, first.finish_reason, first.generated_tokens) == ("", "score", 0)
    assert all(other == first for other in others)
    assert len(server.bodies) == 2 + 5


@pytest.mark.parametrize(
    "continuation, logprobs",
    [
        (" 5, I think", (-3 / 8, -2 / 8, -6 / 8)),
        ("= 5", (-3 / 8, -2 / 8)),  # its first token begins in the prompt: " =="
        ("=", (-3 / 8,)),
    ],
)
def test_a_text_is_scored_as_a_continuation_of_the_prompt(server, continuation, logprobs):
    (generation,) = ask(server, make_request(prompt="2 + 3 =", continuation=continuation))
    assert generation.word_logprobs == logprobs
    assert (generation.text, generation.finish_reason, generation.generated_tokens) == ("", "score", 0)
    (sent,) = server.bodies
    assert (sent["prompt"], sent["echo"], sent["max_tokens"]) == ("2 + 3 =" + continuation, True, 1)


def test_a_server_that_cannot_score_a_text_is_told_at_once(server):
    request = make_request(prompt="2 + 3 =", continuation=" 5")
    server.lacks = {"echo"}
    assert "team.peer_likelihood=false" in complaint(ConfigError, server, request)
    server.always = status(400, "logprobs and echo are not supported together")
    assert "team.peer_likelihood=false" in complaint(ConfigError, server, request)
    assert "team.peer_likelihood=false" in complaint(ConfigError, server, make_request(prompt=CHAT, continuation=" 5"))
    assert len(server.bodies) == 2


def test_words_that_start_alike_are_refused(server):
    assert "do not differ" in complaint(ConfigError, server, make_request(score_words=(" Correct", " Corr")))


def test_no_more_requests_are_in_flight_than_allowed_and_connections_are_kept(server):
    server.delay = 0.02
    answers = ask(server, *requests_of(60), concurrency=6)
    assert len(answers) == len(server.bodies) == 60
    assert server.peak == 6
    assert len(server.connections) <= 6


def in_seconds(seconds: int) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize("after", [lambda: "1", lambda: in_seconds(2)], ids=["seconds", "a date"])
def test_the_server_says_when_to_ask_again(server, after):
    server.faults = [status(429, **{"Retry-After": after()})]
    ask(server, make_request())
    first, second = server.times
    assert 0.9 <= second - first < 2.1


def test_a_server_that_wants_to_be_left_alone_for_longer_is_told_of(server):
    server.faults = [status(429, "come back tomorrow", **{"Retry-After": "86400"})]
    said = complaint(EngineError, server, make_request())
    assert "come back tomorrow" in said and "Retry-After" in said and len(server.bodies) == 1


def test_garbage_is_asked_again_as_often_as_allowed_with_growing_waits(server):
    server.always = body("<html>gateway</html>", "text/html")
    said = complaint(EngineError, server, make_request(), retries=2)
    assert "<html>gateway" in said and len(server.bodies) == 3
    first, second, third = server.times
    assert second - first >= 0.5 and third - second >= 1.0


def test_a_server_that_still_starts_is_waited_for(server):
    server.faults = [status(404, "no such model yet"), status(503), status(503)]
    (generation,) = ask(server, make_request(), retries=0, patience_s=60)
    assert generation.text == " 4 five" and len(server.bodies) == 4


def test_a_server_that_does_not_come_up_is_given_up_with_what_it_said(server):
    server.always = status(500, "out of memory")
    said = complaint(EngineError, server, make_request(), retries=0, patience_s=1)
    assert "out of memory" in said and len(server.bodies) == 3  # at 0, 0.5 and 1.5 s


def test_what_a_starting_server_refuses_is_told_at_once(server):
    server.always = status(400, "This model's maximum context length is 8 tokens.")
    complaint(DataError, server, make_request(), patience_s=60)
    assert len(server.bodies) == 1


def ended(reason: str):
    answer = {"text": "5", "logprobs": {"tokens": ["5"], "token_logprobs": [-1]}, "finish_reason": reason}
    return body(json.dumps({"choices": [answer], "usage": {"prompt_tokens": 1}}))


@pytest.mark.parametrize("reason", ["eos", "eos_token", "stop_sequence"])
def test_other_servers_words_for_stop(server, reason):
    server.always = ended(reason)
    (generation,) = ask(server, make_request())
    assert (generation.text, generation.finish_reason) == ("5", "stop")


def test_an_answer_that_is_withheld_is_told_at_once(server):
    server.always = ended("content_filter")
    assert "withheld" in complaint(DataError, server, make_request())
    assert len(server.bodies) == 1


FAULTS = {
    "429": status(429),
    "500": status(500),
    "503": status(503),
    "a page": body("<html>gateway</html>", "text/html"),
    "half a JSON": body('{"choices": [{"te'),
    "another JSON": body('{"object": "list"}'),
    "no choice": body('{"choices": [], "usage": {}}'),
    "a gap": body('{"choices": [{"text": "5", "logprobs": {"tokens": ["5"], "token_logprobs": [null]}}]}'),
    "no reason to end": body(
        '{"choices": [{"text": "5", "logprobs": {"tokens": ["5"], "token_logprobs": [-1]}, "finish_reason": null}],'
        ' "usage": {"prompt_tokens": 1}}'
    ),
    "no UTF-8": body("\udcff\udcfe".encode("utf-8", "surrogateescape").decode("latin-1")),
    "half an answer": half_an_answer,
    "no answer": no_answer,
}


def patience(fault: str) -> float:
    """Seconds that a request may take; where nothing is wrong a busy machine shall not look like a silent server."""
    return 0.5 if fault == "no answer" else 60.0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_is_asked_again(server, fault):
    server.faults = [FAULTS[fault]]
    (generation,) = ask(server, make_request(), request_timeout_s=patience(fault))
    assert generation.text == " 4 five"
    assert len(server.bodies) == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_that_stays_is_one_error_and_what_was_answered_is_not_asked_again(server, fault, tmp_path):
    def recorded(
        requests: list[GenerationRequest], asked: ScriptedServer, request_timeout_s: float = 60.0
    ) -> list[Generation]:
        async def job() -> list[Generation]:
            inner = partial(asked.engine, request_timeout_s=request_timeout_s, retries=1)
            engine = RecordingEngine(str(tmp_path), "small", inner, flush_seconds=0.01)
            try:
                return await generate_many(engine, requests)
            finally:
                await engine.close()

        return run(job())

    requests = [dataclasses.replace(request, prompt=f"prompt {i}") for i, request in enumerate(requests_of(8))]
    recorded(requests[:5], server)
    server.always = FAULTS[fault]
    with pytest.raises(EngineError) as error:
        recorded(requests, server, patience(fault))
    said = str(error.value)
    assert server.url in said and any(name in said for name in ("'q5'", "'q6'", "'q7'"))
    assert "the same command goes on there" in said
    assert len(said) < 700

    # A server of its own: the one that failed may still read requests that were given up.
    with closing(ScriptedServer()) as mended:
        assert [generation.text for generation in recorded(requests, mended)] == [" 4 five"] * 8
    assert mended.answered() == dict.fromkeys(("prompt 5", "prompt 6", "prompt 7"), 1)


def test_a_server_that_is_not_there_is_named(server):
    server.close()
    said = complaint(EngineError, server, make_request(), retries=1)
    assert server.url in said and "Connection error" in said


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_is_told_without_the_key(server, code, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    server.always = status(code, f"Incorrect API key provided: {KEY}")
    said = complaint(ConfigError, server, make_request(), api_key_env="TEST_KEY")
    assert "TEST_KEY" in said and "engine.api_key_env" in said
    assert KEY not in said and "***" in said


def test_the_key_is_sent_and_kept_nowhere(server, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("TEST_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    server.faults = [status(500, KEY)]

    async def job() -> None:
        engine = RecordingEngine(str(tmp_path), "small", lambda: server.engine(api_key_env="TEST_KEY"))
        await engine.generate(make_request())
        await engine.close()

    run(job())
    assert server.keys == {f"Bearer {KEY}"}
    assert caplog.records and KEY not in caplog.text
    (file,) = tmp_path.glob("*.parquet")
    assert KEY.encode() not in file.read_bytes()


def test_the_users_other_keys_are_not_sent(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask(server, make_request())
    assert not any(KEY in key for key in server.keys)


def test_a_key_that_is_not_set_is_told(server):
    said = complaint(ConfigError, server, make_request(), api_key_env="NO_SUCH_KEY")
    assert "NO_SUCH_KEY is not set" in said


def test_the_end_of_line_of_a_mounted_secret_is_no_part_of_the_key(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", f"{KEY}\n")
    ask(server, make_request(), api_key_env="TEST_KEY")
    assert server.keys == {f"Bearer {KEY}"}


@pytest.mark.parametrize("key", [f"{KEY}\u00e9", f"{KEY}\n{KEY}", f"{KEY}\x7f"])
def test_a_key_that_cannot_be_sent_is_told_without_the_key(server, monkeypatch, key):
    monkeypatch.setenv("TEST_KEY", key)
    said = complaint(ConfigError, server, make_request(), api_key_env="TEST_KEY")
    assert "TEST_KEY holds characters that no key has" in said and KEY not in said


def test_half_a_key_is_not_told_either(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    server.always = body("x" * 190 + KEY, "text/plain")
    said = complaint(EngineError, server, make_request(), api_key_env="TEST_KEY", retries=0)
    assert "xxx" in said and KEY[:3] not in said


def test_an_unknown_model_is_told(server):
    server.always = status(404, "The model `small` does not exist.")
    said = complaint(ConfigError, server, make_request())
    assert "team.model" in said and "'small'" in said and len(server.bodies) == 1


def test_a_prompt_that_is_too_long_is_told_with_its_question(server):
    server.always = status(400, "This model's maximum context length is 8 tokens.")
    said = complaint(DataError, server, make_request("q7"))
    assert "'q7'" in said and "maximum context length is 8" in said and len(server.bodies) == 1


SCHEMA = report_schema("number", max_tokens=14)
REPORT = dataclasses.replace(make_request().sampling, json_schema=SCHEMA, stop=())


@pytest.mark.parametrize("prompt", ["2 + 3 =", CHAT], ids=["completion", "chat"])
def test_a_report_is_asked_for_in_the_words_of_the_api(server, prompt):
    (generation,) = ask(server, make_request(prompt=prompt, sampling=REPORT))
    (sent,) = server.bodies
    asked = sent["response_format"]
    assert (asked["type"], asked["json_schema"]["strict"]) == ("json_schema", True)
    assert list(asked["json_schema"]["schema"]["properties"]) == list(json.loads(SCHEMA)["properties"])
    report = read_report(generation.text)
    assert report and report.answer == generation.text[slice(*report.answer_span)]
    assert span_logprob(generation, report.answer_span) in generation.logprobs
    ask(server, make_request(prompt=prompt))
    assert "response_format" not in server.bodies[-1]


def test_a_server_that_ignores_the_schema_gives_a_text_without_a_report(server):
    server.lacks = {"response_format"}
    (generation,) = ask(server, make_request(sampling=REPORT))
    assert generation.text == " 4 five" and read_report(generation.text) is None


def test_a_server_that_refuses_the_schema_is_told_what_to_use(server):
    server.always = status(400, "This response_format type is unavailable now")
    said = complaint(ConfigError, server, make_request(sampling=REPORT))
    assert "unavailable now" in said and "not supported by this server" in said and len(server.bodies) == 1


@pytest.mark.parametrize("lacks", ["return_token_ids", "logprob_token_ids"])
@pytest.mark.parametrize("prompt, words", [("Right?", COMPLETION_WORDS), (CHAT, CHAT_WORDS)], ids=["text", "chat"])
def test_a_server_that_cannot_score_words_is_told_what_to_use(server, lacks, prompt, words):
    server.lacks = {lacks}
    said = complaint(ConfigError, server, make_request(prompt=prompt, score_words=words))
    assert "not supported by this server, use vLLM" in said and "team.critic=false" in said


def test_a_server_that_refuses_unknown_fields_is_told_what_to_use(server):
    server.always = status(400, "Unrecognized request argument " + "supplied: " * 30 + "return_token_ids")
    said = complaint(ConfigError, server, make_request(score_words=COMPLETION_WORDS))
    assert "not supported by this server, use vLLM" in said


def test_a_server_without_log_probabilities_is_told_what_to_use(server):
    server.lacks = {"logprobs"}
    said = complaint(ConfigError, server, make_request(prompt=CHAT))
    assert "log-probabilities" in said and "not supported by this server, use" in said

"""A trained team behind the OpenAI API, asked by the official client: answers, refusals, and many at once."""

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator

import openai
import pytest
from process_fixtures import CONFIG, ENVIRONMENT, REPOSITORY

KEY = "a-key-of-our-own"
AT_ONCE, DELAY = 64, 0.3
TEXT = "12 bags hold 4 pens each. How many pens in all?"
MODEL = "processes:multiplication"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[str]:
    """A server, from when it serves until Ctrl-C; all that it printed before."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mpdf_rllib.serve", *arguments],
        cwd=REPOSITORY,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    printed = ""
    for line in process.stdout:
        printed += line
        if "Ctrl-C ends it" in line:
            break
    assert process.poll() is None, printed
    try:
        yield printed
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
    assert status == 130


@pytest.fixture(scope="module")
def server(trained_run) -> Iterator[tuple[str, str]]:
    """Its base URL, and all that it printed until it served."""
    port = str(free_port())
    settings = ["--port", port, "--concurrency", str(AT_ONCE), "--queue", str(AT_ONCE)]
    slow = ["--set", f"engine={{kind: scripted, args: {{delay: {DELAY}}}}}"]
    with serving("--run", str(trained_run.run), *settings, *slow, MPDF_API_KEY=KEY) as printed:
        yield f"http://127.0.0.1:{port}/v1", printed


@pytest.fixture
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server[0], api_key=KEY, max_retries=0)


def ask(client: openai.OpenAI, text: str = TEXT, model: str = MODEL, **settings):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **settings)


def test_each_of_the_runs_prompts_is_a_model(client):
    own = [f"processes:{family}" for family in CONFIG["questions"]["families"]]
    assert [model.id for model in client.models.list()] == ["processes", *own]
    first, multiplication, addition = (
        ask(client, model=model).model_extra["deliberation"]["nodes"]["0"]["tokens"]
        for model in ("processes", *own[:2])
    )
    assert first == multiplication != addition


def test_an_answer_has_the_debate_and_what_it_cost(client):
    completion = ask(client)
    trace = completion.model_extra["deliberation"]
    held = trace["nodes"][str(trace["team_node"])]
    assert completion.choices[0].message.content == held["text"].strip()
    assert trace["answer"] == held["answer"] and trace["question"] == TEXT
    assert len(trace["rounds"]) == 3 and all(len(each["decisions"]) == 3 for each in trace["rounds"])
    stood_on = {act["node"] for each in trace["rounds"] for act in each["decisions"]} | {*trace["final"]}
    assert stood_on == {int(node) for node in trace["nodes"]}
    tokens = [sum(column) for column in zip(*(node["tokens"] for node in trace["nodes"].values()), strict=True)]
    usage = completion.usage
    assert [usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens] == tokens
    assert usage.total_tokens == tokens[0] + tokens[2]


def test_an_answer_as_a_stream(client):
    chunks = [*ask(client, stream=True)]
    assert "".join(chunk.choices[0].delta.content for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens and chunks[-1].model_extra["deliberation"]["question"] == TEXT


def test_the_last_message_of_the_user_is_the_question(client):
    turns = [("system", "Be brief."), ("user", "1 + 1"), ("assistant", "2"), ("user", [{"type": "text", "text": TEXT}])]
    messages = [{"role": role, "content": content} for role, content in turns]
    completion = client.chat.completions.create(model=MODEL, messages=messages)
    assert completion.model_extra["deliberation"]["question"] == TEXT


def test_without_the_key_nothing_is_told(server):
    for key in ("another", KEY + "x", "ä"):
        with pytest.raises((openai.AuthenticationError, UnicodeEncodeError)):
            openai.OpenAI(base_url=server[0], api_key=key, max_retries=0).models.list()


def test_what_cannot_be_answered_is_refused_with_a_reason(client):
    named = "none called sums; give one of processes, processes:multiplication"
    with pytest.raises(openai.NotFoundError, match=named):
        ask(client, model="sums")
    with pytest.raises(openai.BadRequestError, match="there is no question"):
        ask(client, text=" ")
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model=MODEL, messages=[])
    with pytest.raises(openai.BadRequestError, match="n: "):
        ask(client, n=2)
    with pytest.raises(openai.APIStatusError, match="longer than 1048576 bytes") as error:
        ask(client, text="9" * (1 << 20))
    assert error.value.status_code == 413


def test_many_at_once_are_answered_and_those_beyond_the_queue_are_told(server):
    async def statuses(number: int) -> Counter:
        client = openai.AsyncOpenAI(base_url=server[0], api_key=KEY, max_retries=0, timeout=120)

        async def status(i: int) -> int:
            try:
                completion = await ask(client, f"{TEXT} {i}")
            except openai.APIStatusError as error:
                return error.status_code
            assert completion.model_extra["deliberation"]["question"] == f"{TEXT} {i}"
            return 200

        return Counter(await asyncio.gather(*map(status, range(number))))

    assert asyncio.run(statuses(AT_ONCE)) == {200: AT_ONCE}
    told = asyncio.run(statuses(8 * AT_ONCE))
    assert {*told} == {200, 503} and told[200] >= AT_ONCE


def test_serves_own_health_and_metrics_are_there(server):
    url, printed = server
    health = urllib.request.urlopen(url.replace("/v1", "/-/healthz")).read()
    assert health == b"success"
    (metrics,) = re.findall(r"metrics at (\S+)", printed)
    deadline = time.monotonic() + 60  # Ray tells them every few seconds
    while "ray_serve_num_http_requests" not in urllib.request.urlopen(metrics).read().decode():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def refusal(*arguments: str, **environment: str) -> str:
    """What the command says before it ends."""
    command = [sys.executable, "-m", "mpdf_rllib.serve", *arguments]
    environment = ENVIRONMENT | environment
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    return " ".join(ended.stderr.split())


def test_a_run_that_is_none_is_told_at_once(tmp_path):
    assert "holds no config.yaml, so no run" in refusal("--run", str(tmp_path))


@pytest.mark.parametrize("number", ["--concurrency", "--queue"])
def test_no_question_at_once_is_refused(number):
    assert f"argument {number}: '0' is not a whole number above 0" in refusal("--run", "any", number, "0")


def test_models_that_serve_would_give_without_the_key_are_refused(trained_run):
    elsewhere = ["--run", str(trained_run.run), "--set", "engine={kind: serve}"]
    assert "to whoever reaches it, without MPDF_API_KEY" in refusal(*elsewhere, MPDF_API_KEY=KEY)
    assert "to whoever reaches it, without MPDF_API_KEY" in refusal(*elsewhere, "--host", "0.0.0.0")


def test_a_port_that_is_taken_is_named(trained_run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port: {port} cannot be had" in refusal("--run", str(trained_run.run), "--port", str(port))


OTHER = """
import sys
import ray
from ray import serve

@serve.deployment
class Other:
    def __call__(self, request):
        return "other"

ray.init(include_dashboard=False, log_to_driver=False)
serve.start(http_options={"port": int(sys.argv[1])})
serve.run(Other.bind(), name="other", route_prefix="/other")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def shared() -> Iterator[tuple[dict[str, str], str]]:
    """The variables to join a cluster, and the port of an application that it serves already."""
    port, pipe = str(free_port()), subprocess.PIPE
    variables = {"RAY_AUTH_MODE": "disabled", "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}
    command, environment = [sys.executable, "-c", OTHER, port], ENVIRONMENT | variables
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        yield variables | {"RAY_ADDRESS": process.stdout.readline().strip()}, port
        process.stdin.close()


def test_on_a_shared_cluster_it_comes_and_goes_beside_other_applications(trained_run, shared):
    (variables, port), run = shared, ["--run", str(trained_run.run)]

    def told(path: str) -> str:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}").read().decode()

    said = refusal(*run, "--port", str(free_port()), **variables)
    assert f"on this cluster already; give --host 127.0.0.1 --port {port}" in said
    with serving(*run, "--port", port, **variables):
        assert told("other") == "other" and MODEL in told("v1/models")
    assert told("other") == "other"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        told("v1/models")

"""Nothing of an engine outlives its owner, however that one ends: tried with real processes that really are killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from mpdf_rllib.engine.watchdog import Watchdog, marked_processes

LOAD_SECONDS = 300.0
END_SECONDS = 20.0

DRIVER = """
import signal, sys, threading, time
from mpdf_rllib.engine import GenerationRequest, Position, SamplingParameters, generate_many, run
from mpdf_rllib.engine.time_limit import TimeLimitedEngine
from mpdf_rllib.engine.vllm_engine import VLLMEngine
from mpdf_rllib.errors import EngineError

# Processes in the background ignore Ctrl-C, and so would the driver of tests that run there.
signal.signal(signal.SIGINT, signal.default_int_handler)
engine = VLLMEngine("smollm2-135m-instruct")

def tell_mark():
    while engine._watchdog is None:
        time.sleep(0.02)
    print(engine._watchdog.mark, flush=True)

threading.Thread(target=tell_mark, daemon=True).start()
request = GenerationRequest("Count: 1 2 3", SamplingParameters(max_tokens=4), Position("q", 0))
run(engine.generate(request))
print("generating", flush=True)
limited = TimeLimitedEngine(engine, float(sys.argv[1]))
try:
    while True:
        run(generate_many(limited, [request] * 16))
except EngineError as error:
    print(error, flush=True)
"""


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def processes_of(mark: str) -> list[int]:
    """The marked ones, and their watchdog, which has the mark in its command line."""
    found = marked_processes(mark)
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as cmdline:
            if mark.encode() in cmdline.read():
                found.append(int(name))
    return found


@contextlib.contextmanager
def driver(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.model
@pytest.mark.parametrize(
    ("number", "while_loading"),
    [(signal.SIGTERM, True), (signal.SIGKILL, False), (signal.SIGINT, False)],
)
def test_no_engine_process_outlives_a_driver(number: signal.Signals, while_loading: bool) -> None:
    with driver(DRIVER, "3600") as process:
        mark = read_line(process)
        if while_loading:
            assert wait_until(lambda: len(marked_processes(mark)) >= 2, LOAD_SECONDS)
        else:
            assert read_line(process) == "generating"
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal sends Ctrl-C: to the whole foreground group
        else:
            process.send_signal(number)
        assert process.wait(END_SECONDS) != 0
        assert wait_until(lambda: not processes_of(mark), END_SECONDS)


@pytest.mark.model
def test_an_engine_that_hangs_is_given_up_and_ended() -> None:
    with driver(DRIVER, "10") as process:
        mark = read_line(process)
        assert read_line(process) == "generating"
        for engine in marked_processes(mark):
            os.kill(engine, signal.SIGSTOP)
        assert read_line(process).startswith(
            "The engine hangs: it answered nothing for 10 s while it was asked question 'q'"
        )
        assert process.wait(END_SECONDS) == 0
        assert wait_until(lambda: not processes_of(mark), END_SECONDS)


OWNER = """
import os, signal, subprocess, sys, time
from mpdf_rllib.engine.watchdog import Watchdog

watchdog = Watchdog()
sleeper = [sys.executable, "-c", "import os, time; os.fork(); time.sleep(3600)"]
with watchdog.marking():
    subprocess.Popen(sleeper, stdout=subprocess.DEVNULL, start_new_session=True)
print(watchdog.mark, flush=True)
eval(sys.argv[1])
"""


@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), signal.SIGKILL)", "os.killpg(0, signal.SIGKILL)", "os._exit(0)", "sys.exit()"]
)
def test_marked_processes_end_with_their_owner(end: str) -> None:
    with driver(OWNER, end) as process:
        mark = read_line(process)
        assert process.wait(END_SECONDS) is not None
        assert wait_until(lambda: not processes_of(mark), END_SECONDS)


def test_what_stops_a_service_does_not_stop_the_watchdog() -> None:
    with driver(OWNER, "time.sleep(60)") as process:
        mark = read_line(process)
        for pid in {*processes_of(mark)} - {*marked_processes(mark)}:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        process.kill()
        assert wait_until(lambda: not processes_of(mark), END_SECONDS)


def test_a_forked_child_of_the_owner_does_not_keep_the_watchdog_waiting() -> None:
    with driver(OWNER, "os._exit(0) if os.fork() else time.sleep(60)") as process:
        mark = read_line(process)
        assert wait_until(lambda: not processes_of(mark), END_SECONDS)


def test_close_kills_what_is_marked_and_nothing_else() -> None:
    watchdog, other = Watchdog(), Watchdog()
    sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
    with watchdog.marking():
        marked = subprocess.Popen(sleeper)
    with other.marking():
        spared = subprocess.Popen(sleeper)
    assert watchdog.mark not in os.environ.values()
    assert wait_until(lambda: marked_processes(watchdog.mark) == [marked.pid], END_SECONDS)
    watchdog.close()
    assert not marked_processes(watchdog.mark)
    watchdog.close()
    assert marked.wait(END_SECONDS) == -signal.SIGKILL
    assert spared.poll() is None
    assert wait_until(lambda: not processes_of(watchdog.mark), END_SECONDS)
    other.close()
    assert spared.wait(END_SECONDS) == -signal.SIGKILL

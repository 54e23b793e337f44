"""math-verify in processes of its own, within bounds."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from process_fixtures import REPOSITORY, cpu_seconds, lives

from mpdf_rllib.errors import EngineError
from mpdf_rllib.questions import Question, checking
from mpdf_rllib.questions import grader as grader_module
from mpdf_rllib.questions.expressions import ExpressionChecker
from mpdf_rllib.questions.grader import Grader
from mpdf_rllib.questions.grader_process import CALLS, CPU_SECONDS, MEMORY

HANG = "9^{9^{9^{9}}}"
"""Keeps sympy busy for ever."""


@pytest.fixture
def grader():
    grader = Grader()
    assert grader.call("value", "2") == 2
    yield grader
    grader.close()


def test_what_hangs_is_ended_and_another_process_goes_on(grader):
    before = cpu_seconds()
    first = grader._process.pid
    assert grader.call("value", HANG) is None
    assert cpu_seconds() - before < 2 * CPU_SECONDS
    assert grader.call("equal", "x+1", "1+x") is True
    assert grader._process.pid != first


def test_what_hangs_without_computing_is_ended_but_not_what_waits_for_a_call(tmp_path, monkeypatch):
    program, calls = tmp_path / "program.py", tmp_path / "calls"
    program.write_text(f"""
import sys, time
sys.path.insert(0, {str(REPOSITORY)!r})
from mpdf_rllib.questions import grader_process

def value(seconds):
    with open({str(calls)!r}, "a") as file:
        print(seconds, file=file)
    time.sleep(float(seconds))
    return 1

grader_process.value, grader_process.SECONDS = value, 2
grader_process.main()
""")
    monkeypatch.setattr(grader_module, "_PROGRAM", program)
    with contextlib.closing(Grader()) as waiting, contextlib.closing(Grader()) as hanging:
        assert waiting.call("value", "0") == 1
        assert hanging.call("value", "60") is None
        assert waiting.call("value", "0") == 1
    assert calls.read_text().split() == ["0", "60", "0"]


def test_its_memory_is_bounded(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from mpdf_rllib.questions import grader_process

def value(size):
    return len(bytes(int(size)))

grader_process.value = value
grader_process.main()
""")
    monkeypatch.setattr(grader_module, "_PROGRAM", program)
    with contextlib.closing(Grader()) as grader:
        sizes = [MEMORY // 4, MEMORY, MEMORY // 4]
        assert [grader.call("value", str(size)) for size in sizes] == [sizes[0], None, sizes[2]]


def test_a_process_that_was_killed_is_no_verdict(grader):
    os.kill(grader._process.pid, signal.SIGKILL)
    assert grader.call("equal", "x+1", "1+x") is True
    second = grader._process.pid
    os.kill(second, signal.SIGINT)  # as Ctrl-C does to all processes of a terminal
    assert grader.call("equal", "x+1", "1+x") is True
    assert grader._process.pid == second


def test_one_that_is_killed_again_and_again_is_no_verdict_but_one_that_crashes_is(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from mpdf_rllib.questions import grader_process

def value(number):
    os.kill(os.getpid(), int(number))

grader_process.value = value
grader_process.main()
""")
    monkeypatch.setattr(grader_module, "_PROGRAM", program)
    with contextlib.closing(Grader()) as grader:
        with pytest.raises(EngineError, match=r"was killed twice \(SIGKILL\)"):
            grader.call("value", str(int(signal.SIGKILL)))
        assert grader.call("value", str(int(signal.SIGSEGV))) is None
        assert grader.call("equal", "x+1", "1+x") is True


def test_a_process_is_replaced_after_its_calls(grader):
    first = grader._process.pid
    assert [grader.call("value", str(n)) for n in range(CALLS + 10)] == list(range(CALLS + 10))
    assert grader._process.pid != first


def test_ctrl_c_leaves_no_reply_for_the_next_call(grader):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            grader.call("value", HANG)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert grader.call("value", "7") == 7


def test_the_event_loop_goes_on_and_one_questions_calls_keep_their_order():
    question = Question("q", "?", "1", "expression", "generic")
    done, ticks = [], []

    def take(name: str, text: str) -> str | None:
        assert threading.current_thread() is not threading.main_thread()
        done.append((name, text))
        return ExpressionChecker().read(text).canonical

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def grade():
        ticking = asyncio.ensure_future(tick())
        slow = f"\\boxed{{{'+'.join(f'y^{{{n}}}' for n in range(60))}}}"
        texts = [slow, "\\boxed{y+1}", "\\boxed{y+2}"]
        results = await asyncio.gather(*(checking(question, take, "q", text) for text in texts))
        ticking.cancel()
        assert results == [slow, "\\boxed{y+1}", "\\boxed{y+2}"]
        assert done == [("q", text) for text in texts]

    asyncio.run(grade())
    assert len(ticks) > 10


@pytest.mark.parametrize("work", ["'2'", f"'{HANG}'"], ids=["waiting", "computing"])
def test_it_ends_with_its_owner(work):
    program = f"""
import os, threading, time
from mpdf_rllib.questions.grader import Grader
grader = Grader()
grader.call("value", "2")
print(grader._process.pid, flush=True)
grader.call("value", {work})
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + 60
    while lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "check",
    [
        "ExpressionChecker().read(f'\\\\boxed{{x+{n}}}')",
        "passes_tests(SLOW % (BEGUN, n), TASK)",
    ],
    ids=["expressions", "programs"],
)
def test_ctrl_c_ends_what_is_being_checked(check, tmp_path):
    begun, slow = tmp_path / "begun", tmp_path / "slow.py"
    slow.write_text(f"""
import pathlib, sys, time
sys.path.insert(0, {str(REPOSITORY)!r})
from mpdf_rllib.questions import grader_process

def value(latex):
    pathlib.Path({str(begun)!r}).touch()
    time.sleep(600)

grader_process.value, grader_process.SECONDS = value, 600
grader_process.main()
""")
    program = f"""
import asyncio
from pathlib import Path
from mpdf_rllib.questions import grader, sandbox
from mpdf_rllib.questions.code import passes_tests
from mpdf_rllib.questions.expressions import ExpressionChecker
from mpdf_rllib.questions.programs import CodeTask

BEGUN, TASK = {str(begun)!r}, CodeTask("", "f", "assert f(1) == 1", (), unsafe=True)
grader._PROGRAM, sandbox.SECONDS = Path({str(slow)!r}), 600
SLOW = "import time\\ndef f(x):\\n    open(%r, 'w').close()\\n    time.sleep(600 + %d)"

def check(n):
    print("verdict", {check}, flush=True)

async def check_all():
    await asyncio.gather(*(grader.grading(str(n), check, n) for n in range(1, 9)))

asyncio.run(check_all())
"""
    command = [sys.executable, "-c", program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, **pipes)
    try:
        deadline = time.monotonic() + 60
        while not begun.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "verdict" not in output
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "Exception ignored" not in errors

import asyncio
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from functools import partial
from typing import Never

import pytest

from mpdf_rllib.engine import event_loop, run
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.envs.debate_session import DebateSession
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import generate_questions


class ClosedEngine(ScriptedEngine):
    closed: list[str] = []

    async def close(self) -> None:
        self.closed.append(threading.current_thread().name)


@pytest.mark.parametrize("close", [True, False], ids=["closed", "collected"])
def test_a_session_may_end_on_the_event_loop_itself(close):
    """The garbage collector runs in whatever thread allocates; waiting there for the loop would stop it for ever."""
    ClosedEngine.closed.clear()
    sessions = [
        DebateSession(
            partial(generate_questions, ["addition"], "train", 1),
            Team(critic=False),
            partial(ClosedEngine, answer_like_a_small_model),
        )
    ]
    sessions[0].reset(1)

    async def end() -> None:
        if close:
            sessions[0].close()
        sessions.clear()
        gc.collect()

    thread = threading.Thread(target=lambda: run(end()), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    run(ScriptedEngine(answer_like_a_small_model).close())  # what was scheduled before has run by now
    assert ClosedEngine.closed == ["mpdf-event-loop"]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt also where the tests run in the background, whose processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_ctrl_c_cancels_is_closed_before_the_caller_goes_on(ctrl_c):
    closed = []

    async def interrupted() -> None:
        try:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            await asyncio.wait_for(asyncio.Event().wait(), 20)
        except asyncio.CancelledError:
            for _ in range(1000):  # as closing does, it lets others work meanwhile
                await asyncio.sleep(0)
            closed.append(True)
            raise

    with pytest.raises(KeyboardInterrupt):
        run(interrupted())
    assert closed


@pytest.mark.parametrize("scheduled", [False, True])
def test_ctrl_c_does_not_wait_for_what_has_not_begun(monkeypatch, scheduled):
    begun = []

    async def endless() -> None:
        begun.append(True)
        await asyncio.Event().wait()

    schedule = asyncio.run_coroutine_threadsafe

    def interrupted(coroutine: Coroutine, loop: asyncio.AbstractEventLoop) -> Never:
        if scheduled:  # to begin after what is scheduled next, until when the loop is held up
            soon, held_up = loop.call_soon_threadsafe, threading.Event()

            def soon_and_go_on(*callback) -> asyncio.Handle:
                handle = soon(*callback)
                held_up.set()
                return handle

            soon(held_up.wait)
            soon(schedule, coroutine, loop)
            monkeypatch.setattr(loop, "call_soon_threadsafe", soon_and_go_on)
        else:
            coroutine.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    monkeypatch.setattr(event_loop, "_CLOSING_SECONDS", 600)
    with pytest.raises(KeyboardInterrupt):
        run(endless())
    monkeypatch.undo()
    run(asyncio.sleep(0))
    assert not begun


FORKED = """
import asyncio, os, signal
from mpdf_rllib.engine import run

run(asyncio.sleep(0))
child = os.fork()
signal.alarm(20)
run(asyncio.sleep(0))
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 if child else 0)
"""


def test_a_forked_child_has_a_loop_of_its_own():
    assert subprocess.run([sys.executable, "-c", FORKED]).returncode == 0

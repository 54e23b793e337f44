"""math-verify in processes of its own, for it can hang, take all memory, and refuses to run in a thread.

Not a pool of multiprocessing's: its workers import the main module of whoever starts them, which here is all of Ray and
torch, or a user's script a second time. These are started by exec, so also from beside the threads of an engine.
"""

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from mpdf_rllib.errors import EngineError
from mpdf_rllib.questions import processes

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

THREADS = min(4, os.cpu_count() or 1)
_PROGRAM = Path(__file__).with_name("grader_process.py")
_BOUNDS = (-signal.SIGPROF, -signal.SIGALRM)
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT, -signal.SIGQUIT)

_own = threading.local()


class Grader:
    """One process, which is started by the first call and replaced when it has ended; for one thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def call(self, name: str, *arguments: str) -> Any:
        """The result of a function of `grader_process`, or None where it failed, passed its bounds or crashed twice.

        Raises:
            EngineError: The process was killed twice from outside, or because the program is about to end.
            RuntimeError: The process cannot be started.
        """
        request = json.dumps([name, arguments]) + "\n"
        for _ in range(2):
            if self._process is None:
                self._process = self._start()
            assert self._process.stdin is not None and self._process.stdout is not None
            try:
                self._process.stdin.write(request)
                self._process.stdin.flush()
                reply = self._process.stdout.readline()
            except BrokenPipeError:
                reply = ""
            except BaseException:  # Ctrl-C: a reply that nobody has read would be taken for the next call's
                self.close()
                raise
            if reply.endswith("\n"):
                return json.loads(reply)
            status = self.close()
            processes.check_going_on()
            if status in _BOUNDS:
                return None
        if status in _FROM_OUTSIDE:
            raise EngineError(
                f"an answer could not be checked: {_PROGRAM.name} was killed twice ({signal.Signals(-status).name}), "
                "as the kernel does where memory runs out; leave it more memory"
            )
        return None

    def close(self) -> int:
        """Ends the process; returns its exit status, 0 where there is none."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        process.communicate()
        return process.returncode

    def _start(self) -> subprocess.Popen[str]:
        # -P: the folder of the program, whose modules may be called like others, is not a place to import from.
        command = [sys.executable, "-P", str(_PROGRAM)]
        process = processes.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{' '.join(command)} ended with status {process.wait()}; is math-verify installed?")
        return process


def grade(name: str, *arguments: str) -> Any:
    """The result of a function of `grader_process`, by the calling thread's own process; see `Grader.call`."""
    if not hasattr(_own, "grader"):
        _own.grader = Grader()
    return _own.grader.call(name, *arguments)


async def grading(
    question_id: str, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """Runs a function that may call `grade` in a thread, so that the event loop goes on meanwhile.

    What is run for one question is run by one thread in the order of the calls, so that it needs no lock.
    """
    threads = _threads(zlib.crc32(question_id.encode()) % THREADS)
    return await asyncio.wrap_future(threads.submit(function, *args, **kwargs))


@functools.cache
def _threads(index: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"grader-{index}")

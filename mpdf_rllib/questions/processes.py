"""Processes that the checkers' threads wait for, and that must not hold up the program's end.

When Python ends it waits for the threads of executors. Before that, the processes that they wait for are killed here,
and the threads get an error: an answer that was being checked is neither right nor wrong.
"""

import contextlib
import os
import signal
import subprocess
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from mpdf_rllib.errors import EngineError

_lock = threading.Lock()
_started: "weakref.WeakSet[subprocess.Popen[Any]]" = weakref.WeakSet()
_ending = False


def start(command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
    """Starts a process that is killed, if it still runs, when the program ends.

    Args:
        command: What to run.
        **options: As `subprocess.Popen` takes them.

    Raises:
        EngineError: The program is about to end.
        OSError: The command cannot be run.
    """
    with _lock:
        check_going_on()
        process = subprocess.Popen(command, **options)
        _started.add(process)
    return process


def check_going_on() -> None:
    """Makes sure that a process has not ended because the program does.

    Raises:
        EngineError: The program is about to end.
    """
    if _ending:
        raise EngineError("an answer could not be checked: the program is about to end")


def _end_all() -> None:
    global _ending
    with _lock:
        _ending = True
        for process in _started:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)  # whoever waits for it has the rest to do


# Earlier than atexit, which comes after the threads of executors have ended.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]

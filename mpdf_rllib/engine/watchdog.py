"""Sees to it that no process of an engine outlives the process that owns the engine, however that one ends.

vLLM runs its model in processes of its own, which are left spinning when their owner is killed. Here each of them is
known by a mark in its environment, which its own children inherit, and a tiny process in a session of its own waits
for the owner's end and kills whatever carries the mark. Linux only: it reads /proc.

This file is run by its path, without its package and without site-packages, and so imports the standard library only.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from multiprocessing import resource_tracker

MARK = "MPDF_ENGINE_OWNER"
_QUIET_SECONDS = 1.0
_POLL_SECONDS = 0.05


class Watchdog:
    """Kills the marked processes when the owner (the process that made this) ends, or on demand.

    Attributes:
        mark: The value of the environment variable `MARK` in every process that is watched.
    """

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self.mark, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._process.wait()

    @contextlib.contextmanager
    def marking(self) -> Iterator[None]:
        """Within, processes that this one starts (by fork and exec, not by fork alone) carry the mark."""
        resource_tracker.ensure_running()  # without the mark: it frees shared memory after all others were killed
        environment = {MARK: self.mark, "SPT_NOENV": "1"}  # SPT_NOENV: setproctitle must not overwrite the mark
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def kill(self) -> None:
        """Kills every marked process and returns when none is left."""
        kill_marked(self.mark)

    def close(self) -> None:
        """Kills every marked process and ends the watchdog. Idempotent."""
        self.kill()
        stdin = self._process.stdin
        if stdin and not stdin.closed:
            with contextlib.suppress(OSError):
                stdin.write(b"\n")
                stdin.close()


def marked_processes(mark: str) -> list[int]:
    """Ids of the live processes that carry the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as environ:
            if wanted in environ.read().split(b"\0"):
                found.append(int(name))
    return found


def kill_marked(mark: str, quiet: float = 0.0) -> None:
    """Kills marked processes until none was seen for `quiet` seconds."""
    deadline = time.monotonic() + quiet
    while (found := marked_processes(mark)) or time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + quiet
        time.sleep(_POLL_SECONDS)


def _watch(mark: str, owner: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    owner_alive = os.pidfd_open(owner)
    if os.fork():  # the owner waits for this process only; its child is nobody's, so that nobody kills it as a child
        os._exit(0)
    select.select([owner_alive, sys.stdin.buffer], [], [])
    kill_marked(mark, _QUIET_SECONDS)


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]))

"""Where programs that a model has written run: processes without network, files, secrets or much of anything.

bubblewrap gives each its own namespaces, in which Python alone is there to be read and a small scratch folder to be
written. A seccomp filter takes system calls away, resource limits bound CPU time, memory, processes and files, and the
owner bounds the time on the clock. With the owner, or with the first of its processes, the whole sandbox ends; without
isolation (`unsafe`) only that first process ends with the owner, not what it has started.

What a program prints, how it ends and what it does to its own process decide nothing: tests run in another sandbox and
see no more of it than the values that it returns and the exceptions that it raises.
"""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from mpdf_rllib.errors import ConfigError, EngineError
from mpdf_rllib.questions import processes
from mpdf_rllib.questions.sandbox_process import MAX_LINE, SCRATCH, encode
from mpdf_rllib.questions.seccomp import seccomp_filter

SECONDS = 20.0
"""A sandbox's time on the clock [ours]."""
START_SECONDS = 60.0
"""In which it has to start [ours]."""

_PROGRAM = Path(__file__).with_name("sandbox_process.py")
_PYTHON = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
_INSIDE = "/sandbox_process.py"
# The kernel does not bound root's processes, so where this runs as root a sandbox becomes a user that nobody else is.
_UIDS = range(2**30, 2**31 - 1)
_UNSAFE = "questions.unsafe_code_without_sandbox: true runs the programs with all that you may do"

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


@functools.cache
def check_sandbox() -> None:
    """Makes sure, once in a process, that sandboxes work here.

    Raises:
        ConfigError: They do not; says what to install or to change.
    """
    if shutil.which("bwrap") is None:
        raise ConfigError(
            "code questions run programs in a sandbox, which needs bubblewrap (bwrap): install it (Debian, Ubuntu: "
            f"apt install bubblewrap), or else {_UNSAFE}"
        )
    if seccomp_filter() is None:
        raise ConfigError(f"there is no sandbox for code on {os.uname().machine}; use x86_64 or aarch64; or {_UNSAFE}")
    try:
        [result] = _call_each("f = str", "f", [((1,), {})], unsafe=False)
    except EngineError as error:
        raise ConfigError(
            f"code questions need bubblewrap, at least 0.7, which cannot work here: {error}. An ordinary user must be "
            "allowed user namespaces (sysctl user.max_user_namespaces above 0, kernel.unprivileged_userns_clone=1; on "
            "Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0), a container namespaces (Docker: --cap-add "
            "SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined); or else "
            f"{_UNSAFE}"
        ) from error
    if result != b'["value", "1"]':
        raise ConfigError(f"a sandbox for code cannot run Python ({result!r}); or else {_UNSAFE}")


def passes(program: str, helpers: str, entry_point: str, tests: str, *, unsafe: bool) -> bool:
    """Whether a program passes tests, which run apart from it.

    Args:
        program: Source that defines the entry point.
        helpers: Source, trusted, that the tests may call.
        entry_point: Name of the function.
        tests: Source, trusted, that defines check(candidate) or asserts on the entry point by its name.
        unsafe: See `Sandbox`.

    Raises:
        ConfigError: See `check_sandbox`.
        EngineError: A sandbox did not start.
    """
    if not unsafe:
        check_sandbox()
    with Sandbox(unsafe=unsafe) as judge, Sandbox(unsafe=unsafe) as candidate:
        if candidate.ask(["load", program, entry_point]) != b"true":
            return False
        line = judge.ask(["judge", helpers, entry_point, tests])
        while line not in (b"true", b"false", None):
            reply = candidate.ask(line)
            line = None if reply is None else judge.ask(reply)
        return line == b"true"


def call_each(program: str, entry_point: str, calls: Iterable[Call], *, unsafe: bool) -> Iterator[bytes | None]:
    """What a program makes of calls: for each what `sandbox_process` writes, or None once the process has ended.

    A result can have `MAX_LINE` bytes, so they come one by one.

    Args:
        program: Source that defines the entry point.
        entry_point: Name of the function.
        calls: Calls of it.
        unsafe: See `Sandbox`.

    Raises:
        ConfigError: See `check_sandbox`.
        EngineError: A sandbox did not start.
    """
    if not unsafe:
        check_sandbox()
    yield from _call_each(program, entry_point, calls, unsafe=unsafe)


def _call_each(program: str, entry_point: str, calls: Iterable[Call], *, unsafe: bool) -> Iterator[bytes | None]:
    with Sandbox(unsafe=unsafe) as sandbox:
        going = sandbox.ask(["load", program, entry_point]) == b"true"
        for arguments, keywords in calls:
            result = sandbox.ask(["probe", encode(arguments), encode(keywords)]) if going else None
            going = result is not None
            yield result


class Sandbox:
    """A process that runs `sandbox_process`; for one thread. With its `with` block it ends, and all that it started."""

    def __init__(self, *, unsafe: bool) -> None:
        """Starts it.

        Args:
            unsafe: Whether to do without isolation. The bounds on time, memory and files remain; but a program can then
                read, write, send and end all that its owner can, whether it means to or not, and a process of its own
                that leaves the session goes on when this ends.

        Raises:
            EngineError: It cannot be started, or the program is about to end.
        """
        self._cleanup = contextlib.ExitStack()
        self._channel, inside = socket.socketpair()
        self._received = bytearray()
        self._deadline: float | None = None
        scratch = "/tmp"
        if unsafe:
            scratch = self._cleanup.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        environment = {"HOME": scratch, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"}
        with inside, contextlib.nullcontext() if unsafe else _filter() as filter_file:
            isolated = [] if filter_file is None else _bubblewrap(filter_file)
            uid = random.choice(_UIDS) if isolated and _is_root() else 0
            owner = os.getpid() if unsafe else 0
            program = _INSIDE if isolated else str(_PROGRAM)
            command = [*isolated, str(_PYTHON), "-P", "-s", "-S", program, str(uid), str(owner)]
            try:
                self._process = processes.start(
                    command,
                    stdin=inside.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    cwd=scratch,
                    env=environment,
                    pass_fds=[] if filter_file is None else [filter_file],
                    start_new_session=True,  # Ctrl-C is the owner's, with whom this ends
                )
            except OSError as error:
                self._cleanup.close()
                raise EngineError(f"a sandbox for code did not start: {error}") from error

    def ask(self, request: Any) -> bytes | None:
        """Writes a line and reads one, as `sandbox_process` tells; None where it has ended or passed its bounds.

        Args:
            request: The line as bytes, or what JSON makes one of.

        Raises:
            EngineError: It did not start, or has ended because the program is about to.
        """
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        if self._deadline is None:
            self._wait_for_start()
        reply = None
        with contextlib.suppress(OSError):
            self._channel.settimeout(self._left())
            self._channel.sendall(line + b"\n")
            reply = self._line()
        if reply is None:
            processes.check_going_on()
        return reply

    def _wait_for_start(self) -> None:
        self._deadline = time.monotonic() + START_SECONDS
        line = None
        with contextlib.suppress(OSError):
            line = self._line()
        if line != b'"ready"':
            complaint = self._end().decode(errors="replace").strip()[-500:]
            raise EngineError(f"a sandbox for code did not start: {complaint}")
        self._deadline = time.monotonic() + SECONDS

    def _line(self) -> bytes | None:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            self._channel.settimeout(self._left())
            piece = self._channel.recv(2**16)
            if not piece or searched > MAX_LINE:
                return None
            self._received += piece
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _left(self) -> float:
        assert self._deadline is not None
        return max(self._deadline - time.monotonic(), 0)

    def _end(self) -> bytes:
        """Ends all of its processes; returns what it complained of before it ran anything."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.communicate()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._end()
        self._channel.close()
        self._cleanup.close()


@contextlib.contextmanager
def _filter() -> Iterator[int]:
    """A file of the seccomp filter, to be read by one process."""
    file = os.memfd_create("seccomp")
    try:
        os.write(file, seccomp_filter() or b"")
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


def _is_root() -> bool:
    """Whether this may become any user: root, not in a namespace that has fewer users."""
    users = (map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return os.geteuid() == 0 and any(first <= _UIDS[0] and _UIDS[-1] < first + count for first, _, count in users)


def _bubblewrap(filter_file: int) -> list[str]:
    """What runs a command in a sandbox."""
    rights = ["--cap-drop", "ALL"]
    if _is_root():
        rights += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # to become nobody
    else:
        rights += ["--unshare-user"]
    return [
        shutil.which("bwrap") or "bwrap",
        *("--die-with-parent", "--new-session", *rights, "--seccomp", str(filter_file)),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *_folders(),
        *("--ro-bind", str(_PROGRAM), _INSIDE, "--dev-bind", "/dev/null", "/dev/null"),
        *("--perms", "1777", "--size", str(SCRATCH), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"),
    ]


@functools.cache
def _folders() -> list[str]:
    """What Python needs: itself, its standard library without any packages, the system's libraries."""
    libraries = {Path(parent, name) for parent in ("/", "/usr", _PYTHON.parent.parent) for name in ("lib", "lib64")}
    folders = sorted(library for library in libraries if library.is_dir())
    # What bubblewrap makes of itself on the way to them nobody else could enter.
    ways = sorted({way for path in (_PYTHON, *folders, Path("/etc/x"), Path("/dev/x")) for way in path.parents[:-1]})
    arguments = [word for way in ways for word in ("--dir", str(way))]
    arguments += ["--ro-bind", str(_PYTHON), str(_PYTHON), "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for folder in folders:
        if folder.is_symlink():
            arguments += ["--symlink", os.readlink(folder), str(folder)]
            continue
        arguments += ["--ro-bind", str(folder), str(folder)]
        for packages in folder.glob("python*/*-packages"):
            arguments += ["--tmpfs", str(packages), "--remount-ro", str(packages)]
    return arguments

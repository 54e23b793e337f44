"""Programs as answers: which text gives which, what the hidden tests say, and which programs do the same."""

import ast
import json
import textwrap
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_fixtures import need_sandbox

from mpdf_rllib.errors import DataError
from mpdf_rllib.questions.code import MAX_PROBES, CodeChecker, passes_tests, probes, same_behaviour
from mpdf_rllib.questions.programs import MAX_PROGRAM, CodeTask, read_program, visible_examples

PROMPT = '''from typing import List


def scale(x: int) -> int:
    """Twice x."""
    return 2 * x


def total(numbers: List[int], start: int = 0) -> int:
    """ The sum of the doubled numbers, from a start on.
    >>> total([1, 2], 1)
    7
    For example, total([]) returns 0, and total(numbers=[5], start=-1) ➞ 9, but total(x) needs a list.
    """
'''
BODY = "    for number in numbers:\n        start += scale(number)\n    return start\n"
TESTS = """
METADATA = {"author": "us"}

def check(candidate):
    assert candidate([]) == 0
    assert candidate([3, 4], start=1) == 1 + scale(7)
    try:
        candidate(None)
    except TypeError:
        pass
    else:
        assert False
"""
TASK = CodeTask(PROMPT, "total", TESTS, visible_examples(PROMPT, "total"))
BARE = CodeTask("", "f", "assert f(2) == 4\nassert f(-1) == -2", ("f(3)",))


@pytest.fixture(scope="module")
def sandbox():
    need_sandbox()


def read(text: str, task: CodeTask = TASK) -> str:
    found = read_program(text, task)
    assert found is not None
    return found[0]


RIGHT = read(BODY)


@pytest.mark.parametrize(
    "text",
    [
        PROMPT + BODY,
        f"Here it is:\n\n```python\n{PROMPT}{BODY}```\nIt adds up.",
        f"```python\ndef total(numbers):\n    return 1\n```\nNo, better:\n```py\n{PROMPT}{BODY}\n```\n```text\n7\n```",
        f"```\n{PROMPT}{BODY}",
        f"1. Like so:\n{textwrap.indent(f'```python{chr(10)}{PROMPT}{BODY}```', '   ')}\nThat is it.",
        f"From what is said, we get:\n\n{PROMPT}{BODY}\nThis isn't hard.",
        BODY.strip(),
        f"{BODY}\n\nprint(total([1]))\n\ndef other():",
        f"```python\n{BODY}```",
        f"{PROMPT}{BODY}".replace("    for", "    # A comment.\n    for").replace("Twice x", "Two times x"),
        "def total(numbers: List[int], start: int=0) -> int:\n" + BODY,
    ],
)
def test_one_program_in_many_texts(text):
    program, (start, end) = read_program(text, TASK)
    assert program == RIGHT
    assert "start += scale(number)" in text[start:end]
    assert "isn't" not in text[start:end]
    assert "other" not in text[start:end]


def test_the_canonical_form_is_read_as_it_is_and_stands_alone():
    assert read_program(RIGHT, TASK) == (RIGHT, (0, len(RIGHT)))
    namespace: dict = {}
    exec(RIGHT, namespace)
    assert namespace["total"]([1, 2], 1) == 7


NESTED = ("(", "-", "not ", "1+", "f(", "lambda:", "[{")


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("", TASK),
        ("I do not know.", TASK),
        (PROMPT, TASK),
        (f"```python\n{PROMPT}    pass\n```", TASK),
        ("```python\ndef other(numbers):\n    return 1\n```", TASK),
        (PROMPT + BODY[:-12] + " (", TASK),
        ("    return start +", TASK),
        ("    sorry", TASK),
        ("return 1", BARE),
        ("def f(x):\n    return '" + "x" * MAX_PROGRAM + "'", BARE),
        ("\x00", BARE),
        ("def f(x):\n    return 0x" + "f" * 9999, BARE),
        *((f"def f(x):\n    return {start * 4000}1", BARE) for start in NESTED),
        ("`" * 10**5, BARE),
        ("```\n" * 10**5, BARE),
        ("def f(\n" * 10**4, BARE),
    ],
    ids=lambda of: repr(of)[:30],
)
def test_texts_without_a_program(text, task):
    started = time.process_time()
    assert read_program(text, task) is None
    assert time.process_time() - started < 5


PIECES = [
    *("def f(x):", "\n", "\n    ", "return x", "return [x", "]", "```", "```python\n", "x", "= 1", "(", ")", ":", "'"),
    *('"""', "if x", "else", "for y in x", "lambda", "f'{x}'", "f'{", "}", "\\", "#", "@", "class A", "import os"),
    *("from __future__ ", "import annotations", "'a' 'b'", "1e999", "0x" + "f" * 4000, "-" * 500, "\t", "\r", "\x0c"),
    *("\ud800", "é", "async ", "yield", "await", "'\\d'", "global f", "f = print", "*", "**", "match x:\n        case"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=15).map("".join) | st.text(max_size=60))
def test_any_text_gives_a_program_or_none(text):
    for task in (BARE, TASK):
        for part in (text, f"def f(x):\n    {text}", f"```\n{text}\n```"):
            found = read_program(part, task)
            if found:
                program, (start, end) = found
                assert 0 <= start <= end <= len(part)
                assert read_program(program, task) == (program, (0, len(program)))
                json.dumps(ast.dump(ast.parse(program)))


def test_examples_are_the_calls_with_literals():
    assert TASK.examples == ("total([1, 2], 1)", "total([])", "total(numbers=[5], start=-1)")
    named = 'def f(a, b):\n    """\n    Input: a = [1,\n 2], b = "x, y"\n    For a = [], b = "z" it is 1.\n    """\n'
    assert visible_examples(named, "f") == ("f([1, 2], 'x, y')", "f([], 'z')")
    assert visible_examples('def f(a):\n    """\n    Input: 5\n    Output: 6\n    """', "f") == ("f(5)",)
    assert visible_examples('def f(a):\n    """f(g(1)) and f(*[1]), then f(1"""', "f") == ()
    assert visible_examples("", "f") == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "def total("),
        ("entry_point", "a b"),
        ("tests", "assert"),
        ("tests", "(" * 10**5),
        ("tests", ""),
        ("tests", "def test_total():\n    assert total([]) == 0"),
        ("tests", "def check(candidate):\n    candidate([]) == 0"),
        ("tests", "def check(candidate): pass\ndef other():\n    assert total([]) == 0"),
        ("examples", ("total(x)",)),
        ("examples", ("other(1)",)),
        ("examples", ("total(1",)),
    ],
)
def test_tasks_that_cannot_be(field, value):
    fields = {"prompt": PROMPT, "entry_point": "total", "tests": TESTS, "examples": ()}
    CodeTask(**fields)
    with pytest.raises(DataError):
        CodeTask(**{**fields, field: value})


@pytest.mark.parametrize(
    "tests",
    [
        "for n in range(3):\n    assert total([n]) == 2 * n",
        "def check(candidate):\n    same(candidate([]), 0)\ndef same(a, b):\n    assert a == b",
        "def test_total():\n    assert total([]) == 0\ntest_total()",
    ],
)
def test_tests_that_assert_in_their_own_ways(tests):
    CodeTask(PROMPT, "total", tests, ())


@pytest.mark.parametrize("unsafe", [False, True])
def test_the_tests_decide(sandbox, unsafe):
    task = CodeTask(PROMPT, "total", TESTS, (), unsafe)
    assert passes_tests(RIGHT, task)
    assert not passes_tests(read(BODY.replace("+=", "-=")), task)
    bare = CodeTask("", "f", BARE.tests, (), unsafe)
    assert passes_tests("def f(x): return 2 * x", bare)
    assert not passes_tests("def f(x): return x ** 2", bare)
    assert not passes_tests("def f(x): pass", bare)
    assert not passes_tests("def g(x): return 2 * x", bare)


def test_tests_call_the_prompts_helpers_not_the_programs(sandbox):
    cheat = "def scale(x):\n    return -1 - x\n\ndef total(numbers, start=0):\n    return start + sum(numbers) * 0"
    assert not passes_tests(read(f"```\n{cheat}\n```"), TASK)


TWICE = "def f(x):\n    return 2 * x\n"
WRITE = """for n in range(3, 60):
        try:
            os.write(n, b'true\\n' * 9)
        except OSError:
            pass"""
FORGERIES = {
    "print": "print('passed'); print('true')\ndef f(x):\n    print('passed')\n    return 1",
    "exit": "import sys\nsys.exit(0)\ndef f(x): return 1",
    "exit later": "import sys\ndef f(x): sys.exit(0)",
    "os._exit": "import os\ndef f(x): os._exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "builtins": "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.exec = print\ndef f(x): return 1",
    "modules": "import sys\nfor name in list(sys.modules): sys.modules[name] = None\ndef f(x): return 1",
    "equal to all": "class E:\n    def __eq__(self, other): return True\ndef f(x): return E()",
    "number equal to all": "class E(int):\n    def __eq__(self, other): return True\ndef f(x): return E()",
    "text equal to all": "class E(str):\n    def __eq__(self, other): return True\ndef f(x): return E()",
    "endless": "import itertools\ndef f(x): return itertools.count()",
    "huge": "def f(x): return 'x' * 10 ** 8",
    "loop": "def f(x):\n    while True: pass",
    "verdict": f"import os\ndef f(x):\n    {WRITE}",
    "verdict at once": f"import os\ndef f(x):\n    return 1\nif True:\n    {WRITE}",
    "harness": "import sys\nsys.modules['__main__'].encode = lambda value: True\ndef f(x): return 1",
    "stack": "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        frame.f_locals.update(result=['value', 4], verdict=True)\n        frame = frame.f_back\n    return 1",
    "search": "import gc\ndef f(x):\n    hidden = 'f(-' + '1) == -2'\n    everything = gc.get_objects()\n"
    "    found = [o for o in everything if isinstance(o, list | dict) and hidden in repr(o)]\n"
    "    return 2 * x if found else 1",
    "source": "import inspect\ndef f(x):\n    files = [frame.filename for frame in inspect.stack()]\n"
    "    return 2 * x if '<tests>' in files else 1",
    "null": "import os\ndef f(x):\n    os.write(4, b'\\n[\"value\", [\"no\", []]]\\n[[[[\\n')\n    return 1",
}  # fmt: skip


@pytest.mark.parametrize("program", FORGERIES.values(), ids=FORGERIES)
def test_a_verdict_cannot_be_forged(sandbox, program):
    assert passes_tests(TWICE, BARE)
    assert not passes_tests(program, BARE)


def test_a_result_that_is_too_large_a_number_is_only_another_result(sandbox):
    task = CodeTask("", "f", "assert f(1) == 1.5", ("f(1)",))
    forged = "import os\ndef f(x):\n    os.write(4, b'[\"value\", ' + b'9' * 400 + b']\\n')\n    return 1"
    assert not same_behaviour("def f(x): return 1.5", forged, task)


def test_what_a_program_does_besides_does_not_harm_it(sandbox):
    program = "import sys\nprint('failed', file=sys.stderr)\ndef f(x):\n    print('failed')\n    return 2 * x"
    assert passes_tests(program, BARE)


@pytest.mark.parametrize("caught", ["Exception", "BaseException"])
@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)", "return object()"])
def test_a_call_without_a_result_fails_whatever_the_tests_catch(sandbox, caught, ending):
    task = CodeTask("", "f", f"try:\n    f(1)\nexcept {caught}:\n    pass\nassert f", ())
    assert passes_tests("def f(x): raise ValueError", task)
    assert not passes_tests(f"import os, sys\ndef f(x):\n    {ending}", task)


def test_arguments_are_the_tests_own(sandbox):
    task = CodeTask("", "f", "items = [3, 1]\nassert f(items) == sorted(items)\nassert items == [3, 1]", ())
    assert passes_tests("def f(items): return sorted(items)", task)
    assert passes_tests("def f(items):\n    items.sort()\n    return items", task)
    assert not passes_tests("def f(items):\n    items.clear()\n    return items", task)


@pytest.mark.parametrize(
    ("raised", "caught"),
    [
        ("raise ValueError('no')", "ValueError"),
        ("{}['a']", "KeyError"),
        ("b'\\xff'.decode()", "Exception"),
        ("class Own(ZeroDivisionError): pass\n    raise Own", "ZeroDivisionError"),
        ("class Own(Exception): pass\n    raise Own", "Exception"),
        ("f(x)", "RecursionError"),
    ],
)
def test_exceptions_arrive(sandbox, raised, caught):
    tests = f"try:\n    f(1)\nexcept {caught} as error:\n    assert 'no' in str(error) or {caught} is not ValueError"
    task = CodeTask("", "f", f"{tests}\nelse:\n    assert False", ())
    assert passes_tests(f"def f(x):\n    {raised}", task)
    assert not passes_tests("def f(x): raise StopIteration", task) or caught == "Exception"


def test_values_of_all_kinds_arrive(sandbox):
    tests = """
import collections, math
assert f("counter") == {"a": 2}
assert list(f("generator")) == [0, 1, 2] and f("generator") != [0, 1, 2]
assert f("range") == range(3) and math.isnan(f("nan")) and f("big") == 10 ** 5000
assert f("tuple") == (1, [2, {3}], b"4", 5j) and type(f("tuple")) is tuple
assert f(same=frozenset([(1, 2)])) == {(1, 2)}
"""
    program = """
import collections
def f(kind="", same=None):
    return {
        "counter": collections.Counter("aa"), "generator": (n for n in range(3)), "range": range(3),
        "nan": float("nan"), "big": 10 ** 5000, "tuple": (1, [2, {3}], b"4", 5j), "": same,
    }[kind]
"""
    assert passes_tests(program, CodeTask("", "f", tests, ()))


ABSOLUTE = CodeTask("", "f", "assert f(3) == 3 and f(-3) == 3", ("f(3)", "f(2.5)"))


@pytest.mark.parametrize(
    ("gold", "program", "same"),
    [
        ("return abs(x)", "return x if x >= 0 else -x", True),
        ("return abs(x)", "return x", False),  # not on the examples, but near them
        ("return x / 3", "return x * (1 / 3)", True),  # within the tolerance
        ("return x / 3", "return x * 0.3333", False),
        ("return [x]", "return (x,)", False),
        ("return {1: x, 2: x}", "return {2: x, 1: x}", True),
        ("return {str(x), 'b', 'c'}", "return {'c', 'b', str(x)}", True),
        ("if x < 0: raise ValueError('a')\n    return x", "if x < 0: raise ValueError('b')\n    return x", True),
        ("if x < 0: raise ValueError\n    return x", "if x < 0: raise TypeError\n    return x", False),
        ("raise ValueError", "return None", False),
        ("return float('nan')", "return float('nan') + 1", True),
        ("return object() if x < 0 else 1", "return len if x < 0 else 1", True),  # no result, either
        ("return object()", "return 1", False),
        ("while x < 0: pass\n    return 1", "while x < 0: x += 0\n    return 1", True),
        ("while x: pass\n    return 1", "return 1", False),
        ("return 'x' * 10 ** 6", "return 'x' * 10 ** 6 + ''", True),
        ("return 'x' * 10 ** 6", "return 'x' * 10 ** 6 + 'y'", False),
        ("import os; os._exit(0)", "raise SystemExit", False),
        # What runs nowhere is not the same.
        ("import numpy\n    return numpy.abs(x)", "import numpy\n    return numpy.fabs(x)", False),
        ("return y", "return z", False),
        ("return object()", "return len", False),
        ("raise SystemExit(1)", "raise SystemExit(2)", False),
        ("while True: pass", "while x: pass\n    return f(x)", False),
    ],
)
def test_programs_are_the_same_that_do_the_same_near_the_examples(sandbox, gold, program, same):
    gold, program = (f"def f(x):\n    {body}" for body in (gold, program))
    assert same_behaviour(gold, program, ABSOLUTE) is same
    assert same_behaviour(program, gold, ABSOLUTE) is same


def test_long_results_do_not_pile_up(sandbox):
    program = "def f(x): return 'x' * (4 * 2 ** 20 + int(x))"
    tracemalloc.start()
    try:
        assert same_behaviour(program, program.replace("'x'", "chr(120)"), ABSOLUTE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(probes(ABSOLUTE)) > 8
    assert peak < 8 * 4 * 2**20


def test_the_hidden_tests_do_not_tell_programs_apart(sandbox):
    task = CodeTask("", "f", "assert f(100) == 1", ("f('a')",))
    right, wrong = (f"def f(x): return 1 if x == {n} else 2" for n in (100, 200))
    assert passes_tests(right, task) > passes_tests(wrong, task)
    assert same_behaviour(right, wrong, task)


def test_without_examples_the_signature_says_what_to_try(sandbox):
    prompt = "def f(words: list[str], n: int, strict: bool) -> int:\n"
    task = CodeTask(prompt, "f", "assert f([], 1, True) == 1", ())
    assert 4 < len(probes(task)) <= MAX_PROBES
    for (words, n, strict), keywords in probes(task):
        assert isinstance(n, int)
        assert isinstance(strict, bool)
        assert all(isinstance(word, str) for word in words)
        assert not keywords
    programs = [
        f"def f(words, n, strict): return {body}" for body in ("len(words) + n", "n + len(words)", "n", "strict")
    ]
    assert [same_behaviour(programs[0], program, task) for program in programs] == [True, True, False, False]
    unknown = CodeTask("def f(words, n, strict):\n", "f", task.tests, ())
    assert probes(unknown) == ()
    assert [same_behaviour(programs[0], program, unknown) for program in programs] == [True, False, False, False]


def test_an_example_is_tried_as_it_is_and_varied_within_its_types():
    calls = probes(TASK)
    assert calls[:3] == ((([1, 2], 1), {}), (([],), {}), ((), {"numbers": [5], "start": -1}))
    assert (([2, 1], 1), {}) in calls
    assert (([1, 2], 0), {}) in calls
    assert len(calls) <= MAX_PROBES
    assert probes(CodeTask(PROMPT, "total", "assert False", TASK.examples)) == calls


def test_the_checker_of_a_question(sandbox):
    checker = CodeChecker(TASK)
    answer = checker.read(f"It is\n```python\n{PROMPT}{BODY}```")
    assert (answer.canonical, answer.value) == (RIGHT, len(RIGHT.splitlines()))
    other = checker.read("    return start + 2 * sum(numbers)").canonical
    assert checker.same(RIGHT, other)
    assert checker.correct(RIGHT, other)
    assert checker.correct("whatever", other)
    assert checker.read("no") is None

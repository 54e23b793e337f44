"""The data sets of code: functions in Python with their tests."""

import ast

from mpdf_rllib.questions.data_sets import DataSet, Values, text_in
from mpdf_rllib.questions.draws import as_text
from mpdf_rllib.questions.hub import HubFiles
from mpdf_rllib.questions.programs import CodeTask, example_call, visible_examples


def _humaneval(row: Values) -> Values:
    text, entry_point, tests = (text_in(row, role) for role in ("text", "entry_point", "tests"))
    if not isinstance(row["solution"], str):
        raise ValueError("the solution is no text")
    prompt = row["text"]  # with the line's end, after which the solution goes on
    task = CodeTask(prompt, entry_point, tests, visible_examples(prompt, entry_point))
    return {"text": text, "answer": prompt + row["solution"], "task": task}


def _mbpp(row: Values) -> Values:
    """The first assertion is shown with the description; all are hidden tests, after what sets them up [ours].

    Tests that build on more of the solution than the function cannot run apart from it (row 601: `Pair(5, 24)`).
    """
    asserts, code, setup = [as_text(line) for line in row["tests"] or ()], text_in(row, "solution"), row.get("setup")
    if not asserts:
        raise ValueError("there are no tests")
    call = _tested_call(asserts[0], code)
    entry_point, example = ast.unparse(call.func), ast.unparse(call)
    tests = "\n".join([setup if isinstance(setup, str) else "\n".join(setup or ()), *asserts])
    examples = (example,) if example_call(example, entry_point) else ()
    text = f"{text_in(row, 'text')}\nThe function is called {entry_point}. For example:\n{asserts[0]}"
    task = CodeTask("", entry_point, tests, examples)
    if others := _only_in_solution(code, tests, entry_point):
        raise ValueError(f"the tests use {', '.join(others)}, which only the solution defines")
    return {"text": text, "answer": code, "task": task}


def _tested_call(assertion: str, code: str) -> ast.Call:
    """The call, in an assertion, of a function that the code defines."""
    try:
        defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
        calls = [node for node in ast.walk(ast.parse(assertion)) if isinstance(node, ast.Call)]
    except SyntaxError as error:
        raise ValueError(f"the solution or its first test is not Python ({error})") from error
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id in defined:
            return call
    raise ValueError("the first test calls no function of the solution")


def _defined(module: ast.Module) -> set[str]:
    """The names that its statements define, without what these hold."""
    names: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        else:
            names |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    return names


def _only_in_solution(code: str, tests: str, entry_point: str) -> list[str]:
    """What tests use, besides the entry point, that the solution defines and they do not."""
    solution, testing = (ast.parse(source) for source in (code, tests))
    used = {node.id for node in ast.walk(testing) if isinstance(node, ast.Name)}
    return sorted(used & _defined(solution) - _defined(testing) - {entry_point})


HUMANEVAL = DataSet(
    HubFiles(
        "humaneval",
        "openai/openai_humaneval",
        "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
        {"test": ("openai_humaneval/test-*.parquet",)},
        elsewhere={"test": "HumanEval.jsonl.gz"},
    ),
    "code",
    {
        "text": ("prompt",),
        "entry_point": ("entry_point",),
        "tests": ("test",),
        "solution": ("canonical_solution",),
    },
    _humaneval,
)
MBPP = DataSet(
    HubFiles(
        "mbpp",
        "google-research-datasets/mbpp",
        "4bb6404fdc6cacfda99d4ac4205087b89d32030c",
        {"train": ("full/train-*.parquet",)},
    ),
    "code",
    {"text": ("text", "prompt"), "solution": ("code",), "tests": ("test_list",)},
    _mbpp,
    optional={"setup": ("test_setup_code", "test_imports")},
)

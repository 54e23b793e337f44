"""Programs as answers: read out of a text, never run.

A program is a function with all that it needs: what the question's prompt has before it (imports, helpers) comes first.
Its canonical form is that of `ast.unparse` without comments and docstrings [ours].
"""

import ast
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

from mpdf_rllib.errors import DataError

MAX_TEXT = 200_000
"""Characters of a text; a longer one holds no program [ours]."""
MAX_PROGRAM = 20_000
"""Characters of a program; a longer one is none [ours]. Python's parser does not overflow on as many."""
MAX_TESTS = 1_000_000
"""Characters of a question's tests [ours]."""
MAX_EXAMPLES = 20
"""Visible calls that are read out of a prompt [ours]."""

_UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
_TRIES = 10
_MAX_CALL = 500
_FILE = "<program>"
_BLOCK = re.compile(r"(?ms)^[ \t]*+(?P<fence>`{3,}+|~{3,}+)[^\n]*+\n(?P<code>.*?)(?:^[ \t]*+(?P=fence)|\Z)")
_CODE_LINE = re.compile(r"^(?:def|async|class|from|import|@\w)\b", re.MULTILINE)

warnings.filterwarnings("ignore", module=re.escape(_FILE))  # a model's escape sequences are no user's concern


@dataclass(frozen=True)
class CodeTask:
    """What the checker of a code question needs.

    Attributes:
        prompt: Code that stands before a solution: imports, helpers, the signature with its docstring; "" for none.
        entry_point: Name of the function that is asked for.
        tests: Hidden: source that defines check(candidate), or that asserts on the entry point by its name; an assert
            has to be among what runs.
        examples: Visible: calls of the entry point with literals, as Python expressions.
        unsafe: Whether programs run without a sandbox.

    Raises:
        DataError: One of them is not what it should be.
    """

    prompt: str
    entry_point: str
    tests: str
    examples: tuple[str, ...]
    unsafe: bool = False

    def __post_init__(self) -> None:
        if not self.entry_point.isidentifier():
            raise DataError(f"the entry point {self.entry_point!r:.100} is no name of a function")
        if _prompt_body(self.prompt) is None:
            raise DataError(f"the prompt of {self.entry_point} is not Python up to the body of a function; correct it")
        if len(self.tests) > MAX_TESTS:
            raise DataError(f"the tests of {self.entry_point} have over {MAX_TESTS:,} characters; leave some out")
        try:
            tests = ast.parse(self.tests, _FILE)
        except _UNPARSABLE as error:
            raise DataError(f"the tests of {self.entry_point} are not Python ({error}); correct them") from error
        if not _asserts(tests):
            raise DataError(
                f"the tests of {self.entry_point} assert nothing, so that all programs would pass: give assertions, at "
                "the top or in a function check(candidate)"
            )
        for example in self.examples:
            if example_call(example, self.entry_point) is None:
                raise DataError(
                    f"the example {example!r:.100} is no call of {self.entry_point} with literals; correct it"
                )

    @property
    def helpers(self) -> str:
        """What the prompt has before the function, as source."""
        return ast.unparse(ast.Module(_helpers(self), []))


def _asserts(tests: ast.Module) -> bool:
    """Whether an assert is among what runs: statements, `check`, and the functions and classes that these name."""
    defined = {node.name: node for node in tests.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    running = [node for node in tests.body if node not in defined.values()]
    if "check" in defined:
        running.append(defined.pop("check"))
    while running:
        for node in ast.walk(running.pop()):
            if isinstance(node, ast.Assert):
                return True
            if isinstance(node, ast.Name) and node.id in defined:
                running.append(defined.pop(node.id))
    return False


def read_program(text: str, task: CodeTask) -> tuple[str, tuple[int, int]] | None:
    """Reads the program out of a model's text.

    It is the text itself, the last fenced block that defines the entry point, or code between prose; or else a block or
    text that goes on where the prompt ends, up to the end of the function.

    Returns:
        A module in canonical form that defines the entry point, and which characters of the text it is from. None where
        there is none that Python can parse, or only the prompt's function without a body.
    """
    if len(text) > MAX_TEXT:
        return None
    blocks = [block.span("code") for block in _BLOCK.finditer(text)][::-1]
    for span in [(0, len(text)), *blocks, *_between_prose(text)]:
        if program := _program(_parse(textwrap.dedent(text[slice(*span)])), task):
            return program, span
    for start, end in [*blocks, (0, len(text))]:
        if found := _continued(text[start:end], task):
            program, length = found
            return program, (start, start + length)
    return None


def visible_examples(prompt: str, entry_point: str) -> tuple[str, ...]:
    """Calls of the entry point, with literals as arguments, that its docstring shows; `MAX_EXAMPLES` at most.

    They are whatever reads as such a call, or else the values that stand behind the names of all arguments ("n = 5",
    for an only one also "Input: 5").
    """
    function = _function(_prompt_body(prompt), entry_point)
    docstring = (function and ast.get_docstring(function, clean=False)) or ""
    examples: dict[str, None] = {}
    for name in re.finditer(rf"(?<![\w.]){re.escape(entry_point)}\(", docstring):
        text = docstring[name.start() : name.start() + _MAX_CALL]
        calls = (example_call(text[: end.end()], entry_point) for end in re.finditer(r"\)", text))
        if call := next(filter(None, calls), None):
            examples[ast.unparse(call)] = None
    if not examples and function:
        names = [argument.arg for argument in function.args.args]
        named = [list(_values(docstring, f"Input|{name}" if len(names) == 1 else name)) for name in names]
        if len({len(values) for values in named}) == 1:
            examples = {f"{entry_point}({', '.join(values)})": None for values in zip(*named, strict=True)}
    return tuple(examples)[:MAX_EXAMPLES]


def _values(text: str, name: str) -> Iterator[str]:
    """The literals that stand behind a name and = or :."""
    for start in re.finditer(rf"\b(?:{name})[ \t]*[=:]\s*", text):
        piece = text[start.end() : start.end() + _MAX_CALL]
        for end in re.finditer(r"(?<=[\w\]})'\"])(?=[\s,;]|$)", piece):
            try:
                yield repr(ast.literal_eval(piece[: end.start()]))
                break
            except _UNPARSABLE:
                continue


def example_call(example: str, entry_point: str) -> ast.Call | None:
    """The example as a call of the entry point whose arguments are all literals, or None."""
    try:
        call = ast.parse(example, _FILE, "eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == entry_point):
            return None
        for argument in (*call.args, *(keyword.value for keyword in call.keywords if keyword.arg)):
            ast.literal_eval(argument)
    except _UNPARSABLE:
        return None
    return call if all(keyword.arg for keyword in call.keywords) else None


def _parse(source: str) -> ast.Module | None:
    if len(source) > MAX_PROGRAM:
        return None
    try:
        return ast.parse(source, _FILE)
    except _UNPARSABLE:
        return None


def _prompt_body(prompt: str) -> list[ast.stmt] | None:
    tree = _parse(prompt) or _parse(f"{_whole_lines(prompt)}{_indentation(prompt)}pass")
    return tree.body if tree else None


def _whole_lines(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _indentation(prompt: str) -> str:
    """That of the function which the prompt begins."""
    last = prompt.rstrip().rpartition("\n")[2]
    return last[: len(last) - len(last.lstrip())] or "    "


def _helpers(task: CodeTask) -> list[ast.stmt]:
    return [node for node in _prompt_body(task.prompt) or [] if not _is_function(node, task.entry_point)]


def _is_function(node: ast.stmt, name: str) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and node.name == name


def _function(statements: list[ast.stmt] | None, name: str) -> ast.FunctionDef | None:
    return next((node for node in reversed(statements or []) if _is_function(node, name)), None)


def _program(tree: ast.Module | None, task: CodeTask) -> str | None:
    """The canonical form of what defines the entry point, with the prompt's helpers first."""
    if tree is None:
        return None
    try:
        helpers = [ast.unparse(_bare(node)) for node in _helpers(task)]
        own = [node for node in map(_bare, tree.body) if not _is_text(node)]
        defined = [node for node in own if _is_function(node, task.entry_point) or _assigns(node, task.entry_point)]
        if not defined or all(isinstance(node, ast.FunctionDef) and _is_empty(node) for node in defined):
            return None
        lines = [line for line in map(ast.unparse, own) if line not in helpers]
        lines.sort(key=lambda line: not line.startswith("from __future__ "))
        future = sum(line.startswith("from __future__ ") for line in lines)
        program = ast.unparse(ast.parse("\n".join([*lines[:future], *helpers, *lines[future:]]), _FILE))
    except _UNPARSABLE:
        return None
    return program if len(program) <= MAX_PROGRAM else None


def _bare(node: ast.stmt) -> ast.stmt:
    """The statement, here and in all that it holds, without docstrings."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner.body = [statement for statement in inner.body if not _is_text(statement)] or [ast.Pass()]
    return node


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_empty(function: ast.FunctionDef) -> bool:
    """Whether it has no body yet, but `pass` or `...`."""
    return all(isinstance(node, ast.Pass) or ast.unparse(node) == "..." for node in function.body)


def _assigns(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets)


def _between_prose(text: str) -> Iterator[tuple[int, int]]:
    """Where code may be: from a line that looks like it to the end, or to what Python cannot parse."""
    for start in itertools.islice((line.start() for line in _CODE_LINE.finditer(text)), _TRIES):
        lines = text[start : start + MAX_PROGRAM].split("\n")
        for _ in range(_TRIES):
            try:
                ast.parse("\n".join(lines), _FILE)
            except SyntaxError as error:
                wrong = min(error.lineno or 1, len(lines)) - 1
                # all of the statement that the line is in
                while wrong and not lines[wrong][:1].strip():
                    wrong -= 1
                lines = lines[:wrong]
            except _UNPARSABLE:
                break
            else:
                yield start, start + len("\n".join(lines))
                break


def _continued(text: str, task: CodeTask) -> tuple[str, int] | None:
    """The program that a function's body makes of the prompt, and how much of the text that is; it has to return."""
    body = re.match(r"\s*[^\n]*(?:\n(?:[ \t][^\n]*)?)*", text)
    if not task.prompt or not body:
        return None
    first = text.lstrip("\r\n")
    indented = body[0] if first[:1].isspace() else f"{_indentation(task.prompt)}{body[0].lstrip()}"
    tree = _parse(_whole_lines(task.prompt) + indented)
    function = _function(tree.body if tree else None, task.entry_point)
    inner = ast.walk(function) if function else ()
    if not any(isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) for node in inner):
        return None
    program = _program(tree, task)
    return (program, len(body[0].rstrip())) if program else None


def signature(task: CodeTask) -> list[ast.expr | None]:
    """The annotations of the prompt's function, one per argument."""
    function = _function(_prompt_body(task.prompt), task.entry_point)
    return [argument.annotation for argument in function.args.args] if function else []

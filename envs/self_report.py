r"""The reasoning profile z_prof as the model itself reports it, in one generation with its answer.

The quantities are the paper's: steps, operators, type of reasoning, self-assessed confidence, consistency within the
trace. That the report is one flat JSON object, its keys, and the lists to choose from are [ours].
"""

import json
import re
import string
from dataclasses import dataclass
from importlib import resources
from typing import Any

from mpdf_rllib.envs.feature import Feature

OPERATORS = ("arithmetic", "algebraic", "counting", "comparison", "logical", "recall")
"""The first two are the paper's examples, the others [ours]: what the paper's benchmarks need beside them, from
counting problems to questions of knowledge. Few, since each takes an entry of z."""

REASONING_TYPES = ("deductive", "inductive", "abductive", "analogical")
"""[ours] the textbook's four."""

MAX_STEPS = 16
"""[ours] as in the measured profile."""
SCALE = 10
"""[ours] confidence and consistency are whole numbers from 0 to this: a token or two, which a schema can bound."""

REPORT_TOKENS = 128
"""[ours] what a report takes beside its reasoning and, of kind "code", its program: to be allowed on top of these."""

_CHARACTERS_PER_TOKEN = 2
"""[ours] about, of a text with many numbers; of a program more."""
_MAX_CHARACTERS = {"number": 24, "expression": 200, "reasoning": 1000}
_LETTERS = string.ascii_uppercase

REPORT_FEATURES = (
    Feature("reported", 0, 1, "z_prof", "[ours] z_prof reported: the report could be read; all below are 0 without"),
    Feature("reported_steps", 0, 1, "z_prof", f"[paper] z_prof: number of steps; [ours] / {MAX_STEPS}"),
    *(
        Feature(f"reported_{name}", 0, 1, "z_prof", "[paper] z_prof: operators used; [ours] 0 or 1 each")
        for name in OPERATORS
    ),
    *(
        Feature(f"reported_{name}", 0, 1, "z_prof", "[paper] z_prof: type of reasoning; [ours] one-hot")
        for name in REASONING_TYPES
    ),
    Feature("reported_confidence", 0, 1, "z_prof", f"[paper] z_prof: self-assessed confidence; [ours] of {SCALE}"),
    Feature("reported_consistency", 0, 1, "z_prof", f"[paper] z_prof: consistency within the trace; [ours] of {SCALE}"),
)


@dataclass(frozen=True)
class SelfReport:
    """A report as it was read.

    Attributes:
        reasoning: What leads to the answer, JSON's escapes undone; "" where it is missing.
        answer: The answer, JSON's escapes undone.
        answer_span: First and last-plus-one character of the answer in the text, as it is written there.
        steps: Number of steps, 1 to `MAX_STEPS`.
        operators: Those of `OPERATORS` that were used.
        reasoning_type: One of `REASONING_TYPES`, or "" for any other.
        confidence: Self-assessed probability that the answer is right, in [0, 1].
        consistency: How well the steps agree with each other and with the answer, in [0, 1].
    """

    reasoning: str
    answer: str
    answer_span: tuple[int, int]
    steps: int
    operators: frozenset[str]
    reasoning_type: str
    confidence: float
    consistency: float


def report_schema(kind: str, choices: int = 0, *, max_tokens: int) -> str:
    """The JSON schema of a report, in whose order the model reasons before it answers, and answers before it judges.

    Everything in it is bounded, so that a generation ends: mostly within `max_tokens` + `REPORT_TOKENS` tokens.

    Args:
        kind: Of the question.
        choices: For "choice", how many there are, 1 to 26.
        max_tokens: The bound on the reasoning, at least 1; on reasoning and program together of kind "code".

    Raises:
        ValueError: There is no such kind, or it has no such number of choices.
    """
    characters = _CHARACTERS_PER_TOKEN * max_tokens
    answer: dict[str, Any] = {"type": "string"}
    match kind:
        case "number" | "expression" | "reasoning":
            answer["maxLength"] = _MAX_CHARACTERS[kind]
        case "choice" if 1 <= choices <= len(_LETTERS):
            answer["enum"] = list(_LETTERS[:choices])
        case "code":
            answer["maxLength"] = characters
            characters //= 2
        case _:
            raise ValueError(f"no report on a question of kind {kind!r} with {choices} choices")
    share = {"type": "integer", "minimum": 0, "maximum": SCALE}
    properties = {
        "reasoning": {"type": "string", "maxLength": characters},
        "steps": {"type": "integer", "minimum": 1, "maximum": MAX_STEPS},
        "operators": {
            "type": "array",
            "items": {"type": "string", "enum": list(OPERATORS)},
            "maxItems": len(OPERATORS),  # no `uniqueItems`, which vLLM's grammars do not know
        },
        "reasoning_type": {"type": "string", "enum": list(REASONING_TYPES)},
        "answer": answer,
        "confidence": share,
        "consistency": share,
    }
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    )


def report_instruction() -> str:
    """The words that ask for a report, to be added to the instruction of a first answer or a refinement."""
    return (resources.files("mpdf_rllib.prompts") / "self_report.txt").read_text(encoding="utf-8").strip()


def is_cut_off(text: str) -> bool:
    """Whether a text without a report began as one: what stands in it is not to be taken for an answer."""
    return _BEGINNING.match(text) is not None


_STRING = r'"(?:[^"\\]|\\.)*+"'
_SCALAR = rf"(?:{_STRING}|-?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?|true|false|null)"
_LIST = rf"\[\s*+(?:{_SCALAR}\s*+(?:,\s*+{_SCALAR}\s*+)*+)?\]"
_BEGINNING = re.compile(r"\s*(?:```\w*\s*)?\{")
_START = re.compile(r'\{(?=\s*+")')
_FIELD = re.compile(
    rf"\s*+(?P<key>{_STRING})\s*+:\s*+(?P<value>{_SCALAR}|{_LIST})\s*+(?P<end>,?\s*+}}|,)", re.DOTALL | re.ASCII
)
# A backslash that begins no escape of JSON's, or one that only LaTeX means: \frac, not form feed and "rac". \n is left.
_LATEX_T = r"imes|ext[a-z]*\{|frac|heta|riangle|(?:an|au|o)(?![a-z])"
_UNDOUBLED = re.compile(rf'(\\(?:["\\/n]|[bfr](?![A-Za-z])|t(?!{_LATEX_T})|u[0-9a-fA-F]{{4}}))|\\')


def read_report(text: str) -> SelfReport | None:
    r"""Reads the last complete report in a text.

    A server without structured output writes prose around it, line ends into its strings, or \frac for \\frac.

    Args:
        text: Any text.

    Returns:
        The report, its numbers cut to their ranges and unknown operators left out; None where the text holds none, or
        only one that was cut off or lacks a quantity.
    """
    for start in reversed([found.end() for found in _START.finditer(text)]):
        if (fields := _flat_object(text, start)) and (report := _report(fields)):
            return report
    return None


def _flat_object(text: str, at: int) -> dict[str, re.Match[str]] | None:
    """The fields by key, from behind the opening brace on; None where they are not closed, or nested."""
    fields = {}
    while field := _FIELD.match(text, at):
        fields[_loads(field["key"])] = field
        if field["end"].endswith("}"):
            return fields
        at = field.end()
    return None


def _report(fields: dict[str, re.Match[str]]) -> SelfReport | None:
    try:
        steps, confidence, consistency = (
            _number(fields[key]["value"]) for key in ("steps", "confidence", "consistency")
        )
        operators, kind = (_loads(fields[key]["value"]) for key in ("operators", "reasoning_type"))
        answer, span = _answer(fields["answer"])
    except (KeyError, ValueError):
        return None
    named = {str(name).strip().lower() for name in (operators if isinstance(operators, list) else [operators])}
    kind = str(kind).strip().lower()
    reasoning = fields.get("reasoning")
    return SelfReport(
        reasoning=str(_loads(reasoning["value"])) if reasoning else "",
        answer=answer,
        answer_span=span,
        steps=int(min(max(steps, 1), MAX_STEPS)),
        operators=frozenset(named & {*OPERATORS}),
        reasoning_type=kind if kind in REASONING_TYPES else "",
        confidence=min(max(confidence / SCALE, 0.0), 1.0),
        consistency=min(max(consistency / SCALE, 0.0), 1.0),
    )


def _number(literal: str) -> float:
    """A number, in quotation marks or not."""
    number = float(literal.strip('"'))
    if number != number:
        raise ValueError("not a number")
    return number


def _answer(field: re.Match[str]) -> tuple[str, tuple[int, int]]:
    literal, (start, end) = field["value"], field.span("value")
    if not literal.startswith('"'):
        float(literal)  # what is neither a text nor a number is no answer
        return literal, (start, end)
    return _loads(literal).encode("utf-16", "surrogatepass").decode("utf-16", "replace"), (start + 1, end - 1)


def _loads(literal: str) -> Any:
    """The value of a literal of JSON's, numbers as floats: Python bounds the digits of integers."""
    return json.loads(_UNDOUBLED.sub(lambda found: found[1] or r"\\", literal), strict=False, parse_int=float)


def report_features(report: SelfReport | None) -> dict[str, float]:
    """The values of `REPORT_FEATURES` by name, each within its range; without a report `reported` alone."""
    if report is None:
        return {"reported": 0.0}
    return {
        "reported": 1.0,
        "reported_steps": report.steps / MAX_STEPS,
        **{f"reported_{name}": float(name in report.operators) for name in OPERATORS},
        **{f"reported_{name}": float(name == report.reasoning_type) for name in REASONING_TYPES},
        "reported_confidence": report.confidence,
        "reported_consistency": report.consistency,
    }

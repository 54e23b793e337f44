"""The reasoning profile that a model reports: its schema, its reading, its features."""

import json
import math
import time
from typing import get_args

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_rllib.engine import GenerationRequest, Position, SamplingParameters
from mpdf_rllib.engine.scripted import answer_like_a_small_model
from mpdf_rllib.envs.features import as_vector
from mpdf_rllib.envs.self_report import (
    MAX_STEPS,
    OPERATORS,
    REASONING_TYPES,
    REPORT_FEATURES,
    SelfReport,
    is_cut_off,
    read_report,
    report_features,
    report_instruction,
    report_schema,
)
from mpdf_rllib.questions import Kind

SCHEMAS = {kind: report_schema(kind, 4 if kind == "choice" else 0, max_tokens=64) for kind in get_args(Kind)}
KEYS = ["reasoning", "steps", "operators", "reasoning_type", "answer", "confidence", "consistency"]

REPORT = {
    "reasoning": "12 * 4 = 48",
    "steps": 2,
    "operators": ["arithmetic", "recall"],
    "reasoning_type": "deductive",
    "answer": "48",
    "confidence": 8,
    "consistency": 10,
}


def texts(size: int) -> st.SearchStrategy[str]:
    return st.text(max_size=size) | st.text('"\\{}[],: \n', max_size=size)


@st.composite
def reports(draw, kind: str = "number") -> dict:
    answers = {
        "number": texts(24),
        "expression": texts(200),
        "choice": st.sampled_from("ABCD"),
        "code": texts(128),
        "reasoning": texts(1000),
    }
    return {
        "reasoning": draw(texts(64)),
        "steps": draw(st.integers(1, MAX_STEPS)),
        "operators": draw(st.lists(st.sampled_from(OPERATORS), max_size=len(OPERATORS))),
        "reasoning_type": draw(st.sampled_from(REASONING_TYPES)),
        "answer": draw(answers[kind]),
        "confidence": draw(st.integers(0, 10)),
        "consistency": draw(st.integers(0, 10)),
    }


def written(report: dict, **changes: object) -> str:
    return json.dumps(report | changes)


def read(text: str) -> SelfReport:
    report = read_report(text)
    assert report is not None
    return report


@pytest.mark.parametrize("kind", SCHEMAS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_report_that_fits_the_schema_is_read_whatever_it_says(kind, data):
    report = data.draw(reports(kind))
    jsonschema.validate(report, json.loads(SCHEMAS[kind]))
    ascii, compact = data.draw(st.booleans()), data.draw(st.booleans())
    found = read(json.dumps(report, ensure_ascii=ascii, separators=(",", ":") if compact else None))
    assert found.steps == report["steps"]
    assert found.operators == {*report["operators"]}
    assert found.reasoning_type == report["reasoning_type"]
    assert (found.confidence, found.consistency) == (report["confidence"] / 10, report["consistency"] / 10)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_is_one_and_has_the_model_reason_before_it_answers(kind):
    schema = json.loads(SCHEMAS[kind])
    jsonschema.Draft202012Validator.check_schema(schema)
    assert list(schema["properties"]) == schema["required"] == KEYS


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_is_one_for_the_grammar_that_vllm_makes_of_it(kind):
    llguidance = pytest.importorskip("llguidance")
    grammar = llguidance.LLMatcher.grammar_from_json_schema(SCHEMAS[kind])
    assert llguidance.LLMatcher.validate_grammar(grammar) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"reasoning": "x" * 129},
        {"steps": 0},
        {"steps": 17},
        {"operators": ["division"]},
        {"operators": ["recall"] * 7},
        {"reasoning_type": "lateral"},
        {"answer": 48},
        {"answer": "9" * 25},
        {"confidence": 11},
        {"consistency": 0.5},
        {"more": "and more"},
    ],
)
def test_everything_in_a_report_is_bounded(wrong):
    schema = json.loads(SCHEMAS["number"])
    jsonschema.validate(REPORT, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(REPORT | wrong, schema)


def test_a_choice_is_one_of_those_there_are():
    schema = json.loads(report_schema("choice", 3, max_tokens=64))
    jsonschema.validate(REPORT | {"answer": "C"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(REPORT | {"answer": "D"}, schema)


@pytest.mark.parametrize(("kind", "choices"), [("choice", 0), ("choice", 27), ("essay", 0)])
def test_there_is_no_report_on_what_cannot_be_answered_so(kind, choices):
    with pytest.raises(ValueError, match=f"{kind}.*{choices}"):
        report_schema(kind, choices, max_tokens=64)


def test_the_instruction_names_all_that_there_is_to_choose_from():
    said = report_instruction()
    places = [said.index(f'"{key}"') for key in KEYS]
    assert places == sorted(places)
    assert all(word in said for word in (*OPERATORS, *REASONING_TYPES, f"1 to {MAX_STEPS}", "0 to 10"))


@pytest.mark.parametrize(
    ("literal", "answer"),
    [
        ('"48"', "48"),
        ("48", "48"),
        ("-1.5e3", "-1.5e3"),
        (r'"say \"hi\" \\ \/ \u00e9"', 'say "hi" \\ / é'),
        ('"é \N{SNOWMAN} 🦀"', "é \N{SNOWMAN} 🦀"),
        (r'"\ud83e\udd80"', "🦀"),
        (r'"\ud83e"', "\N{REPLACEMENT CHARACTER}"),
        (r'"def f(x):\n\treturn {\"a\": [x]}"', 'def f(x):\n\treturn {"a": [x]}'),
        ('"def f(x):\n\treturn x"', "def f(x):\n\treturn x"),
        (r'"\\frac{1}{2}"', r"\frac{1}{2}"),
        (
            r'"\frac{1}{2} \times \sqrt{2} \\ \beta \right) \text{m}"',
            r"\frac{1}{2} \times \sqrt{2} \ \beta \right) \text{m}",
        ),
        (r'"def f(x):\n\tany(x)\n\textend(x)"', "def f(x):\n\tany(x)\n\textend(x)"),
        (r'"\tan x \to \tau \textbf{(B)}"', r"\tan x \to \tau \textbf{(B)}"),
        (r'"\u12"', r"\u12"),
        ('""', ""),
    ],
)
def test_the_answer_is_told_as_it_is_meant_and_found_where_it_is_written(literal, answer):
    text = written(REPORT, reasoning="it is 48, or é").replace('"48"', literal)
    report = read(text)
    assert report.answer == answer
    assert text[slice(*report.answer_span)] == (literal[1:-1] if literal.startswith('"') else literal)
    assert text[: report.answer_span[0]].endswith('"answer": ' + '"' * literal.startswith('"'))


@settings(deadline=None)
@given(reports())
def test_a_report_that_was_cut_off_is_none(report):
    text = written(report)
    for end in range(0, len(text), 7):
        assert read_report(text[:end]) is None


def test_prose_around_a_report_and_other_objects_are_passed_over():
    report = json.dumps(REPORT, indent=2)
    assert (
        read(f'Here: {{"a": 1}}\n```json\n{report}\n```\nI hope {{it}} helps {{"x": [1]}} {{"y": {{}}}}').answer == "48"
    )


def test_a_comma_at_the_end_is_none_of_its_fields():
    assert read(json.dumps(REPORT, indent=2).removesuffix("\n}") + ",\n}").consistency == 1


def test_what_began_as_a_report_is_no_plain_answer():
    begun = json.dumps(REPORT)[:30]
    assert is_cut_off(begun) and is_cut_off(f"```json\n{begun}")
    assert not is_cut_off("12 * 4 = 48") and not is_cut_off("```python\nx = {}")


def test_of_several_reports_the_last_complete_one_counts():
    first, last = written(REPORT, answer="1"), written(REPORT, answer="2")
    assert read(f"{first} no, {last}").answer == "2"
    assert read(f"{first} no, {last[:-1]}").answer == "1"


@pytest.mark.parametrize(
    ("changes", "attribute", "value"),
    [
        ({"steps": 0}, "steps", 1),
        ({"steps": 10**400}, "steps", 16),
        ({"steps": 2.5}, "steps", 2),
        ({"confidence": -3}, "confidence", 0),
        ({"confidence": 95}, "confidence", 1),
        ({"confidence": "9"}, "confidence", 0.9),
        ({"operators": ["Arithmetic ", "division", None, 3]}, "operators", {"arithmetic"}),
        ({"operators": "recall"}, "operators", {"recall"}),
        ({"operators": []}, "operators", frozenset()),
        ({"reasoning_type": "Deductive"}, "reasoning_type", "deductive"),
        ({"reasoning_type": "lateral"}, "reasoning_type", ""),
        ({"note": "checked"}, "answer", "48"),
    ],
)
def test_what_a_server_without_schemas_writes_is_read_as_far_as_it_can_be(changes, attribute, value):
    assert getattr(read(written(REPORT, **changes)), attribute) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        written(REPORT, steps="nan"),
        " 12 * 4 = 48",
        "{}",
        *(json.dumps({key: value for key, value in REPORT.items() if key != gone}) for gone in KEYS[1:]),
        written(REPORT, steps="two"),
        written(REPORT, confidence=True),
        written(REPORT, consistency=math.nan),
        written(REPORT, answer=None),
        written(REPORT, answer=["48"]),
        written(REPORT, reasoning={"step 1": "12 * 4"}),
    ],
)
def test_what_is_no_report_is_none(text):
    assert read_report(text) is None


@pytest.mark.parametrize(
    "piece",
    [
        "x",
        "{",
        '{"',
        '{"a":',
        '{"a":"{", ',
        '{"a":1,',
        '{":":",":",',
        '{"a":["{","{"],',
        '{"\\',
        "\\",
        "[",
        '"',
        " ",
        "9",
    ],
)
def test_a_hostile_text_of_a_million_characters_is_read_in_time(piece):
    started = time.process_time()
    noise = piece * (10**6 // len(piece))
    assert read_report(noise) is None
    assert read_report('{"answer": "' + noise) is None
    assert read(noise + " " + written(REPORT)).answer == "48"
    assert time.process_time() - started < 60  # with the square of the length it would be hours


anything = st.builds(
    SelfReport,
    answer=st.text(),
    answer_span=st.just((0, 0)),
    steps=st.integers(1, MAX_STEPS),
    operators=st.frozensets(st.sampled_from(OPERATORS)),
    reasoning_type=st.sampled_from((*REASONING_TYPES, "")),
    confidence=st.floats(0, 1),
    consistency=st.floats(0, 1),
)


@settings(deadline=None)
@given(st.none() | anything)
def test_features_are_finite_and_within_the_table(report):
    z = as_vector(REPORT_FEATURES, report_features(report))
    assert (z.shape, z.dtype) == ((len(REPORT_FEATURES),), np.float32)
    assert all(feature.low <= value <= feature.high for feature, value in zip(REPORT_FEATURES, z, strict=True))
    assert z[0] == (report is not None)


def test_a_report_in_numbers():
    z = report_features(read(written(REPORT)))
    assert list(z) == [feature.name for feature in REPORT_FEATURES]
    assert {name: value for name, value in z.items() if value} == pytest.approx(
        {
            "reported": 1,
            "reported_steps": 2 / 16,
            "reported_arithmetic": 1,
            "reported_recall": 1,
            "reported_deductive": 1,
            "reported_confidence": 0.8,
            "reported_consistency": 1,
        }
    )
    assert not any(report_features(None).values())


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_scripted_model_fits_its_reports_to_the_schema(kind):
    answers = set()
    for agent in range(20):
        sampling = SamplingParameters(json_schema=SCHEMAS[kind])
        asked = GenerationRequest("Q: 12 bags hold 4 pens each. How many?\nA:", sampling, Position("q", agent))
        text = answer_like_a_small_model(asked).text
        jsonschema.validate(json.loads(text), json.loads(SCHEMAS[kind]))
        answers.add(read(text).answer)
    assert len(answers) > 1 and (kind == "choice" or "48" in answers)

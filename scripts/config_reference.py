"""The configuration's keys as Markdown tables, made of the schema: python scripts/config_reference.py prints them."""

import json
from collections.abc import Iterator
from typing import Any

from mpdf_rllib.config import ExperimentConfig

Schema = dict[str, Any]


def config_reference() -> str:
    """A heading and a table for each section, in the schema's order."""
    schema = ExperimentConfig.model_json_schema()
    return "\n\n".join(_table(path, section, schema["$defs"]) for path, section in _sections(schema))


def _sections(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """All sections with their dotted keys, each where it is met first; what users number or name is in capitals."""
    waiting = [("", schema)]
    seen: set[str] = set()
    while waiting:
        path, section = waiting.pop(0)
        yield path, section
        below = []
        for key, value in section["properties"].items():
            for suffix, name in _referred(value):
                if name not in seen:
                    seen.add(name)
                    below.append((f"{path}.{key}{suffix}".removeprefix("."), schema["$defs"][name]))
        waiting[:0] = below


def _referred(value: Schema) -> Iterator[tuple[str, str]]:
    """The sections that a value may be or hold, and what stands between its key and theirs."""
    if "$ref" in value:
        yield "", value["$ref"].rpartition("/")[2]
    for option in _options(value):
        yield from _referred(option)
    listed = [value["items"]] if "items" in value else []
    for between, held in ((".N", listed), (".NAME", _held(value))):
        for each in held:
            yield from ((between + suffix, name) for suffix, name in _referred(each))


def _options(value: Schema) -> list[Schema]:
    return value.get("anyOf", []) + value.get("oneOf", [])


def _held(value: Schema) -> list[Schema]:
    """What an object that is no section has under its keys."""
    others = value.get("additionalProperties")
    return [*value.get("patternProperties", {}).values(), *([others] if isinstance(others, dict) else [])]


def _table(path: str, section: Schema, sections: Schema) -> str:
    kind = section["properties"].get("kind", {}).get("const")
    heading = f"`{path}`" + (f" of kind `{kind}`" if kind else "") if path else "The experiment"
    lines = [f"## {heading}", "", section["description"], ""]
    lines += ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
    for key, value in section["properties"].items():
        cells = (f"`{key}`", _values(value), _default(key, value, section), _meaning(value, sections))
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _meaning(value: Schema, sections: Schema) -> str:
    if "description" in value:
        return value["description"]
    return " Or: ".join(sections[name]["description"] for _, name in _referred(value))


def _values(value: Schema) -> str:
    """What a key may be set to."""
    if "$ref" in value:
        return "section"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if options := _options(value):
        return " or ".join(dict.fromkeys(map(_values, options)))
    match value.get("type"):
        case "array":
            return f"list of {_values(value['items'])}" + _bounds(value)
        case "object":
            keys = value.get("propertyNames", {})
            named = f" ({_values(keys)})" if "enum" in keys else ""
            return (" or ".join(map(_values, _held(value))) or "any value") + f" by key{named}" + _bounds(value)
        case "boolean":
            return "`true`, `false`"
        case "null":
            return "`null`"
        case "string":
            return "text" + _bounds(value)
        case name:
            return (name or "any value") + _bounds(value)


BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "{} or more",
    "maxItems": "{} at most",
    "minProperties": "{} or more",
    "pattern": "like `{}`",
}


def _bounds(value: Schema) -> str:
    return "".join(f", {words.format(value[key])}" for key, words in BOUNDS.items() if key in value)


def _default(key: str, value: Schema, section: Schema) -> str:
    if key in section.get("required", ()):
        return "required"
    is_section = isinstance(value["default"], dict) and not _held(value) and any(_referred(value))
    return "its defaults" if is_section else f"`{json.dumps(value['default'])}`"


if __name__ == "__main__":
    print(config_reference())

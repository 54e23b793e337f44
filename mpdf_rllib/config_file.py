"""Reads a config file, and says what is wrong with it in the file's own keys."""

import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mpdf_rllib import strict_yaml
from mpdf_rllib.config import AgentConfig, ExperimentConfig, TeamConfig
from mpdf_rllib.engine.config import KINDS
from mpdf_rllib.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Reads a config file and resolves its places.

    Args:
        path: A YAML file. Its key `extends`, a path from its folder, names a file whose values it has where it gives
            none of its own, section by section; null takes one of its values, or a whole section, out. Of an engine of
            another kind it has nothing.
        overrides: "a.b=c" settings that replace the file's, values in YAML.

    Raises:
        ConfigError: Names every wrong key at once, with its value and, for an unknown one, the nearest known.
    """
    values = read_values(Path(path))
    for override in overrides:
        apply_override(values, override)
    return config_of(values, f"config {path}")


def config_of(values: dict[str, Any], where: str) -> ExperimentConfig:
    """The config that a file's values come to, its places resolved.

    Args:
        values: By key, nested.
        where: What its errors begin with.

    Raises:
        ConfigError: Names every wrong key at once; see `load_config`.
    """
    try:
        return ExperimentConfig.model_validate(values).resolved()
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors()]
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in lines)) from error


def read_values(path: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's values over those of the files that it extends.

    Args:
        path: A YAML file.
        extended: Those that led to it.

    Raises:
        ConfigError: It cannot be read, is not YAML, holds no keys and values, or extends itself.
    """
    try:
        values = strict_yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        named = f", which {extended[-1]} extends" if extended else ""
        raise ConfigError(f"config {path}{named}: {error.strerror}; give an existing YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"config {path} holds {type(values).__name__}, not keys and values; see tuned_examples/math.yaml"
        )
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"config {path}: extends: {base!r}: give the path of a YAML file, from this one's folder")
    if (path.parent / base).resolve() in {file.resolve() for file in (*extended, path)}:
        raise ConfigError(f"config {path}: extends: {base}: it extends itself; take one of the two out")
    return _merged(read_values(path.parent / base, (*extended, path)), values)


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], values[key]) for key in base if _are_sections(key, base[key], values.get(key))}
    out = {key for key, value in values.items() if value is None and isinstance(base.get(key), dict)}
    return {key: value for key, value in (base | values | both).items() if key not in out}


def _are_sections(key: str, base: Any, value: Any) -> bool:
    """Whether both are, of the same keys; an engine of another kind has keys of its own."""
    if not (isinstance(base, dict) and isinstance(value, dict)):
        return False
    kind = base.get("kind", "vllm")
    return key != "engine" or value.get("kind", kind) == kind


def apply_override(values: dict[str, Any], override: str) -> None:
    """Applies "a.b=c", as `--set` takes it, to a file's values.

    Raises:
        ConfigError: It is not of that form, a part of the key is no section, or the value is not YAML.
    """
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override}: give it as key.of.config=value")
    try:
        value = strict_yaml.load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
    set_value(values, key, value, f"--set {override}")


def set_value(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Sets a dotted key of a file's values; sections that are not there are made.

    Raises:
        ConfigError: A part of the key is no section; begins with `where`.
    """
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: {section} is a value, not a section; give it whole: {section}=...")
    values[last] = value


def _explain(detail: Any) -> str:
    path = [part for part in detail["loc"] if part != "[key]"]
    kind = path.pop(1) if path[0] == "engine" and len(path) > 1 else "vllm"  # pydantic names the section by its kind
    if path[:2] == ["team", "agents"] and len(path) > 2:  # ... and a number or a list likewise
        path.pop(2)
    key = ".".join(map(str, path))
    if detail["type"] == "extra_forbidden":
        known = list(_section_at(path[:-1], kind).model_fields)
        nearest = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{key}: missing; it has no default"
    if detail["type"] == "union_tag_invalid":
        return f"engine.kind: {detail['ctx']['tag']!r}: known: {', '.join(KINDS)}"
    if detail["type"] == "union_tag_not_found":
        return f"engine: {detail['input']!r:.100}: give it a kind, one of {', '.join(KINDS)}"
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    if detail["type"] in ("dict_type", "model_type"):
        message = "give keys and values"
    elif detail["type"] == "value_error":  # one of ours
        message = detail["ctx"]["error"]
    if key == "engine.api_key_env":  # its value may be the key
        return f"{key}: it is not the name of an environment variable; put the key into one and give its name"
    if key == "engine.url" and "@" in str(detail["input"]):
        return f"{key}: {message}"
    return f"{key}: {detail['input']!r:.100}: {message}"


def _section_at(path: list[Any], engine: str) -> type[BaseModel]:
    section: type[BaseModel] = ExperimentConfig
    parts = iter(path)
    for part in parts:
        if part == "engine":
            section = KINDS[engine]
            continue
        if section is TeamConfig and part == "agents":
            return AgentConfig
        annotation = section.model_fields[part].annotation
        if typing.get_origin(annotation) is dict:
            next(parts, None)
        section = [kind for kind in (annotation, *typing.get_args(annotation)) if _is_section(kind)][-1]
    return section


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)

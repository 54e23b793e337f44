"""The part of the config that compares settings of the algorithm, and the settings that come of it."""

import difflib
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from mpdf_rllib.questions import Question
from mpdf_rllib.section import Section

if TYPE_CHECKING:
    from mpdf_rllib.config import AlgorithmSection

Draw = Literal["grid", "choice", "uniform", "loguniform"]


def _is_one(axis: dict[Draw, list[Any]]) -> dict[Draw, list[Any]]:
    if len(axis) != 1:
        raise ValueError("give one of grid, choice, uniform, loguniform")
    ((draw, values),) = axis.items()
    if draw in ("uniform", "loguniform"):
        try:
            low, high = map(float, values)  # YAML takes 5e-4 for a text
        except (TypeError, ValueError):
            low, high = 0.0, 0.0
        if not low < high:
            raise ValueError("give the lowest and the highest value, [low, high]")
        if draw == "loguniform" and low <= 0:
            raise ValueError("the lowest value of a logarithmic range is positive")
        return {draw: [low, high]}
    if not values:
        raise ValueError("give at least one value")
    return axis


Axis = Annotated[dict[Draw, list[Any]], AfterValidator(_is_one)]
"""How a key gets its values: all of a grid, or draws out of a choice or from a range."""


class SweepConfig(Section):
    """Which settings of the algorithm to compare, each trained for every seed."""

    space: Annotated[dict[str, Axis], Field(min_length=1)]
    """By key of the algorithm section, dotted where it is nested."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Draws of the keys that are not grids, each crossed with the whole grid."""
    validation: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the training questions to compare settings on; they are not trained on."""
    scheduler: Literal["asha"] | None = None
    """What ends trials early that are behind others on these questions; none by default."""

    @model_validator(mode="after")
    def _draws(self) -> "SweepConfig":
        if self.samples > 1 and all("grid" in axis for axis in self.space.values()):
            raise ValueError(f"samples is {self.samples}, but nothing is drawn; make a grid a choice, or leave it out")
        return self


def are_held_out(questions: Sequence[Question], share: float) -> list[bool]:
    """Whether each question is one to compare settings on; a hash of its id decides, so that all processes agree."""
    order = sorted(range(len(questions)), key=lambda q: hashlib.sha256(questions[q].id.encode()).digest())
    chosen = {*order[: max(1, round(share * len(questions)))]}
    return [q in chosen for q in range(len(questions))]


def settings_of(algorithm: "AlgorithmSection", sweep: SweepConfig | None) -> dict[str, "AlgorithmSection"]:
    """The settings to train, by name, each with one kind of credit: all kinds are crossed with all points of the sweep.

    Of equal settings one is left: what concerns one kind of credit multiplies its settings alone. The same sweep comes
    to the same settings, and to more with more samples.

    Args:
        algorithm: What is not swept.
        sweep: Without one, there is one setting for each kind of credit, called like it.

    Raises:
        ValidationError: Keys are unknown or values out of range, at their places in the sweep.
    """
    if sweep is None:
        return {kind: _setting(algorithm, {}, kind) for kind in algorithm.credits}
    _check_values(algorithm, sweep)
    settings: dict[str, AlgorithmSection] = {}
    for kind in algorithm.credits:
        found: list[AlgorithmSection] = []
        for point in _points(sweep):
            if (setting := _setting(algorithm, point, kind)) not in found:
                found.append(setting)
        settings |= {f"{kind}-{number}": setting for number, setting in enumerate(found)}
    return settings


def swept_values(setting: "AlgorithmSection", sweep: SweepConfig) -> dict[str, Any]:
    """A setting's values of the swept keys; None where a key concerns another kind of credit."""
    values = _flat(setting.model_dump())
    return {key: values.get(key) for key in sweep.space}


def _points(sweep: SweepConfig) -> Iterator[dict[str, Any]]:
    grid = {key: axis["grid"] for key, axis in sweep.space.items() if "grid" in axis}
    drawn = {key: _drawn(key, axis, sweep.samples) for key, axis in sweep.space.items() if "grid" not in axis}
    for sample in range(sweep.samples):
        draws = {key: values[sample] for key, values in drawn.items()}
        for values in itertools.product(*grid.values()):
            yield dict(zip(grid, values, strict=True)) | draws


def _drawn(key: str, axis: Axis, samples: int) -> list[Any]:
    """Draws of one key from a stream of its own; of numbers, to three digits."""
    rng = np.random.default_rng([*key.encode()])
    ((draw, values),) = axis.items()
    if draw == "choice":
        return [values[rng.integers(len(values))] for _ in range(samples)]
    low, high = np.log(values) if draw == "loguniform" else values
    numbers = rng.uniform(low, high, samples)
    numbers = np.exp(numbers) if draw == "loguniform" else numbers
    return [min(max(float(f"{number:.3g}"), values[0]), values[1]) for number in numbers]


def _setting(algorithm: "AlgorithmSection", point: Mapping[str, Any], kind: str) -> "AlgorithmSection":
    values = algorithm.model_dump()
    for key, value in point.items():
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = value
    values["credits"] = {kind: values["credits"][kind]}
    try:
        return type(algorithm).model_validate(values)
    except ValidationError as error:
        raise _refused(_problem(".".join(map(str, detail["loc"])), detail) for detail in error.errors()) from error


def _check_values(algorithm: "AlgorithmSection", sweep: SweepConfig) -> None:
    """Raises what is wrong with any key or value by itself, drawn or not."""
    known = _flat(algorithm.model_dump())
    problems: list[InitErrorDetails] = []
    for key, axis in sweep.space.items():
        if key not in known:
            unknown = {"type": "value_error", "input": axis, "ctx": {"error": ValueError(_unknown(key, list(known)))}}
            problems.append(_problem(key, unknown))
            continue
        kind = key.split(".")[1] if key.startswith("credits.") else next(iter(algorithm.credits))
        for value in itertools.chain(*axis.values()):
            try:
                _setting(algorithm, {key: value}, kind)
            except ValidationError as error:
                # What two keys must agree on, as dim and heads, is checked in whole settings.
                problems += [_problem(key, detail) for detail in error.errors() if detail["type"] != "value_error"]
    if problems:
        raise _refused(problems)


def _unknown(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key.removeprefix("algorithm."), known, n=1)
    hint = f" (did you mean {nearest[0]}?)" if nearest else ""
    return (
        f"it is no value of the algorithm section{hint}, and other keys change what has to be recorded or compared: "
        "give each of their values a config, or --set, with a name of its own"
    )


def _problem(key: str, detail: Mapping[str, Any]) -> InitErrorDetails:
    """What pydantic says is wrong, at a key of the sweep."""
    return InitErrorDetails(type=detail["type"], loc=("space", key), input=detail["input"], ctx=detail.get("ctx", {}))


def _refused(problems: Iterable[InitErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data(SweepConfig.__name__, list(problems))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and their values."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat

"""A study's file: the question, what is expected, the arms that are trained and played, and the claims about them."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

import mpdf_rllib
from mpdf_rllib import strict_yaml
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.config_file import apply_override, config_of, read_values, set_value
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.section import Section
from mpdf_rllib.studies.rules import BEST_SCHEDULE, NAMES, UNTIL_CONFIDENT

DEFAULT_MARGIN = 0.01
FOLDER = Path(mpdf_rllib.__file__).parent / "tuned_examples" / "experiments"
"""Where the packaged studies lie."""

Algorithm = Literal["SoftRankPO", "GRPO", "RolloutGRPO", "PPO"]
Answer = Literal["team.answer", "calibrated vote", "highest confidence"]
Measure = Literal["accuracy", "spread", "tokens", "generated_tokens", "persist", "refine", "concede", "log_ratio"]


class ArmConfig(Section):
    """One thing to compare."""

    system: str = "policy"
    """The trained policy; "warm start", what it was at the end of stage one; or a rule, as
    "plurality", or a published system, as "LLM-Debate"."""
    algorithm: Algorithm = "SoftRankPO"
    """What trains the policy."""
    answer: Answer = "team.answer"
    """What a policy's team answers at the end: as it is set, or a vote of what agents hold, weighted by calibrated
    probabilities of being correct, or the most probable of these solutions."""
    budget: Annotated[float, Field(gt=0)] | None = None
    """Of refining until a tuned threshold: generated tokens a training question that it may take; any by default."""
    set: dict[str, Any] = {}
    """By dotted key, what it has otherwise than the study's experiment."""
    test: dict[str, Any] = {}
    """By dotted key, what is otherwise where it is played and not where it is trained."""

    @model_validator(mode="after")
    def _is_known(self) -> "ArmConfig":
        known = ("policy", "warm start", *NAMES)
        if self.system not in known:
            raise ValueError(f"system: {self.system!r}: known: {', '.join(known)}")
        if self.is_rule and self.answer != "team.answer":
            raise ValueError(f"answer: {self.answer}: {self.system} is a rule, which has an answer of its own")
        if self.budget and self.system not in UNTIL_CONFIDENT:
            raise ValueError(f"budget: {self.system} has no threshold; known for: {', '.join(UNTIL_CONFIDENT)}")
        if learned := [key for key in self.test if key.split(".")[0] == "algorithm"]:
            raise ValueError(f"test: {', '.join(learned)}: it says how a policy learns; put it into set")
        return self

    @property
    def has_curve(self) -> bool:
        """Whether what was measured while it was trained is of what it is played on."""
        return self.system == "policy" and self.answer == "team.answer" and not self.test

    @property
    def is_rule(self) -> bool:
        """Whether nothing is trained for it."""
        return self.system in NAMES


class ClaimConfig(Section):
    """That an arm has more or less of something than another, or as much."""

    says: str
    """In words, without a full stop."""
    source: Literal["paper", "algebra", "ours"]
    """Who says so; algebra is what follows from the paper's formulas."""
    arm: str
    """The one."""
    expected: Literal["more", "less", "equal"]
    """Of the measure, than the other has."""
    than: str
    """The other."""
    measure: Measure = "accuracy"
    """Of the final policy on the test questions. `spread`: the standard deviation of the seeds' accuracies; `tokens`:
    of prompts and generated; `persist`,
    `refine` and `concede`: shares of actions; `log_ratio`: how far the policy went from the warm start, see
    `mpdf_rllib.studies.training`."""
    within: Annotated[float, Field(gt=0)] | None = None
    """What is equal: a difference whose interval is within it of 0. By default 0.01 of an accuracy; of nothing else."""

    @property
    def margin(self) -> float:
        """The same as a number."""
        return self.within or (DEFAULT_MARGIN if self.measure == "accuracy" else 0.0)

    @model_validator(mode="after")
    def _can_be_told(self) -> "ClaimConfig":
        if self.expected == "equal" and not self.margin:
            raise ValueError(f"{self.says!r}: within: missing; what is an equal {self.measure}?")
        if self.arm == self.than:
            raise ValueError(f"{self.says!r}: it compares {self.arm} with itself")
        return self


class HeadroomConfig(Section):
    """Between which arms the others lie."""

    floor: str
    ceiling: str


class StudyConfig(Section):
    """One study."""

    title: str
    paper: str
    """Where the paper has it."""
    question: str
    prediction: str
    """What the algebra says, and where it says nothing."""
    experiment: str
    """The config that all arms begin as, a path from the study's folder."""
    set: dict[str, Any] = {}
    """By dotted key, what all arms have otherwise."""
    arms: Annotated[dict[str, ArmConfig], Field(min_length=1)]
    """By name, in the order of the table."""
    reference: str
    """The arm that the table compares all others with."""
    curves: list[Literal["accuracy", "log_ratio"]] = []
    """What is shown iteration by iteration."""
    confidences: bool = False
    """Shows how well different confidences tell right solutions from wrong ones, of each set of solutions that policies
    are played on."""
    headroom: HeadroomConfig | None = None
    """Shows, by question set, what share of the way from the floor to the ceiling an arm comes, and what it lacks."""
    claims: Annotated[list[ClaimConfig], Field(min_length=1)]
    """The first is the study's question."""

    @model_validator(mode="after")
    def _names_its_arms(self) -> "StudyConfig":
        named = [self.reference, *(arm for claim in self.claims for arm in (claim.arm, claim.than))]
        if self.headroom:
            named += [self.headroom.floor, self.headroom.ceiling]
        for name in named:
            if name not in self.arms:
                raise ValueError(f"{name!r} is no arm; there are {', '.join(self.arms)}")
        for claim in self.claims:
            rules = [arm for arm in (claim.arm, claim.than) if self.arms[arm].is_rule]
            if rules and claim.measure not in ("accuracy", "tokens", "generated_tokens"):
                raise ValueError(f"{claim.says!r}: {claim.measure} is of policies, and {rules[0]} is a rule")
            if claim.measure == "log_ratio" and not all(self.arms[arm].has_curve for arm in (claim.arm, claim.than)):
                raise ValueError(f"{claim.says!r}: log_ratio is of policies that are played as they are trained")
        if self.curves and not any(arm.has_curve for arm in self.arms.values()):
            raise ValueError("curves: no arm is a policy that is played as it is trained")
        return self


@dataclass(frozen=True)
class Arm:
    """An arm with its configs.

    Attributes:
        name: In the tables.
        config: As in the study's file.
        trained: The experiment that trains it, with one kind of credit.
        played: What it is played on; the same but for the arm's `test`.
    """

    name: str
    config: ArmConfig
    trained: ExperimentConfig
    played: ExperimentConfig


@dataclass(frozen=True)
class Study:
    """A study with the configs of its arms.

    Attributes:
        name: Its file's.
        config: As in the file.
        experiment: What all arms begin as.
        overrides: What was set for all arms, as "a.b=c".
        arms: In the order of the table.
    """

    name: str
    config: StudyConfig
    overrides: tuple[str, ...]
    experiment: ExperimentConfig
    arms: tuple[Arm, ...]


def packaged_studies() -> list[Path]:
    """The files of all packaged studies, in the order of their names."""
    return sorted(FOLDER.glob("*.yaml"))


def load_study(name: str, overrides: Sequence[str] = ()) -> Study:
    """Reads a study.

    Args:
        name: Of a packaged study, or the path of a .yaml file.
        overrides: "a.b=c" settings of all arms, over the study's and below the arms' own.

    Raises:
        ConfigError: Says what is wrong in which file.
    """
    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    packaged = FOLDER / path.name
    if packaged.exists() and path.exists() and not path.samefile(packaged):
        raise ConfigError(f"study {path}: a packaged one is called {path.stem}; give yours another name")
    try:
        config = StudyConfig.model_validate(strict_yaml.load(path.read_text(encoding="utf-8")))
    except OSError as error:
        known = ", ".join(each.stem for each in packaged_studies())
        raise ConfigError(
            f"study {name}: {error.strerror}; give one of {known}, or the path of a .yaml file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"study {path} is not YAML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join([*map(str, each['loc'])]) or 'study'}: {_problem(each)}" for each in error.errors()]
        raise ConfigError("\n".join([f"study {path}:", *lines])) from error

    def experiment(where: str, *changes: dict[str, Any]) -> ExperimentConfig:
        values = read_values(path.parent / config.experiment)
        _apply(values, config.set, where)
        for override in overrides:
            apply_override(values, override)
        for change in changes:
            _apply(values, change, where)
        return config_of(values, where)

    arms = []
    for arm, of_arm in config.arms.items():
        where = f"study {path}, arm {arm}"
        trained, played = experiment(where, of_arm.set), experiment(where, of_arm.set, of_arm.test)
        _check(where, trained)
        arms.append(_checked(where, Arm(arm, of_arm, trained, played)))
    return Study(path.stem, config, tuple(overrides), experiment(f"study {path}"), tuple(arms))


def _problem(detail: Any) -> str:
    if detail["type"] == "extra_forbidden":
        sections: dict[Any, type[Section]] = {"arms": ArmConfig, "claims": ClaimConfig, "headroom": HeadroomConfig}
        known = sections.get(detail["loc"][0], StudyConfig).model_fields
        nearest = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        return f"unknown key; {f'did you mean {nearest[0]}?' if nearest else 'known here: ' + ', '.join(known)}"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    return detail["msg"] if detail["type"] == "missing" else f"{detail['input']!r:.100}: {detail['msg']}"


def _apply(values: dict[str, Any], change: dict[str, Any], where: str) -> None:
    for key, value in change.items():
        set_value(values, key, value, where)


def _check(where: str, config: ExperimentConfig) -> None:
    if len(config.algorithm.credits) > 1:
        raise ConfigError(
            f"{where}: algorithm.credits: {', '.join(config.algorithm.credits)}: an arm has one; give one"
        )
    if config.algorithm.policies == "per_agent":
        raise ConfigError(f"{where}: algorithm.policies: per_agent: all agents of an arm share a policy; leave it out")
    if config.seeds < 2:
        raise ConfigError(f"{where}: seeds: {config.seeds}: intervals over seeds need two at least, and better ten")
    for key in ("sweep", "live"):
        if getattr(config, key):
            raise ConfigError(f"{where}: {key}: arms replay recorded debates of one setting; leave it out")


def _checked(where: str, arm: Arm) -> Arm:
    if arm.config.algorithm == "RolloutGRPO" and arm.trained.algorithm.passes < 2:
        raise ConfigError(
            f"{where}: algorithm.passes: {arm.trained.algorithm.passes}: RolloutGRPO compares debates on one question; "
            "give 2 at least"
        )
    if arm.trained.feature_table != arm.played.feature_table:
        raise ConfigError(
            f"{where}: test: {', '.join(arm.config.test)}: its solutions have other features than those that it is "
            "trained on; put what changes them into set"
        )
    if arm.config.system == BEST_SCHEDULE and arm.trained.team.rounds != arm.played.team.rounds:
        raise ConfigError(
            f"{where}: test: team.rounds: {arm.played.team.rounds}: the schedule is chosen for "
            f"{arm.trained.team.rounds}; put it into set"
        )
    return arm

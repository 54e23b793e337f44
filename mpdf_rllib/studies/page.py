"""A study as a section of a page, and the page with the sections of all studies."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mpdf_rllib.results import shown, without_zero
from mpdf_rllib.studies.claims import NAMES, in_front, sentence
from mpdf_rllib.studies.config import HeadroomConfig, Study
from mpdf_rllib.studies.playing import PlayedArm
from mpdf_rllib.studies.statistics import (
    difference,
    estimate,
    interquartile_mean,
    probability_of_improvement,
    share_won,
    values_of,
)
from mpdf_rllib.text_table import TextTable

HEAD = Path(__file__).with_name("page_head.md").read_text(encoding="utf-8")


def section(study: Study, arms: Mapping[str, PlayedArm], of_study: Sequence[TextTable]) -> str:
    """The study's section in Markdown: what is asked and expected, its set-up, its tables, and a verdict a claim."""
    config = study.config
    parts = [
        f"## {config.title}",
        f"`python -m mpdf_rllib.experiment {study.name}`; in the paper: {config.paper}.",
        f"**Question.** {config.question.strip()}",
        f"**Set-up.** {_set_up(study, arms)}",
        f"**Expected.** {config.prediction.strip()}",
        *(table.markdown().strip() for table in of_study),
        "\n".join(f"- {sentence(claim, arms)}" for claim in config.claims),
    ]
    return "\n\n".join(parts) + "\n"


def tables(study: Study, arms: Mapping[str, PlayedArm]) -> list[TextTable]:
    """The table of all arms, and what the study shows iteration by iteration."""
    config = study.config
    headroom = [_headroom_table(config.headroom, arms)] if config.headroom else []
    confidences = [_confidence_table(arms)] if config.confidences else []
    curves = [_curves(measure, arms) for measure in config.curves]
    return [_arms_table(config.reference, arms), *confidences, *headroom, *curves]


def _set_up(study: Study, arms: Mapping[str, PlayedArm]) -> str:
    experiment, config = study.experiment, study.config
    training = sorted({arm.trained.number_of("train") for arm in study.arms})
    test = sorted({len(arm.questions) for arm in arms.values()})
    families = dict.fromkeys(name for arm in arms.values() for name in arm.sets)
    settings = [f"{key} {value}" for key, value in config.set.items()] + [*study.overrides]
    said = f"; in all arms {', '.join(settings)}" if settings else ""
    return (
        f"{experiment.seeds} seeds; {_or(training)} training and {_or(test)} test questions ({', '.join(families)}); "
        f"{experiment.team.size} agents and {experiment.team.rounds} rounds, where an arm does not say otherwise{said}."
    )


def _or(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def _arms_table(reference: str, arms: Mapping[str, PlayedArm]) -> TextTable:
    of_reference = arms[reference]
    rows = []
    for name, arm in arms.items():
        shares = arm.result.action_shares
        against: list[str] = ["", ""]
        if name != reference and arm.questions == of_reference.questions:
            against[0] = shown(difference(arm, of_reference, "accuracy"), "+")
            if min(len(each.result.outcomes) for each in (arm, of_reference)) > 1:
                against[1] = shown(probability_of_improvement(arm, of_reference))
        seeds = len(arm.result.outcomes)
        rows.append(
            [
                name,
                shown(estimate(arm, "accuracy")),
                "" if arm.training_accuracy is None else without_zero(f"{arm.training_accuracy:.3f}"),
                shown(interquartile_mean(arm)) if seeds > 1 else "",
                shown(estimate(arm, "spread")) if seeds > 1 else "",
                *against,
                *(f"{values_of(arm, m).mean():.0f}" for m in ("tokens", "generated_tokens")),
                "" if arm.training_tokens is None else f"{arm.training_tokens:.0f}",
                "" if shares is None else "/".join(f"{100 * share:.0f}" for share in shares),
            ]
        )
    measured = [
        "accuracy",
        "in training",
        "IQM",
        "sd over seeds",
        f"less {reference}",
        "improves",
        "tokens",
        "generated",
        "training",
        "P/R/C %",
    ]
    title = (
        "Final policies; accuracy on the test questions, and on those of its training; tokens a question, of prompts "
        "and generated, and generated alone; generated tokens a training question that the first iteration of stage "
        "two needs; shares of Persist, Refine, Concede."
    )
    return TextTable(title, ["arm", *measured], rows)


def _confidence_table(arms: Mapping[str, PlayedArm]) -> TextTable:
    rows = [
        [
            name,
            each.name,
            *("" if quality is None else shown(quality) for quality in (each.of_first, each.of_all)),
            f"{each.tokens:.0f}",
            f"{each.generated:.1f}",
        ]
        for name, arm in arms.items()
        for each in arm.confidences
    ]
    title = (
        "How well confidences tell right solutions from wrong ones: AUROC, and the tokens that a solution takes with "
        "its confidence, of prompts and generated, and generated alone."
    )
    return TextTable(title, ["arm", "confidence", "of first answers", "of all solutions", "tokens", "generated"], rows)


def _headroom_table(headroom: HeadroomConfig, arms: Mapping[str, PlayedArm]) -> TextTable:
    floor, ceiling = arms[headroom.floor], arms[headroom.ceiling]
    rows = []
    for name, arm in arms.items():
        if name in (headroom.floor, headroom.ceiling) or arm.questions != floor.questions:
            continue
        parts = [(arm, floor, ceiling)] + [
            (arm.of_set(each), floor.of_set(each), ceiling.of_set(each)) for each in dict.fromkeys(arm.sets)
        ]
        for label, (own, low, high) in zip(["all", *dict.fromkeys(arm.sets)], parts, strict=True):
            share = share_won(own, low, high)
            cells = [shown(estimate(own, "accuracy")), "" if share is None else shown(share)]
            rows.append([name, label, *cells, shown(difference(high, own, "accuracy"), "+")])
    title = (
        f"By question set: the share of the way from {headroom.floor} to {headroom.ceiling}, and what is lacking there."
    )
    return TextTable(title, ["arm", "questions", "accuracy", "share won", f"{headroom.ceiling} less it"], rows)


def _curves(measure: str, arms: Mapping[str, PlayedArm]) -> TextTable:
    learned = {name: arm.histories for name, arm in arms.items() if arm.histories}
    last = max(len(history) for histories in learned.values() for history in histories)
    at = sorted({*np.linspace(0, last - 1, min(last, 9)).round().astype(int).tolist()})
    rows = []
    for name, histories in learned.items():
        values = np.array([[each[measure] for each in history] for history in histories])
        cells = [_mean_and_deviation(values[:, i], measure) if i < values.shape[1] else "" for i in at]
        rows.append([name, *cells])
    title = f"{_TITLES[measure]} after as many iterations of stage two: mean ± standard deviation over seeds."
    return TextTable(title, ["arm", *map(str, at)], rows)


def _mean_and_deviation(values: np.ndarray, measure: str) -> str:
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    digits = 3 if measure == "accuracy" else 1
    return " ± ".join(without_zero(f"{number:.{digits}f}") for number in (values.mean(), deviation))


_TITLES = {"accuracy": "Accuracy on the test questions", "log_ratio": in_front(NAMES["log_ratio"])}


def with_section(page: str, name: str, text: str, order: Sequence[str]) -> str:
    """The page with a study's section in place of the one that it has, or where it belongs in an order of all names.

    Raises:
        ValueError: It is no such page, and would be lost.
    """
    if page.strip() and not page.startswith(HEAD.partition("\n")[0]):
        raise ValueError
    sections = dict(re.findall(r"<!-- study (.+?) -->\n(.*?)<!-- end -->\n", page, re.DOTALL))
    sections[name] = text
    known = [each for each in order if each in sections] + [each for each in sections if each not in order]
    return "\n".join([HEAD, *(f"<!-- study {each} -->\n{sections[each]}<!-- end -->\n" for each in known)])

"""The second model that is made of the packaged one."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpdf_rllib.engine import models
from mpdf_rllib.engine.fine_tuning import draw_calculation, fine_tune
from mpdf_rllib.engine.models import FINE_TUNED_MODEL, PACKAGED_MODEL, model_fingerprint, resolve_model
from mpdf_rllib.questions.families import generate_questions

OPERATORS = {"multiplication": "*", "addition": "+", "subtraction": "-", "division": "/", "arithmetic": ""}


def _calculation(text: str, operator: str) -> tuple[str, tuple[int, ...]]:
    """What is calculated, in one order where there are two; a division is the product that it undoes."""
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    operator = operator or text.split()[1]
    if operator == "/":
        operator, numbers = "*", [numbers[0] // numbers[1], numbers[1]]
    return operator, tuple(sorted(numbers) if operator in "+*" else numbers)


def test_results_are_right_and_no_question_asks_for_them():
    rng = np.random.default_rng(0)
    drawn = [draw_calculation(rng) for _ in range(3000)]
    for a, operator, b, result in drawn:
        assert result == eval(f"{a} {operator} {b}")
    learned = {_calculation(f"{a} {operator} {b}", operator) for a, operator, b, _ in drawn}
    for family, operator in OPERATORS.items():
        for split in ("train", "test"):
            for question in generate_questions([family], split, 100):
                assert _calculation(question.text, operator) not in learned


@pytest.mark.model
def test_fine_tuning_teaches_calculations(random_model: Path, tmp_path: Path) -> None:
    told: list[float] = []
    for name in ("tuned", "again"):
        fine_tune(random_model, tmp_path / name, lambda _, done: told.append(done))
    assert told[0] == 0.0 and told[len(told) // 2 - 1] == 1.0 and max(told) == 1.0

    def loss(folder: Path) -> float:
        tokens = AutoTokenizer.from_pretrained(folder)("61 + 8 = 69\n14 * 5 = 70\n", return_tensors="pt")["input_ids"]
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return float(model(input_ids=tokens, labels=tokens).loss)

    assert loss(tmp_path / "tuned") < loss(random_model) - 0.1
    assert loss(tmp_path / "tuned") == pytest.approx(loss(tmp_path / "again"), abs=0.01)


def test_it_is_made_once_of_the_packaged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, folder: Path, progress: models.Progress) -> None:
        (folder / "config.json").write_text("packaged")

    def tune(base: Path, folder: Path, progress: models.Progress) -> None:
        (folder / "config.json").write_text((base / "config.json").read_text() + ", tuned")

    monkeypatch.setenv("MPDF_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_convert", convert)
    monkeypatch.setattr(models, "fine_tune", tune)
    found = resolve_model(FINE_TUNED_MODEL, lambda *_: None)
    monkeypatch.setattr(models, "fine_tune", None)
    assert resolve_model(FINE_TUNED_MODEL, lambda *_: None) == found
    assert (Path(found.path) / "config.json").read_text() == "packaged, tuned"
    assert (Path(resolve_model(PACKAGED_MODEL, lambda *_: None).path) / "config.json").read_text() == "packaged"
    assert len(list(tmp_path.iterdir())) == 2


def test_its_fingerprint_is_its_own_and_needs_no_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPDF_CACHE", str(tmp_path / "cache"))
    assert model_fingerprint(FINE_TUNED_MODEL) not in ("", model_fingerprint(PACKAGED_MODEL))
    assert not (tmp_path / "cache").exists()

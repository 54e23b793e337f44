"""A second model without a hub: the packaged one, fine-tuned on calculations that no question family asks for [ours].

It is of the same size, and another model in what it knows and in how sure it is of what it does not know: what policies
that were trained with one model, and teams of two models, are tried on.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

RECIPE = "1"
"""Of all that is below; another recipe is another model."""

_STEPS = 30
_SHEETS = 8
_CALCULATIONS = 12
_LEARNING_RATE = 3e-5


def draw_calculation(rng: np.random.Generator) -> tuple[int, str, int, int]:
    """Two numbers of 50 to 99 and 2 to 9 with + or - between them, or of 13 to 19 and 2 to 9 with *, and the result."""
    operator = rng.choice(("+", "-", "*"))
    a, b = int(rng.integers(13, 20) if operator == "*" else rng.integers(50, 100)), int(rng.integers(2, 10))
    return a, str(operator), b, {"+": a + b, "-": a - b, "*": a * b}[operator]


def fine_tune(base: Path, folder: Path, progress: Callable[[str, float], None]) -> None:
    """Writes the fine-tuned model: cross-entropy on the results alone, a calculation a line, in float32 by AdamW.

    Args:
        base: The model's folder, with its tokenizer.
        folder: Where to write it, in bfloat16.
        progress: Told what is being done and the fraction that is done.

    Raises:
        OSError: The folder cannot be written.
    """
    progress("Reading the model", 0.0)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    with contextlib.redirect_stderr(io.StringIO()):  # transformers' own progress bars, here and below
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    rng = np.random.default_rng(0)

    def sheet() -> tuple[list[int], list[int]]:
        tokens: list[int] = []
        labels: list[int] = []
        for _ in range(_CALCULATIONS):
            a, operator, b, result = draw_calculation(rng)
            asked, answer = (tokenizer(text)["input_ids"] for text in (f"{a} {operator} {b} =", f" {result}\n"))
            tokens += asked + answer
            labels += [-100] * len(asked) + answer
        return tokens, labels

    for step in range(_STEPS):
        progress("Fine-tuning it", 0.02 + 0.96 * step / _STEPS)
        sheets = [sheet() for _ in range(_SHEETS)]
        length = min(len(tokens) for tokens, _ in sheets)
        tokens, labels = (torch.tensor([part[:length] for part in parts]) for parts in zip(*sheets, strict=True))
        optimizer.zero_grad()
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
    progress("Writing safetensors", 0.98)
    with contextlib.redirect_stderr(io.StringIO()):
        model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    progress("Fine-tuned", 1.0)

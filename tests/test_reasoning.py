"""Tasks of reasoning-gym: which questions come out, and what their verifiers accept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_fixtures import experiment

from mpdf_rllib.errors import ConfigError
from mpdf_rllib.questions import Question
from mpdf_rllib.questions.reasoning import ReasoningChecker, ReasoningRow

ROOT = Path(__file__).resolve().parent.parent


def questions(folder: Path, task: str, split: str, train: int = 12, test: int = 8, **keys) -> list[Question]:
    config = experiment(folder, benchmark=f"reasoning_gym:{task}", train=train, test=test, **keys)
    return config.questions_of(split)


def accepts(question: Question, text: str) -> bool:
    answer = question.checker.read(text)
    return answer is not None and question.accepts(answer.canonical)


def test_train_and_test_are_the_seeds_and_share_no_question(tmp_path):
    # Sums of two digits from 0 to 9: chance alone would ask many twice.
    few = {"parameters": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}, "train": 40, "test": 40}
    train, test = (questions(tmp_path, "chain_sum", split, **few) for split in ("train", "test"))
    texts = [question.text for question in train + test]
    assert len(set(texts)) == 80
    assert questions(tmp_path, "chain_sum", "train", **few) == train
    assert questions(tmp_path, "chain_sum", "train", **{**few, "train": 10, "test": 3}) == train[:10]
    assert questions(tmp_path, "chain_sum", "train", seed=1, **few) != train


def test_another_process_asks_the_same_questions(tmp_path):
    asked = questions(tmp_path, "knights_knaves", "test")
    program = (
        "import json, sys\nfrom mpdf_rllib.config_file import load_config\n"
        "print(json.dumps([q.text for q in load_config(sys.argv[1]).questions_of('test')]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program, str(tmp_path / "x.yaml")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [question.text for question in asked]


@pytest.mark.parametrize("task", ["chain_sum", "countdown", "knights_knaves", "rotate_matrix", "word_sorting"])
def test_the_reference_passes_and_another_rows_does_not(tmp_path, task):
    first, second = questions(tmp_path, task, "test")[:2]
    assert first.accepts(first.reference.canonical)
    assert not first.accepts(second.reference.canonical)
    assert accepts(first, f"Let me think.\n<answer>\n{first.answer}\n</answer>\nThat is it.")


def test_the_verifier_accepts_other_right_answers(tmp_path):
    question = questions(tmp_path, "countdown", "test")[0]
    assert accepts(question, f"The answer is ({question.answer})")
    assert not accepts(question, f"The answer is {question.answer} + 1")


@pytest.mark.parametrize(
    "form",
    ["The answer is {}.", "The answer is **{}**.", "**Answer:** ${}$", "So:\n{}.", "Answer: {}\nI hope this helps!"],
)
def test_the_verifier_is_given_the_answer_without_what_surrounds_it(tmp_path, form):
    question = questions(tmp_path, "chain_sum", "test")[0]
    assert accepts(question, form.format(question.answer))


@pytest.mark.parametrize(
    "task", ["countdown", "puzzle24", "binary_matrix", "n_queens", "spiral_matrix", "string_insertion"]
)
def test_what_would_hang_or_harm_is_wrong(tmp_path, task):
    harm = tmp_path / "harm"
    question = questions(tmp_path, task, "test", test=1)[0]
    for answer in ("9**9**9**9", f"open('{harm}', 'w')", f"[open('{harm}', 'w') for _ in 'x']", "1" * 5000, "\x00"):
        assert not accepts(question, f"<answer>{answer}</answer>")
    assert not harm.exists()
    assert question.accepts(question.reference.canonical)


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("42", "42", 42),
        ("I count.\nThe answer is 42.", "42", 42),
        ("The answer is **$42$**.\n\nI hope this helps!", "42", 42),
        ("**Answer:**\n1 2\n3 4\n", "1 2\n3 4", 0),
        ("<answer>42.</answer>", "42.", 42),
        ("**Answer:** Yes", "Yes", 0),
        ("So \\boxed{-7}.", "-7", -7),
        ("<answer>1</answer> no, <answer>2</answer>", "2", 2),
        ("<answer>1 2\n3 4</answer>", "1 2\n3 4", 0),
        ("<answer>$\\boxed{5}$</answer>", "5", 5),
        ("<answer>\\boxed{5} or 6</answer>", "\\boxed{5} or 6", 0),
        ("<answer>5</answer>\nI used the <answer> tag.", "5", 5),
        ("I think\n<answer>5", "5", 5),
        ("First this.\nThen that.\n", "Then that", 0),
        ("", None, 0),
        ("<answer></answer>", None, 0),
    ],
)
def test_where_the_answer_is(text, answer, value):
    checker = ReasoningChecker(ReasoningRow("chain_sum", "{}", 0, 0))
    found = checker.read(text)
    if answer is None:
        assert found is None
        return
    assert (found.canonical, found.value) == (f"<answer>{answer}</answer>", value)
    assert text[slice(*found.span)].strip() == answer
    assert checker.read(found.canonical).canonical == found.canonical


def test_wrong_answers_are_the_same_whatever_their_case_and_white_space():
    checker = ReasoningChecker(ReasoningRow("chain_sum", "{}", 0, 0))
    one, other, third = (checker.read(f"<answer>{text}</answer>").canonical for text in ("a  B.", "A b", "a c"))
    assert checker.same(one, other)
    assert not checker.same(one, third)


@pytest.mark.parametrize(
    ("task", "keys", "message"),
    [
        ("chain_sums", {}, "reasoning-gym has no task 'chain_sums'; did you mean reasoning_gym:chain_sum?"),
        ("acre", {}, "reasoning_gym:acre asks other questions in every process"),
        ("simple_integration", {}, "reasoning_gym:simple_integration runs what a model writes as Python"),
        ("rubiks_cube", {}, "reasoning_gym:rubiks_cube gives no reference answers"),
        ("chain_sum", {"parameters": {"terms": 2}}, "questions.parameters.terms: reasoning_gym:chain_sum has no such"),
        ("chain_sum", {"parameters": {"min_terms": 0}}, "questions.parameters: {'min_terms': 0} is not for reasoning"),
        ("coin_flip", {"train": 10**6}, ": 1000000 is more than the "),
    ],
)
def test_what_cannot_be_asked_is_told(tmp_path, task, keys, message):
    if task == "coin_flip":
        keys = {**keys, "parameters": {"min_trials": 3, "max_trials": 3}}
    with pytest.raises(ConfigError) as error:
        questions(tmp_path, task, "train", **keys)
    assert message in str(error.value)


def test_a_missing_package_is_told_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(
        ConfigError, match=r"needs reasoning-gym, .* install it by pip install 'mpdf-rllib\[reasoning\]'"
    ):
        questions(tmp_path, "chain_sum", "train")

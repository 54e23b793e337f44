"""A run's team that answers questions: what evaluation saw of it, without RLlib, and what is said of misuse."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
from process_fixtures import Experiment

from mpdf_rllib.debate import debate, plain
from mpdf_rllib.deliberation_team import DeliberationTeam
from mpdf_rllib.errors import ConfigError, DataError
from mpdf_rllib.run_folder import read_config
from mpdf_rllib.trained_policies import read_policy

TEXT = "12 bags hold 4 pens each. How many pens in all?"


@pytest.mark.parametrize(("credit", "seed", "row"), [("step", 0, "paper's credit"), ("outcome", 1, "soft outcome")])
def test_the_team_answers_as_its_run_says(trained_run, credit, seed, row):
    frame = pq.read_table(trained_run.run / "results.parquet").to_pandas()
    expected = frame[(frame["system"] == f"SoftRankPO, {row}") & (frame["seed"] == seed)]
    with DeliberationTeam.from_run(trained_run.run, credit, seed) as team:
        questions = team.config.questions_of("test")
        debates = team.answer(questions)
    assert [question.id for question in questions] == expected["question"].tolist()
    assert [each.correct for each in debates] == expected["correct"].tolist()
    tokens = expected[["prompt_tokens", "cached_tokens", "generated_tokens"]].to_numpy().tolist()
    assert [[*each.tokens] for each in debates] == tokens


def test_it_needs_no_rllib(trained_run):
    code = (
        "import sys\n"
        "from mpdf_rllib.deliberation_team import DeliberationTeam\n"
        f"with DeliberationTeam.from_run({str(trained_run.run)!r}) as team:\n"
        f"    (debate,) = team.answer([{TEXT!r}])\n"
        "print(debate.answer, any(name.startswith('ray.rllib') for name in sys.modules))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=180)
    answer, imported = said.stdout.split()
    assert answer.isdigit() and imported == "False"


def test_threads_share_the_engine(trained_run):
    with DeliberationTeam.from_run(trained_run.run) as team:
        questions = team.config.questions_of("test")
        together = team.answer(questions)
        with ThreadPoolExecutor(len(questions)) as pool:
            apart = [*pool.map(lambda question: team.answer([question])[0], questions)]
    for alone, among_others in zip(apart, together, strict=True):
        assert (alone.nodes, alone.final, alone.tokens) == (among_others.nodes, among_others.final, among_others.tokens)


def test_a_moved_run_is_the_same(trained_run, tmp_path):
    moved = shutil.copytree(trained_run.run, tmp_path / "moved")
    with DeliberationTeam.from_run(moved) as team, DeliberationTeam.from_run(trained_run.run) as before:
        assert team.config.run_path == moved
        assert team.answer([TEXT], "addition")[0].answer == before.answer([TEXT], "addition")[0].answer


def test_a_text_is_asked_with_the_first_prompts_or_those_given(trained_run):
    with DeliberationTeam.from_run(trained_run.run) as team:
        assert team.question(TEXT).source == team.prompts[0] == "multiplication"
        assert team.question(TEXT, "addition").source == "addition"
        with pytest.raises(
            ConfigError, match="prompts: .* none called sums; give one of multiplication, addition, arith"
        ):
            team.answer([TEXT], "sums")


def test_what_a_run_does_not_have_is_named(trained_run, tmp_path):
    with pytest.raises(ConfigError, match="seed: .* has no seed 2; give one of 0 to 1"):
        DeliberationTeam.from_run(trained_run.run, seed=2)
    with pytest.raises(ConfigError, match="did you mean|engine"):
        DeliberationTeam.from_run(trained_run.run, overrides=["engine.kindd=vllm"])
    with pytest.raises(DataError, match="holds no config.yaml, so no run"):
        DeliberationTeam.from_run(tmp_path)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(trained_run.run / "config.yaml", unfinished)
    with pytest.raises(DataError, match="holds no trained policies"):
        DeliberationTeam.from_run(unfinished)


@pytest.mark.parametrize("damage", ["cut short", "gone", "another", "no JSON"])
def test_a_damaged_policy_is_named(trained_run, tmp_path, damage):
    run = shutil.copytree(trained_run.run, tmp_path / "damaged")
    folder = run / "policies/step-seed0"
    weights, settings = folder / "model.safetensors", folder / "config.json"
    match damage:
        case "cut short":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "gone":
            weights.unlink()
        case "another":
            settings.write_text(settings.read_text().replace('"dim": 8', '"dim": 16'))
        case "no JSON":
            settings.write_text("{")
    with pytest.raises(DataError, match="step-seed0 holds no policy that can be read"):
        DeliberationTeam.from_run(run, "step")


def test_a_policy_of_other_features_is_refused(trained_run):
    with pytest.raises(DataError, match="trained on .* features, and the experiment processes has"):
        DeliberationTeam.from_run(trained_run.run, overrides=["questions={benchmark: mmlu, path: /nowhere}"])


def test_a_debate_in_the_terminal(trained_run):
    ended = trained_debate(trained_run, TEXT)
    assert "Asked as multiplication; --prompts can be addition, arithmetic." in ended.stderr
    said = ended.stdout
    assert (
        said.index("First answers") < said.index("Round 1 of 3") < said.index("Round 3 of 3") < said.index("Answer: ")
    )
    assert "Persist" in said or "Refine" in said or "Concede to" in said
    assert "P 0." in said or "P 1." in said


def test_a_debate_says_what_is_wrong(trained_run):
    ended = trained_debate(trained_run, TEXT, "--prompts", "sums", status=2)
    assert "error: prompts: processes has none called sums" in ended.stderr
    assert "Traceback" not in ended.stderr


def trained_debate(trained_run: Experiment, *arguments: str, status: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mpdf_rllib.debate", "--run", str(trained_run.run), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert ended.returncode == status, ended.stderr
    return ended


def test_what_a_model_writes_is_no_command_to_the_terminal():
    assert plain("\x1b[2J[red]1\r\n2\x07") == "�[2J[red]1�\n2�"


@pytest.mark.model
def test_a_real_team_debates(trained_run, vllm_engine, capsys):
    config = read_config(trained_run.run, ["team.prompt=completion", "engine={kind: vllm}"])
    team = DeliberationTeam(
        config, read_policy(trained_run.run), lambda: vllm_engine
    )  # not closed, as others go on with it
    told = debate(team, TEXT, "multiplication")
    assert told.answer and told.answer in capsys.readouterr().out
    assert len(told.rounds) == 3 and told.tokens[2] > 0

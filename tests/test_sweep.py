"""Settings of the algorithm compared: what a sweep comes to, and whole sweeps in processes on a scripted engine."""

import csv
import itertools
import json
from collections.abc import Iterator

import numpy as np
import pytest
import yaml
from process_fixtures import CONFIG, ITERATIONS, Experiment, contents, without_places

from mpdf_rllib import evaluate, trial_logs
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.config_file import load_config
from mpdf_rllib.engine import run
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.sweep import training_questions, validation_questions
from mpdf_rllib.sweep_config import settings_of, swept_values
from mpdf_rllib.train import train

SPACE = {
    "tau": {"grid": [0.5, 1.0]},
    "beta": {"choice": [0.1, 0.2, 0.3]},
    "lr": {"loguniform": [0.0005, 0.005]},
    "credits.outcome.token_price": {"grid": [0, 0.001, 0.01]},
}
CREDITS = {"step": {}, "outcome": {"tie_tolerance": 0.1}}
QUESTIONS = CONFIG["questions"] | {"train": 24}
VALIDATION = 6
SWEEP = CONFIG | {"questions": QUESTIONS, "sweep": {"space": {"lr": {"grid": [1e-9, 0.01]}}, "scheduler": "asha"}}


def config(**sweep) -> ExperimentConfig:
    values = {"questions": QUESTIONS, "algorithm": {"credits": CREDITS}, "sweep": {"space": SPACE} | sweep}
    return ExperimentConfig.model_validate(CONFIG | values)


def compared(**sweep) -> list[tuple[str, dict]]:
    """Each setting's kind of credit and swept values."""
    experiment = config(**sweep)
    settings = settings_of(experiment.algorithm, experiment.sweep)
    assert all(name.startswith(f"{kind}-") for name, setting in settings.items() for kind in setting.credits)
    return [(*setting.credits, swept_values(setting, experiment.sweep)) for setting in settings.values()]


def test_every_draw_is_crossed_with_the_grid_and_the_kinds_of_credit():
    settings = compared(samples=5)
    draws = {(values["beta"], values["lr"]) for _, values in settings}
    assert len(draws) == 5 and all(beta in (0.1, 0.2, 0.3) and 0.0005 <= lr <= 0.005 for beta, lr in draws)
    expected = {("step", tau, None, *draw) for tau, draw in itertools.product((0.5, 1.0), draws)}
    expected |= {
        ("outcome", tau, price, *draw) for tau, price, draw in itertools.product((0.5, 1.0), (0, 0.001, 0.01), draws)
    }
    found = [(kind, v["tau"], v["credits.outcome.token_price"], v["beta"], v["lr"]) for kind, v in settings]
    assert len(found) == len(expected) and {*found} == expected


def test_what_is_not_swept_stays():
    experiment = config(samples=2)
    for setting in settings_of(experiment.algorithm, experiment.sweep).values():
        for kind, credit in setting.credits.items():
            assert credit.tie_tolerance == experiment.algorithm.credits[kind].tie_tolerance
        swept = {"credits", "tau", "beta", "lr"}
        assert setting.model_dump(exclude=swept) == experiment.algorithm.model_dump(exclude=swept)


def test_the_same_sweep_comes_to_the_same_settings_and_more_samples_to_more():
    few, many = compared(samples=3), compared(samples=6)
    assert compared(samples=3) == few
    assert [setting for setting in many if setting in few] == few and len(many) == 2 * len(few)


def test_bounds_that_yaml_takes_for_texts_are_numbers():
    assert compared(space={"lr": {"loguniform": ["1e-4", 1]}}) == compared(space={"lr": {"loguniform": [0.0001, 1.0]}})


def test_of_a_trials_results_only_a_line_that_a_kill_cut_short_is_lost(tmp_path):
    file = tmp_path / "result.json"
    file.write_text('{"training_iteration": 1}\n{"training_ite{"training_iteration": 2}\n{"training_iteration": 3}\n')
    assert [result["training_iteration"] for result in trial_logs.logged(file)] == [1, 3]


def test_draws_of_a_range_are_spread_over_it():
    for draw, middle in (("uniform", 0.50005), ("loguniform", 0.01)):
        values = [v["lr"] for _, v in compared(space={"lr": {draw: [0.0001, 1.0]}}, samples=200)][:200]
        assert np.mean(np.array(values) < middle) == pytest.approx(0.5, abs=0.12)
        assert min(values) >= 0.0001 and max(values) <= 1.0


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"space": {"tau": {"grid": [0.5, -1]}}}, "sweep.space.tau: -1: input should be greater than 0"),
        ({"space": {"tau": {"choice": [0.5] * 99 + [-1]}}}, "sweep.space.tau: -1: input should be greater than 0"),
        ({"space": {"lr": {"uniform": [-0.0001, 1]}}}, "sweep.space.lr: -0.0001: input should be greater than 0"),
        ({"space": {"objective": {"grid": ["eq3"]}}}, "sweep.space.objective: 'eq3': input should be 'rank_matching'"),
        ({"space": {"credits.outcome.token_price": {"grid": [-1]}}}, "sweep.space.credits.outcome.token_price: -1"),
        ({"space": {"heads": {"grid": [3]}, "dim": {"grid": [9, 10]}}}, "3: it does not divide algorithm.dim, 10"),
        ({"space": {"tua": {"grid": [1]}}}, "sweep.space.tua: {'grid': [1]}: it is no value of the algorithm section"),
        ({"space": {"algorithm.beta": {"grid": [1]}}}, "did you mean beta?"),
        (
            {"space": {"team.rounds": {"grid": [1, 2]}}},
            "what has to be recorded or compared: give each of their values",
        ),
        ({"space": {"credits": {"grid": [{}]}}}, "sweep.space.credits: {'grid': [{}]}: it is no value"),
        ({"space": {"tau": [1, 2]}}, "sweep.space.tau: [1, 2]: give keys and values"),
        ({"space": {"tau": {"gird": [1]}}}, "sweep.space.tau.gird: 'gird': input should be 'grid', 'choice'"),
        ({"space": {"tau": {"grid": [1], "choice": [1]}}}, "give one of grid, choice, uniform, loguniform"),
        ({"space": {"tau": {"grid": []}}}, "sweep.space.tau: {'grid': []}: give at least one value"),
        (
            {"space": {"lr": {"uniform": [2, 1]}}},
            "sweep.space.lr: {'uniform': [2, 1]}: give the lowest and the highest",
        ),
        ({"space": {"lr": {"loguniform": [0, 1]}}}, "the lowest value of a logarithmic range is positive"),
        ({"space": {"lr": {"uniform": ["small", 1]}}}, "give the lowest and the highest"),
        ({"space": {"left_out": {"grid": [[], ["z_cnf"]]}}}, "space.left_out: 'z_cnf'"),
        ({"space": {}}, "sweep.space: {}"),
        ({}, "sweep.space: missing; it has no default"),
        ({"space": {"tau": {"grid": [1]}}, "samples": 2}, "samples is 2, but nothing is drawn"),
        ({"space": {"tau": {"grid": [1]}}, "validation": 0.6}, "sweep.validation: 0.6"),
        ({"space": {"tau": {"grid": [1]}}, "scheduler": "pbt"}, "sweep.scheduler: 'pbt': input should be 'asha'"),
        ({"space": {"tau": {"grid": [1]}}, "sampels": 2}, "sweep.sampels: unknown key; did you mean samples?"),
    ],
)
def test_a_wrong_sweep_is_named_with_its_value_and_the_remedy(sweep, message, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {"algorithm": {"credits": CREDITS}, "sweep": sweep}))
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert message in str(error.value)


def test_settings_are_compared_on_training_questions_that_are_not_trained_on():
    experiment = config()
    held_out, left = ({q.id for q in part(experiment)} for part in (validation_questions, training_questions))
    assert len(held_out) == VALIDATION and not held_out & left
    assert held_out | left == {q.id for q in experiment.questions_of("train")}
    assert not (held_out | left) & {q.id for q in experiment.questions_of("test")}
    sources = [q.source for q in validation_questions(experiment)]
    assert len({*sources}) > 1, "the first questions alone"


def test_a_part_of_the_trees_is_what_its_questions_would_have_come_to():
    experiment, engine = config(), ScriptedEngine(answer_like_a_small_model)
    team, questions = experiment.make_team(), experiment.questions_of("train")
    chosen = np.arange(len(questions)) % 3 == 1

    def filled(wanted: list) -> object:
        tree = team.tree(wanted)
        run(team.fill(engine, tree, [*itertools.product(range(len(wanted)), range(tree.num_nodes))]))
        return tree

    part = filled(questions).of_questions(chosen)
    alone = filled([question for question, flag in zip(questions, chosen, strict=True) if flag])
    assert part.questions == alone.questions
    for name in ("present", "answer_class", "correct", "confidence", "features", "tokens", "child", "depth"):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name))
    assert all(part.solution(q, 4).text == alone.solution(q, 4).text for q in range(len(part.questions)))


def test_a_sweep_is_no_single_run():
    experiment = config()
    for refused in (train, lambda experiment: evaluate._command(experiment, None)):
        with pytest.raises(ConfigError, match="sweep: "):
            refused(experiment)


NOTES_WHO_ASKS_FOR_TEST_QUESTIONS = """
import dataclasses, os, pathlib
from mpdf_rllib import record
from mpdf_rllib.config import ExperimentConfig

all_trees, questions_of = record.record, ExperimentConfig.questions_of

def noted(self, split):
    if split == "test":
        (pathlib.Path(__file__).parent / f"{os.getpid()}.asked").touch()
    return questions_of(self, split)

ExperimentConfig.questions_of = noted
record.record = lambda config: dataclasses.replace(all_trees(config), test=None, fresh=None)
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Iterator[tuple[Experiment, str]]:
    """A sweep that was killed during its third trial and then finished, and the table that it printed."""
    experiment = Experiment(tmp_path_factory.mktemp("swept"), SWEEP)
    experiment.kill_once(lambda: [*experiment.run.glob("tune/step-0-seed1/checkpoint_*")], "train")
    assert not (experiment.run / "best.yaml").exists()
    return experiment, experiment.finish("train").stdout


def logged(experiment: Experiment, setting: str, seed: int) -> list[dict]:
    """What Tune was told after each iteration."""
    lines = (experiment.run / "tune" / f"{setting}-seed{seed}" / "result.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


def rows(experiment: Experiment) -> dict[str, dict[str, str]]:
    with (experiment.run / "sweep.csv").open() as file:
        return {row["setting"]: row for row in csv.DictReader(file)}


def test_the_best_setting_is_the_one_whose_policies_answered_best_when_tune_last_asked(swept):
    experiment, table = swept
    told = {setting: [logged(experiment, setting, seed)[-1] for seed in (0, 1)] for setting in ("step-0", "step-1")}
    accuracy = {name: np.mean([result["validation_accuracy"] for result in last]) for name, last in told.items()}
    tokens = {name: np.mean([result["validation_tokens"] for result in last]) for name, last in told.items()}
    ranking = sorted(told, key=lambda name: (-accuracy[name], tokens[name]))
    assert accuracy["step-0"] != accuracy["step-1"], "nothing to tell apart"
    found = rows(experiment)
    assert [*found] == ranking and table.index(ranking[0]) < table.index(ranking[1])
    for name, row in found.items():
        assert float(row["accuracy"]) == pytest.approx(accuracy[name])
        assert float(row["low"]) <= accuracy[name] <= float(row["high"])
        assert float(row["generated_tokens"]) == pytest.approx(tokens[name])
        assert float(row["lr"]) == told[name][0]["config"]["lr"]
    best = yaml.safe_load((experiment.run / "best.yaml").read_text())
    assert best["algorithm"]["lr"] == float(found[ranking[0]]["lr"])


def test_what_is_behind_ends_early_and_is_in_the_table(swept):
    experiment, _ = swept
    iterations = {
        setting: [logged(experiment, setting, seed)[-1]["training_iteration"] for seed in (0, 1)]
        for setting in ("step-0", "step-1")
    }
    assert iterations == {"step-0": [ITERATIONS, 2], "step-1": [ITERATIONS, ITERATIONS]}
    assert {name: float(row["iterations"]) for name, row in rows(experiment).items()} == {"step-0": 4, "step-1": 6}


def test_the_metric_is_flat_after_each_iteration_and_learning_leaves_its_questions_out(swept):
    experiment, _ = swept
    for number, result in enumerate(logged(experiment, "step-1", 0), 1):
        assert result["validation_accuracy"] * VALIDATION == pytest.approx(round(result["validation_accuracy"] * 6))
        assert result["evaluation"]["env_runners"]["num_episodes"] == VALIDATION
        debated = result["env_runners"]["num_env_steps_sampled_lifetime"] / experiment.load().team.rounds
        assert debated == number * (QUESTIONS["train"] - VALIDATION)


def test_the_report_has_each_settings_validation_accuracy(swept):
    experiment, _ = swept
    assert {trace["name"] for trace in experiment.plot("accuracy on validation questions")["data"]} == {
        *rows(experiment)
    }
    assert "Settings on held-out training questions" in (experiment.run / "report.html").read_text()


def test_a_finished_sweep_prints_the_same_table_without_training(swept):
    experiment, table = swept
    before = contents(experiment.run / "tune" / "step-1-seed1")
    assert experiment.finish("train").stdout == table
    assert contents(experiment.run / "tune" / "step-1-seed1") == before


def test_a_sweep_in_one_piece_comes_to_the_same_and_looks_at_no_test_question(swept, tmp_path):
    experiment, table = swept
    other = Experiment(tmp_path, SWEEP)
    other.inject(NOTES_WHO_ASKS_FOR_TEST_QUESTIONS)
    assert without_places(other.finish("train").stdout) == without_places(table)
    assert len([*tmp_path.glob("*.asked")]) == 1, "trials ask for test questions, or recording does not"


def test_the_best_config_trains_on_all_training_questions_and_tests(swept, tmp_path):
    experiment, table = swept
    file = experiment.run / "best.yaml"
    assert f"python -m mpdf_rllib.train --config {file}" in table
    best, sweeping = load_config(file), experiment.load()
    assert (best.name, best.run_path) == (f"{sweeping.name}-best", experiment.run.with_name("run-best"))
    assert (best.recording_url, best.sweep) == (sweeping.recording_url, None)
    once = Experiment(tmp_path, yaml.safe_load(file.read_text()))
    once.recording = experiment.recording
    trained = once.finish("train", "--set", "seeds=1")
    assert "12 held-out questions" in trained.stdout and "SoftRankPO, paper's credit" in trained.stdout
    last = json.loads((once.trial(0) / "result.json").read_text().splitlines()[-1])
    assert last["env_runners"]["num_env_steps_sampled_lifetime"] == ITERATIONS * 24 * 3
    assert last["config"]["lr"] == best.algorithm.lr and "validation_accuracy" not in last


def test_another_sweep_in_the_same_run_folder_is_refused_by_name(swept):
    experiment, _ = swept
    before = contents(experiment.run)
    ended = experiment.finish("train", "--set", "sweep.space.lr.grid=[0.1]", status=2)
    assert "another sweep.space.lr.grid;" in ended.stderr and "--fresh" in ended.stderr
    assert contents(experiment.run) == before

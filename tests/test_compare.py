"""The comparison in processes, on a scripted engine: all rows, files that agree, and runs that go on."""

import csv
import html
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from process_fixtures import CONFIG, Experiment, without_places
from pydantic import ValidationError

from mpdf_rllib.algorithms.checkpoints import load_module
from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.baselines.system import Panel, together
from mpdf_rllib.compare import compare, experiments, sets_of
from mpdf_rllib.comparison.played import read_played
from mpdf_rllib.comparison.systems import play_systems, rows_of
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.engine import run
from mpdf_rllib.envs.debate import ACTIONS
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.policies import play_policies
from mpdf_rllib.questions import Question
from mpdf_rllib.record import record

SMALL = {
    "seeds": 1,
    "token_prices": [0, 0.01],
    "dylan": {"candidates": 4, "layers": 3, "questions": 4},
    "gptswarm": {"agents": 3, "iterations": 2, "batch": 2},
    "agentprune": {"agents": 3, "iterations": 2, "batch": 2},
    "aflow": {"rounds": 3, "validation": 4},
}
ALGORITHM = CONFIG["algorithm"] | {"iterations": 2, "epochs": 2, "minibatch_size": 32}
COMPARED = CONFIG | {"algorithm": ALGORITHM, "compare": SMALL}
PUBLISHED = ["Vanilla", "CoT", "SC, 3 samples", "SC, 9 samples", "SC at MPDF's tokens", "PHP", "LLM-Debate"]
LEARNED = ["DyLAN (ranked by token probability)", "GPTSwarm", "AgentPrune", "AFlow (edits enumerated)"]
POLICIES = ["MPDF, warm start", "MPDF, PPO", "MPDF, GRPO", "MPDF, SoftRankPO"]
BOUNDS = ["informed ceiling (cross-fitted, sees all)", "oracle (some solution is right)"]
SYSTEMS = PUBLISHED + LEARNED + POLICIES + BOUNDS
PRICED = [f"MPDF, SoftRankPO (soft outcome), price {price}" for price in (0, 0.01)]
FAMILIES = CONFIG["questions"]["families"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> tuple[Experiment, str]:
    """A comparison that was killed while GRPO trained, and went on."""
    experiment = Experiment(tmp_path_factory.mktemp("compared"), COMPARED)
    experiment.kill_once(lambda: [*experiment.run.glob("tune-grpo/GRPO-seed1/checkpoint_*")], "compare")
    return experiment, experiment.finish("compare").stdout


def table(experiment: Experiment) -> list[dict[str, str]]:
    return list(csv.DictReader((experiment.run / "comparison/table.csv").open()))


def results_of(trial: Path) -> list[dict]:
    return [json.loads(line) for line in (trial / "result.json").read_text().splitlines()]


def test_the_table_has_every_system_on_every_family_and_in_the_mean(compared):
    experiment, printed = compared
    rows = table(experiment)
    assert [row["system"] for row in rows if row["set"] == "mean"] == SYSTEMS
    for system in SYSTEMS:
        of_system = {row["set"]: row for row in rows if row["system"] == system}
        assert [*of_system] == [*FAMILIES, "mean"]
        accuracies = [float(of_system[family]["accuracy"]) for family in FAMILIES]
        assert float(of_system["mean"]["accuracy"]) == pytest.approx(np.mean(accuracies))
        assert system in printed
        assert system in (experiment.run / "comparison/table.md").read_text()
    for priced in PRICED:
        assert priced in (experiment.run / "comparison/tokens.md").read_text()
    assert "GPTSwarm, seed 0: " in printed


def test_a_row_of_the_results_is_a_system_a_seed_and_a_question(compared):
    frame = pq.read_table(compared[0].run / "comparison/results.parquet").to_pandas()
    seeds = dict.fromkeys(SYSTEMS, 1) | dict.fromkeys(["Vanilla", "CoT", "PHP"], 3) | dict.fromkeys(POLICIES, 2)
    seeds |= dict.fromkeys(PRICED, 2)
    for system, number in seeds.items():
        rows = frame[frame["system"] == system]
        assert len(rows) == number * CONFIG["questions"]["test"]
        assert rows.groupby(["seed", "question"]).size().eq(1).all()
    assert set(frame["system"]) == set(seeds)
    assert set(frame["set"]) == set(FAMILIES)


def test_the_table_is_the_means_of_the_results(compared):
    experiment, _ = compared
    frame = pq.read_table(experiment.run / "comparison/results.parquet").to_pandas()
    columns = {"accuracy": "correct"} | {name: name for name in ("prompt_tokens", "cached_tokens", "generated_tokens")}
    for row in table(experiment):
        of_system = frame[frame["system"] == row["system"]]
        for column, values in columns.items():
            by_set = of_system.groupby("set")[values].mean()
            expected = by_set.mean() if row["set"] == "mean" else by_set[row["set"]]
            assert float(row[column]) == pytest.approx(expected)


def assert_played(experiment: Experiment, config: ExperimentConfig, system: str, paths: list[str], **how) -> None:
    """That a row of the results is what these checkpoints of the run folder come to, in their order."""
    frame = pq.read_table(experiment.run / "comparison/results.parquet").to_pandas()
    test = record(config).test
    ids = [question.id for question in test.questions]
    outcomes = play_policies(config, test, [config.run_path / path for path in paths], **how)
    for seed, outcome in enumerate(outcomes):
        of_seed = frame[(frame["system"] == system) & (frame["seed"] == seed)].set_index("question").loc[ids]
        assert of_seed["correct"].tolist() == outcome.correct.tolist()
        assert of_seed["prompt_tokens"].tolist() == outcome.tokens[:, 0].tolist()
        assert of_seed[[*ACTIONS]].to_numpy().tolist() == outcome.actions.tolist()


def test_a_policys_row_is_what_its_own_checkpoints_come_to(compared):
    experiment, _ = compared
    config = experiment.load()
    own = json.loads((experiment.run / "checkpoints.json").read_text())["step"]
    rivals = json.loads((experiment.run / "rivals.json").read_text())
    assert_played(experiment, config, "MPDF, SoftRankPO", own)
    assert_played(experiment, config, "MPDF, warm start", own, references=True)
    trained = {"MPDF, PPO": "PPO", "MPDF, GRPO": "GRPO", PRICED[0]: "0", PRICED[1]: "0.01"}
    for system, name in trained.items():
        assert_played(experiment, config, system, rivals[name])
        for seed, path in enumerate(rivals[name]):
            trial = (experiment.run / path).parent
            assert trial.name == f"{name}-seed{seed}"
            credit = results_of(trial)[-1]["config"]["env_config"]
            price = float(name) if name in ("0", "0.01") else None
            assert (credit["credit"], credit["token_price"]) == (("step", 0) if price is None else ("outcome", price))


def test_self_consistency_spends_as_much_as_the_policy_and_no_sample_more(compared):
    spent = {
        row["system"]: float(row["prompt_tokens"]) + float(row["generated_tokens"])
        for row in table(compared[0])
        if row["set"] == "mean"
    }
    frame = pq.read_table(compared[0].run / "comparison/results.parquet").to_pandas()
    samples = frame[frame["system"] == "CoT"].groupby("seed")[["prompt_tokens", "generated_tokens"]].mean().sum(axis=1)
    policy, equal = spent["MPDF, SoftRankPO"], spent["SC at MPDF's tokens"]
    assert policy <= equal < policy + samples.max()


def test_what_differs_in_one_setting_is_a_curve(compared):
    curves = [{*curve} for curve in read_played(compared[0].run / "comparison").curves.values()]
    assert curves == [{*PRICED}, {"CoT", "SC, 3 samples", "SC, 9 samples", "SC at MPDF's tokens"}]


def test_the_report_has_every_system_by_its_tokens_and_how_all_policies_learned(compared):
    report = compared[0].run / "report.html"
    tokens = compared[0].plot("Accuracy against tokens, with 95 % bootstrap intervals")
    points = [hover.split("<br>")[0] for trace in tokens["data"] for hover in trace["hovertext"]]
    assert sorted(points) == sorted(map(html.escape, SYSTEMS + PRICED))
    learned = {trace["name"] for trace in compared[0].plot("accuracy of sampled debates")["data"]}
    assert learned == {"SoftRankPO, paper&#x27;s credit", "PPO", "GRPO", "price 0", "price 0.01"}
    before = report.read_text()
    compared[0].finish_command("report", compared[0].run)
    assert report.read_text() == before


def test_the_report_opens_with_the_comparisons_table_and_the_trained_teams_debates(compared, opened):
    experiment, _ = compared
    page = opened(experiment.run / "report.html")
    first = page.locator("#results table").first
    assert [*map(html.unescape, first.locator("tbody td:first-child").all_inner_texts())] == SYSTEMS
    plot = page.locator("#tokens .plot").first
    plot.scroll_into_view_if_needed()
    plot.locator(".main-svg").first.wait_for()
    assert page.locator("#policy option").all_inner_texts() == ["SoftRankPO, paper's credit"]
    assert page.locator("#said").inner_text().startswith("The team answered")


def test_no_answer_passes_the_oracle(compared):
    frame = pq.read_table(compared[0].run / "comparison/results.parquet").to_pandas()

    def correct(system: str) -> np.ndarray:
        return frame[frame["system"] == system].groupby("question")["correct"].max().to_numpy()

    for system in ("SC, 3 samples", *POLICIES):
        assert (correct("oracle (some solution is right)") >= correct(system)).all()


def test_ppo_and_grpo_begin_as_softrankpo_and_make_as_many_updates(compared):
    experiment, _ = compared
    own = json.loads((experiment.run / "checkpoints.json").read_text())["step"]
    rivals = json.loads((experiment.run / "rivals.json").read_text())
    for seed in range(2):
        softrankpo, grpo = (load_module(experiment.run / paths[seed]) for paths in (own, rivals["GRPO"]))
        ppo = load_module(experiment.run / rivals["PPO"][seed])
        reference = softrankpo.reference.state_dict()
        for name, value in grpo.reference.state_dict().items():
            assert value.equal(reference[name])
            assert ppo.model_config["warm_start"][name].equal(reference[name])
        shapes = [{name: value.shape for name, value in m.policy.state_dict().items()} for m in (softrankpo, grpo, ppo)]
        assert shapes[0] == shapes[1] == shapes[2]

        def updates(folder: str, name: str, seed: int = seed) -> list[float]:
            results = results_of(experiment.run / folder / f"{name}-seed{seed}")
            learners = [result["learners"]["meta_policy"] for result in results]
            assert [result["config"]["seed"] for result in results] == [seed] * len(results)
            return [
                learner["num_module_steps_trained"] / result["config"]["minibatch_size"]
                for learner, result in zip(learners, results, strict=True)
            ]

        of_softrankpo, of_grpo, of_ppo = (
            updates("tune", "step"),
            updates("tune-grpo", "GRPO"),
            updates("tune-ppo", "PPO"),
        )
        assert of_softrankpo == of_grpo
        assert of_ppo == of_softrankpo[1:]  # the first is the warm start


def test_again_it_replays_and_trains_nothing(compared):
    experiment, printed = compared
    before, rivals = experiment.recorded(), (experiment.run / "rivals.json").stat().st_mtime_ns
    again = experiment.finish("compare")
    assert without_places(again.stdout) == without_places(printed)
    assert experiment.recorded() == before
    assert (experiment.run / "rivals.json").stat().st_mtime_ns == rivals


def test_the_dry_run_says_how_often_each_asks_at_most(compared):
    experiment, _ = compared
    said = experiment.finish("compare", "--dry-run").stdout
    assert "# processes: requests at most, to fit to 12 questions + to answer 12\n" in said
    numbers = re.findall(r"^#   (.*): ([\d,]+) \+ ([\d,]+|as many as the policy spends)$", said, re.MULTILINE)
    expected = {system: (fit, answer) for system, fit, answer in numbers}
    more = "more first answers, for `train`'s table"
    assert [*expected] == [*PUBLISHED, *LEARNED, "MPDF, all that any policy can ask", more]
    assert expected[more] == ("0", str(12 * 3))
    assert expected["LLM-Debate"] == ("0", str(12 * 3 * 2))
    assert expected["CoT"] == ("0", str(12 * 3))
    assert expected["MPDF, all that any policy can ask"] == (str(12 * 12),) * 2
    assert "Peer: {other}" in said and "Hint: the answer is near to {answer}, {answer}." in said


def test_each_set_is_trained_on_its_own_with_all_kinds_of_credit(tmp_path):
    """A price that is the experiment's own is its row, and no other."""
    sets = {name: CONFIG["questions"] | {"families": [name], "train": 10, "test": 6} for name in FAMILIES[::2]}
    credits = {"step": {}, "outcome": {"token_price": 0.01, "tie_tolerance": 0.1}}
    own = ALGORITHM | {"credits": credits, "warm_start_iterations": 1, "iterations": 1}
    experiment = Experiment(tmp_path, COMPARED | {"seeds": 1, "algorithm": own, "compare": SMALL | {"sets": sets}})
    experiment.finish("compare")
    rows = table(experiment)
    assert [row["set"] for row in rows[:3]] == [*sorted(sets), "mean"]
    softrankpo = SYSTEMS.index("MPDF, SoftRankPO")
    assert [row["system"] for row in rows[::3]] == [
        *SYSTEMS[:softrankpo],
        "MPDF, SoftRankPO (soft outcome)",
        *SYSTEMS[softrankpo:],
    ]
    by_tokens = (experiment.run / "comparison/tokens.md").read_text()
    assert "price 0 " in by_tokens and "price 0.01 " not in by_tokens
    tokens = experiment.plot("Accuracy against tokens, with 95 % bootstrap intervals")
    points = {hover.split("<br>")[0] for trace in tokens["data"] for hover in trace["hovertext"]}
    assert points == {*map(html.escape, [*SYSTEMS, "MPDF, SoftRankPO (soft outcome)", PRICED[0]])}
    for name, of_set in experiments(experiment.load()):
        assert f'href="sets/{name}/report.html"' in (experiment.run / "report.html").read_text()
        assert (of_set.run_path / "report.html").read_text().count('id="question-0-') == sets[name]["test"]
        own = json.loads((of_set.run_path / "checkpoints.json").read_text())
        assert_played(experiment, of_set, "MPDF, SoftRankPO", own["step"])
        assert_played(experiment, of_set, "MPDF, SoftRankPO (soft outcome)", own["outcome"])


@pytest.mark.parametrize(
    ("key", "value"), [("live", True), ("sweep", {"space": {"lr": {"grid": [1e-3, 1e-2]}}, "validation": 0.25})]
)
def test_what_cannot_be_compared_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"{key}: systems are compared on recorded debates"):
        compare(ExperimentConfig.model_validate(COMPARED | {key: value}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"compare": {"sets": {"mean": CONFIG["questions"]}}}, "mean is what the mean over the sets is called"),
        (
            {"compare": {"sets": {"sums": CONFIG["questions"]}}, "algorithm": ALGORITHM | {"left_out": ["option_0"]}},
            "option_0",
        ),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(changed, message):
    with pytest.raises(ValidationError, match=message):
        ExperimentConfig.model_validate(COMPARED | changed)


def test_policies_that_agents_do_not_share_are_refused():
    own = ExperimentConfig.model_validate(COMPARED | {"algorithm": ALGORITHM | {"policies": "per_agent"}})
    with pytest.raises(ConfigError, match="algorithm.policies: per_agent: PPO begins with one policy"):
        compare(own)


def test_advisors_rate_and_propose(tmp_path):
    places = {"run_folder": str(tmp_path / "run"), "recording": str(tmp_path / "recording")}
    advised = COMPARED | places | {"compare": SMALL | {"ranker": "judge", "proposer": "planner"}}
    config = ExperimentConfig.model_validate(advised)
    rows = rows_of(config, tokens=100.0)
    results = play_systems(config, rows, config.questions_of("train"), config.questions_of("test"))
    assert [result.system for result in results] == [*PUBLISHED, "DyLAN", "GPTSwarm", "AgentPrune", "AFlow"]
    asked = pq.read_table(tmp_path / "recording").to_pandas()
    assert (asked["question"] == "aflow").sum() == 3 * SMALL["aflow"]["rounds"]  # what it says is no workflow
    assert asked["prompt"].str.contains("Rate each solution").sum() > 0


@pytest.mark.model
def test_all_systems_ask_a_real_model(vllm_engine):
    small = SMALL | {"dylan": {"candidates": 4, "layers": 3, "questions": 2}, "aflow": {"rounds": 2, "validation": 2}}
    values = COMPARED | {"team": {"critic": False, "prompt": "completion"}, "compare": small}
    config = ExperimentConfig.model_validate(values | {"engine": {"kind": "vllm"}})
    panel = Panel(config.make_team(), vllm_engine)
    train, test = config.questions_of("train")[:3], config.questions_of("test")[:3]
    systems = [system for row in rows_of(config, tokens=500.0) for system in row]

    async def play() -> list[Outcome]:
        await together(system.fit(panel, train) for system in systems)
        return await together(system.answer(panel, test) for system in systems)

    for system, end in zip(systems, run(play()), strict=True):
        prompt, cached, generated = end.tokens.sum(0)
        assert 0 < generated <= system.requests(3).answer * 14 * 3 or system.label == "SC at MPDF's tokens"
        assert 0 <= cached <= prompt and prompt > 0
        assert not end.failed.any()


@pytest.mark.parametrize(
    ("sources", "sets"),
    [
        (["addition", "addition"], ["mine", "mine"]),
        (["addition", "/a/own.yaml", "addition"], ["addition", "own", "addition"]),
        (["/a/own.yaml", "/b/own.yaml", "/a/own.yaml"], ["/a/own.yaml", "/b/own.yaml", "/a/own.yaml"]),
    ],
)
def test_questions_are_of_the_sets_of_their_prompts(sources, sets):
    questions = [Question(str(i), "1 + 1", "2", "number", source) for i, source in enumerate(sources)]
    assert sets_of(questions, "mine") == sets

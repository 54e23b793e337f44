"""Claims held against what was measured: statistics against scipy and by hand, verdicts, and a whole study."""

import functools
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from debate_fixtures import random_tree
from process_fixtures import CONFIG, ENVIRONMENT, REPOSITORY, Experiment
from result_fixtures import system
from safetensors.torch import load_file
from scipy.stats import mannwhitneyu

from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork
from mpdf_rllib.bootstrap import Estimate
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.envs.answer_classes import UNPARSED
from mpdf_rllib.envs.debate import PERSIST, REFINE
from mpdf_rllib.envs.debate_batch import Rules
from mpdf_rllib.envs.features import DEBATE_FEATURES, NUMBERS, solution_table
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.record import replay
from mpdf_rllib.recorded_trees import RecordedTrees
from mpdf_rllib.studies import statistics
from mpdf_rllib.studies.claims import FAILS, HOLDS, OPEN, verdict
from mpdf_rllib.studies.confidence import Confidence, confidences_of
from mpdf_rllib.studies.config import ClaimConfig, load_study, packaged_studies
from mpdf_rllib.studies.page import with_section
from mpdf_rllib.studies.playing import PlayedArm
from mpdf_rllib.studies.rules import play_rule
from mpdf_rllib.studies.training import jobs_of, trees_key
from mpdf_rllib.studies.training_cost import training_tokens

SETS = ["easy"] * 60 + ["hard"] * 30
IS_EASY = np.array(SETS) == "easy"


def arm(easy: float, hard: float, seed: int, seeds: int = 10, **kwargs) -> PlayedArm:
    """Made-up outcomes with these accuracies in the two sets."""
    chance = np.where(IS_EASY, easy, hard)
    correct = np.random.default_rng(seed).random((seeds, len(SETS))) < chance
    return PlayedArm(system("arm", *correct, **kwargs), [f"q{i}" for i in range(len(SETS))], SETS, [])


GOOD, FAIR = arm(0.9, 0.5, 1), arm(0.8, 0.4, 2)


def test_the_interquartile_mean_is_of_the_middle_half_of_all_runs_scores():
    scores = sorted(GOOD.result.correct[:, IS_EASY].mean(1)) + sorted(GOOD.result.correct[:, ~IS_EASY].mean(1))
    middle = sorted(scores)[5:-5]
    found = statistics.interquartile_mean(GOOD)
    assert found.mean == pytest.approx(np.mean(middle))
    assert found.low < found.mean < found.high


def test_the_probability_of_improvement_is_mann_whitneys():
    expected = []
    for chosen in (IS_EASY, ~IS_EASY):
        one, two = GOOD.result.correct[:, chosen].mean(1), FAIR.result.correct[:, chosen].mean(1)
        expected.append(mannwhitneyu(one, two).statistic / 100)
    found = statistics.probability_of_improvement(GOOD, FAIR)
    assert found.mean == pytest.approx(np.mean(expected))
    assert 0.5 < found.low <= found.mean <= found.high <= 1
    assert statistics.probability_of_improvement(FAIR, GOOD).mean == pytest.approx(1 - np.mean(expected))
    assert statistics.probability_of_improvement(GOOD, GOOD).mean == 0.5


@pytest.mark.parametrize(
    "measure", ["accuracy", "tokens", "generated_tokens", "persist", "refine", "concede", "spread"]
)
def test_an_arm_differs_in_nothing_from_itself(measure):
    assert statistics.difference(GOOD, GOOD, measure) == (0, 0, 0)


def test_estimates_are_means_in_intervals_of_the_standard_error():
    for measure, expected in (
        ("accuracy", GOOD.result.correct.mean()),
        ("tokens", GOOD.result.tokens[0] + 10),
        ("generated_tokens", 10),
        ("spread", GOOD.result.correct.mean(1).std(ddof=1)),
    ):
        found = statistics.estimate(GOOD, measure)
        assert found.mean == pytest.approx(expected) and found.low <= found.mean <= found.high + 1e-9
    found = statistics.estimate(GOOD, "accuracy")
    by_question = GOOD.result.correct.mean(0)
    within = sum(by_question[chosen].var() * chosen.sum() for chosen in (IS_EASY, ~IS_EASY)) / len(SETS) ** 2
    of_seeds = GOOD.result.correct.mean(1).var() / 10
    assert (found.high - found.low) / 4 == pytest.approx((within + of_seeds) ** 0.5, rel=0.3)


def test_the_share_won_is_of_the_way_from_floor_to_ceiling():
    floor, ceiling = arm(0.5, 0.1, 3), arm(1, 1, 4)
    low, own, high = (each.result.correct.mean() for each in (floor, GOOD, ceiling))
    found = statistics.share_won(GOOD, floor, ceiling)
    assert found.mean == pytest.approx((own - low) / (high - low)) and found.low < found.mean < found.high
    assert statistics.share_won(floor, floor, ceiling) == (0, 0, 0)
    assert statistics.share_won(GOOD, floor, floor) is None, "there is no way"


def test_confidences_are_held_against_correctness():
    rng = np.random.default_rng(0)
    train, test = (random_tree(rng, agents=3, rounds=2, questions=40) for _ in range(2))
    entry = [feature.name for feature in test.table].index("critic_correct")

    def found_in(verdicts: np.ndarray | float) -> dict[str, Confidence]:
        train.features[..., entry], test.features[..., entry] = 0.5, verdicts
        return {each.name: each for each in confidences_of(RecordedTrees(train, test, test))}

    judged = found_in(test.correct + rng.normal(0, 0.5, test.correct.shape))
    roots = [0, 3, 6]
    assert judged["critic"].of_first.mean == pytest.approx(
        roc_auc(test.correct[:, roots], test.features[:, roots, entry])
    )
    assert 0.7 < judged["critic"].of_all.low < judged["critic"].of_all.mean < judged["critic"].of_all.high < 1

    found = found_in(0.5)
    assert judged.keys() - found.keys() == {"critic"} and found.keys() - judged.keys() >= {"mean log-probability"}
    assert found["mean log-probability"].of_all.mean == pytest.approx(roc_auc(test.correct, test.confidence))

    share = np.zeros((40, 3))
    for q, first in itertools.product(range(40), range(3)):
        own, *below = test.answer_class[q, 3 * first : 3 * first + 3]
        share[q, first] = np.mean([own == other for other in below]) if own != UNPARSED else 0
    agreement = found["agreement of its refinements"]
    assert agreement.of_first.mean == pytest.approx(roc_auc(test.correct[:, roots], share))
    assert agreement.of_all is None
    assert found["mean log-probability"].generated == pytest.approx(test.tokens[..., 2].mean())
    assert agreement.tokens == pytest.approx(3 * (test.tokens[..., 0] + test.tokens[..., 2]).mean())
    for fitted in ("all of a solution's z, logistic", "all of a solution's z, boosted"):
        assert 0.3 < found[fitted].of_all.mean < 1


def test_what_models_report_of_themselves_stands_beside_their_log_probabilities():
    rng = np.random.default_rng(0)
    train, test = (random_tree(rng, agents=3, rounds=1, questions=40) for _ in range(2))
    for tree in (train, test):
        tree.table = solution_table(self_report=True)
        tree.features = rng.random((*tree.correct.shape, len(tree.table)), np.float32)
    names = [feature.name for feature in test.table]
    test.features[..., names.index("critic_correct")] = 0.5
    reported = test.features[..., names.index("reported_confidence")]
    found = {each.name: each for each in confidences_of(RecordedTrees(train, test, test))}
    assert found["the model's own report"].of_all.mean == pytest.approx(roc_auc(test.correct, reported))
    assert found["mean log-probability"].of_all.mean == pytest.approx(roc_auc(test.correct, test.confidence))


def roc_auc(correct: np.ndarray, score: np.ndarray) -> float:
    return mannwhitneyu(score[correct], score[~correct]).statistic / (correct.sum() * (~correct).sum())


@pytest.mark.parametrize("agents", [2, 4])
def test_training_asks_for_what_its_debates_visit_and_for_groups_of_actions_for_the_alternatives(agents):
    tree = random_tree(np.random.default_rng(0), agents, rounds=3)

    def asked(action: int, passes: int, alternatives: bool) -> float:
        always = MetaPolicyNetwork(len(NUMBERS) + len(DEBATE_FEATURES), network="linear")
        with torch.no_grad():
            always.weights.weight.zero_()
            always.bias.weight[action] = 100.0
        return training_tokens(tree, always, Rules(), passes, alternatives)

    def tokens(depth: int) -> float:
        return tree.tokens[:, tree.depth <= depth, 2].sum(1).mean()

    assert asked(PERSIST, 1, alternatives=False) == pytest.approx(tokens(0))
    assert asked(PERSIST, 1, alternatives=True) == pytest.approx(tokens(1))
    assert asked(REFINE, 1, alternatives=False) == pytest.approx(tokens(3))
    assert asked(PERSIST, 5, alternatives=True) == pytest.approx(tokens(1)), "the same again costs nothing"


def test_arms_on_other_questions_are_compared_without_pairs():
    other = PlayedArm(GOOD.result, [f"other{i}" for i in range(len(SETS))], SETS, [])
    assert statistics.difference(GOOD, GOOD, "accuracy") == (0, 0, 0)
    apart, alone = statistics.difference(GOOD, other, "accuracy"), statistics.estimate(GOOD, "accuracy")
    assert apart.mean == 0
    assert (apart.high - apart.low) / (alone.high - alone.low) == pytest.approx(2**0.5, rel=0.1)


def test_the_interval_of_the_spread_is_of_the_seeds():
    rng, held = np.random.default_rng(5), 0
    for number in range(60):
        seeds = np.clip(0.7 + 0.05 * rng.normal(size=10), 0, 1)
        correct = np.random.default_rng(number).random((10, 2000)) < seeds[:, None]
        many = PlayedArm(system("arm", *correct), [f"q{i}" for i in range(2000)], ["all"] * 2000, [])
        found = statistics.estimate(many, "spread")
        held += found.low <= (0.05**2 + 0.7 * 0.3 / 2000) ** 0.5 <= found.high
    assert 40 < held < 60  # percentile intervals of ten are too narrow, and not too wide


@pytest.mark.parametrize(
    ("expected", "gap", "said"),
    [
        ("more", (0.02, 0.01, 0.03), HOLDS),
        ("more", (0.01, -0.01, 0.03), OPEN),
        ("more", (-0.02, -0.03, -0.01), FAILS),
        ("more", (0.0, -0.005, 0.005), FAILS),
        ("more", (0.003, 0.001, 0.005), HOLDS),
        ("less", (-0.02, -0.03, -0.01), HOLDS),
        ("less", (0.02, 0.01, 0.03), FAILS),
        ("less", (0.01, -0.03, 0.05), OPEN),
        ("equal", (0.001, -0.005, 0.005), HOLDS),
        ("equal", (0.001, -0.02, 0.02), OPEN),
        ("equal", (0.03, 0.02, 0.04), FAILS),
        ("equal", (-0.03, -0.04, -0.02), FAILS),
        ("equal", (0.015, 0.005, 0.02), OPEN),
        ("more", (np.nan, np.nan, np.nan), OPEN),
    ],
)
def test_verdicts(expected, gap, said):
    claim = ClaimConfig(says="so", source="ours", arm="a", expected=expected, than="b", within=0.01)
    assert verdict(claim, Estimate(*gap)) == said


def test_an_equal_measure_other_than_accuracy_says_what_is_equal():
    claim = {"says": "so", "source": "ours", "arm": "a", "expected": "equal", "than": "b"}
    assert ClaimConfig(**claim).margin == 0.01
    with pytest.raises(ValueError, match="within: missing"):
        ClaimConfig(**claim, measure="spread")


def test_a_page_that_is_another_is_not_replaced():
    with pytest.raises(ValueError):
        with_section("# Another page\n", "tau", "text\n", [])


def test_a_section_takes_its_place_on_the_page_and_leaves_the_others():
    order = ["first", "second", "third"]
    page = ""
    for name, text in (
        ("third", "3\n"),
        ("first", "1\n"),
        ("one of mine", "o\n"),
        ("second", "2\n"),
        ("first", "one\n"),
    ):
        page = with_section(page, name, text, order)
    texts = ["one", "2", "3", "o"]
    assert [line for line in page.splitlines() if line in (*texts, "1")] == texts
    assert with_section(page, "third", "3\n", order) == page


@pytest.mark.parametrize("path", packaged_studies(), ids=lambda path: path.stem)
def test_packaged_studies_have_ten_seeds_and_arms_that_differ(path):
    study = load_study(path.stem)
    assert study.experiment.seeds >= 10
    for one, two in itertools.combinations(study.arms, 2):
        first, second = ((a.trained, a.played, a.config.model_copy(update={"set": {}, "test": {}})) for a in (one, two))
        assert first != second, f"{one.name} is {two.name}"


@pytest.mark.model
@pytest.mark.parametrize(
    "name", ["agents", "confidence", "held_out", "mixed_teams", "models", "rounds", "self_report", "transfer"]
)
def test_what_the_models_said_is_in_the_repository(name):
    configs = [config for arm in load_study(name).arms for config in (arm.trained, arm.played)]
    for config in {trees_key(config): config for config in configs}.values():
        assert replay(config).digest


@pytest.mark.model
def test_so_is_what_they_said_to_llm_debate(monkeypatch):
    without_engine = functools.partialmethod(ExperimentConfig.make_engine, replay_only=True)
    monkeypatch.setattr(ExperimentConfig, "make_engine", without_engine)
    arms = [arm for arm in load_study("tokens").arms if arm.config.system == "LLM-Debate"]
    assert len(arms) == 2
    for arm in arms:
        assert 0 < play_rule("LLM-Debate", replay(arm.played), arm.played).accuracy < 1


def test_every_interval_among_the_readmes_claims_is_on_the_page():
    interval = re.compile(r"\[(-?[.\d]+), (-?[.\d]+)\]")
    readme, page = ((REPOSITORY / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md"))
    claims = readme.split("## The paper's claims, run again")[1].split("\n## ")[0]
    on_page = {(float(low), float(high)) for low, high in interval.findall(page)}
    turned = {(-high, -low) for low, high in on_page}  # a loss told as a gain
    told = {match[0]: (float(match[1]), float(match[2])) for match in interval.finditer(claims)}
    assert len(told) > 50
    assert [text for text, ends in told.items() if ends not in on_page | turned] == []


STUDY = {
    "title": "A study",
    "paper": "nowhere",
    "question": "What is better?",
    "prediction": "None.",
    "experiment": "config.yaml",
    "set": {"algorithm.iterations": 2},
    "arms": {
        "warm start": {"system": "warm start"},
        "PPO": {"algorithm": "PPO"},
        "GRPO": {"algorithm": "GRPO"},
        "SoftRankPO": {},
        "vote": {"answer": "calibrated vote"},
        "surest": {"answer": "highest confidence"},
        "best": {"test": {"team.answer": "most_confident"}},
        "best, rewarded": {"set": {"team.answer": "most_confident"}},
        "outcome": {"set": {"algorithm.credits": {"outcome": {}}}},
        "schedule": {"system": "best fixed schedule", "set": {"team.answer": "most_confident"}},
        "likelihood": {"set": {"team.peer_likelihood": True}},
        "other test": {"test": {"questions.families": ["addition"], "questions.test": 6}},
        "plurality": {"system": "plurality"},
        "oracle": {"system": "oracle"},
        "LLM-Debate": {"system": "LLM-Debate"},
    },
    "confidences": True,
    "reference": "SoftRankPO",
    "curves": ["accuracy", "log_ratio"],
    "headroom": {"floor": "plurality", "ceiling": "oracle"},
    "claims": [
        {"says": "Ranks win", "source": "paper", "arm": "SoftRankPO", "expected": "more", "than": "GRPO"},
        {"says": "All know", "source": "ours", "arm": "SoftRankPO", "expected": "less", "than": "oracle"},
        {
            "says": "It goes",
            "source": "ours",
            "arm": "PPO",
            "expected": "more",
            "than": "GRPO",
            "measure": "log_ratio",
        },
    ],
}


CLAIM = STUDY["claims"][0]


def _arm(name: str, **config) -> dict:
    return {"arms": STUDY["arms"] | {name: config}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reference": "GRPO2"}, "'GRPO2' is no arm; there are warm start, PPO"),
        ({"arms": {"SoftRankPO": {"system": "plurarity"}}}, "'plurarity': known: policy, warm start, plurality"),
        ({"set": {"algorithm.taw": 1}}, "algorithm.taw: unknown key; did you mean tau?"),
        ({"titel": "Another"}, "titel: unknown key; did you mean title?"),
        (
            {"arms": {"SoftRankPO": {"algoritm": "GRPO"}}},
            "SoftRankPO.algoritm: unknown key; did you mean algorithm?",
        ),
        ({"arms": {"SoftRankPO": {"system": "oracle", "answer": "calibrated vote"}}}, "oracle is a rule"),
        (
            {"arms": {"SoftRankPO": {"system": "oracle", "budget": 40}}},
            "budget: oracle has no threshold; known for: ref",
        ),
        ({"arms": {"SoftRankPO": {"test": {"algorithm.tau": 1}}}}, "algorithm.tau: it says how a policy learns"),
        ({"claims": [CLAIM | {"than": "SoftRankPO"}]}, "compares SoftRankPO with itself"),
        ({"claims": [CLAIM | {"than": "oracle", "measure": "persist"}]}, "oracle is a rule"),
        ({"claims": [CLAIM | {"than": "vote", "measure": "log_ratio"}]}, "played as they are trained"),
        ({"set": {"seeds": 1}}, "seeds: 1: intervals over seeds need two"),
        ({"set": {"algorithm.credits": {"step": {}, "outcome": {}}}}, "an arm has one; give one"),
        ({"set": {"algorithm.policies": "per_agent"}}, "per_agent: all agents of an arm share a policy"),
        ({"claims": [CLAIM | {"expected": "bigger"}]}, "claims.0.expected: 'bigger': Input should be 'more', 'less'"),
        (_arm("rollouts", algorithm="RolloutGRPO", set={"algorithm.passes": 1}), "passes: 1: RolloutGRPO compares"),
        (_arm("likely", test={"team.peer_likelihood": True}), "arm likely: test: team.peer_likelihood: its solutions"),
        (_arm("longer", system="best fixed schedule", test={"team.rounds": 4}), "team.rounds: 4: the schedule is"),
    ],
)
def test_what_is_wrong_with_a_study_is_named(tmp_path, changed, said):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | changed, sort_keys=False))
    with pytest.raises(ConfigError, match="study") as refused:
        load_study(str(path))
    assert said in str(refused.value)


def test_what_is_wrong_with_an_arm_is_named_with_the_arm(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | {"set": {"algorithm.lr": -1}}, sort_keys=False))
    with pytest.raises(ConfigError, match="arm warm start:\n  algorithm.lr: -1: input should be greater than 0"):
        load_study(str(path))


def test_a_study_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigError, match="study objective: .* give one of .*objectives"):
        load_study("objective")


def test_a_whole_study_trains_what_training_trains_and_only_once(tmp_path):
    experiment = Experiment(tmp_path, CONFIG)
    path, page = tmp_path / "study.yaml", tmp_path / "docs" / "page.md"
    path.write_text(yaml.safe_dump(STUDY, sort_keys=False))

    def run(*options: str, status: int = 0) -> str:
        places = [f"--set=run_folder={experiment.run}", f"--set=recording={experiment.recording}"]
        command = [sys.executable, "-m", "mpdf_rllib.experiment", str(path), "--results", str(page), *places, *options]
        ended = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True)
        assert ended.returncode == status, ended.stderr
        return ended.stdout

    said = run()
    written = page.read_text()
    for claim in STUDY["claims"]:
        assert f"- {claim['says']} (" in said and f"- {claim['says']} (" in written
    assert "What is better?" in written and "2 seeds; 12 training and 6 or 12 test questions" in written
    assert all(f"| {name} |" in written for name in STUDY["arms"])
    assert "| SoftRankPO | multiplication |" in written
    assert written.count("| agreement of its refinements |") == 2, "of each set of solutions once"
    assert "| likelihood | likelihood under the others' prompts | " in written
    final = re.findall(r"\| SoftRankPO \|.* (\.?\d+) ± [\d.]+ \|\n", written)[0]
    assert written.count(f"| SoftRankPO | {final} [") == 1, "curves end with what is in the table"
    policies = {folder: folder.stat().st_mtime_ns for folder in (experiment.run / "studies").iterdir()}
    assert len(policies) == 6 * 2, "other answers and other test questions need no other policy"

    run()
    assert page.read_text() == written
    assert {folder: folder.stat().st_mtime_ns for folder in (experiment.run / "studies").iterdir()} == policies

    experiment.finish("train", "--set", "algorithm.iterations=2")
    overrides = [f"run_folder={experiment.run}", f"recording={experiment.recording}"]
    (arm,) = (each for each in load_study(str(path), overrides).arms if each.name == "SoftRankPO")
    for seed, job in enumerate(jobs_of(arm, {trees_key(arm.trained): replay(arm.trained)})):
        assert job.folder in policies
        ours = load_file(job.folder / "policy" / "model.safetensors")
        tunes = load_file(experiment.run / "policies" / f"step-seed{seed}" / "model.safetensors")
        assert all((ours[name] == tunes[name]).all() for name in ours | tunes)

    run("--fresh", "--set=seeds=3")
    after = {folder: folder.stat().st_mtime_ns for folder in (experiment.run / "studies").iterdir()}
    assert len(after) == 6 * 3 and not {*after.items()} & {*policies.items()}
    assert "3 seeds" in page.read_text() and "in all arms algorithm.iterations 2, " in page.read_text()

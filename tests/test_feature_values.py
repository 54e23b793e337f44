"""What features tell of correctness, and policies that do not see some of them."""

import re

import numpy as np
import pytest
import torch
import yaml
from debate_fixtures import FEATURES, random_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mpdf_rllib import cli, evaluate, train
from mpdf_rllib.algorithms.checkpoints import load_modules
from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork
from mpdf_rllib.config_file import load_config
from mpdf_rllib.envs.features import IS_TARGET, entries_of
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.feature_values import auroc, auroc_of_each, leave_each_out, parts_of
from mpdf_rllib.record import record

TREES = st.integers(0, 2**32 - 1).map(lambda seed: random_tree(np.random.default_rng(seed), 3, 2, questions=6))


@settings(deadline=None, max_examples=30)
@given(TREES)
def test_auroc_is_scikit_learns(tree):
    if tree.correct.all() or not tree.correct.any():
        return
    for score in (tree.confidence, tree.features[..., 0], np.zeros(tree.correct.shape)):
        estimate = auroc(score, tree.correct)
        assert estimate.mean == pytest.approx(roc_auc_score(tree.correct.ravel(), score.ravel()))
        assert estimate.low <= estimate.mean <= estimate.high


def test_intervals_are_over_questions():
    """Solutions of one question say the same again: eight of each make the interval no narrower."""
    rng = np.random.default_rng(0)
    score, correct = rng.random((60, 1)), rng.random((60, 1)) < 0.5
    once, often = (auroc(np.tile(score, repeats), np.tile(correct, repeats)) for repeats in (1, 8))
    assert once == pytest.approx(often)
    rows = rng.integers(60, size=(2000, 60))
    resampled = [roc_auc_score(correct[row, 0], score[row, 0]) for row in rows]
    assert (once.low, once.high) == pytest.approx(tuple(np.quantile(resampled, (0.025, 0.975))), abs=0.02)


@pytest.mark.parametrize("correct", [True, False])
def test_without_contrast_there_is_nothing_to_tell(correct):
    assert auroc(np.random.default_rng(0).random((4, 3)), np.full((4, 3), correct)) is None


def test_every_entry_that_says_something_of_a_solution_is_judged():
    tree = random_tree(np.random.default_rng(1), 3, 2, questions=40)
    tree.features[..., 3] = tree.correct
    tree.answer_class[:, tree.roots] = np.where(tree.correct[:, tree.roots], 0, [1, 2, 3])
    found = {feature.name: estimate for feature, estimate in auroc_of_each(tree)}
    assert [*found] == [f.name for f in FEATURES if f.name not in ("round", "same_answer", "is_target")]
    assert found[tree.table[3].name].mean == 1
    assert found["agreement"].low > 0.6
    assert found["steps"].low < 0.5 < found["steps"].high


def test_parts_and_entries_are_left_out_by_name():
    names = [feature.name for feature in FEATURES]
    assert entries_of(["z_conf", "depth"], FEATURES) == sorted(
        [names.index("critic_correct"), names.index("critic_entropy"), names.index("depth")]
    )
    assert entries_of([], FEATURES) == []
    with pytest.raises(ConfigError, match=r"left_out: 'z_foo': no part or entry of z; give some of z_ans, "):
        entries_of(["z_foo"], FEATURES)


def test_a_policy_does_not_see_what_is_left_out():
    torch.manual_seed(0)
    left_out = entries_of(["z_lp", "social"], FEATURES)
    network = MetaPolicyNetwork(len(FEATURES), 16, 2, left_out)
    states = {
        "own": torch.rand(64, len(FEATURES)),
        "peers": torch.rand(64, 3, len(FEATURES)),
        "peer_mask": torch.ones(64, 3),
        "action_mask": torch.ones(64, 5),
    }
    logits = network(states)
    for key in ("own", "peers"):
        other = states[key].clone()
        other[..., left_out] = torch.rand_like(other[..., left_out])
        assert torch.equal(network(states | {key: other}), logits)
        seen = states[key].clone()
        seen[..., 0] += 1
        assert not torch.allclose(network(states | {key: seen}), logits)

    marked = {**states, "peers": states["peers"].clone(), "action_mask": torch.ones(64, 3)}
    marked["peers"][..., IS_TARGET] = torch.tensor([1.0, 0, 0])
    conceding = network(marked)[:, 2]
    marked["peers"][..., IS_TARGET] = torch.tensor([0, 1.0, 0])
    assert not torch.allclose(network(marked)[:, 2], conceding)


@pytest.mark.usefixtures("ray_instance")
def test_the_command_prints_both_tables_and_trains_once(tmp_path, capsys, monkeypatch):
    path = tmp_path / "config.yaml"
    values = {
        "name": "features",
        "run_folder": str(tmp_path / "run"),
        "recording": str(tmp_path / "recording"),
        "seeds": 1,
        "questions": {"families": ["multiplication", "addition"], "train": 20, "test": 20},
        "team": {"prompt": "completion", "rounds": 1},
        "engine": {"kind": "scripted"},
        "algorithm": {"iterations": 1, "warm_start_iterations": 1, "epochs": 1, "dim": 8},
    }
    path.write_text(yaml.safe_dump(values))
    config = load_config(path)
    train.train(config)
    arguments = ["--config", str(path), "--features"]
    assert cli.main(evaluate._arguments(), evaluate._command, arguments) == 0
    printed = capsys.readouterr().out
    for part in ("z_ans", "z_prof", "z_conf", "z_lp", "chain", "social", "round"):
        assert re.search(rf"^ ?{part}\s+\.?\d", printed, re.MULTILINE), part
    assert re.search(r"^ ?z_conf\s+critic_correct\s+[\d.]+ \[", printed, re.MULTILINE)

    for part in ("everything", *parts_of(FEATURES)):
        last = max((tmp_path / "run/ablations/tune" / f"{part}-seed0").glob("checkpoint_*"))
        [module] = load_modules(last, config.team.size)
        hidden = [f.name for f, seen in zip(FEATURES, module.policy.seen.tolist(), strict=True) if not seen]
        assert hidden == [f.name for f in FEATURES if f.part == part]

    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*.pt"))
    everything, *others = leave_each_out(config, record(config))
    assert len(others) == 7
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*.pt")) == before

    tried = {}
    monkeypatch.setattr("mpdf_rllib.feature_values.run_trials", lambda _, settings, __: tried.update(settings) or {})
    partly = load_config(path, ["algorithm.left_out=[z_lp, depth]", f"run_folder={tmp_path}/partly"])
    assert leave_each_out(partly, record(partly)) == []
    assert [*tried] == ["everything", *(part for part in parts_of(FEATURES) if part != "z_lp")]
    assert tried["chain"].left_out == ["z_lp", "depth", "chain"]

    with pytest.raises(ConfigError, match=r"left_out: 'z_foo': no part"):
        train.train(load_config(path, ["algorithm.left_out=[z_foo]", f"run_folder={tmp_path}/other"]))

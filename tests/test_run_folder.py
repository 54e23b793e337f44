"""What a run finds, keeps and removes in its folder."""

import pickle
from pathlib import Path

import pytest
import yaml

from mpdf_rllib import run_folder
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.config_file import load_config
from mpdf_rllib.errors import ConfigError, DataError

QUESTIONS = {"families": ["addition"], "train": 10, "test": 10}


def experiment(folder: Path, **settings) -> ExperimentConfig:
    values = {"name": "x", "run_folder": str(folder), "recording": str(folder / "recording"), "questions": QUESTIONS}
    return ExperimentConfig.model_validate(values | settings).resolved()


def finish(config: ExperimentConfig) -> None:
    """Leaves what a finished run leaves."""
    run_folder.prepare(config, fresh=False)
    checkpoint = config.run_path / run_folder.TUNE / "step-seed0" / "checkpoint_000000"
    checkpoint.mkdir(parents=True)
    run_folder.write_checkpoints(config.run_path, {"step": [checkpoint]})
    (config.run_path / run_folder.RESULTS).touch()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_fresh_removes_the_run_and_nothing_else_in_its_folder(tmp_path):
    config = experiment(tmp_path)
    finish(config)
    (tmp_path / "recording").mkdir()
    (tmp_path / "recording" / "0.parquet").touch()
    (tmp_path / "notes.txt").touch()
    run_folder.prepare(config, fresh=True)
    assert names(tmp_path) == {"config.yaml", "versions.json", "recording", "notes.txt"}
    assert names(tmp_path / "recording") == {"0.parquet"}


def test_a_recording_made_before_the_run_may_lie_in_its_folder(tmp_path):
    (tmp_path / "recording").mkdir()
    run_folder.prepare(experiment(tmp_path), fresh=False)
    assert names(tmp_path) == {"config.yaml", "versions.json", "recording"}


def test_the_written_config_is_the_resolved_one_and_can_be_run(tmp_path):
    config = experiment(tmp_path, seeds=3)
    run_folder.prepare(config, fresh=False)
    assert load_config(tmp_path / "config.yaml") == config


def test_the_same_config_goes_on_and_another_is_refused_with_every_changed_key(tmp_path):
    finish(experiment(tmp_path))
    run_folder.prepare(experiment(tmp_path), fresh=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"another seeds, algorithm\.beta;.*--fresh"):
        run_folder.prepare(experiment(tmp_path, seeds=3, algorithm={"beta": 0.7}), fresh=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_how_fast_and_patiently_the_engine_is_asked_may_change(tmp_path):
    served = {"kind": "serve", "args": {"max_num_seqs": 8}}
    finish(experiment(tmp_path, engine=served))
    patient = {"timeout_s": 9, "concurrency": 2, "replicas": {"min": 0, "max": 3}, "port": 80, "accelerator": "H100"}
    run_folder.prepare(experiment(tmp_path, engine=served | patient, record={"workers": 3}), fresh=False)
    for other, key in ((served | {"args": {}}, r"engine\.args\.max_num_seqs"), ({"kind": "vllm"}, r"engine\.kind")):
        with pytest.raises(ConfigError, match=f"another .*{key}"):
            run_folder.prepare(experiment(tmp_path, engine=other), fresh=False)


@pytest.mark.parametrize("content", ["", "[", "\xff", "- 1"])
def test_a_config_that_is_none_is_named_and_fresh_begins_anew(tmp_path, content):
    config = experiment(tmp_path)
    finish(config)
    (tmp_path / "config.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"(?s)config\.yaml.*--fresh"):
        run_folder.prepare(config, fresh=False)
    run_folder.prepare(config, fresh=True)
    assert load_config(tmp_path / "config.yaml") == config


def test_a_run_that_got_nowhere_may_be_corrected(tmp_path):
    run_folder.prepare(experiment(tmp_path, seeds=3), fresh=False)
    corrected = experiment(tmp_path, seeds=2)
    run_folder.prepare(corrected, fresh=False)
    assert load_config(tmp_path / "config.yaml") == corrected


def test_a_moved_run_goes_on_and_one_of_another_recording_does_not(tmp_path):
    finish(experiment(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    run_folder.prepare(experiment(tmp_path / "there"), fresh=False)
    with pytest.raises(ConfigError, match="another recording;"):
        run_folder.prepare(experiment(tmp_path / "there", recording=str(tmp_path / "other")), fresh=False)
    with pytest.raises(ConfigError, match="another recording;"):
        run_folder.prepare(experiment(tmp_path / "there", recording="s3://bucket/other"), fresh=False)


def test_results_of_something_else_are_not_overwritten(tmp_path):
    (tmp_path / run_folder.RESULTS).write_text("mine")
    with pytest.raises(ConfigError, match=r"results\.parquet"):
        run_folder.prepare(experiment(tmp_path), fresh=False)
    assert (tmp_path / run_folder.RESULTS).read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"run_folder .*file/run.*can be written"):
        run_folder.prepare(experiment(tmp_path / "file" / "run"), fresh=False)


def test_trials_go_on_from_the_last_whole_state(tmp_path, caplog):
    config = experiment(tmp_path)
    tune = config.run_path / run_folder.TUNE
    assert not run_folder.has_trials(config.run_path / run_folder.TUNE)
    finish(config)
    whole, searcher = '{"trial_data": [], "runner_data": {}}', pickle.dumps({"iterations": 1})
    saved = [(whole, searcher), (whole, None), (whole, b""), (whole, searcher[:-1]), (whole[:-2], searcher), ("", b"")]
    for day, (state, of_searcher) in enumerate(saved):
        (tune / f"experiment_state-2026-01-0{day}_00-00-00.json").write_text(state)
        if of_searcher is not None:
            (tune / f"basic-variant-state-2026-01-0{day}_00-00-00.json").write_bytes(of_searcher)
    assert run_folder.has_trials(config.run_path / run_folder.TUNE)
    first = {f"{name}-2026-01-00_00-00-00.json" for name in ("experiment_state", "basic-variant-state")}
    assert names(tune) == first | {"step-seed0"}
    assert caplog.text.count("was cut short") == len(saved) - 1

    for file in first:
        (tune / file).write_text("{")
    assert not run_folder.has_trials(config.run_path / run_folder.TUNE)
    assert not tune.exists(), "trials that begin anew would lie among the old ones"


def test_checkpoints_are_found_again_where_the_folder_was_moved(tmp_path):
    config = experiment(tmp_path / "here")
    finish(config)
    moved = (tmp_path / "here").rename(tmp_path / "there")
    assert run_folder.read_checkpoints(moved) == {"step": [moved / "tune" / "step-seed0" / "checkpoint_000000"]}


@pytest.mark.parametrize("content", [None, "", "[1]", '{"step": 1}', '{"step": [1]}'])
def test_a_run_without_trained_policies_says_how_to_make_them(tmp_path, content):
    if content is not None:
        (tmp_path / run_folder.CHECKPOINTS).write_text(content)
    with pytest.raises(DataError, match=r"mpdf_rllib\.train"):
        run_folder.read_checkpoints(tmp_path)
    with pytest.raises(DataError, match=r"mpdf_rllib\.train"):
        run_folder.check(experiment(tmp_path))


def test_a_run_may_be_moved_with_or_without_what_lies_beside_it(tmp_path):
    agents = [{"prompts": str(tmp_path / "a" / "own.yaml")}, {"model": "/models/m"}]

    def at(place: str, **changes) -> ExperimentConfig:
        folder = tmp_path / place
        own = [agents[0] | {"prompts": str(folder / "own.yaml")}, agents[1]]
        return experiment(folder / "run", recording=str(folder / "recording"), team={"agents": own} | changes)

    finish(at("a"))
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "run").rename(tmp_path / "b" / "run")
    run_folder.check(at("b"))
    with pytest.raises(ConfigError, match=r"another team\.agents"):
        run_folder.check(at("b", agents=[agents[1], agents[1]]))


def test_keys_that_a_run_does_not_know_had_their_defaults(tmp_path):
    config = experiment(tmp_path)
    finish(config)
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del written["team"]["self_report"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    run_folder.check(config)
    with pytest.raises(ConfigError, match=r"another team\.self_report"):
        run_folder.check(experiment(tmp_path, team={"self_report": True}))


def test_fresh_trains_without_parts_of_the_state_anew_too(tmp_path):
    config = experiment(tmp_path)
    finish(config)
    finish(experiment(tmp_path / run_folder.ABLATIONS))
    run_folder.prepare(config, fresh=True)
    assert names(tmp_path) == {"config.yaml", "versions.json"}

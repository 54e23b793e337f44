"""What Weights & Biases, MLflow and TensorBoard have of a training, each asked by its own reader."""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import get_args

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from process_fixtures import CONFIG, Experiment
from ray.tune.experiment import Trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from mpdf_rllib import run_folder, tracking
from mpdf_rllib.config import ExperimentConfig, Tracker
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.tracking.of_mlflow import MLflowTracker
from mpdf_rllib.tracking.of_wandb import WandbTracker
from mpdf_rllib.train import train

ACCURACY = "env_runners/debate/accuracy"
USEFUL = {
    ACCURACY,
    "env_runners/debate/persist",
    "env_runners/debate/refine",
    "env_runners/debate/concede",
    "env_runners/episode_return_mean",
    "learners/meta_policy/kl_to_reference",
}
KEY = "0123456789abcdef" * 2 + "01234567"
CLOSED = "127.0.0.1:9"
BLOCK = 2**15
ITERATIONS = 12
"""So many that a training cannot end before Ctrl-C reaches it."""

Points = set[tuple[int, float]]
"""Of a curve: an iteration and its accuracy, to the digits of a float32."""


def points(steps_and_values) -> Points:
    return {(step, round(value, 6)) for step, value in steps_and_values}


def records(file: Path) -> Iterator[Record]:
    """What a run logged offline, in LevelDB's log format behind a header of 7 bytes; the last may be cut short."""
    data, at, record = file.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if (left := BLOCK - at % BLOCK) < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


class Tracked:
    """What the trackers have of an experiment's only trial."""

    def __init__(self, experiment: Experiment):
        self._run, self._trial = experiment.run, experiment.trial(seed=0)

    def result_json(self) -> Points:
        lines = [json.loads(line) for line in (self._trial / "result.json").read_text().splitlines()]
        return points((line["training_iteration"], line["env_runners"]["debate"]["accuracy"]) for line in lines)

    def mlflow_run(self) -> tuple[Run, Points]:
        client = MlflowClient(f"sqlite:///{self._run}/tracking/mlflow.db")
        (experiment,) = client.search_experiments(filter_string="name = 'processes'")
        (run,) = client.search_runs([experiment.experiment_id])
        history = client.get_metric_history(run.info.run_id, ACCURACY)
        return run, points((metric.step, metric.value) for metric in history)

    def wandb_runs(self) -> dict[Path, list[Record]]:
        """By file, one a command, in their order."""
        return {file: [*records(file)] for file in sorted(self._run.glob("tracking/wandb/offline-run-*/*.wandb"))}

    def tensorboard(self) -> EventAccumulator:
        return EventAccumulator(str(self._trial)).Reload()


def logged(record: Record) -> dict[str, float]:
    """A line of W&B's history."""
    items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
    return {key: json.loads(value) for key, value in items.items()}


def one_trial(iterations: int) -> dict:
    return CONFIG | {"seeds": 1, "algorithm": CONFIG["algorithm"] | {"iterations": iterations - 1}}


@pytest.fixture(scope="module")
def ray_files() -> Iterator[Path]:
    """Where Ray writes its logs; its sockets' paths must be short."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, ray_files) -> Experiment:
    """One that was stopped by Ctrl-C, tracked by two, and went on with all three; its environment has an API key."""
    experiment = Experiment(tmp_path_factory.mktemp("tracked"), one_trial(ITERATIONS))
    experiment.set(WANDB_MODE="offline", WANDB_API_KEY=KEY, RAY_TMPDIR=str(ray_files))
    trial = experiment.trial(seed=0)
    second = trial / "checkpoint_000001"  # when it is written, the first is one to go on from
    experiment.interrupt_once(second.exists, "train", "--set", "tracking=[wandb, mlflow]")
    assert not [*trial.glob("events.*")], "TensorBoard was left out"
    assert Tracked(experiment).mlflow_run()[0].info.status == "KILLED"
    experiment.finish("train", "--set", "tracking=[tensorboard, wandb, mlflow]")
    return experiment


def test_mlflow_has_one_run_of_a_trial_that_went_on(experiment):
    tracked = Tracked(experiment)
    run, curve = tracked.mlflow_run()
    assert curve == tracked.result_json() and {step for step, _ in curve} == {*range(1, ITERATIONS + 1)}
    assert run.info.status == "FINISHED" and run.info.run_name == "step-seed0"
    assert run.data.metrics.keys() >= USEFUL
    settings = {
        "seed": "0",
        "learner": "SoftRankPO",
        "algorithm/tau": "0.5",
        "team/rounds": "3",
        "questions/train": "12",
    }
    assert run.data.params.items() >= settings.items() and len(run.data.params) < 60


def test_wandb_has_a_file_a_command_of_the_same_run(experiment):
    tracked = Tracked(experiment)
    before, after = tracked.wandb_runs().values()
    runs = [next(record.run for record in file if record.HasField("run")) for file in (before, after)]
    assert runs[0].run_id == runs[1].run_id and runs[1].resume
    assert {(run.project, run.run_group, run.display_name) for run in runs} == {
        ("processes", "processes", "step-seed0")
    }
    config = {entry.key: json.loads(entry.value_json) for entry in runs[1].config.update}
    assert config["seed"] == 0 and config["algorithm"]["tau"] == 0.5 and config["team"]["rounds"] == 3

    expected = tracked.result_json()
    history = [logged(record) for record in after if record.HasField("history")]
    assert history[-1].keys() >= USEFUL
    curve = points((line["_step"], line[ACCURACY]) for line in history)
    assert curve < expected
    first = [logged(record) for record in before if record.HasField("history")]
    assert curve | points((line["_step"], line[ACCURACY]) for line in first) == expected


def test_tensorboard_has_what_was_trained_since_it_was_asked_for(experiment):
    tracked = Tracked(experiment)
    events, expected = tracked.tensorboard(), tracked.result_json()
    curve = points((scalar.step, scalar.value) for scalar in events.Scalars(f"ray/tune/{ACCURACY}"))
    assert curve < expected and max(curve) == max(expected)
    assert {f"ray/tune/{name}" for name in USEFUL} <= {*events.Tags()["scalars"]}


def test_no_credentials_are_written(experiment, ray_files):
    files = [path for folder in (experiment.run.parent, ray_files) for path in folder.rglob("*") if path.is_file()]
    assert any("runtime_env_agent" in file.name for file in files), "they have what workers find in their environment"
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


@pytest.fixture
def environment(tmp_path, monkeypatch) -> pytest.MonkeyPatch:
    """One without accounts or settings of a tracker's."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return monkeypatch


def an_experiment(folder: Path, *trackers: str) -> ExperimentConfig:
    places = {"run_folder": str(folder / "run"), "recording": str(folder / "recording")}
    return ExperimentConfig.model_validate(CONFIG | places | {"tracking": list(trackers)})


def test_wandb_without_a_key_is_refused_before_anything_is_done(tmp_path, environment):
    config = an_experiment(tmp_path, "wandb")
    with pytest.raises(ConfigError, match=r"tracking wandb: .*WANDB_API_KEY.*WANDB_MODE=offline"):
        train(config)
    assert not config.run_path.exists() and not Path(config.recording_url).exists()
    environment.setenv("WANDB_MODE", "offline")
    tracking.check(config)


def test_wandb_that_cannot_be_reached_is_refused(tmp_path, environment):
    environment.setenv("WANDB_API_KEY", KEY)
    environment.setenv("WANDB_BASE_URL", f"http://{CLOSED}")
    environment.setenv("WANDB_HTTP_TIMEOUT", "1")
    with pytest.raises(ConfigError, match=r"tracking wandb: .*WANDB_MODE=offline") as refused:
        tracking.check(an_experiment(tmp_path, "wandb"))
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("mode", ["offline", "dryrun", "disabled"])
def test_wandb_that_uploads_nothing_takes_no_key(tmp_path, environment, mode):
    environment.setenv("WANDB_MODE", mode)
    tracking.check(an_experiment(tmp_path, "wandb"))


@pytest.mark.parametrize(
    "store",
    [
        f"http://user:secret@{CLOSED}",
        f"http://user:p@ss-secret@{CLOSED}",
        "file:///somewhere",
        "postgresql://user:secret@nowhere/its-driver-is-not-installed",
        "mysql+unknown://user:secret@nowhere/runs",
    ],
)
def test_mlflow_that_cannot_be_used_is_refused(tmp_path, environment, store):
    environment.setenv("MLFLOW_TRACKING_URI", store)
    with pytest.raises(ConfigError, match=r"tracking mlflow: .* set MLFLOW_TRACKING_URI .* unset it") as refused:
        tracking.check(an_experiment(tmp_path, "mlflow"))
    assert "secret" not in str(refused.value)


def test_mlflow_that_is_gone_before_training_is_a_clear_error(environment):
    lost = MLflowTracker(lambda trial: {}, f"http://user:secret@{CLOSED}", "experiment")
    with pytest.raises(ConfigError, match="tracking mlflow: .* cannot be used") as failed:
        lost.setup()
    assert "secret" not in str(failed.value)
    assert "MLFLOW_TRACKING_URI" not in os.environ, "a later training would log there"


class _Answer(BaseHTTPRequestHandler):
    """Of MLflow's server, as much as a run needs, whatever it was asked."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"experiment": {"experiment_id": "1"}, "run": {"info": {"run_id": "1"}}}')
        self.server.has_a_metric = self.path.endswith("log-metric")

    do_GET = do_POST

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def closing_server() -> Iterator[str]:
    """One of MLflow, with a password in its URL, which closes as soon as it was told a metric."""
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        server.has_a_metric = False

        def serve() -> None:
            while not server.has_a_metric:
                server.handle_request()
            server.server_close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://user:p@ss-secret@127.0.0.1:{server.server_port}"


def test_mlflow_that_goes_away_is_one_warning_and_training_goes_on(tmp_path, closing_server):
    experiment = Experiment(tmp_path, one_trial(iterations=2))
    experiment.set(MLFLOW_TRACKING_URI=closing_server, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    ended = experiment.finish("train", "--set", "tracking=[mlflow]")
    assert experiment.iterations(seed=0) == [1, 2]
    assert ended.stderr.count("tracking mlflow: MLflow failed") == 1 and "Ctrl-C" in ended.stderr
    assert "Traceback" not in ended.stderr and "secret" not in ended.stderr + ended.stdout


def test_the_end_of_a_trial_does_not_print_the_password_of_mlflow(environment, closing_server, capfd):
    tracker, trial = MLflowTracker(lambda trial: {}, closing_server, "experiment"), Trial("trainable", stub=True)
    tracker.setup()
    tracker.on_trial_start(1, [trial], trial)
    tracker.on_trial_complete(1, [trial], trial)
    assert capfd.readouterr() == ("", "")


def test_a_trial_that_fails_before_it_starts_fails_by_its_own_cause(tmp_path, environment):
    trial = Trial("trainable", stub=True)
    by_mlflow = MLflowTracker(lambda trial: {}, f"sqlite:///{tmp_path}/mlflow.db", "experiment")
    by_mlflow.setup()
    for tracker in (by_mlflow, WandbTracker(lambda trial: {}, project="project", dir=str(tmp_path))):
        tracker.on_trial_error(1, [trial], trial)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_names_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"tracking {name}: .*mpdf-rllib\[{name}\]"):
        tracking.check(an_experiment(tmp_path, name))


def test_other_trackers_are_not_another_run(tmp_path):
    run_folder.prepare(an_experiment(tmp_path), fresh=False)
    run_folder.check(an_experiment(tmp_path, "tensorboard", "mlflow"))


def test_an_unknown_tracker_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="tracking"):
        an_experiment(tmp_path, "comet")
    assert yaml.safe_load(an_experiment(tmp_path, *get_args(Tracker)).to_yaml())["tracking"] == [*get_args(Tracker)]

"""The errors of engines in Ray Data's actors reach the user as they are."""

import pytest
from endpoint_fixtures import MODEL, ScriptedServer, start_server, status  # noqa: F401

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.errors import ConfigError, DataError, EngineError
from mpdf_rllib.record import record

pytestmark = pytest.mark.usefixtures("ray_instance")

QUESTIONS = {"families": ["addition"], "train": 12, "test": 12}


def experiment(folder, server: ScriptedServer, **endpoint) -> ExperimentConfig:
    values = {
        "name": "pipeline",
        "recording": str(folder / "recording"),
        "questions": QUESTIONS,
        "team": {"model": MODEL, "prompt": "completion", "critic": False},
        "engine": {"kind": "endpoint", "url": server.url, "retries": 0} | endpoint,
        "record": {"workers": 1},
    }
    return ExperimentConfig.model_validate(values)


def test_an_engine_that_cannot_be_made(server, tmp_path):
    with pytest.raises(ConfigError, match="^engine.api_key_env: the environment variable NO_SUCH_KEY is not set"):
        record(experiment(tmp_path, server, api_key_env="NO_SUCH_KEY"))


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [(500, EngineError, "^The server .* broken"), (401, ConfigError, "^engine.url"), (400, DataError, "^Question")],
)
def test_an_engine_that_fails(server, tmp_path, code, kind, message):
    config = experiment(tmp_path, server)
    server.always = status(code, "broken")
    with pytest.raises(kind, match=message):
        record(config)
    server.always = None
    assert record(config).made == 12 * 12 + 12 * (12 + 3)

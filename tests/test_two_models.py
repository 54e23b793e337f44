"""A team whose agents' models differ, on two engines of vLLM at once."""

import pyarrow.parquet as pq
import pytest
import yaml

from mpdf_rllib.config_file import load_config
from mpdf_rllib.record import record

pytestmark = pytest.mark.model


def test_a_team_of_two_models_is_recorded_and_replayed(random_model, tmp_path):
    path = tmp_path / "config.yaml"
    values = {
        "name": "two_models",
        "recording": str(tmp_path / "recording"),
        "questions": {"families": ["addition"], "train": 10, "test": 40},
        "team": {
            "prompt": "completion",
            "critic": False,
            "rounds": 1,
            "agents": [{}, {"model": str(random_model), "shots": 2}],
        },
    }
    path.write_text(yaml.safe_dump(values))
    config = load_config(path)
    trees = record(config)
    knows, guesses = trees.test.correct[:, trees.test.roots].mean(0)
    assert knows > 0.2 > guesses

    rows = [row for file in (tmp_path / "recording").iterdir() for row in pq.read_table(file).to_pylist()]
    fingerprints = {row["root"]: row["fingerprint"] for row in rows}
    assert fingerprints == {row["root"]: row["fingerprint"] for row in reversed(rows)}
    assert len(set(fingerprints.values())) == 2
    assert record(config).made == 0

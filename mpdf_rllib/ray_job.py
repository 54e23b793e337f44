"""What is different in a Ray job."""

import json
import os
from pathlib import Path

from mpdf_rllib.config import ExperimentConfig


def passing_places(config: ExperimentConfig) -> dict[str, str]:
    """Places of the config, by key, that lie in the copy of `--working-dir` which Ray makes for a job."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if not job.get("runtime_env", {}).get("working_dir"):
        return {}
    places = {"run_folder": str(config.run_path), "recording": config.recording_url}
    return {key: place for key, place in places.items() if Path(place).is_relative_to(Path.cwd())}

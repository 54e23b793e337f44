"""The Ray instance that recording and training run in."""

import logging
import os

import ray

from mpdf_rllib import cli


def start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine, where it isn't yet."""
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Seconds between savings of what Tune knows of the trials, which a killed run goes on from.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")
    if not ray.is_initialized():
        with cli.console.status("Starting Ray"):
            # RLlib iterates over sets of agent ids: without it equal seeds would draw different actions.
            runtime_env = {"env_vars": {"PYTHONHASHSEED": "0"}}
            if "RAY_ADDRESS" in os.environ:
                ray.init(log_to_driver=False, runtime_env=runtime_env)
            else:
                ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=runtime_env)

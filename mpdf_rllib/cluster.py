"""The Ray instance that recording and training run in."""

import math
import os

import ray

from mpdf_rllib import cli
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.errors import ConfigError


def is_shared() -> bool:
    """Whether Ray is a cluster's, which may grow, and not this machine's, started by the command."""
    return "RAY_ADDRESS" in os.environ


def check_room(remedy: str, **needed: float) -> None:
    """Checks that there is room for what will be asked of Ray, which would wait for it for ever.

    Args:
        remedy: The key of the config, its value, and what to do.
        needed: Amounts by Ray's names of resources.

    Raises:
        ConfigError: This machine has less.
    """
    there = ray.cluster_resources()
    short = {name: amount for name, amount in needed.items() if amount > there.get(name, 0)}
    if short and not is_shared():
        lacking = " and ".join(
            f"{amount:g} {name}s, of which Ray has {there.get(name, 0):g}" for name, amount in short.items()
        )
        raise ConfigError(f"{remedy}: it needs {lacking}")


def gpus_of(config: ExperimentConfig) -> float:
    """GPUs of an actor that has the experiment's engine in its own process."""
    if config.record.gpus_per_worker is not None:
        return config.record.gpus_per_worker
    if config.engine.kind != "vllm" or not ray.cluster_resources().get("GPU"):
        return 0
    return math.prod(config.engine.args.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline", "data"))


def start_ray() -> None:
    """The same as `connect`, and shows that it takes a moment.

    Raises:
        ConfigError: The cluster cannot be joined.
    """
    if ray.is_initialized():
        connect()
    else:
        with cli.console.status("Starting Ray"):
            connect()


def connect() -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine, where it isn't yet.

    Raises:
        ConfigError: The cluster cannot be joined.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Seconds between savings of what Tune knows of the trials, which a killed run goes on from.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # `tracking` says what logs
    if ray.is_initialized():
        return
    # RLlib iterates over sets of agent ids: without it equal seeds would draw different actions.
    runtime_env = {"env_vars": {"PYTHONHASHSEED": "0"}}
    if is_shared():
        try:
            ray.init(log_to_driver=False, logging_level="error", runtime_env=runtime_env)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(
                f"RAY_ADDRESS {os.environ['RAY_ADDRESS']}: no Ray cluster can be joined there "
                f"({str(error).strip().splitlines()[-1]}). Give a running one's address, with its version of Ray and "
                "(by RAY_AUTH_MODE=token) its authentication token, or unset the variable: Ray is then started on this "
                "machine."
            ) from error
    else:
        # Not one that happens to run on this machine, and that may end before this command does.
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            runtime_env=runtime_env,
        )

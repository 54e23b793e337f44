"""The debate as an env.

Importing it registers "mpdf_rllib/Deliberation-v0" with Gymnasium and RLlib, and "deliberation" with RLlib, which is
imported when an env is first asked for: debates themselves need none.
"""

if __name__ == "envs":
    raise ImportError("This folder is the package mpdf_rllib.envs: import that.")

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium
from ray.tune.registry import register_env

if TYPE_CHECKING:
    from mpdf_rllib.envs.deliberation_env import DeliberationEnv
    from mpdf_rllib.envs.deliberation_parallel_env import DeliberationParallelEnv

__all__ = ["DeliberationEnv", "DeliberationParallelEnv"]

_MODULES = {"DeliberationEnv": "deliberation_env", "DeliberationParallelEnv": "deliberation_parallel_env"}
_ENV_ID = "mpdf_rllib/Deliberation-v0"


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def _make(config: Any) -> "DeliberationEnv":
    from mpdf_rllib.envs.deliberation_env import DeliberationEnv

    return DeliberationEnv(config)


register_env("deliberation", _make)
register_env(_ENV_ID, _make)
gymnasium.register(_ENV_ID, "mpdf_rllib.envs:DeliberationEnv", disable_env_checker=True, order_enforce=False)

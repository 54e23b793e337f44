"""The debate as an env.

Importing it registers "mpdf_rllib/Deliberation-v0" with Gymnasium and RLlib, and "deliberation" with RLlib.
"""

if __name__ == "envs":
    raise ImportError("This folder is the package mpdf_rllib.envs: import that.")

from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.deliberation_parallel_env import DeliberationParallelEnv

__all__ = ["DeliberationEnv", "DeliberationParallelEnv"]

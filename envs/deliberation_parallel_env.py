"""The debate as a PettingZoo parallel env, for the libraries that speak PettingZoo."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import ParallelEnv

from mpdf_rllib.envs.deliberation_env import DeliberationEnv


class DeliberationParallelEnv(ParallelEnv):
    """PettingZoo's view of a `DeliberationEnv`, whose docstring is the reference for all that is not said here.

    The config is the same. What differs is PettingZoo's contract: no `__all__` among the flags; `agents` is empty once
    the debate has ended; and `action_mask` is int8, as the action space's `sample` wants it. A reset's infos are empty,
    and those of every round have the `question` instead, because TorchRL makes tensors of what it finds in a reset's.

    With random legal actions:

        env = DeliberationParallelEnv(config)
        observations, infos = env.reset(seed=0)
        while env.agents:
            actions = {
                agent: env.action_space(agent).sample(observations[agent]["action_mask"]) for agent in env.agents
            }
            observations, rewards, terminations, truncations, infos = env.step(actions)
        env.close()
    """

    metadata: dict[str, Any] = DeliberationEnv.metadata
    render_mode = None

    def __init__(self, config: dict[str, Any]):
        self.env = DeliberationEnv(config)
        self.possible_agents = list(self.env.possible_agents)
        self.agents = list(self.possible_agents)
        self.action_spaces = self.env.action_spaces
        self.observation_spaces = {
            agent: Dict({**space.spaces, "action_mask": Box(0, 1, space["action_mask"].shape, np.int8)})
            for agent, space in self.env.observation_spaces.items()
        }

    def observation_space(self, agent: str) -> Dict:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Discrete:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None):
        observations, self._beginning = self.env.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return _with_int8_masks(observations), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]):
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        truncations.pop("__all__")
        if terminations.pop("__all__"):
            self.agents = []
        infos = {agent: self._beginning[agent] | info for agent, info in infos.items()}
        return _with_int8_masks(observations), rewards, terminations, truncations, infos

    def close(self) -> None:
        self.env.close()


def _with_int8_masks(observations: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    return {
        agent: observation | {"action_mask": observation["action_mask"].astype(np.int8)}
        for agent, observation in observations.items()
    }

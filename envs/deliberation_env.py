"""The debate as an RLlib multi-agent env."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from mpdf_rllib.engine.recording import owner
from mpdf_rllib.envs.debate import NUM_ACTIONS
from mpdf_rllib.envs.debate_session import DebateSession
from mpdf_rllib.envs.features import HIGH, LOW
from mpdf_rllib.errors import ConfigError


class DeliberationEnv(MultiAgentEnv):
    """N agents debate a question for T rounds; in each, all choose at once to Persist, Refine or Concede.

    Agents: "agent_0" to "agent_{N-1}", all present from reset to the last round.

    Actions: Discrete(3). 0 Persist keeps the own solution; 1 Refine revises it; 2 Concede adopts the solution of the
    most confident peer with another answer. Illegal ones (no such peer, a chain at its end) are 0 in `action_mask` and
    raise ValueError.

    Observation, float32: `own` (D,), the agent's meta-cognitive state z, whose entries are the table in `features.py`;
    `peers` (N - 1, D), the others' in the order of their indices; `peer_mask` (N - 1,); `action_mask` (3,).

    Reward: the entry of `info["action_rewards"]` for the action taken. That vector, float32 (3,), NaN where illegal, is
    r_local + r_global of the paper for each action, given what the peers did; with outcome credit, and an env runner
    that knows the policy to follow, it is what the debate comes to.

    Config keys: the arguments of `DebateSession`: `questions`, a callable that returns the question set; `team`, a
    `Team`; `engine`, a callable that makes the engine; and optionally `credit`, `token_price`, `tie_tolerance` and
    `calibration`. With several env runners each debates the questions that it owns.
    """

    metadata: dict[str, Any] = {"name": "deliberation_v0", "render_modes": []}
    render_mode = None

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        index, runners = (config.worker_index, config.num_workers) if isinstance(config, EnvContext) else (0, 0)
        self.session = DebateSession(**config, shard=(index - 1, runners) if index else (0, 1))
        if runners and not index:
            # That of the algorithm's own process speaks for all: errors of the others' envs are only logged by RLlib.
            idle = runners - len({owner(question.id, runners) for question in self.session.debates.tree.questions})
            if idle:
                raise ConfigError(
                    f"num_env_runners is {runners}: {idle} of them own no question; use fewer env runners"
                )
        self.possible_agents = list(self.session.agents)
        self.agents = list(self.possible_agents)
        peers = len(self.agents) - 1
        space = Dict(
            {
                "own": Box(LOW, HIGH),
                "peers": Box(np.tile(LOW, (peers, 1)), np.tile(HIGH, (peers, 1))),
                "peer_mask": Box(0, 1, (peers,), np.float32),
                "action_mask": Box(0, 1, (NUM_ACTIONS,), np.float32),
            }
        )
        self.observation_spaces = dict.fromkeys(self.possible_agents, space)
        self.action_spaces: dict[str, Discrete] = dict.fromkeys(self.possible_agents, Discrete(NUM_ACTIONS))

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed, options=options)
        observations, infos = self.session.reset(1, seed)
        return observations[0], infos[0]

    def step(self, action_dict: dict[str, int]):
        observations, rewards, terminateds, truncateds, infos = self.session.step([action_dict])
        return observations[0], rewards[0], terminateds[0], truncateds[0], infos[0]

    def close(self):
        self.session.close()


register_env("deliberation", DeliberationEnv)

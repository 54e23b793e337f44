"""All debates of an env runner in lock-step, so that their requests to the engine are in flight together."""

from collections.abc import Sequence

import gymnasium as gym
from ray.rllib.env.vector.vector_multi_agent_env import VectorMultiAgentEnv
from ray.rllib.utils.annotations import override

from mpdf_rllib.envs.deliberation_env import DeliberationEnv


class DeliberationVectorEnv(VectorMultiAgentEnv):
    """`num_envs` debates of one `DeliberationEnv`'s session, with the contract of RLlib's own vector env.

    Autoreset is next-step. All debates last T rounds, so all end, and are reset, together.
    """

    def __init__(self, env: DeliberationEnv, num_envs: int):
        super().__init__()
        self.session = env.session
        self.num_envs = num_envs
        self.envs = [env] * num_envs
        self.metadata = {**env.metadata, "autoreset_mode": "next_step"}
        self.single_observation_spaces = env.observation_spaces
        self.single_action_spaces = env.action_spaces
        self.single_observation_space = gym.spaces.Dict(dict(env.observation_spaces))
        self.single_action_space = gym.spaces.Dict(dict(env.action_spaces))

    @override(VectorMultiAgentEnv)
    def reset(self, *, seed: int | Sequence[int] | None = None, options: dict | None = None):
        return self.session.reset(self.num_envs, seed)

    @override(VectorMultiAgentEnv)
    def step(self, actions: Sequence[dict[str, int]]):
        if not self.session.debates.done:
            return self.session.step(actions)
        observations, infos = self.session.reset(self.num_envs)
        rewards = [dict.fromkeys(self.session.agents, 0.0) for _ in range(self.num_envs)]
        return observations, rewards, self.session.flags(False), self.session.flags(False), infos

    @override(VectorMultiAgentEnv)
    def close_extras(self, **kwargs):
        self.session.close()

"""The env runner of debates: batched, with seeds of its own, and with credit that follows the current policy."""

import traceback
from collections import Counter
from typing import Any

import numpy as np
import torch
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core.columns import Columns
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.utils import _gym_env_creator
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    NUM_AGENT_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_MODULE_STEPS_SAMPLED,
)
from ray.rllib.utils.typing import StateDict
from ray.tune.registry import ENV_CREATOR, _global_registry

from mpdf_rllib.envs.debate_batch import Observation
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.deliberation_vector_env import DeliberationVectorEnv
from mpdf_rllib.envs.seeding import seed_draws
from mpdf_rllib.errors import ConfigError, EngineError, MPDFError


class DeliberationEnvRunner(MultiAgentEnvRunner):
    """Steps all its debates together.

    RLlib's runner makes one env a debate, checks it by a reset of its own and resets them one by one, a model call
    each, and passes the same seed to every reset: training would see one fixed set of debates.
    """

    env: DeliberationVectorEnv
    _num_seeded_resets = 0
    """Since the algorithm last told how many steps all took: what is drawn after it depends on nothing that a restarted
    env runner, or a resumed run, does not know."""
    _sampled: Counter[tuple[str, ...]]
    """Steps and episodes of a call of `sample`, which logs them at its end: RLlib's runner logs every step of every
    debate, in a tenth of its time."""

    @override(MultiAgentEnvRunner)
    def sample(self, **kwargs):
        following = all(getattr(module, "reference_frozen", True) for module in self.module.values())
        self.env.session.policy = self._act_greedily if following else None
        self._sampled = Counter()
        episodes = super().sample(**kwargs)
        for key, count in self._sampled.items():
            name, *of = key
            self.metrics.log_value(key, count, reduce="sum")
            self.metrics.log_value(
                (f"{name}_lifetime", *of), count, reduce="lifetime_sum", with_throughput=name == NUM_ENV_STEPS_SAMPLED
            )
        return episodes

    @override(MultiAgentEnvRunner)
    def _increase_sampled_metrics(self, num_steps, next_obs, episode):
        self._sampled[NUM_ENV_STEPS_SAMPLED,] += num_steps
        self._sampled[NUM_EPISODES,] += episode.is_done
        for agent in next_obs:
            self._sampled[NUM_AGENT_STEPS_SAMPLED, agent] += 1
            self._sampled[NUM_MODULE_STEPS_SAMPLED, episode.module_for(agent)] += 1
        return num_steps

    @override(EnvRunner)
    def _try_env_reset(self, *, seed=None, options=None):
        if seed is not None:
            seed = [seed, self.worker_index or 0, int(self.config.in_evaluation)]
            if not self.config.in_evaluation:
                seed += [int(self.num_env_steps_sampled_lifetime), self._num_seeded_resets]
                self._num_seeded_resets += 1
            seed_draws(seed)
        return super()._try_env_reset(seed=seed, options=options)

    @override(EnvRunner)
    def _try_env_step(self, actions):
        try:
            return super()._try_env_step(actions)
        except RuntimeError as error:
            cause = error.__cause__ or error  # RLlib's own has no message
            raise cause from cause.__cause__

    @override(MultiAgentEnvRunner)
    def set_state(self, state: StateDict) -> None:
        super().set_state(state)
        if NUM_ENV_STEPS_SAMPLED_LIFETIME in state:
            self._num_seeded_resets = 0

    @override(EnvRunner)
    def make_env(self):
        if self.env is not None:
            self.env.close()
        config = self.config
        if not config.env:
            raise ConfigError('env: missing; give one by `.environment("deliberation", env_config=...)`')
        context = EnvContext(
            config.env_config,
            worker_index=self.worker_index or 0,
            num_workers=config.num_env_runners,
            remote=config.remote_worker_envs,
        )
        if isinstance(config.env, str) and _global_registry.contains(ENV_CREATOR, config.env):
            env = _global_registry.get(ENV_CREATOR, config.env)(context)
        else:
            env = _gym_env_creator(context, config.env)
        if not isinstance(env, DeliberationEnv):
            raise ConfigError(f"env is {config.env!r}; it must be a DeliberationEnv, such as 'deliberation'")
        self.env = DeliberationVectorEnv(env, config.num_envs_per_env_runner)
        self.num_envs = self.env.num_envs
        self._needs_initial_reset = True
        make_callback(
            "on_environment_created",
            callbacks_objects=self._callbacks,
            callbacks_functions=config.callbacks_on_environment_created,
            kwargs={
                "env_runner": self,
                "metrics_logger": self.metrics,
                "env": self.env.unwrapped,
                "env_context": context,
            },
        )

    def _act_greedily(self, observation: Observation) -> np.ndarray:
        """The current policy's most probable actions: (B, N, ...) -> (B, N)."""
        actions = []
        for index, agent in enumerate(self.env.session.agents):
            module = self.module[self.config.policy_mapping_fn(agent, None)]
            batch = {key: torch.from_numpy(array[:, index]).to(self._device) for key, array in observation.items()}
            with torch.no_grad():
                logits = module.forward_inference({Columns.OBS: batch})[Columns.ACTION_DIST_INPUTS]
            actions.append(logits.argmax(-1).cpu().numpy())
        return np.stack(actions, -1)


def sample_or_error(env_runner: EnvRunner) -> tuple[list[MultiAgentEpisode], dict[str, Any]] | MPDFError:
    """The env runner's next debates and its metrics, or why there are none.

    Of what a remote env runner raises RLlib tells only the log of its process, which it ends and starts again.
    """
    try:
        return env_runner.sample(), env_runner.get_metrics()
    except MPDFError as error:
        return error
    except Exception:
        if not env_runner.worker_index:
            raise
        return EngineError(f"a debate failed in an env runner\n{traceback.format_exc()}")

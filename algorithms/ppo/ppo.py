"""RLlib's own PPO on debates, with our network and from the warm start of SoftRankPO."""

from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner import Learner
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.annotations import override
from torch import Tensor, nn

from mpdf_rllib.algorithms.checkpoints import load_module
from mpdf_rllib.algorithms.debate_settings import set_up_for_debates
from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork, masked_mean
from mpdf_rllib.errors import DataError

_OF_NETWORK = ("dim", "heads", "left_out", "network")
"""What of the model config is the policy network's; RLlib adds its own."""
KL_COEFFICIENTS = "kl_coefficients"


class PPOMetaPolicyRLModule(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """The meta-policy with a critic, a network of its own on own z and the mean of the peers' [ours].

    Model config: that of the `MetaPolicyNetwork`, and `warm_start`, the state dict that it
    starts from, on learners and env runners alike; the critic's hidden layer is as wide.
    """

    @override(TorchRLModule)
    def setup(self):
        num_features, dim = self.observation_space["own"].shape[-1], self.model_config["dim"]
        of_network = {key: self.model_config[key] for key in _OF_NETWORK if key in self.model_config}
        self.policy = MetaPolicyNetwork(num_features, **of_network)
        self.policy.load_state_dict(self.model_config["warm_start"])
        self.critic = nn.Sequential(nn.Linear(2 * num_features, dim), nn.GELU(), nn.Linear(dim, 1))

    @override(InferenceOnlyAPI)
    def get_non_inference_attributes(self) -> list[str]:
        return ["critic"]

    @override(RLModule)
    def _forward(self, batch: dict[str, Any], **kwargs) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.policy(batch[Columns.OBS])}

    @override(ValueFunctionAPI)
    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        own, peers, mask = (batch[Columns.OBS][key] for key in ("own", "peers", "peer_mask"))
        return self.critic(torch.cat([own, masked_mean(peers, mask)], -1)).squeeze(-1)


class PPOMetaPolicyLearner(PPOTorchLearner):
    """RLlib's, whose coefficients of the KL lie in its checkpoints, so that what is restored goes on as unbroken."""

    @override(Learner)
    def get_state(self, components=None, **kwargs) -> dict[str, Any]:
        coefficients = {module: float(coefficient) for module, coefficient in self.curr_kl_coeffs_per_module.items()}
        return super().get_state(components, **kwargs) | {KL_COEFFICIENTS: coefficients}

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        for module, coefficient in state.get(KL_COEFFICIENTS, {}).items():
            self.curr_kl_coeffs_per_module[module] = self._get_tensor_variable(coefficient)


def ppo_config(warm_start: str | Path) -> PPOConfig:
    """A config of RLlib's own PPO for a `DeliberationEnv`; the env is still to be given.

    PPO starts from the checkpoint's reference, pi_sft, and learns from the reward of the action taken alone; its KL is
    to the policy that acted. Learning rate, epochs and batches are SoftRankPO's; how else it learns is as RLlib has it,
    and so is what becomes of lost env runners [ours].

    Args:
        warm_start: The folder of a checkpoint of `SoftRankPO` or `GRPO` in stage two.

    Raises:
        DataError: There is none, or it is still in stage one.
    """
    module = load_module(warm_start)
    if not module.reference_frozen:
        raise DataError(f"{warm_start} is still in its warm start; give a checkpoint of a later iteration")
    model_config = module.model_config | {"warm_start": module.reference.state_dict()}
    config = PPOConfig()
    set_up_for_debates(config)
    # With the default of 1, RLlib drops the weights after a restore where an env runner still sets its other state.
    config.max_requests_in_flight_per_env_runner = 8
    return config.rl_module(
        rl_module_spec=RLModuleSpec(module_class=PPOMetaPolicyRLModule, model_config=model_config)
    ).training(lr=2e-3, num_epochs=5, minibatch_size=256, learner_class=PPOMetaPolicyLearner)

"""The meta-policy as an RLModule, with the frozen reference that SoftRankPO holds it to."""

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.apis.target_network_api import TARGET_NETWORK_ACTION_DIST_INPUTS
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.annotations import override

from mpdf_rllib.algorithms.meta_policy import ILLEGAL_LOGIT, MetaPolicyNetwork


class MetaPolicyRLModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI):
    """Policy and reference network. Model config: `dim`, `heads`, `network` and `left_out` of the `MetaPolicyNetwork`.

    Attributes:
        policy: The network that is trained.
        reference: pi_ref, a copy of the policy as it was at the end of the warm start; only learners and checkpoints
            hold it.
        reference_frozen: Whether that end has come. Until then exploration is uniform over the legal actions.
    """

    @override(TorchRLModule)
    def setup(self):
        num_features = self.observation_space["own"].shape[-1]
        self.policy = MetaPolicyNetwork(num_features, **self.model_config)
        self.register_buffer("reference_frozen", torch.tensor(False))
        self.make_target_networks()

    @override(TargetNetworkAPI)
    def make_target_networks(self):
        self.reference = make_target_network(self.policy)

    @override(TargetNetworkAPI)
    def get_target_network_pairs(self):
        return [(self.policy, self.reference)]

    @override(TargetNetworkAPI)
    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            return {TARGET_NETWORK_ACTION_DIST_INPUTS: self.reference(batch[Columns.OBS])}

    def freeze_reference(self) -> None:
        """Makes the present policy the reference, once; exploration follows the policy from now on."""
        if self.reference_frozen:
            return
        self.reference.load_state_dict(self.policy.state_dict())
        self.reference_frozen.fill_(True)

    @override(InferenceOnlyAPI)
    def get_non_inference_attributes(self) -> list[str]:
        return ["reference"]

    @override(RLModule)
    def _forward(self, batch: dict[str, Any], **kwargs) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.policy(batch[Columns.OBS])}

    @override(RLModule)
    def _forward_exploration(self, batch: dict[str, Any], **kwargs) -> dict[str, Any]:
        if self.reference_frozen:
            return self._forward(batch)
        return {Columns.ACTION_DIST_INPUTS: torch.log(batch[Columns.OBS]["action_mask"]).clamp(min=ILLEGAL_LOGIT)}

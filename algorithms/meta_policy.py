"""The meta-policy's network; plain PyTorch, usable without RLlib."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mpdf_rllib.envs.debate import CONCEDE, NUM_ACTIONS
from mpdf_rllib.envs.debate_batch import Observation
from mpdf_rllib.envs.features import IS_TARGET

Network = Literal["attention", "mean", "linear"]
"""How an agent hears its peers: by cross-attention [paper], or as the mean of their z through the same layers, or in a
policy that is linear in own z, that mean, and the z that the action starts from [ours, both]."""

ILLEGAL_LOGIT = -1e9
"""Finite, so that no NaN comes of it; its probability is exactly 0 in float32."""


class MetaPolicyNetwork(nn.Module):
    """Scores each action of an agent from its own z and its peers'.

    Own z attends to the peers' (cross-attention [paper]), or hears them as `Network` says; every candidate is then
    scored from that context, the type of the action and the z of the solution that the action starts from [ours]. No
    weight depends on the number of peers or of actions: with three actions the third concedes to the peer marked as the
    target; with more, action 2 + j concedes to peer j.

    Attributes:
        num_features: D.
        network: How an agent hears its peers.
        settings: All that it was made with, by name.
        seen: float32, shape (D,): 1 for the entries of z that it sees, 0 for the others.
    """

    seen: Tensor

    def __init__(
        self,
        num_features: int,
        dim: int = 48,
        heads: int = 2,
        left_out: Sequence[int] = (),
        network: Network = "attention",
    ):
        """Makes the network.

        Args:
            num_features: D, entries of z.
            dim: Width of every layer, a multiple of `heads`.
            heads: Of the attention.
            left_out: Entries of z that it does not see.
            network: How an agent hears its peers.
        """
        super().__init__()
        self.num_features = num_features
        self.network = network
        self.settings = {
            "num_features": num_features,
            "dim": dim,
            "heads": heads,
            "left_out": [*left_out],
            "network": network,
        }
        seen = torch.ones(num_features)
        seen[list(left_out)] = 0
        self.register_buffer("seen", seen, persistent=False)
        if network == "linear":
            self.weights = nn.Embedding(NUM_ACTIONS, 3 * num_features)
            self.bias = nn.Embedding(NUM_ACTIONS, 1)
            nn.init.normal_(self.weights.weight, std=0.02)
            nn.init.zeros_(self.bias.weight)
            return
        self.query = nn.Linear(num_features, dim)
        self.key_value = nn.Linear(num_features, dim)
        if network == "attention":
            # The learned extra key keeps an agent without peers finite.
            self.attention = nn.MultiheadAttention(dim, heads, batch_first=True, add_bias_kv=True)
        self.context = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.action_type = nn.Embedding(NUM_ACTIONS, dim)
        self.candidate = nn.Linear(num_features, dim)
        self.score = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1))

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """Computes action logits.

        Args:
            observation: float32 tensors `own` (B, D), `peers` (B, P, D), `peer_mask` (B, P), `action_mask` (B, K) with
                K = 3 or K = 2 + P.

        Returns:
            Shape (B, K); `ILLEGAL_LOGIT` where `action_mask` is 0.
        """
        own, peers, legal = observation["own"], observation["peers"], observation["action_mask"]
        num_actions, num_peers = legal.shape[-1], peers.shape[-2]
        if num_actions == NUM_ACTIONS:
            target = peers[..., IS_TARGET].unsqueeze(1)
        else:
            target = torch.eye(num_peers, device=peers.device).expand(len(own), -1, -1)

        own, peers = own * self.seen, peers * self.seen
        starts_from = torch.cat([own.unsqueeze(1).expand(-1, CONCEDE, -1), target @ peers], 1)
        kinds = torch.arange(num_actions, device=own.device).clamp(max=CONCEDE)
        score = self._linear if self.network == "linear" else self._deep
        return torch.where(legal > 0, score(own, peers, observation["peer_mask"], starts_from, kinds), ILLEGAL_LOGIT)

    def _deep(self, own: Tensor, peers: Tensor, mask: Tensor, starts_from: Tensor, kinds: Tensor) -> Tensor:
        query, key_value = self.query(own), self.key_value(peers)
        if self.network == "attention":
            heard, _ = self.attention(
                query.unsqueeze(1), key_value, key_value, key_padding_mask=mask == 0, need_weights=False
            )
            heard = heard.squeeze(1)
        else:
            heard = masked_mean(key_value, mask)
        context = self.context(torch.cat([query, heard], -1))
        return self.score(context.unsqueeze(1) + self.action_type(kinds) + self.candidate(starts_from)).squeeze(-1)

    def _linear(self, own: Tensor, peers: Tensor, mask: Tensor, starts_from: Tensor, kinds: Tensor) -> Tensor:
        state = torch.cat([own, masked_mean(peers, mask)], -1).unsqueeze(1).expand(-1, len(kinds), -1)
        return (torch.cat([state, starts_from], -1) * self.weights(kinds)).sum(-1) + self.bias(kinds).squeeze(-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Over those peers that exist: (B, P, D) and (B, P) -> (B, D)."""
    return (values * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def greedy(networks: Sequence[MetaPolicyNetwork]) -> Callable[[Observation, int], np.ndarray]:
    """The most probable actions of the one network, or of each agent's own: (observation, round) -> actions (B, N)."""

    def act(observation: Observation, round_: int) -> np.ndarray:
        return _logits(networks, observation).argmax(-1).numpy()

    return act


def action_probabilities(networks: Sequence[MetaPolicyNetwork], observation: Observation) -> np.ndarray:
    """Of the actions of all agents, under the one network or each agent's own: float32, shape (B, N, K)."""
    return _logits(networks, observation).softmax(-1).numpy()


def _logits(networks: Sequence[MetaPolicyNetwork], observation: Observation) -> Tensor:
    seen = {key: torch.from_numpy(array) for key, array in observation.items()}
    with torch.no_grad():
        if len(networks) == 1:
            logits = networks[0]({key: array.flatten(0, 1) for key, array in seen.items()})
            return logits.unflatten(0, seen["own"].shape[:2])
        of_agents = (
            network({key: array[:, agent] for key, array in seen.items()}) for agent, network in enumerate(networks)
        )
        return torch.stack([*of_agents], 1)

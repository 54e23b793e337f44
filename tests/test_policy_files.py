"""A policy's files: the same network comes back, and a full disk is an error of the folder."""

import pytest
import torch
from process_fixtures import small_disk as small_disk

from mpdf_rllib import run_folder
from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork
from mpdf_rllib.algorithms.policy_files import load_policy, save_policy
from mpdf_rllib.errors import ConfigError


def test_a_policy_comes_back_with_all_its_settings(tmp_path):
    torch.manual_seed(0)
    network = MetaPolicyNetwork(20, dim=12, heads=3, left_out=(1, 4))
    save_policy(tmp_path / "policy", network)
    again = load_policy(tmp_path / "policy")
    observation = {
        "own": torch.rand(5, 20),
        "peers": torch.rand(5, 2, 20),
        "peer_mask": torch.ones(5, 2),
        "action_mask": torch.ones(5, 3),
    }
    assert again(observation).equal(network(observation))
    observation["own"][:, [1, 4]] = 9.0
    assert again(observation).equal(network(observation))
    assert not again.training


def test_a_full_disk_is_an_error_of_the_run_folder(small_disk):  # noqa: F811
    network = MetaPolicyNetwork(20, dim=256)
    with (
        pytest.raises(ConfigError, match=r"run_folder .*No space left on device.*make room"),
        run_folder.writing(small_disk.path),
    ):
        save_policy(small_disk.path / "policy", network)

from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.core.columns import Columns
from rllib_fixtures import learner_module, small_config

from mpdf_rllib.algorithms.ppo import ppo_config
from mpdf_rllib.algorithms.softrankpo import POLICY
from mpdf_rllib.errors import DataError

pytestmark = pytest.mark.usefixtures("ray_instance")


def weights(policy: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in policy.state_dict().items()}


def assert_equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    np.testing.assert_equal(first, second)


def warm_start(checkpoint: str) -> dict[str, torch.Tensor]:
    return ppo_config(checkpoint).rl_module_spec.model_config["warm_start"]


def acting(algorithm: PPO) -> list[dict[str, np.ndarray]]:
    """The policies of all env runners."""
    return algorithm.env_runner_group.foreach_env_runner(lambda runner: weights(runner.module[POLICY].policy))


@pytest.fixture(scope="module")
def softrankpo(ray_instance, tmp_path_factory) -> tuple[Path, Path, dict, dict]:
    """Checkpoints of its warm start and of stage two, and what the latter's reference and policy are."""
    algorithm = small_config().training(warm_start_iterations=1).build_algo()
    checkpoints = []
    for iterations in (1, 2):
        for _ in range(iterations):
            algorithm.train()
        checkpoints.append(tmp_path_factory.mktemp("checkpoint"))
        algorithm.save_to_path(checkpoints[-1])
    module = learner_module(algorithm)
    reference, policy = weights(module.reference), weights(module.policy)
    algorithm.stop()
    return *checkpoints, reference, policy


@pytest.mark.parametrize("env_runners", [0, 2])
def test_ppo_starts_as_the_warm_start_on_learner_and_env_runners(softrankpo, env_runners):
    _, checkpoint, reference, trained = softrankpo
    algorithm = small_config(config=ppo_config(checkpoint)).env_runners(num_env_runners=env_runners).build_algo()
    assert type(algorithm) is PPO
    for policy in (weights(learner_module(algorithm).policy), *acting(algorithm)):
        assert_equal(policy, reference)
    assert any(not np.array_equal(reference[name], trained[name]) for name in trained)
    algorithm.stop()


@pytest.fixture
def ppo(softrankpo):
    algorithm = small_config(config=ppo_config(softrankpo[1])).build_algo()
    yield algorithm
    algorithm.stop()


@pytest.mark.parametrize("name", ["SoftRankPO", "PPO"])
def test_torch_takes_as_many_threads_as_cpus_are_reserved(softrankpo, name):
    """More would slow trials that run beside each other, and sum in another order: another table for equal seeds."""
    torch.set_num_threads(2)
    config = small_config() if name == "SoftRankPO" else small_config(config=ppo_config(softrankpo[1]))
    algorithm = config.build_algo()
    assert torch.get_num_threads() == 1
    algorithm.stop()


def test_its_debates_follow_the_policy_and_are_of_legal_actions(ppo):
    for episode in ppo.env_runner.sample():
        for agent in episode.agent_episodes.values():
            observations, actions = agent.get_observations(slice(0, len(agent))), agent.get_actions()
            assert (observations["action_mask"][np.arange(len(actions)), actions] == 1).all()
            batch = {Columns.OBS: {key: torch.from_numpy(values) for key, values in observations.items()}}
            logits = ppo.env_runner.module[POLICY].forward_inference(batch)[Columns.ACTION_DIST_INPUTS].detach()
            logp = torch.log_softmax(logits, -1).numpy()[np.arange(len(actions)), actions]
            np.testing.assert_allclose(agent.extra_model_outputs[Columns.ACTION_LOGP], logp, atol=1e-5)


def test_training_moves_the_policy_and_says_what_the_debates_were_like(ppo):
    before = acting(ppo)[0]
    result = ppo.train()
    assert 0 < result["env_runners"]["debate"]["accuracy"] < 1
    learner = result["learners"][POLICY]
    assert all(np.isfinite(learner[name]) for name in ("policy_loss", "vf_loss", "mean_kl_loss", "entropy"))
    assert any(not np.array_equal(acting(ppo)[0][name], before[name]) for name in before)


def test_a_restored_run_has_its_own_policy_not_the_warm_start(ppo, tmp_path):
    ppo.train()
    ppo.save_to_path(tmp_path)
    restored = PPO.from_checkpoint(tmp_path)
    assert_equal(acting(restored)[0], acting(ppo)[0])
    restored.stop()


def test_a_restored_run_goes_on_as_the_unbroken_one(ppo, tmp_path):
    ppo.train()
    ppo.save_to_path(tmp_path)
    restored = PPO.from_checkpoint(tmp_path)
    coefficients = [algorithm.train()["learners"][POLICY]["curr_kl_coeff"] for algorithm in (ppo, restored)]
    assert coefficients[0] == coefficients[1] != ppo.config.kl_coeff
    assert_equal(acting(restored)[0], acting(ppo)[0])
    restored.stop()


def test_restored_env_runners_act_with_the_learners_policy(softrankpo, tmp_path):
    """Without the cure, about half of them start from the warm start again."""
    algorithm = small_config(config=ppo_config(softrankpo[1])).env_runners(num_env_runners=2).build_algo()
    algorithm.train()
    algorithm.save_to_path(tmp_path)
    algorithm.stop()
    for _ in range(3):
        restored = PPO.from_checkpoint(tmp_path)
        learned = weights(learner_module(restored).policy)
        for policy in acting(restored):
            assert_equal(policy, learned)
        restored.stop()


def test_the_critic_is_the_learners_and_hears_no_masked_peer(ppo):
    module = learner_module(ppo)
    assert not hasattr(ppo.env_runner.module[POLICY], "critic")
    space = module.observation_space
    generator = torch.Generator().manual_seed(1)
    states = {key: torch.rand(8, *space[key].shape, generator=generator) for key in space}
    states["peer_mask"] = torch.tensor([1.0, 0.0]).expand(8, -1)
    values = module.compute_values({Columns.OBS: states})
    assert values.shape == (8,) and values.std() > 0

    def other(peer):
        peers = states["peers"].clone()
        peers[:, peer] += 1
        return module.compute_values({Columns.OBS: states | {"peers": peers}})

    assert torch.equal(other(1), values)
    assert not torch.allclose(other(0), values)
    alone = module.compute_values({Columns.OBS: states | {"peer_mask": torch.zeros(8, 2)}})
    assert alone.isfinite().all()


def test_a_checkpoint_may_be_named_as_rllib_does(softrankpo, monkeypatch):
    _, checkpoint, reference, _ = softrankpo
    monkeypatch.chdir(checkpoint.parent)
    for name in (str(checkpoint), checkpoint.name):
        assert_equal({key: value.numpy() for key, value in warm_start(name).items()}, reference)


def test_a_checkpoint_without_a_warm_start_is_refused(softrankpo, tmp_path):
    with pytest.raises(DataError, match=f"{softrankpo[0]} is still in its warm start"):
        ppo_config(softrankpo[0])
    with pytest.raises(DataError, match=f"{tmp_path}.* holds no policy"):
        ppo_config(tmp_path)

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from debate_fixtures import FEATURES
from ray import tune
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.tune.utils import flatten_dict
from rllib_fixtures import debate_config, learner_module, small_config

from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork, Network
from mpdf_rllib.algorithms.meta_policy_rl_module import MetaPolicyRLModule
from mpdf_rllib.algorithms.softrankpo import POLICY, SoftRankPO, SoftRankPOConfig
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.features import IS_TARGET
from mpdf_rllib.errors import TrainingError

D = len(FEATURES)
SHAPES = [(peers, actions) for peers in (1, 2, 4) for actions in (3, 2 + peers)]
WARM_START, ITERATIONS = 2, 4


@pytest.fixture(params=get_args(Network))
def network(request) -> MetaPolicyNetwork:
    torch.manual_seed(0)
    return MetaPolicyNetwork(D, dim=16, heads=2, network=request.param)


def observation(peers: int = 2, actions: int = 3, batch: int = 32) -> dict[str, torch.Tensor]:
    """Random states with one target among the peers, all actions legal."""
    generator = torch.Generator().manual_seed(1)
    others = torch.randn(batch, peers, D, generator=generator)
    others[..., IS_TARGET] = 0
    if peers:
        target = torch.randint(peers, (batch,), generator=generator)
        others[torch.arange(batch), target, IS_TARGET] = 1
    return {
        "own": torch.randn(batch, D, generator=generator),
        "peers": others,
        "peer_mask": torch.ones(batch, peers),
        "action_mask": torch.ones(batch, actions),
    }


def logits_of(module: RLModule, states: dict[str, torch.Tensor], forward: str = "forward_inference") -> torch.Tensor:
    with torch.no_grad():
        return getattr(module, forward)({Columns.OBS: states})[Columns.ACTION_DIST_INPUTS]


def clones(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)


def module_spec(inference_only: bool) -> RLModuleSpec:
    env = DeliberationEnv(debate_config())
    return RLModuleSpec(
        module_class=MetaPolicyRLModule,
        observation_space=env.get_observation_space("agent_0"),
        action_space=env.get_action_space("agent_0"),
        inference_only=inference_only,
        model_config={"dim": 16, "heads": 2},
    )


def config() -> SoftRankPOConfig:
    return small_config(24).training(warm_start_iterations=WARM_START)


class TestNetwork:
    @pytest.mark.parametrize(("peers", "actions"), SHAPES)
    def test_one_network_serves_any_number_of_peers_and_actions(self, network, peers, actions):
        logits = network(observation(peers, actions))
        assert logits.shape == (32, actions) and logits.isfinite().all()
        assert (logits.std(0) > 0).all() and (logits.std(1) > 0).all()

    @pytest.mark.parametrize("peers", [2, 4])
    def test_the_order_of_the_peers_does_not_matter(self, network, peers):
        states = observation(peers)
        order = torch.roll(torch.arange(peers), 1)
        permuted = states | {"peers": states["peers"][:, order], "peer_mask": states["peer_mask"][:, order]}
        torch.testing.assert_close(network(states), network(permuted))

    def test_an_action_for_each_peer_moves_with_the_peer(self, network):
        states = observation(peers=4, actions=6)
        order = torch.tensor([2, 0, 3, 1])
        logits, permuted = network(states), network(states | {"peers": states["peers"][:, order]})
        torch.testing.assert_close(permuted, torch.cat([logits[:, :2], logits[:, 2:][:, order]], 1))

    def test_each_part_of_the_state_matters(self, network):
        states = observation()
        logits = network(states)
        assert not torch.allclose(network(states | {"own": states["own"] + 1})[:, :2], logits[:, :2])
        assert not torch.allclose(network(states | {"peers": states["peers"] * 2})[:, :2], logits[:, :2])
        other_target = states["peers"].clone()
        other_target[..., IS_TARGET] = 1 - other_target[..., IS_TARGET]
        assert not torch.allclose(network(states | {"peers": other_target})[:, 2], logits[:, 2])

    @pytest.mark.parametrize(("peers", "actions"), SHAPES)
    def test_illegal_actions_have_probability_zero(self, network, peers, actions):
        mask = (torch.rand(32, actions, generator=torch.Generator().manual_seed(2)) > 0.5).float()
        mask[:, 0] = 1
        probabilities = network(observation(peers, actions) | {"action_mask": mask}).softmax(-1)
        assert (probabilities[mask == 0] == 0).all() and (probabilities[mask == 1] > 0).all()

    def test_an_agent_without_peers_has_finite_scores_and_gradients(self, network):
        nobody = observation(peers=0) | {"action_mask": torch.tensor([[1.0, 1.0, 0.0]]).expand(32, -1)}
        everybody_masked = observation(peers=2) | {"peer_mask": torch.zeros(32, 2)}
        for states in (nobody, everybody_masked):
            logits = network(states)
            logits[:, :2].sum().backward()
            assert logits.isfinite().all()
            assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())

    def test_a_masked_peer_has_no_influence(self, network):
        states = observation(peers=3)
        states["peers"][:, 2, IS_TARGET] = 0
        states["peer_mask"][:, 2] = 0
        changed = states["peers"].clone()
        changed[:, 2] = torch.where(torch.arange(D) == D + IS_TARGET, 0.0, 100.0)
        torch.testing.assert_close(network(states), network(states | {"peers": changed}))
        fewer = {"peers": states["peers"][:, :2], "peer_mask": states["peer_mask"][:, :2]}
        torch.testing.assert_close(network(states), network(states | fewer))


class TestRLModule:
    @pytest.fixture
    def module(self) -> MetaPolicyRLModule:
        return module_spec(inference_only=False).build()

    def test_exploration_is_uniform_over_legal_actions_until_the_reference_is_frozen(self, module):
        states = observation(batch=2)
        states["action_mask"] = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
        explored = logits_of(module, states, "forward_exploration").softmax(-1)
        torch.testing.assert_close(explored, torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1 / 2, 0, 1 / 2]]))
        assert explored[1, 1] == 0
        module.freeze_reference()
        followed = logits_of(module, states, "forward_exploration")
        assert torch.equal(followed, logits_of(module, states))
        assert not torch.allclose(followed.softmax(-1), explored)

    def test_the_reference_is_for_learners_alone(self):
        acting, learning = (module_spec(inference_only).build() for inference_only in (True, False))
        assert hasattr(learning, "reference") and not hasattr(acting, "reference")
        assert not any("reference." in name for name in learning.get_state(inference_only=True))
        acting.set_state(learning.get_state(inference_only=True))
        assert torch.equal(logits_of(acting, observation()), logits_of(learning, observation()))

    def test_neither_training_nor_freezing_again_moves_the_reference(self, module):
        module.freeze_reference()
        frozen = clones(module.reference)
        optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1)
        logits_of_training = module.forward_train({Columns.OBS: observation()})[Columns.ACTION_DIST_INPUTS]
        logits_of_training.pow(2).sum().backward()
        optimizer.step()
        assert_equal(clones(module.reference), frozen)
        assert not torch.equal(module.policy.query.weight, frozen["query.weight"])
        module.freeze_reference()
        assert_equal(clones(module.reference), frozen)


class TrainedRun:
    """Two iterations of warm start and two of stage two, with the module's parts after each and the last checkpoint.

    It then learns once more from debates of its own: what a restored run should do just so.
    """

    def __init__(self, checkpoint: Path):
        followed: list[bool] = []

        def note_stage(env_runner, **kwargs):
            followed.append(bool(env_runner.module[POLICY].reference_frozen))

        algorithm = config().callbacks(on_sample_end=note_stage).build_algo()
        module = learner_module(algorithm)
        self.policies, self.references, self.frozen, self.results = [clones(module.policy)], [], [], []
        for _ in range(ITERATIONS):
            self.results.append(algorithm.train())
            self.policies.append(clones(module.policy))
            self.references.append(clones(module.reference))
            self.frozen.append(bool(module.reference_frozen))
        self.followed, self.checkpoint = [*followed], checkpoint
        algorithm.save_to_path(checkpoint)
        self.saved, self.saved_logits = clones(module), logits_of(module, observation())
        self.episodes = algorithm.env_runner.sample()
        self.updated, self.updated_logits = updated(algorithm, self.episodes), logits_of(module, observation())
        algorithm.stop()


def updated(algorithm: SoftRankPO, episodes: list) -> dict[str, torch.Tensor]:
    """The learner's module after one update with all of the episodes."""
    algorithm.learner_group.update(episodes=episodes, num_epochs=1, minibatch_size=10_000)
    return clones(learner_module(algorithm))


@pytest.fixture(scope="module")
def run(ray_instance, tmp_path_factory) -> TrainedRun:
    return TrainedRun(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def restored(run):
    algorithm = SoftRankPO.from_checkpoint(run.checkpoint)
    yield algorithm
    algorithm.stop()


class TestAlgorithm:
    def test_the_reference_is_the_policy_at_the_end_of_the_warm_start(self, run):
        assert run.frozen == run.followed == [False] * WARM_START + [True] * (ITERATIONS - WARM_START)
        for reference in run.references[WARM_START:]:
            assert_equal(reference, run.policies[WARM_START])
        for before, after in zip(run.policies, run.policies[1:], strict=False):
            assert any(not torch.equal(before[name], after[name]) for name in before)

    @pytest.mark.parametrize("env_runners", [0, 2])
    def test_a_restored_run_is_the_unbroken_one(self, ray_instance, env_runners, tmp_path):
        unbroken = config().env_runners(num_env_runners=env_runners).build_algo()
        for _ in range(WARM_START):
            unbroken.train()
        unbroken.save_to_path(tmp_path)

        def after_two_more(algorithm):
            for _ in range(2):
                algorithm.train()
            algorithm.stop()
            return clones(learner_module(algorithm))

        expected = after_two_more(unbroken)
        assert_equal(after_two_more(SoftRankPO.from_checkpoint(tmp_path)), expected)

    def test_debates_are_uniform_in_the_warm_start_and_follow_the_policy_after(self, run, restored):
        early = [result["env_runners"]["debate"] for result in run.results[:WARM_START]]
        # Concede is often illegal, so uniform choices are a third to a half each of Persist and Refine.
        assert all(debate[name] == pytest.approx(0.4, abs=0.1) for debate in early for name in ("persist", "refine"))
        runner = restored.env_runner
        runner.sample()
        states = {key: torch.from_numpy(z).flatten(0, 1) for key, z in runner.env.session.debates.observe().items()}
        explored = logits_of(runner.module[POLICY], states, "forward_exploration")
        assert torch.equal(explored, logits_of(learner_module(restored), states))

    def test_without_warm_start_the_reference_is_the_first_policy(self, ray_instance):
        algorithm = config().training(warm_start_iterations=0).build_algo()
        first = clones(learner_module(algorithm).policy)
        algorithm.train()
        module = learner_module(algorithm)
        assert module.reference_frozen
        assert_equal(clones(module.reference), first)
        algorithm.stop()

    def test_a_checkpoint_restores_exactly(self, run, restored):
        assert restored.iteration == ITERATIONS
        assert_equal(clones(learner_module(restored)), run.saved)
        # The same debates then change the weights in the same way, so that the optimizer's state is there too.
        assert_equal(updated(restored, run.episodes), run.updated)
        assert not torch.equal(run.updated["policy.query.weight"], run.saved["policy.query.weight"])

    def test_training_goes_on_from_a_checkpoint_with_the_same_reference(self, run, restored):
        result = restored.train()
        before, last = run.results[-2:]
        assert result["training_iteration"] == last["training_iteration"] + 1
        for name in ("num_env_steps_sampled_lifetime", "num_episodes_lifetime"):
            an_iteration = last["env_runners"][name] - before["env_runners"][name]
            assert result["env_runners"][name] == last["env_runners"][name] + an_iteration
        module = learner_module(restored)
        assert_equal(clones(module.reference), run.policies[WARM_START])
        assert not torch.equal(module.policy.query.weight, run.policies[-1]["query.weight"])

    def test_the_saved_module_acts_as_the_trained_one(self, run):
        saved = RLModule.from_checkpoint(run.checkpoint / "learner_group" / "learner" / "rl_module" / POLICY)
        assert torch.equal(logits_of(saved, observation()), run.saved_logits)
        assert_equal(clones(saved.reference), run.references[-1])

    def test_a_tuner_trains_it_by_its_name(self, ray_instance, tmp_path):
        results = tune.Tuner(
            "SoftRankPO",
            param_space=config(),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path),
                stop={"training_iteration": WARM_START + 1},
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
                verbose=0,
            ),
        ).fit()
        assert not results.errors
        assert results[0].metrics["training_iteration"] == WARM_START + 1
        restored = SoftRankPO.from_checkpoint(results[0].checkpoint.path)
        assert restored.iteration == WARM_START + 1
        restored.stop()


class StaticRun:
    """An algorithm on a static corpus that notes what it samples, and what it learns from in each iteration."""

    def __init__(self, env_runners: int = 0, restored: SoftRankPO | None = None):
        new = config().training(static_corpus=True).env_runners(num_env_runners=env_runners)
        self.algorithm = restored or new.build_algo()
        self.learned: list[list] = []
        self._update = self.algorithm.learner_group.update
        self.algorithm.learner_group.update = self._note

    def _note(self, *, training_data, **kwargs):
        self.learned.append([contents(episode) for episode in training_data.episodes])
        return self._update(training_data=training_data, **kwargs)

    def train(self, iterations: int = 1) -> list[float]:
        """How many env steps were sampled by the end of each iteration."""
        results = [self.algorithm.train() for _ in range(iterations)]
        self.debate = results[-1]["env_runners"]["debate"]
        return [result["env_runners"]["num_env_steps_sampled_lifetime"] for result in results]


def contents(episode) -> list[tuple]:
    """All that the learner may read of an episode."""
    return [
        (name, agent.get_actions().tolist(), str(agent.get_infos()), str(agent.get_observations()))
        for name, agent in sorted(episode.agent_episodes.items())
    ]


@pytest.mark.usefixtures("ray_instance")
class TestStaticCorpus:
    @pytest.mark.parametrize("env_runners", [0, 2])
    def test_stage_two_learns_from_one_sample(self, env_runners):
        run = StaticRun(env_runners)
        steps = run.train(WARM_START + 3)
        assert steps == [steps[0] * min(i, WARM_START + 1) for i in range(1, WARM_START + 4)]
        *warm_start, corpus = run.learned[: WARM_START + 1]
        assert len(corpus) == steps[0] / 3 and all(debates != corpus for debates in warm_start)
        assert run.learned[WARM_START:] == [corpus] * 3
        assert all(math.isnan(value) for value in flatten_dict(run.debate).values()), "no debate was held"
        run.algorithm.stop()

    def test_a_resumed_run_goes_on_with_the_same_debates(self, tmp_path):
        run = StaticRun()
        *_, steps = run.train(WARM_START + 1)
        run.algorithm.save_to_path(tmp_path)
        run.algorithm.stop()
        resumed = StaticRun(restored=SoftRankPO.from_checkpoint(tmp_path))
        assert resumed.train(2) == [steps] * 2
        assert resumed.learned == [run.learned[-1]] * 2
        resumed.algorithm.stop()

    def test_its_debates_follow_the_reference(self):
        followed = []

        def note_stage(env_runner, **kwargs):
            module = env_runner.module[POLICY]
            followed.append((bool(module.reference_frozen), clones(module.policy)))

        algorithm = config().training(static_corpus=True).callbacks(on_sample_end=note_stage).build_algo()
        for _ in range(ITERATIONS):
            algorithm.train()
        assert [frozen for frozen, _ in followed] == [False] * WARM_START + [True]
        assert_equal(followed[-1][1], clones(learner_module(algorithm).reference))
        algorithm.stop()

    def test_a_run_taken_back_to_its_warm_start_samples_again(self, tmp_path):
        run = StaticRun()
        run.train()
        run.algorithm.save_to_path(tmp_path)
        steps = run.train(WARM_START)
        run.algorithm.restore_from_path(tmp_path)
        assert run.train(WARM_START) == steps
        run.algorithm.stop()


@pytest.mark.usefixtures("ray_instance")
def test_training_that_diverges_ends_with_one_clear_error():
    algorithm = config().training(objective="log_policy", lr=1e30).build_algo()
    with pytest.raises(TrainingError, match=r"iteration 1: the loss of meta_policy is nan; lower lr, now 1e\+30"):
        algorithm.train()
    algorithm.stop()

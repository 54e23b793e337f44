"""Env runners and learners in processes of their own: they agree."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from rllib_fixtures import (
    State,
    assert_env_runners_hold_the_learners_weights,
    assert_same_states,
    learners_of,
    short_config,
    small_config,
    train_batch,
)

from mpdf_rllib.algorithms.softrankpo import SoftRankPO, SoftRankPOConfig
from mpdf_rllib.algorithms.softrankpo.softrankpo_connector import ADVANTAGES, LABELS, PREFERENCE
from mpdf_rllib.algorithms.whole_debates import WholeDebates
from mpdf_rllib.envs.deliberation_env_runner import DeliberationEnvRunner
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import ConfigError

pytestmark = pytest.mark.usefixtures("ray_instance")

AGENTS = [f"agent_{i}" for i in range(3)]


def config_of_separate_policies(**settings) -> SoftRankPOConfig:
    return short_config(**settings).multi_agent(
        policies=set(AGENTS), policy_mapping_fn=lambda agent_id, episode, **kwargs: agent_id
    )


def policies(learner: dict[str, State], algorithm: SoftRankPO) -> dict[str, torch.Tensor]:
    """Log-probabilities that each module gives in some states."""
    session = DeliberationEnvRunner(config=small_config(8)).env.session
    session.reset(8, seed=0)
    states = {key: torch.from_numpy(array).flatten(0, 1) for key, array in session.debates.observe().items()}
    module = algorithm.env_runner.module
    before = module.get_state()
    logps = {}
    for name, state in learner.items():
        module[name].load_state_dict(state, strict=False)
        with torch.no_grad():
            logps[name] = module[name].forward_inference({Columns.OBS: states})[Columns.ACTION_DIST_INPUTS]
    module.set_state(before)
    return {name: logits.log_softmax(-1) for name, logits in logps.items()}


class Trained:
    """A run in stage two, its checkpoint, and the policies after three more updates with all of some debates."""

    def __init__(self, config: SoftRankPOConfig, folder: Path):
        self.config, self.checkpoint = config, folder
        algorithm = config.copy(copy_frozen=False).build_algo()
        self.start = learners_of(algorithm)[0]
        algorithm.train()
        self.warm_started = learners_of(algorithm)[0]
        algorithm.train()
        algorithm.save_to_path(folder)
        self.saved = learners_of(algorithm)[0]
        self.saved_policies = policies(self.saved, algorithm)
        self.episodes = unevenly_dealt(algorithm.env_runner.sample())
        self.followed = algorithm.env_runner.env.session.policy
        self.module, self.session = algorithm.env_runner.module, algorithm.env_runner.env.session
        self.updated = policies(updated(algorithm, self.episodes)[0], algorithm)


def unevenly_dealt(episodes: list) -> list:
    """In an order in which every other debate is of those with the most states that carry a preference."""

    def states_with_preference(episode) -> int:
        infos = [info for agent in episode.agent_episodes.values() for info in agent.get_infos(slice(1, None))]
        return sum(np.nanmax(info["action_rewards"]) > np.nanmin(info["action_rewards"]) for info in infos)

    ordered = sorted(episodes, key=states_with_preference, reverse=True)
    half = -(-len(ordered) // 2)
    dealt = [None] * len(ordered)
    dealt[::2], dealt[1::2] = ordered[:half], ordered[half:]
    return dealt


def updated(algorithm: SoftRankPO, episodes: list) -> list[dict[str, State]]:
    for _ in range(3):
        algorithm.learner_group.update(training_data=WholeDebates(episodes=episodes))
    return learners_of(algorithm)


@pytest.fixture(scope="module")
def shared(ray_instance, tmp_path_factory) -> Trained:
    return Trained(short_config(), tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def separate(ray_instance, tmp_path_factory) -> Trained:
    return Trained(config_of_separate_policies(credit="outcome"), tmp_path_factory.mktemp("separate"))


class TestLearners:
    @pytest.mark.parametrize(
        ("run", "learners", "env_runners"), [("shared", 1, 0), ("shared", 2, 2), ("separate", 2, 0)]
    )
    def test_learners_in_processes_of_their_own_learn_what_one_does(self, request, run, learners, env_runners):
        """From the same debates, all of them in each update: minibatches are each learner's own."""
        run = request.getfixturevalue(run)
        algorithm = (
            run.config.copy(copy_frozen=False)
            .learners(num_learners=learners)
            .env_runners(num_env_runners=env_runners)
            .build_algo()
        )
        algorithm.restore_from_path(run.checkpoint)
        for state in learners_of(algorithm):
            assert_same_states(run.saved, state)
        first, *others = updated(algorithm, run.episodes)
        for name, logp in policies(first, algorithm).items():
            # Rounding alone: AdamW magnifies it where a gradient is near zero, so more is allowed than is seen (1e-7).
            torch.testing.assert_close(logp, run.updated[name], rtol=0, atol=1e-5)
            assert (logp - run.saved_policies[name]).abs().max() > 1e-3
        for other in others:
            assert_same_states(first, other)

        result = algorithm.train()
        assert all(result["learners"][name]["diff_num_grad_updates_vs_sampler_policy"] >= 1 for name in first)
        after, *others = learners_of(algorithm)
        for name, state in after.items():
            assert not torch.equal(state["policy.query.weight"], first[name]["policy.query.weight"])
            assert torch.equal(state["reference.query.weight"], run.saved[name]["reference.query.weight"])
        for other in others:
            assert_same_states(after, other)
        assert_env_runners_hold_the_learners_weights(algorithm.env_runner_group, algorithm)
        algorithm.stop()

    @pytest.mark.parametrize("learners", [2, 4])
    def test_trap_10_a_share_of_the_debates_has_the_advantages_of_the_whole(self, learners):
        runner = DeliberationEnvRunner(config=short_config())
        episodes = runner.sample()

        def rows(episodes: list) -> list[tuple[float, ...]]:
            batch = train_batch(runner.config, episodes)
            columns = batch[Columns.OBS]["own"], batch[ADVANTAGES], batch[LABELS], batch[PREFERENCE][:, None]
            return [tuple(row) for row in np.concatenate(columns, 1).tolist()]

        shares = [data.episodes for data, _ in WholeDebates(episodes=episodes).shard(learners)]
        assert len(shares) == learners and max(map(len, shares)) - min(map(len, shares)) == 1
        assert sorted(row for share in shares for row in rows(share)) == sorted(rows(episodes))

    def test_learners_with_unequal_shares_make_the_same_number_of_updates(self):
        """Or the one that makes more would wait for the others for ever."""
        episodes = DeliberationEnvRunner(config=short_config()).sample()
        for minibatch in (40, 64, 500):
            shards = WholeDebates(episodes=episodes).shard(2, minibatch_size=minibatch, num_epochs=2)
            (updates,) = {settings["num_total_minibatches"] for _, settings in shards}
            assert updates == max(1, 2 * 15 * 9 // (2 * minibatch))

    def test_fewer_debates_than_learners_are_refused(self):
        episodes = DeliberationEnvRunner(config=short_config()).sample()
        with pytest.raises(ConfigError, match="num_learners is 3, but an iteration has 2 debates; lower it or raise"):
            WholeDebates(episodes=episodes[:2]).shard(3)


class TestSeparatePolicies:
    def test_every_agent_trains_its_own_policy(self, separate):
        assert {*separate.start} == {*AGENTS}
        for name in AGENTS:
            stages = [
                run[name]["policy.query.weight"] for run in (separate.start, separate.warm_started, separate.saved)
            ]
            assert not torch.equal(stages[0], stages[1]) and not torch.equal(stages[1], stages[2])
            others = [separate.saved[other]["policy.query.weight"] for other in AGENTS if other != name]
            assert not any(torch.equal(stages[2], other) for other in others)

    def test_every_policy_has_its_own_reference(self, separate):
        for name in AGENTS:
            state = separate.saved[name]
            assert state["reference_frozen"]
            assert torch.equal(state["reference.query.weight"], separate.warm_started[name]["policy.query.weight"])

    def test_outcome_credit_follows_the_policy_of_each_agent(self, separate):
        observation = separate.session.debates.observe()
        greedy = {}
        for name in AGENTS:
            states = {key: torch.from_numpy(array) for key, array in observation.items()}
            flat = {key: values.flatten(0, 1) for key, values in states.items()}
            logits = separate.module[name].forward_inference({Columns.OBS: flat})[Columns.ACTION_DIST_INPUTS]
            greedy[name] = logits.argmax(-1).reshape(-1, len(AGENTS)).numpy()
        assert not np.array_equal(greedy["agent_0"], greedy["agent_1"])
        own = np.stack([greedy[name][:, index] for index, name in enumerate(AGENTS)], -1)
        np.testing.assert_array_equal(separate.followed(observation), own)

    def test_a_checkpoint_restores_all(self, separate):
        restored = SoftRankPO.from_checkpoint(separate.checkpoint)
        assert_same_states(separate.saved, learners_of(restored)[0])
        restored.stop()


class TestEvaluation:
    @pytest.mark.parametrize("env_runners", [0, 1])
    def test_other_agents_and_rounds_than_trained_with_the_trained_policy(self, tmp_path, env_runners):
        algorithm = (
            short_config()
            .evaluation(
                evaluation_interval=2,
                evaluation_duration=12,
                evaluation_num_env_runners=env_runners,
                evaluation_config={
                    "env_config": {"team": Team(agents=5, rounds=2, critic=False)},
                    "num_envs_per_env_runner": 12,
                },
            )
            .build_algo()
        )
        first = algorithm.train()
        assert "evaluation" not in first
        algorithm.save_to_path(tmp_path)
        second = algorithm.train()
        debates = second["evaluation"]["env_runners"]
        assert debates["episode_len_mean"] == 2
        assert {*debates["num_agent_steps_sampled"]} == {f"agent_{i}" for i in range(5)}
        assert {*second["env_runners"]["num_agent_steps_sampled"]} == {*AGENTS}
        assert second["env_runners"]["episode_len_mean"] == 3
        assert_env_runners_hold_the_learners_weights(algorithm.eval_env_runner_group, algorithm)
        for flat, name in (("validation_accuracy", "accuracy"), ("validation_tokens", "generated_tokens")):
            assert second[flat] == debates["debate"][name]
        # The same questions and the most probable actions each time.
        again = algorithm.evaluate()["env_runners"]
        for name in ("accuracy", "generated_tokens", "persist", "refine", "concede"):
            assert float(again["debate"][name]) == pytest.approx(float(debates["debate"][name]))

        # Trap 7: no iteration tells again of an evaluation that was before it.
        assert not {"evaluation", "validation_accuracy", "validation_tokens"} & algorithm.train().keys()
        algorithm.restore_from_path(tmp_path)
        assert_env_runners_hold_the_learners_weights(algorithm.eval_env_runner_group, algorithm)
        algorithm.stop()


def test_more_env_runners_than_questions_are_refused():
    with pytest.raises(ConfigError, match="num_env_runners is 2: 1 of them own no question"):
        short_config(questions=1).env_runners(num_env_runners=2).build_algo()

"""What each stage of SoftRankPO learns from, and that its settings are heard."""

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.target_network_api import TARGET_NETWORK_ACTION_DIST_INPUTS
from rllib_fixtures import debate_config, questions_of, small_config

from mpdf_rllib.algorithms.meta_policy import greedy
from mpdf_rllib.algorithms.softrankpo import POLICY, soft_rank_advantages
from mpdf_rllib.algorithms.softrankpo.losses import log_policy_loss, rank_matching_loss
from mpdf_rllib.algorithms.softrankpo.softrankpo_connector import ADVANTAGES, LABELS, PREFERENCE, ActionAdvantages
from mpdf_rllib.envs.credit import outcome_credit
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.deliberation_env_runner import DeliberationEnvRunner

AGENTS = ("agent_0", "agent_1", "agent_2")


@pytest.mark.parametrize("frozen", [False, True])
def test_outcome_credit_follows_the_policy_as_soon_as_the_reference_is_frozen(frozen):
    runner = DeliberationEnvRunner(config=small_config(credit="outcome"))
    module = runner.module[POLICY]
    module.reference_frozen.fill_(frozen)
    episodes = runner.sample()
    tree = runner.env.session.debates.tree
    index = {question.id: i for i, question in enumerate(tree.questions)}
    debates = DebateBatch(tree, runner.env.session.fill)
    debates.reset([index[question] for question in questions_of(episodes)])
    policy = greedy([module.policy])
    for turn in range(3):
        agents = [[episode.agent_episodes[agent] for agent in AGENTS] for episode in episodes]
        actions = np.array([[agent.get_actions()[turn] for agent in row] for row in agents])
        given = np.array([[agent.get_infos(turn + 1)["action_rewards"] for agent in row] for row in agents])
        terms = debates.rewards(actions)
        outcome, _ = outcome_credit(debates, actions, lambda observation: policy(observation, 0))
        step = terms.local + terms.consensus
        assert not np.allclose(outcome, step, equal_nan=True)
        np.testing.assert_allclose(given, outcome if frozen else step, atol=1e-6)
        debates.step(actions)


class TestLearner:
    @pytest.fixture(params=[False, True], ids=["warm start", "stage two"])
    def learner(self, request):
        config = small_config().training(beta=0.7, tau=0.25, weight_decay=0.125)
        learner = config.build_learner(env=DeliberationEnv(debate_config()))
        learner.build()
        if request.param:
            module = learner.module[POLICY].unwrapped()
            module.freeze_reference()
            torch.nn.init.normal_(module.policy.candidate.weight)
        return learner

    def loss(self, learner, batch, config=None):
        return learner.compute_loss_for_module(
            module_id=POLICY,
            config=config or learner.config,
            batch=batch | learner.module[POLICY].unwrapped().forward_target(batch),
            fwd_out=learner.module[POLICY].forward_train(batch),
        )

    def batch(self, learner, states: int = 24):
        generator = torch.Generator().manual_seed(0)
        space = learner.module[POLICY].unwrapped().observation_space
        observation = {key: torch.rand(states, *space[key].shape, generator=generator) for key in space}
        observation["action_mask"] = torch.ones(states, 3)
        return {
            Columns.OBS: observation,
            ADVANTAGES: torch.randn(states, 3, generator=generator),
            LABELS: torch.softmax(torch.randn(states, 3, generator=generator), -1),
            PREFERENCE: torch.ones(states),
        }

    def test_states_without_preference_are_left_out(self, learner):
        batch = self.batch(learner)
        half = {key: value[:12] for key, value in batch.items() if key != Columns.OBS}
        half[Columns.OBS] = {key: value[:12] for key, value in batch[Columns.OBS].items()}
        batch[PREFERENCE][12:] = 0
        torch.testing.assert_close(self.loss(learner, batch), self.loss(learner, half))
        batch[PREFERENCE][:] = 0
        assert self.loss(learner, batch) == 0

    @pytest.mark.parametrize("objective", [rank_matching_loss, log_policy_loss])
    def test_the_loss_is_that_of_the_stage_with_the_configs_settings(self, learner, objective):
        settings = {"objective": objective.__name__.removesuffix("_loss"), "entropy_coeff": 0.25}
        config = learner.config.copy(copy_frozen=False).training(**settings)
        batch = self.batch(learner)
        out = learner.module[POLICY].forward_train(batch)
        out |= learner.module[POLICY].unwrapped().forward_target(batch)
        logp = torch.log_softmax(out[Columns.ACTION_DIST_INPUTS], -1)
        reference = torch.log_softmax(out[TARGET_NETWORK_ACTION_DIST_INPUTS], -1)
        stage_two = objective(logp, reference, batch[ADVANTAGES], torch.ones(24, 3, dtype=bool), 0.7).mean()
        entropy = torch.distributions.Categorical(logits=logp).entropy().mean()
        imitation = torch.nn.functional.cross_entropy(out[Columns.ACTION_DIST_INPUTS], batch[LABELS])
        frozen = learner.module[POLICY].unwrapped().reference_frozen
        expected = stage_two - 0.25 * entropy if frozen else imitation
        torch.testing.assert_close(self.loss(learner, batch, config), expected)

    def test_tau_and_weight_decay_reach_what_they_are_for(self, learner):
        pipeline = learner.config.build_learner_connector(None, None)
        (connector,) = [connector for connector in pipeline.connectors if isinstance(connector, ActionAdvantages)]
        rewards = np.array([[0.0, 1.0, 5.0]])
        np.testing.assert_array_equal(
            connector.advantages(rewards, mask=np.ones((1, 3), bool)), soft_rank_advantages(rewards, 0.25)
        )
        (optimizer,) = learner.get_optimizers_for_module(POLICY)
        assert {group["weight_decay"] for _, each in [optimizer] for group in each.param_groups} == {0.125}

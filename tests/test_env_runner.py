import asyncio
from functools import partial

import numpy as np
import pytest
import torch
from rllib_fixtures import small_config

from mpdf_rllib.algorithms.softrankpo import SoftRankPOConfig
from mpdf_rllib.engine import GenerationRequest
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.envs.deliberation_env_runner import DeliberationEnvRunner
from mpdf_rllib.errors import ConfigError

DEBATES, AGENTS, ROUNDS = 16, 3, 3
ALL = DEBATES * AGENTS


class BurstEngine(ScriptedEngine):
    """Notes for every burst of requests, from idle to idle, how many were in flight together."""

    def __init__(self):
        super().__init__(answer_like_a_small_model, delay=0.001)
        self.bursts: list[int] = []

    async def generate(self, request):
        try:
            return await super().generate(request)
        finally:
            if self._in_flight == 0:
                self.bursts.append(self.peak_in_flight)
                self.peak_in_flight = 0


@pytest.fixture
def runner() -> DeliberationEnvRunner:
    """16 debates at a time on 64 questions whose solutions nobody has asked for."""
    engine = BurstEngine()
    runner = DeliberationEnvRunner(config=small_config(DEBATES, questions=4 * DEBATES, engine=lambda: engine))
    runner.engine = engine
    return runner


def test_the_requests_of_16_debates_are_in_flight_together(runner):
    runner.env.reset(seed=1)
    for _ in range(ROUNDS):
        runner.env.step([dict.fromkeys(runner.env.session.agents, 1)] * DEBATES)
    assert set(runner.engine.bursts) == {ALL}
    assert runner.engine.requests == ALL * (1 + ROUNDS)


def test_a_first_refinement_waits_for_its_own_draft_alone():
    begun: list[GenerationRequest] = []

    class OneSlowAnswer(ScriptedEngine):
        async def generate(self, request):
            begun.append(request)
            if len(begun) == 1:
                while len(begun) < 2 * ALL - 1:  # all others' first answers and refinements
                    await asyncio.sleep(0)
            return await super().generate(request)

    engine = partial(OneSlowAnswer, answer_like_a_small_model)
    runner = DeliberationEnvRunner(config=small_config(DEBATES, questions=4 * DEBATES, engine=engine))
    runner.env.reset(seed=1)
    assert len(begun) == 2 * ALL


def test_a_sample_resets_once_and_asks_once_a_round(runner):
    assert len(runner.sample()) == DEBATES
    assert runner.engine.bursts[0] == ALL
    assert ROUNDS <= len(runner.engine.bursts) <= 1 + ROUNDS


def test_automatic_resets_within_a_longer_sample_are_together_too(runner):
    assert len(runner.sample(num_timesteps=2 * DEBATES * ROUNDS)) == 2 * DEBATES
    bursts = runner.engine.bursts
    assert 2 * ROUNDS <= len(bursts) <= 2 * (1 + ROUNDS)
    assert bursts.count(ALL) >= 2


def test_a_remade_and_a_stopped_env_end_their_engines():
    closed = []

    class Engine(ScriptedEngine):
        async def close(self):
            closed.append(self)

    runner = DeliberationEnvRunner(config=small_config(8, engine=partial(Engine, answer_like_a_small_model)))
    for end in (runner.make_env, runner.stop):
        runner.sample()
        end()
    assert len({*map(id, closed)}) == 2


def test_recorded_debates_make_no_request(runner):
    tree = runner.env.session.debates.tree
    runner.env.session.fill([(q, m) for q in range(len(tree.questions)) for m in range(tree.num_nodes)])
    requests = runner.engine.requests
    runner.sample(num_timesteps=4 * DEBATES * ROUNDS)
    assert runner.engine.requests == requests == 4 * ALL * (1 + ROUNDS)


def test_episodes_are_whole_debates_with_what_the_env_returned(runner):
    for episode in runner.sample():
        assert episode.is_terminated and len(episode) == ROUNDS
        for agent in episode.agent_episodes.values():
            assert agent.module_id == "meta_policy"
            infos, observations = agent.get_infos(slice(1, None)), agent.get_observations()
            rewards = [info["action_rewards"][action] for info, action in zip(infos, agent.get_actions(), strict=True)]
            np.testing.assert_array_equal(agent.get_rewards(), rewards)
            masks = observations["action_mask"][:ROUNDS]
            np.testing.assert_array_equal(masks == 0, np.isnan([info["action_rewards"] for info in infos]))


def test_metrics_describe_the_debates(runner):
    torch.manual_seed(1)  # under which neither mean reward is zero
    episodes = runner.sample()
    debate = runner.get_metrics()["debate"]
    finals = [episode.agent_episodes["agent_0"].get_infos(-1) for episode in episodes]
    actions = np.concatenate([agent.get_actions() for episode in episodes for agent in episode.agent_episodes.values()])
    by_round = {name: debate.pop(name) for name in ("round_1", "round_2", "round_3")}
    measured = {name: float(value.peek()) for name, value in debate.items()}
    assert measured["accuracy"] == pytest.approx(np.mean([info["correct"] for info in finals]))
    assert measured["generated_tokens"] == pytest.approx(np.mean([info["generated_tokens"] for info in finals]))
    shares = [measured[name] for name in ("persist", "refine", "concede")]
    assert shares == pytest.approx(np.bincount(actions, minlength=3) / len(actions))
    for number, of_round in enumerate(by_round.values()):
        taken = [agent.get_actions(number) for episode in episodes for agent in episode.agent_episodes.values()]
        shares = [float(of_round[name].peek()) for name in ("persist", "refine", "concede")]
        assert shares == pytest.approx(np.bincount(taken, minlength=3) / len(taken))
    infos = [i for episode in episodes for agent in episode.agent_episodes.values() for i in agent.get_infos()[1:]]
    for term in ("r_local", "r_global"):
        assert measured[term] == pytest.approx(np.mean([info[term] for info in infos])) != 0


@pytest.mark.parametrize(
    ("env", "message"),
    [("CartPole-v1", "env is 'CartPole-v1'; it must be a DeliberationEnv"), (None, "env: missing; give")],
)
def test_another_env_is_refused(env, message):
    with pytest.raises(ConfigError, match=message):
        DeliberationEnvRunner(config=SoftRankPOConfig().environment(env))

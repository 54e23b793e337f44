"""The PettingZoo view, the registered ids, and the loop of a library that knows nothing of debates: TorchRL."""

import re
import textwrap
from collections.abc import Callable
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from debate_fixtures import FEATURES
from pettingzoo.test import parallel_api_test, parallel_seed_test
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.pre_checks.env import check_multiagent_environments
from rllib_fixtures import debate_config, one_agent_knows, random_legal_actions, small_config
from tensordict.nn import ProbabilisticTensorDictModule, TensorDictModule, TensorDictSequential
from torch import Tensor
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.envs import PettingZooWrapper
from torchrl.envs.utils import check_env_specs
from torchrl.modules import MaskedCategorical

from mpdf_rllib.algorithms.softrankpo import POLICY
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.envs import DeliberationEnv, DeliberationParallelEnv

ENV_ID = "mpdf_rllib/Deliberation-v0"
DEBATES = 48
ONE_KNOWS = partial(ScriptedEngine, one_agent_knows)
LOGITS, MASK, ACTION = ("agent", "logits"), ("agent", "action_mask"), ("agent", "action")
OBSERVATION = {name: ("agent", "observation", name) for name in ("own", "peers", "peer_mask")} | {"action_mask": MASK}


@pytest.mark.filterwarnings("error")
def test_pettingzoo_accepts_the_env():
    parallel_api_test(DeliberationParallelEnv(debate_config()))


@pytest.mark.filterwarnings("error")
def test_pettingzoo_finds_that_seeds_repeat_debates():
    """It plays one round without regard to the mask: here all actions are legal in the first."""
    parallel_seed_test(lambda: DeliberationParallelEnv(debate_config(engine=ONE_KNOWS)))


def test_both_views_play_the_same_debates():
    config = debate_config()
    parallel, own = DeliberationParallelEnv(config), DeliberationEnv(config)
    rng = np.random.default_rng(0)
    for seed in (3, None, None):
        (observations, infos), (own_observations, start) = parallel.reset(seed=seed), own.reset(seed=seed)
        assert parallel.agents == parallel.possible_agents == own.possible_agents
        assert infos == {agent: {} for agent in parallel.agents}
        while parallel.agents:
            for agent, observation in observations.items():
                assert observation in parallel.observation_space(agent)
            np.testing.assert_equal(observations, own_observations)
            actions = random_legal_actions(observations, rng)
            observations, *outcome, infos = parallel.step(actions)
            own_observations, *own_outcome, own_infos = own.step(actions)
            ends = [{*flags} - {*parallel.possible_agents} for flags in own_outcome[1:]]
            assert ends == [{"__all__"}, {"__all__"}] and bool(parallel.agents) != own_outcome[1]["__all__"]
            np.testing.assert_equal(outcome, [{agent: part[agent] for agent in actions} for part in own_outcome])
            np.testing.assert_equal(infos, {agent: info | start[agent] for agent, info in own_infos.items()})
        np.testing.assert_equal(observations, own_observations)


def test_the_loop_of_the_docstring_plays_a_debate():
    loop = textwrap.dedent(DeliberationParallelEnv.__doc__.partition("With random legal actions:\n")[2])
    names = {"DeliberationParallelEnv": DeliberationParallelEnv, "config": debate_config()}
    exec(loop, names)
    assert names["terminations"] == dict.fromkeys(names["env"].possible_agents, True)


def test_a_masked_action_raises():
    env = DeliberationParallelEnv(debate_config(engine=partial(ScriptedEngine, lambda request: "= 5")))
    observations, _ = env.reset(seed=0)
    assert [observation["action_mask"].tolist() for observation in observations.values()] == [[1, 1, 0]] * 3
    with pytest.raises(ValueError, match="action 2 of agent 1 is illegal"):
        env.step({"agent_0": 0, "agent_1": 2, "agent_2": 1})


def test_closing_the_view_ends_its_engine():
    closed = []

    class Engine(ScriptedEngine):
        async def close(self):
            closed.append(self)

    env = DeliberationParallelEnv(debate_config(engine=partial(Engine, answer_like_a_small_model)))
    env.reset()
    env.close()
    assert len(closed) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [ENV_ID, f"mpdf_rllib.envs:{ENV_ID}"])
def test_gymnasium_makes_the_env_that_rllib_accepts(name):
    env = gymnasium.make(name, config=debate_config(engine=ONE_KNOWS))
    assert type(env) is DeliberationEnv
    check_multiagent_environments(env)


@pytest.mark.parametrize("name", [ENV_ID, "deliberation"])
def test_rllib_trains_on_the_registered_ids(ray_instance, name):
    algorithm = small_config(8, env=name, questions=8).build_algo()
    assert algorithm.train()["env_runners"]["num_episodes"] == 8
    algorithm.stop()


def test_the_reference_page_lists_the_features_as_they_are():
    cells = re.findall(r"^\s*\| `(\w+)` \| (\S+) to (\S+) \| (.+) \|$", DeliberationEnv.__doc__, re.MULTILINE)
    rows = [(name, float(low), float(high), meaning) for name, low, high, meaning in cells]
    assert rows == [(feature.name, feature.low, feature.high, feature.source) for feature in FEATURES]
    assert f"D = {len(FEATURES)}:" in DeliberationEnv.__doc__


class Outcomes(DeliberationParallelEnv):
    """Debates on the test questions; keeps whether the team was right at the end of each."""

    def __init__(self):
        super().__init__(debate_config(DEBATES, split="test", engine=ONE_KNOWS))
        self.correct: list[bool] = []

    def step(self, actions):
        *outcome, infos = super().step(actions)
        if not self.agents:
            self.correct.append(infos["agent_0"]["correct"])
        return *outcome, infos


def plain_loop(score: Callable[[dict[str, Tensor]], Tensor]) -> float:
    """The team's accuracy where actions are drawn from the logits that `score` makes of observations."""
    env = Outcomes()
    for _ in range(DEBATES):
        observations, _ = env.reset()
        while env.agents:
            actions = {}
            for agent, observation in observations.items():
                batch = {key: torch.from_numpy(array).unsqueeze(0) for key, array in observation.items()}
                actions[agent] = int(Categorical(logits=score(batch)).sample())
            observations, *_ = env.step(actions)
    return float(np.mean(env.correct))


def torchrls_loop(logits: TensorDictModule) -> float:
    """The team's accuracy in TorchRL's collector."""
    env = Outcomes()
    choose = ProbabilisticTensorDictModule(
        in_keys={"logits": LOGITS, "mask": MASK}, out_keys=[ACTION], distribution_class=MaskedCategorical
    )
    rounds = 3 * DEBATES
    collector = Collector(
        PettingZooWrapper(env),
        TensorDictSequential(logits, choose),
        frames_per_batch=rounds,
        total_frames=rounds,
    )
    (batch,) = collector
    collector.shutdown()
    assert batch["next", "done"].sum() == len(env.correct) == DEBATES
    return float(np.mean(env.correct))


@pytest.mark.filterwarnings("ignore:PettingZoo in TorchRL")
def test_torchrl_accepts_the_env():
    check_env_specs(PettingZooWrapper(DeliberationParallelEnv(debate_config())))


@pytest.mark.filterwarnings("ignore:PettingZoo in TorchRL")
def test_others_loops_play_random_and_trained_policies(ray_instance, tmp_path):
    config = small_config(DEBATES, questions=DEBATES, engine=ONE_KNOWS).training(warm_start_iterations=1)
    algorithm = config.build_algo()
    for _ in range(6):
        algorithm.train()
    algorithm.get_module(POLICY).save_to_path(tmp_path)
    algorithm.stop()
    network = RLModule.from_checkpoint(tmp_path).policy

    def score(*values: Tensor) -> Tensor:
        return network(dict(zip(OBSERVATION, values, strict=True)))

    torch.manual_seed(0)
    uniform = TensorDictModule(partial(torch.zeros_like, dtype=torch.float32), in_keys=[MASK], out_keys=[LOGITS])
    trained = TensorDictModule(score, in_keys=list(OBSERVATION.values()), out_keys=[LOGITS])
    at_random = torchrls_loop(uniform)
    assert torchrls_loop(trained) > at_random + 0.4
    assert plain_loop(network) > at_random + 0.4

import zlib
from functools import partial

import numpy as np
import pytest
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.vector.sync_vector_multi_agent_env import SyncVectorMultiAgentEnv
from ray.rllib.utils.pre_checks.env import check_multiagent_environments
from rllib_fixtures import FAMILIES, debate_config, random_legal_actions

from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.deliberation_vector_env import DeliberationVectorEnv
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.questions import Question, generate_questions

PERSIST, REFINE, CONCEDE = 0, 1, 2
QUESTION = Question("q", "2 + 3", "5", "number", "arithmetic")


def scripted_env(texts: dict[tuple[int, int], str], rounds: int = 2, requests: list | None = None) -> DeliberationEnv:
    """A debate on 2 + 3 whose solutions are given by (root, depth)."""

    def respond(request):
        if requests is not None:
            requests.append(request)
        return texts[request.position.root, request.position.depth]

    team = Team(1 + max(root for root, _ in texts), rounds, critic=False)
    return DeliberationEnv({"questions": lambda: [QUESTION], "team": team, "engine": partial(ScriptedEngine, respond)})


def odd_texts(request) -> str:
    """All that a language model may say, from nothing to overlong numbers."""
    texts = ["", "no idea", "= " + "9" * 40, "= -" + "7" * 39, "= 1,000,000.5", "= 5 " * 60, "-0 * 1 + 2 - 3 / 4"]
    return texts[zlib.crc32(repr(request.position).encode()) % len(texts)]


def play(env: DeliberationEnv, rng: np.random.Generator, seed: int | None = None) -> list:
    """A debate of random legal actions: what reset and every step returned."""
    observations, infos = env.reset(seed=seed)
    trace, done = [(observations, infos)], False
    while not done:
        actions = random_legal_actions(observations, rng)
        observations, rewards, terminateds, truncateds, infos = env.step(actions)
        trace.append((observations, rewards, terminateds, truncateds, infos))
        done = terminateds["__all__"]
    return trace


def debated(env: DeliberationEnv, resets: int) -> list[str]:
    return [env.reset()[1]["agent_0"]["question"] for _ in range(resets)]


def test_rllib_accepts_the_env():
    texts = {(root, depth): f"= {10 * root + depth}" for root in range(3) for depth in range(3)}
    check_multiagent_environments(scripted_env(texts))


def test_the_same_seed_gives_the_same_debates():
    first, second = (DeliberationEnv(debate_config()) for _ in range(2))
    play(second, np.random.default_rng(1), seed=1)
    traces = [
        [play(env, rng, seed) for seed in (5, None, None)]
        for env, rng in ((first, np.random.default_rng(0)), (second, np.random.default_rng(0)))
    ]
    np.testing.assert_equal(*traces)


def test_seeds_order_the_questions_and_a_pass_meets_each_once():
    env = DeliberationEnv(debate_config(questions=12))
    orders = []
    for seed in (1, 2):
        orders.append([env.reset(seed=seed)[1]["agent_0"]["question"], *debated(env, 11)])
    assert orders[0] != orders[1]
    assert all(sorted(order) == sorted({*orders[0]}) and len({*order}) == 12 for order in orders)


@pytest.mark.parametrize("agents", [2, 3, 5])
@pytest.mark.parametrize("respond", [answer_like_a_small_model, odd_texts])
@pytest.mark.parametrize("critic", [False, True])
def test_spaces_contain_all_observations(agents, respond, critic):
    team = Team(agents, 3, critic=critic)
    env = DeliberationEnv(debate_config(questions=12, team=team, engine=partial(ScriptedEngine, respond)))
    rng = np.random.default_rng(0)
    for _ in range(12):
        for observations, *_ in play(env, rng):
            assert list(observations) == env.possible_agents
            for agent, observation in observations.items():
                assert env.get_observation_space(agent).contains(observation)
                assert all(values.dtype == np.float32 for values in observation.values())


def test_illegal_actions_raise_and_leave_the_debate_as_it_was():
    env = DeliberationEnv(debate_config())
    rng = np.random.default_rng(0)
    refused = 0
    for debate in range(12):
        observations, _ = env.reset(seed=debate)
        done = False
        while not done:
            legal = random_legal_actions(observations, rng)
            for agent, observation in observations.items():
                for action in [*np.flatnonzero(observation["action_mask"] == 0), 3, -1]:
                    with pytest.raises(ValueError, match=f"action {action} of agent {agent[-1]} is illegal"):
                        env.step(legal | {agent: int(action)})
                    refused += 1
            observations, _, terminateds, _, _ = env.step(legal)
            done = terminateds["__all__"]
    assert refused > 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent_9": 0}, "actions are for agent_0, agent_1, agent_2, agent_9; give one for each of"),
        ({"agent_1": 0.7}, r"actions are \[\[0.0, 0.7, 0.0\]\]; give each agent an integer"),
        ({"agent_1": "refine"}, "give each agent an integer"),
        ({"agent_1": None}, "give each agent an integer"),
    ],
)
def test_what_is_no_action_raises_and_leaves_the_debate_as_it_was(changes, message):
    env = DeliberationEnv(debate_config())
    persist = dict.fromkeys(env.agents, 0)
    with pytest.raises(ValueError, match="the debate has not begun; reset it"):
        env.step(persist)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(persist | changes)
    with pytest.raises(ValueError, match="actions are for agent_0; give one for each of"):
        env.step({"agent_0": 0})
    assert env.session.debates.round == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"credit": "outcom"}, "credit is 'outcom'; it must be one of step, outcome"),
        ({"token_price": -1}, "token_price is -1; it must be a finite number of at least 0"),
        ({"token_price": float("inf")}, "token_price is inf; it must be a finite number of at least 0"),
        ({"tie_tolerance": "much"}, "tie_tolerance is 'much'; it must be a finite number of at least 0"),
        ({"questions": list}, "questions: there are none"),
        ({"toekn_price": 1}, "env_config: got an unexpected keyword argument 'toekn_price'"),
    ],
)
def test_a_wrong_env_config_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        DeliberationEnv(debate_config() | changes)
    with pytest.raises(ConfigError, match="env_config: missing a required argument: 'questions'"):
        DeliberationEnv({})


def test_all_legal_actions_can_be_taken():
    env = DeliberationEnv(debate_config())
    for agent in env.possible_agents:
        for action in range(3):
            for seed in range(8):
                observations, _ = env.reset(seed=seed)
                if observations[agent]["action_mask"][action]:
                    env.step(random_legal_actions(observations, np.random.default_rng(seed)) | {agent: action})


def test_the_last_refinement_cannot_be_refined_and_agents_that_agree_cannot_concede():
    env = scripted_env({(root, depth): "= 5" for root in range(3) for depth in range(2)}, rounds=1)
    observations, _ = env.reset()
    assert [list(obs["action_mask"]) for obs in observations.values()] == [[1, 1, 0]] * 3
    observations, *_ = env.step(dict.fromkeys(env.possible_agents, REFINE))
    assert [list(obs["action_mask"]) for obs in observations.values()] == [[1, 0, 0]] * 3


def test_infos_hold_the_rewards_of_all_actions():
    env = DeliberationEnv(debate_config())
    rng = np.random.default_rng(0)
    for _ in range(12):
        observations, _ = env.reset()
        done = False
        while not done:
            actions = random_legal_actions(observations, rng)
            following, rewards, terminateds, truncateds, infos = env.step(actions)
            for agent, action in actions.items():
                vector = infos[agent]["action_rewards"]
                assert vector.shape == (3,) and vector.dtype == np.float32
                np.testing.assert_array_equal(np.isnan(vector), observations[agent]["action_mask"] == 0)
                assert rewards[agent] == vector[action] == infos[agent]["r_local"] + infos[agent]["r_global"]
            done = terminateds["__all__"]
            assert {*terminateds.values()} == {done} and {*truncateds.values()} == {False}
            assert all(("correct" in info) == done for info in infos.values())
            observations = following


def test_rewards_credit_and_tokens_of_a_debate_by_hand():
    requests: list = []
    texts = {
        (0, 0): "2 + 3 = 5",
        (1, 0): "= 7",
        (2, 0): "= 8",
        (0, 1): "= 6",
        (1, 1): "it = 5",
        (2, 1): "= 9",
        (1, 2): "= 5",
    }
    env = scripted_env(texts, rounds=2, requests=requests)
    env.reset()
    # Agent 1 mends its answer; agent 2 adopts that of agent 0, as equally sure as agent 1 and lower.
    _, rewards, _, _, infos = env.step({"agent_0": PERSIST, "agent_1": REFINE, "agent_2": CONCEDE})
    vectors = {agent: list(info["action_rewards"]) for agent, info in infos.items()}
    assert vectors == {"agent_0": [0, -1, -1], "agent_1": [0, 1, 1], "agent_2": [0, 0, 1]}
    assert rewards == {"agent_0": 0, "agent_1": 1, "agent_2": 1}
    assert [info["tokens"] for info in infos.values()] == [0, 3, 0]

    observations, _, terminateds, _, infos = env.step(dict.fromkeys(env.possible_agents, PERSIST))
    assert terminateds["__all__"]
    visited = [(0, 0), (1, 0), (2, 0), (1, 1)]
    prompts = {(r.position.root, r.position.depth): len(r.prompt.split()) for r in requests}
    for info in infos.values():
        assert info["correct"] is True
        assert info["generated_tokens"] == 5 + 2 + 2 + 3
        assert info["prompt_tokens"] == sum(prompts[node] for node in visited)
        assert info["cached_tokens"] == 0


def test_a_wrong_team_is_not_correct_and_a_right_minority_does_not_help():
    env = scripted_env({(0, 0): "= 5", (1, 0): "= 7", (2, 0): "= 7", (0, 1): "= 5", (1, 1): "= 7", (2, 1): "= 7"}, 1)
    env.reset()
    *_, infos = env.step(dict.fromkeys(env.possible_agents, PERSIST))
    assert [info["correct"] for info in infos.values()] == [False] * 3


def test_env_runners_share_the_questions():
    questions = 24
    config = debate_config(questions=questions)
    everything = {question.id for question in config["questions"]()}
    shares = [
        {*debated(DeliberationEnv(EnvContext(config, worker_index=index, num_workers=3)), questions)}
        for index in (1, 2, 3)
    ]
    assert set.union(*shares) == everything
    assert sum(map(len, shares)) == questions
    local = DeliberationEnv(EnvContext(config, worker_index=0, num_workers=3))
    assert {*debated(local, questions)} == everything


def test_more_env_runners_than_questions_are_refused():
    config = debate_config(questions=2)
    with pytest.raises(ConfigError, match="env runner .* of 8 owns no question; use fewer env runners"):
        for index in range(1, 9):
            DeliberationEnv(EnvContext(config, worker_index=index, num_workers=8))


def test_the_batched_env_plays_as_rllibs_own_vector_env():
    """Two passes, and so an automatic reset, of random debates; only the order of the questions may differ."""
    questions = generate_questions(FAMILIES, "train", 6)
    own = DeliberationVectorEnv(DeliberationEnv(debate_config(questions=6)), len(questions))
    stock = SyncVectorMultiAgentEnv(
        [partial(DeliberationEnv, debate_config() | {"questions": lambda q=question: [q]}) for question in questions]
    )
    assert own.single_observation_space == stock.single_observation_space
    assert own.single_action_space == stock.single_action_space
    assert own.metadata["autoreset_mode"] == stock.metadata["autoreset_mode"]

    traces = []
    for env in (own, stock):
        observations, infos = env.reset(seed=3)
        playing = [info["agent_0"]["question"] for info in infos]
        assert sorted(playing) == sorted(question.id for question in questions)
        trace: dict[str, list] = {
            question: [observation, info]
            for question, observation, info in zip(playing, observations, infos, strict=True)
        }
        for step in range(7):
            # The vector env ignores the actions that it gets where it resets.
            actions = [
                random_legal_actions(observation, np.random.default_rng([step, *question.encode()]))
                for question, observation in zip(playing, observations, strict=True)
            ]
            observations, *rest, infos = env.step(actions)
            if "question" in infos[0]["agent_0"]:
                playing = [info["agent_0"]["question"] for info in infos]
            for b, question in enumerate(playing):
                returned = (observations[b], *(part[b] for part in rest), infos[b])
                trace[question].append(returned)
        traces.append(trace)
    np.testing.assert_equal(traces[0], traces[1])
    resets = [step for step in traces[0][questions[0].id][2:] if "question" in step[-1]["agent_0"]]
    assert len(resets) == 1


def test_closing_the_env_ends_its_engine_and_a_reset_makes_another():
    closed = []

    class Engine(ScriptedEngine):
        async def close(self):
            closed.append(self)

    env = DeliberationEnv(debate_config(engine=partial(Engine, answer_like_a_small_model)))
    env.close()
    assert not closed, "an engine was made only to be closed"
    env.reset()
    env.close()
    env.close()
    assert len(closed) == 1
    env.reset()
    env.close()
    assert len({*map(id, closed)}) == 2, "a closed engine was asked"

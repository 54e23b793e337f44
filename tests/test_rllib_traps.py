"""What RLlib does silently wrong, a test each that its cure is there; the numbers are those of the project's notes.

Traps 5, 7, 8 and 10 are in test_runners.py, 9 in test_softrankpo.py.
"""

from functools import partial

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from rllib_fixtures import SharedQuestionsEnv, note_questions, questions_of, small_config, train_batch

from mpdf_rllib.algorithms.softrankpo import POLICY, SoftRankPO
from mpdf_rllib.algorithms.softrankpo.softrankpo_connector import ADVANTAGES, LABELS, PREFERENCE
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.deliberation_env_runner import DeliberationEnvRunner

pytestmark = pytest.mark.usefixtures("ray_instance")


def sampled_questions(
    worker_index: int = 0, samples: int = 1, seed: int = 7, evaluation: bool = False
) -> list[list[str]]:
    """The questions of the successive samples of a new env runner: 16 debates each, on 200 questions."""
    config = small_config(16, SharedQuestionsEnv, questions=200).debugging(seed=seed)
    config.in_evaluation = evaluation
    runner = DeliberationEnvRunner(config=config, worker_index=worker_index, num_workers=2)
    return [questions_of(runner.sample()) for _ in range(samples)]


def shared(first: list[str], second: list[str]) -> int:
    return len({*first} & {*second})


def test_trap_1_successive_samples_are_about_different_questions():
    first, second, third = sampled_questions(samples=3)
    # By chance two samples of 16 out of 200 share 1.3 questions.
    assert max(shared(first, second), shared(first, third), shared(second, third)) < 8


def test_trap_1_the_sequence_of_samples_derives_from_the_seed():
    assert sampled_questions(samples=3) == sampled_questions(samples=3)
    assert shared(sampled_questions()[0], sampled_questions(seed=8)[0]) < 8


def test_trap_1_every_evaluation_is_about_the_same_questions():
    first, second = sampled_questions(samples=2, evaluation=True)
    assert first == second
    assert shared(first, sampled_questions()[0]) < 8


def test_trap_2_env_runners_and_their_debates_start_differently():
    first, second = (sampled_questions(worker_index)[0] for worker_index in (1, 2))
    assert len({*first}) == len({*second}) == 16
    assert shared(first, second) < 8


def test_trap_2_runs_with_neighbouring_seeds_start_differently():
    second_of_seed_7, first_of_seed_8 = sampled_questions(2, seed=7)[0], sampled_questions(1, seed=8)[0]
    assert shared(second_of_seed_7, first_of_seed_8) < 8


def test_trap_3_no_request_is_made_but_those_of_the_debates():
    requests = []

    def respond(request):
        requests.append(request.position)
        return answer_like_a_small_model(request)

    algorithm = small_config(8, questions=64, engine=lambda: ScriptedEngine(respond)).build_algo()
    assert requests == []
    debated = questions_of(algorithm.env_runner.sample())
    assert {position.question for position in requests} == {*debated}
    assert len(requests) == len({*requests})
    algorithm.stop()


@pytest.mark.parametrize("env_runners", [0, 2])
def test_trap_4_restored_env_runners_act_with_the_restored_weights_at_once(tmp_path, env_runners):
    """And so on debates of the questions that the unbroken run goes on with."""
    notes = tmp_path / "notes"
    notes.mkdir()
    config = (
        small_config(questions=200)
        .training(warm_start_iterations=1)
        .env_runners(num_env_runners=env_runners)
        .callbacks(on_sample_end=partial(note_questions, notes))
    )
    algorithm = config.build_algo()
    observation = {
        key: torch.from_numpy(array).flatten(0, 1) for key, array in some_observation(algorithm.config).items()
    }

    latest: list[dict[str, str]] = []

    def acts(algorithm) -> list:
        group = algorithm.env_runner_group

        def logits(runner):
            return runner.module[POLICY].forward_exploration({Columns.OBS: observation})[Columns.ACTION_DIST_INPUTS]

        return [values.detach().numpy() for values in group.foreach_env_runner(logits)]

    def assert_next_iteration_samples_the_latest_policy(algorithm):
        learner = algorithm.train()["learners"][POLICY]
        assert learner["diff_num_grad_updates_vs_sampler_policy"] == 1
        latest.append({file.name: file.read_text().splitlines()[-1] for file in notes.iterdir()})

    for _ in range(3):
        algorithm.train()
    algorithm.save_to_path(tmp_path / "checkpoint")
    saved = acts(algorithm)
    assert len(saved) >= max(env_runners, 1)
    assert_next_iteration_samples_the_latest_policy(algorithm)
    assert not np.array_equal(acts(algorithm)[-1], saved[-1])

    algorithm.restore_from_path(tmp_path / "checkpoint")
    np.testing.assert_array_equal(acts(algorithm), saved)
    assert_next_iteration_samples_the_latest_policy(algorithm)
    algorithm.stop()

    restored = SoftRankPO.from_checkpoint(tmp_path / "checkpoint")
    np.testing.assert_array_equal(acts(restored), saved)
    assert_next_iteration_samples_the_latest_policy(restored)
    restored.stop()
    unbroken, *resumed = latest
    assert len(unbroken) == max(env_runners, 1)
    assert resumed == [unbroken, unbroken]


def some_observation(config) -> dict[str, np.ndarray]:
    env = DeliberationEnv(config.env_config)
    env.session.reset(12, seed=0)
    return env.session.debates.observe()


def test_trap_6_torch_does_not_take_all_cores():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        small_config().build_algo().stop()
        assert torch.get_num_threads() == 1
        small_config().resources(num_cpus_for_main_process=3).build_algo().stop()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_trap_11_the_learner_sees_with_each_state_the_rewards_of_its_own_actions():
    """In a made-up debate the best action of agent i in round t is (i + t) modulo 3; in the last all are equal."""
    config = small_config()
    runner = DeliberationEnvRunner(config=config)
    agents = runner.env.session.agents

    def observe(t):
        observations = {agent: runner.env.single_observation_spaces[agent].sample() for agent in agents}
        for i, observation in enumerate(observations.values()):
            observation["own"][:2] = i, t
        return observations

    episodes = []
    for _ in range(2):
        episode = MultiAgentEpisode(
            observation_space=runner.env.single_observation_spaces,
            action_space=runner.env.single_action_spaces,
            agent_to_module_mapping_fn=config.policy_mapping_fn,
        )
        episode.add_env_reset(observations=observe(0), infos={agent: {"question": "q"} for agent in agents})
        for t in range(4):
            rewards = [np.roll(np.array([1, 0, -1], np.float32), i + t) * (t < 3) for i in range(3)]
            episode.add_env_step(
                observations=observe(t + 1),
                actions=dict.fromkeys(agents, t % 3),
                rewards={agent: reward[t % 3] for agent, reward in zip(agents, rewards, strict=True)},
                infos={agent: {"action_rewards": reward} for agent, reward in zip(agents, rewards, strict=True)},
                terminateds={"__all__": t == 3},
                truncateds={"__all__": False},
            )
        episodes.append(episode.to_numpy())

    batch = train_batch(config, episodes)
    agent, t = batch[Columns.OBS]["own"][:, :2].numpy().astype(int).T
    assert sorted(zip(agent, t, strict=True)) == sorted([(i, j) for i in range(3) for j in range(4)] * 2)
    np.testing.assert_array_equal(batch[Columns.ACTIONS], t % 3)
    differ, best = t < 3, (agent + t) % 3
    np.testing.assert_array_equal(batch[PREFERENCE], differ)
    np.testing.assert_array_equal(batch[LABELS][differ], np.eye(3)[best[differ]])
    np.testing.assert_array_equal(batch[ADVANTAGES][differ].argmax(-1), best[differ])
    np.testing.assert_array_equal(batch[ADVANTAGES][~differ], 0)


def test_trap_12_an_iteration_trains_the_shared_policy_of_all_agents():
    algorithm = small_config().build_algo()
    assert algorithm.config.is_multi_agent
    before = {name: value.clone() for name, value in algorithm.get_module(POLICY).policy.state_dict().items()}
    result = algorithm.train()
    assert result["learners"][POLICY]["num_module_steps_trained"] > 0
    assert "default_policy" not in result["learners"]
    after = algorithm.get_module(POLICY).policy.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    algorithm.stop()

"""Env runners and learners that are killed, slow, or do not come back."""

import logging
import os
import signal
import time
from functools import partial

import pytest
import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from rllib_fixtures import (
    BreakableEnv,
    OneSlowRunnerEnv,
    SharedQuestionsEnv,
    assert_env_runners_hold_the_learners_weights,
    note_questions,
    short_config,
)

from mpdf_rllib.algorithms.softrankpo import POLICY, SoftRankPO
from mpdf_rllib.engine import Generation, GenerationRequest
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.errors import DataError, EngineError

pytestmark = pytest.mark.usefixtures("ray_instance")


def kill(algorithm: SoftRankPO, *indices: int) -> None:
    for index, actor in algorithm.env_runner_group._worker_manager.actors().items():
        if index in indices:
            ray.kill(actor, no_restart=False)


def set_config(algorithm: SoftRankPO, **settings) -> None:
    algorithm.config = algorithm.config.copy(copy_frozen=False)
    for name, value in settings.items():
        setattr(algorithm.config, name, value)


class TestLostEnvRunners:
    def test_a_killed_one_comes_back_in_sync_and_goes_on_with_other_questions(self, tmp_path):
        algorithm = (
            short_config(16, env=SharedQuestionsEnv, questions=200)
            .env_runners(num_env_runners=2)
            .callbacks(on_sample_end=partial(note_questions, tmp_path))
            .build_algo()
        )
        for _ in range(2):
            algorithm.train()
        kill(algorithm, 1)
        deadline = time.monotonic() + 60
        result = algorithm.train()
        assert result["fault_tolerance"]["num_healthy_workers"] == 1
        while result["fault_tolerance"]["num_healthy_workers"] < 2 and time.monotonic() < deadline:
            result = algorithm.train()  # with the other one alone
        assert result["fault_tolerance"]["num_remote_worker_restarts"] == 1
        assert result["learners"][POLICY]["diff_num_grad_updates_vs_sampler_policy"] == 1
        assert_env_runners_hold_the_learners_weights(algorithm.env_runner_group, algorithm)

        *before, back = [{*line.split()} for line in (tmp_path / "1").read_text().splitlines()]
        assert len(before) == 2
        # By chance two samples of 16 out of 200 share 1.3 questions.
        assert max(len(back & earlier) for earlier in before) < 8
        algorithm.stop()

    def test_trap_5_an_iteration_waits_until_one_is_back_and_ends_in_an_error_where_none_comes(self, tmp_path):
        broken = tmp_path / "broken"
        algorithm = short_config(env=BreakableEnv, broken=broken).env_runners(num_env_runners=1).build_algo()
        algorithm.train()
        kill(algorithm, 1)
        result = algorithm.train()
        assert result["env_runners"]["num_episodes"] == 15
        assert result["learners"][POLICY]["diff_num_grad_updates_vs_sampler_policy"] == 1
        broken.touch()
        kill(algorithm, 1)
        set_config(algorithm, env_runner_restore_timeout_s=3)
        with pytest.raises(EngineError, match=r"none came back .*env_runner_restore_timeout_s=3 s"):
            algorithm.train()
        algorithm.stop()

    @pytest.mark.parametrize(
        ("ignored", "message"),
        [(False, "an env runner or a learner was lost"), (True, "none came back .restart_failed_env_runners=False")],
    )
    def test_without_restarts_the_iteration_ends_in_an_error_at_once(self, ignored, message):
        algorithm = (
            short_config()
            .env_runners(num_env_runners=1)
            .fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=ignored)
            .build_algo()
        )
        kill(algorithm, 1)
        started = time.monotonic()
        with pytest.raises(EngineError, match=message):
            algorithm.train()
        assert time.monotonic() - started < algorithm.config.env_runner_restore_timeout_s / 2
        algorithm.stop()


def ask_in_vain(error: Exception, request: GenerationRequest) -> Generation:
    raise error


class TestFailedDebates:
    @pytest.mark.parametrize("env_runners", [0, 2])
    @pytest.mark.parametrize(
        ("error", "remote_kind", "message"),
        [
            (EngineError("the server is down"), EngineError, "^the server is down$"),
            (DataError("no such question"), DataError, "^no such question$"),
            (ZeroDivisionError("a bug"), EngineError, "a bug"),
        ],
    )
    def test_the_iteration_ends_at_once_with_what_the_engine_raised(self, env_runners, error, remote_kind, message):
        engine = partial(ScriptedEngine, partial(ask_in_vain, error))
        algorithm = short_config(engine=engine).env_runners(num_env_runners=env_runners).build_algo()
        started = time.monotonic()
        with pytest.raises(remote_kind if env_runners else type(error), match=message):
            algorithm.train()
        assert time.monotonic() - started < 30, "RLlib's wait before it starts one again is a minute"
        algorithm.stop()


class TestLostLearners:
    @pytest.mark.parametrize("iterations", [1, 2])
    def test_the_iteration_ends_in_an_error_also_where_stage_two_begins(self, iterations):
        algorithm = short_config().learners(num_learners=1).build_algo()
        for _ in range(iterations):
            algorithm.train()
        (pid,) = algorithm.learner_group.foreach_learner(lambda learner: os.getpid())
        os.kill(pid.get(), signal.SIGKILL)
        with pytest.raises(EngineError, match="an env runner or a learner was lost"):
            algorithm.train()
        algorithm.stop()


class TestSlowEnvRunners:
    def test_trap_8_a_language_model_has_more_time_than_rllib_gives_to_a_sample(self):
        assert short_config().sample_timeout_s >= 10 * AlgorithmConfig().sample_timeout_s

    def test_trap_8_dropped_samples_are_reported(self, caplog):
        algorithm = (
            short_config(env=OneSlowRunnerEnv)
            .env_runners(num_env_runners=2, sample_timeout_s=10, merge_env_runner_states=False)
            .training(train_batch_size_per_learner=3)
            .build_algo()
        )
        with caplog.at_level(logging.WARNING):
            for iteration in (1, 2):
                result = algorithm.train()
                assert result["env_runners"]["num_episodes"] == 15
                assert result["fault_tolerance"]["num_env_runners_dropped_lifetime"] == iteration
        assert caplog.text.count("samples dropped: 1; they took longer than sample_timeout_s=10 s") == 2
        set_config(algorithm, sample_timeout_s=1e-4)
        with pytest.raises(EngineError, match="no env runner returned a debate within sample_timeout_s=0.0001 s"):
            algorithm.train()
        kill(algorithm, 2)  # whose sample would be waited for
        algorithm.stop()

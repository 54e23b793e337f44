"""What the tests of the RLlib parts share: small debates on a scripted engine."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModule

from mpdf_rllib.algorithms.softrankpo import POLICY, SoftRankPOConfig
from mpdf_rllib.engine import Generation, GenerationRequest
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import Split, generate_questions

FAMILIES = ("multiplication", "addition", "arithmetic")
SOLVABLE = {q.id: q for split in ("train", "test") for q in generate_questions(FAMILIES, split, 48)}
"""What `one_agent_knows` knows."""

State = dict[str, torch.Tensor]


def train_batch(config: AlgorithmConfig, episodes: list) -> dict[str, Any]:
    """What a learner trains the shared policy on."""
    learner = config.build_learner(env=config.env(config.env_config))
    learner.build()
    connector = config.build_learner_connector(None, None)
    return connector(rl_module=learner.module, batch={}, episodes=episodes, shared_data={})[POLICY]


def one_agent_knows(request: GenerationRequest) -> Generation:
    """One agent's first answer is right and sure; the others', and all refinements, are wrong, unsure and different."""
    question, position = SOLVABLE[request.position.question], request.position
    right = position.depth == 0 and position.root == len(question.text) % 3
    answer = int(question.answer) + (0 if right else 1 + position.root)
    logprob = -0.05 if right else -2.0
    text = f"= {answer}"
    return Generation(text, (0, 1), (logprob, logprob), (1, len(text)), "stop", 10, 0, 2)


def debate_config(
    questions: int = 12, split: Split = "train", engine: Callable | None = None, **settings: Any
) -> dict[str, Any]:
    """The env config of debates of three agents without a critic."""
    return {
        "questions": partial(generate_questions, FAMILIES, split, questions),
        "team": Team(critic=False),
        "engine": engine or partial(ScriptedEngine, answer_like_a_small_model),
    } | settings


def small_config(
    debates: int = 16, env: type = DeliberationEnv, config: AlgorithmConfig | None = None, **settings: Any
) -> AlgorithmConfig:
    """An algorithm whose iterations are one sample of so many debates, of which it makes small updates."""
    return (
        (config or SoftRankPOConfig())
        .environment(env, env_config=debate_config(**settings))
        .env_runners(num_envs_per_env_runner=debates)
        .training(num_epochs=2, minibatch_size=48, train_batch_size_per_learner=3 * debates)
        .rl_module(model_config={"dim": 16, "heads": 2})
        .debugging(seed=7)
    )


def short_config(debates: int = 15, **settings: Any) -> AlgorithmConfig:
    """One iteration of warm start; 15 debates do not divide among two learners."""
    return small_config(debates, **settings).training(warm_start_iterations=1)


def states_of(module) -> dict[str, State]:
    return {
        name: {key: value.clone() for key, value in part.unwrapped().state_dict().items()}
        for name, part in module.items()
    }


def learners_of(algorithm: Algorithm) -> list[dict[str, State]]:
    results = algorithm.learner_group.foreach_learner(lambda learner: states_of(learner.module))
    return [result.get() for result in results]


def assert_same_states(first: dict[str, State], second: dict[str, State]) -> None:
    """The first may hold less of each module."""
    assert first.keys() == second.keys()
    for name in first:
        for key, value in first[name].items():
            assert torch.equal(value, second[name][key]), f"{name} {key}"


def assert_env_runners_hold_the_learners_weights(group, algorithm: Algorithm) -> None:
    (learner, *_) = learners_of(algorithm)
    for runner in group.foreach_env_runner(lambda runner: states_of(runner.module)):
        assert all("reference_frozen" in state for state in runner.values())
        assert_same_states(runner, learner)


def learner_module(algorithm: Algorithm) -> RLModule:
    """The module that is trained."""
    results = algorithm.learner_group.foreach_learner(lambda learner: learner.module[POLICY].unwrapped())
    return next(iter(results)).get()


def random_legal_actions(observations: dict[str, Any], rng: np.random.Generator) -> dict[str, int]:
    return {agent: int(rng.choice(np.flatnonzero(obs["action_mask"]))) for agent, obs in observations.items()}


def questions_of(episodes: list) -> list[str]:
    """What the debates of RLlib's episodes are about."""
    return [episode.agent_episodes["agent_0"].get_infos(0)["question"] for episode in episodes]


def note_questions(folder: Path, env_runner, samples, **kwargs) -> None:
    """On the end of a sample: adds the ids of its questions as a line to the env runner's file."""
    with (folder / str(env_runner.worker_index)).open("a") as file:
        file.write(" ".join(questions_of(samples)) + "\n")


class SharedQuestionsEnv(DeliberationEnv):
    """Every env runner debates all questions, so that nothing but seeds tells env runners apart."""

    def __init__(self, config):
        super().__init__(dict(config))


class OneSlowRunnerEnv(DeliberationEnv):
    """The second env runner's engine takes two minutes for a request."""

    def __init__(self, config):
        delay = 120.0 if config.worker_index == 2 else 0.0
        config["engine"] = partial(ScriptedEngine, answer_like_a_small_model, delay=delay)
        super().__init__(config)


class BreakableEnv(DeliberationEnv):
    """Cannot be made again once the file `broken` is there."""

    def __init__(self, config):
        if config.pop("broken").exists():
            raise RuntimeError("the env cannot be made")
        super().__init__(config)

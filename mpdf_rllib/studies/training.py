"""The policies of studies: each trained once, for whichever arms need it, by RLlib's algorithms in Ray tasks.

Tune would start a process a trial, which takes longer than a trial of these takes; here processes go from one policy to
the next. What comes out is what `mpdf_rllib.train` trains.
"""

import copy
import gc
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from mpdf_rllib import cli, run_folder
from mpdf_rllib.algorithms.debate_settings import POLICY
from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork, greedy
from mpdf_rllib.algorithms.policy_files import load_policy, save_policy
from mpdf_rllib.baselines.schedules import play
from mpdf_rllib.cluster import start_ray
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.envs.debate_batch import DebateBatch, Observation, Rules
from mpdf_rllib.envs.features import FeatureTable
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import DataError, EngineError, MPDFError
from mpdf_rllib.learners import (
    GROUP_RELATIVE,
    ROLLOUT_GROUPS,
    SOFTRANKPO,
    Learner,
    algorithm_config,
    proximal,
    replaying,
)
from mpdf_rllib.questions import Question
from mpdf_rllib.recorded_trees import RecordedTrees
from mpdf_rllib.studies.config import Algorithm as AlgorithmName
from mpdf_rllib.studies.config import Arm

_STAGED: dict[AlgorithmName, Learner] = {"GRPO": GROUP_RELATIVE, "RolloutGRPO": ROLLOUT_GROUPS}
"""Those with a stage one of their own; PPO begins with SoftRankPO's."""
_POLICY, _WARM_START, _HISTORY = "policy", "warm_start", "history.json"


@dataclass(frozen=True)
class Job:
    """A policy to train.

    Attributes:
        config: Its experiment, with one kind of credit.
        algorithm: What trains it.
        seed: Of the training.
        solutions: The digest of what it is trained on, and measured on meanwhile; see `RecordedTrees.digest`.
    """

    config: ExperimentConfig
    algorithm: AlgorithmName
    seed: int
    solutions: str

    @property
    def folder(self) -> Path:
        """Where it lies: of equal policies in one place, whichever study has them trained."""
        learned = self.config.algorithm.model_dump(mode="json")
        settings = (learned, self.config.team.rules, self.algorithm, self.solutions)
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        return self.config.run_path / run_folder.STUDIES / f"{key}-seed{self.seed}"


@dataclass(frozen=True)
class TrainedPolicy:
    """What came of a job.

    Attributes:
        policy: After the last iteration.
        warm_start: The same after stage one.
        history: After 0, 1, ... iterations of stage two, by name: `accuracy` of the greedy policy on the test questions
            and `log_ratio`, the largest absolute log pi / pi_ref of a state's legal actions, pi_ref being the warm
            start, the mean over the first round of the test questions.
    """

    policy: MetaPolicyNetwork
    warm_start: MetaPolicyNetwork
    history: list[dict[str, float]]


def jobs_of(arm: Arm, trees: Mapping[str, RecordedTrees]) -> list[Job]:
    """The policies that an arm needs, one a seed.

    Args:
        arm: The arm.
        trees: All solutions of what it is trained on, by `trees_key`.
    """
    if arm.config.is_rule:
        return []
    solutions = trees[trees_key(arm.trained)].digest
    return [Job(arm.trained, arm.config.algorithm, seed, solutions) for seed in range(arm.trained.seeds)]


def train(jobs: Iterable[Job], trees: Mapping[str, RecordedTrees], fresh: bool = False) -> None:
    """Trains what is not trained yet, as many at a time as Ray has CPUs.

    Args:
        jobs: The policies; equal ones are trained once.
        trees: All solutions of their experiments, by `trees_key`.
        fresh: Trains all of them anew.

    Raises:
        ConfigError: The run folder cannot be written.
        EngineError: A policy could not be trained; those before it are kept.
    """
    by_folder = {job.folder: job for job in jobs}
    if fresh:
        for folder in by_folder:
            shutil.rmtree(folder, ignore_errors=True)
    missing = {folder: job for folder, job in by_folder.items() if not folder.exists()}
    if not missing:
        return
    start_ray()
    given = {
        key: ray.put((_env_config(job.config, trees[key[0]].train), trees[key[0]].test))
        for key, job in {_given_key(job): job for job in missing.values()}.items()
    }
    running = {_train.remote(job, given[_given_key(job)], folder): folder for folder, job in missing.items()}
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("policies"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=cli.console) as progress:
        for _ in progress.track(range(len(running)), description="Training"):
            (done,), _ = ray.wait([*running], num_returns=1)
            _finish(done, running.pop(done), [*running])


def _finish(done: ray.ObjectRef, folder: Path, others: list[ray.ObjectRef]) -> None:
    try:
        failed: BaseException | None = ray.get(done)
    except ray.exceptions.RayTaskError as error:  # a bug
        failed = error
    except ray.exceptions.RayError as error:
        failed = EngineError(f"the process that trained {folder} was lost; the same command goes on\n{error}")
    if failed is not None:
        for other in others:
            ray.cancel(other, force=True)
        raise failed


def read_trained(job: Job) -> TrainedPolicy:
    """Reads what came of a job.

    Raises:
        DataError: It is not trained, or a file was damaged.
    """
    folder = job.folder
    try:
        history = json.loads((folder / _HISTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no trained policy ({error}); train anew (--fresh)") from error
    return TrainedPolicy(load_policy(folder / _POLICY), load_policy(folder / _WARM_START), history)


def trees_key(config: ExperimentConfig) -> str:
    """The same for experiments with the same solutions."""
    return config.model_dump_json(include={"questions", "team", "recording"}, exclude={"team": {*Rules._fields}})


@dataclass(frozen=True)
class _RecordedTeam(Team):
    """A team all of whose solutions are there, so that its debates ask an engine for nothing."""

    solutions: SolutionTree = field(kw_only=True)

    def tree(self, questions: Iterable[Question], table: FeatureTable | None = None) -> SolutionTree:
        wanted = {question.id for question in questions}
        return self.solutions.of_questions(np.array([each.id in wanted for each in self.solutions.questions]))

    def __deepcopy__(self, memo: dict) -> Self:
        """Itself, since a tree without a gap is not changed any more; RLlib copies its config again and again."""
        return self


def _env_config(config: ExperimentConfig, solutions: SolutionTree) -> dict[str, Any]:
    env_config = replaying(config, solutions)
    return env_config | {"team": _RecordedTeam(**vars(env_config["team"]), solutions=solutions)}


def _given_key(job: Job) -> tuple[str, Rules]:
    return trees_key(job.config), job.config.team.rules


@ray.remote(num_cpus=1)
def _train(job: Job, given: tuple[dict[str, Any], SolutionTree], folder: Path) -> MPDFError | None:
    """Trains a policy, and puts it where it belongs once all of it is written; returns what the user is to know."""
    gc.collect()
    gc.freeze()  # what is there by now stays; to look through it again and again would take a tenth of the time
    try:
        env_config, test = given
        policies = [*_policies(job, env_config)]
        warm_start = policies[0]
        seen = _first_states(test, job.config)
        history = [_measured(policy, warm_start, test, seen, job.config) for policy in policies]
        with run_folder.writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
                written = Path(temporary) / folder.name
                save_policy(written / _POLICY, policies[-1])
                save_policy(written / _WARM_START, warm_start)
                run_folder.write(written / _HISTORY, json.dumps(history))
                if not folder.exists():  # another command may have trained the same meanwhile
                    written.rename(folder)
    except MPDFError as error:
        return error
    return None


def _policies(job: Job, env_config: dict[str, Any]) -> Iterator[MetaPolicyNetwork]:
    """The policy after 0, 1, ... iterations of stage two."""
    ((kind, credit),) = job.config.algorithm.credits.items()
    env_config = env_config | {"credit": kind, **credit.model_dump()}
    settings = job.config.algorithm
    with tempfile.TemporaryDirectory() as checkpoint:

        def built(learner: Learner) -> Algorithm:
            config = algorithm_config(job.config, env_config, learner.base(job.seed))
            # Episodes stay in this process: packing them into arrays would take a tenth of the time. And for the thread
            # that watches the machine's use `stop` would wait more than half a second.
            config.env_runners(episodes_to_numpy=False)
            return config.debugging(seed=job.seed, log_sys_usage=False).build_algo()

        algorithm = built(_STAGED.get(job.algorithm, SOFTRANKPO))
        for _ in range(settings.warm_start_iterations):
            algorithm.train()
        yield _network(algorithm)
        if job.algorithm == "PPO":
            algorithm.train()  # after which what it was before is the checkpoint's reference
            algorithm.save_to_path(checkpoint)
            algorithm.stop()
            algorithm = built(proximal(lambda seed: Path(checkpoint)))
        for _ in range(settings.iterations):
            algorithm.train()
            yield _network(algorithm)
        algorithm.stop()


def _network(algorithm: Algorithm) -> MetaPolicyNetwork:
    return copy.deepcopy(algorithm.get_module(POLICY).unwrapped().policy).eval()


def _first_states(test: SolutionTree, config: ExperimentConfig) -> Observation:
    """What all agents see before the first round: arrays of shape (Q * N, ...)."""
    debates = DebateBatch(test, lambda wanted: None, config.team.rules)
    debates.reset(np.arange(len(test.questions)))
    return {key: array.reshape(-1, *array.shape[2:]) for key, array in debates.observe().items()}


def _measured(
    policy: MetaPolicyNetwork,
    warm_start: MetaPolicyNetwork,
    test: SolutionTree,
    seen: Observation,
    config: ExperimentConfig,
) -> dict[str, float]:
    observation = {key: torch.from_numpy(array) for key, array in seen.items()}
    legal = observation["action_mask"] > 0
    with torch.no_grad():
        logp, reference_logp = (network(observation).log_softmax(-1) for network in (policy, warm_start))
    ratio = torch.where(legal, logp - reference_logp, 0.0)
    return {
        "accuracy": play(test, greedy([policy]), config.team.rules).accuracy,
        "log_ratio": float(ratio.abs().amax(-1).mean()),
    }

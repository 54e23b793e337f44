"""A trained team that answers questions: its debates, without RLlib."""

import itertools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from mpdf_rllib import run_folder
from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.engine import Engine, run
from mpdf_rllib.envs.credit import CreditKind
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.features import DEBATE_FEATURES
from mpdf_rllib.errors import ConfigError, DataError
from mpdf_rllib.questions import Kind, Question
from mpdf_rllib.trained_policies import read_policy
from mpdf_rllib.transcript import Transcript, play

ASKABLE = ("number", "expression")
"""Kinds of questions that are no more than their text."""


class DeliberationTeam:
    """Agents that debate as their policy has learned.

        with DeliberationTeam.from_run("runs/math") as team:
            (debate,) = team.answer(["Mia buys 5 pens on each of 3 days. How many pens?"])
            print(debate.answer, debate.said.text, debate.tokens)

    Attributes:
        config: The experiment that it was trained in.
        networks: The policy that all agents share, or each one's own.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        networks: Sequence[MetaPolicyNetwork],
        engine: Callable[[], Engine] | None = None,
    ):
        """Loads no model; the first question does.

        Args:
            config: The experiment.
            networks: The policy that all agents share, or each one's own.
            engine: Makes what runs the models, by default what the config says; `close` ends it.

        Raises:
            DataError: The policy was trained on other features than this experiment's.
        """
        self.config = config
        self.networks = list(networks)
        self._team = config.make_team()
        self._table = config.feature_table
        entries = len(self._table) + len(DEBATE_FEATURES)
        seen = self.networks[0].num_features
        if seen != entries:
            raise DataError(
                f"the policy was trained on {seen} features, and the experiment {config.name} has {entries}; give the "
                "config that it was trained with"
            )
        self._make_engine = engine or config.make_inner_engine
        self._engine: Engine | None = None
        self._making = threading.Lock()
        self._asked = itertools.count()

    @classmethod
    def from_run(
        cls, run_path: str | Path, credit: CreditKind | None = None, seed: int = 0, overrides: Sequence[str] = ()
    ) -> Self:
        """A run's trained team.

        Args:
            run_path: The run folder.
            credit: With which of its kinds of credit the policy was trained, by default the first.
            seed: Which of its seeds.
            overrides: Values of its config to replace, as "engine={kind: endpoint, url: ...}", where its models run
                now.

        Raises:
            ConfigError: An override is wrong, or there is no such kind of credit or seed.
            DataError: It is no run, or training is not finished.
        """
        path = Path(run_path).expanduser().absolute()
        config = run_folder.read_config(path, overrides)
        return cls(config, read_policy(path, credit, seed))

    def answer(self, questions: Sequence[str | Question], prompts: str | None = None) -> list[Transcript]:
        """Debates questions, all at once; may be called from several threads, which then share the engine.

        Args:
            questions: What to answer: texts, or questions with all that their kind needs.
            prompts: What the texts are asked with, one of the experiment's, by default the first.

        Returns:
            What happened, in the order of the questions.

        Raises:
            ConfigError: There are no such prompts, or none that a text can be asked with.
            DataError: A prompt cannot be given to its model.
            EngineError: The engine failed.
        """
        asked = [self.question(each, prompts) if isinstance(each, str) else each for each in questions]
        return play(self.begin(asked), self.networks)

    @property
    def prompts(self) -> list[str]:
        """The experiment's prompts that a text can be asked with."""
        return [*self._kinds]

    @property
    def _kinds(self) -> dict[str, Kind]:
        return {source: kind for source, kind in self.config.questions.prompts if kind in ASKABLE}

    def question(self, text: str, prompts: str | None = None) -> Question:
        """A text as a question, whose right answer nobody knows; see `answer`."""
        kinds = self._kinds
        if not kinds:
            raise ConfigError(
                f"prompts: the questions of {self.config.name} are more than their text; ask it in Python, with "
                "mpdf_rllib.questions.Question"
            )
        source = next(iter(kinds)) if prompts is None else prompts
        if source not in kinds:
            raise ConfigError(f"prompts: {self.config.name} has none called {source}; give one of {', '.join(kinds)}")
        return Question(f"asked-{next(self._asked)}", text, None, kinds[source], source)

    def begin(self, questions: Sequence[Question]) -> DebateBatch:
        """Debates on questions, with the first answers there."""
        with self._making:
            if self._engine is None:
                self._engine = self._make_engine()
        tree = self._team.tree(questions, self._table)
        fill = partial(self._team.fill, self._engine, tree)
        debates = DebateBatch(tree, lambda wanted: run(fill(wanted)), self._team.rules)
        debates.reset(np.arange(len(questions)))
        return debates

    def close(self) -> None:
        """Ends the engine. Idempotent."""
        if self._engine is not None:
            run(self._engine.close())
            self._engine = None

    def __enter__(self) -> Self:
        """The team."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

"""Debates as RLlib's envs tell of them: dicts by agent id, questions drawn in seeded order, credit for every action."""

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np

from mpdf_rllib.engine import Engine, run
from mpdf_rllib.engine.event_loop import finish
from mpdf_rllib.engine.recording_files import owner
from mpdf_rllib.envs.credit import Calibration, Credit, CreditKind, Policy, Term
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.questions import Question

AgentDicts = list[dict[str, Any]]


class DebateSession:
    """One or many debates in lock-step, on questions of one set.

    Attributes:
        agents: Agent ids "agent_0" to "agent_{N-1}".
        debates: The batch that is being played.
        policy: The current policy, which outcome credit follows; without one, credit is one-step.
    """

    def __init__(
        self,
        questions: Callable[[], Sequence[Question]],
        team: Team,
        engine: Callable[[], Engine],
        credit: CreditKind = "step",
        token_price: float = 0.0,
        tie_tolerance: float = 0.0,
        terms: Sequence[Term] = get_args(Term),
        scale: float = 1.0,
        noise: float = 0.0,
        outliers: float = 0.0,
        calibration: Calibration | None = None,
        shard: tuple[int, int] = (0, 1),
    ):
        """Loads the questions; the engine is made when the first solution is missing.

        Args:
            questions: Makes the question set.
            team: The agents.
            engine: Makes the engine.
            credit: What `info["action_rewards"]` holds, by default the paper's reward; see `credit.Credit`.
            token_price: What a generated token takes off it, at least 0.
            tie_tolerance: Rewards within it of a state's best count as tied with it, at least 0.
            terms: Of the paper's reward, which are summed.
            scale: Multiplies it, positive.
            noise: Standard deviation of normal noise in it, at least 0.
            outliers: The probability that a reward is made an outlier.
            calibration: Weighs the final vote of outcome credit.
            shard: (index, number of shards): debates are about the questions that this shard owns.

        Raises:
            ConfigError: There is no question, or the shard owns none; or credit cannot be given so.
        """
        everything = questions()
        if not everything:
            raise ConfigError("questions: there are none; give a callable that returns at least one")
        owned = [question for question in everything if owner(question.id, shard[1]) == shard[0]]
        if not owned:
            raise ConfigError(f"env runner {shard[0] + 1} of {shard[1]} owns no question; use fewer env runners")
        self.agents = [agent_id(i) for i in range(len(team.members))]
        self.policy: Policy | None = None
        self._credit = Credit(credit, token_price, tie_tolerance, terms, scale, noise, outliers)
        self._calibration = calibration
        self._team = team
        self._make_engine = engine
        self._engine: Engine | None = None
        self._end_engine: weakref.finalize | None = None
        self.debates = DebateBatch(team.tree(owned, team.table(everything)), self.fill, team.rules)
        self.debates.rng = np.random.default_rng()
        self._queue = np.zeros(0, np.int64)

    def reset(self, num_debates: int, seed: int | Sequence[int] | None = None) -> tuple[AgentDicts, AgentDicts]:
        """Begins debates on the next questions of a shuffled pass; a seed begins the passes anew.

        Returns:
            Observations and infos, a dict by agent id for each debate.
        """
        if seed is not None:
            self.debates.rng = np.random.default_rng(seed)
            self._queue = np.zeros(0, np.int64)
        while len(self._queue) < num_debates:
            passes = self.debates.rng.permutation(len(self.debates.tree.questions))
            self._queue = np.concatenate([self._queue, passes])
        drawn, self._queue = self._queue[:num_debates], self._queue[num_debates:]
        self.debates.reset(drawn, with_rewards=True)
        infos = [{agent: {"question": question} for agent in self.agents} for question in self._question_ids()]
        return self._observations(), infos

    def step(self, actions: Sequence[dict[str, int]]) -> tuple[AgentDicts, ...]:
        """Plays a round.

        Args:
            actions: For each debate the action of every agent.

        Returns:
            Observations, rewards, terminateds, truncateds and infos, a dict by agent id for each debate. Each info
            holds `action_rewards`, float32 (K,), NaN where illegal, and the terms `r_local`, `r_global` and `tokens` of
            the action taken; in the last round also `correct`, whether the team's answer is right, and the debate's
            `prompt_tokens`, `cached_tokens` and `generated_tokens`.
        """
        taken = np.array([[debate[agent] for agent in self.agents] for debate in actions])
        terms = self.debates.rewards(taken)
        credit = self._credit(self.debates, taken, terms, self.policy, self._calibration).astype(np.float32)
        self.debates.step(taken)
        done = self.debates.done

        index = taken[..., None]
        reward, local, team, tokens = (
            np.take_along_axis(values, index, -1)[..., 0].tolist() for values in (credit, *terms)
        )
        infos = [
            {
                agent: {
                    "action_rewards": credit[b, i],
                    "r_local": local[b][i],
                    "r_global": team[b][i],
                    "tokens": tokens[b][i],
                }
                for i, agent in enumerate(self.agents)
            }
            for b in range(len(actions))
        ]
        if done:
            totals = zip(self.debates.correct.tolist(), self.debates.tokens.tolist(), strict=True)
            for debate, (correct, (prompt, cached, generated)) in zip(infos, totals, strict=True):
                for info in debate.values():
                    info |= {
                        "correct": correct,
                        "prompt_tokens": prompt,
                        "cached_tokens": cached,
                        "generated_tokens": generated,
                    }
        rewards = [dict(zip(self.agents, debate, strict=True)) for debate in reward]
        return self._observations(), rewards, self.flags(done), self.flags(False), infos

    def flags(self, value: bool) -> AgentDicts:
        """The same flag for every agent of every debate, and for `__all__`."""
        return [{**dict.fromkeys(self.agents, value), "__all__": value} for _ in self.debates.question]

    def close(self) -> None:
        """Ends the engine, if one was made; the end of the process does so too."""
        if self._end_engine is not None:
            self._end_engine()
            self._engine = None

    def _observations(self) -> AgentDicts:
        arrays = self.debates.observe()
        return [
            {agent: {key: array[b, i] for key, array in arrays.items()} for i, agent in enumerate(self.agents)}
            for b in range(len(self.debates.question))
        ]

    def _question_ids(self) -> list[str]:
        return [self.debates.tree.questions[q].id for q in self.debates.question]

    def fill(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Asks the engine, made when it is first needed, for the wanted (question, node) pairs."""
        if self._engine is None:
            self._engine = self._make_engine()
            self._end_engine = weakref.finalize(self, _end, self._engine)
            # Earlier than the finalizer: a remote recording is written by executors, which stop before it runs.
            threading._register_atexit(self._end_engine)  # type: ignore[attr-defined]
        run(self._team.fill(self._engine, self.debates.tree, wanted))


def agent_id(agent: int) -> str:
    """How RLlib calls the agent of an index."""
    return f"agent_{agent}"


def _end(engine: Engine) -> None:
    finish(engine.close())

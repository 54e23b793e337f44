"""Credit: what each action of each agent is worth, the vector that SoftRankPO ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import numpy as np

from mpdf_rllib.envs.debate import right_share
from mpdf_rllib.envs.debate_batch import DebateBatch, Observation, Rewards
from mpdf_rllib.errors import ConfigError, DataError

CreditKind = Literal["step", "outcome"]

Term = Literal["local", "consensus"]
"""r_local and r_global of the paper; see `Rewards` of `debate_batch`."""

OUTLIER = 10.0
"""What is added to, or taken off, a reward that is made an outlier; the paper's rewards lie in [-2, 2]."""

Policy = Callable[[Observation], np.ndarray]
"""Maps a batch's observation to actions, int64, shape (B, N)."""


@dataclass(frozen=True)
class Calibration:
    """Probability that a solution is correct, a logistic function of its features [ours].

    Attributes:
        weights: One for each of a solution's F features.
        bias: Of the logit.
    """

    weights: tuple[float, ...]
    bias: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(..., F) -> probabilities, shape (...)."""
        return 1 / (1 + np.exp(-(features @ np.array(self.weights) + self.bias)))


def outcome_credit(
    debates: DebateBatch,
    actions: np.ndarray,
    policy: Policy,
    calibration: Calibration | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What the debate comes to where one agent takes an action now and all follow the policy after [ours].

    The outcome is soft, and about the final vote whatever the team answers by its rules: the right solutions' share of
    it, weighted by each solution's calibrated probability of being correct (its confidence without calibration). Where
    there are several refinements, it is the mean over which of them the agent gets; what all get after is drawn.

    Args:
        debates: Before the round; not changed.
        actions: int64, shape (B, N): what the agents do in this round; one at a time is replaced by its alternatives.
        policy: What all do in the rounds after.
        calibration: Weighs the final vote.

    Returns:
        The outcome in [0, 1] and the debate's generated tokens, float64, each of shape (B, N, K), NaN where illegal.
    """
    possible = debates.candidates() >= 0
    row, agent, action, draw = np.nonzero(possible)
    index = np.arange(len(row))
    alternatives = actions[row]
    alternatives[index, agent] = action
    future = debates.fork(row)
    future.draw[index, agent] = draw
    future.step(alternatives)
    while not future.done:
        future.step(policy(future.observe()))
    if calibration is None:
        weight = future.answers.confidence
    else:
        weight = calibration(future.tree.features[future.question[:, None], future.node])
    outcome, tokens = np.full((2, *possible.shape), np.nan)
    held = future.answers
    outcome[possible] = right_share(held.answer_class, held.correct, weight)
    tokens[possible] = future.tokens[:, 2]
    return outcome.mean(-1), tokens.mean(-1)


def merge_ties(rewards: np.ndarray, tolerance: float) -> np.ndarray:
    """Lifts every reward within `tolerance` of the state's best to the best [ours].

    Args:
        rewards: shape (..., K), NaN where illegal.
        tolerance: At least 0.
    """
    best = np.nanmax(rewards, -1, keepdims=True)
    return np.where(rewards >= best - tolerance, best, rewards)


@dataclass(frozen=True)
class Credit:
    """How a round's reward vectors are made.

    Attributes:
        kind: "step" is r_local + r_global, exact one round ahead [paper]; "outcome" is `outcome_credit` [ours], which
            needs a policy to follow and is "step" as long as there is none.
        token_price: What a generated token takes off the reward, at least 0 [ours; not in the paper].
        tie_tolerance: Rewards within it of a state's best count as tied with it, at least 0 [ours; not in the paper].
            Ranks discard magnitude, so without a tolerance any price, however small, decides every tie.
        terms: Of "step", which are summed; both [paper].
        scale: Multiplies the reward, positive [paper: 0.1, 1, 10].
        noise: Standard deviation of normal noise that is added to each action's reward, at least 0 [ours].
        outliers: Probability in [0, 1] that an action's reward has `OUTLIER` added or taken off [ours].
    """

    kind: CreditKind = "step"
    token_price: float = 0.0
    tie_tolerance: float = 0.0
    terms: Sequence[Term] = get_args(Term)
    scale: float = 1.0
    noise: float = 0.0
    outliers: float = 0.0

    def __post_init__(self):
        """Checks what comes from a config.

        Raises:
            ConfigError: A kind or term that there is not, or a number out of its range.
        """
        if self.kind not in get_args(CreditKind):
            raise ConfigError(f"credit is {self.kind!r}; it must be one of {', '.join(get_args(CreditKind))}")
        if not self.terms or {*self.terms} - {*get_args(Term)} or len({*self.terms}) < len(self.terms):
            raise ConfigError(f"terms is {self.terms!r}; it must be some of {', '.join(get_args(Term))}, each once")
        for name in ("token_price", "tie_tolerance", "scale", "noise", "outliers"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= float(value) < np.inf):
                raise ConfigError(f"{name} is {value!r}; it must be a finite number of at least 0")
        if self.scale == 0:
            raise ConfigError("scale is 0; it must be positive")
        if self.outliers > 1:
            raise ConfigError(f"outliers is {self.outliers}; it is a probability")

    def __call__(
        self,
        debates: DebateBatch,
        actions: np.ndarray,
        terms: Rewards,
        policy: Policy | None = None,
        calibration: Calibration | None = None,
    ) -> np.ndarray:
        """The reward of every action: float64, shape (B, N, K), NaN where illegal.

        Args:
            debates: Before the round.
            actions: int64, shape (B, N): what the agents do in it.
            terms: Its reward terms, `debates.rewards(actions)`.
            policy: What all do in the rounds after, for outcome credit.
            calibration: Weighs the final vote, for outcome credit.

        Raises:
            DataError: A legal action's reward is not a finite number; names the question.
        """
        if self.kind == "step" or policy is None:
            rewards, tokens = sum(getattr(terms, term) for term in self.terms), terms.tokens
        else:
            rewards, tokens = outcome_credit(debates, actions, policy, calibration)
        # Ranks would tell apart what only rounding does: the same sum of thirds, for instance, made in another way.
        exact = np.round(rewards - self.token_price * tokens, 9)
        rewards = self._disturbed(exact, debates.rng)
        _check_finite(debates, rewards, ~np.isnan(terms.local))
        return merge_ties(rewards, self.tie_tolerance)

    def _disturbed(self, rewards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rewards = self.scale * rewards
        if self.noise:
            rewards = rewards + rng.normal(0, self.noise, rewards.shape)
        if self.outliers:
            signs = rng.choice([-OUTLIER, OUTLIER], rewards.shape)
            rewards = np.where(rng.random(rewards.shape) < self.outliers, rewards + signs, rewards)
        return rewards


def _check_finite(debates: DebateBatch, rewards: np.ndarray, legal: np.ndarray) -> None:
    wrong = legal & ~np.isfinite(rewards)
    if wrong.any():
        b, i, k = np.argwhere(wrong)[0]
        raise DataError(
            f"Question {debates.tree.questions[debates.question[b]].id!r}: in round {debates.round} action {k} of "
            f"agent {i}, at node {debates.node[b, i]}, is worth {rewards[b, i, k]}. The numbers of its solutions or "
            "the calibration are not finite: record the questions anew, in another folder."
        )

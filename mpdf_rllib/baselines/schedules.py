"""Policies that need no state: one action a round for all agents."""

import itertools
from collections.abc import Callable

import numpy as np

from mpdf_rllib.baselines.outcome import Outcome
from mpdf_rllib.envs.debate import CONCEDE, NUM_ACTIONS, PERSIST, REFINE
from mpdf_rllib.envs.debate_batch import DEFAULT_RULES, Answer, DebateBatch, Observation, Rules
from mpdf_rllib.envs.solution_tree import SolutionTree

Schedule = tuple[int, ...]


def play(
    tree: SolutionTree,
    policy: Callable[[Observation, int], np.ndarray],
    rules: Rules = DEFAULT_RULES,
    is_correct: Callable[[DebateBatch], np.ndarray] = lambda debates: debates.correct,
) -> Outcome:
    """Debates every question of a recorded tree with a policy: (observation, round) -> actions (B, N).

    Args:
        tree: A complete one.
        policy: Acts for all agents.
        rules: Of the debates.
        is_correct: Whether the team's answers are right at the end, bool (B,); by default those by the rules.
    """
    debates = DebateBatch(tree, _nothing_is_missing, rules)
    debates.reset(np.arange(len(tree.questions)))
    counts = np.zeros((len(tree.questions), NUM_ACTIONS), np.int64)
    while not debates.done:
        actions = policy(debates.observe(), debates.round)
        counts += (np.minimum(actions, CONCEDE)[..., None] == np.arange(NUM_ACTIONS)).sum(1)
        debates.step(actions)
    return Outcome(is_correct(debates), debates.tokens, counts, np.zeros(len(counts), bool))


def play_schedule(tree: SolutionTree, schedule: Schedule, answer: Answer = "plurality") -> Outcome:
    """All agents take the round's action; those to whom it is illegal Persist."""

    def follow(observation: Observation, round_: int) -> np.ndarray:
        return np.where(observation["action_mask"][..., schedule[round_]] > 0, schedule[round_], PERSIST)

    return play(tree, follow, Rules(answer=answer))


def best_schedule(train: SolutionTree, answer: Answer = "plurality") -> Schedule:
    """The schedule with the highest accuracy on the training questions, the cheapest of equals."""
    schedules = itertools.product(range(NUM_ACTIONS), repeat=train.rounds)

    def merit(schedule: Schedule) -> tuple[float, float]:
        outcome = play_schedule(train, schedule, answer)
        return outcome.accuracy, -outcome.generated

    return max(schedules, key=merit)


def always_refine(tree: SolutionTree) -> Schedule:
    """Refine in every round."""
    return (REFINE,) * tree.rounds


def _nothing_is_missing(wanted) -> None:
    raise RuntimeError(f"the tree is not complete: {wanted[:3]} are missing")

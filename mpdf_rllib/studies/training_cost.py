"""What an iteration of training asks the models for."""

import numpy as np

from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork, action_probabilities
from mpdf_rllib.envs.debate_batch import DebateBatch, Rules
from mpdf_rllib.envs.solution_tree import SolutionTree


def training_tokens(
    tree: SolutionTree, policy: MetaPolicyNetwork, rules: Rules, passes: int, alternatives: bool
) -> float:
    """Generated tokens a question of all solutions that sampled debates ask for, each once.

    Args:
        tree: A complete one of the training questions.
        policy: Whose actions are drawn.
        rules: Of the debates.
        passes: Debates a question.
        alternatives: Whether the rewards of all actions are asked for, and not of those alone that are taken.
    """
    rng = np.random.default_rng(0)
    rows = np.arange(len(tree.questions)).repeat(passes)
    debates = DebateBatch(tree, lambda wanted: None, rules)
    debates.reset(rows)
    asked = np.zeros((len(rows), tree.num_nodes), bool)
    while not debates.done:
        chances = action_probabilities([policy], debates.observe()).cumsum(-1)
        actions = (rng.random(chances.shape[:-1])[..., None] * chances[..., -1:] > chances).sum(-1)
        if alternatives:
            candidates = debates.candidates().reshape(len(rows), -1)
            debate, place = np.nonzero(candidates >= 0)
            asked[debate, candidates[debate, place]] = True
        debates.step(actions)
    asked |= debates.visited
    of_question = asked.reshape(-1, passes, tree.num_nodes).any(1)
    return float((of_question * tree.tokens[..., 2]).sum(1).mean())

"""What happened in debates, for people to see: all solutions, and what each agent did in each round, and how surely."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork, action_probabilities
from mpdf_rllib.envs.debate import REFINE, concede_targets
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.questions import Question


@dataclass(frozen=True)
class Node:
    """A solution of the question's tree.

    Attributes:
        author: The agent that wrote it.
        parent: The node that it refines, None for a first answer.
        text: What the model wrote.
        answer: Canonical answer, None where the text holds none.
        correct: Whether it is right; None where nobody knows the right answer.
        confidence: In [0, 1].
        features: By name, the entries of z that are the solution's own.
        tokens: Prompt, of which cached, generated; those of its judges, the critic and peers, included.
    """

    author: int
    parent: int | None
    text: str
    answer: str | None
    correct: bool | None
    confidence: float
    features: dict[str, float]
    tokens: tuple[int, int, int]


@dataclass(frozen=True)
class Decision:
    """What an agent did in a round.

    Attributes:
        node: Where it stood at the start of the round.
        probabilities: Of each action under the policy, shape (K,); 0 where illegal.
        action: The one that it took: 0 Persist, 1 Refine, from 2 Concede.
        target: The peer that it conceded to, None where it did not.
    """

    node: int
    probabilities: tuple[float, ...]
    action: int
    target: int | None


@dataclass(frozen=True)
class Round:
    """A round of a debate.

    Attributes:
        answer: The team's at its start, None where it has none.
        decisions: One an agent.
    """

    answer: str | None
    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class Transcript:
    """A debate from its first answers to its end.

    Attributes:
        question: What it was about.
        nodes: The solutions that are there, by node; a recorded tree's are more than the agents stood on.
        rounds: One a round.
        final: The node that each agent held in the end.
        team_node: The node of the team's solution, None where it has no answer.
        tokens: What the debate cost: prompt, of which cached, generated.
    """

    question: Question
    nodes: dict[int, Node]
    rounds: tuple[Round, ...]
    final: tuple[int, ...]
    team_node: int | None
    tokens: tuple[int, int, int]

    @property
    def said(self) -> Node | None:
        """The team's solution, None where it has no answer."""
        return None if self.team_node is None else self.nodes[self.team_node]

    @property
    def answer(self) -> str | None:
        """The team's answer, canonical; None where it has none."""
        return self.said.answer if self.said else None

    @property
    def correct(self) -> bool | None:
        """Whether the team is right; None where nobody knows the right answer."""
        known = self.question.answer is not None
        return (self.said is not None and bool(self.said.correct)) if known else None


def play(debates: DebateBatch, networks: Sequence[MetaPolicyNetwork]) -> list[Transcript]:
    """Plays debates that have begun to their end, by the most probable actions of the policies.

    Args:
        debates: B debates.
        networks: The one that all agents share, or each one's own.

    Returns:
        Of each debate what happened.
    """
    rounds = []
    while not debates.done:
        rounds.append(play_round(debates, networks))
    return transcripts(debates, rounds)


def play_round(debates: DebateBatch, networks: Sequence[MetaPolicyNetwork]) -> list[Round]:
    """Plays a round of all debates; see `play`."""
    probabilities = action_probabilities(networks, debates.observe())
    actions = probabilities.argmax(-1)
    team_nodes, node = debates.team_nodes, debates.node
    targets = _targets(debates, actions)
    debates.step(actions)
    rounds = []
    for debate, said in enumerate(team_nodes.tolist()):
        question = int(debates.question[debate])
        rounds.append(
            Round(
                None if said < 0 else debates.tree.solution(question, said).answer,
                tuple(
                    Decision(
                        int(node[debate, agent]),
                        tuple(probabilities[debate, agent].tolist()),
                        int(actions[debate, agent]),
                        target if (target := int(targets[debate, agent])) >= 0 else None,
                    )
                    for agent in range(node.shape[1])
                ),
            )
        )
    return rounds


def transcripts(debates: DebateBatch, rounds: Sequence[Sequence[Round]]) -> list[Transcript]:
    """What happened in debates that are over, given what `play_round` gave for each of their rounds."""
    return [
        Transcript(
            debates.tree.questions[question],
            nodes_of(debates.tree, question),
            tuple(of_all[debate] for of_all in rounds),
            tuple(debates.node[debate].tolist()),
            None if said < 0 else said,
            tuple(debates.tokens[debate].tolist()),
        )
        for debate, (question, said) in enumerate(
            zip(debates.question.tolist(), debates.team_nodes.tolist(), strict=True)
        )
    ]


def _targets(debates: DebateBatch, actions: np.ndarray) -> np.ndarray:
    """The peers that agents concede to, int64, shape (B, N); -1 where they do not concede."""
    if debates.rules.concede == "most_confident":
        targets = concede_targets(*debates.answers[:2])
    else:
        peer = np.maximum(actions - REFINE - 1, 0)
        targets = peer + (peer >= np.arange(actions.shape[1]))  # peers are the agents but oneself
    return np.where(actions > REFINE, targets, -1)


def nodes_of(tree: SolutionTree, question: int) -> dict[int, Node]:
    """The solutions to one of a tree's questions that are there, by node."""
    known = tree.questions[question].answer is not None
    nodes = {}
    for node in np.flatnonzero(tree.present[question]).tolist():
        solution = tree.solution(question, node)
        nodes[node] = Node(
            tree.position(question, node).author,
            tree.parent(node),
            solution.text,
            solution.answer,
            solution.correct if known else None,
            solution.confidence,
            {entry.name: value for entry, value in zip(tree.table, solution.features.tolist(), strict=True)},
            solution.tokens,
        )
    return nodes

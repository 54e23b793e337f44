"""The one loop of the debate, over a batch of debates; envs, evaluation and baselines adapt it."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from mpdf_rllib.envs.answer_classes import UNPARSED
from mpdf_rllib.envs.debate import (
    REFINE,
    Answers,
    action_rewards,
    candidate_nodes,
    concede_targets,
    consensus,
    may_concede,
    most_confident,
    most_confident_rewards,
    same_answer,
    speaker,
)
from mpdf_rllib.envs.features import DEBATE_FEATURES
from mpdf_rllib.envs.solution_tree import SolutionTree

Fill = Callable[[Sequence[tuple[int, int]]], None]
"""Makes the missing ones of the given (question, node) pairs, their ancestors included."""

Observation = dict[str, np.ndarray]

Concede = Literal["most_confident", "each"]
"""Whom an agent may concede to: the most confident peer with another answer [ours], or each, an action a peer."""

Answer = Literal["plurality", "most_confident"]
"""The team's answer: that of most agents, or of the most confident solution that the debate has made, whether an agent
holds it or has left it [ours]."""


class Rules(NamedTuple):
    """What a team may do, and what it answers.

    Attributes:
        concede: Whom an agent may concede to.
        answer: The team's, and what r_global is about.
    """

    concede: Concede = "most_confident"
    answer: Answer = "plurality"


DEFAULT_RULES = Rules()


class Rewards(NamedTuple):
    """The reward terms of every action, float64, each of shape (B, N, K), NaN where illegal.

    Where there are several refinements, those of Refine are means over them.

    Attributes:
        local: r_local of the paper, in [-1, 1].
        consensus: r_global, in [-1, 1]: the paper's, or where a team answers otherwise `most_confident_rewards` [ours].
        tokens: Generated tokens that the action costs: those of a refinement that nobody in the debate has stood on.
    """

    local: np.ndarray
    consensus: np.ndarray
    tokens: np.ndarray


class DebateBatch:
    """B debates that take their rounds together.

    Attributes:
        tree: Where the solutions are.
        rules: What agents may do, and what the team answers.
        question: int64, shape (B,): which question of the tree each debate is about.
        node: int64, shape (B, N): where the agents stand.
        round: Rounds played, 0 to `tree.rounds`.
        visited: bool, shape (B, M): nodes that somebody stood on, and so paid for.
        rng: Draws which of several refinements an agent gets.
        draw: int64, shape (B, N): which one that is for an agent that refines in the coming round.
    """

    def __init__(self, tree: SolutionTree, fill: Fill, rules: Rules = DEFAULT_RULES):
        """Makes an empty batch; `reset` begins debates.

        Args:
            tree: Its roots are the agents.
            fill: Asks the engine for missing nodes; never called for nodes that are there.
            rules: What agents may do, and what the team answers.
        """
        self.tree = tree
        self.rules = rules
        self.rng = np.random.default_rng(0)
        self._fill = fill
        self._agents = np.arange(len(tree.roots))
        n = len(self._agents)
        self._others = np.array([[j for j in range(n) if j != i] for i in range(n)])
        self.question = np.zeros(0, np.int64)
        self.node = self.draw = np.zeros((0, n), np.int64)
        self.visited = np.zeros((0, tree.num_nodes), bool)
        self.round = 0

    @property
    def num_actions(self) -> int:
        """K: Persist, Refine, and Concede, which is one action or one for each peer."""
        return REFINE + 1 + (1 if self.rules.concede == "most_confident" else len(self._agents) - 1)

    def reset(self, questions: Sequence[int] | np.ndarray, with_rewards: bool = False) -> None:
        """Begins a debate on each of the questions; all first answers are asked for at once.

        Args:
            questions: int64, shape (B,): indices into the tree's questions.
            with_rewards: Their refinements, which `rewards` asks for whatever the agents do, are asked for with them,
                so that none waits for the slowest first answer.
        """
        self.question = np.asarray(questions, np.int64)
        self.node = np.tile(self.tree.roots, (len(self.question), 1))
        self.visited = np.zeros((len(self.question), self.tree.num_nodes), bool)
        self.round = 0
        if with_rewards:
            self._require(self.tree.refinements(self.node, self._agents))
        self._arrive()

    @property
    def done(self) -> bool:
        """Whether the last round has been played."""
        return self.round == self.tree.rounds

    @property
    def answers(self) -> Answers:
        """(B, N): what the agents hold."""
        return self._answers(self.node)

    @property
    def correct(self) -> np.ndarray:
        """bool, shape (B,): whether the team's answer is right; no answer is wrong."""
        nodes = self.team_nodes
        return self.tree.correct[self.question, nodes] & (nodes >= 0)

    @property
    def team_nodes(self) -> np.ndarray:
        """int64, shape (B,): the node of the team's solution, -1 where it has no answer."""
        if self.rules.answer == "most_confident":
            return most_confident(*self._everything[:2], self.visited)
        agent = speaker(*self.answers[:2])
        return np.where(agent >= 0, np.take_along_axis(self.node, np.maximum(agent, 0)[:, None], -1)[:, 0], -1)

    @property
    def tokens(self) -> np.ndarray:
        """int64, shape (B, 3): prompt tokens, of which cached, and generated tokens of the visited nodes."""
        return (self.visited[..., None] * self.tree.tokens[self.question, : self.visited.shape[1]]).sum(1)

    def candidates(self) -> np.ndarray:
        """int64, shape (B, N, K, S): the node that each action leads to in each of its draws, -1 where illegal."""
        answer_class, confidence, _ = self.answers
        return self._led_to(concede_targets(answer_class, confidence))

    def legal(self) -> np.ndarray:
        """bool, shape (B, N, K)."""
        return self.candidates()[..., 0] >= 0

    def observe(self) -> Observation:
        """What each agent sees.

        Returns:
            float32 arrays: `own` (B, N, D) is the agent's z, its solution's features and then `DEBATE_FEATURES`,
            `peers` (B, N, N - 1, D) the others', `peer_mask` (B, N, N - 1) is 1 for peers that exist, `action_mask`
            (B, N, K) 1 for legal actions.
        """
        answer_class, confidence, _ = self.answers
        same = same_answer(answer_class)
        target = concede_targets(answer_class, confidence)
        agents = self._agents
        n = len(agents)

        z = np.zeros((*self.node.shape, self.tree.features.shape[-1] + len(DEBATE_FEATURES)), np.float32)
        z[..., : -len(DEBATE_FEATURES)] = self._at(self.tree.features, self.node)
        agreement, is_plurality, round_share, same_as_observer, is_target = np.moveaxis(
            z[..., -len(DEBATE_FEATURES) :], -1, 0
        )
        agreement[:] = (same & ~np.eye(n, dtype=bool)).sum(-1) / (n - 1)
        is_plurality[:] = (answer_class != UNPARSED) & (answer_class == consensus(answer_class, confidence)[:, None])
        round_share[:] = self.round / self.tree.rounds
        same_as_observer[:] = same[:, agents, agents]
        peers = z[:, self._others]
        peers[..., -2] = same[:, agents[:, None], self._others]
        peers[..., -1] = target[..., None] == self._others
        return {
            "own": z,
            "peers": peers,
            "peer_mask": np.ones(peers.shape[:-1], np.float32),
            "action_mask": (self._led_to(target)[..., 0] >= 0).astype(np.float32),
        }

    def rewards(self, actions: np.ndarray) -> Rewards:
        """The reward terms of every action of every agent, given that the peers do as `actions` says.

        Asks the engine for every agent's refinement that is missing, chosen or not: a cost of training alone.

        Args:
            actions: int64, shape (B, N), legal ones.

        Raises:
            ValueError: An action is illegal or no integer, or the debate is over or has not begun.
        """
        candidates = self.candidates()
        legal = candidates[..., 0] >= 0
        after = self._chosen(candidates, actions)
        self._require(candidates)
        self._widen()
        local, team = action_rewards(self.answers.correct, self._answers(after), self._answers(candidates))
        if self.rules.answer == "most_confident":
            team = most_confident_rewards(self._everything, self.visited, after, candidates)
        new = ~self.visited[np.arange(len(candidates))[:, None, None, None], candidates]
        tokens = (new * self._at(self.tree.tokens[..., 2], candidates)).mean(-1)
        return Rewards(*(np.where(legal, term, np.nan) for term in (local, team, tokens)))

    def step(self, actions: np.ndarray) -> None:
        """Plays a round; all agents act at once, on what stood at its start.

        Args:
            actions: int64, shape (B, N), legal ones: 0 Persist, 1 Refine, from 2 Concede.

        Raises:
            ValueError: An action is illegal or no integer, or the debate is over or has not begun.
        """
        chosen = self._chosen(self.candidates(), actions)
        self._require(chosen)
        self.node = chosen
        self.round += 1
        self._arrive()

    def fork(self, rows: np.ndarray) -> "DebateBatch":
        """Copies of the given debates, (B',) row indices, that go on without changing these; they share the rng."""
        copy = DebateBatch(self.tree, self._fill, self.rules)
        copy.question, copy.node, copy.visited = self.question[rows], self.node[rows], self.visited[rows]
        copy.round, copy.rng, copy.draw = self.round, self.rng, self.draw[rows]
        return copy

    def _at(self, array: np.ndarray, node: np.ndarray) -> np.ndarray:
        """Looks `node` (B, ...) up in an array of shape (Q, M, ...), each debate in its question's row."""
        return array[self.question.reshape(-1, *[1] * (node.ndim - 1)), node]

    def _answers(self, node: np.ndarray) -> Answers:
        tree = self.tree
        return Answers(*(self._at(array, node) for array in (tree.answer_class, tree.confidence, tree.correct)))

    @property
    def _everything(self) -> Answers:
        """(B, M): all solutions to the debates' questions; zeros where one is missing."""
        tree, known = self.tree, self.visited.shape[1]
        return Answers(*(a[self.question, :known] for a in (tree.answer_class, tree.confidence, tree.correct)))

    def _require(self, nodes: np.ndarray) -> None:
        missing = (nodes >= 0) & ~self._at(self.tree.present, nodes)
        if missing.any():
            question = np.broadcast_to(self.question.reshape(-1, *[1] * (nodes.ndim - 1)), nodes.shape)
            self._fill(sorted(set(zip(question[missing].tolist(), nodes[missing].tolist(), strict=True))))

    def _led_to(self, target: np.ndarray) -> np.ndarray:
        """The candidates (B, N, K, S), given each agent's most confident peer with another answer, (B, N)."""
        if self.rules.concede == "most_confident":
            targets = target[..., None]
        else:
            eligible = may_concede(self.answers.answer_class)[:, self._agents[:, None], self._others]
            targets = np.where(eligible, self._others, -1)
        return candidate_nodes(self.node, self.tree.refinements(self.node, self._agents), targets)

    def _chosen(self, candidates: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The candidates (B, N, K, S) that the actions and the draws pick: (B, N)."""
        if self.done or not len(self.question):
            raise ValueError(f"the debate {'is over' if self.done else 'has not begun'}; reset it")
        actions = np.asarray(actions)
        if actions.shape != self.node.shape or actions.dtype.kind not in "iu":
            raise ValueError(f"actions are {actions.tolist()!r:.80}; give each agent an integer")
        exists = (actions >= 0) & (actions < self.num_actions)
        of_action = np.take_along_axis(candidates, np.where(exists, actions, 0)[..., None, None], -2)[..., 0, :]
        chosen = np.where(exists, np.take_along_axis(of_action, self.draw[..., None], -1)[..., 0], -1)
        if (chosen < 0).any():
            debate, agent = np.argwhere(chosen < 0)[0]
            raise ValueError(
                f"action {actions[debate, agent]} of agent {agent} is illegal in round {self.round} of the debate on "
                f"question {self.tree.questions[self.question[debate]].id}; choose where action_mask is 1"
            )
        return chosen

    def _arrive(self) -> None:
        """Has everyone's solution there and paid for, and draws for the round that comes."""
        self._require(self.node)
        self._widen()
        np.put_along_axis(self.visited, self.node, True, axis=1)
        self.draw = self.rng.integers(self.tree.child.shape[-1], size=self.node.shape)

    def _widen(self) -> None:
        """Gives nodes that were numbered since their place in `visited`."""
        more = self.tree.num_nodes - self.visited.shape[1]
        if more:
            self.visited = np.pad(self.visited, ((0, 0), (0, more)))

"""Random debates against a slow, plain restatement of the rules, with every choice of who may concede and refine.

The restatement knows no arrays and no node numbers: an agent stands on a place, (root, path of refinements), and what
is written there is a function of the place.
"""

import math
import zlib
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from debate_fixtures import PENS
from hypothesis import given, settings
from hypothesis import strategies as st

from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.features import NUMBERS
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.envs.team import Team

TEAMS = st.builds(
    Team,
    agents=st.integers(2, 8),
    rounds=st.integers(1, 6),
    concede=st.sampled_from(["most_confident", "each"]),
    answer=st.sampled_from(["plurality", "most_confident"]),
    refine_samples=st.integers(1, 3),
    refiner=st.sampled_from(["author", "actor"]),
)
RIGHT = "48"


def written_at(team: Team, place, seed: int) -> Solution:
    """A solution for every place: nothing, the right answer or one of two wrong ones, as sure as so many eighths.

    Where the surest of all wins, no two are as sure.
    """
    rng = np.random.default_rng(zlib.crc32(repr((place, seed)).encode()))
    answer = [None, RIGHT, "7", "9"][rng.integers(4)]
    sure = rng.integers(9) / 8 if team.answer == "plurality" else rng.random()
    confidence = sure if answer else 0.0
    tokens = tuple(rng.integers(1, 50, 3).tolist())
    return Solution("", answer, answer == RIGHT, confidence, np.zeros(len(NUMBERS), np.float32), tokens)


class PlainDebate:
    """One debate in words."""

    def __init__(self, team: Team, seed: int):
        self.team, self.seed = team, seed
        self.stands = [(agent, ()) for agent in range(team.agents)]
        self.paid = set(self.stands)
        self.round = 0

    def writes(self, place) -> Solution:
        return written_at(self.team, place, self.seed)

    def team_answer(self, places) -> str | None:
        """The most frequent answer, then the surest, then the lowest agent's; or the surest of all that was made."""
        if self.team.answer == "most_confident":
            answered = [each for each in map(self.writes, {*self.paid, *places}) if each.answer is not None]
            return max(answered, key=lambda each: each.confidence).answer if answered else None
        solutions = [self.writes(place) for place in places]
        ballots = {}
        for solution in solutions:
            if solution.answer is not None:
                count, trust = ballots.get(solution.answer, (0, Fraction(0)))
                ballots[solution.answer] = count + 1, trust + Fraction(solution.confidence)
        # Answers are in the order of the agents, and `max` takes the first of equals.
        return max(ballots, key=ballots.get) if ballots else None

    def refinements(self, agent: int, place) -> list:
        root, path = place
        if len(path) == self.team.rounds:
            return []
        writer = root if self.team.refiner == "author" else agent
        return [(root, (*path, (writer, draw))) for draw in range(self.team.refine_samples)]

    def options(self, agent: int) -> list[list]:
        """For each action the places it may lead to, none where it is illegal."""
        own = self.writes(self.stands[agent]).answer
        peers = [peer for peer in range(self.team.agents) if peer != agent]
        others = [p for p in peers if self.writes(self.stands[p]).answer not in (None, own)]
        if self.team.concede == "each":
            concede = [[self.stands[p]] if p in others else [] for p in peers]
        elif others:
            surest = max(others, key=lambda p: self.writes(self.stands[p]).confidence)
            concede = [[self.stands[surest]]]
        else:
            concede = [[]]
        return [[self.stands[agent]], self.refinements(agent, self.stands[agent]), *concede]

    def led_to(self, agent: int, action: int, draw: int):
        places = self.options(agent)[action]
        return places[draw] if action == 1 else places[0]

    def rewards(self, actions, draws) -> list[list[tuple[float, float, float] | None]]:
        """For each agent and action r_local, r_global and new tokens, each a mean over the refinements it may get."""
        after = [self.led_to(agent, action, draws[agent]) for agent, action in enumerate(actions)]
        table = []
        for agent in range(self.team.agents):
            rest = after[:agent] + after[agent + 1 :]
            row: list = []
            for places in self.options(agent):
                terms = []
                for place in places:
                    solution, was_right = self.writes(place), self.writes(self.stands[agent]).correct
                    together = after[:agent] + [place] + after[agent + 1 :]
                    won = (self.team_answer(together) == RIGHT) - (self.team_answer(rest) == RIGHT)
                    price = 0 if place in self.paid else solution.tokens[2]
                    terms.append((solution.correct - was_right, won, price))
                row.append(tuple(np.mean(terms, axis=0)) if terms else None)
            table.append(row)
        return table

    def step(self, actions, draws) -> None:
        self.stands = [self.led_to(agent, action, draws[agent]) for agent, action in enumerate(actions)]
        self.paid |= set(self.stands)
        self.round += 1


def arrays_of(team: Team, seeds: list[int]) -> tuple[DebateBatch, list]:
    """The same debates as a batch, and what it asks for."""
    tree = team.tree([PENS] * len(seeds))
    asked: list = []

    def fill(wanted):
        for question, node in wanted:
            place = tree.position(question, node)
            asked.append((question, place.root, place.path))
            tree.add(question, node, written_at(team, (place.root, place.path), seeds[question]))

    return DebateBatch(tree, fill, team.rules), asked


def stands(batch: DebateBatch) -> list:
    places = [[batch.tree.position(0, node) for node in nodes] for nodes in batch.node.tolist()]
    return [[(place.root, place.path) for place in debate] for debate in places]


@settings(deadline=None, max_examples=120)
@given(TEAMS, st.integers(0, 2**32 - 1))
def test_a_batch_of_debates_goes_as_the_rules_say(team, seed):
    rng = np.random.default_rng(seed)
    seeds = rng.integers(2**32, size=3).tolist()
    batch, asked = arrays_of(team, seeds)
    batch.rng = rng
    batch.reset([0, 1, 2])
    debates = [PlainDebate(team, seed) for seed in seeds]
    while True:
        assert stands(batch) == [debate.stands for debate in debates]
        assert batch.correct.tolist() == [debate.team_answer(debate.stands) == RIGHT for debate in debates]
        paid = [np.sum([debate.writes(place).tokens for place in debate.paid], 0).tolist() for debate in debates]
        assert batch.tokens.tolist() == paid
        options = [[debate.options(agent) for agent in range(team.agents)] for debate in debates]
        legal = [[[bool(places) for places in of_agent] for of_agent in of_debate] for of_debate in options]
        assert (batch.observe()["action_mask"] == legal).all()
        if batch.done:
            break
        actions = np.where(legal, rng.random(batch.legal().shape), -1).argmax(-1)
        draws = batch.draw.tolist()
        assert (batch.draw < team.refine_samples).all()
        if rng.random() < 0.8:  # without rewards a live debate asks for what was chosen alone
            terms = np.stack(batch.rewards(actions), -1)
            for b, debate in enumerate(debates):
                for agent, row in enumerate(debate.rewards(actions[b], draws[b])):
                    for action, expected in enumerate(row):
                        given_terms = terms[b, agent, action]
                        assert (
                            np.isnan(given_terms).all() if expected is None else given_terms == pytest.approx(expected)
                        )
        batch.step(actions)
        for debate, acts, drawn in zip(debates, actions.tolist(), draws, strict=True):
            debate.step(acts, drawn)
        assert batch.round == debates[0].round
    assert batch.round == team.rounds
    assert len(asked) == len({*asked}), "a solution was asked for twice"


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.integers(1, 3), st.integers(1, 2), st.sampled_from(["author", "actor"]))
def test_a_whole_tree_has_every_place_once(agents, rounds, samples, refiner):
    team = Team(agents, rounds, refine_samples=samples, refiner=refiner)
    tree = team.tree([PENS])
    tree.number_all()
    writers = range(agents) if refiner == "actor" else [None]
    expected = {
        (root, tuple((root if writer is None else writer, draw) for writer, draw in path))
        for root in range(agents)
        for depth in range(rounds + 1)
        for path in product(product(writers, range(samples)), repeat=depth)
    }
    places = [tree.position(0, node) for node in range(tree.num_nodes)]
    assert {(place.root, place.path) for place in places} == expected
    assert len(places) == len(expected) == tree.present.shape[1] == len(tree.depth)
    assert tree.depth.tolist() == [place.depth for place in places]
    for node, place in enumerate(places):
        parent = tree.parent(node)
        assert (None if parent is None else places[parent].path) == (place.path[:-1] if place.path else None)


def test_draws_give_every_refinement_its_share():
    team = Team(2, 1, refine_samples=3)
    batch, _ = arrays_of(team, [1])
    batch.reset(np.zeros(3000, int))
    batch.step(np.ones((3000, 2), int))
    for agent in range(2):
        _, counts = np.unique(batch.node[:, agent], return_counts=True)
        # Three standard deviations of a share of a third of 3,000.
        assert counts == pytest.approx([1000] * 3, abs=3 * math.sqrt(3000 * 2 / 9))

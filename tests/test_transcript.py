"""Transcripts of debates, against the same debates played without them and against a scripted debate by hand."""

import asyncio

import numpy as np
import pytest
import torch
from debate_fixtures import PENS, Script

from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork, greedy
from mpdf_rllib.baselines.schedules import play as play_tree
from mpdf_rllib.engine.scripted import ScriptedEngine, answer_like_a_small_model
from mpdf_rllib.envs.debate import CONCEDE, PERSIST, REFINE
from mpdf_rllib.envs.debate_batch import DebateBatch
from mpdf_rllib.envs.features import DEBATE_FEATURES
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import Question, generate_questions
from mpdf_rllib.transcript import Transcript, play, play_round, transcripts

QUESTIONS = generate_questions(["multiplication", "addition", "arithmetic"], "test", 30, seed=0)


class Scheduled(torch.nn.Module):
    """Prefers one action a call, by far, where it is legal."""

    def __init__(self, *actions: int):
        super().__init__()
        self._actions = iter(actions)

    def forward(self, observation):
        legal = observation["action_mask"]
        logits = torch.zeros_like(legal)
        logits[:, next(self._actions)] = 5.0
        return torch.where(legal > 0, logits, -1e9)


def random_networks(tree: SolutionTree, number: int, seed: int) -> list[MetaPolicyNetwork]:
    torch.manual_seed(seed)
    networks = [MetaPolicyNetwork(len(tree.table) + len(DEBATE_FEATURES), dim=8) for _ in range(number)]
    for network in networks:
        for weights in network.parameters():
            weights.data.normal_()
    return networks


def complete_tree(team: Team) -> SolutionTree:
    tree = team.tree(QUESTIONS)
    tree.number_all()
    every = [(question, node) for question in range(len(QUESTIONS)) for node in range(tree.num_nodes)]
    asyncio.run(team.fill(ScriptedEngine(answer_like_a_small_model), tree, every))
    return tree


def played(team: Team, tree: SolutionTree, networks) -> list[Transcript]:
    debates = DebateBatch(tree, lambda wanted: pytest.fail("nothing is missing"), team.rules)
    debates.reset(np.arange(len(tree.questions)))
    return play(debates, networks)


@pytest.mark.parametrize("answer", ["plurality", "most_confident"])
@pytest.mark.parametrize("concede", ["most_confident", "each"])
@pytest.mark.parametrize("own", [False, True])
def test_transcripts_are_of_the_debates_that_evaluation_plays(concede, answer, own):
    team = Team(3, 3, critic=False, concede=concede, answer=answer)
    tree = complete_tree(team)
    networks = random_networks(tree, 3 if own else 1, seed=0)
    told = played(team, tree, networks)
    outcome = play_tree(tree, greedy(networks), team.rules)
    assert [debate.correct for debate in told] == outcome.correct.tolist()
    assert [[*debate.tokens] for debate in told] == outcome.tokens.tolist()
    taken = [
        [sum(min(act.action, CONCEDE) == kind for r in debate.rounds for act in r.decisions) for kind in range(3)]
        for debate in told
    ]
    assert taken == outcome.actions.tolist()
    assert (outcome.actions.sum(0) > 0).all()


@pytest.mark.parametrize("concede", ["most_confident", "each"])
def test_decisions_lead_to_what_is_held_next(concede):
    team = Team(3, 3, critic=False, concede=concede)
    tree = complete_tree(team)
    conceded = 0
    for debate in played(team, tree, random_networks(tree, 3, seed=1)):
        held = [[act.node for act in r.decisions] for r in debate.rounds] + [[*debate.final]]
        for before, after, round_ in zip(held, held[1:], debate.rounds, strict=False):
            for agent, act in enumerate(round_.decisions):
                assert sum(act.probabilities) == pytest.approx(1, abs=1e-5)
                assert act.action == np.argmax(act.probabilities)
                if act.action == PERSIST:
                    assert after[agent] == before[agent] and act.target is None
                elif act.action == REFINE:
                    assert debate.nodes[after[agent]].parent == before[agent] and act.target is None
                else:
                    assert act.target != agent and after[agent] == before[act.target]
                    assert debate.nodes[after[agent]].answer != debate.nodes[before[agent]].answer
                    conceded += 1
        for node, solution in debate.nodes.items():
            assert (solution.author, solution.parent is None) == (node // 4, node % 4 == 0)
    assert conceded


def debate_by_hand(team: Team) -> Transcript:
    debates = Script().debates(team)
    debates.reset([0])
    networks = [
        Scheduled(CONCEDE, REFINE, REFINE),
        Scheduled(REFINE, PERSIST, REFINE),
        Scheduled(PERSIST, CONCEDE, PERSIST),
    ]
    rounds = [play_round(debates, networks) for _ in range(3)]
    assert debates.done
    (debate,) = transcripts(debates, rounds)
    return debate


def test_a_transcript_by_hand():
    debate = debate_by_hand(Team(critic=False))
    assert debate.question is PENS
    assert [r.answer for r in debate.rounds] == ["48", "48", "48"]
    assert [[act.target for act in r.decisions] for r in debate.rounds] == [
        [1, None, None],
        [None, None, 1],
        [None] * 3,
    ]
    assert [act.node for act in debate.rounds[1].decisions] == [4, 5, 8]
    assert debate.final == (6, 6, 5)
    assert (debate.team_node, debate.answer, debate.correct) == (6, "50", False)
    assert debate.said.text == " 12 * 4 = 50" and debate.said.parent == 5
    assert sorted(debate.nodes) == [0, 4, 5, 6, 8]
    assert debate.tokens == (2**0 + 2**4 + 2**5 + 2**6 + 2**8, 0, 2**0 + 2**4 + 2**5 + 2**6 + 2**8)
    legal = [p > 0 for p in debate.rounds[1].decisions[2].probabilities]
    assert legal == [True, True, True]
    assert debate.nodes[5].features["depth"] == pytest.approx(1 / 3)


def test_the_surest_solution_is_the_teams_where_it_answers_so():
    """Agent 2 alone holds the right one at the end, which agent 1 wrote."""
    debate = debate_by_hand(Team(critic=False, answer="most_confident"))
    assert [r.answer for r in debate.rounds] == ["48", "48", "48"]
    assert debate.final == (6, 6, 5)
    assert (debate.team_node, debate.answer, debate.correct) == (5, "48", True)


def persisted(question: Question, text: str) -> Transcript:
    """A debate in which all agents write the same and keep it."""
    team = Team(critic=False)
    tree, engine = team.tree([question]), ScriptedEngine(lambda request: text)
    debates = DebateBatch(tree, lambda wanted: asyncio.run(team.fill(engine, tree, wanted)))
    debates.reset([0])
    (debate,) = play(debates, [Scheduled(*[PERSIST] * 9)])
    return debate


def test_without_a_reference_nobody_is_right_or_wrong():
    debate = persisted(Question("unknown", PENS.text, None, "number", "multiplication"), " 12 * 4 = 48")
    assert (debate.answer, debate.correct) == ("48", None)
    assert {solution.correct for solution in debate.nodes.values()} == {None}


def test_a_team_without_an_answer_says_nothing():
    debate = persisted(PENS, "who knows")
    assert (debate.team_node, debate.said, debate.answer, debate.correct) == (None, None, None, False)
    assert [r.answer for r in debate.rounds] == [None] * 3

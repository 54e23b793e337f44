"""GPTSwarm: who hears whom and who decides, and what is learned of it."""

import pytest
from message_graph_fixtures import Talk, peer, swarm

from mpdf_rllib.baselines.system import MAX_AGENTS
from mpdf_rllib.errors import PromptError


def test_gptswarm_agents_see_those_they_hear_in_full():
    talk = Talk()
    talk.answers(swarm(((2, 0), (1, 0), (0, 3), (3, 4)), agents=4))
    assert talk.exchanged == {(1, 0): [], (2, 0): [], (0, 1): [peer(1, 0), peer(2, 0)], (3, 1): [peer(0, 1)]}
    assert talk.order == [1, 2, 0, 3]
    assert talk.engine.peak_in_flight == 2


@pytest.mark.parametrize(("deciders", "right"), [((1,), True), ((0,), False), ((0, 1, 2), False), ((), False)])
def test_gptswarm_decides_by_the_agents_with_an_edge_to_the_decision(deciders, right):
    talk = Talk(lambda agent, turn, said: "48" if agent == 1 else "40")
    outcome = talk.answers(swarm(tuple((agent, 3) for agent in deciders)))
    assert outcome.correct.tolist() == [right]


def test_gptswarm_does_not_ask_agents_who_are_heard_by_nobody_who_decides():
    talk = Talk()
    talk.answers(swarm(((0, 1), (1, 2), (1, 3), (2, 5), (4, 0)), agents=5))  # 5 is the decision
    assert talk.order == [4, 0, 1, 2]


def test_agents_beyond_the_team_are_its_members_again():
    talk = Talk(team=2)
    talk.answers(swarm(((15, 0),), agents=MAX_AGENTS))
    assert sorted(talk.order) == [*range(MAX_AGENTS)]
    assert talk.exchanged[0, 1] == [peer(15, 0)]


def test_gptswarm_learns_whom_to_believe():
    talk = Talk(lambda agent, turn, said: "48" if agent == 1 else f"{40 + agent}")
    system = swarm(iterations=60)
    assert not talk.answers(system).correct.any()
    assert "1" in talk.fits(system).learned.split("decide: ")[1]
    assert talk.answers(system).correct.all()


def test_gptswarm_learns_whom_to_hear():
    talk = Talk(lambda agent, turn, said: "48" if peer(2, 0, "40") in said else "40")
    system = talk.fits(swarm(iterations=100))
    assert "2>" in system.learned
    assert talk.answers(system).correct.all()


def test_gptswarm_tells_what_it_learned():
    both = {peer(0, 0, "40"), peer(1, 0, "40")}  # so that a single graph is right, and it alone is ever reinforced
    talk = Talk(lambda agent, turn, said: "48" if set(said) == both else "40")
    system = talk.fits(swarm(iterations=200))
    assert system.learned == "2 of 6 messages kept: 0>2, 1>2; decide: 2"
    assert talk.answers(system).correct.all()


def test_where_nothing_is_ever_right_nothing_is_learned():
    talk = Talk(lambda agent, turn, said: "40")
    assert talk.fits(swarm()).learned == "0 of 6 messages kept; decide: 0, 1, 2"


def test_a_prompt_that_is_too_long_is_of_no_use():
    def refuses(agent, turn, said):
        if len(said) > 0:
            raise PromptError("too long")
        return "48"

    talk = Talk(refuses)
    assert talk.fits(swarm(iterations=60)).learned.startswith("0 of 6 messages kept")

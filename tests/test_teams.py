"""Teams whose agents may concede to each peer, have several refinements, or refine with their own model, learn too."""

import numpy as np
import pytest
from debate_fixtures import linear_policy, nothing_is_missing, random_tree
from rllib_fixtures import debate_config, small_config

from mpdf_rllib.algorithms.meta_policy import greedy
from mpdf_rllib.algorithms.softrankpo import POLICY
from mpdf_rllib.baselines.schedules import play
from mpdf_rllib.config_file import load_config
from mpdf_rllib.envs.credit import outcome_credit
from mpdf_rllib.envs.debate import CONCEDE, PERSIST, REFINE
from mpdf_rllib.envs.debate_batch import DebateBatch, Rules
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.team import Team
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.record import record

TEAMS = {
    "concede to each": Team(4, 2, critic=False, concede="each"),
    "two refinements": Team(3, 2, critic=False, refine_samples=2),
    "own refinements": Team(3, 2, critic=False, refiner="actor"),
    "all": Team(3, 2, critic=False, concede="each", refine_samples=2, refiner="actor"),
}


@pytest.mark.usefixtures("ray_instance")
@pytest.mark.parametrize(("team", "credit"), [("all", "step"), ("all", "outcome"), ("own refinements", "outcome")])
def test_it_trains_and_plays_what_it_learned(team, credit):
    team = TEAMS[team]
    env = DeliberationEnv(debate_config(team=team))
    actions = env.action_spaces["agent_0"].n
    assert actions == (2 + team.agents - 1 if team.concede == "each" else 3)

    algorithm = small_config(team=team, credit=credit).training(warm_start_iterations=1).build_algo()
    results = [algorithm.train() for _ in range(2)]
    for result in results:
        debate = result["env_runners"]["debate"]
        assert debate["persist"] + debate["refine"] + debate["concede"] == pytest.approx(1)
        assert np.isfinite(result["learners"][POLICY]["policy_loss"])
    network = algorithm.get_module(POLICY).policy
    algorithm.stop()

    tree = random_tree(
        np.random.default_rng(0), team.agents, 2, refine_samples=team.refine_samples, refiner=team.refiner
    )
    outcome = play(tree, greedy([network]), team.rules)
    assert (outcome.actions.sum(-1) == team.agents * team.rounds).all()


def test_outcome_credit_is_the_mean_over_the_refinements_that_an_agent_may_get():
    """In the last round nothing is left to chance but which refinement that is."""
    rng = np.random.default_rng(3)
    debates = DebateBatch(random_tree(rng, 3, 1, refine_samples=3), nothing_is_missing)
    debates.reset([0, 1, 2])
    actions = np.full((3, 3), REFINE)
    outcome, tokens = outcome_credit(debates, actions, linear_policy(rng))
    for b, i in np.ndindex(3, 3):
        ends = []
        for draw in range(3):
            end = debates.fork(np.array([b]))
            end.draw[0, i] = draw
            end.step(actions[[b]])
            held, trust = end.answers, end.answers.confidence
            right = trust[held.correct].sum() / trust.sum() if trust.any() else 0
            ends.append((right, end.tokens[0, 2]))
        assert (outcome[b, i, REFINE], tokens[b, i, REFINE]) == pytest.approx(tuple(np.mean(ends, 0)))


def test_an_agent_that_concedes_to_a_peer_stands_where_that_peer_stood():
    tree = random_tree(np.random.default_rng(0), 4, 1, questions=1)
    tree.answer_class[0, tree.roots] = [1, 2, 3, 2]
    debates = DebateBatch(tree, nothing_is_missing, Rules(concede="each"))
    debates.reset([0])
    assert debates.legal()[0, :, CONCEDE:].tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 1]]
    # The peers of agent 1 are 0, 2 and 3; those of agent 3 are 0, 1 and 2.
    debates.step([[CONCEDE + 2, CONCEDE + 1, PERSIST, CONCEDE]])
    assert debates.node.tolist() == [tree.roots[[3, 2, 2, 0]].tolist()]


def test_agents_that_adopted_one_solution_refine_it_each_with_their_own_prompt():
    asked = []
    team = Team(3, 2, critic=False, refiner="actor")
    tree = team.tree(debate_config()["questions"]()[:1])
    debates = DebateBatch(tree, lambda wanted: [note(place) for place in wanted])

    def note(place):
        position = tree.position(*place)
        asked.append((position.root, [writer for writer, _ in position.path], position.author))
        tree.present[place] = True

    debates.reset([0])
    tree.answer_class[0, tree.roots] = [1, 2, 2]
    tree.confidence[0, tree.roots] = [0.9, 0.5, 0.5]
    debates.step([[PERSIST, CONCEDE, CONCEDE]])
    debates.step([[REFINE, REFINE, REFINE]])
    assert asked[3:] == [(0, [0], 0), (0, [1], 1), (0, [2], 2)]


@pytest.mark.parametrize(
    ("overrides", "solutions"),
    [
        ([], 2 * (1 + 1 + 1)),
        (["team.refine_samples=2"], 2 * (1 + 2 + 4)),
        (["team.refiner=actor"], 2 * (1 + 2 + 4)),
        (["team.refiner=actor", "team.refine_samples=2"], 2 * (1 + 4 + 16)),
    ],
)
def test_a_recording_holds_all_that_its_debates_may_ask_for(tmp_path, overrides, solutions):
    path = tmp_path / "config.yaml"
    path.write_text(
        "{name: small, questions: {families: [addition], train: 10, test: 2}, engine: {kind: scripted}, "
        f"team: {{agents: 2, rounds: 2, critic: false}}, recording: {tmp_path}/recording}}"
    )
    config = load_config(path, overrides)
    trees = record(config)
    assert trees.test.present.shape == (2, solutions) and trees.test.present.all()
    assert trees.made == 12 * solutions + 2 * (6 - 2)
    assert record(config).made == 0


def test_a_tree_that_is_too_wide_to_record_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("{name: small, questions: {families: [addition], train: 10, test: 2}}")
    with pytest.raises(ConfigError, match=r"team: .*37,448 solutions.*lower team.rounds.*or let the author refine"):
        load_config(path, ["team.agents=8", "team.rounds=4", "team.refiner=actor"])

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from threadpoolctl import threadpool_limits

from mpdf_rllib.baselines.bounds import fit_calibration, informed_ceiling, oracle
from mpdf_rllib.baselines.schedules import always_refine, best_schedule, play, play_schedule
from mpdf_rllib.baselines.stopping_rule import best_threshold, stop_at
from mpdf_rllib.baselines.votes import highest_logprob, nodes_to_depth, plurality, roots
from mpdf_rllib.envs.answer_classes import UNPARSED
from mpdf_rllib.envs.credit import Calibration
from mpdf_rllib.envs.debate import CONCEDE, PERSIST, REFINE
from mpdf_rllib.envs.features import NUMBERS
from mpdf_rllib.envs.solution_tree import SolutionTree
from mpdf_rllib.envs.team import Team
from mpdf_rllib.questions import Question

RIGHT = 0
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(st.integers(2, 4), st.integers(1, 3))
# The first feature alone, z -> 1 / (1 + exp(-8 (z - 1/2))).
BY_FIRST_FEATURE = Calibration((8.0, *[0.0] * (len(NUMBERS) - 1)), -4.0)


@pytest.fixture(autouse=True)
def one_thread():
    """Scikit-learn's threads wait for each other for minutes where other processes keep the cores busy."""
    with threadpool_limits(1):
        yield


def give(tree: SolutionTree, answers) -> None:
    """Puts answers into all nodes."""
    tree.answer_class[:] = answers
    tree.correct[:] = tree.answer_class == RIGHT


def random_tree(seed: int, shape: tuple[int, int] = (3, 3), questions: int = 5) -> SolutionTree:
    """A complete tree of random solutions; confidences are eighths, so that ties occur and sums are exact."""
    rng = np.random.default_rng(seed)
    tree = Team(*shape).tree([Question(f"q{i}", "1 + 1", "2", "number", "arithmetic") for i in range(questions)])
    tree.present[:] = True
    give(tree, rng.integers(UNPARSED, 3, tree.present.shape))
    tree.confidence[:] = rng.integers(1, 9, tree.present.shape) / 8 * (tree.answer_class != UNPARSED)
    tree.features[:] = rng.random(tree.features.shape)
    tree.tokens[:] = rng.integers(1, 50, tree.tokens.shape)
    return tree


def wins(answers: list[int], confidences: list[float]) -> bool:
    """Whether the right answer is the plurality's, ties by summed confidence, then by the first."""
    count, trust = Counter(), Counter()
    for answer, confidence in zip(answers, confidences, strict=True):
        if answer != UNPARSED:
            count[answer] += 1
            trust[answer] += confidence
    return bool(count) and max(count, key=lambda a: (count[a], trust[a], -answers.index(a))) == RIGHT


@settings(deadline=None, max_examples=50)
@given(SEEDS, SHAPES, st.data())
def test_votes_by_hand(seed, shape, data):
    tree = random_tree(seed, shape)
    nodes = data.draw(st.lists(st.integers(0, tree.num_nodes - 1), min_size=1, unique=True))
    by_plurality, by_confidence = plurality(tree, nodes), highest_logprob(tree, nodes)
    for q in range(5):
        answers, confidences = tree.answer_class[q, nodes].tolist(), tree.confidence[q, nodes].tolist()
        assert by_plurality.correct[q] == wins(answers, confidences)
        assert by_confidence.correct[q] == (answers[confidences.index(max(confidences))] == RIGHT)
        for outcome in (by_plurality, by_confidence):
            assert outcome.tokens[q].tolist() == [sum(tree.tokens[q, m, i] for m in nodes) for i in range(3)]
            assert outcome.actions[q].tolist() == [0, 0, 0]


def test_which_nodes_are_which():
    tree = random_tree(0)
    assert roots(tree) == [0, 4, 8]
    assert nodes_to_depth(tree, 1) == [0, 1, 4, 5, 8, 9]
    assert nodes_to_depth(tree, 3) == list(range(12))


def walk(tree: SolutionTree, q: int, schedule: tuple[int, ...]):
    """One debate, an agent at a time: where everyone ends, all nodes stood on, and how often each action was taken."""
    length = tree.rounds + 1
    nodes = [root * length for root in range(len(tree.roots))]
    stood_on, counts = set(nodes), [0, 0, 0]
    for action in schedule:
        after = []
        for i, node in enumerate(nodes):
            own = tree.answer_class[q, node]
            others = [j for j in range(len(nodes)) if j != i and tree.answer_class[q, nodes[j]] not in (own, UNPARSED)]
            taken = action
            if action == CONCEDE and not others:
                taken = PERSIST
            counts[taken] += 1
            target = max(others, key=lambda j: (tree.confidence[q, nodes[j]], -j), default=i)
            after.append({PERSIST: node, REFINE: node + 1, CONCEDE: nodes[target]}[taken])
        nodes = after
        stood_on |= set(nodes)
    return nodes, stood_on, counts


@settings(deadline=None, max_examples=50)
@given(SEEDS, SHAPES, st.data())
def test_schedules_by_hand(seed, shape, data):
    tree = random_tree(seed, shape)
    actions = st.lists(st.sampled_from([PERSIST, REFINE, CONCEDE]), min_size=shape[1], max_size=shape[1])
    schedule = tuple(data.draw(actions))
    outcome = play_schedule(tree, schedule)
    for q in range(5):
        nodes, stood_on, counts = walk(tree, q, schedule)
        assert outcome.correct[q] == wins(tree.answer_class[q, nodes].tolist(), tree.confidence[q, nodes].tolist())
        assert outcome.tokens[q].tolist() == tree.tokens[q, sorted(stood_on)].sum(0).tolist()
        assert outcome.actions[q].tolist() == counts


@settings(deadline=None, max_examples=50)
@given(SEEDS, SHAPES)
def test_persisting_is_the_vote_of_the_roots_and_refining_that_of_the_deepest(seed, shape):
    tree = random_tree(seed, shape)
    agents, rounds = shape
    persist, refine = play_schedule(tree, (PERSIST,) * rounds), play_schedule(tree, always_refine(tree))
    deepest = [node + rounds for node in roots(tree)]
    assert (persist.correct == plurality(tree, roots(tree)).correct).all()
    assert (persist.tokens == plurality(tree, roots(tree)).tokens).all()
    assert (refine.correct == plurality(tree, deepest).correct).all()
    assert (refine.tokens == tree.tokens.sum(1)).all()
    assert (persist.actions == [agents * rounds, 0, 0]).all()
    assert (refine.actions == [0, agents * rounds, 0]).all()
    surest = play_schedule(tree, always_refine(tree), "most_confident")
    assert (surest.correct == highest_logprob(tree, [*range(tree.num_nodes)]).correct).all()


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_the_best_schedule_is_the_best_and_the_cheapest_of_the_best(seed):
    train = random_tree(seed, (3, 2), questions=8)
    best = play_schedule(train, best_schedule(train))
    for schedule in itertools.product([PERSIST, REFINE, CONCEDE], repeat=2):
        other = play_schedule(train, schedule)
        assert (best.accuracy, -best.generated) >= (other.accuracy, -other.generated)


@settings(deadline=None, max_examples=50)
@given(SEEDS, SHAPES, st.floats(0, 1.01), st.booleans())
def test_the_stopping_rule_by_hand(seed, shape, threshold, calibrated):
    tree = random_tree(seed, shape)
    rounds = shape[1]
    outcome = stop_at(tree, BY_FIRST_FEATURE, threshold, calibrated)
    if calibrated:
        by_first = tree.features[..., 0].astype(float)  # which a calibration by it orders alike
        tree.confidence = np.where(tree.answer_class == UNPARSED, 0.0, by_first)
    for q in range(5):
        for depth in range(rounds + 1):
            made = nodes_to_depth(tree, depth)
            if max(expit(8 * tree.features[q, m, 0].astype(float) - 4) for m in made) >= threshold:
                break
        expected = highest_logprob(tree, made)
        assert outcome.correct[q] == expected.correct[q]
        assert outcome.tokens[q].tolist() == expected.tokens[q].tolist()


@settings(deadline=None, max_examples=50)
@given(SEEDS, SHAPES)
def test_the_stopping_rule_at_its_ends(seed, shape):
    tree = random_tree(seed, shape)
    for threshold, nodes in ((0.0, roots(tree)), (1.01, list(range(tree.num_nodes)))):
        outcome, expected = stop_at(tree, BY_FIRST_FEATURE, threshold), highest_logprob(tree, nodes)
        assert (outcome.correct == expected.correct).all()
        assert (outcome.tokens == expected.tokens).all()


def test_the_best_threshold_stops_where_confidence_can_be_trusted():
    """Right solutions, and they alone, have a high first feature and a high confidence."""
    train = random_tree(0, questions=60)
    right = train.answer_class == RIGHT
    train.features[..., 0] = np.where(right, 0.9, 0.1)
    train.confidence[:] = np.where(right, 0.9, 0.2)
    outcome = stop_at(train, BY_FIRST_FEATURE, best_threshold(train, BY_FIRST_FEATURE))
    assert (outcome.correct == oracle(train).correct).all()
    first_right = [min((m % 4 for m in np.flatnonzero(row)), default=3) for row in right]
    needed = [train.tokens[q, nodes_to_depth(train, depth), 2].sum() for q, depth in enumerate(first_right)]
    assert outcome.tokens[:, 2].tolist() == needed


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.booleans())
def test_the_best_threshold_keeps_to_its_budget(seed, calibrated):
    train = random_tree(seed, questions=20)

    def best(budget: float):
        threshold = best_threshold(train, BY_FIRST_FEATURE, calibrated, budget)
        return stop_at(train, BY_FIRST_FEATURE, threshold, calibrated)

    free, least = best(np.inf), plurality(train, roots(train)).generated
    assert best(free.generated).accuracy == free.accuracy
    accuracies = [0.0]
    for budget in np.linspace(least, train.tokens[..., 2].sum(1).mean(), 5):
        assert best(budget).generated <= budget
        accuracies.append(best(budget).accuracy)
    assert accuracies == sorted(accuracies)
    assert best(least - 1).generated == least, "less than the first answers it cannot take"


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_nothing_passes_the_oracle(seed):
    tree = random_tree(seed, questions=12)
    rng = np.random.default_rng(seed)
    bound = oracle(tree)
    assert bound.correct.tolist() == [RIGHT in answers for answers in tree.answer_class.tolist()]
    assert (bound.tokens == tree.tokens.sum(1)).all()

    def at_random(observation, round_):
        mask = observation["action_mask"]
        return np.where(mask > 0, rng.random(mask.shape), -1.0).argmax(-1)

    for outcome in (
        plurality(tree, range(12)),
        highest_logprob(tree, range(12)),
        stop_at(tree, BY_FIRST_FEATURE, 0.9),
        play_schedule(tree, best_schedule(tree)),
        play(tree, at_random),
    ):
        assert (outcome.correct <= bound.correct).all()


def test_a_missing_solution_is_an_error():
    tree = random_tree(0)
    tree.present[2, 6] = False
    with pytest.raises(RuntimeError, match=r"not complete: \[\(2, 6\)\]"):
        play_schedule(tree, (REFINE, REFINE, PERSIST))


def test_calibration_recovers_the_probability_of_being_right():
    rng = np.random.default_rng(0)
    tree = random_tree(0, questions=500)
    logit = 3 * tree.features[..., 0] - 2 * tree.features[..., 5] - 1
    give(tree, np.where(rng.random(logit.shape) < expit(logit), RIGHT, 1))
    calibrated = fit_calibration(tree)(tree.features)
    assert np.abs(calibrated - expit(logit)).mean() < 0.03
    assert calibrated.mean() == pytest.approx((tree.answer_class == RIGHT).mean(), abs=1e-3)


@pytest.mark.parametrize("answer", [RIGHT, 1, UNPARSED])
def test_calibration_without_contrast_knows_nothing(answer):
    tree = random_tree(0)
    give(tree, answer)
    assert (fit_calibration(tree)(tree.features) == 0.5).all()


def two_answers(seed: int, questions: int) -> SolutionTree:
    """Two agents who each stay with an answer of their own; one of them is right, and nothing says which."""
    tree = random_tree(seed, (2, 1), questions)
    first_is_right = np.random.default_rng(seed).random((questions, 1)) < 0.5
    give(tree, np.where(first_is_right == [True, True, False, False], RIGHT, 1))
    tree.confidence[:] = np.random.default_rng(seed + 1).random(tree.confidence.shape)
    return tree


def test_the_informed_ceiling_cannot_tell_noise():
    train, test = two_answers(1, 100), two_answers(2, 400)
    ceiling = informed_ceiling(train, test, fit_calibration(train))
    assert ceiling.accuracy == pytest.approx(0.5, abs=0.1)
    assert (ceiling.tokens == test.tokens.sum(1)).all()


def test_the_informed_ceiling_cannot_tell_equals():
    train, test = two_answers(1, 100), two_answers(2, 400)
    for tree in (train, test):
        tree.features[:] = 0.5
        tree.confidence[:] = 0.5
    assert informed_ceiling(train, test, fit_calibration(train)).accuracy == pytest.approx(0.5, abs=0.1)


def test_the_informed_ceiling_finds_what_can_be_known():
    train, test = two_answers(3, 100), two_answers(4, 100)
    for tree in (train, test):
        tree.features[..., 7] += 0.8 * (tree.answer_class == RIGHT)
    ceiling = informed_ceiling(train, test, fit_calibration(train))
    assert ceiling.accuracy > 0.85
    assert (ceiling.correct <= oracle(test).correct).all()


def test_questions_without_a_right_answer_stay_wrong():
    train, test = random_tree(5, questions=30), random_tree(6, questions=30)
    give(
        test,
        np.where(np.arange(30)[:, None] == 3, UNPARSED, np.where(np.arange(30)[:, None] == 4, 1, test.answer_class)),
    )
    ceiling = informed_ceiling(train, test, fit_calibration(train))
    assert not ceiling.correct[[3, 4]].any()
    assert (ceiling.correct <= oracle(test).correct).all()


@pytest.mark.parametrize("answer", [RIGHT, 1, UNPARSED])
def test_the_informed_ceiling_of_questions_that_are_all_alike(answer):
    train, test = random_tree(5, questions=10), random_tree(6, questions=10)
    for tree in (train, test):
        give(tree, answer)
    assert informed_ceiling(train, test, fit_calibration(train)).accuracy == (answer == RIGHT)


def test_the_informed_ceiling_of_a_team_that_has_no_answers_on_one_side():
    train, test = random_tree(5, questions=10), random_tree(6, questions=10)
    give(test, UNPARSED)
    assert informed_ceiling(train, test, fit_calibration(train)).accuracy == 0


def test_the_informed_ceiling_of_a_team_that_is_hardly_ever_right():
    train, test = random_tree(5, questions=10), random_tree(6, questions=10)
    give(test, 1)
    give(train, np.where(np.arange(120).reshape(10, 12), 1, RIGHT))
    assert informed_ceiling(train, test, fit_calibration(train)).accuracy == 0

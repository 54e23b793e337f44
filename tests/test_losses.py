"""The objectives against closed forms, scipy and brute force."""

import math
from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, rel_entr
from scipy.stats import entropy as scipy_entropy

from mpdf_rllib.algorithms.softrankpo import soft_rank_advantages
from mpdf_rllib.algorithms.softrankpo.losses import (
    OBJECTIVES,
    centred,
    entropy,
    kl_divergence,
    log_policy_loss,
    rank_matching_loss,
)


def random_states(seed: int, states: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A reference, advantages and the legal actions, as the learner sees them: illegal logits are -1e9."""
    rng = np.random.default_rng(seed)
    legal = rng.random((states, 4)) < 0.7
    legal[:, 0] = True
    advantages = soft_rank_advantages(rng.random(legal.shape), 0.5, legal)
    logits = np.where(legal, rng.normal(size=legal.shape), -1e9)
    reference = torch.log_softmax(torch.tensor(logits), -1)
    return reference, torch.tensor(advantages), torch.tensor(legal)


def closed_form(reference, advantages, legal, beta):
    """pi_ref exp(A / beta) / Z, in logs."""
    return torch.log_softmax(torch.where(legal, reference + advantages / beta, -1e9), -1)


def test_rank_matching_is_the_mean_squared_gap_of_centred_log_ratios():
    reference, advantages, legal = random_states(0)
    logp = torch.log_softmax(torch.where(legal, torch.randn(legal.shape, generator=torch.manual_seed(1)), -1e9), -1)
    losses = rank_matching_loss(logp, reference, advantages, legal, beta=0.3)
    for b in range(len(legal)):
        ok = [k for k in range(4) if legal[b, k]]
        ratios = [0.3 * float(logp[b, k] - reference[b, k]) for k in ok]
        gaps = [ratio - fmean(ratios) - float(advantages[b, k]) for ratio, k in zip(ratios, ok, strict=True)]
        assert float(losses[b]) == pytest.approx(fmean(gap**2 for gap in gaps), rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.3, 2.0])
def test_the_closed_form_has_zero_loss(beta):
    reference, advantages, legal = random_states(2)
    best = closed_form(reference, advantages, legal, beta)
    np.testing.assert_allclose(rank_matching_loss(best, reference, advantages, legal, beta), 0, atol=1e-12)
    # At the reference itself the loss is the advantages' variance: 1 wherever rewards differ.
    start = rank_matching_loss(reference, reference, advantages, legal, beta)
    np.testing.assert_allclose(start, (legal.sum(-1) > 1).double())


def test_gradient_descent_finds_the_closed_form():
    reference, advantages, legal = random_states(3)
    logits = reference.clone().requires_grad_()
    for _ in range(100):
        loss = rank_matching_loss(torch.log_softmax(logits, -1), reference, advantages, legal, 0.5).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 4 * gradient).detach().requires_grad_()
    found = torch.log_softmax(logits.detach(), -1).exp()
    np.testing.assert_allclose(found, closed_form(reference, advantages, legal, 0.5).exp(), atol=1e-6)


def test_an_action_given_up_costs_more_and_more():
    """Eq. 3 as printed rewards giving up a bad action without bound."""
    advantages, legal = torch.tensor([[-1.2, 0.0, 1.2]]), torch.ones(1, 3, dtype=torch.bool)
    reference = torch.log_softmax(torch.zeros(1, 3), -1)
    logps = [torch.log_softmax(torch.tensor([[-depth, 0.0, 0.0]]), -1) for depth in (10.0, 100.0, 1000.0)]
    losses = [float(rank_matching_loss(logp, reference, advantages, legal, 0.3)) for logp in logps]
    assert 0 < losses[0] < losses[1] < losses[2]


def test_a_larger_beta_stays_closer_to_the_reference():
    reference, advantages, legal = random_states(4)

    def divergence(beta):
        logp = closed_form(reference, advantages, legal, beta)
        return float((logp.exp() * (logp - reference)).sum(-1).mean())

    assert divergence(0.1) > divergence(0.3) > divergence(1.0) > 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-100, 100), st.booleans()), min_size=1, max_size=5))
def test_centred_ignores_illegal_values(actions):
    assume(any(legal for _, legal in actions))
    mean = fmean(value for value, legal in actions if legal)
    expected = [value - mean if legal else 0.0 for value, legal in actions]
    values = torch.tensor([[value if legal else math.nan for value, legal in actions]], dtype=torch.float64)
    legal = torch.tensor([[legal for _, legal in actions]])
    np.testing.assert_allclose(centred(values, legal)[0], expected, atol=1e-9)


def other_policy(legal: torch.Tensor, seed: int = 1) -> torch.Tensor:
    noise = torch.randn(legal.shape, generator=torch.manual_seed(seed), dtype=torch.float64)
    return torch.log_softmax(torch.where(legal, noise, -1e9), -1)


def by_state(logp, reference, legal):
    """The probabilities of the legal actions, state by state."""
    for b, ok in enumerate(legal.numpy()):
        yield b, ok, logp[b].exp().numpy()[ok], reference[b].exp().numpy()[ok]


def test_divergence_entropy_and_eq_3_are_scipys():
    reference, advantages, legal = random_states(5)
    logp = other_policy(legal)
    divergences, entropies = kl_divergence(logp, reference, legal), entropy(logp, legal)
    losses = log_policy_loss(logp, reference, advantages, legal, beta=0.7)
    for b, ok, p, q in by_state(logp, reference, legal):
        assert float(divergences[b]) == pytest.approx(rel_entr(p, q).sum(), abs=1e-12)
        assert float(entropies[b]) == pytest.approx(scipy_entropy(p), abs=1e-12)
        objective = advantages[b].numpy()[ok] @ np.log(p) - 0.7 * rel_entr(p, q).sum()
        assert float(losses[b]) == pytest.approx(-objective, abs=1e-12)


def test_the_divergences_gradient_is_the_formula():
    """d KL / d logit_i = pi_i (log(pi_i / pi_ref_i) - KL)."""
    reference, _, legal = random_states(6)
    logits = other_policy(legal).clone().requires_grad_()
    divergence = kl_divergence(torch.log_softmax(logits, -1), reference, legal)
    (gradient,) = torch.autograd.grad(divergence.sum(), logits)
    assert (gradient[~legal] == 0).all()
    for b, ok, p, q in by_state(torch.log_softmax(logits.detach(), -1), reference, legal):
        np.testing.assert_allclose(gradient[b].numpy()[ok], p * (np.log(p / q) - rel_entr(p, q).sum()), atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_illegal_entries_change_neither_values_nor_gradients(objective):
    reference, advantages, legal = random_states(7)
    logp = other_policy(legal)

    def loss_and_gradient(logp, reference, advantages):
        logp = logp.clone().requires_grad_()
        losses = OBJECTIVES[objective](logp, reference, advantages, legal, 0.3)
        losses = losses - entropy(logp, legal) + kl_divergence(logp, reference, legal)
        return losses.detach(), torch.autograd.grad(losses.sum(), logp)[0]

    expected_loss, expected_gradient = loss_and_gradient(logp, reference, advantages)
    assert (expected_gradient[~legal] == 0).all() and expected_gradient.isfinite().all()
    for anything in (-torch.inf, torch.nan, 1e30):
        spoiled = [torch.where(legal, tensor, anything) for tensor in (logp, reference, advantages)]
        loss, gradient = loss_and_gradient(*spoiled)
        assert torch.equal(loss, expected_loss) and torch.equal(gradient, expected_gradient)


def minimum(loss, *tensors: torch.Tensor) -> torch.Tensor:
    """Log-probabilities, (1, K), where scipy finds the least loss of one state of legal actions, without gradients."""

    def value(logits):
        return float(loss(torch.log_softmax(torch.tensor(logits)[None], -1), *tensors))

    found = minimize(value, np.zeros(tensors[0].shape[-1]), tol=1e-10)
    return torch.tensor(log_softmax(found.x))[None]


REFERENCE = torch.log_softmax(torch.tensor([[0.3, -0.5, 1.0]], dtype=torch.float64), -1)
ADVANTAGES = torch.tensor(soft_rank_advantages(np.array([[0.0, 2.0, 1.0]])))
LEGAL = torch.ones(1, 3, dtype=torch.bool)


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_scipy_finds_the_closed_form_of_rank_matching(beta):
    found = minimum(rank_matching_loss, REFERENCE, ADVANTAGES, LEGAL, beta)
    np.testing.assert_allclose(found.exp(), closed_form(REFERENCE, ADVANTAGES, LEGAL, beta).exp(), atol=1e-4)


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_eq_3_is_best_where_brute_force_says_if_no_advantage_is_negative(beta):
    advantages, reference = np.array([0.4, 1.6]), np.array([0.7, 0.3])
    p = np.linspace(1e-5, 1 - 1e-5, 200_001)
    both = np.stack([p, 1 - p], -1)
    best = both[(np.log(both) @ advantages - beta * rel_entr(both, reference).sum(-1)).argmax()]
    tensors = torch.tensor(reference).log()[None], torch.tensor(advantages)[None], LEGAL[:, :2]
    found = minimum(lambda logp, *rest: log_policy_loss(logp, *rest, beta), *tensors)
    np.testing.assert_allclose(found.exp()[0], best, atol=1e-3)


def descend(loss, steps: list[int]) -> list[tuple[float, float]]:
    """The loss, and the probability of the worst action, after so many steps of gradient descent from the reference."""
    logits, seen = REFERENCE.clone().requires_grad_(), []
    for step in range(max(steps) + 1):
        logp = torch.log_softmax(logits, -1)
        value = loss(logp)
        if step in steps:
            seen.append((float(value.detach()), float(logp.detach()[0, ADVANTAGES.argmin()].exp())))
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        logits = (logits - 0.2 * gradient).detach().requires_grad_()
    return seen


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_eq_3_as_printed_has_no_optimum_where_rank_matching_has_one(beta):
    arguments = (REFERENCE, ADVANTAGES, LEGAL, beta)
    losses, worst = zip(*descend(lambda logp: log_policy_loss(logp, *arguments), [0, 500, 1000, 2000]), strict=True)
    # It goes on falling as fast as before, and gives up the worst action for good.
    assert losses[0] > losses[1] > losses[2] > losses[3]
    assert losses[2] - losses[3] > 0.9 * 2 * (losses[1] - losses[2]) > 0
    assert worst[0] > 0.1 and worst[3] < 1e-100
    losses, worst = zip(*descend(lambda logp: rank_matching_loss(logp, *arguments), [0, 4000]), strict=True)
    assert losses[1] == pytest.approx(0, abs=1e-3)
    best = closed_form(*arguments).exp()
    assert worst[1] == pytest.approx(float(best[0, ADVANTAGES.argmin()]), rel=1e-2)


def test_a_larger_beta_does_not_give_eq_3_an_optimum():
    logp = torch.log_softmax(torch.tensor([[-1000.0, 0.0, 0.0]], dtype=torch.float64), -1)
    for beta in (1.0, 10.0, 100.0):
        start, end = (float(log_policy_loss(x, REFERENCE, ADVANTAGES, LEGAL, beta)) for x in (REFERENCE, logp))
        assert end < start - 900


@pytest.mark.parametrize(
    ("objective", "advantages"),
    # With advantages that are not negative Eq. 3 too has an optimum.
    [(rank_matching_loss, ADVANTAGES), (log_policy_loss, ADVANTAGES - ADVANTAGES.min())],
)
def test_more_entropy_is_had_where_it_is_worth_more(objective, advantages):
    def entropy_at_the_optimum(coefficient):
        def loss(logp, *rest):
            return objective(logp, *rest, 1.0) - coefficient * entropy(logp, LEGAL)

        return float(entropy(minimum(loss, REFERENCE, advantages, LEGAL), LEGAL))

    none, some, much = (entropy_at_the_optimum(coefficient) for coefficient in (0.0, 0.3, 3.0))
    assert none + 0.01 < some < much - 0.01 < math.log(3)


@pytest.mark.parametrize("function", [rank_matching_loss, log_policy_loss])
def test_other_shapes_are_refused(function):
    with pytest.raises(ValueError, match=r"\(1, 3\), \(1, 3\), \(1, 1\), \(1, 3\)"):
        function(REFERENCE, REFERENCE, ADVANTAGES[:, :1], LEGAL, 0.3)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        function(REFERENCE[0], REFERENCE[0], ADVANTAGES[0], LEGAL[0], 0.3)

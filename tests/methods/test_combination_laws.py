"""The laws of the combination that derivations/combination.md proves: the product, scales, orders, aggregators."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import mtlref
from mtlref.defects import DEFECTS, variant
from mtlref.experiments import combination_order
from mtlref.methods import combination as spec
from tests.problems import jacobians, positive

ULP = np.finfo(float).eps
CLOSE = 1e-12
KNOWN = {defect.name: defect for defect in DEFECTS["combination"]}


@st.composite
def several(draw, count, low=1e-3, high=1e3):
    """So many vectors of positive weights of one number of tasks."""
    K = draw(st.sampled_from([1, 2, 3, 4, 7]))
    return [np.array(draw(st.lists(positive(low, high), min_size=K, max_size=K))) for _ in range(count)]


def R(x):
    """R_K, by its definition."""
    return len(x) * x / np.sum(x)


def plus(*stages, strengths=None):
    """The loss-level weights of the product of some weights."""
    u = np.array([spec.stage_weights(w, "stage") for w in stages])
    return spec.loss_level_weights(spec.product(u, np.ones(len(u)) if strengths is None else np.array(strengths)))


def same(got, expected, rtol=CLOSE):
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=0)


def fixed(weights):
    return mtlref.FixedWeights(tuple(np.asarray(weights, dtype=float).tolist()))


def stepped(method, losses, jacobian=None, **more):
    return method.step(method.init(len(losses)), losses, jacobian, **more)


def course(method, losses, J):
    """The steps of a run of `method` on rows of losses and Jacobians."""
    state, rng, outs = method.init(losses.shape[1]), np.random.default_rng(0), []
    for L, gradients in zip(losses, J, strict=True):
        draw = method.sample(rng, len(L))
        outs.append(method.step(state, L, gradients, **({} if draw is None else {"draw": draw})))
        state = outs[-1].state
    return outs


def problem(steps=8, K=3, D=4, seed=0):
    """Falling losses of unequal size and progress, and Jacobians."""
    rng = np.random.default_rng(seed)
    fall = np.exp(-np.outer(np.arange(steps), rng.uniform(0.05, 0.4, K)))
    return fall * rng.uniform(0.5, 20, K) * rng.uniform(0.95, 1.05, (steps, K)), rng.standard_normal((steps, K, D))


# THE PRODUCT


@given(several(3))
def test_the_product_is_commutative_and_associative(abc):
    a, b, c = abc
    same(plus(a, b), plus(b, a))
    same(plus(plus(a, b), c), plus(a, plus(b, c)))
    same(plus(a, b, c), plus(a, plus(b, c)))


@given(several(1))
def test_identity_and_inverse(a):
    (a,) = a
    same(plus(a, np.ones(len(a))), R(a))
    same(plus(a, 1 / a), np.ones(len(a)))
    same(plus(a, a, strengths=[1, -1]), np.ones(len(a)))


@given(several(2), positive(1e-6, 1e6))
def test_renormalisation(ab, factor):
    a, b = ab
    same(plus(plus(a)), R(a))
    same(plus(factor * a), R(a))
    same(plus(a, b), R(a * b))
    same(plus(R(a), R(b)), R(a * b))


@given(several(1, 0.1, 10), st.floats(-2, 2), st.floats(-2, 2))
def test_strengths_are_powers(a, beta, gamma):
    (a,) = a
    same(plus(a, strengths=[0]), np.ones(len(a)))
    same(plus(a, strengths=[1]), R(a))
    same(plus(a, a, strengths=[beta, gamma]), plus(a, strengths=[beta + gamma]))
    same(plus(plus(a, strengths=[beta]), strengths=[gamma]), plus(a, strengths=[beta * gamma]))


@given(several(2, 0.1, 10), st.floats(-2, 2))
def test_centred_logarithms_add_up(ab, beta):
    def centred(x):
        return np.log(x) - np.mean(np.log(x))

    a, b = ab
    np.testing.assert_allclose(
        centred(plus(a, b, strengths=[1, beta])), centred(a) + beta * centred(b), rtol=0, atol=1e-12
    )


def test_a_factor_for_the_exponent_is_cancelled():
    u = np.array([[0.5, 1.0, 1.5], [2.0, 0.7, 0.3]])
    same(spec.loss_level_weights(0.3 * u[0] * u[1]), spec.loss_level_weights(u[0] * u[1]))


# SCALES


def test_scale_classes():
    """Rates keep their weights; equalisers theirs times the factors; two equalisers undo the factors twice."""
    losses, J = problem()
    s = np.array([100.0, 0.02, 3.0])
    for rate in (mtlref.DWA(), mtlref.CoVWeighting(), mtlref.CoVWeighting(decay=0.8)):
        plain, scaled = (course(mtlref.Combination(rate), factor * losses, J) for factor in (1, s))
        for a, b in zip(plain, scaled, strict=True):
            same(b.weights, a.weights)
    plain, scaled = (course(mtlref.GradNorm(), factor * losses, J) for factor in (1, s))
    for a, b in zip(plain, scaled, strict=True):
        same(b.terms["r"], a.terms["r"])
    L, noise = losses[3], mtlref.UncertaintyWeighting()
    states = [noise.at(np.log(x)) for x in (L, s * L)]
    for x, state in zip((L, s * L), states, strict=True):
        np.testing.assert_allclose(noise.objective_gradient(x, state), 0, atol=1e-14)
    same(states[1].weights * s, states[0].weights)
    twice = [plus(state.weights, state.weights) for state in states]
    same(R(twice[1] * s), R(twice[0] / s))


def test_gradnorm_rests_where_its_weights_undo_a_factor():
    """α = 0: n → s n has its resting point at w/s, brought to a sum of K."""
    n, s = np.array([3.0, 0.5, 2.0]), np.array([100.0, 0.02, 3.0])
    for norms in (n, s * n):
        w = R(1 / norms)
        method = mtlref.GradNorm(alpha=0.0, lr=1e-9)
        out = method.step(replace(method.init(3), weights=w), np.ones(3), np.diag(norms))
        np.testing.assert_allclose(out.terms["G"], out.terms["target"], rtol=1e-14)
    same(R(1 / (s * n)), R(R(1 / n) / s))


# SEQUENCES


def test_a_cascade_sees_weights_move():
    """CoV before DWA: the ratio is multiplied by the quotient of CoV's weights, brought to a sum of K."""
    losses, J = problem()
    stages = mtlref.CoVWeighting(statistics="previous"), mtlref.DWA(temperature=0.5)
    method = mtlref.Combination(*stages, epoch_steps=1)
    wrong = variant(method, KNOWN["Cascade"])
    right, cascade = course(method, losses, J), course(wrong, losses, J)
    moved = 0.0
    for t in range(1, len(losses)):
        u, before = right[t].terms["u"][0], right[t - 1].terms["u"][0]
        same(right[t].terms["dwa.ratio"], losses[t] / losses[t - 1])
        same(cascade[t].terms["dwa.ratio"], u / before * losses[t] / losses[t - 1])
        moved = max(moved, np.max(np.abs(u / before - 1)))
    assert moved > 0.1


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_gradnorm_keeps_priorities_and_a_cascade_erases_them(alpha):
    """Where GradNorm rests, λ_i n_i is in proportion to b_i r_i^α on raw gradients, to r_i^α on weighted ones."""
    n, b, L = np.array([3.0, 0.5, 2.0]), np.array([2.0, 0.25, 0.75]), np.array([1.0, 0.4, 0.7])
    r = 3 * L / np.sum(L)
    method = mtlref.Combination(fixed(b), mtlref.GradNorm(alpha=alpha))
    for chosen, read in ((method, n), (variant(method, KNOWN["WeightedGradients"]), b * n)):
        state = chosen.init(3)
        norm = replace(state.stages[1], weights=R(r**alpha / read), initial_losses=np.ones(3))
        out = chosen.step(replace(state, stages=(state.stages[0], norm)), L, np.diag(n))
        same(out.terms["gradnorm.G"], out.terms["gradnorm.target"])
        same(R(out.weights * n), R(r**alpha * (b if chosen is method else 1)))


@pytest.mark.parametrize("aggregator", [(), (mtlref.PCGrad(),), (mtlref.PELTR(bounds=(0.1, 0.1, 0.1)),)])
def test_the_order_of_the_stages_does_not_count(aggregator):
    losses, J = problem(9)
    stages = mtlref.DWA(), mtlref.Stage(mtlref.GradNorm(lr=1e-3), 0.5), fixed([1.5, 1.0, 0.5]), mtlref.CoVWeighting()
    first = course(mtlref.Combination(*stages, *aggregator, epoch_steps=3), losses, J)
    for order in permutations(stages):
        for a, b in zip(
            first, course(mtlref.Combination(*order, *aggregator, epoch_steps=3), losses, J), strict=True
        ):
            np.testing.assert_allclose(b.weights, a.weights, rtol=1e-11, atol=1e-13)
            same(b.head_weights, a.head_weights)


def test_in_a_cascade_the_order_counts():
    losses, J = problem()
    stages = mtlref.CoVWeighting(statistics="previous"), mtlref.DWA(temperature=0.5)
    ends = [
        course(variant(mtlref.Combination(*order, epoch_steps=1), KNOWN["Cascade"]), losses, J)[-1].weights
        for order in (stages, stages[::-1])
    ]
    assert np.max(np.abs(ends[0] - ends[1])) > 0.01


# AGGREGATORS


@given(jacobians(3), several(1, 0.05, 20), st.integers(0, 2**32 - 1))
def test_pcgrad_commutes_with_positive_weights(J, lam, seed):
    """The directions agree, up to what rounding can do to a sum of projected gradients."""
    lam = np.resize(lam[0], 3)
    draw = mtlref.PCGrad().sample(np.random.default_rng(seed), 3)
    out = stepped(mtlref.Combination(fixed(lam), mtlref.PCGrad()), np.ones(3), J, draw=draw)
    alone = stepped(mtlref.PCGrad(), np.ones(3), J, draw=draw)
    overlaps = np.abs(alone.terms["overlaps"])
    assume(not np.any((overlaps > 0) & (overlaps < 1e-12)))  # rounding would decide whether there is a conflict
    projected = R(lam)[:, None] * (alone.terms["coefficients"] @ J)
    size = np.sum(np.abs(R(lam)[:, None] * np.abs(alone.terms["coefficients"])) @ np.abs(J))
    np.testing.assert_allclose(out.weights @ J, projected.sum(axis=0), rtol=0, atol=1e-12 * size)


@given(jacobians(4), several(1, 0.05, 20), st.integers(0, 2**32 - 1))
def test_pcgrad_s_summed_coefficients_do_not_commute(J, lam, seed):
    lam = R(np.resize(lam[0], 4))
    draw = mtlref.PCGrad().sample(np.random.default_rng(seed), 4)
    out = stepped(mtlref.Combination(fixed(lam), mtlref.PCGrad()), np.ones(4), J, draw=draw)
    alone = stepped(mtlref.PCGrad(), np.ones(4), J, draw=draw)
    overlaps = np.abs(alone.terms["overlaps"])
    assume(not np.any((overlaps > 0) & (overlaps < 1e-12)))
    coefficients = alone.terms["coefficients"]
    expected = [sum((lam[j] - lam[i]) * coefficients[i, j] for i in range(4)) for j in range(4)]
    size = np.max(coefficients.sum(axis=0)) * np.max(lam)
    np.testing.assert_allclose(lam * alone.weights - out.weights, expected, rtol=0, atol=1e-11 * size)


def test_surgery_jumps_at_a_weight_of_zero():
    J = np.array([[1.0, 1.0], [-2.0, 0.0], [0.0, 3.0]])
    draw = [[1, 2], [0, 2], [0, 1]]
    near, at = (
        stepped(mtlref.Combination(fixed([2.0, zero, 1.0]), mtlref.PCGrad()), np.ones(3), J, draw=draw).weights @ J
        for zero in (1e-9, 0.0)
    )
    np.testing.assert_allclose(at, 2 * J[0] + J[2], rtol=CLOSE)
    np.testing.assert_allclose(near, 2 * np.array([0.0, 1.0]) + J[2], atol=1e-8)


@given(several(2, 0.1, 10))
def test_pe_ltr_turns_weights_round(pair):
    """Orthogonal gradients: w_i ∝ 1/(λ_i n_i²), with the length that belongs to weights of sum K before."""
    n, lam = pair[0], R(pair[1])
    method = mtlref.Combination(fixed(lam), mtlref.PELTR(timing="same"))
    w = stepped(method, np.ones(len(n)), np.diag(n)).weights
    expected = len(n) / (lam * n**2) / np.sum(1 / (lam * n) ** 2)
    np.testing.assert_allclose(w, expected, rtol=1e-7)


def test_pe_ltr_stands_still_on_a_weight_of_zero():
    method = mtlref.Combination(fixed([2.0, 0.0, 1.0]), mtlref.PELTR(timing="same"))
    out = stepped(method, np.ones(3), np.diag([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(out.terms["c"], [0.0, 3.0, 0.0])
    np.testing.assert_array_equal(out.weights, 0.0)


@pytest.mark.parametrize("timing", ["same", "next"])
def test_pe_ltr_after_gradnorm_s_clamp_stands_still_for_good(timing):
    """GradNorm alone goes to (0, 3/2, 3/2) here and stays (GN-C3); the heads follow it, the trunk does not."""
    balance = mtlref.GradNorm(alpha=0.0, lr=0.25, negative="clamp")
    method = mtlref.Combination(balance, mtlref.PELTR(timing=timing))
    state, rng, late = method.init(3), np.random.default_rng(0), timing == "next"
    for t, J in enumerate([np.diag([6.0, 1.0, 1.0]), *(rng.standard_normal((12, 3, 4)) * [[1.0], [0.1], [0.1]])]):
        out = method.step(state, np.ones(3), J)
        state = out.state
        assert (np.max(out.weights) > 1e-12) == (t <= late)
        if t == 1:
            np.testing.assert_array_equal(out.head_weights, [0.0, 1.5, 1.5])
        assert (out.head_weights[0] == 0) == (t > 0) and out.head_weights[1:].all()


def test_bounds_keep_pe_ltr_moving_beside_a_weight_of_zero():
    """λ = (2, 0, 1), c = 1/10: ω = (1/10, 8/10, 1/10) by PELTR-1 … PELTR-7 in its exact form, so w = 3 ω λ."""
    method = mtlref.Combination(
        fixed([2.0, 0.0, 1.0]), mtlref.PELTR(bounds=(0.1,) * 3, timing="same", solver="exact")
    )
    out = stepped(method, np.ones(3), np.diag([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(out.weights, [0.6, 0.0, 0.3], rtol=1e-12)


def test_the_table_of_orders_is_the_command_s(capsys):
    page = Path(__file__).parents[2] / "derivations/combination.md"
    assert combination_order.main([]) == 0
    shown = f"$ python -m mtlref.experiments.combination_order\n{capsys.readouterr().out}```"
    assert shown in page.read_text(encoding="utf-8")


def test_the_orders_command_refuses_and_prints_json(capsys):
    assert combination_order.main(["--draws", "3", "--tasks", "3", "--json"]) == 0
    assert '"PE-LTR sum"' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        combination_order.main(["--draws", "0"])

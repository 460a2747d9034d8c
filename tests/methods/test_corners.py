"""Corners that no property reaches: what an error carries, what a run goes on from, how stages are called."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import mtlref.qp
from mtlref import autograd as ad
from mtlref.methods import cov, gradnorm, pe_ltr
from mtlref.methods.combination import stage_weights
from mtlref.methods.hmoe import own_rows
from mtlref.methods.stages import Stage, names
from mtlref.methods.uncertainty import log_ratio_slope
from mtlref.notation import EQUATIONS, DomainError, ShapeError
from mtlref.optimisers import Adam

TINY = 2.0**-1022
"""The least normal number."""

# WHAT A RUN GOES ON FROM


@pytest.mark.parametrize("strength", [1.0, 0.5, 2.0, -1.0])
def test_an_equaliser_of_any_strength_takes_the_weights_that_are_resumed(strength):
    method = mtlref.Combination(Stage(mtlref.GradNorm(), strength), mtlref.FixedWeights((1.5, 1.0, 0.5)))
    wanted = np.array([0.9, 1.4, 0.7])
    resumed = method.resumed(method.init(3), wanted)
    out = method.step(resumed, np.array([1.0, 2.0, 0.5]), np.eye(3))
    np.testing.assert_allclose(out.weights, wanted, rtol=1e-14)


def test_an_equaliser_that_is_off_is_not_asked_for_the_weights():
    method = mtlref.Combination(Stage(mtlref.GradNorm(), 0.0), mtlref.FixedWeights((1.5, 0.5)))
    before = method.init(2)
    after = method.resumed(before, np.array([0.4, 1.6]))
    assert after.stages == before.stages
    np.testing.assert_array_equal(after.weights, [0.4, 1.6])


@pytest.mark.parametrize(("given", "wanted"), [((1.0, 1.0), (2.0, 0.0)), ((2.0, 0.0), (1.5, 0.5))])
def test_a_weight_of_zero_hides_what_the_equaliser_had(given, wanted):
    method = mtlref.Combination(mtlref.GradNorm(), mtlref.FixedWeights(given))
    before = method.init(2)
    after = method.resumed(before, np.array(wanted))
    assert after.stages == before.stages
    np.testing.assert_array_equal(after.weights, wanted)


@pytest.mark.parametrize("strength", [0.01, -0.01])
def test_weights_beyond_what_the_equaliser_can_hold_leave_it_as_it_was(strength):
    """(10⁻⁴)^(1/β) is 0 at β = 1/100, and beyond the largest number at −1/100."""
    method = mtlref.Combination(Stage(mtlref.GradNorm(), strength))
    before = method.init(2)
    assert method.resumed(before, np.array([1.9999, 0.0001])).stages == before.stages


def test_the_stages_follow_their_own_terms_within_an_epoch_and_at_its_end():
    """DWA's weights follow from its losses, so that nothing is to be put right there."""
    method = mtlref.Combination(mtlref.DWA(), mtlref.GradNorm(), epoch_steps=2)
    state, given = method.init(2), {"dwa.w_next": np.array([1.5, 0.5]), "gradnorm.w_next": np.array([0.25, 1.75])}
    for _ in range(2):
        state = method.step(state, np.array([2.0, 1.0]), np.eye(2)).state
        followed = method.followed(state, given)
        assert followed.stages[0] == state.stages[0]
        np.testing.assert_array_equal(followed.stages[1].weights, [0.25, 1.75])


def test_uncertainty_follows_the_log_variances_that_it_is_given_and_keeps_its_moments():
    method = mtlref.UncertaintyWeighting(optimiser=Adam(0.1))
    state = method.step(method.init(2), np.array([2.0, 1.0])).state
    followed = method.followed(state, {"s_next": np.array([0.5, -0.25])})
    np.testing.assert_array_equal(followed.log_variances, [0.5, -0.25])
    np.testing.assert_allclose(followed.weights, np.exp([-0.5, 0.25]) / 2, rtol=1e-15)
    assert followed.optimiser == state.optimiser
    assert method.followed(state, {"w": np.array([1.0, 1.0])}) == state


def test_a_weight_below_zero_leads_to_no_log_variance():
    method = mtlref.UncertaintyWeighting()
    with pytest.raises(DomainError) as caught:
        method.resumed(method.init(2), np.array([1.0, -1.0]))
    assert (caught.value.argument, caught.value.task, caught.value.value) == ("weights", 1, -1.0)


# HOW STAGES ARE CALLED, AND WHICH DO NOT COMBINE


def test_a_stage_shows_its_strength_unless_it_is_one():
    assert repr(Stage(mtlref.DWA())) == repr(mtlref.DWA())
    for strength in (0.5, 2.0):
        assert repr(Stage(mtlref.DWA(), strength)) == f"Stage({mtlref.DWA()!r}, {strength!r})"


def test_stages_of_one_method_are_numbered():
    stages = [Stage(method) for method in (mtlref.DWA(), mtlref.DWA(), mtlref.CoVWeighting(), mtlref.DWA())]
    assert names(stages) == ["dwa", "dwa_2", "cov", "dwa_3"]


def test_an_inverse_equaliser_is_one_and_an_aggregator_has_no_strength_above_one_either():
    with pytest.raises(DomainError, match="GradNorm and Uncertainty Weighting together"):
        mtlref.Combination(Stage(mtlref.GradNorm(), -1.0), mtlref.UncertaintyWeighting())
    with pytest.raises(DomainError, match=r"with a strength of 2\.0"):
        mtlref.Combination(mtlref.DWA(), Stage(mtlref.PCGrad(), 2.0))


def test_the_first_aggregator_that_is_not_the_last_stage_is_named():
    with pytest.raises(DomainError, match="a stage after PCGrad"):
        mtlref.Combination(mtlref.PCGrad(), mtlref.PELTR(), mtlref.DWA())


def test_who_needs_an_epoch_is_told_by_the_first_stage_of_each_cadence():
    words = "Dynamic Weight Average steps once an epoch and GradNorm every time"
    with pytest.raises(DomainError, match=words):
        mtlref.Combination(mtlref.DWA(), mtlref.GradNorm(), mtlref.CoVWeighting(), mtlref.DWA(temperature=1.0))


def test_three_hundred_stages_and_steps_are_counted_by_value():
    """More than the integers that Python keeps one object of: nothing may compare counts by identity."""
    many = mtlref.Combination(*[mtlref.EqualWeights()] * 300)
    np.testing.assert_array_equal(many.step(many.init(2), np.ones(2)).weights, np.ones(2))
    each = mtlref.UncertaintyWeighting(likelihoods=("gaussian",) * 300)
    np.testing.assert_array_equal(each.step(each.init(300), np.ones(300)).weights, np.full(300, 0.5))
    method = mtlref.Combination(mtlref.DWA(), epoch_steps=300)
    state = method.init(2)
    for _ in range(300):
        state = method.step(state, np.array([2.0, 1.0])).state
    assert state.steps == 0
    np.testing.assert_array_equal(state.stages[0].losses_prev, [2.0, 1.0])


def test_what_says_a_method_s_cadence_may_be_read_from_anywhere():
    """A string that is equal, and another object, as one that was read from a file."""
    read = "".join(["prev", "ious"])
    assert mtlref.CoVWeighting(statistics=read).lagged
    assert mtlref.PELTR(timing="".join(["ne", "xt"])).lagged


def test_who_takes_weights_of_this_very_step_is_not_lagged():
    assert not mtlref.PELTR(timing="same").lagged
    assert not mtlref.PCGrad().lagged
    assert not mtlref.CoVWeighting().lagged


# WHAT AN ERROR CARRIES


def test_weights_of_zero_are_refused_with_the_value():
    with pytest.raises(DomainError) as caught:
        stage_weights(np.zeros(2), "fixed")
    assert (caught.value.argument, caught.value.task, caught.value.value) == ("fixed.weights", 0, 0.0)


@pytest.mark.parametrize(
    ("name", "allowed"), [("statistics", "'current' or 'previous'"), ("observed", "'ratio' or 'loss'")]
)
def test_a_choice_of_cov_is_refused_with_both_that_there_are(name, allowed):
    with pytest.raises(DomainError, match=f"{name} = 'next' must be {allowed}"):
        mtlref.CoVWeighting(**{name: "next"})


def test_large_weights_are_brought_to_a_sum_of_k():
    np.testing.assert_array_equal(stage_weights(np.array([1e200, 3e200]), "fixed"), [0.5, 1.5])


def test_one_task_with_a_loss_of_zero_is_refused_by_gradnorm():
    with pytest.raises(DomainError) as caught:
        gradnorm.relative_rate(np.array([0.0]), np.array([2.0]))
    assert (caught.value.task, caught.value.value, caught.value.equation) == (0, 0.0, "GN-3")


def test_of_two_wrong_orders_the_first_is_named():
    with pytest.raises(DomainError) as caught:
        mtlref.PCGrad().step(mtlref.PCGrad().init(3), np.ones(3), np.eye(3), draw=[[1, 2], [0, 0], [2, 2]])
    assert (caught.value.task, caught.value.value) == (1, [0.0, 0.0])


@pytest.mark.parametrize(("name", "value"), [("steps", -1), ("steps", 4), ("stages", 0), ("stages", 2)])
def test_a_state_of_another_combination_is_refused(name, value):
    method = mtlref.Combination(mtlref.DWA(), epoch_steps=4)
    state = method.init(2)
    wrong = {"steps": value} if name == "steps" else {"stages": state.stages * value}
    with pytest.raises(DomainError) as caught:
        method.step(replace(state, **wrong), np.ones(2))
    assert (caught.value.argument, caught.value.value) == (f"state.{name}", value)


def test_a_stacked_hmoe_without_its_mask_is_refused():
    with pytest.raises(DomainError) as caught:
        mtlref.HMoE(n_inputs=2, n_experts=2, experts=(3,), towers=(1, 1), mode="stacked", constrained=False)
    assert (caught.value.argument, caught.value.value) == ("constrained", False)


def test_hmoe_misses_a_scenario_below_one_that_is_there():
    with pytest.raises(DomainError, match="no sample of scenario 0") as caught:
        own_rows([ad.constant(np.zeros((2, 1)))] * 2, [1, 1])
    assert (caught.value.task, caught.value.value) == (0, 0)


def test_hmoe_names_the_batch_and_takes_scenarios_below_their_number():
    out = [ad.constant(np.zeros((4, 2)))]
    for scenario in ([0, 0, 0], [0, 0, 0, 0, 0]):
        with pytest.raises(ShapeError, match="one entry a sample, 4; its shape is"):
            own_rows(out, scenario)
    assert own_rows(out, [0, 0, 0, 0])[0].shape == (4, 2)
    for scenario in (1, 2):
        with pytest.raises(DomainError, match=f"= {scenario} must be below the number of scenarios, 1"):
            own_rows(out, [0, 0, scenario, 0])


def test_shared_relations_are_one_array():
    shared = mtlref.HMoE(n_inputs=2, n_experts=2, experts=(3,), towers=(1, 1), share_w=True)
    own = mtlref.HMoE(n_inputs=2, n_experts=2, experts=(3,), towers=(1, 1))
    rng = np.random.default_rng(0)
    sizes = [len(network.init(rng).flat) for network in (shared, own)]
    assert sizes[1] - sizes[0] == 1


def test_what_is_said_of_the_scaled_softmax_is_evaluated_as_equations_are():
    assert {"UW-7", "UW-8", "UW-9"} <= set(EQUATIONS)


# WHAT ROUNDING LEAVES


def test_the_scaled_softmax_is_the_same_for_logits_that_are_far_from_zero():
    """A constant added to all logits changes nothing, and e^1000 is out of range."""
    far, near = np.array([1000.0, 999.0, 997.0]), np.array([3.0, 2.0, 0.0])
    for s in (-0.5, 0.0, 1.0):
        assert log_ratio_slope(far, s) == pytest.approx(log_ratio_slope(near, s), abs=1e-11)


def test_a_square_at_the_edge_of_the_normal_numbers_is_kept():
    """M = M_prev / 2 + before² / 4 = 2^-1022, the least normal number, with every step of it exact."""
    before, M_prev = 2.0**-512, 2.0**-1021 - 2.0**-1025
    M = cov.ratio_variance(np.array([M_prev]), np.array([before]), np.zeros(1), 0.5)
    np.testing.assert_array_equal(M, [TINY])


@pytest.mark.parametrize("a", [1e-7, 1 / 3e3, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 0.999])
@pytest.mark.parametrize(("mean", "value"), [(1.0, 1e20), (1e20, 1.0)])
def test_a_mixture_is_right_to_rounding_at_both_ends(a, mean, value):
    exact = (1 - Fraction(a)) * Fraction(mean) + Fraction(a) * Fraction(value)
    found = Fraction(float(cov.mixture(np.array([mean]), np.array([value]), a)[0]))
    assert abs(found - exact) <= 4 * Fraction(np.finfo(float).eps) * exact


@pytest.mark.parametrize("length", [1e-3, 1e-7, 1e-11, 1e-150])
def test_a_long_gradient_beside_a_short_one_has_its_small_weight_to_rounding(length):
    """Orthogonal gradients of lengths 1 and ℓ: ŵ = (ℓ², 1) / (1 + ℓ²)."""
    A = np.diag([1.0, length**2])
    found = pe_ltr.relaxed_weights(A, np.zeros(2), 1.0)
    np.testing.assert_allclose(found, np.array([length**2, 1.0]) / (1 + length**2), rtol=1e-12)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize(("share", "told_apart"), [(0.95, False), (1.05, True)])
def test_two_gradients_count_as_equal_up_to_the_stated_share_of_the_largest_eigenvalue(K, share, told_apart):
    """g_1·g_1 = 1, g_1·g_2 = 1 − e, g_2·g_2 = 1 + e, and a third at right angles: the difference of the two, √3e
    long, tells them apart, by the weights 2 : 1. The scaled M has the eigenvalue 3e/4 on it, to order e²; its others
    are those of the sum, of the third, and of the multiplier."""
    others = np.array([[1.0, 0.0, 1.0], [0.0, 0.5, 0.5**0.5], [1.0, 0.5**0.5, 0.0]])
    largest = np.max(np.abs(np.linalg.eigvalsh(others if K == 3 else others[::2, ::2])))
    e = share * 1e-14 * (K + 1) * largest / 0.75
    A = np.eye(K)
    A[0, 1] = A[1, 0] = 1 - e
    A[1, 1] = 1 + e
    found = pe_ltr.relaxed_weights(A, np.zeros(K), 1.0)
    both = 1.0 if K == 2 else 0.5
    np.testing.assert_allclose(found[:2], np.array([2 / 3, 1 / 3] if told_apart else [0.5, 0.5]) * both, atol=0.02)


def test_the_residual_of_an_optimum_is_not_below_0():
    """PELTR-6: Σ_i w_i (d·d − d·g_i) = 0, so the largest term is below 0 by rounding alone."""
    rng, below = np.random.default_rng(0), 0
    for _ in range(300):
        J = rng.standard_normal((3, 4))
        w = mtlref.qp.minimum_norm(J).weights
        slopes = J @ (w @ J)
        below += w @ slopes < np.min(slopes)
        assert pe_ltr.optimality_residual(J, w, np.zeros(3), 1.0) >= 0
    assert below

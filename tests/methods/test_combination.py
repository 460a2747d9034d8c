"""The combination against its parts run alone, against its exact oracle, its edges, and what it must refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mtlref
from mtlref.cli import main
from mtlref.exact import combination as exact
from mtlref.settings import build, described
from tests.problems import WHOLE_RANGE, positive

PRIORITIES = mtlref.FixedWeights((1.5, 1.0, 0.5))
DWA, COV, NORM = mtlref.DWA(temperature=0.5), mtlref.CoVWeighting(), mtlref.GradNorm(lr=1e-3)
NOISE, CUT, BALANCE = mtlref.UncertaintyWeighting(lr=0.05), mtlref.PCGrad(), mtlref.PELTR()
NOISE_OFF = mtlref.Stage(NOISE, 0)
"""A second equaliser is allowed where it is switched off."""


def problem(steps=9, K=3, D=4, seed=0):
    """Falling losses of unequal size and progress, and Jacobians."""
    rng = np.random.default_rng(seed)
    fall = np.exp(-np.outer(np.arange(steps), rng.uniform(0.05, 0.4, K)))
    return fall * rng.uniform(0.5, 20, K) * rng.uniform(0.95, 1.05, (steps, K)), rng.standard_normal((steps, K, D))


def course(method, losses, J, seed=0, draws=None):
    """The steps of a run of `method`, and the state at its end."""
    state, rng, outs = method.init(losses.shape[1]), np.random.default_rng(seed), []
    for t, (L, gradients) in enumerate(zip(losses, J, strict=True)):
        draw = method.sample(rng, len(L)) if draws is None else draws[t]
        outs.append(method.step(state, L, gradients, **({} if draw is None else {"draw": draw})))
        state = outs[-1].state
    return outs


def R(x):
    return len(x) * x / np.sum(x)


# ITS PARTS


def test_every_stage_runs_as_it_would_alone():
    """Each stage's terms are those of the method alone, on raw losses and gradients; λ is their product by hand."""
    losses, J = problem()
    method = mtlref.Combination(mtlref.Stage(NORM, 0.5), PRIORITIES, mtlref.Stage(COV, -1), NOISE_OFF, CUT)
    outs = course(method, losses, J)
    alone = {one.stem: course(one, losses, J) for one in (NORM, COV, NOISE)}
    for t, out in enumerate(outs):
        for stem, run in alone.items():
            for name, value in run[t].terms.items():
                np.testing.assert_array_equal(out.terms[f"{stem}.{name}"], value)
        if t == 0:
            continue
        w = [R(alone[stem][t].weights) for stem in ("gradnorm", "cov")]
        expected = R(w[0] ** 0.5 * np.array(PRIORITIES.weights) / w[1])
        np.testing.assert_allclose(out.head_weights, expected, rtol=1e-13)


def test_an_epoch_stage_steps_on_the_means_of_its_steps():
    """Three steps an epoch: DWA as alone on the means of the raw losses, its weights kept through an epoch."""
    losses, J = problem(12)
    outs = course(mtlref.Combination(NORM, DWA, epoch_steps=3), losses, J)
    means = losses.reshape(4, 3, 3).mean(axis=1)
    state = DWA.init(3)
    for epoch, mean in enumerate(means):
        for out in outs[3 * epoch : 3 * epoch + 3]:
            np.testing.assert_allclose(out.terms["u"][1], state.weights, rtol=1e-13)
        if epoch:
            so_far = losses[3 * epoch : 3 * epoch + 2].mean(axis=0)
            np.testing.assert_allclose(outs[3 * epoch + 1].terms["dwa.ratio"], so_far / means[epoch - 1], rtol=1e-13)
        state = DWA.step(state, mean).state
    np.testing.assert_allclose(outs[-1].state.stages[1].losses_prev, means[-1], rtol=1e-14)
    np.testing.assert_array_equal(outs[-1].state.loss_sums, 0)


def test_a_slow_combination_steps_once_an_epoch():
    method = mtlref.Combination(DWA, PRIORITIES)
    assert (method.cadence, method.reads, method.lagged) == ("epoch", "losses", True)
    losses, J = problem()
    for out, alone in zip(course(method, losses, J), course(DWA, losses, J), strict=True):
        np.testing.assert_allclose(out.weights, R(alone.weights * PRIORITIES.weights), rtol=1e-14)
        np.testing.assert_allclose(out.state.weights, R(alone.state.weights * PRIORITIES.weights), rtol=1e-14)


@pytest.mark.parametrize("one", [DWA, COV, NORM, NOISE, PRIORITIES, mtlref.EqualWeights()], ids=lambda m: m.stem)
def test_one_stage_is_its_method(one):
    losses, J = problem()
    method = mtlref.Combination(one)
    assert (method.cadence, method.reads, method.lagged) == (one.cadence, one.reads, one.lagged)
    for out, alone in zip(course(method, losses, J), course(one, losses, J), strict=True):
        np.testing.assert_allclose(out.weights, R(alone.weights), rtol=1e-14)
        np.testing.assert_array_equal(out.head_weights, out.weights)


@pytest.mark.parametrize("one", [CUT, BALANCE, mtlref.PELTR(timing="same", solver="exact")])
def test_an_aggregator_alone_is_itself_but_for_the_heads_and_pe_ltr_s_scale(one):
    losses, J = problem()
    for out, alone in zip(course(mtlref.Combination(one), losses, J), course(one, losses, J), strict=True):
        np.testing.assert_allclose(out.weights, alone.weights * (3 if one.stem == "pe_ltr" else 1), rtol=1e-14)
        np.testing.assert_array_equal(out.head_weights, 1.0)


@pytest.mark.parametrize(
    "stages", [(), (mtlref.Stage(DWA, 0), mtlref.Stage(PRIORITIES, 0)), (mtlref.Stage(NORM, 0),)]
)
def test_nothing_is_the_plain_sum(stages):
    losses, J = problem()
    for out in course(mtlref.Combination(*stages), losses, J):
        np.testing.assert_array_equal(out.weights, 1.0)
        np.testing.assert_array_equal(out.head_weights, 1.0)


def test_the_heads_get_the_loss_level_weights():
    losses, J = problem()
    plain = course(mtlref.Combination(COV, NORM), losses, J)
    for aggregator in (CUT, BALANCE):
        outs = course(mtlref.Combination(COV, NORM, aggregator), losses, J)
        for out, expected in zip(outs, plain, strict=True):
            np.testing.assert_array_equal(out.head_weights, expected.weights)
            np.testing.assert_allclose(np.sum(out.head_weights), 3, rtol=1e-14)
        assert max(np.max(np.abs(out.weights - out.head_weights)) for out in outs) > 0.1


def test_a_lagged_combination_knows_its_next_weights():
    losses, J = problem()
    method = mtlref.Combination(PRIORITIES, NORM, BALANCE)
    assert method.lagged
    outs = course(method, losses, J)
    for now, after in pairwise(outs):
        np.testing.assert_array_equal(now.state.weights, after.weights)
    np.testing.assert_allclose(method.init(3).weights, R(np.array(PRIORITIES.weights)), rtol=1e-15)
    late = mtlref.Combination(PRIORITIES, COV)
    assert not late.lagged
    for out in course(late, losses, J):
        np.testing.assert_array_equal(out.state.weights, out.weights)


# AGAINST THE ORACLE


@given(st.sampled_from([1, 2, 3, 5]), st.integers(1, 3), st.data())
def test_agrees_with_the_exact_oracle(K, M, data):
    rows = [data.draw(st.lists(positive(1e-3, 1e3), min_size=K, max_size=K)) for _ in range(M)]
    strengths = data.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.3, 2.0]), min_size=M, max_size=M))
    stages = [mtlref.Stage(mtlref.FixedWeights(tuple(row)), b) for row, b in zip(rows, strengths, strict=True)]
    method = mtlref.Combination(*stages)
    out = method.step(method.init(K), np.ones(K))
    np.testing.assert_allclose(out.weights, np.array(exact.combined(rows, strengths), dtype=float), rtol=1e-13)
    np.testing.assert_allclose(
        out.terms["product"], np.array(exact.factors(rows, strengths), dtype=float), rtol=1e-13
    )


# SYMMETRIES


def all_of(aggregator, weights=(1.5, 1.0, 0.5)):
    return mtlref.Combination(
        DWA, mtlref.Stage(NORM, 0.5), COV, mtlref.FixedWeights(weights), aggregator, epoch_steps=2
    )


@pytest.mark.parametrize("aggregator", [CUT, mtlref.PELTR(solver="exact")])
def test_permutation_of_the_tasks(aggregator):
    losses, J = problem()
    order = np.array([2, 0, 1])
    back = np.argsort(order)
    rng = np.random.default_rng(0)
    draws = [aggregator.sample(rng, 3) for _ in losses]
    turned = [None if draw is None else back[draw[order]] for draw in draws]
    weights = tuple(np.array(PRIORITIES.weights)[order].tolist())
    first = course(all_of(aggregator), losses, J, draws=draws)
    other = course(all_of(aggregator, weights), losses[:, order], J[:, order], draws=turned)
    for a, b in zip(first, other, strict=True):
        np.testing.assert_allclose(b.weights, a.weights[order], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(b.head_weights, a.head_weights[order], rtol=1e-12)


@pytest.mark.parametrize("aggregator", [CUT, mtlref.PELTR(solver="exact")])
def test_rotation_and_compression_of_the_gradients(aggregator):
    losses, J = problem(D=6)
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    first = course(all_of(aggregator), losses, J)
    for changed in (J @ Q, [mtlref.compress(gradients) for gradients in J]):
        for a, b in zip(first, course(all_of(aggregator), losses, changed), strict=True):
            np.testing.assert_allclose(b.weights, a.weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("aggregator", [CUT, BALANCE])
def test_one_task_has_a_weight_of_one(aggregator):
    losses, J = problem(K=1)
    for out in course(all_of(aggregator, (0.3,)), losses, J):
        np.testing.assert_allclose([out.weights, out.head_weights], 1.0, rtol=1e-15)


# THE CONTRACT


def test_terms_are_in_tag_order_with_the_stages_own():
    method = mtlref.Combination(DWA, mtlref.DWA(), CUT, epoch_steps=4)
    losses, J = problem(2)
    out = course(method, losses, J)[-1]
    assert list(out.terms) == list(method.tags)
    names = [
        "seen",
        "scale",
        "dwa.ratio",
        "dwa.w_next",
        "dwa_2.ratio",
        "dwa_2.w_next",
        "u",
        "product",
        "loss_weights",
    ]
    names += ["factor", "pcgrad.cosines", "pcgrad.overlaps", "pcgrad.projected", "pcgrad.coefficients", "pcgrad.w"]
    assert list(out.terms) == [*names, "c", "w", "w_next"]
    assert method.tags["dwa_2.ratio"] == "DWA-1"
    assert "dwa.ratio" not in mtlref.Combination.tags


def test_a_state_goes_through_json_with_its_stages_states():
    losses, J = problem(4)
    state = course(all_of(CUT), losses, J)[-1].state
    again = mtlref.from_json(json.dumps(json.loads(state.to_json())))
    assert again == state
    assert hash(again) == hash(state)
    assert isinstance(again.stages, tuple)
    assert again.stages[1].weights.tobytes() == state.stages[1].weights.tobytes()
    assert again != replace(state, stages=state.stages[::-1])
    assert all_of(CUT).step(again, losses[3], J[3], draw=[[1, 2], [0, 2], [0, 1]]).weights.shape == (3,)


def test_methods_and_stages_compare_and_print():
    assert mtlref.Combination(DWA, CUT, epoch_steps=2) == mtlref.Combination(mtlref.Stage(DWA), CUT, epoch_steps=2)
    assert mtlref.Combination(DWA) != mtlref.Combination(mtlref.Stage(DWA, 0.5))
    assert len({mtlref.Combination(), mtlref.Combination(mtlref.EqualWeights())}) == 1
    assert described(mtlref.Combination(mtlref.Stage(DWA, 2))) == (
        "stages = (Stage(DWA(temperature=0.5), 2.0),), epoch_steps = none"
    )


def test_settings_build_a_combination():
    stages = ["cov", {"method": "gradnorm", "alpha": 1, "optimiser": "adam", "lr": 0.01, "strength": 0.5}, "pcgrad"]
    norm = mtlref.GradNorm(alpha=1, lr=0.01, optimiser=mtlref.Adam(0.01))
    assert build("combination", {"stages": stages}) == mtlref.Combination(COV, mtlref.Stage(norm, 0.5), CUT)
    assert build("combination", {}) == mtlref.Combination()
    assert build("combination", {"stages": ["dwa", "cov"], "epoch_steps": 5}).epoch_steps == 5


def test_the_command_line_explains_a_combination(capsys):
    stages = '["cov", {"method": "gradnorm", "alpha": 1, "strength": 0.5}, "pcgrad"]'
    assert main(["explain", "combination", "--set", f"stages={stages}"]) == 0
    shown = capsys.readouterr().out
    for line in ("GN-3: r_i =", "COMB-5: λ_i = K p_i", "gradnorm.r = ", "loss_weights = ", "draw = "):
        assert line in shown
    for wrong, message in (
        ("stages=dwa", "stages = 'dwa' must be a list"),
        ('stages=["dva"]', "method = 'dva' is not known"),
        ('stages=[{"temperature": 2}]', "is not known"),
        ('stages=["dwa", "gradnorm"]', "epoch_steps has to say"),
        ('stages=[{"method": "dwa", "alpha": 2}]', "has no setting 'alpha'"),
    ):
        assert main(["explain", "combination", "--set", wrong]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("strength", [1.0, 0.5, -2.0])
@pytest.mark.parametrize(("one", "last"), [(NORM, ()), (NORM, (BALANCE,)), (NOISE, ())])
def test_a_log_s_weights_give_the_equaliser_s(one, last, strength):
    """Resumed from the weights of another run, the product is these weights, and only the equaliser has moved."""
    losses, J = problem()
    previous = mtlref.CoVWeighting(statistics="previous")
    method = mtlref.Combination(previous, mtlref.Stage(one, strength), PRIORITIES, *last)
    state = course(method, losses, J)[-1].state
    weights = R(state.weights * np.array([1.3, 0.8, 1.0]))
    if last:
        weights *= np.sum(state.weights) / 3
    again = method.resumed(state, weights)
    lam = R(R(again.stages[0].weights) * R(again.stages[1].weights) ** strength * PRIORITIES.weights)
    c = 3 * state.stages[-1].weights if last else np.ones(3)
    np.testing.assert_allclose(R(c * lam), R(weights), rtol=1e-12)
    assert again.stages[0] == state.stages[0]
    assert again.stages[2:] == state.stages[2:]
    same = method.resumed(state, state.weights).stages[1]
    np.testing.assert_allclose(same.weights, state.stages[1].weights, rtol=1e-13)


def test_where_nothing_can_be_said_of_the_stages_they_stay():
    losses, J = problem()
    for method, weights in (
        (mtlref.Combination(DWA, PRIORITIES), [1.0, 1.0, 1.0]),
        (mtlref.Combination(NORM, PRIORITIES), [0.0, 1.0, 2.0]),
        (mtlref.Combination(mtlref.Stage(NORM, 1e-3), PRIORITIES), [1e-3, 1.0, 2.0]),
    ):
        state = course(method, losses, J)[-1].state
        again = method.resumed(state, np.array(weights))
        assert again.stages == state.stages
        assert again.weights.tolist() == weights


# WHAT IS REFUSED


@pytest.mark.parametrize(
    ("stages", "more", "message"),
    [
        ((NOISE, NORM), {}, "Uncertainty Weighting and GradNorm together: both undo the tasks' magnitudes"),
        ((CUT, NORM), {}, "a stage after PCGrad: its direction has no part for each task"),
        ((BALANCE, CUT), {}, "a stage after PE-LTR"),
        ((mtlref.Stage(CUT, 0.5),), {}, "PCGrad with a strength of 0.5: its coefficients are no factor"),
        ((mtlref.Combination(DWA), PRIORITIES), {}, "a combination inside a combination"),
        ((DWA, COV), {}, "Dynamic Weight Average steps once an epoch and CoV-Weighting every time"),
        ((DWA, CUT), {}, "epoch_steps has to say what an epoch is"),
        ((COV, CUT), {"epoch_steps": 4}, "no stage steps once an epoch"),
        ((DWA, COV), {"epoch_steps": 0}, "epoch_steps must be a whole number of at least 1"),
        (("dwa",), {}, "a stage is a method, or Stage"),
    ],
)
def test_what_is_not_defined_is_refused_with_the_reason(stages, more, message):
    with pytest.raises(mtlref.DomainError, match=message):
        mtlref.Combination(*stages, **more)


def test_a_method_whose_role_is_not_known_is_refused():
    class Other(mtlref.Method):
        stem, title, cadence, reads, tags = "other", "Other", "step", "losses", {}
        init = step = None

    with pytest.raises(mtlref.DomainError, match="Other as a stage: whether it weights losses or gradients"):
        mtlref.Combination(Other())


@pytest.mark.parametrize("strength", [np.nan, np.inf, "a", [1.0]])
def test_a_strength_is_a_finite_number(strength):
    with pytest.raises(mtlref.MtlrefError) as caught:
        mtlref.Stage(DWA, strength)
    assert caught.value.argument == "strength"


def test_wrong_inputs_and_states_are_named():
    method, losses, J = mtlref.Combination(PRIORITIES, NORM, CUT), np.ones(3), np.eye(3)
    state, draw = method.init(3), [[1, 2], [0, 2], [0, 1]]
    for changed, message in (
        ({"losses": losses[:2]}, "losses must have one entry a task"),
        ({"jacobian": None}, "COMB-6 needs the Jacobian"),
        ({"jacobian": J[:2]}, "jacobian must have one row a task"),
        ({"draw": None}, "PCG-2 needs the orders"),
        ({"losses": -losses}, "GN-3 compares losses"),
        ({"state": replace(state, stages=state.stages[:2])}, "state.stages must hold one state a stage, 3"),
        ({"state": replace(state, stages=state.stages[::-1])}, "state must be of kind FixedState"),
        ({"state": replace(state, steps=1)}, "state.steps = 1 must be at most 0"),
        ({"state": NORM.init(3)}, "state must be of kind CombinationState"),
    ):
        given = {"state": state, "losses": losses, "jacobian": J, "draw": draw, **changed}
        with pytest.raises(mtlref.MtlrefError, match=message):
            method.step(**given)
    surgery = mtlref.Combination(PRIORITIES, CUT)
    with pytest.raises(mtlref.NonFiniteError, match="COMB-6 gives inf for task 0"):
        surgery.step(surgery.init(3), losses, 1.5e308 * J, draw=draw)
    with pytest.raises(mtlref.DomainError, match="draw is for PCGrad"):
        mtlref.Combination(NORM).step(mtlref.Combination(NORM).init(3), losses, J, draw=draw)
    with pytest.raises(mtlref.DomainError, match="COMB-2 needs the Jacobian"):
        mtlref.Combination(NORM).step(mtlref.Combination(NORM).init(3), losses)


def test_weights_that_have_no_product_are_named():
    for weights, strength, message in (
        ((0.0, 0.0), 1, "COMB-3 divides by Σ w = 0: all fixed.weights are 0"),
        ((0.0, 1.0), -1, "COMB-4 inverts weights above 0"),
        ((1e-300, 1.0), 2, None),
        ((1e-300, 1.0), -2, "COMB-4 gives inf for task 0"),
    ):
        stage = mtlref.Stage(mtlref.FixedWeights(weights), strength)
        if message is None:
            np.testing.assert_array_equal(mtlref.Combination(stage).init(2).weights, [0.0, 2.0])
            continue
        with pytest.raises(mtlref.MtlrefError, match=message):
            mtlref.Combination(stage).init(2)
    disjoint = mtlref.Combination(mtlref.FixedWeights((0.0, 1.0)), mtlref.FixedWeights((1.0, 0.0)))
    with pytest.raises(mtlref.DomainError, match="COMB-5 divides by Σ p = 0"):
        disjoint.init(2)


@given(st.lists(WHOLE_RANGE, min_size=8, max_size=8))
def test_every_float_gives_finite_numbers_or_a_named_error(numbers):
    method = mtlref.Combination(DWA, mtlref.Stage(NORM, 0.5), CUT, epoch_steps=1)
    try:
        state = method.init(2)
        for _ in range(2):
            out = method.step(state, numbers[:2], np.reshape(numbers[2:], (2, 3)))
            state = out.state
    except mtlref.MtlrefError as error:
        assert error.argument is not None
        assert str(error)
        return
    assert all(np.isfinite(value).all() for value in (out.weights, out.head_weights, *out.terms.values()))

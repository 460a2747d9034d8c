"""PE-LTR against its rational oracle, its optimality conditions and closed forms, and what it must refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mtlref
from mtlref.defects.defect import variant
from mtlref.defects.pe_ltr import DEFECTS
from mtlref.exact import pe_ltr as exact
from mtlref.experiments import pe_ltr_gap
from mtlref.methods.pe_ltr import PELTR, PELTRState, relaxed_weights
from tests.problems import jacobians, positive

BESIDE = ("HeadsUnweighted", "HeadsMean", "NextWeightsAtOnce", "StartAtOne", "StartBelowZero")
"""What changes the heads, the start or the timing alone: tests/test_defects.py shows it."""

ULP = np.finfo(float).eps
SOLVERS = ("published", "exact")
few = settings(max_examples=30)
THREE = [[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [2.0, 2.0, 0.3]]
"""Three tasks whose published weights, (0, 1, 0), are not the optimum, (8/13, 5/13, 0)."""


def step(J, bounds=None, **options):
    """One step from the initial state."""
    method = PELTR(bounds, **options)
    J = np.array(J, float)
    return method.step(method.init(len(J)), np.ones(len(J)), J)


def after(J, bounds=None, **options):
    """w(t+1)."""
    return step(J, bounds, **options).state.weights


@st.composite
def shares(draw, K):
    """Bounds with a sum of at most 0.9, or None."""
    raw = np.array(draw(st.lists(st.floats(0, 1), min_size=K, max_size=K)))
    total = draw(st.sampled_from([0.0, 0.3, 0.9]))
    return None if total == 0 else tuple(total * raw / max(raw.sum(), 1e-3))


@st.composite
def problems(draw, tasks=(1, 2, 3, 4, 5), D=None):
    """A Jacobian and bounds."""
    K = draw(st.sampled_from(tasks))
    return draw(jacobians(K, D)), draw(shares(K))


@st.composite
def whole_problems(draw):
    """Small whole gradients, among which singular systems abound, and bounds in sixteenths."""
    K, D = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    row = st.lists(st.integers(-2, 2), min_size=D, max_size=D)
    bounds = st.lists(st.integers(0, 3), min_size=K, max_size=K).map(lambda c: tuple(x / 16 for x in c))
    return np.array(draw(st.lists(row, min_size=K, max_size=K)), float), draw(bounds)


# AGAINST THE ORACLE


@given(whole_problems(), st.sampled_from(SOLVERS))
def test_agrees_with_the_exact_oracle(problem, solver):
    J, bounds = problem
    expected = exact.step(J.tolist(), bounds, solver=solver)
    terms = step(J, bounds, solver=solver).terms
    assert list(terms) == list(PELTR.tags) == list(expected)
    for name, value in terms.items():
        np.testing.assert_allclose(value, np.array(expected[name], float), atol=1e-8, err_msg=name)


@given(problems(D=7), st.sampled_from(SOLVERS))
def test_agrees_with_the_exact_oracle_on_unequal_scales(problem, solver):
    J, bounds = problem
    expected = exact.step(J.tolist(), bounds, solver=solver)
    terms = step(J, bounds, solver=solver).terms
    square = np.max(np.sum(J * J, axis=1))
    allowed = 1e-13 * np.linalg.cond(J / np.linalg.norm(J, axis=1)[:, None]) ** 2
    for name in ("w_hat", "w_tilde", "w_next"):
        np.testing.assert_allclose(terms[name], np.array(expected[name], float), atol=allowed, err_msg=name)
    for name in ("gram", "multiplier", "objective", "kkt_residual"):
        value = np.array(expected[name], float)
        np.testing.assert_allclose(terms[name], value, atol=allowed * square, err_msg=name)


def test_three_tasks_by_hand():
    published, optimum = step(THREE).terms, step(THREE, solver="exact").terms
    np.testing.assert_array_equal(published["w_next"], [0, 1, 0])
    assert published["objective"] == pytest.approx(1.06)
    np.testing.assert_allclose(optimum["w_next"], [8 / 13, 5 / 13, 0], atol=1e-15)
    assert optimum["objective"] == pytest.approx(25 / 26)
    np.testing.assert_array_equal(published["w_hat"], optimum["w_hat"])
    assert published["objective"] - optimum["objective"] <= 2 * published["kkt_residual"]


# TIME


def test_the_weights_in_use_are_those_of_the_step_before():
    """PELTR-C1: "next" lags by one step, "same" does not, and both compute the same weights."""
    method, eager = PELTR(), PELTR(timing="same")
    state = method.init(3)
    np.testing.assert_array_equal(state.weights, [1 / 3] * 3)
    J = [np.array(THREE), np.diag([1.0, 2.0, 3.0])]
    first = method.step(state, [1.0, 2.0, 3.0], J[0])
    second = method.step(first.state, [1.0, 2.0, 3.0], J[1])
    np.testing.assert_array_equal(first.weights, [1 / 3] * 3)
    np.testing.assert_array_equal(J[0], THREE)
    np.testing.assert_array_equal(second.weights, first.terms["w_next"])
    now = eager.step(first.state, [1.0, 2.0, 3.0], J[1])
    np.testing.assert_array_equal(now.weights, second.terms["w_next"])
    assert now.state == second.state
    for out in (first, second, now):
        np.testing.assert_array_equal(out.head_weights, out.weights)


@given(problems(), st.lists(positive(1e-3, 1e3), min_size=10, max_size=10))
def test_losses_and_state_do_not_count(problem, numbers):
    J, bounds = problem
    K = len(J)
    method = PELTR(bounds)
    other = method.step(PELTRState(np.array(numbers[:K])), numbers[-K:], J)
    np.testing.assert_array_equal(other.state.weights, after(J, bounds))


def test_state_and_settings_go_through_json():
    state = PELTRState(np.array([0.1, 0.2, 0.7]))
    assert mtlref.from_json(state.to_json()) == state
    method = PELTR(**json.loads('{"bounds": [0.1, 0.2], "solver": "exact"}'))
    assert method == PELTR((0.1, 0.2), solver="exact")
    assert hash(method) == hash(PELTR((0.1, 0.2), solver="exact"))
    assert method.resumed(method.init(2), [0.3, 0.7]) == PELTRState(np.array([0.3, 0.7]))


# INVARIANTS


@given(problems(), st.sampled_from(SOLVERS))
def test_weights_sum_to_one_above_the_bounds(problem, solver):
    w = after(*problem, solver=solver)
    assert abs(w.sum() - 1) <= 4 * len(w) * ULP
    assert np.all(w >= (0 if problem[1] is None else problem[1]))


@given(problems(tasks=(2, 3, 5), D=7), st.randoms(use_true_random=False), st.sampled_from(SOLVERS))
def test_permutation(problem, random, solver):
    J, bounds = problem
    order = list(range(len(J)))
    random.shuffle(order)
    moved = None if bounds is None else [bounds[i] for i in order]
    expected = after(J, bounds, solver=solver)[order]
    np.testing.assert_allclose(after(J[order], moved, solver=solver), expected, atol=1e-9)


@given(problems(tasks=(2, 3, 5), D=7), st.integers(0, 2**32 - 1), st.sampled_from(SOLVERS))
def test_rotation_and_compression(problem, seed, solver):
    J, bounds = problem
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((7, 7)))[0]
    expected = after(J, bounds, solver=solver)
    for same in (J @ rotation, mtlref.compress(J), np.hstack([np.zeros((len(J), 2)), J])):
        np.testing.assert_allclose(after(same, bounds, solver=solver), expected, atol=1e-9)
    np.testing.assert_allclose(after(mtlref.from_gram(J @ J.T), bounds, solver=solver), expected, atol=1e-6)


@given(problems(), st.sampled_from([-480, -3, 1, 480]), st.sampled_from(SOLVERS))
def test_common_scale(problem, exponent, solver):
    J, bounds = problem
    tiny = 1e-12 * np.max(J * J)
    one, other = step(J, bounds, solver=solver).terms, step(-np.ldexp(J, exponent), bounds, solver=solver).terms
    for name in ("w_hat", "w_tilde", "w_next"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-13)
    for name in ("gram", "multiplier", "objective", "kkt_residual"):
        np.testing.assert_allclose(
            np.ldexp(other[name], -2 * exponent), one[name], rtol=1e-9, atol=tiny, err_msg=name
        )


@given(problems(tasks=(2, 3, 4), D=7))
def test_relaxed_weights_have_equal_slopes(problem):
    """A (ŵ + c) = −λ 1, and Σ ŵ = s."""
    terms = step(*problem).terms
    A, c = terms["gram"], 0 if problem[1] is None else np.array(problem[1])
    w = terms["w_hat"] + c
    allowed = 1e-12 * np.sqrt(np.outer(np.diag(A), np.diag(A))) @ np.abs(w) * np.linalg.cond(A / np.trace(A)) ** 0.5
    assert np.all(np.abs(A @ w + terms["multiplier"]) <= allowed)
    assert w.sum() == pytest.approx(1, abs=1e-12 * max(1, np.abs(w).max()))


@given(problems())
def test_multiplier_and_residual_enclose_the_optimum(problem):
    published, optimum = step(*problem).terms, step(*problem, solver="exact").terms
    slack = 1e-11 * np.max(np.diag(published["gram"]))
    assert -published["multiplier"] <= optimum["objective"] + slack
    assert optimum["objective"] <= published["objective"] + slack
    assert published["objective"] - optimum["objective"] <= 2 * published["kkt_residual"] + slack
    assert optimum["kkt_residual"] <= slack


@given(problems(tasks=(1, 2)))
def test_two_tasks_are_solved_exactly(problem):
    J, bounds = problem
    np.testing.assert_allclose(after(J, bounds), after(J, bounds, solver="exact"), atol=1e-9)


@given(jacobians(2), shares(2))
def test_two_tasks_have_a_closed_form(J, bounds):
    """w_1 = clip((g_2 − g_1)·g_2 / ‖g_1 − g_2‖², c_1, 1 − c_2)."""
    g_1, g_2 = J
    c = (0.0, 0.0) if bounds is None else bounds
    apart = (g_1 - g_2) @ (g_1 - g_2)
    assume(apart > 1e-6 * max(g_1 @ g_1, g_2 @ g_2))
    expected = np.clip((g_2 - g_1) @ g_2 / apart, c[0], 1 - c[1])
    for solver in SOLVERS:
        np.testing.assert_allclose(after(J, bounds, solver=solver), [expected, 1 - expected], atol=1e-9)


@settings(few, suppress_health_check=[HealthCheck.filter_too_much])  # two of three have a weight below 0
@given(problems(tasks=(3,), D=7))
def test_relaxed_weights_of_positive_sign_are_the_optimum(problem):
    published = step(*problem).terms
    assume(np.min(published["w_hat"]) >= 0)
    optimum = step(*problem, solver="exact").terms
    assert published["objective"] == pytest.approx(optimum["objective"], rel=1e-9)
    np.testing.assert_allclose(published["w_next"], published["w_hat"] + (problem[1] or 0), atol=1e-12)


@few
@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_bounds_that_sum_to_one_are_the_weights(K, D, data):
    J = data.draw(jacobians(K, D))
    bounds = data.draw(st.sampled_from([(1 / K,) * K, (1.0, *(0.0,) * (K - 1))]))
    for solver in SOLVERS:
        np.testing.assert_array_equal(after(J, bounds, solver=solver), bounds)
        np.testing.assert_array_equal(after(np.eye(10), (0.1,) * 10, solver=solver), (0.1,) * 10)


@few
@given(jacobians(1), st.sampled_from([None, (0.3,), (1.0,)]))
def test_one_task(J, bounds):
    for solver in SOLVERS:
        np.testing.assert_array_equal(after(J, bounds, solver=solver), [1.0])


@few
@given(st.integers(2, 5), positive(1e-3, 1e3), st.data())
def test_orthogonal_gradients(K, length, data):
    """Equal norms and bounds of sum s: w = c + projection of 1/K − c; no bounds: w_i ∝ 1/‖g_i‖²."""
    bounds = data.draw(shares(K))
    c = np.zeros(K) if bounds is None else np.array(bounds)
    expected = [float(x) for x in exact.project(exact.fractions(1 / K - c), 1 - sum(exact.fractions(c)))]
    np.testing.assert_allclose(after(length * np.eye(K), bounds), c + expected, atol=1e-12)
    n = np.exp2(np.arange(K))
    for solver in SOLVERS:
        np.testing.assert_allclose(after(np.diag(n), solver=solver), n**-2 / np.sum(n**-2), rtol=1e-12)


@given(st.sampled_from([3, 4]), st.integers(0, 2**32 - 1))
def test_pareto_stationary_weights_are_found(K, seed):
    """Jᵀ w* = 0 for one w* > 0 alone: both solvers return it."""
    rng = np.random.default_rng(seed)
    w = rng.dirichlet(np.full(K, 3.0)) * 0.5 + 0.5 / K
    J = rng.standard_normal((K, K - 1))
    J[-1] = -(w[:-1] @ J[:-1]) / w[-1]
    assume(np.linalg.cond(J) < 1e3)
    for solver in SOLVERS:
        np.testing.assert_allclose(after(J, solver=solver), w, atol=1e-7)


@given(jacobians(4))
def test_the_optimum_without_bounds_opposes_no_task(J):
    """g_i·d ≥ ‖d‖² for all i: PELTR-E3 says that the published steps do not promise it."""
    d = after(J, solver="exact") @ J
    assert np.all(J @ d >= d @ d - 1e-11 * np.max(np.sum(J * J, axis=1)))


@pytest.mark.parametrize(
    ("J", "published", "optimum"),
    [
        (np.zeros((3, 2)), [1 / 3] * 3, [1 / 3] * 3),
        ([[1.0, 2.0], [1.0, 2.0]], [0.5, 0.5], [0.5, 0.5]),
        ([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], [1 / 3] * 3, [1, 0, 0]),
        ([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], [0.5, 0, 0.5], [0.5, 0, 0.5]),
        ([[1.0], [-1.0], [2.0]], [2 / 7, 4 / 7, 1 / 7], [5 / 13, 7 / 13, 1 / 13]),
        ([[1e150, 0.0], [0.0, 1e150]], [0.5, 0.5], [0.5, 0.5]),
        ([[1e-150, 0.0], [0.0, 1e-150]], [0.5, 0.5], [0.5, 0.5]),
        ([[1e150, 0.0], [0.0, 1e-150]], [0, 1], [0, 1]),
        ([[1e8, 0.0], [0.0, 1.0], [0.0, 1.0]], [1e-16, 0.5, 0.5], [1e-16, 0.5, 0.5]),
    ],
)
def test_degenerate_gradients(J, published, optimum):
    """PELTR-C3: relaxed weights of least norm; QP-8: of all optima the one of shortest terms."""
    got = after(J), after(J, solver="exact")
    np.testing.assert_allclose(got[0], published, atol=1e-14)
    np.testing.assert_allclose(got[1], optimum, atol=1e-14)


@pytest.mark.parametrize(("h", "singular"), [(1e-5, False), (1e-6, False), (1e-9, True)])
def test_the_tolerance_says_which_gradients_count_as_equal(h, singular):
    """g_2 = g_1 + h u: their Gram matrix tells them apart from about 3e-7 on; below, they share the weight."""
    J = np.array([[1.0, 0.0], [1.0 + h, h]])
    w_hat = relaxed_weights(J @ J.T, np.zeros(2), 1.0)
    assert (abs(w_hat[0] - 0.5) <= 1e-9) == singular
    w = after(J, solver="exact")
    np.testing.assert_array_equal(w, [1.0, 0.0])


# BAD INPUTS


@pytest.mark.parametrize(
    ("arguments", "error", "attributes"),
    [
        ({"bounds": (0.5, -0.1)}, mtlref.DomainError, {"argument": "bounds", "task": 1, "value": -0.1}),
        ({"bounds": (1.5, 0.0)}, mtlref.DomainError, {"argument": "bounds", "task": 0, "value": 1.5}),
        ({"bounds": (0.75, 0.5)}, mtlref.DomainError, {"argument": "bounds", "task": None, "value": 1.25}),
        ({"bounds": (0.5, np.nan)}, mtlref.DomainError, {"argument": "bounds", "task": 1}),
        ({"bounds": ()}, mtlref.ShapeError, {"argument": "bounds"}),
        ({"bounds": 0.5}, mtlref.ShapeError, {"argument": "bounds"}),
        ({"solver": "qp"}, mtlref.DomainError, {"argument": "solver", "value": "qp", "equation": "PELTR-4"}),
        ({"timing": "lag"}, mtlref.DomainError, {"argument": "timing", "value": "lag", "equation": "PELTR-7"}),
    ],
)
def test_bad_hyperparameters_are_named(arguments, error, attributes):
    with pytest.raises(error) as caught:
        PELTR(**arguments)
    assert {name: getattr(caught.value, name) for name in attributes} == attributes


GOOD = {"state": PELTRState(np.ones(2) / 2), "losses": [1.0, 2.0], "jacobian": [[1.0], [2.0]]}


@pytest.mark.parametrize(
    ("changes", "error", "attributes"),
    [
        ({"jacobian": None}, mtlref.DomainError, {"argument": "jacobian", "equation": "PELTR-1"}),
        ({"jacobian": [[1.0], [np.inf]]}, mtlref.DomainError, {"argument": "jacobian", "task": 1}),
        ({"jacobian": [[1.0]]}, mtlref.ShapeError, {"argument": "jacobian", "equation": "PELTR-1"}),
        ({"losses": [1.0]}, mtlref.ShapeError, {"argument": "losses"}),
        ({"losses": [1.0, np.nan]}, mtlref.DomainError, {"argument": "losses", "task": 1}),
        ({"state": mtlref.GradNorm().init(2)}, mtlref.DomainError, {"argument": "state"}),
        ({"state": PELTRState(np.ones(3))}, mtlref.ShapeError, {"argument": "losses"}),
        ({"jacobian": [[1e160], [1.0]]}, mtlref.NonFiniteError, {"argument": "jacobian", "equation": "PELTR-1"}),
    ],
)
def test_bad_steps_are_named(changes, error, attributes):
    with pytest.raises(error) as caught:
        PELTR().step(**GOOD | changes)
    assert {name: getattr(caught.value, name) for name in attributes} == attributes


def test_the_number_of_bounds_is_that_of_the_tasks():
    with pytest.raises(mtlref.ShapeError) as caught:
        PELTR((0.1, 0.2)).init(3)
    assert (caught.value.argument, caught.value.value) == ("bounds", 2)
    with pytest.raises(mtlref.DomainError):
        PELTR().init(0)


# DEFECTS


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.name not in BESIDE], ids=lambda defect: defect.name)
def test_every_defect_changes_what_a_step_returns(defect):
    """Over three tasks with bounds, relaxed weights of both signs, and nearly dependent gradients."""
    method = PELTR((0.1, 0.2, 0.05))
    wrong = variant(method, defect)
    near = np.array([[1.0, 0.3, 0.0], [1.0, 0.3, 1e-5], [-0.4, 2.0, 0.7]])
    changed = []
    for J in (np.array(THREE), near, np.array([[1.0, -2.0, 0.5], [0.3, 0.9, -1.0], [-2.0, 0.1, 1.5]])):
        one, other = (m.step(m.init(3), np.ones(3), J) for m in (method, wrong))
        changed += [not np.allclose(one.terms[name], other.terms[name], rtol=1e-9, atol=1e-10) for name in one.terms]
    assert any(changed)
    assert defect.equation in {*PELTR.tags.values(), PELTR.heads, PELTR.start}


# THE EXPERIMENT


def test_the_derivation_s_table_is_what_the_experiment_prints(capsys):
    page = (Path(__file__).parents[2] / "derivations/pe_ltr.md").read_text(encoding="utf-8")
    assert pe_ltr_gap.main([]) == 0
    assert f"$ python -m mtlref.experiments.pe_ltr_gap\n{capsys.readouterr().out}```" in page


def test_the_published_steps_miss_the_optimum_for_three_tasks():
    row = pe_ltr_gap.gap(3, 100, seed=0)
    assert 0.2 < row["missed"] < 0.5
    assert pe_ltr_gap.gap(2, 100, seed=0)["missed"] == 0


def test_the_experiment_prints_a_table_and_json(capsys):
    assert pe_ltr_gap.main(["--draws", "5", "--tasks", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["K", "missed", "median", "p95", "largest", "conflicts"]
    assert pe_ltr_gap.main(["--draws", "5", "--tasks", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["missed"] == 0
    assert pe_ltr_gap.main(["--hard", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["beyond"] == 0
    with pytest.raises(SystemExit):
        pe_ltr_gap.main(["--draws", "0"])

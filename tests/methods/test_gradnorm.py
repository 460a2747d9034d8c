"""GradNorm against its 50-digit oracle, its identities, its limits, and what it must refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import mtlref
from mtlref.defects.gradnorm import attached_slope
from mtlref.exact import gradnorm as exact
from mtlref.methods import gradnorm as spec
from tests.problems import WHOLE_RANGE, gradnorm_problems, positive

ULP = np.finfo(float).eps
FEW = 24 * ULP
"""A few units in the last place: the norm's sum, two quotients, a power of modest exponent, and their product."""


def state_of(method, w, L_0):
    """The state in mid-run with weights `w` and initial losses `L_0`."""
    return replace(method.init(len(w)), weights=np.array(w), initial_losses=np.array(L_0))


def far_from_ties(out, margin=1e-9):
    """Whether no norm is so near its target that rounding may decide the sign."""
    gap = np.abs(out.terms["G"] - out.terms["target"])
    return bool(np.all(gap > margin * np.maximum(out.terms["G"], out.terms["target"])))


def oracle(problem, alpha, lr):
    """The exact step, as float64: every term rounded once."""
    step = exact.step(
        problem["w"].tolist(),
        problem["L_0"].tolist(),
        problem["L"].tolist(),
        problem["J"].tolist(),
        alpha=alpha,
        lr=lr,
    )
    return {name: np.array(step[name], dtype=float) for name in mtlref.GradNorm.tags}


def agree(out, expected, w, lr):
    """Assert that every term is within its rounding of the exact one.

    Before the update all terms are products and quotients of positive numbers: a relative bound. L_grad is a sum of
    differences: its bound is relative to what is subtracted. w_next divides u, a difference, by its sum.
    """
    for name in ("G", "G_bar", "r", "target", "dw"):
        np.testing.assert_allclose(out.terms[name], expected[name], rtol=FEW, atol=0, err_msg=name)
    size = np.sum(expected["G"] + expected["target"])
    assert abs(out.terms["L_grad"] - expected["L_grad"]) <= FEW * size
    u = w - lr * expected["dw"]
    cancelled = (np.abs(w) + lr * np.abs(expected["dw"])).sum() / abs(u.sum())
    bound = FEW * cancelled * (1 + np.abs(expected["w_next"]).max())
    np.testing.assert_allclose(out.terms["w_next"], expected["w_next"], rtol=0, atol=bound)


# AGAINST THE ORACLE


@given(gradnorm_problems(), st.sampled_from([0.0, 0.12, 0.5, 1.0, 1.5, 2.0]), positive(1e-5, 1e-2))
def test_agrees_with_the_exact_oracle_from_injected_states(problem, alpha, lr):
    method = mtlref.GradNorm(alpha=alpha, lr=lr)
    u_margin = problem["w"].sum() - lr * np.linalg.norm(problem["J"], axis=1).sum()
    assume(u_margin > 0.1 * problem["w"].sum())
    out = method.step(state_of(method, problem["w"], problem["L_0"]), problem["L"], problem["J"])
    assume(len(problem["w"]) == 1 or far_from_ties(out))
    agree(out, oracle(problem, alpha, lr), problem["w"], lr)


@pytest.mark.parametrize("K", [1, 40])
@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_agrees_with_the_exact_oracle_for_one_task_and_for_forty(K, alpha):
    rng = np.random.default_rng(K)
    w = rng.uniform(0.2, 2, K)
    problem = {"w": K * w / w.sum(), "L_0": rng.uniform(0.1, 9, K), "L": rng.uniform(0.1, 9, K)}
    problem["J"] = rng.standard_normal((K, 7))
    method = mtlref.GradNorm(alpha=alpha, lr=0.01)
    out = method.step(state_of(method, problem["w"], problem["L_0"]), problem["L"], problem["J"])
    agree(out, oracle(problem, alpha, 0.01), problem["w"], 0.01)


def test_a_run_of_twelve_steps_agrees_with_the_exact_run():
    rng = np.random.default_rng(5)
    losses = np.exp(-0.1 * np.arange(12)[:, None] * np.array([1.0, 0.3, 2.0])) * np.array([3.0, 0.01, 70.0])
    gradients = rng.standard_normal((12, 3, 5)) * np.array([1.0, 0.2, 4.0])[:, None]
    expected = exact.run(losses.tolist(), gradients.tolist(), alpha=1.5, lr=0.025)
    method = mtlref.GradNorm(alpha=1.5, lr=0.025)
    state = method.init(3)
    for L, J, step in zip(losses, gradients, expected, strict=True):
        out = method.step(state, L, J)
        np.testing.assert_allclose(out.terms["target"], np.array(step["target"], dtype=float), rtol=1e-13)
        np.testing.assert_allclose(out.state.weights, np.array(step["w_next"], dtype=float), rtol=1e-13)
        state = out.state


def test_a_run_with_adam_agrees_with_the_exact_run():
    rng = np.random.default_rng(6)
    losses = rng.uniform(0.5, 2, (9, 4))
    gradients = rng.standard_normal((9, 4, 3))
    expected = exact.run(losses.tolist(), gradients.tolist(), alpha=0.5, lr=0.025, adam={})
    method = mtlref.GradNorm(alpha=0.5, optimiser=mtlref.Adam(0.025))
    state = method.init(4)
    for L, J, step in zip(losses, gradients, expected, strict=True):
        state = method.step(state, L, J).state
        np.testing.assert_allclose(state.weights, np.array(step["w_next"], dtype=float), rtol=1e-12)
    assert state.optimiser.step == 9


# INVARIANTS


@given(gradnorm_problems(), positive(1e-4, 1e-1), st.sampled_from(["keep", "clamp"]))
def test_weights_sum_to_K(problem, lr, negative):
    method = mtlref.GradNorm(alpha=1.5, lr=lr, negative=negative)
    try:
        out = method.step(state_of(method, problem["w"], problem["L_0"]), problem["L"], problem["J"])
    except mtlref.DomainError as error:
        assert error.equation == "GN-7"  # the update took the sum to 0 or below
        return
    w = out.state.weights
    assert abs(w.sum() - len(w)) <= 4 * ULP * np.abs(w).sum()
    assert negative == "keep" or np.all(w >= 0)
    np.testing.assert_array_equal(out.weights, problem["w"])
    np.testing.assert_array_equal(out.head_weights, out.weights)


@given(gradnorm_problems(tasks=(3, 4, 7)), st.randoms(use_true_random=False))
def test_permutation(problem, random):
    method = mtlref.GradNorm(alpha=1.5, lr=1e-5)
    order = list(range(len(problem["w"])))
    random.shuffle(order)
    out = method.step(state_of(method, problem["w"], problem["L_0"]), problem["L"], problem["J"])
    assume(far_from_ties(out))
    moved = {name: value[order] for name, value in problem.items()}
    permuted = method.step(state_of(method, moved["w"], moved["L_0"]), moved["L"], moved["J"])
    for name, value in out.terms.items():
        expected = value[order] if np.ndim(value) else value
        np.testing.assert_allclose(permuted.terms[name], expected, rtol=1e-10, atol=1e-12, err_msg=name)


@given(gradnorm_problems(tasks=(2, 3, 4)), st.integers(0, 1000))
def test_rotation_and_compression(problem, seed):
    method = mtlref.GradNorm(alpha=1.5, lr=1e-5)
    state = state_of(method, problem["w"], problem["L_0"])
    out = method.step(state, problem["L"], problem["J"])
    assume(far_from_ties(out))
    D = problem["J"].shape[1]
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0]
    for J in (problem["J"] @ Q, mtlref.compress(problem["J"]), mtlref.from_gram(problem["J"] @ problem["J"].T)):
        other = method.step(state, problem["L"], J)
        np.testing.assert_allclose(other.state.weights, out.state.weights, rtol=1e-10)


@given(gradnorm_problems(), positive(1e-3, 1e3), positive(0.01, 4))
def test_alpha_has_no_effect_at_equal_rates(problem, progress, alpha):
    """L = c L(0) in every task, and the first step."""
    L = np.exp2(np.round(np.log2(progress))) * problem["L_0"]
    outs = []
    for a in (0.0, alpha):
        method = mtlref.GradNorm(alpha=a, lr=1e-6)
        outs.append(method.step(state_of(method, problem["w"], problem["L_0"]), L, problem["J"]))
        outs.append(method.step(replace(method.init(len(L)), weights=problem["w"]), problem["L"], problem["J"]))
    for out in outs[1:]:
        np.testing.assert_array_equal(out.state.weights, outs[0].state.weights)


def test_one_task():
    method = mtlref.GradNorm(alpha=1.5, lr=0.5)
    state = method.init(1)
    for L, g in ((3.0, 5.0), (0.1, 1e200), (7.0, 0.0)):
        out = method.step(state, [L], [[g]])
        assert out.terms["L_grad"] == 0
        np.testing.assert_array_equal(out.state.weights, [1.0])
        state = out.state


def test_fixed_points():
    """α = 0 and α = 1: at these weights every norm meets its target, so the slope is 0. Powers of two are exact."""
    n = np.array([1.0, 4.0, 2.0])
    r = np.array([0.75, 1.5, 0.75])
    for alpha, w in ((0.0, 1 / n), (1.0, r / n)):
        w = 3 * w / w.sum()
        np.testing.assert_allclose(np.abs(w) * n, np.mean(np.abs(w) * n) * r**alpha, rtol=2 * ULP)
    scaled = np.array([4.0, 1.0, 2.0])  # ∝ 1/n; the scale of the weights plays no part in G = target
    method = mtlref.GradNorm(alpha=0.0, lr=0.01)
    out = method.step(state_of(method, scaled, np.ones(3)), [0.5, 2.0, 1.0], np.diag(n))
    np.testing.assert_array_equal(out.terms["dw"], 0.0)
    method = mtlref.GradNorm(alpha=1.0, lr=0.01)
    out = method.step(state_of(method, r / n, np.ones(3)), r, np.diag(n))
    np.testing.assert_array_equal(out.terms["dw"], 0.0)
    assert out.terms["L_grad"] == 0


@given(gradnorm_problems(tasks=(2, 3, 7)), positive(0.05, 4))
def test_targets_out_of_reach(problem, alpha):
    """GN-E2: L_grad ≥ K Ḡ |mean(r^α) − 1|, and the mean of r^α lies on Jensen's side of 1."""
    method = mtlref.GradNorm(alpha=alpha, lr=1e-6)
    out = method.step(state_of(method, problem["w"], problem["L_0"]), problem["L"], problem["J"])
    r, K = out.terms["r"], len(problem["w"])
    mean = np.mean(r**alpha)
    assert (mean - 1) * (alpha - 1) >= -1e-12
    assert out.terms["L_grad"] >= K * out.terms["G_bar"] * abs(mean - 1) * (1 - 1e-12) - 1e-300


@given(gradnorm_problems(tasks=(2, 3, 7)), positive(0.05, 3))
def test_slope_identities(problem, alpha):
    """GN-E1: Σ w ∂ is Σ s G with the target constant, and L_grad itself with it differentiated."""
    method = mtlref.GradNorm(alpha=alpha, lr=1e-6)
    out = method.step(state_of(method, problem["w"], problem["L_0"]), problem["L"], problem["J"])
    G, target, w = out.terms["G"], out.terms["target"], problem["w"]
    n = np.linalg.norm(problem["J"], axis=1)
    size = (G + target).sum()
    assert abs(w @ out.terms["dw"] - np.sign(G - target) @ G) <= 1e-13 * size
    assert abs(w @ attached_slope(G, target, w, n) - out.terms["L_grad"]) <= 1e-13 * size


@given(gradnorm_problems(tasks=(2, 3, 4)), positive(1e-3, 1e3))
def test_common_scale(problem, c):
    """c L with rate η is L with rate c η."""
    c = float(np.exp2(np.round(np.log2(c))))  # a power of two scales without rounding
    small, large = mtlref.GradNorm(alpha=1.5, lr=1e-9), mtlref.GradNorm(alpha=1.5, lr=c * 1e-9)
    with_rate = large.step(state_of(large, problem["w"], problem["L_0"]), problem["L"], problem["J"])
    state = state_of(small, problem["w"], c * problem["L_0"])
    with_losses = small.step(state, c * problem["L"], c * problem["J"])
    np.testing.assert_allclose(with_losses.state.weights, with_rate.state.weights, rtol=1e-13)


@given(gradnorm_problems(tasks=(2, 3, 4)), st.integers(-20, 20))
def test_common_scale_with_adam(problem, exponent):
    """Without eps, Adam divides by the slope's size: c L gives the weights of L, whatever the rate."""
    c = 2.0**exponent
    method = mtlref.GradNorm(alpha=1.5, optimiser=mtlref.Adam(0.01, eps=0.0))
    out = method.step(state_of(method, problem["w"], problem["L_0"]), problem["L"], problem["J"])
    scaled = method.step(state_of(method, problem["w"], c * problem["L_0"]), c * problem["L"], c * problem["J"])
    np.testing.assert_allclose(scaled.state.weights, out.state.weights, rtol=1e-13)


@given(gradnorm_problems(tasks=(2, 3, 7)))
def test_a_norm_above_its_target_lowers_its_weight_before_renormalisation(problem):
    """By η n_i exactly, and one below raises it; after GN-7 this holds only approximately."""
    method = mtlref.GradNorm(alpha=1.5, lr=1e-6)
    out = method.step(state_of(method, problem["w"], problem["L_0"]), problem["L"], problem["J"])
    n = np.linalg.norm(problem["J"], axis=1)
    expected = np.where(out.terms["G"] > out.terms["target"], n, -n)
    assume(far_from_ties(out))
    np.testing.assert_allclose(out.terms["dw"], expected, rtol=1e-13)
    u = problem["w"] - 1e-6 * expected
    np.testing.assert_allclose(out.state.weights, len(u) * u / u.sum(), rtol=1e-12)


@given(gradnorm_problems(tasks=(2, 3, 4)), st.data())
def test_task_scale(problem, data):
    """L_i → c_i L_i with w_i → w_i / c_i leaves G and the target, and multiplies the slope by c_i."""
    K = len(problem["w"])
    c = np.exp2(np.array(data.draw(st.lists(st.integers(-8, 8), min_size=K, max_size=K)), dtype=float))
    method = mtlref.GradNorm(alpha=1.5, lr=1e-9)
    out = method.step(state_of(method, problem["w"], problem["L_0"]), problem["L"], problem["J"])
    assume(far_from_ties(out))
    state = state_of(method, problem["w"] / c, c * problem["L_0"])
    scaled = method.step(state, c * problem["L"], c[:, None] * problem["J"])
    np.testing.assert_allclose(scaled.terms["G"], out.terms["G"], rtol=1e-14)
    np.testing.assert_allclose(scaled.terms["target"], out.terms["target"], rtol=1e-14)
    np.testing.assert_allclose(scaled.terms["dw"], c * out.terms["dw"], rtol=1e-14)


def test_a_negative_weight_is_kept_or_clamped():
    """GN-C3, by hand: n = (6, 1, 1), η = 1/4, α = 0; dw = (6, −1, −1) takes u to (−½, 5/4, 5/4), of sum 2."""
    J = np.diag([6.0, 1.0, 1.0])
    kept = mtlref.GradNorm(alpha=0.0, lr=0.25).step(mtlref.GradNorm().init(3), np.ones(3), J)
    np.testing.assert_array_equal(kept.state.weights, [-0.75, 1.875, 1.875])
    clamping = mtlref.GradNorm(alpha=0.0, lr=0.25, negative="clamp")
    clamped = clamping.step(clamping.init(3), np.ones(3), J)
    np.testing.assert_array_equal(clamped.state.weights, [0.0, 1.5, 1.5])
    out = mtlref.GradNorm(alpha=0.0, lr=0.25).step(kept.state, np.ones(3), J)
    np.testing.assert_array_equal(out.terms["G"], [4.5, 1.875, 1.875])  # GN-1 takes the absolute value
    np.testing.assert_array_equal(out.terms["dw"], [-6.0, -1.0, -1.0])  # GN-6: sign(w) turns the first


@pytest.mark.parametrize("optimiser", [None, mtlref.Adam(0.5)])
def test_a_clamped_weight_stays_at_zero(optimiser):
    """GN-6 is 0 there, whatever losses and gradients come; Adam remembers only what took the weight to 0."""
    method = mtlref.GradNorm(alpha=1.0, lr=0.25, negative="clamp", optimiser=optimiser)
    state, rng = method.init(3), np.random.default_rng(0)
    for _ in range(3):
        state = method.step(state, np.ones(3), np.diag([6.0, 1.0, 1.0])).state
    assert state.weights[0] == 0.0
    for _ in range(50):
        out = method.step(state, [100.0, 1.0, 1.0], rng.standard_normal((3, 4)) * [[1e-3], [0.1], [0.1]])
        state = out.state
        assert (out.terms["dw"][0], out.head_weights[0], state.weights[0]) == (0.0, 0.0, 0.0)


def test_initial_losses_of_one_s_own():
    """GN-C2: log C stands in for the first loss; in the state before the first step it is the same."""
    L_0 = np.log([10.0, 2.0])
    method, plain = (mtlref.GradNorm(alpha=1.0, lr=1e-5, initial_losses=given) for given in (L_0, None))
    for state in (method.init(2), replace(plain.init(2), initial_losses=L_0)):
        out = method.step(state, L_0 * [1.0, 3.0], np.eye(2))
        np.testing.assert_allclose(out.terms["r"], [0.5, 1.5])
        np.testing.assert_array_equal(out.state.initial_losses, L_0)
    with pytest.raises(mtlref.ShapeError, match="initial_losses"):
        method.init(3)


# WHAT COMES IN


def test_nothing_is_written_to_and_the_same_inputs_give_the_same_bits():
    rng = np.random.default_rng(1)
    w, L_0, L, J = rng.uniform(0.5, 2, 3), rng.uniform(1, 2, 3), rng.uniform(1, 2, 3), rng.standard_normal((3, 4))
    given_arrays = [w, L_0, L, J]
    copies = [array.copy() for array in given_arrays]
    for array in given_arrays:
        array.flags.writeable = False
    method = mtlref.GradNorm()
    first = method.step(state_of(method, w, L_0), L, J)
    second = method.step(state_of(method, w, L_0), L, J)
    for array, copy in zip(given_arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert first.state.to_json() == second.state.to_json()


BAD = [
    ({"losses": [1.0, -1.0]}, "losses", 1, -1.0, "GN-3"),
    ({"losses": [1.0, np.nan]}, "losses", 1, None, "GN-3"),
    ({"losses": [np.inf, 1.0]}, "losses", 0, np.inf, "GN-3"),
    ({"losses": [1.0, 2.0, 3.0]}, "losses", None, 3, "GN-3"),
    ({"losses": [[1.0, 2.0]]}, "losses", None, (1, 2), "GN-3"),
    ({"losses": ["a", "b"]}, "losses", None, None, "GN-3"),
    ({"losses": [1.0 + 2j, 1.0]}, "losses", None, None, "GN-3"),
    ({"losses": [0.0, 1.0]}, "initial_losses", 0, 0.0, "GN-3"),
    ({"losses": [0.0, 0.0], "L_0": [1.0, 1.0]}, "losses", 0, 0.0, "GN-3"),
    ({"L_0": [1.0, 0.0]}, "initial_losses", 1, 0.0, "GN-3"),
    ({"L_0": [-1.0, 1.0]}, "initial_losses", 0, -1.0, "GN-3"),
    ({"L_0": [1e-320, 1.0], "losses": [1e300, 1.0]}, "losses", 0, None, "GN-3"),
    ({"jacobian": None}, "jacobian", None, None, "GN-1"),
    ({"jacobian": [[1.0]]}, "jacobian", None, (1, 1), "GN-1"),
    ({"jacobian": [[1.0], [np.nan]]}, "jacobian", 1, None, "GN-1"),
    ({"jacobian": [1.0, 2.0]}, "jacobian", None, (2,), "GN-1"),
    ({"jacobian": [[1.7e308, 1.7e308], [1.0, 1.0]]}, "jacobian", 0, np.inf, "GN-1"),
    ({"jacobian": [[1.7e308, 0.0], [1.7e308, 0.0]]}, "G", None, None, "GN-2"),
    ({"jacobian": [[100.0], [1.0]]}, "lr", 0, None, "GN-7"),
    ({"w": [1.0, np.nan]}, "state.weights", 1, None, None),
    ({"w": []}, "state.weights", None, None, None),
]


@pytest.mark.parametrize(("change", "argument", "task", "value", "equation"), BAD)
def test_bad_input_is_refused_by_name(change, argument, task, value, equation):
    method = mtlref.GradNorm(alpha=1.0, lr=0.025)
    state = state_of(method, change.get("w", [1.0, 1.0]), change["L_0"]) if "L_0" in change else method.init(2)
    state = replace(state, weights=np.array(change.get("w", [1.0, 1.0])))
    losses, jacobian = change.get("losses", [1.0, 2.0]), change.get("jacobian", [[1.0], [2.0]])
    with pytest.raises(mtlref.MtlrefError) as caught:
        method.step(state, losses, jacobian)
    error = caught.value
    assert (error.argument, error.task, error.equation) == (argument, task, equation), str(error)
    if value is not None:
        assert error.value == value
    assert argument.split(".")[-1] in str(error)
    assert equation is None or equation in str(error)


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"alpha": -1.0}, "alpha"),
        ({"initial_losses": [1.0, 0.0]}, "initial_losses"),
        ({"initial_losses": [1.0, -2.0]}, "initial_losses"),
        ({"initial_losses": [np.inf, 1.0]}, "initial_losses"),
        ({"initial_losses": 1.0}, "initial_losses"),
        ({"alpha": np.nan}, "alpha"),
        ({"alpha": "high"}, "alpha"),
        ({"lr": 0.0}, "lr"),
        ({"lr": np.inf}, "lr"),
        ({"negative": "drop"}, "negative"),
    ],
)
def test_bad_hyper_parameters_are_refused_by_name(settings, argument):
    with pytest.raises(mtlref.MtlrefError) as caught:
        mtlref.GradNorm(**settings)
    assert caught.value.argument == argument


@pytest.mark.parametrize("n_tasks", [0, -1, 2.0, True, None])
def test_a_number_of_tasks_is_a_whole_number(n_tasks):
    with pytest.raises(mtlref.DomainError) as caught:
        mtlref.GradNorm().init(n_tasks)
    assert caught.value.argument == "n_tasks"


def test_a_state_of_another_method_is_refused():
    with pytest.raises(mtlref.DomainError, match="must be of kind GradNormState; it is of kind DWAState"):
        mtlref.GradNorm().step(mtlref.DWA().init(2), [1.0, 1.0], np.eye(2))


@given(st.data(), st.sampled_from([0.0, 1.0, 1.5]), st.sampled_from(["sgd", "adam", "momentum"]))
@example(data=None, alpha=1.5, rule="sgd")
def test_every_float_gives_finite_numbers_or_a_named_error(data, alpha, rule):
    K = 3
    numbers = (
        np.arange(15.0) if data is None else np.array(data.draw(st.lists(WHOLE_RANGE, min_size=15, max_size=15)))
    )
    w, L_0, L, J = numbers[:3], numbers[3:6], numbers[6:9], numbers[9:].reshape(K, 2)
    rules = {"sgd": None, "adam": mtlref.Adam(0.025), "momentum": mtlref.Momentum(0.025)}
    method = mtlref.GradNorm(alpha=alpha, optimiser=rules[rule])
    for state in (method.init(K), state_of(method, w, np.abs(L_0))):
        try:
            out = method.step(state, np.abs(L), J)
        except mtlref.MtlrefError as error:
            assert error.equation is not None
            assert error.equation in str(error)
            continue
        for value in (out.weights, out.head_weights, out.state.weights, *out.terms.values()):
            assert np.all(np.isfinite(value))


def test_the_equations_are_those_of_the_module():
    assert list(mtlref.GradNorm.tags) == ["G", "G_bar", "r", "target", "L_grad", "dw", "w_next"]
    assert spec.__doc__ is not None
    assert all(f"GN-{i}" in spec.__doc__ for i in range(1, 10))

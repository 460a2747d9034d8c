"""The adapters for JAX: what they build, and right code in float64 and float32."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is an extra")

from mtlref import DomainError, GradNorm  # noqa: E402
from mtlref.conformance import Implementation, Problem, check_implementation, runner  # noqa: E402
from mtlref.conformance.adapters import jax as adapter  # noqa: E402
from mtlref.conformance.checks import of  # noqa: E402
from mtlref.conformance.diagnosis import diagnose  # noqa: E402
from mtlref.conformance.implementation import Answers  # noqa: E402

DTYPES = ["float64", "float32"]


@pytest.fixture(autouse=True)
def few_cases(monkeypatch):
    """JAX traces every network anew, a tenth of a second each time."""
    monkeypatch.setattr(runner, "SIZES", {"step": 6, "run": 3, "live": 3})


@pytest.fixture(autouse=True)
def double_precision():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def unwelcome(impl):
    return [
        (r.name, r.message or r.reason) for r in check_implementation(impl) if r.status not in ("passed", "skipped")
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [1, 2, 7])
def test_the_scalar_losses_have_the_problem_s_values_and_gradients(D, dtype):
    rng = np.random.default_rng(D)
    given = Problem(GradNorm(), rng.uniform(0.5, 2, 3), rng.standard_normal((3, D)))
    losses, parameters = adapter.scalar_losses(given, dtype)
    assert losses(*parameters).tolist() == given.losses.astype(dtype).tolist()
    rows, heads = jax.jacrev(losses, argnums=(0, 1))(*parameters)
    np.testing.assert_array_equal(adapter.flat_rows(rows), given.jacobian.astype(dtype))
    np.testing.assert_array_equal(heads, np.eye(3))


def test_double_precision_is_asked_for_by_name():
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(DomainError, match=r"JAX makes float32 of float64: jax.config.update"):
        adapter.array([1.0], "float64")


def by_jacrev(live, dtype):
    losses, parameters = adapter.network(live, dtype)
    shared, heads = jax.jacrev(losses, argnums=(0, 1))(*parameters)
    jacobian = adapter.flat_rows(shared)
    return {"losses": losses(*parameters), "jacobian": jacobian, "head_gradients": adapter.own_heads(heads)}


def by_vjp(live, dtype):
    losses, parameters = adapter.network(live, dtype)
    values, pull = jax.vjp(losses, *parameters)
    rows = [pull(row) for row in np.eye(len(values), dtype=dtype)]
    heads = [adapter.flat(row[1][i]) for i, row in enumerate(rows)]
    jacobian = [adapter.flat(row[0]) for row in rows]
    return {"losses": values, "jacobian": jacobian, "head_gradients": np.concatenate(heads)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("style", [by_jacrev, by_vjp])
def test_right_gradients_pass_in_jax(style, dtype):
    step = lambda live, state: style(live, dtype)  # noqa: E731
    assert unwelcome(Implementation("jacobian", name=style.__name__, step=step, dtype=dtype)) == []


def test_the_gradient_of_all_losses_is_named_in_jax():
    def step(live, state):
        losses, parameters = adapter.network(live, "float64")
        row = adapter.flat(jax.grad(lambda shared: losses(shared, parameters[1]).sum())(parameters[0]))
        return {"jacobian": [row] * live.n_tasks}

    found = diagnose(Answers(Implementation("jacobian", name="total", step=step)), of("jacobian")[0])
    assert [c.name for c in found.candidates] == ["TotalGradient [LIVE-2]"]


def balanced(losses, parameters, w, L_0, method):
    """GradNorm in JAX: the weights' slope is JAX's own, through the norms, with the targets stopped."""
    jnp = jax.numpy
    J, L = adapter.flat_rows(jax.jacrev(losses)(*parameters)), losses(*parameters)
    rate = L / (L if L_0 is None else L_0)

    def distance(weights):
        G = jnp.abs(weights) * jnp.linalg.norm(J, axis=1)
        target = jax.lax.stop_gradient(G.mean() * (rate / rate.mean()) ** method.alpha)
        return jnp.abs(G - target).sum()

    u = w - method.lr * jax.grad(distance)(w)
    gradients = jax.grad(lambda shared, heads: losses(shared, heads) @ w, argnums=(0, 1))(*parameters)
    return len(u) * u / u.sum(), L, gradients


def test_gradnorm_in_jax_passes_on_a_live_network():
    def live(run):
        w, L_0, rows = jax.numpy.ones(run.n_tasks), None, []
        for step in run:
            w_next, L, (shared, heads) = balanced(*adapter.network(step), w, L_0, run.method)
            L_0 = L if L_0 is None else L_0
            row = {"weights": w, "w_next": w_next, "direction": adapter.flat(shared)}
            rows.append({**row, "head_gradients": adapter.flat(heads)})
            w = w_next
        return {name: [row[name] for row in rows] for name in rows[0]}

    assert unwelcome(Implementation("gradnorm", name="jax", live=live)) == []


def test_gradnorm_in_jax_is_the_specification_s_on_scalar_losses():
    rng, method = np.random.default_rng(1), GradNorm()
    given = Problem(method, rng.uniform(0.5, 2, 3), rng.standard_normal((3, 7)))
    state = method.resumed(method.init(3), np.array([0.5, 1.5, 1.0]))
    out = given.step(state)
    w_next, _, gradients = balanced(*adapter.scalar_losses(given), jax.numpy.asarray(state.weights), None, method)
    np.testing.assert_allclose(w_next, out.terms["w_next"], rtol=1e-13)
    seen = adapter.observed(*gradients)
    np.testing.assert_allclose(seen["direction"], out.weights @ given.jacobian, rtol=1e-13)
    np.testing.assert_allclose(seen["head_weights"], out.head_weights, rtol=1e-13)

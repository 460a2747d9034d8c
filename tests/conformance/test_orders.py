"""Implementations of PCGrad that draw their own orders: from the paper's algorithm on explicit vectors."""

from __future__ import annotations

import numpy as np
import pytest

from mtlref.conformance import Implementation
from tests.conformance.variants import failed, judged

OWN = {"order": "own"}


def surgery(gradients, orders, *, raw=False, myself=False, mean=False, always=False, altered=False, eps=0.0):
    """Algorithm 1 on vectors, or a wrong variant of it."""
    changed = [g.copy() for g in gradients]
    for i, order in enumerate(orders):
        for j in [*order, i] if myself else order:
            other = changed[j].copy() if altered else gradients[j]
            overlap = (gradients[i] if raw else changed[i]) @ other
            if (overlap < 0 or always) and other @ other > 0:
                changed[i] = changed[i] - overlap / (other @ other + eps) * other
    total = np.sum(changed, axis=0)
    return total / len(gradients) if mean else total


def shuffled(rng, K):
    """A fresh order of the others for every task."""
    return [rng.permutation([j for j in range(K) if j != i]) for i in range(K)]


def own(name, orders=shuffled, dtype="float64", choices=None, **wrong):
    """An implementation with a generator of its own, never seeded again."""
    rng = np.random.default_rng(7)

    def step(problem, state):
        gradients = problem.jacobian.astype(dtype)
        return {"direction": surgery(gradients, orders(rng, problem.n_tasks), **wrong)}

    return Implementation("pcgrad", name=name, step=step, choices={**OWN, **(choices or {})}, dtype=dtype)


RIGHT = {
    "float64": own("float64"),
    "float32": own("float32", dtype="float32"),
    "mean": own("mean", mean=True, choices={"reduction": "mean"}),
    "mean by scale": own("mean", mean=True, choices={"scale": "1/K"}),
    "one shuffle for all tasks": own("one shuffle", lambda rng, K: once_for_all(rng, K)),
}

WRONG = {
    "orders thrown away": own("fixed", lambda rng, K: [[j for j in range(K) if j != i] for i in range(K)]),
    "raw": own("raw", raw=True),
    "itself": own("itself", myself=True),
    "undeclared mean": own("mean", mean=True),
    "always": own("always", always=True),
    "altered": own("altered", altered=True),
    "eps": own("eps", eps=1e-8),
    "a task left out": own("left out", lambda rng, K: [list(o)[:-1] for o in shuffled(rng, K)]),
    "first task only": own(
        "first only", lambda rng, K: [o if i == 0 else [] for i, o in enumerate(shuffled(rng, K))]
    ),
}


def once_for_all(rng, K):
    """One shuffle of all tasks a step, which every task goes through: each task's own order is uniform."""
    everyone = rng.permutation(K)
    return [[j for j in everyone if j != i] for i in range(K)]


@pytest.mark.parametrize("name", RIGHT)
def test_right_orders_of_its_own_pass(name):
    assert failed(RIGHT[name]) == set()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_fail(name):
    assert failed(WRONG[name])


def test_a_fixed_order_fails_where_orders_should_vary_and_nowhere_else():
    _, results = judged(WRONG["orders thrown away"])
    assert {name for name, result in results.items() if result.status == "failed"} == {"check_pcgrad_draws_anew"}


@pytest.mark.parametrize(
    ("name", "defect"), [("raw", "RawDot"), ("itself", "SelfIncluded"), ("always", "AlwaysProject")]
)
def test_defects_are_named_whatever_the_orders(name, defect):
    found, _ = judged(WRONG[name])
    assert defect in found.diagnosis.text

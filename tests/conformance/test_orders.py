"""Implementations of PCGrad that draw their own orders: from the paper's algorithm on explicit vectors."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from mtlref.conformance import Implementation, outcomes
from mtlref.conformance.checks import pcgrad as checks
from mtlref.conformance.problem import Problem
from mtlref.methods.pcgrad import PCGrad
from tests.conformance.variants import failed, ready, results

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


def test_right_orders_miss_the_bar_less_than_once_in_ten_to_the_sixteen():
    """Of n equally likely directions fewer than m come in N calls: at most C(n, m − 1) ((m − 1)/n)^N."""
    fewer, calls = checks.FEWEST - 1, checks.ASKED
    by_task = comb(8, fewer) * (fewer / 8) ** calls
    by_shuffle = comb(6, fewer) * (fewer / 6) ** calls
    one_order = 3 * 2 * 0.5**calls
    assert by_task < 1e-23
    assert by_shuffle + one_order < 1e-16


def test_each_order_gives_another_direction_there():
    problem = Problem(PCGrad(), np.ones(3), checks.TURNED, np.array([[1, 2], [0, 2], [0, 1]]))
    found = outcomes.directions(problem, PCGrad().init(3))
    apart = np.max(np.abs(found[:, None] - found[None]), axis=2)
    assert len(found) == 8
    assert np.min(apart[~np.eye(8, dtype=bool)]) > 0.05


def once_for_all(rng, K):
    """One shuffle of all tasks a step, which every task goes through: each task's own order is uniform."""
    everyone = rng.permutation(K)
    return [[j for j in everyone if j != i] for i in range(K)]


@pytest.mark.parametrize("name", RIGHT)
def test_right_orders_of_its_own_pass(name):
    assert failed(RIGHT[name]) == set()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_fail(name):
    assert any(result.status == "failed" for result in results(ready(WRONG[name], diagnosed=False)))


def test_a_fixed_order_fails_where_orders_should_vary_and_nowhere_else():
    assert failed(WRONG["orders thrown away"]) == {"check_pcgrad_draws_anew"}


@pytest.mark.parametrize(
    ("name", "defect"), [("raw", "RawDot"), ("itself", "SelfIncluded"), ("always", "AlwaysProject")]
)
def test_defects_are_named_whatever_the_orders(name, defect):
    assert defect in ready(WRONG[name]).diagnosis.text

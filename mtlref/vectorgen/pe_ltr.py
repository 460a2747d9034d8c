"""The vectors of PE-LTR. The answer jumps where gradients become affinely dependent: PELTR-C3 decides there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from mtlref.exact import pe_ltr
from mtlref.notation import norms
from mtlref.vectorgen import inputs
from mtlref.vectorgen.core import Answer, Case, Group, Recipe, State

SHAPES = {
    (2, 3): (2, 5),
    (3, 2): (1, 3),
    (3, 5): (1, 6),
    (4, 3): (0, 3),
    (4, 9): (1, 6),
    (8, 7): (4, 9),
    (8, 13): (2, 5),
}
"""K and D, and the salts of two problems of that shape: one dimension less than tasks, which is the fewest without
affine dependence, and more; never the same."""

THREE = [[1.0, 0.0, 0.0, 0.5], [0.9, 0.5, 0.0, 0.25], [2.0, 2.0, 0.3, 0.0]]
"""Three gradients for which the published two steps miss the optimum."""


def groups() -> Iterator[Group]:
    """Yield the groups."""
    yield group("step", [*steps(), *edges(), *refusals()])
    yield group("step", list(bounded(2, (3,))), bounds=[0.2, 0.3])
    yield group("step", list(bounded(3, (2, 5))), bounds=[0.1, 0.25, 0.05])
    yield group("step", list(bounded(4, (3, 7))), bounds=[0.1, 0.0, 0.2, 0.3])
    yield group("step", list(tight()), bounds=[0.25, 0.25, 0.5])
    yield group("step", list(exact()), solver="exact")
    yield group("step", [case("exact-bounds-k3", 3, 5, 2, ("PELTR-C2",))], solver="exact", bounds=[0.1, 0.25, 0.05])
    yield group("step", [case("same-k3", 3, 4, 3, ("PELTR-C1",))], timing="same")
    yield group("step", list(squared()), tolerance=1e-7)
    yield group("run", [run("run-k2-d3", 2, 3, 10), run("run-k3-d5", 3, 5, 8), run("run-k4-d6", 4, 6, 8)])
    yield group("run", [run("run-k8-d9", 8, 9, 8)])
    yield group("run", [run("run-bounds-k3", 3, 4, 8)], bounds=[0.1, 0.25, 0.05])
    yield group("run", [run("run-same-k3", 3, 4, 8, ("PELTR-C1",))], timing="same")
    yield from refused_parameters()


def group(kind: Any, cases: list[Case], tolerance: float = 1e-11, **changed: Any) -> Group:
    """Return a group at the defaults, but for what is `changed`."""
    parameters = {"bounds": None, "solver": "published", "timing": "next"} | changed
    choices = {"PELTR-C1": parameters["timing"], "PELTR-C2": parameters["solver"], "PELTR-C3": "least norm"}
    return Group(kind, parameters, cases, choices, tolerance)


def steps() -> Iterator[Case]:
    """Yield single steps without bounds."""
    for (K, D), salts in SHAPES.items():
        for salt in salts:
            yield case(f"step-k{K}-d{D}-{salt}", K, D, salt)
    yield Case(
        "two-steps-miss-k3",
        "the published two steps give another answer than the quadratic program",
        given([0.5, 0.25, 0.25], THREE),
        catches=("ExactQP", "NoProjection", "ClipOnly"),
    )
    yield Case(
        "hand-k2",
        "by hand: orthogonal gradients of lengths 1 and 2, so the weights are (4/5, 1/5)",
        given([0.5, 0.5], [[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]),
        catches=("UnitGradients", "SoftmaxProjection"),
    )


def bounded(K: int, widths: tuple[int, ...]) -> Iterator[Case]:
    """Yield single steps with bounds."""
    for D in widths:
        yield case(f"bounds-k{K}-d{D}", K, D, D)
        yield case(f"bounds-k{K}-d{D}-more", K, D, D + 3)


def tight() -> Iterator[Case]:
    """Yield the step in which the bounds leave nothing."""
    comment = "the bounds add up to 1: they are the weights"
    yield Case("bounds-all-k3", comment, given([0.2, 0.3, 0.5], THREE), edge=True)


def exact() -> Iterator[Case]:
    """Yield steps with the quadratic program in place of the published steps."""
    for K, D in ((2, 3), (3, 5), (4, 3), (8, 11)):
        yield case(f"exact-k{K}-d{D}", K, D, 2, ("PELTR-C2",))
    made = given([0.5, 0.25, 0.25], THREE)
    yield Case("exact-three", "the optimum that the two steps miss", made, choices=("PELTR-C2",))


def edges() -> Iterator[Case]:
    """Yield singular systems, zeros, and the ends of the range."""
    dependent = ("PELTR-C3",)
    twice = [1.0, 2.0, 0.0]
    for name, comment, rows, choices in (
        ("step-k1", "one task: the weight is 1", [[3.0, 4.0]], ()),
        (
            "duplicates",
            "two equal gradients share equally",
            [twice, twice, [0.5, -1.0, 2.0]],
            dependent,
        ),
        ("collinear", "three gradients on a line", [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]], dependent),
        ("no-gradients", "all gradients are 0: equal weights", [[0.0, 0.0, 0.0]] * 2, dependent),
        ("crowded-k4-d2", "four tasks in a plane", [[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [0.5, 0.5]], dependent),
        ("opposed", "opposite gradients cancel: a stationary point", [[1.0, 2.0, 0.0], [-3.0, -6.0, 0.0]], ()),
        ("one-zero-gradient", "a gradient of zero takes all of the weight", [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]], ()),
        (
            "tiny-gradients",
            "the entries' squares underflow",
            [[1e-170, 2e-170], [-3e-170, 1e-170]],
            (),
        ),
    ):
        start = [1 / len(rows) if len(rows) != 3 else [0.5, 0.25, 0.25][i] for i in range(len(rows))]
        yield Case(name, comment, given(start, rows), edge=True, choices=choices)


def squared() -> Iterator[Case]:
    """Yield nearly dependent gradients, where squaring the system's condition costs half of the digits."""
    rows = [[1.0, 1.0, 0.5, 0.0], [1.0, 1.001, 0.5, 0.0], [0.5, -1.0, 1.0, 2.0]]
    comment = "two gradients that differ in the fourth digit: the squared system loses half of the digits"
    yield Case("nearly-parallel", comment, given([0.5, 0.25, 0.25], rows), edge=True, catches=("SquaredCondition",))


def refusals() -> Iterator[Case]:
    """Yield steps that have to be refused."""
    half = [0.5, 0.5]
    named = {"equation": "PELTR-1", "argument": "jacobian", "task": 1}
    for name, value in (("nan", float("nan")), ("infinite", float("inf"))):
        made = given(half, [[1.0, 0.0, 2.0], [0.0, value, 1.0]])
        yield Case(f"{name}-gradient", f"{value} in row 1", made, refused=named)
    named = {"equation": "PELTR-1", "argument": "jacobian"}
    missing: Any = None
    yield Case("no-jacobian", "PE-LTR reads gradients", {**given(half, []), "jacobian": missing}, refused=named)
    yield Case("rows-differ", "three rows for two tasks", given(half, [[1.0], [2.0], [3.0]]), refused=named)
    big = given(half, [[1e200, 0.0, 0.0], [0.0, 1e200, 1.0]])
    yield Case("gram-overflows", "the inner products are beyond the range", big, refused=named)


def refused_parameters() -> Iterator[Group]:
    """Yield hyper-parameters that have to be refused, whatever the input."""
    made = given([0.5, 0.25, 0.25], THREE)
    for name, comment, changed, named in (
        ("bounds-above-one", "bounds that no weights meet", {"bounds": [0.5, 0.5, 0.25]}, {"argument": "bounds"}),
        ("bound-negative", "a bound below 0", {"bounds": [0.25, -0.25, 0.25]}, {"argument": "bounds", "task": 1}),
        ("bound-above-one", "a bound above 1", {"bounds": [0.0, 1.5, 0.0]}, {"argument": "bounds", "task": 1}),
        ("bounds-too-many", "four bounds for three tasks", {"bounds": [0.25] * 4}, {"argument": "bounds"}),
        ("bounds-too-few", "two bounds for three tasks", {"bounds": [0.25, 0.25]}, {"argument": "bounds"}),
        ("solver-unknown", "no such solver", {"solver": "best"}, {"equation": "PELTR-4", "argument": "solver"}),
        ("timing-unknown", "no such timing", {"timing": "later"}, {"equation": "PELTR-7", "argument": "timing"}),
    ):
        yield group("step", [Case(name, comment, made, refused=named)], **changed)


# INPUTS


def given(w: list[float], rows: list[list[float]]) -> dict[str, Any]:
    """Return the input of a step. The losses are there, and not read."""
    return {"state": {"weights": w}, "losses": inputs.losses(len(w), 2), "jacobian": rows}


def case(name: str, K: int, D: int, salt: int, choices: tuple[str, ...] = ()) -> Case:
    """Return a step from unequal weights."""
    w = [round(value / K, 4) for value in inputs.weights(K, salt)]
    size = "more tasks than dimensions" if K > D else "more dimensions than tasks"
    return Case(name, f"K = {K}, D = {D}; {size}", given(w, inputs.gradients(K, D, salt, salt)), choices=choices)


def run(name: str, K: int, D: int, steps: int, choices: tuple[str, ...] = ()) -> Case:
    """Return a run."""
    made = {"losses": inputs.losses_run(K, steps), "jacobian": inputs.gradients_run(K, D, steps, K)}
    return Case(name, f"{steps} steps from equal weights", made, choices=choices)


# ANSWERS


def initial(parameters: State, K: int) -> dict[str, Any]:
    """Return the state before the first step."""
    return {"weights": [Fraction(1, K)] * K}


def step(parameters: State, state: State, given: Mapping[str, Any]) -> Answer:
    """Return the exact answer to one step."""
    bounds, solver = parameters["bounds"], parameters["solver"]
    found = pe_ltr.step(given["jacobian"], bounds, solver=solver)
    w_next = found["w_next"]
    w = w_next if parameters["timing"] == "same" else state["weights"]
    K = len(w_next)
    A = found["gram"]
    system = [[*row, Fraction(1)] for row in A] + [[Fraction(1)] * K + [Fraction(0)]]
    singular = bool(pe_ltr.solve(system, [Fraction(0)] * (K + 1))[1])
    decided = ("PELTR-C3",) if singular else ()
    return Answer(w, w, {**found}, {"weights": w_next}, independence(given["jacobian"]), decided)


def independence(rows: list[list[float]]) -> float:
    """Return how far the gradients are from affine dependence: the smallest singular value of their differences.

    The differences are those to the last gradient, brought to length 1; equal gradients give 0, as do more than
    D + 1 of them.
    """
    J = np.array(rows)
    edges = J[:-1] - J[-1]
    lengths = norms(edges)
    if len(edges) > J.shape[1] or not lengths.all():
        return 0.0
    return float(np.min(np.linalg.svd(edges / lengths[:, None], compute_uv=False), initial=1.0))


RECIPE = Recipe(
    stem="pe_ltr",
    groups=groups,
    initial=initial,
    step=step,
    mandatory=("weights", "w_next"),
    parameters={"bounds": "vector or null", "solver": "string", "timing": "string"},
    state={"weights": "vector"},
    terms={
        "gram": "matrix",
        "w_hat": "vector",
        "multiplier": "scalar",
        "w_tilde": "vector",
        "objective": "scalar",
        "kkt_residual": "scalar",
        "w_next": "vector",
    },
    fine=("SquaredCondition",),
    elsewhere={
        "PositiveMultiplier": "multiplier",
        "LengthForSquare": "objective",
        "UnshiftedResidual": "kkt_residual",
        "HeadsUnweighted": "head_weights",
    },
    reads=("losses", "jacobian"),
)

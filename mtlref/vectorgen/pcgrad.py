"""The vectors of PCGrad. The orders are a part of the input; the answers jump where an overlap changes its sign."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from mtlref.exact import fractions, pcgrad, square_root
from mtlref.vectorgen import inputs
from mtlref.vectorgen.core import Answer, Case, Group, Recipe, State

SHAPES = {
    (2, 3): (1, 4),
    (3, 2): (1, 5),
    (3, 6): (2, 4),
    (4, 3): (4, 11),
    (4, 7): (0, 8),
    (8, 5): (5, 11),
    (8, 12): (3, 6),
}
"""K and D, fewer dimensions than tasks and more, never the same: and the salts of two problems of that shape."""

FAN = [[1.0, 0.0], [-0.75, 0.5], [-0.8, -0.55]]
"""Three gradients in a plane, all in conflict: two projections turn a gradient against itself."""


def groups() -> Iterator[Group]:
    """Yield the groups."""
    yield group("step", [*steps(), *orders(), *edges(), *refusals()])
    yield group("step", list(meetings()), include_self=True)
    yield group("step", list(means()), reduction="mean")
    yield group(
        "run", [run("run-k3-d5", 3, 5, 8, 15), run("run-k4-d3", 4, 3, 8, 18), run("run-k8-d11", 8, 11, 8, 33)]
    )
    yield from refused_parameters()


def group(kind: Any, cases: list[Case], **changed: Any) -> Group:
    """Return a group at the defaults, but for what is `changed`."""
    parameters: dict[str, Any] = {"include_self": False, "reduction": "sum"} | changed
    meets = "oneself too" if parameters["include_self"] else "the other tasks"
    return Group(kind, parameters, cases, {"PCG-C1": meets, "PCG-C2": parameters["reduction"], "PCG-C4": "given"})


def steps() -> Iterator[Case]:
    """Yield steps whose orders differ from task to task."""
    for (K, D), salts in SHAPES.items():
        size = "more tasks than dimensions" if K > D else "more dimensions than tasks"
        for salt in salts:
            made = given(inputs.gradients(K, D, salt, salt), draw(K, salt))
            yield Case(f"step-k{K}-d{D}-{salt}", f"injected orders, unequal norms; {size}", made)
    yield Case(
        "hand-k2",
        "by hand: g_1.g_2 = -2, so g_1 becomes (0, 1) and g_2 (-1, 1): coefficients 1/2 and 1",
        given([[1.0, 1.0], [-2.0, 0.0]], None),
        catches=("Reflection", "WrongSign", "CosineForFactor", "MeanAlways"),
    )
    yield Case(
        "agreeing-k3",
        "no conflict: every weight is 1",
        given([[3.0, 1.0], [1.0, 2.0], [2.0, 2.0]], draw(3, 1)),
        catches=("AlwaysProject",),
    )


def orders() -> Iterator[Case]:
    """Yield all four choices of orders that differ for three gradients in a plane."""
    for name, chosen in (
        ("up", [[1, 2], [0, 2], [0, 1]]),
        ("down", [[2, 1], [2, 0], [1, 0]]),
        ("mixed", [[1, 2], [2, 0], [1, 0]]),
        ("turned", [[2, 1], [0, 2], [1, 0]]),
    ):
        catches = ("FixedOrder", "RawDot", "SelfIncluded") if name == "down" else ()
        yield Case(f"fan-{name}", "three gradients in a plane that all conflict", given(FAN, chosen), catches=catches)


def meetings() -> Iterator[Case]:
    """Yield steps in which tasks meet themselves."""
    own = ("PCG-C1",)
    yield Case("self-fan", "each task meets itself last", given(FAN, [[1, 2, 0], [2, 0, 1], [1, 0, 2]]), choices=own)
    yield Case(
        "self-first-fan", "each task meets itself first", given(FAN, [[0, 2, 1], [1, 0, 2], [2, 1, 0]]), choices=own
    )
    rows = inputs.gradients(4, 6, 2, 3)
    made = given(rows, [[3, 0, 1, 2], [1, 2, 0, 3], [0, 3, 2, 1], [2, 1, 3, 0]])
    yield Case("self-k4-d6", "four tasks that meet themselves", made, choices=own)


def means() -> Iterator[Case]:
    """Yield steps that return the mean."""
    for K, D in ((2, 5), (3, 2), (4, 6)):
        made = given(inputs.gradients(K, D, 3, 2), draw(K, 2))
        yield Case(f"mean-k{K}-d{D}", "the mean of the projected gradients", made, choices=("PCG-C2",))


def edges() -> Iterator[Case]:
    """Yield zeros, orthogonal and antiparallel gradients, and gradients of very different sizes."""
    both = [[1], [0]]
    for name, comment, rows, orders in (
        ("step-k1", "one task keeps its gradient", [[3.0, 4.0]], None),
        ("orthogonal", "an inner product of 0 is no conflict", [[2.0, 0.0], [0.0, 3.0]], both),
        ("antiparallel", "opposite gradients cancel: the direction is 0", [[1.0, 2.0], [-3.0, -6.0]], both),
        ("duplicates", "two equal gradients against a third", [[1.0, 0.5], [1.0, 0.5], [-1.0, 1.0]], draw(3, 2)),
        ("tiny-gradients", "the entries' squares underflow", [[1e-170, 2e-170], [-3e-170, 1e-170]], both),
        ("huge-gradients", "the entries' squares overflow", [[1e170, 2e170], [-3e170, 1e170]], both),
    ):
        yield Case(name, comment, given(rows, orders), edge=True)
    made = given([[1.0, 2.0], [0.0, 0.0], [-2.0, 0.5]], draw(3, 1))
    comment = "a gradient of zero keeps its weight"
    yield Case("zero-gradient", comment, made, edge=True, catches=("ZeroGradientNaN",))
    made = given([[1e-5, 2e-5, 0.0], [-3e-5, 1e-5, 1e-5]], both)
    comment = "gradients of 1e-5: no eps may stand beside their squares"
    yield Case("small-gradients", comment, made, edge=True, catches=("EpsInDenominator",))


def refusals() -> Iterator[Case]:
    """Yield steps that have to be refused."""
    for name, comment, made, task in (
        ("no-draw", "three tasks need their orders", given(FAN, None), {}),
        ("draw-repeats", "task 1 meets task 2 twice", given(FAN, [[1, 2], [2, 2], [0, 1]]), {"task": 1}),
        ("draw-of-oneself", "task 0 meets itself", given(FAN, [[0, 2], [2, 0], [0, 1]]), {"task": 0}),
        ("draw-out-of-range", "a task that is not there", given(FAN, [[1, 2], [2, 0], [0, 3]]), {"task": 2}),
        ("draw-too-long", "three meetings a task", given(FAN, [[1, 2, 1], [2, 0, 2], [0, 1, 0]]), {}),
        ("draw-too-short", "one meeting a task", given(FAN, [[1], [2], [0]]), {}),
    ):
        yield Case(name, comment, made, refused={"equation": "PCG-2", "argument": "draw", **task})
    for name, value in (("nan", float("nan")), ("infinite", float("inf"))):
        named = {"equation": "PCG-1", "argument": "jacobian", "task": 1}
        yield Case(f"{name}-gradient", f"{value} in row 1", given([[1.0, 0.0], [value, 1.0]], None), refused=named)
    rows: Any = None
    made = {**given([[1.0], [2.0]], None), "jacobian": rows}
    yield Case("no-jacobian", "PCGrad reads gradients", made, refused={"equation": "PCG-1", "argument": "jacobian"})
    made = {**given([[1.0], [2.0]], None), "jacobian": [[1.0], [2.0], [3.0]]}
    yield Case("rows-differ", "three rows for two tasks", made, refused={"equation": "PCG-1", "argument": "jacobian"})


def refused_parameters() -> Iterator[Group]:
    """Yield hyper-parameters that have to be refused, whatever the input."""
    made = given([[1.0, 1.0], [-2.0, 0.0]], None)
    named = {"equation": "PCG-5", "argument": "reduction"}
    yield group("step", [Case("reduction-unknown", "no such reduction", made, refused=named)], reduction="none")


# INPUTS


def draw(K: int, salt: int) -> list[list[int]]:
    """Return an order a task: the others, from one on that depends on the task, in steps that visit each once."""
    orders = []
    for i in range(K):
        others = [j for j in range(K) if j != i]
        strides = [s for s in range(1, max(K - 1, 2)) if math.gcd(s, K - 1) == 1]
        stride, first = strides[(i + salt) % len(strides)], 3 * (i + salt)
        orders.append([others[(first + m * stride) % (K - 1)] for m in range(K - 1)])
    return orders


def given(rows: Sequence[Sequence[float]], orders: Any) -> dict[str, Any]:
    """Return the input of a step: without orders there is no draw."""
    K = len(rows)
    made = {"state": {"weights": [1.0] * K}, "losses": inputs.losses(K, 2), "jacobian": rows}
    return made if orders is None else {**made, "draw": orders}


def run(name: str, K: int, D: int, steps: int, salt: int) -> Case:
    """Return a run."""
    made = {
        "losses": inputs.losses_run(K, steps),
        "jacobian": inputs.gradients_run(K, D, steps, salt),
        "draw": [draw(K, t + salt) for t in range(steps)],
    }
    return Case(name, f"{steps} steps, each with orders of its own", made)


# ANSWERS


def initial(parameters: State, K: int) -> dict[str, Any]:
    """Return the state before the first step."""
    return {"weights": [1] * K}


def step(parameters: State, state: State, given: Mapping[str, Any]) -> Answer:
    """Return the exact answer to one step."""
    rows = [fractions(row) for row in given["jacobian"]]
    K = len(rows)
    orders = given.get("draw") or [[j for j in range(K) if j != i] for i in range(K)]
    found = pcgrad.step(rows, orders)
    gram = [[pcgrad.inner(a, b) for b in rows] for a in rows]
    overlaps = []
    for i, order in enumerate(orders):
        before = [pcgrad.project(rows, i, order[:m])[0] for m in range(len(order))]
        dots = [pcgrad.inner(vector, rows[j]) for vector, j in zip(before, order, strict=True)]
        overlaps.append([cosine(dot, gram[i][i], gram[j][j]) for dot, j in zip(dots, order, strict=True)])
    w = [value / K if parameters["reduction"] == "mean" else value for value in found["w"]]
    coefficients = [*enumerate(found["coefficients"])]
    terms = {
        "cosines": [[cosine(gram[i][j], gram[i][i], gram[j][j]) for j in range(K)] for i in range(K)],
        "overlaps": overlaps,
        "projected": [[in_units(row[j], gram[i][i], gram[j][j]) for j in range(K)] for i, row in coefficients],
        "coefficients": found["coefficients"],
        "w": w,
    }
    gap = min((abs(value) for row in overlaps for value in row), default=Fraction(1))
    return Answer(w, [1] * K, terms, {"weights": w}, float(gap))


def cosine(inner: Fraction, a: Fraction, b: Fraction) -> Fraction:
    """Return an inner product over the lengths whose squares are a and b, and 0 if one of them is."""
    return inner / square_root(a) / square_root(b) if a and b else Fraction(0)


def in_units(coefficient: Fraction, a: Fraction, b: Fraction) -> Fraction:
    """Return a coefficient of g_j in g_i as one of unit vectors; a and b are the squared lengths of g_i and g_j."""
    return coefficient * square_root(b / a) if a else Fraction(0)


RECIPE = Recipe(
    stem="pcgrad",
    groups=groups,
    initial=initial,
    step=step,
    mandatory=("weights",),
    parameters={"include_self": "boolean", "reduction": "string"},
    state={"weights": "vector"},
    terms={
        "cosines": "matrix",
        "overlaps": "matrix",
        "projected": "matrix",
        "coefficients": "matrix",
        "w": "vector",
    },
    reads=("losses", "jacobian", "draw"),
    elsewhere={"HeadsMean": "head_weights"},
)

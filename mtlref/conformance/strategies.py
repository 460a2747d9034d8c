"""Strategies: the cases that the checks are put to, and what makes a bug show.

A case is drawn by its structure (how many tasks and dimensions, how the gradients lie, how the losses go, which
settings) and a seed for its numbers. Structures and seeds come from a fixed stream, so that the cases are the same in
every process: Hypothesis, which draws them where one digs, takes constants out of whatever modules are loaded.
`CONDITIONS` names what decides whether a bug shows; reports say how often each was met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mtlref.conformance.live import live_problem, train
from mtlref.conformance.problem import Case, Problem
from mtlref.contract import Method, weights_of
from mtlref.notation import Array, MtlrefError
from mtlref.state import State

if TYPE_CHECKING:
    from mtlref.conformance.implementation import Implementation

Rng = np.random.Generator
Kind = Literal["step", "run", "live"]

STEPS = 9
"""The steps of a run: with fewer than eight, wrong variants are told apart by luck."""

LIVE_STEPS = 4
"""The steps of a live run."""

BATCHES = 3
"""The batches of an epoch, for methods that step once an epoch."""

LIVE_TASKS = (2, 3, 4)
"""The tasks of a live network."""

# GRADIENTS: (rng, K, D) → (K, D)


def generic(rng: Rng, K: int, D: int) -> Array:
    """Rows of different lengths, in no special directions."""
    return rng.standard_normal((K, D)) * np.exp(rng.uniform(-1.5, 1.5, (K, 1)))


def conflicting(rng: Rng, K: int, D: int) -> Array:
    """Rows within a few tenths of one line, to either side: near-antiparallel pairs and triples."""
    line = rng.standard_normal(D)
    side = np.where(np.arange(K) % 2 == 0, 1.0, -1.0)[:, None]
    return (side * line + 0.4 * rng.standard_normal((K, D))) * np.exp(rng.uniform(-1, 1, (K, 1)))


def agreeing(rng: Rng, K: int, D: int) -> Array:
    """Rows with no negative inner product."""
    return np.abs(generic(rng, K, D))


def orthogonal(rng: Rng, K: int, D: int) -> Array:
    """Orthogonal rows along the axes, in D ≥ K dimensions; generic ones in fewer."""
    if D < K:
        return generic(rng, K, D)
    return np.eye(K, D) * np.exp(rng.uniform(-1.5, 1.5, (K, 1)))


def duplicated(rng: Rng, K: int, D: int) -> Array:
    """The last row equals the first."""
    J = generic(rng, K, D)
    J[-1] = J[0]
    return J


def with_zero_row(rng: Rng, K: int, D: int) -> Array:
    """One task has no gradient at all."""
    J = generic(rng, K, D)
    J[int(rng.integers(K))] = 0.0
    return J


def scaled(rng: Rng, K: int, D: int) -> Array:
    """Row lengths from 1e-5 to 1e5."""
    J = generic(rng, K, D)
    return J * 10.0 ** rng.integers(-5, 6, (K, 1))


def planar(rng: Rng, K: int, D: int) -> Array:
    """Rows in one plane, turned by 150° from one to the next: what is projected once is in conflict again."""
    if D < 2:
        return generic(rng, K, D)
    angle = np.deg2rad(150 * np.arange(K) + rng.uniform(-20, 20, K))
    J = np.zeros((K, D))
    J[:, 0], J[:, 1] = np.cos(angle), np.sin(angle)
    return J * np.exp(rng.uniform(-0.5, 0.5, (K, 1)))


def small(rng: Rng, K: int, D: int) -> Array:
    """Generic rows of lengths about 1e-5: what is added under a norm shows."""
    return 1e-5 * generic(rng, K, D)


def nearly_parallel(rng: Rng, K: int, D: int) -> Array:
    """Rows within a few thousandths of one another: half of the digits do not suffice."""
    return rng.standard_normal(D) + 0.005 * rng.standard_normal((K, D))


GRADIENTS: Mapping[str, Callable[[Rng, int, int], Array]] = {
    "generic": generic,
    "conflicting": conflicting,
    "agreeing": agreeing,
    "orthogonal": orthogonal,
    "duplicated": duplicated,
    "zero row": with_zero_row,
    "scaled": scaled,
    "planar": planar,
    "small": small,
    "nearly parallel": nearly_parallel,
}
"""How the gradients lie."""


# LOSSES: (rng, K, T) → (T, K)


def falling(rng: Rng, K: int, T: int) -> Array:
    """Losses that fall at unequal rates, with noise."""
    rate = rng.uniform(0.02, 0.4, K)
    noise = np.exp(rng.normal(0, 0.1, (T, K)))
    return np.exp(rng.uniform(-1, 1, K)) * np.exp(-rate * np.arange(T)[:, None]) * noise


def far_from_one(rng: Rng, K: int, T: int) -> Array:
    """Losses of very different sizes, from 1e-3 to 1e3."""
    return falling(rng, K, T) * 10.0 ** rng.integers(-3, 4, K)


def rising(rng: Rng, K: int, T: int) -> Array:
    """Some losses rise while others fall."""
    L = falling(rng, K, T)
    return np.where(np.arange(K) % 2 == 0, L, L[::-1])


def with_zero(rng: Rng, K: int, T: int) -> Array:
    """One loss is exactly zero at the last step."""
    L = falling(rng, K, T)
    L[-1, int(rng.integers(K))] = 0.0
    return L


def steady(rng: Rng, K: int, T: int) -> Array:
    """Losses that vary by a tenth to a ten-thousandth: what is small is not rounding, and no guard may hide it."""
    share = 10.0 ** rng.permutation(np.linspace(-4, -1, K))
    return np.exp(rng.uniform(-1, 1, K)) * (1 + share * rng.uniform(-1, 1, (T, K)))


LOSSES: Mapping[str, Callable[[Rng, int, int], Array]] = {
    "falling": falling,
    "far from 1": far_from_one,
    "rising": rising,
    "with a zero": with_zero,
    "steady": steady,
}
"""How the losses go."""


# CASES


@dataclass(frozen=True)
class Shape:
    """The structure of a case: everything but its numbers."""

    settings: Mapping[str, Any]
    K: int
    D: int
    gradients: str
    losses: str
    before: int
    """Steps that the specification has taken before an injected state."""


def settled(settings: Mapping[str, Any], K: int) -> dict[str, Any]:
    """Return the settings for K tasks: a value that is a function is called with K."""
    return {name: value(K) if callable(value) else value for name, value in settings.items()}


def method_of(plan: Plan, impl: Implementation, settings: Mapping[str, Any], K: int) -> Method:
    """Return the specification with the settings for K tasks, those that the declared ones leave free."""
    bound = plan.together if any(name in impl.settings() for name in plan.together) else ()
    return impl.specification({n: value for n, value in settled(settings, K).items() if n not in bound})


def sizes(plan: Plan, impl: Implementation) -> list[int]:
    """Return the numbers of tasks that `plan` wants, without those that an implementation does not take."""
    most = plan.most if impl.own_order else None
    return [K for K in plan.tasks if impl.least <= K and (most is None or most >= K) and fits(impl, K)]


def fits(impl: Implementation, K: int) -> bool:
    """Return whether the declared choices have a place for K tasks."""
    try:
        impl.specification({}).init(K)
    except MtlrefError:
        return False
    return True


def make(method: Method, shape: Shape, seed: int, kind: Kind, label: str = "", steps: int = STEPS) -> Case | None:
    """Return the case of that structure and seed; None where the method itself has no answer on the way there."""
    rng = np.random.default_rng(seed)
    T = steps if kind == "run" else 1
    L = LOSSES[shape.losses](rng, shape.K, shape.before + T)
    problems = [problem(method, shape, rng, losses, kind == "run" or t >= shape.before) for t, losses in enumerate(L)]
    try:
        state = method.init(shape.K)
        if kind == "step":
            for earlier in problems[: shape.before]:
                state = earlier.step(state).state
            state = reweighted(method, state, rng)
        taken = tuple(problems[-T:])
        following = state
        for step in taken:
            following = step.step(following).state
    except MtlrefError:
        return None
    return Case(taken, state, kind == "step", label)


def make_live(method: Method, K: int, seed: int, kind: Kind, layer: str, label: str = "") -> Case | None:
    """Return the live case of that seed, one step or a run; None where a network is too near to a kink, or the method
    has no answer."""
    rng = np.random.default_rng([seed, 2])
    lives = train(method, rng, K, LIVE_STEPS if kind == "live" else 1, kind == "step")
    if lives is None:
        return None
    state = following = method.init(K)
    steps = tuple(live_problem(method, live, layer) for live in lives)
    try:
        for step in steps:
            following = step.step(following).state
    except MtlrefError:
        return None
    return Case(steps, state, kind == "step", label, live=True)


def problem(method: Method, shape: Shape, rng: Rng, losses: Array, whole: bool) -> Problem:
    """Return one problem: gradients, a draw, and for an epoch the batches' losses, whose mean the losses become."""
    J = GRADIENTS[shape.gradients](rng, shape.K, shape.D)
    draw = method.sample(rng, shape.K)
    evaluation = losses * np.exp(rng.normal(0, 1, shape.K)) if whole and rng.random() < 0.5 else None
    if method.cadence == "step":
        return Problem(method, losses, J, draw, None, evaluation)
    batches = losses * np.exp(rng.normal(0, 0.3, (BATCHES, shape.K)))
    return Problem(method, batches.mean(axis=0), J, draw, batches, evaluation)


def reweighted(method: Method, state: State, rng: Rng) -> State:
    """Return the state with other weights in use, of the same sum; a method that is not lagged keeps its own."""
    w = weights_of(state)
    if not method.lagged or not w.any():
        return state
    other = w * np.exp(rng.uniform(-0.7, 0.7, len(w)))
    return method.resumed(state, other * (np.sum(w) / np.sum(other)))


def battery(plan: Plan, impl: Implementation, kind: Kind, size: int = 24) -> list[Case]:
    """Return `size` fixed cases for the diagnosis, of three tasks or more if the method takes as many."""
    tasks = sizes(plan, impl)
    return walked(plan, impl, kind, size, [K for K in tasks if K > 2] or tasks, 0, f"battery {kind}", picked)


def drawn(plan: Plan, impl: Implementation, kind: Kind, size: int) -> list[Case]:
    """Return `size` fixed cases for the checks, of other numbers than the battery's."""
    return walked(plan, impl, kind, size, sizes(plan, impl), OTHER_NUMBERS, kind, dealt)


OTHER_NUMBERS = 10**6
"""The first seed of the checks' cases; the battery's begin at 0."""


Pick = Callable[[Sequence[Any], int, int, Rng], Any]


def picked(items: Sequence[Any], axis: int, number: int, rng: Rng) -> Any:
    """Return any of the items."""
    return items[int(rng.integers(len(items)))]


def dealt(items: Sequence[Any], axis: int, number: int, rng: Rng) -> Any:
    """Return the next item of a deck that is shuffled anew whenever it has been dealt: few cases have each item."""
    deal, at = divmod(number, len(items))
    return items[int(np.random.default_rng([axis, deal, 2]).permutation(len(items))[at])]


def walked(
    plan: Plan, impl: Implementation, kind: Kind, size: int, tasks: Sequence[int], first: int, label: str, pick: Pick
) -> list[Case]:
    """Return `size` cases among the structures of `plan`, the same in every process and on every day."""
    befores = (0,) if kind == "run" else (0, 1, 2, 3)
    axes = (plan.settings, tasks, plan.dimensions, plan.gradients, plan.losses, befores)
    found: list[Case] = []
    for seed in range(first, first + 50 * size):
        if len(found) == size:
            break
        rng = np.random.default_rng([seed, 1])
        shape = Shape(*(pick(items, axis, seed - first, rng) for axis, items in enumerate(axes)))
        name = f"{label} {seed - first}"
        if plan.make is not None:
            case = plan.make(method_of(plan, impl, shape.settings, shape.K), shape.K, seed, name)
        elif plan.live or kind == "live":
            K = max(impl.least, (3, 4)[seed % 2])
            case = make_live(method_of(plan, impl, shape.settings, K), K, seed, kind, impl.layer, name)
        else:
            case = make(method_of(plan, impl, shape.settings, shape.K), shape, seed, kind, label=name)
        if case is not None and decided(plan, impl, case):
            found.append(case)
    return found


def decided(plan: Plan, impl: Implementation, case: Case) -> bool:
    """Return whether every problem of a case has an answer that `impl` can be held to."""
    ruled = impl.choices.get("silent") == "ruled"
    return all(plan.decides(problem, impl.eps) or (ruled and plan.rules(problem, impl.eps)) for problem in case.steps)


@dataclass(frozen=True)
class Plan:
    """What the checks of a method are put to.

    `mandatory`: the observable without which nothing can be said; `settings`: the hyper-parameters that cases vary, a
    function of K where they have an entry a task; all others are as declared, or at their defaults; `together`: of
    these, those that make sense together alone: who declares one of them declares all; `choices`: for
    the diagnosis, other values of the choice points, by their tag; `most`: the most tasks for an implementation that
    draws its own orders, whose outcomes are all enumerated; `matrixwise`: whether the method solves a system in the
    inner products, whose rounding is relative to the largest; `decides`: whether the method's source says what a
    problem's answer is, and a type of that eps can hold it: other problems are left out; `rules`: whether,
    of those, a rule of the specification's own does, for implementations that declare to follow it; `live`: its
    steps are networks, too; `make`: how a case is made of the specification, K, a seed and a label, and `read`: of
    the specification and a golden vector, its type and the test, where a method has problems of its own; `at_once`:
    how many of its defects the diagnosis tries together.
    """

    mandatory: str
    settings: tuple[Mapping[str, Any], ...] = ({},)
    together: tuple[str, ...] = ()
    choices: Mapping[str, tuple[Mapping[str, Any], ...]] | None = None
    tasks: tuple[int, ...] = (3, 4, 2, 5, 8, 1)
    dimensions: tuple[int, ...] = (5, 7, 3, 2, 9, 1)
    gradients: tuple[str, ...] = ("generic", "conflicting", "orthogonal", "scaled")
    losses: tuple[str, ...] = ("falling", "far from 1", "rising")
    most: int | None = None
    matrixwise: bool = False
    decides: Callable[[Problem, float], bool] = lambda problem, eps: True
    rules: Callable[[Problem, float], bool] = lambda problem, eps: False
    live: bool = False
    make: Callable[[Method, int, int, str], Case | None] | None = None
    read: Callable[[Method, str, Mapping[str, Any]], Case] | None = None
    at_once: int = 3


# CONDITIONS


def cosines(J: Array) -> Array:
    """Return the cosines of the rows' angles, 0 beside a row of zeros."""
    lengths = np.linalg.norm(J, axis=1, keepdims=True)
    unit = J / np.where(lengths > 0, lengths, 1.0)
    return np.asarray(unit @ unit.T - np.diag(np.einsum("kd,kd->k", unit, unit)))


CONDITIONS: Mapping[str, Callable[[Problem, State], bool]] = {
    "three tasks or more": lambda p, s: p.n_tasks >= 3,
    "more tasks than dimensions": lambda p, s: p.n_tasks > p.jacobian.shape[1],
    "more dimensions than tasks": lambda p, s: p.n_tasks < p.jacobian.shape[1],
    "one task": lambda p, s: p.n_tasks == 1,
    "conflicting gradients": lambda p, s: bool(np.min(cosines(p.jacobian)) < -1e-9),
    "a near-antiparallel pair": lambda p, s: bool(np.min(cosines(p.jacobian)) < -0.9),
    "equal or parallel gradients": lambda p, s: bool(np.max(cosines(p.jacobian)) > 1 - 1e-9),
    "a gradient of zero": lambda p, s: bool(np.any(~p.jacobian.any(axis=1))),
    "norms a hundredfold apart": lambda p, s: (
        bool(np.ptp(np.log10(np.linalg.norm(p.jacobian[p.jacobian.any(axis=1)], axis=1))) > 2)
        if p.jacobian.any()
        else False
    ),
    "losses a hundredfold apart": lambda p, s: bool(np.max(p.losses) > 100 * np.min(p.losses)),
    "a loss of zero": lambda p, s: bool(np.any(p.losses == 0)),
    "unequal weights": lambda p, s: bool(np.ptp(weights_of(s)) > 1e-3),
    "unequal batches": lambda p, s: p.batches is not None and bool(np.ptp(p.batches, axis=0).max() > 0),
    "an evaluation after the step": lambda p, s: p.asked.evaluation is not None,
    "gradients of a network": lambda p, s: p.asked is not p,
}
"""What decides whether a bug shows."""


def conditions(case: Case) -> frozenset[str]:
    """Return the names of the conditions that a case meets at one of its steps."""
    return frozenset(
        name for name, holds in CONDITIONS.items() if any(holds(problem, case.state) for problem in case.steps)
    )

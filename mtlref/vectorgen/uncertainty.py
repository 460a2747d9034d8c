"""The vectors of Uncertainty Weighting. Every answer is a smooth function of the log-variances and the losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtlref.exact import uncertainty
from mtlref.vectorgen import inputs
from mtlref.vectorgen.core import Answer, Case, Group, Recipe, State

MIXED = ["gaussian", "softmax", "laplace", "softmax"]
"""A likelihood of each kind, and one twice."""


def groups() -> Iterator[Group]:
    """Yield the groups."""
    yield group("step", [*steps(), *edges(), *refusals()])
    yield group("step", [case("softmax-k3", 3, 2), case("softmax-k8", 8, 3)], likelihoods="softmax")
    yield group("step", [case("laplace-k2", 2, 4), case("laplace-k3", 3, 5)], likelihoods="laplace")
    yield group("step", [case("mixed-k4", 4, 2), case("mixed-k4-other", 4, 7)], likelihoods=MIXED)
    yield group("step", [case("outputs-k3", 3, 3, ("UW-E1",))], dimensions=[1, 3, 10])
    yield group("run", list(runs()))
    yield group("run", [run("run-mixed-k4", 4, 10, 3)], likelihoods=MIXED)
    yield group("run", [run("run-outputs-k3", 3, 8, 2, ("UW-E1",))], dimensions=[1, 3, 10], lr=0.02)
    yield from refused_parameters()


def group(kind: Any, cases: list[Case], **changed: Any) -> Group:
    """Return a group at a rate of 0.05, but for what is `changed`."""
    parameters = {"likelihoods": "gaussian", "lr": 0.05, "optimiser": None, "dimensions": None} | changed
    return Group(kind, parameters, cases, {"UW-C1": "SGD(lr)", "UW-C2": "s = 0"})


def steps() -> Iterator[Case]:
    """Yield single steps from injected log-variances."""
    for K in (2, 3, 4, 8):
        yield case(f"step-k{K}", K, K)
        yield case(f"step-late-k{K}", K, K + 6)
    yield Case(
        "hand-k2",
        "by hand, s = 0: weights 1/2, slopes (1 - L)/2 = (-1/2, 1/4), so s becomes (1/40, -1/80)",
        given([0.0, 0.0], [2.0, 0.5]),
        catches=("MissingHalf", "NoHalf", "Ascent", "NoRegulariser"),
    )
    yield Case(
        "below-zero-k2",
        "losses below 1: the log-variances go below 0",
        given([0.0, 0.01], [0.2, 0.4]),
        catches=("NonnegativeOnly",),
    )


def edges() -> Iterator[Case]:
    """Yield zeros, a stationary point, and weights of very different sizes."""
    yield Case("step-k1", "one task has a noise of its own too", given([0.5], [2.0]), edge=True)
    yield Case("zero-loss", "a loss of 0: the slope is 1/2", given([0.5, -0.5], [0.0, 1.0]), edge=True)
    yield Case("stationary", "losses of 1 at s = 0: the slopes are 0", given([0.0, 0.0], [1.0, 1.0]), edge=True)
    yield Case("wide", "log-variances of 40 and -12", given([40.0, -12.0, 0.0], [3.0, 1e-5, 1.0]), edge=True)


def runs() -> Iterator[Case]:
    """Yield runs from the start."""
    for K in (1, 2, 3, 4, 8):
        yield run(f"run-k{K}", K, 10, K)


def refusals() -> Iterator[Case]:
    """Yield steps that have to be refused."""
    s = [0.5, -0.5]
    for name, loss in (("negative", -1.0), ("nan", float("nan")), ("infinite", float("inf"))):
        named = {"equation": "UW-2", "argument": "losses", "task": 1}
        yield Case(f"{name}-loss", f"a loss of {loss}", given(s, [1.0, loss]), refused=named)
    named = {"equation": "UW-2", "argument": "losses"}
    yield Case("lengths-differ", "three losses for two tasks", given(s, [1.0, 2.0, 3.0]), refused=named)
    named = {"equation": "UW-1", "task": 1}
    yield Case("weight-overflows", "e^(-s) is beyond the range", given([0.0, -800.0], [1.0, 1.0]), refused=named)


def refused_parameters() -> Iterator[Group]:
    """Yield hyper-parameters that have to be refused, whatever the input."""
    made = given([0.5, -0.5], [2.0, 1.0])
    for name, comment, changed, named in (
        (
            "likelihood-unknown",
            "no such likelihood",
            {"likelihoods": ["gaussian", "poisson"]},
            {"equation": "UW-1", "argument": "likelihoods", "task": 1},
        ),
        (
            "likelihoods-too-few",
            "one likelihood in a list for two tasks",
            {"likelihoods": ["gaussian"]},
            {"argument": "likelihoods"},
        ),
        (
            "likelihoods-too-many",
            "three likelihoods for two tasks",
            {"likelihoods": ["gaussian"] * 3},
            {"argument": "likelihoods"},
        ),
        (
            "dimensions-too-many",
            "three dimensions for two tasks",
            {"dimensions": [1] * 3},
            {"argument": "dimensions"},
        ),
        ("lr-zero", "a rate of 0", {"lr": 0.0}, {"argument": "lr"}),
        ("dimension-zero", "a task without outputs", {"dimensions": [1, 0]}, {"argument": "dimensions"}),
    ):
        yield group("step", [Case(name, comment, made, refused=named)], **changed)


# INPUTS


def given(s: list[float], losses: list[float]) -> dict[str, Any]:
    """Return the input of a step from the log-variances s."""
    return {"state": {"log_variances": s, "optimiser": {}}, "losses": losses}


def case(name: str, K: int, salt: int, choices: tuple[str, ...] = ()) -> Case:
    """Return a step from unequal log-variances, of both signs."""
    s = [round(((7 * i + 3 * salt) % 11 - 5) / 4 + 0.1, 2) for i in range(K)]
    return Case(name, f"unequal log-variances, K = {K}", given(s, inputs.losses(K, 3, salt)), choices=choices)


def run(name: str, K: int, steps: int, salt: int, choices: tuple[str, ...] = ()) -> Case:
    """Return a run from the start: the losses are brought down to the reach of the rate."""
    losses = [[round(value / 4, 6) for value in row] for row in inputs.losses_run(K, steps, salt)]
    return Case(name, f"{steps} steps from s = 0, K = {K}", {"losses": losses}, edge=K == 1, choices=choices)


# ANSWERS


def initial(parameters: State, K: int) -> dict[str, Any]:
    """Return the state before the first step."""
    return {"log_variances": [0] * K, "optimiser": {}}


def step(parameters: State, state: State, given: Mapping[str, Any]) -> Answer:
    """Return the exact answer to one step."""
    s, L = state["log_variances"], given["losses"]
    names, D = parameters["likelihoods"], parameters["dimensions"]
    likelihoods = [names] * len(s) if isinstance(names, str) else names
    found = uncertainty.step(s, L, likelihoods=likelihoods, lr=parameters["lr"], dimensions=D)
    left = {"log_variances": found["s_next"], "optimiser": {}}
    return Answer(found["w"], found["w"], {**found}, left)


RECIPE = Recipe(
    stem="uncertainty",
    groups=groups,
    initial=initial,
    step=step,
    mandatory=("weights", "s_next"),
    parameters={
        "likelihoods": "strings",
        "lr": "number",
        "optimiser": "optimiser or null",
        "dimensions": "counts or null",
    },
    state={"log_variances": "vector", "optimiser": "optimiser state"},
    terms={"w": "vector", "objective": "scalar", "ds": "vector", "s_next": "vector"},
    elsewhere={"HeadsUnweighted": "head_weights"},
)

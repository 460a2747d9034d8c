"""The vectors of fixed weights: those given, whatever comes in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtlref.exact import fixed
from mtlref.vectorgen import inputs
from mtlref.vectorgen.core import Answer, Case, Group, Recipe, State


def groups() -> Iterator[Group]:
    """Yield the groups."""
    eight = [3.0, 0.5, 0.5, 1.0, 2.0, 0.1, 7.0, 0.9]
    for weights in ([2.5], [0.7, 0.1], [1.5, 0.25, 4.0], [0.1, 0.2, 0.3, 0.4], eight):
        K = len(weights)
        case = Case(f"step-k{K}", f"weights of one's own, K = {K}", given(K))
        yield Group("step", {"weights": weights}, [case, Case(f"later-k{K}", "the losses do not count", given(K, 7))])
    yield Group("step", {"weights": 0.5}, [Case("same-k3", "one number for all tasks", given(3))])
    zero = Case("zero-weight-k3", "a weight of 0 leaves a task out", given(3), edge=True)
    yield Group("step", {"weights": [2.0, 0.0, 0.5]}, [zero])
    run = {"losses": inputs.losses_run(3, 8)}
    yield Group("run", {"weights": [1.5, 0.25, 4.0]}, [Case("run-k3", "eight steps change nothing", run)])
    yield from refusals()


def refusals() -> Iterator[Group]:
    """Yield what has to be refused."""
    for name, weights, comment, named in (
        ("negative-weight", [1.0, -0.5], "a weight below 0", {"equation": "FIX-1", "argument": "weights", "task": 1}),
        (
            "nan-weight",
            [float("nan"), 0.5],
            "a weight is NaN",
            {"equation": "FIX-1", "argument": "weights", "task": 0},
        ),
        ("too-many-weights", [1.0] * 3, "three weights for two tasks", {"equation": "FIX-1", "argument": "weights"}),
        ("too-few-weights", [1.0], "one weight for two tasks", {"equation": "FIX-1", "argument": "weights"}),
    ):
        yield Group("step", {"weights": weights}, [Case(name, comment, given(2), refused=named)])
    bad = {**given(2), "losses": [1.0, float("inf")]}
    named = {"argument": "losses", "task": 1}
    yield Group("step", {"weights": [1.0, 0.5]}, [Case("infinite-loss", "a loss is infinite", bad, refused=named)])


def given(K: int, t: int = 2) -> dict[str, Any]:
    """Return the input of a step: the state holds what the method itself put there."""
    return {"state": {}, "losses": inputs.losses(K, t)}


def initial(parameters: State, K: int) -> dict[str, Any]:
    """Return the state before the first step: nothing but the weights, which are a parameter."""
    return {}


def step(parameters: State, state: State, given: Mapping[str, Any]) -> Answer:
    """Return the exact answer to one step."""
    w = fixed.weights(parameters["weights"], len(given["losses"]))
    return Answer(w, w, {"w": w}, {})


RECIPE = Recipe(
    stem="fixed",
    groups=groups,
    initial=initial,
    step=step,
    mandatory=("weights",),
    parameters={"weights": "number or vector"},
    state={},
    terms={"w": "vector"},
    elsewhere={"HeadsUnweighted": "head_weights"},
)

"""The vectors of equal weights: ones, whatever comes in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtlref.exact import equal
from mtlref.vectorgen import inputs
from mtlref.vectorgen.core import Answer, Case, Group, Recipe


def groups() -> Iterator[Group]:
    """Yield the groups."""
    yield Group("step", {}, [*steps(), *refusals()])
    yield Group("run", {}, [Case("run-k4", "eight steps change nothing", {"losses": inputs.losses_run(4, 8)})])


def steps() -> Iterator[Case]:
    """Yield single steps."""
    for K in (1, 2, 3, 4, 8):
        yield Case(f"step-k{K}", f"K = {K}", given(K, inputs.losses(K)))
    yield Case("negative-loss", "a loss may be negative: it is not compared", given(2, [-1.5, 2.0]), edge=True)


def refusals() -> Iterator[Case]:
    """Yield what has to be refused."""
    yield Case("nan-loss", "a loss is NaN", given(2, [1.0, float("nan")]), refused={"argument": "losses", "task": 1})
    yield Case(
        "lengths-differ", "three losses for two tasks", given(2, [1.0, 2.0, 3.0]), refused={"argument": "losses"}
    )


def given(K: int, losses: list[float]) -> dict[str, Any]:
    """Return the input of a step."""
    return {"state": {"weights": [1.0] * K}, "losses": losses}


def initial(parameters: Mapping[str, Any], K: int) -> dict[str, Any]:
    """Return the state before the first step."""
    return {"weights": [1] * K}


def step(parameters: Mapping[str, Any], state: Mapping[str, Any], given: Mapping[str, Any]) -> Answer:
    """Return ones."""
    ones = equal.weights(len(state["weights"]))
    return Answer(ones, ones, {"w": ones}, {"weights": ones})


RECIPE = Recipe(
    stem="equal",
    groups=groups,
    initial=initial,
    step=step,
    mandatory=("weights",),
    parameters={},
    state={"weights": "vector"},
    terms={"w": "vector"},
)

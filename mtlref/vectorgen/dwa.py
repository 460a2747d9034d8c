"""The vectors of Dynamic Weight Average. A step is an epoch; no gradient is read, and no answer has a jump."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtlref.exact import dwa
from mtlref.vectorgen import inputs
from mtlref.vectorgen.core import Answer, Case, Group, Recipe

NAN = float("nan")


def groups() -> Iterator[Group]:
    """Yield the groups."""
    paper = {"temperature": 2.0}
    yield Group("step", paper, [*steps(), *edges(), *refusals()])
    yield Group("step", {"temperature": 0.25}, [*sharp()])
    yield Group("step", {"temperature": 10.0}, [Case("soft-k3", "T = 10", given(3, 4, 1))])
    yield Group("step", {"temperature": 1e-5}, [frozen()])
    yield Group("run", paper, [*runs(), *refused_runs()])
    yield Group("run", {"temperature": 0.5}, [Case("run-sharp-k3", "ten epochs at T = 1/2", run(3, 10, 2))])
    for name, T in (("zero", 0.0), ("negative", -2.0), ("nan", NAN)):
        refused = {"equation": "DWA-2", "argument": "temperature"}
        yield Group("step", {"temperature": T}, [Case(f"temperature-{name}", f"T = {T}", given(2), refused=refused)])


def steps() -> Iterator[Case]:
    """Yield single epochs from injected states."""
    for K in (2, 3, 4, 8):
        yield Case(f"first-epoch-k{K}", f"the first of all epochs: no ratio yet, K = {K}", given(K, None))
        yield Case(f"step-k{K}", f"unequal progress, K = {K}", given(K, 3, 1), catches=("InvertedRatio", "SumToOne"))
    yield Case(
        "hand-k2",
        "by hand: ratios (1/2, 1), so the weights are 2/(1 + e^(1/4)) and 2/(1 + e^(-1/4))",
        {"state": {"weights": [1.0, 1.0], "losses_prev": [2.0, 1.0]}, "losses": [1.0, 1.0]},
    )
    yield Case(
        "far-from-one-k2",
        "constant losses far from 1: the weights stay 1",
        {"state": {"weights": [1.0, 1.0], "losses_prev": [0.01, 10.0]}, "losses": [0.01, 10.0]},
        catches=("LossForRatio",),
    )
    yield Case(
        "first-epoch-far-from-one-k2",
        "the first epoch, losses far from 1: a history of ones would move the weights",
        {"state": {"weights": [1.0, 1.0], "losses_prev": None}, "losses": [0.01, 10.0]},
        catches=("HistoryOfOnes",),
    )


def sharp() -> Iterator[Case]:
    """Yield epochs at a temperature below 1."""
    yield Case("sharp-k3", "T = 1/4", given(3, 4, 1), catches=("NoTemperature", "MultipliedTemperature"))
    yield Case("sharp-k8", "T = 1/4, K = 8", given(8, 2, 5))


def edges() -> Iterator[Case]:
    """Yield the ends of the domain and the range."""
    yield Case("step-k1", "one task: the weight is 1", given(1, 3), edge=True)
    yield Case(
        "zero-loss-k3",
        "a loss of 0 in this epoch: its ratio is 0",
        {"state": {"weights": [1.2, 0.9, 0.9], "losses_prev": [2.0, 0.5, 1.0]}, "losses": [1.0, 0.0, 1.5]},
        edge=True,
    )
    yield Case(
        "all-zero-k2",
        "all losses are 0 in this epoch: equal ratios, equal weights",
        {"state": {"weights": [0.9, 1.1], "losses_prev": [2.0, 0.5]}, "losses": [0.0, 0.0]},
        edge=True,
    )
    yield Case(
        "huge-ratio-k3",
        "a loss that grew a million times takes all of the weight; exp of the ratio is out of range",
        {"state": {"weights": [1.0, 1.0, 1.0], "losses_prev": [1e-3, 2.0, 3.0]}, "losses": [1e3, 1.0, 3.0]},
        edge=True,
    )
    yield Case(
        "tiny-losses-k2",
        "losses near the end of the range: only the ratio counts",
        {"state": {"weights": [1.0, 1.0], "losses_prev": [2e-300, 1e-300]}, "losses": [1e-300, 1e-300]},
        edge=True,
    )


def frozen() -> Case:
    """Return the epoch in which a weight underflows."""
    return Case("frozen-k3", "T = 1e-5: all of the weight on the largest ratio", given(3, 4, 1), edge=True)


def runs() -> Iterator[Case]:
    """Yield runs from the start."""
    for K in (1, 2, 3, 4, 8):
        yield Case(f"run-k{K}", f"ten epochs, K = {K}; the first two use ones", run(K, 10), edge=K == 1)
    yield Case(
        "run-constant-k3",
        "losses that never move, far from 1: the weights are 1 in every epoch",
        {"losses": [[0.01, 10.0, 3.0]] * 8},
    )


def refusals() -> Iterator[Case]:
    """Yield epochs that have to be refused."""
    state = {"weights": [1.0, 1.0], "losses_prev": [2.0, 1.0]}
    for name, loss in (("negative", -1.0), ("nan", NAN), ("infinite", float("inf"))):
        yield Case(
            f"{name}-loss",
            f"a loss of {loss}",
            {"state": state, "losses": [1.0, loss]},
            refused={"equation": "DWA-1", "argument": "losses", "task": 1},
        )
    yield Case(
        "zero-before",
        "a loss of 0 in the epoch before: the ratio divides by it",
        {"state": {"weights": [1.0, 1.0], "losses_prev": [0.0, 1.0]}, "losses": [1.0, 1.0]},
        refused={"equation": "DWA-1", "argument": "losses_prev", "task": 0},
    )
    yield Case(
        "negative-before",
        "a loss below 0 in the epoch before",
        {"state": {"weights": [1.0, 1.0], "losses_prev": [1.0, -1.0]}, "losses": [1.0, 1.0]},
        refused={"equation": "DWA-1", "argument": "losses_prev", "task": 1},
    )
    yield Case(
        "ratio-overflows",
        "the ratio is beyond the largest double",
        {"state": {"weights": [1.0, 1.0], "losses_prev": [1.0, 1e-200]}, "losses": [1.0, 1e200]},
        refused={"equation": "DWA-1", "task": 1},
    )
    yield Case(
        "lengths-differ",
        "three losses for two tasks",
        {"state": state, "losses": [1.0, 2.0, 3.0]},
        refused={"equation": "DWA-1", "argument": "losses"},
    )


def refused_runs() -> Iterator[Case]:
    """Yield a run whose last epoch has to be refused."""
    yield Case(
        "run-zero-then-on",
        "a loss of 0 is fine in its epoch, and divides the next",
        {"losses": [[2.0, 1.0], [1.0, 0.5], [0.0, 0.4], [0.5, 0.3]]},
        refused={"equation": "DWA-1", "argument": "losses_prev", "task": 0, "step": 3},
    )


def given(K: int, t: int | None = 3, salt: int = 0) -> dict[str, Any]:
    """Return the input of an epoch that follows epoch t, or of the first."""
    before = None if t is None else inputs.losses(K, t, salt)
    now = inputs.losses(K, 0 if t is None else t + 2, salt)
    return {"state": {"weights": inputs.weights(K, salt), "losses_prev": before}, "losses": now}


def run(K: int, epochs: int, salt: int = 0) -> dict[str, Any]:
    """Return the input of a run."""
    return {"losses": inputs.losses_run(K, epochs, salt)}


def initial(parameters: Mapping[str, Any], K: int) -> dict[str, Any]:
    """Return the state before the first epoch."""
    return {"weights": [1] * K, "losses_prev": None}


def step(parameters: Mapping[str, Any], state: Mapping[str, Any], given: Mapping[str, Any]) -> Answer:
    """Return the exact answer to one epoch."""
    L, w = given["losses"], state["weights"]
    w_next = dwa.weights(L, state["losses_prev"], temperature=parameters["temperature"])
    terms = {"ratio": dwa.ratios(L, state["losses_prev"]), "w_next": w_next}
    return Answer(w, w, terms, {"weights": w_next, "losses_prev": L})


RECIPE = Recipe(
    stem="dwa",
    groups=groups,
    initial=initial,
    step=step,
    mandatory=("weights", "w_next"),
    parameters={"temperature": "number"},
    state={"weights": "vector", "losses_prev": "vector or null"},
    terms={"ratio": "vector", "w_next": "vector"},
    elsewhere={"HeadsUnweighted": "head_weights"},
)

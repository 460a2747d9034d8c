"""The vectors of CoV-Weighting. No gradient is read; the one jump is where no loss varies at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from mtlref.exact import cov, fraction, square_root
from mtlref.vectorgen import inputs
from mtlref.vectorgen.core import Answer, Case, Group, Recipe, State

START = ("COV-C1", "COV-C2")
"""What decides the first step's weights: they are 0/0 in the paper, and 1/K here."""


def groups() -> Iterator[Group]:
    """Yield the groups."""
    yield group("step", [*steps(), *still(), *refusals()])
    yield group("step", [state_case("decayed-k3", 3, 4), state_case("decayed-k8", 8, 6)], decay=0.9)
    yield group("run", [*runs(), *refused_runs()])
    yield group("run", [run("run-decayed-k3", 3, 10, 1), run("run-decayed-k4", 4, 8, 3)], decay=0.75)
    more = ("COV-C3",)
    yield group("run", [run(f"run-previous-k{K}", K, 9, K, more) for K in (2, 3)], statistics="previous")
    yield group("step", [state_case("previous-k4", 4, 5, more)], statistics="previous")
    more = ("COV-C5",)
    yield group("run", [run(f"run-of-losses-k{K}", K, 9, K, more) for K in (3, 4)], observed="loss")
    yield group("step", [state_case("of-losses-k3", 3, 5, more), *lost()], observed="loss")
    yield from refused_parameters()


def group(kind: Any, cases: list[Case], **changed: Any) -> Group:
    """Return a group at the defaults, but for what is `changed`."""
    parameters = {"statistics": "current", "decay": None, "observed": "ratio"} | changed
    choices = {"COV-C1": "ratio 1", "COV-C2": "1/K", "COV-C3": parameters["statistics"]}
    choices |= {"COV-C4": "every step alike" if parameters["decay"] is None else "shares that sum to 1"}
    return Group(kind, parameters, cases, {**choices, "COV-C5": parameters["observed"]})


def steps() -> Iterator[Case]:
    """Yield single steps from injected statistics."""
    for K in (2, 3, 4, 8):
        yield state_case(f"step-k{K}", K, 4 + K)
        yield state_case(f"step-late-k{K}", K, 30 + K)
    yield Case(
        "hand-k2",
        "by hand, t = 2: ratios (1/2, 3) after (1, 1), so c = (1/3, 1/2) and the weights are (2/5, 3/5)",
        given(1, [2.0, 2.0], [1.0, 1.0], [0.0, 0.0], [0.5, 0.5], [1.0, 6.0]),
        catches=("SumToK", "SoftmaxWeights", "InvertedWeights", "DeviationAlone", "VarianceForDeviation"),
    )
    yield Case(
        "nearly-constant-k3",
        "losses that vary by a hundred thousandth: only the ratio of the variations counts",
        given(9, [2.0, 0.5, 4.0], [1.0] * 3, [1e-10, 4e-10, 9e-10], [0.2, 0.3, 0.5], [2.0, 0.5, 4.0]),
        catches=("FloorUnderRoot",),
    )


def still() -> Iterator[Case]:
    """Yield losses of which one, or none, varies."""
    yield Case(
        "first-k3",
        "the first step: equal weights",
        given(0, None, [0.0] * 3, [0.0] * 3, [1 / 3] * 3, [2.0, 0.5, 7.0]),
        edge=True,
        choices=START,
    )
    yield Case(
        "first-given-mean-k3",
        "the first step with a mean loss of one's own (COV-C1)",
        given(0, [2.5, 0.5, 6.0], [0.0] * 3, [0.0] * 3, [1 / 3] * 3, [2.0, 0.5, 7.0]),
        edge=True,
        choices=START,
    )
    yield Case(
        "constant-k2",
        "no loss has ever varied: equal weights",
        given(5, [2.0, 0.5], [1.0, 1.0], [0.0, 0.0], [0.5, 0.5], [2.0, 0.5]),
        edge=True,
        choices=("COV-C2",),
    )
    yield Case(
        "one-constant-k3",
        "one loss has never varied: its weight is 0",
        given(5, [2.0, 0.5, 1.0], [1.0, 1.25, 0.5], [0.0, 0.25, 0.04], [0.0, 0.5, 0.5], [2.0, 1.0, 0.75]),
        edge=True,
    )
    yield Case("step-k1", "one task: the weight is 1", given(3, [2.0], [1.0], [0.25], [1.0], [1.0]), edge=True)
    yield Case(
        "zero-loss-k2",
        "a loss of 0: its ratio is 0",
        given(3, [2.0, 1.0], [1.0, 0.75], [0.25, 0.04], [0.5, 0.5], [0.0, 1.25]),
        edge=True,
    )


def runs() -> Iterator[Case]:
    """Yield runs from the start."""
    for K in (1, 2, 3, 4, 8):
        yield run(f"run-k{K}", K, 10, K)
    losses = [[value, 3.0] for value in (2.0, 4.0, 1.0, 2.0, 8.0, 1.0, 1.0, 3.0)]
    comment = "a loss that never varies beside one that does: its weight is 0 from the second step on"
    yield Case("run-one-constant-k2", comment, {"losses": losses}, choices=START)


def refusals() -> Iterator[Case]:
    """Yield steps that have to be refused."""
    good = given(3, [2.0, 1.0], [1.0, 0.75], [0.25, 0.04], [0.5, 0.5], [1.0, 1.0])
    for name, loss in (("negative", -1.0), ("nan", float("nan")), ("infinite", float("inf"))):
        named = {"equation": "COV-2", "argument": "losses", "task": 1}
        yield Case(f"{name}-loss", f"a loss of {loss}", {**good, "losses": [1.0, loss]}, refused=named)
    named = {"equation": "COV-2", "argument": "losses"}
    yield Case("lengths-differ", "three losses for two tasks", {**good, "losses": [1.0, 2.0, 3.0]}, refused=named)
    named = {"equation": "COV-2", "argument": "loss_means", "task": 0}
    bad = given(3, [0.0, 1.0], [1.0, 0.75], [0.25, 0.04], [0.5, 0.5], [1.0, 1.0])
    yield Case("zero-mean", "a mean loss of 0: the ratio divides by it", bad, refused=named)
    bad = given(3, [-2.0, 1.0], [1.0, 0.75], [0.25, 0.04], [0.5, 0.5], [1.0, 1.0])
    yield Case("negative-mean", "a mean loss below 0", bad, refused=named)
    named = {"equation": "COV-5", "argument": "state.M", "task": 1}
    bad = given(3, [2.0, 1.0], [1.0, 0.75], [0.25, -0.04], [0.5, 0.5], [1.0, 1.0])
    yield Case("negative-variance", "a variance below 0", bad, refused=named)
    for name, mean in (("zero", 0.0), ("negative", -0.75)):
        named = {"equation": "COV-6", "argument": "ratio_means", "task": 1}
        bad = given(3, [2.0, 1.0], [1.0, mean], [0.25, 0.0], [0.5, 0.5], [1.0, 0.0])
        yield Case(f"{name}-ratio-mean", f"a mean ratio of {mean}, and a loss of 0", bad, refused=named)


def lost() -> Iterator[Case]:
    """Yield steps with a deviation whose square is below the range, to either side of the mean."""
    named = {"equation": "COV-5", "argument": "ratio", "task": 1}
    for name, loss in (("above", 3e-200), ("below", 1e-200)):
        bad = given(3, [2.0, 2e-200], [2.0, 2e-200], [0.25, 0.0], [0.5, 0.5], [1.0, loss])
        yield Case(f"square-lost-{name}", f"a loss of {loss} after a mean of 2e-200", bad, refused=named)


def refused_runs() -> Iterator[Case]:
    """Yield a run whose last step has to be refused."""
    named = {"equation": "COV-2", "argument": "loss_means", "task": 0, "step": 1}
    made = {"losses": [[0.0, 1.0], [1.0, 1.0]]}
    yield Case("run-zero-first", "a first loss of 0 divides the second", made, refused=named)


def refused_parameters() -> Iterator[Group]:
    """Yield hyper-parameters that have to be refused, whatever the input."""
    for name, changed, tag in (
        ("decay-one", {"decay": 1.0}, "COV-1"),
        ("decay-above-one", {"decay": 1.5}, "COV-1"),
        ("decay-zero", {"decay": 0.0}, "COV-1"),
        ("statistics-unknown", {"statistics": "next"}, "COV-8"),
        ("observed-unknown", {"observed": "gradient"}, "COV-2"),
    ):
        named = {"equation": tag, "argument": next(iter(changed))}
        made = given(1, [2.0, 2.0], [1.0, 1.0], [0.0, 0.0], [0.5, 0.5], [1.0, 3.0])
        yield group("step", [Case(name, f"{changed}", made, refused=named)], **changed)


# INPUTS


def given(t: int, mu_L: Any, mu_ratio: Any, M: Any, alpha: Any, losses: list[float]) -> dict[str, Any]:
    """Return the input of the step after t, from these statistics."""
    state = {"step": t, "loss_means": mu_L, "ratio_means": mu_ratio, "M": M, "weights": alpha}
    return {"state": state, "losses": losses}


def state_case(name: str, K: int, t: int, choices: tuple[str, ...] = ()) -> Case:
    """Return a step from statistics that differ from task to task."""
    mu_ratio = [round(0.55 + ((3 * i + t) % 8) / 10, 2) for i in range(K)]
    M = [round(((5 * i + t) % 9 + 1) ** 2 / 400, 4) for i in range(K)]
    alpha = [round(w / K, 4) for w in inputs.weights(K, t)]
    made = given(t, inputs.losses(K, 2, t), mu_ratio, M, alpha, inputs.losses(K, 5, t + 1))
    return Case(name, f"the step after {t}, K = {K}, unequal statistics", made, choices=choices)


def run(name: str, K: int, steps: int, salt: int, choices: tuple[str, ...] = ()) -> Case:
    """Return a run from the start."""
    comment = f"{steps} steps from the start, K = {K}"
    return Case(name, comment, {"losses": inputs.losses_run(K, steps, salt)}, edge=K == 1, choices=(*START, *choices))


# ANSWERS


def initial(parameters: State, K: int) -> dict[str, Any]:
    """Return the state before the first step."""
    zeros = [Fraction(0)] * K
    return {"step": 0, "loss_means": None, "ratio_means": zeros, "M": zeros, "weights": [Fraction(1, K)] * K}


def step(parameters: State, state: State, given: Mapping[str, Any]) -> Answer:
    """Return the exact answer to one step."""
    decay, observed = parameters["decay"], parameters["observed"]
    held = (state["step"], state["loss_means"], state["ratio_means"], state["M"])
    now = cov.step(*held, given["losses"], decay=decay, observed=observed)
    alpha = cov.weights(now["M"], now["mu_ratio"])
    w = alpha if parameters["statistics"] == "current" else state["weights"]
    terms = {
        "gain": cov.newest_share(now["t"], None if decay is None else fraction(decay)),
        "ratio": now["ratio"],
        "mu_L": now["mu_L"],
        "mu_ratio": now["mu_ratio"],
        "M": now["M"],
        "c": [square_root(M) / mu for M, mu in zip(now["M"], now["mu_ratio"], strict=True)],
        "alpha": alpha,
        "w": w,
    }
    kept = {"loss_means": now["mu_L"], "ratio_means": now["mu_ratio"], "M": now["M"]}
    decided = () if any(now["M"]) else ("COV-C2",)
    return Answer(w, w, terms, {"step": now["t"], **kept, "weights": alpha}, decided=decided)


RECIPE = Recipe(
    stem="cov",
    groups=groups,
    initial=initial,
    step=step,
    mandatory=("weights", "alpha"),
    parameters={"statistics": "string", "decay": "number or null", "observed": "string"},
    state={
        "step": "count",
        "loss_means": "vector or null",
        "ratio_means": "vector",
        "M": "vector",
        "weights": "vector",
    },
    terms={
        "gain": "scalar",
        "ratio": "vector",
        "mu_L": "vector",
        "mu_ratio": "vector",
        "M": "vector",
        "c": "vector",
        "alpha": "vector",
        "w": "vector",
    },
    elsewhere={"HeadsUnweighted": "head_weights"},
)

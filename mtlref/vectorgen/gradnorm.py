"""The vectors of GradNorm. Its answers jump where a norm meets its target, and where a weight is 0.

The exact oracle decides every sign, so a tie is a tie. What it has no function for, the clamp of GN-C3, is put
together here from the oracle's own parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from mtlref.exact import Exact, Number, fraction, gradnorm
from mtlref.vectorgen import inputs
from mtlref.vectorgen.core import Answer, Case, Group, Recipe

NAN, INFINITY = float("nan"), float("inf")

ADAM = {"name": "adam", "lr": 0.025, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
"""The optimiser of the paper's experiments."""

SHAPES = ((2, 5), (3, 2), (3, 7), (4, 3), (4, 9), (8, 5), (8, 11))
"""K and D: fewer dimensions than tasks, and more; never the same."""


def groups() -> Iterator[Group]:
    """Yield the groups."""
    yield group("step", [*steps(), *edges(), *refusals()])
    yield group("step", list(equal_norms()), alpha=0.0)
    yield group("step", list(hand()), alpha=1.0, lr=0.01)
    yield group("step", list(toy()), alpha=0.12, lr=0.05)
    yield group("step", list(below_zero("keep")), alpha=1.0, lr=0.25)
    yield group("step", list(below_zero("clamp")), alpha=1.0, lr=0.25, negative="clamp")
    yield group("step", list(adam_steps()), optimiser=ADAM)
    yield group("run", [*runs(), *refused_runs()])
    yield group("run", [run_case("run-toy-k3", "ten steps at alpha = 0.12", 3, 4, 10, 4)], alpha=0.12, lr=0.01)
    yield group("run", [run_case("run-adam-k3", "ten steps with Adam", 3, 5, 10, 2)], optimiser=ADAM)
    yield group("run", [run_case("run-theory-k3", "L(0) is set", 3, 4, 4, 5)], initial_losses=[2.3, 0.7, 5.0])
    yield from refused_parameters()


def group(kind: Any, cases: Sequence[Case], **changed: Any) -> Group:
    """Return a group at the defaults, but for what is `changed`."""
    usual = {"alpha": 1.5, "lr": 0.025, "optimiser": None, "negative": "keep", "initial_losses": None}
    parameters = usual | changed
    rule = "SGD(lr)" if parameters["optimiser"] is None else "Adam"
    start = "the losses of the first step" if parameters["initial_losses"] is None else "given"
    choices = {"GN-C1": rule, "GN-C2": start, "GN-C3": parameters["negative"]}
    return Group(kind, parameters, cases, choices)


def steps() -> Iterator[Case]:
    """Yield single steps from injected states, away from every tie."""
    for K, D in SHAPES:
        size = "more tasks than dimensions" if K > D else "more dimensions than tasks"
        yield Case(f"step-k{K}-d{D}", f"unequal progress, weights and norms; {size}", given(K, D, 5, 2))
        yield Case(f"step-late-k{K}-d{D}", f"another state, later; {size}", given(K, D, 9, 1))
    for K, D in ((2, 3), (3, 5), (4, 2)):
        first = given(K, D, 0, 1)
        state: dict[str, Any] = {"weights": [1.0] * K, "initial_losses": None, "optimiser": {}}
        yield Case(f"first-step-k{K}-d{D}", "the first step: L(0) is not known, r = 1", {**first, "state": state})


def equal_norms() -> Iterator[Case]:
    """Yield steps at alpha = 0: the targets are the mean norm."""
    for K, D in ((2, 3), (3, 2), (4, 6), (8, 3)):
        yield Case(f"alpha0-k{K}-d{D}", "alpha = 0: progress does not count", given(K, D, 3, 4))
    yield Case(
        "alpha0-zero-loss",
        "a loss of 0 at alpha = 0: 0 to the power 0 is 1",
        hand_given([1.0, 1.0, 1.0], [2.0, 2.0, 4.0], [2.0, 0.0, 1.0], [3.0, 5.0, 9.0]),
        edge=True,
    )
    yield Case(
        "tie-one-of-three",
        "norms 3, 4, 5 with mean 4: the second sits on its target, and sign(0) = 0",
        hand_given([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.5, 0.7, 0.9], [3.0, 4.0, 5.0]),
        edge=True,
    )
    yield Case(
        "tie-all-weighted",
        "weights times norms are all 1: every norm sits on its target, nothing moves",
        hand_given([2.0, 0.5, 0.5], [1.0, 1.0, 1.0], [0.5, 0.7, 0.9], [0.5, 2.0, 2.0]),
        edge=True,
    )


def hand() -> Iterator[Case]:
    """Yield steps that can be followed by hand."""
    yield Case(
        "hand-k3",
        "r = (12/7, 6/7, 3/7), targets (48/7, 24/7, 12/7), slope (-3, 4, 5), weights (103, 96, 95)/98",
        hand_given([1.0, 1.0, 1.0], [2.0, 2.0, 4.0], [2.0, 1.0, 1.0], [3.0, 4.0, 5.0]),
        catches=("InvertedRate", "TargetNotDetached", "SquaredDistance", "SignOnly", "SumToOne"),
    )
    yield Case(
        "pythagoras-k2-d2",
        "norms of 5 and 13 from rows with two entries",
        {**hand_given([1.25, 0.75], [1.0, 3.0], [0.5, 2.5], [1.0, 1.0]), "jacobian": [[3.0, -4.0], [5.0, 12.0]]},
        catches=("RawNorms", "SquaredNorms", "MeanForSum"),
    )


def toy() -> Iterator[Case]:
    """Yield steps at the exponent of the paper's toy example."""
    for K, D in ((2, 4), (3, 4), (4, 7), (8, 2)):
        yield Case(f"toy-k{K}-d{D}", "alpha = 0.12, the paper's toy value", given(K, D, 6, 3, 0.2))


def edges() -> Iterator[Case]:
    """Yield ties, zeros, and the ends of the range."""
    ones, start, now = [1.0, 1.0, 1.0], [2.0, 2.0, 4.0], [2.0, 1.0, 1.0]
    yield Case("step-k1", "one task is always on its target", hand_given([1.0], [2.0], [1.0], [3.0]), edge=True)
    yield Case(
        "zero-loss",
        "a loss of 0 after the start: r = 0",
        hand_given(ones, start, [2.0, 0.0, 1.0], [3.0, 4.0, 5.0]),
        edge=True,
    )
    yield Case(
        "zero-gradient",
        "no gradient: G = 0, the weight stands still",
        hand_given(ones, start, now, [3.0, 0.0, 5.0]),
        edge=True,
    )
    yield Case(
        "no-gradients", "all gradients are 0: nothing moves", hand_given(ones, start, now, [0.0, 0.0, 0.0]), edge=True
    )
    yield Case(
        "zero-weight",
        "a weight of 0: sign(0) = 0, it stands still",
        hand_given([0.0, 1.25, 1.75], start, now, [3.0, 4.0, 5.0]),
        edge=True,
    )
    tiny = {
        **hand_given([1.25, 0.75], [1.0, 3.0], [0.5, 2.5], [1.0, 1.0]),
        "jacobian": [[3e-200, 4e-200], [6e-200, 8e-200]],
    }
    yield Case("tiny-gradients", "the squares of the entries underflow, the norms do not", tiny, edge=True)
    yield Case(
        "tiny-losses", "losses near the end of the range: only their ratios count",
        hand_given(ones, [2e-300, 2e-300, 4e-300], [2e-300, 1e-300, 1e-300], [3.0, 4.0, 5.0]), edge=True,
    )  # fmt: skip


def below_zero(negative: str) -> Iterator[Case]:
    """Yield updates that take a weight below 0, or start there: GN-C3 decides."""
    yield Case(
        f"goes-negative-{negative}",
        "the update takes two weights below 0",
        hand_given([1.5, 0.75, 0.75], [2.0, 2.0, 4.0], [2.0, 1.0, 1.0], [4.0, 5.0, 8.0]),
        choices=("GN-C3",),
        catches=("AbsoluteSum",) if negative == "keep" else (),
    )
    if negative == "keep":
        yield Case(
            "is-negative-keep",
            "a weight is negative already: its slope has the other sign",
            hand_given([3.0, -0.5, 0.5], [2.0, 2.0, 4.0], [2.0, 1.0, 1.0], [1.0, 2.0, 0.5]),
            choices=("GN-C3",),
        )


def adam_steps() -> Iterator[Case]:
    """Yield steps with Adam on the weights: at the first one only signs count, later the moments do."""
    first = given(3, 5, 5, 2)
    state = {**first["state"], "optimiser": {"step": 0, "first_moment": [0.0] * 3, "second_moment": [0.0] * 3}}
    yield Case("adam-first-k3", "Adam's first step", {**first, "state": state}, choices=("GN-C1",))
    moments = {"step": 4, "first_moment": [0.6, -1.1, 0.4], "second_moment": [0.02, 0.05, 0.3]}
    later = {**first, "state": {**first["state"], "optimiser": moments}}
    yield Case("adam-later-k3", "Adam's fifth step, from injected moments", later, choices=("GN-C1",))


def runs() -> Iterator[Case]:
    """Yield runs from the start."""
    yield run_case("run-k2-d3", "twelve steps", 2, 3, 12, 1)
    yield run_case("run-k3-d2", "ten steps, more tasks than dimensions", 3, 2, 10, 2)
    yield run_case("run-k3-d8", "ten steps", 3, 8, 10, 5)
    yield run_case("run-k4-d6", "ten steps", 4, 6, 10, 3)
    yield run_case("run-k8-d3", "eight steps, more tasks than dimensions", 8, 3, 8, 5)
    chosen = run_case("run-given-start-k3", "L(0) is given (GN-C2), the weights start unequal", 3, 4, 8, 6)
    state = {"weights": [1.5, 0.7, 0.8], "initial_losses": [3.0, 0.7, 9.0], "optimiser": {}}
    yield Case(chosen.id, chosen.comment, {"state": state, **chosen.input}, choices=("GN-C2",))


def refusals() -> Iterator[Case]:
    """Yield steps that have to be refused."""
    start, norms = [2.0, 2.0, 4.0], [3.0, 4.0, 5.0]
    for name, loss in (("negative", -1.0), ("nan", NAN), ("infinite", INFINITY)):
        named = {"equation": "GN-3", "argument": "losses", "task": 1}
        bad = hand_given([1.0] * 3, start, [2.0, loss, 1.0], norms)
        yield Case(f"{name}-loss", f"a loss of {loss}", bad, refused=named)
    named = {"equation": "GN-3", "argument": "initial_losses", "task": 2}
    bad = hand_given([1.0] * 3, [2.0, 2.0, 0.0], [2.0, 1.0, 1.0], norms)
    yield Case("zero-initial-loss", "a first loss of 0: the rate divides by it", bad, refused=named)
    bad = hand_given([1.0] * 3, [2.0, 2.0, -4.0], [2.0, 1.0, 1.0], norms)
    yield Case("negative-initial-loss", "a first loss below 0", bad, refused=named)
    bad = hand_given([1.0] * 3, start, [0.0, 0.0, 0.0], norms)
    yield Case(
        "all-losses-zero", "the mean of the rates is 0", bad, refused={"equation": "GN-3", "argument": "losses"}
    )
    bad = hand_given([1.0] * 3, start, [2.0, 1.0, 1.0], [3.0, NAN, 5.0])
    yield Case("nan-gradient", "a NaN in row 1", bad, refused={"equation": "GN-1", "argument": "jacobian", "task": 1})
    bad = {**hand_given([1.0, 1.0], [1.0, 1.0], [1.0, 2.0], norms), "jacobian": [[1.0, 0.0], [1.5e308, 1.5e308]]}
    yield Case(
        "norm-overflows", "finite entries, a norm beyond the range", bad, refused={"equation": "GN-1", "task": 1}
    )
    bad = {**hand_given([1.0] * 3, start, [2.0, 1.0, 1.0], norms), "jacobian": None}
    yield Case("no-jacobian", "GradNorm reads gradients", bad, refused={"equation": "GN-1", "argument": "jacobian"})
    bad = hand_given([1.0] * 3, start, [2.0, 1.0, 1.0], [3.0, 4.0])
    yield Case("rows-differ", "two rows for three tasks", bad, refused={"equation": "GN-1", "argument": "jacobian"})
    bad = hand_given([1.0] * 3, start, [2.0, 1.0], norms)
    yield Case(
        "lengths-differ", "two losses for three tasks", bad, refused={"equation": "GN-3", "argument": "losses"}
    )
    bad = hand_given([1.0] * 3, [1.0] * 3, [1.0, 1.0, 1.0], [10.0, 80.0, 90.0])
    named = {"equation": "GN-7", "argument": "lr", "task": 2}
    yield Case("sum-not-positive", "the update takes the sum of the weights below 0", bad, refused=named)
    bad = hand_given([1.0] * 3, [1.0] * 3, [1.0, 1.0, 1.0], [20.0, 60.0, 80.0])
    yield Case("sum-zero", "the update takes the sum of the weights to 0", bad, refused=named)


def refused_runs() -> Iterator[Case]:
    """Yield a run whose last step has to be refused."""
    losses = [[2.0, 1.0], [1.5, 0.9], [0.0, 0.0]]
    jacobian = [[[3.0, 4.0], [1.0, 0.0]]] * 3
    named = {"equation": "GN-3", "argument": "losses", "step": 2}
    yield Case("run-ends-at-zero", "all losses reach 0", {"losses": losses, "jacobian": jacobian}, refused=named)


def refused_parameters() -> Iterator[Group]:
    """Yield hyper-parameters that have to be refused, whatever the input."""
    for name, changed, named in (
        ("alpha-negative", {"alpha": -1.5}, {"equation": "GN-4", "argument": "alpha"}),
        ("alpha-nan", {"alpha": NAN}, {"equation": "GN-4", "argument": "alpha"}),
        ("lr-zero", {"lr": 0.0}, {"argument": "lr"}),
        ("negative-unknown", {"negative": "absolute"}, {"equation": "GN-7", "argument": "negative"}),
        ("start-zero", {"initial_losses": [1.0, 0.0]}, {"equation": "GN-3", "argument": "initial_losses", "task": 1}),
        ("start-nan", {"initial_losses": [NAN, 1.0]}, {"argument": "initial_losses"}),
    ):
        yield group("step", [Case(name, f"{changed}", given(2, 3, 5, 2), refused=named)], **changed)


# INPUTS


def given(K: int, D: int, t: int, salt: int, scale: float = 1.0) -> dict[str, Any]:
    """Return the input of step t, from an injected state."""
    state = {"weights": inputs.weights(K, salt), "initial_losses": inputs.losses(K), "optimiser": {}}
    return {"state": state, "losses": inputs.losses(K, t, salt), "jacobian": inputs.gradients(K, D, t, salt, scale)}


def hand_given(w: list[float], L_0: list[float], L: list[float], n: list[float]) -> dict[str, Any]:
    """Return the input of a step with orthogonal gradients of the norms n."""
    return {
        "state": {"weights": w, "initial_losses": L_0, "optimiser": {}},
        "losses": L,
        "jacobian": inputs.diagonal(*n),
    }


def run_case(name: str, comment: str, K: int, D: int, steps: int, salt: int, scale: float = 0.3) -> Case:
    """Return a run from the start."""
    made = {"losses": inputs.losses_run(K, steps, salt), "jacobian": inputs.gradients_run(K, D, steps, salt, scale)}
    return Case(name, comment, made)


# ANSWERS


def initial(parameters: Mapping[str, Any], K: int) -> dict[str, Any]:
    """Return the state before the first step."""
    rule = {} if parameters["optimiser"] is None else {"step": 0, "first_moment": [0] * K, "second_moment": [0] * K}
    return {"weights": [1] * K, "initial_losses": parameters["initial_losses"], "optimiser": rule}


def step(parameters: Mapping[str, Any], state: Mapping[str, Any], given: Mapping[str, Any]) -> Answer:
    """Return the exact answer to one step."""
    w, L, rows = state["weights"], given["losses"], given["jacobian"]
    L_0 = L if state["initial_losses"] is None else state["initial_losses"]
    alpha, lr, optimiser = parameters["alpha"], parameters["lr"], parameters["optimiser"]
    after: Mapping[str, Any] = {}
    terms: Mapping[str, Any]
    if optimiser is not None:
        known = state["optimiser"]
        moments = gradnorm.Moments(t=known["step"], m=tuple(known["first_moment"]), v=tuple(known["second_moment"]))
        rates = {"beta_1": optimiser["beta1"], "beta_2": optimiser["beta2"], "eps": optimiser["eps"]}
        found = gradnorm.step_adam(w, L_0, L, rows, alpha=alpha, lr=optimiser["lr"], moments=moments, **rates)
        terms = {name: value for name, value in found.items() if name != "moments"}
        moments = found["moments"]
        after = {"step": moments["t"], "first_moment": moments["m"], "second_moment": moments["v"]}
    elif parameters["negative"] == "clamp":
        terms = {**clamped(w, L_0, L, rows, alpha, lr)}
    else:
        terms = {**gradnorm.step(w, L_0, L, rows, alpha=alpha, lr=lr)}
    left = {"weights": terms["w_next"], "initial_losses": L_0, "optimiser": after}
    floor = Fraction(0) if parameters["negative"] == "keep" else Fraction(1, 10**9)
    decided = ("GN-C3",) if min(fraction(x) for x in terms["w_next"]) < floor else ()
    return Answer(w, w, terms, left, gap(w, terms), decided)


def clamped(w: Any, L_0: Any, L: Any, rows: Any, alpha: float, lr: float) -> gradnorm.Step:
    """Return the step in which weights below 0 become 0 before the renormalisation."""
    now = gradnorm.balance(w, L_0, L, rows, fraction(alpha))
    u = [max(Fraction(0), w_i - fraction(lr) * dw) for w_i, dw in zip(now.w, now.dw, strict=True)]
    return gradnorm.report(now, gradnorm.renormalise(u), now.rational)


def gap(w: Sequence[Number], terms: Mapping[str, Any]) -> float:
    """Return the smallest relative distance of a norm from its target, and of a weight from 0."""
    exact: list[tuple[Exact, Exact]] = [*zip(terms["G"], terms["target"], strict=True)]
    pairs = [(fraction(G), fraction(target)) for G, target in exact]
    gaps = [abs(G - target) / max(G, target) if max(G, target) else Fraction(0) for G, target in pairs]
    return float(min([*gaps, *(abs(fraction(x)) for x in w)]))


RECIPE = Recipe(
    stem="gradnorm",
    groups=groups,
    initial=initial,
    step=step,
    mandatory=("weights", "w_next"),
    parameters={
        "alpha": "number",
        "lr": "number",
        "optimiser": "optimiser or null",
        "negative": "string",
        "initial_losses": "vector or null",
    },
    state={"weights": "vector", "initial_losses": "vector or null", "optimiser": "optimiser state"},
    terms={
        "G": "vector",
        "G_bar": "scalar",
        "r": "vector",
        "target": "vector",
        "L_grad": "scalar",
        "dw": "vector",
        "w_next": "vector",
    },
    reads=("losses", "jacobian"),
    elsewhere={"HeadsUnweighted": "head_weights"},
)

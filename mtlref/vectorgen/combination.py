"""The vectors of the combination. Its answers jump where those of its stages do.

The stages are answered by the exact steps of their own files here, each on the raw losses and gradients; what
combines them is in `mtlref.exact.combination`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from mtlref.exact import combination as exact
from mtlref.exact import fixed as exact_fixed
from mtlref.exact import uncertainty as exact_uncertainty
from mtlref.vectorgen import cov, dwa, equal, fixed, gradnorm, inputs, pcgrad, pe_ltr, uncertainty
from mtlref.vectorgen.core import Answer, Case, Group, Recipe, State

RECIPES: Mapping[str, Recipe] = {
    module.RECIPE.stem: module.RECIPE for module in (equal, fixed, gradnorm, uncertainty, dwa, cov, pcgrad, pe_ltr)
}
"""The recipes of the stages, by stem."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "equal": {},
    "fixed": {"weights": 1.0},
    "gradnorm": {"alpha": 1.5, "lr": 0.025, "optimiser": None, "negative": "keep", "initial_losses": None},
    "uncertainty": {"likelihoods": "gaussian", "lr": 0.05, "optimiser": None, "dimensions": None},
    "dwa": {"temperature": 2.0},
    "cov": {"statistics": "current", "decay": None, "observed": "ratio"},
    "pcgrad": {"include_self": False, "reduction": "sum"},
    "pe_ltr": {"bounds": None, "solver": "published", "timing": "next"},
}
"""Settings of the stages: the vectors' own, where a case does not change them."""

SURGERY = {(2, 3): 1, (3, 2): 2, (3, 3): 1, (4, 3): 0, (4, 7): 0, (8, 5): 5}
"""K and D, fewer dimensions than tasks, as many, and more; and the salt of a problem of that shape."""

BALANCE = {(2, 3): 2, (3, 2): 1, (3, 3): 2, (4, 3): 3, (4, 6): 1, (8, 9): 2}
"""The same for PE-LTR: one dimension less than tasks is the fewest without affine dependence."""


def groups() -> Iterator[Group]:
    """Yield the groups."""
    yield from by_hand()
    for (K, D), salt in SURGERY.items():
        yield from surgical(K, D, salt)
    for (K, D), salt in BALANCE.items():
        yield from balanced(K, D, salt)
    yield from waiting()
    yield from runs()
    yield from single()
    yield from refused_steps()
    yield from refused_parameters()


def group(
    kind: Any, cases: Sequence[Case], *stages: Mapping[str, Any], epoch: int | None = None, **more: Any
) -> Group:
    """Return a group of a combination of `stages`."""
    choices = {"COMB-C3": "raw losses and gradients", "COMB-C4": "sum K", "COMB-C5": "loss-level weights"}
    parameters = {"stages": list(stages), "epoch_steps": epoch}
    return Group(kind, parameters, cases, {"COMB-C2": "a number of steps" if epoch else "none", **choices}, **more)


def stage(method: str, strength: float = 1.0, **changed: Any) -> dict[str, Any]:
    """Return the parameters of a stage: `DEFAULTS`, but for what is `changed`."""
    return {"method": method, "strength": strength, **DEFAULTS[method], **changed}


def by_hand() -> Iterator[Group]:
    """Yield steps that can be followed by hand."""
    statistics = cov.given(1, [2.0, 2.0], [1.0, 1.0], [0.0, 0.0], [0.5, 0.5], [0.5, 0.5])["state"]
    made = given([{}, statistics], [1.0, 6.0], [[3.0, -1.0, 0.0], [0.0, 1.0, 2.0]])
    comment = "by hand: CoV gives (2/5, 3/5), priorities of (3, 1) make it (6, 3)/5, so (4/3, 2/3)"
    hand = Case("hand-k2", comment, made, catches=("SumForProduct", "GeometricMean", "NotRenormalised", "SumToOne"))
    yield group("step", [hand], stage("fixed", weights=[3.0, 1.0]), stage("cov"))
    comment = "by hand, strengths 2 and -1: (4, 9)/25 times (1/3, 1) is (4/75, 27/75), so (8/31, 54/31)"
    powers = Case("hand-strengths-k2", comment, made, catches=("StrengthsIgnored", "LinearStrengths"))
    yield group("step", [powers], stage("fixed", -1.0, weights=[3.0, 1.0]), stage("cov", 2.0))
    comment = "by hand: weighted by (4/3, 2/3), PCGrad gives coefficients (3/2, 2), so the weights are (2, 4/3)"
    rows = [[1.0, 1.0], [-2.0, 0.0]]
    cut = Case("hand-pcgrad-k2", comment, given([{}, {"weights": [1.0, 1.0]}], [1.0, 2.0], rows))
    yield group("step", [cut], stage("fixed", weights=[2.0, 1.0]), stage("pcgrad"))


def surgical(K: int, D: int, salt: int) -> Iterator[Group]:
    """Yield a step of DWA, GradNorm to the power 1/2 and PCGrad in an epoch, and one of CoV and PCGrad."""
    size = shape(K, D)
    states: list[Any] = [dwa.given(K, 3, salt)["state"], gradnorm.given(K, D, 5, salt)["state"], start(K)]
    made = given(states, inputs.losses(K, 6, salt), inputs.gradients(K, D, salt, salt), salt)
    made["state"].update(loss_sums=[round(2.1 * x, 4) for x in inputs.losses(K, 5, salt)], steps=2)
    case = Case(f"surgery-k{K}-d{D}", f"the last step of an epoch of three; {size}", made)
    yield group("step", [case], stage("dwa", temperature=0.5), stage("gradnorm", 0.5), stage("pcgrad"), epoch=3)
    statistics = cov.state_case("", K, 4 + salt).input["state"]
    made = given([{}, statistics, start(K)], inputs.losses(K, 6, salt), inputs.gradients(K, D, salt, salt), salt)
    case = Case(f"surgery-rates-k{K}-d{D}", f"priorities and CoV, then PCGrad; {size}", made)
    yield group("step", [case], stage("fixed", weights=inputs.weights(K, salt + 1)), stage("cov"), stage("pcgrad"))


def balanced(K: int, D: int, salt: int) -> Iterator[Group]:
    """Yield a step of priorities, GradNorm and PE-LTR, and one in which PE-LTR's weights are used at once."""
    before = {"weights": [round(value / K, 4) for value in inputs.weights(K, salt)]}
    states: list[Any] = [{}, gradnorm.given(K, D, 5, salt)["state"], before]
    made = given(states, inputs.losses(K, 6, salt), inputs.gradients(K, D, salt, salt))
    case = Case(f"balance-k{K}-d{D}", f"priorities, GradNorm, PE-LTR; {shape(K, D)}", made)
    priorities = stage("fixed", weights=inputs.weights(K, salt + 1))
    yield group("step", [case], priorities, stage("gradnorm"), stage("pe_ltr"), tolerance=1e-11)
    case = Case(f"balance-same-k{K}-d{D}", f"PE-LTR's weights at once; {shape(K, D)}", made, choices=("PELTR-C1",))
    same = stage("pe_ltr", timing="same")
    yield group("step", [case], priorities, stage("gradnorm", 0.5), same, tolerance=1e-11)


def waiting() -> Iterator[Group]:
    """Yield steps within an epoch and at its end, without an aggregator, and epochs of DWA with priorities."""
    K, D = 3, 4
    for name, steps in (("within", 1), ("ends", 3)):
        states: list[Any] = [gradnorm.given(K, D, 5, 2)["state"], dwa.given(K, 3, 1)["state"]]
        made = given(states, inputs.losses(K, 7, 1), inputs.gradients(K, D, 2, 2))
        sums = [
            round(steps * value * factor, 4) for value, factor in zip(made["losses"], (1.4, 0.7, 1.1), strict=True)
        ]
        made["state"].update(loss_sums=sums, steps=steps)
        catches = ("LastBatchForEpoch", "HeldBack") if name == "ends" else ()
        case = Case(f"epoch-{name}-k3", f"an epoch of four steps: {name}", made, catches=catches)
        yield group("step", [case], stage("gradnorm"), stage("dwa", temperature=0.25), epoch=4)
    for K in (2, 4):
        made = given([dwa.given(K, 3, 1)["state"], {}], inputs.losses(K, 6, 2), inputs.gradients(K, 3, 1))
        case = Case(f"epochs-k{K}", "all stages step once an epoch, or never change", made)
        yield group("step", [case], stage("dwa", 0.5), stage("fixed", 2.0, weights=inputs.weights(K, 3)))


def runs() -> Iterator[Group]:
    """Yield runs from the start."""
    for K, D, salt in ((1, 2, 1), (2, 2, 2), (3, 2, 0), (4, 5, 0)):
        case = run(f"run-surgery-k{K}-d{D}", K, D, 9, salt, True)
        yield group("run", [case], stage("dwa", temperature=0.5), stage("gradnorm"), stage("pcgrad"), epoch=3)
    for K, D, salt in ((3, 5, 2), (4, 3, 29), (8, 9, 3)):
        case = run(f"run-balance-k{K}-d{D}", K, D, 8, salt)
        fixed = stage("fixed", weights=inputs.weights(K, salt))
        yield group("run", [case], fixed, stage("gradnorm", 0.5), stage("pe_ltr"), tolerance=1e-11)
    for K, D, salt in ((2, 3, 1), (3, 4, 1), (8, 5, 7)):
        case = run(f"run-noise-k{K}-d{D}", K, D, 8, salt, True, cov.START)
        previous = stage("cov", 2.0, statistics="previous")
        yield group("run", [case], stage("uncertainty", 0.5), previous, stage("pcgrad"))
    case = run("run-noise-rates-k3", 3, 2, 9, 2, choices=cov.START)
    previous = stage("cov", statistics="previous", decay=0.75)
    yield group("run", [case], previous, stage("uncertainty"), stage("dwa", temperature=0.5), epoch=2)
    yield group("run", [run("run-epochs-k3", 3, 2, 8, 1)], stage("fixed", weights=[1.5, 1.0, 0.5]), stage("dwa", 2.0))


def single() -> Iterator[Group]:
    """Yield combinations of one method: the sum of the weights is K, and the heads keep the loss level."""
    rows = inputs.gradients(1, 2, 1)
    made = given([{}, start(1)], [2.5], rows)
    yield group(
        "step", [Case("step-k1", "one task: its weight is 1", made, edge=True)], stage("fixed"), stage("pcgrad")
    )
    states: list[Any] = [start(3), {"weights": [0.3, 0.3, 0.4]}]
    made = given(states, inputs.losses(3, 4), inputs.gradients(3, 4, 2, 2))
    yield group("step", [Case("balance-alone-k3", "PE-LTR alone, times K", made, catches=("UnitSumCoefficients",))],
                stage("equal"), stage("pe_ltr"), tolerance=1e-11)  # fmt: skip
    made = given([start(3), start(3)], inputs.losses(3, 4), pcgrad.FAN, 1)
    yield group("step", [Case("surgery-alone-k3", "PCGrad alone", made)], stage("equal"), stage("pcgrad"))
    statistics = cov.given(5, [2.0, 0.5, 1.0], [1.0, 1.25, 0.5], [0.0, 0.25, 0.04], [0.0, 0.5, 0.5], [1.0] * 3)[
        "state"
    ]
    made = given([statistics, start(3)], [2.0, 1.0, 0.75], pcgrad.FAN, 1)
    zero = Case("zero-weight-k3", "a loss-level weight of 0 takes a task out of the surgery", made, edge=True)
    yield group("step", [zero], stage("cov"), stage("pcgrad"))
    made = given([{}, statistics], [2.0, 1.0, 0.75], pcgrad.FAN)
    off = Case("strength-zero-k3", "a strength of 0: 0 to the power 0 is 1, the stage is off", made, edge=True)
    yield group("step", [off], stage("fixed", weights=[0.5, 1.0, 1.5]), stage("cov", 0.0))


def refused_steps() -> Iterator[Group]:
    """Yield steps that have to be refused."""
    pair = stage("fixed", weights=[0.5, 0.5, 2.0]), stage("pcgrad")
    good = given([{}, start(3)], inputs.losses(3, 4), pcgrad.FAN, 1)
    none: Any = None
    for name, comment, made, named in (
        ("nan-loss", "a loss is NaN", {**good, "losses": [1.0, float("nan"), 2.0]}, ("COMB-1", "losses", 1)),
        ("no-jacobian", "PCGrad reads gradients", {**good, "jacobian": none}, ("COMB-6", "jacobian")),
        ("infinite-gradient", "an infinity in row 2", {**good, "jacobian": [[1.0], [2.0], [float("inf")]]},
         ("COMB-6", "jacobian", 2)),
        ("no-draw", "PCGrad needs its orders", {**good, "draw": none}, ("PCG-2", "draw")),
    ):  # fmt: skip
        case = {key: value for key, value in made.items() if key != "draw" or value is not None}
        yield group("step", [Case(name, comment, case, refused=refusal(*named))], *pair)
    made = {
        **given([start(3), start(3)], [1.0, 2.0], pcgrad.FAN, 1),
        "state": {**good["state"], "stages": [start(3)] * 2},
    }
    short = Case("lengths-differ", "two losses for three tasks", made, refused={"equation": "COMB-1"})
    yield group("step", [short], stage("equal"), stage("pcgrad"))
    state = {"weights": [3.0, -0.5, 0.5], "initial_losses": [2.0, 2.0, 4.0], "optimiser": {}}
    below = Case(
        "weight-below-zero",
        "GradNorm has taken a weight below 0: it has no power",
        given([state], [2.0, 1.0, 1.0], inputs.diagonal(1.0, 2.0, 0.5)),
        refused=refusal("COMB-3", "gradnorm.weights", 1),
    )
    yield group("step", [below], stage("gradnorm", 0.5))
    statistics = cov.given(5, [2.0, 0.5], [1.0, 1.25], [0.0, 0.25], [0.0, 1.0], [1.0] * 2)["state"]
    made = given([{}, statistics], [2.0, 1.0], [[1.0], [2.0]])
    empty = Case(
        "nothing-left", "each task has a weight of 0 somewhere", made, refused=refusal("COMB-5", "product", 0)
    )
    yield group("step", [empty], stage("fixed", weights=[1.0, 0.0]), stage("cov"))
    inverse = Case("inverse-of-zero", "a weight of 0 has no inverse", made, refused=refusal("COMB-4", "u", 0))
    yield group("step", [inverse], stage("fixed", weights=[1.0, 2.0]), stage("cov", -1.0))
    made = given([{"weights": [1.0, 1.0], "losses_prev": [2.0, 1.0]}], [2.0, 1.0], [[1.0], [2.0]])
    made["state"]["steps"] = 3
    over = Case("epoch-over", "the epoch of three steps has ended", made, refused=refusal("COMB-1", "state.steps"))
    yield group("step", [over], stage("dwa"), epoch=3)
    losses = [[2.0, 1.0], [0.5, 1.0], [1.0, 1.0], [-1.0, 1.0]]
    late = {"losses": losses, "jacobian": [[[1.0], [2.0]]] * 4}
    refused = {**refusal("COV-2", "losses", 0), "step": 3}
    yield group("run", [Case("run-negative-loss", "a stage's own refusal", late, refused=refused)], stage("cov"))


def refused_parameters() -> Iterator[Group]:
    """Yield combinations that are not defined, whatever the input."""
    good = given([{}, start(3)], inputs.losses(3, 4), pcgrad.FAN, 1)
    noise, norm, cut, balance = stage("uncertainty"), stage("gradnorm"), stage("pcgrad"), stage("pe_ltr")
    for name, comment, stages, epoch, named in (
        ("two-equalisers", "magnitudes undone twice", (noise, norm), None, ("COMB-4", "stages")),
        ("two-aggregators", "no gradients a task after the first", (cut, balance), None, ("COMB-6", "stages")),
        ("aggregator-first", "nothing a task left to weight", (cut, norm), None, ("COMB-6", "stages")),
        ("aggregator-with-strength", "no factor of the product", (stage("pcgrad", 0.5),), None, ("COMB-4", "stages")),
        ("epoch-unsaid", "an epoch and a step", (stage("dwa"), norm), None, ("COMB-1", "epoch_steps")),
        ("epoch-idle", "nothing steps once an epoch", (norm, cut), 3, ("COMB-1", "epoch_steps")),
        ("epoch-of-none", "an epoch of no steps", (stage("dwa"), norm), 0, (None, "epoch_steps")),
        ("strength-infinite", "no such power", (stage("dwa", float("inf")),), None, ("COMB-4", "strength")),
    ):
        case = Case(name, comment, good, refused=refusal(*named))
        yield group("step", [case], *stages, epoch=epoch)


# INPUTS


def given(
    states: Sequence[Mapping[str, Any]], losses: Sequence[float], rows: Any, salt: int | None = None
) -> dict[str, Any]:
    """Return the input of a step from the stages' states; with a `salt`, orders for PCGrad."""
    K = len(losses)
    state: dict[str, Any] = {"loss_sums": [0.0] * K, "steps": 0, "stages": [*states]}
    made = {"state": state, "losses": losses, "jacobian": rows}
    return made if salt is None else {**made, "draw": pcgrad.draw(K, salt)}


def start(K: int) -> dict[str, Any]:
    """Return the state of PCGrad."""
    return {"weights": [1.0] * K}


def shape(K: int, D: int) -> str:
    """Return in words whether there are more tasks than dimensions."""
    return "more tasks than dimensions" if K > D else "more dimensions than tasks" if K < D else "as many of both"


def run(name: str, K: int, D: int, steps: int, salt: int, draws: bool = False, choices: tuple[str, ...] = ()) -> Case:
    """Return a run from the start, with orders for PCGrad if there are `draws`."""
    made: dict[str, Any] = {
        "losses": inputs.losses_run(K, steps, salt),
        "jacobian": inputs.gradients_run(K, D, steps, salt, 0.3),
    }
    if draws:
        made["draw"] = [pcgrad.draw(K, t + salt) for t in range(steps)]
    return Case(name, f"{steps} steps from the start; {shape(K, D)}", made, edge=K == 1, choices=choices)


def refusal(equation: str | None, argument: str, task: int | None = None) -> dict[str, Any]:
    """Return what an error names."""
    named = {"equation": equation, "argument": argument, "task": task}
    return {name: value for name, value in named.items() if value is not None}


# ANSWERS


def initial(parameters: State, K: int) -> dict[str, Any]:
    """Return the state before the first step."""
    states = [RECIPES[its["method"]].initial(its, K) for its in parameters["stages"]]
    return {"loss_sums": [Fraction(0)] * K, "steps": 0, "stages": states}


def step(parameters: State, state: State, given: Mapping[str, Any]) -> Answer:
    """Return the exact answer to one step."""
    stages, epoch, L, n = parameters["stages"], parameters["epoch_steps"], given["losses"], state["steps"]
    K = len(L)
    last = stages[-1]["method"] in ("pcgrad", "pe_ltr")
    level = stages[:-1] if last else stages
    waits = [epoch is not None and its["method"] == "dwa" for its in stages]
    seen = [exact.epoch_mean(state["loss_sums"], L, n) if wait else L for wait in waits]
    answers = [
        RECIPES[its["method"]].step(its, before, {"losses": losses, "jacobian": given["jacobian"]})
        for its, before, losses in zip(level, state["stages"], seen, strict=False)
    ]
    rows, strengths = [answer.weights for answer in answers], [its["strength"] for its in level]
    lam = exact.combined(rows, strengths)
    c: Sequence[Any] = [Fraction(1)] * K
    if last:
        answers.append(aggregated(stages[-1], state["stages"][-1], lam, given))
        c = answers[-1].weights
    w = exact.on_unweighted(c, lam)
    ends = epoch is None or n + 1 == epoch
    kept = zip(waits, state["stages"], answers, strict=True)
    after = [before if wait and not ends else answer.state for wait, before, answer in kept]
    ahead = w
    if all(lags(its) for its in stages):
        held = [holds(its, one, K) for its, one in zip(stages, after, strict=True)]
        factor = [K * value for value in held[-1]] if last else [Fraction(1)] * K
        ahead = exact.on_unweighted(factor, exact.combined(held[: len(level)], strengths))
    total = [Fraction(0)] * K if ends else exact.epoch_mean(state["loss_sums"], L, 0)
    terms = {
        "seen": seen[: len(level)],
        "scale": [[Fraction(1)] * K] * len(level),
        "u": [exact.scaled(row) for row in rows],
        "product": exact.factors(rows, strengths),
        "loss_weights": lam,
        "factor": lam,
        "c": c,
        "w": w,
        "w_next": ahead,
    }
    left = {"loss_sums": total, "steps": 0 if ends else n + 1, "stages": after}
    decided = tuple({tag for answer in answers for tag in answer.decided})
    return Answer(w, lam, terms, left, min(answer.gap for answer in answers), decided)


def aggregated(its: State, before: State, lam: Sequence[Any], given: Mapping[str, Any]) -> Answer:
    """Return the aggregator's answer to the weighted gradients: as weights, its coefficients."""
    K, rows = len(lam), exact.weighted(lam, given["jacobian"])
    if its["method"] == "pcgrad":
        orders = given.get("draw") or [[j for j in range(K) if j != i] for i in range(K)]
        gap = pcgrad.step(its, before, {"jacobian": rows, "draw": orders}).gap
        c = exact.surgery(lam, given["jacobian"], orders)
        return Answer(c, c, {}, {"weights": c}, gap)
    omega = exact.balance(lam, given["jacobian"], its["bounds"], solver=its["solver"])
    used = omega if its["timing"] == "same" else before["weights"]
    gap = pe_ltr.independence([[float(x) for x in row] for row in rows])
    c = exact.on_unweighted(used, [1] * K, K)
    return Answer(c, c, {}, {"weights": omega}, gap)


def lags(its: State) -> bool:
    """Return whether a stage's weights come from earlier steps alone."""
    return its["method"] != "pcgrad" and its.get("statistics") != "current" and its.get("timing") != "same"


def holds(its: State, state: State, K: int) -> Sequence[Any]:
    """Return the weights that the state of a stage holds."""
    if its["method"] == "fixed":
        return exact_fixed.weights(its["weights"], K)
    if its["method"] != "uncertainty":
        weights: Sequence[Any] = state["weights"]
        return weights
    s, likelihoods = state["log_variances"], [its["likelihoods"]] * K
    return exact_uncertainty.step(s, [1] * K, likelihoods=likelihoods, lr=1)["w"]


RECIPE = Recipe(
    stem="combination",
    groups=groups,
    initial=initial,
    step=step,
    mandatory=("weights", "w_next"),
    parameters={"stages": "stages", "epoch_steps": "count or null"},
    state={"loss_sums": "vector", "steps": "count", "stages": "stage states"},
    terms={
        "seen": "matrix",
        "scale": "matrix",
        "u": "matrix",
        "product": "vector",
        "loss_weights": "vector",
        "factor": "vector",
        "c": "vector",
        "w": "vector",
        "w_next": "vector",
    },
    elsewhere={"HeadsOfOne": "head_weights", "HeadsAggregated": "head_weights"},
    reads=("losses", "jacobian", "draw"),
)

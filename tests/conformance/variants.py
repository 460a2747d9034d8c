"""The specification as an implementation, right or with defects: what the kit's own tests judge."""

from __future__ import annotations

from importlib.util import find_spec

import mtlref
from mtlref.conformance import Diagnosis, Implementation, runner
from mtlref.conformance.runner import session
from mtlref.defects import variant
from mtlref.vectors.replay import observables

STEMS = [stem for stem in mtlref.METHODS if find_spec(f"mtlref.conformance.checks.{stem}")]
"""The methods that have checks."""

FEW = {"step": 12, "run": 5}
OTHERS = {
    "pe_ltr": {"step": 16, "run": 7},
    "cov": {"step": 16, "run": 7},
    "combination": {"step": 12, "run": 4},
    "hmoe": {"step": 7, "run": 0},
}
EACH = {"pe_ltr": 2, "cov": 2, "combination": 5, "hmoe": 5}
"""How many cases are drawn here: fewer than for a user, since a hundred variants are judged; more where a law needs
what is rarely drawn, fewer of those whose step takes long; and of how many golden vectors one, if not of three."""

MIXED = {"likelihoods": ("gaussian", "softmax", "laplace"), "dimensions": (2, 1, 3)}
DECAY, PREVIOUS, LOSS = {"decay": 0.7}, {"statistics": "previous"}, {"observed": "loss"}

SAME, EXACT = {"timing": "same"}, {"solver": "exact"}

DECLARED = {
    "pe_ltr": ({}, SAME, EXACT, {"timing": "same", "solver": "exact"}),
    "pcgrad": ({}, {"reduction": "mean"}, {"include_self": True}),
    "uncertainty": ({}, MIXED, {"optimiser": "adam"}),
    "cov": ({}, DECAY, PREVIOUS, LOSS),
    "gradnorm": ({}, {"optimiser": "adam"}, {"negative": "clamp"}),
}
"""What implementations of a method declare, beside nothing."""

SHOWS = {
    ("uncertainty", "GaussianForAll"): MIXED,
    ("uncertainty", "NoHalf"): MIXED,
    ("uncertainty", "OnceATask"): MIXED,
    ("cov", "DecayedMeanOnly"): DECAY,
    ("cov", "ConstantGain"): DECAY,
    ("cov", "StartAtOne"): PREVIOUS,
}
"""The declaration under which a defect shows, where it does not under none."""


def answer(method, state, problem):
    """One step of `method`, right or wrong."""
    draw = {} if problem.draw is None else {"draw": problem.draw}
    return method.step(state, problem.losses, problem.jacobian, **draw)


def implementation(stem, defects=(), choices=None, names=None):
    """The specification with `defects`, as an implementation with both doors, which gives the observables `names`."""

    def step(problem, state):
        found = observables(answer(variant(problem.method, *defects), state, problem), problem.jacobian)
        return {name: value for name, value in found.items() if names is None or name in names}

    def run(problems):
        method = variant(problems.method, *defects)
        state, rows = method.init(problems.n_tasks), []
        for problem in problems:
            out = answer(method, state, problem)
            rows.append(observables(out, problem.jacobian))
            state = out.state
        return {name: [row[name] for row in rows] for name in rows[0] if names is None or name in names}

    name = "+".join(defect.name for defect in defects) or "the specification"
    return Implementation(stem, name=name, step=step, run=run, choices=choices or {})


DRAWN = {}
"""The cases that were drawn, by method and declaration: the same for all of its implementations."""


def thinned(cases, each):
    """Of `each` golden vectors one, and all cases that were drawn."""
    vectors = [case for case in cases if case.label.startswith("vector")]
    return (*vectors[::each], *cases[len(vectors) :])


def ready(impl, diagnosed=True):
    """The session of `impl` with few cases; the diagnosis takes most of the time, and can be left out."""
    found = session(impl)
    if not diagnosed:
        found.__dict__["diagnosis"] = Diagnosis("unknown", "unknown: not asked for")
    key = (impl.method, repr(impl.choices), impl.step is None)
    if key not in DRAWN:
        sizes, runner.SIZES = runner.SIZES, OTHERS.get(impl.method, FEW)
        try:
            DRAWN[key] = {kind: thinned(found.cases(kind), EACH.get(impl.method, 3)) for kind in ("step", "run")}
        finally:
            runner.SIZES = sizes
    found.drawn.update(DRAWN[key])
    return found


def results(found, *names):
    """The results of a session's checks, one after another: of those of these names, or of all."""
    for check in found.checks:
        if not names or check.name in names:
            yield runner.result(runner.BoundCheck(found, check), None)


def judged(impl, diagnosed=True):
    """The session of `impl`, and the results of all of its checks by name."""
    found = ready(impl, diagnosed)
    return found, {result.name: result for result in results(found)}


def failed(impl):
    """The names of the checks that `impl` fails."""
    return {result.name for result in results(ready(impl, diagnosed=False)) if result.status == "failed"}


def fails(impl, check):
    """Whether `impl` fails the check of this name."""
    (result,) = results(ready(impl, diagnosed=False), check)
    return result.status == "failed"

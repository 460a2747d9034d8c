"""Kill: is a mutated module told from the specification? Exit status 1 if it is, 0 if it survives.

    cosmic-ray init tests/mutation/cosmic-ray.toml session.sqlite
    cosmic-ray exec tests/mutation/cosmic-ray.toml session.sqlite

The mutation tester changes a file of this tree. The kit must not change with it: it is that of an installed mtlref,
which `python -I` finds while this tree stays out of sight. Each changed file is loaded beside the installed package,
over which it is laid, and put to the golden vectors of its method, refusals included, and to all of its checks.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib import resources
from pathlib import Path

import numpy as np

import mtlref
from mtlref.conformance import Implementation, check_implementation, runner
from mtlref.methods import METHODS
from mtlref.notation import MtlrefError
from mtlref.vectors import replay

TREE = Path(__file__).resolve().parents[2] / "mtlref"
INSTALLED = Path(mtlref.__file__).resolve().parent

STEMS = ("gradnorm", "dwa", "cov", "uncertainty", "pe_ltr", "pcgrad", "fixed", "equal")


def differs(name: str) -> bool:
    """Whether a file of the tree is not that of the installed package."""
    return (TREE / name).read_bytes() != (INSTALLED / name).read_bytes()


def loaded(name: str, path: Path, as_name: str) -> object:
    """Load a file as the module `as_name`."""
    spec = importlib.util.spec_from_file_location(as_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[as_name] = module
    spec.loader.exec_module(module)
    return module


def mutated(stem: str) -> type:
    """The class of a method from this tree, over this tree's qp.py where that is what has changed."""
    kept = sys.modules.get("mtlref.qp")
    if differs("qp.py"):
        loaded("qp", TREE / "qp.py", "mtlref.qp")
    module = loaded(stem, TREE / "methods" / f"{stem}.py", f"mutated_{stem}")
    if kept is not None:
        sys.modules["mtlref.qp"] = kept
    return getattr(module, METHODS[stem].__name__)


def implementation(stem: str, cls: type, choices: dict) -> Implementation:
    """The mutated method as an implementation with both doors."""
    states = vars(sys.modules[f"mutated_{stem}"])

    def own(state):
        values = {name: own(value) if hasattr(value, "to_json") else value for name, value in vars(state).items()}
        kind = states.get(type(state).__name__, type(state))
        return kind(**values)

    def method_of(given):
        return cls(**vars(given))

    def observed(method, state, problem):
        more = {} if problem.draw is None else {"draw": problem.draw}
        out = method.step(state, problem.losses, problem.jacobian, **more)
        return out, replay.observables(out, problem.jacobian)

    def step(problem, state):
        method, mine = method_of(problem.method), own(state)
        if method.lagged and np.all(mine.weights != 0):
            mine = method.resumed(mine, mine.weights)
        return observed(method, mine, problem)[1]

    def run(problems):
        method = method_of(problems.method)
        state, rows = method.init(problems.n_tasks), []
        for problem in problems:
            out, row = observed(method, state, problem)
            rows.append(row)
            state = out.state
        return {name: [row[name] for row in rows] for name in rows[0]}

    return Implementation(stem, name=stem, step=step, run=run, choices=choices)


DECLARED = {
    "gradnorm": ({}, {"optimiser": "adam"}, {"negative": "clamp"}),
    "cov": ({}, {"decay": 0.7}, {"statistics": "previous"}, {"observed": "loss"}),
    "uncertainty": ({}, {"likelihoods": ("gaussian", "softmax", "laplace"), "dimensions": (2, 1, 3)}),
    "pe_ltr": ({}, {"solver": "exact"}, {"timing": "same"}),
    "pcgrad": ({}, {"include_self": True}, {"reduction": "mean"}),
}
"""What is declared, beside nothing: every choice has its own equations."""


def fails_a_vector(stem: str, cls: type) -> bool:
    """Whether a golden vector is answered wrongly, or one that must be refused is answered, or refused otherwise."""
    document = json.loads((resources.files("mtlref.vectors") / f"{stem}.json").read_text(encoding="utf-8"))
    kept, METHODS[stem] = METHODS[stem], cls
    try:
        for group in document["groups"]:
            for test in group["tests"]:
                try:
                    got = replay.observed(replay.method(stem, group["parameters"]), group["type"], test["input"])
                except MtlrefError as error:
                    named = {name: getattr(error, name) for name in test["expected"]}
                    if test["result"] != "invalid" or named != test["expected"]:
                        return True
                    continue
                if test["result"] == "invalid" or any(
                    replay.distance(got[name], value) > group["tolerance"] for name, value in test["expected"].items()
                ):
                    return True
    finally:
        METHODS[stem] = kept
    return False


def killed(stem: str) -> bool:
    """Whether the mutated method is told from the specification."""
    runner.SIZES = {"step": 40, "run": 8, "live": 1}
    with np.errstate(all="ignore"):
        cls = mutated(stem)
        if fails_a_vector(stem, cls):
            return True
        for choices in DECLARED.get(stem, ({},)):
            for result in check_implementation(implementation(stem, cls, choices)):
                if result.status in ("failed", "unusable"):
                    return True
    return False


def main() -> int:
    """Judge what has changed."""
    changed = [stem for stem in STEMS if differs(f"methods/{stem}.py")]
    if differs("qp.py"):
        changed.append("pe_ltr")
    try:
        return int(any(killed(stem) for stem in changed))
    except Exception:  # a module that cannot even be loaded, or used, is told
        return 1


if __name__ == "__main__":
    sys.exit(main())

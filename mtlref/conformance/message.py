"""Messages: what a failure says, always in the same order."""

from __future__ import annotations

import numpy as np

from mtlref.conformance.check import Check
from mtlref.conformance.problem import Case
from mtlref.conformance.trial import Departure
from mtlref.notation import Array
from mtlref.settings import described

WHOLE = ("direction", "head_gradients", "E")
"""The observables whose rows are not the tasks'."""

PAGES = {"LIVE": "jacobian", "MMOE": "mmoe", "MTL": "equal"}
"""The derivations of the tags that are not on their method's own page."""


def failure(check: Check, name: str, departure: Departure, diagnosis: str) -> str:
    """Return the message of a failed check of the implementation called `name`."""
    error = np.atleast_1d(departure.error)
    at = int(np.argmax(error - np.atleast_1d(departure.allowed)))
    rows = np.ndim(departure.expected) and departure.observable not in WHOLE
    where = f", task {departure.task} of {departure.case.n_tasks}" if rows else ""
    step = f", step {departure.step}" if len(departure.case.steps) > 1 else ""
    law = f" ({departure.law})" if departure.law else ""
    page = page_of(check, departure.case.method.stem)
    allowed = float(np.ravel(departure.allowed)[at])
    lines = (
        ("observable", f"{departure.observable}{where}{step}{law}"),
        ("got", shown(departure.got)),
        ("expected", shown(departure.expected)),
        ("error", f"{float(np.ravel(error)[at]):.3g}, allowed {allowed:.3g}"),
        ("problem", described_case(departure.case, departure.step)),
        ("diagnosis", diagnosis),
        ("derivation", f"derivations/{page}.md, {check.eq}; mtlref explain {check.eq}"),
    )
    head = f"{check.name} [{check.eq}] fails for {name!r}: {check.statement}"
    return "\n".join([head, *(f"  {label:<11} {text}" for label, text in lines)])


def page_of(check: Check, stem: str) -> str:
    """Return the derivation that defines the check's tag."""
    return PAGES.get(check.eq.partition("-")[0], stem)


def shown(values: Array) -> str:
    """Return numbers with the digits that tell them apart, on one line."""
    text = np.array2string(np.asarray(values), precision=8, separator=", ", max_line_width=10**6, threshold=40)
    return " ".join(text.split())


def described_case(case: Case, step: int) -> str:
    """Return a case in one line: sizes, settings, losses, gradients' lengths, where it comes from."""
    problem = case.steps[step]
    lengths = np.linalg.norm(problem.jacobian, axis=1)
    K, D = problem.jacobian.shape
    parts = [
        f"K = {K}",
        f"D = {D}",
        described(case.method),
        f"losses {shown(problem.losses)}",
        f"gradients of lengths {shown(lengths)}",
        "state injected" if case.injected else f"run of {len(case.steps)} steps",
    ]
    if problem.asked is not problem:
        parts.append(problem.asked.described)
    return "; ".join([*parts, case.label] if case.label else parts)

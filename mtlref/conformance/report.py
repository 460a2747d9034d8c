"""Reports of a check run: for a terminal, and as JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy

import mtlref
from mtlref.conformance.implementation import LINES
from mtlref.conformance.peers import Row
from mtlref.conformance.runner import CheckResult, Judgement
from mtlref.conformance.trial import Departure
from mtlref.settings import described

MARKS = {
    "passed": "ok",
    "failed": "FAILED",
    "skipped": "skipped",
    "expected failure": "expected failure",
    "unexpected pass": "UNEXPECTED PASS",
    "unusable": "unusable",
}
"""How a status is written in the list of checks."""

PRINTED = 5
"""How many lines of what an implementation prints are shown."""


def text(judgement: Judgement) -> str:
    """Return the report for a terminal: the verdict, the checks, the failures, and what they were put to."""
    impl, parts = judgement.session.impl, [verdict(judgement)]
    if judgement.session.unusable is not None:
        return "\n".join([parts[0], f"  {judgement.session.unusable}"])
    parts.append("\n".join(line(result) for result in judgement.results))
    parts += [result.message for result in judgement.results if result.status == "failed"]
    parts.append(conditions(judgement))
    if judgement.session.answers.printed:
        lines = judgement.session.answers.printed
        shown = "\n".join(f"  | {line}" for line in lines[:PRINTED])
        more = " or more" if len(lines) == LINES else ""
        parts.append(f"{impl.name} printed {len(lines)} lines{more} to standard output:\n{shown}")
    return "\n\n".join(parts)


def conditions(judgement: Judgement) -> str:
    """Return, in a paragraph, how many cases met each of the conditions that decide whether a bug shows."""
    cases = sum(map(len, judgement.session.drawn.values()))
    met = sorted(judgement.session.met().items(), key=lambda item: -item[1])
    shown = "; ".join(f"{name} {count}" for name, count in met if count)
    return textwrap.fill(f"{cases} cases, of which with {shown}.", 110, subsequent_indent="  ")


def verdict(judgement: Judgement) -> str:
    """Return the verdict in a line or two: what was judged, the counts, and what explains the failures."""
    session = judgement.session
    impl = session.impl
    head = f"{impl.name}: {impl.method}, {impl.dtype}"
    declared = ", ".join(f"{name} = {value}" for name, value in impl.choices.items())
    head += f", declared {declared}" if declared else ""
    if session.unusable is not None:
        return f"{head}: could not be used"
    if judgement.status == "unusable":
        return f"{head}: nothing was judged, all {len(judgement.results)} checks were skipped"
    counts = {status: judgement.count(status) for status in MARKS}  # type: ignore[arg-type]
    found = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    lines = [f"{head}: {found}"]
    if counts["failed"]:
        lines.append(f"  {session.diagnosis.text}")
    return "\n".join(lines)


def line(result: CheckResult) -> str:
    """Return one line of the list of checks."""
    reason = f": {result.reason}" if result.reason else ""
    return f"  {MARKS[result.status]:<8} {result.eq:<8} {result.name}{reason}"


def plain(judgement: Judgement) -> dict[str, Any]:
    """Return the report as what the json module writes; NaN and infinities are strings."""
    session = judgement.session
    impl = session.impl
    return {
        "mtlref": mtlref.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "implementation": impl.name,
        "method": impl.method,
        "dtype": impl.dtype,
        "choices": {name: str(value) for name, value in impl.choices.items()},
        "status": judgement.status,
        "unusable": None if session.unusable is None else str(session.unusable),
        "diagnosis": session.diagnosis.text if judgement.count("failed") else None,
        "checks": [plain_result(result) for result in judgement.results],
        "conditions": session.met(),
        "printed": session.answers.printed,
    }


def plain_result(result: CheckResult) -> dict[str, Any]:
    """Return one result as what the json module writes."""
    return {
        "check": result.name,
        "equation": result.eq,
        "statement": result.statement,
        "status": result.status,
        "reason": result.reason,
        "cases": result.judged,
        "message": result.message,
        "departure": None if result.departure is None else plain_departure(result.departure),
    }


def plain_departure(departure: Departure) -> dict[str, Any]:
    """Return the numbers of a departure."""
    problem = departure.case.steps[departure.step]
    return {
        "observable": departure.observable,
        "step": departure.step,
        "task": departure.task,
        "law": departure.law,
        "got": numbers(departure.got),
        "expected": numbers(departure.expected),
        "error": numbers(departure.error),
        "allowed": numbers(departure.allowed),
        "case": departure.case.label,
        "settings": described(departure.case.method),
        "losses": numbers(problem.losses),
        "jacobian": numbers(problem.jacobian),
    }


def numbers(value: Any) -> Any:
    """Return an array as nested lists; what JSON has no number for, as a string."""
    if isinstance(value, np.ndarray):
        return numbers(value.tolist())
    if isinstance(value, list):
        return [numbers(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


# PEERS


def table(rows: Sequence[Row]) -> str:
    """Return the table of peers: columns as wide as what they hold, the diagnosis last."""
    head = ("peer", "version", "method", "verdict", "passed", "failed", "skipped", "diagnosis")
    cells: list[tuple[str, ...]] = [head]
    for row in rows:
        counts = [str(n) if row.status != "not installed" else "" for n in (row.passed, row.failed, row.skipped)]
        cells.append((row.peer, row.version, row.method, row.status, *counts, row.diagnosis))
    widths = [max(len(line[column]) for line in cells) for column in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in cells
    )


def plain_rows(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Return the table as what the json module writes."""
    return [vars(row) for row in rows]

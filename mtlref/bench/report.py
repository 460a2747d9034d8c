"""What is printed, what goes into the JSON file, and the plot."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mtlref.bench.measure import PAUSE, Measured, Timing
from mtlref.notation import MissingExtraError

FORMAT = "mtlref-bench/1"


@dataclass(frozen=True)
class Table:
    """A table that is not one of times side by side: growth, memory."""

    case: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]


@dataclass
class Results:
    """All that a run found."""

    machine: dict[str, str]
    missing: list[str]
    measured: list[Measured] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return what goes into the JSON file; its keys are closed."""
        return {
            "format": FORMAT,
            "machine": self.machine,
            "missing": self.missing,
            "measured": [plain(one) for one in self.measured],
            "tables": [
                {"case": t.case, "title": t.title, "columns": list(t.columns), "rows": [list(row) for row in t.rows]}
                for t in self.tables
            ],
        }


def plain(one: Measured) -> dict[str, Any]:
    """Return a setup's measurement as plain values; times in seconds."""
    bound, ours = one.median("bound"), one.median("ours")
    return {
        "case": one.case,
        "sizes": one.setup.sizes,
        "threads": one.threads,
        "bar": one.setup.bar,
        "difference": one.difference,
        "contenders": [
            {
                "name": t.contender.name,
                "role": t.contender.role,
                "note": t.contender.note,
                "median": t.median,
                "least": t.quantile(0.0),
                "quarter": t.quantile(0.25),
                "three_quarters": t.quantile(0.75),
                "samples": len(t.samples),
                "to_bound": None if bound is None else t.median / bound,
                "to_ours": None if ours is None else t.median / ours,
            }
            for t in one.timings
        ],
    }


def header(results: Results, arguments: argparse.Namespace) -> str:
    """Return the lines that say what was measured where and how."""
    facts = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    lines = [
        f"machine:  {facts}",
        f"threads:  {', '.join(map(str, dict.fromkeys(arguments.threads)))}",
        f"method:   {arguments.rounds} rounds; in each every contender once, in a drawn order, after a pause of "
        f"{PAUSE * 1000:g} ms and an untimed call; median [quarter to three quarters]",
        f"seconds:  {'the processor’s, all threads together' if arguments.cpu else 'the clock’s'}",
        "ratios:   ×bound, a contender's median over the bound's; ×ours, over mtlref's",
    ]
    if results.missing:
        lines.append(f"missing:  {', '.join(results.missing)} (not installed, so not measured)")
    return "\n".join(lines)


def heading(case: str, title: str, bound: str) -> str:
    """Return the lines above a case."""
    return f"== {case}: {title}\n   bound: {bound}"


def text(one: Measured) -> str:
    """Return the lines of a setup."""
    threads = f"{one.threads} thread{'s' * (one.threads > 1)}"
    return "\n".join([f"   {one.setup.label}; {threads}{verdict(one)}", *[row(one, t) for t in one.timings]])


def summary(measured: Sequence[Measured]) -> str:
    """Return in how many of a case's setups the bar is met, and in how many ours is quicker than the others."""
    met: dict[str, list[bool]] = {}
    ahead: dict[str, list[bool]] = {}
    for one in measured:
        bound, ours = one.median("bound"), one.median("ours")
        for timing in one.timings:
            name, role = timing.contender.name, timing.contender.role
            if role in ("ours", "hand") and one.setup.bar and bound:
                met.setdefault(name, []).append(timing.median <= one.setup.bar * bound)
            if role in ("hand", "peer") and ours:
                ahead.setdefault(name, []).append(ours < timing.median)
    parts = [f"{name} meets the bar in {sum(wins)} of {len(wins)} setups" for name, wins in met.items()]
    parts += [f"mtlref is ahead of {name} in {sum(wins)} of {len(wins)}" for name, wins in ahead.items()]
    return f"   in all: {'; '.join(parts)}" if parts else ""


def verdict(one: Measured) -> str:
    """Return how ours stands to the bar, in words."""
    if one.setup.bar is None or one.to_bound is None:
        return ""
    met = "met" if one.to_bound <= one.setup.bar else "MISSED"
    return f"; {one.to_bound:.2f} × the bound, bar {one.setup.bar:g}: {met}"


def row(one: Measured, timing: Timing) -> str:
    """Return the line of a contender."""
    bound, ours = one.median("bound"), one.median("ours")
    to_bound = "" if not bound else f"{timing.median / bound:8.2f} ×bound"
    to_ours = "" if not ours else f"{timing.median / ours:8.2f} ×ours"
    spread = f"[{seconds(timing.quantile(0.25))} to {seconds(timing.quantile(0.75))}]"
    notes = ([timing.contender.note] if timing.contender.note else []) + ["1 sample"] * (len(timing.samples) == 1)
    note = f"  ({', '.join(notes)})" if notes else ""
    return (
        f"   {timing.contender.name:<20}{seconds(timing.median):>10} {spread:<24}{to_bound}{to_ours}{note}".rstrip()
    )


def seconds(value: float) -> str:
    """Return a time with three digits and its unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1 or unit == "µs":
            return f"{value * factor:.3g} {unit}"
    raise AssertionError(value)


def table(one: Table) -> str:
    """Return another table, columns aligned."""
    shown = [[cell(value) for value in row] for row in (one.columns, *one.rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(one.columns))]
    lines = ["   " + "  ".join(v.rjust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in shown]
    return "\n".join([f"== {one.case}: {one.title}", *lines])


def cell(value: str | float | int | None) -> str:
    """Return an entry of a table."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def matplotlib() -> Any:
    """Return matplotlib.pyplot, drawing to files. Errors: MissingExtraError."""
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise MissingExtraError("--plot needs matplotlib: pip install 'mtlref[plot]'") from error


def plot(results: Results, path: str) -> None:
    """Draw every contender's time over the bound's (over mtlref's without a bound), a panel a case."""
    pyplot = matplotlib()
    cases = list(dict.fromkeys(one.case for one in results.measured))
    figure, axes = pyplot.subplots(len(cases) or 1, 1, figsize=(9, 3.2 * (len(cases) or 1)), squeeze=False)
    for axis, case in zip(axes[:, 0], cases, strict=False):
        ones = [one for one in results.measured if one.case == case]
        names = dict.fromkeys(t.contender.name for one in ones for t in one.timings if t.contender.role != "bound")
        for name in names:
            points = [
                (x, t.median / (one.median("bound") or one.median("ours") or t.median))
                for x, one in enumerate(ones)
                for t in one.timings
                if t.contender.name == name
            ]
            axis.plot(*zip(*points, strict=True), "o-" if name == "mtlref" else ".-", label=name)
        axis.set_xticks(range(len(ones)), [f"{one.setup.label}; {one.threads} thr." for one in ones], rotation=12)
        axis.tick_params(axis="x", labelsize=6)
        axis.set(yscale="log", title=case, ylabel="× bound")
        axis.legend(fontsize=7, ncols=4)
        axis.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)

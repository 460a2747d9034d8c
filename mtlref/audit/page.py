"""The page of an audit: the weights against the specification's, the error of every step, and the exact figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import numpy as np

from mtlref.audit import report
from mtlref.audit.compare import Transition
from mtlref.audit.notices import notices
from mtlref.audit.run import Run
from mtlref.audit.trace import Envelope, Trace, traced
from mtlref.audit.verdict import Verdict
from mtlref.drawing import COLOURS, Axes, departure, plot
from mtlref.notation import Array, LogError
from mtlref.pages import block, document, facts, key, versions
from mtlref.settings import described

TASKS = 16
"""How many tasks have a line; a table has the figures of all."""


def page(run: Run, verdict: Verdict) -> str:
    """Return the page of a run and its verdict."""
    trace = traced(run.method, run.log)
    text = report.text(run, verdict)
    parts = (
        header(run, verdict),
        warnings(run),
        figures(run, verdict, trace),
        table(run, verdict),
        f"<h2>In words</h2>\n{block(text.splitlines())}",
    )
    return document(f"{run.log.source}: {outcome(run, verdict)[1]}", "\n".join(part for part in parts if part))


def write_page(path: str, run: Run, verdict: Verdict) -> None:
    """Write the page to a file. Errors: LogError if that cannot be done."""
    try:
        Path(path).write_text(page(run, verdict), encoding="utf-8")
    except OSError as error:
        raise LogError(f"{path}: cannot be written: {error.strerror or error}", argument="html") from error


def outcome(run: Run, verdict: Verdict) -> tuple[str, str]:
    """Return the colour and the words of a verdict."""
    if verdict.first is not None:
        return "bad", f"leaves {run.method.title}"
    if not verdict.passed:
        return "bad", f"drifts from {run.method.title}"
    return "good", f"follows {run.method.title}"


def header(run: Run, verdict: Verdict) -> str:
    """Return the verdict, the diagnosis, and what was judged by what."""
    colour, words = outcome(run, verdict)
    tally = f"{verdict.steps} steps judged, {verdict.departures} depart"
    diagnosis = "<br>".join(escape(line.strip()) for line in report.diagnosed(verdict))
    why = f'<p class="diagnosis"><strong>Diagnosis</strong> {diagnosis}</p>' if diagnosis else ""
    rows = [
        *((name, str(value)) for name, value in run.description.items()),
        ("method", f"{run.method.title}: {described(run.method)}"),
        *(("inferred" if i == 0 else "", line.strip()) for i, line in enumerate(report.inferred(run))),
        ("log", f"{len(run.log.rows)} rows, tasks {', '.join(run.log.tasks)}"),
        ("versions", versions()),
    ]
    return (
        f'<header class="verdict {colour}"><span class="word">{escape(words[0].upper() + words[1:])}</span>'
        f'<h1>{escape(run.log.source)}</h1><p class="soft">{tally}</p>{why}</header>\n{facts(rows)}'
    )


def warnings(run: Run) -> str:
    """Return the warnings, each with its equation and the section that says why."""
    found = notices(run.method, run.log)
    if not found:
        return ""
    rows = "".join(
        f'<tr><td class="tag">{escape(n.equation)}</td><td>{escape(n.text)}.<br>'
        f'<span class="soft">{escape(n.place)}</span></td></tr>'
        for n in found
    )
    return f"<h2>Warnings</h2>\n<table><tbody>{rows}</tbody></table>"


# PLOTS


def figures(run: Run, verdict: Verdict, trace: Trace) -> str:
    """Return the two plots with their captions."""
    tasks = run.log.tasks[:TASKS]
    keys = "".join(key(f"s{i % COLOURS}", task) for i, task in enumerate(tasks))
    more = f" The first {TASKS} tasks of {len(run.log.tasks)} are drawn." if len(run.log.tasks) > TASKS else ""
    each = -(-trace.rows // len(trace.steps))
    dense = "" if trace.exact else f" A column of the drawing stands for up to {each} rows"
    weights_note = f"{dense}, and reaches from their least to their largest weight." if dense else ""
    error_note = f"{dense}, and has the one that exceeds its allowance most." if dense else ""
    return (
        '<h2>Over the run</h2>\n<div class="plots">'
        f"<figure><h3>weights</h3>{weights(run, verdict, trace)}<p>{keys}{key('spec', 'specification')}</p>"
        f"<figcaption>The run's, over a replay from its start that is never corrected.{weights_note}{more}"
        "</figcaption></figure>\n"
        f"<figure><h3>error of each step</h3>{errors(run, verdict, trace)}"
        f"<p>{key('s0', 'largest error')}{key('spec', 'allowed')}</p>"
        "<figcaption>Each step judged on its own, from the weights that the run had then. What is exactly right "
        f"lies on the bottom line.{error_note}</figcaption></figure></div>"
    )


def weights(run: Run, verdict: Verdict, trace: Trace) -> str:
    """Return the plot of the run's weights over the specification's."""
    ends = [x[np.isfinite(x)] for e in (trace.got, trace.own) for x in (e.low[:, :TASKS], e.high[:, :TASKS])]
    values = np.concatenate(ends) if any(len(x) for x in ends) else np.zeros(1)
    low, high = float(values.min()), float(values.max())
    pad = 0.06 * (high - low) or 0.5 * abs(high) or 1.0

    def marks(axes: Axes) -> Iterable[str]:
        yield from drawn(axes, trace, trace.own, lambda task: "spec")
        yield from drawn(axes, trace, trace.got, lambda task: f"s{task % COLOURS}")
        if verdict.first is not None:
            first = verdict.first
            yield mark(axes, run, trace, first, float(first.got[first.task]))

    return plot(
        "weights of the run and of the specification by step", axes_of(run, trace, low - pad, high + pad), marks
    )


def drawn(axes: Axes, trace: Trace, envelope: Envelope, kind: object) -> Iterator[str]:
    """Yield the lines of the tasks where every row has a column, else their bands."""
    assert callable(kind)
    for task in range(min(envelope.low.shape[1], TASKS)):
        low, high = envelope.low[:, task], envelope.high[:, task]
        if trace.exact:
            name = kind(task)
            line = np.where(np.isfinite(high), high, np.nan)
            yield axes.line(line, name if name == "spec" else f"s {name}", trace.steps)
        else:
            yield axes.band(trace.steps, low, high, kind(task))


def errors(run: Run, verdict: Verdict, trace: Trace) -> str:
    """Return the plot of the errors and their allowances, on a scale of powers of ten."""
    values = np.concatenate([trace.error, trace.allowed])
    values = np.log10(values[np.isfinite(values) & (values > 0)])
    low, high = (np.floor(values.min()) - 1, np.ceil(values.max()) + 1) if len(values) else (-17, 0)

    def marks(axes: Axes) -> Iterable[str]:
        yield axes.line(trace.error, "s s0", trace.steps)
        yield axes.line(trace.allowed, "spec", trace.steps)
        if verdict.first is not None:
            yield mark(axes, run, trace, verdict.first, verdict.first.error)

    title = "largest error of each step, and its allowance"
    return plot(title, axes_of(run, trace, float(low), float(high), log=True), marks)


def axes_of(run: Run, trace: Trace, low: float, high: float, log: bool = False) -> Axes:
    """Return the axes: from the first step to the last."""
    last = trace.place(run.log, len(run.log.rows) - 1)
    label = run.method.cadence if trace.numbered else "row"
    return Axes(int(last - trace.steps[0]) + 1, low, high, log, float(trace.steps[0]), label)


def mark(axes: Axes, run: Run, trace: Trace, first: Transition, value: float) -> str:
    """Return the mark of the first departure."""
    return departure(axes, int(trace.place(run.log, first.row)), value)


# FIGURES


def table(run: Run, verdict: Verdict) -> str:
    """Return the exact figures that the drawings round: the first departure, the worst step, the end."""
    rows = [("worst step" if verdict.first is None else "worst step of all", verdict.worst)]
    if verdict.first is not None:
        rows.insert(0, ("first departure", verdict.first))
    parts = []
    for name, transition in rows:
        if transition is not None:
            parts.append(group(run, f"{name}, {run.method.cadence} {run.log.rows[transition.row]}", transition))
    end, got = verdict.run.end, report.weights_of(run)[verdict.run.end_row]
    name = f"end of the replay from the start, {run.method.cadence} {run.log.rows[verdict.run.end_row]}"
    parts.append(lines_of(run, name, got, end, np.full(len(end), np.nan)))
    head = "<tr><th>task</th>" + "".join(
        f'<th class="number">{what}</th>' for what in ("in the run", "specification", "error", "allowed")
    )
    return f"<h2>Figures</h2>\n<table><thead>{head}</tr></thead><tbody>\n" + "\n".join(parts) + "\n</tbody></table>"


def group(run: Run, name: str, transition: Transition) -> str:
    """Return the rows of one step."""
    return lines_of(run, name, transition.got, transition.expected, transition.allowance)


def lines_of(run: Run, name: str, got: Array, expected: Array, allowance: Array) -> str:
    """Return a heading and a row a task."""
    made = [f'<tr><td colspan="5"><strong>{escape(name)}</strong></td></tr>']
    for task, g, e, a in zip(run.log.tasks, got, expected, allowance, strict=True):
        cells = (repr(float(g)), repr(float(e)), f"{abs(g - e):.2e}", "" if np.isnan(a) else f"{a:.2e}")
        made.append(f"<tr><td>{escape(task)}</td>" + "".join(f'<td class="number">{c}</td>' for c in cells) + "</tr>")
    return "\n".join(made)

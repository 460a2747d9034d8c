"""HTML: what came of the checks of one implementation, as one page that needs nothing else.

No script, no font, no picture from elsewhere; the plots are SVG in the page. Everything that the implementation or
its author named, printed or raised is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from mtlref.conformance.curves import Curves, NoCurve, curves, errors, lines
from mtlref.conformance.runner import CheckResult, Session
from mtlref.drawing import COLOURS
from mtlref.pages import block, document, facts, key, versions
from mtlref.settings import described

PRINTED = 40
"""How many lines of an implementation's output are shown."""

COLOUR = {"passed": "good", "failed": "bad", "unexpected pass": "bad", "unusable": "bad", "expected failure": "warn"}
"""Status → the class of its colour."""


def page(session: Session, results: Sequence[CheckResult]) -> str:
    """Return the page of an implementation, of whose checks `results` came."""
    return pages([(session, results)])


def pages(judged: Sequence[tuple[Session, Sequence[CheckResult]]]) -> str:
    """Return one page of several implementations, each with the results of its checks, one below the other."""
    title = "; ".join(f"{session.impl.name}: {verdict(session, results)[1]}" for session, results in judged)
    body = "\n<hr>\n".join(section(session, results) for session, results in judged)
    return document(title, body)


def section(session: Session, results: Sequence[CheckResult]) -> str:
    """Return what a page says of one implementation."""
    printed = list(session.answers.printed)
    parts = (
        header(session, results),
        figures(session, results),
        table(results, len(session.checks)),
        failures(results),
        met(session),
        output(printed),
    )
    return "\n".join(part for part in parts if part)


def verdict(session: Session, results: Sequence[CheckResult]) -> tuple[str, str]:
    """Return the colour and the words of what came of all checks."""
    count = Counter(result.status for result in results)
    if session.unusable is not None or count["unusable"]:
        return "warn", "could not be used"
    if count["failed"] or count["unexpected pass"]:
        return "bad", "failed"
    if not count["passed"]:
        return "warn", "nothing was judged"
    return "good", "passed, but for expected failures" if count["expected failure"] else "passed"


def header(session: Session, results: Sequence[CheckResult]) -> str:
    """Return the verdict, the diagnosis, and what was judged by what."""
    impl = session.impl
    colour, words = verdict(session, results)
    count = Counter(result.status for result in results)
    tally = ", ".join(f"{number} {status}" for status, number in count.items()) or "no check was run"
    found = [result.diagnosis.text for result in results if result.diagnosis is not None]
    why = f'<p class="diagnosis"><strong>Diagnosis</strong> {escape(found[0])}</p>' if found else ""
    if session.unusable is not None:
        why = f'<p class="diagnosis">{escape(str(session.unusable))} ({session.unusable.fault})</p>'
    chosen = ", ".join(f"{name} = {value!r}" for name, value in impl.choices.items())
    rows = (
        ("method", f"{getattr(type(impl.specification({})), 'title', impl.method)} ({impl.method})"),
        ("declared choices", chosen or "none"),
        ("dtype", impl.dtype),
        ("gives", ", ".join(sorted(frozenset().union(*session.given.values()))) or "nothing"),
        ("versions", versions()),
    )
    return (
        f'<header class="verdict {colour}"><span class="word">{words[0].upper() + words[1:]}</span>'
        f'<h1>{escape(impl.name)}</h1><p class="soft">{tally}</p>{why}</header>\n{facts(rows)}'
    )


def figures(session: Session, results: Sequence[CheckResult]) -> str:
    """Return the section of the plots, or why there are none."""
    departed = [result.departure.observable for result in results if result.departure is not None]
    try:
        body = plots(curves(session, departed))
    except NoCurve as reason:
        body = f'<p class="soft">No plot: {escape(str(reason))}.</p>'
    return f"<h2>Over a run</h2>\n{body}"


def plots(found: Curves) -> str:
    """Return the two plots with their captions."""
    T, n = found.got.shape
    K, D = found.case.steps[0].jacobian.shape
    what = "task" if n == K and found.name != "direction" else "entry"
    keys = "".join(key(f"s{i % COLOURS}", f"{what} {i}") for i in range(n))
    size = f"{T} steps, K = {K}, D = {D}; {described(found.case.method)}"
    if found.first is None:
        note, after = "No step of this run departs.", ""
    else:
        note = f"It departs first at step {found.first[0]}, {what} {found.first[1]}."
        after = " Behind the first departure, what is allowed is rounding of the answer alone."
    if len(found.case.steps) > T:
        note += f" The specification cannot go on from what it gives at step {T - 1}."
    return (
        f'<p class="soft">{escape(size)}. {note}</p>\n<div class="plots">'
        f"<figure><h3>{escape(found.name)}</h3>{lines(found)}<p>{keys}{key('spec', 'specification')}</p>"
        "<figcaption>Both from the same start, each led by its own weights.</figcaption></figure>\n"
        f"<figure><h3>error of {escape(found.name)}</h3>{errors(found)}"
        f"<p>{key('s0', 'largest error')}{key('spec', 'allowed')}</p>"
        "<figcaption>Each step judged on its own, from the weights that the implementation had then. What is exactly "
        f"right lies on the bottom line, what is not a number on the top one.{after}</figcaption></figure></div>"
    )


def table(results: Sequence[CheckResult], number: int) -> str:
    """Return the table of the checks; `number`: how many the method has."""
    rows = []
    for result in results:
        statement = result.statement.partition(": ")[2] or result.statement
        told = f'<a href="#{escape(result.name)}">{result.status}</a>' if shown(result) else result.status
        status = f'<span class="status {COLOUR.get(result.status, "none")}">{told}</span>'
        reason = f'<br><span class="soft">{escape(result.reason)}</span>' if result.reason else ""
        rows.append(
            f'<tr><td class="tag">{escape(result.eq)}</td><td>{escape(statement)}{reason}</td><td>{status}</td>'
            f'<td class="number">{result.judged or "–"}</td></tr>'
        )
    left = f'<p class="soft">{len(results)} of {number} checks were run.</p>' if len(results) < number else ""
    head = '<tr><th>tag</th><th>statement</th><th>status</th><th class="number">cases</th></tr>'
    return f"<h2>Checks</h2>\n{left}<table><thead>{head}</thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"


def shown(result: CheckResult) -> bool:
    """Return whether a result has a message of its own; that of an implementation without use is the verdict's."""
    return bool(result.message) and result.status != "unusable"


def failures(results: Sequence[CheckResult]) -> str:
    """Return the messages of the checks that failed, the first one open."""
    told = [result for result in results if shown(result)]
    if not told:
        return ""
    parts = []
    for i, result in enumerate(told):
        expected = f" ({result.status}: {result.reason})" if result.status == "expected failure" else ""
        head = f'<span class="tag">{escape(result.eq)}</span>{escape(result.name + expected)}'
        opening = f'<details id="{escape(result.name)}"{"" if i else " open"}>'
        parts.append(f"{opening}<summary>{head}</summary>{block(result.message.splitlines())}</details>")
    return "<h2>Failures</h2>\n" + "\n".join(parts)


def met(session: Session) -> str:
    """Return how many of the cases met each condition that decides whether a bug shows."""
    total = sum(len(cases) for cases in session.drawn.values())
    if not total:
        return '<h2>Conditions</h2>\n<p class="soft">No case was drawn.</p>'
    rows = []
    for name, number in sorted(session.met().items(), key=lambda item: -item[1]):
        bar = f'<i style="width: {100 * number / total:.1f}%"></i>' if number else '<span class="soft">never</span>'
        rows.append(f'<tr><td>{escape(name)}</td><td class="bar">{bar}</td><td class="number">{number}</td></tr>')
    text = f"How many of the {total} cases met what decides whether a bug shows."
    return f'<h2>Conditions</h2>\n<p class="soft">{text}</p><table><tbody>\n' + "\n".join(rows) + "\n</tbody></table>"


def output(printed: Sequence[str]) -> str:
    """Return what the implementation printed, its first lines if it was much."""
    if not printed:
        return '<h2>Output</h2>\n<p class="soft">It printed nothing.</p>'
    more = f'<p class="soft">… and {len(printed) - PRINTED} lines more.</p>' if len(printed) > PRINTED else ""
    return f"<h2>Output</h2>\n{block(printed[:PRINTED])}{more}"

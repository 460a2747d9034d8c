"""HTML: what came of the checks of one implementation, as one page that needs nothing else.

No script, no font, no picture from elsewhere; the plots are SVG in the page. Everything that the implementation or
its author named, printed or raised is escaped.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from mtlref import __version__
from mtlref.conformance.curves import COLOURS, Curves, NoCurve, curves, errors, lines
from mtlref.conformance.runner import CheckResult, Session
from mtlref.settings import described

PRINTED = 40
"""How many lines of an implementation's output are shown."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #ffffff; --ink: #1d2127; --soft: #5b636e; --rule: #dfe2e6;
  --good: #13734a; --bad: #b3261e; --warn: #8a5a00; --spec: #8d949d; --s0: #0b65ad; --s1: #c65300; --s2: #0a7f5f;
  --s3: #a8447f; --s4: #7a6a00; --s5: #2b8fc4; --s6: #6a4bc0; --s7: #555c66; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1c2026; --ink: #e6e9ed; --soft: #a2abb6;
  --rule: #343a43; --good: #5fd09b; --bad: #ff8a80; --warn: #f0b64e; --spec: #7f8893; --s0: #6cb6ff; --s1: #ff9d57;
  --s2: #4fd1a5; --s3: #f08cc4; --s4: #d8c64a; --s5: #8fd3f4; --s6: #b9a2ff; --s7: #b8c0ca; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.4rem 0 0.2rem; }
h2 { font-size: 1.1rem; margin: 2.4rem 0 0.6rem; }
h3 { font-size: 0.95rem; margin: 0 0 0.3rem; }
hr { border: 0; border-top: 2px solid var(--rule); margin: 3.5rem 0; }
p { margin: 0.4rem 0; } .soft, figcaption { color: var(--soft); font-size: 0.88rem; }
.verdict { border-left: 0.4rem solid var(--c); background: var(--card); padding: 1rem 1.2rem; border-radius: 0.3rem; }
.word, .status { color: var(--c); font-weight: 650; } .word { font-size: 1.05rem; }
.diagnosis { font-size: 1.08rem; margin-top: 0.8rem; }
.good { --c: var(--good); } .bad { --c: var(--bad); } .warn { --c: var(--warn); } .none { --c: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1.2rem; margin: 1rem 0 0; }
dt { color: var(--soft); } dd { margin: 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th { text-align: left; color: var(--soft); font-weight: 500; }
th, td { padding: 0.35rem 0.8rem 0.35rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
.tag, .status { white-space: nowrap; } .tag, pre, code { font-family: ui-monospace, Menlo, Consolas, monospace; }
.tag { font-size: 0.86rem; } .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { margin: 0.5rem 0 1rem; padding: 0.8rem 1rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 0.3rem; font-size: 0.82rem; line-height: 1.5; white-space: pre-wrap; }
pre span { display: block; padding-left: 14ch; text-indent: -14ch; } pre span.head { padding: 0; text-indent: 0; }
summary { cursor: pointer; padding: 0.25rem 0; } summary .tag { color: var(--bad); margin-right: 0.5rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; padding: 0.9rem; background: var(--card); border: 1px solid var(--rule); border-radius: 0.3rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; } svg text { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--rule); } polyline { fill: none; stroke-linejoin: round; } .s { stroke-width: 1.7; }
.spec { stroke: var(--spec); stroke-width: 3.6; stroke-dasharray: 6 4; } svg text.bad { fill: var(--bad); }
line.bad { stroke: var(--bad); stroke-dasharray: 2 3; } circle { fill: none; stroke: var(--bad); stroke-width: 2; }
.key { display: inline-block; margin-right: 0.9rem; color: var(--soft); font-size: 0.85rem; }
.key i { display: inline-block; width: 1.3rem; margin-right: 0.35rem; vertical-align: middle;
  border-top: 3px solid var(--k); }
.key.k-spec i { border-top-style: dashed; } .bar { width: 40%; }
.bar i { display: block; height: 0.55rem; margin-top: 0.45rem; border-radius: 0.15rem; background: var(--s0); }
@media (max-width: 34rem) { body { padding: 1rem 0.8rem 2rem; } .bar { width: 25%; } dl { gap: 0.15rem 0.8rem; } }
""" + "\n".join(
    [f".s{i} {{ stroke: var(--s{i}); }} .k-s{i} {{ --k: var(--s{i}); }}" for i in range(COLOURS)]
    + [".k-spec { --k: var(--spec); }"]
)

COLOUR = {"passed": "good", "failed": "bad", "unexpected pass": "bad", "unusable": "bad", "expected failure": "warn"}
"""Status → the class of its colour."""


def page(session: Session, results: Sequence[CheckResult]) -> str:
    """Return the page of an implementation, of whose checks `results` came."""
    return pages([(session, results)])


def pages(judged: Sequence[tuple[Session, Sequence[CheckResult]]]) -> str:
    """Return one page of several implementations, each with the results of its checks, one below the other."""
    title = "; ".join(f"{session.impl.name}: {verdict(session, results)[1]}" for session, results in judged)
    body = "\n<hr>\n".join(section(session, results) for session, results in judged)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


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
    facts = "".join(f"<dt>{label}</dt><dd>{escape(text)}</dd>" for label, text in rows)
    return (
        f'<header class="verdict {colour}"><span class="word">{words[0].upper() + words[1:]}</span>'
        f'<h1>{escape(impl.name)}</h1><p class="soft">{tally}</p>{why}</header>\n<dl>{facts}</dl>'
    )


def versions() -> str:
    """Return the versions of what computed: the specification, Python, NumPy, and a framework that is loaded."""
    known = [f"mtlref {__version__}", f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    loaded = [(name, getattr(sys.modules.get(name), "__version__", None)) for name in ("torch", "jax")]
    return ", ".join(known + [f"{name} {version}" for name, version in loaded if version])


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
    return (
        f'<p class="soft">{escape(size)}. {note}</p>\n<div class="plots">'
        f"<figure><h3>{escape(found.name)}</h3>{lines(found)}<p>{keys}{key('spec', 'specification')}</p>"
        "<figcaption>Both from the same start, each led by its own weights.</figcaption></figure>\n"
        f"<figure><h3>error of {escape(found.name)}</h3>{errors(found)}"
        f"<p>{key('s0', 'largest error')}{key('spec', 'allowed')}</p>"
        "<figcaption>Each step judged on its own, from the weights that the implementation had then. What is exactly "
        f"right lies on the bottom line, what is not a number on the top one.{after}</figcaption></figure></div>"
    )


def key(kind: str, text: str) -> str:
    """Return an entry of a legend."""
    return f'<span class="key k-{kind}"><i></i>{escape(text)}</span>'


def table(results: Sequence[CheckResult], number: int) -> str:
    """Return the table of the checks; `number`: how many the method has."""
    rows = []
    for result in results:
        statement = result.statement.partition(": ")[2] or result.statement
        status = f'<span class="status {COLOUR.get(result.status, "none")}">{result.status}</span>'
        reason = f'<br><span class="soft">{escape(result.reason)}</span>' if result.reason else ""
        rows.append(
            f'<tr><td class="tag">{escape(result.eq)}</td><td>{escape(statement)}{reason}</td><td>{status}</td>'
            f'<td class="number">{result.judged or "–"}</td></tr>'
        )
    left = f'<p class="soft">{len(results)} of {number} checks were run.</p>' if len(results) < number else ""
    head = '<tr><th>tag</th><th>statement</th><th>status</th><th class="number">cases</th></tr>'
    return f"<h2>Checks</h2>\n{left}<table><thead>{head}</thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"


def failures(results: Sequence[CheckResult]) -> str:
    """Return the messages of the checks that failed, the first one open."""
    told = [result for result in results if result.message and result.status != "unusable"]
    if not told:
        return ""
    parts = []
    for i, result in enumerate(told):
        expected = f" ({result.status}: {result.reason})" if result.status == "expected failure" else ""
        head = f'<span class="tag">{escape(result.eq)}</span>{escape(result.name + expected)}'
        parts.append(
            f"<details{' open' if i == 0 else ''}><summary>{head}</summary>"
            f"{block(result.message.splitlines())}</details>"
        )
    return "<h2>Failures</h2>\n" + "\n".join(parts)


def block(rows: Iterable[str]) -> str:
    """Return lines as they are, each hanging where it is too long; the first, if it is not indented, does not."""
    made = [
        f"<span{'' if row[:1] == ' ' else ' class=' + chr(34) + 'head' + chr(34)}>{escape(row)}\n</span>"
        for row in rows
    ]
    return f"<pre>{''.join(made)}</pre>"


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

"""Pages: HTML that needs nothing else. No script, no font, no picture from elsewhere; plots are SVG in the page."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from html import escape

import numpy as np

from mtlref import __version__
from mtlref.drawing import COLOURS

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
a { color: inherit; } .tag { font-size: 0.86rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { margin: 0.5rem 0 1rem; padding: 0.8rem 1rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 0.3rem; font-size: 0.82rem; line-height: 1.5; white-space: pre-wrap; }
pre span { display: block; padding-left: 14ch; text-indent: -14ch; } pre span.head { padding: 0; text-indent: 0; }
summary { cursor: pointer; padding: 0.25rem 0; } summary .tag { color: var(--bad); margin-right: 0.5rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; padding: 0.9rem; background: var(--card); border: 1px solid var(--rule); border-radius: 0.3rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; } svg text { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--rule); } .band { stroke-width: 1.3; stroke-linejoin: round; fill-opacity: 0.45; }
.band.spec { stroke-dasharray: none; stroke-width: 3; }
polyline { fill: none; stroke-linejoin: round; } .s { stroke-width: 1.7; }
.spec { stroke: var(--spec); stroke-width: 3.6; stroke-dasharray: 6 4; } svg text.bad { fill: var(--bad); }
line.bad { stroke: var(--bad); stroke-dasharray: 2 3; } circle { fill: none; stroke: var(--bad); stroke-width: 2; }
.key { display: inline-block; margin-right: 0.9rem; color: var(--soft); font-size: 0.85rem; }
.key i { display: inline-block; width: 1.3rem; margin-right: 0.35rem; vertical-align: middle;
  border-top: 3px solid var(--k); }
.key.k-spec i { border-top-style: dashed; } .bar { width: 40%; }
.bar i { display: block; height: 0.55rem; margin-top: 0.45rem; border-radius: 0.15rem; background: var(--s0); }
@media (max-width: 34rem) { body { padding: 1rem 0.8rem 2rem; } .bar { width: 25%; } dl { gap: 0.15rem 0.8rem; } }
""" + "\n".join(
    [f".s{i}, .band.s{i} {{ stroke: var(--s{i}); }} .k-s{i} {{ --k: var(--s{i}); }}" for i in range(COLOURS)]
    + [f".band.s{i} {{ fill: var(--s{i}); }}" for i in range(COLOURS)]
    + [".k-spec { --k: var(--spec); } .band.spec { fill: var(--spec); }"]
)


def document(title: str, body: str) -> str:
    """Return a page with a `title`, which is escaped, and a `body`, which is taken as it is."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return a list of what is what, escaped."""
    return "<dl>" + "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in rows) + "</dl>"


def versions() -> str:
    """Return the versions of what computed: the specification, Python, NumPy, and a framework that is loaded."""
    known = [f"mtlref {__version__}", f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    loaded = [(name, getattr(sys.modules.get(name), "__version__", None)) for name in ("torch", "jax")]
    return ", ".join(known + [f"{name} {version}" for name, version in loaded if version])


def key(kind: str, text: str) -> str:
    """Return an entry of a legend."""
    return f'<span class="key k-{kind}"><i></i>{escape(text)}</span>'


def block(rows: Iterable[str]) -> str:
    """Return lines as they are, each hanging where it is too long; the first, if it is not indented, does not."""
    made = [f"<span{kind(row)}>{escape(row)}\n</span>" for row in rows]
    return f"<pre>{''.join(made)}</pre>"


def kind(row: str) -> str:
    """Return the class of a line: a head, unless it is indented."""
    return "" if row.startswith(" ") else ' class="head"'

"""The page of an implementation: well-formed, self-contained, safe with any name, and its plots are the numbers."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest

from mtlref.conformance import Implementation
from mtlref.conformance.curves import LONG, NoCurve, curves
from mtlref.conformance.html import PRINTED, page
from mtlref.conformance.runner import CheckResult, session
from mtlref.defects import DEFECTS
from tests.conformance.variants import implementation, judged

VOID = {"meta", "br"}
HOSTILE = "<script>alert('a\"b')</script> & \x3c/title>"


class Page(HTMLParser):
    """Every element with its attributes and the text in it; an element that is not closed in its turn is an error."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag):
        assert self.open and self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, kind=None):
        """The elements of a tag, of a class if `kind` is one, in their order."""
        return [e for e in self.elements if e["tag"] == tag and (kind is None or kind in e.get("class", "").split())]


def paged(impl):
    """The page of `impl`, parsed, with its text, session and results."""
    found, results = judged(impl)
    text = page(found, list(results.values()))
    return Page(text), text, found, results


def defect(name, stem="gradnorm"):
    """The defect of that name."""
    return next(d for d in DEFECTS[stem] if d.name == name)


def named(impl, **changes):
    """`impl` with other fields."""
    fields = {"name": impl.name, "step": impl.step, "run": impl.run, "choices": impl.choices, **changes}
    return Implementation(impl.method, **fields)


def long_run(name, wrong=()):
    """An observable of GradNorm over the run of the page, (T, K), as a run sees it that the page has no part in."""
    seen = []
    right, other = implementation("gradnorm"), implementation("gradnorm", wrong)

    def run(problems):
        seen.append(problems)
        return other.run(problems)

    curves(session(named(right, run=run)))
    problems = next(run for run in seen if len(run) == LONG)
    return {who: np.array(impl.run(problems)[name]) for who, impl in (("right", right), ("other", other))}


# WELL-FORMED, SELF-CONTAINED


def gradnorm(*names):
    return implementation("gradnorm", [defect(name) for name in names])


def unusable(problem, state):
    raise RuntimeError("no <b>device</b>")


CASES = {
    "passing": gradnorm(),
    "failing": gradnorm("SumToOne"),
    "unusable": Implementation("gradnorm", name="broken", step=unusable),
    "own orders": Implementation("pcgrad", name="own", step=implementation("pcgrad").step, choices={"order": "own"}),
}


@cache
def known(which):
    """The page of a case, made once."""
    return paged(CASES[which])


@pytest.mark.parametrize("which", CASES)
def test_is_well_formed_and_needs_nothing_else(which):
    parsed, text, _, _ = known(which)
    assert text.startswith("<!DOCTYPE html>") and len(parsed.all("h1")) == 1
    assert not re.search(r"https?:|//|url\(|@import|<script|\bsrc=|<link", text)
    assert all(e["href"].startswith("#") for e in parsed.all("a"))
    ids = [e["id"] for e in parsed.elements if "id" in e]
    assert len(set(ids)) == len(ids)
    assert {e["href"][1:] for e in parsed.all("a")} == set(ids)


def test_colours_are_given_for_light_and_dark():
    _, text, _, _ = known("passing")
    light, dark = text.split("@media (prefers-color-scheme: dark)")
    names = set(re.findall(r"var\(--(\w+)\)", text)) - {"c", "k"}
    given = [set(re.findall(r"--(\w+): #", part)) for part in (light, dark)]
    assert given == [names, names]


# WHAT IT SAYS


def test_a_right_implementation_has_passed():
    parsed, _, found, results = known("passing")
    assert [e["text"] for e in parsed.all("span", "word")] == ["Passed"]
    rows = parsed.all("tbody")[0]["text"].splitlines()
    assert len([row for row in rows if row.strip()]) == len(found.checks) == len(results)
    assert not parsed.all("pre") and not parsed.all("circle") and not parsed.all("p", "diagnosis")
    assert "No step of this run departs." in parsed.all("body")[0]["text"]


def test_a_wrong_one_has_failed_and_says_why():
    parsed, _, _, results = known("failing")
    told = [result.message for result in results.values() if result.status == "failed"]
    assert [e["text"] for e in parsed.all("span", "word")] == ["Failed"]
    assert "SumToOne [GN-7]" in parsed.all("p", "diagnosis")[0]["text"]
    assert told and [e["text"] for e in parsed.all("pre")] == [message + "\n" for message in told]
    assert ["open" in e for e in parsed.all("details")] == [True] + [False] * (len(told) - 1)


def test_one_that_cannot_be_used_says_so_in_place_of_plots():
    parsed, _, _, _ = known("unusable")
    assert [e["text"] for e in parsed.all("span", "word")] == ["Could not be used"]
    assert "no <b>device</b>" in parsed.all("p", "diagnosis")[0]["text"] and not parsed.all("b")
    assert not parsed.all("svg") and "No plot: the implementation could not be used." in parsed.all("body")[0]["text"]


def test_own_orders_have_no_plot():
    parsed, _, _, _ = known("own orders")
    assert not parsed.all("svg") and "draws its own orders" in parsed.all("body")[0]["text"]


def test_a_long_run_without_an_answer_has_no_plot():
    right = implementation("gradnorm")

    def run(problems):
        if len(problems) == LONG:
            raise RuntimeError("too long")
        return right.run(problems)

    with pytest.raises(NoCurve, match="too long"):
        curves(session(named(right, run=run)))


def test_statuses_reasons_and_verdicts():
    found = known("passing")[2]

    def words(*statuses):
        results = [CheckResult(f"check_{i}", "GN-1", "GN-1: x.", s, reason="r & r") for i, s in enumerate(statuses)]
        parsed = Page(page(found, results))
        assert parsed.all("tbody")[0]["text"].count("r & r") == len(statuses)
        assert f"{len(statuses)} of {len(found.checks)} checks were run" in parsed.all("body")[0]["text"]
        return parsed.all("span", "word")[0]["text"]

    assert words("passed", "skipped") == "Passed"
    assert words("passed", "expected failure") == "Passed, but for expected failures"
    assert words("passed", "unexpected pass") == words("failed", "passed") == "Failed"
    assert words("passed", "failed", "unusable") == "Could not be used"
    assert words("skipped") == words() == "Nothing was judged"


def test_what_is_hostile_is_shown_and_does_nothing():
    def step(problem, state):
        print(HOSTILE)
        return gradnorm("SumToOne").step(problem, state)

    impl = Implementation("gradnorm", name=HOSTILE, step=step)
    parsed, text, found, _ = paged(impl)
    assert "<script" not in text and parsed.all("h1")[0]["text"] == HOSTILE
    assert parsed.all("title")[0]["text"] == f"{HOSTILE}: failed"
    assert parsed.all("pre")[0]["text"].startswith("check_gradnorm_next_weights [GN-7] fails for ")
    assert parsed.all("pre")[-1]["text"] == f"{HOSTILE}\n" * PRINTED
    more = re.search(r"and (\d+) lines more", text)
    assert more and 0 < int(more[1]) < len(found.answers.printed) - PRINTED  # the page's own run prints, too


def test_conditions_are_counted():
    parsed, _, found, _ = known("passing")
    total = sum(map(len, found.drawn.values()))
    bars = parsed.all("tbody")[1]["text"].split("\n")
    assert {f"{name}{number or 'never0'}" for name, number in found.met().items()} == set(filter(None, bars))
    widths = [float(re.search(r"[\d.]+", e["style"])[0]) for e in parsed.all("i") if "style" in e]
    assert widths == [pytest.approx(100 * n / total, abs=0.05) for n in sorted(found.met().values())[::-1] if n]


# THE PLOTS ARE THE NUMBERS


def points(parsed, plot, kind):
    """The numbers of the lines of a class in a plot, one row a line, read off the plot's own grid."""
    text = [e for e in parsed.elements if e["tag"] in ("svg", "text", "polyline")]
    starts = [i for i, e in enumerate(text) if e["tag"] == "svg"] + [len(text)]
    inside = text[starts[plot] : starts[plot + 1]]

    def axis(name):
        marks = [(float(e[name]), e["text"]) for e in inside if e.get("class") == name]
        values = [float(label) for _, label in marks]
        values = np.log10(values) if plot == 1 and name == "y" else np.array(values)
        slope, start = np.polyfit([place for place, _ in marks], values, 1)
        np.testing.assert_allclose([place * slope + start for place, _ in marks], values, atol=1e-3)
        return lambda place: place * slope + start

    x, y = axis("x"), axis("y")
    found = []
    for line in (e for e in inside if e["tag"] == "polyline" and kind in e["class"].split()):
        at = np.array([[float(n) for n in pair.split(",")] for pair in line["points"].split()])
        np.testing.assert_allclose(x(at[:, 0]), np.arange(len(at)), atol=1e-3)
        found.append(y(at[:, 1]))
    return np.array(found)


def test_lines_are_the_two_runs():
    wrong = [defect("SumToOne")]
    parsed, _, _, _ = known("failing")
    seen = long_run("w_next", wrong)
    np.testing.assert_allclose(points(parsed, 0, "spec").T, seen["right"], atol=1e-4)
    np.testing.assert_allclose(points(parsed, 0, "s").T, seen["other"], atol=1e-4)
    np.testing.assert_allclose(seen["other"].sum(axis=1), 1)
    np.testing.assert_allclose(seen["right"].sum(axis=1), 3)


def test_the_first_departure_is_marked_and_the_error_is_that_step_s():
    """With weights that are right up to step 7 and then have 0.25 added to task 1."""
    right = implementation("gradnorm")

    def run(problems):
        found = right.run(problems)
        found["w_next"] = [w + 0.25 * (t == 7) * (np.arange(len(w)) == 1) for t, w in enumerate(found["w_next"])]
        return {"w_next": found["w_next"]}

    parsed, _, _, _ = paged(Implementation("gradnorm", name="late", run=run))
    drawn, spec = points(parsed, 0, "s").T, points(parsed, 0, "spec").T
    np.testing.assert_allclose((drawn - spec)[7], [0, 0.25, 0], atol=1e-4)
    np.testing.assert_allclose(np.delete(drawn - spec, 7, axis=0), 0, atol=1e-4)
    assert [e["text"] for e in parsed.all("text", "bad")] == ["first departure: step 7"] * 2
    ring, line = parsed.all("circle")[0], parsed.all("polyline", "s")[1]
    assert f"{ring['cx']},{ring['cy']}" == line["points"].split()[7]
    errors, allowed = points(parsed, 1, "s")[0], points(parsed, 1, "spec")[0]
    assert errors[7] == pytest.approx(np.log10(0.25), abs=1e-3)
    assert np.all(errors[:7] < allowed[:7]) and np.all(allowed < -10)

"""The page of an audit: well-formed, self-contained, safe with any name, and its plots and figures are the run's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mtlref.audit import judge
from mtlref.audit.page import page
from mtlref.audit.run import Run
from mtlref.audit.trace import COLUMNS, traced
from mtlref.cli import main
from mtlref.drawing import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes
from mtlref.methods import DWA, GradNorm
from tests.audit import loops
from tests.pages import Page

HOSTILE = "<script>alert('a\"b')</script> & \x3c/title>"


@cache
def example(name):
    """A recorded run with its verdict, and the page, as text and parsed."""
    run, verdict = loops.shipped(name)
    text = page(run, verdict)
    return run, verdict, text, Page(text)


def places(points):
    """The points of an SVG element."""
    return np.array([[float(x) for x in point.split(",")] for point in points.split()])


@pytest.mark.parametrize("name", ["gradnorm-pytorch", "torch-loop"])
def test_the_page_needs_nothing_else(name):
    _, _, text, parsed = example(name)
    assert not {e["tag"] for e in parsed.elements} & {"script", "link", "img", "iframe", "object", "style src"}
    assert "http" not in text
    assert "url(" not in text
    assert len(text) < 200_000


def test_the_verdict_and_the_diagnosis_stand_first():
    _, _, _, parsed = example("gradnorm-pytorch")
    header = parsed.all("header", "bad")[0]["text"]
    assert "Leaves GradNorm" in header
    assert "InvertedRate [GN-4] + MeanForSum [GN-5]" in header
    assert "Follows GradNorm" in example("torch-loop")[3].all("header", "good")[0]["text"]
    assert any("derivations/gradnorm.md, GN-E2" in e["text"] for e in parsed.all("table"))


def test_the_lines_are_the_run_s_weights_and_those_of_a_plain_loop():
    """400 rows have a column each: the points, read back, are the logged weights and a loop's of its own."""
    run, _, _, parsed = example("torch-loop")
    lines = [places(e["points"]) for e in parsed.all("polyline")]
    own, got = lines[:2], lines[2:4]
    loop = loops.gradnorm(run.log.losses, run.log.norms, 1.5, loops.Descent(0.025))
    every = np.concatenate([run.log.weights.ravel(), loop.ravel()])
    low, high = every.min(), every.max()
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    for drawn, values in ((own, loop), (got, run.log.weights)):
        for task in range(2):
            share = (HEIGHT - BOTTOM - drawn[task][:, 1]) / (HEIGHT - TOP - BOTTOM)
            assert np.abs(low + share * (high - low) - values[:, task]).max() < 0.002 * (high - low)
            assert np.allclose(drawn[task][:, 0], np.linspace(LEFT, WIDTH - RIGHT, 400), atol=0.002)


def test_the_first_departure_is_marked_where_it_is_and_its_figures_are_exact():
    run, verdict, text, parsed = example("gradnorm-pytorch")
    marks = parsed.all("line", "bad")
    assert len(marks) == 2
    step = run.log.rows[verdict.first.row]
    for mark in marks:
        assert float(mark["x1"]) == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * step / 399, abs=0.001)
    assert f"first departure: step {step}" in text
    cells = [e["text"] for e in parsed.all("td", "number")]
    assert repr(float(verdict.first.got[0])) in cells
    assert repr(float(verdict.first.expected[0])) in cells
    assert not example("torch-loop")[3].all("line", "bad")


def long_run(N=12_000):
    """A DWA run far longer than a drawing is wide, with one wrong weight, in two logs: as it is, and wrong there."""
    rng = np.random.default_rng(3)
    losses = np.exp(np.cumsum(0.02 * rng.normal(size=(N, 2)), axis=0) * 0.1)
    weights = loops.dwa(losses, 2.0)
    return losses, weights


def test_a_long_run_is_drawn_as_bands_that_lose_no_peak(tmp_path):
    losses, weights = long_run()
    at = 9_876
    weights[at] += [0.3, -0.3]
    log = replace(
        loops.logged(tmp_path, "dwa", losses[:50], weights[:50]),
        losses=losses, weights=weights, rows=np.arange(len(losses)), lines=np.arange(len(losses)),
    )  # fmt: skip
    trace = traced(DWA(), log)
    assert len(trace.steps) == COLUMNS
    column = at * COLUMNS // len(losses)
    assert trace.got.high[column, 0] == weights[at, 0]
    assert trace.own.high[column, 0] < weights[at, 0] - 0.2
    blocks = np.array_split(
        weights, np.searchsorted(np.arange(len(losses)) * COLUMNS // len(losses), range(1, COLUMNS))
    )
    assert np.array_equal(trace.got.low, [block.min(axis=0) for block in blocks])
    assert np.array_equal(trace.got.high, [block.max(axis=0) for block in blocks])
    over = np.flatnonzero(trace.error > trace.allowed)
    assert over.tolist() == [column]
    assert trace.error[column] == pytest.approx(0.3, abs=1e-12)
    verdict = judge(DWA(), log)
    text = page(Run(log, DWA(), {}, ()), verdict)
    assert len(text) < 200_000
    assert len(Page(text).all("polygon", "band")) == 4
    assert f"first departure: epoch {at}" in text
    assert "A column of the drawing stands for up to 30 rows" in text


def test_a_gap_breaks_the_lines_and_what_cannot_be_replayed_is_left_out(tmp_path):
    losses, norms = loops.falling(np.random.default_rng(4), 40, 2)
    weights = loops.gradnorm(losses, norms, 1.0, loops.Descent(0.01))
    log = loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms)
    spoilt = [x.copy() for x in (losses, norms, weights)]
    for values in spoilt:
        values[20:22] = np.nan
    log = replace(log, losses=spoilt[0], norms=spoilt[1], weights=spoilt[2])
    method = GradNorm(alpha=1.0, lr=0.01)
    trace = traced(method, log)
    assert np.isnan(trace.error[20:22]).all()
    assert np.isfinite(trace.error[23:]).all()
    parsed = Page(page(Run(log, method, {}, ()), judge(method, log)))
    assert len(parsed.all("polyline", "s")) == 2 * 2 + 2  # two tasks and the error, each in two pieces


def test_names_are_escaped_and_steps_that_do_not_rise_are_counted(tmp_path):
    losses, norms = loops.falling(np.random.default_rng(5), 30, 2)
    weights = loops.gradnorm(losses, norms, 1.0, loops.Descent(0.01))
    log = loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms)
    log = replace(log, source=HOSTILE, tasks=(HOSTILE, "b"), rows=np.concatenate([np.arange(15), np.arange(15)]))
    method = GradNorm(alpha=1.0, lr=0.01)
    text = page(Run(log, method, {HOSTILE: HOSTILE}, ()), judge(method, log))
    assert "<script" not in text
    assert Page(text).all("h1")[0]["text"] == HOSTILE
    assert ">row</text>" in text


def test_the_command_writes_the_page_or_says_why_not(tmp_path, capsys):
    target = tmp_path / "page.html"
    assert main(["audit", "example:torch-loop", "--html", str(target)]) == 0
    assert "PASSED" in capsys.readouterr().out
    assert Page(target.read_text(encoding="utf-8")).all("svg")
    assert main(["audit", "example:torch-loop", "--html", str(Path(tmp_path) / "none" / "page.html")]) == 2
    assert "page.html: cannot be written" in capsys.readouterr().err


def test_axes_that_begin_later_than_step_0():
    axes = Axes(11, 0.0, 1.0, first=100.0)
    assert axes.x(100) == LEFT
    assert axes.x(110) == WIDTH - RIGHT
    assert ">104<" in axes.frame()

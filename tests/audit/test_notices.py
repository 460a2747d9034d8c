"""Each warning, on a log where it fires and on one where it does not; what it points to is there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mtlref
from mtlref.audit import notices as module
from mtlref.audit.notices import notices
from mtlref.audit.spool import BLOCK
from mtlref.cli import main
from tests.audit import loops

PAGES = Path(__file__).parent.parent.parent / "derivations"
STEPS = 60


def run(stem):
    """Losses and norms of three tasks, and how a log with other weights, losses or inner products is made."""
    losses, norms = loops.falling(np.random.default_rng(1), STEPS, 3)
    gram = np.stack([np.diag(n**2) for n in norms])
    more = {
        "gradnorm": {"norms": norms},
        "pe_ltr": {"gram": gram},
        "pcgrad": {"gram": gram, "draws": np.tile([[1, 2], [0, 2], [0, 1]], (STEPS, 1, 1))},
    }

    def logged(folder, weights, losses=losses, **other):
        return loops.logged(folder, stem, losses, weights, **{**more.get(stem, {}), **other})

    return losses, norms, logged


def gradnorm_weights(losses, norms, lr=0.01, alpha=1.0):
    return loops.gradnorm(losses, norms, alpha, loops.Descent(lr))


def names(method, log):
    """The names of the warnings, each of which has its words and a place that exists."""
    found = notices(method, log)
    for notice in found:
        page = (PAGES / f"{notice.page}.md").read_text(encoding="utf-8")
        assert re.search(rf"^##+ {re.escape(notice.section)}\b", page, re.MULTILINE), notice
        assert re.search(rf"^### {notice.equation} ", page, re.MULTILINE), notice
        assert 0 <= notice.first < len(log.rows)
        assert 0 < notice.rows <= len(log.rows)
    return [notice.name for notice in found]


def test_a_negative_weight(tmp_path):
    losses, norms, logged = run("gradnorm")
    weights = gradnorm_weights(losses, norms)
    assert "negative weight" not in names(mtlref.GradNorm(alpha=1.0), logged(tmp_path, weights))
    weights[17:20, 1] = -0.01
    log = logged(tmp_path, weights)
    assert "negative weight" in names(mtlref.GradNorm(alpha=1.0), log)
    notice = next(n for n in notices(mtlref.GradNorm(alpha=1.0), log) if n.name == "negative weight")
    assert (notice.first, notice.rows) == (17, 3)
    assert "the weight of 1 is below 0, first at step 17, at 3 steps of 60" in notice.text


@pytest.mark.parametrize(
    "method", [mtlref.GradNorm(alpha=1.0), mtlref.DWA(), mtlref.CoVWeighting()], ids=lambda method: method.stem
)
def test_a_collapsed_weight(tmp_path, method):
    """Gone in the last tenth of the rows: fires. Gone for a while in the middle, or small but there: does not."""
    _, _, logged = run(method.stem)
    weights = np.ones((STEPS, 3)) * [1.5, 1.0, 0.5]
    for rows, value, fires in (
        (slice(50, 60), 1e-4, True),
        (slice(20, 40), 1e-4, False),
        (slice(50, 60), 0.01, False),
    ):
        changed = weights.copy()
        changed[rows, 2] = value
        found = [n for n in notices(method, logged(tmp_path, changed)) if n.name == "collapsed weight"]
        assert bool(found) == fires
        assert not found or "the weight of 2 has collapsed" in found[0].text
        names(method, logged(tmp_path, changed))


@pytest.mark.parametrize(("alpha", "fires"), [(1.5, True), (2.5, True), (0.0, False), (1.0, False)])
def test_targets_that_cannot_be_met(tmp_path, alpha, fires):
    losses, norms, logged = run("gradnorm")
    log = logged(tmp_path, gradnorm_weights(losses, norms, alpha=alpha))
    method = mtlref.GradNorm(alpha=alpha)
    assert ("targets out of reach" in names(method, log)) == fires
    if fires:
        rates = losses / losses[0]
        r = rates / rates.mean(axis=1, keepdims=True)
        share = np.abs((r**alpha).mean(axis=1) - 1).mean()
        assert f"by {share:.1%} of their sum on average" in next(iter(notices(method, log))).text


def test_targets_of_equal_rates_can_be_met(tmp_path):
    losses, norms, logged = run("gradnorm")
    even = losses[:, :1] * [1.0, 2.0, 0.5]
    log = logged(tmp_path, gradnorm_weights(even, norms, alpha=1.5), losses=even)
    assert "targets out of reach" not in names(mtlref.GradNorm(alpha=1.5), log)


def test_targets_are_those_of_the_given_start(tmp_path):
    """Constant losses: r is 1 against the first ones, and (8, 1, 6)/5 against a start of a half, 4 and two thirds."""
    _, norms, logged = run("gradnorm")
    log = logged(tmp_path, np.ones((STEPS, 3)), losses=np.ones((STEPS, 3)))
    assert "targets out of reach" not in names(mtlref.GradNorm(alpha=2.0), log)
    given = mtlref.GradNorm(alpha=2.0, initial_losses=(0.5, 4.0, 2 / 3))
    notice = next(n for n in notices(given, log) if n.name == "targets out of reach")
    assert "miss them by 34.7% of their sum" in notice.text


@pytest.mark.parametrize(("value", "fires"), [(0.0, True), (1e-9, True), (0.01, False)])
def test_a_loss_that_reached_zero(tmp_path, value, fires):
    losses, _, logged = run("uncertainty")
    losses[30:33, 2] = value
    log = logged(tmp_path, np.ones((STEPS, 3)), losses=losses)
    assert names(mtlref.UncertaintyWeighting(), log) == ["loss at zero"] * fires


@pytest.mark.parametrize(("temperature", "fires"), [(50.0, True), (0.5, False)])
def test_dwa_that_is_no_different_from_equal_weights(tmp_path, temperature, fires):
    losses, _, logged = run("dwa")
    log = logged(tmp_path, loops.dwa(losses, temperature))
    assert names(mtlref.DWA(temperature), log) == ["no different from equal weights"] * fires


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("bounds", [None, (0.1, 0.2, 0.0)])
def test_weights_pinned_to_their_bounds(tmp_path, bounds, pinned):
    _, _, logged = run("pe_ltr")
    c = np.zeros(3) if bounds is None else np.array(bounds)
    weights = np.tile(c + (1 - c.sum()) * np.array([1.0, 0, 0]), (STEPS, 1))
    weights[0] = 1 / 3
    if not pinned:
        weights[5:15] = c + (1 - c.sum()) * np.array([0.5, 0.5, 0.0])
    log = logged(tmp_path, weights)
    assert names(mtlref.PELTR(bounds=bounds), log) == ["pinned to the bounds"] * pinned


@pytest.mark.parametrize("conflict", [True, False])
def test_a_run_without_conflicts(tmp_path, conflict):
    _, norms, logged = run("pcgrad")
    gram = np.stack([np.diag(n**2) for n in norms])
    gram[41, 0, 2] = gram[41, 2, 0] = -1e-3 if conflict else 0.0
    assert names(mtlref.PCGrad(), logged(tmp_path, np.ones((STEPS, 3)), gram=gram)) == ["no conflicts"] * (
        not conflict
    )


def test_a_row_without_a_number_counts_for_nothing(tmp_path):
    losses, _, logged = run("uncertainty")
    log = logged(tmp_path, np.ones((STEPS, 3)))
    losses[7] = np.nan
    log = replace(log, losses=losses)
    assert names(mtlref.UncertaintyWeighting(), log) == []


def test_a_warning_beyond_the_first_block_of_rows_has_its_place(tmp_path):
    losses, _, logged = run("uncertainty")
    log = logged(tmp_path, np.ones((STEPS, 3)))
    N, at = 3 * BLOCK, 2 * BLOCK + 5
    long = np.ones((N, 3))
    long[at, 1] = 0.0
    rows = np.arange(N) * 10
    found = notices(mtlref.UncertaintyWeighting(), replace(log, losses=long, weights=np.ones((N, 3)), rows=rows))
    assert (found[0].first, found[0].rows) == (at, 1)
    assert f"first at step {10 * at}" in found[0].text


def test_every_method_s_warnings_are_of_its_own_equations():
    assert set(module.WATCHES) <= set(mtlref.METHODS)
    assert {watch for watches in module.WATCHES.values() for watch in watches} == {
        module.negative, module.collapsed, module.out_of_reach, module.loss_at_zero, module.no_difference,
        module.pinned, module.no_conflict,
    }  # fmt: skip


def test_the_report_and_the_json_have_them(tmp_path, capsys):
    losses, _, logged = run("dwa")
    logged(tmp_path, loops.dwa(losses, 50.0))
    path = str(tmp_path / "run.csv")
    assert main(["audit", path, "--method", "dwa", "--set", "temperature=50.0"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Warning [DWA-2]: no weight is ever farther than 0.05 from 1" in out
    assert "(derivations/dwa.md, Invariants)." in out
    assert main(["audit", path, "--method", "dwa", "--set", "temperature=50.0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["warnings"]
    assert [(one["equation"], one["section"]) for one in told] == [("DWA-2", "derivations/dwa.md, Invariants")]

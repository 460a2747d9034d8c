"""Logs of weights after the update, and of numbers times their weights, of loops written out in `loops`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from mtlref import DWA, GradNorm
from mtlref.audit import judge, read_log, read_run, report, write_log
from mtlref.audit.readings import a_row_later, norms_alone
from mtlref.audit.spool import BLOCK
from mtlref.cli import main
from mtlref.notation import LogError
from tests.audit import loops

STEPS = 120


def made(stem, steps=STEPS, alpha=1.5):
    """Losses, norms or nothing, and the weights in use of a run, and the settings that it is judged by."""
    losses, norms = loops.falling(np.random.default_rng(3), steps, 3)
    if stem == "gradnorm":
        return losses, norms, loops.gradnorm(losses, norms, alpha, loops.Descent(0.002)), {"alpha": 1.5, "lr": 0.002}
    if stem == "dwa":
        return losses, None, loops.dwa(losses, 0.5), {"temperature": 0.5}
    weights = loops.uncertainty(losses, ["gaussian"] * 3, loops.Descent(0.01))
    return losses, None, weights, {"lr": 0.01, "likelihoods": "gaussian"}


def saved(path, losses, weights, norms=None, first=0, steps=None):
    """A log with the weights of each row's update, those of the next row, beside its losses."""
    columns = {"step": np.arange(first, len(losses) - 1) if steps is None else steps}
    for kind, values in (("loss", losses[:-1]), ("norm", norms), ("weight", weights[1:])):
        if values is not None:
            here = values[first : len(losses) - 1]
            columns |= {f"{kind}/{name}": here[:, i] for i, name in enumerate("abc")}
    write_log(path, columns)
    return str(path)


def judged(path, method, **options):
    run = read_run(path, method=method, **options)
    return run, judge(run.method, run.log)


@pytest.mark.parametrize("stem", ["gradnorm", "dwa", "uncertainty"])
@pytest.mark.parametrize("infer", [True, False])
def test_it_is_said_and_not_assumed(tmp_path, stem, infer):
    losses, norms, weights, settings = made(stem)
    path = saved(tmp_path / "run.csv", losses, weights, norms)
    run, verdict = judged(path, stem, settings={} if infer else settings, infer=infer)
    [fit] = verdict.diagnosis.explanations
    assert (verdict.passed, fit.defects, fit.steps) == (False, (), STEPS - 2)
    assert (verdict.diagnosis.readings, verdict.open_defects) == (("after",), ())
    said = " ".join(report.text(run, verdict).split())
    assert "they were logged after its update, then say --after, or they are used a step early. So read they" in said
    assert report.plain(run, verdict)["diagnosis"]["readings"] == ["after"]
    if infer:
        assert run.log.notes == ("the settings are inferred from the numbers as the diagnosis reads them",)
        assert run.inference.fitting


@pytest.mark.parametrize("stem", ["gradnorm", "dwa", "uncertainty"])
@pytest.mark.parametrize("infer", [True, False])
def test_it_is_judged_where_it_is_said(tmp_path, stem, infer):
    losses, norms, weights, settings = made(stem)
    path = saved(tmp_path / "run.csv", losses, weights, norms)
    run, verdict = judged(path, stem, settings={} if infer else settings, infer=infer, after=True)
    assert verdict.passed and verdict.run.follows
    assert verdict.steps == STEPS - 2
    assert "logged after its update" in run.log.notes[0]


def test_a_right_log_is_wrong_with_it(tmp_path):
    losses, norms, weights, settings = made("gradnorm")
    path = tmp_path / "run.csv"
    write_log(path, loops.columns(losses, weights, norms))
    assert judged(str(path), "gradnorm", settings=settings)[1].passed
    verdict = judged(str(path), "gradnorm", settings=settings, after=True)[1]
    assert (verdict.diagnosis.kind, verdict.diagnosis.readings) == ("unknown", ())


def test_a_wrong_run_is_named_a_row_later(tmp_path):
    losses, norms, weights, settings = made("gradnorm", alpha=-1.5)
    path = saved(tmp_path / "run.csv", losses, weights, norms)
    run, verdict = judged(path, "gradnorm", settings=settings)
    [fit] = verdict.diagnosis.explanations
    assert (verdict.diagnosis.readings, fit.name) == (("after",), "InvertedRate [GN-4]")
    assert f"So read: identical to a known defect, at every one of {STEPS - 2} steps." in report.text(run, verdict)
    later = judged(path, "gradnorm", settings=settings, after=True)[1].diagnosis
    assert (later.explanations[0].name, later.readings) == ("InvertedRate [GN-4]", ())


def test_a_wrong_run_s_settings_are_inferred_a_row_later(tmp_path):
    losses, norms, weights, _ = made("gradnorm", alpha=-1.5)
    run, verdict = judged(saved(tmp_path / "run.csv", losses, weights, norms), "gradnorm", infer=True)
    assert (run.inference.kind, run.inference.best.defect.name) == ("with a defect", "InvertedRate")
    assert run.method.lr == pytest.approx(0.002)
    low, high = run.inference.best.spans["alpha"]
    assert low <= 1.5 <= high
    assert verdict.diagnosis.readings == ("after",)


def test_another_rate_is_no_matter_of_rows(tmp_path):
    losses, norms, weights, _ = made("gradnorm")
    path = saved(tmp_path / "run.csv", losses, weights, norms)
    verdict = judged(path, "gradnorm", settings={"alpha": 1.5, "lr": 0.0021})[1]
    assert (verdict.diagnosis.kind, verdict.diagnosis.readings) == ("unknown", ())


def test_a_few_rows_are_too_few(tmp_path):
    losses, norms, weights, settings = made("gradnorm", steps=6)
    path = saved(tmp_path / "run.csv", losses, weights, norms)
    verdict = judged(path, "gradnorm", settings=settings)[1]
    assert (verdict.diagnosis.kind, verdict.diagnosis.readings) == ("too short", ("after",))


def test_the_command_line_and_the_mapping_say_it(tmp_path, capsys):
    losses, norms, weights, _ = made("gradnorm")
    path = saved(tmp_path / "run.csv", losses, weights, norms)
    assert main(["audit", path, "--method", "gradnorm"]) == 1
    assert "FAILED: the weights leave GradNorm at the start and at 118 of 118 steps." in capsys.readouterr().out
    assert main(["audit", path, "--method", "gradnorm", "--after"]) == 0
    (tmp_path / "map.json").write_text(json.dumps({"after": True}))
    assert main(["audit", path, "--method", "gradnorm", "--map", str(tmp_path / "map.json")]) == 0
    (tmp_path / "map.json").write_text(json.dumps({"after": "yes"}))
    assert main(["audit", path, "--method", "gradnorm", "--map", str(tmp_path / "map.json")]) == 2
    capsys.readouterr()


@pytest.mark.parametrize("stem", ["gradnorm", "uncertainty"])
def test_any_method_is_found_from_the_weights_a_row_later(tmp_path, stem):
    losses, norms, weights, _ = made(stem)
    run, verdict = judged(saved(tmp_path / "run.csv", losses, weights, norms), "auto")
    assert run.method.stem == stem
    assert verdict.diagnosis.readings == ("after",) and not verdict.diagnosis.explanations[0].defects


# NUMBERS TIMES THEIR WEIGHTS


WEIGHTED = [
    ("weighted_losses",),
    ("weighted_norms",),
    ("weighted_losses", "weighted_norms"),
    ("after", "weighted_norms"),
]
"""Readings of GradNorm's logs."""


def printed(values, form):
    """Numbers as they are read after they have been printed."""
    return np.array([[float(form % x) for x in row] for row in values])


def logged(path, stem, names, form=None, alpha=1.5):
    """A log of the readings `names`, printed in a `form`; and its settings."""
    losses, norms, weights, settings = made(stem, alpha=alpha)
    losses = weights * losses if "weighted_losses" in names else losses
    norms = np.abs(weights) * norms if "weighted_norms" in names else norms
    if "after" in names:
        return saved(path, losses, weights, norms), settings
    shown = [x if form is None or x is None else printed(x, form) for x in (losses, weights, norms)]
    path.unlink(missing_ok=True)
    write_log(path, loops.columns(*shown))
    return str(path), settings


@pytest.mark.parametrize("names", WEIGHTED)
def test_what_was_logged_times_its_weights_is_told(tmp_path, names):
    path, settings = logged(tmp_path / "run.csv", "gradnorm", names)
    _, verdict = judged(path, "gradnorm", settings=settings)
    assert not verdict.passed
    assert (verdict.diagnosis.readings, verdict.diagnosis.explanations[0].defects) == (names, ())
    assert judged(path, "gradnorm", settings=settings, **dict.fromkeys(names, True))[1].passed


@pytest.mark.parametrize("names", WEIGHTED[:3])
def test_a_negative_weight_turns_the_sign_of_a_loss_and_not_of_a_norm(tmp_path, names):
    losses, norms = loops.falling(np.random.default_rng(3), STEPS, 3)
    weights = loops.gradnorm(losses, norms, 1.5, loops.Descent(0.03))
    assert weights.min() < -0.1
    shown = [weights * losses if names[0] == "weighted_losses" else losses, weights]
    shown.append(np.abs(weights) * norms if names[-1] == "weighted_norms" else norms)
    write_log(tmp_path / "run.csv", loops.columns(*shown))
    options = dict.fromkeys(names, True)
    verdict = judged(str(tmp_path / "run.csv"), "gradnorm", settings={"alpha": 1.5, "lr": 0.03}, **options)[1]
    assert verdict.passed


@pytest.mark.parametrize("form", ["%.4f", "%.5g", "%.6f"])
@pytest.mark.parametrize("names", WEIGHTED[:3])
def test_so_it_is_behind_printed_digits(tmp_path, names, form):
    path, settings = logged(tmp_path / "run.csv", "gradnorm", names, form)
    assert judged(path, "gradnorm", settings=settings, **dict.fromkeys(names, True))[1].passed


@pytest.mark.parametrize("stem", ["dwa", "uncertainty"])
def test_losses_times_their_weights_of_other_methods(tmp_path, stem):
    path, settings = logged(tmp_path / "run.csv", stem, ("weighted_losses",))
    for infer in (True, False):
        run, verdict = judged(path, stem, settings={} if infer else settings, infer=infer)
        assert verdict.diagnosis.readings == ("weighted_losses",)
        assert not verdict.diagnosis.explanations[0].defects


def test_a_wrong_run_s_weighted_norms_are_told_beside_its_defect(tmp_path):
    path, settings = logged(tmp_path / "run.csv", "gradnorm", ("weighted_norms",), alpha=-1.5)
    diagnosis = judged(path, "gradnorm", settings=settings)[1].diagnosis
    assert (diagnosis.readings, diagnosis.explanations[0].name) == (("weighted_norms",), "InvertedRate [GN-4]")


def test_settings_are_inferred_from_norms_alone(tmp_path):
    path, settings = logged(tmp_path / "run.csv", "gradnorm", ("weighted_norms",))
    run, verdict = judged(path, "gradnorm", infer=True)
    assert run.inference.fitting and run.method.lr == settings["lr"]
    assert verdict.diagnosis.readings == ("weighted_norms",)


def test_what_they_may_be_off_by_is_more_for_the_division(tmp_path):
    """To first order, G/w is off by G's share and w's; each entry by no more than is said."""
    rng = np.random.default_rng(0)
    norms, weights = rng.uniform(0.5, 3, (60, 3)), rng.uniform(0.2, 2, (60, 3))
    shown = [np.round(x, 3) for x in (norms, weights, weights * norms)]
    write_log(tmp_path / "run.csv", loops.columns(*shown))
    log = read_log(tmp_path / "run.csv")
    alone = norms_alone(GradNorm(), log)
    np.testing.assert_allclose(alone.norms, shown[2] / shown[1], rtol=1e-15)
    assert np.all(np.abs(alone.norms - norms) <= 1.1 * alone.precision["norms"].of(alone.norms))


def test_numbers_over_a_weight_of_almost_nothing_are_missing(tmp_path):
    values = np.full((5, 3), 2.0)
    weights = np.array([[1.0, 1.0, 1.0]] * 3 + [[2.99, 0.005, 0.005], [3.0, 0.0, 0.0]])
    write_log(tmp_path / "run.csv", loops.columns(values, weights, values))
    alone = norms_alone(GradNorm(), read_log(tmp_path / "run.csv"))
    np.testing.assert_array_equal(np.isfinite(alone.norms[:, 1]), [True, True, True, False, False])


def test_a_method_without_norms_has_none_that_are_weighted(tmp_path):
    losses, _, weights, _ = made("dwa")
    write_log(tmp_path / "run.csv", loops.columns(losses, weights))
    with pytest.raises(LogError, match="Dynamic Weight Average reads no norms"):
        read_run(str(tmp_path / "run.csv"), method="dwa", weighted_norms=True)


# WEIGHTS AFTER THE UPDATE, MORE


def test_weights_of_the_row_s_own_numbers_are_after_nothing(tmp_path):
    losses, _, _, _ = made("dwa")
    write_log(tmp_path / "run.csv", loops.columns(losses, loops.cov(losses)))
    with pytest.raises(LogError, match="CoV-Weighting makes its weights of a row's own numbers, not after it"):
        read_run(str(tmp_path / "run.csv"), method="cov", after=True)


def test_two_runs_in_one_log(tmp_path):
    losses, norms, weights, settings = made("gradnorm")
    both = [np.vstack([x[:-1], x]) for x in (losses, norms)]
    moved = np.vstack([weights[:1], weights[1:], weights[1:]])  # each row's update, the first run's and the second's
    steps = np.r_[0 : STEPS - 1, 0 : STEPS - 1]
    path = saved(tmp_path / "run.csv", both[0], moved, both[1], steps=steps)
    run, verdict = judged(path, "gradnorm", settings=settings, after=True)
    assert run.log.starts == (0, STEPS - 1)
    assert verdict.passed
    assert verdict.steps == 2 * (STEPS - 2)


def test_a_late_log_loses_its_first_row(tmp_path):
    losses, norms, weights, settings = made("gradnorm")
    path = saved(tmp_path / "run.csv", losses, weights, norms, first=40)
    for given in ({"initial_losses": losses[0].tolist()}, {}):
        run, verdict = judged(path, "gradnorm", settings={**settings, **given}, after=True, infer=True)
        assert run.log.late and verdict.passed
        assert (verdict.steps, verdict.unjudged) == (STEPS - 40 - 3, 0)


@pytest.mark.parametrize("starts", [(0,), (0, 7, BLOCK)])
def test_every_row_has_the_weights_of_the_one_above(tmp_path, starts):
    rows = 2 * BLOCK + 5
    values = np.random.default_rng(0).uniform(0.5, 2, (rows, 3))
    steps = np.concatenate([np.arange(b - a) for a, b in zip(starts, (*starts[1:], rows), strict=True)])
    columns = loops.columns(values, values)
    write_log(tmp_path / "run.csv", {"step": steps, **columns})
    log = read_log(tmp_path / "run.csv")
    assert log.starts == starts
    expected = np.vstack([np.ones((1, 3)), values[:-1]])
    expected[list(starts)] = 1.0
    for method in (GradNorm(), DWA()):
        np.testing.assert_array_equal(a_row_later(method, log).weights, expected)


def test_a_first_run_of_one_row_that_is_not_a_start_is_left_out(tmp_path):
    values = np.random.default_rng(0).uniform(0.5, 2, (6, 3))
    write_log(tmp_path / "run.csv", {"step": [5, 0, 1, 2, 3, 4], **loops.columns(values, values)})
    log = a_row_later(DWA(), replace(read_log(tmp_path / "run.csv"), late=True))
    assert (log.starts, log.late) == ((0,), False)
    np.testing.assert_array_equal(log.weights, np.vstack([np.ones((1, 3)), values[1:-1]]))

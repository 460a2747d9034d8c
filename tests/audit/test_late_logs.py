"""Logs that begin after their run did, and an L(0) that is not the first loss: loops written out in `loops`."""

from __future__ import annotations

import numpy as np
import pytest

from mtlref.audit import judge, read_run, report, write_log
from mtlref.audit.inference.beginning import Shown, faces, farthest, initial_losses, seen_signs
from mtlref.audit.replay import logged_weights
from mtlref.cli import main
from mtlref.notation import DomainError, LogError
from tests.audit import loops

STEPS, LATE = 240, 40
SEEDS = range(6)


def gradnorm(seed, alpha=1.5, dtype=np.float64, L_0=None):
    """A run of 2 to 5 tasks with a rate at which no weight is near 0: losses, norms, weights and the rate."""
    rng = np.random.default_rng(seed)
    losses, norms = loops.falling(rng, STEPS, 2 + seed % 4, dtype)
    lr = float(f"{0.01 / norms.max():.2g}")
    return losses, norms, loops.gradnorm(losses, norms, alpha, loops.Descent(dtype(lr)), L_0=L_0), lr


def saved(path, losses, weights, norms=None, first=0, form=None):
    """A log with a column of steps from `first` on, of the rows from `first` on."""
    columns = {"step": np.arange(first, len(losses))}
    for kind, values in (("loss", losses), ("norm", norms), ("weight", weights)):
        if values is not None:
            shown = (
                values[first:]
                if form is None
                else np.array([[float(form % x) for x in row] for row in values[first:]])
            )
            columns |= {f"{kind}/{name}": shown[:, i] for i, name in enumerate("abcdef"[: values.shape[1]])}
    write_log(path, columns)
    return str(path)


def judged(path, method, infer=True, **settings):
    run = read_run(path, method=method, settings=settings, infer=infer)
    return run, judge(run.method, run.log)


# AN L(0) OF ONE'S OWN


def test_a_theoretical_start_is_a_setting(tmp_path):
    """GN-C2: log C for the first losses. Without it the run is another one."""
    L_0 = np.log([10.0, 3.0])
    losses, norms, weights, lr = gradnorm(0, L_0=L_0)
    path = saved(tmp_path / "run.csv", losses, weights, norms)
    assert judged(path, "gradnorm", alpha=1.5, lr=lr, initial_losses=L_0.tolist())[1].passed
    assert not judged(path, "gradnorm", alpha=1.5, lr=lr)[1].passed
    run, verdict = judged(path, "gradnorm", initial_losses=L_0.tolist())
    assert verdict.passed
    assert run.inference.fitting and run.method.initial_losses == tuple(L_0)


# GRADNORM FROM THE MIDDLE


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_late_log_is_judged_from_the_loss_that_its_run_began_with(tmp_path, seed, dtype):
    losses, norms, weights, lr = gradnorm(seed, dtype=dtype)
    path = saved(tmp_path / "run.csv", losses, weights, norms, LATE)
    run, verdict = judged(path, "gradnorm", alpha=1.5, lr=lr, initial_losses=losses[0].tolist())
    assert verdict.passed and verdict.run.follows
    assert (verdict.steps, verdict.unjudged, verdict.restarts) == (STEPS - LATE - 1, 0, ())
    assert f"begins late: at step {LATE} (line 2), with weights that no run starts with" in report.text(run, verdict)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("dtype", "form"), [(np.float64, None), (np.float32, None), (np.float64, "%.6f")])
def test_the_loss_that_a_late_run_began_with_is_seen_in_its_signs(tmp_path, seed, dtype, form):
    losses, norms, weights, lr = gradnorm(seed, dtype=dtype)
    path = saved(tmp_path / "run.csv", losses, weights, norms, LATE, form)
    run, verdict = judged(path, "gradnorm", alpha=1.5, lr=lr)
    assert verdict.passed
    assert verdict.steps == STEPS - LATE - 1
    assert "only its ratios count" in run.log.notes[-1]
    ratio = np.array(run.method.initial_losses) / losses[0]
    assert np.ptp(np.log(ratio)) < 1


@pytest.mark.parametrize(("alpha", "share", "names"), [(-1.5, 1, "I"), (1.5, 3, "M"), (-1.5, 3, "IM")])
def test_the_defects_of_a_late_run_are_named(tmp_path, alpha, share, names):
    """A rate upside down, a K-th of the slope, and both, as in gradnorm-pytorch."""
    losses, norms, weights, lr = gradnorm(5, alpha)
    path = saved(tmp_path / "run.csv", losses, weights, norms, LATE)
    run, verdict = judged(path, "gradnorm", alpha=1.5, lr=share * lr)
    assert ("with the rate upside down" in run.log.notes[-1]) == (alpha < 0)
    assert ["".join(defect.name[0] for defect in fit.defects) for fit in verdict.diagnosis.explanations] == [names]


def test_another_strength_has_no_start_that_makes_it_right(tmp_path):
    losses, norms, weights, lr = gradnorm(2)
    path = saved(tmp_path / "run.csv", losses, weights, norms, LATE)
    run, verdict = judged(path, "gradnorm", alpha=0.5, lr=lr)
    assert verdict.departures > 10
    assert "none gives all " in run.log.notes[-1]


def test_a_rate_that_gives_no_step_is_a_departure_whatever_the_start(tmp_path):
    losses, norms, weights, lr = gradnorm(2)
    path = saved(tmp_path / "run.csv", losses, weights, norms, LATE)
    run, verdict = judged(path, "gradnorm", alpha=1.5, lr=1.7 * lr)
    assert verdict.departures > 0.9 * verdict.steps
    assert "whatever it is, no signs give the steps with this lr (GN-6)" in run.log.notes[-1]


def test_one_wrong_step_of_a_late_log_is_found_where_it_is(tmp_path):
    losses, norms, weights, lr = gradnorm(3)
    weights[100] += [0.01, -0.01, 0.0, 0.0, 0.0]
    path = saved(tmp_path / "run.csv", losses, weights, norms, LATE)
    run, verdict = judged(path, "gradnorm", alpha=1.5, lr=lr)
    assert run.log.rows[verdict.first.row] == 100


@pytest.mark.parametrize("given", [{}, {"alpha": 1.5}, {"alpha": 1.5, "lr": 0.01, "optimiser": "adam"}])
def test_what_a_late_log_does_not_show_is_said(tmp_path, capsys, given):
    losses, norms, weights, _ = gradnorm(0)
    path = saved(tmp_path / "run.csv", losses, weights, norms, LATE)
    words = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    assert main(["audit", path, "--method", "gradnorm", *words]) == 2
    assert (
        "the log begins at step 40, with weights that no run starts with: every step hangs" in capsys.readouterr().err
    )


def test_small_gradients_are_judged_at_the_rate_that_suits_them(tmp_path):
    """A row before the first is stood in for by gradients of the log's size: longer ones would end at GN-7."""
    losses, norms, weights, lr = gradnorm(1)
    path = saved(tmp_path / "run.csv", losses, weights, norms / 1000, LATE)
    settings = {"alpha": 1.5, "initial_losses": losses[0].tolist()}
    assert judged(path, "gradnorm", lr=1000 * lr, **settings)[1].passed
    with pytest.raises(DomainError, match=r"GN-7 .* lr is too large for these gradient norms"):
        judged(path, "gradnorm", infer=False, lr=1e8, **settings)


def test_steps_that_are_numbered_from_anywhere_begin_with_the_first_weights(tmp_path):
    losses, norms, weights, lr = gradnorm(0)
    pad = np.ones((LATE, 2))
    path = saved(
        tmp_path / "run.csv", np.vstack([pad, losses]), np.vstack([pad, weights]), np.vstack([pad, norms]), LATE
    )
    run, verdict = judged(path, "gradnorm", alpha=1.5, lr=lr)
    assert verdict.passed and not run.log.late


def test_a_wrong_start_at_the_first_step_is_a_departure(tmp_path):
    losses, norms, weights, lr = gradnorm(0)
    path = saved(tmp_path / "run.csv", losses[LATE - 1 :], weights[LATE - 1 :], norms[LATE - 1 :], 1)
    run, verdict = judged(path, "gradnorm", alpha=1.5, lr=lr)
    assert not run.log.late
    assert verdict.first.row == 0


def test_another_run_in_a_late_log_is_judged_from_its_start(tmp_path):
    losses, norms, weights, lr = gradnorm(1)
    columns = {"step": np.r_[LATE:STEPS, 0:STEPS]}
    for kind, values in (("loss", losses), ("norm", norms), ("weight", weights)):
        both = np.vstack([values[LATE:], values])
        columns |= {f"{kind}/{name}": both[:, i] for i, name in enumerate("abc")}
    write_log(tmp_path / "run.csv", columns)
    settings = {"alpha": 1.5, "lr": lr, "initial_losses": losses[0].tolist()}
    _, verdict = judged(str(tmp_path / "run.csv"), "gradnorm", **settings)
    assert verdict.passed
    assert verdict.restarts == (STEPS - LATE,)


# THE CONE


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("alpha", [1.5, -1.5])
def test_the_signs_are_those_of_the_loop_and_what_is_found_gives_them(tmp_path, seed, alpha):
    losses, norms, weights, lr = gradnorm(seed, alpha)
    run = read_run(saved(tmp_path / "run.csv", losses, weights, norms), method="gradnorm")
    signs = seen_signs(run.log, lr, logged_weights(run.log), run.log.norms)
    G = np.abs(weights) * norms

    def of(L_0):
        rate = losses / L_0
        return np.sign(G - G.mean(axis=1, keepdims=True) * (rate / rate.mean(axis=1, keepdims=True)) ** alpha)

    np.testing.assert_array_equal(signs, of(losses[0])[:-1])
    later = slice(1, -1)  # at the first step no sign hangs on L(0)
    scale = losses.mean(axis=0)
    y, room = farthest(faces(Shown(losses[later], G[later], signs[1:], np.ones(STEPS - 2, bool)), alpha, scale))
    assert room > 0
    np.testing.assert_array_equal(of(scale / y)[later], signs[1:])


def test_two_signs_leave_the_middle_of_what_they_allow():
    """K = 2, α = 1, G = (1, 1), L = (1, x): r_1 < 1 as y_1 < x y_2. With x = 2 and ½: ½ < y_1 / y_2 < 2."""
    losses, G, steps = np.array([[1.0, 2.0], [1.0, 0.5]]), np.ones((2, 2)), np.ones(2, bool)

    def found(signs):
        return farthest(faces(Shown(losses, G, np.array(signs), steps), 1.0, np.ones(2)))

    y, room = found([[1.0, -1.0], [-1.0, 1.0]])
    assert room > 0
    assert 0.5 < y[0] / y[1] < 2
    assert found([[-1.0, 1.0], [1.0, -1.0]])[1] < 0
    assert found([[0.0, 0.0], [0.0, 0.0]])[1] == 0


@pytest.mark.parametrize("alpha", [0.01, 1.5])
def test_gradients_of_almost_nothing_stop_nothing(tmp_path, alpha):
    """(G/Ḡ)^(1/α) of G = 1e-5 is 1e-500, and for −α beyond float64; a G of 0 shows no sign."""
    losses, norms, _, lr = gradnorm(1)
    norms[::9, 0], norms[4::9, 0] = 1e-5, 0.0
    weights = loops.gradnorm(losses, norms, alpha, loops.Descent(lr))
    path = saved(tmp_path / "run.csv", losses, weights, norms, LATE)
    run, verdict = judged(path, "gradnorm", alpha=alpha, lr=lr)
    assert verdict.passed
    assert "only its ratios count" in run.log.notes[-1]


@pytest.mark.parametrize("form", ["%.2f", "%.4f"])
def test_signs_that_the_digits_hide_are_not_read(tmp_path, form):
    """All of them behind two decimals, some behind four: what those hide would add up to a departure."""
    losses, norms = loops.falling(np.random.default_rng(1), STEPS, 3)
    weights = loops.gradnorm(losses, norms, 1.5, loops.Descent(6e-4))
    path = saved(tmp_path / "run.csv", losses, weights, norms, LATE, form)
    run = read_run(path, method="gradnorm", settings={"lr": 6e-4, "alpha": 1.5})
    seen = seen_signs(run.log, 6e-4, logged_weights(run.log), run.log.norms) != 0
    assert seen.any() == (form == "%.4f") and not seen.all()
    assert initial_losses(run.method, run.log) is None


def test_what_the_first_rows_leave_open_later_ones_decide(tmp_path):
    """Rates that part late: an L(0) of the first thousand rows alone gives wrong signs behind them."""
    rng = np.random.default_rng(0)
    rows = 12_000
    speed = (1 + np.arange(rows)[:, None] / 2000) ** -rng.uniform(0.2, 1, 4)
    losses, norms = np.exp(rng.normal(0, 0.1, (rows, 4))) * speed, rng.uniform(0.5, 2, (rows, 4))
    weights = loops.gradnorm(losses, norms, 1.5, loops.Descent(1e-4))
    path = saved(tmp_path / "run.csv", losses, weights, norms, 300)
    assert judged(path, "gradnorm", alpha=1.5, lr=1e-4)[1].passed


def test_a_step_that_two_patterns_of_signs_give_shows_none(tmp_path):
    """Equal norms and weights: all signs + or all − leave the weights as they are (GN-7)."""
    ones = np.ones((12, 2))
    run = read_run(saved(tmp_path / "run.csv", ones, ones, ones), method="gradnorm")
    assert not seen_signs(run.log, 0.1, ones, ones).any()


# OTHER METHODS


def test_uncertainty_weighting_goes_on_from_its_weights(tmp_path):
    losses, _ = loops.falling(np.random.default_rng(0), STEPS, 3)
    weights = loops.uncertainty(losses, ["gaussian"] * 3, loops.Descent(0.01))
    path = saved(tmp_path / "run.csv", losses, weights, first=LATE)
    _, verdict = judged(path, "uncertainty", lr=0.01, likelihoods="gaussian")
    assert verdict.passed
    assert verdict.steps == STEPS - LATE - 1


@pytest.mark.parametrize("form", [None, "%.4f", "%.3g"])
def test_dwa_waits_for_two_epochs(tmp_path, form):
    losses, _ = loops.falling(np.random.default_rng(0), STEPS, 3)
    path = saved(tmp_path / "run.csv", losses, loops.dwa(losses, 2.0), first=LATE, form=form)
    _, verdict = judged(path, "dwa", temperature=2.0)
    assert verdict.passed
    assert (verdict.steps, verdict.unjudged) == (STEPS - LATE - 2, 1)


def test_cov_weighting_remembers_everything(tmp_path):
    losses, _ = loops.falling(np.random.default_rng(0), STEPS, 3)
    path = saved(tmp_path / "run.csv", losses, loops.cov(losses), first=LATE)
    with pytest.raises(LogError, match="every step hangs on what CoV-Weighting remembers of those before"):
        judged(path, "cov")

"""Right runs as programs print them raise no alarm, and wrong ones do: plain loops, in every format, with memory."""

from __future__ import annotations

import numpy as np
import pytest

from mtlref.audit import judge, read_run
from mtlref.audit.report import text
from mtlref.notation import DomainError
from mtlref.optimisers import Adam, Momentum
from tests.audit import loops

FORMATS = ["%.3f", "%.4f", "%.6f", "%.3g", "%.4g", "%.6g"]
LR, STEPS = 0.02, 150


def printed(folder, form, losses, weights, norms=None):
    """The path of a CSV file of these numbers, printed so."""
    kinds = {"loss": losses, "norm": norms, "weight": weights}
    kinds = {kind: values for kind, values in kinds.items() if values is not None}
    names = [f"{kind}/{task}" for kind in kinds for task in range(losses.shape[1])]
    lines = [[form % x for x in np.concatenate(row)] for row in zip(*kinds.values(), strict=True)]
    (folder / "run.csv").write_text("\n".join(",".join(line) for line in [names, *lines]) + "\n", encoding="utf-8")
    return str(folder / "run.csv")


def audited(folder, stem, form, settings, *columns):
    """The run in a CSV file whose numbers are printed so, and its verdict."""
    run = read_run(printed(folder, form, *columns), method=stem, settings=settings)
    return run, judge(run.method, run.log)


def descent(name):
    """The optimiser of the loop, and of the method."""
    if name == "momentum":
        return loops.Descent(LR, momentum=0.9), {"lr": LR, "optimiser": Momentum(LR, 0.9)}
    if name == "adam":
        return loops.Descent(LR, betas=(0.9, 0.999)), {"lr": LR, "optimiser": Adam(LR)}
    return loops.Descent(LR), {"lr": LR}


def drawn(seed, K=4, steps=STEPS):
    """Losses that fall below the last digit of some formats, and norms."""
    return loops.falling(np.random.default_rng(seed), steps, K)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("optimiser", ["plain", "momentum", "adam"])
def test_a_right_run_of_gradnorm_passes(tmp_path, form, optimiser):
    losses, norms = drawn(FORMATS.index(form))
    rule, settings = descent(optimiser)
    weights = loops.gradnorm(losses, norms, 1.5, rule)
    assert audited(tmp_path, "gradnorm", form, settings, losses, weights, norms)[1].passed


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("optimiser", ["plain", "momentum", "adam"])
def test_a_run_of_gradnorm_with_the_rate_upside_down_fails(tmp_path, form, optimiser):
    losses, norms = drawn(3)
    rule, settings = descent(optimiser)
    weights = loops.gradnorm(losses, norms, -1.5, rule)
    verdict = audited(tmp_path, "gradnorm", form, settings, losses, weights, norms)[1]
    assert not verdict.passed
    assert "InvertedRate" in [d.name for fit in verdict.diagnosis.explanations for d in fit.defects]


@pytest.mark.parametrize("form", FORMATS)
def test_right_runs_of_the_other_methods_pass(tmp_path, form):
    losses = drawn(10 + FORMATS.index(form))[0]
    assert audited(tmp_path, "dwa", form, {}, losses, loops.dwa(losses, 2.0))[1].passed
    assert audited(tmp_path, "cov", form, {}, losses, loops.cov(losses))[1].passed
    for optimiser in ("plain", "momentum", "adam"):
        rule, settings = descent(optimiser)
        weights = loops.uncertainty(losses, ["gaussian"] * 4, rule)
        assert audited(tmp_path, "uncertainty", form, settings, losses, weights)[1].passed


@pytest.mark.parametrize("form", FORMATS)
def test_wrong_runs_of_the_other_methods_fail(tmp_path, form):
    losses = drawn(20)[0]
    assert not audited(tmp_path, "dwa", form, {}, losses, loops.dwa(losses, 1.0))[1].passed
    assert not audited(tmp_path, "cov", form, {}, losses, loops.cov(losses, ratio=False))[1].passed
    weights = loops.uncertainty(losses, ["laplace"] * 4, loops.Descent(LR))
    assert not audited(tmp_path, "uncertainty", form, {"lr": LR}, losses, weights)[1].passed


def test_a_method_that_makes_no_weights_from_weights_has_one_answer_to_both_questions(tmp_path):
    """DWA of losses whose digits are few: a replay from the start may be off by as much as a step."""
    for seed in range(8):
        losses = drawn(seed, K=6, steps=100)[0]
        verdict = audited(tmp_path, "dwa", "%.3f", {}, losses, loops.dwa(losses, 2.0))[1]
        assert verdict.passed
        assert verdict.run.rows == verdict.steps


# SETTINGS


def inferred(folder, stem, form, *columns):
    """The run whose settings nobody gives, and its verdict."""
    run = read_run(printed(folder, form, *columns), method=stem, infer=True)
    return run, judge(run.method, run.log)


@pytest.mark.parametrize("form", FORMATS)
def test_a_temperature_is_seen_where_one_task_s_losses_have_no_digits_left(tmp_path, form):
    """A ratio that is off by half moves the mean, and with it what the other tasks' weights are compared with."""
    losses = drawn(1)[0]
    losses[40:, 0] *= 1e-3
    run, verdict = inferred(tmp_path, "dwa", form, losses, loops.dwa(losses, 1.0))
    assert verdict.passed
    assert run.method.temperature == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("form", ["%.3f", "%.4f", "%.3g"])
@pytest.mark.parametrize("optimiser", ["plain", "momentum", "adam"])
def test_uncertainty_weighting_s_rate_is_seen_as_its_losses_lose_their_digits(tmp_path, form, optimiser):
    losses = drawn(2)[0]
    rule, settings = descent(optimiser)
    weights = loops.uncertainty(losses, ["gaussian"] * 4, rule)
    run, verdict = inferred(tmp_path, "uncertainty", form, losses, weights)
    assert verdict.passed
    assert run.method.rule.lr == pytest.approx(LR, rel=0.05)
    assert type(run.method.optimiser) is type(settings.get("optimiser"))


@pytest.mark.parametrize(("form", "alpha"), [("%.4g", 0.0), ("%.4f", 1.5), ("%.6g", 3.0)])
def test_gradnorm_s_strength_is_seen_behind_printed_digits(tmp_path, form, alpha):
    """Weights near 0 leave signs open whose change lies beside the strength's interval, not in it."""
    losses, norms = drawn(4, K=5)
    losses += 0.1 * losses[0]
    weights = loops.gradnorm(losses, norms, alpha, loops.Descent(LR))
    run, verdict = inferred(tmp_path, "gradnorm", form, losses, weights, norms)
    assert verdict.passed
    low, high = run.inference.best.spans["alpha"]
    assert low <= alpha <= high < alpha + 0.1
    assert run.method.lr == pytest.approx(LR, rel=0.02)


# MEMORY


@pytest.mark.parametrize(("optimiser", "seed"), [("momentum", 19), ("adam", 2)])
def test_the_replay_of_an_optimiser_with_memory_ends_at_a_kink(tmp_path, optimiser, seed):
    """What momentum keeps of a sign that the digits turned is in no log; the steps beyond are judged one by one."""
    losses, norms = (values[:120] for values in drawn(seed, steps=400))
    losses += 1
    rule, settings = descent(optimiser)
    weights = loops.gradnorm(losses, norms, 1.5, rule)
    run, verdict = audited(tmp_path, "gradnorm", "%.3f", settings, losses, weights, norms)
    assert verdict.passed
    (ended,) = verdict.run.parted
    assert verdict.run.end_row == ended - 1 < 118
    assert verdict.steps == 119
    assert f"it ends before step {ended}, at a kink that the digits decide" in text(run, verdict)
    weights[110] += [0.1, -0.1, 0.0, 0.0]
    verdict = audited(tmp_path, "gradnorm", "%.3f", settings, losses, weights, norms)[1]
    assert verdict.first.row == 110


def test_a_sign_that_turned_some_steps_before_is_looked_for(tmp_path):
    """Momentum adds up what a turned sign has left in it: the replay is astray some steps after the kink."""
    losses, norms = drawn(14, K=3, steps=1600)
    losses += 1
    rule, settings = descent("momentum")
    weights = loops.gradnorm(losses, norms, 1.5, rule)
    verdict = audited(tmp_path, "gradnorm", "%.4g", settings, losses, weights, norms)[1]
    assert verdict.passed
    assert len(verdict.run.parted) == 1


def test_float32_rounds_the_logarithm_of_a_weight_at_every_step_the_same_way(tmp_path):
    """Losses that vanish lower s by lr/2 at every step: near −6 each step rounds by the same share of 2^-22."""
    losses = np.full((1200, 2), 1e-9, np.float32) * np.array([1.0, 3.0], np.float32)
    weights = loops.uncertainty(losses, ["gaussian"] * 2, loops.Descent(0.01))
    exact = 0.5 * np.exp(0.005 * np.arange(1200))
    assert weights.dtype == np.float32
    assert abs(weights[-1, 0] - exact[-1]) > 200 * 2.0**-24 * exact[-1]
    run, verdict = audited(tmp_path, "uncertainty", "%.17g", {"lr": 0.01}, losses, weights)
    assert run.log.precision["weights"].words == "float32"
    assert verdict.passed
    leaking = weights * (1 - 1e-5 * np.arange(1200)[:, None]).astype(np.float32)
    assert not audited(tmp_path, "uncertainty", "%.17g", {"lr": 0.01}, losses, leaking)[1].passed


# WHERE NO STEP CAN BE TAKEN


def test_losses_that_printing_rounds_to_0_decide_nothing(tmp_path):
    losses = drawn(0, K=2)[0] * np.array([1.0, 1e-3])
    run, verdict = audited(tmp_path, "dwa", "%.4f", {}, losses, loops.dwa(losses, 2.0))
    zero = np.any(run.log.losses == 0, axis=1)
    assert 0 < zero.sum() < STEPS / 2
    assert verdict.passed
    hang = zero[:-1].copy()
    hang[1:] |= zero[:-2]
    assert verdict.unjudged == hang.sum()
    assert "prints as 0" in text(run, verdict)


def test_an_exact_loss_of_0_is_still_named(tmp_path):
    losses = drawn(0, K=2)[0]
    losses[70, 1] = 0.0
    with np.errstate(all="ignore"):
        weights = loops.dwa(losses, 2.0)
    with pytest.raises(DomainError, match=r"epoch 71: DWA-1 divides by losses_prev\[1\] = 0"):
        audited(tmp_path, "dwa", "%.17g", {}, losses, weights)


def test_what_stands_in_for_a_missing_loss_is_not_the_same_for_all_tasks(tmp_path):
    """Losses that are alike after a row that lacks one: whatever it was, they have no ratio that could be known."""
    losses = drawn(0, K=2)[0]
    losses[71] = 0.5
    weights = loops.dwa(losses, 2.0)
    losses[70] = np.nan
    verdict = audited(tmp_path, "dwa", "%.17g", {}, losses, weights)[1]
    assert verdict.passed
    assert verdict.unjudged == 2


def test_gradnorm_takes_a_loss_of_0_and_stops_where_all_are(tmp_path):
    losses, norms = drawn(0, K=2)
    losses[50:, 1] *= 1e-9
    losses[100:] *= 1e-9
    weights = loops.gradnorm(losses, norms, 1.5, loops.Descent(LR))
    verdict = audited(tmp_path, "gradnorm", "%.4f", {"lr": LR}, losses, weights, norms)[1]
    assert verdict.passed
    assert verdict.steps == 100


def test_a_departure_stands_where_the_method_cannot_go_on_later(tmp_path):
    """The wrong run has its rates upside down. On row 60 task 0 has a fifth of its loss and a norm of 200.

    Its target is 100 · (1/3)^(±1.5) times about 1: 520 in the run, which raises its weight, and 19 by the method,
    which takes it, and the sum, below 0.
    """
    losses, norms = drawn(0, K=2)
    losses[60], norms[60] = losses[0] * [0.2, 1.0], [200.0, 1.0]
    weights = loops.gradnorm(losses, norms, -1.5, loops.Descent(LR))
    assert np.all(weights[60] > 0.1)
    run, verdict = audited(tmp_path, "gradnorm", "%.17g", {"lr": LR}, losses, weights, norms)
    assert "step 60: GN-7 divides by Σ u = -" in verdict.stopped
    assert 0 < verdict.departures <= verdict.steps == 60
    assert [d.name for d in verdict.diagnosis.explanations[0].defects] == ["InvertedRate"]
    told = " ".join(text(run, verdict).split())
    assert "Not decided: 89 steps. From the last one judged the method cannot go on: " in told

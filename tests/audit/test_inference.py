"""Settings are recovered from logs of loops written out in `loops`, with hidden settings drawn at random."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mtlref
from mtlref.audit import notices, read_run
from mtlref.audit.inference import infer, infer_any
from mtlref.audit.inference.directions import MOMENTS
from mtlref.audit.inference.family import FEW, SEARCHED
from mtlref.audit.inference.numbers import Estimate, simplest, slope
from mtlref.audit.trace import COLUMNS
from mtlref.cli import main
from mtlref.notation import LogError
from mtlref.optimisers import SGD, Adam, Momentum
from tests.audit import loops

DTYPES = [np.float64, np.float32]
HIDDEN = range(4)


def drawn(seed, dtype, digits=2):
    """A stream of its own for every seed, with a problem, and a function that draws a number of so many digits."""
    rng = np.random.default_rng([seed, np.dtype(dtype).itemsize])
    losses, norms = loops.falling(rng, int(rng.integers(60, 200)), int(rng.integers(2, 5)), dtype)
    return rng, losses, norms, lambda low, high: float(f"{rng.uniform(low, high):.{digits}g}")


def rule_of(rng, number):
    """A hidden optimiser: as a loop has it, and as mtlref does."""
    lr = number(0.002, 0.03)
    kind = int(rng.integers(3))
    if kind == 0:
        return loops.Descent(lr), SGD(lr)
    if kind == 1:
        return loops.Descent(lr, betas=(0.9, 0.999)), Adam(lr)
    beta = number(0.3, 0.9)
    return loops.Descent(lr / 4, beta), Momentum(lr / 4, beta)


def anew(rule):
    """The loop's optimiser before its first step."""
    return loops.Descent(rule.lr, rule.momentum, rule.betas)


def same_rule(found, hidden):
    """Whether two optimisers are alike, up to the last digits of a rate that the stream has divided."""
    return type(found) is type(hidden) and all(
        value == pytest.approx(getattr(found, name), rel=1e-9) for name, value in vars(hidden).items()
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", HIDDEN)
def test_gradnorm_s_settings_are_recovered(tmp_path, seed, dtype):
    """The strength is seen in signs alone: the hidden one must lie in the narrow interval that is named."""
    rng, losses, norms, number = drawn(seed, dtype)
    alpha, (rule, hidden) = number(0.1, 3.0), rule_of(rng, number)
    weights = loops.gradnorm(losses, norms, alpha, rule)
    found = infer("gradnorm", loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms))
    assert found.kind == "recovered"
    assert same_rule(found.best.method.rule, hidden)
    low, high = found.best.spans["alpha"]
    assert low <= alpha <= high
    assert low <= found.best.method.alpha <= high
    for beyond in (low - 0.01 * alpha, high + 0.01 * alpha):  # the interval is no wider than it must be
        assert np.abs(loops.gradnorm(losses, norms, beyond, anew(rule)) - weights).max() > 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", HIDDEN)
def test_dwa_s_temperature_is_recovered(tmp_path, seed, dtype):
    _, losses, _, number = drawn(seed, dtype, 3)
    temperature = number(0.2, 20.0)
    found = infer("dwa", loops.logged(tmp_path, "dwa", losses, loops.dwa(losses, temperature)))
    assert found.kind == "recovered"
    assert found.best.method.temperature == temperature


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", HIDDEN)
def test_cov_s_choices_and_decay_are_recovered(tmp_path, seed, dtype):
    rng, losses, _, number = drawn(seed, dtype, 4)
    hidden = {"previous": bool(rng.integers(2)), "ratio": bool(rng.integers(2))}
    hidden["decay"] = None if seed == 0 else number(0.7, 0.998)
    found = infer("cov", loops.logged(tmp_path, "cov", losses, loops.cov(losses, **hidden)))
    method = found.best.method
    assert found.kind == "recovered"
    assert (method.lagged, method.observed == "ratio", method.decay) == tuple(hidden.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", HIDDEN)
def test_uncertainty_s_likelihoods_and_rate_are_recovered(tmp_path, seed, dtype):
    rng, losses, _, number = drawn(seed, dtype)
    likelihoods = tuple(rng.choice(list(loops.FORMS), losses.shape[1]).tolist())
    rule, hidden = rule_of(rng, number)
    found = infer(
        "uncertainty", loops.logged(tmp_path, "uncertainty", losses, loops.uncertainty(losses, likelihoods, rule))
    )
    assert found.fitting
    alike = {"softmax", "laplace"}  # all of them the other with half the dimension, and another rate: below
    if not set(likelihoods) <= alike:
        assert found.kind == "recovered"
    methods = [fit.method for fit in found.fits]
    K = losses.shape[1]
    said = [m.likelihoods if isinstance(m.likelihoods, tuple) else (m.likelihoods,) * K for m in methods]
    at = said.index(likelihoods)
    assert same_rule(methods[at].rule, hidden)


def test_two_readings_of_uncertainty_that_no_log_can_tell_apart(tmp_path):
    """softmax with D = 2 and η: ln w moves by η(1 − w L); laplace with D = 1 and 4η: by 4η·½(½ − ½ w L), the same."""
    losses, _ = loops.falling(np.random.default_rng(5), 80, 3)
    weights = loops.uncertainty(losses, ["softmax"] * 3, loops.Descent(0.01), dimensions=2)
    found = infer("uncertainty", loops.logged(tmp_path, "uncertainty", losses, weights))
    assert found.kind == "ambiguous"
    readings = [(fit.method.likelihoods, fit.method.dimensions, fit.method.lr) for fit in found.fits]
    assert ("softmax", 2, 0.01) in readings
    assert ("laplace", None, 0.04) in readings
    assert readings[0][0] == "laplace"  # the printed equations, D = 1, are the simpler ones


def test_a_start_of_its_own_leaves_the_likelihood_s_factor_open(tmp_path):
    losses, _ = loops.falling(np.random.default_rng(6), 80, 2)
    weights = loops.uncertainty(losses, ["gaussian"] * 2, loops.Descent(0.01), start=-0.3)
    found = infer("uncertainty", loops.logged(tmp_path, "uncertainty", losses, weights))
    assert {fit.method.likelihoods for fit in found.fits} >= {"gaussian", "softmax"}
    assert {fit.method.lr for fit in found.fits if fit.method.likelihoods == "gaussian"} == {0.01}


def test_constant_losses_leave_dwa_s_temperature_open(tmp_path, capsys):
    losses = np.ones((20, 3)) * [1.0, 2.0, 3.0]
    found = infer("dwa", loops.logged(tmp_path, "dwa", losses, np.ones((20, 3))))
    assert found.kind == "ambiguous"
    assert found.best.spans["temperature"] == (0.0, np.inf)
    assert found.best.method.temperature == 2.0
    assert main(["audit", str(tmp_path / "run.csv"), "--method", "dwa"]) == 0
    assert "temperature = 2.0 (or any above 0)" in capsys.readouterr().out


def test_equal_rates_leave_gradnorm_s_strength_open(tmp_path):
    """r = 1 in every task: T = Ḡ whatever α (GN-4)."""
    rng = np.random.default_rng(7)
    losses = np.linspace(2, 1, 40)[:, None] * [1.0, 3.0, 0.2]
    _, norms = loops.falling(rng, 40, 3)
    weights = loops.gradnorm(losses, norms, 1.5, loops.Descent(0.01))
    found = infer("gradnorm", loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms))
    assert found.kind == "ambiguous"
    assert found.best.spans["alpha"] == (0.0, np.inf)
    assert found.best.method.lr == 0.01


def test_one_task_leaves_gradnorm_open_and_a_gap_at_the_start_does_not(tmp_path):
    """One weight is 1 for ever. A row that lacks a number says nothing of alpha: nothing is called open for it."""
    ones = np.ones((20, 1))
    found = infer("gradnorm", loops.logged(tmp_path, "gradnorm", ones, ones, norms=ones))
    assert (found.kind, found.best.spans["alpha"]) == ("ambiguous", (0.0, np.inf))
    losses, norms = loops.falling(np.random.default_rng(21), 40, 2)
    weights = loops.gradnorm(losses, norms, 1.5, loops.Descent(0.025))
    log = loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms)
    log.losses[1] = np.nan
    assert infer("gradnorm", log).best.spans == {}


def test_a_rate_upside_down_is_named_as_the_defect_it_is(tmp_path):
    losses, norms = loops.falling(np.random.default_rng(8), 120, 3)
    weights = loops.gradnorm(losses, norms, -1.3, loops.Descent(0.01))
    found = infer("gradnorm", loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms))
    assert found.kind == "with a defect"
    assert found.best.defect.name == "InvertedRate"
    assert found.best.method.lr == 0.01
    low, high = found.best.spans["alpha"]
    assert low <= 1.3 <= high


def test_weights_that_sum_to_one_are_named_as_the_defect_they_are(tmp_path):
    losses, norms = loops.falling(np.random.default_rng(23), 120, 3)
    w, rows = np.full(3, 1 / 3), []
    for L, n in zip(losses, norms, strict=True):
        rows.append(w)
        progress = L / losses[0]
        u = w - 0.004 * np.sign(w * n - (w * n).mean() * (progress / progress.mean()) ** 0.8) * n
        w = u / u.sum()
    found = infer("gradnorm", loops.logged(tmp_path, "gradnorm", losses, np.array(rows), norms=norms))
    assert (found.kind, found.best.defect.name) == ("with a defect", "SumToOne")
    assert found.best.method.lr == 0.004
    assert found.best.spans["alpha"][0] <= 0.8 <= found.best.spans["alpha"][1]


def test_the_defect_of_another_equation_is_named_beside_the_settings(tmp_path):
    losses, _ = loops.falling(np.random.default_rng(9), 60, 3)
    weights = loops.dwa(losses, 2.0) / 3
    log = loops.logged(tmp_path, "dwa", losses, weights)
    found = infer("dwa", log)
    assert (found.kind, found.best.defect.name) == ("with a defect", "SumToOne")
    assert found.best.method.temperature == pytest.approx(2.0)
    alone = infer("dwa", log, defects=False)
    assert (alone.kind, alone.best.defect, alone.best.method) == ("nearest", None, mtlref.DWA())


def test_clamping_is_told_from_keeping_where_a_weight_falls_below_zero_and_only_there(tmp_path):
    losses, norms = loops.falling(np.random.default_rng(10), 60, 3)
    weights = loops.gradnorm(losses, norms, 1.5, loops.Descent(0.3), clamp=True)
    assert (weights == 0).any()
    found = infer("gradnorm", loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms))
    assert found.best.method.negative == "clamp"
    assert not found.best.alike
    weights = loops.gradnorm(losses, norms, 1.5, loops.Descent(0.003))
    found = infer("gradnorm", loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms))
    assert found.best.method.negative == "keep"
    assert found.best.alike == {"negative": ("clamp",)}


def test_what_is_given_stays_and_the_rest_is_found(tmp_path):
    losses, norms = loops.falling(np.random.default_rng(11), 100, 3)
    weights = loops.gradnorm(losses, norms, 0.7, loops.Descent(0.01, betas=(0.9, 0.999)))
    log = loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms)
    found = infer("gradnorm", log, {"alpha": 0.7, "optimiser": "adam"})
    assert found.best.method.rule == Adam(0.01)
    assert set(found.best.settings) == {"lr", "negative"}
    wrong = infer("gradnorm", log, {"alpha": 3.0})
    assert wrong.kind == "nearest"
    assert wrong.best.departures > 10
    assert wrong.best.method.alpha == 3.0


def test_pe_ltr_s_bounds_are_its_weights_floors(tmp_path):
    rng = np.random.default_rng(12)
    jacobians = rng.normal(size=(60, 2, 3))
    weights = loops.pe_ltr(jacobians, (0.15, 0.2))
    log = loops.logged(tmp_path, "pe_ltr", np.ones((60, 2)), weights, gram=jacobians @ jacobians.transpose(0, 2, 1))
    found = infer("pe_ltr", log)
    assert found.kind == "recovered"
    assert found.best.method.bounds == (0.15, 0.2)
    assert found.best.method.timing == "next"
    assert found.best.alike == {"solver": ("exact",)}  # for two tasks they are the same


def test_pcgrad_s_reduction_is_recovered(tmp_path):
    """Two tasks: on conflict, g1 − (g1·g2/‖g2‖²) g2 + g2 − (g1·g2/‖g1‖²) g1, halved for the mean."""
    J = np.random.default_rng(13).normal(size=(30, 2, 3))
    A = J @ J.transpose(0, 2, 1)
    over = np.minimum(A[:, 0, 1], 0)[:, None]
    weights = (1 - over / A[:, [0, 1], [0, 1]]) / 2
    found = infer("pcgrad", loops.logged(tmp_path, "pcgrad", np.ones((30, 2)), weights, gram=A))
    assert found.best.method.reduction == "mean"
    assert found.best.alike == {"include_self": (True,)}


def test_any_method_is_found_and_what_could_not_be_tried_is_said(tmp_path):
    losses, norms = loops.falling(np.random.default_rng(14), 50, 3)
    logs = {
        "cov": (loops.cov(losses, decay=0.9), None),
        "gradnorm": (loops.gradnorm(losses, norms, 1.2, loops.Descent(0.02)), norms),
        "fixed": (np.ones((50, 3)) * [0.2, 0.3, 0.5], None),
    }
    for stem, (weights, n) in logs.items():
        search = infer_any(loops.logged(tmp_path, "dwa", losses, weights, norms=n))
        assert search.best.stem == stem
        assert search.best.fitting
        assert "reads gram" in search.left_out["pe_ltr"]
        assert ("gradnorm" in search.left_out) == (n is None)
    assert search.best.best.method.weights == (0.2, 0.3, 0.5)


def test_equal_weights_are_also_those_of_others(tmp_path, capsys):
    losses = np.ones((20, 2))
    search = infer_any(loops.logged(tmp_path, "dwa", losses, losses))
    assert search.best.stem == "equal"
    assert {"fixed", "dwa"} <= {other.stem for other in search.others}
    assert main(["audit", str(tmp_path / "run.csv"), "--method", "auto"]) == 0
    assert "as well: Dynamic Weight Average, temperature = 2.0 (or any above 0)" in capsys.readouterr().out


def test_a_method_without_anything_to_infer_says_nothing_of_it(tmp_path, capsys):
    """Equal weights have no settings, and the stages of a combination are not looked for."""
    losses, _ = loops.falling(np.random.default_rng(22), 20, 2)
    loops.logged(tmp_path, "dwa", losses, losses)
    path = str(tmp_path / "run.csv")
    assert main(["audit", path, "--method", "equal"]) == 1
    assert "inferred" not in capsys.readouterr().out
    assert main(["audit", path, "--method", "combination", "--set", 'stages=["dwa"]']) == 1
    out = capsys.readouterr().out
    assert "inferred" not in out
    assert "not given, so taken at the default: epoch_steps" in out


def test_no_method_at_all_is_said_with_what_is_left_over(tmp_path, capsys):
    rng = np.random.default_rng(15)
    losses, _ = loops.falling(rng, 40, 3)
    loops.logged(tmp_path, "dwa", losses, rng.uniform(0.5, 1.5, (40, 3)))
    assert main(["audit", str(tmp_path / "run.csv"), "--method", "auto", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)["inferred"]
    assert told["kind"] == "nearest"
    assert told["settings"][0]["departures"] > 30
    assert "pcgrad" in told["not_tried"]


def test_the_command_line_infers_and_says_so_and_can_be_told_not_to(tmp_path, capsys):
    losses, norms = loops.falling(np.random.default_rng(16), 80, 3)
    weights = loops.gradnorm(losses, norms, 0.9, loops.Descent(0.02))
    loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms)
    path = str(tmp_path / "run.csv")
    assert main(["audit", path, "--method", "gradnorm"]) == 0
    out = capsys.readouterr().out
    assert "inferred:   alpha = 0.9 (" in out
    assert "lr = 0.02, optimiser = SGD(lr), negative = keep" in out
    assert main(["audit", path, "--method", "gradnorm", "--defaults"]) == 1
    assert "not given, so taken at the default: alpha, lr, optimiser, negative" in capsys.readouterr().out
    assert read_run(path, method="gradnorm").inference is None


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("stem", ["gradnorm", "dwa", "cov", "uncertainty", "auto"])
def test_logs_of_a_few_rows_are_an_answer_or_one_clear_line(tmp_path, stem, rows):
    losses, norms = loops.falling(np.random.default_rng(17), rows, 2)
    loops.logged(tmp_path, "gradnorm", losses, np.ones((rows, 2)), norms=norms)
    try:
        run = read_run(str(tmp_path / "run.csv"), method=stem, infer=True)
    except LogError as error:
        assert "run.csv" in str(error)
    else:
        assert run.inference is not None
        assert rows > 1 or stem in ("cov", "auto") or run.inference.kind == "undecided"


def test_numbers_that_are_zero_infinite_or_missing_break_nothing(tmp_path):
    rng = np.random.default_rng(18)
    losses, norms = loops.falling(rng, 40, 3)
    weights = loops.gradnorm(losses, norms, 0.9, loops.Descent(0.02))
    log = loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms)
    for trial in range(15):
        spoilt = [x.copy() for x in (losses, norms, weights)]
        for values in spoilt:
            at = rng.integers(40 if trial % 2 else 2, size=3), rng.integers(3, size=3)
            values[at] = rng.choice([0.0, np.nan, np.inf, -1.0, 1e300, 1e-300, 5e-324], 3)
        whole = replace(log, losses=spoilt[0], norms=spoilt[1], weights=spoilt[2])
        assert infer(("gradnorm", "dwa", "cov", "uncertainty", "fixed")[trial % 5], whole).fits


def test_what_is_found_on_the_first_rows_is_judged_on_all(tmp_path, capsys):
    """The temperature changes long after the rows that are searched: it is recovered, and the change departs."""
    losses, _ = loops.falling(np.random.default_rng(24), SEARCHED + 200, 2)
    weights = loops.dwa(losses, 2.0)
    weights[SEARCHED + 100 :] = loops.dwa(losses, 1.0)[SEARCHED + 100 :]
    loops.logged(tmp_path, "dwa", losses, weights)
    assert main(["audit", str(tmp_path / "run.csv"), "--method", "dwa", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["inferred"]["settings"][0]["settings"] == {"temperature": 2.0}
    assert told["inferred"]["rows_searched"] == SEARCHED
    assert told["first"]["step"] == SEARCHED + 100


def test_the_figures_that_the_derivation_gives_are_the_code_s():
    page = (Path(mtlref.__file__).parent.parent / "derivations" / "audit.md").read_text(encoding="utf-8")
    text = " ".join(page.split())
    assert f"The first {SEARCHED} rows are searched, {FEW} where inner products are logged" in text
    assert f"A drawing has {COLUMNS} columns at most" in text
    assert len(MOMENTS) == 8
    assert (notices.LATE, notices.COLLAPSED, notices.REACH, notices.GONE) == (0.1, 1e-3, 0.01, 1e-6)
    assert (notices.EQUAL, *notices.MOSTLY) == (0.05, 0.5, 0.9)


# NUMBERS


@pytest.mark.parametrize(
    ("low", "high", "number"),
    [(0.1, 0.3, 0.2), (1.44, 1.56, 1.5), (-1.0, 2.0, 0.0), (0.024999, 0.025001, 0.025), (9.6, 10.3, 10.0)],
)
def test_the_simplest_number_of_an_interval(low, high, number):
    assert simplest(low, high) == number
    assert simplest(-high, -low) == -number


def test_the_simplest_number_lies_in_the_interval_and_none_within_has_fewer_digits():
    rng = np.random.default_rng(19)
    for _ in range(200):
        middle, half = 10 ** rng.uniform(-6, 6), 10 ** rng.uniform(-6, -1)
        low, high = middle * (1 - half), middle * (1 + half)
        found = simplest(low, high)
        assert low <= found <= high
        shown = len(repr(float(f"{found:.12g}")).replace(".", "").strip("0").split("e")[0])
        fewer = [float(f"{x:.{max(shown - 2, 0)}e}") for x in np.linspace(low, high, 500)]
        assert shown == 1 or not any(low <= x <= high for x in fewer), (low, high, found)


def test_the_slope_is_that_of_least_squares_weighted():
    rng = np.random.default_rng(20)
    x, off = rng.normal(size=50), rng.uniform(0.1, 1, 50)
    y = 3.7 * x + off * rng.normal(size=50) * 0.1
    expected = np.linalg.lstsq((x / off)[:, None], y / off, rcond=None)[0][0]
    found = slope(x, y, off)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.half == pytest.approx(np.min(off / np.abs(x)))
    assert slope(np.zeros(3), y[:3], off[:3]) is None
    assert Estimate(1.2345, 0.001).near(1) == 1.234 or Estimate(1.2345, 0.001).near(1) == 1.235

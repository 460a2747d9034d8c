"""The whole run beside its replay: what adds up is found, and a sign that rounding turns is no departure."""

from __future__ import annotations

import numpy as np
import pytest

import mtlref
from mtlref.audit import judge, report
from mtlref.audit.drift import Drift, free_run
from mtlref.audit.replay import feeds_back
from mtlref.audit.run import Run
from mtlref.optimisers import SGD
from tests.audit import loops

K = 4


def steady(seed, steps, dtype):
    """Losses that fall slowly and norms about 1, so that the targets are passed again and again."""
    losses, norms = np.exp(np.random.default_rng(seed).normal(scale=0.1, size=(2, steps, K)))
    return (losses / (1 + np.arange(steps)[:, None] / steps)).astype(dtype), norms.astype(dtype)


def single_run(tmp_path, seed, steps=6000, lr=0.001, leak=0.0):
    """A loop in float32, whose own rounding turns a sign now and then; `leak`: what task 0 loses in each step."""
    losses, norms = steady(seed, steps, np.float32)
    rates, w, rows = losses / losses[0], np.ones(K, np.float32), []
    rates = (rates / rates.mean(axis=1, keepdims=True)) ** np.float32(1.5)
    lost = np.float32(leak) * (np.eye(K, dtype=np.float32)[0] - np.float32(1 / K))
    for n, r in zip(norms, rates, strict=True):
        rows.append(w)
        G = w * n
        u = w - np.float32(lr) * np.sign(G - G.mean() * r) * n - lost
        w = np.float32(K) * u / u.sum()
    return loops.logged(tmp_path, "gradnorm", losses, np.array(rows), norms=norms)


METHOD = mtlref.GradNorm(alpha=1.5, lr=0.001)


def own_signs(log):
    """At which steps the run's weights and those of a float64 run give another sign, written out."""
    w, rates, turned = np.ones(K), log.losses / log.losses[0], []
    rates = (rates / rates.mean(axis=1, keepdims=True)) ** 1.5
    for t, (n, r) in enumerate(zip(log.norms, rates, strict=True)):
        signs = [np.sign(x * n - (x * n).mean() * r) for x in (w, log.weights[t])]
        if np.any(signs[0] != signs[1]):
            turned.append(t)
            w = log.weights[t]  # from here on as the run
        u = w - 0.001 * np.sign(w * n - (w * n).mean() * r) * n
        w = K * u / u.sum()
    return turned


SEED = 13  # one sign turns, at step 705


def test_a_run_in_float32_follows_though_its_rounding_turns_signs(tmp_path):
    log = single_run(tmp_path, SEED, 3000)
    verdict = judge(METHOD, log)
    turned, run = own_signs(log), verdict.run
    assert run.kinks == len(turned) == 1
    assert run.apart <= 1e-4  # a sign makes 2e-3
    assert verdict.passed
    assert "corrected at" in report.text(Run(log, METHOD, {}, ()), verdict)


def test_what_adds_up_is_found_however_small_a_step_of_it_is(tmp_path):
    """Half of what a step may be off, always to one side: no step departs, and the run does, kinks or none."""
    log = single_run(tmp_path, SEED, 6000, leak=4e-7)
    verdict = judge(METHOD, log)
    assert verdict.departures == 0
    assert not verdict.passed
    assert not verdict.run.follows


@pytest.mark.parametrize("jump", [2e-3, 2e-2])
def test_a_jump_in_the_weights_is_no_kink(tmp_path, jump):
    """The run leaves the method by as much as a sign, where no step leads: the replay is not set anew."""
    log = single_run(tmp_path, SEED, 400)
    log.weights[300:] += jump * (np.eye(K)[0] - 1 / K)
    run = free_run(METHOD, log)
    assert (run.first, run.kinks) == (300, 0)


def test_a_step_that_the_digits_leave_open_may_go_either_way(tmp_path):
    log = single_run(tmp_path, SEED, 400)
    log.weights[300:] += 2e-3 * (np.eye(K)[0] - 1 / K)
    run = Drift(METHOD, log, None, {300}).run()
    assert run.kinks == 1
    assert run.first is None or run.first > 300
    assert Drift(METHOD, log, 300, {300}).run().first == 300  # a step that departs is no kink


def test_what_is_as_good_as_nothing_is_no_jump(tmp_path):
    """Two tasks leave the replay, the sum of the weights stays: of the others only the last bits differ."""
    log = single_run(tmp_path, SEED, 400)
    log.weights[300:] += 2e-4 * np.array([1.0, -1.0, 0.0, 0.0])
    run = Drift(METHOD, log, None, set()).run()
    assert (run.first, run.kinks) == (300, 0)


def test_only_a_method_that_feeds_on_its_weights_is_ever_set_anew(tmp_path):
    losses = loops.falling(np.random.default_rng(0), 100, 3)[0]
    log = loops.logged(tmp_path, "dwa", losses, loops.dwa(losses, 2.0))
    log.weights[50:] += 0.01
    run = Drift(mtlref.DWA(), log, None, {50}).run()
    assert (run.first, run.kinks) == (50, 0)
    assert not feeds_back(mtlref.DWA())


def test_a_right_run_of_uncertainty_in_float32_is_never_corrected(tmp_path):
    losses = steady(1, 5000, np.float32)[0]
    weights = loops.uncertainty(losses, ["gaussian"] * K, loops.Descent(np.float32(0.01)))
    log = loops.logged(tmp_path, "uncertainty", losses, weights)
    run = free_run(mtlref.UncertaintyWeighting(optimiser=SGD(0.01)), log)
    assert (run.follows, run.kinks) == (True, 0)


# ROUNDED LOGS


def rounded(seed, steps, tasks, digits, scale, alpha, lr=0.001, leak=0.0):
    """GradNorm's numbers by a plain loop in float64, then rounded; `leak`: what task 0 loses in each step."""
    losses, norms = np.exp(np.random.default_rng(seed).normal(scale=scale, size=(2, steps, tasks)))
    losses /= 1 + 3 * np.arange(steps)[:, None] / steps
    rates, w, rows = losses / losses[0], np.ones(tasks), []
    rates = (rates / rates.mean(axis=1, keepdims=True)) ** alpha
    lost = leak * (np.eye(tasks)[0] - 1 / tasks)
    for n, r in zip(norms, rates, strict=True):
        rows.append(w)
        G = w * n
        u = w - lr * np.sign(G - G.mean() * r) * n - lost
        w = tasks * u / u.sum()
    return losses.round(digits), norms.round(digits), np.array(rows).round(digits)


@pytest.mark.parametrize(
    ("seed", "steps", "tasks", "digits", "scale", "alpha", "lr"),
    [
        (109, 3000, 4, 4, 0.1, 1.5, 0.001),  # parted at a step that was left open, and seen only later
        (118, 3000, 4, 4, 0.1, 1.5, 0.001),  # a sign that the digits of the step turned
        (154, 3000, 4, 4, 0.1, 1.5, 0.001),  # a sign turned while another task was far from the replay
        (1, 12000, 2, 3, 0.5, 0.12, 0.001),  # a sign whose jump the weights' own digits hid
        (2, 12000, 8, 3, 0.1, 1.5, 0.025),  # a sign, and all other digits on the jump's side
    ],
)
def test_a_right_run_that_was_rounded_departs_nowhere_and_follows(
    tmp_path, seed, steps, tasks, digits, scale, alpha, lr
):
    losses, norms, weights = rounded(seed, steps, tasks, digits, scale, alpha, lr)
    log = loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms)
    verdict = judge(mtlref.GradNorm(alpha=alpha, lr=lr), log)
    assert verdict.departures == 0
    assert verdict.run.follows


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_adds_up_is_found_behind_four_decimals(tmp_path, seed):
    """A step is off by a tenth of its rounding; the signs that the digits leave open do not hide it."""
    losses, norms, weights = rounded(seed, 3000, 4, 4, 0.1, 1.5, leak=5e-6)
    verdict = judge(METHOD, loops.logged(tmp_path, "gradnorm", losses, weights, norms=norms))
    assert verdict.departures == 0
    assert not verdict.run.follows

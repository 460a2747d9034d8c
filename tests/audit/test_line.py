"""Runs gone along row by row, and replays of moved logs side by side, against the method's own steps one by one."""

from __future__ import annotations

import numpy as np
import pytest

import mtlref
from mtlref.audit.free import Free
from mtlref.audit.lift import FAILURES, lifted
from mtlref.audit.line import Course
from mtlref.audit.moved import RANDOM, Moved
from mtlref.audit.noting import Noted, Notes
from mtlref.audit.rows import row, spread_out, take
from mtlref.audit.run import readable
from mtlref.defects import DEFECTS, variant
from mtlref.notation import MtlrefError
from mtlref.optimisers import SGD
from tests.audit import loops
from tests.audit.test_lift import CASES, METHODS

K, N = 3, 24


def run_of(method, losses, norms, state):
    """The weights in use at each row by the method itself, to the first it refuses, and the state behind them."""
    weights = []
    with np.errstate(all="ignore"):
        for L, n in zip(losses, norms, strict=True):
            try:
                out = method.step(state, L, np.diag(n))
            except MtlrefError:
                break
            weights.append(out.weights)
            state = out.state
    return np.array(weights).reshape(-1, K), state


@pytest.mark.parametrize(
    ("name", "defects"), CASES, ids=lambda x: x if isinstance(x, str) else "".join(d.name for d in x)
)
def test_a_course_is_the_method_s_own_run_to_the_last_bit(name, defects):
    """Of three replays two share their losses, and two others their norms."""
    method, rng = variant(METHODS[name], *defects), np.random.default_rng(1)
    losses, norms = rng.uniform(0.2, 3.0, (2, N, 2, K))
    which = [np.array([0, 1, 1]), np.array([0, 1, 0])]
    course = Course(lifted(method), spread_out(method.init(K), 3), which)
    parts = [course.through([losses[a:b], norms[a:b]]) for a, b in ((0, 1), (1, 14), (14, N))]
    got = np.concatenate(parts)
    for replay in range(3):
        own, state = run_of(method, losses[:, which[0][replay]], norms[:, which[1][replay]], method.init(K))
        np.testing.assert_array_equal(got[:, replay], own[: len(got)])
        assert len(own) >= len(got)
        if len(got) == N:
            assert row(course.state, replay) == state


@pytest.mark.parametrize("name", ["gradnorm", "uncertainty", "gradnorm by Adam", "cov", "dwa"])
def test_almost_every_row_is_a_line_s(name, monkeypatch):
    method, rng, stepped = METHODS[name], np.random.default_rng(2), []
    from mtlref.audit import line

    plain = line.step_rows
    monkeypatch.setattr(line, "step_rows", lambda *args: stepped.append(1) or plain(*args))
    course = Course(lifted(method), spread_out(method.init(K), 1), [np.zeros(1, dtype=int)] * 2)
    course.through(list(rng.uniform(0.2, 3.0, (2, N, 1, K))))
    assert len(stepped) <= 4  # the first rows, of which a state does not yet hold all, and CoV's gain of one half


def test_a_row_that_answers_otherwise_ends_the_line_and_is_stepped_by_itself():
    """CoV-Weighting of constant losses: all deviations are 0, until they are not."""
    method = METHODS["cov"]
    losses = np.ones((30, 1, K))
    losses[[12, 13, 25]] = np.random.default_rng(3).uniform(1, 2, (3, 1, K))
    course = Course(lifted(method), spread_out(method.init(K), 1), [np.zeros(1, dtype=int)])
    got = course.through([losses])
    np.testing.assert_array_equal(got[:, 0], run_of(method, losses[:, 0], np.ones((30, K)), method.init(K))[0])


@pytest.mark.parametrize("at", [1, 9, 17])
def test_a_course_ends_before_a_row_on_which_no_step_can_be_taken(at):
    method, losses = METHODS["gradnorm"], np.random.default_rng(4).uniform(1, 2, (N, 1, K))
    losses[at, 0, 1] = -1.0
    course = Course(lifted(method), spread_out(method.init(K), 1), [np.zeros(1, dtype=int)] * 2)
    got = course.through([losses, np.ones((N, 1, K))])
    own, state = run_of(method, losses[:, 0], np.ones((N, K)), method.init(K))
    assert len(got) == len(own) == at
    assert row(course.state, 0) == state


def test_only_what_can_be_done_again_is_noted():
    noted = Notes().add(None, np.arange(12.0).reshape(4, 3))
    assert isinstance(noted + 1, Noted)
    assert (noted * noted).place == (noted * noted).place  # once made, not noted again
    for refused in (lambda: noted[[0, 1]], lambda: np.modf(noted), lambda: np.sort(noted)):
        with pytest.raises(TypeError):
            refused()


# THE LOG WITH ITS NUMBERS MOVED


def moved_one_by_one(method, log, rows):
    """What moved replays show, by the definition: each replay by itself, a step at a time, (rows, K)."""
    kinds = ["losses"] if log.norms is None else ["losses", "norms"]
    first, rng = log.precision["weights"].of(log.weights[0]), np.random.default_rng(0)
    random = [[rng.choice([-1.0, 1.0], (RANDOM, K)) for _ in kinds] for _ in range(rows)]

    def replay(start, of):
        weights = log.weights[0] + start * first
        state = method.init(K)
        state = method.resumed(state, weights) if method.lagged else state
        numbers = {kind: getattr(log, kind)[:rows] for kind in kinds}
        moved = {
            kind: v + np.array([of(t, kind) + np.zeros(K) for t in range(rows)]) * log.precision[kind].of(v)
            for kind, v in numbers.items()
        }
        return run_of(method, moved["losses"], moved.get("norms", np.ones((rows, K))), state)[0]

    still, unit = replay(0, lambda t, kind: 0.0), np.eye(K)
    total = np.zeros((rows, K))
    for kind in ("weights", *kinds):
        for task in range(K):
            ends = []
            for sign in (1, -1):
                start = sign * unit[task] if kind == "weights" else 0.0
                ends.append(np.abs(replay(start, lambda t, k: (k == kind) * sign * unit[task]) - still))  # noqa: B023
            total += np.maximum(*ends)
    apart = [
        np.abs(replay(0.0, lambda t, kind: random[t][kinds.index(kind)][at]) - still)  # noqa: B023
        for at in range(RANDOM)
    ]
    return total + 3 * np.max(apart, axis=0)


def logged(tmp_path, stem, digits, steps=300):
    rng = np.random.default_rng(5)
    losses, norms = loops.falling(rng, steps, K)
    made = {
        "gradnorm": lambda: loops.gradnorm(losses, norms, 1.5, loops.Descent(0.01)),
        "uncertainty": lambda: loops.uncertainty(losses, ["gaussian"] * K, loops.Descent(0.02)),
        "dwa": lambda: loops.dwa(losses, 2.0),
        "cov": lambda: loops.cov(losses, previous=True, decay=0.9),
    }
    cut = (lambda x: x.astype(np.float32).astype(float)) if digits is None else (lambda x: np.round(x, digits))
    more = {"norms": cut(norms)} if stem == "gradnorm" else {}
    return loops.logged(tmp_path, "gradnorm" if more else stem, cut(losses), cut(made[stem]()), **more)


SETTINGS = {
    "gradnorm": mtlref.GradNorm(lr=0.01),
    "uncertainty": mtlref.UncertaintyWeighting(lr=0.02),
    "dwa": mtlref.DWA(),
    "cov": mtlref.CoVWeighting(statistics="previous", decay=0.9),
}


@pytest.mark.parametrize("digits", [None, 4])
@pytest.mark.parametrize("stem", SETTINGS)
def test_replays_side_by_side_are_replays_one_by_one(tmp_path, stem, digits):
    log, rows = logged(tmp_path, stem, digits), 40
    for method in (SETTINGS[stem], variant(SETTINGS[stem], DEFECTS[stem][0])):
        expected = moved_one_by_one(method, readable(log, method), rows)
        got = Moved(method, log).spread(0, rows)
        np.testing.assert_array_equal(got[: len(expected)], expected)


def test_replays_keep_step_with_the_log_over_rows_that_do_not_need_them(tmp_path):
    log, method = logged(tmp_path, "gradnorm", 4), SETTINGS["gradnorm"]
    found, parts = Moved(method, log).spread(0, 120), Moved(method, log)
    np.testing.assert_array_equal(parts.spread(0, 40), found[:40])
    np.testing.assert_array_equal(parts.spread(80, 120), found[80:])  # rows 40 to 79 asked for nothing


@pytest.mark.parametrize("stem", SETTINGS)
def test_the_run_that_is_not_corrected_is_the_same_from_a_guess_and_in_turn(tmp_path, stem):
    method, log = SETTINGS[stem], logged(tmp_path, stem, None)
    guessed, turn = Free(method, log), Free(method, log)
    turn.replay.at_once.left = 0
    spans = ((0, 1), (1, 65), (65, 300))
    one, other = (np.concatenate([free.through(*span) for span in spans]) for free in (guessed, turn))
    np.testing.assert_allclose(one, other, rtol=1e-13)
    if stem != "gradnorm":  # whose signs turn where a guess is moved a little
        assert guessed.replay.at_once.left == FAILURES


def test_a_line_goes_on_from_states_that_were_taken_elsewhere():
    method = mtlref.UncertaintyWeighting(optimiser=SGD(0.1))
    course = Course(lifted(method), spread_out(method.init(K), 2), [np.array([0, 1])])
    losses = np.random.default_rng(6).uniform(1, 2, (20, 2, K))
    course.through([losses[:10]])
    course.state = take(course.state, [1, 0])
    got = course.through([losses[10:]])
    state = run_of(method, losses[:10, 0], np.ones((10, K)), method.init(K))[1]
    np.testing.assert_array_equal(got[:, 1], run_of(method, losses[10:, 1], np.ones((10, K)), state)[0])

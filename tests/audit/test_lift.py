"""Many rows at once: the lifted methods against the methods themselves, a step at a time, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

import mtlref
from mtlref.audit import judge, lift, read_run, rows
from mtlref.audit.compare import compared
from mtlref.audit.free import blocks as free_blocks
from mtlref.audit.replay import Replay, taken
from mtlref.audit.rows import Rows, Split, row, spread_out
from mtlref.contract import weights_of
from mtlref.defects import DEFECTS, variant
from mtlref.notation import MtlrefError
from mtlref.optimisers import Adam, Momentum

K, N = 3, 150

METHODS = {
    "equal": mtlref.EqualWeights(),
    "fixed": mtlref.FixedWeights((1.0, 2.0, 0.5)),
    "gradnorm": mtlref.GradNorm(alpha=1.5, lr=0.01),
    "gradnorm clamped": mtlref.GradNorm(alpha=0.12, lr=0.4, negative="clamp"),
    "gradnorm by Adam": mtlref.GradNorm(optimiser=Adam(0.01)),
    "uncertainty": mtlref.UncertaintyWeighting(("gaussian", "softmax", "laplace"), lr=0.02, dimensions=(1, 2, 3)),
    "uncertainty by momentum": mtlref.UncertaintyWeighting(optimiser=Momentum(0.01)),
    "dwa": mtlref.DWA(),
    "cov": mtlref.CoVWeighting(),
    "cov, previous, decaying": mtlref.CoVWeighting(statistics="previous", decay=0.9, observed="loss"),
}
CASES = [(name, ()) for name in METHODS] + [
    (name, (defect,)) for name, method in METHODS.items() for defect in DEFECTS[method.stem]
]


def log_of(tmp_path, weights=None, seed=0):
    """A log of N rows with losses, norms and weights that are all different."""
    rng = np.random.default_rng(seed)
    losses, norms = rng.uniform(0.2, 3.0, (2, N, K))
    weights = rng.uniform(0.5, 1.5, (N, K)) if weights is None else weights
    np.savez(tmp_path / "run.npz", losses=losses, norms=norms, weights=weights)
    return read_run(str(tmp_path / "run.npz"), method="gradnorm").log


def one_by_one(method, log):
    """What the method itself decides on each row, from the log's weights, or the first error's row and text."""
    state, decided = method.init(K), []
    with np.errstate(all="ignore"):
        for at in range(N - method.lagged):
            try:
                out = taken(method, log, at, state)
            except MtlrefError as error:
                return decided, str(error)
            decided.append(weights_of(out.state) if method.lagged else out.weights)
            state = out.state
    return decided, None


@pytest.mark.parametrize(
    ("name", "defects"), CASES, ids=lambda x: x if isinstance(x, str) else "".join(d.name for d in x)
)
def test_blocks_of_rows_give_what_the_method_gives_step_by_step(tmp_path, name, defects):
    method, log = variant(METHODS[name], *defects), log_of(tmp_path)
    expected, error = one_by_one(method, log)
    got = []
    with np.errstate(all="ignore"):
        try:
            for done in Replay(method, log).blocks():
                got += list(done.expected)
        except MtlrefError as stopped:
            assert str(stopped) == error
        else:
            assert error is None
    roundings = 0.0 if name in ("equal", "fixed", "gradnorm", "gradnorm clamped", "uncertainty", "dwa") else 1e-13
    np.testing.assert_allclose(np.array(got), np.array(expected)[: len(got)], rtol=roundings, atol=roundings)
    assert error or len(got) == len(expected)


@pytest.mark.parametrize(
    ("name", "defects"),
    [case for case in CASES if case[0] != "gradnorm clamped"],  # where two defects meet weights that they refuse
    ids=lambda x: x if isinstance(x, str) else "".join(d.name for d in x),
)
def test_every_known_defect_is_stepped_many_rows_at_once(tmp_path, name, defects):
    """One that is not would be stepped row by row wherever it is tried, which takes longer."""
    method, log = variant(METHODS[name], *defects), log_of(tmp_path)
    norms = Rows(log.norms) if method.reads == "norms" else None
    with np.errstate(**lift.SEALED):
        out = lift.step_rows(Replay(method, log).light, spread_out(method.init(K), N), Rows(log.losses), norms)
    assert lift.numbers(out.weights, N).shape == (N, K)


@pytest.mark.parametrize("name", ["gradnorm", "uncertainty", "dwa", "equal", "fixed"])
def test_a_method_that_remembers_little_is_stepped_all_rows_at_once(tmp_path, monkeypatch, name):
    log, replay = log_of(tmp_path), None
    replay = Replay(METHODS[name], log)
    monkeypatch.setattr(replay, "single", counted := Counted(replay.single))
    for _ in replay.blocks():
        pass
    assert counted.calls == 1
    assert replay.at_once.left == lift.FAILURES


@pytest.mark.parametrize("name", ["cov", "gradnorm by Adam", "uncertainty by momentum"])
def test_a_method_that_remembers_everything_is_marched(tmp_path, name):
    replay = Replay(METHODS[name], log_of(tmp_path))
    for _ in replay.blocks():
        pass
    assert not replay.remembers_little
    assert replay.at_once.left == lift.FAILURES


class Counted:
    """A function and how often it was called."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


@pytest.mark.parametrize("name", ["gradnorm", "uncertainty", "dwa", "cov, previous, decaying"])
def test_the_replay_from_the_start_is_the_method_s_own_run(tmp_path, name):
    method, log = METHODS[name], log_of(tmp_path)
    state, expected = method.resumed(method.init(K), log.weights[0]), []
    for at in range(N):
        try:
            out = method.step(state, log.losses[at], np.diag(log.norms[at]))
        except MtlrefError:
            expected.append(weights_of(state))
            break
        expected.append(out.weights)
        state = out.state
    np.testing.assert_allclose(np.concatenate(list(free_blocks(method, log))), expected, rtol=1e-13)


def test_rows_that_answer_a_question_differently_are_parted_and_joined():
    """CoV-Weighting asks whether all coefficients are 0, and whether the gain is above one half."""
    method = METHODS["cov"]
    light, states = lift.lifted(method), []
    state = method.init(K)
    rng = np.random.default_rng(5)
    for at in range(6):
        states.append(state)
        state = method.step(state, np.ones(K) if at < 3 else rng.uniform(1, 2, K)).state
    from mtlref.audit.replay import stacked

    losses = rng.uniform(1, 2, (5, K))
    out = lift.step_rows(light, stacked(states[1:]), Rows(losses), None)
    for at in range(5):
        alone = method.step(states[1 + at], losses[at])
        np.testing.assert_array_equal(out.weights.values[at], alone.weights)
        assert row(out.state, at) == alone.state


def test_rows_take_part_in_numpy_as_single_values_would():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 5, K))
    a, b = Rows(x), Rows(y)
    for function in (
        lambda u, v: u / np.sum(u) + len(v) * np.abs(v) ** 1.5,
        lambda u, v: np.where(u > 0, v, np.mean(v)),
        lambda u, v: np.maximum(u, 0.0) - np.max(v),
        lambda u, v: u[:2] * v[0],
        lambda u, v: np.clip(u, -0.5, 0.5) * np.prod(v),
        lambda u, v: np.cumsum(u) * v,
    ):
        together = function(a, b).values
        np.testing.assert_array_equal(together, [function(u, v) for u, v in zip(x, y, strict=True)])
    assert bool(np.all(a * a >= 0))
    with pytest.raises(Split) as parted:
        bool(np.sum(a) > 0)
    np.testing.assert_array_equal(parted.value.mask, x.sum(axis=1) > 0)


@pytest.mark.parametrize(
    "question",
    [
        np.asarray,
        lambda a: bool(a),
        lambda a: len(np.sum(a)),
        lambda a: np.sort(a),
        lambda a: np.add.reduce(a),
        lambda a: np.ones(3)[a],
        lambda a: a[a],
        lambda a: np.add(a, 1, out=np.ones((5, K))),
    ],
)
def test_what_rows_cannot_do_is_refused(question):
    with pytest.raises((TypeError, IndexError)):
        question(Rows(np.ones((5, K))))


def test_states_keep_their_kind_when_rows_are_taken_and_joined():
    state = METHODS["gradnorm by Adam"].init(K)
    many = spread_out(state, 4)
    assert row(many, 2) == state
    mask = np.array([True, False, True, False])
    again = rows.joined(mask, rows.take(many, mask), rows.take(many, ~mask))
    assert row(again, 1) == state
    assert rows.same(many, again)
    with pytest.raises(TypeError, match="their states hold 0 and 1"):
        rows.joined(mask, 0, 1)


def test_rows_that_lack_a_number_decide_nothing_and_the_rest_is_judged(tmp_path):
    """NaN in rows 40 to 44. GradNorm remembers L(0) alone, DWA the loss before, CoV every loss there was."""
    for name, lost in (("gradnorm", 5), ("dwa", 6), ("cov", N - 40)):
        method, log = METHODS[name], log_of(tmp_path)
        decided, _ = one_by_one(method, log)
        weights = np.array(decided if not method.lagged else [weights_of(method.init(K)), *decided])
        if name == "gradnorm":
            weights = np.array(list(run_of(method, log)))
        losses = log.losses.copy()
        losses[40:45, 1] = np.nan
        np.savez(tmp_path / "gap.npz", losses=losses, norms=log.norms, weights=weights)
        run = read_run(str(tmp_path / "gap.npz"), method=name)
        verdict = judge(method, run.log)
        assert verdict.passed, name
        assert verdict.unjudged == lost
        assert verdict.steps == N - method.lagged - lost
        weights[20, 0] += 0.1
        weights[100, 0] += 0.1
        np.savez(tmp_path / "gap.npz", losses=losses, norms=log.norms, weights=weights)
        rows_off = [
            int(r)
            for block in compared(method, read_run(str(tmp_path / "gap.npz"), method=name).log)
            for r in block.rows[~block.agrees]
        ]
        assert rows_off == {"gradnorm": [20, 21, 100, 101], "dwa": [20, 100], "cov": [20]}[name]


def run_of(method, log):
    """The weights of the method's own run on the log's losses and norms."""
    state = method.init(K)
    for L, n in zip(log.losses, log.norms, strict=True):
        yield weights_of(state)
        state = method.step(state, L, np.diag(n)).state

"""The rows of a log in the order of the run: gaps, rows of one step, runs that begin anew, steps that go back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mtlref.audit import judge, read_log, read_run, report
from mtlref.notation import LogError

K, N = 2, 60
GRADNORM = {"method": "gradnorm", "settings": {"alpha": 1.5, "lr": 0.02}}


def loop(losses, norms, alpha=1.5, lr=0.02):
    """GradNorm written out: the weights in use at each row."""
    weights, w = [], np.ones(K)
    for t in range(len(losses)):
        weights.append(w)
        progress = losses[t] / losses[0]
        scaled = w * norms[t]
        sides = np.sign(scaled - scaled.mean() * (progress / progress.mean()) ** alpha)
        w = w - lr * sides * norms[t]
        w = K * w / w.sum()
    return np.array(weights)


def run(seed=0, rows=N):
    """Losses, norms and weights of a run: the columns by their usual names, without a column of steps."""
    rng = np.random.default_rng(seed)
    losses, norms = np.exp(rng.normal(size=(2, rows, K)))
    return table(losses, norms, loop(losses, norms))


def table(losses, norms, weights):
    kinds = {"loss": losses, "norm": norms, "weight": weights}
    return {f"{kind}/{i}": values[:, i] for kind, values in kinds.items() for i in range(K)}


def joined(*tables):
    return {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}


def save(folder, columns, steps=None, side=GRADNORM):
    """Write columns as a CSV; NaN is an empty cell."""
    columns = columns if steps is None else {"step": np.asarray(steps), **columns}
    lines = [",".join(columns)]
    for row in zip(*columns.values(), strict=True):
        lines.append(",".join("" if x != x else repr(x.item()) for x in row))
    (folder / "run.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(side), encoding="utf-8")
    return str(folder / "run.csv")


def judged(path, **options):
    found = read_run(path, **options)
    return found, judge(found.method, found.log)


def test_series_logged_by_different_calls_are_one_row_a_step(tmp_path):
    columns = run()
    rows = {name: np.full(2 * N, np.nan) for name in columns}
    for name, values in columns.items():
        rows[name][int(name.startswith("weight")) :: 2] = values
    found, verdict = judged(save(tmp_path, rows, np.repeat(np.arange(N), 2)))
    assert len(found.log.rows) == N
    assert verdict.passed
    assert verdict.steps == N - 1
    np.testing.assert_array_equal(found.log.lines, np.arange(3, 2 * N + 3, 2))


def test_a_row_that_was_logged_twice_counts_once(tmp_path):
    columns, twice = run(), np.sort(np.append(np.arange(N), [7, 7, 30]))
    found, verdict = judged(save(tmp_path, {name: x[twice] for name, x in columns.items()}, twice))
    assert verdict.passed
    assert len(found.log.rows) == N
    assert found.log.notes == ()


def test_rows_of_one_step_that_contradict_each_other_are_taken_as_they_stand(tmp_path):
    steps = np.arange(N)
    steps[21:] -= 1
    found, verdict = judged(save(tmp_path, run(), steps))
    assert verdict.passed
    assert len(found.log.rows) == N
    assert "step 20 stands 2 times with different numbers (line 22)" in found.log.notes[0]


def test_steps_left_out_are_not_stepped_over(tmp_path):
    kept = np.delete(np.arange(N), [20, 21, 22, 40])
    found, verdict = judged(save(tmp_path, {name: x[kept] for name, x in run().items()}, kept))
    assert verdict.first is None
    assert (verdict.steps, verdict.unjudged) == (
        N - 1 - 6,
        4,
    )  # three and one rows are gone: the rows after them hang
    assert "2 gaps, the first after 19" in found.log.notes[0]
    np.testing.assert_array_equal(found.log.rows, np.sort(np.append(kept, [20, 40])))


def test_a_fault_before_and_one_after_a_gap_are_found(tmp_path):
    kept, columns = np.delete(np.arange(N), np.arange(20, 25)), run()
    for row in (10, 40):
        columns["weight/0"][row] += 1e-3
    _, verdict = judged(save(tmp_path, {name: x[kept] for name, x in columns.items()}, kept))
    assert verdict.departures == 4
    assert verdict.first.row == 10


def test_a_run_that_went_back_to_a_checkpoint_goes_on_from_there(tmp_path):
    columns, other = run(), run(seed=1)
    lost = {name: np.concatenate([columns[name][:40], other[name][40:47], columns[name][40:]]) for name in columns}
    steps = np.concatenate([np.arange(47), np.arange(40, N)])
    found, verdict = judged(save(tmp_path, lost, steps))
    assert verdict.passed
    assert verdict.steps == N - 1
    assert found.log.notes == ("the steps go back to 40 at line 49: the 7 rows beyond it are taken back",)


def test_runs_that_stand_one_behind_another_are_judged_each_by_itself(tmp_path):
    steps = np.concatenate([np.arange(N), np.arange(N)])
    found, verdict = judged(save(tmp_path, joined(run(), run(seed=1)), steps))
    assert verdict.passed
    assert verdict.steps == 2 * (N - 1)
    assert verdict.restarts == (N,)
    assert "Begins anew: at step 0 (line 62) a run starts." in report.text(found, verdict)


@pytest.mark.parametrize("numbered", [False, True])
def test_a_memory_lost_in_mid_log_is_recognised_by_what_follows(tmp_path, numbered):
    steps = np.arange(2 * N) if numbered else None
    _, verdict = judged(save(tmp_path, joined(run(), run(seed=1)), steps))
    assert verdict.passed
    assert verdict.restarts == (N,)
    assert verdict.departures == 0


def test_the_known_defect_of_a_run_that_began_anew_is_named(tmp_path):
    rng = np.random.default_rng(3)
    losses, norms = np.exp(0.3 * rng.normal(size=(2, 2, N, K)))
    parts = [table(one, n, loop(one, n, alpha=-1.5)) for one, n in zip(losses, norms, strict=True)]
    _, verdict = judged(save(tmp_path, joined(*parts)))
    assert not verdict.passed
    assert [d.name for fit in verdict.diagnosis.explanations for d in fit.defects] == ["InvertedRate"]


def test_too_few_steps_after_a_beginning_recognise_nothing(tmp_path):
    short = {name: x[:6] for name, x in run(seed=1).items()}
    _, verdict = judged(save(tmp_path, joined(run(), short)))
    assert verdict.restarts == ()
    assert verdict.first.row == N


def test_dwa_that_forgot_its_losses_begins_anew(tmp_path):
    rng = np.random.default_rng(5)
    losses = np.exp(rng.normal(size=(2, 20, K)))
    parts = []
    for one in losses:
        rates = np.exp(one[1:-1] / one[:-2] / 2.0)
        weights = np.concatenate([np.ones((2, K)), K * rates / rates.sum(axis=1, keepdims=True)])
        parts.append(table(one, np.ones((20, K)), weights))
    side = {"method": "dwa", "settings": {"temperature": 2.0}}
    _, verdict = judged(save(tmp_path, joined(*parts), side=side))
    assert verdict.passed
    assert verdict.restarts == (20,)


def test_steps_that_go_by_tens_are_judged_where_they_agree(tmp_path):
    found, verdict = judged(save(tmp_path, run(), 10 * np.arange(N)))
    assert verdict.passed
    assert "the steps go by 10" in found.log.notes[0]


def test_every_tenth_step_of_a_run_cannot_be_decided_and_is_not_called_wrong(tmp_path):
    every = {name: x[::10] for name, x in run(rows=300).items()}
    path = save(tmp_path, every, np.arange(0, 300, 10))
    found = read_run(path)
    with pytest.raises(LogError, match=r"the steps go by 10: if the run took steps between them, the log cannot"):
        judge(found.method, found.log)
    _, verdict = judged(path, consecutive=True)
    assert not verdict.passed


def test_weights_logged_at_every_tenth_step_are_judged_by_the_whole_run(tmp_path):
    columns, hidden = run(), np.arange(N) % 10 != 0
    for i in range(K):
        columns[f"weight/{i}"][hidden] = np.nan
    found, verdict = judged(save(tmp_path, columns, np.arange(N)))
    assert verdict.passed
    assert (verdict.steps, verdict.run.rows) == (0, 5)
    assert "no step can be judged by itself" in report.text(found, verdict)
    columns["weight/0"][50] += 1e-3
    _, verdict = judged(save(tmp_path, columns, np.arange(N)))
    assert not verdict.passed
    assert verdict.run.first == 50


def test_a_count_of_steps_may_start_again_with_each_epoch(tmp_path):
    columns = {"epoch": np.repeat(np.arange(3), 20), **run()}
    found, verdict = judged(save(tmp_path, columns, np.tile(np.arange(20), 3)))
    assert verdict.passed
    assert verdict.restarts == ()
    assert found.log.notes == ("the steps are counted anew in 2 epochs",)


def test_many_turns_are_read_in_a_moment(tmp_path):
    rng = np.random.default_rng(0)
    columns = {f"{kind}/{i}": rng.random(20_000) for kind in ("loss", "weight") for i in range(K)}
    log = read_log(save(tmp_path, columns, rng.integers(0, 1000, 20_000)))
    assert len(log.notes) <= 16
    assert len(log.losses) == len(log.rows) == len(log.lines)

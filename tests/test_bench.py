"""The benchmarks on tiny sizes: contenders agree, the report and the JSON have their shape. No time is judged."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mtlref.bench import __main__ as program
from mtlref.bench import machine, measure, report
from mtlref.bench.cases import NAMES, available, jacobian, load, memory, pcgrad, tape
from mtlref.bench.measure import Contender, DisagreementError, Setup, compare, take
from mtlref.notation import MissingExtraError, MtlrefError

RNG = np.random.default_rng


def problem(*results, bar=None):
    """A bound and contenders that return these numbers."""
    roles = ["ours", *["hand"] * (len(results) - 1)]
    contenders = [
        Contender(f"c{i}", role, lambda r=r: r) for i, (r, role) in enumerate(zip(results, roles, strict=True))
    ]
    return Setup({"n": 1}, [Contender("bound", "bound", lambda: None), *contenders], bar)


# MEASURING


def test_results_that_differ_stop_the_measuring():
    assert compare(problem(1.0, 1.0 + 1e-12)) == pytest.approx(1e-12, rel=1e-3)
    for other in (1.0 + 1e-6, float("nan")):
        with pytest.raises(DisagreementError, match="c1 and c0 differ by"):
            compare(problem(1.0, other))
    with pytest.raises(DisagreementError, match="differ in shape"):
        compare(problem(np.ones(2), np.ones(3)))


def test_every_contender_has_as_many_samples_and_an_untimed_call_before_each(monkeypatch):
    monkeypatch.setattr(measure, "SHORTEST", 0.0)
    calls = []
    contenders = [Contender(name, role, lambda name=name: calls.append(name) or 0.0) for name, role in
                  (("a", "ours"), ("b", "hand"))]  # fmt: skip
    found = take("x", Setup({}, contenders), 1, rounds=5, rng=RNG(0))
    assert [len(t.samples) for t in found.timings] == [5, 5]
    rounds = calls[2 + 2 * 2 :]  # the comparison calls each once, the first sample each twice
    assert len(rounds) == 5 * 2 * 2
    turns = rounds[::2]
    assert turns == rounds[1::2]
    assert {tuple(turns[i : i + 2]) for i in range(0, 10, 2)} == {("a", "b"), ("b", "a")}


def test_who_is_slow_is_timed_once_unless_it_is_ours_or_the_bound(monkeypatch):
    durations = {"bound": 0.5, "ours": 0.4, "quick": 0.02, "slow": 0.3}
    monkeypatch.setattr(measure, "sample", lambda call, repeats, clock: durations[call()])
    roles = {"bound": "bound", "ours": "ours", "quick": "hand", "slow": "peer"}
    contenders = [Contender(name, role, lambda name=name: name, lambda _: []) for name, role in roles.items()]
    found = take("x", Setup({}, contenders, units=2), 1, rounds=4, rng=RNG(0), budget=2.0)
    assert {t.contender.name: t.samples for t in found.timings} == {
        "bound": [0.25] * 4, "ours": [0.2] * 4, "quick": [0.01] * 4, "slow": [0.15],
    }  # fmt: skip
    assert "1 sample" in report.row(found, found.timings[3]) and "sample" not in report.row(found, found.timings[2])


def test_the_summary_counts_bars_and_who_is_behind():
    def found(bar, **medians):
        roles = {"bound": "bound", "mtlref": "ours", "loop": "hand", "torch": "peer"}
        timings = [measure.Timing(Contender(n, roles[n], lambda: None), [m]) for n, m in medians.items()]
        return measure.Measured("x", Setup({}, [], bar), 1, timings, 0.0)

    ones = [found(1.5, bound=1, mtlref=2, loop=1, torch=3), found(2.5, bound=1, mtlref=2, loop=4),
            found(None, bound=1, mtlref=9, loop=5)]  # fmt: skip
    assert report.summary(ones) == (
        "   in all: mtlref meets the bar in 1 of 2 setups; loop meets the bar in 1 of 2 setups; "
        "mtlref is ahead of loop in 1 of 3; mtlref is ahead of torch in 1 of 1"
    )
    assert report.summary([]) == ""


def test_the_units_divide_the_seconds(monkeypatch):
    monkeypatch.setattr(measure, "sample", lambda call, repeats, clock: 6.0)
    one = Setup({}, [Contender("a", "ours", lambda: 0.0)], units=3)
    assert take("x", one, 1, rounds=3, rng=RNG(0)).timings[0].median == 2.0


def test_the_verdict_compares_the_medians(monkeypatch):
    times = {"bound": 2.0, "c0": 3.0}
    found = take("x", problem(1.0, bar=1.4), 1, rounds=3, rng=RNG(0))
    for t in found.timings:
        t.samples[:] = [times[t.contender.name]] * 2 + [9.0] * 1
    assert found.to_bound == 1.5
    assert "1.50 × the bound, bar 1.4: MISSED" in report.verdict(found)
    assert "met" in report.verdict(measure.Measured("x", problem(1.0, bar=1.5), 1, found.timings, 0.0))


# CASES


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_jacobians_by_hand_and_on_the_tape_agree(loss, activation):
    one = jacobian.problem(6, 3, 5, 7, loss, activation)
    made = [jacobian.ours(one), jacobian.by_hand(one), jacobian.textbook(one), jacobian.ours(one, kept=False)]
    first, *others = (call() for call in made)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-10, atol=1e-14)
    jacobian.bound(one)()


@pytest.mark.parametrize("module", ["torch", "torchjd", "jax", "autograd", "mygrad"])
def test_a_peers_jacobian_agrees(module):
    pytest.importorskip(module, reason=f"measures beside {module}")
    from mtlref.bench import peers

    one = jacobian.problem(6, 2, 3, 7, "cross-entropy", "tanh")
    expected = jacobian.by_hand(one)()
    found = [c for c in peers.contenders(one) if module in c.name.lower()]
    assert found
    for contender in found:
        np.testing.assert_allclose(contender.result(contender.call())[0], expected, rtol=1e-8, atol=1e-12)


def test_the_tape_and_the_bare_calls_agree():
    x, b = np.linspace(0.1, 1, 8), np.linspace(0.9, 1.1, 8)
    np.testing.assert_allclose(tape.ours(x, b, 10), tape.bare(x, b, 10), rtol=1e-13)


def test_pcgrads_weights_and_the_loop_on_gradients_agree():
    J = RNG(0).normal(size=(5, 9)) - 0.2
    draw = np.array([[j for j in range(5) if j != i] for i in range(5)])
    np.testing.assert_allclose(pcgrad.ours(J, draw), pcgrad.naive(J, draw), rtol=1e-11)


def test_minimum_norms_contenders_find_one_length():
    case = load("minimum-norm")
    for kind, J in case.hard(4).items():
        assert compare(case.setup(kind, J[:, :30], peers=False)) <= 1e-6


def test_an_audited_log_follows_its_method():
    case = load("audit")
    for stem, numbers in (
        ("dwa", "float64"),
        ("gradnorm", "4 decimals"),
        ("cov", "float32"),
        ("uncertainty", "float32"),
    ):
        path = case.recorded(stem, 12, numbers)
        assert case.audited(path)
        assert case.only_read(path) == 12 * len(path.read_text(encoding="utf-8").splitlines()[0].split(","))


def test_the_audit_s_tables_have_a_row_a_log(monkeypatch):
    case = load("audit")
    monkeypatch.setattr(case, "SIZES", (20, 40))
    monkeypatch.setattr(case, "SETTINGS", {"dwa": {}})
    monkeypatch.setattr(case, "DONE", set())
    times, growth = case.tables(False, RNG(0))
    assert [row[:3] for row in times.rows] == [
        ("dwa", numbers, steps) for numbers in ("float64", "float32", "4 decimals") for steps in (20, 40)
    ]
    assert all(value is None or value > 0 for row in times.rows for value in row[3:])
    assert len(growth.rows) == 3
    assert case.tables(False, RNG(0)) == []
    rows = [("a", "b", steps, 1.0, 3.0 * steps**2, None) for steps in (10, 20, 80)]
    assert case.exponent(rows, 4) == pytest.approx(2.0)
    assert case.exponent(rows, 5) is None


def test_a_smaller_chunk_takes_less_memory(monkeypatch):
    small = jacobian.problem
    monkeypatch.setattr(jacobian, "problem", lambda width, depth, K, batch, loss: small(8, 2, 8, 512, loss))
    table = memory.tables(False, RNG(0))[0]
    peaks = [row[4] for row in table.rows[:3]]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[2] < peaks[0] / 2


def test_every_case_is_a_module_of_setups_or_tables():
    for name in NAMES:
        if name in available():
            case = load(name)
            assert hasattr(case, "tables") or (case.TITLE and case.BOUND and callable(case.setups)), name
    assert ("checks" in available()) == (importlib.util.find_spec("mtlref.conformance") is not None)


# THE COMMAND

KEYS = {
    "": {"format", "machine", "missing", "measured", "tables"},
    "measured": {"case", "sizes", "threads", "bar", "difference", "contenders"},
    "contenders": {
        "name",
        "role",
        "note",
        "median",
        "least",
        "quarter",
        "three_quarters",
        "samples",
        "to_bound",
        "to_ours",
    },
    "tables": {"case", "title", "columns", "rows"},
}


def closed(value, name=""):
    """Whether the keys of the JSON are those of KEYS, all the way down."""
    if isinstance(value, list):
        return all(closed(item, name) for item in value)
    if not isinstance(value, dict) or name in ("machine", "sizes"):
        return True
    return set(value) == KEYS[name] and all(closed(item, key) for key, item in value.items())


def run(*words):
    return program.main([*words, "--rounds", "3", "--budget", "0.01"])


def test_the_command_measures_prints_and_writes(capsys, tmp_path):
    path = tmp_path / "out.json"
    assert run("tape", "--json", str(path)) == 0
    printed = capsys.readouterr().out
    assert "== tape: a recorded operation" in printed and "float64" in printed and "kernel" in printed
    assert "threads:  1" in printed
    written = json.loads(path.read_text(encoding="utf-8"))
    assert closed(written) and written["format"] == "mtlref-bench/1"
    assert [c["name"] for c in written["measured"][0]["contenders"]] == ["bound", "mtlref"]
    ours = written["measured"][0]["contenders"][1]
    assert ours["least"] <= ours["quarter"] <= ours["median"] <= ours["three_quarters"] and ours["to_ours"] == 1


LIMITED = """
import sys
from mtlref.bench import __main__ as program
from mtlref.bench import measure
from mtlref.bench.cases import tape

def setups(full, peers):
    import torch

    contenders = [measure.Contender("threads", "ours", lambda: float(torch.get_num_threads()))]
    yield measure.Setup({"n": 1}, [*contenders, measure.Contender("one", "hand", lambda: 1.0)])

tape.setups = setups
sys.exit(program.main(["tape", "--peers", "--threads", "1", "2", "--rounds", "3", "--budget", "0.01"]))
"""


def test_torch_has_one_thread_from_the_first_case_on():
    """With two threads asked for later: it was loaded after the limit before, and ran with both."""
    for module in ("torch", "threadpoolctl"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"sets the threads of {module}")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        env={**os.environ, **dict.fromkeys(machine.VARIABLES, "2")},
        capture_output=True,
        text=True,
        check=False,
    )
    # with one thread the two contenders agree, with two they differ
    assert "; 1 thread" in done.stdout and "2 threads" not in done.stdout
    assert done.returncode == 1 and "one and threads differ by" in done.stderr, done.stderr


def test_missing_peers_are_named(capsys, monkeypatch):
    monkeypatch.setattr(machine, "PEERS", {"no_such_module": "no-such-module"})
    monkeypatch.setattr(tape, "PEERS", {})
    assert run("tape", "--peers") == 0
    assert "missing:  no-such-module (not installed, so not measured)" in capsys.readouterr().out


def test_what_cannot_be_run_is_said_in_a_line(capsys, monkeypatch):
    assert run("speed") == 2
    assert capsys.readouterr().err.startswith("bench: there is no case 'speed'; there are jacobian, tape")
    assert program.main(["tape", "--rounds", "2"]) == 2
    monkeypatch.setattr(machine, "can_set_threads", lambda: False)
    assert run("tape", "--threads", "1", "2") == 2
    assert "need threadpoolctl" in capsys.readouterr().err


def test_contenders_that_disagree_give_status_1(capsys, monkeypatch):
    monkeypatch.setattr(tape, "setups", lambda full, peers: iter([problem(1.0, 2.0)]))
    assert run("tape") == 1
    assert capsys.readouterr().err.startswith("bench: n 1: c1 and c0 differ by")


def test_a_plot_needs_matplotlib_or_is_drawn(capsys, tmp_path):
    path = tmp_path / "ratios.svg"
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(MissingExtraError, match="pip install"):
            report.matplotlib()
        assert run("tape", "--plot", str(path)) == 2
    else:
        assert run("tape", "--plot", str(path)) == 0
        assert path.read_text(encoding="utf-8").startswith("<?xml")


def test_the_reference_passes_the_checks_that_are_timed():
    if "checks" not in available():
        pytest.skip("needs mtlref.conformance")
    first, *rest = load("checks").setups(False, False)
    assert len(rest) == 2
    assert all(result.status == "passed" for result in first.contenders[0].call())


def test_without_conformance_its_case_is_unknown():
    if "checks" not in available():
        with pytest.raises(MtlrefError, match="there is no case 'checks'"):
            program.chosen(["checks"])
    assert program.chosen([]) == list(available())


@pytest.mark.parametrize(
    "value, words", [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 µs"), (1e-9, "0.001 µs")]
)
def test_times_have_units(value, words):
    assert report.seconds(value) == words

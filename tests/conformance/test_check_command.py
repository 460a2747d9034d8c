"""`mtlref check`: targets, exit statuses, reports, and code that misbehaves."""

from __future__ import annotations

import json

import pytest

from mtlref.cli import main
from mtlref.conformance import implementation, runner

MINE = """
import sys
import time

import numpy as np

from mtlref.conformance import Implementation


def next_weights(problem, state, sign=1.0):
    L_0 = problem.losses if state.initial_losses is None else state.initial_losses
    w, n, rate = state.weights, np.linalg.norm(problem.jacobian, axis=1), problem.losses / L_0
    G = np.abs(w) * n
    target = G.mean() * (rate / rate.mean()) ** (sign * problem.method.alpha)
    u = w - problem.method.lr * np.sign(G - target) * np.sign(w) * n
    return len(u) * u / u.sum()


def of(name, step, **more):
    return Implementation("gradnorm", name=name, step=step, **more)


right = of("right", lambda problem, state: {"w_next": next_weights(problem, state)})
wrong = of("wrong", lambda problem, state: {"w_next": next_weights(problem, state, -1.0)})
both = [right, wrong]


def made():
    return right


def broken():
    raise RuntimeError("no such luck")


def chatty(problem, state):
    print("here I am")
    return {"w_next": next_weights(problem, state)}


def writes(problem, state):
    problem.losses[0] = 7.0
    return {"w_next": next_weights(problem, state)}


def crashes_for_two(problem, state):
    if problem.n_tasks == 2:
        raise IndexError("two are too few")
    return {"w_next": next_weights(problem, state)}


talks = of("talks", chatty)
scribbles = of("scribbles", writes)
crashes = of("crashes", crashes_for_two)
gives_up = of("gives up", lambda problem, state: sys.exit(3))
sleeps = of("sleeps", lambda problem, state: time.sleep(30))
listed = of("listed", lambda problem, state: [1.0])
short = of("short", lambda problem, state: {"w_next": next_weights(problem, state)[:-1]})
misnamed = of("misnamed", lambda problem, state: {"w_next": next_weights(problem, state), "wnext": 1.0})
mute = of("mute", lambda problem, state: {"G": 1.0})
nothing = []
number = 3


def leaves():
    sys.exit(7)


def fractions(problem, state):
    out = problem.step(state)
    return {"w_next": out.terms["w_next"], "weights": out.weights}


mixed = [wrong, Implementation("dwa", name="other", step=fractions)]
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """A module of a user's own, in the current folder, and few cases."""
    (tmp_path / "my_code.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "SIZES", {"step": 12, "run": 4, "live": 2})


def test_a_right_one_passes(capsys):
    assert main(["check", "my_code:right"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("right: gradnorm, float64: 8 passed, 10 skipped\n")
    assert "  skipped  GN-4     check_gradnorm_targets: right gives no target\n" in printed
    assert "three tasks or more" in printed


def test_a_wrong_one_fails_and_is_named(capsys):
    assert main(["check", "my_code:wrong"]) == 1
    printed = capsys.readouterr().out
    assert "identical to the known defect InvertedRate [GN-4]" in printed.splitlines()[1]
    order = ["observable", "got", "expected", "error", "problem", "diagnosis", "derivation"]
    message = printed[printed.index("check_gradnorm_next_weights [GN-7] fails") :].splitlines()[1:8]
    assert [line.split()[0] for line in message] == order


@pytest.mark.parametrize("target", ["my_code:made", "my_code:right"])
def test_a_function_or_an_implementation(target):
    assert main(["check", target, "--select", "GN-7"]) == 0


def test_a_list_is_judged_one_by_one(capsys):
    assert main(["check", "my_code:both", "--select", "check_gradnorm_next_weights", "--json"]) == 1
    reports = json.loads(capsys.readouterr().out)
    assert [report["status"] for report in reports] == ["passed", "failed"]


def test_the_json_holds_the_numbers(capsys, tmp_path):
    assert main(["check", "my_code:wrong", "--json", str(tmp_path / "report.json")]) == 1
    capsys.readouterr()
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(report) == {
        *("mtlref", "numpy", "scipy", "implementation", "method", "dtype", "choices", "status", "unusable"),
        *("diagnosis", "checks", "conditions", "printed"),
    }
    failed = next(check for check in report["checks"] if check["status"] == "failed")
    departure = failed["departure"]
    worst = max(abs(g - e) for g, e in zip(departure["got"], departure["expected"], strict=True))
    assert worst == pytest.approx(max(departure["error"]))
    assert worst > max(departure["allowed"])


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("my_code", "must be MODULE:NAME, or peers"),
        ("no_such_module:mine", "cannot be loaded: ModuleNotFoundError"),
        ("my_code:absent", "cannot be loaded: AttributeError"),
        ("my_code:broken", "cannot be loaded: RuntimeError: no such luck at my_code.py:"),
        ("my_code:number", "is of kind int; an Implementation is needed"),
        ("my_code:leaves", "cannot be loaded: SystemExit: 7 at my_code.py:"),
        ("my_code:nothing", "holds no implementation"),
    ],
)
def test_a_target_that_is_none_is_refused(capsys, target, said):
    assert main(["check", target]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--select", "check_gradnorm_nextweights"], "is no check or tag of gradnorm; there are: "),
        (["--expect", "check_gradnorm_nextweights=known"], "which is no check; there are: "),
        (["--expect", "check_gradnorm_next_weights="], "gives no reason for check_gradnorm_next_weights"),
        (["--expect", "check_gradnorm_next_weights"], "an expected failure is CHECK=REASON"),
    ],
)
def test_misspelt_names_are_refused(capsys, arguments, said):
    assert main(["check", "my_code:right", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_an_expected_failure_counts_where_the_check_is(capsys):
    """It need not be a check of every implementation in a list."""
    known = ["--expect", "check_gradnorm_next_weights=the sign"]
    selected = ["--select", "check_gradnorm_next_weights", "--select", "check_dwa_next_weights"]
    assert main(["check", "my_code:mixed", *known, *selected]) == 0
    printed = capsys.readouterr().out
    assert "expected failure" in printed
    assert "other: dwa, float64" in printed


def test_several_stand_on_one_page(capsys, tmp_path):
    assert main(["check", "my_code:both", "--select", "GN-7", "--html", str(tmp_path / "page.html")]) == 1
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [page.count(part) for part in ("<!DOCTYPE", "<html", "</html>", "<title>", "<style>")] == [1] * 5
    assert page.count("<h1>") == 2
    assert "<h1>right</h1>" in page
    assert "<h1>wrong</h1>" in page


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_report_that_cannot_be_written_is_one_line(capsys, tmp_path, option):
    target = str(tmp_path / "no such folder" / "report")
    assert main(["check", "my_code:right", "--select", "check_gradnorm_next_weights", option, target]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"mtlref: the report cannot be written to {target}: ")


def test_nothing_but_skips_is_no_pass(capsys):
    assert main(["check", "my_code:right", "--select", "check_gradnorm_mean_norm"]) == 2
    assert "nothing was judged, all 1 checks were skipped" in capsys.readouterr().out


def test_expected_failures_are_strict(capsys):
    known = ["--expect", "check_gradnorm_next_weights=the sign", "--select", "check_gradnorm_next_weights"]
    assert main(["check", "my_code:wrong", *known]) == 0
    assert "expected failure" in capsys.readouterr().out
    assert main(["check", "my_code:right", *known]) == 1
    assert "UNEXPECTED PASS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scribbles", "scribbles wrote into its arguments"),
        ("gives_up", "gives up raised SystemExit: 3"),
        ("sleeps", "sleeps has not answered after 1 seconds"),
        ("listed", "step must return a mapping from names to values; it returned list"),
        ("misnamed", "misnamed gives wnext; known are: G, "),
        ("mute", "mute gives no w_next, without which gradnorm cannot be judged"),
    ],
)
def test_code_that_cannot_be_judged_is_told_so(capsys, monkeypatch, name, said):
    monkeypatch.setattr(implementation, "PATIENCE", 1.0)
    assert main(["check", f"my_code:{name}"]) == 2
    printed = capsys.readouterr()
    assert said in printed.out
    assert "Traceback" not in printed.out + printed.err


def test_a_crash_on_some_problems_is_a_failed_check(capsys):
    assert main(["check", "my_code:crashes"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED   GN-7     check_gradnorm_answers_every_problem" in printed
    assert "crashes raised IndexError: two are too few at my_code.py:" in printed


def test_a_wrong_shape_is_a_failed_check(capsys):
    assert main(["check", "my_code:short"]) == 1
    assert "w_next has the shape (2,); (3,) is expected" in capsys.readouterr().out


def test_what_is_printed_is_kept_for_the_report(capsys):
    assert main(["check", "my_code:talks", "--select", "GN-7"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("here I am") == 5
    assert "lines to standard output" in printed


def test_peers_are_listed_whether_installed_or_not(capsys):
    from mtlref.conformance.peers import PEERS

    absent = [peer for peer in PEERS if not peer.installed()]
    if not absent:
        pytest.skip("all peers are installed")
    assert main(["check", "peers", "--select", absent[0].name]) == 0
    assert "not installed" in capsys.readouterr().out
    assert main(["check", "peers", "--select", "no such peer"]) == 2

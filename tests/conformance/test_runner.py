"""Implementations that misbehave: each is reported as what it is, and none brings the run down."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mtlref.conformance import Implementation, check_implementation, implementation, runner
from mtlref.conformance.runner import judge_all, session
from mtlref.notation import DomainError

NEXT = "check_gradnorm_next_weights"
ANSWERS = "check_gradnorm_answers_every_problem"


SLEEPER = """
import pathlib
import time

from mtlref.conformance import Implementation


def step(problem, state):
    pathlib.Path("asked").touch()
    time.sleep(300)


mine = Implementation("gradnorm", name="sleeper", step=step)
"""


@pytest.fixture(autouse=True)
def few_cases(monkeypatch):
    monkeypatch.setattr(runner, "SIZES", {"step": 12, "run": 3, "live": 2})


def right(problem, state):
    return {"w_next": problem.step(state).terms["w_next"]}


def of(step=None, **more):
    return Implementation("gradnorm", name="mine", step=step, **more)


def statuses(impl, *names):
    return {r.name: r.status for r in check_implementation(impl, select=names or (ANSWERS, NEXT))}


def fault(step=None, **more):
    """The kind of fault, and its words, of an implementation that cannot be judged."""
    unusable = session(of(step, **more)).unusable
    assert unusable is not None
    return unusable.fault, str(unusable)


def raising(error):
    def step(problem, state):
        raise error

    return step


# AT ONCE


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no"), "mine raised RuntimeError: no at test_runner.py:"),
        (SystemExit(3), "mine raised SystemExit: 3 at test_runner.py:"),
        (AssertionError(), "mine raised AssertionError:  at test_runner.py:"),
        (GeneratorExit(), "mine raised GeneratorExit:  at test_runner.py:"),
        (RecursionError("deep"), "mine raised RecursionError: deep at test_runner.py:"),
    ],
)
def test_whatever_it_raises_is_a_crash(error, said):
    kind, words = fault(raising(error))
    assert kind == "crashed"
    assert words.startswith(said)


def test_a_call_of_sys_exit_does_not_end_the_run():
    assert fault(lambda problem, state: sys.exit("enough"))[1].startswith("mine raised SystemExit: enough")


def test_every_check_of_an_unusable_one_says_so():
    results = check_implementation(of(raising(OSError("gone"))))
    assert {r.status for r in results} == {"unusable"}
    assert all("OSError: gone" in r.message for r in results)


def test_an_interrupt_stops_the_run():
    with pytest.raises(KeyboardInterrupt):
        check_implementation(of(raising(KeyboardInterrupt())))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_an_interrupt_while_waiting_stops_the_command(tmp_path):
    """Ctrl-C reaches the thread that waits for somebody else's."""
    (tmp_path / "sleeper.py").write_text(SLEEPER, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    command = [sys.executable, "-m", "mtlref", "check", "sleeper:mine"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell's background jobs ignore
    ) as process:
        for _ in range(2400):
            if (tmp_path / "asked").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert error == "\nmtlref: interrupted\n"


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ([1.0, 2.0], "names", "step must return a mapping from names to values; it returned list"),
        (None, "names", "it returned NoneType"),
        ({3: 1.0}, "names", "it returned dict"),
        ({"G": 1.0}, "names", "mine gives no w_next, without which gradnorm cannot be judged"),
        ({"w_next": [1.0], "wnext": 1.0}, "names", "mine gives wnext; known are: G, "),
        ({"w_next": "one"}, "shape", "w_next is not an array of real numbers"),
        ({"w_next": ["1.0", "2.0"]}, "shape", "w_next is not an array of real numbers: its type is <U3"),
        ({"w_next": [1.0 + 0j]}, "shape", "w_next is not an array of real numbers: its type is complex128"),
        ({"w_next": [[1.0], [1.0, 2.0]]}, "shape", "w_next is not an array of real numbers"),
        ({"w_next": [object()]}, "shape", "w_next is not an array of real numbers"),
    ],
    ids=str,
)
def test_what_is_no_answer_is_refused(value, kind, said):
    found, words = fault(lambda problem, state: value)
    assert found == kind
    assert said in words


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (3.0, "run must give a value of w_next a step: TypeError"),
        ([[1.0] * 3] * 2, "run gives 2 values of w_next for 9 steps"),
        (itertools.repeat([1.0] * 3), "run gives more values of w_next for 9 steps"),
    ],
    ids=("number", "short", "endless"),
)
def test_a_run_gives_a_value_a_step(values, said):
    kind, words = fault(run=lambda run: {"w_next": values})
    assert kind == "shape"
    assert said in words


@pytest.mark.parametrize("argument", ["losses", "jacobian", "state"])
def test_writing_into_an_argument_is_noticed_and_harms_nobody(argument):
    def step(problem, state):
        out = right(problem, state)
        array = state.weights if argument == "state" else getattr(problem, argument)
        array *= 2.0
        return out

    kind, words = fault(step)
    assert kind == "wrote"
    assert words == "mine wrote into its arguments"
    assert statuses(of(right))[NEXT] == "passed"


# HANGING


def test_one_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(implementation, "PATIENCE", 0.2)
    release = threading.Event()
    kind, words = fault(lambda problem, state: release.wait(30))
    release.set()
    assert kind == "hung"
    assert words == "mine has not answered after 0.2 seconds"


def test_one_that_hangs_now_and_then_is_not_waited_for_time_and_again(monkeypatch):
    """Three cases or more have two tasks: without a limit each would be waited for, by every check."""
    monkeypatch.setattr(implementation, "PATIENCE", 0.5)
    release, calls = threading.Event(), []

    def step(problem, state):
        if problem.n_tasks == 2:
            calls.append(1)
            release.wait(30)
        return right(problem, state)

    impl = of(step)
    given = session(impl).cases("step")
    assert sum(case.n_tasks == 2 for case in given) >= 3
    start = time.monotonic()
    results = {r.name: r for r in check_implementation(impl)}
    assert time.monotonic() - start < 25
    release.set()
    assert len(calls) <= implementation.HANGS
    assert results[ANSWERS].status == "failed"
    assert "has not answered after 0.5 seconds" in results[ANSWERS].message


# ON SOME PROBLEMS


def test_a_crash_on_some_problems_fails_one_check_and_leaves_the_others_their_say():
    asked = []

    def step(problem, state):
        asked.append(problem.n_tasks)
        if problem.n_tasks == 2:
            raise IndexError("two are too few")
        return right(problem, state)

    impl = of(step)
    found = {r.name: r for r in check_implementation(impl)}
    assert found[ANSWERS].status == "failed"
    assert "IndexError: two are too few at test_runner.py:" in found[ANSWERS].message
    assert found[NEXT].status == "passed"
    assert found[NEXT].judged > 10


def test_a_case_that_is_not_answered_is_asked_about_once():
    """Every check reads the same answers; a crash is one of them."""
    calls = []

    def step(problem, state):
        if problem.n_tasks == 2:
            calls.append(problem.losses.tobytes())
            raise IndexError
        return right(problem, state)

    laws = [c.name for c in runner.conformance_checks(of(right)) if "weights" in c.name or c.name == NEXT]
    assert len(laws) > 2
    judged = judge_all([of(step)], select=[NEXT, "check_gradnorm_weights_sum_to_K"])[0]
    two = sum(case.n_tasks == 2 for case in judged.session.cases("step"))
    assert len(calls) == two


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_a_departure(value):
    def step(problem, state):
        w_next = right(problem, state)["w_next"]
        return {"w_next": np.where(np.arange(len(w_next)) == 1, value, w_next)}

    found = {r.name: r for r in check_implementation(of(step), select=[NEXT])}[NEXT]
    assert found.status == "failed"
    assert found.departure.task == 1
    assert found.departure.error[1] == np.inf


def test_a_wrong_shape_is_named():
    found = check_implementation(of(lambda p, s: {"w_next": right(p, s)["w_next"][:-1]}), select=[NEXT])[0]
    assert found.status == "failed"
    assert "w_next has the shape (2,); (3,) is expected" in found.message


def test_another_answer_to_the_same_question_is_named():
    numbers = itertools.count()

    def step(problem, state):
        return {"w_next": right(problem, state)["w_next"] * (1 + 1e-3 * next(numbers))}

    found = check_implementation(of(step), select=[ANSWERS])[0]
    assert found.status == "failed"
    assert "gives another w_next at step 0 when it is asked again" in found.message


# WHAT IS NO FAULT


def test_what_it_prints_is_kept_and_not_shown(capsys):
    def step(problem, state):
        print("weights\nfollow")
        return right(problem, state)

    judged = judge_all([of(step)], select=[NEXT])[0]
    assert judged.status == "passed"
    assert judged.session.answers.printed[:2] == ["weights", "follow"]
    assert capsys.readouterr() == ("", "")


def test_output_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(implementation, "LINES", 7)

    def step(problem, state):
        print("\n".join("many" for _ in range(5)))
        return right(problem, state)

    assert len(judge_all([of(step)], select=[NEXT])[0].session.answers.printed) == 7


def test_a_warning_is_no_failure():
    def step(problem, state):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        np.array([1.0]) / np.array([0.0])
        return right(problem, state)

    assert set(statuses(of(step)).values()) == {"passed"}


def test_threads_of_its_own_are_its_own():
    def step(problem, state):
        with ThreadPoolExecutor(2) as pool:
            return {"w_next": list(pool.map(float, right(problem, state)["w_next"]))}

    assert set(statuses(of(step)).values()) == {"passed"}


def test_all_calls_come_from_one_thread_with_the_caller_s_settings():
    """What a framework keeps by the thread is there at the next call; NumPy's error state is the caller's."""
    seen = set()

    def step(problem, state):
        seen.add((threading.get_ident(), np.geterr()["under"]))
        return right(problem, state)

    with np.errstate(under="raise"):
        check_implementation(of(step), select=[NEXT])
    assert len(seen) == 1
    thread, under = seen.pop()
    assert thread != threading.get_ident()
    assert under == "raise"


def test_nothing_is_asked_before_a_check_runs():
    calls = []

    def step(problem, state):
        calls.append(1)
        return right(problem, state)

    bound = runner.conformance_checks(of(step))
    assert calls == []
    next(check for check in bound if check.name == NEXT)()
    assert calls


# SEVERAL, AND NAMES


def test_several_are_judged_by_the_checks_that_each_has():
    def weights(problem, state):
        out = problem.step(state)
        return {"weights": out.weights, "w_next": out.terms["w_next"]}

    both = [of(right), Implementation("dwa", name="mine", step=weights)]
    known = {NEXT: "for a reason"}
    judged = judge_all(both, expected_failures=known, select=[NEXT])
    assert [j.session.impl.method for j in judged] == ["gradnorm"]
    assert [r.status for r in judged[0].results] == ["unexpected pass"]
    assert judged[0].status == "failed"


def test_two_under_one_name_are_refused():
    with pytest.raises(DomainError, match="2 implementations of gradnorm are called 'mine'"):
        judge_all([of(right), of(right)])
    with pytest.raises(DomainError, match="there is no implementation to check"):
        judge_all([])


def test_an_empty_selection_is_refused():
    with pytest.raises(DomainError, match="select is empty"):
        check_implementation(of(right), select=[])


def test_nothing_but_skips_is_no_verdict():
    """With w_next alone nothing is said of G: that is not to pass."""
    judged = judge_all([of(right)], select=["check_gradnorm_mean_norm"])[0]
    assert [r.status for r in judged.results] == ["skipped"]
    assert judged.status == "unusable"

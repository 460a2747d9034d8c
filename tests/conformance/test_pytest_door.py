"""`parametrize_with_checks` in somebody else's suite: ids, marks, skips, and what is refused at collection.

Each suite runs in a pytest of its own, without plugins, with every warning an error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from mtlref.conformance import Implementation, conformance_checks, parametrize_with_checks
from mtlref.notation import DomainError

CODE = """
import numpy as np

from mtlref.conformance import Implementation, parametrize_with_checks, runner

runner.SIZES = {"step": 12, "run": 3, "live": 2}


def right(problem, state):
    print("asked")
    return {"w_next": problem.step(state).terms["w_next"]}


def whole(problem, state):
    return {"w_next": problem.step(state).terms["w_next"] / problem.n_tasks}


def shares(problem, state):
    return {"weights": problem.step(state).weights, "w_next": problem.step(state).terms["w_next"]}


def crash(problem, state):
    raise OSError("no disk")


def gradnorm(step, name):
    return Implementation("gradnorm", name=name, step=step)


right_one, wrong_one, broken = gradnorm(right, "right"), gradnorm(whole, "sum of one"), gradnorm(crash, "broken")
dwa = Implementation("dwa", name="dwa", step=shares)
"""

TEST = """

@parametrize_with_checks({arguments})
def test_conformance(check):
    assert check.name.startswith("check_") and check.eq and isinstance(check.needs, tuple)
    check()
"""

NEXT = "check_gradnorm_next_weights"


def suite(tmp_path, arguments, *options):
    """Run pytest on a suite of that decorator; return its exit status and output."""
    (tmp_path / "test_mine.py").write_text(CODE + TEST.format(arguments=arguments), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-W", "error", "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-v", "-rA"]
    ours = {
        "PYTHONPATH": os.pathsep.join(map(str, sys.path)),
        "COLUMNS": "200",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    environment = {**os.environ, **ours}
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    return done.returncode, done.stdout + done.stderr


def test_ids_say_who_and_what_and_skips_say_why(tmp_path):
    status, output = suite(tmp_path, "[right_one]")
    assert status == 0, output
    assert f"test_mine.py::test_conformance[right-{NEXT}] PASSED" in output
    assert re.search(r"SKIPPED \[\d+\] .*: right gives no G_bar\b", output)
    assert "failed" not in output.splitlines()[-1]
    assert "warning" not in output.splitlines()[-1]


def test_a_failure_is_the_message_and_no_frame_of_ours(tmp_path):
    status, output = suite(tmp_path, "[wrong_one]", "-k", NEXT)
    assert status == 1
    assert f"{NEXT} [GN-7] fails for 'sum of one'" in output
    for label in ("observable", "got", "expected", "error", "problem", "diagnosis", "derivation"):
        assert re.search(rf"E +{label} ", output), label
    assert "runner.py:" not in output
    assert "trial.py:" not in output


def test_one_that_crashes_shows_its_own_line(tmp_path):
    status, output = suite(tmp_path, "[broken]", "-k", NEXT)
    assert status == 1
    assert "broken raised OSError: no disk at test_mine.py:" in output
    assert 'raise OSError("no disk")' in output


def test_expected_failures_are_xfail_and_strict(tmp_path):
    known = f"expected_failures={{{NEXT!r}: 'sums to one, for now'}}"
    status, output = suite(tmp_path, f"[wrong_one], {known}", "-k", NEXT)
    assert status == 0, output
    assert "XFAIL" in output
    assert "sums to one, for now" in output
    status, output = suite(tmp_path, f"[right_one], {known}", "-k", NEXT)
    assert status == 1
    assert "XPASS(strict)" in output
    status, output = suite(tmp_path, f"[right_one], {known}, xfail_strict=False", "-k", NEXT)
    assert status == 0
    assert "1 xpassed" in output


def test_an_expected_failure_of_one_method_beside_another(tmp_path):
    """A name counts for the implementations that have the check; it need not be a check of all."""
    known = f"expected_failures={{{NEXT!r}: 'sums to one, for now'}}"
    status, output = suite(tmp_path, f"[dwa, wrong_one], {known}", "-k", f"{NEXT} or check_dwa")
    assert status == 0, output
    assert output.count("XFAIL test_mine.py") == 1
    assert "test_conformance[dwa-check_dwa" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "[right_one], expected_failures={'check_gradnorm_nxt': 'typo'}",
            "expected_failures names 'check_gradnorm_nxt'",
        ),
        (f"[right_one], expected_failures={{{NEXT!r}: ''}}", f"expected_failures gives no reason for {NEXT}"),
        (f"[right_one], expected_failures={{{NEXT!r}: ' '}}", f"expected_failures gives no reason for {NEXT}"),
        ("[right_one, right_one]", "2 implementations of gradnorm are called 'right'"),
        ("[]", "there is no implementation to check"),
    ],
    ids=("misspelt", "empty", "blank", "twice", "none"),
)
def test_what_is_wrong_is_refused_at_collection(tmp_path, arguments, said):
    status, output = suite(tmp_path, arguments)
    assert status == 2
    assert said in output
    assert "no tests ran" in output or "error" in output.splitlines()[-1]


def test_a_misspelt_name_is_told_the_known_ones():
    impl = Implementation("gradnorm", name="mine", run=dict)
    with pytest.raises(DomainError) as refused:
        parametrize_with_checks([impl], expected_failures={"check_gradnorm_nxt": "typo"})
    assert all(check.name in str(refused.value) for check in conformance_checks(impl))


def test_collection_asks_nothing_and_its_order_is_that_of_every_process(tmp_path, monkeypatch):
    """Two processes collect the same tests in the same order, as distributing them over workers wants."""
    outputs = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        status, output = suite(tmp_path, "[right_one, broken, dwa]", "--collect-only", "-q")
        assert status == 0
        outputs.append([line for line in output.splitlines() if "::" in line or "<Function" in line])
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 30


def test_a_part_of_the_suite_gives_what_the_whole_gives(tmp_path):
    """A worker that runs one check alone comes to the same result: nothing hangs on the checks before it."""
    _, whole = suite(tmp_path, "[wrong_one]")
    names = re.findall(r"^FAILED test_mine\.py::test_conformance\[sum of one-(\w+)\]", whole, re.MULTILINE)
    assert len(names) >= 2
    for name in names[-2:]:
        status, alone = suite(tmp_path, "[wrong_one]", "-k", name)
        assert status == 1
        assert error_lines(alone, name) == error_lines(whole, name)


def error_lines(output, name):
    """The message of a check's failure."""
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if re.match(rf"E .*{name} \[", line))
    return [line for line in lines[start : start + 8] if line.startswith("E ")]

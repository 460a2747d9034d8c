"""The project's own tests, put to a changed module: those that reach the changed statement, the quickest first.

    failing("methods/gradnorm.py", text, range(170, 171))  ->  "tests/methods/test_gradnorm.py::test_…", or None

The text is imported in the place of mtlref's own (`overlay`). Which lines a test reaches is found by tracing the
module as it is. Both run in a process of their own: the module's tests have loaded it.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import hypothesis  # noqa: F401  # with NumPy and SciPy, loaded once for all forks
import pytest
import scipy.optimize  # noqa: F401

from tests.mutation.overlay import TREE, over

TESTS: dict[str, tuple[str, ...]] = {
    "methods/combination.py": ("methods/test_combination.py", "methods/test_combination_laws.py"),
    "methods/cov.py": ("methods/test_cov.py", "methods/test_cov_official.py"),
    "methods/hmoe.py": ("methods/test_hmoe.py", "methods/test_hmoe_mask.py"),
    "methods/pcgrad.py": ("methods/test_pcgrad.py", "methods/test_pcgrad_theorems.py"),
    "methods/stages.py": ("methods/test_combination.py", "methods/test_combination_laws.py"),
    "methods/uncertainty.py": ("methods/test_uncertainty.py", "methods/test_uncertainty_softmax.py"),
    "qp.py": ("test_qp_corners.py", "test_qp.py", "test_rationals.py", "methods/test_pe_ltr.py"),
    "rationals.py": ("test_qp_corners.py", "test_rationals.py", "test_qp.py"),
    "certificate.py": ("test_qp_corners.py", "test_certificate.py", "test_qp.py"),
    "cosines.py": ("test_qp_corners.py", "test_cosines.py", "test_qp.py"),
    **dict.fromkeys(
        ("autograd.py", "cotangents.py", "tape.py"),
        (
            "test_autograd_corners.py",
            "test_autograd.py",
            "test_autograd_blocks.py",
            "test_autograd_stacks.py",
            "test_networks.py",
        ),
    ),
    "rules.py": ("test_autograd_corners.py", "test_autograd.py", "test_autograd_stacks.py", "test_networks.py"),
}
"""The tests of a module, beside test_contract.py and methods/test_corners.py; those of a method that is not named
here are methods/test_<stem>.py."""


QUIETLY = ("-x", "-q", "--no-header", "--tb=no", "--assert=plain", "-p", "no:cacheprovider")
"""How pytest is run in a fork, which has Hypothesis from the process that it came from."""

Reached = dict[str, tuple[float, frozenset[int]]]
"""By test: its seconds, and the lines of the module that it reaches; under "", those that loading reaches."""

REACHED: dict[str, Reached] = {}
"""What the tests of a module reach, by module: found by `reached` before the first mutant of it is asked about."""


class Tracing:
    """Notes what each test reaches of a module's file, and the first that fails."""

    def __init__(self, file: str) -> None:
        self.file, self.lines, self.found = file, set[int](), Reached()
        self.failed: list[str] = []

    def trace(self, frame: Any, event: str, _: Any) -> Any:
        """Note a line of the file, and ask to be told of the next one."""
        if frame.f_code.co_filename != self.file:
            return None
        self.lines.add(frame.f_lineno)
        return self.trace

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Trace a test: what was reached before it, it is not said to reach."""
        if not self.found:
            self.found[""] = (0.0, frozenset(self.lines))
        self.lines = set()
        sys.settrace(self.trace)
        yield
        self.found[item.nodeid] = (0.0, frozenset(self.lines))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep how long a test took, and that it failed."""
        if report.when == "call":
            self.found[report.nodeid] = (report.duration, self.found[report.nodeid][1])
        if report.failed:
            self.failed.append(report.nodeid)


class Asked:
    """Runs of the tests those that reach a statement, the quickest first, and keeps the first that fails."""

    def __init__(self, found: Reached, changed: Container[int]) -> None:
        loads = any(line in changed for line in found[""][1])
        self.seconds = {
            test: seconds
            for test, (seconds, lines) in found.items()
            if loads or any(line in changed for line in lines)
        }
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the tests that reach the statement."""
        items[:] = sorted((item for item in items if item.nodeid in self.seconds), key=self.cost)

    def cost(self, item: pytest.Item) -> float:
        """Return how long a test took."""
        return self.seconds[item.nodeid]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a test that fails."""
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep a file of tests that cannot be loaded."""
        if report.failed:
            self.failed.append(report.nodeid)


def files(module: str) -> list[str]:
    """Return the files of a module's tests."""
    names = (
        "test_contract.py",
        "methods/test_corners.py",
        *TESTS.get(module, (f"methods/test_{Path(module).stem}.py",)),
    )
    return [str(TREE.parent / "tests" / name) for name in names]


def reached(module: str, text: str) -> Reached | str:
    """Return what the tests reach of a module, with `text` in its place; or which one fails."""
    noted = Tracing(str(TREE / module))
    sys.settrace(noted.trace)
    with over("mtlref", {module: text}):
        status = pytest.main([*QUIETLY, *files(module)], plugins=[noted])
    sys.settrace(None)
    return noted.found if status == 0 else f"{module} is told as it is: {noted.failed or status}"


def failing(module: str, text: str, changed: Container[int]) -> str | None:
    """Return the first test that fails with `text` in the module's place, whose lines `changed` were others."""
    asked = Asked(REACHED[module], changed)
    paths = sorted({str(TREE.parent / test.partition("::")[0]) for test in asked.seconds if test})
    if not paths:
        return None
    with over("mtlref", {module: text}):
        status = pytest.main([*QUIETLY, *paths], plugins=[asked])
    none = status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    return asked.failed[0] if asked.failed else None if none else f"pytest: exit status {int(status)}"

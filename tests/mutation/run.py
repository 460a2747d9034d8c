"""Run: a session of cosmic-ray, mutant by mutant, each in a fork of a process that has the kit ready.

    cosmic-ray init tests/mutation/cosmic-ray.toml session.sqlite
    python -m tests.mutation.run session.sqlite              the kit
    python -m tests.mutation.run session.sqlite --tests      the project's tests, on what the kit has let through
    python -m tests.mutation.score session.sqlite

cosmic-ray makes the mutants and keeps the session; nothing is written to the tree. Each result's output is a line of
JSON: {"kit": what told the mutant, or null, "tests": …}. A mutant whose code is the same but for its annotations,
which nothing evaluates, is not one, and is marked so: {"annotation": true}. A run that is stopped goes on where it
was. Run it with OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import pickle
import random
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
from cosmic_ray.mutating import mutate_code
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

from tests.mutation.overlay import TREE, over

Ask = Callable[[str, str, int], "str | None"]
"""What tells a mutant, by its module, its text and its line; None if nothing does."""

SECONDS, MEMORY = 180, 3 * 2**30
"""What a mutant may take: one that takes more is told by that."""

TESTS: dict[str, tuple[str, ...]] = {
    "methods/combination.py": ("methods/test_combination.py", "methods/test_combination_laws.py"),
    "methods/cov.py": ("methods/test_cov.py", "methods/test_cov_official.py"),
    "methods/hmoe.py": ("methods/test_hmoe.py", "methods/test_hmoe_mask.py"),
    "methods/pcgrad.py": ("methods/test_pcgrad.py", "methods/test_pcgrad_theorems.py"),
    "methods/stages.py": ("methods/test_combination.py", "methods/test_combination_laws.py"),
    "methods/uncertainty.py": ("methods/test_uncertainty.py", "methods/test_uncertainty_softmax.py"),
    "qp.py": ("test_qp.py", "test_rationals.py", "methods/test_pe_ltr.py"),
    "rationals.py": ("test_rationals.py", "test_qp.py"),
    "certificate.py": ("test_certificate.py", "test_qp.py"),
    "autograd.py": ("test_autograd.py", "test_networks.py"),
    "rules.py": ("test_autograd.py", "test_networks.py"),
}
"""The tests of a module, beside test_contract.py; those of a method that is not named here are
methods/test_<stem>.py."""


QUIETLY = ("-x", "-q", "--no-header", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
"""How pytest is run in a fork, which has Hypothesis from the process that it came from."""


# WHAT A FORK IS ASKED


def mutant(item: WorkItem) -> tuple[str, str, str]:
    """Return the module below the package, its text, and that of the mutant."""
    (spec,) = item.mutations
    operator = cosmic_ray.plugins.get_operator(spec.operator_name)(**spec.operator_args)
    module = Path(spec.module_path).relative_to("mtlref").as_posix()
    before = (TREE / module).read_text(encoding="utf-8")
    after = mutate_code(before, operator, spec.occurrence)
    assert after is not None, item
    return module, before, after


class Bare(ast.NodeTransformer):
    """Takes the annotations out of a module."""

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Leave the argument."""
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Leave what the function takes and does."""
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Leave the name and its value; of a field of a dataclass, that its annotation is there at all."""
        node.annotation = ast.Constant("ClassVar" in ast.unparse(node.annotation))
        return self.generic_visit(node)


def bare(text: str) -> str:
    """Return what of a module's text is evaluated."""
    return ast.dump(Bare().visit(ast.parse(text)))


def by_the_kit(module: str, text: str, line: int) -> str | None:
    """Return what of the kit tells a mutant that differs at a line; None if nothing does."""
    from tests.mutation.kill import killer, statement

    return killer(module, text, False, statement((TREE / module).read_text(encoding="utf-8"), line))


def by_all_cases(module: str, text: str, line: int) -> str | None:
    """Return what tells the mutant, with as many cases as the kit has; None if nothing does."""
    from tests.mutation.kill import killer, statement

    return killer(module, text, True, statement((TREE / module).read_text(encoding="utf-8"), line))


def by_the_tests(module: str, text: str, line: int) -> str | None:
    """Return the first of the module's tests that fails for the mutant; None if none does."""
    import pytest

    failed: list[str] = []

    class First:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                failed.append(report.nodeid)

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                failed.append(report.nodeid)

    names = ("test_contract.py", *TESTS.get(module, (f"methods/test_{Path(module).stem}.py",)))
    files = [str(TREE.parent / "tests" / name) for name in names]
    with over("mtlref", {module: text}):
        status = pytest.main([*QUIETLY, *files], plugins=[First()])
    return failed[0] if failed else None if status == 0 else f"pytest: exit status {int(status)}"


# FORKS


def forked(ask: Ask, module: str, text: str, line: int) -> str | None:
    """Return what `ask` answers in a process of its own, or that it took too much."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            answer = ask(module, text, line)
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"[:300]
        os.write(writer, pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    ready = select.select([reader], [], [], SECONDS)[0]
    if not ready:
        os.kill(child, signal.SIGKILL)
    data = b"".join(iter(lambda: os.read(reader, 2**16), b"")) if ready else b""
    os.close(reader)
    os.waitpid(child, 0)
    return pickle.loads(data) if data else "no end" if not ready else "crash"


# THE SESSION


AT_A_TIME = 30
"""How many mutants of a module are taken before those of the next: wherever a run is stopped, it has a random sample
of each."""


def shuffled(items: Sequence[WorkItem], modules: Sequence[str]) -> list[WorkItem]:
    """Return the mutants of these modules, of all if none is given: in one random order, some of each at a time."""
    ranked: list[tuple[int, str, WorkItem]] = []
    for module in modules or sorted({str(item.mutations[0].module_path) for item in items}):
        mine = sorted((item for item in items if str(item.mutations[0].module_path) == module), key=place)
        random.Random(module).shuffle(mine)
        ranked += [(rank // AT_A_TIME, module, item) for rank, item in enumerate(mine)]
    return [item for _, _, item in sorted(ranked, key=lambda entry: entry[0])]


def place(item: WorkItem) -> tuple[Any, ...]:
    """Return what tells the mutants of a module apart."""
    spec = item.mutations[0]
    return spec.start_pos, spec.operator_name, spec.occurrence


def judge(db: WorkDB, item: WorkItem, ask: Ask, stage: str, known: dict[str, Any]) -> str:
    """Put a mutant to a stage, keep what comes of it, and return it in a word."""
    module, before, after = mutant(item)
    if stage == "kit" and bare(before) == bare(after):
        known, outcome = {"annotation": True}, TestOutcome.INCOMPETENT
    else:
        known = {**known, stage: forked(ask, module, after, item.mutations[0].start_pos[0])}
        told = known.get("kit") or known.get("tests")
        outcome = TestOutcome.SURVIVED if told is None else TestOutcome.KILLED
    db.set_result(item.job_id, WorkResult(WorkerOutcome.NORMAL, json.dumps(known), outcome, change(before, after)))
    return outcome.value


def change(before: str, after: str) -> str:
    """Return the lines that differ, before → after; of a line that is gone, the next one with it."""
    old, new = before.split("\n"), after.split("\n")
    first = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    ends = list(zip(old[:first:-1], new[:first:-1], strict=False))
    same = next((i for i, (a, b) in enumerate(ends) if a != b), len(ends))
    parts = (lines[first : max(first + 1, len(lines) - same)] for lines in (old, new))
    return " → ".join(" ".join(line.strip() for line in lines) for lines in parts)


def main() -> int:
    """Carry out what is left of a session."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("session")
    parser.add_argument("modules", nargs="*", help="mtlref/methods/gradnorm.py …; all if none is given")
    parser.add_argument("--tests", action="store_true", help="put what the kit lets through to the project's tests")
    parser.add_argument("--again", action="store_true", help="put what has survived to it once more, to all cases")
    given = parser.parse_args()
    stage, ask = ("tests", by_the_tests) if given.tests else ("kit", by_all_cases if given.again else by_the_kit)
    with use_db(given.session, WorkDB.Mode.open) as db:
        results = {job: json.loads(result.output) for job, result in db.results}
        for item in shuffled(db.work_items, given.modules):
            known = results.get(item.job_id)
            survived = known is not None and not known.get("annotation") and known["kit"] is None
            if given.tests and not (survived and (given.again or "tests" not in known)):
                continue
            if not given.tests and not (known is None or (given.again and survived)):
                continue
            warm(ask, Path(item.mutations[0].module_path).relative_to("mtlref").as_posix())
            started, spec = time.monotonic(), item.mutations[0]
            word = judge(db, item, ask, stage, known or {})
            where = f"{spec.module_path}:{spec.start_pos[0]} {spec.operator_name} {spec.occurrence}"
            print(f"{time.monotonic() - started:6.1f} s  {word:12} {where}", flush=True)
    return 0


@cache
def warm(ask: Ask, module: str) -> None:
    """Load, before a fork, what every mutant of a module needs. Errors: AssertionError if the module is told as it is."""
    if ask is not by_the_tests:
        from tests.mutation.kill import prepare

        prepare(module, ask is by_all_cases)
    else:
        import hypothesis  # noqa: F401
        import pytest  # noqa: F401
        import scipy.optimize  # noqa: F401

        told = forked(ask, module, (TREE / module).read_text(encoding="utf-8"), 0)
        assert told is None, f"{module} is told as it is: {told}"


if __name__ == "__main__":
    sys.exit(main())

"""Run: a session of cosmic-ray, mutant by mutant, each in a fork of a process that has the kit ready.

    cosmic-ray init tests/mutation/cosmic-ray.toml session.sqlite
    python -m tests.mutation.run session.sqlite              the kit
    python -m tests.mutation.run session.sqlite --tests      the project's tests, on what the kit has not told
    python -m tests.mutation.score session.sqlite

cosmic-ray makes the mutants and keeps the session; nothing is written to the tree. Each result's output is a line of
JSON: {"kit": what told the mutant, or null, "tests": …}. Either may be asked first, and leaves the other what it lets
through. A mutant whose code is the same but for its annotations, which nothing evaluates, is not one, nor is what
Python cannot read; both are marked {"annotation": true}. A run that is stopped goes on where it was. Run it with
OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
from cosmic_ray.mutating import mutate_code
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult

from tests.mutation.fork import SECONDS, forked
from tests.mutation.overlay import TREE, statement

Ask = Callable[[str, str, int], "str | None"]
"""What tells a mutant, by its module, its text and its line; None if nothing does."""


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


def bare(text: str) -> str | None:
    """Return what of a module's text is evaluated; None of one that is no program."""
    try:
        return ast.dump(Bare().visit(ast.parse(text)))
    except SyntaxError:
        return None


def by_the_kit(module: str, text: str, line: int) -> str | None:
    """Return what of the kit tells a mutant that differs at a line; None if nothing does."""
    from tests.mutation.kill import killer

    return killer(module, text, False, statement((TREE / module).read_text(encoding="utf-8"), line))


def by_all_cases(module: str, text: str, line: int) -> str | None:
    """Return what tells the mutant, with as many cases as the kit has; None if nothing does."""
    from tests.mutation.kill import killer

    return killer(module, text, True, statement((TREE / module).read_text(encoding="utf-8"), line))


def by_the_tests(module: str, text: str, line: int) -> str | None:
    """Return the first of the module's tests that fails for the mutant; None if none does."""
    from tests.mutation.project import failing

    return failing(module, text, statement((TREE / module).read_text(encoding="utf-8"), line))


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
    if bare(after) in (None, bare(before)):
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
    parser.add_argument("--tests", action="store_true", help="put what the kit has not told to the project's tests")
    parser.add_argument("--again", action="store_true", help="put what has survived to it once more, to all cases")
    given = parser.parse_args()
    stage, ask = ("tests", by_the_tests) if given.tests else ("kit", by_all_cases if given.again else by_the_kit)
    with use_db(given.session, WorkDB.Mode.open) as db:
        results = {job: json.loads(result.output) for job, result in db.results}
        for item in shuffled(db.work_items, given.modules):
            known = results.get(item.job_id, {})
            if not is_wanted(known, stage, given.again):
                continue
            warm(ask, Path(item.mutations[0].module_path).relative_to("mtlref").as_posix())
            started, spec = time.monotonic(), item.mutations[0]
            word = judge(db, item, ask, stage, known)
            where = f"{spec.module_path}:{spec.start_pos[0]} {spec.operator_name} {spec.occurrence}"
            print(f"{time.monotonic() - started:6.1f} s  {word:12} {where}", flush=True)
    return 0


def is_wanted(known: Mapping[str, Any], stage: str, again: bool) -> bool:
    """Return whether a mutant, of which that is known, is to be put to a stage."""
    if known.get("annotation") or known.get(stage):
        return False
    return again if stage in known else not (known.get("kit") or known.get("tests"))


@cache
def warm(ask: Ask, module: str) -> None:
    """Load, before a fork, what every mutant of a module needs. Errors: AssertionError, if it is told as it is."""
    if ask is not by_the_tests:
        from tests.mutation.kill import prepare

        prepare(module, ask is by_all_cases)
    else:
        from tests.mutation.project import REACHED, reached

        found = forked(reached, module, (TREE / module).read_text(encoding="utf-8"), seconds=20 * SECONDS)
        assert isinstance(found, dict), found
        REACHED[module] = found


if __name__ == "__main__":
    sys.exit(main())

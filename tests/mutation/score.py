"""Score: what a session came to, by module, with the listed equivalents taken out.

    python -m tests.mutation.score session.sqlite [--survivors]

The score is the share of mutants that are told, of those that can be: without what is in annotations, which nothing
evaluates, and without those that `equivalent.json` lists, each with the reason why it is no other program. The kit's
score, of those that it was asked about, and that of the kit and the project's tests together.
"""

from __future__ import annotations

import argparse
import json
import math
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LISTED = Path(__file__).with_name("equivalent.json")


@dataclass(frozen=True)
class Mutant:
    """A mutant and what came of it: `result` is None of one that was not run."""

    module: str
    line: int
    operator: str
    change: str
    result: Mapping[str, Any] | None

    @property
    def key(self) -> tuple[str, str]:
        """What the list of equivalents knows it by: its module, and the lines before and after."""
        return self.module, self.change

    @property
    def left(self) -> bool:
        """Whether it was run, and nothing has told it."""
        return self.result is not None and not any(self.result.get(by) for by in ("annotation", "kit", "tests"))


def mutants(session: str | Path) -> list[Mutant]:
    """Return the mutants of a session, as cosmic-ray keeps them."""
    query = (
        "SELECT module_path, start_pos_row, operator_name, diff, output FROM mutation_specs "
        "LEFT JOIN work_results USING (job_id) ORDER BY module_path, start_pos_row, operator_name, occurrence"
    )
    with closing(sqlite3.connect(session)) as db:
        rows = list(db.execute(query))
    return [Mutant(*row[:3], row[3] or "", None if row[4] is None else json.loads(row[4])) for row in rows]


def equivalents() -> dict[tuple[str, str], str]:
    """Return the listed equivalents, each with its reason."""
    groups = json.loads(LISTED.read_text(encoding="utf-8"))
    return {(group["module"], change): group["why"] for group in groups for change in group["changes"]}


def counted(found: Iterable[Mutant], listed: Mapping[tuple[str, str], str]) -> Counter[str]:
    """Return how many mutants there are, and how many of them are what."""
    counts: Counter[str] = Counter()
    for mutant in found:
        counts["all"] += 1
        if mutant.result is None:
            counts["not run"] += 1
        elif mutant.result.get("annotation"):
            counts["annotation"] += 1
        elif mutant.left and mutant.key in listed:
            counts["equivalent"] += 1
        else:
            counts["asked"] += "kit" in mutant.result
            counts["kit" if mutant.result.get("kit") else "left" if mutant.left else "tests"] += 1
    return counts


def interval(told: int, of: int, all_of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson), for a sample of `of` from `all_of`; the share itself of all."""
    if of == 0:
        return 0.0, 1.0
    p, z = told / of, 0.0 if of == all_of else 1.96
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)


COLUMNS = ("all", "not run", "annotation", "equivalent", "asked", "kit", "tests", "left")


def row(name: str, counts: Counter[str]) -> str:
    """Return a line of the table: the counts, the kit's score, and that with the tests."""
    run, shares = counts["kit"] + counts["tests"] + counts["left"], ""
    for told, of in ((counts["kit"], counts["asked"]), (counts["kit"] + counts["tests"], run)):
        low, high = interval(told, of, run + counts["not run"])
        around = f" ({100 * low:.1f} to {100 * high:.1f})" if of < run + counts["not run"] else ""
        shares += f"{100 * told / of if of else 0:9.1f} %{around}"
    return f"{name:26}" + "".join(f"{counts[column]:11}" for column in COLUMNS) + shares


def table(found: Iterable[Mutant], listed: Mapping[tuple[str, str], str]) -> list[str]:
    """Return the lines of the table: a module each, and all together."""
    found = list(found)
    head = f"{'module':26}" + "".join(f"{column:>11}" for column in COLUMNS) + f"{'kit':>11}{'with tests':>11}"
    modules = dict.fromkeys(mutant.module for mutant in found)
    rows = [row(name, counted((mutant for mutant in found if mutant.module == name), listed)) for name in modules]
    return [head, *rows, row("together", counted(found, listed))]


def stale(found: Iterable[Mutant], listed: Mapping[tuple[str, str], str]) -> list[tuple[str, str]]:
    """Return what is listed as equivalent and has been told all the same."""
    found = list(found)
    through = {mutant.key for mutant in found if mutant.left}
    told = {mutant.key for mutant in found if mutant.result is not None} - through
    return [key for key in listed if key in told]


def main() -> int:
    """Print the table, on request the mutants that are left, and return 1 if one is listed that has been told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("session")
    parser.add_argument("--survivors", action="store_true", help="list what nothing has told, and is not equivalent")
    given = parser.parse_args()
    found, listed = mutants(given.session), equivalents()
    print("\n".join(table(found, listed)))
    if given.survivors:
        for mutant in found:
            if mutant.left and mutant.key not in listed:
                print(f"{mutant.module}:{mutant.line} {mutant.operator}\n  {mutant.change}")
    wrong = stale(found, listed)
    for module, change in wrong:
        print(f"listed as equivalent, but told: {module}: {change}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

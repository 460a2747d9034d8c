"""`python -m mtlref.bench [CASE …]`. Exit status: 0 measured, 1 contenders disagree, 2 it cannot be run so."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtlref.bench import machine, measure, report
from mtlref.bench.cases import available, load
from mtlref.notation import MtlrefError

MEASURED, DISAGREE, UNUSABLE = 0, 1, 2
"""The exit statuses."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m mtlref.bench",
        description="Times mtlref beside a bound, hand-written NumPy and other libraries, in one process and run.",
        epilog="Exit status: 0 measured, 1 the contenders' results differ, 2 the run cannot be made.",
    )
    made.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(available())}; default: all of them")
    made.add_argument("--peers", action="store_true", help="measure other libraries too, where they are installed")
    made.add_argument("--full", action="store_true", help="every size of every case, which takes long")
    made.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=machine.usual_threads(),
        metavar="N",
        help="numbers of threads, one after another; default 1 and 2, or 1 without threadpoolctl or a second core",
    )
    made.add_argument("--rounds", type=int, default=15, metavar="N", help="samples of each contender; default 15")
    made.add_argument(
        "--budget",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds a setup may take; others whose one call takes a tenth of it are timed once; default 30",
    )
    made.add_argument(
        "--cpu",
        action="store_true",
        help="count the processor's seconds, all threads together: of use "
        "beside busy neighbours; `import` and `checks` keep the clock's",
    )
    made.add_argument("--seed", type=int, default=0, help="of the drawn orders; default 0")
    made.add_argument("--json", metavar="FILE", help="write everything measured as JSON")
    made.add_argument("--plot", metavar="FILE", help="draw the ratios (needs the extra `plot`)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    arguments = parser().parse_args(argv)
    try:
        names = chosen(arguments.cases)
        if arguments.plot:
            report.matplotlib()
        if arguments.rounds < 3 or min(arguments.threads) < 1:
            raise MtlrefError("--rounds must be at least 3 and --threads at least 1")
        if len(set(arguments.threads)) > 1 and not machine.can_set_threads():
            raise MtlrefError("several numbers of threads in one run need threadpoolctl: pip install 'mtlref[bench]'")
        results = run(names, arguments)
    except measure.DisagreementError as error:
        print(f"bench: {error}", file=sys.stderr)
        return DISAGREE
    except MtlrefError as error:
        print(f"bench: {error}", file=sys.stderr)
        return UNUSABLE
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps(results.plain(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    if arguments.plot:
        report.plot(results, arguments.plot)
    return MEASURED


def chosen(names: Sequence[str]) -> list[str]:
    """Return the cases asked for, all of them for none. Errors: MtlrefError for an unknown one."""
    known = available()
    for name in names:
        if name not in known:
            raise MtlrefError(
                f"there is no case {name!r}; there are {', '.join(known)}", argument="cases", value=name
            )
    return list(names) or list(known)


def run(names: Sequence[str], arguments: argparse.Namespace) -> report.Results:
    """Measure the cases, printing each setup when it is measured."""
    results = report.Results(machine.facts(), machine.missing() if arguments.peers else [])
    print(report.header(results, arguments))
    machine.keep_freed_memory()
    machine.load_threaded(arguments.peers)
    rng = np.random.default_rng(arguments.seed)
    for name in names:
        case = load(name)
        clock = time.process_time if arguments.cpu and name not in ("import", "checks") else time.perf_counter
        for threads in dict.fromkeys(arguments.threads):
            with machine.limited(threads):
                if hasattr(case, "tables"):
                    found = case.tables(arguments.full, rng)
                    results.tables += found
                    print("\n" + "\n\n".join(report.table(one) for one in found), flush=True)
                    continue
                print("\n" + report.heading(name, case.TITLE, case.BOUND), flush=True)
                measured = []
                for setup in case.setups(arguments.full, arguments.peers):
                    limits = {"rounds": arguments.rounds, "budget": arguments.budget}
                    measured.append(measure.take(name, setup, threads, rng=rng, clock=clock, **limits))
                    print("\n" + report.text(measured[-1]), flush=True)
            results.measured += measured
            if len(measured) > 1:
                print("\n" + report.summary(measured), flush=True)
    return results


if __name__ == "__main__":
    given = parser().parse_args()
    machine.restarted(max(given.threads), sys.argv[1:])
    sys.exit(main())

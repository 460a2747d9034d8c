"""`mtlref audit`: one log, or many; `--inspect` says what a log holds.

Exit status: 0 every run follows its method, 1 one departs from it, 2 a log cannot be judged.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from typing import Any

from mtlref.audit import batch
from mtlref.audit.readers import DEFAULTS
from mtlref.audit.readings import READINGS
from mtlref.audit.run import located
from mtlref.methods import METHODS
from mtlref.notation import LogError
from mtlref.settings import parse


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the command."""
    command.description = (
        "Replays the losses and gradient norms of a training log and compares the weights that the run used with "
        "those of the method: names the first step and equation that differ, and the known defects that give "
        "exactly these numbers. LOG is a CSV, JSON Lines or NPZ file with a row a step, a long table with a row a "
        "number, a TensorBoard event file, a directory of logs, or example:NAME for a log in the package. In a "
        "pattern, * stands for the task's name. Settings that neither --set nor the side file gives are inferred "
        "from the log, and said to be."
    )
    command.epilog = "Exit status: 0 every run follows its method, 1 one departs from it, 2 a log cannot be judged."
    command.add_argument("logs", metavar="LOG", nargs="+")
    command.add_argument("--inspect", action="store_true", help="list what a log holds, and propose a mapping")
    command.add_argument(
        "--method", choices=[*METHODS, "auto"], help="default: what the log's side file says; auto: whichever fits"
    )
    command.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="a setting of the method")
    command.add_argument(
        "--defaults", action="store_true", help="settings that nobody gives have their defaults: nothing is inferred"
    )
    for kind, pattern in DEFAULTS.items():
        command.add_argument(f"--{kind}", metavar="PATTERN", help=f"the columns of the {kind}; default {pattern}")
    command.add_argument("--map", metavar="FILE", help="a JSON file that says what the columns are")
    command.add_argument("--consecutive", action="store_true", help="the run took no steps between the log's rows")
    command.add_argument("--after", action="store_true", help="a row's weights are those after its update")
    command.add_argument("--weighted-losses", action="store_true", help="the losses are those times their weights")
    command.add_argument("--weighted-norms", action="store_true", help="the norms are those times their weights")
    command.add_argument("--jobs", metavar="N", type=_count, default=1, help="how many logs to audit side by side")
    command.add_argument("--json", action="store_true", help="print the verdict as JSON")
    command.add_argument("--html", metavar="FILE", help="write the verdict of one log as a page with plots")
    command.set_defaults(run=audit)


def _count(text: str) -> int:
    """Return a number of workers. Errors: what argparse turns into a usage message."""
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1024")
    return int(text)


def audit(arguments: argparse.Namespace) -> int:
    """Carry out `mtlref audit`."""
    if arguments.inspect:
        return inspected(arguments)
    logs = [log for source in arguments.logs for log in batch.logs_in(source)]
    many = len(logs) > 1 or logs != arguments.logs
    if many and arguments.html is not None:
        raise LogError("--html writes the page of one log, and there are more", argument="html")
    return audited_many(arguments, logs) if many else audited(arguments, logs[0])


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `read_run` that the command line and the mapping file give."""
    from mtlref.audit.mapping import read_map

    given: dict[str, Any] = {} if arguments.map is None else read_map(arguments.map)
    given |= {kind: getattr(arguments, kind) for kind in DEFAULTS if getattr(arguments, kind) is not None}
    given |= {name: True for name in ("consecutive", *READINGS) if getattr(arguments, name)}
    return given | {
        "method": arguments.method,
        "settings": parse(arguments.set),
        "infer": not arguments.defaults,
    }


def audited(arguments: argparse.Namespace, log: str) -> int:
    """Print the verdict on one log. Errors: MtlrefError if it cannot be judged."""
    from mtlref.audit import judge, read_run, report
    from mtlref.audit.page import write_page

    run = read_run(log, **options(arguments))
    verdict = judge(run.method, run.log, progress=None)
    if arguments.html is not None:
        write_page(arguments.html, run, verdict)
    print(json.dumps(report.plain(run, verdict), indent=2) if arguments.json else report.text(run, verdict))
    return batch.FOLLOWS if verdict.passed else batch.DEPARTS


def audited_many(arguments: argparse.Namespace, logs: list[str]) -> int:
    """Print the verdicts on many logs, and a line for each at the end."""
    from mtlref.progress import track

    outcomes = []
    with pool(arguments.jobs) as executor:
        found = batch.audit_many(logs, executor=executor, **options(arguments))
        shown = None if len(logs) > 1 and not arguments.json and not sys.stdout.isatty() else False
        for outcome in track(found, len(logs), "logs", shown):
            outcomes.append(outcome)
            if not arguments.json and outcome.status != batch.UNUSABLE:
                print(outcome.text, end="\n\n", flush=True)
    if arguments.json:
        print(json.dumps([outcome.plain for outcome in outcomes], indent=2))
    else:
        print(batch.summary(outcomes))
    return max(outcome.status for outcome in outcomes)


def pool(jobs: int) -> Any:
    """Return the context of an executor of as many processes, None for one: nothing is started."""
    if jobs == 1:
        return nullcontext()
    from multiprocessing import get_context

    executor: Executor = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    return executor


def inspected(arguments: argparse.Namespace) -> int:
    """Print what logs hold."""
    from mtlref.audit import inspection

    logs = [log for source in arguments.logs for log in batch.logs_in(source)]
    found = [inspection.inspect_log(located(log)) for log in logs]
    if arguments.json:
        plain = [inspection.plain(one) for one in found]
        print(json.dumps(plain[0] if len(plain) == 1 else plain, indent=2))
    else:
        print("\n\n".join(map(inspection.text, found)))
    return batch.FOLLOWS

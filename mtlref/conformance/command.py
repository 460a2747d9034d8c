"""`mtlref check`: the checks of one's own implementation, or of the packages that are installed.

The user's module is imported because the user names it, from the current folder or wherever Python finds it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mtlref.notation import DomainError

PASSED, FAILED, UNUSABLE = 0, 1, 2
"""The exit statuses."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add what `mtlref check` takes to its parser."""
    command.description = (
        "Judges an implementation: puts it to its method's checks and says which equation fails, with which "
        "numbers, and which known defect gives these. TARGET is MODULE:NAME, where NAME is an Implementation, "
        "a list of them, or a function without arguments that returns one; or it is peers, for the packages that "
        "are installed."
    )
    command.epilog = (
        "Exit status: 0 all checks passed, 1 one failed or passed against expectation, 2 the implementation could "
        "not be used."
    )
    command.add_argument("target", metavar="TARGET")
    command.add_argument(
        "--select",
        metavar="NAME",
        action="append",
        help="a check, a tag, or a peer or its package; may be repeated",
    )
    command.add_argument(
        "--expect", metavar="CHECK=REASON", action="append", default=[], help="a check that is known to fail, and why"
    )
    command.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="write the report as JSON, without FILE to standard output",
    )
    command.add_argument("--html", metavar="FILE", help="write the report as a page")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out `mtlref check`; return the exit status."""
    return peers(arguments) if arguments.target == "peers" else implementations(arguments)


def peers(arguments: argparse.Namespace) -> int:
    """Judge the packages that are installed, and print their table."""
    from mtlref.conformance import peers, report

    if arguments.html or arguments.expect:
        raise DomainError("check peers takes neither --html nor --expect", argument="target", value="peers")
    rows = peers.run(arguments.select, progress=shown)
    written(arguments.json, report.plain_rows(rows), report.table(rows))
    return FAILED if any(row.status == "departs" for row in rows) else PASSED


def implementations(arguments: argparse.Namespace) -> int:
    """Judge the implementations that TARGET names, and print their reports."""
    from mtlref.conformance import html, report
    from mtlref.conformance.runner import judge_all

    expected = dict(reason(word) for word in arguments.expect)
    judged = judge_all(named(arguments.target), expected_failures=expected, select=arguments.select, progress=shown)
    plain = [report.plain(judgement) for judgement in judged]
    written(
        arguments.json,
        plain[0] if len(plain) == 1 else plain,
        "\n\n\n".join(report.text(judgement) for judgement in judged),
    )
    if arguments.html:
        save(arguments.html, html.pages([(judgement.session, judgement.results) for judgement in judged]))
    statuses = {judgement.status for judgement in judged}
    return UNUSABLE if "unusable" in statuses else FAILED if "failed" in statuses else PASSED


def named(target: str) -> list[Any]:
    """Return the implementations of MODULE:NAME. Errors: DomainError, which says what is wrong with it."""
    from mtlref.conformance.implementation import Implementation, crash

    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        message = f"target = {target!r} must be MODULE:NAME, or peers"
        raise DomainError(message, argument="target", value=target)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
        made: Any = found() if callable(found) and not isinstance(found, Implementation) else found
    except (Exception, SystemExit) as error:
        raise DomainError(f"{target} cannot be loaded: {crash(error)}", argument="target", value=target) from error
    every = list(made) if isinstance(made, list | tuple) else [made]
    for item in every:
        if not isinstance(item, Implementation):
            message = f"{target} is of kind {type(item).__name__}; an Implementation is needed"
            raise DomainError(message, argument="target", value=target)
    if not every:
        raise DomainError(f"{target} holds no implementation", argument="target", value=target)
    return every


def reason(word: str) -> tuple[str, str]:
    """Return the check and the reason of CHECK=REASON. Errors: DomainError."""
    check, equals, why = word.partition("=")
    if not equals or not check:
        raise DomainError(f"an expected failure is CHECK=REASON; {word!r} is not", argument="expect", value=word)
    return check, why


def shown(checks: Sequence[Any]) -> Iterable[Any]:
    """Yield the checks, with a progress line on a terminal."""
    from mtlref.progress import track

    names = list(dict.fromkeys(check.session.impl.name for check in checks))
    return track(checks, len(checks), f"checking {', '.join(names[:3])}{' …' if len(names) > 3 else ''}")


def written(where: str | None, plain: Any, text: str) -> None:
    """Print the text; write the JSON where it is wanted, in the text's place if that is standard output."""
    document = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    if where == "-":
        print(document)
        return
    print(text)
    if where:
        save(where, document + "\n")


def save(where: str, text: str) -> None:
    """Write a report to a file. Errors: DomainError if that cannot be done."""
    try:
        Path(where).write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"the report cannot be written to {where}: {error.strerror or error}"
        raise DomainError(message, argument="file", value=where) from error

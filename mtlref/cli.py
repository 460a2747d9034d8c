"""The command line: `mtlref audit`, `mtlref check`, `mtlref explain`, `mtlref vectors`, `mtlref reproduce`.

Exit status: 0 the run follows the method (or the command did what it was asked), 1 the run departs from it,
2 the command could not be carried out, with one line on standard error that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mtlref
from mtlref import vectors
from mtlref.audit import command as audit_command
from mtlref.conformance import command
from mtlref.experiments import command as reproduce
from mtlref.methods import METHODS
from mtlref.notation import MtlrefError
from mtlref.settings import build, parse

if TYPE_CHECKING:
    from mtlref.explain import Explanation

AGREES, DEPARTS, UNUSABLE = 0, 1, 2
"""The exit statuses."""

INTERRUPTED = 130
"""The exit status after an interrupt from the keyboard, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except MtlrefError as error:
        print(f"mtlref: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("\nmtlref: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNUSABLE
    return status


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    root = argparse.ArgumentParser(
        prog="mtlref", description="The executable specification of multi-task loss balancing."
    )
    root.add_argument("--version", action="version", version=f"mtlref {mtlref.__version__}")
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    audit_command.add_arguments(commands.add_parser("audit", help="does a training run's log follow the method?"))
    command.add_arguments(commands.add_parser("check", help="does an implementation mean what the method means?"))
    _explain_parser(commands.add_parser("explain", help="equations with numbers in them, of a method or of one tag"))
    vectors.add_arguments(commands.add_parser("vectors", help="golden vectors: inputs and exact answers, as JSON"))
    reproduce.add_arguments(commands.add_parser("reproduce", help="published experiments, trained anew"))
    return root


def _explain_parser(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Prints every tagged equation of a method with the numbers it gives, on a built-in problem or on yours. "
        "Give --losses, and --norms or --jacobian, once a step (once an epoch for DWA); the last one is explained. "
        "Of a TAG, GN-4 for one, it prints that equation, where its code and derivation are, the checks of "
        "`mtlref check` that are put to it, and the known defects that break it."
    )
    command.add_argument("subject", metavar="METHOD | TAG", help=f"{', '.join(METHODS)}; or a tag such as GN-4")
    command.add_argument("--losses", metavar="L1,L2,…", action="append", type=_numbers, help="the losses of a step")
    gradients = command.add_mutually_exclusive_group()
    gradients.add_argument(
        "--norms", metavar="N1,N2,…", action="append", type=_numbers, help="the norms of orthogonal task gradients"
    )
    gradients.add_argument(
        "--jacobian",
        metavar="G11,G12;G21,G22;…",
        action="append",
        type=_rows,
        help="the task gradients, a row a task",
    )
    command.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="a setting of the method")
    command.add_argument("--json", action="store_true", help="print the equations and numbers as JSON")
    command.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    """Carry out `mtlref explain`."""
    from mtlref import explain, lookup

    if arguments.subject in METHODS:
        explanation = _explanation(arguments.subject, arguments)
        print(json.dumps(explanation.plain(), indent=2) if arguments.json else explain.text(explanation))
        return AGREES
    entry = lookup.look_up(arguments.subject)
    stem = lookup.method_of(entry.tag)
    if stem is None and (arguments.losses or arguments.norms or arguments.jacobian or arguments.set):
        raise MtlrefError(f"no method's step shows {entry.tag} by itself: it takes no numbers and no settings")
    shown = None if stem is None else _explanation(stem, arguments, entry.tag)
    plain = {**entry.plain(), **({} if shown is None else shown.plain())}
    print(json.dumps(plain, indent=2) if arguments.json else explain.text_of(entry, shown))
    return AGREES


def _explanation(stem: str, arguments: argparse.Namespace, tag: str | None = None) -> Explanation:
    """Return the explanation of a step on the numbers that were given, or on the built-in ones."""
    from mtlref import explain

    losses = arguments.losses or explain.EXAMPLE_LOSSES
    if arguments.jacobian:
        jacobians = arguments.jacobian
    elif arguments.losses or arguments.norms:
        jacobians = explain.orthogonal(arguments.norms or [[1.0] * len(losses[0])])
    else:
        jacobians = explain.EXAMPLE_JACOBIANS
    return explain.explain(build(stem, parse(arguments.set)), losses, jacobians, tag)


def _numbers(text: str) -> list[float]:
    """Return the numbers of a list with commas. Errors: what argparse turns into a usage message."""
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 2.0,0.5,1") from None


def _rows(text: str) -> list[list[float]]:
    """Return the rows of numbers, with semicolons between the rows."""
    return [_numbers(row) for row in text.split(";")]

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

import mtlref
from mtlref import vectors
from mtlref.conformance import command
from mtlref.experiments import command as reproduce
from mtlref.methods import METHODS
from mtlref.notation import MtlrefError
from mtlref.settings import build, parse

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
    _audit_parser(commands.add_parser("audit", help="does a training run's log follow the method?"))
    command.add_arguments(commands.add_parser("check", help="does an implementation mean what the method means?"))
    _explain_parser(commands.add_parser("explain", help="a method's equations with numbers in them"))
    vectors.add_arguments(commands.add_parser("vectors", help="golden vectors: inputs and exact answers, as JSON"))
    reproduce.add_arguments(commands.add_parser("reproduce", help="published experiments, trained anew"))
    return root


def _audit_parser(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Replays the losses and gradient norms of a training log and compares the weights that the run used with "
        "those of the method: names the first step and equation that differ, and the known defects that give "
        "exactly these numbers. LOG is a CSV, JSON Lines or NPZ file with a row a step, or example:NAME for a log in "
        "the package. In a pattern, * stands for the task's name."
    )
    command.epilog = "Exit status: 0 the run follows the method, 1 it departs from it, 2 the log cannot be judged."
    command.add_argument("log", metavar="LOG")
    command.add_argument("--method", choices=list(METHODS), help="default: what the log's side file says")
    command.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="a setting of the method")
    for kind, pattern in (("losses", "loss/*"), ("norms", "norm/*"), ("gram", "gram/*/*"), ("weights", "weight/*")):
        command.add_argument(f"--{kind}", metavar="PATTERN", help=f"the columns of the {kind}; default {pattern}")
    command.add_argument("--json", action="store_true", help="print the verdict as JSON")
    command.set_defaults(run=_audit)


def _explain_parser(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Prints every tagged equation of a method with the numbers it gives, on a built-in problem or on yours. "
        "Give --losses, and --norms or --jacobian, once a step (once an epoch for DWA); the last one is explained."
    )
    command.add_argument("method", choices=list(METHODS), metavar="METHOD", help=", ".join(METHODS))
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


def _audit(arguments: argparse.Namespace) -> int:
    """Carry out `mtlref audit`."""
    from mtlref.audit import judge, read_run, report

    run = read_run(
        arguments.log,
        method=arguments.method,
        settings=parse(arguments.set),
        losses=arguments.losses,
        norms=arguments.norms,
        gram=arguments.gram,
        weights=arguments.weights,
    )
    verdict = judge(run.method, run.log)
    print(json.dumps(report.plain(run, verdict), indent=2) if arguments.json else report.text(run, verdict))
    return AGREES if verdict.passed else DEPARTS


def _explain(arguments: argparse.Namespace) -> int:
    """Carry out `mtlref explain`."""
    from mtlref import explain

    losses = arguments.losses or explain.EXAMPLE_LOSSES
    if arguments.jacobian:
        jacobians = arguments.jacobian
    elif arguments.losses or arguments.norms:
        jacobians = explain.orthogonal(arguments.norms or [[1.0] * len(losses[0])])
    else:
        jacobians = explain.EXAMPLE_JACOBIANS
    explanation = explain.explain(build(arguments.method, parse(arguments.set)), losses, jacobians)
    print(json.dumps(explanation.plain(), indent=2) if arguments.json else explain.text(explanation))
    return AGREES


def _numbers(text: str) -> list[float]:
    """Return the numbers of a list with commas. Errors: what argparse turns into a usage message."""
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 2.0,0.5,1") from None


def _rows(text: str) -> list[list[float]]:
    """Return the rows of numbers, with semicolons between the rows."""
    return [_numbers(row) for row in text.split(";")]

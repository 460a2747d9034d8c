"""`mtlref reproduce`: a published toy or a study on real data, trained here, with its table, figure and verdict."""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtlref.notation import DomainError, MissingExtraError, MtlrefError

NAMES = {
    "gradnorm-toy": "tanh regressions of unequal scale, 2 and 10 of them: GradNorm and its rivals",
    "landscape-2d": "two losses on a plane with a steep valley: the sum, PCGrad, the minimum-norm direction",
    "uw-regression": "two regressions with noise 10 and 1: the noise that Uncertainty Weighting finds",
    "mmoe-synthetic": "two tasks of known correlation: shared bottom, one gate, MMoE, HMoE",
    "multi-digits": "two overlaid digits and their sum: every method against equal and random weights",
}
"""The experiments, and what each is about. The module has the name with underscores, and an `EXPERIMENT` in it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `mtlref reproduce`, and `command` to run."""
    listed = "".join(f"\n  {name:15} {about}" for name, about in NAMES.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Trains an experiment's arms for many seeds and writes to --out: result.json and table.csv (the table,\n"
        "the claims, the verdict), runs.csv (the numbers of every run), runs/ (every run as it is finished),\n"
        "logs/ (the first seed's training runs, for `mtlref audit`), and the figure. Interrupted, the same command\n"
        "goes on where it was; with other settings it wants another --out. Without NAME it lists what there is:\n"
        f"{listed}"
    )
    parser.epilog = "Exit status: 0 it was carried out, whatever the verdict; 2 it could not be."
    parser.add_argument("name", nargs="?", choices=list(NAMES), metavar="NAME")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many seeds; each experiment has its own default")
    parser.add_argument("--jobs", type=int, metavar="J", help="processes; default: the number of processors")
    parser.add_argument("--out", metavar="DIR", help="default: the folder NAME in the working directory")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="a setting of the experiment"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=command)


def command(arguments: argparse.Namespace) -> int:
    """Carry out `mtlref reproduce` and return the exit status 0. Errors: MtlrefError, with its kinds."""
    if arguments.name is None:
        print(json.dumps(NAMES, indent=2) if arguments.json else "\n".join(f"{k:15} {v}" for k, v in NAMES.items()))
        return 0
    from mtlref.experiments.sweep import sweep, workers
    from mtlref.settings import parse

    experiment = experiment_of(arguments.name).built(parse(arguments.set))
    seeds = experiment.seeds if arguments.seeds is None else arguments.seeds
    jobs = (os.cpu_count() or 1) if arguments.jobs is None else arguments.jobs
    for argument, value in (("seeds", seeds), ("jobs", jobs)):
        if value < 1:
            raise DomainError(f"{argument} = {value} must be at least 1", argument=argument, value=value)
    folder = Path(arguments.out or arguments.name)
    with workers(jobs) as executor:
        runs = sweep(experiment, seeds, folder, executor)
    result, paths = written(experiment, runs, folder, arguments.set)
    try:
        paths.append(drawn(experiment, runs, folder))
    except MissingExtraError as error:
        print(f"mtlref: {error}; the numbers are written", file=sys.stderr)
    print(json.dumps(result, indent=2) if arguments.json else text(result) + "\n\n" + "\n".join(map(str, paths)))
    return 0


def experiment_of(name: str) -> Any:
    """Return the experiment's class. Errors: DomainError."""
    if name not in NAMES:
        message = f"experiment = {name!r} is not known; there are: {', '.join(NAMES)}"
        raise DomainError(message, argument="experiment", value=name)
    return importlib.import_module(f"mtlref.experiments.{name.replace('-', '_')}").EXPERIMENT


# RESULTS


def written(
    experiment: Any, runs: Sequence[Any], folder: Path, given: Sequence[str]
) -> tuple[dict[str, Any], list[Path]]:
    """Write result.json, table.csv and runs.csv to the folder; return the result and the paths."""
    result = result_of(experiment, runs, given)
    texts = {
        "result.json": json.dumps(result, indent=1, allow_nan=False, ensure_ascii=False) + "\n",
        "table.csv": csv_text([spread(row) for row in result["table"]]),
        "runs.csv": csv_text([{"arm": run.arm, "seed": run.seed, **run.metrics} for run in runs]),
    }
    from mtlref.experiments.sweep import replace

    try:
        for name, content in texts.items():
            replace(folder / name, content)
    except OSError as error:
        raise MtlrefError(f"out = {str(folder)!r} cannot be written to: {error}", argument="out") from error
    return result, [folder / name for name in texts]


def result_of(experiment: Any, runs: Sequence[Any], given: Sequence[str] = ()) -> dict[str, Any]:
    """Return what an experiment's runs show, as plain JSON."""
    from mtlref.experiments.sweep import versions

    summary = experiment.summary(runs)
    seeds = 1 + max(run.seed for run in runs)
    words = ["mtlref", "reproduce", experiment.name, f"--seeds {seeds}", *(f"--set {word}" for word in given)]
    table = [{name: _plain(cell) for name, cell in row.items()} for row in summary.table]
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "command": " ".join(words),
        "settings": experiment.plain(),
        "made_with": versions(),
        "seeds": seeds,
        "table": table,
        "claims": [asdict(claim) for claim in summary.claims],
        "verdict": summary.verdict,
        "runs": [{"arm": run.arm, "seed": run.seed, **run.metrics} for run in runs],
    }


def _plain(cell: object) -> object:
    """Return a cell as plain JSON: an interval as an object."""
    from mtlref.experiments.statistics import Interval

    return asdict(cell) if isinstance(cell, Interval) else cell


def spread(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with an interval spread over columns of its own."""
    flat: dict[str, Any] = {}
    for name, cell in row.items():
        if isinstance(cell, dict):
            flat.update({name if key == "mean" else f"{name}/{key}": value for key, value in cell.items()})
        else:
            flat[name] = cell
    return flat


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV; a row has an empty cell for a column that others have."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def drawn(experiment: Any, runs: Sequence[Any], folder: Path) -> Path:
    """Draw the figure to the folder and return its path. Errors: MissingExtraError without matplotlib."""
    from mtlref.experiments.plots import save

    path = folder / f"figure.{experiment.formats}"
    summary = experiment.summary(runs)
    save(path, lambda figure: experiment.draw(figure, runs, summary))
    return path


# WORDS


def text(result: Mapping[str, Any]) -> str:
    """Return a result in words: the table, the claims and the verdict."""
    lines = [f"{result['title']}: {result['command']}", "", *table_lines(result["table"]), ""]
    for claim in result["claims"]:
        mark = "holds" if claim["holds"] else "fails"
        source = "published" if claim["published"] else "finding"
        lines.append(f"{mark}  [{source}] {claim['says']}: {claim['evidence']}")
    return "\n".join([*lines, "", f"Verdict: {result['verdict']}."])


def table_lines(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table in columns, a mean with its 95 % half-width."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    cells = [columns, *([shown(row.get(name)) for name in columns] for row in table)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def shown(cell: object) -> str:
    """Return a cell in words: four significant digits, a mean ± half the width of its interval."""
    if cell is None:
        return ""
    if isinstance(cell, Mapping):
        low, high = cell["low"], cell["high"]
        half = "" if low is None or high is None else f" ± {(high - low) / 2:.2g}"
        return f"{cell['mean']:.4g}{half}"
    return cell if isinstance(cell, str) else f"{cell:.4g}"

"""A run to be audited: the log, the method that is asked of it, and what its side file says was run.

`example:NAME` names a log that ships in the package. The method and its settings come from the caller, else
from the side file; a setting that neither gives has its default, or is inferred from the log where that is asked for,
and the verdict says so. The method `auto` is whichever fits. For a method that
steps once an epoch, a log with a row a step is brought to a row an epoch: the mean of the losses (DWA-C2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.compare import begins_late, compared
from mtlref.audit.readers import LARGEST_STEP, Given, Log, part, read_log
from mtlref.audit.readings import READINGS, WORDS, possible, read
from mtlref.audit.side import read_settings
from mtlref.audit.spool import Spool, let_go
from mtlref.audit.steps import near
from mtlref.audit.tables import USUAL, Layout
from mtlref.contract import Method
from mtlref.methods import METHODS, GradNorm
from mtlref.notation import Array, LogError
from mtlref.settings import build, left_open

if TYPE_CHECKING:
    from mtlref.audit.inference import Inference, Search

ANY = "auto"
"""The method's name that stands for whichever fits."""

EXAMPLE = "example:"
"""What the name of a log in the package begins with."""

FIRST = 48
"""How many rows are looked at first."""

NOTHING = ("nearest", "undecided")
"""The kinds of inferences that have found nothing."""

LOGS = Path(str(resources.files("mtlref.audit"))) / "logs"
"""The folder of the logs in the package."""


@dataclass(frozen=True)
class Run:
    """A log that holds what `method` reads, and where the settings come from.

    `description` is the side file's account of the run; `assumed` the settings that have their defaults; `inference`
    what was inferred of the others, and `search` what came of every method, where that was asked for.
    """

    log: Log
    method: Method
    description: Mapping[str, Any]
    assumed: tuple[str, ...]
    inference: Inference | None = None
    search: Search | None = None


def examples() -> tuple[str, ...]:
    """Return the names of the logs in the package."""
    return tuple(sorted(path.stem for path in LOGS.glob("*.csv")))


def located(source: str) -> Path:
    """Return the path that `source` means. Errors: LogError for an example that there is not."""
    if not source.startswith(EXAMPLE):
        return Path(source)
    name = source.removeprefix(EXAMPLE)
    if name not in examples():
        raise LogError(f"{source}: there is no such example; there are: {', '.join(examples())}", argument="log")
    return LOGS / f"{name}.csv"


def read_run(
    source: str,
    *,
    method: str | None = None,
    settings: Mapping[str, object] | None = None,
    losses: Given = None,
    norms: Given = None,
    gram: Given = None,
    weights: Given = None,
    draws: Given = None,
    layout: Layout = USUAL,
    consecutive: bool = False,
    after: bool = False,
    weighted_losses: bool = False,
    weighted_norms: bool = False,
    infer: bool = False,
) -> Run:
    """Return the run in the log `source`, judged by `method` with `settings`.

    With `infer`, settings that nobody gives are inferred from the log, and so they are for the method "auto".
    `consecutive`: the run took no steps between the rows, by however much their numbers grow. `after`: the weights of
    a row are those after its update, in use at the next. `weighted_losses`, `weighted_norms`: w_i L_i and
    |w_i| n_i were logged.

    Errors: LogError if the log cannot be read or lacks what the method reads, DomainError for the settings.
    """
    path = located(source)
    kinds: dict[str, Given] = {"losses": losses, "norms": norms, "gram": gram, "weights": weights, "draws": draws}
    log = replace(read_log(path, **kinds, layout=layout), source=source)
    said = {"after": after, "weighted_losses": weighted_losses, "weighted_norms": weighted_norms}
    log = replace(log, stride=1 if consecutive else log.stride, readings=tuple(name for name in said if said[name]))
    side = read_settings(path)
    stem = method or side.get("method")
    if stem is None:
        names = ", ".join(METHODS)
        raise LogError(f"{source}: which method? Neither --method nor a side file says; there are: {names}, {ANY}")
    recorded = side.get("settings", {}) if side.get("method") == stem else {}
    given = {**recorded, **(settings or {})}
    if infer or stem == ANY:
        return inferred(log, stem, given, side.get("run", {}))
    built = build(stem, given)
    assumed = tuple(left_open(built, given))
    return Run(readable(log, built), built, side.get("run", {}), assumed)


def inferred(log: Log, stem: str, given: Mapping[str, Any], description: Mapping[str, Any]) -> Run:
    """Return the run with what the log says of the settings that are not `given`, and for "auto" of the method."""
    from mtlref.audit.inference import infer

    if stem == ANY:
        search = searched(log, given)
        best = search.best
        return Run(readable(log, best.best.method), best.best.method, description, (), best, search)
    built = build(stem, given)
    log = readable(log, built)
    if log.late and stem == "gradnorm" and {"alpha", "lr"} <= given.keys() and "initial_losses" not in given:
        log, given = begun(log, built, given)
    if log.late and not any(len(block.rows) for block in compared(build(stem, given), log)):
        return Run(log, build(stem, given), description, tuple(left_open(built, given)))
    found = infer(stem, log, given)
    if found.kind == "nearest" and found.best.settings and not log.readings:
        log, found = otherwise(log, built, given, found)
    if not found.best.settings:  # nothing was looked for
        assumed = tuple(left_open(built, given))
        return Run(log, found.best.method, description, assumed)
    return Run(log, found.best.method, description, (), found)


def otherwise(log: Log, built: Method, given: Mapping[str, Any], found: Inference) -> tuple[Log, Inference]:
    """Return what is inferred of the numbers read otherwise, and the log with a note; else what was `found`.

    What does not fit the first `FIRST` rows is not tried on more, and known defects are tried with one reading alone.
    """
    from mtlref.audit.inference import infer

    for names in possible(built, log):
        so = read(built, log, names)
        other = infer(found.stem, part(so, 0, min(FIRST, len(so.rows))), given, len(names) == 1)
        other = other if other.kind in NOTHING else infer(found.stem, so, given, len(names) == 1)
        if other.kind not in NOTHING:
            note = "the settings are inferred from the numbers as the diagnosis reads them"
            return replace(log, notes=(*log.notes, note)), other
    return log, found


def searched(log: Log, given: Mapping[str, Any]) -> Search:
    """Return what came of every method; of the numbers read otherwise where none fits, and one does so."""
    from mtlref.audit.inference import infer_any

    found = infer_any(log, given)
    for name in READINGS if not (found.best.fitting or log.readings) else ():
        try:
            other = infer_any(replace(log, readings=(name,)), given)
        except LogError:
            continue
        if other.best.fitting:
            return other
    return found


def begun(log: Log, built: Method, given: Mapping[str, Any]) -> tuple[Log, Mapping[str, Any]]:
    """Return a late log of GradNorm, with a note, and the settings with the L(0) that its signs allow, if they do."""
    from mtlref.audit.inference.beginning import initial_losses

    assert isinstance(built, GradNorm)
    found = initial_losses(built, log)
    if found is None:
        return log, given
    L_0, words = found
    return replace(log, notes=(*log.notes, f"L(0) is not in the log: {words}")), {
        **given,
        "initial_losses": list(L_0),
    }


def readable(log: Log, method: Method) -> Log:
    """Return the log as `method` reads it. Errors: LogError naming the columns that are missing."""
    if log.weights is None:
        raise LogError(f"{log.source}: the log holds no weights (--weights PATTERN): nothing to judge")
    if method.reads == "norms" and log.norms is None and log.gram is not None:
        log = with_norms(log, np.diagonal(log.gram, axis1=1, axis2=2))
    for kind, held in (("norms", log.norms), ("gram", log.gram)):
        if method.reads == kind and held is None:
            raise LogError(f"{log.source}: {method.title} reads {kind} (--{kind} PATTERN); the log holds none")
    if (
        log.draws is None
        and len(log.tasks) > 2
        and method.sample(np.random.default_rng(0), len(log.tasks)) is not None
    ):
        raise LogError(
            f"{log.source}: {method.title} draws at random, and the log does not hold its draws (--draws PATTERN)"
        )
    log = by_epoch(log) if method.cadence == "epoch" and log.epochs is not None else log
    if log.readings:
        log = replace(read(method, log, log.readings), notes=(*log.notes, *[WORDS[name] for name in log.readings]))
    if not begins_late(method, log):
        return replace(log, late=False)
    at = f"{method.cadence} {log.rows[0]} (line {log.lines[0]})"
    note = f"begins late: at {at}, with weights that no run starts with; they are taken as they are"
    return replace(log, late=True, notes=(*log.notes, note))


def with_norms(log: Log, squares: Array) -> Log:
    """Return the log with the norms whose squares it holds, and what they may be off by: √(s ± a) is √s ± a/√s."""
    squares = np.where(squares >= 0, squares, np.nan)
    norms, known = np.sqrt(squares), log.precision["gram"]
    least = np.min(norms, where=norms > 0, initial=np.inf)
    absolute = min(known.absolute / least, float(np.sqrt(known.absolute)))
    precision = {**log.precision, "norms": replace(known, relative=known.share, absolute=absolute, digits=None)}
    return replace(log, norms=norms, precision=precision)


def by_epoch(log: Log) -> Log:
    """Return the log with a row an epoch: mean losses, and the weights, which must not change within it.

    Errors: LogError if an epoch's rows do not stand together, or hold different weights.
    """
    assert log.weights is not None
    whole, starts = epochs_of(log)
    means, weights = Spool((len(log.tasks),)), Spool((len(log.tasks),))
    ends = np.append(starts[1:], len(whole))
    for some in near(starts):
        rows, here = slice(starts[some][0], ends[some][-1]), starts[some] - starts[some][0]
        counts = np.diff(here, append=rows.stop - rows.start)
        logged, losses = np.asarray(log.weights[rows]), np.asarray(log.losses[rows])
        each = np.fmax.reduceat(logged, here)
        changed = ~np.all((np.repeat(each, counts, axis=0) == logged) | np.isnan(logged), axis=1)
        if changed.any():
            row = rows.start + int(np.flatnonzero(changed)[0])
            message = f"{log.source}, line {log.lines[row]}: the weights change within epoch {whole[row]}"
            raise LogError(f"{message}, and the method steps once an epoch")
        weights.append(each)
        means.append(np.add.reduceat(losses, here) / counts[:, None])
        let_go(log.losses, log.weights)
    assert log.epochs is not None
    return replace(
        log,
        rows=whole[starts],
        lines=log.lines[starts],
        epochs=log.epochs[starts],
        losses=means.array(),
        weights=weights.array(),
        norms=None,
        gram=None,
        draws=None,
        starts=tuple(int(at) for at in np.searchsorted(starts, log.starts)),
    )


def epochs_of(log: Log) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each row's epoch, and the rows at which epochs begin. Errors: LogError."""
    assert log.epochs is not None
    known = np.isfinite(log.epochs) & (np.abs(log.epochs) < LARGEST_STEP)
    whole = np.where(known, log.epochs, 0).astype(np.int64)
    if np.any(whole != log.epochs):
        row = int(np.flatnonzero(whole != log.epochs)[0])
        raise LogError(
            f"{log.source}, line {log.lines[row]}: epoch {log.epochs[row]} is a fraction; whole ones are needed"
        )
    runs = np.zeros(len(whole), dtype=bool)
    runs[list(log.starts)] = True
    starts = np.flatnonzero((np.diff(whole, prepend=whole[0] - 1) != 0) | runs)
    epochs, run = whole[starts], np.cumsum(runs)[starts]
    rising = np.all((np.diff(epochs) > 0) | (np.diff(run) > 0))
    if not rising and len(np.unique(np.stack([run, epochs]), axis=1).T) != len(epochs):
        raise LogError(f"{log.source}: the rows of an epoch do not stand together in the column epoch")
    return whole, starts

"""What a log's numbers may be besides what they are taken for: weights after the update, numbers times their weights.

A replay asks for the weights in use, the losses L_i and the norms n_i as they are without them. Many loops log
w(t+1) beside the losses of step t, w_i L_i, or |w_i| n_i. A log of these is brought to the numbers that are asked
for. No log tells weights after the update from a run that uses them a step early (`NextWeightsAtOnce`): a reading is
said, and not assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from mtlref.audit.precision import Precision
from mtlref.audit.readers import Log, part
from mtlref.audit.replay import logged_weights
from mtlref.audit.spool import Spool, spans
from mtlref.contract import Method, weights_of
from mtlref.notation import Array, LogError

SMALL = 0.01
"""A number over a weight below this has no digits left, and counts as missing."""


def read(method: Method, log: Log, names: Collection[str]) -> Log:
    """Return the log whose numbers are those of the readings `names`, in their order. Errors: LogError."""
    for name in READINGS:
        if name in names:
            log = READINGS[name](method, log)
    return replace(log, readings=tuple(name for name in READINGS if name in names))


def possible(method: Method, log: Log) -> Iterator[tuple[str, ...]]:
    """Yield the readings that a log may have, the simplest first."""
    names = ["after"] if method.lagged else []
    names += ["weighted_losses"] if method.reads in ("losses", "norms") else []
    names += ["weighted_norms"] if method.reads == "norms" and log.norms is not None else []
    for size in range(1, len(names) + 1):
        yield from combinations(names, size)


def a_row_later(method: Method, log: Log) -> Log:
    """Return the log with each row's weights at the next row, where they were in use.

    The first row of a run has the weights that it starts with; a log that begins late, which does not show them,
    loses its first row. The last weights of a run are in use at none.
    Errors: LogError for a method that makes its weights of a row's own numbers.
    """
    if not method.lagged:
        message = f"{log.source}: {method.title} makes its weights of a row's own numbers, not after it"
        raise LogError(message, argument="after")
    start, weights = weights_of(method.init(len(log.tasks))), logged_weights(log)
    spool, last = Spool((len(log.tasks),)), start
    for span in spans(len(weights), reading=[weights]):
        here = np.asarray(weights[span])
        moved = np.concatenate([last[None], here[:-1]])
        for row in log.starts[1:]:
            if span.start <= row < span.stop:
                moved[row - span.start] = start
        spool.append(moved)
        last = here[-1]
    later = replace(log, weights=spool.array())
    if log.rows[0] <= 1 or len(log.rows) < 2:
        return later
    starts = sorted({0, *(row - 1 for row in log.starts[1:])})
    return replace(part(later, 1, len(log.rows)), starts=tuple(starts), late=log.late and 1 not in log.starts)


def losses_alone(_: Method, log: Log) -> Log:
    """Return the log of w_i L_i as one of L_i."""
    return over_weights(log, "losses", log.losses, np.positive)


def norms_alone(method: Method, log: Log) -> Log:
    """Return the log of |w_i| n_i as one of n_i. Errors: LogError for a method that reads no norms."""
    if method.reads != "norms" or log.norms is None:
        raise LogError(f"{log.source}: {method.title} reads no norms", argument="weighted_norms")
    return over_weights(log, "norms", log.norms, np.absolute)


def over_weights(log: Log, kind: str, values: Array, of: np.ufunc) -> Log:
    """Return the log with numbers of a kind over the weights, or `of` these, and what the quotients may be off by."""
    spool, weights, least = Spool((len(log.tasks),)), logged_weights(log), 1.0
    for span in spans(len(values), reading=[values, weights]):
        w = np.asarray(weights[span])
        enough = np.abs(w) >= SMALL
        least = min(least, float(np.min(np.abs(w), where=enough, initial=1.0)))
        spool.append(np.asarray(values[span]) / np.where(enough, of(w), np.nan))
    known, of_w = log.precision[kind], log.precision["weights"]
    share = known.share + of_w.share + of_w.absolute / least
    off = Precision(share, known.absolute / least, f"{known.words} times their weights")
    return replace(log, **{kind: spool.array()}, precision={**log.precision, kind: off})  # type: ignore[arg-type]


READINGS: Mapping[str, Callable[[Method, Log], Log]] = {
    "after": a_row_later,
    "weighted_losses": losses_alone,
    "weighted_norms": norms_alone,
}
"""The readings by their names, in the order in which they are made."""

WORDS = {
    "after": "a row's weights were logged after its update, and are taken to be in use at the next",
    "weighted_losses": "the losses were logged times their weights, and are divided by these",
    "weighted_norms": "the norms were logged times their weights, and are divided by these",
}
"""What is done, in words."""

SUSPECTED = {
    "after": "A row's weights are those that the next one should have: they were logged after its update, then say "
    "--after, or they are used a step early.",
    "weighted_losses": "The losses were logged times their weights, w_i L_i: say --weighted-losses.",
    "weighted_norms": "The norms were logged times their weights, |w_i| n_i: say --weighted-norms.",
}
"""What is said where nobody said it, and it explains the log."""

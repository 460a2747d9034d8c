"""Logs whose weights were written after the row's update: w(t+1) beside the losses of step t.

A replay asks for the weights in use. Those are one row down, and the first row's the ones that a run starts with. No
log tells this from a run that uses w(t+1) a step early (`NextWeightsAtOnce`): it is said, and not assumed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtlref.audit.readers import Log, part
from mtlref.audit.replay import logged_weights
from mtlref.audit.spool import Spool, spans
from mtlref.contract import Method, weights_of
from mtlref.notation import LogError


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
    later = replace(log, weights=spool.array(), after=True)
    if log.rows[0] <= 1 or len(log.rows) < 2:
        return later
    starts = sorted({0, *(row - 1 for row in log.starts[1:])})
    return replace(part(later, 1, len(log.rows)), starts=tuple(starts), late=log.late and 1 not in log.starts)

"""The rows of a log in the order of the run: by what the steps that number them say.

1. Neighbouring rows of one step that do not contradict each other are one row: series that were logged by different
   calls. Rows of one step that do contradict each other are taken as they stand.
2. A row without a number in any of the columns is none.
3. Where the steps go back, to a step after the first, the run went on from there: what it had logged beyond it is
   taken back. Where they go back to the first one, or before it, a run starts, and is judged by itself. Where an
   epoch begins, a count of steps may start again; that is neither.
4. Where steps are left out, one row without numbers stands for them. The usual distance of two steps, the most
   common one, is not taken for a gap: `Log.stride`.

All that is done is said in the log's notes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.spool import BLOCK, Spool, spans
from mtlref.notation import Array

if TYPE_CHECKING:
    from mtlref.audit.readers import Log

Indices = NDArray[np.int64]

KINDS = ("losses", "norms", "gram", "weights", "draws")
"""What of a log is numbers of a step."""


@dataclass
class Ranges:
    """Rows of the run, each from the log's rows `first` up to `last`, which is not of it; (−1, −1) stands for none.

    `steps` and `starts` as in the log.
    """

    first: Indices
    last: Indices
    steps: Indices
    starts: tuple[int, ...] = (0,)


def in_order(log: Log) -> Log:
    """Return the log with the rows of the run, and notes on what was done."""
    moves = np.unique(np.diff(log.rows))
    empty = all_nan(log)
    if len(moves) <= 1 and np.all(moves > 0) and not empty.any():
        stride = int(moves[0]) if len(moves) else 1
        return replace(log, stride=stride, notes=(*log.notes, *by_stride(stride)))
    notes = list(log.notes)
    ranges = together(log, notes)
    if not len(ranges.first):
        return log
    went_back(log, ranges, notes)
    stride = usual(ranges)
    with_gaps(ranges, stride, notes)
    notes += by_stride(stride)
    picked: dict[str, Any] = {kind: reduced(values, ranges) for kind, values in held(log)}
    epochs = None if log.epochs is None else onward(reduced(log.epochs[:, None], ranges)[:, 0])
    return replace(
        log,
        **picked,
        epochs=epochs,
        rows=ranges.steps,
        lines=log.lines[onward_index(ranges.last) - 1],
        notes=tuple(notes),
        starts=ranges.starts,
        stride=stride,
    )


def by_stride(stride: int) -> list[str]:
    """Return the note on steps that do not go by ones."""
    return [f"the steps go by {stride}; whether the run took steps between them, the log does not say"] * (stride > 1)


def held(log: Log) -> Iterator[tuple[str, Array]]:
    """Yield what the log holds of each kind, as (N, …)."""
    for kind in KINDS:
        values = getattr(log, kind)
        if values is not None:
            yield kind, values


def all_nan(log: Log) -> NDArray[np.bool_]:
    """Return which rows hold no number at all."""
    empty = np.ones(len(log.rows), dtype=bool)
    for _, values in held(log):
        for span in spans(len(values), reading=[values]):
            block = values[span]
            empty[span] &= np.isnan(block).reshape(len(block), -1).all(axis=1)
    return empty


# ROWS OF ONE STEP


def together(log: Log, notes: list[str]) -> Ranges:
    """Return the rows with those of one step put together where they agree, and empty ones left out."""
    N = len(log.rows)
    first = np.flatnonzero(np.diff(log.rows, prepend=log.rows[0] - 1))
    last = np.append(first[1:], N)
    agree, filled = np.ones(len(first), dtype=bool), np.zeros(len(first), dtype=bool)
    for span in spans(len(first), reading=[values for _, values in held(log)]):
        for _, values in held(log):
            high, low = (extremes(values, first[span], last[span], reduce) for reduce in (np.fmax, np.fmin))
            known = ~np.isnan(high)
            agree[span] &= np.all((high == low) | ~known, axis=1)
            filled[span] |= known.any(axis=1)
    split = np.repeat(~agree, last - first)
    alone = np.flatnonzero(split)
    if len(alone):
        at = int(np.flatnonzero(~agree)[0])
        others = int(np.sum(~agree)) - 1
        more = f", and {others} more steps" if others else ""
        twice = f"step {log.rows[first[at]]} stands {last[at] - first[at]} times with different numbers"
        notes.append(f"{twice} (line {log.lines[first[at]]}){more}: taken as rows in the file's order")
    kept = agree & filled
    starts = np.sort(np.concatenate([first[kept], alone]))
    ends = np.sort(np.concatenate([last[kept], alone + 1]))
    if np.any(agree & ~filled):
        notes.append(f"{int(np.sum(agree & ~filled))} steps hold no number of these columns, and are not read")
    return Ranges(starts, ends, log.rows[starts])


def extremes(values: Array, first: Indices, last: Indices, reduce: np.ufunc) -> Array:
    """Return the reduction over the rows of each range, (ranges, columns); of NaN and a number it is the number."""
    block = np.asarray(values[first[0] : last[-1]]).reshape(int(last[-1] - first[0]), -1)
    padded = np.concatenate([block, np.full((1, block.shape[1]), np.nan)])
    pairs = np.stack([first, last], axis=1).ravel() - first[0]
    return np.asarray(reduce.reduceat(padded, pairs)[::2])


def reduced(values: Array, ranges: Ranges) -> Array:
    """Return the values of the rows of the run, NaN where there is none."""
    spool = Spool(values.shape[1:])
    for span in spans(len(ranges.first), reading=[values]):
        first, last = ranges.first[span], ranges.last[span]
        there = first >= 0
        block = np.full((len(first), *values.shape[1:]), np.nan)
        if there.any():
            for part in near(first[there]):
                found = extremes(values, first[there][part], last[there][part], np.fmax)
                block[np.flatnonzero(there)[part]] = found.reshape(-1, *values.shape[1:])
        spool.append(block)
    return spool.array()


def near(first: Indices) -> Iterator[slice]:
    """Yield slices of ranges that lie within a few blocks of each other."""
    begin = 0
    while begin < len(first):
        end = int(np.searchsorted(first, first[begin] + 4 * BLOCK))
        yield slice(begin, end)
        begin = end


# STEPS THAT GO BACK


def went_back(log: Log, ranges: Ranges, notes: list[str]) -> None:
    """Take back what was logged beyond a step that the run went back to; note where runs start."""
    steps = ranges.steps
    back = np.flatnonzero(np.diff(steps) < 0) + 1
    if log.epochs is not None and len(back):
        rises = log.epochs[ranges.first[back]] > log.epochs[ranges.first[back - 1]]
        if rises.any():
            notes.append(f"the steps are counted anew in {int(rises.sum())} epochs")
        back = back[~rises]
    if not len(back):
        return
    kept, starts, done = list[int](), [0], 0
    values = list[int]()
    for turn in [*back.tolist(), len(steps)]:
        kept += range(done, turn)
        values += steps[done:turn].tolist()
        done = turn
        if turn == len(steps):
            break
        at = bisect_left(values, int(steps[turn]), lo=starts[-1])
        where = f"line {log.lines[ranges.first[turn]]}"
        if at == starts[-1]:
            starts.append(len(kept))
            notes.append(f"the steps begin anew at {where}: judged as another run")
        else:
            note = (
                f"the steps go back to {steps[turn]} at {where}: the {len(kept) - at} rows beyond it are taken back"
            )
            notes.append(note)
            del kept[at:], values[at:]
    chosen = np.array(kept, dtype=np.int64)
    ranges.first, ranges.last, ranges.steps = (x[chosen] for x in (ranges.first, ranges.last, steps))
    ranges.starts = tuple(starts)
    shorten(notes)


def shorten(notes: list[str], most: int = 12) -> None:
    """Leave out all but the first notes."""
    if len(notes) > most:
        notes[most:] = [f"and {len(notes) - most} more notes"]


# STEPS LEFT OUT


def moves_of(ranges: Ranges) -> Indices:
    """Return by how much each row's step exceeds the one before it; 0 where a run starts."""
    moves = np.diff(ranges.steps, prepend=ranges.steps[0])
    moves[list(ranges.starts)] = 0
    return moves


def usual(ranges: Ranges) -> int:
    """Return the most common distance of two steps, the smaller of equals; 1 where there are no two."""
    moves = moves_of(ranges)
    sizes, counts = np.unique(moves[moves > 0], return_counts=True)
    return int(sizes[np.argmax(counts)]) if len(sizes) else 1


def with_gaps(ranges: Ranges, stride: int, notes: list[str]) -> None:
    """Put a row without numbers where steps are left out."""
    gaps = np.flatnonzero(moves_of(ranges) > stride)
    if not len(gaps):
        return
    many = "a gap" if len(gaps) == 1 else f"{len(gaps)} gaps, the first"
    notes.append(
        f"the steps have {many} after {ranges.steps[gaps[0] - 1]}: what hangs on those left out is not judged"
    )
    ranges.starts = tuple(start + int(np.searchsorted(gaps, start)) for start in ranges.starts)
    before = ranges.steps[gaps - 1] + stride
    ranges.steps = np.insert(ranges.steps, gaps, before)
    ranges.first, ranges.last = (np.insert(x, gaps, -1) for x in (ranges.first, ranges.last))


def onward(values: Array) -> Array:
    """Return the values with each NaN replaced by the number before it, if there is one."""
    at = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return np.asarray(values[at])


def onward_index(indices: Indices) -> Indices:
    """Return the indices with each −1 replaced by the one before it."""
    return np.asarray(np.maximum.accumulate(indices))

"""The allowance: what the logged numbers' own rounding can do to a step's answer.

The plain part is the rounding of the answer itself, and of the logged weights that it is compared with. Where a
difference exceeds it, every number that the step read is moved by what it may be off (`mtlref.audit.precision`),
one at a time, and the changes of the answer are added. A loss counts for itself, and for the earlier loss it is set
against, L(0) or L(t−1): as much again, or more where that is known less well.

Near a kink (a gradient norm within rounding of its target) the answer jumps when a number is moved, so the allowance
is as large as the jump: such a row decides nothing, and says so. A jump is told from a change that the digits make by
moving the number half as far: half a move makes half a change, but not half a jump. One number alone may not get as
far as the kink where many together do: where nothing else explains a row, all are moved at once, one task's numbers
against all others' (`leaps`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.lift import FAILS, SEALED, Norms, numbers, step_rows
from mtlref.audit.readers import Log
from mtlref.audit.replay import (
    Replay,
    drawn,
    feeds_back,
    gradients,
    in_question,
    logged_weights,
    stacked,
    states_of,
    stepped,
)
from mtlref.audit.rows import Rows, take
from mtlref.audit.rows import row as row_at
from mtlref.audit.spool import BLOCK
from mtlref.notation import Array, MtlrefError
from mtlref.state import State

PROPORTIONAL = 1.5, 3.0
"""Between so many times the change of half a move is that of the whole one, where the answer has no jump."""


SAMPLES, SAFETY = 12, 4
"""How often logged inner products are moved, and the factor on the largest change: the worst is not among them."""


def plain(log: Log, expected: Array) -> Array:
    """Return the plain allowances of answers (n, K): of the largest entry's size, for a sum's rounding spreads.

    What printing moves is each entry's own.
    """
    sizes = np.max(np.abs(expected), axis=-1, keepdims=True)
    known = log.precision["weights"]
    return np.asarray(known.relative * sizes + known.printed(expected))


def spread(
    replay: Replay, chosen: NDArray[np.intp], before: State | list[State], start: int, expected: Array
) -> Array:
    """Return how far rounding moves the answers of the chosen steps of a block, (m, K).

    `before`, `expected` of the whole block, which starts at the row `start`.
    """
    log, total = replay.log, np.zeros((len(chosen), expected.shape[1]))
    earlier = set_against(log, start + chosen)
    for (name, task), change in changes(replay, chosen, before, start, expected):
        total += change * (1 + earlier[:, [task]] if name == "L" else 1.0)
    if log.gram is not None:
        for at, i in enumerate(chosen):
            total[at] += gram_spread(replay, start + int(i), state_at(before, i), expected[i])
    return total


def jumps(
    replay: Replay, chosen: NDArray[np.intp], before: State | list[State], start: int, expected: Array
) -> NDArray[np.bool_]:
    """Return which of the chosen steps have an answer that jumps within one number's digits, mostly."""
    whole = changes(replay, chosen, before, start, expected)
    halves = changes(replay, chosen, before, start, expected, 0.5)
    low, high = PROPORTIONAL
    total, jumping = (np.zeros((len(chosen), expected.shape[1])) for _ in range(2))
    for (_, change), (_, half) in zip(whole, halves, strict=True):
        total += change
        jumping += np.where((change < low * half) | (change > high * half), change, 0.0)
    return np.asarray(np.any(2 * jumping > total, axis=1))


def changes(
    replay: Replay,
    chosen: NDArray[np.intp],
    before: State | list[State],
    start: int,
    expected: Array,
    share: float = 1.0,
) -> Iterator[tuple[tuple[str, int], Array]]:
    """Yield, for each number that a step reads, the larger change of the answers (m, K) by a move up and down.

    A number is moved by `share` of what it may be off. Of a Jacobian, the rows are moved, as their norms would be.
    Where the weights go on from those in use, the move of one may hide a jump of its own, so the step counts as well.
    """
    kinds, K = moving(replay, start + chosen), expected.shape[1]
    onward = feeds_back(replay.method)
    names = [(name, task) for name in kinds for task in range(K)]

    def moves() -> Iterator[dict[str, Array]]:
        for name, task in names:
            values, off = kinds[name]
            for sign in (-share, share):
                moved = {key: numbers_there for key, (numbers_there, _) in kinds.items()}
                moved[name] = values.copy()
                moved[name][:, task] += sign * off[:, task]
                yield moved

    found = answers_each(replay, start + chosen, states(before, chosen), moves())
    for name, task in names:
        largest = np.zeros((len(chosen), K))
        for sign in (-share, share):
            change = next(found) - expected[chosen]
            largest = np.fmax(largest, np.abs(change))
            if name == "w" and onward:
                change[:, task] -= sign * kinds[name][1][:, task]
                largest = np.fmax(largest, np.abs(change))
        yield (name, task), largest


def leaps(
    replay: Replay, chosen: NDArray[np.intp], before: State | list[State], start: int, expected: Array
) -> Array:
    """Return how far the answers of the chosen steps jump if all numbers are off together, (m, K).

    The numbers of one task are moved against all others', every kind up or down. Where no sign turns, that does what
    the moves do one at a time, added up; what is left is a jump, and what the tasks show is added.
    """
    kinds, K = moving(replay, start + chosen), expected.shape[1]
    earlier, total = set_against(replay.log, start + chosen), np.zeros((len(chosen), K))
    alone = [(name, task, sign) for name in kinds for task in range(K) for sign in (-1.0, 1.0)]
    moves = chain((one_moved(kinds, *at) for at in alone), together(kinds, earlier))
    found = (
        answer - expected[chosen] for answer in answers_each(replay, start + chosen, states(before, chosen), moves)
    )
    single = {at: np.nan_to_num(change) for at, change in zip(alone, found, strict=False)}
    single |= {at: change * (1 + earlier[:, [at[1]]]) for at, change in single.items() if at[0] == "L"}
    for side in sides(K):
        largest = np.zeros((len(chosen), K))
        for signs in directions(kinds):
            added = sum(single[name, task, sign * side[task]] for name, sign in signs.items() for task in range(K))
            largest = np.fmax(largest, np.abs(next(found) - added))
        total += largest
    return total


def sides(K: int) -> list[Array]:
    """Return, for each task, the signs (K,) that set it against all others."""
    return [np.where(np.arange(K) == task, 1.0, -1.0) for task in range(K)]


def directions(kinds: Iterable[str]) -> list[dict[str, float]]:
    """Return every way of moving each kind of numbers up or down."""
    return [dict(zip(kinds, signs, strict=True)) for signs in product((-1.0, 1.0), repeat=len(list(kinds)))]


Numbers = Mapping[str, tuple[Array, Array]]
"""The numbers of rows by kind, (m, K), and what they may be off."""


def together(kinds: Numbers, earlier: Array) -> Iterator[dict[str, Array]]:
    """Yield all numbers of rows moved at once: every side's in all directions, in that order.

    `earlier` (m, K): how much more an earlier loss may move a ratio.
    """
    for side, signs in product(sides(earlier.shape[1]), directions(kinds)):
        yield {name: shifted(name, *kinds[name], earlier, signs[name] * side) for name in kinds}


def one_moved(kinds: Numbers, name: str, task: int, sign: float) -> dict[str, Array]:
    """Return the numbers with one of them moved by what it may be off."""
    values, off = kinds[name]
    where = np.where(np.arange(values.shape[1]) == task, sign, 0.0)
    return {kind: there for kind, (there, _) in kinds.items()} | {name: shifted(name, values, off, 0.0, where)}


def shifted(name: str, values: Array, off: Array, earlier: Array | float, signs: Array) -> Array:
    """Return values moved by what they may be off; what is above 0, weights aside, is not moved below."""
    there = values + signs * (off * (1 + earlier) if name == "L" else off)
    return there if name == "w" else np.where(values >= 0, np.maximum(there, 0.0), there)


def states(before: State | list[State], chosen: NDArray[np.intp]) -> list[State] | State:
    """Return the states before the chosen steps, as a list or as one of rows, as they were."""
    if not isinstance(before, list):
        return states_of(before, chosen)  # type: ignore[no-any-return]
    some = [before[i] for i in chosen]
    try:
        return stacked(some)  # type: ignore[no-any-return]
    except (TypeError, ValueError):
        return some


def state_at(before: State | list[State], at: int) -> State:
    """Return the state before one step."""
    return before[at] if isinstance(before, list) else row_at(before, at)


def columns_of(log: Log, rows: Any) -> dict[str, tuple[Array, Array]]:
    """Return the numbers that steps read, and how far each may be off."""
    kinds = {"w": logged_weights(log)[rows], "L": log.losses[rows]}
    names = {"w": "weights", "L": "losses", "n": "norms"}
    if log.norms is not None or log.gram is not None:
        kinds["n"] = np.ones_like(kinds["L"]) if log.norms is None else log.norms[rows]
    return {key: (np.asarray(values), log.precision[names[key]].of(values)) for key, values in kinds.items()}


def set_against(log: Log, rows: NDArray[np.intp]) -> Array:
    """Return how much more an earlier loss may move a ratio than the loss itself, (m, K): L(0) or L(t−1), at least 1.

    A ratio L / L_e moves by the shares that L and L_e may be off by; of rounded decimals a small number's is larger.
    """
    known, L = log.precision["losses"], np.abs(log.losses[rows])
    factor = np.ones(L.shape)
    for at in (np.zeros_like(rows), np.maximum(rows - 1, 0)):
        before = np.abs(log.losses[at])
        usable = np.isfinite(before) & (before > 0) & (L > 0)
        with np.errstate(all="ignore"):  # a share that leaves the range is no number, and changes nothing
            share = known.of(before) / before / (known.of(L) / L)
        factor = np.where(usable & np.isfinite(share), np.maximum(factor, share), factor)
    return factor


def moving(replay: Replay, rows: NDArray[np.intp]) -> dict[str, tuple[Array, Array]]:
    """Return the numbers that are moved, and by how much; a step that is not lagged reads no weights."""
    kinds = columns_of(replay.log, rows)
    if replay.log.gram is not None:
        ones = np.ones(kinds["L"][0].shape)
        kinds["n"] = ones, np.full(ones.shape, replay.log.precision["gram"].share)
    return {name: pair for name, pair in kinds.items() if name != "w" or replay.method.lagged}


def answers_each(
    replay: Replay, rows: NDArray[np.intp], before: State | list[State], moves: Iterator[dict[str, Array]]
) -> Iterator[Array]:
    """Yield the weights (m, K) that steps on the rows decide for each of the moves, of few rows many at once."""
    m = len(rows)
    while group := list(islice(moves, max(1, BLOCK // m))):
        again = np.tile(np.arange(m), len(group))
        many = [before[i] for i in again] if isinstance(before, list) else take(before, again)
        moved = {key: np.concatenate([one[key] for one in group]) for key in group[0]}
        yield from answers(replay, rows[again], many, moved).reshape(len(group), m, -1)


def answers(replay: Replay, rows: NDArray[np.intp], before: State | list[State], moved: dict[str, Array]) -> Array:
    """Return the weights (m, K) that steps on moved numbers decide; NaN where none can be taken."""
    light, n = replay.light, moved.get("n")
    if len(rows) == 1:
        found = answer(replay, int(rows[0]), state_at(before, 0), {key: v[0] for key, v in moved.items()})
        return np.full((1, moved["L"].shape[1]), np.nan) if found is None else found[None]
    if light is not None and not isinstance(before, list):
        try:
            with np.errstate(**SEALED):
                state = light.resumed(before, Rows(moved["w"])) if light.lagged else before  # type: ignore[arg-type]
                out = step_rows(light, state, Rows(moved["L"]), None if n is None else Rows(n))
                return numbers(in_question(light, out), len(rows))
        except FAILS:
            pass
    parts = []
    for here in np.array_split(np.arange(len(rows)), 2):
        some = [before[i] for i in here] if isinstance(before, list) else take(before, here)
        parts.append(answers(replay, rows[here], some, {key: values[here] for key, values in moved.items()}))
    return np.concatenate(parts)


def gram_spread(replay: Replay, row: int, before: State, expected: Array) -> Array:
    """Return how far the rounding of logged inner products moves the answer, (K,): `SAFETY` times the most seen.

    A method that solves a system in them errs with the largest, so each is moved by that share of the largest, up or
    down at random, `SAMPLES` times.
    """
    log, method, J = replay.log, replay.method, gradients(replay.log, row)
    assert J is not None
    rng, K = np.random.default_rng(0), len(J)
    state = method.resumed(before, logged_weights(log)[row]) if method.lagged else before
    lengths = np.sqrt(np.einsum("kd,kd->k", J, J))
    unit = J / np.where(lengths > 0, lengths, 1.0)[:, None]
    known, longest = log.precision["gram"], np.max(lengths)
    off = known.share * longest + (known.absolute / longest if longest > 0 else 0.0)
    widest = np.zeros(K)
    for _ in range(SAMPLES):
        signs = np.triu(rng.choice((-1.0, 1.0), (K, K)))
        moved = J + off * K * (signs + np.triu(signs, 1).T) @ unit / 2
        try:
            out = stepped(method, state, log.losses[row], moved, drawn(log, row))
        except MtlrefError:
            continue
        widest = np.maximum(widest, np.abs(in_question(method, out) - expected))
    return SAFETY * widest


def answer(replay: Replay, row: int, before: State, moved: dict[str, Array]) -> Array | None:
    """Return the weights (K,) that a step on moved numbers decides, None where it cannot be taken."""
    method, light, n = replay.method, replay.light, moved.get("n")
    if light is not None:
        try:
            with np.errstate(**SEALED):
                state = light.resumed(before, moved["w"]) if light.lagged else before
                out = light.step(state, moved["L"], None if n is None else Norms(n))  # type: ignore[arg-type]
                return in_question(light, out)
        except FAILS:
            pass
    try:
        state = method.resumed(before, moved["w"]) if method.lagged else before
        J = gradients(replay.log, row)
        if J is not None and n is not None:
            J = np.diag(n) if replay.log.gram is None else n[:, None] * J
        return in_question(method, stepped(method, state, moved["L"], J, drawn(replay.log, row)))
    except MtlrefError:
        return None

"""The allowance: what the logged numbers' own rounding can do to a step's answer.

The plain part is the rounding of the answer itself, and of the logged weights that it is compared with. Where a
difference exceeds it, every number that the step read is moved by what it may be off (`mtlref.audit.precision`),
one at a time, and the changes of the answer are added. A loss counts for itself, and for the earlier loss it is set
against, L(0) or L(t−1): as much again, or more where that is known less well. Near a kink (a gradient norm within
rounding of its target) the answer jumps when a number is moved, so the allowance is as large as the jump: such a row
decides nothing, and says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlref.audit.lift import FAILS, SEALED, Norms, numbers, step_rows
from mtlref.audit.readers import Log
from mtlref.audit.replay import (
    Replay,
    drawn,
    gradients,
    in_question,
    logged_weights,
    states_of,
    stepped,
)
from mtlref.audit.rows import Rows
from mtlref.audit.rows import row as row_at
from mtlref.notation import Array, MtlrefError
from mtlref.state import State

KINK = 100
"""A row whose allowance exceeds this many times the plain rounding of the answer lies at a kink."""


SAMPLES, SAFETY = 12, 4
"""How often logged inner products are moved, and the factor on the largest change: the worst is not among them."""


def plain(log: Log, expected: Array) -> Array:
    """Return the plain allowances of answers (n, K): of the largest entry's size, for a sum's rounding spreads."""
    sizes = np.max(np.abs(expected), axis=-1, keepdims=True)
    known = log.precision["weights"]
    return np.broadcast_to(known.relative * sizes + known.absolute, expected.shape)


def spread(
    replay: Replay, chosen: NDArray[np.intp], before: State | list[State], start: int, expected: Array
) -> Array:
    """Return how far rounding moves the answers of the chosen steps of a block, (m, K).

    `before`, `expected` of the whole block, which starts at the row `start`.
    """
    if replay.light is not None and len(chosen) > 1:
        try:
            with np.errstate(**SEALED):
                states = states_of(before, chosen)
                return of_rows(replay, start + chosen, states, expected[chosen])
        except FAILS:
            halves = np.array_split(chosen, 2)
            return np.concatenate([spread(replay, half, before, start, expected) for half in halves])
    found = [
        of_one(replay, start + i, before[i] if isinstance(before, list) else row_at(before, i), e)
        for i, e in zip(chosen, expected[chosen], strict=True)
    ]
    return np.array(found)


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


def of_rows(replay: Replay, rows: NDArray[np.intp], before: State, expected: Array) -> Array:
    """Return the changes of the answers (m, K), all rows at once. Errors: what comes of a row that fails."""
    light, total, earlier = replay.light, np.zeros(expected.shape), set_against(replay.log, rows)
    assert light is not None
    kinds = columns_of(replay.log, rows)
    for name, (_, off) in kinds.items():
        if name == "w" and not light.lagged:
            continue
        for task in range(expected.shape[1]):
            largest = np.zeros(expected.shape)
            for sign in (-1, 1):
                moved = {key: values for key, (values, _) in kinds.items()}
                moved[name] = moved[name].copy()
                moved[name][:, task] += sign * off[:, task]
                state = light.resumed(before, Rows(moved["w"])) if light.lagged else before  # type: ignore[arg-type]
                out = step_rows(light, state, Rows(moved["L"]), Rows(moved["n"]) if "n" in moved else None)
                changed = np.abs(numbers(in_question(light, out), len(rows)) - expected)
                largest = np.maximum(largest, changed)
            total += largest * (1 + earlier[:, [task]] if name == "L" else 1.0)
    return total


def of_one(replay: Replay, row: int, before: State, expected: Array) -> Array:
    """Return the changes of one answer (K,). Of a Jacobian, the rows are moved, as their norms would be."""
    log, total = replay.log, np.zeros(len(expected))
    earlier = set_against(log, np.array([row]))
    kinds = columns_of(log, row)
    if log.gram is not None:
        kinds["n"] = np.ones(len(expected)), np.full(len(expected), log.precision["gram"].relative)
    for name, (_, off) in kinds.items():
        if name == "w" and not replay.method.lagged:
            continue
        for task in range(len(expected)):
            largest = np.zeros(len(expected))
            for sign in (-1, 1):
                moved = {key: values for key, (values, _) in kinds.items()}
                moved[name] = moved[name].copy()
                moved[name][task] += sign * off[task]
                changed = answer(replay, row, before, moved)
                largest = largest if changed is None else np.maximum(largest, np.abs(changed - expected))
            total += largest * (1 + earlier[0, task] if name == "L" else 1.0)
    return total if log.gram is None else total + gram_spread(replay, row, before, expected)


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
    off = known.relative * longest + (known.absolute / longest if longest > 0 else 0.0)
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

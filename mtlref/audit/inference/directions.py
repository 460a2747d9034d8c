"""Optimisers as a log may show them: which are tried, and the direction of each for a known run of slopes.

For a rate of 1, an optimiser's step is minus its direction, which hangs on the slopes so far and not on the rate. So
with the slopes known, the rate is one number, the slope of the steps against the directions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtlref.notation import Array
from mtlref.optimisers import SGD, Adam, Momentum, Optimiser
from mtlref.settings import OPTIMISERS

DISCOUNTS = (0.9, 0.5, 0.8, 0.95, 0.99)
"""Momentum's discounts that are tried, besides those that the log itself gives."""

MOMENTS = ((0.9, 0.999), (0.9, 0.99), (0.5, 0.999), (0.0, 0.999), (0.9, 0.95), (0.8, 0.99), (0.5, 0.9), (0.95, 0.999))
"""Adam's discounts of both moments that are tried, the usual ones first."""

Choice = Mapping[str, Any]
"""An optimiser without its rate, as settings give it: a name and what is not its default."""


def choices(given: Mapping[str, Any]) -> list[tuple[Choice | None, float | None]]:
    """Return the optimisers to try, None for SGD, each with its rate if that is given."""
    rate = given.get("lr")
    if "optimiser" not in given:
        found: list[Choice | None] = [None]
        found += [adam(*both) for both in MOMENTS[:1]]
        found += [{"name": "momentum", "beta": beta} for beta in DISCOUNTS]
        found += [adam(*both) for both in MOMENTS[1:]]
        return [(one, rate) for one in found]
    one = given["optimiser"]
    if one is None or isinstance(one, str):
        return [(None if one in (None, "sgd") else {"name": one}, rate)]
    if isinstance(one, Optimiser):
        options = dict(vars(one))
        name = next(name for name, cls in OPTIMISERS.items() if cls is type(one))
        return [({"name": name, **{k: v for k, v in options.items() if k != "lr"}}, options["lr"])]
    options = dict(one)
    rate = options.pop("lr", rate)
    return [(options, rate)]


def adam(beta1: float, beta2: float) -> Choice:
    """Return Adam's choice, without what is its default."""
    usual = {"beta1": 0.9, "beta2": 0.999}
    return {"name": "adam", **{k: v for k, v in (("beta1", beta1), ("beta2", beta2)) if v != usual[k]}}


def rule(choice: Choice | None) -> Optimiser:
    """Return the optimiser of a choice, with a rate of 1."""
    if choice is None:
        return SGD(1.0)
    kinds = {"sgd": SGD, "momentum": Momentum, "adam": Adam}
    return kinds[choice["name"]](1.0, **{k: v for k, v in choice.items() if k != "name"})  # type: ignore[no-any-return]


def directions(choice: Choice | None, slopes: Array) -> Array:
    """Return minus the steps that the optimiser takes with a rate of 1 along the slopes (n, K), in turn."""
    if choice is None:
        return slopes
    optimiser, origin = rule(choice), np.zeros(slopes.shape[1])
    state, out = optimiser.init(origin), np.empty_like(slopes)
    for t, g in enumerate(slopes):
        moved, state = optimiser.step(state, origin, g)
        out[t] = -moved
    return out


def settings(choice: Choice | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting of a choice, {} where the optimiser is given."""
    if "optimiser" in given:
        return {}
    if choice is None:
        return {"optimiser": None}
    return {"optimiser": choice["name"] if set(choice) == {"name"} else dict(choice)}

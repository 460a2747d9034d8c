"""Rough settings, for a log that none fits: usual values, with numbers that most rows agree on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from mtlref.audit.inference import gram, losses
from mtlref.audit.inference.family import defaults
from mtlref.audit.inference.gradnorm import measured
from mtlref.audit.readers import Log
from mtlref.audit.replay import logged_weights
from mtlref.methods.uncertainty import LIKELIHOODS

STRENGTHS = (1.5, 0.0, 0.5, 1.0, 2.0, 0.12)
"""The strengths of GradNorm that are tried."""


def rough(stem: str, log: Log, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield settings, the defaults first, without those that are given."""
    found = [{}, *KINDS.get(stem, nothing)(log, given)]
    usual = {name: value for name, value in defaults(stem).items() if name not in given}
    for settings in found:
        yield {**usual, **{name: value for name, value in settings.items() if name not in given}}


def nothing(log: Log, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield nothing besides the defaults."""
    yield from ()


def dwa(log: Log, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the temperature of least squares."""
    steep = losses.steepness(log)
    if steep is not None and steep.value > 0:
        yield {"temperature": float(f"{1 / steep.value:.3g}")}


def cov(log: Log, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the choices without a decay."""
    for statistics, observed in product(("current", "previous"), ("ratio", "loss")):
        yield {"statistics": statistics, "observed": observed}


def pe_ltr(log: Log, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is proposed."""
    yield from (dict(family.choices) for family in gram.pe_ltr(log, given))


def uncertainty(log: Log, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each likelihood with the median of the rates that its rows ask for."""
    L, w = log.losses, logged_weights(log)
    with np.errstate(all="ignore"):
        moved = np.diff(np.log(w), axis=0)
        for name, (_, b) in LIKELIHOODS.items():
            rates = moved / (b * (0.5 - b * w * L)[:-1])
            rates = rates[np.isfinite(rates) & (rates > 0)]
            if len(rates):
                yield {"likelihoods": name, "lr": float(f"{np.median(rates):.3g}")}


def gradnorm(log: Log, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield usual strengths, each with the median of the rates that its rows ask for."""
    data = measured(log, given)
    if data is None:
        return
    w, w_next, K = data.w[:-1], data.w[1:], data.w.shape[1]
    B = K * w - w_next * w.sum(axis=1, keepdims=True)
    for alpha in STRENGTHS if "alpha" not in given else (given["alpha"],):
        with np.errstate(all="ignore"):
            d = (np.sign(data.lift - alpha * data.lag) * np.sign(data.w) * data.n)[:-1]
            A = K * d - w_next * d.sum(axis=1, keepdims=True)
            rates = np.sum(A * B, axis=1) / np.sum(A * A, axis=1)
        rates = rates[np.isfinite(rates) & (rates > 0)]
        if len(rates):
            yield {"alpha": alpha, "lr": float(f"{np.median(rates):.3g}")}


KINDS = {"dwa": dwa, "cov": cov, "pe_ltr": pe_ltr, "uncertainty": uncertainty, "gradnorm": gradnorm}
"""The methods that have rough settings besides the defaults."""

"""What is proved of a minimum-norm point: how far from optimal it may be, and whether rounding chose its support.

The points b_i have been formed, with some rounding; weights a in the unit simplex have been found, d = Σ a_i b_i.

- `residuals` (QP-6) are 0 or less exactly at an optimum, and bound the distance from it elsewhere.
- `rounding` (QP-7) says what they may be by rounding alone.
- `support_margin` (QP-9), if above 0, proves that no rounding of the points changed which of them have a weight.

Derivation: derivations/qp.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtlref.notation import Array, MtlrefError, equation
from mtlref.rationals import Rationals, exact_residuals, rounded

EPS = float(np.finfo(np.float64).eps)
"""The distance from 1 to the next float64, 2⁻⁵²."""

STEADY = 2.0**4
"""QP-9: how many times its rounding the error of d may be, before the support is decided in rationals."""


class CertificateError(MtlrefError):
    """A solver's answer misses the bound on its optimality conditions: it is not handed out."""


class Hull(NamedTuple):
    """The points b_i of QP-3, one for each distinct gradient, divided by a power of two.

    `points` (U, D); `lengths` (U,): ‖b_i‖; `counts` (U,): how many tasks have this gradient; `noise`: ν = 4 (K + D) ε
    of QP-7; `exact` (U, D): the points unrounded, where the support was decided in rationals.
    """

    points: Array
    lengths: Array
    counts: NDArray[np.intp]
    noise: float
    exact: Rationals | None = None


class Candidate(NamedTuple):
    """Weights in the unit simplex, `a` (U,), with `v` (U,), QP-6, and `tau` (U,), QP-7."""

    a: Array
    v: Array
    tau: Array


def candidate(hull: Hull, a: Array) -> Candidate:
    """Return `a` with its residuals and their rounding; of unrounded points the residuals are formed in rationals."""
    v = residuals(hull.points, a) if hull.exact is None else rounded(exact_residuals(hull.exact, a))
    return Candidate(a, v, rounding(a, hull.lengths, hull.noise))


@equation
def residuals(points: Array, a: Array) -> Array:
    """QP-6: v_i = d·d − d·b_i, d = Σ a_i b_i: a is optimal exactly if no v_i is above 0.

    `points` (K, D), `a` (K,) in the unit simplex; returns (K,). ‖d‖² − minimum ≤ 2 max_i v_i.
    """
    d = a @ points
    return np.asarray(d @ d - points @ d)


@equation
def rounding(a: Array, lengths: Array, noise: float) -> Array:
    """QP-7: τ_i = ν m (m + ‖b_i‖), m = Σ_j a_j ‖b_j‖, ν = 4 (K + D) ε: up to here v_i may be rounding alone.

    `a` (K,), `lengths` (K,): ‖b_i‖, `noise` = ν; returns (K,). ε = 2⁻⁵². Half of it is the rounding of d and of its
    inner products, half that of the least squares which gave a.
    """
    m = float(a @ lengths)
    return np.asarray(noise * m * (m + lengths))


# THE SUPPORT


@equation
def support_margin(points: Array, a: Array, sizes: Array, noise: float) -> float:
    """QP-9: the least of σ² a_i (ℓ_i + ℓ_r) − q, σ² (a_r − ν) − √k q / min (ℓ_i + ℓ_r), `STEADY` σ ν ℓ − q and, for
    j outside the support, −σ (v_j + ν ℓ (ℓ + ℓ_j)) − q (ℓ + ℓ_j); q = σ ν ℓ + ‖(d·e_i)‖ + √k ν ‖d‖, ℓ = Σ a_j ℓ_j.

    `points` (K, D), K ≥ 2; `a` (K,) in the unit simplex; `sizes` (K,): ℓ_i ≥ ‖b_i‖; `noise` = ν as in QP-7. b_r is
    the shortest point of the support, i the k others in it, e_i = (b_i − b_r) / (ℓ_i + ℓ_r), σ their least singular
    value less √k ν. If it is above 0, then for all points within ν ℓ_i / 4 of these the support is the optimal one,
    and Σ a_i b_i lies within q / σ of the shortest vector.
    """
    level, d = float(a @ sizes), a @ points
    origin, others = origin_and_others(a > 0, lengths_of(points))
    sigma, q, margins = 1.0, 0.0, []
    if len(others):
        scale, root = sizes[others] + sizes[origin], math.sqrt(len(others))
        e = (points[others] - points[origin]) / scale[:, None]
        least = float(np.linalg.svd(e, compute_uv=False)[-1]) if len(others) <= e.shape[1] else 0.0
        sigma = max(least - root * noise, 0.0)
        q = sigma * noise * level + float(np.linalg.norm(e @ d)) + root * noise * math.sqrt(d @ d)
        margins += [float(np.min(sigma**2 * a[others] * scale)) - q, STEADY * sigma * noise * level - q]
        margins.append(float(sigma**2 * (a[origin] - noise) - root * q / np.min(scale)))
    outside = a == 0
    if outside.any():
        far = level + sizes[outside]
        v = d @ d - points[outside] @ d
        margins.append(float(np.min(-sigma * (v + noise * level * far) - q * far)))
    return min(margins)


def origin_and_others(support: NDArray[np.bool_], lengths: Array) -> tuple[np.intp, NDArray[np.intp]]:
    """Return the task of the shortest point of the support, and the others of the support."""
    inside = np.flatnonzero(support)
    origin = inside[np.argmin(lengths[inside])]
    return origin, inside[inside != origin]


def lengths_of(points: Array) -> Array:
    """Return ‖b_i‖ (K,); the lengths are at most about 2^`LARGEST_RATIO`, so that their squares are finite."""
    with np.errstate(under="ignore"):
        return np.asarray(np.sqrt(np.einsum("kd,kd->k", points, points)))

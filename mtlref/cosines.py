"""The minimum-norm weights from the gradients' inner products, where these hold digits enough.

The Gram matrix is the square of the problem: near opposite or parallel directions nothing of what tells gradients
apart is left in it. Elsewhere it serves, and it costs one product. QP-10 says from the matrix itself which is the
case, and by how much the weights may miss; `mtlref.qp` takes its longer way wherever that is too much.

Derivation: derivations/qp.md.
"""

from __future__ import annotations

import math

import numpy as np

from mtlref.certificate import EPS, Candidate, rounding
from mtlref.contract import inner_products
from mtlref.notation import Array, equation

FARTHEST = 2.0**-21
"""What ‖δC‖ ‖C⁻¹‖ of QP-10 may be: ‖d‖² is then within 2⁻⁴¹ of itself of the minimum."""

LENGTHS_APART = 2.0**-500
"""The shortest gradient may be shorter than the longest by this factor."""

EXCHANGES = 10
"""How many supports are tried; two or three are usual."""


def well_apart(J: Array) -> tuple[Candidate, float, int] | None:
    """Return the certified optimum over the unit simplex, ‖d‖² over 4^e, and e; None where QP-10 cannot vouch for it.

    On a support C y = 1/ℓ gives a_i = y_i / ℓ_i, over their sum. Tasks whose weight is not above 0 leave together,
    and those below the optimal plane (QP-6) join. Such exchanges of many at once may go round in circles: they are
    counted.
    """
    G, exponents = inner_products(J, len(J), "QP-2")
    unit, top = np.sqrt(G.diagonal()), int(exponents.max())
    lengths = np.ldexp(unit, exponents - top)
    if not lengths.min() > LENGTHS_APART * lengths.max():
        return None
    C, noise = G / unit / unit[:, None], 4 * (len(J) + J.shape[1]) * EPS
    try:
        inverse = np.asarray(np.linalg.inv(C), dtype=np.float64)
    except np.linalg.LinAlgError:
        return None
    # beyond 1/ε QP-10 says no in any case, and its own numbers may overflow
    if not (np.abs(inverse).max() <= 1 / EPS and gram_error(inverse, noise) <= FARTHEST):
        return None
    inside, terms = np.ones(len(J), dtype=bool), inverse @ (1 / lengths)
    for _ in range(EXCHANGES):
        a = terms / lengths
        a /= math.fsum(a.tolist())
        slopes = lengths * (C @ (a * lengths))
        square = float(a @ slopes)
        found = Candidate(a, square - slopes, rounding(np.abs(a), lengths, noise))
        right = np.where(inside, a > 0, found.v <= found.tau)
        if right.all():
            return None if (found.v > found.tau).any() else (found, square, top)
        inside = inside == right
        terms = np.zeros(len(J))
        terms[inside] = np.linalg.solve(C[np.ix_(inside, inside)], 1 / lengths[inside])
    return None


@equation
def gram_error(inverse: Array, noise: float) -> float:
    """QP-10: ‖δC‖ ‖C⁻¹‖ ≤ K ν ‖C⁻¹‖_F: ‖d‖² misses the minimum by at most twice the square of this, times ‖d‖².

    `inverse` (K, K): that of the cosines C of the gradients; `noise` = ν as in QP-7.
    """
    return len(inverse) * noise * float(np.linalg.norm(inverse))

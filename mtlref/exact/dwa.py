"""Dynamic Weight Average (Liu, Johns, Davison, CVPR 2019): exact ratios and 50-digit exponentials.

An epoch's weights come from the two epochs before it:

1. `ratios`: how much of its loss each task kept, L_k(t) / L_k(t-1), an exact rational. A task that
   descends slowly has a ratio near 1, one that descends quickly a small one.
2. `weights`: the softmax of the ratios over the temperature, times K. So the weights add up to K, and
   only differences of ratios count.
3. `run`: the first two epochs have no two predecessors and use ones; from the third on, epoch e uses
   L(e-1) / L(e-2).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from mtlref.exact import (
    DIGITS,
    WORKING_DIGITS,
    Number,
    UndefinedError,
    context,
    exponential,
    fraction,
    fractions,
)


def ratios(losses: Sequence[Number], previous_losses: Sequence[Number] | None) -> tuple[Fraction, ...]:
    """Return L_k(t) / L_k(t-1), exactly; ones where there are no previous losses."""
    L = fractions(losses)
    if previous_losses is None:
        return (Fraction(1),) * len(L)
    L_prev = fractions(previous_losses)
    if len(L) != len(L_prev):
        raise ValueError(f"losses has {len(L)} tasks and previous_losses {len(L_prev)}")
    for task, loss in enumerate(L_prev):
        if loss == 0:
            raise UndefinedError(f"the ratio divides by previous_losses[{task}] = 0")
    return tuple(now / before for now, before in zip(L, L_prev, strict=True))


def weights(
    losses: Sequence[Number], previous_losses: Sequence[Number] | None = None, *, temperature: Number
) -> tuple[Decimal, ...]:
    """Return lambda_k = K exp(ratio_k / T) / sum_i exp(ratio_i / T), to 50 digits.

    The largest exponent is subtracted from all of them first, in rationals, so that shift costs nothing and
    the largest exponential is 1. A weight that is smaller than any Decimal comes out as 0.
    """
    T = fraction(temperature)
    if T <= 0:
        raise UndefinedError(f"the temperature must be above 0; it is {float(T)!r}")
    exponents = [ratio / T for ratio in ratios(losses, previous_losses)]
    if not exponents:
        raise ValueError("losses is empty")
    K = len(exponents)
    carried = context(WORKING_DIGITS)
    terms = [exponential(exponent - max(exponents)) for exponent in exponents]
    total = Decimal(0)
    for term in terms:
        total = carried.add(total, term)
    shares = [carried.divide(carried.multiply(Decimal(K), term), total) for term in terms]
    return tuple(context(DIGITS).plus(share) for share in shares)


def run(epoch_losses: Sequence[Sequence[Number]], *, temperature: Number) -> list[tuple[Decimal, ...]]:
    """Return the weights in use at each epoch, from the epochs' mean losses.

    Epochs 0 and 1 use ones. The last epoch's losses are not used: they would make the weights of the next.
    """
    in_use = []
    for epoch, losses in enumerate(epoch_losses):
        if epoch < 2:
            in_use.append(weights(losses, temperature=temperature))
        else:
            in_use.append(weights(epoch_losses[epoch - 1], epoch_losses[epoch - 2], temperature=temperature))
    return in_use

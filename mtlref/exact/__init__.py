"""The methods' equations in rational and 50-digit arithmetic: a slow oracle, sharing no code with the rest.

Every number that comes in is a rational: a float is taken for the dyadic rational it is, never for the
decimal it was typed as. Sums, products and quotients are therefore exact, in `fractions`. Three things
leave the rationals: a square root, a power with a fractional exponent, and the exponential. Each of them
answers with the exact rational where there is one, and otherwise with a rational that differs from the true
value by less than one part in 10^79.

What goes out is a `Fraction` where the whole way to it was exact, and a `Decimal` of 50 digits where it was
not; `float` of either rounds it to the nearest double. So the type of a result says how far to trust it, and
a `Decimal` that comes back in as the state of a later step is known to carry a rounding.

- `fraction`, `fractions` take numbers in, `shown` hands them out.
- `exact_root`, `exact_power` answer None where the result is irrational.
- `square_root`, `power`, `exponential` always answer, to as many digits as are asked for.

The standard library is all that is used here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from fractions import Fraction

Number = int | float | Fraction | Decimal
"""What is taken in. A Decimal is understood as a value that was rounded on the way."""

Exact = Fraction | Decimal
"""What is handed out: a Fraction is the value itself, a Decimal is the value rounded to `DIGITS` digits."""

DIGITS = 50
"""The decimal digits of a result that is not rational."""

WORKING_DIGITS = 80
"""The decimal digits carried on the way to a result."""

LARGEST_EXPONENT = 1000
"""Powers with an exponent beyond this, either way, are refused: their exact form would fill the memory."""


class UndefinedError(ArithmeticError):
    """The equation has no value here: a division by zero, or a power outside its domain."""


class UndecidedError(ArithmeticError):
    """A sign that the result depends on could not be told from zero."""


def fraction(value: Number) -> Fraction:
    """Return the rational that `value` is. Errors: ValueError for NaN, OverflowError for an infinity."""
    return Fraction(value)


def fractions(values: Iterable[Number]) -> tuple[Fraction, ...]:
    """Return the rationals that `values` are."""
    return tuple(fraction(value) for value in values)


def was_rounded(values: Iterable[Number]) -> bool:
    """Say whether any of `values` is a Decimal, that is a result of 50 digits from an earlier step."""
    return any(isinstance(value, Decimal) for value in values)


def shown(values: Iterable[Fraction], exact: bool) -> tuple[Exact, ...]:
    """Return `values` as they are if they are `exact`, else as Decimals of `DIGITS` digits."""
    return tuple(value if exact else decimal(value, DIGITS) for value in values)


def decimal(value: Fraction, digits: int) -> Decimal:
    """Return `value` rounded once, to `digits` decimal digits."""
    return context(digits).divide(Decimal(value.numerator), Decimal(value.denominator))


def context(digits: int) -> Context:
    """Return a decimal context of `digits` digits and the widest exponents; only underflow is silent."""
    traps = [InvalidOperation, DivisionByZero, Overflow]
    return Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=traps)


# ROOTS AND POWERS


def whole_root(number: int, degree: int) -> int | None:
    """Return the whole n >= 0 with n^degree = number >= 0, or None if there is none.

    From 2^degree > number on there can be none but 0 and 1, which is what makes a degree of 2^52 affordable.
    """
    if number < 2:
        return number
    if degree >= number.bit_length():
        return None
    root = 1 << -(-number.bit_length() // degree)
    while (lower := ((degree - 1) * root + number // root ** (degree - 1)) // degree) < root:
        root = lower
    return root if root**degree == number else None


def exact_root(value: Fraction, degree: int) -> Fraction | None:
    """Return the rational x >= 0 with x^degree = value >= 0, or None if there is none.

    A fraction in lowest terms is a power exactly if its numerator and its denominator are.
    """
    above, below = whole_root(value.numerator, degree), whole_root(value.denominator, degree)
    return None if above is None or below is None else Fraction(above, below)


def square_root(value: Fraction, digits: int = WORKING_DIGITS) -> Fraction:
    """Return the square root of value >= 0: exactly if it is rational, else to `digits` digits.

    The digits come from a whole square root: with s so large that value s^2 has 2 `digits` digits or more,
    floor(sqrt(value s^2)) / s is short of the root by less than 1 / s.
    """
    root = exact_root(value, 2)
    if root is not None:
        return root
    magnitude = value.denominator.bit_length() - value.numerator.bit_length()
    shift = max(0, 4 * digits + magnitude // 2)
    return Fraction(math.isqrt((value.numerator << 2 * shift) // value.denominator), 1 << shift)


def exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    """Return base^exponent for base >= 0 if it is rational, else None. 0^0 is 1.

    With exponent = p/q in lowest terms, base^(p/q) is rational exactly if base is a q-th power.
    """
    if abs(exponent) > LARGEST_EXPONENT:
        raise UndefinedError(f"exponents beyond {LARGEST_EXPONENT} are refused; it is {float(exponent)!r}")
    if exponent == 0:
        return Fraction(1)
    if base == 0 and exponent < 0:
        raise UndefinedError(f"0 to the power {float(exponent)!r} has no value")
    root = exact_root(base, exponent.denominator)
    return None if root is None else whole_power(root, exponent.numerator)


def whole_power(base: Fraction, exponent: int) -> Fraction:
    """Return base^exponent for a whole exponent; base is not 0 if the exponent is negative."""
    above, below = base.numerator ** abs(exponent), base.denominator ** abs(exponent)
    return Fraction(above, below) if exponent >= 0 else Fraction(below, above)


def power(base: Fraction, exponent: Fraction, digits: int = WORKING_DIGITS) -> Fraction:
    """Return base^exponent: exactly if it is rational, else to about `digits` digits. 0^0 is 1.

    A negative base has a power only for whole exponents.
    """
    if base < 0 and exponent.denominator != 1:
        raise UndefinedError(f"{float(base)!r} to the power {float(exponent)!r} is not a real number")
    if base < 0:
        size = power(-base, exponent, digits)
        return -size if exponent.numerator % 2 else size
    rational = exact_power(base, exponent)
    if rational is not None:
        return rational
    carried = digits + 10
    return Fraction(context(carried).power(decimal(base, carried), decimal(exponent, carried)))


def exponential(value: Fraction, digits: int = WORKING_DIGITS) -> Decimal:
    """Return exp(value) to `digits` digits; a value so far below 0 that no Decimal is left gives 0."""
    carried = digits + 10
    return context(digits).plus(context(carried).exp(decimal(value, carried)))

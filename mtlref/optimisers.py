"""Optimisers as pure update rules: SGD, heavy-ball momentum, Adam.

An optimiser is a frozen dataclass of hyper-parameters. It moves an array w of any shape along its gradient g,
and what it remembers is a state of its own:

    state = optimiser.init(w)
    w, state = optimiser.step(state, w, g)

- SGD is OPT-1. Momentum is OPT-2 and OPT-3. Adam is OPT-4 to OPT-8, in that order.
- OPT-C1: Adam's eps is added outside the root. OPT-C2: the learning rate multiplies the velocity.

Nothing is written into: every step returns new arrays.

Derivation: derivations/networks.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mtlref.notation import Array, DomainError, ShapeError, equation, nonnegative, positive, real
from mtlref.state import State, own

# STATES


@dataclass(frozen=True, eq=False)
class SGDState(State):
    """SGD remembers nothing."""


@dataclass(frozen=True, eq=False)
class MomentumState(State):
    """`velocity`, of w's shape: the discounted sum of the gradients so far."""

    velocity: Array


@dataclass(frozen=True, eq=False)
class AdamState(State):
    """`step` counts the steps taken; the moments, of w's shape, are the running means of g and of g²."""

    step: int
    first_moment: Array
    second_moment: Array


# OPTIMISERS


class Optimiser(ABC):
    """An update rule: hyper-parameters in, nothing remembered. Subclasses are frozen dataclasses."""

    @abstractmethod
    def init(self, shape_like: ArrayLike) -> State:
        """Return the state before the first step for an array of this shape."""

    @abstractmethod
    def step(self, state: State, w: ArrayLike, g: ArrayLike) -> tuple[Array, State]:
        """Return w and the state after one step along the gradient g.

        Errors: ShapeError, DomainError for a state of another optimiser, NonFiniteError.
        """


@dataclass(frozen=True)
class SGD(Optimiser):
    """Gradient descent: w − lr g."""

    lr: float

    def __post_init__(self) -> None:
        positive("lr", self.lr)

    def init(self, shape_like: ArrayLike) -> SGDState:
        return SGDState()

    def step(self, state: State, w: ArrayLike, g: ArrayLike) -> tuple[Array, SGDState]:
        w, g = same_shape(w=w, g=g)
        return sgd(w, g, self.lr), own(state, SGDState)


@dataclass(frozen=True)
class Momentum(Optimiser):
    """Heavy-ball momentum (Polyak 1964), with the velocity in units of the gradient (OPT-C2)."""

    lr: float
    beta: float = 0.9

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        discount("beta", self.beta)

    def init(self, shape_like: ArrayLike) -> MomentumState:
        return MomentumState(np.zeros(np.shape(shape_like)))

    def step(self, state: State, w: ArrayLike, g: ArrayLike) -> tuple[Array, MomentumState]:
        w, g, v = same_shape(w=w, g=g, velocity=own(state, MomentumState).velocity)
        v_next = velocity(v, g, self.beta)
        return momentum(w, v_next, self.lr), MomentumState(v_next)


@dataclass(frozen=True)
class Adam(Optimiser):
    """Adam (Kingma and Ba 2015, Algorithm 1), with eps outside the root (OPT-C1)."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        discount("beta1", self.beta1)
        discount("beta2", self.beta2)
        nonnegative("eps", self.eps)

    def init(self, shape_like: ArrayLike) -> AdamState:
        return AdamState(0, np.zeros(np.shape(shape_like)), np.zeros(np.shape(shape_like)))

    def step(self, state: State, w: ArrayLike, g: ArrayLike) -> tuple[Array, AdamState]:
        known = own(state, AdamState)
        w, g, m, v = same_shape(w=w, g=g, first_moment=known.first_moment, second_moment=known.second_moment)
        t = known.step + 1
        m_next = first_moment(m, g, self.beta1)
        v_next = second_moment(v, g, self.beta2)
        m_hat = first_unbiased(m_next, self.beta1, t)
        v_hat = second_unbiased(v_next, self.beta2, t)
        return adam(w, m_hat, v_hat, self.lr, self.eps), AdamState(t, m_next, v_next)


# UPDATE RULES


@equation
def sgd(w: Array, g: Array, lr: float) -> Array:
    """OPT-1: w_next = w − lr g."""
    return w - lr * g


@equation
def velocity(v: Array, g: Array, beta: float) -> Array:
    """OPT-2: v_next = beta v + g."""
    return beta * v + g


@equation
def momentum(w: Array, v_next: Array, lr: float) -> Array:
    """OPT-3: w_next = w − lr v_next."""
    return w - lr * v_next


@equation
def first_moment(m: Array, g: Array, beta1: float) -> Array:
    """OPT-4: m_next = beta1 m + (1 − beta1) g."""
    return beta1 * m + (1 - beta1) * g


@equation
def second_moment(v: Array, g: Array, beta2: float) -> Array:
    """OPT-5: v_next = beta2 v + (1 − beta2) g²."""
    return beta2 * v + (1 - beta2) * g**2


@equation
def first_unbiased(m_next: Array, beta1: float, t: int) -> Array:
    """OPT-6: m_hat = m_next / (1 − beta1^t), at the t-th step, counted from 1."""
    return m_next / (1 - float(np.power(beta1, t)))  # of many rows at once to the same bits, which Python's ** is not


@equation
def second_unbiased(v_next: Array, beta2: float, t: int) -> Array:
    """OPT-7: v_hat = v_next / (1 − beta2^t), at the t-th step, counted from 1."""
    return v_next / (1 - float(np.power(beta2, t)))


@equation
def adam(w: Array, m_hat: Array, v_hat: Array, lr: float, eps: float) -> Array:
    """OPT-8: w_next = w − lr m_hat / (√v_hat + eps).

    With eps = 0 an entry whose gradient has always been zero is 0/0: NonFiniteError.
    """
    return w - lr * m_hat / (np.sqrt(v_hat) + eps)


# CHECKS


def discount(argument: str, value: float) -> float:
    """Return `value` as a float of at least 0 and below 1. Errors: ShapeError, DomainError."""
    number = nonnegative(argument, value)
    if number >= 1:
        raise DomainError(f"{argument} = {number!r} must be below 1", argument=argument, value=number)
    return number


def same_shape(**arrays: ArrayLike) -> list[Array]:
    """Return the named arrays as finite float64 ones of one shape, that of the first. Errors: ShapeError."""
    shape = np.shape(next(iter(arrays.values())))
    for name, array in arrays.items():
        if np.shape(array) != shape:
            first = next(iter(arrays))
            message = f"{name} must have the shape of {first}, {shape}; its shape is {np.shape(array)}"
            raise ShapeError(message, argument=name, value=np.shape(array))
    return [real(name, array, len(shape)) for name, array in arrays.items()]

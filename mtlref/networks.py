"""Networks and losses on the autograd: a trunk that K tasks share, a head a task, and the heads' losses.

A network is a frozen dataclass of sizes. Its parameters are a separate value, its forward pass a function:

    network = SharedTrunk(n_inputs=8, trunk=(64, 32), heads=(10, 1, 2))
    parameters = network.init(rng)                      # shared layers, and the layers of each head

    def losses(flat):                                   # of the parameters as tensors, in one tuple
        digit, price, pair = network.forward(parameters.rebuilt(flat), x)
        return cross_entropy(digit, labels), mse(price, prices), absolute_error(pair, pairs)

    values, jacobian = value_and_jacobian(losses, parameters.flat)

- A layer is NN-1, initialised by NN-2 (He) before a relu and by NN-3 (Glorot) elsewhere. Layers make a
  perceptron by NN-4; a trunk with K heads is NN-5.
- The losses are NN-6 to NN-10. Each is a mean over the B examples of a batch and over the outputs of an
  example, so a loss grows with neither.
- Where all heads have one shape, `each` takes K tasks at once, with their axis first, and gives K losses, (K,):
  `mse(network.stacked(parameters.rebuilt(flat), x), targets, each=True)` says the same in fewer, larger steps.

A sequence of layers is flat: weights (n, m), bias (m,), weights, bias, and so on.

Derivation: derivations/networks.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from mtlref import autograd as ad
from mtlref.autograd import Operand, Tensor
from mtlref.notation import Array, DomainError, ShapeError, count, real

Activation = Literal["relu", "tanh"]
ACTIVATIONS: dict[str, Callable[[Operand], Tensor]] = {"relu": ad.relu, "tanh": ad.tanh}
Draw = Callable[[np.random.Generator, int, int], Array]

V = TypeVar("V", Array, Tensor)
U = TypeVar("U", Array, Tensor)


# LAYERS


def linear(x: Operand, W: Operand, b: Operand) -> Tensor:
    """NN-1: z = x W + b, for x (B, n), W (n, m) and b (m,); z is (B, m)."""
    return ad.apply("affine", x, W, b)


def he(rng: np.random.Generator, n: int, m: int) -> Array:
    """NN-2: W_ij ~ N(0, 2 / n), for W (n, m) before a relu."""
    return rng.normal(0.0, np.sqrt(2 / n), (n, m))


def glorot(rng: np.random.Generator, n: int, m: int) -> Array:
    """NN-3: W_ij ~ U(−a, a) with a = √(6 / (n + m)), for W (n, m) before a tanh or an output."""
    a = np.sqrt(6 / (n + m))
    return rng.uniform(-a, a, (n, m))


def mlp(layers: Sequence[Operand], x: Operand, activation: Activation) -> Tensor:
    """NN-4: h_0 = x, h_l = φ(h_{l−1} W_l + b_l), and the last layer without φ.

    `layers` is (W_1, b_1, W_2, b_2, …), at least one layer; `x` is (B, n). Errors: ShapeError, DomainError.
    """
    if len(layers) == 0 or len(layers) % 2:
        message = f"layers must hold weights and a bias for each layer; it holds {len(layers)} arrays"
        raise ShapeError(message, argument="layers", value=len(layers))
    phi = activated(activation)
    for W, b in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        x = phi(linear(x, W, b))
    return linear(x, layers[-2], layers[-1])


def activated(activation: str) -> Callable[[Operand], Tensor]:
    """Return the activation function φ of that name. Errors: DomainError."""
    if activation not in ACTIVATIONS:
        message = f"activation must be one of {', '.join(ACTIVATIONS)}; it is {activation!r}"
        raise DomainError(message, argument="activation", value=activation)
    return ACTIVATIONS[activation]


# A TRUNK AND ITS HEADS


@dataclass(frozen=True, eq=False)
class Parameters(Generic[V]):
    """The parameters of a network, arrays or tensors: the shared layers, and the layers of each head."""

    shared: tuple[V, ...]
    heads: tuple[tuple[V, ...], ...]

    @property
    def flat(self) -> tuple[V, ...]:
        """All of them in one tuple: the shared ones, then head by head."""
        return tuple(itertools.chain(self.shared, *self.heads))

    def rebuilt(self, flat: Sequence[U]) -> Parameters[U]:
        """Return parameters of this structure with the values of `flat`, in its order. Errors: ShapeError."""
        if len(flat) != len(self.flat):
            message = f"flat must hold {len(self.flat)} values; it holds {len(flat)}"
            raise ShapeError(message, argument="flat", value=len(flat))
        values: Iterator[U] = iter(flat)
        shared = tuple(itertools.islice(values, len(self.shared)))
        return Parameters(shared, tuple(tuple(itertools.islice(values, len(head))) for head in self.heads))


@dataclass(frozen=True)
class SharedTrunk:
    """A trunk that all tasks share, and a head for each task on the trunk's last layer.

    `trunk`: the width of each shared layer, at least one. `heads`: for each task the number of its outputs,
    which makes a linear head, or a tuple of hidden widths followed by the number of outputs.
    """

    n_inputs: int
    trunk: tuple[int, ...]
    heads: tuple[int | tuple[int, ...], ...]
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        activated(self.activation)
        count("n_inputs", self.n_inputs)
        count("the number of trunk layers", len(self.trunk))
        count("the number of heads", len(self.heads))
        for argument, widths in (("trunk", self.trunk), *(("heads", head) for head in self.head_widths)):
            count(f"the number of layers of {argument}", len(widths))
            for width in widths:
                count(f"a width of {argument}", width)

    @property
    def head_widths(self) -> tuple[tuple[int, ...], ...]:
        """The widths of each head's layers, the number of its outputs last."""
        return tuple(head if isinstance(head, tuple) else (head,) for head in self.heads)

    def init(self, rng: np.random.Generator) -> Parameters[Array]:
        """Return initial parameters: zero biases, weights by NN-2 before a relu and by NN-3 elsewhere."""
        hidden = he if self.activation == "relu" else glorot
        shared = drawn(rng, (self.n_inputs, *self.trunk), hidden, hidden)
        heads = (drawn(rng, (self.trunk[-1], *widths), hidden, glorot) for widths in self.head_widths)
        return Parameters(shared, tuple(heads))

    def forward(self, parameters: Parameters[V], x: Operand) -> tuple[Tensor, ...]:
        """NN-5: h = φ(mlp(shared, x)) and ŷ_k = mlp(head_k, h), for every task k.

        `x` is (B, n_inputs); ŷ_k is (B, outputs of head k). Errors: ShapeError.
        """
        h = self._trunk(parameters, x)
        return tuple(mlp(head, h, self.activation) for head in parameters.heads)

    def stacked(self, parameters: Parameters[V], x: Operand) -> Tensor:
        """NN-5 for heads of one shape, in one go: ŷ (K, B, outputs). Errors: ShapeError."""
        if len(set(self.head_widths)) > 1:
            raise ShapeError(f"heads must have one shape; they are {self.heads}", argument="heads", value=self.heads)
        h = self._trunk(parameters, x)
        layers = [ad.stack([tensor(array) for array in arrays]) for arrays in zip(*parameters.heads, strict=True)]
        return mlp(layers, h, self.activation)

    def _trunk(self, parameters: Parameters[V], x: Operand) -> Tensor:
        """Return h (B, width), what the heads read. Errors: ShapeError."""
        x = tensor(x)
        if len(x.shape) != 2 or x.shape[1] != self.n_inputs:
            message = f"x must be (B, {self.n_inputs}); its shape is {x.shape}"
            raise ShapeError(message, argument="x", value=x.shape)
        return activated(self.activation)(mlp(parameters.shared, x, self.activation))


def drawn(rng: np.random.Generator, widths: Sequence[int], hidden: Draw, last: Draw) -> tuple[Array, ...]:
    """Return the layers (W_1, b_1, …) between these widths, weights from `hidden`, the last from `last`."""
    draws = [hidden] * (len(widths) - 2) + [last]
    pairs = zip(draws, widths[:-1], widths[1:], strict=True)
    return tuple(array for draw, n, m in pairs for array in (draw(rng, n, m), np.zeros(m)))


def last_shared_layer(shared: Sequence[V]) -> slice:
    """Return where the weights and bias of the last shared layer stand in `shared`: GradNorm's W."""
    return slice(len(shared) - 2, len(shared))


# LOSSES


def mse(prediction: Operand, target: ArrayLike, each: bool = False) -> Tensor:
    """NN-6: L = mean (ŷ − y)², over examples and outputs; ŷ and y have one shape.

    With `each`, of K tasks at once: ŷ and y are (K, B, outputs), L is (K,). Errors: ShapeError.
    """
    prediction, y = alike("prediction", prediction, "target", target)
    return ad.apply("squared_error", prediction, y, each)


def absolute_error(prediction: Operand, target: ArrayLike, each: bool = False) -> Tensor:
    """NN-7: L = mean |ŷ − y|, over examples and outputs; ŷ and y have one shape.

    With `each`, of K tasks at once: ŷ and y are (K, B, outputs), L is (K,). Errors: ShapeError.
    """
    prediction, y = alike("prediction", prediction, "target", target)
    return average(ad.absolute(prediction - y), each)


def cross_entropy(logits: Operand, labels: ArrayLike, each: bool = False) -> Tensor:
    """NN-8: L = mean_b (log Σ_c e^{z_bc} − z_{b, label b}), over examples; logits (B, C), labels (B,).

    With `each`, of K tasks at once: logits (K, B, C), labels (K, B), L (K,).
    Errors: ShapeError; DomainError for a label that is not a whole number from 0 to C − 1.
    """
    z, label = tensor(logits), np.asarray(labels)
    if len(z.shape) != (3 if each else 2) or label.shape != z.shape[:-1]:
        tasks = "K, " if each else ""
        message = f"labels must be ({tasks}B) for logits ({tasks}B, C); the shapes are {label.shape} and {z.shape}"
        raise ShapeError(message, argument="labels", value=label.shape)
    C = z.shape[-1]
    if label.dtype.kind not in "iu" or label.min(initial=0) < 0 or label.max(initial=0) >= C:
        for at, value in np.ndenumerate(label):
            where = f"labels[{', '.join(map(str, at))}]"
            if count(where, value, least=0) >= C:
                message = f"{where} = {value} must be below the number of classes, {C}"
                raise DomainError(message, argument="labels", value=int(value))
    return average(ad.logsumexp(z, axis=-1) - ad.pick(z, label), each)


def binary_cross_entropy(logits: Operand, targets: ArrayLike, each: bool = False) -> Tensor:
    """NN-9: L = mean (y log(1 + e^−z) + (1 − y) log(1 + e^z)), over examples and outputs.

    The logits z and the targets y, from 0 to 1, have one shape. With `each`, of K tasks at once: they are
    (K, B, outputs), L is (K,). Errors: ShapeError, DomainError.
    """
    z, y = alike("logits", logits, "targets", targets)
    outside = (y.value < 0) | (y.value > 1)
    if np.any(outside):
        value = float(y.value[outside][0])
        raise DomainError(f"targets must be from 0 to 1; one is {value}", argument="targets", value=value)
    return average(y * ad.softplus(-z) + (1 - y) * ad.softplus(z), each)


def gaussian_nll(prediction: Operand, target: ArrayLike, log_variance: Operand, each: bool = False) -> Tensor:
    """NN-10: L = mean ½ (s + (ŷ − y)² e^−s), over examples and outputs, with s = log σ².

    ŷ and y have one shape, to which s broadcasts; the constant ½ log 2π is left out. With `each`, of K tasks at once:
    ŷ and y are (K, B, outputs), L is (K,). Errors: ShapeError.
    """
    prediction, y = alike("prediction", prediction, "target", target)
    s = tensor(log_variance)
    nll = (s + (prediction - y) ** 2 * ad.exp(-s)) / 2
    if nll.shape != prediction.shape:
        message = f"log_variance {s.shape} does not broadcast to the shape of prediction, {prediction.shape}"
        raise ShapeError(message, argument="log_variance", value=s.shape)
    return average(nll, each)


def average(z: Tensor, each: bool) -> Tensor:
    """Return the mean of all entries, or that of `each` slice along the first axis."""
    return z.mean(tuple(range(1, len(z.shape))) if each else None)


def tensor(x: Operand) -> Tensor:
    """Return `x` itself if it is a tensor, and otherwise the constant that it is."""
    return x if isinstance(x, Tensor) else ad.constant(x)


def alike(prediction_name: str, prediction: Operand, name: str, target: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return a prediction and its target, which must have one shape: (B,) against (B, 1) is an error."""
    z, y = tensor(prediction), np.asarray(target)
    if y.shape != z.shape:
        message = f"{name} must have the shape of {prediction_name}, {z.shape}; its shape is {y.shape}"
        raise ShapeError(message, argument=name, value=y.shape)
    return z, Tensor("constant", real(name, y, y.ndim))

"""Mixtures of experts and HMoE (Ma et al., KDD 2018; Li et al., CIKM 2020), forward and backward, by hand.

Sums, products and the rectifier are exact; exponentials have 80 digits, and so has every quotient of them. Nothing is
differentiated by a program. With delta_k the given slope of loss k in output k, and one sample at a time:

- the relation logits of scenario k get a_kj (c_j - sum_i a_ki c_i), where c_j = delta_k . S_j;
- the score of scenario j gets a_kj delta_k if loss k reaches tower j, and nothing otherwise;
- a tower and an expert are perceptrons: their deltas go back layer by layer, through the transposed weights;
- expert i gets g_ji times what the mixture of tower j gets, and its gate logit g_ji (d_i - sum_l g_jl d_l), where
  d_i is the inner product of that with the output of expert i.

The parameters are plain: `experts` and `towers` are lists of layers W_1, b_1, W_2, b_2, …, `gates` and `relations`
lists of matrices, one a task or one for all. A gradient has the parameters' order, flattened row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from mtlref.exact import DIGITS, WORKING_DIGITS, Number, decimal, exponential, fraction

Vector = list[Fraction]
Matrix = list[Vector]

KINDS = ("experts", "gates", "relations", "towers")
"""The kinds of parameters, in order."""


@dataclass(frozen=True)
class Settings:
    """The choices of HMoE; without relations there is no mixture of scores, and the network is MMoE."""

    activation: str = "relu"
    mix: str = "logit"
    constrained: bool = True
    mode: str = "end_to_end"

    def reaches(self, k: int, j: int) -> bool:
        """Say whether loss k has a gradient in the score of scenario j."""
        return self.mode == "end_to_end" and (j == k or not self.constrained)


@dataclass(frozen=True)
class Sample:
    """What one sample makes of the network; `E`, `towers` keep the values of every layer, the input first."""

    E: list[list[Vector]]
    g: list[Vector]
    f: list[Vector]
    towers: list[list[Vector]]
    a: list[Vector]
    S: list[Vector]
    mixed: list[Vector]
    out: list[Vector]


# FORWARD


def rational(values: Any) -> Any:
    """Return numbers, however nested, as the rationals that they are."""
    return fraction(values) if isinstance(values, (int, float, Fraction, Decimal)) else [rational(v) for v in values]


def rounded(value: Fraction) -> Fraction:
    """Return a value to the working digits."""
    return Fraction(decimal(value, WORKING_DIGITS))


def softmax(logits: Vector) -> Vector:
    """Return the shares e^x / sum e^x."""
    terms = [Fraction(exponential(x - max(logits))) for x in logits]
    return [rounded(term / sum(terms)) for term in terms]


def sigmoid(x: Fraction) -> Fraction:
    """Return 1 / (1 + e^-x)."""
    return softmax([x, Fraction(0)])[0]


def activate(z: Vector, activation: str) -> Vector:
    """Return phi of every entry: tanh x = 2 sigmoid(2x) - 1, or the larger of x and 0."""
    return [2 * sigmoid(2 * x) - 1 for x in z] if activation == "tanh" else [max(x, Fraction(0)) for x in z]


def affine(W: Matrix, b: Vector, x: Vector) -> Vector:
    """Return x W + b."""
    return [sum((x_i * row[j] for x_i, row in zip(x, W, strict=True)), b_j) for j, b_j in enumerate(b)]


def dot(x: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction:
    """Return the inner product."""
    return sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0))


def blend(weights: Vector, vectors: Sequence[Vector]) -> Vector:
    """Return the sum of the vectors, each times its weight."""
    return [dot(weights, column) for column in zip(*vectors, strict=True)]


def perceptron(layers: Sequence[Any], x: Vector, activation: str, last: bool) -> list[Vector]:
    """Return x and the values of every layer; with `last`, phi acts on the last layer too."""
    values = [x]
    for at in range(0, len(layers), 2):
        z = affine(layers[at], layers[at + 1], values[-1])
        values.append(activate(z, activation) if last or at + 2 < len(layers) else z)
    return values


def each(matrices: Sequence[Matrix], k: int) -> Matrix:
    """Return matrix k, or the one that all have in common."""
    return matrices[k] if len(matrices) > 1 else matrices[0]


def logits(x: Vector, V: Matrix) -> Vector:
    """Return x V."""
    return affine(V, [Fraction(0)] * len(V[0]), x)


def forward(p: Mapping[str, Any], x: Vector, how: Settings) -> Sample:
    """Return what the network makes of one sample x of rational numbers."""
    K = len(p["towers"])
    E = [perceptron(layers, x, how.activation, True) for layers in p["experts"]]
    g = [softmax(logits(x, each(p["gates"], k))) for k in range(K)]
    f = [blend(g_k, [values[-1] for values in E]) for g_k in g]
    towers = [perceptron(layers, f_k, how.activation, False) for layers, f_k in zip(p["towers"], f, strict=True)]
    z = [values[-1] for values in towers]
    if not p.get("relations"):
        return Sample(E, g, f, towers, [], z, z, z)
    a = [softmax(logits(x, each(p["relations"], k))) for k in range(K)]
    S = {
        "logit": lambda: z,
        "prob": lambda: [[sigmoid(value) for value in z_k] for z_k in z],
        "hidden": lambda: [values[-2] for values in towers],
    }[how.mix]()
    mixed = [blend(a_k, S) for a_k in a]
    if how.mix != "hidden":
        return Sample(E, g, f, towers, a, S, mixed, mixed)
    out = [affine(layers[-2], layers[-1], m) for layers, m in zip(p["towers"], mixed, strict=True)]
    return Sample(E, g, f, towers, a, S, mixed, out)


# BACKWARD


class Gradient:
    """A gradient in the making: zeros in the shape of the parameters, to which parts are added."""

    def __init__(self, p: Mapping[str, Any]) -> None:
        self.of = {kind: zeros(p.get(kind, [])) for kind in KINDS}

    def outer(self, target: Matrix, x: Vector, delta: Vector) -> None:
        """Add the outer product of x and delta: the gradient of a matrix W in x W."""
        for row, x_i in zip(target, x, strict=True):
            for j, d in enumerate(delta):
                row[j] += x_i * d

    def perceptron(
        self, target: Any, layers: Sequence[Any], values: list[Vector], delta: Vector, phi: str, last: bool
    ) -> Vector:
        """Add a perceptron's gradient for the delta of its output, and return the delta of its input."""
        for at in reversed(range(0, len(layers), 2)):
            if last or at + 2 < len(layers):
                delta = [d * slope(h, phi) for d, h in zip(delta, values[at // 2 + 1], strict=True)]
            self.outer(target[at], values[at // 2], delta)
            self.outer([target[at + 1]], [Fraction(1)], delta)
            delta = [dot(row, delta) for row in layers[at]]
        return delta

    def flat(self, kind: str) -> Vector:
        """Return the gradient of one kind of parameters, flattened row by row."""
        return list(leaves(self.of[kind]))


def slope(h: Fraction, activation: str) -> Fraction:
    """Return phi' from the value h of phi: 1 - h^2 of tanh; of the rectifier 1 above 0, and 0 at 0."""
    return 1 - h * h if activation == "tanh" else Fraction(h > 0)


def zeros(values: Any) -> Any:
    """Return zeros in the nested shape of the values."""
    return Fraction(0) if isinstance(values, Fraction) else [zeros(item) for item in values]


def leaves(values: Any) -> Iterator[Fraction]:
    """Yield the numbers in nested lists, row by row."""
    if isinstance(values, Fraction):
        yield values
    else:
        for item in values:
            yield from leaves(item)


def softmax_delta(shares: Vector, slopes: Vector) -> Vector:
    """Return the slopes in the logits from the slopes in their shares."""
    mean = dot(shares, slopes)
    return [share * (value - mean) for share, value in zip(shares, slopes, strict=True)]


def into_tower(
    total: Gradient, p: Mapping[str, Any], x: Vector, made: Sample, how: Settings, j: int, delta: Vector
) -> None:
    """Add what the delta of S_j sends into tower j, its gate, and the experts."""
    layers, values, target = p["towers"][j], made.towers[j], total.of["towers"][j]
    if p.get("relations") and how.mix == "prob":
        delta = [d * S * (1 - S) for d, S in zip(delta, made.S[j], strict=True)]
    if p.get("relations") and how.mix == "hidden":
        delta = total.perceptron(target, layers[:-2], values[:-1], delta, how.activation, True)
    else:
        delta = total.perceptron(target, layers, values, delta, how.activation, False)
    outputs = [value[-1] for value in made.E]
    gate = softmax_delta(made.g[j], [dot(delta, output) for output in outputs])
    total.outer(each(total.of["gates"], j), x, gate)
    for i, value in enumerate(made.E):
        part = [made.g[j][i] * d for d in delta]
        total.perceptron(total.of["experts"][i], p["experts"][i], value, part, how.activation, True)


def backward(
    p: Mapping[str, Any], x: Vector, made: Sample, how: Settings, k: int, delta: Vector, total: Gradient
) -> None:
    """Add to `total` the gradient of loss k by one sample, `delta` being its slope in out_k."""
    if not p.get("relations"):
        into_tower(total, p, x, made, how, k, delta)
        return
    if how.mix == "hidden":
        layers, target = p["towers"][k], total.of["towers"][k]
        total.outer(target[-2], made.mixed[k], delta)
        total.outer([target[-1]], [Fraction(1)], delta)
        delta = [dot(row, delta) for row in layers[-2]]
    relation = softmax_delta(made.a[k], [dot(delta, S_j) for S_j in made.S])
    total.outer(each(total.of["relations"], k), x, relation)
    for j, share in enumerate(made.a[k]):
        if how.reaches(k, j):
            into_tower(total, p, x, made, how, j, [share * d for d in delta])


# A BATCH


def run(p: Mapping[str, Any], x: Sequence[Sequence[Number]], delta: Any, how: Settings) -> dict[str, Any]:
    """Return the terms of a batch, and the gradients of L_k = sum_b delta_kb . out_k(x_b), to 50 digits.

    `x` (B, n), `delta` (K, B, outputs). Terms as MMoE and HMoE name them; `d_experts`, `d_gates`, `d_relations` and
    `d_towers` have a row a loss. `dS` (K, K, B, width): the slope of loss k in S_j, through tower j alone.
    """
    p, rows, delta = {kind: rational(p.get(kind, [])) for kind in KINDS}, rational(x), rational(delta)
    K, made = len(p["towers"]), [forward(p, row, how) for row in rows]
    totals = [Gradient(p) for _ in range(K)]
    for k, total in enumerate(totals):
        for row, sample, slopes in zip(rows, made, delta[k], strict=True):
            backward(p, row, sample, how, k, slopes, total)
    terms = {
        "E": [[sample.E[i][-1] for sample in made] for i in range(len(p["experts"]))],
        **{name: by_task(made, name, K) for name in ("g", "f")},
        "z": [[sample.towers[k][-1] for sample in made] for k in range(K)],
        **{name: by_task(made, name, K) for name in ("a", "S", "out") if p["relations"] or name == "out"},
        **{f"d_{kind}": [total.flat(kind) for total in totals] for kind in KINDS if p[kind]},
    }
    if p["relations"]:
        terms["dS"] = [[score_slopes(p, made, how, delta[k], k, j) for j in range(K)] for k in range(K)]
    return {name: shown(value) for name, value in terms.items()}


def by_task(made: Sequence[Sample], name: str, K: int) -> list[list[Vector]]:
    """Return a term of every sample, task by task."""
    return [[getattr(sample, name)[k] for sample in made] for k in range(K)]


def score_slopes(
    p: Mapping[str, Any], made: Sequence[Sample], how: Settings, delta: list[Vector], k: int, j: int
) -> list[Vector]:
    """Return the slope of loss k in S_j for every sample: a_kj delta_k where loss k reaches tower j, else 0."""
    found = []
    for sample, slopes in zip(made, delta, strict=True):
        back = [dot(row, slopes) for row in p["towers"][k][-2]] if how.mix == "hidden" else slopes
        found.append([sample.a[k][j] * d if how.reaches(k, j) else Fraction(0) for d in back])
    return found


def shown(values: Any) -> Any:
    """Return rationals, however nested, as Decimals of 50 digits."""
    return decimal(values, DIGITS) if isinstance(values, Fraction) else [shown(item) for item in values]


def nearest_kink(p: Mapping[str, Any], x: Sequence[Sequence[Number]], how: Settings) -> Fraction | None:
    """Return how near a rectifier comes to 0 over the batch: |z| over the sum of the sizes that z adds up.

    None where there is no rectifier.
    """
    if how.activation != "relu":
        return None
    p = {kind: rational(p.get(kind, [])) for kind in KINDS}
    gaps = []
    for row in rational(x):
        made = forward(p, row, how)
        for layers, values, last in (
            *((layers, values, True) for layers, values in zip(p["experts"], made.E, strict=True)),
            *((layers, values, False) for layers, values in zip(p["towers"], made.towers, strict=True)),
        ):
            for at in range(0, len(layers) - (0 if last else 2), 2):
                z = affine(layers[at], layers[at + 1], values[at // 2])
                size = affine(absolute(layers[at]), absolute(layers[at + 1]), absolute(values[at // 2]))
                gaps += [abs(a) / b if b else Fraction(0) for a, b in zip(z, size, strict=True)]
    return min(gaps)


def absolute(values: Any) -> Any:
    """Return the absolute values of numbers, however nested."""
    return abs(values) if isinstance(values, Fraction) else [absolute(item) for item in values]

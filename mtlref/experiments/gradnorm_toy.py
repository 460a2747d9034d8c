"""GradNorm's toy: T tanh regressions that share most of their weights and differ in scale.

Chen et al., ICML 2018, section 4. Page: derivations/experiments/gradnorm-toy.md.

f_i(x) = σ_i tanh((B + ε_i) x), element by element, x (250), f_i (100), the entries of B ~ N(0, 10) and those of
ε_i ~ N(0, 3.5), both read as standard deviations; a trunk of four relu layers of 100, an affine head a task.
Every batch is drawn anew, so its losses before its step are losses on unseen data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mtlref import autograd as ad
from mtlref.autograd import Tensor
from mtlref.experiments import plots
from mtlref.experiments.statistics import Interval, interval, paired
from mtlref.experiments.study import (
    Claim,
    Experiment,
    Log,
    Outcome,
    Run,
    Summary,
    chosen,
    generator,
    in_words,
    rows,
    values,
)
from mtlref.networks import Parameters, SharedTrunk, last_shared_layer, mse
from mtlref.notation import Array, DomainError
from mtlref.optimisers import Adam
from mtlref.settings import build
from mtlref.training import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INPUTS, OUTPUTS = 250, 100
"""The widths of x and of every f_i."""

SPREAD_B, SPREAD_EPS = 10.0, 3.5
"""The standard deviations of the entries of B and of ε_i."""

SCALES = {2: (1.0, 100.0), 10: (48.0, 3.0, 54.0, 16.0, 9.0, 30.0, 52.0, 26.0, 47.0, 81.0)}
"""The σ_i, by the number of tasks: those of the paper for 2, those of two public ports for 10."""

METHODS = ("equal", "gradnorm", "uncertainty", "dwa", "cov")
"""What is compared, by stem."""

Batch = tuple[Array, list[Array]]


@dataclass(frozen=True)
class Law:
    """The law of the data: the matrices B + ε_i (250, 100), the scales σ_i, and how x is drawn."""

    matrices: tuple[Array, ...]
    scales: tuple[float, ...]
    inputs: str

    @classmethod
    def drawn(cls, rng: np.random.Generator, T: int, inputs: str) -> Law:
        """Draw the law's matrices for T tasks."""
        B = rng.normal(0.0, SPREAD_B, (INPUTS, OUTPUTS))
        return cls(tuple(B + rng.normal(0.0, SPREAD_EPS, B.shape) for _ in range(T)), SCALES[T], inputs)

    def sample(self, rng: np.random.Generator, n: int) -> Batch:
        """Return n inputs and the targets of every task."""
        if self.inputs == "positive":
            x = rng.uniform(0.0, 1.0, (n, INPUTS))
        else:
            x = rng.uniform(-1.0, 1.0, (n, INPUTS))
            x /= np.linalg.norm(x, axis=1, keepdims=True)
        return x, [scale * np.tanh(x @ M) for scale, M in zip(self.scales, self.matrices, strict=True)]


@dataclass(frozen=True)
class GradNormToy(Experiment):
    """The toy, for the numbers of tasks in `tasks`.

    `steps` of `batch` examples, the trunk and the heads by Adam(`lr`); GradNorm's weights and the log-variances of
    Uncertainty Weighting by Adam(`weight_lr`); `alpha`: GradNorm's; `epoch`: how many steps DWA takes for one.
    `inputs`: "positive", x ~ U(0, 1), or "unit", x ~ U(−1, 1) scaled to ‖x‖ = 1. `test`: the held-out examples.
    """

    tasks: tuple[int, ...] = (2, 10)
    steps: int = 1000
    batch: int = 50
    lr: float = 1e-3
    weight_lr: float = 0.01
    alpha: float = 0.12
    epoch: int = 40
    inputs: str = "positive"
    test: int = 1000

    name: ClassVar[str] = "gradnorm-toy"
    title: ClassVar[str] = "GradNorm's tanh regressions"
    source: ClassVar[str] = "Chen et al., ICML 2018, arXiv 1711.02257, section 4"
    seeds: ClassVar[int] = 3

    def __post_init__(self) -> None:
        chosen("inputs", self.inputs, ("positive", "unit"))
        for T in self.tasks:
            chosen("tasks", str(T), map(str, SCALES))
        if self.steps % self.epoch:
            message = f"steps = {self.steps} must be a multiple of epoch = {self.epoch}"
            raise DomainError(message, argument="steps", value=self.steps)

    @property
    def arms(self) -> tuple[str, ...]:
        """T=2 and T=10 of every method."""
        return tuple(f"T={T} {stem}" for T in self.tasks for stem in METHODS)

    def method_settings(self, stem: str) -> dict[str, Any]:
        """Return a method's settings."""
        learned = {"lr": self.weight_lr, "optimiser": "adam"}
        return {"gradnorm": {"alpha": self.alpha, **learned}, "uncertainty": learned}.get(stem, {})

    def run(self, arm: str, seed: int) -> Outcome:
        """Train one arm. All arms of a seed see the same data and, for one T, start from the same parameters."""
        T, stem = int(arm[2:].split()[0]), arm.split()[1]
        law = Law.drawn(generator(seed, T, 0), T, self.inputs)
        network = SharedTrunk(INPUTS, (100,) * 4, (OUTPUTS,) * T)
        start, stream = network.init(generator(seed, T, 1)), generator(seed, T, 2)

        def losses(parameters: Parameters[Tensor], batch: Batch) -> list[Tensor]:
            return [mse(output, y) for output, y in zip(network.forward(parameters, batch[0]), batch[1], strict=True)]

        def batches(_: int) -> Iterator[Batch]:
            return (law.sample(stream, self.batch) for _ in range(self.epoch))

        held_out = law.sample(generator(seed, T, 3), self.test)

        def test(parameters: Parameters[Array]) -> Array:
            constants = parameters.rebuilt([ad.constant(array) for array in parameters.flat])
            return np.array([float(loss.value) for loss in losses(constants, held_out)])

        method, settings = build(stem, self.method_settings(stem)), self.method_settings(stem)
        history = train(
            losses,
            start,
            batches,
            method,
            Adam(self.lr),
            epochs=self.steps // self.epoch,
            measured=last_shared_layer(start.shared),
            progress=False,
        )
        first, last = test(start), test(history.parameters)
        by_epoch = (history.losses / first).mean(axis=1).reshape(-1, self.epoch).mean(axis=1)
        shares = history.weights / history.weights.sum(axis=1, keepdims=True) * T
        small, large = int(np.argmin(law.scales)), int(np.argmax(law.scales))
        metrics = {
            "test loss": float(np.mean(last / first)),
            "least σ": float(last[small] / first[small]),
            "largest σ": float(last[large] / first[large]),
            "weight of least σ": float(shares[-self.epoch :, small].mean()),
            "rank correlation": _rank_correlation(np.array(law.scales), shares[-self.epoch :].mean(axis=0)),
            "lowest epoch": float(by_epoch.min()),
            "last epoch": float(by_epoch[-1]),
        }
        curves = {"loss": by_epoch.tolist()}
        for i, label in ((small, "least"), (large, "largest")):
            curves[f"weight {label}"] = shares[:: self.epoch, i].tolist()
        return Outcome(metrics, curves, Log.of(history, stem, settings, [f"task{i}" for i in range(T)], False))

    def summary(self, runs: Sequence[Run]) -> Summary:
        """Return the table, and the paper's claims as far as this network and this training bear them out."""
        shown = ("test loss", "least σ", "largest σ", "weight of least σ")
        claims = []
        for T in self.tasks:
            claims += self._claims(runs, T)
        return Summary(rows(runs, self.arms, shown), claims)

    def _claims(self, runs: Sequence[Run], T: int) -> list[Claim]:
        """Return the paper's claims for T tasks."""

        def gap(a: str, b: str) -> Interval:
            return paired(values(runs, f"T={T} {a}", "test loss"), values(runs, f"T={T} {b}", "test loss"))

        small, large = (values(runs, f"T={T} equal", name) for name in ("least σ", "largest σ"))
        starved = paired(small, large)
        claims = [
            Claim(
                f"T = {T}: equal weights starve the task with the least σ",
                starved.above,
                f"its normalised loss less that of the largest σ is {in_words(starved)}",
            )
        ]
        for rival, words in (("equal", "equal weights"), ("uncertainty", "Uncertainty Weighting")):
            found = gap("gradnorm", rival)
            says = f"T = {T}: GradNorm's normalised test loss is below that of {words}"
            claims.append(Claim(says, found.below, f"the difference is {in_words(found)}"))
        if T == 2:
            weight = interval(values(runs, "T=2 gradnorm", "weight of least σ") - 1)
            claims.append(
                Claim("T = 2: GradNorm raises the weight of σ = 1", weight.above, f"above 1 by {in_words(weight)}")
            )
            return claims
        order = interval(values(runs, f"T={T} gradnorm", "rank correlation"))
        claims.append(
            Claim(
                f"T = {T}: GradNorm weights a task the more, the less its σ",
                order.high is not None and order.high < -0.5,
                f"the rank correlation of weight and σ is {in_words(order)}",
            )
        )
        worse = values(runs, f"T={T} uncertainty", "last epoch") / values(runs, f"T={T} uncertainty", "lowest epoch")
        rise = interval(worse - 1)
        claims.append(
            Claim(
                f"T = {T}: Uncertainty Weighting deteriorates after a fast start",
                rise.low is not None and rise.low > 0.02,
                f"its last epoch lies above its lowest by a share of {in_words(rise)}",
            )
        )
        return claims

    def draw(self, figure: Figure, runs: Sequence[Run], summary: Summary) -> None:
        """Draw weights over time and the normalised loss, a row a T."""
        figure.set_size_inches(9.0, 2.9 * len(self.tasks) + 0.5)
        grid = figure.subplots(len(self.tasks), 2, squeeze=False)
        x = np.arange(0.0, self.steps, self.epoch)
        for T, (left, right) in zip(self.tasks, grid, strict=True):
            for label, style in (("least", "-"), ("largest", ":")):
                for colour, stem in zip(plots.COLOURS, METHODS, strict=False):
                    w = np.mean([r.curves[f"weight {label}"] for r in runs if r.arm == f"T={T} {stem}"], axis=0)
                    left.plot(x, w, style, color=colour)
            left.set(xlabel="step", ylabel="weight (the sum is T)", yscale="log")
            left.set_title(f"T = {T}: weights of the least σ (—) and the largest (···)")
            left.yaxis.set_major_formatter("{x:g}")
            left.yaxis.set_minor_formatter("")
            loss = {s: np.array([r.curves["loss"] for r in runs if r.arm == f"T={T} {s}"]) for s in METHODS}
            shares = {s: curve / loss["equal"] for s, curve in loss.items()}
            plots.curves(
                right, x, shares, "step", "share of equal weights'", f"T = {T}: mean of L_i(t)/L_i(0), unseen data"
            )
        plots.legend_below(figure, grid[0][1], len(METHODS))


EXPERIMENT = GradNormToy


def _rank_correlation(a: Array, b: Array) -> float:
    """Return Spearman's correlation of two samples without ties; 0 where one of them does not vary."""
    if np.ptp(a) == 0 or np.ptp(b) < 1e-9:
        return 0.0
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])

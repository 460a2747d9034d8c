"""Two regressions with noise of known size: what Uncertainty Weighting's σ tends to, and when it is there.

The authors' demonstration of Kendall et al., CVPR 2018. Page: derivations/experiments/uw-regression.md.

x ~ N(0, 1), y_1 = 2x + 8 + 10 ε, y_2 = 3x + 3 + ε, 100 examples; one relu layer of 1024 and two affine heads; Adam
for the network and for the log-variances, batches of 20. The demonstration stops after 2000 epochs and prints σ; here
the training goes on, and σ is compared with what UW-3 says of a stationary point: σ_i² is the mean of L_i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mtlref import autograd as ad
from mtlref.autograd import Tensor
from mtlref.experiments import plots
from mtlref.experiments.statistics import interval
from mtlref.experiments.study import Claim, Experiment, Log, Outcome, Run, Summary, generator, in_words, rows, values
from mtlref.networks import Parameters, SharedTrunk, mse
from mtlref.notation import Array, DomainError
from mtlref.optimisers import Adam
from mtlref.settings import build
from mtlref.training import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUTH = ((2.0, 8.0, 10.0), (3.0, 3.0, 1.0))
"""Slope, intercept and noise of the two regressions."""

PRINTED = (8.5875, 0.9198)
"""The σ that the demonstration's notebook prints, in its PyTorch version, for seed 0."""

N = 100
"""The number of examples."""

Batch = tuple[Array, list[Array]]


def data(seed: int) -> Batch:
    """Return the examples, x (100, 1) and two targets (100, 1), of the demonstration's own generator."""
    rng = np.random.RandomState(seed)  # the notebook's own generator
    x = rng.randn(N, 1)
    return x, [slope * x + intercept + noise * rng.randn(N, 1) for slope, intercept, noise in TRUTH]


@dataclass(frozen=True)
class UWRegression(Experiment):
    """The two regressions: `epochs` of batches of `batch`, by Adam(`lr`); the log-variances by Adam of each rate.

    `early`: the epoch after which the demonstration stops; `window`: the last epochs, over which the losses are
    averaged; `hidden`: the width of the trunk.
    """

    epochs: int = 4000
    early: int = 2000
    window: int = 200
    batch: int = 20
    hidden: int = 1024
    lr: float = 1e-3
    rates: tuple[float, ...] = (1e-3, 1e-2)

    name: ClassVar[str] = "uw-regression"
    title: ClassVar[str] = "Uncertainty Weighting's regressions"
    source: ClassVar[str] = "the authors' demonstration code of Kendall et al., CVPR 2018, arXiv 1705.07115"
    seeds: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if not self.window <= self.early <= self.epochs:
            message = f"window = {self.window}, early = {self.early} and epochs = {self.epochs} must be in this order"
            raise DomainError(message, argument="early", value=self.early)
        if N % self.batch:
            raise DomainError(f"batch = {self.batch} must divide {N}", argument="batch", value=self.batch)

    @property
    def arms(self) -> tuple[str, ...]:
        """The rates of the log-variances."""
        return tuple(f"rate={rate:g}" for rate in self.rates)

    def run(self, arm: str, seed: int) -> Outcome:
        """Train with one rate, and compare σ with the losses and with a straight line's residuals."""
        x, targets = data(seed)
        network = SharedTrunk(1, (self.hidden,), (1, 1))
        shuffle = generator(seed, 1)

        def losses(parameters: Parameters[Tensor], batch: Batch) -> list[Tensor]:
            return [mse(output, y) for output, y in zip(network.forward(parameters, batch[0]), batch[1], strict=True)]

        def batches(_: int) -> Iterator[Batch]:
            for chosen in shuffle.permutation(N).reshape(-1, self.batch):
                yield x[chosen], [y[chosen] for y in targets]

        settings = {"optimiser": "adam", "lr": self.rates[self.arms.index(arm)]}
        history = train(
            losses,
            network.init(generator(seed, 0)),
            batches,
            build("uncertainty", settings),
            Adam(self.lr),
            epochs=self.epochs,
            progress=False,
        )
        steps = N // self.batch
        sigma = 1 / np.sqrt(2 * history.weights[steps - 1 :: steps])  # UW-1, w = exp(−s)/2, after every epoch
        loss = history.losses.reshape(self.epochs, steps, 2).mean(axis=1)
        end = history.parameters.rebuilt([ad.constant(array) for array in history.parameters.flat])
        rmse = np.sqrt([float(value.value) for value in losses(end, (x, targets))])
        metrics: dict[str, float] = {}
        for i in range(2):
            metrics[f"σ{i + 1} early"] = float(sigma[self.early - 1, i])
            metrics[f"σ{i + 1} end"] = float(sigma[-self.window :, i].mean())
            metrics[f"√L{i + 1} end"] = float(np.sqrt(loss[-self.window :, i].mean()))
            metrics[f"RMSE{i + 1} end"] = float(rmse[i])
            metrics[f"line{i + 1}"] = line_residual(x, targets[i])
        thin = max(1, self.epochs // 200)
        curves = {f"σ{i + 1}": sigma[::thin, i].tolist() for i in range(2)}
        curves |= {f"√L{i + 1}": _smoothed(loss[:, i], self.window)[::thin].tolist() for i in range(2)}
        return Outcome(metrics, curves, Log.of(history, "uncertainty", settings, ("noisy", "clean"), False))

    def summary(self, runs: Sequence[Run]) -> Summary:
        """Return σ when the demonstration stops and at the end, and what there is to say of both."""
        names = [
            f"{kind}{i}{when}" for i in (1, 2) for kind, when in (("σ", " early"), ("σ", " end"), ("√L", " end"))
        ]
        names += ["line1", "line2"]
        first = [run for run in runs if run.arm == self.arms[0]]
        early = np.array([[run.metrics[f"σ{i} early"] for i in (1, 2)] for run in first])
        end, root = (
            np.array([[run.metrics[f"{kind}{i} end"] for i in (1, 2)] for run in runs]) for kind in ("σ", "√L")
        )
        away = float(np.max(np.abs(early[0] / PRINTED - 1)))
        fit = {i: interval(values(runs, self.arms[0], f"σ{i} end")) for i in (1, 2)}
        short = interval(1 - early[:, 0] / np.array([run.metrics["σ1 end"] for run in first]))
        apart = float(
            max(
                np.max(np.abs(values(runs, arm, f"σ{i} end") / values(runs, self.arms[0], f"σ{i} end") - 1))
                for arm in self.arms
                for i in (1, 2)
            )
        )
        residual = float(np.max(np.abs(end / root - 1)))
        claims = [
            Claim(
                f"seed 0 after {self.early} epochs gives the printed σ, {PRINTED[0]} and {PRINTED[1]}, within 2 %",
                away < 0.02,
                f"it gives {early[0, 0]:.4f} and {early[0, 1]:.4f}",
            ),
            Claim(
                "σ finds the noise, 10 and 1, within what 100 examples allow (a tenth)",
                all(abs(fit[i].mean / TRUTH[i - 1][2] - 1) < 0.1 for i in (1, 2)),
                f"at the end {in_words(fit[1])} and {in_words(fit[2])}",
            ),
            Claim(
                "at the end σ is the root of the mean loss, as UW-3 has it of a stationary point",
                residual < 0.02,
                f"the largest relative difference is {residual:.2%}",
                published=False,
            ),
            Claim(
                f"σ1 after {self.early} epochs is not stationary: it lies below its end",
                short.above,
                f"by a share of {in_words(short)}",
                published=False,
            ),
            Claim(
                "the end does not depend on the rate of the log-variances",
                apart < 0.02,
                f"the largest relative difference is {apart:.2%}",
                published=False,
            ),
        ]
        return Summary(rows(runs, self.arms, names), claims)

    def draw(self, figure: Figure, runs: Sequence[Run], summary: Summary) -> None:
        """Draw σ, the root of the loss and the truth over the epochs, a panel a task, for seed 0."""
        figure.set_size_inches(8.2, 3.3)
        panels = figure.subplots(1, 2)
        for i, axes in enumerate(panels):
            for colour, arm in zip(plots.COLOURS[1:], self.arms, strict=False):
                (run,) = (run for run in runs if run.arm == arm and run.seed == 0)
                x = np.arange(len(run.curves[f"σ{i + 1}"])) * max(1, self.epochs // 200)
                axes.plot(x, run.curves[f"σ{i + 1}"], color=colour, label=f"σ, {arm}")
                axes.plot(x, run.curves[f"√L{i + 1}"], ":", color=colour, label=f"root of the mean loss, {arm}")
            noise = TRUTH[i][2]
            axes.axhline(noise, color=plots.COLOURS[0], linewidth=0.8, linestyle="--", label="the noise's σ")
            axes.axvline(self.early, color="#bbbbbb", linewidth=0.8)
            axes.plot(
                [self.early], [PRINTED[i]], "o", color=plots.COLOURS[3], markersize=5, label="printed by the notebook"
            )
            axes.set(xlabel="epoch", ylabel="σ", title=f"Task {i + 1}, noise {noise:g} (seed 0)")
            axes.set_ylim(0.6 * noise, 1.15 * noise)
        plots.legend_below(figure, panels[0], 3)


EXPERIMENT = UWRegression


def line_residual(x: Array, y: Array) -> float:
    """Return the root of the mean squared residual of the least-squares line: the likeliest noise of a line."""
    design = np.hstack([x, np.ones_like(x)])
    return float(np.sqrt(np.mean((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2)))


def _smoothed(loss: Array, window: int) -> Array:
    """Return the root of the mean of the last `window` losses, of as many as there are."""
    total = np.concatenate([[0.0], np.cumsum(loss)])
    last = np.arange(1, len(total))
    first = np.maximum(0, last - window)
    return np.asarray(np.sqrt((total[last] - total[first]) / (last - first)))

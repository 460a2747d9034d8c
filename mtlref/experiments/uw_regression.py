"""Two regressions with noise of known size: what Uncertainty Weighting's σ tends to, and when it is there.

The authors' demonstration of Kendall et al., CVPR 2018. Page: derivations/experiments/uw-regression.md.

x ~ N(0, 1), y_1 = 2x + 8 + 10 ε, y_2 = 3x + 3 + ε, 100 examples; one relu layer of 1024 and two affine heads; Adam
for the network and for the log-variances, batches of 20. The demonstration stops after 2000 epochs and prints σ; here
the training goes on, and σ is compared with what UW-3 says of a stationary point: σ_i² is the mean of L_i. One more
arm has seed 0's data and starts by the law of the demonstration's library, up to where the demonstration stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mtlref import autograd as ad
from mtlref.autograd import Tensor
from mtlref.experiments import plots
from mtlref.experiments.statistics import LEVEL, interval
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

SAME = " as printed"
"""The end of the name of the arm whose seeds have the data of seed 0 in common, and start by the library's law."""

STATIONARY = 0.01
"""How far σ may be from the root of the mean loss: the page derives it from how far s still moves."""

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
    averaged; `hidden`: the width of the trunk. The last arm has the first rate, seed 0's data, `early` epochs.
    """

    epochs: int = 3200
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
        """The rates of the log-variances, and the first of them as the demonstration has it."""
        return (*self.by_rate, f"{self.by_rate[0]}{SAME}")

    @property
    def by_rate(self) -> tuple[str, ...]:
        """The arms that train to the end, on the data of their own seed."""
        return tuple(f"rate={rate:g}" for rate in self.rates)

    def run(self, arm: str, seed: int) -> Outcome:
        """Train with one rate, and compare σ with the losses and with a straight line's residuals."""
        same = arm.endswith(SAME)
        (x, targets), epochs = data(0 if same else seed), self.early if same else self.epochs
        network = SharedTrunk(1, (self.hidden,), (1, 1))
        shuffle = generator(seed, 1)

        def losses(parameters: Parameters[Tensor], batch: Batch) -> list[Tensor]:
            return [mse(output, y) for output, y in zip(network.forward(parameters, batch[0]), batch[1], strict=True)]

        def batches(_: int) -> Iterator[Batch]:
            for chosen in shuffle.permutation(N).reshape(-1, self.batch):
                yield x[chosen], [y[chosen] for y in targets]

        settings = {"optimiser": "adam", "lr": self.rates[0 if same else self.arms.index(arm)]}
        history = train(
            losses,
            (library_start if same else SharedTrunk.init)(network, generator(seed, 0)),
            batches,
            build("uncertainty", settings),
            Adam(self.lr),
            epochs=epochs,
            progress=False,
        )
        steps = N // self.batch
        sigma = 1 / np.sqrt(2 * history.weights[steps - 1 :: steps])  # UW-1, w = exp(−s)/2, after every epoch
        loss = history.losses.reshape(epochs, steps, 2).mean(axis=1)
        metrics = {f"σ{i + 1} early": float(sigma[self.early - 1, i]) for i in range(2)}
        log = Log.of(history, "uncertainty", settings, ("noisy", "clean"), False)
        if same:
            return Outcome(metrics, {}, log)
        end = history.parameters.rebuilt([ad.constant(array) for array in history.parameters.flat])
        rmse = np.sqrt([float(value.value) for value in losses(end, (x, targets))])
        for i in range(2):
            metrics[f"σ{i + 1} end"] = float(sigma[-self.window :, i].mean())
            metrics[f"√L{i + 1} end"] = float(np.sqrt(loss[-self.window :, i].mean()))
            metrics[f"RMSE{i + 1} end"] = float(rmse[i])
            metrics[f"line{i + 1}"] = line_residual(x, targets[i])
        thin = max(1, self.epochs // 200)
        curves = {f"σ{i + 1}": sigma[::thin, i].tolist() for i in range(2)}
        curves |= {f"√L{i + 1}": _smoothed(loss[:, i], self.window)[::thin].tolist() for i in range(2)}
        return Outcome(metrics, curves, log)

    def summary(self, runs: Sequence[Run]) -> Summary:
        """Return σ when the demonstration stops and at the end, and what there is to say of both."""
        names = [
            f"{kind}{i}{when}" for i in (1, 2) for kind, when in (("σ", " early"), ("σ", " end"), ("√L", " end"))
        ]
        names += ["line1", "line2"]
        return Summary(rows(runs, self.arms, names), [*self._published(runs), *self._found(runs)])

    def _published(self, runs: Sequence[Run]) -> list[Claim]:
        """Return what the demonstration says: the numbers that it prints, and what they are to be."""
        starts = {i: _spread(values(runs, self.arms[-1], f"σ{i} early")) for i in (1, 2)}
        ends = np.array([values(runs, self.arms[0], f"σ{i} end") / TRUTH[i - 1][2] for i in (1, 2)])
        allowed = sampling_error(ends.size)
        return [
            Claim(
                f"the printed σ, {PRINTED[0]} and {PRINTED[1]}, lie where one more start on its data is expected",
                all(abs(PRINTED[i - 1] - mean) <= half for i, (mean, half) in starts.items()),
                "that is at " + " and ".join(f"{m:.4f} ± {h:.4f}" for m, h in starts.values()),
            ),
            Claim(
                f"at the end σ is the noise, 10 and 1, up to the sampling error of {N} examples, {allowed:.0%}",
                bool(np.all(np.abs(ends - 1) <= allowed)),
                f"as a share of the noise {in_words(interval(ends[0]))} and {in_words(interval(ends[1]))}, "
                f"the farthest off by {np.max(np.abs(ends - 1)):.1%}",
            ),
        ]

    def _found(self, runs: Sequence[Run]) -> list[Claim]:
        """Return what a stationary point says: where σ is, when, and that the rate does not count."""
        whole = [run for run in runs if run.arm in self.by_rate]
        end, root = (
            np.array([[run.metrics[f"{kind}{i} end"] for i in (1, 2)] for run in whole]) for kind in ("σ", "√L")
        )
        early, last = (values(runs, self.arms[0], name) for name in ("σ1 early", "σ1 end"))
        short = interval(1 - early / last)
        by_rate = end.reshape(len(self.by_rate), -1, 2)
        residual, apart = (float(np.max(np.abs(a / b - 1))) for a, b in ((end, root), (by_rate, by_rate[:1])))
        return [
            Claim(
                "at the end σ is the root of the mean loss within 1 %, as UW-3 has it of a stationary point",
                residual < STATIONARY,
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
                "the end does not depend on the rate of the log-variances: no two ends differ by more than 2 · 1 %",
                apart < 2 * STATIONARY,
                f"the largest relative difference is {apart:.2%}",
                published=False,
            ),
        ]

    def draw(self, figure: Figure, runs: Sequence[Run], summary: Summary) -> None:
        """Draw σ, the root of the loss and the truth over the epochs, a panel a task, for seed 0."""
        figure.set_size_inches(8.2, 3.3)
        panels = figure.subplots(1, 2)
        for i, axes in enumerate(panels):
            for colour, arm in zip(plots.COLOURS[1:], self.by_rate, strict=False):
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


def library_start(network: SharedTrunk, rng: np.random.Generator) -> Parameters[Array]:
    """Return parameters by the law of PyTorch's linear layers: weights and biases uniform in ±1/√n, n inputs."""
    layers = network.init(rng)
    drawn: list[Array] = []
    for W, b in zip(layers.flat[::2], layers.flat[1::2], strict=True):
        bound = 1 / np.sqrt(len(W))
        drawn += [rng.uniform(-bound, bound, array.shape) for array in (W, b)]
    return layers.rebuilt(drawn)


def sampling_error(many: int) -> float:
    """Return how far, relatively, the largest of `many` σ from N examples each may be from the truth, at 5 %.

    The standard deviation of a σ from N normal errors is σ/√(2N); Bonferroni shares the 5 % between them.
    """
    from scipy.special import ndtri

    return float(-ndtri(LEVEL / (2 * many)) / np.sqrt(2 * N))


def _spread(sample: Array) -> tuple[float, float]:
    """Return the mean, and how far one more value is from it at 95 %: t s √(1 + 1/n); ∞ for a single value."""
    found = interval(sample)
    return found.mean, float("inf") if found.half is None else found.half * float(np.sqrt(len(sample) + 1))


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

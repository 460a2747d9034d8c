"""Two tasks of known correlation: does it help to have experts, and a gate for each task?

Ma et al., KDD 2018, section 3.2 and 5.1. Page: derivations/experiments/mmoe-synthetic.md.

With u1 ⟂ u2 of length 1, w1 = c u1 and w2 = c (p u1 + √(1 − p²) u2), x ~ N(0, I) in 100 dimensions and
y_k = w_kᵀ x + Σ_j sin(α_j w_kᵀ x + β_j) + ε_k, ε_k ~ N(0, 0.01): p is the cosine of the two tasks' directions. The
networks have about as many parameters: one layer that both tasks share, or 8 experts of 16 units with one gate, a
gate a task, or HMoE's mixture of the scores besides; towers of 8 units. HMoE comes with its defaults, whose scores
run apart (derivations/hmoe.md), without its mask, and with a start that favours the own score.
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
from mtlref.experiments.study import Claim, Experiment, Log, Outcome, Run, Summary, generator, in_words, rows, values
from mtlref.methods import EqualWeights
from mtlref.methods.hmoe import HMoE
from mtlref.mixtures import MMoE
from mtlref.networks import Parameters, SharedTrunk, mse
from mtlref.notation import Array
from mtlref.optimisers import Adam
from mtlref.training import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, WAVES, NOISE = 100, 5, 0.1
"""The dimensions of x, the number of sines, and the standard deviation of ε."""

MODELS = ("shared-bottom", "omoe", "mmoe", "hmoe", "hmoe-free", "hmoe-own")
"""A shared layer; experts with one gate; with a gate a task; with a mixture of the scores besides, in three ways."""

OWN = 0.9
"""The weight of the own score at the start of hmoe-own, at every input."""

Data = tuple[Array, Array]


def network_of(model: str) -> Any:
    """Return the network of a model: 100·16·8 weights in the experts, or a layer of 113 units."""
    towers = ((8, 1), (8, 1))
    if model == "shared-bottom":
        return SharedTrunk(WIDTH, (113,), towers)
    if model.startswith("hmoe"):
        return HMoE(WIDTH + (model == "hmoe-own"), 8, (16,), towers, constrained=model != "hmoe-free")
    return MMoE(WIDTH, 8, (16,), towers, share_gate=model == "omoe")


def started(model: str, rng: np.random.Generator) -> Parameters[Array]:
    """Return initial parameters. hmoe-own's last input is the constant 1, and gives the own score the weight OWN."""
    parameters: Parameters[Array] = network_of(model).init(rng)
    if model == "hmoe-own":
        for k, (_, relation, *_) in enumerate(parameters.heads):
            relation[WIDTH, k] = np.log(OWN / (1 - OWN))
    return parameters


def inputs(model: str, x: Array) -> Array:
    """Return what a model reads: x, for hmoe-own with a column of ones."""
    return np.hstack([x, np.ones((len(x), 1))]) if model == "hmoe-own" else x


@dataclass(frozen=True)
class Law:
    """The law of the data: w (100, 2), a column a task, and α and β (5,), which both tasks share."""

    w: Array
    alpha: Array
    beta: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator, p: float, c: float) -> Law:
        """Draw the directions, orthonormal before they are mixed, and the sines."""
        u = np.linalg.qr(rng.standard_normal((WIDTH, 2)))[0]
        w = c * np.stack([u[:, 0], p * u[:, 0] + np.sqrt(1 - p**2) * u[:, 1]], axis=1)
        return cls(w, rng.standard_normal(WAVES), rng.standard_normal(WAVES))

    def sample(self, rng: np.random.Generator, n: int) -> Data:
        """Return x (n, 100) and y (n, 2)."""
        x = rng.standard_normal((n, WIDTH))
        z = x @ self.w
        waves = np.sin(z[:, :, None] * self.alpha + self.beta).sum(axis=2)
        return x, z + waves + NOISE * rng.standard_normal(z.shape)


@dataclass(frozen=True)
class MMoESynthetic(Experiment):
    """Every model at every correlation p of `correlations`; `c`: the length of w_k.

    `rows` examples are drawn once, and visited `epochs` times in batches of `batch`, by Adam(`lr`); `test` more are
    for the test. A seed's data, but for p, are the same for every arm.
    """

    correlations: tuple[float, ...] = (0.0, 0.5, 1.0)
    c: float = 1.0
    rows: int = 10000
    test: int = 2000
    epochs: int = 8
    batch: int = 100
    lr: float = 3e-3

    name: ClassVar[str] = "mmoe-synthetic"
    title: ClassVar[str] = "Two tasks of known correlation"
    source: ClassVar[str] = "Ma et al., KDD 2018, doi 10.1145/3219819.3220007, sections 3.2 and 5.1"
    seeds: ClassVar[int] = 5

    @property
    def arms(self) -> tuple[str, ...]:
        """The models at every correlation."""
        return tuple(f"p={p:g} {model}" for p in self.correlations for model in MODELS)

    def run(self, arm: str, seed: int) -> Outcome:
        """Train one model on data of one correlation."""
        p, model = self.correlations[self.arms.index(arm) // len(MODELS)], arm.split()[1]
        law = Law.drawn(generator(seed, 0), p, self.c)
        x, y = law.sample(generator(seed, 1), self.rows)
        network = network_of(model)
        start, shuffle = started(model, generator(seed, 2)), generator(seed, 3)

        def losses(parameters: Parameters[Tensor], batch: Data) -> list[Tensor]:
            outputs = network.forward(parameters, inputs(model, batch[0]))
            return [mse(z, batch[1][:, k : k + 1]) for k, z in enumerate(outputs)]

        def batches(_: int) -> Iterator[Data]:
            order = shuffle.permutation(self.rows)
            for first in range(0, self.rows - self.batch + 1, self.batch):
                chosen = order[first : first + self.batch]
                yield x[chosen], y[chosen]

        history = train(losses, start, batches, EqualWeights(), Adam(self.lr), epochs=self.epochs, progress=False)
        held_out = law.sample(generator(seed, 4), self.test)
        end = history.parameters.rebuilt([ad.constant(array) for array in history.parameters.flat])
        tested = [float(loss.value) for loss in losses(end, held_out)]
        by_epoch = history.losses.reshape(self.epochs, -1, 2).mean(axis=(1, 2))
        metrics = {
            "test MSE": float(np.mean(tested)),
            "rise": float(by_epoch[-1] / by_epoch.min()),
            "label correlation": float(np.corrcoef(held_out[1].T)[0, 1]),
        }
        return Outcome(metrics, {"loss": by_epoch.tolist()}, Log.of(history, "equal", {}, ("y1", "y2"), False))

    def loss(self, runs: Sequence[Run], p: float, model: str) -> Array:
        """Return the test losses of a model at a correlation, by seed."""
        return values(runs, f"p={p:g} {model}", "test MSE")

    def summary(self, runs: Sequence[Run]) -> Summary:
        """Return the losses, and the paper's claims about them."""
        least, most = min(self.correlations), max(self.correlations)
        gains = {model: paired(self.loss(runs, least, model), self.loss(runs, most, model)) for model in MODELS}
        means = {model: np.mean([self.loss(runs, p, model) for p in self.correlations], axis=0) for model in MODELS}
        shrunk = {rival: paired(self._gap(runs, rival), self._gap(runs, "mmoe")) for rival in MODELS[:2]}
        same = paired(self.loss(runs, most, "mmoe"), self.loss(runs, most, "omoe"))
        better = {model: paired(means[model], means["shared-bottom"]) for model in ("omoe", "mmoe")}
        claims = [
            Claim(
                f"every model of the paper is better at p = {most:g} than at p = {least:g}",
                all(gains[model].above for model in MODELS[:3]),
                _listed({model: gains[model] for model in MODELS[:3]}),
            ),
            Claim(
                f"the loss that p = {least:g} costs over p = {most:g} is less for MMoE than for its rivals",
                all(found.above for found in shrunk.values()),
                "rival less MMoE: " + _listed(shrunk),
            ),
            Claim(
                f"at p = {most:g} MMoE and OMoE are alike: the interval of their difference holds 0",
                not same.above and not same.below,
                in_words(same),
            ),
            Claim(
                "both mixtures are better than the shared bottom, on average over p",
                all(found.below for found in better.values()),
                _listed(better),
            ),
            *self._hybrid(runs, means),
        ]
        return Summary(rows(runs, self.arms, ("test MSE", "rise", "label correlation")), claims)

    def _hybrid(self, runs: Sequence[Run], means: dict[str, Array]) -> list[Claim]:
        """Return what there is to say of HMoE: where its loss runs away, and how it compares where it does not."""
        unlike = [p for p in self.correlations if p < 1]
        rise = {
            model: np.concatenate([values(runs, f"p={p:g} {model}", "rise") for p in unlike]) for model in MODELS[3:]
        }
        hybrid = {model: paired(means[model], means["mmoe"]) for model in MODELS[4:]}
        tamed = np.concatenate([rise[model] for model in MODELS[4:]])
        return [
            Claim(
                "for p < 1 the training loss of HMoE with its defaults rises again",
                bool(rise["hmoe"].min() > 1),
                f"its last epoch is {rise['hmoe'].min():.2f} to {rise['hmoe'].max():.3g} times its lowest",
                published=False,
            ),
            Claim(
                f"without the mask, or with a start of {OWN:g} for the own score, it does not",
                bool(tamed.max() == 1),
                f"the largest factor is {tamed.max():.2f}",
                published=False,
            ),
            Claim(
                "HMoE of either of these two kinds differs from MMoE, on average over p",
                any(found.above or found.below for found in hybrid.values()),
                f"less MMoE: {_listed(hybrid)}",
                published=False,
            ),
        ]

    def _gap(self, runs: Sequence[Run], model: str) -> Array:
        """Return the loss at the least correlation less that at the largest, by seed."""
        least, most = min(self.correlations), max(self.correlations)
        return self.loss(runs, least, model) - self.loss(runs, most, model)

    def draw(self, figure: Figure, runs: Sequence[Run], summary: Summary) -> None:
        """Draw the loss against the correlation, without the HMoE that runs away, and all losses while training."""
        figure.set_size_inches(8.2, 3.5)
        left, right = figure.subplots(1, 2)
        for i, (colour, model) in enumerate(zip(plots.COLOURS, MODELS, strict=False)):
            cells = [interval(self.loss(runs, p, model)) for p in self.correlations]
            at = np.array(self.correlations) + 0.012 * (i - 2.5)
            half = [0.0 if cell.half is None else cell.half for cell in cells]
            mean = [np.nan if model == "hmoe" else cell.mean for cell in cells]
            left.errorbar(at, mean, half, color=colour, marker=plots.MARKERS[i], capsize=2, label=model)
        left.set(xlabel="p, the cosine of the tasks' directions", ylabel="test MSE")
        left.set_title("Mean and 95 % interval, but for hmoe")
        p = min(self.correlations)
        series = {m: np.array([r.curves["loss"] for r in runs if r.arm == f"p={p:g} {m}"]) for m in MODELS}
        plots.curves(
            right, np.arange(1.0, self.epochs + 1), series, "epoch", "training loss", f"p = {p:g}, all seeds"
        )
        right.set_yscale("log")
        plots.legend_below(figure, left, len(MODELS))


EXPERIMENT = MMoESynthetic


def _listed(found: dict[str, Interval]) -> str:
    """Return intervals by name, in words."""
    return ", ".join(f"{name} {in_words(cell)}" for name, cell in found.items())

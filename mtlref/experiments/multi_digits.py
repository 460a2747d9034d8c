"""Two handwritten digits on one canvas, and their sum: every method against equal weights and against random ones.

Page: derivations/experiments/multi-digits.md. The data are scikit-learn's `load_digits`, 8 × 8 pixels.

Tasks: which digit is at the top left, which at the bottom right (cross-entropy of ten classes), and what they add up
to (squared error). The digits are split into training and test before they are paired. The split, the pairs and the
initial parameters change with the seed, and are the same for every method.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtlref import autograd as ad
from mtlref.autograd import Tensor
from mtlref.contract import Cadence, Method, Reads, Step, same_tasks
from mtlref.experiments import plots
from mtlref.experiments.statistics import critical_difference, friedman, holm, p_value, paired, ranks
from mtlref.experiments.study import Claim, Experiment, Log, Outcome, Run, Summary, generator, rows, values
from mtlref.methods.equal import EqualState
from mtlref.networks import Parameters, SharedTrunk, cross_entropy, last_shared_layer, mse
from mtlref.notation import Array, MissingExtraError, count, vector
from mtlref.optimisers import Adam
from mtlref.settings import build
from mtlref.state import State
from mtlref.training import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, SHIFT = 8, 2
"""The digits' width, and how far the second lies to the right of the first and below it."""

TASKS = ("left", "right", "sum")
ERRORS = ("left error", "right error", "sum MSE")
"""What is measured on the test pairs, a task each: the share of wrong digits, twice, and the squared error."""

NOTHING = 1e-9
"""Weights below this are rounding: of sums that are 0."""

FIXED = (1.402, 1.402, 0.196)
"""Weights by hand, proportional to 1/L_i of a network that knows nothing: log 10, log 10, 16.5; their sum is 3."""

Batch = tuple[Array, NDArray[np.int64]]


@dataclass(frozen=True)
class RandomWeights(Method):
    """Random weights: w = K softmax(z), z ~ N(0, 1) anew at every step (Lin et al., TMLR 2022). A yardstick."""

    stem: ClassVar[str] = "random"
    title: ClassVar[str] = "Random weights"
    source: ClassVar[str] = "Lin et al., TMLR 2022, arXiv 2111.10603"
    reads: ClassVar[Reads] = "losses"
    cadence: ClassVar[Cadence] = "step"
    tags: ClassVar[dict[str, str]] = {}
    start: ClassVar[str] = ""
    heads: ClassVar[str] = ""

    def init(self, n_tasks: int) -> EqualState:
        """Return the state, which says nothing of the weights to come."""
        return EqualState(np.ones(count("n_tasks", n_tasks)))

    def sample(self, rng: np.random.Generator, n_tasks: int) -> Array:
        """Return z (K,)."""
        return rng.standard_normal(n_tasks)

    def step(
        self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None, draw: ArrayLike | None = None
    ) -> Step:
        """Return the weights of the draw, for the trunk and the heads."""
        known, w = same_tasks(state, EqualState)
        z = vector("draw", np.zeros(len(w)) if draw is None else draw, len(w))
        e = np.exp(z - np.max(z))
        w = len(w) * e / np.sum(e)
        return Step(weights=w, head_weights=w, state=known, terms={})


def canvases(images: Array, first: NDArray[np.int64], second: NDArray[np.int64]) -> Array:
    """Return canvases (n, 100) with a digit at the top left and one at the bottom right, the more ink winning."""
    width = SIDE + SHIFT
    canvas = np.zeros((len(first), width, width))
    canvas[:, :SIDE, :SIDE] = images[first]
    np.maximum(canvas[:, SHIFT:, SHIFT:], images[second], out=canvas[:, SHIFT:, SHIFT:])
    return canvas.reshape(len(first), -1)


def pairs(images: Array, labels: NDArray[np.int64], rng: np.random.Generator, partners: int) -> Batch:
    """Return canvases (n, 100) and labels (n, 2): every digit at the top left, with `partners` others by chance."""
    first = np.tile(np.arange(len(images)), partners)
    second = (first + rng.integers(1, len(images), len(first))) % len(images)
    return canvases(images, first, second), np.stack([labels[first], labels[second]], axis=1)


@dataclass(frozen=True)
class MultiDigits(Experiment):
    """`epochs` of batches of `batch` pairs, `partners` pairs for each of `training` digits; the rest are the test.

    The network is a relu trunk with affine heads, moved by Adam(`lr`); the weights of GradNorm and the log-variances
    of Uncertainty Weighting by Adam(`weight_lr`); `alpha`: GradNorm's. At this rate its weights have to be clamped at
    0 (GN-C3), where they stay; gradnorm-slow has the rate `slow_lr`, and needs no clamp.
    """

    epochs: int = 15
    batch: int = 100
    training: int = 1200
    partners: int = 2
    trunk: tuple[int, ...] = (64, 32)
    lr: float = 3e-3
    weight_lr: float = 0.025
    slow_lr: float = 0.0025
    alpha: float = 1.5

    name: ClassVar[str] = "multi-digits"
    title: ClassVar[str] = "Two digits and their sum"
    source: ClassVar[str] = "scikit-learn's digits; Kurin et al., NeurIPS 2022; Lin et al., TMLR 2022"
    seeds: ClassVar[int] = 10

    def needs(self) -> None:
        """Raise MissingExtraError without scikit-learn."""
        digits()

    @cached_property
    def methods(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """The methods by the names of the arms: a stem and its settings."""
        learned = {"optimiser": "adam", "lr": self.weight_lr}
        balance = {"alpha": self.alpha, "negative": "clamp", **learned}
        slowly = {"alpha": self.alpha, "optimiser": "adam", "lr": self.slow_lr}
        gradnorm, slow = ({"method": "gradnorm", **settings} for settings in (balance, slowly))
        likelihoods = ["softmax", "softmax", "gaussian"]
        uncertainty = {"method": "uncertainty", "likelihoods": likelihoods, **learned}
        epoch = {"epoch_steps": self.steps}
        single: dict[str, tuple[str, dict[str, Any]]] = {
            "equal": ("equal", {}),
            "random": ("random", {}),
            "fixed": ("fixed", {"weights": list(FIXED)}),
            "gradnorm": ("gradnorm", balance),
            "gradnorm-slow": ("gradnorm", slowly),
            "pe_ltr": ("pe_ltr", {}),
            "pcgrad": ("pcgrad", {}),
            "uncertainty": ("uncertainty", {"likelihoods": likelihoods, **learned}),
            "dwa": ("dwa", {}),
            "cov": ("cov", {}),
        }
        stages: dict[str, tuple[list[Any], dict[str, int]]] = {
            "dwa+gradnorm-slow": (["dwa", slow], epoch),
            "cov+gradnorm-slow": (["cov", slow], {}),
            "cov+pcgrad": (["cov", "pcgrad"], {}),
            "gradnorm-slow+pcgrad": ([slow, "pcgrad"], {}),
            "uncertainty+pcgrad": ([uncertainty, "pcgrad"], {}),
            "gradnorm-slow+pe_ltr": ([slow, "pe_ltr"], {}),
            "gradnorm+pe_ltr": ([gradnorm, "pe_ltr"], {}),
            "dwa+gradnorm-slow+pcgrad": (["dwa", slow, "pcgrad"], epoch),
        }
        return single | {name: ("combination", {"stages": s, **more}) for name, (s, more) in stages.items()}

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return self.training * self.partners // self.batch

    @property
    def arms(self) -> tuple[str, ...]:
        """The methods, equal and random weights first, the combinations last."""
        return tuple(self.methods)

    def data(self, seed: int) -> tuple[Batch, Batch]:
        """Return the pairs for training and those for the test, of digits that were split before."""
        images, labels = digits()
        order = generator(seed, 0).permutation(len(images))
        parts = order[: self.training], order[self.training :]
        first, second = (
            pairs(images[part], labels[part], generator(seed, 1 + i), self.partners) for i, part in enumerate(parts)
        )
        return first, second

    def run(self, arm: str, seed: int) -> Outcome:
        """Train with one method and measure it on pairs of digits that the training has not seen."""
        (x, y), test = self.data(seed)
        network = SharedTrunk(x.shape[1], self.trunk, (10, 10, 1))
        start, shuffle = network.init(generator(seed, 3)), generator(seed, 4)

        def losses(parameters: Parameters[Tensor], batch: Batch) -> list[Tensor]:
            left, right, total = network.forward(parameters, batch[0])
            first, second = batch[1].T
            wrong = [cross_entropy(left, first), cross_entropy(right, second)]
            return [*wrong, mse(total, (first + second)[:, None])]

        def batches(_: int) -> Iterator[Batch]:
            for chosen in shuffle.permutation(len(x))[: self.steps * self.batch].reshape(-1, self.batch):
                yield x[chosen], y[chosen]

        stem, settings = self.methods[arm]
        method = RandomWeights() if stem == "random" else build(stem, settings)
        history = train(
            losses,
            start,
            batches,
            method,
            Adam(self.lr),
            epochs=self.epochs,
            measured=last_shared_layer(start.shared) if method.reads == "norms" else slice(None),
            rng=generator(seed, 5),
            progress=False,
        )
        used = np.abs(history.weights).mean(axis=0)
        metrics = dict(zip(ERRORS, errors(network, history.parameters, test), strict=True))
        metrics |= {f"share {task}": float(share) for task, share in zip(TASKS, used / used.sum(), strict=True)}
        metrics["sum at 0"] = float(np.mean(history.weights[:, 2] == 0))
        metrics["all at 0"] = float(np.mean(np.abs(history.weights).max(axis=1) < NOTHING))
        by_epoch = history.losses.reshape(self.epochs, self.steps, 3).mean(axis=1)
        curves = {f"loss {task}": by_epoch[:, i].tolist() for i, task in enumerate(TASKS)}
        log = Log.of(history, None if stem == "random" else stem, settings, TASKS, method.reads == "gram")
        return Outcome(metrics, curves, log)

    def summary(self, runs: Sequence[Run]) -> Summary:
        """Return the errors, the scores and ranks of all methods, and what they say of equal and random weights."""
        scores = scores_of(runs, self.arms)
        mean_ranks = ranks(scores).mean(axis=0)
        table = rows(runs, self.arms, ERRORS)
        for i, row in enumerate(table):
            row["score − equal"] = None if i == 0 else paired(scores[:, i], scores[:, 0])
            row["mean rank"] = float(mean_ranks[i])
            for name in ("sum at 0", "all at 0"):
                row[name] = float(values(runs, self.arms[i], name).mean()) or None
        claims = []
        for j, (name, source) in enumerate((("equal", "Kurin et al."), ("random", "Lin et al."))):
            better, worse = different(scores, self.arms, j)
            says = f"no method has a score that is better than that of {name} weights ({source})"
            claims.append(Claim(says, not better, f"better: {_names(better)}; worse: {_names(worse)} (Holm, 5 %)"))
        better, worse = different(scores, self.arms, self.arms.index("fixed"))
        says = "no method has a score that is better than that of the fixed weights"
        rest = _names([arm for arm in self.arms if arm not in (*better, *worse, "fixed")])
        evidence = f"better: {_names(better)}; not different: {rest} (Holm, 5 %)"
        claims.append(Claim(says, not better, evidence, published=False))
        if len(scores) > 1:
            p = friedman(scores)
            gap = critical_difference(len(self.arms), len(scores))
            says = "the methods' ranks differ at all (Friedman)"
            claims.append(Claim(says, p < 0.05, f"p = {p:.2g}; critical difference {gap:.2f}", published=False))
        found = self._combined(scores)
        says = "a combination has a better score than each of its parts"
        claims.append(Claim(says, bool(found), f"{_names(found)} (Holm, 5 %)", published=False))
        return Summary(table, [*claims, *self._stopped(runs)])

    def _stopped(self, runs: Sequence[Run]) -> list[Claim]:
        """Return what becomes of a weight that GradNorm's clamp takes to 0, alone and in front of PE-LTR."""
        found = []
        for arm, name, says in (
            ("gradnorm", "sum at 0", "GradNorm, clamped, gives the sum up: its weight is 0 at most of the steps"),
            ("gradnorm+pe_ltr", "all at 0", "PE-LTR after it stands still: all weights are 0 at most of the steps"),
        ):
            share = values(runs, arm, name)
            evidence = f"at {share.min():.0%} to {share.max():.0%} of them"
            found.append(Claim(says, bool(share.min() > 0.5), evidence, published=False))
        return found

    def _combined(self, scores: Array) -> list[str]:
        """Return the combinations whose score is better than that of every part."""
        found = []
        for i, name in enumerate(self.arms):
            parts = [self.arms.index(part) for part in name.split("+")] if "+" in name else []
            p = [p_value(scores[:, i], scores[:, j]) for j in parts]
            falls = holm(p)
            better = [falls[k] and scores[:, i].mean() < scores[:, j].mean() for k, j in enumerate(parts)]
            if parts and all(better):
                found.append(name)
        return found

    def draw(self, figure: Figure, runs: Sequence[Run], summary: Summary) -> None:
        """Draw the scores against those of equal weights, and the mean ranks with their critical difference."""
        figure.set_size_inches(9.4, 4.2)
        left, right = figure.subplots(1, 2)
        scores = scores_of(runs, self.arms)
        cells = {arm: paired(scores[:, i], scores[:, 0]) for i, arm in enumerate(self.arms) if i}
        plots.intervals(
            left, cells, "score − score of equal weights (below 0 is better)", "Mean and 95 % interval", 0.0
        )
        mean_ranks = dict(zip(self.arms, ranks(scores).mean(axis=0).tolist(), strict=True))
        plots.rank_diagram(right, mean_ranks, critical_difference(len(self.arms), len(scores)))


EXPERIMENT = MultiDigits


def digits() -> tuple[Array, NDArray[np.int64]]:
    """Return the images (1797, 8, 8), from 0 to 1, and their labels. Errors: MissingExtraError."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        message = "multi-digits needs scikit-learn: pip install 'mtlref[experiments]'"
        raise MissingExtraError(message, argument="experiments") from error
    data = load_digits()
    return np.asarray(data.images / 16.0, dtype=np.float64), np.asarray(data.target, dtype=np.int64)


def errors(network: SharedTrunk, parameters: Parameters[Array], test: Batch) -> list[float]:
    """Return the shares of wrong digits at the top left and the bottom right, and the sum's mean squared error."""
    outputs = network.forward(parameters.rebuilt([ad.constant(array) for array in parameters.flat]), test[0])
    left, right, total = (output.value for output in outputs)
    labels = test[1]
    wrong = [float(np.mean(np.argmax(z, axis=1) != labels[:, i])) for i, z in enumerate((left, right))]
    return [*wrong, float(np.mean((total[:, 0] - labels.sum(axis=1)) ** 2))]


def scores_of(runs: Sequence[Run], arms: Sequence[str]) -> Array:
    """Return the scores (N, k) by seed and arm: the mean over the tasks of error / mean error of equal weights."""
    table = np.array([[values(runs, arm, error) for error in ERRORS] for arm in arms])  # (k, 3, N)
    return np.asarray((table / table[0].mean(axis=1)[None, :, None]).mean(axis=1).T)


def different(scores: Array, arms: Sequence[str], j: int) -> tuple[list[str], list[str]]:
    """Return the arms that are better than arm j and those that are worse: paired t-tests, Holm's procedure."""
    others = [i for i in range(len(arms)) if i != j]
    falls = holm([p_value(scores[:, i], scores[:, j]) for i in others])
    gaps = {arms[i]: scores[:, i].mean() - scores[:, j].mean() for i, f in zip(others, falls, strict=True) if f}
    return [arm for arm, gap in gaps.items() if gap < 0], [arm for arm, gap in gaps.items() if gap > 0]


def _names(arms: Sequence[str]) -> str:
    """Return the names, or that there are none."""
    return ", ".join(arms) or "none"

"""Two losses on a plane, with a steep valley on the way to the Pareto set: who gets through, and where they end.

Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, and its followers. Page:
derivations/experiments/landscape-2d.md.

At x = (x1, x2), with ⌈u⌉ = max(|u|, 5·10⁻⁶):

    f1 = log ⌈(−x1 − 7)/2 − tanh(−x2)⌉ + 6        q1 = ((−x1 + 7)² + (−x2 − 8)²/10)/10 − 20
    f2 = log ⌈(−x1 + 3)/2 + tanh(−x2) + 2⌉ + 6    q2 = ((−x1 − 7)² + (−x2 − 8)²/10)/10 − 20
    c1 = max(tanh(x2/2), 0)                       c2 = max(tanh(−x2/2), 0)

and L1 = f1 c1 + q1 c2, L2 = f2 c1 + q2 c2. All starts are swept at once, with slopes by hand and the weights of two
tasks in closed form: a hundred thousand steps take half a minute. What they have to equal are the tape's slopes and
the methods' own steps (tests/experiments/test_landscape_2d.py), and the audit replays the log with the methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mtlref.contract import Method
from mtlref.experiments import plots
from mtlref.experiments.study import Claim, Experiment, Log, Outcome, Run, Summary, generator
from mtlref.methods import PELTR, EqualWeights, PCGrad
from mtlref.notation import Array
from mtlref.optimisers import Adam
from mtlref.qp import minimum_norm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STARTS = ((-8.5, 7.5), (-8.5, -5.0), (9.0, 9.0), (0.0, 0.0), (-7.5, -0.5), (9.0, -1.0))
"""The published starts: CAGrad's three, then those that Nash-MTL and FAMO have besides."""

FLOOR = 5e-6
"""Below it the argument of a logarithm counts as this."""

PARETO_X2, PARETO_X1 = -8.3552, 7.0
"""The Pareto set is the segment of this x2 with |x1| up to this."""

METHODS: dict[str, Method] = {"sum": EqualWeights(), "pcgrad": PCGrad(), "min-norm": PELTR(timing="same")}
"""The sum of the losses; PCGrad; PE-LTR without bounds, which for two tasks is the minimum-norm direction."""

SIDES: dict[str, dict[str, object]] = {"sum": {}, "pcgrad": {}, "min-norm": {"timing": "same"}}
"""Their settings, for the logs."""


def values_and_gradients(points: Array) -> tuple[Array, Array]:
    """Return the losses (P, 2) and their gradients (P, 2, 2), a row a loss, at the points (P, 2).

    At x2 = 0, where c1 and c2 have a kink, their slopes are the means of those on both sides.
    """
    x1, x2 = points.T
    bend, above = np.tanh(-x2), np.tanh(x2 * 0.5)
    bent, raised = 1.0 - bend**2, (1.0 - above**2) * 0.5
    c = np.stack([np.abs(above) + above, np.abs(above) - above]) * 0.5
    dc = raised * np.stack([np.sign(above) + 1.0, np.sign(above) - 1.0]) * 0.5
    bowl = (x2 + 8.0) ** 2 * 0.1
    L, J = np.empty((len(points), 2)), np.empty((len(points), 2, 2))
    for k, (u, turn, side) in enumerate(
        (((-x1 - 7.0) * 0.5 - bend, bent, x1 - 7.0), ((-x1 + 3.0) * 0.5 + bend + 2.0, -bent, x1 + 7.0))
    ):
        size = np.maximum(np.abs(u), FLOOR)
        slope = np.where(np.abs(u) > FLOOR, np.sign(u) / size, 0.0)
        f, q = np.log(size) + 6.0, (side**2 + bowl) * 0.1 - 20.0
        L[:, k] = f * c[0] + q * c[1]
        J[:, k, 0] = -0.5 * slope * c[0] + 0.2 * side * c[1]
        J[:, k, 1] = turn * slope * c[0] + f * dc[0] + 0.02 * (x2 + 8.0) * c[1] + q * dc[1]
    return L, J


def weights(arm: str, J: Array) -> Array:
    """Return the weights (P, 2) that a method gives two tasks with the gradients J (P, 2, 2): what its step returns.

    PCGrad: g1 and g2 lose their components along each other if g1·g2 < 0, so w_k = 1 − min(g1·g2, 0)/‖g_k‖² (PCG-3).
    The minimum-norm point: w_1 = (g2 − g1)·g2 / ‖g2 − g1‖², kept in [0, 1] (QP-2).
    """
    if arm == "sum":
        return np.ones(J.shape[:2])
    first, second = J[:, 0], J[:, 1]
    if arm == "pcgrad":
        squares = (J**2).sum(axis=2)
        against = np.minimum((first * second).sum(axis=1), 0.0)[:, None]
        return np.asarray(1.0 - against / np.where(squares > 0, squares, 1.0))
    apart = ((second - first) ** 2).sum(axis=1)
    share = ((second - first) * second).sum(axis=1) / np.where(apart > 0, apart, 1.0)
    share = np.where(apart > 0, np.clip(share, 0.0, 1.0), 0.5)
    return np.stack([share, 1.0 - share], axis=1)


def region(point: Array) -> str:
    """Return where a point lies: on the Pareto set (within a quarter), in the valley above x2 = 0, or elsewhere."""
    x1, x2 = point
    if abs(x2 - PARETO_X2) < 0.25 and abs(x1) < PARETO_X1 + 0.25:
        return "Pareto set"
    return "valley" if x2 > 0 else "elsewhere"


@dataclass(frozen=True)
class Landscape2D(Experiment):
    """`steps` of Adam(`lr`) from every start. Seed 0 has the published starts; others move them by N(0, `jitter`)."""

    steps: int = 100000
    lr: float = 1e-3
    jitter: float = 0.1

    name: ClassVar[str] = "landscape-2d"
    title: ClassVar[str] = "Two losses on a plane"
    source: ClassVar[str] = "Liu et al., NeurIPS 2021, arXiv 2110.14048"
    seeds: ClassVar[int] = 2

    @property
    def arms(self) -> tuple[str, ...]:
        """The methods."""
        return tuple(METHODS)

    def run(self, arm: str, seed: int) -> Outcome:
        """Descend from every start at once."""
        optimiser, x = Adam(self.lr), np.array(STARTS)
        if seed:
            x = x + self.jitter * generator(seed).standard_normal(x.shape)
        moving, path, log = optimiser.init(x), [x], []
        thin = max(1, self.steps // 250)
        for step in range(self.steps):
            L, J = values_and_gradients(x)
            w = weights(arm, J)
            log.append((L[0], J[0], w[0]))
            x, moving = optimiser.step(moving, x, (w[:, :, None] * J).sum(axis=1))
            if (step + 1) % thin == 0:
                path.append(x)
        L, J = values_and_gradients(x)
        metrics: dict[str, float] = {}
        curves: dict[str, list[float]] = {}
        for p in range(len(x)):
            for name, value in (("x1", x[p, 0]), ("x2", x[p, 1]), ("L1", L[p, 0]), ("L2", L[p, 1])):
                metrics[f"start {p + 1} {name}"] = float(value)
            arrived = [i for i, at in enumerate(path) if region(at[p]) == "Pareto set"]
            if arrived:
                metrics[f"start {p + 1} steps"] = float(arrived[0] * thin)
            metrics[f"start {p + 1} min-norm"] = float(np.sqrt(minimum_norm(J[p]).objective))
            curves |= {f"start {p + 1} x{i + 1}": [float(at[p, i]) for at in path] for i in range(2)}
        return Outcome(metrics, curves, _log(arm, log))

    def summary(self, runs: Sequence[Run]) -> Summary:
        """Return where each method ends from each start and when it is there, and what the sources say of it."""
        table, ends = [], {}
        for arm in self.arms:
            for p, start in enumerate(STARTS, 1):
                mine = [run.metrics for run in runs if run.arm == arm]
                x = [np.array([m[f"start {p} x1"], m[f"start {p} x2"]]) for m in mine]
                ends[arm, p] = region(x[0])
                row: dict[str, str | float | None] = {"arm": arm, "start": f"({start[0]:g}, {start[1]:g})"}
                row |= {name: mine[0][f"start {p} {name}"] for name in ("x1", "x2", "L1", "L2")}
                row |= {"‖min-norm‖": mine[0][f"start {p} min-norm"], "ends in": ends[arm, p]}
                row["steps"] = mine[0].get(f"start {p} steps")
                row["share on the Pareto set"] = float(np.mean([region(end) == "Pareto set" for end in x]))
                table.append(row)
        first = {arm: [ends[arm, p] for p in (1, 2, 3)] for arm in self.arms}
        claims = [
            Claim(
                "the sum stays in the valley from CAGrad's first and third start, and arrives from the second",
                first["sum"] == ["valley", "Pareto set", "valley"],
                f"it ends in: {', '.join(first['sum'])}",
            )
        ]
        for arm, words in (("pcgrad", "PCGrad"), ("min-norm", "the minimum-norm direction")):
            says = f"{words} arrives at the Pareto set from all three of CAGrad's starts"
            claims.append(Claim(says, set(first[arm]) == {"Pareto set"}, f"it ends in: {', '.join(first[arm])}"))
        arrived = {arm: sum(ends[arm, p + 1] == "Pareto set" for p in range(len(STARTS))) for arm in self.arms}
        evidence = ", ".join(f"{arm} {n} of {len(STARTS)}" for arm, n in arrived.items())
        says = "PCGrad and the minimum-norm direction arrive from more starts than the sum"
        holds = min(arrived["pcgrad"], arrived["min-norm"]) > arrived["sum"]
        return Summary(table, [*claims, Claim(says, holds, evidence, published=False)])

    def draw(self, figure: Figure, runs: Sequence[Run], summary: Summary) -> None:
        """Draw the sum of the losses with the paths on it, a panel a method."""
        figure.set_size_inches(9.4, 3.9)
        panels = figure.subplots(1, len(METHODS), sharey=True)
        for axes, arm in zip(panels, METHODS, strict=True):
            (run,) = (run for run in runs if run.arm == arm and run.seed == 0)
            _panel(axes, run)
            axes.set(title=arm, xlabel="x1")
        panels[0].set_ylabel("x2")
        plots.legend_below(figure, panels[0], 4)


EXPERIMENT = Landscape2D


def _panel(axes: Axes, run: Run) -> None:
    """Draw the contours of L1 + L2, the paths of one run, and the Pareto set."""
    a, b = np.meshgrid(np.linspace(-10.5, 10.5, 161), np.linspace(-10.5, 10.5, 161))
    with np.errstate(all="ignore"):
        L, _ = values_and_gradients(np.stack([a.ravel(), b.ravel()], axis=1))
    ground = axes.contourf(a, b, L.sum(axis=1).reshape(a.shape), levels=24, cmap="Greys_r", alpha=0.75)
    ground.set_rasterized(True)  # its outlines would make the file ten times as large
    axes.plot([-PARETO_X1, PARETO_X1], [PARETO_X2] * 2, color="#e69f00", linewidth=5, alpha=0.8, label="Pareto set")
    for p, colour in enumerate(plots.COLOURS[1:7], 1):
        x, y = (run.curves[f"start {p} x{i}"] for i in (1, 2))
        axes.plot(x, y, color=colour, linewidth=1.3)
        axes.plot(x[:1], y[:1], "o", color=colour, markersize=5, label="start" if p == 1 else None)
        axes.plot(x[-1:], y[-1:], "X", color=colour, markersize=8, mec="white", label="end" if p == 1 else None)
    axes.set(xlim=(-10.5, 10.5), ylim=(-10.5, 10.5), aspect="equal")


def _log(arm: str, rows: Sequence[tuple[Array, Array, Array]]) -> Log:
    """Return the log of the first start."""
    L, J, w = (np.array(column) for column in zip(*rows, strict=True))
    columns = {"step": np.arange(len(L), dtype=np.float64)}
    for kind, found in (("loss", L), ("norm", np.linalg.norm(J, axis=2)), ("weight", w)):
        columns |= {f"{kind}/{i + 1}": found[:, i] for i in range(2)}
    for i, j in ((0, 0), (0, 1), (1, 1)):
        columns[f"gram/{i + 1}/{j + 1}"] = (J[:, i] * J[:, j]).sum(axis=1)
    return Log(columns, {"method": METHODS[arm].stem, "settings": SIDES[arm]})

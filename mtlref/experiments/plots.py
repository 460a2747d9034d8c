"""The experiments' figures, through matplotlib: one style, and the few kinds of panel that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtlref.notation import Array, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    "#444444",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c510a",
    "#7b3294",
    "#1b7837",
)
"""Told apart by people who see colours differently (after Okabe and Ito); the first is for the baseline."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "mtlref",
}


def save(path: Path, draw: Callable[[Figure], None]) -> None:
    """Write a figure that `draw` fills; the same drawing gives the same bytes. Errors: MissingExtraError."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "the figure needs matplotlib: pip install 'mtlref[plot]'"
        raise MissingExtraError(message, argument="plot") from error
    with matplotlib.rc_context(STYLE):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def curves(
    axes: Axes, x: Sequence[float] | Array, series: Mapping[str, Array], xlabel: str, ylabel: str, title: str
) -> None:
    """Draw lines with a name each, in the order of the colours; (n, points) is a mean with all its runs behind it."""
    for colour, (name, y) in zip(COLOURS, series.items(), strict=False):
        every = np.atleast_2d(y)
        if len(every) > 1:
            axes.fill_between(x, every.min(axis=0), every.max(axis=0), color=colour, alpha=0.13, linewidth=0)
        axes.plot(x, every.mean(axis=0), color=colour, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)


def intervals(axes: Axes, cells: Mapping[str, Any], xlabel: str, title: str, baseline: float | None = None) -> None:
    """Draw means with their intervals, a row an arm, the first on top; `baseline`: a line to compare with."""
    names = list(cells)[::-1]
    for y, name in enumerate(names):
        cell = cells[name]
        half = 0.0 if cell.half is None else cell.half
        axes.errorbar(cell.mean, y, xerr=half, fmt="o", color=COLOURS[1], capsize=2, markersize=4, linewidth=1.2)
    if baseline is not None:
        axes.axvline(baseline, color=COLOURS[0], linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=xlabel, title=title)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)


def rank_diagram(axes: Axes, mean_ranks: Mapping[str, float], difference: float) -> None:
    """Draw mean ranks, the best on top, with a bar over each group whose ranks are closer than the difference."""
    names = sorted(mean_ranks, key=lambda name: mean_ranks[name])
    at = [mean_ranks[name] for name in names]
    axes.scatter(at, range(len(names)), color=COLOURS[1], zorder=3, s=18)
    axes.hlines(range(len(names)), 1, at, color="#cccccc", linewidth=0.6, zorder=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    reach, last = 0, -1
    bars = []
    for first in range(len(names)):
        reach = max(i for i in range(first, len(names)) if at[i] - at[first] < difference)
        if reach > last and reach > first:
            bars.append((first, reach))
        last = max(last, reach)
    edge = max(at) + 0.5
    for place, (first, reach) in enumerate(bars):
        axes.plot([edge + 0.35 * place] * 2, [first - 0.2, reach + 0.2], color=COLOURS[2], linewidth=2.5)
    axes.set(xlabel="mean rank over the seeds (1 is best)", title=f"Bars: less than {difference:.2f} apart")


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the legend of one panel under the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)

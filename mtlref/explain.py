"""Explain: every tagged equation of a method, with the numbers that it gives on a small problem.

The problem is the built-in one, or the losses and gradients that the user gives. Several rows of losses are several
steps (epochs, for a method that steps once an epoch); the last one is explained. Gradients given by their norms alone
are taken in orthogonal directions. A method that draws at random draws with the seed 0, and the draw is shown.

One equation, asked for by its tag, is shown with all that stands under it (`mtlref.lookup`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mtlref.contract import Method, Step, weights_of
from mtlref.lookup import Entry
from mtlref.notation import Array, formula, matrix, norms
from mtlref.settings import described
from mtlref.state import State

EXAMPLE_LOSSES = ((2.0, 1.0, 4.0), (1.0, 0.8, 3.6))
"""The built-in problem: task 0 has halved its loss, task 2 has hardly moved."""
EXAMPLE_JACOBIANS = (
    ((1.0, 0.0), (-1.8, 2.4), (0.0, -0.5)),
    ((0.8, 0.0), (-1.5, 2.0), (0.36, -0.48)),
)
"""Its task gradients, of norms (1, 3, 0.5) and (0.8, 2.5, 0.6): the second is in conflict with the others."""


@dataclass(frozen=True)
class Explanation:
    """The step that is explained: the state before it, what it was given, and what came out.

    `tag`: the equation that is shown, all of them if None.
    """

    method: Method
    state: State
    losses: Array
    jacobian: Array
    draw: Array | None
    step: Step
    tag: str | None = None

    def equations(self) -> list[tuple[str, str, str, object]]:
        """Return (tag, formula, name, value) of every equation that is shown, in tag order."""
        method, first = self.method, weights_of(self.method.init(len(self.losses)))
        rows = [(tag, name, self.step.terms[name]) for name, tag in method.tags.items()]
        rows += [(method.heads, "head_weights", self.step.head_weights), (method.start, "w_0", first)]
        return [(tag, formula(tag), name, value) for tag, name, value in rows if self.tag in (None, tag)]

    def plain(self) -> Mapping[str, object]:
        """Return the explanation as what the json module writes."""
        return {
            "method": self.method.stem,
            "settings": described(self.method),
            "losses": self.losses.tolist(),
            "jacobian": self.jacobian.tolist(),
            "draw": None if self.draw is None else self.draw.tolist(),
            "weights": self.step.weights.tolist(),
            "equations": [
                {"tag": tag, "formula": text, "name": name, "value": np.asarray(value).tolist()}
                for tag, text, name, value in self.equations()
            ],
        }


def explain(method: Method, losses: ArrayLike, jacobians: Sequence[ArrayLike], tag: str | None = None) -> Explanation:
    """Return the explanation of the last of the steps on `losses` (N, K) and the Jacobians, each (K, D).

    `tag`: the one equation to be shown. With fewer Jacobians than losses the last one goes on.
    Errors: ShapeError, and whatever the steps raise.
    """
    L = matrix("losses", losses)
    K, rng = L.shape[1], np.random.default_rng(0)
    state = method.init(K)
    for row in range(len(L)):
        before, J = state, matrix("jacobian", jacobians[min(row, len(jacobians) - 1)], K)
        draw = method.sample(rng, K)
        step = method.step(before, L[row], J, **({} if draw is None else {"draw": draw}))
        state = step.state
    return Explanation(method, before, L[-1], J, draw, step, tag)


def orthogonal(norms: Sequence[Sequence[float]]) -> list[Array]:
    """Return a Jacobian of orthogonal rows for each row of norms (K,)."""
    return [np.diag(row) for row in norms]


def text(explanation: Explanation, width: int = 100) -> str:
    """Return the explanation as it is printed."""
    method = explanation.method
    lines = [
        f"{method.title}: {described(method)}",
        f"Source: {method.source}",
        f"Derivation: derivations/{method.stem}.md",
        "",
        *given(explanation),
    ]
    for tag, equation, name, value in explanation.equations():
        lines.append("")
        lines += textwrap.wrap(equation, width, subsequent_indent=" " * (len(tag) + 2))
        lines += listed(name, value)
    return "\n".join(lines)


def given(explanation: Explanation) -> list[str]:
    """Return the lines that say what the step was given, and the weights in use."""
    method = explanation.method
    lines = [f"At this {method.cadence}:", *listed("losses", explanation.losses)]
    if method.reads == "norms":
        lines += listed("norms", norms(explanation.jacobian))
    if method.reads == "gram":
        lines += listed("jacobian", explanation.jacobian)
    if explanation.draw is not None:
        lines += listed("draw", explanation.draw)
    return lines + listed("weights", explanation.step.weights)


def text_of(entry: Entry, explanation: Explanation | None) -> str:
    """Return what stands under one tag as it is printed, with the equation's numbers where a step shows it."""
    lines = list(entry.lines())
    if explanation is not None:
        method = explanation.method
        lines += ["", f"{method.title}: {described(method)}", *given(explanation)]
        for _, _, name, value in explanation.equations():
            lines += listed(name, value)
    return "\n".join(lines)


def listed(name: str, value: object) -> list[str]:
    """Return the line `name = numbers`, or a line a row of a matrix, to seven digits."""
    rows = np.atleast_2d(np.asarray(value, dtype=np.float64))
    texts = ["  ".join(f"{x:.7g}" for x in row) for row in rows]
    blank = " " * len(f"{name} = ")
    return [f"    {name} = {texts[0]}", *(f"    {blank}{text}" for text in texts[1:])]

"""Explain: every tagged equation of a method, with the numbers that it gives on a small problem.

The problem is the built-in one, or the losses and norms that the user gives. Several rows of losses are several
steps (epochs, for a method that steps once an epoch); the last one is explained.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtlref.contract import Method, Step
from mtlref.notation import Array, ShapeError, formula, matrix
from mtlref.settings import described
from mtlref.state import State

EXAMPLE_LOSSES = ((2.0, 1.0, 4.0), (1.0, 0.8, 3.6))
"""The built-in problem: task 0 has halved its loss, task 2 has hardly moved."""
EXAMPLE_NORMS = ((1.0, 3.0, 0.5), (0.8, 2.5, 0.6))
"""The norms of its task gradients."""


@dataclass(frozen=True)
class Explanation:
    """The step that is explained: the state before it, what it was given, and what came out."""

    method: Method
    state: State
    losses: Array
    norms: Array
    step: Step

    def equations(self) -> list[tuple[str, str, str, object]]:
        """Return (tag, formula, name, value) of every tagged equation, in tag order."""
        method, first = self.method, vars(self.method.init(len(self.losses)))["weights"]
        rows = [(tag, name, self.step.terms[name]) for name, tag in method.tags.items()]
        rows += [(method.heads, "head_weights", self.step.head_weights), (method.start, "w_0", first)]
        return [(tag, formula(tag), name, value) for tag, name, value in rows]

    def plain(self) -> Mapping[str, object]:
        """Return the explanation as what the json module writes."""
        return {
            "method": self.method.stem,
            "settings": described(self.method),
            "losses": self.losses.tolist(),
            "norms": self.norms.tolist(),
            "weights": self.step.weights.tolist(),
            "equations": [
                {"tag": tag, "formula": text, "name": name, "value": np.asarray(value).tolist()}
                for tag, text, name, value in self.equations()
            ],
        }


def explain(method: Method, losses: Sequence[Sequence[float]], norms: Sequence[Sequence[float]]) -> Explanation:
    """Return the explanation of the last of the steps on `losses` (N, K) and gradient `norms` (N, K), in orthogonal
    directions. Fewer norms than losses: the last row goes on. Errors: ShapeError, and whatever the step raises.
    """
    L = matrix("losses", losses)
    n = matrix("norms", norms)
    if n.shape[1] != L.shape[1]:
        message = f"norms must have one entry a task, {L.shape[1]}; they have {n.shape[1]}"
        raise ShapeError(message, argument="norms", value=n.shape[1])
    state = method.init(L.shape[1])
    for row in range(len(L)):
        before, at = state, n[min(row, len(n) - 1)]
        step = method.step(before, L[row], np.diag(at))
        state = step.state
    return Explanation(method, before, L[-1], at, step)


def text(explanation: Explanation, width: int = 100) -> str:
    """Return the explanation as it is printed."""
    method = explanation.method
    lines = [
        f"{method.title}: {described(method)}",
        f"Source: {method.source}",
        f"Derivation: derivations/{method.stem}.md",
        "",
        f"At this {method.cadence}: losses  {numbers(explanation.losses)}",
    ]
    if method.reads != "losses":
        lines.append(f"              norms   {numbers(explanation.norms)}")
    lines.append(f"              weights {numbers(explanation.step.weights)}  in use")
    for tag, equation, name, value in explanation.equations():
        lines.append("")
        lines += textwrap.wrap(equation, width, subsequent_indent=" " * (len(tag) + 2))
        lines.append(f"    {name} = {numbers(value)}")
    return "\n".join(lines)


def numbers(value: object) -> str:
    """Return a number, or a vector's numbers, to seven digits."""
    return "  ".join(f"{x:.7g}" for x in np.atleast_1d(np.asarray(value, dtype=np.float64)))

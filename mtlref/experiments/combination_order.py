"""Weights and then an aggregator, or the aggregator and then the weights: how often, and by how much, they differ.

    python -m mtlref.experiments.combination_order

It draws gradients of 8 dimensions, normal in every one, with log-normal lengths, and log-normal weights of sum K, and
compares the directions: Σ_i w_i g_i with the aggregator on the weighted gradients, as a combination has it, and with

- `PCGrad each`: each task's projected gradient weighted afterwards;
- `PCGrad sum`: the coefficients that PCGrad gives to the unweighted gradients, times the weights;
- `PE-LTR sum`: the same with PE-LTR, whose weights are used at once, times K.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import numpy as np

from mtlref.methods.combination import Combination
from mtlref.methods.fixed import FixedWeights
from mtlref.methods.pcgrad import PCGrad
from mtlref.methods.pe_ltr import PELTR
from mtlref.notation import Array

DIMENSIONS = 8
"""Of the gradients."""

DIFFERENT = 1e-9
"""The relative distance of two directions from which on they count as different."""

ORDERS = ("PCGrad each", "PCGrad sum", "PE-LTR sum")
"""What is compared with weights first, by name."""


def directions(rng: np.random.Generator, K: int) -> dict[str, tuple[Array, Array]]:
    """Return, by name, the two directions for one problem of K tasks: weights first, and weights last."""
    J = rng.standard_normal((K, DIMENSIONS)) * np.exp(rng.standard_normal((K, 1)))
    lam = np.exp(rng.standard_normal(K))
    lam *= K / np.sum(lam)
    fixed, losses, pcgrad, pe_ltr = FixedWeights(tuple(lam.tolist())), np.ones(K), PCGrad(), PELTR(timing="same")
    draw = pcgrad.sample(rng, K)
    surgery = Combination(fixed, pcgrad)
    cut = surgery.step(surgery.init(K), losses, J, draw=draw).weights @ J
    plain = pcgrad.step(pcgrad.init(K), losses, J, draw=draw)
    balance = Combination(fixed, pe_ltr)
    balanced = balance.step(balance.init(K), losses, J).weights @ J
    omega = pe_ltr.step(pe_ltr.init(K), losses, J).weights
    each = lam @ (np.asarray(plain.terms["coefficients"]) @ J)
    lasts = (each, (lam * plain.weights) @ J, (lam * K * omega) @ J)
    return dict(zip(ORDERS, zip((cut, cut, balanced), lasts, strict=True), strict=True))


def compared(K: int, draws: int, seed: int) -> dict[str, dict[str, float]]:
    """Return, by name, how far the two directions of `draws` problems of K tasks are apart.

    The distance is ‖last − first‖/‖first‖: `differ` is the share of the draws in which they differ; `median`, `p95`
    and `largest` describe all draws; `opposed` is the share in which the two form an obtuse angle.
    """
    rng = np.random.default_rng([seed, K])
    distances: dict[str, list[float]] = {name: [] for name in ORDERS}
    opposed = dict.fromkeys(ORDERS, 0)
    for _ in range(draws):
        for name, (first, last) in directions(rng, K).items():
            distances[name].append(float(np.linalg.norm(last - first) / np.linalg.norm(first)))
            opposed[name] += bool(first @ last < 0)
    rows = {}
    for name, found in distances.items():
        median, p95, largest = np.quantile(found, [0.5, 0.95, 1.0])
        rows[name] = {
            "differ": float(np.mean(np.array(found) > DIFFERENT)),
            "median": float(median),
            "p95": float(p95),
            "largest": float(largest),
            "opposed": opposed[name] / draws,
        }
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return 0."""
    parser = argparse.ArgumentParser(prog="python -m mtlref.experiments.combination_order", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--draws", type=int, default=300, help="problems for each number of tasks")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 3, 5], help="numbers of tasks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    if min([chosen.draws, *chosen.tasks]) < 1:
        parser.error("the numbers of draws and tasks must be at least 1")
    found = {K: compared(K, chosen.draws, chosen.seed) for K in chosen.tasks}
    print(json.dumps(found) if chosen.json else table(found))
    return 0


def table(found: dict[int, dict[str, dict[str, float]]]) -> str:
    """Return what was found as a table; a distance that counts as none is 0."""
    lines = [f"{'':12} {'K':>2} {'differ':>8} {'median':>8} {'p95':>8} {'largest':>8} {'opposed':>8}"]
    for name in ORDERS:
        for K, rows in found.items():
            row = rows[name]
            shown = (row[kind] if row[kind] > DIFFERENT else 0.0 for kind in ("median", "p95", "largest"))
            numbers = " ".join(f"{value:8.3f}" for value in shown)
            lines.append(f"{name:12} {K:2} {row['differ']:8.1%} {numbers} {row['opposed']:8.1%}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""How far PE-LTR's published two steps stay from the optimum, and how close to it the exact solver comes.

    python -m mtlref.experiments.pe_ltr_gap                 # the published steps against the exact solver
    python -m mtlref.experiments.pe_ltr_gap --hard 10000    # the exact solver against rational arithmetic
    python -m mtlref.experiments.pe_ltr_gap --hard 10000 --bounds always --seed 2

The first draws gradients of 8 dimensions, normal in every one, with log-normal lengths, and no bounds. The second
draws problems that are made to be hard: scales from 1e-8 to 1e8, duplicates, opposite, nearly parallel and nearly
opposite gradients, gradients of zero, more tasks than dimensions; three in ten have bounds, or all or none of them,
as chosen. Its optimum is found by enumeration in rationals; 10,000 problems take some minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from mtlref.exact import fractions
from mtlref.exact import pe_ltr as exact
from mtlref.methods.pe_ltr import PELTR
from mtlref.notation import Array
from mtlref.progress import track
from mtlref.qp import minimum_norm

DIMENSIONS = 8
"""Of the gradients in `gap`."""

DIFFERENT = 1e-9
"""The share of the optimum by which an objective must exceed it to count as another."""

RELATIVE, ABSOLUTE = Fraction(1, 10**12), Fraction(1, 10**14)
"""What the exact solver may exceed the optimum f by: RELATIVE f + (ABSOLUTE m)², m the largest ‖g_i‖."""

BOUNDED = {"never": 0.0, "sometimes": 0.3, "always": 1.0}
"""How many of the hard problems have bounds."""


def gap(K: int, draws: int, seed: int) -> dict[str, float]:
    """Return how often, and by what factor of the objective, the two steps miss the optimum for K tasks.

    `missed` and `conflicts` are shares of the draws, `conflicts` those in which d opposes a gradient, g_i·d < 0;
    `median`, `p95` and `largest` describe the factor, over the draws that are missed.
    """
    rng = np.random.default_rng([seed, K])
    method = PELTR()
    state = method.init(K)
    ratios, conflicts = np.empty(draws), 0
    for draw in range(draws):
        J = rng.standard_normal((K, DIMENSIONS)) * np.exp(rng.standard_normal((K, 1)))
        terms = method.step(state, np.ones(K), J).terms
        ratios[draw] = float(terms["objective"]) / minimum_norm(J).objective
        slopes = np.asarray(terms["gram"]) @ np.asarray(terms["w_next"])
        conflicts += bool(np.min(slopes) < -DIFFERENT * float(terms["objective"]))
    missed = ratios[ratios > 1 + DIFFERENT]
    median, p95, largest = np.quantile(missed, [0.5, 0.95, 1.0]) if len(missed) else (1.0, 1.0, 1.0)
    return {
        "tasks": K,
        "draws": draws,
        "missed": len(missed) / draws,
        "median": float(median),
        "p95": float(p95),
        "largest": float(largest),
        "conflicts": conflicts / draws,
    }


def hard_problem(rng: np.random.Generator, bounds: str = "sometimes") -> tuple[Array, Array | None]:
    """Return a Jacobian (K, D), K from 2 to 6 and D from 1 to 8, that is hard to solve for, and bounds or None.

    `bounds` says how many problems have them, as `BOUNDED` lists.
    """
    K, D = int(rng.integers(2, 7)), int(rng.integers(1, 9))
    J = rng.standard_normal((K, D))
    if rng.random() < 0.6:
        J *= 10.0 ** rng.uniform(-8, 8, (K, 1))
    for _ in range(int(rng.integers(0, 4))):
        row, of = rng.permutation(K)[:2]
        near = J[of] + rng.choice([1e-6, 1e-9]) * np.linalg.norm(J[of]) * rng.standard_normal(D) / np.sqrt(D)
        factor = 10.0 ** rng.uniform(-2, 2) if rng.random() < 0.5 else 1.0
        whole = -(2.0 ** rng.integers(-3, 4))
        kinds = (J[of], -J[of], whole * J[of], factor * near, -factor * near, np.zeros(D))
        J[row] = kinds[int(rng.integers(len(kinds)))]
    if rng.random() < 1 - BOUNDED[bounds]:
        return J, None
    return J, rng.dirichlet(np.ones(K)) * rng.choice([0.3, 0.9]) * (rng.random(K) < 0.7)


def excess(J: Array, c: Array | None) -> float:
    """Return how far the exact solver's objective lies above the rational optimum, as a share of what it may.

    Both objectives are evaluated in rationals, at the float64 weights as they are.
    """
    got = fractions(minimum_norm(J, c).weights.tolist())
    A = exact.gram(J.tolist())
    bounds, slack = exact.shares(None if c is None else c.tolist(), len(J))
    optimum = exact.form(A, exact.plus(exact.optimum(A, bounds, slack), bounds))
    largest = max(A[i][i] for i in range(len(A)))
    allowed = RELATIVE * optimum + ABSOLUTE**2 * largest
    above = exact.form(A, got) - optimum
    return float(above / allowed) if allowed else float(above)


def hard(cases: int, seed: int, bounds: str = "sometimes", shown: bool | None = None) -> dict[str, float]:
    """Return the largest `excess` over `cases` hard problems, how many exceed 1, and how many had bounds.

    Progress is `shown` as in `mtlref.progress`.
    """
    rng = np.random.default_rng(seed)
    problems = (hard_problem(rng, bounds) for _ in range(cases))
    shares, bounded = [], 0
    for J, c in track(problems, cases, "hard problems", shown):
        shares.append(excess(J, c))
        bounded += c is not None
    beyond = sum(share > 1 for share in shares)
    return {"cases": cases, "bounded": bounded, "largest": max(shares), "beyond": beyond}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 1 if a hard problem exceeds its bound, else 0."""
    parser = argparse.ArgumentParser(prog="python -m mtlref.experiments.pe_ltr_gap", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--draws", type=int, default=1000, help="problems for each number of tasks")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 3, 4, 5], help="numbers of tasks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hard", type=int, metavar="CASES", help="compare with rational arithmetic instead")
    parser.add_argument("--bounds", choices=BOUNDED, default="sometimes", help="how many hard problems have them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    if min([chosen.draws, *chosen.tasks, 1 if chosen.hard is None else chosen.hard]) < 1:
        parser.error("the numbers of draws, tasks and cases must be at least 1")
    if chosen.hard is not None:
        result = hard(chosen.hard, chosen.seed, chosen.bounds)
        print(json.dumps(result) if chosen.json else described(result))
        return 1 if result["beyond"] else 0
    rows = [gap(K, chosen.draws, chosen.seed) for K in chosen.tasks]
    print(json.dumps(rows) if chosen.json else table(rows))
    return 0


def table(rows: Sequence[dict[str, float]]) -> str:
    """Return the rows of `gap` as a table."""
    lines = [f"{'K':>2} {'missed':>8} {'median':>8} {'p95':>8} {'largest':>8} {'conflicts':>10}"]
    for row in rows:
        factors = " ".join(f"{row[name]:8.3f}" for name in ("median", "p95", "largest"))
        lines.append(f"{row['tasks']:2.0f} {row['missed']:8.1%} {factors} {row['conflicts']:10.1%}")
    return "\n".join(lines)


def described(result: dict[str, float]) -> str:
    """Return the result of `hard` in a sentence."""
    return (
        f"{result['cases']} hard problems, {result['bounded']} with bounds: {result['beyond']} exceed the rational "
        "optimum by more than they may; "
        f"the largest excess is {result['largest']:.3g} of what it may be."
    )


if __name__ == "__main__":
    sys.exit(main())

"""audit: the replay of a long log, beside reading the file and no more."""

from __future__ import annotations

import contextlib
import csv
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from mtlref.audit import judge, read_run
from mtlref.bench.measure import Contender, Setup
from mtlref.notation import Array

TITLE = (
    "mtlref audit of a log of K = 8 tasks; seconds a step, so a million steps take as many microseconds in seconds"
)
BOUND = "reading the file as numbers with Python's csv"
K = 8


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield logs of runs that follow their method."""
    for steps in (10**3, 10**4, 10**5, 10**6) if full else (2000,):
        for stem in SETTINGS:
            path = recorded(stem, steps)
            made = [
                Contender("bound", "bound", partial(only_read, path)),
                Contender("mtlref", "ours", partial(audited, path)),
            ]
            yield Setup({"method": stem, "steps": steps, "K": K}, made, units=steps)


FOLDER = contextlib.ExitStack()

LR: dict[str, object] = {"lr": 0.001}
SETTINGS: dict[str, dict[str, object]] = {"dwa": {}, "cov": {}, "uncertainty": LR, "gradnorm": LR}
"""The methods whose runs are audited: those that read losses or norms."""


def recorded(stem: str, steps: int) -> Path:
    """Write the log of a run whose losses fall and whose weights are the method's; it goes when Python ends."""
    path = Path(FOLDER.enter_context(tempfile.TemporaryDirectory())) / "run.csv"
    L, n = np.exp(np.random.default_rng(0).normal(scale=0.1, size=(2, steps, K)))
    L /= 1 + np.arange(steps)[:, None] / steps
    made: dict[str, Callable[[Array], Array]] = {
        "dwa": dwa,
        "cov": cov,
        "uncertainty": uncertainty,
        "gradnorm": partial(gradnorm, n),
    }
    weights = made[stem](L)
    kinds = {"loss": L, **({"norm": n} if stem == "gradnorm" else {}), "weight": weights}
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join(["epoch", *(f"{kind}/{i}" for kind in kinds for i in range(K))]) + "\n")
        for t, row in enumerate(zip(*kinds.values(), strict=True)):
            file.write(f"{t},{','.join(map(repr, np.concatenate(row).tolist()))}\n")
    side = {"method": stem, "settings": SETTINGS[stem]}
    path.with_suffix(".json").write_text(json.dumps(side), encoding="utf-8")
    return path


# PLAIN LOOPS, which write a million steps in seconds


def dwa(L: Array) -> Array:
    """Return DWA's weights, T = 2."""
    shares = np.exp(L[1:-1] / L[:-2] / 2)
    return np.concatenate([np.ones((2, K)), K * shares / shares.sum(axis=1, keepdims=True)])[: len(L)]


def cov(L: Array) -> Array:
    """Return the weights of CoV-Weighting without decay."""
    w, mu, mean, M = np.full(L.shape, 1 / K), L[0], np.ones(K), np.zeros(K)
    for t in range(1, len(L)):
        a, off = 1 / (t + 1), L[t] / mu - mean
        mu, mean, M = mu + a * (L[t] - mu), mean + a * off, (1 - a) * M + a * (1 - a) * off * off
        c = np.sqrt(M) / mean
        w[t] = c / c.sum()
    return w


def uncertainty(L: Array, lr: float = 0.001) -> Array:
    """Return the weights of Uncertainty Weighting, by plain descent on s."""
    w, s = np.empty(L.shape), np.zeros(K)
    for t in range(len(L)):
        w[t] = np.exp(-s) / 2
        s -= lr * (0.5 - w[t] * L[t])
    return w


def gradnorm(n: Array, L: Array, lr: float = 0.001, alpha: float = 1.5) -> Array:
    """Return GradNorm's weights, by plain descent."""
    rate, w, now = L / L[0], np.empty(L.shape), np.ones(K)
    rate = (rate / rate.mean(axis=1, keepdims=True)) ** alpha
    for t in range(len(L)):
        w[t], G = now, now * n[t]
        now = now - lr * np.sign(G - G.sum() / K * rate[t]) * n[t]
        now = K * now / now.sum()
    return w


def only_read(path: Path) -> int:
    """Read every number of the file."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return sum(len([float(word) for word in row]) for row in rows)


def audited(path: Path) -> bool:
    """Return whether the audit passes the run."""
    run = read_run(str(path))
    return judge(run.method, run.log).passed

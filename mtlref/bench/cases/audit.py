"""audit: the replay of a long log, beside reading the file and no more."""

from __future__ import annotations

import contextlib
import csv
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from mtlref.audit import judge, read_run
from mtlref.audit.writers import write_log
from mtlref.bench.measure import Contender, Setup
from mtlref.methods import DWA, GradNorm
from mtlref.notation import Array
from mtlref.state import State

TITLE = (
    "mtlref audit of a log of K = 8 tasks; seconds a step, so a million steps take as many microseconds in seconds"
)
BOUND = "reading the file as numbers with Python's csv"
K = 8


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield logs of runs that follow their method."""
    for steps in (10**3, 10**4, 10**5, 10**6) if full else (2000,):
        for stem in ("dwa", "gradnorm"):
            path = recorded(stem, steps)
            made = [
                Contender("bound", "bound", partial(only_read, path)),
                Contender("mtlref", "ours", partial(audited, path)),
            ]
            yield Setup({"method": stem, "steps": steps, "K": K}, made, units=steps)


FOLDER = contextlib.ExitStack()


def recorded(stem: str, steps: int) -> Path:
    """Write the log of a run whose losses fall and whose weights are the method's; it goes when Python ends."""
    folder = Path(FOLDER.enter_context(tempfile.TemporaryDirectory()))
    rng = np.random.default_rng(0)
    L = np.exp(rng.normal(scale=0.1, size=(steps, K))) / (1 + np.arange(steps)[:, None] / steps)
    n = np.exp(rng.normal(scale=0.1, size=(steps, K)))
    method = DWA() if stem == "dwa" else GradNorm(lr=0.001)
    state: State = method.init(K)
    weights = np.empty((steps, K))
    for t in range(steps):
        out = method.step(state, L[t], None if stem == "dwa" else np.diag(n[t]))
        weights[t], state = out.weights, out.state
    columns: dict[str, Array] = {"step": np.arange(steps, dtype=np.float64)}
    if stem == "dwa":
        columns["epoch"] = np.arange(steps, dtype=np.float64)
    for kind, values in (("loss", L), ("norm", n), ("weight", weights)):
        if kind != "norm" or stem != "dwa":
            columns |= {f"{kind}/{i}": values[:, i] for i in range(K)}
    path = folder / "run.csv"
    settings: dict[str, object] = {"method": stem, "settings": {} if stem == "dwa" else {"lr": 0.001}}
    write_log(path, columns, settings)
    return path


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

"""audit: the replay of a long log, beside reading the file and no more."""

from __future__ import annotations

import contextlib
import csv
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from mtlref.audit import judge, read_run
from mtlref.audit.lift import Norms, lifted
from mtlref.bench.measure import Contender, Setup
from mtlref.settings import build
from mtlref.state import State

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
    rng = np.random.default_rng(0)
    method = lifted(build(stem, SETTINGS[stem]))
    state: State = method.init(K)
    kinds = ("loss", "norm", "weight") if method.reads == "norms" else ("loss", "weight")
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join(["epoch", *(f"{kind}/{i}" for kind in kinds for i in range(K))]) + "\n")
        for t in range(steps):
            L, n = np.exp(rng.normal(scale=0.1, size=(2, K)))
            L /= 1 + t / steps
            out = method.step(state, L, Norms(n))  # type: ignore[arg-type]
            row = [L, n, out.weights] if method.reads == "norms" else [L, out.weights]
            file.write(f"{t},{','.join(map(repr, np.concatenate(row).tolist()))}\n")
            state = out.state
    side = {"method": stem, "settings": SETTINGS[stem]}
    path.with_suffix(".json").write_text(json.dumps(side), encoding="utf-8")
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

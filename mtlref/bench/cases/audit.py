"""audit: long logs read and judged, each once in a process of its own: seconds, how they grow, and memory.

A log is that of a run in float64, in float32, or printed to four decimals, by the plain loops below, and follows its
method. Behind four decimals a step may have gone this way or that at a kink, which takes time. `bound` is reading
the file's numbers with Python's csv and no more. Memory is the process's own at its peak, and with the pages of files
that are mapped; the rest, some 40 MiB, is Python and its libraries.
"""

from __future__ import annotations

import contextlib
import csv
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mtlref.audit import Run, judge, read_run
from mtlref.bench.report import Table
from mtlref.notation import Array

K = 8
SIZES = (10**4, 10**5)
LARGE = (10**3, 10**4, 10**5, 10**6)

DECIMALS = "4 decimals"

COLUMNS = (
    "method",
    "numbers",
    "steps",
    "csv, s",
    "read, s",
    "judged, s",
    "µs a step",
    "private, MiB",
    "resident, MiB",
)
GROWTH = ("method", "numbers", "exponent, read", "exponent, judged", "exponent, private memory", "expected")

NUMBERS = ("float64", "float32", DECIMALS)

LR: dict[str, object] = {"lr": 0.001}
SETTINGS: dict[str, dict[str, object]] = {"dwa": {}, "cov": {}, "uncertainty": LR, "gradnorm": LR}
"""The methods whose runs are audited: those that read losses or norms."""

DONE = set[bool]()
"""Whether the short or the long table has been made: the number of threads changes nothing in it."""


def tables(full: bool, rng: np.random.Generator) -> list[Table]:
    """Return the table of times and memory, and that of how they grow with the steps."""
    if full in DONE:
        return []
    DONE.add(full)
    rows, grown = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
    for stem in SETTINGS:
        for numbers in NUMBERS:
            found = [measured(stem, steps, numbers) for steps in (LARGE if full else SIZES)]
            rows += found
            grown.append((stem, numbers, *(exponent(found, at) for at in (4, 5, 7)), "1, 1, 0"))
    title = "logs of K = 8 tasks, each read and judged once; seconds of one core"
    return [
        Table("audit", title, COLUMNS, rows),
        Table("audit", "how that grows with the steps, from the two longest logs", GROWTH, grown),
    ]


def exponent(rows: list[tuple[Any, ...]], at: int) -> float | None:
    """Return p of steps^p between the two longest logs; None where something was not measured."""
    one, other = rows[-2:]
    if not one[at] or not other[at]:
        return None
    return float(np.log(other[at] / one[at]) / np.log(other[2] / one[2]))


def measured(stem: str, steps: int, numbers: str) -> tuple[Any, ...]:
    """Return a row of the table. Errors: CalledProcessError if the audit does not pass the run."""
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), stem, steps, numbers)
        began = time.process_time()
        only_read(path)
        bound = time.process_time() - began
        command = [sys.executable, "-m", "mtlref.bench.cases.audit", str(path)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    each = 1e6 * (found["read"] + found["judged"]) / steps
    return (stem, numbers, steps, bound, found["read"], found["judged"], each, found["private"], found["resident"])


def one_log(path: str) -> dict[str, float | None]:
    """Return the seconds that reading and judging a log take this process, and its memory at its peak in MiB."""
    peak, ended = list[float](), threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak.extend(status("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        times = [time.process_time()]
        run = read_run(path)
        times.append(time.process_time())
        passed = whole(run)
        times.append(time.process_time())
    finally:
        ended.set()
        watching.join()
    if not passed:
        raise SystemExit(f"{path}: the audit does not pass the run")
    read, judged = np.diff(times).tolist()
    return {
        "read": read,
        "judged": judged,
        "private": max(peak, default=None),
        "resident": max(status("VmHWM"), default=None),
    }


def status(name: str) -> list[float]:
    """Return what Linux says of this process's memory in MiB; nothing elsewhere."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return [int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")]
    return []


# LOGS

FOLDER = contextlib.ExitStack()


def recorded(stem: str, steps: int, numbers: str = "float64") -> Path:
    """Write the log of a run whose losses fall and whose weights are the method's; it goes when Python ends."""
    return written(Path(FOLDER.enter_context(tempfile.TemporaryDirectory())), stem, steps, numbers)


def written(folder: Path, stem: str, steps: int, numbers: str) -> Path:
    """Write such a log into a folder."""
    path, dtype = folder / "run.csv", "float64" if numbers == DECIMALS else numbers
    L, n = np.exp(np.random.default_rng(0).normal(scale=0.1, size=(2, steps, K)))
    L /= 1 + np.arange(steps)[:, None] / steps
    L, n = L.astype(dtype), n.astype(dtype)
    made: dict[str, Callable[[Array], Array]] = {
        "dwa": dwa,
        "cov": cov,
        "uncertainty": uncertainty,
        "gradnorm": partial(gradnorm, n),
    }
    shown: Callable[[float], str] = "{:.4f}".format if numbers == DECIMALS else repr
    kinds = {"loss": L, **({"norm": n} if stem == "gradnorm" else {}), "weight": made[stem](L).astype(dtype)}
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join(["epoch", *(f"{kind}/{i}" for kind in kinds for i in range(K))]) + "\n")
        for t, row in enumerate(zip(*kinds.values(), strict=True)):
            file.write(f"{t},{','.join(map(shown, np.concatenate(row).tolist()))}\n")
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
    L = L.astype(np.float64)  # as its authors keep the statistics
    w, mu, mean, M = np.full(L.shape, 1 / K), L[0], np.ones(K), np.zeros(K)
    for t in range(1, len(L)):
        a, off = 1 / (t + 1), L[t] / mu - mean
        mu, mean, M = mu + a * (L[t] - mu), mean + a * off, (1 - a) * M + a * (1 - a) * off * off
        c = np.sqrt(M) / mean
        w[t] = c / c.sum()
    return w


def uncertainty(L: Array, lr: float = 0.001) -> Array:
    """Return the weights of Uncertainty Weighting, by plain descent on s."""
    w, s = np.empty_like(L), np.zeros(K, L.dtype)
    for t in range(len(L)):
        w[t] = np.exp(-s) / 2
        s -= L.dtype.type(lr) * (L.dtype.type(0.5) - w[t] * L[t])
    return w


def gradnorm(n: Array, L: Array, lr: float = 0.001, alpha: float = 1.5) -> Array:
    """Return GradNorm's weights, by plain descent."""
    rate, w, now = L / L[0], np.empty_like(L), np.ones(K, L.dtype)
    rate = (rate / rate.mean(axis=1, keepdims=True)) ** L.dtype.type(alpha)
    for t in range(len(L)):
        w[t], G = now, now * n[t]
        now = now - L.dtype.type(lr) * np.sign(G - G.mean() * rate[t]) * n[t]
        now = L.dtype.type(K) * now / now.sum()
    return w


def only_read(path: Path) -> int:
    """Read every number of the file."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return sum(len([float(word) for word in row]) for row in rows)


def audited(path: Path) -> bool:
    """Return whether the audit passes the run in a file."""
    return whole(read_run(str(path)))


def whole(run: Run) -> bool:
    """Return whether a run passes, with everything that the report says of it found out."""
    verdict = judge(run.method, run.log)
    _ = verdict.diagnosis, verdict.open_defects
    return verdict.passed


if __name__ == "__main__":
    print(json.dumps(one_log(sys.argv[1])))

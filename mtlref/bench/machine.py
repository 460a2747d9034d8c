"""Where the times are taken: versions, processor, BLAS kernel, and the number of threads, which is set here."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

PEERS = {
    "torch": "torch",
    "torchjd": "torchjd",
    "jax": "jax",
    "autograd": "autograd",
    "mygrad": "mygrad",
    "quadprog": "quadprog",
    "cvxpy": "cvxpy",
    "gradnorm_pytorch": "gradnorm-pytorch",
    "LibMTL": "LibMTL",
}
"""The libraries that mtlref is measured beside: module and distribution."""

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What the numerical libraries read when they are loaded."""


def peer(module: str) -> ModuleType | None:
    """Return an installed peer's module, None where it is missing."""
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


def load_threaded(peers: bool) -> None:
    """Load SciPy's BLAS and, for the peers, torch: `limited` reaches only what is there when it begins."""
    importlib.import_module("scipy.linalg")
    if peers:
        peer("torch")


def missing() -> list[str]:
    """Return the peers that are not installed."""
    return [name for module, name in PEERS.items() if importlib.util.find_spec(module) is None]


def facts() -> dict[str, str]:
    """Return versions, processor and BLAS kernel, in words."""
    found = {
        "python": platform.python_version(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "blas": blas(),
        "precision": "float64",
    }
    for name in ("numpy", "scipy", *PEERS.values()):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def blas() -> str:
    """Return NumPy's BLAS, with the kernel it has chosen for this processor where threadpoolctl can tell."""
    import numpy as np

    config: Any = np.show_config(mode="dicts")
    build = config["Build Dependencies"]["blas"]
    named = f"{build['name']} {build['version']}"
    if importlib.util.find_spec("threadpoolctl") is None:
        return f"{named}, kernel not known without threadpoolctl"
    pools = importlib.import_module("threadpoolctl").threadpool_info()
    kernels = sorted({pool["architecture"] for pool in pools if pool.get("architecture")})
    return f"{named}, kernel {' and '.join(kernels) or 'not told'}"


def can_set_threads() -> bool:
    """Say whether the number of threads can be changed while the process runs."""
    return importlib.util.find_spec("threadpoolctl") is not None


def usual_threads() -> list[int]:
    """Return the numbers of threads to measure with: 1 and 2, where a process can have both."""
    return [1, 2] if can_set_threads() and (os.cpu_count() or 1) > 1 else [1]


def keep_freed_memory() -> None:
    """Free a block of 16 MiB, from when on the C library keeps freed memory instead of returning it page by page.

    It does so up to the largest block that it has seen, so that times would depend on what was measured before.
    """
    importlib.import_module("numpy").ones(2**21)


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Run with this many threads in BLAS, OpenMP and torch, as far as they are loaded (see `load_threaded`).

    JAX keeps the pool it began with (see `restarted`).
    """
    with ExitStack() as stack:
        if can_set_threads():
            stack.enter_context(importlib.import_module("threadpoolctl").threadpool_limits(threads))
        if "torch" in sys.modules:
            torch = sys.modules["torch"]
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, before)
        yield


def restarted(threads: int, arguments: list[str]) -> None:
    """Start this program anew with the environment that sets `threads`, unless it runs in it already."""
    wanted = dict.fromkeys(VARIABLES, str(threads))
    wanted["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    wanted["JAX_PLATFORMS"] = "cpu"
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, "-m", "mtlref.bench", *arguments])

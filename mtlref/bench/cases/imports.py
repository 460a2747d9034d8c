"""import: `import mtlref` in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from mtlref.bench.measure import Contender, Setup
from mtlref.notation import Array

TITLE = "importing the package in a fresh interpreter"
BOUND = "importing NumPy in a fresh interpreter"


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield the one setup; the interpreter's own start is shown as well."""
    names = {"mtlref": "ours", "numpy": "bound", "nothing": "hand", **({"torch": "peer"} if peers and full else {})}
    made = [
        Contender(f"import {name}", role, partial(imported, name), nothing)  # type: ignore[arg-type]
        for name, role in names.items()
    ]
    yield Setup({"interpreter": sys.version.split()[0]}, made, 1.15)


def imported(name: str) -> None:
    """Import the module in an interpreter of its own."""
    subprocess.run([sys.executable, "-c", "pass" if name == "nothing" else f"import {name}"], check=True)


def nothing(_: object) -> list[Array]:
    """Return no result: there is nothing to compare."""
    return []

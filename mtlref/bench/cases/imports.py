"""import: `import mtlref` in a fresh interpreter; its names load their modules when they are first used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from mtlref.bench.measure import Contender, Role, Setup
from mtlref.notation import Array

TITLE = "importing the package in a fresh interpreter"
BOUND = "importing NumPy in a fresh interpreter"


def setups(full: bool, peers: bool) -> Iterator[Setup]:
    """Yield the one setup; the interpreter's own start is shown as well."""
    lines: dict[str, Role] = {"import mtlref": "ours", "import numpy": "bound", "from mtlref import *": "hand"}
    lines["pass"] = "hand"
    if peers and full:
        lines["import torch"] = "peer"
    made = [Contender(line, role, partial(interpreted, line), nothing) for line, role in lines.items()]
    yield Setup({"interpreter": sys.version.split()[0]}, made, 1.15)


def interpreted(line: str) -> None:
    """Run a line in an interpreter of its own."""
    subprocess.run([sys.executable, "-c", line], check=True)


def nothing(_: object) -> list[Array]:
    """Return no result: there is nothing to compare."""
    return []

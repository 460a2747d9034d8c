"""Peers: what other packages compute, judged by the same checks.

    from mtlref.conformance import peers

    for row in peers.run():
        print(row.peer, row.version, row.method, row.status, row.passed, row.failed, row.skipped, row.diagnosis)

A peer that is not installed is named as such. What a package documents as its own choice is declared, and is no
departure; what it leaves undocumented is found. The results stand in derivations/bugs.md.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from mtlref.conformance.implementation import Implementation
from mtlref.conformance.runner import BoundCheck, check_implementation
from mtlref.notation import DomainError

Status = Literal["agrees", "departs", "unusable", "not installed"]


@dataclass(frozen=True)
class Peer:
    """A package's implementation of a method.

    `name`: how the table calls it; `package`: its name on PyPI; `method`: the stem; `module`: of this package, which
    holds the adapter; `adapter`: the function there that returns the Implementation, its choices declared.
    """

    name: str
    package: str
    method: str
    module: str
    adapter: str

    def installed(self) -> str:
        """Return the version that is installed, empty if none is."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return ""

    def implementation(self) -> Implementation:
        """Return the Implementation. Errors: ImportError without the package or PyTorch."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: Implementation = getattr(import_module(f"{__name__}.{self.module}"), self.adapter)()
        return made


PEERS = (
    Peer("gradnorm-pytorch GradNormLossWeighter", "gradnorm-pytorch", "gradnorm", "gradnorm_pytorch", "weighter"),
    Peer("LibMTL GradNorm", "LibMTL", "gradnorm", "libmtl", "gradnorm"),
    Peer("LibMTL PCGrad", "LibMTL", "pcgrad", "libmtl", "pcgrad"),
    Peer("LibMTL UW", "LibMTL", "uncertainty", "libmtl", "uncertainty"),
    Peer("LibMTL DWA", "LibMTL", "dwa", "libmtl", "dwa"),
    Peer("LibMTL EW", "LibMTL", "equal", "libmtl", "equal"),
    Peer("TorchJD PCGrad", "torchjd", "pcgrad", "torchjd", "pcgrad"),
    Peer("TorchJD UW", "torchjd", "uncertainty", "torchjd", "uncertainty"),
    Peer("TorchJD DWA", "torchjd", "dwa", "torchjd", "dwa"),
    Peer("TorchJD autojac.jac", "torchjd", "jacobian", "torchjd", "jacobian"),
    Peer("conflictfree PCGradOperator", "conflictfree", "pcgrad", "conflictfree", "pcgrad"),
)
"""The peers, in the order of the table."""


@dataclass(frozen=True)
class Row:
    """What came of one peer: the counts of its checks, and what explains its failures, empty if there are none."""

    peer: str
    version: str
    method: str
    status: Status
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    diagnosis: str = ""


def run(
    names: Iterable[str] | None = None,
    progress: Callable[[Sequence[BoundCheck]], Iterable[BoundCheck]] = iter,
) -> list[Row]:
    """Judge the peers that are installed; return a row for each of `names` (peers or packages), or of all if None.

    Errors: DomainError for a name that is no peer's.
    """
    return [row(peer, progress) for peer in chosen(names)]


def chosen(names: Iterable[str] | None) -> list[Peer]:
    """Return the peers of these names, or of packages of these names. Errors: DomainError."""
    if names is None:
        return list(PEERS)
    wanted = [name.lower() for name in names]
    known = {word.lower() for peer in PEERS for word in (peer.name, peer.package)}
    for name in wanted:
        if name not in known:
            listed = ", ".join(dict.fromkeys(word for peer in PEERS for word in (peer.package, peer.name)))
            raise DomainError(f"{name!r} is no peer; there are: {listed}", argument="names", value=name)
    return [peer for peer in PEERS if {peer.name.lower(), peer.package.lower()} & set(wanted)]


def row(peer: Peer, progress: Callable[[Sequence[BoundCheck]], Iterable[BoundCheck]] = iter) -> Row:
    """Judge one peer."""
    installed = peer.installed()
    if not installed:
        return Row(peer.name, "", peer.method, "not installed")
    try:
        impl = peer.implementation()
    except ImportError as error:
        return Row(peer.name, installed, peer.method, "unusable", diagnosis=str(error))
    results = check_implementation(impl, progress=progress)
    counts = Counter(result.status for result in results)
    numbers = (counts["passed"], counts["failed"], counts["skipped"])
    if counts["unusable"]:
        text = next(result.message for result in results if result.status == "unusable")
        return Row(peer.name, installed, peer.method, "unusable", *numbers, text)
    text = next((r.diagnosis.text for r in results if r.status == "failed" and r.diagnosis is not None), "")
    return Row(peer.name, installed, peer.method, "departs" if counts["failed"] else "agrees", *numbers, text)

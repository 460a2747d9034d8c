"""The stages of a combination: their roles, which of them combine, when they step, what their terms are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtlref.contract import Cadence, Method
from mtlref.methods.cov import CoVWeighting
from mtlref.methods.dwa import DWA
from mtlref.methods.equal import EqualWeights
from mtlref.methods.fixed import FixedWeights
from mtlref.methods.gradnorm import GradNorm
from mtlref.methods.pcgrad import PCGrad
from mtlref.methods.pe_ltr import PELTR
from mtlref.methods.uncertainty import UncertaintyWeighting
from mtlref.notation import DomainError, count, real

CONSTANTS = (EqualWeights, FixedWeights)
"""Stages whose weights never change: they step at any cadence."""
RATES = (DWA, CoVWeighting)
"""Stages that look at a task's progress alone: a constant factor on its loss changes nothing."""
EQUALISERS = (GradNorm, UncertaintyWeighting)
"""Stages that bring the tasks to one magnitude: their weights undo a constant factor on a task's loss."""
AGGREGATORS = (PCGrad, PELTR)
"""What takes the weighted gradients of all tasks and gives one direction: nothing for each task can follow."""


@dataclass(frozen=True, repr=False)
class Stage:
    """A method of a combination and its strength, the exponent of its weights in the product (COMB-4).

    `strength`: 1 the weights as they are, 0 the stage is off, −1 its inverse. An aggregator has none but 1.
    Errors: DomainError for what is not a method, or an exponent that is not finite.
    """

    method: Method
    strength: float = 1.0

    def __post_init__(self) -> None:
        given: object = self.method
        if not isinstance(given, Method):
            message = f"a stage is a method, or Stage(method, strength); this one is {given!r}"
            raise DomainError(message, argument="stages", value=given, equation="COMB-4")
        object.__setattr__(self, "strength", float(real("strength", self.strength, 0, "COMB-4")))

    def __repr__(self) -> str:
        return repr(self.method) if self.strength == 1 else f"Stage({self.method!r}, {self.strength!r})"


def refuse(stages: Sequence[Stage]) -> None:
    """Raise DomainError, with the reason, if the stages make no combination (COMB-C1)."""
    methods = [stage.method for stage in stages]
    strong = [stage.method.title for stage in stages if isinstance(stage.method, EQUALISERS) and stage.strength != 0]
    early = [method.title for method in methods[:-1] if isinstance(method, AGGREGATORS)]
    reason, tag, value = None, "COMB-4", ", ".join(method.title for method in methods)
    for stage in stages:
        if stage.method.stem == "combination":
            reason = "a combination inside a combination: write its stages out, the product is associative"
        elif not isinstance(stage.method, (*CONSTANTS, *RATES, *EQUALISERS, *AGGREGATORS)):
            reason = f"{stage.method.title} as a stage: whether it weights losses or gradients is not known"
        elif isinstance(stage.method, AGGREGATORS) and stage.strength != 1:
            reason = f"{stage.method.title} with a strength of {stage.strength!r}: its coefficients are no factor"
    if len(strong) > 1:
        reason = f"{' and '.join(strong)} together: both undo the tasks' magnitudes, which would be undone twice"
    if early:
        reason, tag = f"a stage after {early[0]}: its direction has no part for each task left to weight", "COMB-6"
    if reason:
        raise DomainError(f"{tag} does not take {reason}", argument="stages", value=value, equation=tag)


def cadence_of(stages: Sequence[Stage], epoch_steps: int | None) -> Cadence:
    """Return when a combination steps (COMB-C2). Errors: DomainError where `epoch_steps` is missing or idle."""
    changing = [stage.method for stage in stages if not isinstance(stage.method, CONSTANTS)]
    slow = [method.title for method in changing if method.cadence == "epoch"]
    quick = [method.title for method in changing if method.cadence == "step"]
    if epoch_steps is not None:
        count("epoch_steps", epoch_steps)
        if not slow:
            message = f"epoch_steps = {epoch_steps!r}, but no stage steps once an epoch (COMB-C2)"
            raise DomainError(message, argument="epoch_steps", value=epoch_steps, equation="COMB-1")
        return "step"
    if slow and quick:
        message = f"{slow[0]} steps once an epoch and {quick[0]} every time: epoch_steps has to say what an epoch is"
        raise DomainError(f"{message} (COMB-C2)", argument="epoch_steps", equation="COMB-1")
    return "epoch" if slow else "step"


def names(stages: Sequence[Stage]) -> list[str]:
    """Return a name for each stage: its stem, and from its second occurrence on a number."""
    stems = [stage.method.stem for stage in stages]
    earlier = [stems[:i].count(stem) for i, stem in enumerate(stems)]
    return [f"{stem}_{n + 1}" if n else stem for stem, n in zip(stems, earlier, strict=True)]


def all_tags(stages: Sequence[Stage], own: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of all terms in the order in which they are made."""
    rows = [
        (isinstance(stage.method, AGGREGATORS), {f"{name}.{term}": tag for term, tag in stage.method.tags.items()})
        for name, stage in zip(names(stages), stages, strict=True)
    ]
    found: dict[str, str] = {}
    for name, tag in own.items():
        found[name] = tag
        for last, theirs in rows:
            if name == ("factor" if last else "scale"):
                found.update(theirs)
    return found

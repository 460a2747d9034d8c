"""What a defect is, and how the method with one is made from the specification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeVar

S = TypeVar("S")


@dataclass(frozen=True)
class Defect:
    """A wrong variant of one tagged equation.

    `name`; `equation`: the tag that it breaks; `summary`: what is computed instead, for a sentence that begins
    "the run computes …"; `replaces`: the functions of the method's module that stand for that equation, and what
    stands in their place; for a statement about which weights are in use that is `Step`, which receives them; for an
    attribute of the method, the optimiser `rule`, a function of it; `seen`: where it was met, empty if it is only
    plausible.
    """

    name: str
    equation: str
    summary: str
    replaces: Mapping[str, Callable[..., Any]]
    seen: str = ""


def variant(method: S, *defects: Defect) -> S:
    """Return `method`, a method or a network, with its hyper-parameters, as it would be with `defects`.

    The class's functions are made anew over a copy of the module's names in which the defects' functions stand, and
    its attributes by them; neither the module nor the class of `method` is touched. A method that holds a network
    says itself where they go.
    """
    if hasattr(method, "varied"):
        varied: S = method.varied(*defects)
        return varied
    replaced = {name: function for defect in defects for name, function in defect.replaces.items()}
    cls: Any = type(method)
    module = (cls.step if hasattr(cls, "step") else cls.forward).__globals__
    names: dict[str, Any] = {**module, **replaced}
    attributes = {name: change for name, change in replaced.items() if name not in module}
    missing = [name for name in attributes if not hasattr(cls, name)]
    if missing:
        raise KeyError(f"{cls.__name__}'s module has no function {missing}")
    body: dict[str, Any] = {
        name: FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
        for name, function in vars(cls).items()
        if isinstance(function, FunctionType) and not name.startswith("__")
    }
    body |= {name: change(getattr(method, name)) for name, change in attributes.items()}
    title = "".join(defect.name for defect in defects) + cls.__name__
    wrong: S = object.__new__(type(title, (cls,), body))
    for name, value in vars(method).items():
        if name not in attributes:
            object.__setattr__(wrong, name, value)
    return wrong

"""Settings: a method from its name and the plain values that a command line or a log's side file holds.

An optimiser is given by its name (`"adam"`, with the method's `lr` as its rate) or as an object
(`{"name": "adam", "lr": 0.025, "beta1": 0.9}`). So is a stage of a combination: by its method's name (`"dwa"`), or as
an object with the method's settings and its strength (`{"method": "dwa", "temperature": 0.5, "strength": 2}`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from mtlref.contract import Method
from mtlref.methods import METHODS, Stage
from mtlref.notation import DomainError
from mtlref.optimisers import SGD, Adam, Momentum, Optimiser

OPTIMISERS: Mapping[str, type[Optimiser]] = {"sgd": SGD, "momentum": Momentum, "adam": Adam}
"""The optimisers by the names that settings use."""

UNSET = {"optimiser": "SGD(lr)", "initial_losses": ""}
"""What a hyper-parameter that is None stands for; where that goes without saying, nothing."""


def build(stem: str, settings: Mapping[str, object], methods: Mapping[str, type[Method]] = METHODS) -> Method:
    """Return the method `stem` with `settings`; what they leave out has the class's default.

    `methods`: stem → class, the weighting methods unless something else is meant.

    Errors: DomainError for an unknown method, setting or optimiser, or a value out of range.
    """
    if stem not in methods:
        message = f"method = {stem!r} is not known; there are: {', '.join(methods)}"
        raise DomainError(message, argument="method", value=stem)
    cls: Any = methods[stem]
    known = hyper_parameters(cls)
    for name in settings:
        if name not in known:
            has = ", ".join(known) or "none"
            message = f"{cls.title} has no setting {name!r}; it has: {has}"
            raise DomainError(message, argument=name, value=settings[name])
    given = dict(settings)
    if given.get("optimiser") is not None:
        given["optimiser"] = _optimiser(given["optimiser"], given.get("lr", getattr(cls, "lr", None)))
    method: Method = cls(*_stages(given.pop("stages", ())), **given) if "stages" in known else cls(**given)
    return method


def _stages(chosen: object) -> list[Stage]:
    """Return the stages of a combination, each from a method's name, an object, or a stage or a method as it is."""
    if not isinstance(chosen, Sequence) or isinstance(chosen, str):
        message = f'stages = {chosen!r} must be a list such as ["dwa", {{"method": "gradnorm", "strength": 0.5}}]'
        raise DomainError(message, argument="stages", value=chosen)
    stages = []
    for given in chosen:
        if isinstance(given, Stage | Method):
            stages.append(given if isinstance(given, Stage) else Stage(given))
            continue
        options = dict(given) if isinstance(given, Mapping) else {"method": given}
        name, strength = options.pop("method", None), options.pop("strength", 1.0)
        stages.append(Stage(build(str(name), options), strength))
    return stages


def _optimiser(chosen: object, lr: object) -> Optimiser:
    """Return the optimiser itself, that of a name, or of an object with a name and its own settings."""
    if isinstance(chosen, Optimiser):
        return chosen
    options: dict[str, Any] = {"lr": lr}
    options.update(chosen if isinstance(chosen, Mapping) else {"name": chosen})
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in OPTIMISERS:
        form = 'or, with settings, {"name": "momentum", "beta": 0.9}'
        message = f"optimiser = {chosen!r} is not known; there are: {', '.join(OPTIMISERS)}, {form}"
        raise DomainError(message, argument="optimiser", value=name)
    try:
        return OPTIMISERS[name](**options)
    except TypeError as error:
        message = f"optimiser {name!r} does not take these settings: {', '.join(options)}"
        raise DomainError(message, argument="optimiser", value=sorted(options)) from error


def parse(assignments: Sequence[str]) -> dict[str, object]:
    """Return the settings of `name=value` words; a value is JSON, or else a string. Errors: DomainError."""
    settings: dict[str, object] = {}
    for word in assignments:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise DomainError(f"a setting is name=value; {word!r} is not", argument="set", value=word)
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return settings


def described(method: Method) -> str:
    """Return the hyper-parameters of `method` in words: `alpha = 1.5, lr = 0.025`."""
    values = {name: getattr(method, name) for name in hyper_parameters(method)}
    shown = {name: UNSET.get(name, "none") if value is None else value for name, value in values.items()}
    return ", ".join(f"{name} = {value}" for name, value in shown.items() if value != "") or "no settings"


def hyper_parameters(method: Method | type[Method]) -> list[str]:
    """Return the names of a method's hyper-parameters: the fields of its dataclass."""
    return [field.name for field in fields(method)]  # type: ignore[arg-type]


def left_open(method: Method | type[Method], given: Collection[str] = ()) -> list[str]:
    """Return the hyper-parameters that are not given, but for those whose default goes without saying."""
    return [name for name in hyper_parameters(method) if name not in given and UNSET.get(name) != ""]

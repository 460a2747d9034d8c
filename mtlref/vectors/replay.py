"""Replay: a vector put to a method or a network of this package, and how far its answer is from the expected one.

`observed` gives every observable of a test: of a step the values, of a run a list of them, one a step, of a network
its terms and the gradients of the losses. It raises what the method raises, which is what an invalid vector asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from mtlref.autograd import jacobian, parameter
from mtlref.contract import Method, Step, direction
from mtlref.methods import NETWORKS, HMoE
from mtlref.mixtures import joined, split, stacked, unstacked
from mtlref.networks import Parameters
from mtlref.notation import Array, DomainError
from mtlref.settings import build
from mtlref.state import State

S = TypeVar("S", bound=State)

STRINGS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
"""The numbers that JSON has no form for, and how the vectors write them."""


def method(stem: str, parameters: Mapping[str, Any]) -> Method:
    """Return the method with the parameters of a group. Errors: DomainError for a value out of range."""
    return build(stem, numbers(parameters))


def subject(stem: str, parameters: Mapping[str, Any]) -> Method | HMoE:
    """Return what the vectors of `stem` are put to: a method, or a network. Errors: DomainError as for `method`."""
    if stem in NETWORKS:
        return NETWORKS[stem](**{name: _tupled(value) for name, value in parameters.items()})
    return method(stem, parameters)


def _tupled(value: Any) -> Any:
    """Return lists, however nested, as tuples."""
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


def numbers(value: Any) -> Any:
    """Return a value of a vector with the numbers that are written as strings put in."""
    if isinstance(value, str):
        return STRINGS.get(value, value)
    if isinstance(value, Mapping):
        return {name: numbers(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        return [numbers(item) for item in value]
    return value


def state_of(template: S, plain: Mapping[str, Any]) -> S:
    """Return a state of the kind of `template` with the plain fields of a vector; what they leave out, stays.

    Errors: DomainError for a field that the state does not have.
    """
    unknown = set(plain) - {field.name for field in fields(template)}
    if unknown:
        message = f"a {type(template).__name__} has no field {', '.join(sorted(unknown))}"
        raise DomainError(message, argument="state", value=sorted(unknown))
    changed: dict[str, Any] = {}
    for name, value in plain.items():
        before = getattr(template, name)
        if isinstance(before, State):
            changed[name] = state_of(before, value)
        elif isinstance(before, tuple):
            changed[name] = tuple(state_of(one, its) for one, its in zip(before, value, strict=True))
        else:
            changed[name] = np.array(numbers(value), dtype=np.float64) if isinstance(value, list) else numbers(value)
    return replace(template, **changed)


def observed(method: Method | HMoE, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `method` answers to the input of a test of the type `kind`: every observable by its name.

    Errors: whatever the method raises.
    """
    if isinstance(method, HMoE):
        return _pass(method, numbers(given))
    if kind == "step":
        arrays = [value for name, value in given["state"].items() if isinstance(value, list) and name != "stages"]
        state = state_of(method.init(len(arrays[0] if arrays else given["losses"])), given["state"])
        return observables(*_step(method, state, given))
    names = [name for name in ("losses", "jacobian", "draw") if name in given]
    state = method.init(len(given["losses"][0]))
    if "state" in given:
        state = state_of(state, given["state"])
    rows: list[dict[str, Any]] = []
    for values in zip(*(given[name] for name in names), strict=True):
        out, jacobian = _step(method, state, dict(zip(names, values, strict=True)))
        rows.append(observables(out, jacobian))
        state = out.state
    return {name: [row[name] for row in rows] for name in rows[0]}


def _step(method: Method, state: State, given: Mapping[str, Any]) -> tuple[Step, Any]:
    """Return one step of `method`, and the Jacobian it read."""
    losses, jacobian = numbers(given["losses"]), numbers(given.get("jacobian"))
    more = {"draw": given["draw"]} if "draw" in given else {}
    return method.step(state, losses, jacobian, **more), jacobian


def observables(out: Step, jacobian: Any) -> dict[str, Any]:
    """Return the observables of one step."""
    found: dict[str, Any] = {"weights": out.weights, "head_weights": out.head_weights, **out.terms}
    if jacobian is not None:
        found["direction"] = direction(out.weights, np.asarray(jacobian, dtype=np.float64))
    return found


# A NETWORK


def _pass(network: HMoE, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's terms, and the gradients of the losses L_k = Σ δ_k out_k.

    `dS` is the slope of each loss in each S_j, `d_<kind>` its gradient in the parameters of a kind: a row a loss, in
    the order in which the vector gives them.
    """
    at = _parameters(network, given["parameters"])
    leaves = tuple(parameter(array) for array in at.flat)
    terms = network.terms(at.rebuilt(leaves), given["x"])
    losses = [(out * np.asarray(delta)).sum() for out, delta in zip(terms["out"], given["delta"], strict=True)]
    found: dict[str, Any] = {
        name: np.stack([tensor.value for tensor in values]) for name, values in terms.items() if name != "seen"
    }
    found["E"] = found["E"][0]
    scores = terms["S"]
    blocks = jacobian(losses, (*scores, *leaves)).blocks
    found["dS"], blocks = np.stack(blocks[: len(scores)], axis=1), blocks[len(scores) :]
    rows = [_flat(network, at.rebuilt([block[k] for block in blocks])) for k in range(len(losses))]
    return {**found, **{f"d_{kind}": np.stack([row[kind] for row in rows]) for kind in rows[0]}}


def _parameters(network: HMoE, plain: Mapping[str, Any]) -> Parameters[Array]:
    """Return the parameters that a vector gives kind by kind."""
    experts, towers = (
        [[np.array(array) for array in layers] for layers in plain[kind]] for kind in ("experts", "towers")
    )
    gates, relations = ([np.array(matrix) for matrix in plain[kind]] for kind in ("gates", "relations"))
    common = (network.share_gate, network.share_w)
    return joined((gates, relations), stacked(experts), [tuple(layers) for layers in towers], common)


def _flat(network: HMoE, gradient: Parameters[Array]) -> dict[str, Array]:
    """Return a gradient as a vector for each kind of parameters, in the order of `_parameters`."""
    common = (network.share_gate, network.share_w)
    matrices, experts, towers = split(gradient, common)
    gates, relations = (kind[:1] if one else kind for kind, one in zip(matrices, common, strict=True))
    kinds = {
        "experts": [array for layers in unstacked(experts) for array in layers],
        "gates": gates,
        "relations": relations,
        "towers": [array for layers in towers for array in layers],
    }
    return {name: np.concatenate([np.ravel(array) for array in arrays]) for name, arrays in kinds.items()}


# HOW FAR


def distance(got: Any, expected: Any) -> float:
    """Return the largest error of `got`, in units of the larger of 1 and the largest expected entry.

    Of a run, each step has its own unit. NaN in `got`, or another shape, is infinitely far.
    """
    if isinstance(got, list):
        if len(got) != len(expected):
            return float("inf")
        return max((distance(a, b) for a, b in zip(got, expected, strict=True)), default=0.0)
    found: Array = np.asarray(got, dtype=np.float64)
    wanted: Array = np.asarray(expected, dtype=np.float64)
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    unit = max(1.0, float(np.max(np.abs(wanted), initial=0.0)))
    return float(np.max(np.abs(found / unit - wanted / unit), initial=0.0))

"""What was inferred, in words, and as what the json module writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from mtlref.audit.inference.anything import Search
from mtlref.audit.inference.family import FEW, SEARCHED, Span, defaults
from mtlref.audit.inference.fit import Fit, Inference
from mtlref.methods import METHODS
from mtlref.optimisers import Optimiser
from mtlref.settings import UNSET, hyper_parameters

VISIBLE = 1e-3
"""The share of a number by which its ends must differ to be printed."""

SHOWN = 4
"""How many of several settings that fit are printed."""


def told(inference: Inference) -> Iterator[str]:
    """Yield what was inferred, and how sure that is."""
    best, title = inference.best, METHODS[inference.stem].title
    if inference.kind == "nearest":
        yield from told_nearest(inference)
        return
    if inference.kind == "undecided":
        yield f"no step of the log decides anything, so taken at the default: {', '.join(best.settings)}"
        return
    yield listed(best)
    same = "; what stands in brackets gives the same" if any(bracket(name, best) for name in best.settings) else ""
    if inference.kind == "with a defect":
        assert best.defect is not None
        wrong = f"{best.defect.name} [{best.defect.equation}]"
        yield f"no settings of {title} alone give the weights; these do with {wrong}{same}"
        return
    yield f"the simplest that give the weights at every one of {searched(inference)}{same}"
    if len(inference.fits) > 1:
        more = "another, which gives" if len(inference.fits) == 2 else f"{len(inference.fits) - 1} others, which give"
        yield f"ambiguous: this log cannot tell them from {more} the same weights:"
        yield from (f"  {listed(other)}" for other in inference.fits[1:SHOWN])
    elif inference.kind == "ambiguous":
        yield "ambiguous: not all of them have an effect in this log"


def told_nearest(inference: Inference) -> Iterator[str]:
    """Yield what is taken where nothing fits, and what it leaves over."""
    best, usual = inference.best, defaults(inference.stem)
    if all(name in usual and usual[name] == value for name, value in best.settings.items()):
        yield f"nothing that was tried gives the weights, so taken at the default: {', '.join(best.settings)}"
    else:
        yield f"nothing that was tried gives the weights; the nearest: {listed(best)}"
    yield f"left over: {best.departures} of {searched(inference)}, by up to {best.largest:.2e}"


def searched(inference: Inference) -> str:
    """Return how many steps the search has compared; the log's first ones, if it has more."""
    first = "the first " if inference.rows in (FEW, SEARCHED) else ""
    return f"{first}{inference.best.steps} steps"


def listed(fit: Fit) -> str:
    """Return the inferred settings as a list, in the method's order, each with what the log leaves open of it."""
    names = [name for name in hyper_parameters(fit.method) if name in fit.settings]
    return ", ".join(f"{name} = {worded(name, fit)}{bracket(name, fit)}" for name in names) or "no settings"


def worded(name: str, fit: Fit) -> str:
    """Return a setting's value as the method has it."""
    value = getattr(fit.method, name)
    return UNSET.get(name, "none") if value is None else str(value)


def bracket(name: str, fit: Fit) -> str:
    """Return other values of a setting that give the same weights, in brackets; numbers only if visibly others."""
    if name in fit.alike:
        return f" (or {', '.join(map(str, fit.alike[name]))})"
    low, high = fit.spans.get(name, (0.0, 0.0))
    if math.isinf(high):
        return f" (or any above {low:.4g})"
    return f" ({low:.5g} to {high:.5g})" if high - low > VISIBLE * abs(high) else ""


def told_search(search: Search) -> Iterator[str]:
    """Yield which other methods fit, and which could not be tried."""
    if search.best.fitting:
        for other in search.others:
            name = METHODS[other.stem].title
            yield f"as well: {name}" + (f", {listed(other.best)}" if other.best.settings else "")
    else:
        yield "no method that can be judged by this log gives its weights"
    for stem, reason in search.left_out.items():
        yield f"not tried: {METHODS[stem].title}: {reason.removeprefix(METHODS[stem].title).lstrip()}"


def plain(inference: Inference | None, search: Search | None) -> Mapping[str, object] | None:
    """Return what was inferred as what the json module writes; None if nothing was."""
    if inference is None:
        return None
    found: dict[str, object] = {
        "kind": inference.kind,
        "method": inference.stem,
        "rows_searched": inference.rows,
        "tried": inference.tried,
        "settings": [_fit(fit) for fit in inference.fits],
    }
    if search is not None:
        found["as_well"] = {other.stem: [_fit(fit) for fit in other.fits] for other in search.others}
        found["not_tried"] = dict(search.left_out)
    return found


def _fit(fit: Fit) -> Mapping[str, object]:
    return {
        "settings": {name: _value(getattr(fit.method, name)) for name in fit.settings},
        "from_to": {name: _ends(ends) for name, ends in fit.spans.items()},
        "alike": {name: list(values) for name, values in fit.alike.items()},
        "defect": None if fit.defect is None else fit.defect.name,
        "steps": fit.steps,
        "departures": fit.departures,
        "largest_error": fit.largest if math.isfinite(fit.largest) else None,
    }


def _value(value: object) -> object:
    """Return a setting's value; an optimiser as an object with its name."""
    if isinstance(value, Optimiser):
        return {"name": type(value).__name__.lower(), **vars(value)}
    return list(value) if isinstance(value, tuple) else value


def _ends(ends: Span) -> list[float | None]:
    """Return the ends of an interval, None for an end that there is not."""
    return [ends[0], ends[1] if math.isfinite(ends[1]) else None]

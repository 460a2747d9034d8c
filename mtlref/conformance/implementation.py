"""Implementation: what is judged, and how it is called.

An implementation is known by its method's stem and three functions, of which one is enough:

    step(problem, state) -> {"w_next": …, "target": …}        any state can be put in
    run(run)             -> yields {"w_next": …} a step       for code that keeps its state to itself
    live(live_run)       -> yields {"direction": …} a step    a run on a network, whose gradients the code makes

A run that yields is read at every step, before its buffers change; one that returns gives a list of such mappings, or
one mapping from names to lists, and owes copies.
The names are those of the method's terms, and `weights`, `head_weights`, `direction`; of a live run also `losses`,
`jacobian` and `head_gradients`. The method "jacobian" is the per-task gradients alone, "hmoe" a
network's pass. Values are whatever NumPy can read, or tensors with `detach`. Code that crashes, hangs, returns the
wrong shapes or writes into its arguments is reported as that (`AdapterError`), and what it prints is kept for the
report.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mtlref.conformance import watchdog
from mtlref.conformance.live import LAYERS, LiveRun, PerTaskGradients
from mtlref.conformance.mixtures import HMoEPass
from mtlref.conformance.problem import Case, Run, copied, following, same
from mtlref.contract import Method
from mtlref.methods import METHODS
from mtlref.notation import Array, DomainError, MtlrefError, count
from mtlref.settings import build

if TYPE_CHECKING:
    from mtlref.conformance.strategies import Kind

PATIENCE = 60.0
"""Seconds after which a call counts as hung."""

HANGS = 2
"""How many calls may hang before nothing more is asked."""

LINES = 1000
"""How many lines of output are kept."""

DTYPES = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The distance from 1 to the next number of each type."""

SPECIFICATIONS: Mapping[str, type[Method]] = {**METHODS, "hmoe": HMoEPass, "jacobian": PerTaskGradients}
"""What can be judged, by its stem: the weighting methods, a network, and the gradients that they start from."""

EVERYWHERE = ("weights", "head_weights", "direction")
"""The observables of every method."""

OWN = ("scale", "order", "layer", "least", "silent")
"""The choices that are the kit's own, not settings of the specification."""

LIVE = ("losses", "jacobian", "head_gradients")
"""The observables of a live run beside them."""

SCALED = ("weights", "head_weights", "direction", "head_gradients", "w", "w_next", "alpha")
"""The observables that a declared `scale` multiplies."""

Observables = Mapping[str, Array]
Trajectory = Mapping[str, Any] | Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]]
Fault = Literal["crashed", "hung", "shape", "names", "wrote", "flaky"]


class AdapterError(MtlrefError):
    """The implementation could not be judged: `fault` says in which way it failed to answer."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True)
class Implementation:
    """An implementation of the method with the stem `method`.

    `name`: how reports call it. `step`, `run`, `live`: at least one of them. `choices`: the settings of the
    specification that it departs from the defaults in, or holds fixed (`{"reduction": "mean"}`, `{"alpha": 1.5}`),
    and five of the kit's own: `scale`, a factor on all weights and directions that it reports (a number, "K" or
    "1/K"); `least`, the fewest tasks that it takes, 1; for a method that draws, `order`: "given" if it takes the
    draw, "own" if it makes its own; in a live run, `layer`: whether the method reads the gradients of "all" shared
    layers, of the "last" one, or of the last one's "matrix", as GradNorm may (LIVE-C1); where a method's source
    is `silent` on a problem, "left out" if it goes its own way, "ruled" if it follows the specification's rule and
    is held to it (PELTR-C3). `dtype`: what it computes in.
    Errors: DomainError for an unknown method, choice or type.
    """

    method: str
    name: str = field(kw_only=True)
    step: Callable[..., Mapping[str, Any]] | None = field(default=None, kw_only=True)
    run: Callable[..., Trajectory] | None = field(default=None, kw_only=True)
    live: Callable[..., Trajectory] | None = field(default=None, kw_only=True)
    choices: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    dtype: str = field(default="float64", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", MappingProxyType(dict(self.choices)))
        if self.method not in SPECIFICATIONS:
            message = f"method = {self.method!r} is not known; there are: {', '.join(SPECIFICATIONS)}"
            raise DomainError(message, argument="method", value=self.method)
        if not self.kinds:
            raise DomainError(f"{self.name}: one of step, run and live is needed", argument="step")
        if self.dtype not in DTYPES:
            message = f"dtype = {self.dtype!r} is not known; there are: {', '.join(DTYPES)}"
            raise DomainError(message, argument="dtype", value=self.dtype)
        for choice, options in (("order", ("given", "own")), ("layer", LAYERS), ("silent", ("left out", "ruled"))):
            value = self.choices.get(choice, options[0])
            if value not in options:
                message = f"{choice} = {value!r} must be {' or '.join(map(repr, options))}"
                raise DomainError(message, argument=choice, value=value)
        self.specification({})
        self.scale(1)
        _ = self.least

    @property
    def eps(self) -> float:
        """The distance from 1 to the next number of its type."""
        return DTYPES[self.dtype]

    @property
    def own_order(self) -> bool:
        """Whether it draws for itself."""
        return bool(self.choices.get("order") == "own")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of cases that it can be put to, those that say most first."""
        found: list[Kind] = [] if self.step is None else ["step"]
        found += ["run"] if self.step or self.run else []
        found += ["live"] if self.live else []
        return tuple(found)

    @property
    def layer(self) -> str:
        """Which shared layers' gradients the method reads in a live run."""
        return str(self.choices.get("layer", "all"))

    def settings(self) -> dict[str, Any]:
        """Return the declared settings of the specification."""
        return {name: value for name, value in self.choices.items() if name not in OWN}

    @property
    def least(self) -> int:
        """The fewest tasks that it takes."""
        return count("least", self.choices.get("least", 1))

    def specification(self, settings: Mapping[str, Any]) -> Method:
        """Return the specification that it is judged by: with `settings`, except where it declares its own."""
        return build(self.method, {**settings, **self.settings()}, SPECIFICATIONS)

    def scale(self, K: int) -> float:
        """Return the declared factor on its weights for K tasks. Errors: DomainError if it is not above 0."""
        declared = self.choices.get("scale", 1.0)
        factor = {"K": float(K), "1/K": 1 / K}.get(declared, declared)
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
            message = f"scale = {declared!r} must be a number above 0, 'K' or '1/K'"
            raise DomainError(message, argument="scale", value=declared)
        return float(factor)


def observed_names(case: Case) -> tuple[str, ...]:
    """Return the names that an implementation may give for a case, in tag order."""
    first, last = (LIVE[:2], LIVE[2:]) if case.live else ((), ())
    return tuple(dict.fromkeys((*first, *case.method.tags, *EVERYWHERE, *last)))


# CALLS


@dataclass
class Answers:
    """What an implementation has answered: `observe` asks it, once a case that has a label, answered or not.

    `printed`: the first lines of its output; `hung`: how many calls have not come back; `shared`: the observables
    that are one array at every step of a run, whose earlier values are lost if it is altered in place.
    """

    impl: Implementation
    matrixwise: bool = False
    """Whether its allowances are those of a method that solves a system in the inner products (`spread`)."""
    trials: dict[int, Any] = field(default_factory=dict)
    """The trials of labelled cases, kept for all checks by the case's identity; they keep the cases."""
    printed: list[str] = field(default_factory=list)
    hung: int = 0
    shared: set[str] = field(default_factory=set)
    known: dict[int, tuple[Case, list[dict[str, Array]] | AdapterError]] = field(default_factory=dict)

    def observe(self, case: Case) -> list[dict[str, Array]]:
        """Return the observables of each step that is judged, in the specification's scale. Errors: AdapterError."""
        if not case.label:
            return self.fresh(case)
        if id(case) not in self.known:
            try:
                self.known[id(case)] = (case, self.fresh(case))
            except AdapterError as error:
                self.known[id(case)] = (case, error)
        found = self.known[id(case)][1]
        if isinstance(found, AdapterError):
            raise found.with_traceback(None)
        return found

    def fresh(self, case: Case) -> list[dict[str, Array]]:
        """Return the observables of each step, asked for anew. Errors: AdapterError."""
        return self._run(case) if self._lives(case) or self._runs(case) else self._steps(case)

    def row(self, case: Case, values: Mapping[str, Any]) -> dict[str, Array]:
        """Return the observables of one step as arrays, in the specification's scale. Errors: AdapterError."""
        factor = self.impl.scale(case.n_tasks)
        known = {name: numeric(name, value) for name, value in values.items()}
        return {name: value / factor if name in SCALED else value for name, value in known.items()}

    def _lives(self, case: Case) -> bool:
        """Whether the case is put to `live`. Errors: AdapterError if there is nothing else, and it has no network."""
        if self.impl.live is not None and not case.live and self.impl.step is None and self.impl.run is None:
            raise AdapterError("names", f"{self.impl.name} takes live runs alone")
        return self.impl.live is not None and case.live

    def _runs(self, case: Case) -> bool:
        """Whether the case is put to `run`: a sequence from the start, or any if there is no `step`."""
        if self.impl.run is None:
            return False
        if self.impl.step is None and case.injected:
            raise AdapterError("names", f"{self.impl.name} has no step: a state cannot be put in")
        return not case.injected and (len(case.steps) > 1 or self.impl.step is None)

    def _run(self, case: Case) -> list[dict[str, Array]]:
        asked = tuple(problem.asked for problem in case.steps)
        door, T = ("live", len(asked)) if case.live else ("run", len(asked))
        function = self.impl.live if case.live else self.impl.run
        assert function is not None
        found = self.called(partial(read, function, door, T), LiveRun(asked) if case.live else Run(asked))
        if not isinstance(found, Sequence):
            columns = {name: column(door, name, values, T) for name, values in mapping(found, door).items()}
            found = [{name: values[t] for name, values in columns.items()} for t in range(T)]
        if len(found) != T:
            many = "more" if len(found) > T else str(len(found))
            raise AdapterError("shape", f"{door} gives {many} mappings for {T} steps")
        rows = [mapping(row, door) for row in found]
        if T > 1:
            self.shared |= {name for name in rows[0] if len({place(row.get(name)) for row in rows}) == 1}
        return [self.row(case, row) for row in rows]

    def _steps(self, case: Case) -> list[dict[str, Array]]:
        rows: list[dict[str, Array]] = []
        state = case.state
        for t, problem in enumerate(case.steps):
            if t:
                try:
                    state = following(case.steps[t - 1], state, rows[-1])
                except MtlrefError:  # its own weights lead where the specification cannot follow: judged up to here
                    break
            found = mapping(self.called(self.impl.step, problem.asked, state), "step")
            rows.append(self.row(case, found))
        return rows

    def called(self, function: Callable[..., Any] | None, *arguments: Any) -> Any:
        """Return what `function` returns for copies of the arguments. Errors: AdapterError."""
        assert function is not None
        name = self.impl.name
        if self.hung >= HANGS:
            raise AdapterError("hung", f"{name} has not answered {self.hung} times, and is not asked again")
        given = copied(tuple(arguments))
        outcome = watchdog.call(function, given, PATIENCE)
        self.printed.extend(outcome.printed[: LINES - len(self.printed)])
        if outcome.hung:
            self.hung += 1
            raise AdapterError("hung", f"{name} has not answered after {PATIENCE:g} seconds")
        if isinstance(outcome.error, AdapterError):
            raise outcome.error.with_traceback(None)
        if outcome.error is not None:
            raise AdapterError("crashed", f"{name} raised {crash(outcome.error)}") from outcome.error
        if not same(given, tuple(arguments)):
            raise AdapterError("wrote", f"{name} wrote into its arguments")
        return outcome.value


def read(function: Callable[..., Trajectory], door: str, steps: int, run: Any) -> Any:
    """Return what `function(run)` returns; of one that yields, a mapping a step, read as it comes.

    Errors: AdapterError.
    """
    found = function(run)
    if not isinstance(found, Iterator):
        return found
    rows = (mapping(row, door) for row in islice(found, steps + 1))
    return [{name: numeric(name, value) for name, value in row.items()} for row in rows]


def place(value: Any) -> object:
    """Return where an array or a tensor keeps its numbers; something of its own for whatever cannot be altered."""
    if isinstance(value, np.ndarray):
        return value.__array_interface__["data"][0]
    return value.data_ptr() if hasattr(value, "data_ptr") else object()


def mapping(found: Any, door: str) -> Mapping[str, Any]:
    """Return what an implementation returned, if it is a mapping with names. Errors: AdapterError."""
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        message = f"{door} must return a mapping from names to values; it returned {type(found).__name__}"
        raise AdapterError("names", message)
    return found


def column(door: str, name: str, values: Any, steps: int) -> tuple[Any, ...]:
    """Return a run's values of one observable, one a step. Errors: AdapterError."""
    try:
        found = tuple(islice(iter(values), steps + 1))
    except Exception as error:  # whatever somebody else's container does
        message = f"{door} must give a value of {name} a step: {type(error).__name__}: {error}"
        raise AdapterError("shape", message) from error
    if len(found) != steps:
        many = "more" if len(found) > steps else str(len(found))
        raise AdapterError("shape", f"{door} gives {many} values of {name} for {steps} steps")
    return found


def numeric(name: str, value: Any) -> Array:
    """Return an observable as a float64 array, of a tensor its values. Errors: AdapterError."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu().double().numpy()
        elif isinstance(value, Sequence) and any(hasattr(item, "detach") for item in value):
            value = [numeric(name, item) for item in value]
        raw = np.asarray(value)
        if raw.dtype.kind in "cSUmM":
            raise TypeError(f"its type is {raw.dtype}")
        return np.array(raw, dtype=np.float64)
    except Exception as error:  # whatever somebody else's array does
        raise AdapterError("shape", f"{name} is not an array of real numbers: {error}") from error


def crash(error: BaseException) -> str:
    """Return an exception of somebody else's code in one line: its type, what it says, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}{where}"

"""Passes of a mixture: HMoE's forward pass and the gradients of its losses, which somebody else's network repeats.

A `Pass` holds the parameters, kind by kind, a batch, and the slope of each loss in its scenario's output. It is put
to

    Implementation("hmoe", name=…, step=step)        # step(given, state) -> {"out": …, "d_towers": …, "a": …}

The losses are L_k = Σ δ_k ⊙ out_k, so δ stands for whatever loss there is; where δ_k is 0 for a sample, the sample is
of another scenario. `HMoEPass` is what is judged by: the network as a method that weights nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from mtlref.conformance.problem import Case, Given, Problem, shaken
from mtlref.contract import Method, Reads, Step, same_tasks
from mtlref.defects.defect import Defect, variant
from mtlref.methods.hmoe import HMoE
from mtlref.networks import Activation
from mtlref.notation import Array, ShapeError, count
from mtlref.state import State
from mtlref.vectors.replay import numbers, observed

Layers = tuple[Array, ...]
"""W (inputs, outputs), b (outputs,) of each layer in turn."""


@dataclass(frozen=True, eq=False)
class Pass(Given):
    """One pass of a network of K scenarios and N experts.

    `method`: the sizes, the activation and the choices; `experts`, `towers`: the layers of each, h = φ(x W + b);
    `gates` (inputs, N) and `relations` (inputs, K): one matrix a scenario, or one in all where they share it; `x` (B,
    inputs); `delta`: for each scenario ∂L_k/∂out_k, (B, outputs). `evaluation`: None, nothing follows the pass.
    """

    method: HMoEPass
    experts: tuple[Layers, ...]
    gates: tuple[Array, ...]
    relations: tuple[Array, ...]
    towers: tuple[Layers, ...]
    x: Array
    delta: tuple[Array, ...]
    evaluation: None = None

    @property
    def n_tasks(self) -> int:
        """K."""
        return len(self.towers)

    @property
    def plain(self) -> dict[str, Any]:
        """The same as the input of a golden vector."""
        kinds = ("experts", "gates", "relations", "towers")
        return {"parameters": {kind: getattr(self, kind) for kind in kinds}, "x": self.x, "delta": self.delta}

    @property
    def described(self) -> str:
        """The network in words."""
        return f"{len(self.experts)} experts, batch {len(self.x)}"

    def mapped(self, change: Callable[[Array], Array]) -> Pass:
        """Return the pass with every array changed."""
        return replace(
            self, **{f.name: mapped(getattr(self, f.name), change) for f in fields(self) if f.name in PARTS}
        )

    @property
    def towers_of(self) -> list[slice]:
        """The columns of `d_towers` that are each tower's."""
        ends = np.cumsum([0, *(sum(array.size for array in layers) for layers in self.towers)])
        return [slice(int(a), int(b)) for a, b in pairwise(ends)]


PARTS = ("experts", "gates", "relations", "towers", "x", "delta")
"""What a pass holds in arrays."""


def mapped(value: Any, change: Callable[[Array], Array]) -> Any:
    """Return arrays, however nested in tuples, each changed."""
    return tuple(mapped(item, change) for item in value) if isinstance(value, tuple) else change(value)


# THE SPECIFICATION


@dataclass(frozen=True, eq=False)
class PassState(State):
    """`weights` (K,): ones. A pass remembers nothing."""

    weights: Array


@dataclass(frozen=True)
class HMoEPass(Method):
    """HMoE's pass (MMOE-1 … MMOE-4, HMOE-1 … HMOE-5): the fields are those of `mtlref.HMoE`.

    `towers` None: as many as a case has scenarios. Errors: DomainError as for the network.
    """

    n_inputs: int = 4
    n_experts: int = 2
    experts: tuple[int, ...] = (3,)
    towers: tuple[int | tuple[int, ...], ...] | None = None
    activation: Activation = "tanh"
    share_gate: bool = False
    share_w: bool = False
    mix: Literal["logit", "prob", "hidden"] = "logit"
    constrained: bool = True
    mode: Literal["end_to_end", "stacked"] = "end_to_end"

    stem: ClassVar[str] = "hmoe"
    title: ClassVar[str] = HMoE.title
    source: ClassVar[str] = HMoE.source
    reads: ClassVar[Reads] = "losses"
    tags: ClassVar[dict[str, str]] = {
        **{name: tag for name, tag in HMoE.tags.items() if name not in ("seen", "out")},
        "dS": "HMOE-3",
        "out": "HMOE-4",
        "d_relations": "HMOE-4",
        "d_towers": "HMOE-3",
        "d_gates": "HMOE-3",
        "d_experts": "HMOE-3",
    }
    start: ClassVar[str] = "HMOE-4"
    heads: ClassVar[str] = "HMOE-3"
    defects: ClassVar[tuple[Defect, ...]] = ()
    """The known defects that are in it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "experts", tuple(self.experts))
        if self.towers is not None:
            towers = tuple(widths if isinstance(widths, int) else tuple(widths) for widths in self.towers)
            object.__setattr__(self, "towers", towers)
        _ = self.network

    @property
    def network(self) -> HMoE:
        """The network, with the defects."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.towers is None:
            given["towers"] = ((2, 1),)
        return variant(HMoE(**given), *self.defects) if self.defects else HMoE(**given)

    def varied(self, *defects: Defect) -> HMoEPass:
        """Return the same with defects in the network."""
        wrong = replace(self)
        object.__setattr__(wrong, "defects", defects)
        return wrong

    @property
    def lagged(self) -> bool:
        """False: there is no weight to remember."""
        return False

    def init(self, n_tasks: int) -> PassState:
        """Return the state: nothing but ones. Errors: ShapeError if there are not as many towers."""
        K = count("n_tasks", n_tasks)
        if self.towers is not None and len(self.towers) != K:
            message = f"towers must be one a scenario, {K}; there are {len(self.towers)}"
            raise ShapeError(message, argument="towers", value=len(self.towers))
        return PassState(np.ones(K))

    def step(self, state: State, losses: ArrayLike, jacobian: ArrayLike | None = None) -> Step:
        """Return weights of one: HMoE weights no losses."""
        known, w = same_tasks(state, PassState)
        return Step(weights=w, head_weights=w, state=known, terms={})


@dataclass(frozen=True)
class PassProblem(Problem):
    """The problem that is the pass `given`; its Jacobian is that of the losses in the experts."""

    given: Pass = field(kw_only=True)

    @property
    def asked(self) -> Pass:
        """The pass, without the answers."""
        return replace(self.given, method=self.specification)

    @property
    def specification(self) -> HMoEPass:
        """The method, known to be that of passes."""
        assert isinstance(self.method, HMoEPass)
        return self.method

    def taken(self, state: State) -> tuple[Step, Mapping[str, Any]]:
        """Return the step, and every observable of the pass."""
        specified = self.specification
        if specified.defects or specified != self.given.method:
            return self.step(state), observed(specified.network, "network", self.given.plain)
        return self.step(state), passed(self.given)

    def moved(self, rng: np.random.Generator, by: float) -> Problem:
        """Return the problem with parameters, inputs and slopes moved by a share `by` of themselves."""
        return replace(self, given=self.given.mapped(lambda array: shaken(array, rng, by)))


@lru_cache(maxsize=1024)
def passed(given: Pass) -> Mapping[str, Any]:
    """Return every observable of a pass, remembered."""
    return MappingProxyType(observed(given.method.network, "network", given.plain))


def problem_of(given: Pass) -> PassProblem:
    """Return the problem of a pass."""
    found = passed(given)
    losses = np.array([np.sum(d * out) for d, out in zip(given.delta, found["out"], strict=True)])
    return PassProblem(given.method, losses, found["d_experts"], given=given)


def of_pass(case: Case, given: Pass) -> Case:
    """Return the case with another pass in its place."""
    problem = problem_of(given)
    state = problem.method.init(problem.n_tasks)
    return replace(case, steps=(problem,), state=state, label="", expected=None)


# CASES

MARGIN = 1e-3
"""How far from its kink every relu is kept: rounding must not decide the side."""

BATCHES = (1, 4, 5, 3)
"""The sizes of the batches."""

RELATIONS = (1.0, 0.0, 3.0, 1.0)
"""The sizes of the relation matrices: at 0 all scores count alike."""


def make(method: Method, K: int, seed: int, label: str) -> Case | None:
    """Return the case of that seed; None if it is too near to a kink."""
    assert isinstance(method, HMoEPass)
    rng = np.random.default_rng([seed, 3])
    given = drawn(method, K, rng, BATCHES[int(rng.integers(4))], RELATIONS[int(rng.integers(4))])
    if method.activation == "relu" and nearest_kink(given) < MARGIN:
        return None
    return Case((problem_of(given),), method.init(K), True, label)


def drawn(method: HMoEPass, K: int, rng: np.random.Generator, B: int, size: float) -> Pass:
    """Return a pass of K scenarios; half of the time each sample is in the loss of one scenario alone."""
    n, N, widths = method.n_inputs, method.n_experts, method.network.tower_widths
    x = rng.standard_normal((B, n))
    delta = [rng.standard_normal((B, widths[k % len(widths)][-1])) for k in range(K)]
    if rng.random() < 0.5:
        delta = [rows * (np.arange(B) % K == k)[:, None] for k, rows in enumerate(delta)]
    return Pass(
        method,
        tuple(perceptron(rng, (n, *method.experts)) for _ in range(N)),
        tuple(rng.standard_normal((n, N)) for _ in range(1 if method.share_gate else K)),
        tuple(size * rng.standard_normal((n, K)) for _ in range(1 if method.share_w else K)),
        tuple(perceptron(rng, (method.experts[-1], *widths[k % len(widths)])) for k in range(K)),
        x,
        tuple(delta),
    )


def perceptron(rng: np.random.Generator, widths: tuple[int, ...]) -> Layers:
    """Return layers of these widths with biases that are not zero."""
    return tuple(
        part for n, m in pairwise(widths) for part in (rng.standard_normal((n, m)), 0.5 * rng.standard_normal(m))
    )


def nearest_kink(given: Pass) -> float:
    """Return the smallest absolute value before a relu, over all that a tower may be asked for."""
    nearest = [np.inf]

    def through(layers: Layers, h: Array, last: bool) -> Array:
        for at in range(0, len(layers), 2):
            h = h @ layers[at] + layers[at + 1]
            if last or at + 2 < len(layers):
                nearest.append(float(np.min(np.abs(h))))
                h = np.maximum(h, 0.0)
        return h

    E = np.stack([through(layers, given.x, True) for layers in given.experts])
    for k, layers in enumerate(given.towers):
        logits = given.x @ given.gates[k % len(given.gates)]
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        through(layers, np.einsum("bn,nbm->bm", share, E), False)
    return min(nearest)


def from_vector(method: Method, kind: str, test: Mapping[str, Any]) -> Case:
    """Return the case of one golden vector."""
    assert isinstance(method, HMoEPass)
    plain = numbers(test["input"])

    def arrays(value: Any, depth: int) -> Any:
        return tuple(arrays(item, depth - 1) for item in value) if depth else np.array(value, dtype=np.float64)

    layers = {name: arrays(value, 2 if name in ("experts", "towers") else 1)
              for name, value in plain["parameters"].items()}  # fmt: skip
    given = Pass(method, x=arrays(plain["x"], 0), delta=arrays(plain["delta"], 1), **layers)
    expected = (test["expected"],)
    return Case((problem_of(given),), method.init(given.n_tasks), True, f"vector {test['id']}", expected)

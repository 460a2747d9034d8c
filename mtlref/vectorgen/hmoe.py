"""The vectors of HMoE, and with it of MMoE: its terms E, g, f and z are those of the implicit part.

The losses are L_k = Σ_b δ_kb · out_k(x_b), so that δ stands for whatever loss there is; a zero row of δ is a sample
of another scenario. Only a rectifier makes a discontinuity, in the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mtlref.defects import DEFECTS
from mtlref.exact import hmoe
from mtlref.vectorgen.core import Answer, Case, Group, Recipe, State

READINGS: Mapping[str, tuple[str, Mapping[Any, str]]] = {
    "HMOE-C1": ("share_gate", {False: "a gate each", True: "one gate"}),
    "HMOE-C2": ("share_w", {False: "relation weights each", True: "one vector of relation weights"}),
    "HMOE-C3": ("mix", {}),
    "HMOE-C4": ("constrained", {False: "no mask", True: "task-constrained"}),
    "HMOE-C5": ("mode", {}),
}
"""The choice points, the option that makes each choice, and its readings in words where the values do not say it."""

DEFAULTS = {"share_gate": False, "share_w": False, "mix": "logit", "constrained": True, "mode": "end_to_end"}
"""The readings that are the package's defaults."""


def groups() -> Iterator[Group]:
    """Yield the groups."""
    yield group(1, 1, [1], [[1]] * 2, [hand()], activation="relu")
    for K, N in ((1, 2), (2, 3), (4, 2), (8, 2)):
        yield group(2, N, [2], [[1]] * K, [case(f"pass-k{K}", K, N, 3, salt=K)])
    yield group(4, 2, [3], [[2, 1]] * 3, list(three()))
    yield group(2, 3, [3, 2], [[2, 1], [3, 1], [1]], [layers(5, 2), layers(1, 1)], activation="relu")
    yield group(2, 2, [2], [[2]] * 3, [outputs("two-outputs", 3)])
    yield group(2, 2, [2], [[1]] * 3, [*saturated()])
    yield from readings()
    yield from refusals()


def group(
    n: int, N: int, experts: list[int], towers: list[list[int]], cases: Sequence[Case], **changed: Any
) -> Group:
    """Return a group of networks of one size, with the options that are `changed`."""
    parameters = {"n_inputs": n, "n_experts": N, "experts": experts, "towers": towers, "activation": "tanh"}
    parameters |= DEFAULTS | changed
    choices = {tag: words.get(parameters[name], str(parameters[name])) for tag, (name, words) in READINGS.items()}
    return Group("network", parameters, cases, choices)


def hand() -> Case:
    """Return the case that is worked out by hand."""
    parameters = {
        "experts": [[[[3.0]], [-1.0]]],
        "gates": [[[0.5]], [[-0.5]]],
        "relations": [[[0.0, 0.0]], [[0.0, 0.0]]],
        "towers": [[[[1.0]], [0.5]], [[[-2.0]], [1.0]]],
    }
    comment = "by hand: the expert gives 5, the scores are 11/2 and -9, both outputs their mean -7/4"
    made = {"parameters": parameters, "x": [[2.0]], "delta": [[[1.0]], [[1.0]]]}
    return Case(
        "hand-k2", comment, made, catches=("MaskAbsent", "InvertedMask", "OwnTowerStopped", "ProductsStopped")
    )


def three() -> Iterator[Case]:
    """Yield three scenarios with hidden layers, four inputs and two experts: all sizes differ."""
    made = [given(4, 2, [3], [[2, 1]] * 3, 5, salt) for salt in (1, 2)]
    every = tuple(defect.name for defect in DEFECTS["hmoe"] if defect.name != "SqueezedBatch")
    yield Case("pass-k3", "every sample in every loss, K = 3", made[0], catches=every)
    own = [[row if b % 3 == k else [0.0] for b, row in enumerate(rows)] for k, rows in enumerate(made[1]["delta"])]
    comment = "each sample in its own scenario's loss alone: scenarios 0, 1, 2, 0, 1"
    yield Case("own-samples-k3", comment, {**made[1], "delta": own}, catches=("MaskAbsent", "MaskOfAnotherTask"))
    one = given(4, 2, [3], [[2, 1]] * 3, 1, 3)
    caught = ("SqueezedBatch", "NormalisedGate", "GateOverBatch", "RelationOverBatch")
    yield Case("one-sample-k3", "a batch of one", one, catches=caught)
    twice = {**made[0], "x": made[0]["x"] * 2, "delta": [rows * 2 for rows in made[0]["delta"]]}
    yield Case("twice-k3", "every sample twice: the same outputs twice, gradients of twice the size", twice)


def layers(B: int, salt: int) -> Case:
    """Return a case of rectifiers, experts of two layers and towers of unequal depth."""
    made = given(2, 3, [3, 2], [[2, 1], [3, 1], [1]], B, salt)
    return Case(f"relu-b{B}", f"rectifiers, experts of two layers, unequal towers, a batch of {B}", made)


def outputs(name: str, K: int) -> Case:
    """Return a case whose scores are vectors: one weight for all outputs of a score."""
    return Case(name, "scores of two outputs", given(2, 2, [2], [[2]] * K, 3, 4))


def saturated() -> Iterator[Case]:
    """Yield weights at the ends of their range; the first input is 1, so that the matrices can set them."""
    made = given(2, 2, [2], [[1]] * 3, 3, 5)
    made = {**made, "x": [[1.0, row[1]] for row in made["x"]]}

    def with_relations(logit: float, shift: int) -> dict[str, Any]:
        rows = [[[logit if j == (k + shift) % 3 else 0.0 for j in range(3)], [0.0] * 3] for k in range(3)]
        return {**made, "parameters": {**made["parameters"], "relations": rows}}

    yield Case("one-hot-own", "every scenario weighs its own score alone: MMoE", with_relations(800.0, 0), edge=True)
    comment = "every scenario weighs the next score alone: its own tower starves"
    yield Case("one-hot-next", comment, with_relations(800.0, 1), edge=True)
    yield Case("uniform", "relation matrices of 0: the mean of the scores", with_relations(0.0, 0), edge=True)
    gates = [[[800.0, 0.0], [0.0, 0.0]], [[0.0, 800.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]
    comment = "gates that choose one expert, the other, and both alike"
    yield Case("hard-gates", comment, {**made, "parameters": {**made["parameters"], "gates": gates}}, edge=True)


def readings() -> Iterator[Group]:
    """Yield the other readings of the choice points: the answers are acceptable under the group's choices."""
    for tag, name, changed in (
        ("HMOE-C1", "one-gate", {"share_gate": True}),
        ("HMOE-C2", "one-relation", {"share_w": True}),
        ("HMOE-C3", "probabilities", {"mix": "prob"}),
        ("HMOE-C3", "hidden", {"mix": "hidden"}),
        ("HMOE-C4", "full", {"constrained": False}),
        ("HMOE-C5", "stacked", {"mode": "stacked"}),
    ):
        made = given(2, 2, [3], [[2, 1]] * 3, 4, 6, **changed)
        comment = ", ".join(f"{option} = {value}" for option, value in changed.items())
        one = Case(f"{name}-k3", comment, made, choices=(tag,))
        yield group(2, 2, [3], [[2, 1]] * 3, [one], **changed)
    both = {"share_gate": True, "share_w": True}
    made = given(2, 3, [2], [[1]] * 4, 3, 7, **both)
    comment = "one gate and one vector of relation weights: all scenarios have the same output"
    yield group(2, 3, [2], [[1]] * 4, [Case("all-one-k4", comment, made, choices=("HMOE-C1", "HMOE-C2"))], **both)
    zero = given(1, 1, [2], [[1]] * 2, 1, 8)
    zero["parameters"]["experts"] = [[[[1.0, 2.0]], [-1.0, 1.0]]]
    zero["x"] = [[1.0]]
    comment = "a rectifier at exactly 0: it passes nothing and learns nothing"
    kink = Case("relu-at-zero", comment, zero, edge=True, choices=("AD-C1",))
    yield group(1, 1, [2], [[1]] * 2, [kink], activation="relu")


def refusals() -> Iterator[Group]:
    """Yield what has to be refused: inputs, and parameters whatever the input."""
    made = given(2, 2, [2], [[1]] * 3, 2, 1)
    nan = {**made, "x": [[1.0, 2.0], [float("nan"), 1.0]]}
    wide = {**made, "x": [[1.0, 2.0, 3.0], [0.5, 1.0, 2.0]]}
    named = {"argument": "x", "equation": "MMOE-1"}
    cases = [
        Case("nan-input", "an input is NaN", nan, refused=named),
        Case("three-inputs", "three inputs for a network of two", wide, refused=named),
    ]
    yield group(2, 2, [2], [[1]] * 3, cases)
    for name, comment, towers, changed, argument in (
        ("no-such-mix", "no such quantity to mix", [[1]] * 3, {"mix": "rank"}, "mix"),
        ("no-such-mode", "no such mode", [[1]] * 3, {"mode": "two_stage"}, "mode"),
        ("no-such-activation", "no such activation", [[1]] * 3, {"activation": "gelu"}, "activation"),
        ("unequal-outputs", "scores of unequal sizes", [[1], [2], [1]], {}, "towers"),
        ("hidden-linear", "hidden vectors of a tower that has none", [[1]] * 3, {"mix": "hidden"}, "towers"),
        ("hidden-unequal", "hidden vectors of unequal widths", [[2, 1], [3, 1]], {"mix": "hidden"}, "towers"),
        (
            "stacked-full",
            "stacked, and no mask",
            [[1]] * 3,
            {"mode": "stacked", "constrained": False},
            "constrained",
        ),
        ("stacked-hidden", "stacked hidden vectors", [[2, 1]] * 3, {"mode": "stacked", "mix": "hidden"}, "mix"),
    ):
        one = Case(name, comment, given(2, 2, [2], towers, 2, 1), refused={"argument": argument})
        yield group(2, 2, [2], towers, [one], **changed)


# INPUTS


def case(name: str, K: int, N: int, B: int, salt: int) -> Case:
    """Return a case of linear towers on two inputs."""
    comment = f"linear towers, {N} experts, K = {K}"
    return Case(name, comment, given(2, N, [2], [[1]] * K, B, salt), edge=K == 1)


def given(
    n: int, N: int, experts: list[int], towers: list[list[int]], B: int, salt: int, **changed: Any
) -> dict[str, Any]:
    """Return parameters, inputs and slopes: short decimals, no two neighbours alike."""
    K, options = len(towers), DEFAULTS | changed
    draw = Numbers(salt)
    parameters = {
        "experts": [draw.layers([n, *experts]) for _ in range(N)],
        "gates": [draw.matrix(n, N) for _ in range(1 if options["share_gate"] else K)],
        "relations": [draw.matrix(n, K) for _ in range(1 if options["share_w"] else K)],
        "towers": [draw.layers([experts[-1], *widths]) for widths in towers],
    }
    return {
        "parameters": parameters,
        "x": draw.matrix(B, n),
        "delta": [draw.matrix(B, towers[0][-1]) for _ in range(K)],
    }


class Numbers:
    """Numbers from -1.3 to 1.3 by a formula: number i is ((29i + 7i² + i³ + 31 salt) mod 53 - 26) / 20."""

    def __init__(self, salt: int) -> None:
        self.i, self.salt = 0, salt

    def vector(self, n: int) -> list[float]:
        """Return the next n numbers."""
        row = []
        for i in range(self.i, self.i + n):
            row.append(((29 * i + 7 * i * i + i**3 + 31 * self.salt) % 53 - 26) / 20)
        self.i += n
        return row

    def matrix(self, n: int, m: int) -> list[list[float]]:
        """Return the next n rows of m numbers."""
        return [self.vector(m) for _ in range(n)]

    def layers(self, widths: Sequence[int]) -> list[Any]:
        """Return weights and a bias for each layer between the widths."""
        return [part for n, m in pairwise(widths) for part in (self.matrix(n, m), self.vector(m))]


# ANSWERS


def initial(parameters: State, K: int) -> dict[str, Any]:
    """Return the state: a network has none."""
    return {}


def step(parameters: State, state: State, given: Mapping[str, Any]) -> Answer:
    """Return the exact answer to one pass."""
    how = hmoe.Settings(**{name: parameters[name] for name in ("activation", "mix", "constrained", "mode")})
    found = hmoe.run(given["parameters"], given["x"], given["delta"], how)
    gap = hmoe.nearest_kink(given["parameters"], given["x"], how)
    decided = ("AD-C1",) if gap == 0 else ()
    return Answer((), (), found, {}, float("inf") if gap is None else float(gap), decided)


RECIPE = Recipe(
    stem="hmoe",
    groups=groups,
    initial=initial,
    step=step,
    mandatory=("out", "d_experts", "d_gates", "d_relations", "d_towers"),
    parameters={
        "n_inputs": "count",
        "n_experts": "count",
        "experts": "counts",
        "towers": "widths",
        "activation": "string",
        "share_gate": "boolean",
        "share_w": "boolean",
        "mix": "string",
        "constrained": "boolean",
        "mode": "string",
    },
    state={},
    terms={
        **dict.fromkeys(("E", "g", "f", "z", "a", "S", "out"), "matrices"),
        "dS": "table of matrices",
        **dict.fromkeys(("d_experts", "d_gates", "d_relations", "d_towers"), "matrix"),
    },
    reads=("parameters", "x", "delta"),
    kinds=("network",),
)

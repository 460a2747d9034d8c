"""Defects: each changes its own equation and nothing else, each changes the numbers, and they combine."""

from __future__ import annotations

import numpy as np
import pytest

import mtlref
from mtlref.autograd import jacobian, parameter
from mtlref.contract import weights_of
from mtlref.defects import DEFECTS, Defect, combinations, variant
from mtlref.settings import build

ALL = [(stem, defect) for stem in mtlref.METHODS for defect in DEFECTS[stem]]
OF_NETWORKS = [(stem, defect) for stem in mtlref.NETWORKS for defect in DEFECTS[stem]]


def runs():
    """Runs of four steps from the start: unequal progress, K = 3 and D = 2, gentle and violent gradients."""
    rng = np.random.default_rng(3)
    rates = np.array([[1.0, 1.0, 1.0], [0.4, 0.9, 1.3], [0.3, 1.1, 0.8], [0.2, 0.5, 0.9]])
    for scale in (1e-5, 1.0, 10.0, 25.0):
        yield rates * np.array([3.0, 0.2, 11.0]), scale * rng.standard_normal((4, 3, 2))


def first_differences(method, wrong, losses, jacobians):
    """For each step of the method's own run: the tag of the first value that is wrong from there; the
    start's, too."""
    if not np.array_equal(weights_of(method.init(3)), weights_of(wrong.init(3))):
        yield method.start
    state, rng = method.init(3), np.random.default_rng(0)
    for L, J in zip(losses, jacobians, strict=True):
        draw = method.sample(rng, 3)
        extra = {} if draw is None else {"draw": draw}
        try:
            out, odd = method.step(state, L, J, **extra), wrong.step(state, L, J, **extra)
        except mtlref.MtlrefError:
            return
        tags = [tag for name, tag in method.tags.items() if not np.array_equal(out.terms[name], odd.terms[name])]
        if not np.array_equal(out.head_weights, odd.head_weights) or not np.array_equal(out.weights, odd.weights):
            tags.append(method.heads)
        yield from tags[:1]
        state = out.state


SETTINGS = {
    "equal": [{}],
    "fixed": [{"weights": (0.5, 2.0, 1.0)}],
    "gradnorm": [{"alpha": 1.5, "lr": 0.025}],
    "pe_ltr": [{}, {"bounds": (0.1, 0.2, 0.3)}],
    "pcgrad": [{}],
    "uncertainty": [{"likelihoods": ("gaussian", "softmax", "laplace"), "dimensions": (2, 1, 3), "lr": 0.1}],
    "dwa": [{"temperature": 3.0}],
    "cov": [{}, {"decay": 0.7}, {"statistics": "previous"}],
    "combination": [
        {
            "stages": [
                {"method": "fixed", "weights": (0.5, 2.0, 1.0), "strength": 0.5},
                {"method": "gradnorm", "lr": 1e-3, "strength": 0.7},
                {"method": "dwa", "temperature": 0.5},
                aggregator,
            ],
            "epoch_steps": 2,
        }
        for aggregator in ("pcgrad", "pe_ltr")
    ],
}
"""Hyper-parameters at which no defect hides."""


LOOPS = {"PCG-3": "PCG-2"}
"""Equations that alternate: what PCG-3 leaves is what the next PCG-2 reads, so a wrong PCG-3 shows in either."""


@pytest.mark.parametrize(("stem", "defect"), ALL, ids=lambda x: getattr(x, "name", x))
def test_a_defect_changes_its_own_equation_first(stem, defect):
    found = set()
    for settings in SETTINGS[stem]:
        method = build(stem, settings)
        for run in runs():
            found.update(first_differences(method, variant(method, defect), *run))
    order = [*mtlref.METHODS[stem].tags.values(), mtlref.METHODS[stem].heads, mtlref.METHODS[stem].start]
    assert found, f"{defect.name} changes nothing here"
    assert min(found, key=order.index) in (defect.equation, LOOPS.get(defect.equation))


NETWORK = {"n_inputs": 5, "n_experts": 2, "experts": (4,), "towers": ((3, 2), (3, 2), (4, 2)), "activation": "tanh"}
"""A network in which all sizes differ, three scenarios and two experts."""

GRADIENTS = {"dS": "HMOE-3", "d_relations": "HMOE-4", "d_gates": "MMOE-3", "rest": "MMOE-1"}
"""Where a wrong gradient shows when every value is right, in the order in which the sweep comes to it."""


def network_differences(network, wrong, B):
    """The tag of the first term that is wrong, or else of the first gradient; nothing if it fails as a whole."""
    rng = np.random.default_rng(B)
    p = network.init(rng).rebuilt([rng.standard_normal(a.shape) for a in network.init(rng).flat])
    x, delta = rng.standard_normal((B, 5)), rng.standard_normal((3, B, 2))
    found = []
    for one in (network, wrong):
        leaves = [parameter(array) for array in p.flat]
        try:
            terms = one.terms(p.rebuilt(leaves), x)
        except mtlref.MtlrefError:
            return ["MMOE-3"]  # what follows the mixture does not take its shape
        losses = [(out * d).sum() for out, d in zip(terms["out"], delta, strict=True)]
        blocks = p.rebuilt(jacobian(losses, leaves).blocks)
        values = {tag: [t.value for t in terms[name]] for name, tag in one.tags.items()}
        rows = {"dS": jacobian(losses, terms["S"]).blocks, "d_relations": [h[1] for h in blocks.heads]}
        rows |= {"d_gates": [head[0] for head in blocks.heads], "rest": [*blocks.shared, *blocks.heads[0][2:]]}
        found.append({**values, **{(GRADIENTS[name], name): arrays for name, arrays in rows.items()}})
    right, odd = found
    return [
        key if isinstance(key, str) else key[0]
        for key in right
        if any(not np.array_equal(a, b) for a, b in zip(right[key], odd[key], strict=True))
    ]


@pytest.mark.parametrize(("stem", "defect"), OF_NETWORKS, ids=lambda x: getattr(x, "name", x))
def test_a_network_s_defect_changes_its_own_equation_first(stem, defect):
    network = mtlref.NETWORKS[stem](**NETWORK)
    firsts = [tag for B in (7, 1) for tag in network_differences(network, variant(network, defect), B)[:1]]
    assert firsts, f"{defect.name} changes nothing here"
    assert firsts[0] == defect.equation


@pytest.mark.parametrize("defect", [d for _, d in OF_NETWORKS if d.equation.startswith("MMOE")], ids=lambda d: d.name)
def test_the_implicit_part_s_defects_are_defects_of_mmoe(defect):
    network = mtlref.MMoE(**NETWORK)
    wrong = variant(network, defect)
    assert isinstance(wrong, mtlref.MMoE) and wrong.towers == network.towers
    p = network.init(np.random.default_rng(2))
    moved = []
    for B in (6, 1):
        x = np.random.default_rng(B).standard_normal((B, 5))
        gradients = []
        for one in (network, wrong):
            leaves = [parameter(array) for array in p.flat]
            try:
                losses = [(z**2).sum() for z in one.forward(p.rebuilt(leaves), x)]
            except mtlref.MtlrefError:
                losses = [ad_zero(leaves)] * 3
            gradients.append(jacobian(losses, leaves).matrix)
        moved.append(not np.allclose(*gradients))
    assert any(moved)


def ad_zero(leaves):
    """A loss that depends on nothing, of a network that cannot be evaluated."""
    return (leaves[0] * 0).sum()


def test_neither_the_class_nor_the_module_is_touched():
    method = mtlref.GradNorm()
    before = mtlref.GradNorm.step
    wrong = variant(method, *[d for d in DEFECTS["gradnorm"] if d.name in ("InvertedRate", "MeanForSum")])
    assert mtlref.GradNorm.step is before
    assert isinstance(wrong, mtlref.GradNorm)
    assert wrong.alpha == method.alpha
    assert type(wrong).__name__ == "InvertedRateMeanForSumGradNorm"


def test_two_defects_together_do_what_both_do():
    """By hand: n = (3, 4, 5), r = (12/7, 6/7, 3/7), α = 1: inverted targets Ḡ/r = (7/3, 14/3, 28/3) turn the signs of
    all three, and the mean takes a third of the slope."""
    pair = [d for d in DEFECTS["gradnorm"] if d.name in ("InvertedRate", "MeanForSum")]
    wrong = variant(mtlref.GradNorm(alpha=1.0, lr=0.03), *pair)
    state = mtlref.GradNormState(np.ones(3), np.array([2.0, 2.0, 4.0]), wrong.rule.init(np.ones(3)))
    out = wrong.step(state, [2.0, 1.0, 1.0], np.diag([3.0, 4.0, 5.0]))
    np.testing.assert_allclose(out.terms["target"], [7 / 3, 14 / 3, 28 / 3])
    np.testing.assert_allclose(out.terms["dw"], [1.0, -4 / 3, -5 / 3])
    np.testing.assert_allclose(out.terms["w_next"], 3 * np.array([0.97, 1.04, 1.05]) / 3.06)


def test_a_defect_may_change_the_rule():
    """K = 2 by hand: n = (3, 1), L = (2, 1) ∘ L(0), α = 1, so the slope is (3, −1), that of the logits (2, −2).

    A rate of ¼ log 3 moves them to ∓½ log 3, a ratio of 1 to 3.
    """
    [defect] = [d for d in DEFECTS["gradnorm"] if d.name == "LogitsMoved"]
    method = mtlref.GradNorm(alpha=1.0, lr=np.log(3) / 4)
    rule, state = method.rule, mtlref.GradNormState(np.ones(2), np.ones(2), method.rule.init(np.ones(2)))
    wrong = variant(method, defect)
    found = wrong.step(state, [2.0, 1.0], np.diag([3.0, 1.0]))
    np.testing.assert_allclose(found.terms["w_next"], [0.5, 1.5], rtol=1e-15)
    assert method.rule is rule
    np.testing.assert_allclose(method.step(state, [2.0, 1.0], np.diag([3.0, 1.0])).terms["dw"], [3.0, -1.0])
    with pytest.raises(mtlref.DomainError, match=r"GN-7 .* weights\[1\] = -0.5"):
        wrong.step(
            mtlref.GradNormState(np.array([2.5, -0.5]), np.ones(2), rule.init(np.ones(2))), [2.0, 1.0], np.eye(2)
        )


@pytest.mark.parametrize(
    ("stem", "name", "given", "expected"),
    [
        ("gradnorm", "LastTakesTheRest", ([1.5, 0.25, 2.0],), [1.5, 0.25, 1.25]),  # 3 − 1.5 − 0.25
        ("cov", "MeanOverTasks", (None, [1.0, 3.0], 1.0), [2.0, 2.0]),
        ("cov", "MeanOverTasks", ([2.0, 2.0], [4.0, 8.0], 0.25), [3.0, 3.0]),  # ¾ · 2 + ¼ · 6
        ("uncertainty", "Accumulated", ([2.0, 4.0], [0.25, 0.5], [0.5, 1.0], [1.0, 2.0]), [0.25, -0.75]),
        # ½ − ½ · ¼ · 2 = ¼, and 1 − 1 · ½ · 4 = −1 beside it
    ],
)
def test_a_defect_s_numbers_by_hand(stem, name, given, expected):
    [defect] = [d for d in DEFECTS[stem] if d.name == name]
    [wrong] = defect.replaces.values()
    np.testing.assert_array_equal(wrong(*[np.array(x) if isinstance(x, list) else x for x in given]), expected)


def test_combinations_are_simplest_first_and_never_of_one_function():
    sizes = [len(chosen) for chosen in combinations("gradnorm")]
    assert sizes == sorted(sizes)
    assert set(sizes) == {1, 2}
    for chosen in combinations("gradnorm"):
        replaced = [name for defect in chosen for name in defect.replaces]
        assert len(replaced) == len(set(replaced))


def test_a_defect_of_no_function_is_refused():
    with pytest.raises(KeyError, match="no_such_function"):
        variant(mtlref.DWA(), Defect("X", "DWA-1", "", {"no_such_function": len}))

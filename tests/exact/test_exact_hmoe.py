"""The exact oracle of MMoE and HMoE: rationals by hand, and its gradients against 50-digit difference quotients."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product

import pytest

from mtlref.exact import hmoe
from mtlref.exact.hmoe import Settings, run
from mtlref.vectorgen.hmoe import Numbers

F = Fraction
STEP = Decimal("1e-20")


def small(K=3, m=2, share_gate=False, share_w=False):
    """A network of two inputs, two experts and K towers with a hidden layer, its inputs and slopes."""
    draw = Numbers(4)
    p = {
        "experts": [draw.layers([2, m]) for _ in range(2)],
        "gates": [draw.matrix(2, 2) for _ in range(1 if share_gate else K)],
        "relations": [draw.matrix(2, K) for _ in range(1 if share_w else K)],
        "towers": [draw.layers([m, 2, 1]) for _ in range(K)],
    }
    return p, draw.matrix(2, 2), [draw.matrix(2, 1) for _ in range(K)]


# BY HAND


def test_a_network_by_hand_in_rationals():
    """One expert relu(3·2 − 1) = 5, scores 11/2 and −9, equal relation weights."""
    p = {
        "experts": [[[[3]], [-1]]],
        "gates": [[[2]], [[1]]],
        "relations": [[[0, 0]], [[0, 0]]],
        "towers": [[[[1]], [F(1, 2)]], [[[-2]], [1]]],
    }
    found = run(p, [[2]], [[[1]], [[1]]], Settings())
    assert found["E"] == [[[5]]] and found["g"] == [[[1]], [[1]]] and found["f"] == [[[5]], [[5]]]
    assert found["z"] == found["S"] == [[[Decimal("5.5")]], [[-9]]]
    assert found["a"] == [[[Decimal("0.5")] * 2]] * 2
    assert found["out"] == [[[Decimal("-1.75")]]] * 2
    assert found["d_relations"] == [
        [Decimal("7.25"), Decimal("-7.25"), 0, 0],
        [0, 0, Decimal("7.25"), Decimal("-7.25")],
    ]
    assert found["d_towers"] == [[Decimal("2.5"), Decimal("0.5"), 0, 0], [0, 0, Decimal("2.5"), Decimal("0.5")]]
    assert found["d_experts"] == [[1, Decimal("0.5")], [-2, -1]]
    assert found["d_gates"] == [[0, 0], [0, 0]]
    assert found["dS"] == [[[[Decimal("0.5")]], [[0]]], [[[0]], [[Decimal("0.5")]]]]


def test_the_unmasked_network_by_hand():
    """Loss 0 reaches tower 1 as well: d E = ½·1 + ½·(−2) = −½, times x = 2 on the expert's weight."""
    p = {
        "experts": [[[[3]], [-1]]],
        "gates": [[[2]], [[1]]],
        "relations": [[[0, 0]], [[0, 0]]],
        "towers": [[[[1]], [F(1, 2)]], [[[-2]], [1]]],
    }
    found = run(p, [[2]], [[[1]], [[0]]], Settings(constrained=False))
    assert found["d_experts"] == [[-1, Decimal("-0.5")], [0, 0]]
    assert found["d_towers"][0] == [Decimal("2.5"), Decimal("0.5")] * 2
    stacked = run(p, [[2]], [[[1]], [[0]]], Settings(mode="stacked"))
    assert stacked["out"] == found["out"] and stacked["d_relations"] == found["d_relations"]
    assert not any(map(any, (*stacked["d_experts"], *stacked["d_gates"], *stacked["d_towers"])))


def test_the_softmax_by_hand():
    """Logits 0 and −800: shares 1/(1 + e^−800) and its complement, which sum to 1 to 70 digits."""
    shares = hmoe.softmax([F(0), F(-800)])
    assert abs(sum(shares) - 1) < F(1, 10**70)
    assert 0 < shares[1] < F(1, 10**347)
    assert hmoe.softmax([F(3)] * 4) == [F(1, 4)] * 4


def test_tanh_is_odd_and_its_addition_theorem_holds():
    x, y = F(3, 7), F(-11, 5)
    (a, b, c, d) = hmoe.activate([x, y, x + y, -x], "tanh")
    assert abs(c - (a + b) / (1 + a * b)) < F(1, 10**70)
    assert abs(a + d) < F(1, 10**70)


def test_the_rectifier_learns_nothing_at_zero():
    assert hmoe.activate([F(-1), F(0), F(2)], "relu") == [0, 0, 2]
    assert [hmoe.slope(h, "relu") for h in (F(0), F(2))] == [0, 1]
    zero = {"experts": [[[[1]], [-1]]], "gates": [[[1]]], "relations": [], "towers": [[[[1]], [0]]]}
    assert hmoe.nearest_kink(zero, [[1]], Settings()) == 0
    assert hmoe.nearest_kink(zero, [[3]], Settings()) == F(2, 4)
    assert hmoe.nearest_kink(zero, [[3]], Settings(activation="tanh")) is None


# GRADIENTS


def moved(p, kind, at, step):
    """The parameters with entry `at` of one kind, in flat order, moved by `step`; in rationals."""
    counter = iter(range(10**6))

    def walk(value):
        if isinstance(value, list):
            return [walk(item) for item in value]
        return F(value) + (F(step) if next(counter) == at else 0)

    return {**p, kind: walk(p[kind])}


def objective(p, held, x, delta, k, how):
    """L_k with the scores that do not reach it held at their values: from the terms a and S of the forward pass."""
    found = run(p, x, delta, how)
    if how.mix == "hidden":
        return sum(
            d * o for row, out in zip(delta[k], found["out"][k], strict=True) for d, o in zip(row, out, strict=True)
        )
    total = Decimal(0)
    for b, slopes in enumerate(delta[k]):
        for j in range(len(p["towers"])):
            S = found["S"] if how.reaches(k, j) else held
            total += found["a"][k][b][j] * S[j][b][0] * slopes[0]
    return total


@pytest.mark.parametrize(
    "how",
    [
        Settings("tanh", mix, constrained, mode)
        for mix, (constrained, mode) in product(
            ("logit", "prob"), ((True, "end_to_end"), (False, "end_to_end"), (True, "stacked"))
        )
    ]
    + [Settings("tanh", "hidden", False), Settings("relu"), Settings("relu", "prob", False)],
    ids=lambda how: f"{how.activation}-{how.mix}-{how.constrained}-{how.mode}",
)
@pytest.mark.parametrize("share", [False, True])
def test_gradients_are_difference_quotients(how, share):
    """(L(θ + h) − L(θ − h)) / 2h with h = 1e-20 is the slope to 1e-25: entries of every kind of parameter."""
    p, x, delta = small(share_gate=share, share_w=share)
    slopes = [[[Decimal(str(value)) for value in row] for row in rows] for rows in delta]
    exact = [[[F(str(value)) for value in row] for row in rows] for rows in delta]
    found = run(p, x, exact, how)
    with localcontext() as context:
        context.prec = 60
        for kind, (k, at) in product(hmoe.KINDS, ((0, 1), (2, 4))):
            row = found[f"d_{kind}"][k]
            at %= len(row)
            up, down = (objective(moved(p, kind, at, sign * STEP), found["S"], x, slopes, k, how) for sign in (1, -1))
            assert abs((up - down) / (2 * STEP) - row[at]) < Decimal("1e-25"), (kind, k, at)


def test_mmoe_is_hmoe_without_relations():
    p, x, delta = small()
    found = run({**p, "relations": []}, x, delta, Settings("tanh"))
    assert found["out"] == found["z"] and "a" not in found and "d_relations" not in found
    full = run(p, x, delta, Settings("tanh"))
    assert found["z"] == full["z"] and found["f"] == full["f"]
    own = {**p, "relations": [[[800 if j == k else 0 for j in range(3)], [0, 0, 0]] for k in range(3)]}
    ones = [[1, row[1]] for row in x]
    for name in ("d_experts", "d_gates", "d_towers", "out"):
        a = run(own, ones, delta, Settings("tanh"))[name]
        b = run({**p, "relations": []}, ones, delta, Settings("tanh"))[name]
        assert close(a, b), name


def close(a, b):
    """Whether nested numbers agree to 45 digits."""
    pairs = zip(hmoe.leaves(hmoe.rational(a)), hmoe.leaves(hmoe.rational(b)), strict=True)
    return all(abs(u - v) <= F(1, 10**45) for u, v in pairs)

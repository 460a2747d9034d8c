"""The exact oracles: closed forms worked by hand, identities of the methods, what they may import."""

from __future__ import annotations

import ast
import math
import sys
from decimal import Decimal, localcontext
from fractions import Fraction as F
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlref import exact
from mtlref.exact import UndecidedError, UndefinedError, dwa, gradnorm

SQRT_2 = Decimal("1.4142135623730950488016887242096980785696718753769")
"""50 digits, from the OEIS (A002193)."""

E = Decimal("2.7182818284590452353602874713526624977572470937000")
"""50 digits, from the OEIS (A001113)."""

small = st.integers(2, 96).map(lambda n: F(n, 12))
entries = st.integers(-18, 18).map(lambda n: F(n, 6))


def near(got, expected, digits=45):
    """Say whether two exact numbers agree to `digits` decimal digits."""
    return abs(F(got) - F(expected)) <= F(1, 10**digits) * max(1, abs(F(expected)))


@st.composite
def problems(draw, least=1):
    """Draw weights, initial losses, losses and gradients of one step."""
    K = draw(st.integers(least, 4))
    rows = st.lists(small, min_size=K, max_size=K)
    gradient = st.lists(entries, min_size=2, max_size=2)
    return draw(rows), draw(rows), draw(rows), draw(st.lists(gradient, min_size=K, max_size=K))


# NUMBERS


def test_roots_are_exact_where_they_are_rational_and_good_to_fifty_digits_elsewhere():
    assert exact.square_root(F(49, 9)) == F(7, 3)
    assert exact.exact_root(F(32, 243), 5) == F(2, 3)
    assert exact.exact_root(F(2), 2) is None
    assert exact.exact_root(F(2**90 + 1), 2**54) is None
    assert exact.shown([exact.square_root(F(2))], False)[0] == SQRT_2
    for value in (F(10) ** 300, F(10) ** -301, F(3)):
        assert abs(exact.square_root(value) ** 2 / value - 1) < F(1, 10**79)


def test_powers_are_exact_where_they_are_rational_and_good_to_fifty_digits_elsewhere():
    assert exact.power(F(0), F(0)) == 1
    assert exact.power(F(0), F(1, 2)) == 0
    assert exact.power(F(4, 9), F(3, 2)) == F(8, 27)
    assert exact.power(F(4), F(-3, 2)) == F(1, 8)
    assert exact.power(F(-2), F(3)) == -8
    assert exact.power(F(1), F(0.12)) == 1
    assert near(exact.power(F(2), F(1, 2)), SQRT_2, 48)
    assert near(exact.power(F(2), F(1, 3)) ** 3, 2, 75)
    for base, exponent in ((F(0), F(-1)), (F(-1), F(1, 2)), (F(2), F(10**6))):
        with pytest.raises(UndefinedError):
            exact.power(base, exponent)


@given(st.integers(0, 10**40), st.integers(1, 9))
def test_a_whole_root_undoes_a_whole_power(number, degree):
    assert exact.whole_root(number**degree, degree) == number
    if number > 1 and degree > 1:
        assert exact.whole_root(number**degree + 1, degree) is None


def test_the_exponential_is_e_at_one():
    assert exact.exponential(F(1), 50) == E


# GRADNORM


HAND = {
    "weights": (1, 1, 1),
    "initial_losses": (1, 2, 4),
    "losses": (F(1, 2), 1, 4),
    "gradients": ((3, 4), (5, 12), (8, 15)),
}
"""n = 5, 13, 17; L / L(0) = 1/2, 1/2, 1 with mean 2/3, so r = 3/4, 3/4, 3/2; G_bar = 35/3."""


def test_alpha_two_with_pythagorean_norms_by_hand():
    """Targets (35/3)(9/16, 9/16, 9/4) = 105/16, 105/16, 105/4: signs -, +, -; u = 3/2, -3/10, 27/10."""
    result = gradnorm.step(**HAND, alpha=2, lr=F(1, 10))
    assert result == {
        "G": (5, 13, 17),
        "G_bar": F(35, 3),
        "r": (F(3, 4), F(3, 4), F(3, 2)),
        "target": (F(105, 16), F(105, 16), F(105, 4)),
        "L_grad": F(25, 16) + F(103, 16) + F(37, 4),
        "dw": (-5, 13, -17),
        "w_next": (F(15, 13), F(-3, 13), F(27, 13)),
    }
    assert all(isinstance(value, F) for value in result["w_next"])


def test_alpha_one_and_alpha_zero_by_hand():
    one = gradnorm.step(**HAND, alpha=1, lr=F(1, 100))
    assert one["target"] == (F(35, 4), F(35, 4), F(35, 2))
    assert one["dw"] == (-5, 13, -17)
    zero = gradnorm.step(**HAND, alpha=0, lr=F(1, 100))
    assert zero["target"] == (F(35, 3),) * 3
    assert zero["dw"] == (-5, 13, 17)
    assert zero["L_grad"] == F(20, 3) + F(4, 3) + F(16, 3)
    u = F(105, 100), F(87, 100), F(83, 100)
    assert zero["w_next"] == tuple(3 * x / sum(u) for x in u)


def test_a_float_is_the_dyadic_rational_that_it_is():
    result = gradnorm.step((1.0, 1.0), (1.0, 1.0), (0.1, 0.3), ((1.0,), (1.0,)), alpha=1.0, lr=0.1)
    assert result["r"][0] == 2 * F(0.1) / (F(0.1) + F(0.3))
    assert result["r"][0] != F(1, 2)


def test_a_negative_weight_turns_its_gradient_round_and_a_zero_weight_has_none():
    result = gradnorm.step((-2, 0, 5), (1, 1, 1), (1, 1, 1), ((1,), (1,), (1,)), alpha=0, lr=F(1, 2))
    assert result["G"] == (2, 0, 5)
    assert result["dw"] == (F(1), 0, F(1))


def test_irrational_norms_come_out_as_decimals_of_fifty_digits():
    result = gradnorm.step((1, 1), (1, 1), (1, 1), ((1, 1), (1, 0)), alpha=1, lr=F(1, 2))
    assert result["G"] == (SQRT_2, 1)
    assert result["dw"] == (SQRT_2, -1)
    assert all(len(value.as_tuple().digits) <= 50 for key in ("G", "dw", "w_next") for value in result[key])


@pytest.mark.parametrize(
    ("weights", "losses", "gradients", "alpha"),
    [
        ((1,), (0.7,), ((0.3, 0.4),), 1.5),
        ((1, 1), (1, 1), ((1, 1), (-1, 1)), 0.12),
        ((2, 1), (3, 3), ((1, 1), (2, 2)), 0),
        ((F(2, 3), F(4, 3)), (1, 1), ((F(2), F(2)), (F(1), F(1))), 1.7),
        ((1, 1), (0, 1), ((0, 0), (0, 0)), 0.5),
        ((1, 1), (1, 3), ((1, 2), (3, 6)), 1),
    ],
)
def test_exact_ties_have_sign_zero_and_leave_the_weights_in_proportion(weights, losses, gradients, alpha):
    """G meets its target exactly: one task, equal norms, norms in the ratio of the targets."""
    result = gradnorm.step(weights, (1,) * len(weights), losses, gradients, alpha=alpha, lr=1)
    assert result["dw"] == (0,) * len(weights)
    assert result["L_grad"] == 0
    expected = [len(weights) * F(w) / F(sum(weights)) for w in weights]
    assert all(near(a, b) for a, b in zip(result["w_next"], expected, strict=True))


def test_one_task_can_be_at_its_target_alone_through_a_root_of_its_rate():
    """r = 1/4, 7/4 and G = sqrt(2), 3 sqrt(2): the first target is 2 sqrt(2) (1/4)^(1/2)."""
    result = gradnorm.step((1, 1), (1, 1), (1, 7), ((1, 1), (3, 3)), alpha=F(1, 2), lr=F(1, 9))
    assert result["dw"] == (0, result["G"][1])


def test_ties_between_sums_of_roots_are_found_by_algebra():
    zero = [(F(1), F(8)), (F(-2), F(2)), (F(3), F(1, 3)), (F(-1), F(3)), (F(5), F(0))]
    assert gradnorm.sum_of_roots_is_zero(zero)
    assert not gradnorm.sum_of_roots_is_zero([*zero, (F(1, 10**60), F(7))])


def test_a_difference_of_one_part_in_ten_to_the_hundred_still_has_its_sign():
    tiny = F(1, 10**100)
    for shift, expected in ((tiny, 1), (-tiny, -1)):
        result = gradnorm.step((1 + shift, 1), (1, 1), (1, 1), ((1, 1), (1, -1)), alpha=1, lr=1)
        assert [gradnorm.signum(F(x)) for x in result["dw"]] == [expected, -expected]


def test_rounded_weights_tie_within_1e_45_and_are_undecided_up_to_1e_40():
    def signs(difference):
        weights = Decimal(1), 1 + Decimal(difference)
        result = gradnorm.step(weights, (1, 1), (1, 1), ((1, 1), (1, -1)), alpha=0, lr=1)
        return [gradnorm.signum(F(x)) for x in result["dw"]]

    with localcontext() as carried:
        carried.prec = 60
        assert signs("1e-47") == [0, 0]
        assert signs("1e-35") == [-1, 1]
        with pytest.raises(UndecidedError, match=r"G\[0\] differs from its target by 5.0e-43"):
            signs("1e-42")


exponents = st.sampled_from([0, F(1, 2), 1, F(3, 2), 2, 0.12, -1])


@given(problems(), exponents, st.sampled_from([F(1, 1000), F(1, 64)]))
def test_the_identities_of_a_step(problem, alpha, lr):
    weights = problem[0]
    result = gradnorm.step(*problem, alpha=alpha, lr=lr)
    K, dw, G, target = len(weights), result["dw"], result["G"], result["target"]
    assert near(sum(map(F, result["w_next"])), K)
    assert sum(result["r"]) == K
    signs = [gradnorm.signum(F(x)) for x in dw]
    euler = sum(w * F(d) for w, d in zip(weights, dw, strict=True))
    assert near(euler, sum(s * F(g) for s, g in zip(signs, G, strict=True)))
    assert near(result["L_grad"], sum(abs(F(g) - F(t)) for g, t in zip(G, target, strict=True)))
    spread = abs(sum(F(exact.power(r, F(alpha))) for r in result["r"]) - K)
    assert F(result["L_grad"]) >= F(result["G_bar"]) * spread - F(1, 10**40)
    for w, d, now in zip(weights, dw, result["w_next"], strict=True):
        factor = F(result["w_next"][0]) / (weights[0] - lr * F(dw[0]))
        assert near(now, factor * (w - lr * F(d)), 40)


@given(problems(least=2), st.sampled_from([F(1, 2), 1, 2]), small)
def test_a_common_factor_on_the_losses_is_a_factor_on_the_learning_rate(problem, alpha, c):
    weights, L_0, L, rows = problem
    scaled = [c * x for x in L_0], [c * x for x in L], [[c * x for x in row] for row in rows]
    one = gradnorm.step(weights, *scaled, alpha=alpha, lr=F(1, 500))
    other = gradnorm.step(weights, L_0, L, rows, alpha=alpha, lr=c / 500)
    assert one["r"] == other["r"]
    assert all(near(a, b, 40) for a, b in zip(one["w_next"], other["w_next"], strict=True))


@given(problems(least=2), st.sampled_from([F(1, 2), 1, 2]))
def test_reversing_the_tasks_reverses_the_result(problem, alpha):
    one = gradnorm.step(*problem, alpha=alpha, lr=F(1, 500))
    other = gradnorm.step(*(part[::-1] for part in problem), alpha=alpha, lr=F(1, 500))
    assert all(near(a, b) for a, b in zip(one["w_next"][::-1], other["w_next"], strict=True))


def test_the_first_adam_step_moves_every_weight_by_lr_by_hand():
    """m_hat = dw and v_hat = dw^2 at t = 1, so u = 1 - lr dw / (|dw| + eps); eps = 1, dw = -5, 13, 17."""
    result = gradnorm.step_adam(**HAND, alpha=0, lr=F(1, 10), eps=1, beta_1=F(9, 10), beta_2=F(99, 100))
    u = 1 + F(5, 60), 1 - F(13, 140), 1 - F(17, 180)
    assert result["w_next"] == tuple(3 * x / sum(u) for x in u)
    m, v = (F(-1, 2), F(13, 10), F(17, 10)), (F(1, 4), F(169, 100), F(289, 100))
    assert result["moments"] == {"t": 1, "m": m, "v": v}


def test_the_second_adam_step_corrects_both_biases_by_hand():
    """Constant dw = -5, 13, 17 keep m_hat = dw and v_hat = dw^2 at every t."""
    first = gradnorm.step_adam(**HAND, alpha=0, lr=F(1, 1000), eps=0)
    again = HAND | {"weights": (1, 1, 1)}
    second = gradnorm.step_adam(**again, alpha=0, lr=F(1, 1000), eps=0, moments=first["moments"])
    u = F(1001, 1000), F(999, 1000), F(999, 1000)
    assert second["w_next"] == tuple(3 * x / sum(u) for x in u)
    assert second["moments"]["t"] == 2


def test_adam_without_eps_has_no_step_from_a_zero_gradient():
    with pytest.raises(UndefinedError, match=r"sqrt\(v_hat\[0\]\)"):
        gradnorm.step_adam((1,), (1,), (1,), ((1,),), alpha=1, lr=1, eps=0)


def test_a_run_is_its_steps_one_after_the_other():
    losses = [(1, 2, 4), (F(1, 2), 1, 4), (F(1, 3), 1, 2)]
    rows = [HAND["gradients"], ((1, 2), (2, 1), (1, 1)), ((3, 4), (1, 1), (0, 2))]
    for adam in (None, {"eps": 1e-6}):
        steps = gradnorm.run(losses, rows, alpha=1.5, lr=0.025, adam=adam)
        w, moments = (1, 1, 1), {}
        for step, L, gradients in zip(steps, losses, rows, strict=True):
            given = (w, losses[0], L, gradients)
            if adam is None:
                again = gradnorm.step(*given, alpha=1.5, lr=0.025)
            else:
                again = gradnorm.step_adam(*given, alpha=1.5, lr=0.025, eps=1e-6, **moments)
                moments = {"moments": again["moments"]}
            assert step == again
            w = again["w_next"]
        assert steps[0]["r"] == (1, 1, 1)


def test_one_task_keeps_its_weight_of_one_for_ever():
    steps = gradnorm.run([(0.7,), (0.3,), (0.9,)], [((0.1, 0.2),)] * 3, alpha=1.5, lr=0.025)
    assert [step["w_next"] for step in steps] == [(1,)] * 3


def test_with_alpha_zero_the_balanced_weights_are_a_fixed_point():
    """w_i = K n_i^-1 / sum n_j^-1 with n = sqrt(2), sqrt(8), given as rationals: 4/3 and 2/3."""
    steps = gradnorm.run([(1, 1), (5, 2)], [((1, 1), (2, 2))] * 2, alpha=0, lr=1, weights=(F(4, 3), F(2, 3)))
    assert all(near(w, v) for step in steps for w, v in zip(step["w_next"], (F(4, 3), F(2, 3)), strict=True))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"initial_losses": (1, 0, 1)}, UndefinedError, r"initial_losses\[1\] = 0"),
        ({"losses": (0, 0, 0)}, UndefinedError, r"mean\(losses / initial_losses\) = 0"),
        ({"losses": (-1, 4, 4), "alpha": 0.5}, UndefinedError, "is not a real number"),
        ({"losses": (0, 1, 1), "alpha": -1}, UndefinedError, "0 to the power -1.0"),
        ({"alpha": 2000}, UndefinedError, "exponents beyond 1000"),
        ({"losses": (1, 1)}, ValueError, "losses has 2 tasks and weights 3"),
        ({"losses": (math.nan, 1, 1)}, ValueError, "NaN"),
        ({"weights": (1, 1, 1), "lr": F(3, 35)}, None, ""),
    ],
)
def test_what_has_no_value_is_an_error(changes, error, message):
    arguments = {**HAND, "alpha": 1, "lr": 1} | changes
    if error is None:
        assert gradnorm.step(**arguments)
        return
    with pytest.raises(error, match=message):
        gradnorm.step(**arguments)


def test_weights_that_add_up_to_zero_cannot_be_renormalised():
    with pytest.raises(UndefinedError, match="the sum of the updated weights"):
        gradnorm.renormalise((F(1), F(-1)))


# DWA


def test_dwa_by_hand():
    """Ratios 1/2 and 1 at T = 1/2 are exponents 1 and 2: the weights are 2/(1+e) and 2e/(1+e)."""
    low, high = dwa.weights((1, 3), (2, 3), temperature=F(1, 2))
    assert near(low, 2 / (1 + F(E)), 48)
    assert near(high, 2 * F(E) / (1 + F(E)), 48)


def test_dwa_weights_are_ones_without_previous_losses_and_for_equal_ratios():
    assert dwa.weights((1, 2, 5), temperature=2) == (1, 1, 1)
    assert dwa.weights((1, 2, 5), (2, 4, 10), temperature=0.1) == (1, 1, 1)
    assert dwa.weights((3,), (7,), temperature=2) == (1,)


def test_a_dwa_run_uses_the_two_epochs_before():
    epochs = [(4, 4), (2, 3), (1, 3), (F(1, 2), 2)]
    used = dwa.run(epochs, temperature=2)
    assert used[:2] == [(1, 1), (1, 1)]
    assert used[2] == dwa.weights((2, 3), (4, 4), temperature=2)
    assert used[3] == dwa.weights((1, 3), (2, 3), temperature=2)


losses_of_three = st.lists(small, min_size=3, max_size=3)


@given(losses_of_three, losses_of_three, small, small)
def test_the_identities_of_dwa(L, L_prev, T, c):
    weights = dwa.weights(L, L_prev, temperature=T)
    assert near(sum(map(F, weights)), 3)
    assert all(weight > 0 for weight in weights)
    shifted = [now + c * before for now, before in zip(L, L_prev, strict=True)]
    assert all(near(a, b) for a, b in zip(weights, dwa.weights(shifted, L_prev, temperature=T), strict=True))
    scaled = dwa.weights([c * x for x in L], L_prev, temperature=c * T)
    assert all(near(a, b) for a, b in zip(weights, scaled, strict=True))
    task = dwa.weights([5 * L[0], *L[1:]], [5 * L_prev[0], *L_prev[1:]], temperature=T)
    assert task == weights
    ratio = dwa.ratios(L, L_prev)
    quotient = exact.exponential((ratio[0] - ratio[1]) / T)
    assert near(F(weights[0]) / F(weights[1]) / F(quotient), 1, 40)


def test_extreme_dwa_exponents_neither_overflow_nor_fail():
    assert dwa.weights((1e300, 1e-300), (1e-300, 1e300), temperature=1e-300) == (2, 0)
    assert dwa.weights((1, 2), (1, 1), temperature=F(1, 5000))[0] > 0


def test_dwa_refuses_what_has_no_value():
    with pytest.raises(UndefinedError, match=r"previous_losses\[1\] = 0"):
        dwa.weights((1, 1), (1, 0), temperature=2)
    with pytest.raises(UndefinedError, match="the temperature must be above 0"):
        dwa.weights((1, 1), (1, 1), temperature=0)
    with pytest.raises(ValueError, match="losses has 2 tasks and previous_losses 1"):
        dwa.weights((1, 1), (1,), temperature=2)
    with pytest.raises(ValueError, match="losses is empty"):
        dwa.weights((), temperature=2)


# INDEPENDENCE


def test_the_oracles_import_the_standard_library_and_each_other_only():
    """Read the imports from the sources: no NumPy, no other part of mtlref, and nothing by name."""
    files = sorted(Path(exact.__file__).parent.glob("*.py"))
    assert {"__init__.py", "dwa.py", "gradnorm.py"} <= {file.name for file in files}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, file
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                assert not (isinstance(node, ast.Name) and node.id in ("__import__", "exec", "eval")), file
                continue
            for name in names:
                root = name.split(".")[0]
                standard = root in sys.stdlib_module_names and root != "importlib"
                assert standard or (name + ".").startswith("mtlref.exact."), (file, name)

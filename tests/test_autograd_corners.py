"""Corners of the autograd: what other tests go past, each with its value from hand or theorem."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from mtlref import autograd
from mtlref.autograd import RULES, concatenate, constant, jacobian, parameter, softmax, stack, value_and_jacobian
from mtlref.networks import SharedTrunk, mse
from mtlref.notation import MtlrefError, NonFiniteError, ShapeError

RNG = np.random.default_rng


# THE RESULT


def test_a_jacobian_is_what_it_was_and_one_of_a_kind():
    x = parameter([1.0, 2.0])
    found, again = (jacobian([(x * x).sum()], [x]) for _ in range(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.matrix = np.zeros((1, 2))
    assert len({found, again, found}) == 2


def test_a_loss_that_is_a_parameter_has_a_row_of_the_identity():
    x, y = parameter(3.0), parameter(2.0)
    np.testing.assert_array_equal(jacobian([x, y, x], [x, y]).matrix, [[1, 0], [0, 1], [1, 0]])
    np.testing.assert_array_equal(jacobian([x], [y]).matrix, [[0]])


def test_behind_a_loss_that_is_a_parameter_nothing_is_swept():
    """∂z/∂z = 1, though ∂√x/∂x at 0 is not finite."""
    z = autograd.sqrt(parameter(0.0))
    np.testing.assert_array_equal(jacobian([z], [z]).matrix, [[1]])


def test_an_index_may_add_an_axis_of_one_task():
    """x[True] is x with an axis in front: L = Σ x², ∂L/∂x = 2 x."""
    x = parameter([1.0, 2.0, 4.0])
    np.testing.assert_array_equal(jacobian((x[True] * x[True]).sum(1), [x]).matrix, [[2, 4, 8]])


def test_without_parameters_a_jacobian_has_no_columns():
    values, found = value_and_jacobian(lambda _: [constant(3.0), constant(4.0)], [])
    np.testing.assert_array_equal(values, [3.0, 4.0])
    assert found.matrix.shape == (2, 0)


def test_the_sum_of_two_negative_zeros_is_one():
    """IEEE 754: −0 + −0 = −0, and any other sum of zeros is +0."""
    x = parameter(1.0)
    assert np.signbit(jacobian([x * -0.0 + x * -0.0], [x]).matrix[0, 0])
    assert not np.signbit(jacobian([x * -0.0 + x * 0.0], [x]).matrix[0, 0])


def test_a_matrix_in_three_products_gets_the_sum_of_three():
    """∂/∂W of Σ x_i W y_i is Σ x_i ⊗ y_i, all small whole numbers: exact."""
    W = parameter(np.arange(6.0).reshape(2, 3))
    x, y = RNG(0).integers(-4, 5, (3, 1, 2)), RNG(1).integers(-4, 5, (3, 1, 3))
    terms = [(constant(a) @ W * b).sum() for a, b in zip(x, y, strict=True)]
    loss = terms[0] + terms[1] + terms[2]
    expected = np.einsum("iaj,iak->jk", x, y).ravel()
    np.testing.assert_array_equal(jacobian([loss, loss * 2.0], [W]).matrix, [expected, 2 * expected])


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 7])
def test_a_parameter_of_some_tasks_has_its_rows_wherever_the_blocks_begin(chunk):
    """L_i = i x for the tasks 3, 4 and 6, and of y alone for the others."""
    x, y = parameter([1.0, 1.0]), parameter(1.0)
    z = x * 1.0
    losses = [(z * float(i)).sum() if i in (3, 4, 6) else y * float(i) for i in range(7)]
    expected = [[i, i, 0] if i in (3, 4, 6) else [0, 0, i] for i in range(7)]
    np.testing.assert_array_equal(jacobian(losses, [x, y], chunk).matrix, expected)


# THE SIZE OF A BLOCK


def blocks(monkeypatch, losses, parameters):
    """How many tasks each sweep carries at once, by default."""
    seen, sweep = [], autograd.sweep

    def spied(losses, block, *more, **options):
        seen.append(len(block))
        return sweep(losses, block, *more, **options)

    monkeypatch.setattr(autograd, "sweep", spied)
    jacobian(losses, parameters)
    return seen


def test_a_block_holds_a_mebibyte_of_the_largest_cotangent(monkeypatch):
    """Of 2^15 numbers of eight bytes, four are 2^20 bytes; a parameter, however large, is carried nowhere."""
    x, big = parameter(1.0), parameter(np.ones(2**16))
    layer = x * np.ones(2**15)
    losses = [layer.sum() * float(i) for i in range(6)] + [big.sum()]
    assert blocks(monkeypatch, losses, [x, big]) == [4, 3]


def test_a_task_whose_cotangent_is_larger_has_a_block_of_its_own(monkeypatch):
    x = parameter(1.0)
    layer = x * np.ones(2**17 + 1)
    assert blocks(monkeypatch, [layer.sum(), layer.sum() * 2.0], [x]) == [1, 1]


def test_of_tasks_that_are_kept_apart_a_slice_is_carried(monkeypatch):
    """(7, 2^15) in 7 slices of 2^15, of which a block holds four; what is not kept apart is carried whole."""
    x = parameter(np.ones((7, 1, 1)))
    apart = (x * np.ones((7, 1, 2**15))).sum((1, 2))
    assert blocks(monkeypatch, apart, [x]) == [4, 3]
    rows = parameter(np.ones((7, 1)))
    mixed = (rows * np.ones((7, 2**13))).transpose((1, 0)).reshape((2**13, 7)).sum(0)
    assert blocks(monkeypatch, mixed, [rows]) == [2, 2, 2, 1]  # 2^17 // (7 · 2^13)


def test_every_layer_counts_and_the_least_cotangent_is_a_number():
    x = parameter(np.ones((3, 4)))
    y = autograd.tanh(x)
    assert autograd.largest([x, y, y.sum()], ()) == 12
    assert autograd.largest([x, x.sum()], ()) == autograd.largest([x], ()) == 1


def test_heads_of_one_shape_are_kept_apart_and_the_trunk_is_not():
    rng = RNG(2)
    network = SharedTrunk(3, (4,), (2, 2, 2))
    start = network.init(rng)
    leaves = autograd.parameters_of(start.flat)
    outputs = network.stacked(start.rebuilt(leaves), rng.normal(size=(5, 3)))
    nodes = autograd.between([mse(outputs, rng.normal(size=(3, 5, 2)), each=True)], dict.fromkeys(leaves))
    apart = autograd.kept_apart(nodes)
    assert sorted(node.op for node in nodes if node in apart) == ["affine", "squared_error", "stack", "stack"]


# BROADCASTING (AD-3): a random whole number at every entry, so that every sum is exact


@pytest.mark.parametrize(
    ("shape", "full"),
    [
        ((1, 1, 3), (2, 4, 5, 3)),
        ((3, 1), (2, 4, 3, 5)),
        ((1, 3, 1), (4, 3, 5)),
        ((1, 1), (2, 3)),
        ((3, 1), (3, 0)),
        ((0, 1), (0, 4)),
        ((2, 0, 1), (4, 2, 0, 3)),
        ((), (2, 0)),
    ],
)
def test_what_was_repeated_gets_the_sum_over_its_places(shape, full):
    weights = RNG(3).integers(-9, 10, (2, *full)).astype(float)
    x = parameter(np.ones(shape))
    found = jacobian([(x * w).sum() for w in weights], [x]).matrix
    added = tuple(range(1, len(full) - len(shape) + 1))
    ones = tuple(i + 1 + len(added) for i, n in enumerate(shape) if n == 1)
    np.testing.assert_array_equal(found, weights.sum(added + ones).reshape(2, -1))


# WHAT A PRIMITIVE TAKES


def test_a_product_takes_no_vector_on_either_side():
    matrix, vector = parameter(np.ones((3, 3))), parameter(np.ones(3))
    for x, y in ((matrix, vector), (vector, matrix)):
        with pytest.raises(ShapeError, match="matmul takes matrices"):
            x @ y


def test_shares_of_large_numbers_do_not_overflow():
    """e^1000 overflows; the shares of (1000, 1000 + log 3) are 1/4 and 3/4."""
    found = softmax(parameter([1000.0, 1000.0 + np.log(3.0)]))
    np.testing.assert_allclose(found.value, [0.25, 0.75], rtol=1e-12)


def test_shares_go_along_the_last_axis_unless_told_otherwise():
    x = RNG(4).normal(size=(2, 3, 4))
    np.testing.assert_allclose(softmax(parameter(x)).value.sum(-1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(softmax(parameter(x), 1).value.sum(1), 1.0, rtol=1e-14)


def test_parts_are_joined_along_the_first_axis_unless_told_otherwise():
    x, y = np.arange(4.0).reshape(2, 2), np.arange(4.0, 8.0).reshape(2, 2)
    rows = [[0, 1], [2, 3], [4, 5], [6, 7]]
    np.testing.assert_array_equal(concatenate([parameter(x), parameter(y)]).value, rows)
    np.testing.assert_array_equal(concatenate([parameter(x), parameter(y)], 1).value, [[0, 1, 4, 5], [2, 3, 6, 7]])


def test_each_task_has_the_mean_of_its_own_squares():
    """∂/∂x of Σ (x − y)² / n is 2 (x − y) / n, at n = 4: exact."""
    y = np.arange(12.0).reshape(3, 4)
    x = parameter(np.zeros((3, 4)))
    losses = mse(x, y, each=True)
    np.testing.assert_array_equal(losses.value, [3.5, 31.5, 91.5])
    found = jacobian(losses, [x]).matrix.reshape(3, 3, 4)
    np.testing.assert_array_equal(found, np.eye(3)[:, :, None] * -y / 2)


def test_a_power_of_0_is_flat_at_0_too():
    x = parameter([0.0, 2.0, -3.0])
    np.testing.assert_array_equal(jacobian([(x**0).sum()], [x]).matrix, [[0, 0, 0]])


def test_scalars_are_stacked_as_a_vector():
    x = parameter([1.0, 2.0, 4.0])
    losses = stack([x[0] * x[1], x[2] * 1.0])
    assert losses.shape == (2,)
    np.testing.assert_array_equal(jacobian(losses, [x]).matrix, [[2, 1, 0], [0, 0, 1]])


def test_nothing_is_not_stacked():
    with pytest.raises(ShapeError, match="a stack is made of tensors of one shape"):
        stack([])


# WHAT IS REFUSED, AND HOW


def test_truth_values_are_real_numbers():
    for made in (
        parameter([True, False]),
        constant([True, False]),
        *autograd.parameters_of([np.array([True, False])]),
    ):
        assert made.value.dtype == np.float64
        np.testing.assert_array_equal(made.value, [1.0, 0.0])


@pytest.mark.parametrize("wrong", [1j, "1", None])
def test_a_parameter_that_is_no_real_number_is_named(wrong):
    with pytest.raises(ShapeError, match="a parameter holds numbers; the type of this one is"):
        value_and_jacobian(lambda leaves: [leaves[0] * 1.0], [1.0, np.array(wrong)])


def test_one_loss_is_a_sequence_of_one():
    x = parameter(3.0)
    with pytest.raises(ShapeError, match=r"losses must be a real vector \(K,\); they are"):
        jacobian(x * x, [x])


def test_the_ones_that_are_shared_cannot_be_written_to():
    autograd.ones.cache_clear()
    with pytest.raises(ValueError, match="read-only"):
        autograd.ones(3)[0] = 2.0


def test_what_has_no_parameter_behind_it_is_no_parameter():
    x = parameter(1.0)
    with pytest.raises(MtlrefError, match=r"parameters\[1\] is none, or given twice"):
        jacobian([x * x], [x, constant(2.0) * 3.0])


def test_the_first_entry_that_is_not_finite_is_named():
    with pytest.raises(NonFiniteError, match=r"log gives -inf at \[1\] of its shape \(4,\)"):
        autograd.log(constant([1.0, 0.0, 2.0, 0.0]))


def test_a_product_s_right_factor_may_be_made_from_parameters():
    """L_k = Σ (X f(W))_bk: the slope by W_jk is f'(W_jk) Σ_b X_bj, and 0 by the other columns."""
    X, w = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0]]), np.array([[0.3, -0.2], [0.1, 0.7]])
    W = parameter(w)
    y = X @ (W * W)
    expected = np.zeros((2, 2, 2))
    for k in range(2):
        expected[k, :, k] = 2 * w[:, k] * X.sum(axis=0)
    found = jacobian([y[:, 0].sum(), y[:, 1].sum()], [W]).matrix
    np.testing.assert_allclose(found, expected.reshape(2, 4), rtol=1e-15)


IN_ANOTHER_THREAD = {
    "matmul gives inf at [256, 0] of its shape (512, 512)": """
import numpy as np
from mtlref.autograd import constant

x = np.ones((512, 512))
x[256:] = 1e300  # the rows of a second thread alone overflow
constant(x) @ constant(np.full((512, 512), 1e300))
""",
    "squared_error gives inf at [] of its shape ()": """
import numpy as np
from mtlref.networks import mse

x = np.zeros(10**6)
x[-10:] = 1e200
mse(x, np.zeros(10**6))
""",
}


@pytest.mark.parametrize("message", IN_ANOTHER_THREAD)
def test_what_overflows_in_another_thread_is_noticed(message):
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_THREAD[message]],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"NonFiniteError: {message}" in done.stderr


def test_what_overflows_without_a_note_is_noticed(monkeypatch):
    monkeypatch.setitem(RULES, "matmul", (lambda x, y: np.array([[1.0, np.inf]]), *RULES["matmul"][1:]))
    with pytest.raises(NonFiniteError, match=r"matmul gives inf at \[0, 1\] of its shape \(1, 2\)"):
        constant([[1.0]]) @ constant([[1.0]])

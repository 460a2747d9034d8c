"""Heads swept as one: a stack and a vector of losses against the heads and the losses one by one."""

import numpy as np
import pytest

from mtlref import autograd as ad
from mtlref.autograd import RULES, constant, jacobian, parameter
from mtlref.notation import NonFiniteError, ShapeError
from tests.test_autograd import H, bits, rows


def heads_alike(leaves, each, hidden=False):
    """Three heads on a trunk, as one vector of losses or one by one."""
    V, a, *heads = leaves
    h = ad.tanh(ad.apply("affine", constant(rows(3, 5, 4)), V, a))
    groups = [heads[i::4] for i in range(4)] if hidden else [heads[i::2] for i in range(2)]
    if each:
        z = ad.apply("affine", h, *map(ad.stack, groups[:2]))
        return ad.apply("affine", ad.relu(z), *map(ad.stack, groups[2:])) if hidden else z
    outputs = [ad.apply("affine", h, W, b) for W, b in zip(*groups[:2], strict=True)]
    if hidden:
        outputs = [ad.apply("affine", ad.relu(z), W, b) for z, W, b in zip(outputs, *groups[2:], strict=True)]
    return outputs


HEADS = [rows(0, 4, 6), rows(1, 6)] + [
    rows(10 + 2 * i + j, *s) for i in range(3) for j, s in enumerate([(6, 2), (2,)])
]
DEEP = HEADS[:2] + [rows(20 + 4 * i + j, *s) for i in range(3) for j, s in enumerate([(6, 4), (4,), (4, 2), (2,)])]
LABELS = np.array([[0, 1, 1, 0, 1], [1, 1, 1, 0, 0], [0, 0, 1, 0, 1]])
EACH = [
    (lambda z: ad.apply("squared_error", z, constant(rows(9, 3, 5, 2)), True),
     lambda z, i: ad.apply("squared_error", z, constant(rows(9, 3, 5, 2)[i]))),
    (lambda z: (ad.logsumexp(z, axis=-1) - ad.pick(z, LABELS)).mean(axis=-1),
     lambda z, i: (ad.logsumexp(z, axis=-1) - ad.pick(z, LABELS[i])).mean()),
    (lambda z: ((z * np.array([2.0, 3.0]) - rows(8, 5, 1)) ** 2).sum((1, 2)),
     lambda z, i: ((z * np.array([2.0, 3.0]) - rows(8, 5, 1)) ** 2).sum()),
    (lambda z: (ad.softmax(z, -1) * ad.exp(-z)).mean((1, 2)), lambda z, i: (ad.softmax(z, -1) * ad.exp(-z)).mean()),
]  # fmt: skip


@pytest.mark.parametrize("arrays, hidden", [(HEADS, False), (DEEP, True)])
@pytest.mark.parametrize("each, one", EACH)
def test_ad_13_ad_14_a_vector_of_losses_and_its_entries_agree(arrays, hidden, each, one):
    values, J = ad.value_and_jacobian(lambda t: each(heads_alike(t, True, hidden)), arrays)
    expected, by_head = ad.value_and_jacobian(
        lambda t: [one(z, i) for i, z in enumerate(heads_alike(t, False, hidden))], arrays
    )
    np.testing.assert_allclose(values, expected, rtol=1e-14)
    np.testing.assert_allclose(J.matrix, by_head.matrix, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(J.matrix == 0, by_head.matrix == 0)
    for chunk in (1, 2):
        other = ad.value_and_jacobian(lambda t: each(heads_alike(t, True, hidden)), arrays, chunk)[1]
        assert bits(other.matrix) == bits(J.matrix)


def test_a_stack_of_heads_is_swept_by_a_slice_a_task(monkeypatch):
    """K slices, not K rows of K slices each; the trunk's cotangent has a row a task."""
    seen = []
    forward, left, *rest = RULES["affine"]
    monkeypatch.setitem(RULES, "affine", (forward, lambda c, z, *a: (seen.append(c.shape), left(c, z, *a))[1], *rest))
    leaves = [parameter(x) for x in HEADS]
    x = parameter(rows(3, 5, 4))
    h = ad.tanh(ad.apply("affine", x, *leaves[:2]))
    z = ad.apply("affine", h, ad.stack(leaves[2::2]), ad.stack(leaves[3::2]))
    jacobian(ad.apply("squared_error", z, constant(rows(9, 3, 5, 2)), True), [x, *leaves])
    assert seen == [(1, 3, 5, 2), (3, 5, 6)]


MIXED = [
    lambda z, h: z[::-1].sum((1, 2)),
    lambda z, h: (z * z.sum(axis=0)).sum((1, 2)),
    lambda z, h: (z.transpose((1, 0, 2)) * h[:, :1].reshape((5, 1, 1))).sum((0, 2)),
    lambda z, h: ad.tanh(z.reshape((3, 10)) @ rows(7, 10, 3)).sum(1),
    lambda z, h: ad.tanh(z.reshape((3, 10))[:, :3] @ rows(7, 3, 3)).sum(1),
    lambda z, h: (z + z[0]).sum((1, 2)) * z.mean((1, 2)),
    lambda z, h: (z * constant(rows(6, 1, 5, 2))).sum((1, 2)),
    lambda z, h: ad.concatenate([z, z], axis=1).sum((1, 2)),
    lambda z, h: (h @ rows(5, 6, 3)).sum(0),
    lambda z, h: ad.softmax(z.sum((1, 2)), 0),
]


@pytest.mark.parametrize("mix", MIXED)
@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_losses_whose_tasks_mix_are_swept_in_full(mix, chunk):
    """AD-14 asks for more than a vector of losses: where slices meet, each entry's own gradient still comes out."""

    def losses(leaves):
        h = ad.tanh(constant(rows(3, 5, 4)) @ leaves[0] + leaves[1])
        return mix(ad.apply("affine", h, ad.stack(leaves[2::2]), ad.stack(leaves[3::2])), h)

    J = ad.value_and_jacobian(losses, HEADS, chunk)[1].matrix
    expected = ad.value_and_jacobian(lambda t: [losses(t)[i] for i in range(3)], HEADS)[1].matrix
    np.testing.assert_allclose(J, expected, rtol=1e-12, atol=1e-14)
    u = [rows(30 + i, *x.shape) for i, x in enumerate(HEADS)]
    moved = losses([constant(x + 1j * H * d) for x, d in zip(HEADS, u, strict=True)]).value.imag / H
    np.testing.assert_allclose(J @ np.concatenate([d.ravel() for d in u]), moved, rtol=1e-9, atol=1e-13)


def test_a_stack_itself_may_be_asked_for():
    """Of a node kept apart and of one that is not: row i is the whole gradient, 0 outside slice i."""
    x, y = parameter([1.0, 2.0]), parameter([3.0, 5.0])
    z = ad.stack([x, y])
    assert z.shape == (2, 1, 2) and ad.stack([constant(1.0), constant(2.0)]).op == "constant"
    blocks = jacobian((z * z).sum((1, 2)), [z, x, y]).blocks
    np.testing.assert_array_equal(blocks[0], [[[[2, 4]], [[0, 0]]], [[[0, 0]], [[6, 10]]]])
    np.testing.assert_array_equal(blocks[1], [[2, 4], [0, 0]])
    np.testing.assert_array_equal(blocks[2], [[0, 0], [6, 10]])


def test_a_vector_of_losses_is_one_and_real():
    x = parameter([[1.0, 2.0]])
    for wrong in (x, x * constant([[1j]]), (x * constant([[1j]])).sum(0)):
        with pytest.raises(ShapeError, match="losses must be a real vector"):
            jacobian(wrong, [x])
    with pytest.raises(ShapeError, match="a stack is made of tensors of one shape"):
        ad.stack([x, parameter([1.0])])


def test_an_overflow_behind_a_vector_of_losses_names_the_task():
    x = parameter([1.0, 2.0])
    z = ad.stack([x, x]) * 1e-300 * np.array([[[1.0]], [[1e300]]])
    with pytest.raises(NonFiniteError, match=r"the derivative of multiply gives, for task 1, inf") as error:
        jacobian(z.sum((1, 2)) * np.array([1.0, 1e10]), [x])
    assert error.value.task == 1


def test_a_weight_that_is_made_of_a_parameter_may_be_asked_for_beside_it():
    """What is written straight into one's columns is not taken for the other's, which it is handed on to."""
    V = parameter(rows(0, 3, 2))
    W = V + 0.0
    J = jacobian([(rows(1, 4, 3) @ W).sum(), (rows(2, 4, 3) @ W).sum()], [W, V]).blocks
    np.testing.assert_array_equal(J[0], J[1])
    assert J[0].all()

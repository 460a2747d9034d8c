"""The autograd against complex steps, sums over paths, exact small cases, and its own promises."""

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlref import autograd as ad
from mtlref.autograd import RULES, MissingRuleError, Tensor, constant, jacobian, parameter, stop_gradient
from mtlref.networks import mse
from mtlref.notation import MtlrefError, NonFiniteError, ShapeError

H = 1e-30


def rows(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def bits(array):
    return np.ascontiguousarray(array).tobytes()


def complex_step(function, x):
    """The derivative of an analytic function by each entry of x, (*shape of z, *shape of x), to rounding."""
    columns = []
    for at in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[at] += 1j * H
        columns.append(np.imag(function(moved)) / H)
    return np.stack(columns, axis=-1).reshape((*np.shape(function(x)), *x.shape))


# PRIMITIVES

POSITIVE = np.exp(rows(1, 2, 3))
CASES = {
    "add": [((rows(0, 2, 3), rows(1, 3)), ()), ((rows(0, 1, 3), rows(1, 2, 1)), ())],
    "subtract": [((rows(0, 3), rows(1, 2, 3)), ()), ((rows(0, 2, 1), rows(1, 3)), ())],
    "multiply": [((rows(0, 4, 1, 3), rows(1, 2, 1)), ()), ((rows(0, 2, 3), rows(1)), ())],
    "divide": [((rows(0, 2, 3), POSITIVE[0]), ()), ((rows(0), POSITIVE), ())],
    "matmul": [
        ((rows(0, 4, 2), rows(1, 2, 3)), ()),
        ((rows(0, 5, 4, 2), rows(1, 2, 3)), ()),
        ((rows(0, 4, 2), rows(1, 5, 2, 3)), ()),
        ((rows(0, 6, 5, 4, 2), rows(1, 5, 2, 3)), ()),
        ((rows(0, 1, 4, 2), rows(1, 5, 2, 3)), ()),
    ],
    "affine": [
        ((rows(0, 4, 2), rows(1, 2, 3), rows(2, 3)), ()),
        ((rows(0, 5, 4, 2), rows(1, 2, 3), rows(2, 4, 1)), ()),
        ((rows(0, 4, 2), rows(1, 5, 2, 3), rows(2, 5, 1, 3)), ()),
    ],
    "power": [((rows(0, 2, 3),), (p,)) for p in (0, 1, 3, -1)] + [((POSITIVE,), (p,)) for p in (0.5, -1.5)],
    "squared_error": [((rows(0, 2, 3), rows(1, 2, 3)), ()), ((rows(0), rows(1)), ())],
    "negative": [((rows(0, 2, 3),), ())],
    "exp": [((rows(0, 2, 3),), ())],
    "log": [((POSITIVE,), ())],
    "sqrt": [((POSITIVE,), ())],
    "tanh": [((rows(0, 2, 3),), ())],
    "sigmoid": [((rows(0, 2, 3),), ()), ((np.array([-700.0, -40.0, 40.0, 700.0]),), ())],
    "softplus": [((rows(0, 2, 3),), ()), ((np.array([-700.0, -40.0, 40.0, 700.0]),), ())],
    "relu": [((rows(0, 2, 3),), ())],
    "sum": [((rows(0, 2, 3, 4),), (a, k)) for a in (None, 0, -1, (0, 2), (-1, 1)) for k in (False, True)],
    "mean": [((rows(0, 2, 3, 4),), (a, k)) for a in (None, -1, (0, 2)) for k in (False, True)],
    "logsumexp": [((rows(0, 2, 3, 4),), (a, k)) for a in (None, 0, -1, (0, 2)) for k in (False, True)],
    "softmax": [((rows(0, 2, 3, 4),), (a,)) for a in (0, 1, -1)],
    "reshape": [((rows(0, 2, 3),), (shape,)) for shape in ((6,), (3, 2), (-1, 1))],
    "transpose": [((rows(0, 2, 3, 4),), (axes,)) for axes in ((1, 2, 0), (2, 1, 0), (0, -1, 1))],
    "getitem": [
        ((rows(0, 4, 3, 2),), (index,))
        for index in (
            2,
            (slice(None), 1),
            (Ellipsis, None, slice(None, None, -1)),
            [0, 0, 3],
            (np.array([3, 3]), slice(None), np.array([1, 0])),
            rows(1, 4, 3) > 0,
        )
    ],
    "pick": [((rows(0, 4, 3),), (np.array([2, 0, 0, 1]),))],
    "join": [((rows(0, 2, 3), rows(1, 2, 4)), (1,)), ((rows(0, 2, 3), rows(1, 1, 3)), (-2,))],
}


def test_every_analytic_primitive_has_a_case():
    assert set(CASES) == set(RULES) - {"parameter", "stack", "absolute"}


@pytest.mark.parametrize("op, operands, options", [(op, *case) for op, cases in CASES.items() for case in cases])
def test_ad_4_a_rule_is_the_derivative(op, operands, options):
    """AD-3, AD-4, AD-6 … AD-12: random functionals v of a primitive have the gradients v·∂z/∂x."""
    operands = [np.asarray(x, float) for x in operands]
    leaves = [parameter(x) for x in operands]
    z = ad.apply(op, *leaves, *options)
    v = rows(9, 3, *z.shape)
    blocks = jacobian([(row * z).sum() for row in v], leaves).blocks
    for i, x in enumerate(operands):

        def vary(moved, i=i):
            return RULES[op][0](*operands[:i], moved, *operands[i + 1 :], *options)

        expected = np.tensordot(v, complex_step(vary, x), z.value.ndim)
        np.testing.assert_allclose(blocks[i], expected, rtol=1e-12, atol=1e-13)


def test_ad_c1_ad_c2_kinks():
    x = parameter([-2.0, 0.0, 3.0])
    J = jacobian([ad.relu(x).sum(), ad.absolute(x).sum()], [x]).matrix
    np.testing.assert_array_equal(J, [[0, 0, 1], [-1, 0, 1]])


def test_the_tails_of_sigmoid_and_softplus_keep_their_digits():
    x = np.array([-700.0, -30.0, 30.0, 700.0])
    np.testing.assert_allclose(ad.sigmoid(x).value[:2], np.exp(x[:2]), rtol=1e-12)
    expected = [np.exp(-700), np.log1p(np.exp(-30)), 30 + np.exp(-30), 700]
    np.testing.assert_allclose(ad.softplus(x).value, expected, rtol=1e-13)


def test_arithmetic_with_arrays_on_either_side():
    x, a = parameter([[2.0, 3.0]]), np.array([[5.0], [7.0]])
    left, right = [a + x, a - x, a * x, a / x, a @ x], [x + a, x - a, x * a, x / a, x @ a]
    v = x.value
    for got, expected in zip(left, [a + v, a - v, a * v, a / v, a @ v], strict=True):
        np.testing.assert_array_equal(got.value, expected)
    for got, expected in zip(right, [v + a, v - a, v * a, v / a, v @ a], strict=True):
        np.testing.assert_array_equal(got.value, expected)
    np.testing.assert_array_equal((-(x**3)).T.value, [[-8], [-27]])
    assert (1 / x).mean(axis=1).shape == (1,) and np.tanh(x).op == "tanh"


# THE SWEEP


def test_the_worked_example_of_the_derivation():
    w, a, b = parameter(0.5), parameter(2.0), parameter(3.0)
    h = w * 2
    losses = [(h * a - 3) ** 2, (h * b - 1) ** 2]
    assert [loss.value.item() for loss in losses] == [1, 4]
    np.testing.assert_array_equal(jacobian(losses, [h]).matrix, [[-4], [12]])
    np.testing.assert_array_equal(jacobian(losses, [w, a, b]).matrix, [[-8, -2, 0], [24, 0, 4]])


def local(node, i):
    """∂z/∂x_i of one node, (size of z, size of x_i), by complex step through its forward function."""
    values = [x.value for x in node.parents]

    def vary(moved):
        return RULES[node.op][0](*values[:i], moved, *values[i + 1 :], *node.arguments[len(values) :])

    return complex_step(vary, values[i]).reshape(node.value.size, values[i].size)


def sum_over_paths(node, target):
    """∂node/∂target as the sum, over all paths between them, of the products of the local derivatives."""
    total = np.eye(node.value.size) if node is target else np.zeros((node.value.size, target.value.size))
    for i, x in enumerate(node.parents):
        total = total + local(node, i) @ sum_over_paths(x, target)
    return total


SHAPES = [(2, 3), (3,), (1, 3), (2, 1), ()]
UNARY = [
    ad.tanh,
    ad.softplus,
    lambda x: ad.exp(ad.tanh(x)),
    lambda x: ad.log(ad.softplus(x) + 0.1),  # which underflows nowhere
    lambda x: ad.sqrt(ad.softplus(x) + 0.1),
    lambda x: ad.sigmoid(x) ** 3,
    lambda x: ad.softmax(x, -1) if x.shape else x,
    lambda x: ad.logsumexp(x, -1, keepdims=True) if x.shape else -x,
    lambda x: x.mean(0) if x.shape else x + x,
    lambda x: x @ rows(5, 3, 3) if x.shape in ((2, 3), (1, 3)) else x * 2,
    lambda x: x[..., ::-1] if x.shape else x,
]
BINARY = [
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: x * ad.tanh(y),
    lambda x, y: x / (ad.softplus(y) + 0.1),
]


@st.composite
def programs(draw):
    """A random graph over parameters of the shapes above: steps, and for each task the nodes of its loss."""
    steps = []
    for n in range(len(SHAPES), len(SHAPES) + draw(st.integers(1, 6))):
        node = st.integers(0, n - 1)
        operands = st.tuples(st.sampled_from(BINARY), node, node) | st.tuples(st.sampled_from(UNARY), node)
        steps.append(draw(operands))
    last = len(SHAPES) + len(steps) - 1
    ends = st.lists(st.integers(last - 3, last), min_size=1, max_size=2)
    return steps, draw(st.lists(ends, min_size=1, max_size=4))


def run(program, leaves):
    steps, ends = program
    nodes = list(leaves)
    for function, *operands in steps:
        nodes.append(function(*(nodes[i] for i in operands)))
    return [sum((ad.tanh(nodes[i]).sum() for i in end), constant(0)) for end in ends]


@given(programs(), st.integers(0, 99))
def test_ad_1_ad_2_random_graphs_against_the_sum_over_paths(program, seed):
    leaves = [parameter(rows(seed + i, *shape)) for i, shape in enumerate(SHAPES)]
    losses = run(program, leaves)
    J = jacobian(losses, leaves).matrix
    expected = [np.concatenate([sum_over_paths(loss, x)[0] for x in leaves]) for loss in losses]
    np.testing.assert_allclose(J, expected, rtol=1e-9, atol=1e-12)
    u = rows(seed, J.shape[1])
    parts = np.split(u, np.cumsum([x.value.size for x in leaves])[:-1])
    moved = [constant(x.value + 1j * H * p.reshape(x.shape)) for x, p in zip(leaves, parts, strict=True)]
    forward = [np.imag(loss.value) / H for loss in run(program, moved)]
    np.testing.assert_allclose(J @ u, forward, rtol=1e-9, atol=1e-12)


def two_heads(leaves):
    V, A, B = leaves
    h = ad.tanh(constant(rows(3, 5, 4)) @ V)
    return [(h @ A).mean(), (ad.exp(h @ B) + (h @ B) ** 2).mean(), (h * h).sum()]


NET = (rows(0, 4, 3), rows(1, 3, 2), rows(2, 3, 1))


def test_forward_and_reverse_agree_on_the_inner_product():
    """⟨v, J u⟩ = ⟨Jᵀ v, u⟩, with J u from a complex step along u."""
    _, J = ad.value_and_jacobian(two_heads, NET)
    u = [rows(10 + i, *x.shape) for i, x in enumerate(NET)]
    moved = [constant(x + 1j * H * d) for x, d in zip(NET, u, strict=True)]
    forward = [np.imag(z.value) / H for z in two_heads(moved)]
    v = rows(20, 3)
    reverse = sum(np.sum(np.tensordot(v, block, 1) * d) for block, d in zip(J.blocks, u, strict=True))
    np.testing.assert_allclose(v @ forward, reverse, rtol=1e-13)


def test_blocks_are_the_matrix_and_values_the_losses():
    values, J = ad.value_and_jacobian(two_heads, NET)
    np.testing.assert_array_equal(values, [loss.value for loss in two_heads(NET)])
    assert J.matrix.shape == (3, 12 + 6 + 3)
    assert [block.shape for block in J.blocks] == [(3, 4, 3), (3, 3, 2), (3, 3, 1)]
    np.testing.assert_array_equal(np.concatenate([b.reshape(3, -1) for b in J.blocks], axis=1), J.matrix)


def test_rows_do_not_depend_on_the_other_tasks():
    leaves = [parameter(x) for x in NET]
    losses = two_heads(leaves)
    J = jacobian(losses, leaves).matrix
    for i, loss in enumerate(losses):
        np.testing.assert_allclose(jacobian([loss], leaves).matrix[0], J[i], rtol=1e-15, atol=1e-17)
    back = jacobian(losses[::-1], leaves[::-1]).blocks
    np.testing.assert_allclose(back[2], jacobian(losses, leaves).blocks[0][::-1], rtol=1e-15)


def test_a_task_that_does_not_reach_a_parameter_has_an_exact_zero():
    leaves = [parameter(x) for x in NET]
    alone = parameter(1.0)
    blocks = jacobian([*two_heads(leaves), constant(4.0)], [*leaves, alone]).blocks
    assert not blocks[1][1:].any() and not blocks[2][[0, 2, 3]].any() and not blocks[3].any()
    assert blocks[0][:3].all(axis=(1, 2)).all() and not blocks[0][3].any()


def test_a_head_is_swept_for_its_own_task_alone(monkeypatch):
    """A trunk's cotangent has a row a task, a head's the one of its own; below the layer asked for: none."""
    seen = []
    forward, *partials = RULES["matmul"]

    def spy(partial):
        return lambda c, z, *rest: (seen.append(c.shape), partial(c, z, *rest))[1]

    monkeypatch.setitem(RULES, "matmul", (forward, *map(spy, partials)))
    V, W, *heads = (parameter(rows(i, 4, 4)) for i in range(5))
    h = ad.tanh(ad.tanh(constant(rows(9, 6, 4)) @ V) @ W)
    losses = [(h @ head).mean() for head in heads]
    jacobian(losses, [V, W])
    assert seen == [(1, 6, 4)] * 3 + [(3, 6, 4)] * 3
    seen.clear()
    jacobian(losses, [W])
    assert seen == [(1, 6, 4)] * 3 + [(3, 6, 4)]


def test_any_tensor_may_stand_for_a_parameter_and_a_loss_may_be_one():
    x = parameter([1.0, 2.0])
    h = x * 3
    loss = (h * h).sum()
    np.testing.assert_array_equal(jacobian([loss, loss], [h, x]).matrix, [[6, 12, 18, 36]] * 2)
    np.testing.assert_array_equal(jacobian([loss], [loss]).matrix, [[1]])


def test_ad_5_stop_gradient():
    x = parameter(3.0)
    assert stop_gradient(x * 2).value == 6 and stop_gradient(2.0).value == 2
    np.testing.assert_array_equal(jacobian([stop_gradient(x) * x, stop_gradient(x) * 1], [x]).matrix, [[3], [0]])


def test_a_chain_of_twenty_thousand_does_not_recurse():
    x = y = parameter(1.0)
    for _ in range(10_000):
        y = (y + 1e-4) * 1.0
    assert jacobian([y], [x]).matrix == [[1]]


def test_a_wide_diamond_is_swept_once():
    x = y = parameter(1.0)
    for _ in range(60):
        y = y + y
    assert jacobian([y], [x]).matrix == [[2.0**60]]


# PROMISES


def test_nothing_is_written_into_and_later_writes_change_nothing():
    arrays = [x.copy() for x in NET]
    leaves = [parameter(x) for x in arrays]
    labels, at = np.array([0, 1, 1, 0, 1]), np.array([0, 1])
    losses = [*two_heads(leaves), ad.pick(rows(3, 5, 4) @ leaves[0], labels).sum()]
    bound, plain = np.array(2), array("q", [0, 1])
    losses += [leaves[0][index].sum() for index in (at, (slice(1, None), at), slice(bound, None), plain, [*at])]
    first = jacobian(losses, leaves).matrix
    for values, x in zip(arrays, NET, strict=True):
        np.testing.assert_array_equal(values, x)
        values[:] = 7
    labels[:] = at[:] = bound[...] = plain[0] = 0
    np.testing.assert_array_equal(jacobian(losses, leaves).matrix, first)
    with pytest.raises(ValueError, match="read-only"):
        losses[0].parents[0].value[...] = 1


def test_the_same_inputs_give_the_same_bits():
    once, again = (ad.value_and_jacobian(two_heads, NET) for _ in range(2))
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1].matrix, again[1].matrix)


@pytest.mark.parametrize(
    "use, name",
    [
        (np.sin, "numpy.sin|sin"),
        (np.add.reduce, "numpy.add.reduce"),
        (lambda x: np.where([True, False], x, 0), "numpy.where"),
        (lambda x: 2**x, "power with a tensor as argument 1"),
        (lambda x: x**x, "power with a tensor as argument 1"),
        (lambda x: np.zeros(2) > x, "greater"),
        (lambda x: ad.apply("erf", x), "erf"),
    ],
)
def test_a_missing_rule_is_an_error(use, name):
    with pytest.raises(MissingRuleError, match=f"the table has no rule for .*({name})"):
        use(parameter([1.0, 2.0]))


@pytest.mark.parametrize(
    "make, task",
    [
        (lambda x: [x.sum(), x], 1),
        (lambda x: [x[:1]], 0),
        (lambda x: [x.sum(), x.sum(), 3.0], 2),
        (lambda x: [(x * constant(1j)).sum()], 0),
    ],
)
def test_a_loss_must_be_a_real_scalar_tensor(make, task):
    x = parameter([1.0, 2.0])
    with pytest.raises(ShapeError, match=rf"losses\[{task}\] must be a real scalar") as error:
        jacobian(make(x), [x])
    assert error.value.task == task


def test_parameters_must_be_tracked_and_different():
    x = parameter(1.0)
    for wrong in ([constant(1.0)], [x, stop_gradient(x)], [x, x], [1.0]):
        with pytest.raises(MtlrefError, match=r"parameters\[\d\] is none, or given twice"):
            jacobian([x * 2], wrong)


def test_leaves_hold_finite_numbers():
    with pytest.raises(NonFiniteError, match=r"a parameter holds nan at \[1\]"):
        parameter([0.0, np.nan])
    for wrong in (lambda: parameter([1j]), lambda: constant("word"), lambda: parameter(None)):
        with pytest.raises(ShapeError, match="holds numbers"):
            wrong()
    assert isinstance(constant([1, 2]), Tensor) and constant([1, 2]).value.dtype == float
    with pytest.raises(ShapeError, match="matmul takes matrices"):
        parameter([1.0]) @ np.ones((1, 1))


@pytest.mark.parametrize(
    "name, use",
    [
        ("exp", lambda x: ad.exp(x * 1000)),
        ("log", lambda x: ad.log(x - 1)),
        ("log", lambda x: ad.log(-x)),
        ("divide", lambda x: 1 / (x - 1)),
        ("power", lambda x: (x - 1) ** -1),
        ("multiply", lambda x: (x * 1e200) * 1e200),
        ("matmul", lambda x: (x * 1e200).reshape((1, 2)) @ (x * 1e200).reshape((2, 1))),
        ("squared_error", lambda x: mse(x * 1e200, np.zeros(2))),
        ("squared_error", lambda x: mse((x * 1e200).reshape((2, 1)), np.zeros((2, 1)), each=True)),
        ("sum", lambda x: (x * 8e307).sum()),
        ("mean", lambda x: (x * 8e307).mean()),
        ("affine", lambda x: ad.apply("affine", (x * 1e200).reshape((1, 2)), (x * 1e200).reshape((2, 1)), x[:1])),
    ],
)
def test_an_overflow_forward_names_the_primitive(name, use):
    with pytest.raises(NonFiniteError, match=f"^{name} gives .*(inf|nan)") as error:
        use(parameter([1.0, 2.0]))
    assert error.value.argument == name


@pytest.mark.parametrize(
    "name, use",
    [
        ("sqrt", lambda x: ad.sqrt(x - 1)),
        ("power", lambda x: (x - 1) ** 0.5),
        ("multiply", lambda x: ad.tanh(x * 1e200) * 0 + (x * 1e-300) * 1e308 * 1e200),
        ("divide", lambda x: x * 1e-320 / 1e-320 * 1),
    ],
)
def test_an_overflow_backward_names_the_primitive_and_the_task(name, use):
    x = parameter([1.0, 2.0])
    with pytest.raises(NonFiniteError, match=f"^the derivative of {name} gives, for task 1,") as error:
        jacobian([x.sum(), use(x).sum()], [x])
    assert error.value.argument == name and error.value.task == 1


def test_large_finite_values_are_not_mistaken_for_an_overflow():
    x = parameter([1e300, -1e300])
    np.testing.assert_array_equal(jacobian([(x * 2).sum()], [x]).matrix, [[2, 2]])


def test_an_overflow_of_a_shared_nodes_sum_is_named():
    x = parameter(1e-10)
    y = x * 1.0
    with pytest.raises(NonFiniteError, match="the derivative of a shared node gives, for task 0,"):
        jacobian([y * 1.5e308 + y * 1.5e308], [x])


def test_concatenate_and_pick():
    x, y = parameter(rows(0, 2, 3)), parameter(rows(1, 2, 1))
    z = ad.concatenate([x, y, x], axis=1)
    np.testing.assert_array_equal(z.value, np.concatenate([x.value, y.value, x.value], axis=1))
    v = rows(2, 2, 7)
    blocks = jacobian([(z * v).sum()], [x, y]).blocks
    np.testing.assert_allclose(blocks[0][0], v[:, :3] + v[:, 4:])
    np.testing.assert_allclose(blocks[1][0], v[:, 3:4])
    np.testing.assert_array_equal(ad.pick(x, [2, 0]).value, x.value[[0, 1], [2, 0]])

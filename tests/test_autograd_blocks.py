"""The sweep by blocks of tasks: no bit of the result hangs on them; what is not finite is found all the same."""

import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlref import autograd as ad
from mtlref.autograd import RULES, jacobian, parameter
from mtlref.notation import MtlrefError, NonFiniteError
from tests.test_autograd import NET, SHAPES, bits, programs, rows, run, two_heads


@pytest.mark.parametrize("width, batch, K", [(3, 5, 4), (7, 1, 5), (17, 33, 6), (64, 64, 7), (1, 9, 3)])
def test_chunks_change_no_bit_of_a_networks_jacobian(width, batch, K):
    arrays = [rows(i, *shape) for i, shape in enumerate([(4, width), (width,), (width, width), (width,)])]
    arrays += [rows(10 + i, *shape) for i in range(K) for shape in ((width, 1 + i % 3), (1 + i % 3,))]
    x = rows(99, batch, 4)

    def losses(leaves):
        h = ad.tanh(ad.apply("affine", ad.relu(x @ leaves[0] + leaves[1]), leaves[2], leaves[3]))
        outputs = [h @ leaves[4 + 2 * i] + leaves[5 + 2 * i] for i in range(K)]
        return [(z**2).mean() if i % 2 else ad.logsumexp(z, axis=1).mean() for i, z in enumerate(outputs)]

    whole = ad.value_and_jacobian(losses, arrays, chunk=K)[1].matrix
    for chunk in (None, 1, 2, 3, K + 4):
        assert bits(ad.value_and_jacobian(losses, arrays, chunk)[1].matrix) == bits(whole)


@given(programs(), st.integers(0, 99), st.integers(1, 4))
def test_chunks_change_no_bit_of_a_random_graphs_jacobian(program, seed, chunk):
    leaves = [parameter(rows(seed + i, *shape)) for i, shape in enumerate(SHAPES)]
    losses = run(program, leaves)
    assert bits(jacobian(losses, leaves, chunk).matrix) == bits(jacobian(losses, leaves).matrix)


def test_the_default_block_holds_a_mebibyte_of_cotangents(monkeypatch):
    swept = []
    sweep = ad.sweep
    monkeypatch.setattr(ad, "sweep", lambda losses, block, *rest: (swept.append(block), sweep(losses, block, *rest)))
    x = parameter(rows(0, 3))
    z = (x * np.ones((ad.BLOCK // 6, 3))).sum(axis=0)
    jacobian([z[0], z[1], z[2], z[0] * 2, z[1] * 2], [x])
    assert swept == [range(2), range(2, 4), range(4, 5)]


KEPT = """
import resource
import numpy as np
from mtlref.autograd import value_and_jacobian

x, arrays = np.ones((64, 128)), [np.full((128, 128), 1e-3), *np.ones((10, 128, 1))]

def losses(leaves):
    h = x @ leaves[0]
    return [(h @ head).mean() for head in leaves[1:]]

def pages(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        value_and_jacobian(losses, arrays)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(pages(50), pages(50))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how glibc keeps freed memory")
def test_a_sweep_finds_the_memory_that_the_one_before_freed():
    """A sweep of 2 MiB that asks for its pages anew takes 500 of them; the first calls ask for all there are."""
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    first, later = map(int, done.stdout.split())
    assert first > 500
    assert later < 50 * 50


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True])
def test_a_chunk_is_a_whole_number_of_tasks(chunk):
    x = parameter(1.0)
    with pytest.raises(MtlrefError, match="chunk must be a whole number of at least 1"):
        jacobian([x * 2], [x], chunk)


def test_the_jacobian_is_the_callers_and_its_blocks_are_views():
    leaves = [parameter(x) for x in NET]
    first = jacobian(two_heads(leaves), leaves)
    kept = first.matrix.copy()
    second = jacobian(two_heads(leaves), leaves)
    second.matrix[:] = 7
    np.testing.assert_array_equal(first.matrix, kept)
    assert all(np.shares_memory(block, first.matrix) for block in first.blocks)
    for node in leaves:
        assert not np.shares_memory(node.value, first.matrix)


def test_a_warning_is_neither_shown_nor_needed():
    """Under NumPy's own settings, whatever they are, an overflow is our error and an underflow is rounding."""
    for setting in ("ignore", "warn", "raise"):
        with np.errstate(all=setting):
            x = parameter([1e-200, 1.0])
            np.testing.assert_array_equal((x * x).value, [0, 1])
            np.testing.assert_array_equal(jacobian([(x * x * 1e-300).sum()], [x]).matrix, [[0, 2e-300]])
            with pytest.raises(NonFiniteError, match=r"^exp gives inf"):
                ad.exp(x * 1e3)


def test_products_are_checked_by_their_values():
    """BLAS raises no flag that NumPy is sure to see, forward or backward."""
    x = parameter(np.full((2, 2), 1e200))
    with pytest.raises(NonFiniteError, match=r"^affine gives inf"):
        ad.apply("affine", x, x, parameter(1.0))
    tiny = parameter(np.full((2, 2), 1e-200))
    big = (tiny @ x) * 1e200
    with pytest.raises(NonFiniteError, match=r"^the derivative of matmul gives, for task 0, inf"):
        jacobian([(big * 1e-50).sum(), (big * 1e-50).sum()], [tiny])


def test_what_no_flag_tells_is_seen_in_the_matrix(monkeypatch):
    """As if another thread of BLAS had overflowed: the sweep is repeated, and the step named."""
    monkeypatch.setitem(RULES, "tanh", (np.tanh, lambda c, z, x: np.full(c.shape, np.inf)))
    x = parameter([1.0, 2.0])
    losses = [x.sum(), ad.tanh(x).sum()]
    with pytest.raises(NonFiniteError, match=r"^the derivative of tanh gives, for task 1, inf") as caught:
        jacobian(losses, [x])
    assert caught.value.task == 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_parameter_that_is_not_finite_is_named_among_others(wrong):
    with pytest.raises(NonFiniteError, match=f"^a parameter holds {wrong}"):
        ad.value_and_jacobian(lambda leaves: [leaves[0].sum()], [np.ones(2), np.array([0.0, wrong])])

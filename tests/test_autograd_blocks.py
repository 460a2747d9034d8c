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
from mtlref.notation import MtlrefError, NonFiniteError, ShapeError
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
    monkeypatch.setattr(ad, "sweep", lambda losses, block, *rest: swept.append(block) or sweep(losses, block, *rest))
    x = parameter(rows(0, 3))
    z = (x * np.ones((ad.BLOCK // 6, 3))).sum(axis=0)
    jacobian([z[0], z[1], z[2], z[0] * 2, z[1] * 2], [x])
    assert swept == [range(2), range(2, 4), range(4, 5)]


KEPT = """
import resource
import numpy as np
from mtlref.autograd import value_and_jacobian

x, arrays = np.ones(({batch}, {width})), [np.full(({width}, 512), 1e-3), *np.ones((10, 512, 1))]

def losses(leaves):
    h = x @ leaves[0]
    return [(h @ head).mean() for head in leaves[1:]]

def pages(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        value_and_jacobian(losses, arrays, out={out})
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

out = np.ones((10, sum(a.size for a in arrays)))
print(pages(10), pages(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how glibc keeps freed memory")
@pytest.mark.parametrize(
    "batch, width, out, new",
    [
        (64, 64, None, False),  # 2.5 MiB of gradients and as many cotangents
        (1, 1024, None, True),  # 40 MiB, which glibc never keeps
        (1, 1024, "out", False),
    ],
)
def test_a_sweep_finds_the_memory_that_the_one_before_freed(batch, width, out, new):
    """Ten sweeps ask for all their pages, of 4 KiB or 2 MiB; ten more for none, or for all of them again."""
    script = KEPT.format(batch=batch, width=width, out=out)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, later = map(int, done.stdout.split())
    assert first > 200
    assert (later > 200) if new else (later < 50)


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


# A MATRIX OF THE CALLER'S, AND GRADIENTS THAT ARE KNOWN TO BE FINITE


@given(programs(), st.integers(0, 99), st.integers(1, 4))
def test_what_a_matrix_of_the_callers_held_before_does_not_matter(program, seed, chunk):
    leaves = [parameter(rows(seed + i, *shape)) for i, shape in enumerate(SHAPES)]
    losses = run(program, leaves)
    fresh = jacobian(losses, leaves).matrix
    out = np.full(fresh.shape, np.nan)
    assert jacobian(losses, leaves, chunk, out).matrix is out
    assert bits(out) == bits(fresh)


def test_a_matrix_of_the_callers_may_be_a_file(tmp_path):
    J = ad.value_and_jacobian(two_heads, NET)[1].matrix
    out = np.memmap(tmp_path / "jacobian.bin", np.float64, "w+", shape=J.shape)
    written = ad.value_and_jacobian(two_heads, NET, out=out)[1]
    assert type(written.matrix) is np.ndarray
    assert np.shares_memory(written.matrix, out)
    out.flush()
    np.testing.assert_array_equal(np.fromfile(tmp_path / "jacobian.bin").reshape(J.shape), J)


READ_ONLY = np.ones((2, 3))
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "out, message",
    [
        (np.ones((2, 2)), r"^out must be a matrix of float64, \(2, 3\); it is float64, \(2, 2\)$"),
        (np.ones(6), r"^out must be a matrix of float64, \(2, 3\); it is float64, \(6,\)$"),
        (np.ones((2, 3), np.float32), r"^out must be a matrix of float64, \(2, 3\); it is float32, \(2, 3\)$"),
        ([[0.0] * 3] * 2, r"^out must be a matrix of float64, \(2, 3\); it is \[\[0"),
        (np.ones((3, 2)).T, "^out must be writable, and its rows one after another in memory$"),
        (np.ones((2, 6))[:, ::2], "^out must be writable, and its rows one after another in memory$"),
        (READ_ONLY, "^out must be writable, and its rows one after another in memory$"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(out, message):
    x = parameter([1.0, 2.0, 3.0])
    with pytest.raises(ShapeError, match=message) as caught:
        jacobian([x.sum(), (x * x).sum()], [x], out=out)
    assert caught.value.argument == "out"


def wide(leaves, phi=lambda z: z):
    """Two tasks on a layer of 4 × 3 weights and three biases, for a batch of one: 24 gradients, 6 cotangents."""
    z = phi(ad.apply("affine", np.ones((1, 4)), *leaves))
    return [z.sum(), (z * z).sum()]


WIDE = [rows(0, 4, 3), rows(1, 3)]


@given(programs(), st.integers(0, 99))
def test_gradients_that_are_known_to_be_finite_are_those_of_a_look(program, seed):
    leaves = [parameter(rows(seed + i, *shape)) for i, shape in enumerate(SHAPES)]
    losses = run(program, leaves)
    looked = jacobian(losses, leaves).matrix
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ad, "BLOCK", 1)
        assert bits(jacobian(losses, leaves).matrix) == bits(looked)


def looks(monkeypatch, function, arrays):
    """Return the columns that are looked at where a block is a number."""
    seen = []
    beside = ad.finite_beside
    monkeypatch.setattr(ad, "BLOCK", 1)
    monkeypatch.setattr(ad, "finite_beside", lambda rows, known: seen.append(known) or beside(rows, known))
    ad.value_and_jacobian(function, arrays, chunk=2)
    return seen


def test_the_weights_of_a_wide_layer_are_bounded_by_norms(monkeypatch):
    assert looks(monkeypatch, wide, WIDE) == [[slice(0, 12)]]


def test_norms_that_overflow_bound_nothing(monkeypatch):
    """‖x‖² ‖z̄‖² is beyond the largest number, and the gradients, up to 1e160, are not."""

    def steep(leaves):
        z = ad.apply("affine", np.full((1, 4), 1e100), *leaves)
        return [z.sum(), z.sum() * 1e60]

    assert looks(monkeypatch, steep, [x * 1e-90 for x in WIDE]) == [[]]


def test_weights_that_are_used_twice_are_looked_at(monkeypatch):
    def twice(leaves):
        y, z = np.ones((1, 4)) @ leaves[0], np.full((1, 4), 2.0) @ leaves[0]
        return [(y + z).sum(), (y * z).sum()]

    assert looks(monkeypatch, twice, WIDE[:1]) == [[]]


@pytest.mark.parametrize("op, slot", [("tanh", 1), ("affine", 3)])
def test_an_infinity_beside_what_is_known_is_found(monkeypatch, op, slot):
    """As if another thread of BLAS had overflowed, above the layer or in its biases' columns alone."""
    monkeypatch.setattr(ad, "BLOCK", 1)
    sound = RULES[op]

    def spoilt(c, *given):
        return sound[slot](c, *given) * np.array([1.0, np.inf]).reshape(2, 1, 1)

    monkeypatch.setitem(RULES, op, (*sound[:slot], spoilt, *sound[slot + 1 :]))
    with pytest.raises(NonFiniteError, match=f"^the derivative of {op} gives, for task 1, "):
        ad.value_and_jacobian(lambda leaves: wide(leaves, ad.tanh), WIDE, chunk=2)


def test_a_product_that_overflows_under_finite_cotangents_is_found(monkeypatch):
    """x = 1e200 and z̄ = 1e200: each is finite, z is (its weights are 1e-200), and x z̄ is not."""
    monkeypatch.setattr(ad, "BLOCK", 1)

    def steep(leaves):
        z = ad.apply("affine", np.full((1, 4), 1e200), *leaves) * 1e200
        return [z.sum() * 1e-200, z.sum()]

    with pytest.raises(NonFiniteError, match=r"^the derivative of affine gives, for task 1, inf"):
        ad.value_and_jacobian(steep, [x * 1e-250 for x in WIDE])

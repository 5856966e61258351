"""
The product with AMX by a B that is packed first: the product, with the bits of the plan that packs meanwhile.

The exact product is NumPy's in float64, of operands rounded to bfloat16 by arithmetic. On a processor without AMX the
plan runs as plain Python, where its instructions are NumPy functions.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernel_checks import in_a_process, precision, using_threads

from kernels.test_amx_gemm import AS_IF_AMX, SIZES, with_amx
from kernels.test_gemm import rounded
from tinygpt.kernels.matmul import amx_blocks, amx_gemm, amx_packed
from tinygpt.kernels.matmul.epilogue import ACCUMULATE, OVERWRITE, WITH_BIAS
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.kernels.simd.cpu import AMX
from tinygpt.runtime import memory

WIDER = [(40, 1100, 70), (31, 1024, 800)]  # more columns than a thread packs at a time
MODES = {"overwrite": OVERWRITE, "accumulate": ACCUMULATE, "bias": WITH_BIAS}


def stored(array, transposed):
    rows = array.T.copy() if transposed else array
    return rows.reshape(-1), rows.shape[1], transposed


def product(plan, a, b, c, bias, mode, transposed=(False, False), threads=2):
    """The new C and the sum of its squares, by one of the two plans."""
    c, sizes = c.copy(), (len(a), b.shape[1], len(b))
    matrices = stored(a, transposed[0]), stored(b, transposed[1]), stored(c, False)
    with using_threads(threads):
        squares = plan.multiply(*matrices, bias, MODES[mode], sizes, threads, True, AMX, np.dtype(np.uint16))
    return c, squares.sum()


def operands(size, rng):
    m, n, k = size
    return [rng.standard_normal(shape, np.float32) for shape in ((m, k), (k, n), (m, n), (n,))]


@with_amx
@pytest.mark.parametrize("size", SIZES + WIDER, ids=str)
def test_every_order_and_mode_gives_the_product_with_the_same_bits(size, rng):
    a, b, before, bias = operands(size, rng)
    exact = rounded(a) @ rounded(b)
    added = {"overwrite": 0, "accumulate": before, "bias": bias}
    for mode, *transposed in itertools.product(MODES, (True, False), (True, False)):
        c, squares = product(amx_packed, a, b, before, bias, mode, transposed)
        assert np.abs(c - exact - added[mode]).max() < 1e-6 * np.abs(exact).max() * max(1, size[2] / 300) + 2e-6
        assert squares == pytest.approx(np.square(c, dtype=np.float64).sum(), rel=1e-12)
        other, _ = product(amx_gemm, a, b, before, bias, mode, transposed)
        np.testing.assert_array_equal(c, other)


@with_amx
@pytest.mark.parametrize("size", SIZES + WIDER, ids=str)
def test_any_number_of_threads_gives_the_same_bits(size, rng):
    a, b, before, bias = operands(size, rng)
    one, *others = [product(amx_packed, a, b, before, bias, "bias", threads=count) for count in (1, 2, 4)]
    for other in others:
        np.testing.assert_array_equal(other[0], one[0])
        assert other[1] == one[1]


@with_amx
def test_a_head_is_not_packed_as_a_whole(rng):
    """As a whole, the weight of dlogits @ weight takes 77 MB; this one would take 34."""
    m, n, k = 1100, 768, 22_000
    assert amx_blocks.block_sizes(m, n, k)[0] < m  # several blocks of A, for which a smaller B is packed once
    a, b = np.ones((m, k), np.float32), rng.integers(-9, 10, (k, n)).astype(np.float32)
    with precision("medium"):
        multiply(a[:1], b, into=np.empty((1, n), np.float32))
        before = memory.pool.in_use + memory.pool.kept
        c = np.empty((m, n), np.float32)
        multiply(a, b, into=c)
    np.testing.assert_array_equal(c, np.tile(b.sum(axis=0), (m, 1)))
    assert memory.pool.in_use + memory.pool.kept - before < 2**23


PLAIN = """
import sys; sys.path.insert(0, 'tests')
import numpy as np
from kernels.test_amx_packed import operands, product
from kernels.test_gemm import rounded
from tinygpt.kernels.matmul import amx_packed
rng = np.random.default_rng(0)
for size in ((33, 40, 300), (40, 97, 129), (300, 33, 2600), (5, 1050, 33)):
    a, b, before, bias = operands(size, rng)
    for transposed in ((False, False), (True, False), (False, True)):
        c, _ = product(amx_packed, a, b, before, bias, "bias", transposed)
        assert np.abs(c - bias - rounded(a) @ rounded(b)).max() < 1e-4, (size, transposed)
print("equal")
"""


@pytest.mark.slow
def test_plain_python_gives_the_product_on_every_processor():
    assert in_a_process(PLAIN, NUMBA_DISABLE_JIT="1", **AS_IF_AMX).strip() == "equal"

"""
The product with AMX: every edge of a task, of a panel and of a block of A, in every order, as each mode writes it.

The exact product is NumPy's in float64, of operands rounded to bfloat16 by arithmetic. On a processor without AMX the
plan runs as plain Python, where its instructions are NumPy functions.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from kernel_checks import in_a_process, precision, using_threads

from kernels.test_gemm import largest_error, rounded
from tinygpt.kernels.matmul import amx_blocks, amx_gemm
from tinygpt.kernels.matmul.amx import numpy_pack_dense, unpacked_a, unpacked_b
from tinygpt.kernels.matmul.amx_blocks import KC
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.kernels.simd.cpu import TILES
from tinygpt.runtime import memory
from tinygpt.runtime.bfloat16 import to_bfloat16, to_float32

# Of a process without compiled code: processors with AMX have vectors of 16 numbers, and its plans count on it.
AS_IF_AMX = {"NUMBA_CPU_NAME": "sapphirerapids", "NUMBA_CPU_FEATURES": "+avx2,+fma,+avx512f,+avx512bf16,+amx-bf16"}
with_amx = pytest.mark.skipif(not TILES, reason="this processor, or this process, has no AMX")

# A panel is 32 columns and up to KC k; it is packed inside of tiles if there are at least four steps of 32 k and if it
# is whole, so many dense tiles at a time as there are fours of steps; what is left is packed between the tiles.
SIZES = [
    (32, 32, 32),
    (31, 33, 97),  # every edge at once
    (256, 64, KC),  # all of a panel inside of tiles
    (256, 97, 2 * KC + 33),  # two k and a column beyond
    (96, 70, 128),  # half a step per tile
    (320, 40, 224),  # steps that are no multiple of four
    (65, 129, KC - 1),
    (1, 65, 300),
    (300, 1, 300),
    (700, 50, 1000),  # several blocks of A
    (300, 100, 3000),  # several blocks of k: sums wait
    (1100, 33, 2600),  # and several of rows
    (33, 2000, 2600),
]


@with_amx
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_order_and_mode_gives_the_product(size):
    with precision("medium"):
        for how in itertools.product((True, False), (True, False), ("overwrite", "accumulate", "bias")):
            assert largest_error(size, *how) < 1e-6, how


@with_amx
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_number_of_threads_gives_the_same_bits(size, rng):
    (m, n, k), results = size, []
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    for count in (1, 2):
        c = np.full((m, n), np.nan, np.float32)
        with precision("medium"), using_threads(count):
            multiply(a, b, into=c)
        results.append(c)
    np.testing.assert_array_equal(*results)


@with_amx
@pytest.mark.parametrize("along_k", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_quantized_weight_is_multiplied_as_its_float32_form_is(size, along_k, rng):
    """Both sides are exactly bfloat16 then, so the bits are the same; for int8 against whole numbers, for one more."""
    m, n, k = size
    weights = {"bfloat16": to_bfloat16(rng.standard_normal((k, n), np.float32)), "int8": draw_int8(rng, (k, n))}
    a = rng.integers(-9, 10, (m, k)).astype(np.float32)
    for kind, weight in weights.items():
        results = []
        number = weight.astype(np.float32) if kind == "int8" else to_float32(weight)
        for b in (weight, number):
            results.append(np.full((m, n), np.nan, np.float32))
            with precision("medium"):
                multiply(a, np.asfortranarray(b) if along_k else b, into=results[-1])
        np.testing.assert_array_equal(*results)
        if kind == "int8":
            np.testing.assert_array_equal(results[0], a.astype(np.int64) @ weight.astype(np.int64))


def draw_int8(rng, shape):
    return rng.integers(-127, 128, shape).astype(np.int8)


@with_amx
@pytest.mark.parametrize("columns", [800, 784, 799])
@pytest.mark.parametrize("bias", [False, True])
def test_a_large_result_is_the_product_with_and_without_alignment(columns, bias, rng):
    """Of a row of 800 or 784 numbers each begins a cache line, as non-temporal stores demand; of 799 it does not."""
    m, k = amx_gemm.LARGE // 4 // columns + 33, 40
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, columns), np.float32)
    added = rng.standard_normal(columns, np.float32) if bias else None
    c = memory.empty((m, columns))
    assert c.nbytes > amx_gemm.LARGE
    with precision("medium"):
        multiply(a, b, into=c, bias=added)
    exact = rounded(a) @ rounded(b) + (0 if added is None else added)
    np.testing.assert_allclose(c, exact, atol=2e-5)


@with_amx
def test_a_large_result_is_added_to():
    c = memory.empty((800, 800))
    c[...] = 1
    with precision("medium"):
        multiply(np.ones((800, 33), np.float32), np.ones((33, 800), np.float32), into=c, accumulate=True)
    assert (c == 34).all()


@with_amx
def test_sums_beyond_one_block_of_k_are_exact():
    """Whole numbers of at most 8 bits: each product and each sum is exact, in whichever part it is computed."""
    rng = np.random.default_rng(3)
    a = rng.integers(-127, 128, (290, 3100)).astype(np.float32)
    b = rng.integers(-4, 5, (3100, 90)).astype(np.float32)
    c = np.empty((290, 90), np.float32)
    with precision("medium"):
        multiply(a, b, into=c)
    np.testing.assert_array_equal(c, a.astype(np.int64) @ b.astype(np.int64))


def test_a_task_is_taken_once_by_its_own_thread_first_then_by_others():
    for workers, tasks in ((1, 3), (2, 7), (3, 2), (4, 9)):
        counters = np.zeros(workers, np.int64)
        first = [int(amx_blocks.take_task(counters, np.int64(worker), np.int64(tasks))) for worker in range(workers)]
        if tasks >= workers:  # each begins where its own tasks do
            assert first == [tasks * worker // workers for worker in range(workers)]
        rest = [int(amx_blocks.take_task(counters, np.int64(0), np.int64(tasks))) for _ in range(tasks + 1)]
        taken = [task for task in first + rest if task < tasks]
        assert sorted(taken) == list(range(tasks)), (workers, tasks)


def test_a_block_of_a_fits_into_the_second_level_cache():
    for m, n, k in itertools.product((1, 31, 256, 1000, 50257), (1, 768, 50257), (1, 256, 768, 3072, 50257)):
        mc, kb = amx_blocks.block_sizes(m, n, k)
        assert mc % 32 == 0 and 0 < mc < m + 32
        assert mc * min(k, kb) * 2 <= amx_blocks._CACHE, (m, n, k)


@pytest.mark.parametrize("along_k", [True, False])
def test_a_dense_tile_holds_the_rounded_numbers(along_k, rng):
    matrix = rng.standard_normal((16, 32), np.float32)  # 16 rows of A, or 16 columns of B, of 32 k
    source = (matrix if along_k else matrix.T).copy().reshape(-1)
    tiles = np.zeros((2, 512), np.uint16)
    for tile, of_a in zip(tiles, (True, False), strict=True):
        numpy_pack_dense(source, 0, 32 if along_k else 16, tile, 0, of_a, along_k)
    np.testing.assert_array_equal(unpacked_a(np.concatenate([tiles[0], tiles[0]]))[:16], rounded(matrix))
    np.testing.assert_array_equal(unpacked_b(tiles[1], columns=16), rounded(matrix).T)


PLAIN = """
import sys; sys.path.insert(0, 'tests/kernels'); sys.path.insert(0, 'tests')
import numpy as np
from test_gemm import rounded
from tinygpt.runtime.bfloat16 import to_bfloat16, to_float32
from tinygpt.kernels.matmul import amx_gemm
from tinygpt.kernels.matmul.epilogue import ACCUMULATE
from tinygpt.kernels.simd.cpu import AMX
def run(*matrices_and_sizes):
    *matrices, sizes = matrices_and_sizes
    bias = np.zeros(48, np.float32)
    amx_gemm.multiply(*matrices, bias, ACCUMULATE, sizes, 2, False, AMX, np.dtype(np.uint16))
def stored(array, transposed):
    rows = array.T if transposed else array
    return rows.reshape(-1), rows.shape[1], transposed
rng = np.random.default_rng(0)
for m, n, k in ((33, 40, 300), (64, 64, 256), (40, 97, 129), (300, 33, 2600)):
    a, b, before = (rng.standard_normal(shape, np.float32) for shape in ((m, k), (k, n), (m, n)))
    for a_t, b_t in ((False, False), (True, False), (False, True), (True, True)):
        c = before.copy()
        run(stored(a, a_t), stored(b, b_t), stored(c, False), (m, n, k))
        exact = before + rounded(a) @ rounded(b)
        assert np.abs(c - exact).max() < 1e-4, (m, n, k, a_t, b_t)
for weight in (to_bfloat16(np.round(b, 2)), rng.integers(-9, 10, b.shape).astype(np.int8)):
    for b_t in (False, True):
        c = np.zeros_like(before)
        run(stored(a, False), stored(weight, b_t), stored(c, False), (m, n, k))
        exact = rounded(a) @ (to_float32(weight) if weight.dtype == np.uint16 else weight)
        assert np.abs(c - exact).max() < 1e-3, (weight.dtype, b_t)
print("equal")
"""


@pytest.mark.slow
def test_plain_python_gives_the_product_on_every_processor():
    assert in_a_process(PLAIN, NUMBA_DISABLE_JIT="1", **AS_IF_AMX).strip() == "equal"

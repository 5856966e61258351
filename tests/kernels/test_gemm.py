"""The matrix product: every order in memory, every edge of a tile, every processor that it has code for."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
from kernel_checks import AVX512, PROCESSORS, digest_on_threads, in_a_process, on_a_processor, precision, using_threads

from tinygpt.kernels.matmul import small_gemm
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.kernels.matmul.vector_gemm import KC, MC_KC
from tinygpt.kernels.simd.cpu import BFLOAT16, COLUMNS, FLOAT32, TILES
from tinygpt.runtime import memory
from tinygpt.runtime.memory import SquareSum

SIZES = [
    (1, 1, 1),
    (8, 48, 16),
    (7, 5, 3),
    (33, 101, 17),
    (64, 96, 100),
    (2, 3, KC + 1),
    (50, 130, 2 * KC + 64),
    (MC_KC // KC + 9, 49, KC),
    (3, 1, 2000),
    (600, 600, 70),
    (768, 65, 128),
    (65, 128, 768),
    (128, 520, 90),
]


PLANS = ("small", "large")


@contextlib.contextmanager
def plan(name):
    """Products of float32 by the plan for small matrices, whatever their size, or by the one for large ones."""
    pays = small_gemm.pays
    small_gemm.pays = lambda sizes: name == "small"
    try:
        yield
    finally:
        small_gemm.pays = pays


def rounded(array: np.ndarray) -> np.ndarray:
    """Each number as the nearest with 8 significant bits, ties to even: bfloat16, by arithmetic."""
    mantissa, exponent = np.frexp(array.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2**8) / 2**8, exponent)


def largest_error(size, a_along_k, b_along_k, how, seed=0) -> float:
    """
    The error of one product, element by element, as a share of sum_k |a_ik| |b_kj|: what rounding is measured by.

    In "medium" precision the exact product is that of the rounded numbers. The sum of squares must be that of the
    result to float64, and asking for it must not change a bit.
    """
    rng = np.random.default_rng(seed)
    (m, n, k), draw = size, lambda *shape: rng.standard_normal(shape, np.float32)
    a, b, before, bias = draw(m, k), draw(k, n), draw(m, n), draw(n)
    results, squares = [], SquareSum(SquareSum())
    for asked in (None, squares):
        results.append(before.copy() if how == "accumulate" else np.full((m, n), np.nan, np.float32))
        multiply(
            a if a_along_k else np.asfortranarray(a),
            np.asfortranarray(b) if b_along_k else b,
            into=results[-1],
            accumulate=how == "accumulate",
            bias=bias if how == "bias" else None,
            squares=asked,
        )
    c = results[0]
    np.testing.assert_array_equal(c, results[1])
    np.testing.assert_allclose(squares.after, np.square(c, dtype=np.float64).sum(), rtol=1e-12)
    from tinygpt.runtime import settings  # here, because this function also runs in processes of its own

    if settings.get_float32_matmul_precision() == "medium" and BFLOAT16:
        a, b = rounded(a), rounded(b)
    exact = a.astype(np.float64) @ b + {"overwrite": 0, "accumulate": before, "bias": bias}[how]
    scale = np.abs(a).astype(np.float64) @ np.abs(b) + np.abs(before) + np.abs(bias)
    return float(np.max(np.abs(c - exact) / scale))


def check_all(sizes=SIZES) -> None:
    """Every size by every plan, to 1e-6: sixteen units in the last place, for sums of up to 2000 terms."""
    orders = itertools.product((True, False), (True, False), ("overwrite", "accumulate", "bias"))
    for size, (a_along_k, b_along_k, how) in itertools.product(sizes, orders):
        for name, planned in itertools.product(("highest", "medium"), PLANS):
            with precision(name), plan(planned):
                error = largest_error(size, a_along_k, b_along_k, how)
                assert error < 1e-6, (name, planned, size, a_along_k, b_along_k, how, error)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_order_gives_the_product(size):
    check_all([size])


CHECK = """
from kernels.test_gemm import check_all
from tinygpt.kernels.simd.cpu import *
check_all()
print(LANES, FLOAT32.rows, BFLOAT16, TILES)
"""
PLANNED = {  # numbers in a vector, rows in a block of float32, whether it multiplies bfloat16, and in tiles
    "generic": "4 4 False False",
    "AVX2": "8 4 False False",
    "AVX-512": "16 8 False False",
    "AVX-512 with bfloat16": "16 8 True False",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANNED)
def test_code_for_other_processors_gives_the_product_too(name):
    assert on_a_processor(name, CHECK) == PLANNED[name]


@pytest.mark.parametrize(
    ("features", "a", "b"),
    [
        (f"{AVX512},+avx512bf16", True, False),
        (f"{AVX512},+avx512bf16,+sse4a", False, True),
        (PROCESSORS["AVX2"], False, True),
    ],
    ids=["Intel", "AMD", "AVX2"],
)
def test_each_processor_prefetches_the_panels_that_were_slow_on_its_kind(features, a, b):
    """Nothing is compiled: the processor need not have the features."""
    program = "from tinygpt.kernels.simd.cpu import PREFETCHING as p; print(p.a > 0, p.b > 0)"
    shown = in_a_process(program, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES=features)
    assert shown.split() == [str(a), str(b)]


@pytest.mark.slow
def test_plain_python_gives_the_product_too():
    program = (
        "import sys; sys.path.insert(0, 'tests/kernels'); from test_gemm import *; check_all(SIZES[:5]); print('equal')"
    )
    assert in_a_process(program, NUMBA_DISABLE_JIT="1").strip() == "equal"


def test_rounding_to_bfloat16_is_seen():
    """Without it "medium" would be as exact as "highest": 1 + 2^-9 has nine significant bits, and becomes 1."""
    a = np.full((1, 64), 1 + 2**-9, np.float32)
    for name, expected in (("highest", 64 * (1 + 2**-9)), ("high", 64 * (1 + 2**-9)), ("medium", 64.0)):
        c = np.empty((1, 1), np.float32)
        with precision(name):
            multiply(a, np.ones((64, 1), np.float32), c)
        assert c.item() == (expected if BFLOAT16 else 64 * (1 + 2**-9)), name


@pytest.mark.parametrize("planned", PLANS)
@pytest.mark.parametrize("name", ["highest", "medium"])
@pytest.mark.parametrize(("m", "n"), [(700, 301), (301, 700)])
def test_one_thread_and_two_give_the_same_bits(m, n, name, planned, rng):
    a, b = (rng.standard_normal(shape, np.float32) for shape in ((m, 900), (900, n)))
    results, squares = [], [SquareSum(), SquareSum()]
    for count in (1, 2):
        c = np.empty((m, n), np.float32)
        with precision(name), plan(planned), using_threads(count):
            multiply(a, b, c, squares=squares[count - 1])
        results.append(c)
    np.testing.assert_array_equal(*results)
    assert squares[0].after == squares[1].after


@pytest.mark.slow
def test_four_threads_give_the_same_bits():
    program = """
import hashlib, numpy as np
from tinygpt.runtime import settings
from tinygpt.runtime import memory
from tinygpt.kernels.matmul import small_gemm
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.runtime.memory import SquareSum
squares = SquareSum()
rng = np.random.default_rng(0)
for m, n, k in ((1500, 500, 800), (600, 200, 300), (200, 600, 300)):
    a, b = (rng.standard_normal(shape, np.float32) for shape in ((m, k), (k, n)))
    c = np.empty((m, n), np.float32)
    for precision in ("highest", "medium"):
        settings.set_float32_matmul_precision(precision)
        multiply(a, b, c, squares=squares)
        print(hashlib.sha256(c.tobytes()).hexdigest(), squares.after.hex())
"""
    one, two, four = digest_on_threads(program)
    assert one == two == four


@pytest.mark.parametrize("name", ["highest", "medium"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_where_it_belongs(name, value, rng):
    a, b = rng.standard_normal((20, 40), np.float32), np.abs(rng.standard_normal((40, 60), np.float32)) + 1
    a[7, 30] = value
    c = np.empty((20, 60), np.float32)
    squares = SquareSum()
    with precision(name):
        multiply(a, b, c, squares=squares)
    np.testing.assert_equal(squares.after, abs(value))
    np.testing.assert_array_equal(c[7], np.full(60, value, np.float32))
    assert np.isfinite(np.delete(c, 7, axis=0)).all()


def test_a_large_result_written_by_non_temporal_stores_is_the_product(rng):
    """Larger than the caches and 64-byte aligned, with edges in both directions."""
    for columns in (1536, 1552, 1543):
        a, b = rng.standard_normal((1601, 20), np.float32), rng.standard_normal((20, columns), np.float32)
        c = memory.empty((1601, columns))
        for planned in PLANS:
            squares = SquareSum()
            c.fill(np.nan)
            with plan(planned):
                multiply(a, b, c, squares=squares)
            np.testing.assert_allclose(c, a.astype(np.float64) @ b, atol=2e-5)
            np.testing.assert_allclose(squares.after, np.square(c, dtype=np.float64).sum(), rtol=1e-12)


@pytest.mark.parametrize("planned", PLANS)
@pytest.mark.parametrize("kind", ["highest", "medium"])
@pytest.mark.parametrize("gap", [1, 9, 16, 64])
@pytest.mark.parametrize(("m", "n", "k"), [(33, 65, 40), (1, 3, 5), (70, 40, 800), (300, 2000, 30)])
def test_rows_with_gaps_are_read_and_written_and_the_gaps_are_not(m, n, k, gap, kind, planned, rng):
    def padded(rows, columns):
        memory = np.full((rows, columns + gap), np.nan, np.float32)
        memory[:, :columns] = rng.integers(-4, 5, (rows, columns))  # exact in bfloat16, as are the sums in float32
        return memory[:, :columns]

    with precision(kind), plan(planned):
        for a, b in (
            (padded(m, k), padded(k, n)), (padded(k, m).T, padded(k, n)),
            (padded(m, k), padded(n, k).T), (padded(k, m).T, padded(n, k).T),
        ):  # fmt: skip
            into, squares = padded(m, n), SquareSum()
            before = into.copy()
            multiply(a, b, into, squares=squares)
            np.testing.assert_array_equal(into, a @ b)
            assert squares.after == np.square(into, dtype=np.float64).sum()
            multiply(a, b, into, accumulate=True)
            np.testing.assert_array_equal(into, 2 * (a @ b))
            multiply(a, b, into, bias=before[0].copy())
            np.testing.assert_array_equal(into, a @ b + before[0])
            assert np.isnan(into.base[:, n:]).all()


@pytest.mark.parametrize("planned", PLANS)
def test_nothing_outside_of_c_is_touched(planned, rng):
    m, n, k = FLOAT32.rows + 1, COLUMNS + 1, 37
    memory = np.full(m * n + 200, 7.0, np.float32)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    with plan(planned):
        multiply(a, b, memory[100:-100].reshape(m, n))
    assert (memory[:100] == 7).all() and (memory[-100:] == 7).all()


def test_the_plan_for_small_matrices_is_the_one_for_a_small_model_and_not_for_gpt2():
    nano = [(768, n, k) for n, k in ((384, 128), (128, 128), (512, 128), (128, 512), (65, 128))]
    nano += [(m, n, 768) for m, n in ((128, 384), (128, 512), (512, 128), (65, 128))]
    assert all(small_gemm.pays(sizes) for sizes in nano)
    assert not any(small_gemm.pays((m, n, 768)) for m in (1, 256, 1024) for n in (768, 2304, 3072))


@pytest.mark.parametrize("stage", ["scoring", "training-float32", "training-bfloat16", "generating-float32"])
def test_what_is_compiled_ahead_is_every_plan_of_a_product_without_amx(stage, monkeypatch):
    """The model that reaches the kernels is small; the user's may be large."""
    from tinygpt.gpt2.compile_ahead import STAGES
    from tinygpt.kernels.matmul import vector_gemm

    used = set()
    for module in (small_gemm, vector_gemm):
        compute = module.multiply
        monkeypatch.setattr(
            module, "multiply", lambda *arguments, m=module, compute=compute: used.add(m) or compute(*arguments)
        )
    STAGES[stage]()
    assert used == {small_gemm, vector_gemm} or (TILES and stage == "training-bfloat16")


@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 2), (3, 0, 2), (0, 0, 0)])
def test_no_rows_or_columns_is_no_work(m, n, k):
    multiply(np.ones((m, k), np.float32), np.ones((k, n), np.float32), np.empty((m, n), np.float32))


def test_a_sum_of_nothing_is_zero_or_what_was_there():
    a, b, c = np.ones((2, 0), np.float32), np.ones((0, 3), np.float32), np.full((2, 3), np.nan, np.float32)
    multiply(a, b, c)
    np.testing.assert_array_equal(c, np.zeros((2, 3)))
    multiply(a, b, c, bias=np.array([1, 2, 3], np.float32))
    multiply(a, b, c, accumulate=True)
    np.testing.assert_array_equal(c, [[1, 2, 3]] * 2)


def test_a_result_that_overlaps_the_bias_is_refused():
    """Each row of C adds the bias again."""
    c = np.ones((40, 30), np.float32)
    with pytest.raises(ValueError, match="multiply: into must not share memory with bias, which is read"):
        multiply(np.ones((40, 5), np.float32), np.ones((5, 30), np.float32), into=c, bias=c[0])
    np.testing.assert_array_equal(c, np.ones((40, 30)))


def test_a_result_that_overlaps_an_operand_is_refused_and_neighbours_in_one_array_are_not():
    """C is written while A and B are still read."""
    memory = np.zeros((60, 60), np.float32)
    a, b = np.ones((30, 30), np.float32), np.eye(30, dtype=np.float32)
    for arguments, name in (((memory[:30, :30], b), "a"), ((a, memory[:30, :30].T), "b")):
        for into in (memory[:30, :30], memory[29:59, 29:59]):
            with pytest.raises(ValueError, match=f"multiply: into must not share memory with {name}, which is read"):
                multiply(*arguments, into)
    memory[:30, :30] = a
    multiply(memory[:30, :30], b, memory[:30, 30:])  # rows that lie between those of A
    np.testing.assert_array_equal(memory[:30], np.ones((30, 60)))


def test_what_does_not_fit_is_refused():
    a, b, c = (np.ones(shape, np.float32) for shape in ((2, 3), (3, 4), (2, 4)))
    with pytest.raises(ValueError, match=r"multiply: shapes must be \(M, K\), \(K, N\) and \(M, N\), got"):
        multiply(a, b.T.copy(), c)
    with pytest.raises(ValueError, match="multiply: b must be contiguous rows of float32, int8 or uint16, or the tra"):
        multiply(a, np.ones((3, 8), np.float32)[:, ::2], c)
    with pytest.raises(ValueError, match="multiply: into must be contiguous rows of float32, got float64"):
        multiply(a, b, c.astype(np.float64))
    with pytest.raises(ValueError, match="multiply: into must be contiguous rows of float32, got float32, strides"):
        multiply(a, b, np.ones((4, 2), np.float32).T)
    with pytest.raises(ValueError, match=r"multiply: bias must be contiguous float32 of shape \(4,\)"):
        multiply(a, b, c, bias=np.ones(3, np.float32))


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_squares_are_summed_in_float64(size):
    """float32 has no numbers as small or as large as these squares."""
    squares = SquareSum()
    multiply(
        np.full((40, 1), size, np.float32),
        np.ones((1, 70), np.float32),
        np.empty((40, 70), np.float32),
        squares=squares,
    )
    np.testing.assert_allclose(squares.after, 40 * 70 * np.float64(np.float32(size)) ** 2, rtol=1e-12)


def test_squares_of_a_sum_of_nothing_are_unknown_or_right():
    for accumulate in (False, True):
        squares, c = SquareSum(SquareSum()), np.full((2, 3), 2.0, np.float32)
        multiply(np.ones((2, 0), np.float32), np.ones((0, 3), np.float32), c, accumulate, squares=squares)
        assert squares.after in (None, np.square(c).sum())

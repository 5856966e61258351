"""The kernel of ops/attention.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel, digest_on_threads, in_a_process, precision, run_kernel

from tinygpt.kernels import attention
from tinygpt.ops.attention import ATTENTION
from tinygpt.runtime import memory
from tinygpt.runtime.memory import Slot
from tinygpt.runtime.seeds import splitmix64

TOLERANCE = 2e-6  # of the largest value: sums of up to 257 products, twice


def qkv(rng, B, T, H, D):
    return rng.standard_normal((B, T, 3 * H * D), np.float32)


@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 130, 257])
@pytest.mark.parametrize(("B", "H", "D"), [(1, 1, 1), (2, 3, 5), (1, 2, 64)])
def test_the_kernel_is_the_reference(rng, B, T, H, D):
    check_kernel(ATTENTION, [qkv(rng, B, T, H, D)], {"n_head": H, "p": 0.0, "seed": None}, TOLERANCE)


@pytest.mark.parametrize("p", [0.1, 0.9])
@pytest.mark.parametrize("T", [1, 33, 100])
def test_dropped_weights_are_the_reference_s(rng, T, p):
    check_kernel(ATTENTION, [qkv(rng, 2, T, 3, 16)], {"n_head": 3, "p": p, "seed": 2**40 + 7}, TOLERANCE)


def test_rounded_to_bfloat16_each_result_is_within_its_precision(rng):
    """Scores of about 1 are off by some 2^-8, and so are the weights: relative errors of the products they enter."""
    with precision("medium"):
        check_kernel(ATTENTION, [qkv(rng, 2, 130, 2, 64)], {"n_head": 2}, tolerance=2e-2)


def test_memory_order_does_not_matter(rng):
    array = rng.standard_normal((40, 2, 3 * 24), np.float32).transpose(1, 0, 2)
    check_kernel(ATTENTION, [array], {"n_head": 3}, TOLERANCE)


def test_scores_that_would_overflow_choose_the_largest(rng):
    """Scores of up to 1e6: the softmax is a choice, and each token takes the value that it likes best."""
    array = qkv(rng, 1, 70, 1, 8)
    array[..., :16] *= 500
    q, k, v = np.split(array[0].astype(np.float64), 3, axis=-1)
    scores = np.where(np.tri(70, dtype=bool), q @ k.T, -np.inf)
    out, (dqkv,) = run_kernel(ATTENTION, [array], {"n_head": 1}, rng.standard_normal((1, 70, 8)).astype(np.float32))
    gap = np.sort(scores, axis=1)[:, -1] - np.sort(scores, axis=1)[:, -2]
    clear = gap > 100
    assert clear.sum() > 60
    np.testing.assert_allclose(out[0][clear], v[scores.argmax(axis=1)][clear], rtol=1e-6)
    assert np.isfinite(dqkv).all()


@pytest.mark.parametrize("D", [8, 33])
def test_where_scores_are_large_gradients_are_those_of_the_same_choice(rng, D):
    """
    Of 10^8, where float32 has steps of 8: weights are 0 or 1 all the same. What is off is, of a weight of 1, dweights -
    sum_dweights_weights: two sums of D products, in an order that depends on the processor, then times keys of 10^4.
    """
    array = qkv(rng, 1, 65, 2, D)
    array[..., : 4 * D] *= 1e4
    check_kernel(ATTENTION, [array], {"n_head": 2}, 1e-2)


def test_keys_whose_scores_are_minus_infinity_have_no_weight_though_they_come_first(rng):
    array = qkv(rng, 1, 120, 1, 4)
    array[0, :, 0] = np.abs(array[0, :, 0])
    array[0, :100, 4] = -np.inf
    out, _ = run_kernel(ATTENTION, [array], {"n_head": 1})
    with np.errstate(invalid="ignore"):
        expected = ATTENTION.forward(array, n_head=1)[0]
    assert np.isnan(out[0, :100]).all()  # nothing to choose from
    np.testing.assert_allclose(out[0, 100:], expected[0, 100:], rtol=1e-5, atol=1e-6)


def test_a_nan_is_seen_by_those_who_look_at_it_only(rng):
    array = qkv(rng, 2, 80, 2, 16)
    array[1, 70, 32 + 3] = np.nan  # a key of the first head
    out, _ = run_kernel(ATTENTION, [array], {"n_head": 2})
    assert np.isnan(out[1, 70:, :16]).all()
    assert np.isfinite(out[0]).all() and np.isfinite(out[1, :70]).all() and np.isfinite(out[1, :, 16:]).all()


def test_where_the_arrays_lie_does_not_change_a_bit(rng):
    array, dout = qkv(rng, 1, 67, 3, 20), rng.standard_normal((1, 67, 60), np.float32)
    results = []
    for offset in (0, 1, 5, 16):
        moved = np.zeros(array.size + offset, np.float32)[offset:].reshape(array.shape)
        moved[...] = array
        out, (dqkv,) = run_kernel(ATTENTION, [moved], {"n_head": 3, "p": 0.2, "seed": 1}, dout)
        results.append((out, dqkv))
    for out, dqkv in results[1:]:
        np.testing.assert_array_equal(out, results[0][0])
        np.testing.assert_array_equal(dqkv, results[0][1])


@pytest.mark.slow
def test_four_threads_give_the_same_bits():
    program = """
import hashlib, numpy as np
from tinygpt.runtime import settings
from kernel_checks import run_kernel
from tinygpt.ops.attention import ATTENTION
rng = np.random.default_rng(0)
qkv, dout = rng.standard_normal((2, 150, 3 * 96), np.float32), rng.standard_normal((2, 150, 96), np.float32)
for precision in ("highest", "medium"):
    settings.set_float32_matmul_precision(precision)
    out, (dqkv,) = run_kernel(ATTENTION, [qkv], {"n_head": 3, "p": 0.1, "seed": 3}, dout)
    print(hashlib.sha256(out.tobytes() + dqkv.tobytes()).hexdigest())
"""
    one, two, four = digest_on_threads(program)
    assert one == two == four


@pytest.mark.slow
def test_plain_python_gives_the_same():
    program = """
import numpy as np
from kernel_checks import check_kernel
from tinygpt.ops.attention import ATTENTION
rng = np.random.default_rng(0)
for T in (1, 66):
    qkv = rng.standard_normal((1, T, 3 * 6), np.float32)
    check_kernel(ATTENTION, [qkv], {"n_head": 2, "p": 0.2, "seed": 5}, 2e-6)
print("equal")
"""
    assert in_a_process(program, NUMBA_DISABLE_JIT="1").strip() == "equal"


@pytest.mark.pool
def test_memory_grows_with_the_context_not_with_its_square(rng):
    """Outputs included: four times as many tokens take about four times as much."""
    most = []
    for T in (256, 1024, 4096):
        array = qkv(rng, 1, T, 2, 32)
        memory.pool.clear()
        before = memory.pool.in_use + memory.pool.kept
        out, saved = attention.forward(array, 2)
        attention.backward(out, saved, [Slot(memory.empty(array.shape), add=False)])
        most.append(memory.pool.in_use + memory.pool.kept - before)
    assert most[1] < 4.5 * most[0] and most[2] < 4.5 * most[1]


@pytest.mark.parametrize(("row_step", "column_step"), [(1, 9460), (9460, 1)])
def test_the_mask_goes_on_where_positions_pass_32_bits(row_step, column_step):
    """B H T^2 passes 2^32 at B = 4, H = 12, T = 9460: the high half of the position must be counted, too."""
    p, seed, first, rows, columns = 0.4, 11, 2**32 - 21, 6, 50
    block = np.ones(rows * columns, np.float32)
    attention._drop(block, columns, rows, first, row_step, column_step, attention._dropout(p, seed))
    keys = splitmix64(seed)
    expected = []
    for row, column in np.ndindex(rows, columns):
        position = first + row * row_step + column * column_step
        bits = position % 2**32 ^ keys % 2**32
        for key in (keys >> 32 ^ (position >> 32) * 0x9E3779B9 % 2**32, 0):
            bits ^= bits >> 16
            bits = bits * 0x85EBCA6B % 2**32
            bits ^= bits >> 13
            bits = bits * 0xC2B2AE35 % 2**32
            bits = bits ^ bits >> 16 ^ key
        expected.append((bits >= round(p * 2**32)) / (1 - p))
    np.testing.assert_allclose(block, expected, rtol=1e-6)

"""Rows of a weight as a decoder holds it: of whole numbers the exact sums, whichever columns and however many rows."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import in_a_process, on_a_processor

from tinygpt.kernels.matvec import multiply_rows, multiply_table, rounded_size, rows_of_table
from tinygpt.kernels.simd import gemv
from tinygpt.quantization import GROUP, INPUTS_OF_WORDS, KINDS, PACKED, PACKED_INT8, dequantize, quantize

SIZES = [
    (1, 1, 1),
    (1, 5, 7),
    (3, 33, 17),
    (4, 64, 48),
    (5, 100, 75),
    (9, 31, 130),
    (2, 1600, 34),
    (4, 768, 300),
]  # B, I, O
WHOLE = ["int8", "int4"]


def drawn(size, kind, axis=1, seed=0):
    """x (B, I), and a quantized weight whose output channels differ in scale."""
    B, inputs, outputs = size
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((inputs, outputs)) * 10.0 ** rng.integers(-2, 3, outputs)
    x = (rng.standard_normal((B, inputs)) * 10.0 ** rng.integers(-3, 4, (B, 1))).astype(np.float32)
    return x, quantize(np.ascontiguousarray((weight if axis else weight.T).astype(np.float32)), kind, axis)


def rows(x, quantized, first=0, inputs=None, column=0, columns=None, start=np.nan):
    """By the kernel, into memory of NaN."""
    outputs = quantized.shape[1]
    out = np.full((len(x), outputs), start, np.float32)
    inputs, columns = x.shape[1] if inputs is None else inputs, outputs if columns is None else columns
    rounded = np.full((len(x), rounded_size(inputs)), np.nan, np.float32)
    numbers = quantized.words if quantized.kind == "int8" else quantized.values
    multiply_rows(x, first, inputs, numbers, quantized.scale, column, columns, rounded, out)
    return out


def table(x, quantized, first=0, last=None):
    V = rows_of_table(quantized.values)
    assert quantized.shape[0] == V
    out = np.full((len(x), V), np.nan, np.float32)
    rounded = np.full((len(x), rounded_size(x.shape[1])), np.nan, np.float32)
    multiply_table(x, quantized.values, quantized.scale, first, V if last is None else last, rounded, out)
    return out


def rounded_activations(x) -> np.ndarray:
    """x as whole numbers times their step, in float64: the formula of the docstring, whose division is in float32."""
    limit, largest = np.float32(min(2**15 - 1, 2**31 // (128 * x.shape[1]))), np.abs(x).max(axis=1, keepdims=True)
    return np.rint(x * (limit / largest)).astype(np.float64) * (largest / limit)


def largest_error(size, kind, axis=1) -> float:
    """As a share of sum |x w|, from the exact product with the rounded activations, which for whole numbers it is."""
    x, quantized = drawn(size, kind, axis)
    weight = dequantize(quantized).astype(np.float64)
    weight = weight if axis else weight.T
    left = rounded_activations(x) if kind in WHOLE else x.astype(np.float64)
    out = rows(x, quantized) if axis else table(x, quantized)
    return float(np.max(np.abs(out - left @ weight) / (np.abs(left) @ np.abs(weight))))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_gives_the_product_with_the_rounded_activations(size, kind, axis):
    assert largest_error(size, kind, axis) < 1e-6


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_no_more_is_lost_than_half_a_step_of_each_activation(size, kind):
    x, quantized = drawn(size, kind)
    weight = dequantize(quantized).astype(np.float64)
    limit = min(2**15 - 1, 2**31 // (128 * x.shape[1]))
    bound = np.abs(x).max(axis=1, keepdims=True) / limit / 2 * np.abs(weight).sum(axis=0)
    roundings = 1e-6 * (np.abs(x) @ np.abs(weight))
    assert (np.abs(rows(x, quantized) - x.astype(np.float64) @ weight) <= bound + roundings).all()


@pytest.mark.parametrize("inputs", [1, 512, 516, 517, 768, 3072, 20000])
def test_no_sum_overflows(inputs):
    """All products are as large as they can be, and of one sign."""
    x, weight = np.full((5, inputs), -3.0, np.float32), np.full((inputs, 40), -2.0, np.float32)
    weight[:, 1::2] *= -1
    for kind in WHOLE:
        expected = np.where(np.arange(40) % 2, -6.0, 6.0) * inputs
        np.testing.assert_allclose(rows(x, quantize(weight, kind)), np.tile(expected, (5, 1)), rtol=1e-6)
        turned = quantize(np.ascontiguousarray(weight.T), kind, axis=0)
        np.testing.assert_allclose(table(x, turned), np.tile(expected, (5, 1)), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("first", "inputs"), [(0, 40), (8, 64), (33, 30), (70, 27), (96, 1), (5, 0)])
def test_some_inputs_and_some_columns_are_those_of_the_whole(kind, first, inputs):
    x, quantized = drawn((5, 97, 136), kind)
    weight, part = dequantize(quantized).astype(np.float64), slice(first, first + inputs)
    out = rows(x, quantized, first, inputs, column=64, columns=50)
    assert np.isnan(out[:, :64]).all() and np.isnan(out[:, 114:]).all()
    loss = np.abs(x[:, part]).max(axis=1, keepdims=True, initial=0) / 2**15 * np.abs(weight[part]).sum(axis=0)
    gap = np.abs(out - x[:, part].astype(np.float64) @ weight[part])[:, 64:114]
    assert (gap <= (loss + 1e-6 * (np.abs(x[:, part]) @ np.abs(weight[part])))[:, 64:114]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bits_depend_neither_on_the_other_rows_nor_on_the_share_of_columns(kind):
    x, quantized = drawn((9, 203, 203), kind)
    _, turned = drawn((9, 203, 203), kind, axis=0)
    whole, of_table = rows(x, quantized), table(x, turned)
    for b in (0, 4, 8):
        np.testing.assert_array_equal(rows(x[b : b + 1], quantized)[0], whole[b])
        np.testing.assert_array_equal(table(x[b : b + 1], turned)[0], of_table[b])
    for column, columns in ((0, 64), (64, 128), (192, 11)):
        share = slice(column, column + columns)
        np.testing.assert_array_equal(rows(x, quantized, column=column, columns=columns)[:, share], whole[:, share])
        np.testing.assert_array_equal(table(x, turned, column, column + columns)[:, share], of_table[:, share])


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_not_hidden(kind, damage):
    x, quantized = drawn((5, 70, 33), kind)
    x[2, 3] = damage
    out = rows(x, quantized)
    assert not np.isfinite(out[2]).any() and np.isfinite(np.delete(out, 2, axis=0)).all()


@pytest.mark.parametrize("kind", WHOLE)
def test_activations_that_are_all_zero_or_nearly_give_zero(kind):
    x, quantized = drawn((2, 70, 33), kind)
    x[0], x[1] = 0, 1e-38
    np.testing.assert_array_equal(rows(x, quantized), 0)


CHECK = """
from kernels.test_matvec import *
for kind in KINDS:
    for size in SIZES[{sizes}]:
        for axis in (0, 1):
            assert largest_error(size, kind, axis) < 1e-6, (size, kind, axis)
    test_bits_depend_neither_on_the_other_rows_nor_on_the_share_of_columns(kind)
from tinygpt.kernels.simd.cpu import LANES
print(LANES)
"""
LANES_OF = {"generic": 4, "AVX2": 8, "AVX-512": 16, "AVX-512 with VNNI": 16}


@pytest.mark.slow
@pytest.mark.parametrize("name", LANES_OF)
def test_code_for_other_processors_gives_the_product_too(name):
    assert on_a_processor(name, CHECK.format(sizes=":")) == str(LANES_OF[name])


def test_plain_python_gives_the_product_too():
    in_a_process(CHECK.format(sizes=":5"), NUMBA_DISABLE_JIT="1")


def test_weights_are_packed_as_the_kernels_read_them():
    assert (gemv.INT8_ROWS, gemv.INT8_PACKED, gemv.INT4_PACKED) == (INPUTS_OF_WORDS, PACKED_INT8, PACKED)
    assert gemv.GROUP == GROUP


def test_another_type_of_weights_is_no_float32():
    x, quantized = drawn((1, 8, 8), "int8")
    with pytest.raises(Exception, match="int8"):
        multiply_rows(x, 0, 8, quantized.values, quantized.scale, 0, 8, np.zeros((1, 99), np.float32), x.copy())

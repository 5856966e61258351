"""A linear layer by a weight as a decoder holds it: the exact product of what both sides hold, at every edge."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import in_a_process, on_a_processor, using_threads

from kernels.test_gemm import rounded
from tinygpt.kernels import projection as kernel
from tinygpt.kernels.simd.cpu import BFLOAT16
from tinygpt.quantization import dequantize, quantize

KINDS = ("float32", "bfloat16", "int8")  # not int4, instead of which a prompt reads float32
SIZES = [(1, 1, 1), (3, 5, 7), (8, 16, 48), (33, 17, 101), (70, 100, 96), (2, 769, 3), (50, 1600, 130), (530, 70, 33)]
THEN: list[dict[str, bool]] = [{}, {"add": True}, {"use_gelu": True}, {"add": True, "use_gelu": True}]


def drawn(size, kind, seed=0):
    """x (N, I), a quantized weight (I, O) whose columns differ in scale, and a bias (O,)."""
    rows, inputs, outputs = size
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((inputs, outputs), np.float32) * np.float32(10) ** rng.integers(-2, 3, outputs)
    x, bias = rng.standard_normal((rows, inputs), np.float32), rng.standard_normal(outputs, np.float32)
    return x, quantize(np.float32(weight), kind), bias


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def projected(x, quantized, bias, add=False, use_gelu=False):
    """By the kernel; what is added to are ones."""
    out = np.full((len(x), len(bias)), 1 if add else np.nan, np.float32)
    kernel.project(x, (quantized.values, quantized.scale, bias), into=out, add=add, gelu=use_gelu)
    return out


def largest_error(size, kind, add=False, use_gelu=False) -> float:
    """
    As a share of sum_i |x_ni| |w_io| + |bias_o| + 1; the exact product is that of x rounded, where the weight is
    quantized and the processor has bfloat16. GELU makes no error larger by more than its steepest slope, 1.13.
    """
    x, quantized, bias = drawn(size, kind)
    out = projected(x, quantized, bias, add, use_gelu)
    left = rounded(x) if BFLOAT16 and kind != "float32" else x.astype(np.float64)
    values = dequantize(quantized._replace(scale=quantized.scale[:0])) if kind == "bfloat16" else quantized.values
    right = values.astype(np.float64) * (quantized.scale if kind == "int8" else 1)
    exact = left @ right + bias
    exact = (gelu(exact) if use_gelu else exact) + add
    return float(np.max(np.abs(out - exact) / (np.abs(left) @ np.abs(right) + np.abs(bias) + 1)))


@pytest.mark.parametrize("then", THEN, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_gives_the_product(size, kind, then):
    assert largest_error(size, kind, **then) < 1e-6


@pytest.mark.parametrize("then", THEN, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_gives_the_same_bits(kind, then):
    x, quantized, bias = drawn((300, 900, 301), kind)
    told = []
    for threads in (1, 2, 4):
        with using_threads(threads):
            told.append(projected(x, quantized, bias, **then))
    np.testing.assert_array_equal(told[0], told[1])
    np.testing.assert_array_equal(told[0], told[2])


@pytest.mark.parametrize("then", THEN, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_not_hidden(kind, then):
    x, quantized, bias = drawn((9, 40, 33), kind)
    x[4, 3] = np.nan
    out = projected(x, quantized, bias, **then)
    assert np.isnan(out[4]).all() and np.isfinite(np.delete(out, 4, axis=0)).all()


CHECK = """
from kernels.test_projection import *
for kind in KINDS:
    for size in SIZES[{first}:]:
        for then in THEN:
            assert largest_error(size, kind, **then) < 1e-6, (size, kind, then)
print(BFLOAT16)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generic", "AVX2", "AVX-512", "AVX-512 with bfloat16"])
def test_code_for_other_processors_gives_the_product_too(name):
    assert on_a_processor(name, CHECK.format(first=0)) == str(name == "AVX-512 with bfloat16")


def test_plain_python_gives_the_product_too():
    in_a_process(CHECK.format(first=-1), NUMBA_DISABLE_JIT="1")

"""A linear layer by its quantized weight: the exact product of what both sides hold, at every edge."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from kernel_checks import in_a_process, using_threads

from kernels.test_gemm import AVX512, X86_64_V2, X86_64_V3, rounded
from tinygpt import Tensor, implementation
from tinygpt.kernels import quantized_linear as kernel
from tinygpt.kernels.simd.cpu import BFLOAT16
from tinygpt.nn import Linear
from tinygpt.quantization import dequantize, quantize, quantized_linear, quantized_products

SIZES = [(1, 1, 1), (3, 5, 7), (8, 16, 48), (33, 17, 101), (70, 100, 96), (2, 769, 3), (50, 1600, 130), (530, 70, 33)]


def drawn(size, kind, seed=0):
    """x (N, I), a quantized weight (I, O) whose columns differ in scale, and a bias (O,)."""
    rows, inputs, outputs = size
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((inputs, outputs), np.float32) * np.float32(10) ** rng.integers(-2, 3, outputs)
    x, bias = rng.standard_normal((rows, inputs), np.float32), rng.standard_normal(outputs, np.float32)
    return x, quantize(np.float32(weight), kind), bias


def largest_error(size, kind) -> float:
    """As a share of sum_i |x_ni| |w_io|; the exact product is that of x rounded, where the processor has bfloat16."""
    x, quantized, bias = drawn(size, kind)
    out = kernel.forward(x, quantized.values, quantized.scale, bias)
    left = rounded(x) if BFLOAT16 else x.astype(np.float64)
    values = dequantize(quantized._replace(scale=quantized.scale[:0])) if kind == "bfloat16" else quantized.values
    right = values.astype(np.float64) * (quantized.scale if kind == "int8" else 1)
    return float(np.max(np.abs(out - (left @ right + bias)) / (np.abs(left) @ np.abs(right) + np.abs(bias))))


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size_gives_the_product(size, kind):
    assert largest_error(size, kind) < 1e-6


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_any_number_of_threads_gives_the_same_bits(kind):
    x, quantized, bias = drawn((300, 900, 301), kind)
    told = []
    for threads in (1, 2, 4):
        with using_threads(threads):
            told.append(kernel.forward(x, quantized.values, quantized.scale, bias))
    np.testing.assert_array_equal(told[0], told[1])
    np.testing.assert_array_equal(told[0], told[2])


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_damage_is_not_hidden(kind):
    x, quantized, bias = drawn((9, 40, 33), kind)
    x[4, 3] = np.nan
    out = kernel.forward(x, quantized.values, quantized.scale, bias)
    assert np.isnan(out[4]).all() and np.isfinite(np.delete(out, 4, axis=0)).all()


CHECK = """
from kernels.test_quantized_linear import *
for kind in ("bfloat16", "int8"):
    for size in SIZES[{first}:]:
        assert largest_error(size, kind) < 1e-6, (size, kind)
print(BFLOAT16)
"""
PROCESSORS = {"generic": X86_64_V2, "AVX2": X86_64_V3, "AVX-512": AVX512, "bfloat16": f"{AVX512},+avx512bf16"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSORS)
def test_code_for_other_processors_gives_the_product_too(name, tmp_path):
    from llvmlite import binding

    has = binding.get_host_cpu_features()
    if any(not has.get(feature[1:]) for feature in PROCESSORS[name].split(",")):
        pytest.xfail("this processor lacks what is to be emulated")
    environment = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": PROCESSORS[name]}
    shown = in_a_process(CHECK.format(first=0), **environment, NUMBA_CACHE_DIR=str(tmp_path))
    assert shown.strip() == str(name == "bfloat16")


def test_plain_python_gives_the_product_too():
    in_a_process(CHECK.format(first=-1), NUMBA_DISABLE_JIT="1")


# The layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_quantized_layer_is_the_layer_of_its_rounded_weight(rng, kind, bias):
    layer, x = Linear(40, 24, rng, bias=bias), rng.standard_normal((2, 3, 80), np.float32)[..., ::2]
    layer.quantize(kind)
    for parameter in layer.parameters():
        parameter.requires_grad = False
    with implementation("numpy"):
        exact = layer(Tensor(x)).data
    np.testing.assert_allclose(layer(Tensor(x)).data, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    with quantized_products():
        out = layer(Tensor(x)).data
        np.testing.assert_allclose(out, exact, rtol=0, atol=1e-2 * np.abs(exact).max())
        assert (np.abs(out - exact).max() > 1e-4 * np.abs(exact).max()) == BFLOAT16
        with implementation("check"):
            np.testing.assert_array_equal(layer(Tensor(x)).data, out)


def test_a_gradient_passes_through_a_quantized_layer(rng):
    """By the float32 form of the weight: dx = dout @ weight^T."""
    layer, x = Linear(6, 4, rng), Tensor(rng.standard_normal((3, 6), np.float32), requires_grad=True)
    layer.quantize("int8")
    with quantized_products():
        out = layer(x)
    np.testing.assert_allclose(out.data, x.data @ dequantize(layer.quantized) + layer.bias.data, atol=1e-6)
    out.sum().backward()
    np.testing.assert_allclose(x.grad, np.ones((3, 4)) @ dequantize(layer.quantized).T, atol=1e-6)
    assert layer.bias.grad.tolist() == [3] * 4 and layer.weight.grad is None


def test_check_mode_sees_a_wrong_product(rng, monkeypatch):
    layer = Linear(6, 4, rng)
    layer.quantize("int8")
    layer.bias.requires_grad = False
    module = importlib.import_module("tinygpt.kernels.quantized_linear")
    monkeypatch.setattr(module, "forward", lambda x, values, scale, bias: np.zeros((3, 4), np.float32))
    refused = pytest.raises(ValueError, match=r"quantized_linear\.forward: kernel and reference")
    with implementation("check"), quantized_products(), refused:
        layer(Tensor(rng.standard_normal((3, 6), np.float32)))


@pytest.mark.parametrize(("shape", "message"), [
    ((3, 5), r"quantized_linear: x must have shape \(\.\.\., I\) = \(\.\.\., 6\), got \(3, 5\)"),
    ((), r"quantized_linear: x must have shape"),
])  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(rng, shape, message):
    weight = rng.standard_normal((6, 4), np.float32)
    with pytest.raises(ValueError, match=message):
        quantized_linear(Tensor(np.zeros(shape, np.float32)), Tensor(weight), quantize(weight, "int8"))


def test_a_weight_that_is_not_the_quantized_one_is_refused(rng):
    weight = rng.standard_normal((6, 4), np.float32)
    with pytest.raises(ValueError, match=r"must be the one that was quantized, \(6, 3\), got \(6, 4\); quantize it"):
        quantized_linear(Tensor(np.zeros((2, 6), np.float32)), Tensor(weight), quantize(weight[:, :3], "int8"))

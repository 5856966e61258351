"""
The gradient check on kernels: every op of a training step, float32 and bfloat16, against its reference in float64.

Bounds are shares of the largest gradient. float32: some rounding errors of 6e-8, summed. bfloat16: each factor of a
product has 8 bits, so a product is off by up to 2^-8, a sum of many by less; where one product enters another, twice.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import assert_close, precision

from tinygpt import Tensor, apply, implementation
from tinygpt.study.samples import SAMPLES, every_op

FLOAT32, BFLOAT16 = 2e-6, 3e-2
ROUNDED = ("linear", "gelu_linear", "attention", "linear_cross_entropy")
WITH_KERNELS = {name: op for name, op in every_op().items() if op.kernel is not None}


def gradients(op, sample, dtype):
    tensors = [Tensor(array.astype(dtype), requires_grad=True) for array in sample.arrays]
    out = apply(op._replace(min_size=0), *tensors, **sample.attrs)
    dout = np.random.default_rng(4).standard_normal(out.shape).astype(dtype)
    out.backward(dout)
    return [tensor.grad for tensor in tensors]


@pytest.mark.parametrize("products", ["highest", "medium"])
@pytest.mark.parametrize("name", WITH_KERNELS)
def test_every_gradient_is_that_of_the_reference_in_float64(name, products):
    op = WITH_KERNELS[name]
    tolerance = BFLOAT16 if products == "medium" and name in ROUNDED else FLOAT32
    for sample in SAMPLES[name]:
        with implementation("numpy"):
            exact = gradients(op, sample, np.float64)
        with implementation("kernels"), precision(products):
            ours = gradients(op, sample, np.float32)
        for index, (gradient, expected) in enumerate(zip(ours, exact, strict=True)):
            assert_close(f"{name}, input {index}, {sample.attrs}", gradient, expected, tolerance, floor=1e-3)

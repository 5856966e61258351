"""
A linear layer by a weight as a decoder holds it, float32 or quantized, and what follows it in a block, in one pass.

    out = [out +] [gelu] ((x @ values) * scale + bias)

The numbers of x are rounded to bfloat16 on their way into a product with a quantized weight, where the processor
multiplies those; int8 and bfloat16 are such numbers already. So the product reads a quarter or a half of the bytes of
the float32 weight, and is as fast as one in "medium" precision. With int8 each column is the sum over whole numbers,
and its scale, one for the column, is multiplied afterwards.

Cost: that of matmul/gemm.py; with a scale, GELU or a sum, out is read and written once more.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.gelu import gate
from tinygpt.kernels.jit import parallel, spread
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.runtime import memory

_PART = 16  # rows that one thread takes at a time


def project(x, projection, into, add=False, gelu=False, bfloat16=False):
    """
    Multiply by a weight, scale, add the bias, and write, or `add`, the result or its GELU.

    Parameters
    ----------
    x : ndarray, float32, (N, I)
    projection : tuple of ndarray
        values (I, O), float32, int8 or uint16 with the bits of bfloat16; scale (O,), or empty; bias (O,).
    into : ndarray, float32, (N, O)
    add, gelu : bool
    bfloat16 : bool
        Round the numbers of x and of the weight as those of a quantized one.
    """
    values, scale, bias = projection
    if scale.size == 0 and not add and not gelu:
        multiply(x, values, into=into, bias=bias, bfloat16=bfloat16)
        return
    sums = memory.empty(into.shape, np.float32) if add else into
    multiply(x, values, into=sums, bfloat16=bfloat16)
    scale = scale if scale.size else np.ones(len(bias), np.float32)
    spread(_finish, into.size)(sums, scale, bias, gelu, add, into)


@parallel
def _finish(sums, scale, bias, gelu, add, out):
    """out (+)= [gelu] (sums * scale + bias). Each step is done in `sums`, which is `out` itself unless it adds."""
    parts = (len(out) + _PART - 1) // _PART
    for part_ in prange(parts):
        part = np.int64(part_)
        for n in range(part * _PART, min(len(out), (part + 1) * _PART)):
            sums_n, out_n = sums[n], out[n]
            for o in range(len(out_n)):
                sums_n[o] = sums_n[o] * scale[o] + bias[o]
            if gelu:
                for o in range(len(out_n)):
                    sums_n[o] = sums_n[o] * gate(sums_n[o])
            if add:
                for o in range(len(out_n)):
                    out_n[o] = out_n[o] + sums_n[o]

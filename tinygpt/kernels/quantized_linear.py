"""
A linear layer by its quantized weight, without gradients: the twin of `quantized_linear` in quantization.py.

    out = (x @ values) * scale + bias

The numbers of x are rounded to bfloat16 on their way into the product, where the processor multiplies those; int8 and
bfloat16 are such numbers already. So the product reads a quarter or a half of the bytes of the float32 weight, and is
as fast as one in "medium" precision. With int8 each column is the sum over whole numbers, and its scale, one for the
column, is multiplied afterwards.

Cost: that of matmul/gemm.py; int8 reads and writes out once more.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import parallel, rows_of, spread
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.runtime import memory

_PART = 16  # rows that one thread takes at a time


def forward(x, values, scale, bias):
    inputs, outputs = values.shape
    out = memory.empty((*x.shape[:-1], outputs), np.float32)
    rows = out.reshape(-1, outputs)
    scaled = scale.size > 0
    multiply(rows_of(x, inputs), values, into=rows, bias=None if scaled else bias)
    if scaled:
        spread(_scale, rows.size)(rows, scale, bias)
    return out


@parallel
def _scale(rows, scale, bias):
    parts = (len(rows) + _PART - 1) // _PART
    for part_ in prange(parts):
        part = np.int64(part_)
        for n in range(part * _PART, min(len(rows), (part + 1) * _PART)):
            row = rows[n]
            for o in range(len(row)):
                row[o] = row[o] * scale[o] + bias[o]

"""
Matrix product: C (+)= A B, the greater part of every training step, in float32 or with operands rounded to bfloat16.

`multiply` is what other kernels call. It checks its arguments and answers two questions; the work is elsewhere:

    in which format are operands packed, and so by which plan?     `operand_format`
        float32, or pairs of bfloat16: the vector units                vector_gemm.py, or small_gemm.py where it `pays`
        AMX's tiles of bfloat16                                        amx_gemm.py, or amx_packed.py where it `pays`
    how is C written?                                              `_mode`, of those in epilogue.py

Read ladder.py first: it builds the plan up from three loops. Then matrix.py and packing.py, how a block of a matrix is
packed; epilogue.py and microkernel.py, the register tile and how it is written; panels.py, a product of packed operands
on one thread; and vector_gemm.py, which does with all of this on all threads what (4) of the ladder does;
small_gemm.py does the same where a product is over almost before threads have met.

Cost: 2 M N K operations.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinygpt.kernels.jit import threads
from tinygpt.kernels.matmul import amx_gemm, amx_packed, small_gemm, vector_gemm
from tinygpt.kernels.matmul.epilogue import ACCUMULATE, NON_TEMPORAL, NON_TEMPORAL_WITH_BIAS, OVERWRITE, WITH_BIAS
from tinygpt.kernels.matmul.matrix import Stored
from tinygpt.kernels.simd.cpu import AMX, BFLOAT16, FLOAT32, LANES, PAIRS, TILES
from tinygpt.runtime import settings
from tinygpt.runtime.capture import constant

_SMALL = 2**20  # multiplications that one core has done in about ten microseconds
_FLOAT32 = np.dtype(np.float32)
_DTYPES, _DTYPES_OF_B = (_FLOAT32,), (_FLOAT32, np.dtype(np.int8), np.dtype(np.uint16))
_NO_BIAS = constant(np.zeros(LANES * 3, np.float32))


def multiply(a, b, into, accumulate=False, bias=None, squares=None, bfloat16=False):
    """
    C = A B, C += A B or C = A B + bias, in float32.

    Parameters
    ----------
    a : ndarray, float32, (M, K)
        The numbers of a row lie side by side in memory, as do the rows or with gaps; or the transpose of such an array.
    b : ndarray, float32, int8 or uint16, (K, N)
        In memory like a. A uint16 is the bits of a bfloat16.
    into : ndarray, float32, (M, N)
        C, by rows. Written past the caches where it is large and its rows are aligned.
    accumulate : bool
        Add to what `into` holds; else overwrite it.
    bias : ndarray, float32, (N,), optional
        Added to each row; not together with `accumulate`.
    squares : SquareSum, optional
        Its `parts` become sums of the squares of the new C, in float64.
    bfloat16 : bool
        Round the operands whatever the precision, where the processor multiplies bfloat16 faster.

    Raises
    ------
    ValueError
        If a shape, a type or the order in memory does not fit, or if `into` overlaps another.

    Notes
    -----
    With `set_float32_matmul_precision("medium")` the numbers of A and B are rounded to bfloat16 where the processor
    multiplies that faster. So are those of A whatever the precision where B is int8 or bfloat16, whose numbers that
    rounding leaves as they are.

    Examples
    --------
    >>> c = np.empty((2, 1), np.float32)
    >>> multiply(np.array([[1, 2], [3, 4]], np.float32), np.array([[10], [1]], np.float32), into=c)
    >>> c
    array([[12.],
           [34.]], dtype=float32)
    """
    M, N, K = _check(a, b, into, accumulate, bias)
    matrices = _stored(a, "a"), _stored(b, "b"), _stored(into, "into")
    if M == 0 or N == 0:
        return
    if K == 0:
        if not accumulate:
            into[...] = 0 if bias is None else bias
        return  # squares stay unknown
    form, dtype = operand_format(bfloat16 or b.dtype != _FLOAT32)
    workers = threads(most=None if M * N * K > _SMALL else 1)
    plan = _plan(form, b, matrices[1], (M, N, K))
    mode = _mode(into, accumulate, bias is not None, plan)
    added = _NO_BIAS if bias is None else bias
    sums = plan.multiply(*matrices, added, mode, (M, N, K), workers, squares is not None, form, dtype)
    if squares is not None:
        squares.parts = sums


def _check(a, b, into, accumulate, bias):
    """Raise unless shapes fit, and C has memory of its own; return M, N and K."""
    (M, K), (inner, N) = a.shape, b.shape
    if inner != K or into.shape != (M, N):
        raise ValueError(f"multiply: shapes must be (M, K), (K, N) and (M, N), got {a.shape}, {b.shape}, {into.shape}")
    if bias is not None and (bias.shape != (N,) or bias.dtype != _FLOAT32 or not bias.flags.c_contiguous):
        raise ValueError(f"multiply: bias must be contiguous float32 of shape ({N},), got {bias.dtype} {bias.shape}")
    if bias is not None and accumulate:
        raise ValueError("multiply: takes a bias or accumulates, not both; add the bias once, to the first product")
    for name, array in (("a", a), ("b", b), ("bias", _NO_BIAS if bias is None else bias)):
        if np.may_share_memory(array, into) and np.shares_memory(array, into):  # the second is exact, and slow
            raise ValueError(f"multiply: into must not share memory with {name}, which is read while C is written")
    return M, N, K


def _stored(array, name) -> Stored:
    """The numbers in the order of memory, flat, as the plans take them; raise if they do not lie there as they must."""
    flags = array.flags
    if array.dtype in (_DTYPES_OF_B if name == "b" else _DTYPES):
        if flags.carray:
            return array.reshape(-1), array.shape[1], False
        if flags.f_contiguous and flags.behaved and name != "into":
            return array.T.reshape(-1), array.shape[0], True
        for rows, transposed in ((array, False), (array.T, True))[: 1 if name == "into" else 2]:
            stride = rows.strides[0] // rows.itemsize
            if flags.behaved and rows.strides == (stride * rows.itemsize, rows.itemsize) and stride >= rows.shape[1]:
                size = (len(rows) - 1) * stride + rows.shape[1]  # rows with gaps; none behind the last
                return as_strided(rows, (size,), (rows.itemsize,)), stride, transposed
    got = f"{array.dtype}, strides {array.strides}{'' if flags.writeable else ', read-only'}"
    required = "contiguous rows of float32" + (", int8 or uint16" if name == "b" else "")
    required += "" if name == "into" else ", or the transpose of such an array"
    raise ValueError(f"multiply: {name} must be {required}, got {got}")


def operand_format(quantized=False):
    """
    The `Format` that operands are packed in, and the packed array's dtype: as precision and processor want it.

    Operands of a product with a quantized weight are bfloat16 whatever the precision.
    """
    if not BFLOAT16 or not (quantized or settings.get_float32_matmul_precision() == "medium"):
        return FLOAT32, np.dtype(np.float32)
    return (AMX, np.dtype(np.uint16)) if TILES else (PAIRS, np.dtype(np.uint32))


def _plan(form, b, stored_b, sizes):
    """The module whose loops compute a product in this format."""
    if form is not AMX:
        return small_gemm if b.dtype == _FLOAT32 and small_gemm.pays(sizes) else vector_gemm
    packs_first = b.dtype == _FLOAT32 and amx_packed.pays(stored_b[2], sizes)
    return amx_packed if packs_first else amx_gemm


def _mode(c, accumulate, biased, plan):
    """How C is written: see epilogue.py. Past the caches if it would not stay there, and is aligned as that demands."""
    if accumulate:
        return ACCUMULATE
    if c.nbytes <= plan.LARGE or c.ctypes.data % 64 or c.strides[0] % 64:
        return WITH_BIAS if biased else OVERWRITE
    if settings.GUARD and not c.flags.c_contiguous:  # its guarded copy ends where a page does, and so begins anywhere
        return WITH_BIAS if biased else OVERWRITE
    return NON_TEMPORAL_WITH_BIAS if biased else NON_TEMPORAL

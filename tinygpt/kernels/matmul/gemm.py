"""
Matrix product: C (+)= A B, the greater part of every training step, in float32 or with factors rounded to bfloat16.

    for each CHUNK of k, and within it for each slab of A's rows:
        (1) pack the slab of A, shared by all threads
        (2) for each unit, a panel of columns of B times some of A's rows:
                pack the panel of B for this thread, which keeps it in its own cache
                for each panel of A: ask memory for a part of the next panel of B, and multiply one tile of C

The sizes follow the caches: a panel of B (CHUNK x 48 numbers, 147 kB) stays in a core's own cache while the slab of A
(at most SLAB numbers, 4 MB) passes by, and each number of C is read and written once a chunk. A thread takes the next
unit when it is done with one, so a core that is slower for a while delays nobody; each number of C is summed in the
order of k by whoever does it, so the result is the same, bit for bit, for any number of threads.

Both matrices may be stored either way: A (M, K) or (K, M), B (K, N) or (N, K), always C-contiguous.

Source: Goto & van de Geijn 2008, ACM TOMS 34(3), section 5, with the roles of A and B exchanged.
Cost:   2 M N K operations; packing moves A once and B once for every UNIT panels of rows, 8 bytes a number.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import ZERO, inlined, kernel, parallel, threads
from tinygpt.kernels.matmul.microkernel import (
    ACCUMULATE,
    AMX_LAYOUT,
    OVERWRITE,
    STREAM,
    WITH_BIAS,
    begin_tiles,
    end_tiles,
)
from tinygpt.kernels.matmul.packing import pack_a, pack_b
from tinygpt.kernels.matmul.panels import EDGE, STAGED, packed_elements, tile_of
from tinygpt.kernels.simd.cpu import AMX, BFLOAT16, FLOAT32, LANES, PAIRS, TILES
from tinygpt.kernels.simd.intrinsics import fetch_and_increment, prefetch
from tinygpt.runtime import memory, settings

CHUNK = 768  # numbers along k
SLAB = 2**20  # numbers of A that are packed at a time
UNIT = 512  # rows of A that a panel of B is packed for

_SMALL = 2**20  # products of numbers that one core has done in about ten microseconds
_LARGE = 2**23  # bytes: more than the second cache of two cores
_NO_BIAS = np.zeros(LANES * 3, np.float32)


def multiply(a, b, c, a_along_k=True, b_along_k=False, accumulate=False, bias=None):
    """
    C = A B, C += A B or C = A B + bias, for C-contiguous float32 matrices.

    Parameters
    ----------
    a : ndarray, float32, (M, K) if `a_along_k`, else (K, M)
    b : ndarray, float32, (N, K) if `b_along_k`, else (K, N)
    c : ndarray, float32, (M, N)
        Must not overlap the others.
    accumulate : bool
        Add to what `c` holds; else overwrite it.
    bias : ndarray, float32, (N,), optional
        Added to each row; not together with `accumulate`.

    Raises
    ------
    ValueError
        If a shape, a type or the order in memory does not fit.

    Notes
    -----
    With `set_float32_matmul_precision("medium")` the numbers of A and B are rounded to bfloat16 where the processor
    multiplies that faster.

    Examples
    --------
    >>> c = np.empty((2, 1), np.float32)
    >>> multiply(np.array([[1, 2], [3, 4]], np.float32), np.array([[10], [1]], np.float32), c)
    >>> c
    array([[12.],
           [34.]], dtype=float32)
    """
    rows, depth = a.shape if a_along_k else a.shape[::-1]
    columns = _check(a, b, c, rows, depth, b_along_k, accumulate, bias)
    if rows == 0 or columns == 0:
        return
    if depth == 0:
        if not accumulate:
            c[...] = 0 if bias is None else bias
        return
    form, dtype = factors()
    chunk = min(CHUNK, -(-depth // form.block) * form.block)
    mode = ACCUMULATE if accumulate else WITH_BIAS if bias is not None else STREAM if _passes_by(c) else OVERWRITE
    if depth > chunk and mode == STREAM:
        mode = OVERWRITE  # the next chunk adds to what this one writes
    slab = max(form.rows, SLAB // chunk // form.rows * form.rows)
    workers = threads(most=None if rows * columns * depth > _SMALL else 1)
    of_a, of_b = packed_elements(form, min(slab, rows), form.vectors * LANES, chunk)
    packed_a, packed_b = memory.empty(of_a, dtype), memory.empty((workers, of_b), dtype)
    scratch = memory.empty((workers, STAGED + EDGE), np.float32)
    counters = np.zeros((-(-depth // chunk)) * (-(-rows // slab)) * 2, np.int64)
    sizes = (rows, columns, depth, chunk, slab, workers)
    _multiply(
        a.reshape(-1), b.reshape(-1), c.reshape(-1), _NO_BIAS if bias is None else bias, a_along_k, b_along_k, mode,
        sizes, form, packed_a, packed_b, scratch, counters, AMX_LAYOUT,
    )  # fmt: skip


def _check(a, b, c, rows, depth, b_along_k, accumulate, bias):
    """Raise unless everything fits; return the number of columns."""
    columns, inner = b.shape if b_along_k else b.shape[::-1]
    if inner != depth or c.shape != (rows, columns):
        raise ValueError(
            f"multiply: shapes must be (M, K), (K, N) and (M, N), got {rows, depth}, {inner, columns}, {c.shape}"
        )
    for name, array in (("a", a), ("b", b), ("c", c)):
        if array.dtype != np.float32 or not array.flags.carray:
            got = f"{array.dtype}, strides {array.strides}{'' if array.flags.writeable else ', read-only'}"
            raise ValueError(f"multiply: {name} must be C-contiguous float32, got {got}")
    if bias is not None and (bias.shape != (columns,) or bias.dtype != np.float32 or not bias.flags.c_contiguous):
        raise ValueError(
            f"multiply: bias must be contiguous float32 of shape ({columns},), got {bias.dtype} {bias.shape}"
        )
    if bias is not None and accumulate:
        raise ValueError("multiply: takes a bias or accumulates, not both; add the bias once, to the first product")
    return columns


def _passes_by(c):
    """Whether C is too large to stay in a cache, and lies as streaming it to memory demands."""
    return c.nbytes > _LARGE and c.ctypes.data % 64 == 0 and c.strides[0] % 64 == 0


def factors():
    """How the factors are packed, as the precision of products and the processor want it."""
    if settings.get_float32_matmul_precision() != "medium" or not BFLOAT16:
        return FLOAT32, np.dtype(np.float32)
    return (AMX, np.dtype(np.uint16)) if TILES else (PAIRS, np.dtype(np.uint32))


@parallel
def _multiply(a, b, c, bias, a_along_k, b_along_k, mode, sizes, form, packed_a, packed_b, scratch, counters, layout):
    rows, columns, depth, chunk, slab, workers = sizes
    phase = np.int64(0)
    for k in range(0, depth, chunk):
        deep = min(chunk, depth - k)
        how = mode if k == 0 else ACCUMULATE
        for row in range(0, rows, slab):
            high = min(slab, rows - row)
            for worker_ in prange(workers):
                worker = np.int64(worker_)
                _pack_panels(
                    a, a_along_k, rows, depth, row, high, k, deep, packed_a, form, scratch[worker], counters, phase
                )
            for worker_ in prange(workers):
                worker = np.int64(worker_)
                begin_tiles(packed_a, layout)
                _multiply_units(
                    b, b_along_k, columns, depth, row, high, k, deep, packed_a, packed_b[worker], c, bias, how, form,
                    scratch[worker], counters, phase + 1, workers,
                )  # fmt: skip
                end_tiles(packed_a)
            phase += 2


@kernel
def _pack_panels(a, along_k, all_rows, depth, row, high, k, deep, packed, form, scratch, counters, phase):
    """(1) Pack panels of A, whichever is next, until none is left."""
    panels = (high + form.rows - 1) // form.rows
    size = form.rows * form.lines * form.unit * ((deep + form.block - 1) // form.block)
    stride = depth if along_k else all_rows
    staged = scratch[:STAGED]
    while True:
        panel = fetch_and_increment(counters, phase)
        if panel >= panels:
            break
        first = panel * form.rows
        height = min(form.rows, high - first)
        pack_a(a, along_k, stride, row + first, height, k, deep, packed, panel * size, form, staged)


@kernel
def _multiply_units(
    b,
    along_k,
    all_columns,
    depth,
    row,
    high,
    k,
    deep,
    packed_a,
    packed_b,
    c,
    bias,
    mode,
    form,
    scratch,
    counters,
    phase,
    workers,
):
    """(2) Multiply units, whichever is next, until none is left."""
    width = LANES * form.vectors
    units = (high + UNIT - 1) // UNIT
    panels = (all_columns + width - 1) // width
    stride = depth if along_k else all_columns
    staged, edge = scratch[:STAGED], scratch[STAGED:]
    while True:
        unit = fetch_and_increment(counters, phase)
        if unit >= units * panels:
            break
        column = unit // units * width
        wide = min(width, all_columns - column)
        pack_b(b, along_k, stride, column, wide, k, deep, packed_b, ZERO, form, staged)
        first = unit % units * UNIT
        last = min(first + UNIT, high)
        upcoming = min((unit + workers) // units, panels - 1) * width
        next_wide = min(width, all_columns - upcoming)
        for part in range(first, last, form.rows):
            _prefetch_part(b, along_k, stride, upcoming, next_wide, k, deep, part - first, last - first, form.rows)
            place = part * form.lines * form.unit * ((deep + form.block - 1) // form.block)
            tile_of(
                packed_a, place, packed_b, ZERO, deep, c, (row + part) * all_columns + column,
                min(form.rows, high - part), wide, all_columns, mode, bias, column, form, edge,
            )  # fmt: skip


@inlined
def _prefetch_part(b, along_k, stride, column, wide, k, deep, done, rows, step):
    """Prefetch a part of the next panel of B while another is multiplied."""
    lines, length = (wide, deep) if along_k else (deep, wide)
    start = column * stride + k if along_k else k * stride + column
    for line in range(lines * done // rows, min(lines, lines * (done + step) // rows)):
        for number in range(0, length, 16):
            prefetch(b, start + line * stride + number)
        prefetch(b, start + line * stride + length - 1)

"""
Matrix product: C (+)= A B, the greater part of every training step, in float32 or with operands rounded to bfloat16.

    for pc in 0, KC, 2 KC ... K
        for ic in 0, MC, 2 MC ... M
            (1) pack A[ic : ic + MC, pc : pc + KC]             micro-panels of MR rows, shared by all threads
                barrier
            (2) for each task: NR columns jc, TASK rows i      the next free thread takes the next task
                    pack B[pc : pc + KC, jc : jc + NR]         one micro-panel, in the cache of this core
                    for ir in i, i + MR ... i + TASK
                        micro-kernel: C[ir : ir + MR, jc : jc + NR] (+)= panel of A  panel of B;
                                      prefetches its part of C, and a part of the next panel of B
                barrier

MR x NR is the register tile, 8 x 48 with AVX-512. The other sizes follow the caches: a panel of B (KC x NR numbers,
147 kB) stays in the second-level cache of a core, while the block of A (MC x KC numbers, 4 MB) streams through it from
the last-level cache, and each number of C is read and written once per KC. Threads take one task at a time, so a core
that is slower for a while delays the others little. Each number of C is summed in the order of k, whichever thread does
it, so the result is the same, bit for bit, for any number of threads.

This is the plan for the vector units: float32, and bfloat16 in pairs. On a processor with AMX, `multiply` leaves
products of bfloat16 to amx_gemm.py and amx_packed.py, which have other plans.

Read ladder.py first: it builds the plan up from three loops. The register tile is in microkernel.py, the formats of
packed panels are in packing.py, and panels.py is the same product on one thread.

Source: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3), section 5, with
        the roles of A and B exchanged: B's panel is what stays in the second-level cache. Names of the block sizes as
        in Van Zee & van de Geijn 2015, "BLIS", ACM TOMS 41(3); here NC = NR.
Cost:   2 M N K operations; packing moves A once and B once per TASK rows, 8 bytes per number.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.lib.stride_tricks import as_strided

from tinygpt.kernels.jit import ZERO, inlined, kernel, parallel, threads
from tinygpt.kernels.matmul import amx_gemm, amx_packed
from tinygpt.kernels.matmul.matrix import Matrix, block, row_major
from tinygpt.kernels.matmul.microkernel import (
    ACCUMULATE,
    LINE,
    NO_SQUARES,
    NON_TEMPORAL,
    OVERWRITE,
    WITH_BIAS,
    Upcoming,
    format_of,
)
from tinygpt.kernels.matmul.packing import pack_a, pack_b
from tinygpt.kernels.matmul.panels import EDGE, STAGED, Panels, packed_elements, panel_size, scratch_in, update_tile
from tinygpt.kernels.simd.cpu import AMX, BFLOAT16, FLOAT32, LANES, PAIRS, PREFETCHING, TILES
from tinygpt.kernels.simd.intrinsics import fetch_and_increment
from tinygpt.runtime import memory, settings

KC = 768  # with NR columns: a panel of B
MC_KC = 2**20  # numbers in a block of A: MC is as many rows as these are for the KC of a product
TASK = 512  # rows of C that a thread computes with one panel of B

_SMALL = 2**20  # multiplications that one core has done in about ten microseconds
_OF_B = (np.float32, np.int8, np.uint16)
_NO_BIAS = np.zeros(LANES * 3, np.float32)


def multiply(a, b, into, accumulate=False, bias=None, squares=None):
    """
    C = A B, C += A B or C = A B + bias, in float32.

    Parameters
    ----------
    a : ndarray, float32, (M, K)
        The numbers of a row lie side by side in memory, as do the rows or with gaps; or the transpose of such an array.
    b : ndarray, float32, int8 or uint16, (K, N)
        In memory like a. A uint16 is the bits of a bfloat16.
    into : ndarray, float32, (M, N)
        C, by rows. Must not overlap the others. Written past the caches where it is large and its rows are aligned.
    accumulate : bool
        Add to what `into` holds; else overwrite it.
    bias : ndarray, float32, (N,), optional
        Added to each row; not together with `accumulate`.
    squares : SquareSum, optional
        Its `after` becomes the sum of the squares of the new C, in float64.

    Raises
    ------
    ValueError
        If a shape, a type or the order in memory does not fit.

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
    if M == 0 or N == 0:
        return
    if K == 0:
        if not accumulate:
            into[...] = 0 if bias is None else bias
        return  # squares stay unknown
    form, dtype = operand_format(b.dtype != np.float32)
    mode = ACCUMULATE if accumulate else WITH_BIAS if bias is not None else OVERWRITE
    workers = threads(most=None if M * N * K > _SMALL else 1)
    if form is AMX:
        past_the_caches = _bypasses_caches(into, amx_gemm.LARGE)
        bias = _NO_BIAS if bias is None else bias
        stored_b, sizes = _stored(b), (M, N, K)
        packs_first = b.dtype == np.float32 and amx_packed.pays(stored_b[2], sizes, workers)
        (amx_packed if packs_first else amx_gemm).multiply(
            *_stored(a), *stored_b, *_stored(into)[:2], bias, mode, past_the_caches, sizes, workers, squares
        )
        return
    kc = min(KC, -(-K // form.block) * form.block)
    mc = max(form.rows, MC_KC // kc // form.rows * form.rows)
    if mode == OVERWRITE and kc >= K and _bypasses_caches(into):
        mode = NON_TEMPORAL
    of_a, of_b = packed_elements(form, min(mc, M), form.vectors * LANES, kc)
    packed_a, packed_b = memory.empty(of_a, dtype), memory.empty((workers, of_b), dtype)
    scratch = memory.empty((workers, STAGED + EDGE), np.float32)
    counters = np.zeros((-(-K // kc)) * (-(-M // mc)) * 2, np.int64)
    tasks = -(-M // mc) * -(-N // (form.vectors * LANES)) * -(-min(mc, M) // TASK)
    sums = np.zeros(0 if squares is None else tasks * LANES)
    _multiply(
        *_stored(a), *_stored(b), *_stored(into)[:2], _NO_BIAS if bias is None else bias, mode,
        (M, N, K, kc, mc, workers), packed_a, packed_b, scratch, sums, counters,
    )  # fmt: skip
    if squares is not None:
        squares.after = float(sums.sum())


def _check(a, b, into, accumulate, bias):
    """Raise unless everything fits; return M, N and K."""
    (M, K), (inner, N) = a.shape, b.shape
    if inner != K or into.shape != (M, N):
        raise ValueError(f"multiply: shapes must be (M, K), (K, N) and (M, N), got {a.shape}, {b.shape}, {into.shape}")
    for name, array in (("a", a), ("b", b), ("into", into)):
        fits = _by_rows(array) or (name != "into" and _by_rows(array.T))
        if array.dtype not in (_OF_B if name == "b" else (np.float32,)) or not fits:
            got = f"{array.dtype}, strides {array.strides}{'' if array.flags.writeable else ', read-only'}"
            required = "contiguous rows of float32" + (", int8 or uint16" if name == "b" else "")
            required += "" if name == "into" else ", or the transpose of such an array"
            raise ValueError(f"multiply: {name} must be {required}, got {got}")
    if bias is not None and (bias.shape != (N,) or bias.dtype != np.float32 or not bias.flags.c_contiguous):
        raise ValueError(f"multiply: bias must be contiguous float32 of shape ({N},), got {bias.dtype} {bias.shape}")
    if bias is not None and accumulate:
        raise ValueError("multiply: takes a bias or accumulates, not both; add the bias once, to the first product")
    return M, N, K


def _by_rows(array):
    """Whether a kernel may read and write an array row by row: each contiguous, the next behind it."""
    rows, columns = array.strides[0] // array.itemsize, array.shape[1]
    padded = array.strides == (rows * array.itemsize, array.itemsize) and rows >= columns
    return array.flags.carray or (padded and array.flags.behaved)


def _stored(array):
    """The numbers in the order of memory, flat; the distance of two rows there; and whether it is the transpose's."""
    transposed = not _by_rows(array)
    rows = array.T if transposed else array
    if rows.flags.c_contiguous:
        return rows.reshape(-1), rows.shape[1], transposed
    stride = rows.strides[0] // rows.itemsize
    return as_strided(rows, ((len(rows) - 1) * stride + rows.shape[1],), (rows.itemsize,)), stride, transposed


def _bypasses_caches(c, large=PREFETCHING.large):
    """Whether C would not stay in the caches, and is aligned as non-temporal stores demand."""
    if settings.GUARD and not c.flags.c_contiguous:
        return False  # its guarded copy ends where a page does, and so begins anywhere
    return c.nbytes > large and c.ctypes.data % 64 == 0 and c.strides[0] % 64 == 0


def operand_format(quantized=False):
    """
    The `Format` that operands are packed in, and the packed array's dtype: as precision and processor want it.

    Operands of a product with a quantized weight are bfloat16 whatever the precision.
    """
    if not BFLOAT16 or not (quantized or settings.get_float32_matmul_precision() == "medium"):
        return FLOAT32, np.dtype(np.float32)
    return (AMX, np.dtype(np.uint16)) if TILES else (PAIRS, np.dtype(np.uint32))


@parallel
def _multiply(
    a, a_stride, a_transposed, b, b_stride, b_transposed, c, c_stride, bias, mode, sizes, packed_a, packed_b, scratch,
    squares, counters,
):  # fmt: skip
    M, N, K, KC, MC, workers = sizes
    of_block = len(squares) // ((M + MC - 1) // MC)  # sums of squares, a vector for each task
    phase = np.int64(0)
    for pc in range(0, K, KC):
        kc = min(KC, K - pc)
        mode_of_pc = mode if pc == 0 else ACCUMULATE
        for ic in range(0, M, MC):
            mc = min(MC, M - ic)
            first = ic // MC * of_block
            squares_of_block = squares[first : first + (of_block if pc + kc == K else 0)]  # where C is complete
            for worker_ in prange(workers):  # (1)
                worker = np.int64(worker_)
                all_of_a = Matrix(a, ZERO, a_stride, M, K, a_transposed)
                block_of_a = block(all_of_a, ic, pc, mc, kc)
                _pack_panels(block_of_a, packed_a, scratch_in(scratch[worker]), counters, phase)
            for worker_ in prange(workers):  # (2)
                worker = np.int64(worker_)
                all_of_b = Matrix(b, ZERO, b_stride, K, N, b_transposed)
                rows_of_b, rows_of_c = block(all_of_b, pc, ZERO, kc, N), row_major(c, ic * c_stride, c_stride, mc, N)
                _do_tasks(
                    rows_of_b, packed_a, packed_b[worker], rows_of_c, bias, mode_of_pc, scratch_in(scratch[worker]),
                    squares_of_block, counters, phase + 1, workers,
                )  # fmt: skip
            phase += 2


@kernel
def _pack_panels(a, packed, scratch, counters, phase):
    """(1) Pack panels of A, whichever is next, until none is left."""
    form = format_of(packed)
    size = panel_size(form, form.rows, a.columns)
    while True:
        number = fetch_and_increment(counters, phase)
        row = number * form.rows
        if row >= a.rows:
            break
        rows = block(a, row, ZERO, min(form.rows, a.rows - row), a.columns)
        pack_a(rows, packed, number * size, scratch.staged)


@kernel
def _do_tasks(b, packed_a, packed_b, c, bias, mode, scratch, squares, counters, phase, workers):
    """(2) Do tasks, whichever is next, until none is left. `squares` has a vector for the sums of each, or nothing."""
    form = format_of(packed_a)
    mr, nr, kc = form.rows, form.vectors * LANES, b.rows
    panels, parts = (c.columns + nr - 1) // nr, (c.rows + TASK - 1) // TASK
    size = panel_size(form, mr, kc)
    while True:
        task = fetch_and_increment(counters, phase)
        if task >= panels * parts:
            break
        jc, i = task // parts * nr, task % parts * TASK
        columns = min(nr, c.columns - jc)
        pack_b(block(b, ZERO, jc, kc, columns), packed_b, ZERO, scratch.staged)
        panel_of_b = Panels(packed_b, ZERO, ZERO, kc)
        next_jc = min((task + workers) // parts * nr, c.columns)  # after the last task: an empty panel
        next_panel = block(b, ZERO, next_jc, kc, min(nr, c.columns - next_jc))
        last = min(i + TASK, c.rows)
        for ir in range(i, last, mr):
            upcoming = _part(next_panel, (ir - i) // mr, (last - i + mr - 1) // mr, nr)
            panel_of_a = Panels(packed_a, ir // mr * size, size, kc)
            tile = block(c, ir, jc, min(mr, c.rows - ir), columns)
            own_squares = task * LANES if len(squares) > 0 else NO_SQUARES
            update_tile(panel_of_a, panel_of_b, tile, mode, bias, jc, scratch.edge, upcoming, squares, own_squares)


@inlined
def _part(panel, number, parts, nr):
    """
    The part of the next panel of B that tile `number` of `parts` prefetches.

    Of a B that is stored across k, some rows; else as many columns as a row of NR numbers has cache lines.
    """
    words = panel.stride * panel.data.itemsize // 4  # what `Upcoming` counts in; numbers, unless B is quantized
    if panel.transposed:
        lines = (nr + LINE - 1) // LINE
        length = (panel.rows + LINE - 1) // LINE if number * lines < panel.columns else ZERO
        start, gap, stride = panel.start + number * lines * panel.stride, words, np.int64(LINE)
    else:
        length = (panel.rows + parts - 1) // parts if panel.columns > 0 else ZERO
        start, gap, stride = panel.start + number * length * panel.stride, np.int64(LINE), words
    return Upcoming(panel.data, start, gap, stride, length)

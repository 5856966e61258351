"""
The matrix product with vector units: C (+)= A B in float32, or with operands rounded to bfloat16, in pairs.

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

Source: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3), section 5, with
        the roles of A and B exchanged: B's panel is what stays in the second-level cache. Names of the block sizes as
        in Van Zee & van de Geijn 2015, "BLIS", ACM TOMS 41(3); here NC = NR.
Cost:   2 M N K operations; packing moves A once and B once per TASK rows, 8 bytes per number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from tinygpt.kernels.jit import ZERO, inlined, kernel, parallel
from tinygpt.kernels.matmul.epilogue import (
    ACCUMULATE,
    NO_SQUARES,
    NON_TEMPORAL,
    NON_TEMPORAL_WITH_BIAS,
    OVERWRITE,
    WITH_BIAS,
    Epilogue,
)
from tinygpt.kernels.matmul.matrix import block, whole
from tinygpt.kernels.matmul.microkernel import LINE, Upcoming
from tinygpt.kernels.matmul.packing import format_of, pack_a, pack_b
from tinygpt.kernels.matmul.panels import (
    EDGE,
    STAGED,
    Panels,
    Scratch,
    packed_elements,
    panel_size,
    scratch_in,
    update_tile,
)
from tinygpt.kernels.simd.cpu import LANES, PREFETCHING
from tinygpt.kernels.simd.intrinsics import fetch_and_increment
from tinygpt.runtime.memory import empty, zeros

KC = 768  # with NR columns: a panel of B
MC_KC = 2**20  # numbers in a block of A: MC is as many rows as these are for the KC of a product
TASK = 512  # rows of C that a thread computes with one panel of B
LARGE = PREFETCHING.large  # bytes of C: above this, non-temporal stores write it, if each number is written once


def multiply(a, b, c, bias, mode, sizes, workers, squares, form, dtype):
    """
    What gemm.py's `multiply` does, of matrices that it has checked and passes as `Stored`; `sizes` are M, N, K.

    Returns sums of the squares of C, parts of the whole, if `squares` are wanted. Operands are packed in `form`, into
    arrays of `dtype`.
    """
    M, N, K = sizes
    nr = form.vectors * LANES
    kc = min(KC, -(-K // form.block) * form.block)
    mc = max(form.rows, MC_KC // kc // form.rows * form.rows)
    if mode == NON_TEMPORAL_WITH_BIAS:  # measured on the Xeon: gains nothing here
        mode = WITH_BIAS
    elif mode == NON_TEMPORAL and kc < K:
        mode = OVERWRITE
    blocks_of_rows, blocks_of_k = -(-M // mc), -(-K // kc)
    tasks = blocks_of_rows * -(-N // nr) * -(-min(mc, M) // TASK)
    of_a, of_b = packed_elements(form, min(mc, M), nr, kc)
    packed = empty(of_a, dtype), empty((workers, of_b), dtype)
    scratch = empty((workers, STAGED + EDGE), np.float32)
    sums = zeros(tasks * LANES if squares else 0, np.float64)
    counters = zeros(blocks_of_rows * blocks_of_k * 2, np.int64)
    _multiply(a, b, c, bias, mode, (M, N, K, kc, mc, workers), packed, scratch, sums, counters)
    return sums


class _Thread(NamedTuple):
    """A thread's own memory: for one panel of B, and scratch."""

    panel: np.ndarray
    scratch: Scratch


class _Counter(NamedTuple):
    """How many tasks of a phase have been taken: a place in an array that all threads add to."""

    counts: np.ndarray
    phase: int


@parallel
def _multiply(a, b, c, bias, mode, sizes, packed, scratch, squares, counters):
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
                block_of_a = block(whole(a, M, K), ic, pc, mc, kc)
                _pack_panels(block_of_a, packed[0], scratch_in(scratch[worker]).staged, _Counter(counters, phase))
            for worker_ in prange(workers):  # (2)
                worker = np.int64(worker_)
                rows_of_b, rows_of_c = block(whole(b, K, N), pc, ZERO, kc, N), block(whole(c, M, N), ic, ZERO, mc, N)
                epilogue = Epilogue(mode_of_pc, bias, ZERO, squares_of_block, NO_SQUARES)
                thread = _Thread(packed[1][worker], scratch_in(scratch[worker]))
                _do_tasks(packed[0], rows_of_b, rows_of_c, epilogue, thread, workers, _Counter(counters, phase + 1))
            phase += 2


@kernel
def _pack_panels(a, packed, staged, counter):
    """(1) Pack panels of A, whichever is next, until none is left."""
    form = format_of(packed)
    size = panel_size(form, form.rows, a.columns)
    while True:
        number = fetch_and_increment(counter.counts, counter.phase)
        row = number * form.rows
        if row >= a.rows:
            break
        pack_a(block(a, row, ZERO, min(form.rows, a.rows - row), a.columns), packed, number * size, staged)


@kernel
def _do_tasks(packed_a, b, c, epilogue, thread, workers, counter):
    """(2) Do tasks, whichever is next, until none is left. `epilogue.squares` has a vector for each, or nothing."""
    form = format_of(packed_a)
    mr, nr, kc = form.rows, form.vectors * LANES, b.rows
    panels, parts = (c.columns + nr - 1) // nr, (c.rows + TASK - 1) // TASK
    size = panel_size(form, mr, kc)
    while True:
        task = fetch_and_increment(counter.counts, counter.phase)
        if task >= panels * parts:
            break
        jc, i = task // parts * nr, task % parts * TASK
        columns = min(nr, c.columns - jc)
        pack_b(block(b, ZERO, jc, kc, columns), thread.panel, ZERO, thread.scratch.staged)
        panel_of_b = Panels(thread.panel, ZERO, ZERO, kc)
        next_jc = min((task + workers) // parts * nr, c.columns)  # after the last task: an empty panel
        next_panel = block(b, ZERO, next_jc, kc, min(nr, c.columns - next_jc))
        own = task * LANES if len(epilogue.squares) > 0 else NO_SQUARES
        of_task = Epilogue(epilogue.mode, epilogue.bias, jc, epilogue.squares, own)
        last = min(i + TASK, c.rows)
        for ir in range(i, last, mr):
            upcoming = _part(next_panel, (ir - i) // mr, (last - i + mr - 1) // mr, nr)
            panel_of_a = Panels(packed_a, ir // mr * size, size, kc)
            tile = block(c, ir, jc, min(mr, c.rows - ir), columns)
            update_tile(panel_of_a, panel_of_b, tile, of_task, upcoming, thread.scratch.edge)


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

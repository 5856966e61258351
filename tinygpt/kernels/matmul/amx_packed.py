"""
The matrix product with AMX by a B that is packed first, in a pass of its own: C (+)= A B, the bits of amx_gemm.py.

    for ic in 0, MC, 2 MC ... M
        for pb in 0, KB, 2 KB ... K
            (1) pack the block of A: rows ic to ic + MC, k from pb to pb + KB         all threads
                pack k from pb to pb + KB of B, unless a block of A before this one has
                barrier
            (2) for each task: 32 columns of C, some of its rows                      a thread's own, then others'
                    for pc in pb, pb + KC ... pb + KB
                        for each 32 rows: sums (+)= panel of A  panel of B, over KC numbers of k,
                                          while a part of the next panel of B is prefetched;
                                          after the last k of all the epilogue writes the sums to C
                barrier

amx_gemm.py packs a panel of B while it multiplies the one before, and so reads B panel by panel. Where B is stored by
rows, (K, N), a row of a panel is two cache lines on a page of its own: memory that is read so is slow, and multiplying
waits for it. The pass reads 4 kB of a row at a time. Its result has half of B's bytes, often stays in a cache, and a
panel of it is 16 kB of consecutive memory, which can be prefetched. A B that is stored along k is read well either way;
there the pass pays where A has several blocks, for each of which amx_gemm.py packs B again.

Each number is rounded and summed as there, in the same order, so that the bits are the same by either plan.

Measured on two cores of an Intel Xeon with AMX (family 6 model 167): the time of amx_gemm.py over that of this plan, so
that above 1 this one is faster; medians of 9 turns. The weights of GPT-2 124M's layers, (inputs, outputs), each from
memory. x has M rows; an asterisk: A has several blocks.

                             x W + b                dout W^T               x^T dout
    M                   256   512   1024       256   512   1024       256   512   1024
    (768, 768)         0.85  0.95   1.01*     0.85  0.92   0.96*     0.88  0.89   1.00*
    (768, 2304)        1.24  1.22   1.40*     0.86  1.06*  1.06*     0.90  0.92   1.02*
    (768, 3072)        1.41  1.10   1.41*     0.92  1.03   0.91      0.90  1.00   1.15*
    (3072, 768)        1.09  1.10   1.07      0.85  0.91   1.05*     0.99* 1.04*  1.09*

So `pays` takes this plan for the asterisks, and for a B stored by rows, in x W + b and x^T dout, from `_WORTHWHILE`
numbers on. There, prefetching the panels is worth 3 % of a training step.

Source: packing the whole of B is what Goto & van de Geijn 2008 do with the operand that several blocks share.
Cost:   2 M N K operations; packing moves A once and B once, and writes half of B's bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from tinygpt.kernels.jit import ZERO, inlined, kernel, parallel
from tinygpt.kernels.matmul.amx import (
    AMX_LAYOUT,
    COLUMNS,
    ROWS,
    STEP,
    TILE,
    add_products,
    add_products_and_prefetch,
    configure_amx,
    prefetch_tile_of_c,
    release_amx,
)
from tinygpt.kernels.matmul.amx_blocks import (
    KC,
    LARGE,
    Part,
    Sums,
    block_sizes,
    of_tile,
    pack_block_of_a,
    round_up,
    take_task,
    task_sizes,
)
from tinygpt.kernels.matmul.epilogue import NO_SQUARES, NON_TEMPORAL, Epilogue, write_tile
from tinygpt.kernels.matmul.matrix import block, row_major, whole
from tinygpt.kernels.matmul.packing import pack_block_of_b
from tinygpt.kernels.matmul.panels import STAGED, Panels, panel
from tinygpt.kernels.simd.intrinsics import fetch_and_increment
from tinygpt.runtime import memory

__all__ = ["LARGE", "multiply", "pays"]

_WIDTH = 1024  # columns of B that a thread packs at a time where B is stored by rows: 4 kB
_WORTHWHILE = 1_500_000  # numbers of B: with fewer, a pass costs more than it spares
_LARGEST = 2**24  # numbers of B that are packed at one time; of a larger one, such as a head, a block of k


def pays(b_transposed, sizes):
    """Whether this plan is the faster one for a B of float32, and takes little memory."""
    M, N, K = sizes
    MC, KB = block_sizes(M, N, K)
    scattered = not b_transposed and K * N >= _WORTHWHILE
    return (scattered or MC < M) and _packed_size(min(KB, K), N) <= _LARGEST


def _packed_size(K, N):
    """How many uint16 a packed (K, N) takes."""
    return round_up(K, STEP) * round_up(N, COLUMNS)


def multiply(a, b, c, bias, mode, sizes, workers, squares, form, dtype):
    """What amx_gemm.py's `multiply` does."""
    M, N, K = sizes
    MC, KB = block_sizes(M, N, K)
    rows, tasks = task_sizes(sizes, MC, KB, workers)
    depth = K if MC < M and _packed_size(K, N) <= _LARGEST else min(KB, K)  # how many k of B are packed at one time
    packed = memory.empty(_packed_size(depth, N), dtype)
    packed_a = memory.empty(MC * round_up(KB, STEP), dtype)
    sums, staged = memory.empty((tasks, rows * COLUMNS)), memory.empty((workers, STAGED))
    counters = memory.zeros((-(-M // MC) * -(-K // KB), 2 + workers), np.int64)
    of_tiles = memory.zeros(-(-c[1] // COLUMNS) * -(-M // ROWS) if squares else 0, np.float64)
    _multiply(
        a, b, c, bias, mode, (M, N, K, MC, KB, rows, depth, workers), packed_a, packed, sums, staged, of_tiles,
        counters, AMX_LAYOUT,
    )  # fmt: skip
    return of_tiles


class _Packed(NamedTuple):
    """
    The packed numbers of B.

    Attributes
    ----------
    data : ndarray, 1-D
    start : int
        The first of a block of k, among those that are packed at one time.
    depth : int
        How many k are packed at one time.
    """

    data: np.ndarray
    start: int
    depth: int


@parallel
def _multiply(a, b, c, bias, mode, sizes, packed_a, packed_b, sums, staged, squares, counters, layout):
    M, N, K, MC, KB, rows, depth, workers = sizes
    blocks_of_k = (K + KB - 1) // KB
    for ic in range(0, M, MC):
        mc = min(MC, M - ic)
        for pb in range(0, K, KB):
            kb, number = min(KB, K - pb), ic // MC * blocks_of_k + pb // KB
            packed = _Packed(packed_b, pb if depth == K else ZERO, depth)
            for worker_ in prange(workers):  # (1)
                worker = np.int64(worker_)
                rows_of_a = block(whole(a, M, K), ic, pb, mc, kb)
                pack_block_of_a(rows_of_a, packed_a, staged[worker], counters[number], ZERO)
                if ic == 0 or depth < K:
                    rows_of_b = block(whole(b, K, N), pb, ZERO, kb, N)
                    _pack_rows_of_b(rows_of_b, packed, staged[worker], counters[number])
            for worker_ in prange(workers):  # (2)
                worker = np.int64(worker_)
                part = Part(rows, pb == 0, pb + kb == K, counters[number, 2:])
                rows_of_c = block(whole(c, M, N), ic, ZERO, mc, N)
                configure_amx(packed_a, layout)
                epilogue = Epilogue(mode, bias, ZERO, squares, NO_SQUARES)
                _do_tasks(packed_a, packed, kb, rows_of_c, epilogue, sums, worker, part)
                release_amx(packed_a)


@inlined
def _panel_start(packed, number, k):
    """Where the numbers of a panel begin, from k on: one of its block's."""
    return (number * ((packed.depth + STEP - 1) // STEP) + (packed.start + k) // STEP) * 2 * TILE


@kernel
def _pack_rows_of_b(b, packed, staged, counters):
    """(1) Pack parts of some rows of B, whichever is next, until none is left."""
    steps = (b.rows + STEP - 1) // STEP
    height, width = (b.rows, COLUMNS) if b.transposed else (STEP, _WIDTH)  # of a part: consecutive memory
    across = (b.columns + width - 1) // width
    while True:
        number = fetch_and_increment(counters, 1)
        k, column = number // across * height, number % across * width
        if k >= b.rows:
            break
        for jc in range(column, min(column + width, b.columns), COLUMNS):
            for s in range(k // STEP, min((k + height + STEP - 1) // STEP, steps)):
                target = _panel_start(packed, jc // COLUMNS, s * STEP)
                for half in range(2):
                    first = min(jc + 16 * half, b.columns)
                    here = block(b, s * STEP, first, min(STEP, b.rows - s * STEP), min(16, b.columns - first))
                    pack_block_of_b(here, packed.data, target + half * TILE, 16, staged)


@kernel
def _do_tasks(packed_a, packed, kb, c, epilogue, sums, worker, part):
    """(2) Do tasks until none is left. While a panel of B is multiplied, the next one is prefetched."""
    parts = (c.rows + part.rows - 1) // part.rows
    tasks = (c.columns + COLUMNS - 1) // COLUMNS * parts
    panels_of_a = (c.rows + ROWS - 1) // ROWS
    task = take_task(part.taken, worker, tasks)
    while task < tasks:
        following = task
        jc, ir = task // parts * COLUMNS, task % parts * part.rows
        tiles = block(c, ir, jc, min(part.rows, c.rows - ir), min(COLUMNS, c.columns - jc))
        own_sums = sums[worker if part.first and part.last else task]
        of_task = Epilogue(epilogue.mode, epilogue.bias, jc, epilogue.squares, NO_SQUARES)
        for pc in range(0, kb, KC):
            kc = (min(KC, kb - pc) + STEP - 1) // STEP * STEP
            size = ROWS * kc
            left = Panels(packed_a, pc * panels_of_a * ROWS + ir * kc, size, kc)
            right = Panels(packed.data, _panel_start(packed, task // parts, pc), size, kc)
            upcoming = right.start + size
            last_panel = pc + KC >= kb
            if last_panel:
                following = take_task(part.taken, worker, tasks)
                upcoming = _panel_start(packed, min(following, tasks - 1) // parts, ZERO)
            clear, finished = part.first and pc == 0, part.last and last_panel
            _multiply_panel(left, right, Sums(own_sums, clear, finished), tiles, of_task, upcoming)
        task = following


@kernel
def _multiply_panel(left, right, sums, tiles, epilogue, upcoming):
    """All tiles of a task with one panel of B; meanwhile prefetch the panel that begins at `upcoming`."""
    end = upcoming + right.size
    for ir in range(0, tiles.rows, ROWS):
        panel_of_a = panel(left, ir // ROWS)
        tile = block(tiles, ir, ZERO, min(ROWS, tiles.rows - ir), tiles.columns)
        tile_of_sums = row_major(sums.data, ir * COLUMNS, COLUMNS, ROWS, COLUMNS)
        if sums.finished and epilogue.mode < NON_TEMPORAL:
            prefetch_tile_of_c(tile)
        if upcoming < end:
            next_lines = Panels(right.data, upcoming, ZERO, right.depth)
            add_products_and_prefetch(panel_of_a, right, tile_of_sums, sums.clear, next_lines)
            upcoming += right.size // 8
        else:
            add_products(panel_of_a, right, tile_of_sums, sums.clear)
        if sums.finished:
            write_tile(tile_of_sums, tile, of_tile(epilogue, tile))

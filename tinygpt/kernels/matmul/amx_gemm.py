"""
The matrix product with AMX: C (+)= A B with operands rounded to bfloat16.

    for ic in 0, MC, 2 MC ... M
        for pb in 0, KB, 2 KB ... K
            (1) pack the block of A: rows ic to ic + MC, k from pb to pb + KB         all threads
                barrier
            (2) for each task: 32 columns of C, some of its rows                      a thread's own, then others'
                    for pc in pb, pb + KC ... pb + KB
                        for each 32 rows: sums (+)= panel of A  panel of B, over KC numbers of k,
                                          while a part of the next panel of B is packed;
                                          after the last k of all the epilogue writes the sums to C
                barrier

AMX multiplies sixteen times as fast as the vector units, so what decides is where numbers lie while they are used
(ladder.py, "From here to AMX", has the reasons; amx_blocks.py the sizes):

    panel of B (KC x 32)    16 kB, two of them, of which one is multiplied while the next one is packed: both stay in
                            the first-level cache (48 kB), beside the panel of A that passes through
    block of A (MC x KB)    at most 1.25 MB: a core reads it again for each panel of B, from its second-level cache
    sums                    32 x 32 at a time, 4 kB of consecutive memory. The rows of a tile of C lie far apart, on a
                            page each where N is 1024 or more, and a store to C first reads the line that it overwrites
    C                       written once, when its sums over all k are done; by non-temporal stores if it is large,
                            because it would leave the caches before anything reads it

What each of these is worth: GFLOP/s on two cores of an Intel Xeon with AMX (Granite Rapids, family 6 model 167), one
thing changed in each row; medians of processes in turns, noise 5 %. x has 256 or 1024 rows, W the shape (768, 2304):

                                            256 rows                     1024 rows             this plan
                                    x W + b  dout W^T  x^T dout   x W + b  dout W^T  x^T dout    is faster by
    this plan                         1370      1230      1490      1680      1420      1710
    C written through the caches      1360      1150      1300      1570      1330      1510       1 to 15 %
    B packed between the tiles        1240      1110      1470      1610      1270      1500       1 to 14 %
    KC = 128                          1320      1180      1420      1640      1340      1510       2 to 13 %
    KC = 768                          1520      1180      1490      1790      1430      1570     -10 to 9 %
    all rows and k in one block of A  1440*     1200*     1500*     1600      1090      1480       5 to 30 %
    vector_gemm.py's plan, AMX's tile  870       800       800      1170      1050       890      35 to 92 %

    * is this plan's block, too, and so shows the noise.

The last row differs in all of this at once, and sums go from the registers straight to C. Between KC = 256 and 768 the
table does not decide, but a panel of 768 k fills the first-level cache alone. It was measured before amx_packed.py
existed: of these six products gemm.py now leaves the second and the third to this plan.

Also prefetched: a tile of C, while its sums are computed, unless it is written past the caches; and of a B of bfloat16
that is stored by rows, where a row of a panel is one line on a page of its own, the line beside it, of the next panel.

Each thread first takes tasks of its own, then those that slower threads have not begun. If there is more than one block
of k, the sums of its own tasks are in its cache.

Read amx.py first: the tiles, and how packing is hidden behind multiplying. Incomplete panels, at the edges of a matrix,
are padded with zeros and packed between the tiles.

Source: Goto & van de Geijn 2008, see vector_gemm.py; A's block in the second-level cache and B's panel in the first, as
        there.
Cost:   2 M N K operations; packing moves A once and B once per MC rows.
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
    add_products_and_pack,
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
from tinygpt.kernels.matmul.matrix import Matrix, block, row_major, whole
from tinygpt.kernels.matmul.packing import pack_block_of_b
from tinygpt.kernels.matmul.panels import STAGED, Panels, panel
from tinygpt.runtime import memory

__all__ = ["LARGE", "multiply"]

_PANEL = KC * COLUMNS  # numbers of bfloat16 in a panel of B


def multiply(a, b, c, bias, mode, sizes, workers, squares, form, dtype):
    """
    What gemm.py's `multiply` does, of matrices that it has checked and passes as `Stored`; `sizes` are M, N, K.

    Returns sums of the squares of C, tile by tile, if `squares` are wanted: the size of a task depends on the number of
    threads, and the whole sum must not.
    """
    M, N, K = sizes
    MC, KB = block_sizes(M, N, K)
    rows, tasks = task_sizes(sizes, MC, KB, workers)
    of_a, of_b = MC * round_up(KB, STEP), workers * 2 * _PANEL
    work = memory.empty((of_a + of_b) // 2 + workers * STAGED + tasks * rows * COLUMNS)  # see `_divided`
    counters = memory.zeros(-(-M // MC) * -(-K // KB) * (workers + 1), np.int64)
    of_tiles = memory.zeros(-(-c[1] // COLUMNS) * -(-M // ROWS) if squares else 0, np.float64)
    _multiply(a, b, c, bias, mode, (M, N, K, MC, KB, rows, workers), work, of_tiles, counters, AMX_LAYOUT)
    return of_tiles


class _Thread(NamedTuple):
    """
    Attributes
    ----------
    number : int
    panels : ndarray, 1-D
        Its own memory for two panels of B.
    staged : ndarray, 1-D
        Its own scratch memory.
    sums : ndarray, 1-D
        The sums of all threads: of one task each, or of all tasks if they wait for the next block of k.
    """

    number: int
    panels: np.ndarray
    staged: np.ndarray
    sums: np.ndarray


class _Next(NamedTuple):
    """A panel of B that is packed while another one is multiplied: where it comes from, where it goes, and scratch."""

    source: Matrix
    target: Panels
    staged: np.ndarray


@parallel
def _multiply(a, b, c, bias, mode, sizes, work, squares, counters, layout):
    M, N, K, MC, KB, rows, workers = sizes
    first_counter = np.int64(0)
    for ic in range(0, M, MC):
        mc = min(MC, M - ic)
        for pb in range(0, K, KB):
            kb = min(KB, K - pb)
            for worker_ in prange(workers):  # (1)
                worker = np.int64(worker_)
                packed_a, _, staged, _ = _divided(work, MC, KB, worker, workers)
                rows_of_a = block(whole(a, M, K), ic, pb, mc, kb)
                pack_block_of_a(rows_of_a, packed_a, staged, counters, first_counter)
            for worker_ in prange(workers):  # (2)
                worker = np.int64(worker_)
                packed_a, panels, staged, sums = _divided(work, MC, KB, worker, workers)
                thread = _Thread(worker, panels, staged, sums)
                rows_of_b, rows_of_c = block(whole(b, K, N), pb, ZERO, kb, N), block(whole(c, M, N), ic, ZERO, mc, N)
                part = Part(rows, pb == 0, pb + kb == K, counters[first_counter + 1 : first_counter + 1 + workers])
                configure_amx(packed_a, layout)
                _do_tasks(packed_a, rows_of_b, rows_of_c, Epilogue(mode, bias, ZERO, squares, NO_SQUARES), thread, part)
                release_amx(packed_a)
            first_counter += 1 + workers


@inlined
def _divided(work, MC, KB, worker, workers):
    """`work`, cut: the packed block of A; a thread's two panels of B; its scratch; the sums of all threads."""
    packed_a, rest = _split(work, MC * ((KB + STEP - 1) // STEP * STEP) // 2)  # two numbers of bfloat16 per float32
    panels, rest = _split(rest, workers * _PANEL)
    staged, sums = _split(rest, workers * STAGED)
    own_panels, own_staged = panels[worker * _PANEL :][:_PANEL], staged[worker * STAGED :][:STAGED]
    return packed_a.view(np.uint16), own_panels.view(np.uint16), own_staged, sums


@inlined
def _split(numbers, size):
    """The first `size` numbers, and the others."""
    return numbers[:size], numbers[size:]


@kernel
def _do_tasks(packed_a, b, c, epilogue, thread, part):
    """(2) Do tasks until none is left. While a panel of B is multiplied, the next one is packed."""
    parts = (c.rows + part.rows - 1) // part.rows
    tasks = (c.columns + COLUMNS - 1) // COLUMNS * parts
    panels_of_a = (c.rows + ROWS - 1) // ROWS
    task = take_task(part.taken, thread.number, tasks)
    current, spare = ZERO, np.int64(_PANEL)  # where the two panels begin
    if task < tasks:
        first_panel = _panel_of(b, task // parts, ZERO)
        _pack_panel(_Next(first_panel, Panels(thread.panels, current, ZERO, first_panel.rows), thread.staged), ZERO)
    while task < tasks:
        following = task
        jc, ir = task // parts * COLUMNS, task % parts * part.rows
        tiles = block(c, ir, jc, min(part.rows, c.rows - ir), min(COLUMNS, c.columns - jc))
        place = thread.number if part.first and part.last else task
        own_sums = thread.sums[place * part.rows * COLUMNS :]
        of_task = Epilogue(epilogue.mode, epilogue.bias, jc, epilogue.squares, NO_SQUARES)
        for pc in range(0, b.rows, KC):
            kc = (min(KC, b.rows - pc) + STEP - 1) // STEP * STEP
            size = ROWS * kc
            left = Panels(packed_a, (pc * panels_of_a * ROWS + ir * kc), size, kc)
            right = Panels(thread.panels, current, ZERO, kc)
            last_panel = pc + KC >= b.rows
            if last_panel:
                following = take_task(part.taken, thread.number, tasks)
            next_task, next_pc = _after(task, pc, following, b.rows)
            next_panel = _panel_of(b, next_task // parts, next_pc)  # empty after the last
            upcoming = _Next(next_panel, Panels(thread.panels, spare, ZERO, next_panel.rows), thread.staged)
            clear, finished = part.first and pc == 0, part.last and last_panel
            _multiply_panel(left, right, Sums(own_sums, clear, finished), tiles, of_task, upcoming)
            current, spare = spare, current
        task = following


@inlined
def _after(task, pc, following, depth):
    """The task and the first k of the next panel: KC further on in the same task, or the following task's first."""
    return (task, pc + KC) if pc + KC < depth else (following, ZERO)


@inlined
def _panel_of(b, number, pc):
    """A panel of B: its columns, and k from pc on. Empty beyond the end of B."""
    jc = min(number * COLUMNS, b.columns)
    columns = min(COLUMNS, b.columns - jc)
    kc = min(KC, b.rows - pc) if columns > 0 else ZERO
    return block(b, pc, jc, kc, columns)


@kernel
def _multiply_panel(left, right, sums, tiles, epilogue, upcoming):
    """All tiles of a task with one panel of B; meanwhile pack the next panel."""
    source, target, _ = upcoming
    per_call = left.depth // (4 * STEP)  # dense tiles that are packed while one tile of C is multiplied
    packable = source.rows // STEP * 2 if source.columns == COLUMNS and per_call > 0 else ZERO
    packed = ZERO
    for ir in range(0, tiles.rows, ROWS):
        panel_of_a = panel(left, ir // ROWS)
        tile = block(tiles, ir, ZERO, min(ROWS, tiles.rows - ir), tiles.columns)
        tile_of_sums = row_major(sums.data, ir * COLUMNS, COLUMNS, ROWS, COLUMNS)
        if sums.finished and epilogue.mode < NON_TEMPORAL:
            prefetch_tile_of_c(tile)
        if packed + per_call <= packable:
            read = block(source, packed // 2 * STEP, packed % 2 * 16, STEP, 16)
            write = Panels(target.data, target.start + packed * TILE, ZERO, STEP)
            add_products_and_pack(panel_of_a, right, tile_of_sums, sums.clear, read, write)
            packed += per_call
        else:
            add_products(panel_of_a, right, tile_of_sums, sums.clear)
        if sums.finished:
            write_tile(tile_of_sums, tile, of_tile(epilogue, tile))
    _pack_panel(upcoming, packed // 2 * STEP)


@kernel
def _pack_panel(panel, first):
    """Pack what is left of a panel of B, from k = first on."""
    source, target, staged = panel
    for k in range(first, source.rows, STEP):
        kc = min(STEP, source.rows - k)
        for half in range(2):
            columns = max(0, min(16, source.columns - 16 * half))
            start = target.start + (k // STEP * 2 + half) * TILE
            pack_block_of_b(block(source, k, 16 * half, kc, columns), target.data, start, 16, staged)

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
(ladder.py, "From here to AMX", has the reasons):

    panel of B (KC x 32)    16 kB, two of them, of which one is multiplied while the next one is packed: both stay in
                            the first-level cache (48 kB), beside the panel of A that passes through
    block of A (MC x KB)    at most 0.8 MB: a core reads it again for each panel of B, from its second-level cache
    sums                    32 x 32 at a time, 4 kB of consecutive memory. The rows of a tile of C lie far apart, on a
                            page each where N is 1024 or more, and a store to C first reads the line that it overwrites
    C                       written once, when its sums over all k are done; by non-temporal stores if it is large,
                            because it would leave the caches before anything reads it

Measured, one change at a time: GFLOP/s on two cores of an Intel Xeon with AMX (Granite Rapids, family 6 model 167),
medians of processes in turns, noise 5 %. x has 256 or 1024 rows, W the shape (768, 2304):

                                                        256 rows                     1024 rows
                                              x W + b   dout W^T   x^T dout   x W + b   dout W^T   x^T dout
    this plan                                    1370       1230       1490      1680       1420       1710
    C written through the caches                 1360       1150       1300      1570       1330       1510
    B packed between the tiles                   1240       1110       1470      1610       1270       1500
    KC = 128                                     1320       1180       1420      1640       1340       1510
    KC = 768                                     1520       1180       1490      1790       1430       1570
    all rows and k in one block of A             1440       1200       1500      1600       1090       1480
    gemm.py's plan, with AMX's tile               870        800        800      1170       1050        890

The last row differs in everything at once: sums that go from the registers straight to C, larger blocks, B packed ahead
of its tiles. What the sums' own memory is worth was not measured alone. With 256 rows this plan has a single block of
A, too, so those three cells of the row above show the noise. KC = 768 cost nothing in this run, although a panel of B
then fills the first-level cache; 256 is a choice by the size of that cache, not by this table.

Prefetching the panel of B after the next, into the second-level cache, gained nothing with float32. But each row of a
panel of a bfloat16 B (K, N) is a single line on a page of its own, which no prefetcher of the processor guesses:
prefetching these took the products of 124M's layers, by 512 rows, from 81 to 69 ms. Prefetching a tile of C that is
written through the caches gained 15 %, in one run on one shape, 50,257 columns whose rows were not aligned.

Any thread may do a task, and each number of C is summed in the order of k: the bits are the same for any number of
threads. Each thread first takes tasks of its own, then those that slower threads have not begun. If there is more than
one block of k, the sums of its own tasks are in its cache.

Read amx.py first: the tiles, and how packing is hidden behind multiplying. Incomplete panels, at the edges of a matrix,
are padded with zeros and packed between the tiles.

Source: Goto & van de Geijn 2008, see gemm.py; A's block in the second-level cache and B's panel in the first, as there.
Cost:   2 M N K operations; packing moves A once and B once per MC rows.
"""

from __future__ import annotations

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
    add_products_and_pack_across,
    add_products_and_pack_along,
    configure_amx,
    release_amx,
)
from tinygpt.kernels.matmul.epilogue import NON_TEMPORAL_WITH_BIAS, prefetch_tile, write_tile
from tinygpt.kernels.matmul.matrix import Matrix, block, row_major
from tinygpt.kernels.matmul.microkernel import NON_TEMPORAL, OVERWRITE, WITH_BIAS
from tinygpt.kernels.matmul.packing import pack_a, pack_block_of_b
from tinygpt.kernels.matmul.panels import STAGED
from tinygpt.kernels.simd.intrinsics import fetch_and_increment
from tinygpt.runtime import memory

KC = 256
_PANEL = KC * COLUMNS  # numbers in a panel of B
_BLOCK = 400_000  # numbers in a block of A
_CACHE = 1_250_000  # bytes of a second-level cache for the block of A and sums that wait
LARGE = 2**21  # bytes of C: from here on non-temporal stores write it, where its mode and alignment allow
_NON_TEMPORAL = {OVERWRITE: NON_TEMPORAL, WITH_BIAS: NON_TEMPORAL_WITH_BIAS}


def multiply(
    a, a_stride, a_transposed, b, b_stride, b_transposed, c, c_stride, bias, mode, non_temporal, sizes, workers, squares
):
    """
    What gemm.py's `multiply` does, of arrays that it has checked: flat, with the distance of two rows in memory and
    whether it holds the transpose; `sizes` are M, N, K.

    `non_temporal` asks for non-temporal stores; C must be aligned then. The squares of C are summed tile by tile: the
    size of a task depends on the number of threads, and the sum must not.
    """
    M, N, K = sizes
    MC, KB = _block_of_a(M, N, K, workers)
    panels = -(-N // COLUMNS)
    parts = min(-(-4 * workers // panels), MC // ROWS)
    rows = _round_up(-(-MC // parts), ROWS)  # of a task
    waiting = workers if KB >= K else panels * -(-MC // rows)  # tasks whose sums exist at one time
    if non_temporal:
        mode = _NON_TEMPORAL.get(mode, mode)
    work = memory.empty(MC * _round_up(KB, STEP) // 2 + workers * (_PANEL + STAGED) + waiting * rows * COLUMNS)
    counters = np.zeros(-(-M // MC) * -(-K // KB) * (workers + 1), np.int64)
    of_tiles = np.zeros(0 if squares is None else -(-c_stride // COLUMNS) * -(-M // ROWS))
    _multiply(
        a, a_stride, a_transposed, b, b_stride, b_transposed, c, c_stride, bias, mode,
        (M, N, K, MC, KB, rows, workers), work, of_tiles, counters, AMX_LAYOUT,
    )  # fmt: skip
    if squares is not None:
        squares.after = float(of_tiles.sum())


def _block_of_a(M, N, K, workers):
    """
    MC and KB: rows and k of a block of A.

    All k if 256 rows of them fit into the cache. Else 3 KC, and the sums of each task wait for the next block of k:
    they take room in the cache too.
    """
    if 256 * 2 * K <= _CACHE:
        KB = K
        most_rows = max(256, _BLOCK // K)
    else:
        KB = 3 * KC
        most_rows = 512 if 512 * (2 * KB + 4 * N // workers) <= _CACHE else 256
    blocks = -(-M // most_rows)
    return _round_up(-(-M // blocks), ROWS), KB


def _round_up(count, size):
    """The next multiple of `size`."""
    return -(-count // size) * size


@parallel
def _multiply(
    a, a_stride, a_transposed, b, b_stride, b_transposed, c, c_stride, bias, mode, sizes, work, squares, counters,
    layout,
):  # fmt: skip
    M, N, K, MC, KB, rows, workers = sizes
    first_counter = np.int64(0)
    for ic in range(0, M, MC):
        mc = min(MC, M - ic)
        for pb in range(0, K, KB):
            kb = min(KB, K - pb)
            for worker_ in prange(workers):  # (1)
                worker = np.int64(worker_)
                all_of_a = Matrix(a, ZERO, a_stride, M, K, a_transposed)
                packed_a, _, _, staged = _divided(work, MC, KB, worker, workers)
                _pack_block_of_a(block(all_of_a, ic, pb, mc, kb), packed_a, staged, counters, first_counter)
            for worker_ in prange(workers):  # (2)
                worker = np.int64(worker_)
                all_of_b = Matrix(b, ZERO, b_stride, K, N, b_transposed)
                rows_of_b, rows_of_c = block(all_of_b, pb, ZERO, kb, N), row_major(c, ic * c_stride, c_stride, mc, N)
                packed_a, packed_b, sums, staged = _divided(work, MC, KB, worker, workers)
                tasks = counters[first_counter + 1 : first_counter + 1 + workers]
                configure_amx(packed_a, layout)
                _do_tasks(
                    packed_a, rows_of_b, rows_of_c, bias, mode, packed_b, sums, staged, squares, tasks, worker, rows,
                    pb == 0, pb + kb == K,
                )  # fmt: skip
                release_amx(packed_a)
            first_counter += 1 + workers


@inlined
def _divided(work, MC, KB, worker, workers):
    """Views of `work`: the packed block of A; this thread's panels of B; the sums of all; this thread's scratch."""
    of_a = MC * ((KB + STEP - 1) // STEP * STEP) // 2
    of_b, staged = of_a + worker * _PANEL, of_a + workers * _PANEL + worker * STAGED
    return (
        work[:of_a].view(np.uint16),
        work[of_b : of_b + _PANEL].view(np.uint16),
        work[of_a + workers * (_PANEL + STAGED) :],
        work[staged : staged + STAGED],
    )


@kernel
def _pack_block_of_a(a, packed, staged, counters, counter):
    """(1) Pack panels of A, 32 rows and up to KC k, whichever is next, until none is left."""
    panels = (a.rows + ROWS - 1) // ROWS
    blocks_of_k = (a.columns + KC - 1) // KC
    while True:
        number = fetch_and_increment(counters, counter)
        if number >= panels * blocks_of_k:
            break
        row, k = number % panels * ROWS, number // panels * KC
        kc = min(KC, a.columns - k)
        steps = (kc + STEP - 1) // STEP
        start = (k // STEP * panels + number % panels * steps) * 2 * TILE
        pack_a(block(a, row, k, min(ROWS, a.rows - row), kc), packed, start, staged)


@kernel
def _next_task(counters, worker, tasks):
    """
    The number of the next task: one of this thread's own, then of the others'; `tasks` if none is left.

    A thread's own tasks are consecutive: tiles side by side in C share cache lines where its rows are not aligned.
    """
    workers = len(counters)
    for i in range(workers):
        owner = (worker + i) % workers
        task = tasks * owner // workers + fetch_and_increment(counters, owner)
        if task < tasks * (owner + 1) // workers:
            return task
    return tasks


@kernel
def _do_tasks(packed_a, b, c, bias, mode, packed_b, sums, staged, squares, counters, worker, rows, first, last):
    """
    (2) Do tasks until none is left. While a panel of B is multiplied, the next one is packed.

    `rows` are those of a task; `first` and `last` tell whether this is the first block of k, and the last.
    """
    parts = (c.rows + rows - 1) // rows
    tasks = (c.columns + COLUMNS - 1) // COLUMNS * parts
    panels_of_a = (c.rows + ROWS - 1) // ROWS
    task = _next_task(counters, worker, tasks)
    current, spare = ZERO, np.int64(_PANEL)
    if task < tasks:
        _pack_panel(_panel_of(b, task // parts, ZERO), ZERO, packed_b, current, staged)
    while task < tasks:
        following = task
        jc, ir = task // parts * COLUMNS, task % parts * rows
        tiles = block(c, ir, jc, min(rows, c.rows - ir), min(COLUMNS, c.columns - jc))
        own_sums = sums[(worker if first and last else task) * rows * COLUMNS :]
        for pc in range(0, b.rows, KC):
            steps = (min(KC, b.rows - pc) + STEP - 1) // STEP
            start_of_a = (pc // STEP * panels_of_a + ir // ROWS * steps) * 2 * TILE
            last_panel = pc + KC >= b.rows
            if last_panel:
                following = _next_task(counters, worker, tasks)
            next_task, next_pc = _after(task, pc, following, b.rows)
            next_panel = _panel_of(b, next_task // parts, next_pc)  # empty after the last
            _multiply_panel(
                packed_a, start_of_a, packed_b, current, steps, own_sums, first and pc == 0, tiles, last and last_panel,
                mode, bias, jc, next_panel, spare, staged, squares,
            )  # fmt: skip
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
def _multiply_panel(
    packed_a, start_of_a, packed_b, current, steps, sums, clear, tiles, finished, mode, bias, column, next_panel,
    spare, staged, squares,
):  # fmt: skip
    """All tiles of a task with one panel of B; meanwhile pack the next panel."""
    per_call = steps // 4  # dense tiles that are packed while one tile of C is multiplied
    packable = next_panel.rows // STEP * 2 if next_panel.columns == COLUMNS and per_call > 0 else ZERO
    packed = ZERO
    for ir in range(0, tiles.rows, ROWS):
        start = ir * COLUMNS
        if finished and mode < NON_TEMPORAL:
            prefetch_tile(tiles.data, tiles.start + ir * tiles.stride, tiles.stride)
        if packed + per_call <= packable:
            read, write = _dense_tile_in(next_panel, packed), spare + packed * TILE
            if next_panel.transposed:
                add_products_and_pack_along(
                    packed_a, start_of_a, packed_b, current, steps, sums, start, clear,
                    next_panel.data, read, next_panel.stride, packed_b, write,
                )  # fmt: skip
            else:
                add_products_and_pack_across(
                    packed_a, start_of_a, packed_b, current, steps, sums, start, clear,
                    next_panel.data, read, next_panel.stride, packed_b, write,
                )  # fmt: skip
            packed += per_call
        else:
            add_products(packed_a, start_of_a, packed_b, current, steps, sums, start, clear)
        if finished:
            tile = block(tiles, ir, ZERO, min(ROWS, tiles.rows - ir), tiles.columns)
            write_tile(sums, start, tile, mode, bias, column, squares)
        start_of_a += steps * 2 * TILE
    _pack_panel(next_panel, packed // 2 * STEP, packed_b, spare, staged)


@inlined
def _dense_tile_in(b, number):
    """Where the numbers of a dense tile of a panel begin in its matrix."""
    k, column = number // 2 * STEP, number % 2 * 16
    return b.start + (column * b.stride + k if b.transposed else k * b.stride + column)


@kernel
def _pack_panel(b, first, packed, start, staged):
    """Pack what is left of a panel of B, from k = first on."""
    for k in range(first, b.rows, STEP):
        kc = min(STEP, b.rows - k)
        for half in range(2):
            columns = max(0, min(16, b.columns - 16 * half))
            target = start + (k // STEP * 2 + half) * TILE
            pack_block_of_b(block(b, k, 16 * half, kc, columns), packed, target, 16, staged)

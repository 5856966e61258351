"""
The product of small matrices with vector units: C (+)= A B in float32, or with operands rounded to bfloat16, in pairs.

    each thread, for each of its tasks: rows ic ... ic + mc, columns jc ... jc + nc of C
        (1) pack A[ic : ic + mc, :], unless it did so for its last task
        (2) pack B[:, jc : jc + nc], unless it did so for its last task
        (3) for each micro-panel of these columns, for each of these rows
                micro-kernel: C[ir : ir + MR, jr : jr + NR] (+)= panel of A  panel of B;
                              prefetches its part of C, and a part of what the next task packs

vector_gemm.py packs A once for all threads, which wait for each other before they multiply. That takes tens of
microseconds, of the few hundred that the whole product takes here. So no thread waits for another: each packs what it
needs, in memory of its own. Tasks cut C along its longer side only. So a thread packs all of the smaller operand, and
of the larger one the part that its tasks need.

The tasks of a thread lie side by side; once they are done, it does those that others have not begun. So a thread mostly
finds in its cache the rows that it wrote in the operation before, and a slower one delays the others by a task at most.

Panels of B are as equal as whole vectors permit: 16 vectors become 2 3 3 2 3 3 and not 3 3 3 3 3 1. A tile of one
vector has too few sums for the units that add to them.

Each number of C is summed in the order of k, and what a task is does not depend on the number of threads, so the result
is the same, bit for bit, for any number of threads.

Cost: 2 M N K operations; packing moves the larger operand once, the smaller one once per thread, 8 bytes per number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from tinygpt.kernels.jit import ZERO, inlined, kernel, parallel
from tinygpt.kernels.matmul.epilogue import NO_SQUARES, NON_TEMPORAL_WITH_BIAS, WITH_BIAS, Epilogue
from tinygpt.kernels.matmul.matrix import block, transpose, whole
from tinygpt.kernels.matmul.microkernel import LINE, Upcoming
from tinygpt.kernels.matmul.packing import format_of, pack_a, pack_b
from tinygpt.kernels.matmul.panels import (
    EDGE,
    STAGED,
    columns_in,
    panel,
    panel_size,
    rows_in,
    scratch_in,
    update_tile,
)
from tinygpt.kernels.simd.cpu import LANES, PREFETCHING
from tinygpt.kernels.simd.intrinsics import fetch_and_increment
from tinygpt.runtime.memory import empty, zeros

LARGE = PREFETCHING.large  # as in vector_gemm.py
_TASK, _FEWEST = 2**20, 8  # multiplications in a task, about: ten or twenty microseconds; and how many tasks at least
_DEPTH = 64  # k that are packed of all panels of A before the next: several panels read the same cache lines
_APART = 16  # int64 from the counter of one thread to that of the next: two cache lines


def pays(sizes):
    """
    Whether this is the faster plan for M, N and K: the caches hold everything, and few threads pack the same.

    The number of threads does not count: sums of squares are in other parts than those of vector_gemm.py, and so may
    differ in the last bit.
    """
    M, N, K = sizes
    return K * min(M, N) <= 2**17 and max(M * N, M * K, N * K) <= 2**19 and max(M, N) >= 64


def multiply(a, b, c, bias, mode, sizes, workers, squares, form, dtype):
    """What vector_gemm.py's `multiply` does, with the same arguments."""
    M, N, K = sizes
    mr, nr = form.rows, form.vectors * LANES
    if mode == NON_TEMPORAL_WITH_BIAS:
        mode = WITH_BIAS
    mc, nc = -(-M // mr), -(-N // nr)  # the size of a task, in panels
    pieces = max(_FEWEST, M * N * K // _TASK)
    if M >= N:
        mc = min(mc, -(-M // (LINE * pieces)) * LINE // mr)  # where A is transposed, whole cache lines
    else:
        nc = -(-nc // pieces)
    across = -(-N // (nc * nr))
    tasks = -(-M // (mc * mr)) * across
    workers = min(workers, tasks)
    packed = empty((workers, (mc * mr + nc * nr) * -(-K // form.block) * form.lines), dtype)
    scratch = empty((workers, STAGED + EDGE), np.float32)
    sums, counts = zeros(tasks * LANES if squares else 0, np.float64), zeros(workers * _APART, np.int64)
    _multiply(a, b, c, bias, mode, (M, N, K), (mc, nc, across, tasks, workers), packed, scratch, sums, counts)
    return sums


class _Tasks(NamedTuple):
    """
    How C is cut into tasks.

    Attributes
    ----------
    mc, nc : int
        The size of a task, in panels of A and of B.
    across, number : int
        How many lie side by side, and how many there are.
    workers : int
    counts : ndarray, 1-D
        How many of each thread's have been taken, `_APART` numbers apart.
    """

    mc: int
    nc: int
    across: int
    number: int
    workers: int
    counts: np.ndarray


@parallel
def _multiply(a, b, c, bias, mode, sizes, tasks, packed, scratch, squares, counts):
    M, N, K = sizes
    mc, nc, across, number, workers = tasks
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        matrices = whole(a, M, K), whole(b, K, N), whole(c, M, N)
        epilogue = Epilogue(mode, bias, ZERO, squares, NO_SQUARES)
        cut = _Tasks(mc, nc, across, number, workers, counts)
        _do_tasks(matrices, epilogue, cut, worker, packed[worker], scratch_in(scratch[worker]))


@kernel
def _do_tasks(matrices, epilogue, tasks, worker, packed, scratch):
    """Do the tasks of this thread, then those of others, until none is left."""
    a, b, c = matrices
    mr = format_of(packed).rows
    size_of_a = tasks.mc * panel_size(format_of(packed), mr, a.columns)
    left, right = rows_in(packed[:size_of_a], a.columns), columns_in(packed[size_of_a:], a.columns)
    packed_i = packed_j = np.int64(-1)
    for turn in range(tasks.workers):
        owner = (worker + turn) % tasks.workers
        first, end = owner * tasks.number // tasks.workers, (owner + 1) * tasks.number // tasks.workers
        while True:
            task = first + fetch_and_increment(tasks.counts, owner * _APART)
            if task >= end:
                break
            i, j = task // tasks.across, task % tasks.across
            if i != packed_i:
                _pack_rows(_rows(a, i, tasks.mc * mr), left, scratch.staged)  # (1)
            if j != packed_j:
                _pack_columns(b, j, tasks.nc, right, scratch.staged)  # (2)
            packed_i, packed_j = i, j
            own = task * LANES if len(epilogue.squares) > 0 else NO_SQUARES
            of_task = Epilogue(epilogue.mode, epilogue.bias, ZERO, epilogue.squares, own)
            upcoming = _next(a, b, task + 1 if task + 1 < end else tasks.number, tasks, format_of(packed))
            _do_task(left, right, _rows(c, i, tasks.mc * mr), j, of_task, tasks, upcoming, scratch.edge)  # (3)


@kernel
def _do_task(left, right, c, j, epilogue, tasks, upcoming, edge):
    """(3) Multiply what is packed, into `c`, the rows of the task. `upcoming` are the rows to prefetch, all of them."""
    mr = format_of(left.data).rows
    length = (upcoming.rows + tasks.mc * tasks.nc - 1) // (tasks.mc * tasks.nc)
    tiles = ZERO
    for number in range(tasks.nc):
        jr, columns = _panel_of_columns(c.columns, j * tasks.nc + number, format_of(left.data))
        if columns <= 0:
            break
        of_panel = Epilogue(epilogue.mode, epilogue.bias, jr, epilogue.squares, epilogue.own)
        for ir in range(0, c.rows, mr):
            tile = block(c, ir, jr, min(mr, c.rows - ir), columns)
            done = min(tiles * length, upcoming.rows)
            start, rows = upcoming.start + done * upcoming.stride, min(length, upcoming.rows - done)
            part = Upcoming(upcoming.data, start, upcoming.gap, upcoming.stride, rows)
            update_tile(panel(left, ir // mr), panel(right, number), tile, of_panel, part, edge)
            tiles += 1


@inlined
def _rows(matrix, i, high):
    """Those of the tasks that are number i from above."""
    return block(matrix, i * high, ZERO, max(ZERO, min(high, matrix.rows - i * high)), matrix.columns)


@inlined
def _panel_of_columns(columns, number, form):
    """The first column of a panel of B, and how many it has: none after the last panel."""
    vectors, panels = (columns + LANES - 1) // LANES, (columns + form.vectors * LANES - 1) // (form.vectors * LANES)
    first = vectors * number // panels * LANES
    return first, min(vectors * (number + 1) // panels * LANES, columns) - first


@inlined
def _next(a, b, task, tasks, form):
    """
    What the next task packs, if memory has a row of it for each k; of other rows, the processor prefetches more itself.

    Of rows of A that are one cache line wide, the next line is prefetched as well: a later task needs it.
    """
    rows = transpose(_rows(a, task // tasks.across, tasks.mc * form.rows))
    if tasks.across > 1:
        jr, columns = _panel_of_columns(b.columns, task % tasks.across * tasks.nc, form)
        rows = block(b, ZERO, jr, b.rows, columns)
    length = rows.rows if not rows.transposed and task < tasks.number else ZERO
    return Upcoming(rows.data, rows.start, np.int64(LINE), rows.stride, length)


@kernel
def _pack_rows(a, panels, staged):
    """(1) Pack rows of A, some k of all panels before the next k."""
    form = format_of(panels.data)
    for k in range(0, a.columns, _DEPTH):
        depth = min(_DEPTH, a.columns - k)
        start = panels.start + panel_size(form, form.rows, k)
        for ir in range(0, a.rows, form.rows):
            here = block(a, ir, k, min(form.rows, a.rows - ir), depth)
            pack_a(here, panels.data, start + ir // form.rows * panels.size, staged)


@kernel
def _pack_columns(b, j, count, panels, staged):
    """(2) Pack the columns of B of the tasks that are number j from the left: up to `count` panels."""
    for number in range(count):
        jr, columns = _panel_of_columns(b.columns, j * count + number, format_of(panels.data))
        if columns > 0:
            pack_b(block(b, ZERO, jr, b.rows, columns), panels.data, panels.start + number * panels.size, staged)

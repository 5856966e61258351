"""
How a product with AMX is cut into blocks and tasks: what its two plans share, amx_gemm.py and amx_packed.py.

    block of A    MC rows and KB k, packed by all threads together. A core reads it once more for each panel of B, from
                  its second-level cache (L2).
    panel of B    32 columns and KC k. It stays in the first-level cache (L1) while all rows of a task are multiplied.
    task          32 columns of C, and all rows of a block of A or a part of them. Any thread may do it: each number of
                  C is summed in the order of k, so the bits are the same for any number of threads.
    sums          of a task: they stay in memory of their own until they are complete, and then go to C

The sizes, of numbers of bfloat16, 2 bytes each, for an L1 of 48 kB and an L2 of 2 MB per core:

    KC        256        A panel of B has 256 x 32 numbers, 16 kB: two of them, and the panel of A that is multiplied.
    _BLOCK    400,000    numbers in a block of A, 0.8 MB: the greater part of L2 is left to all that passes through. One
                         of 1.6 MB costs 5 to 16 %, one of 4.7 MB 30 %: see the table in amx_gemm.py.
    _CACHE    1.25 MB    for a block of A that has only 256 rows. All of B is read again for each block of A, so fewer
                         rows would cost more than they spare; 256 rows of all k fit up to K = 2441.
    _SUMS     2^21       numbers of C, 8 MB. With more k than that, a block of A has KB = 512 of them and 1024 rows, so
                         that B is read less often, and the sums of all its tasks wait for the next 512. Where these
                         would be more than `_SUMS`, with more than 2048 columns of C, it has 256 rows.
    LARGE     2 MB       of C: above this, non-temporal stores write it, where its mode and alignment allow. In a cache,
                         so large a C would not stay until it is read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinygpt.kernels.jit import inlined, kernel
from tinygpt.kernels.matmul.amx import COLUMNS, ROWS, STEP, TILE
from tinygpt.kernels.matmul.epilogue import NO_SQUARES, Epilogue
from tinygpt.kernels.matmul.matrix import block
from tinygpt.kernels.matmul.packing import pack_a
from tinygpt.kernels.simd.intrinsics import fetch_and_increment

KC = 256
_BLOCK = 400_000  # numbers
_CACHE = 1_250_000  # bytes
_SUMS = 2**21  # numbers
LARGE = 2**21  # bytes


def block_sizes(M, N, K):
    """
    MC and KB: rows and k of a block of A.

    All k if 256 rows of them fit into the cache. Else 2 KC, and the sums of each task wait for the next block of k; but
    B is read and packed again for each MC rows, which costs more than sums that leave the cache, unless C is very wide.
    """
    if 256 * 2 * K <= _CACHE:
        KB = K
        most_rows = max(256, _BLOCK // K)
    else:
        KB = 2 * KC
        most_rows = 1024 if 1024 * N <= _SUMS else 256
    blocks = -(-M // most_rows)
    return round_up(-(-M // blocks), ROWS), KB


def task_sizes(sizes, MC, KB, workers):
    """
    How many rows a task has, and for how many tasks there are sums at one time.

    A block of A makes at least four tasks per thread, if it has the rows: a thread that is late then delays the others
    by little. Sums that need not wait for a block of k are those of the task that a thread is at.
    """
    _, N, K = sizes
    panels = -(-N // COLUMNS)
    parts = min(-(-4 * workers // panels), MC // ROWS)
    rows = round_up(-(-MC // parts), ROWS)
    return rows, workers if KB >= K else panels * -(-MC // rows)


def round_up(count, size):
    """The next multiple of `size`."""
    return -(-count // size) * size


class Part(NamedTuple):
    """
    A block of A: what is to be done with it, and how far that is.

    Attributes
    ----------
    rows : int
        Of a task.
    first, last : bool
        Whether this is the first block of k, and the last.
    taken : ndarray, 1-D
        For each thread, how many of its own tasks have been taken.
    """

    rows: int
    first: bool
    last: bool
    taken: np.ndarray


class Sums(NamedTuple):
    """
    The sums of a task, 32 x 32 at a time.

    Attributes
    ----------
    data : ndarray, 1-D
    clear : bool
        Whether they begin with this panel of B.
    finished : bool
        Whether this panel completes them.
    """

    data: np.ndarray
    clear: bool
    finished: bool


@kernel
def pack_block_of_a(a, packed, staged, counters, counter):
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
def take_task(counters, worker, tasks):
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


@inlined
def of_tile(epilogue, tile):
    """The epilogue with the place of a tile of C: those of `squares` are in row-major order."""
    number = tile.start // tile.stride // ROWS * ((tile.stride + COLUMNS - 1) // COLUMNS) + epilogue.column // COLUMNS
    own = number if len(epilogue.squares) > 0 else NO_SQUARES
    return Epilogue(epilogue.mode, epilogue.bias, epilogue.column, epilogue.squares, own)

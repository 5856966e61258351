"""
Packed operands, and their product on one thread: what vector_gemm.py and attention.py are made of.

    left  = pack_rows(q, memory, scratch)                   A as micro-panels of MR rows
    right = pack_columns(transpose(k), memory, scratch)     B as micro-panels of NR columns
    multiply(left, right, scores, OVERWRITE, scratch)       scores = q k^T

All panels of an operand have the same size, so where one lies follows from its number; the last may hold fewer rows or
columns. A product may use the first columns of B only, or the first k only: so the keys and values of a sequence are
packed once, and each token multiplies as many of them as it may see.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinygpt.kernels.jit import ZERO, inlined, kernel
from tinygpt.kernels.matmul.epilogue import NO_SQUARES, OVERWRITE, Epilogue, copy_edge
from tinygpt.kernels.matmul.matrix import block, row_major
from tinygpt.kernels.matmul.microkernel import micro_kernel
from tinygpt.kernels.matmul.packing import format_of, pack_a, pack_b
from tinygpt.kernels.simd.cpu import LANES

STAGED = 32 * 32  # the largest block, with zeros around it
EDGE = 32 * 48  # the largest tile


class Panels(NamedTuple):
    """
    A packed operand.

    Attributes
    ----------
    data : ndarray, 1-D
        Its type tells the format: see packing.py.
    start : int
        The index at which its first panel begins.
    size : int
        How many elements a panel has.
    depth : int
        How many k were packed.
    """

    data: np.ndarray
    start: int
    size: int
    depth: int


class Scratch(NamedTuple):
    """A thread's own memory: `staged` for an incomplete block, `edge` for a tile that reaches beyond C."""

    staged: np.ndarray
    edge: np.ndarray


@inlined
def scratch_in(memory):
    """Scratch in ``STAGED + EDGE`` numbers of memory."""
    return Scratch(memory[:STAGED], memory[STAGED:])


def packed_elements(form, rows, columns, depth):
    """How many elements all panels of A (rows, depth), and all of B (depth, columns), have."""
    lines, nr = form.lines * form.unit * -(-depth // form.block), form.vectors * LANES
    return -(-rows // form.rows) * form.rows * lines, -(-columns // nr) * nr * lines


@inlined
def panel_size(form, across, depth):
    """How many elements one panel has: `across` is MR or NR."""
    return across * form.lines * form.unit * ((depth + form.block - 1) // form.block)


@inlined
def panel(panels, number):
    """The panels from that number on."""
    return Panels(panels.data, panels.start + number * panels.size, panels.size, panels.depth)


@inlined
def rows_in(packed, depth):
    """The `Panels` of an A with so many k that `pack_rows` packed before."""
    return Panels(packed, ZERO, panel_size(format_of(packed), format_of(packed).rows, depth), depth)


@inlined
def columns_in(packed, depth):
    """The `Panels` of a B with so many k that `pack_columns` packed before."""
    return Panels(packed, ZERO, panel_size(format_of(packed), format_of(packed).vectors * LANES, depth), depth)


@kernel
def pack_rows(a, packed, scratch):
    """Pack A, a `Matrix`, into `packed`; returns its `Panels`."""
    mr = format_of(packed).rows
    panels = rows_in(packed, a.columns)
    for i in range(0, a.rows, mr):
        rows = block(a, i, ZERO, min(mr, a.rows - i), a.columns)
        pack_a(rows, packed, i // mr * panels.size, scratch.staged)
    return panels


@kernel
def pack_columns(b, packed, scratch):
    """Pack B, a `Matrix`, into `packed`; returns its `Panels`."""
    nr = format_of(packed).vectors * LANES
    panels = columns_in(packed, b.rows)
    for j in range(0, b.columns, nr):
        columns = block(b, ZERO, j, b.rows, min(nr, b.columns - j))
        pack_b(columns, packed, j // nr * panels.size, scratch.staged)
    return panels


@kernel
def multiply(left, right, into, mode, scratch):
    """
    C = A B, or C += A B if `mode` is ACCUMULATE, from packed operands.

    Parameters
    ----------
    left : Panels of A
        Its depth is that of the product; its rows are at least those of C.
    right : Panels of B
        At least as deep. Its columns are those of C, or more if C's are whole panels.
    into : Matrix
        C, not transposed.
    mode : int64
        OVERWRITE or ACCUMULATE.
    scratch : Scratch
    """
    form = format_of(left.data)
    mr, nr = form.rows, form.vectors * LANES
    epilogue = Epilogue(mode, scratch.edge, ZERO, scratch.edge, NO_SQUARES)  # without bias and squares: any arrays
    for j in range(0, into.columns, nr):
        for i in range(0, into.rows, mr):
            tile = block(into, i, j, min(mr, into.rows - i), min(nr, into.columns - j))
            update_tile(panel(left, i // mr), panel(right, j // nr), tile, epilogue, None, scratch.edge)


@kernel
def update_tile(left, right, tile, epilogue, upcoming, edge):
    """
    One tile of C, from the first panel of each side; parameters as those of `micro_kernel`.

    It writes to C itself, or to `edge` where C is smaller than a tile; then what is inside C is copied.
    """
    form = format_of(left.data)
    width = (tile.columns + LANES - 1) // LANES * LANES
    whole = tile.rows == form.rows and tile.columns == width
    target, first = tile, epilogue
    if not whole:
        target = row_major(edge, ZERO, width, form.rows, width)
        first = Epilogue(OVERWRITE, epilogue.bias, ZERO, epilogue.squares, NO_SQUARES)
    micro_kernel(left, right, target, first, upcoming)
    if not whole:
        copy_edge(target, tile, epilogue)

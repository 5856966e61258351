"""
Matrices as rows of packed panels, and products of them by one thread: what gemm.py and attention.py are made of.

A panel is what a tile reads of A or B over all k (see packing.py). A panel of A has `form.rows` rows, one of B
`form.vectors` vectors of columns; of both, the last may have less. Where a panel lies follows from its number alone,

    place = number * size,   size = numbers across * form.lines * form.unit * blocks of k

and a product may use the first k of B's panels only: so the keys and values of a whole sequence are packed once, and
each token multiplies as many of them as it may see.
"""

from __future__ import annotations

from tinygpt.kernels.jit import ZERO, inlined, kernel
from tinygpt.kernels.matmul.microkernel import ACCUMULATE, OVERWRITE, WITH_BIAS, tile_1, tile_2, tile_3
from tinygpt.kernels.matmul.packing import pack_a, pack_b
from tinygpt.kernels.simd.cpu import LANES

STAGED = 32 * 32  # the largest block, with zeros around it
EDGE = 32 * 48  # the largest tile


def panel_sizes(form, depth):
    """How many elements a panel of A, and one of B, has for so many k."""
    unit = form.lines * form.unit * -(-depth // form.block)
    return form.rows * unit, form.vectors * LANES * unit


def packed_elements(form, rows, columns, depth):
    """How many elements all panels of A, and all of B, have."""
    of_a, of_b = panel_sizes(form, depth)
    return -(-rows // form.rows) * of_a, -(-columns // (form.vectors * LANES)) * of_b


@inlined
def size_of(form, across, depth):
    """`panel_sizes` of one panel, inside a kernel."""
    return across * form.lines * form.unit * ((depth + form.block - 1) // form.block)


@kernel
def pack_rows(a, along_k, stride, start, rows, depth, packed, form, staged):
    """All panels of an A of `rows` rows whose first number is ``a[start]`` (`a` is flat)."""
    place = ZERO
    for row in range(0, rows, form.rows):
        high = min(form.rows, rows - row)
        if along_k:
            pack_a(a, along_k, stride, row, high, start, depth, packed, place, form, staged)
        else:
            pack_a(a, along_k, stride, start + row, high, ZERO, depth, packed, place, form, staged)
        place += size_of(form, form.rows, depth)


@kernel
def pack_columns(b, along_k, stride, start, columns, depth, packed, form, staged):
    """All panels of a B of `columns` columns whose first number is ``b[start]`` (`b` is flat)."""
    width, place = form.vectors * LANES, ZERO
    for column in range(0, columns, width):
        wide = min(width, columns - column)
        if along_k:
            pack_b(b, along_k, stride, column, wide, start, depth, packed, place, form, staged)
        else:
            pack_b(b, along_k, stride, start + column, wide, ZERO, depth, packed, place, form, staged)
        place += size_of(form, width, depth)


@kernel
def multiply_packed(a, a_first, rows, b, columns, depth, a_size, b_size, c, start, stride, mode, form, edge):
    """
    C (+)= A B from packed panels: `rows` rows of A from panel `a_first` on, the first `columns` columns and `depth` k.

    The columns must be all that were packed, or those of whole panels. `a_size` and `b_size` are those of a panel as it
    was packed, which may be for more k. C is flat, begins at ``c[start]``, and has rows `stride` apart.
    """
    width = form.vectors * LANES
    for column in range(0, columns, width):
        wide, b_place = min(width, columns - column), column // width * b_size
        for row in range(0, rows, form.rows):
            a_place = (a_first + row // form.rows) * a_size
            target = start + row * stride + column
            high = min(form.rows, rows - row)
            tile_of(a, a_place, b, b_place, depth, c, target, high, wide, stride, mode, edge, ZERO, form, edge)


@inlined
def tile_of(a, a_place, b, b_place, deep, c, target, high, wide, stride, mode, bias, bias_start, form, edge):
    """One tile of C: straight into it, or by way of `edge` where the tile is larger than what is left of C."""
    vectors = (wide + LANES - 1) // LANES
    lines = (deep * form.lines + form.block - 1) // form.block
    if high == form.rows and wide == vectors * LANES:
        start = bias_start if mode == WITH_BIAS else ZERO
        _whole(a, a_place, b, b_place, lines, c, target, stride, mode, bias, start, vectors)
    else:
        _whole(a, a_place, b, b_place, lines, edge, ZERO, vectors * LANES, OVERWRITE, edge, ZERO, vectors)
        for i in range(high):
            for j in range(wide):
                total = edge[i * vectors * LANES + j]
                if mode == ACCUMULATE:
                    total = c[target + i * stride + j] + total
                elif mode == WITH_BIAS:
                    total = total + bias[bias_start + j]
                c[target + i * stride + j] = total


@kernel
def _whole(a, a_place, b, b_place, lines, c, target, stride, mode, bias, bias_start, vectors):
    if vectors == 3:
        tile_3(a, a_place, b, b_place, lines, c, target, stride, mode, bias, bias_start)
    elif vectors == 2:
        tile_2(a, a_place, b, b_place, lines, c, target, stride, mode, bias, bias_start)
    else:
        tile_1(a, a_place, b, b_place, lines, c, target, stride, mode, bias, bias_start)

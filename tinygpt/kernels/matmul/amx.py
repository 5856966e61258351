"""
AMX: the instructions of Intel's processors that multiply small matrices, and the tiles that they read.

AMX has eight *tile registers* of 16 lines of 64 bytes. Three instructions are all that a product needs:

    tileloadd     load 16 lines, any distance apart in memory
    tdpbf16ps     C += A B, 16 x 16 numbers of float32, for 32 k of bfloat16
    tilestored    store 16 lines

What the lines of a register hold:

    C    line i: row i, columns 0 to 15                                                           float32
    A    line i: row i, k = 0 to 31                                                               bfloat16
    B    line i: k = 2i and 2i + 1 of column 0, then of column 1, and so on to column 15          bfloat16

A is as it lies in a matrix stored along k. B is neither as it lies nor transposed: two neighbouring k of a column make
a pair, one word of 4 bytes, and a line holds the pairs of 16 columns.

One such product is 16,384 operations in 16 cycles, sixteen times what a core's vector units do in float32. So the
operands, not the multiplications, are what takes time, and each rule below is about moving less:

    32 x 32 tile    Four registers hold sums, two hold A and two hold B: four loads for four products. With one register
                    of sums it would be two loads for one.
    dense tiles     The 16 lines follow each other in memory: 16 whole cache lines, read one after the other. Inside of
                    a matrix they would lie on 16 pages, or compete for the same places of the cache.
    pack meanwhile  AMX and the vector units are different parts of a core. `add_products_and_pack` gives both work:
                    a quarter of a dense tile of the next B is rounded and packed between two products.

Packing rounds float32 to bfloat16, for A and for B. B may be a quantized weight, too: int8 is converted, and bfloat16
is what tiles hold. A panel of 32 rows of A, or of 32 columns of B, has two dense tiles for each 32 k.

Denormal numbers count as zero: so do these instructions, and those that round to bfloat16.

Source: Intel's Architecture Instruction Set Extensions Programming Reference, chapter 3; Intel's Optimization Reference
        Manual, chapter 20 (the 2 x 2 blocking, and vector code between AMX's instructions).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.matmul.epilogue import ACCUMULATE, OVERWRITE
from tinygpt.kernels.matmul.matrix import address, members
from tinygpt.kernels.simd.llvm import (
    BFLOAT,
    INT8,
    INT16,
    INT32,
    INT64,
    advance,
    load_float32,
    loop,
    numpy_bfloat16_pairs,
    pointer,
    prefetch,
    skip,
    switch,
    transpose,
)
from tinygpt.runtime.capture import constant

ROWS = COLUMNS = 32  # of a tile of C
STEP = 32  # k that one instruction multiplies
TILE = 512  # uint16 in a dense tile
WORDS = 256  # of 4 bytes in a dense tile
_LINE = ir.VectorType(INT32, 16)  # a line of one

# AMX's tile configuration, 64 bytes: palette 1; for each of eight registers the bytes of a row, and how many rows.
AMX_LAYOUT = constant(np.zeros(64, np.uint8))
AMX_LAYOUT[0], AMX_LAYOUT[16:32:2], AMX_LAYOUT[48:56] = 1, 64, 16


def amx(builder: Any, name: str, *arguments: Any) -> None:
    """Emit one of AMX's instructions; an int is the number of a register."""
    values = [INT8(argument) if isinstance(argument, int) else argument for argument in arguments]
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    builder.call(builder.module.declare_intrinsic(f"llvm.x86.{name}", (), kind), values)


def load_dense(builder: Any, register: int, place: Any) -> None:
    """Load a dense tile."""
    amx(builder, "tileloadd64", register, place, INT64(64))


def pack_dense(
    builder: Any, read: Any, stride: Any, dtype: Any, write: Any, of_a: bool, along_k: bool
) -> Iterator[None]:
    """
    Emit the packing of a dense tile, in four parts: the caller may emit other instructions between them.

    `read` is where 32 k of 16 rows of A, or of 16 columns of B, begin in a matrix; its rows are `stride` numbers
    apart. `dtype` is Numba's type of these, as `to_float32` takes it.
    """
    vectors = []
    for part in range(4):
        for index in range(4 * part, 4 * part + 4):
            if along_k:  # 32 k of one row or column
                vector = _along(builder, read, dtype)
                read = skip(builder, read, stride, dtype)
            else:  # two k of 16 rows or columns
                below = skip(builder, read, stride, dtype)
                if dtype == types.uint16:  # a row of a panel is one line: prefetch the one beside it, of the next panel
                    for place in (read, below):
                        prefetch(builder, skip(builder, place, COLUMNS, dtype), cache=2)
                vector = _across(builder, read, below, dtype)
                read = skip(builder, below, stride, dtype)
            if of_a == along_k:  # it is a line of the tile
                builder.store(vector, advance(builder, write, 16 * index), align=4)
            vectors.append(vector)
        if part == 3 and of_a != along_k:
            for index, line in enumerate(transpose(builder, vectors)):
                builder.store(line, advance(builder, write, 16 * index), align=4)
        yield


def _along(builder: Any, address: Any, dtype: Any) -> Any:
    """32 numbers side by side as bfloat16, in 16 words."""
    if dtype == types.uint16:
        return builder.load(address, align=2, typ=_LINE)
    return builder.bitcast(_rounded(builder, address, skip(builder, address, 16, dtype), dtype), _LINE)


def _across(builder: Any, first: Any, second: Any, dtype: Any) -> Any:
    """16 numbers at each address, of two k, as 16 pairs of bfloat16."""
    if dtype == types.uint16:
        halves = [builder.load(address, align=2, typ=ir.VectorType(INT16, 16)) for address in (first, second)]
    else:
        halves = [_rounded(builder, first, second, dtype)] * 2
    order = ir.Constant(ir.VectorType(INT32, 32), [index for lane in range(16) for index in (lane, 16 + lane)])
    return builder.bitcast(builder.shuffle_vector(*halves, order), _LINE)


def _rounded(builder: Any, first: Any, second: Any, dtype: Any) -> Any:
    """16 numbers at each address as 32 of bfloat16's bits."""
    low, high = (load_float32(builder, address, dtype, 16) for address in (first, second))
    kind = ir.FunctionType(ir.VectorType(BFLOAT, 32), [low.type] * 2)
    convert = builder.module.declare_intrinsic("llvm.x86.avx512bf16.cvtne2ps2bf16.512", (), kind)
    return builder.bitcast(builder.call(convert, [high, low]), ir.VectorType(INT16, 32))


def _add_step(builder: Any, a: Any, b: Any) -> None:
    """Registers 0 to 3 += 32 rows of A (4, 5) times 32 columns of B (6, 7), for 32 k."""
    load_dense(builder, 6, b)
    load_dense(builder, 4, a)
    amx(builder, "tdpbf16ps", 0, 4, 6)
    load_dense(builder, 7, advance(builder, b, WORDS))
    amx(builder, "tdpbf16ps", 1, 4, 7)
    load_dense(builder, 5, advance(builder, a, WORDS))
    amx(builder, "tdpbf16ps", 2, 5, 6)
    amx(builder, "tdpbf16ps", 3, 5, 7)


def _steps(builder: Any, count: Any, a: Any, b: Any, upcoming: Any = None) -> list[Any]:
    """`count` steps; with an address in `upcoming`, each prefetches four lines from there on."""

    def body(state: list[Any]) -> list[Any]:
        a, b, *lines = state
        for place in lines:
            for index in range(4):
                prefetch(builder, advance(builder, place, 16 * index), cache=2)
        _add_step(builder, a, b)
        following = [advance(builder, place, 4 * 16) for place in lines]
        return [advance(builder, a, 2 * WORDS), advance(builder, b, 2 * WORDS), *following]

    return loop(builder, count, [a, b] if upcoming is None else [a, b, upcoming], body)


def _four_steps_and_pack(
    builder: Any, count: Any, along_k: bool, stride: Any, dtype: Any, state: list[Any]
) -> list[Any]:
    """`count` times four steps, each time with a dense tile of the next B packed."""

    def body(state: list[Any]) -> list[Any]:
        a, b, read, write = state
        parts = pack_dense(builder, read, stride, dtype, write, of_a=False, along_k=along_k)
        for _ in range(4):
            _add_step(builder, a, b)
            next(parts)
            a, b = advance(builder, a, 2 * WORDS), advance(builder, b, 2 * WORDS)
        across = builder.mul(stride, INT64(16)) if along_k else INT64(16)
        return [a, b, skip(builder, read, across, dtype), advance(builder, write, WORDS)]

    return loop(builder, count, state, body)


def _sums(builder: Any, place: Any, instruction: str) -> None:
    """Load or store all four registers of sums: 32 rows of 32 numbers, 128 bytes apart."""
    for register in range(4):
        here = advance(builder, place, register // 2 * 16 * COLUMNS + register % 2 * 16)
        amx(builder, instruction, register, here, INT64(4 * COLUMNS))


def _load_or_clear(builder: Any, place: Any, clear: Any) -> None:
    with builder.if_else(clear) as (then, otherwise):
        with then:
            for register in range(4):
                amx(builder, "tilezero", register)
        with otherwise:
            _sums(builder, place, "tileloadd64")


def prefetch_tile(builder: Any, c: Any, stride: Any, rows: int, columns: int) -> None:
    """Emit prefetches of a tile of C, to be written."""
    for _ in range(rows):
        for word in range(0, columns, 16):
            prefetch(builder, advance(builder, c, word), to_write=True)
        c = advance(builder, c, stride)


def multiply_tile(
    builder: Any, a: Any, b: Any, steps: Any, c: Any, stride: Any, mode: Any, bias: Any, vectors: int
) -> None:
    """
    Emit a tile of C = A B, 32 rows and `vectors` times 16 columns, written to C itself: the micro-kernel with AMX.

    Registers 0 to 3 hold the sums, 4 and 5 rows of A, 6 and 7 columns of B.
    """
    prefetch_tile(builder, c, stride, ROWS, 16 * vectors)
    row_bytes = builder.mul(stride, INT64(4))
    sums = []  # register, its place in C, its first vector of columns
    for row in range(2):
        sums += [(2 * row + v, advance(builder, c, 16 * v), v) for v in range(vectors)]
        c = advance(builder, c, builder.mul(stride, INT64(16)))

    def begin(mode: int) -> None:
        for register, place, v in sums:
            if mode == OVERWRITE:
                amx(builder, "tilezero", register)
            elif mode == ACCUMULATE:
                amx(builder, "tileloadd64", register, place, row_bytes)
            else:  # WITH_BIAS: the same line sixteen times, a row stride of 0
                amx(builder, "tileloadd64", register, advance(builder, bias, 16 * v), INT64(0))

    def step(state: list[Any]) -> list[Any]:
        a, b = state
        for row in range(2):
            load_dense(builder, 4 + row, advance(builder, a, WORDS * row))
        for v in range(vectors):
            load_dense(builder, 6 + v, advance(builder, b, WORDS * v))
        for index, (register, _, v) in enumerate(sums):
            amx(builder, "tdpbf16ps", register, 4 + index // vectors, 6 + v)
        return [advance(builder, a, 2 * WORDS), advance(builder, b, WORDS * vectors)]

    switch(builder, mode, 3, begin)
    loop(builder, steps, [a, b], step)
    for register, place, _ in sums:
        amx(builder, "tilestored64", register, place, row_bytes)


def unpacked_a(panel: np.ndarray) -> np.ndarray:
    """A packed panel of A, uint16, as the float32 matrix (32, k)."""
    return _numbers(panel.reshape(-1, ROWS, STEP)).transpose(1, 0, 2).reshape(ROWS, -1)


def unpacked_b(panel: np.ndarray, columns: int = COLUMNS) -> np.ndarray:
    """A packed panel of B, uint16, as the float32 matrix (k, columns)."""
    tiles = panel.reshape(-1, columns // 16, 16, 16, 2)  # 32 k, 16 columns, pair, column, k of the pair
    return _numbers(tiles.transpose(0, 2, 4, 1, 3)).reshape(-1, columns)


def _numbers(words: np.ndarray) -> np.ndarray:
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def numpy_pack_dense(source, first, stride, target, target_start, of_a, along_k):
    """`pack_dense` in NumPy; the lines follow each other."""
    shape = (16, STEP) if along_k else (STEP, 16)
    block = np.stack([source[first + i * stride :][: shape[1]] for i in range(shape[0])])
    numbers = block if along_k else block.T  # (16 rows or columns, k)
    pairs = numpy_bfloat16_pairs(numbers[:, 0::2], numbers[:, 1::2])
    target[target_start:][:TILE] = np.ascontiguousarray(pairs if of_a else pairs.T).view(np.uint16).reshape(-1)


if numba.config.DISABLE_JIT:

    def configure_amx(packed, layout):
        pass

    def release_amx(packed):
        pass

    def prefetch_tile_of_c(tile):
        pass

    def add_products(left, right, sums, clear):
        a, b = (side.data[side.start :][: COLUMNS * left.depth] for side in (left, right))
        total = unpacked_a(a) @ unpacked_b(b)
        tile = sums.data[sums.start :][: ROWS * COLUMNS].reshape(ROWS, COLUMNS)
        tile[:] = total if clear else tile + total

    def add_products_and_prefetch(left, right, sums, clear, upcoming):
        add_products(left, right, sums, clear)

    def add_products_and_pack(left, right, sums, clear, source, target):
        add_products(left, right, sums, clear)
        for tile in range(left.depth // STEP // 4):
            first = source.start + tile * 16 * (source.stride if source.transposed else 1)
            start = target.start + tile * TILE
            numpy_pack_dense(source.data, first, source.stride, target.data, start, False, source.transposed)

else:

    @intrinsic
    def configure_amx(typingctx, packed, layout):
        """Before AMX's other instructions: load its tile configuration, if `packed` is an array for AMX (uint16)."""

        def codegen(context, builder, signature, arguments):
            if signature.args[0].dtype == types.uint16:
                amx(builder, "ldtilecfg", pointer(context, builder, signature.args[1], arguments[1], INT64(0)))

        return types.void(packed, layout), codegen

    @intrinsic
    def release_amx(typingctx, packed):
        """After the last: release AMX's registers, so that no context switch saves and restores them."""

        def codegen(context, builder, signature, arguments):
            if signature.args[0].dtype == types.uint16:
                amx(builder, "tilerelease")

        return types.void(packed), codegen

    @intrinsic
    def prefetch_tile_of_c(typingctx, tile):
        """Prefetch a tile of C for writing, 32 x 32 numbers: it arrives while its sums are computed."""

        def codegen(context, builder, signature, arguments):
            place = address(context, builder, signature.args[0], arguments[0])
            prefetch_tile(builder, place, members(builder, signature.args[0], arguments[0]).stride, ROWS, COLUMNS)
            return context.get_dummy_value()

        return types.void(tile), codegen

    @intrinsic
    def add_products(typingctx, left, right, sums, clear):
        """
        sums += A B; sums = A B if `clear`.

        `left` and `right` are packed panels of whole steps, 32 k each; `sums` is a `Matrix`, 32 x 32, whose numbers
        follow each other in memory.
        """

        def codegen(context, builder, signature, arguments):
            a, b, place = (address(context, builder, signature.args[i], arguments[i]) for i in range(3))
            _load_or_clear(builder, place, arguments[3])
            _steps(builder, _steps_in(builder, signature, arguments), a, b)
            _sums(builder, place, "tilestored64")
            return context.get_dummy_value()

        return types.void(left, right, sums, types.boolean), codegen

    @intrinsic
    def add_products_and_prefetch(typingctx, left, right, sums, clear, upcoming):
        """
        As `add_products`; each step prefetches four lines into the second-level cache, from where `upcoming` begins.

        `upcoming` is `Panels`.
        """

        def codegen(context, builder, signature, arguments):
            a, b, place, lines = (address(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 2, 4))
            _load_or_clear(builder, place, arguments[3])
            _steps(builder, _steps_in(builder, signature, arguments), a, b, lines)
            _sums(builder, place, "tilestored64")
            return context.get_dummy_value()

        return types.void(left, right, sums, types.boolean, upcoming), codegen

    @intrinsic
    def add_products_and_pack(typingctx, left, right, sums, clear, source, target):
        """
        As `add_products`, of four steps or more, and packs a part of another panel of B meanwhile.

        For each four of the steps one dense tile is packed: the first from where `source` begins, a `Matrix`, to where
        `target` begins, `Panels`; the next one from the 16 columns after those.
        """

        def codegen(context, builder, signature, arguments):
            a, b, place, write = (address(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 2, 5))
            read, kind = address(context, builder, signature.args[4], arguments[4]), signature.args[4]
            source, steps = members(builder, kind, arguments[4]), _steps_in(builder, signature, arguments)
            fours, rest = builder.lshr(steps, INT64(2)), builder.and_(steps, INT64(3))

            def multiply_and_pack(along_k: bool) -> None:
                state = [a, b, read, write]
                state = _four_steps_and_pack(builder, fours, along_k, source.stride, kind[0].dtype, state)
                _steps(builder, rest, *state[:2])

            _load_or_clear(builder, place, arguments[3])
            with builder.if_else(source.transposed) as (along_k, across):
                with along_k:
                    multiply_and_pack(along_k=True)
                with across:
                    multiply_and_pack(along_k=False)
            _sums(builder, place, "tilestored64")
            return context.get_dummy_value()

        return types.void(left, right, sums, types.boolean, source, target), codegen

    def _steps_in(builder, signature, arguments):
        return builder.lshr(members(builder, signature.args[0], arguments[0]).depth, INT64(5))

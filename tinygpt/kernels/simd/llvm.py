"""
Words for what Numba cannot say: pieces of LLVM code that the packing and the tiles of the matrix product are written
with, and a counter that several threads share.

bfloat16 is the upper half of a float32: 8 bits of exponent, 8 of precision. Processors multiply it in *pairs*: two
numbers of neighbouring k in one 32-bit word, the first in the lower half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.runtime import bfloat16

FLOAT, INT8, INT16, INT32, INT64 = ir.FloatType(), *(ir.IntType(bits) for bits in (8, 16, 32, 64))
POINTER = ir.PointerType()


class _BFloat16(ir.Type):
    """LLVM's type `bfloat`, which llvmlite does not know."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


BFLOAT = _BFloat16()


def pointer(context: Any, builder: Any, array_type: Any, array: Any, start: Any) -> Any:
    """The address of `array[start]`."""
    data = context.make_array(array_type)(context, builder, array).data
    place = builder.gep(data, [start], source_etype=context.get_data_type(array_type.dtype))
    place.type = POINTER  # to anything: Numba's own pointers insist on what they point to
    return place


def moved(builder: Any, address: Any, words: Any) -> Any:
    """The address so many 4-byte words on; `words` is an int or an LLVM value."""
    return builder.gep(address, [INT64(words) if isinstance(words, int) else words], source_etype=INT32)


def load(builder: Any, address: Any, element: Any, lanes: int) -> Any:
    """`lanes` elements from memory that need not be aligned."""
    return builder.load(address, align=4, typ=ir.VectorType(element, lanes))


def prefetch(builder: Any, address: Any, to_write: bool = False, cache: int = 1) -> None:
    """Ask for a line of 64 bytes in good time, into the first or second cache; harmless where there is no memory."""
    kind = ir.FunctionType(ir.VoidType(), [POINTER, INT32, INT32, INT32])
    ask = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
    builder.call(ask, [address, INT32(int(to_write)), INT32(4 - cache), INT32(1)])


def zipped(builder: Any, vectors: list[Any]) -> list[Any]:
    """
    R vectors of L lanes as one stream in which the first lanes of all come first, then the second lanes of all ...

    With the rows of a matrix as vectors, the stream is its transpose. Each round interleaves vector i with vector
    i + R/2, as a perfect shuffle of cards does; after log2(R) rounds each lane's number has moved to the front.
    """
    lanes, rounds = vectors[0].type.count, len(vectors).bit_length() - 1
    low = [index for i in range(lanes // 2) for index in (i, lanes + i)]
    high = [index for i in range(lanes // 2, lanes) for index in (i, lanes + i)]
    for _ in range(rounds):
        half = len(vectors) // 2
        vectors = [
            builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, lanes), order))
            for a, b in zip(vectors[:half], vectors[half:], strict=True)
            for order in (low, high)
        ]
    return vectors


def rounded(builder: Any, vector: Any) -> Any:
    """Floats as bfloat16, to the nearest, ties to even; NaN stays NaN."""
    return builder.fptrunc(vector, ir.VectorType(BFLOAT, vector.type.count))


def paired(builder: Any, first: Any, second: Any) -> Any:
    """Two vectors of floats as one of pairs."""
    lanes = first.type.count
    halves = [builder.bitcast(rounded(builder, v), ir.VectorType(INT16, lanes)) for v in (first, second)]
    wide = ir.VectorType(INT32, lanes)
    low, high = (builder.zext(half, wide) for half in halves)
    return builder.or_(low, builder.shl(high, ir.Constant(wide, [16] * lanes)))


def counted(builder: Any, count: Any, state: list[Any], body: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """Run `body` `count` times, each time on the values that it returned before; returns the last ones."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index, *values = [builder.phi(value.type) for value in (count, *state)]
    for phi, value in zip((index, *values), (INT64(0), *state), strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
    builder.position_at_end(inside)
    for phi, value in zip((index, *values), (builder.add(index, INT64(1)), *body(values)), strict=True):
        phi.add_incoming(value, inside)
    builder.branch(head)
    builder.position_at_end(after)
    return values


def one_of(builder: Any, choice: Any, count: int, body: Callable[[int], None]) -> None:
    """Run `body(choice)`, written out for each choice from 0 to count - 1."""
    done, *blocks = [builder.append_basic_block("choice") for _ in range(count + 1)]
    switch = builder.switch(choice, blocks[0])
    for value, block in enumerate(blocks):
        if value:
            switch.add_case(INT64(value), block)
        builder.position_at_end(block)
        body(value)
        builder.branch(done)
    builder.position_at_end(done)


def pairs_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two float32 arrays as one of pairs: `paired` in NumPy."""
    low, high = (bfloat16.rounded(array).astype(np.uint32) for array in (first, second))
    return low | high << np.uint32(16)


if numba.config.DISABLE_JIT:

    def take(counters, index):
        counters[index] += 1
        return counters[index] - 1

    def ask_for(array, index):
        pass

    def widened(number):
        return bfloat16.widened(number)[()] if number.dtype == np.uint16 else np.float32(number)

else:

    @intrinsic
    def take(typingctx, counters, index):
        """Add 1 to `counters[index]` and return what it was: the next unit of work, whichever thread asks."""

        def codegen(context, builder, signature, arguments):
            place = pointer(context, builder, signature.args[0], *arguments)
            return builder.atomic_rmw("add", place, INT64(1), "monotonic")

        return types.int64(counters, types.int64), codegen

    @intrinsic
    def ask_for(typingctx, array, index):
        """Have `array[index]`, with what shares its line of 64 bytes, brought to the second cache."""

        def codegen(context, builder, signature, arguments):
            prefetch(builder, pointer(context, builder, signature.args[0], *arguments), cache=2)
            return context.get_dummy_value()

        return types.void(array, types.int64), codegen

    @intrinsic
    def widened(typingctx, number):
        """The float32 of a weight: a float32 itself, an int8, or a uint16 with the bits of a bfloat16."""

        def codegen(context, builder, signature, arguments):
            if number == types.float32:
                return arguments[0]
            if number == types.int8:
                return builder.sitofp(arguments[0], FLOAT)
            return builder.bitcast(builder.shl(builder.zext(arguments[0], INT32), INT32(16)), FLOAT)

        return types.float32(number), codegen

"""
Pieces of LLVM code, for the functions that Numba cannot express: vectors, addresses, loops. Each takes Numba's IR
builder and emits instructions there. What kernels call is made of these: see intrinsics.py, math.py, gemv.py and the
micro-kernel of the matrix product.

bfloat16 is the upper half of a float32: 8 bits of exponent, 8 of precision. Processors multiply it in *pairs*: two
numbers of consecutive k in one 32-bit word, the first in the lower half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from tinygpt.kernels.simd.cpu import FUSED, PMADDWD
from tinygpt.runtime import bfloat16

FLOAT, INT8, INT16, INT32, INT64 = ir.FloatType(), *(ir.IntType(bits) for bits in (8, 16, 32, 64))
POINTER = ir.PointerType()
ELEMENTS = {types.float32: FLOAT, types.int8: INT8, types.uint16: INT16}  # what a weight may be: see `to_float32`


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


def advance(builder: Any, address: Any, words: Any) -> Any:
    """The address `words` 4-byte words further on; `words` is an int or an LLVM value."""
    return builder.gep(address, [INT64(words) if isinstance(words, int) else words], source_etype=INT32)


def load(builder: Any, address: Any, element: Any, lanes: int) -> Any:
    """A vector of `lanes` elements; the address need not be aligned to more than 4 bytes."""
    return builder.load(address, align=4, typ=ir.VectorType(element, lanes))


def skip(builder: Any, address: Any, count: Any, dtype: Any) -> Any:
    """The address `count` numbers further on; `dtype` is Numba's type of the numbers."""
    return builder.gep(address, [INT64(count) if isinstance(count, int) else count], source_etype=ELEMENTS[dtype])


def load_float32(builder: Any, address: Any, dtype: Any, lanes: int) -> Any:
    """A vector of `lanes` numbers of a type that `to_float32` takes, as float32."""
    vector = builder.load(address, align=dtype.bitwidth // 8, typ=ir.VectorType(ELEMENTS[dtype], lanes))
    return to_float32(builder, vector, dtype)


def prefetch(builder: Any, address: Any, to_write: bool = False, cache: int = 1) -> None:
    """Prefetch the 64-byte line of an address into the first- or second-level cache; an invalid address is harmless."""
    kind = ir.FunctionType(ir.VoidType(), [POINTER, INT32, INT32, INT32])
    instruction = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
    builder.call(instruction, [address, INT32(int(to_write)), INT32(4 - cache), INT32(1)])


def broadcast(builder: Any, number: Any, lanes: int) -> Any:
    """`number`, broadcast to the `lanes` lanes of a vector."""
    wide = ir.VectorType(number.type, lanes)
    first = builder.insert_element(wide(ir.Undefined), number, INT32(0))
    return builder.shuffle_vector(first, wide(ir.Undefined), ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """
    a * b + c for float32 numbers or vectors, rounded once where the processor has an instruction for it.

    Without one, LLVM's "fma" would be a library call; "fmuladd" is then a multiplication and an addition.
    """
    kind = a.type
    suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
    name = f"llvm.{'fma' if FUSED else 'fmuladd'}.{suffix}"
    return builder.call(builder.module.declare_intrinsic(name, (), ir.FunctionType(kind, [kind] * 3)), [a, b, c])


def multiply_pairs(builder: Any, a: Any, b: Any) -> Any:
    """
    a[2i] b[2i] + a[2i + 1] b[2i + 1] for all i: two vectors of int16 as one of int32, of half as many lanes.

    x86 has an instruction for it, which LLVM does not find by itself. It does join it with the addition that follows
    where the processor has that too (AVX512_VNNI, AVX_VNNI).
    """
    lanes = a.type.count // 2
    if lanes in PMADDWD:
        kind = ir.FunctionType(ir.VectorType(INT32, lanes), [a.type] * 2)
        # not `declare_intrinsic`: it would add the types to a name that has none
        instruction = cgutils.get_or_insert_function(builder.module, kind, PMADDWD[lanes])
        return builder.call(instruction, [a, b])
    products = builder.mul(*(builder.sext(v, ir.VectorType(INT32, 2 * lanes)) for v in (a, b)))
    even, odd = (
        builder.shuffle_vector(
            products, products, ir.Constant(ir.VectorType(INT32, lanes), list(range(first, 2 * lanes, 2)))
        )
        for first in (0, 1)
    )
    return builder.add(even, odd)


def sum_of_lanes(builder: Any, vector: Any) -> Any:
    """The sum of a vector: its halves added, until one number is left."""
    while vector.type.count > 1:
        half = vector.type.count // 2
        low, high = (
            builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(INT32, half), list(range(start, start + half)))
            )
            for start in (0, half)
        )
        vector = (builder.add if isinstance(vector.type.element, ir.IntType) else builder.fadd)(low, high)
    return builder.extract_element(vector, INT32(0))


def transpose(builder: Any, vectors: list[Any]) -> list[Any]:
    """
    The rows of an (R, L) matrix as vectors: its transpose, (L, R), in as many vectors, one row after the other.

    Each round interleaves vector i with vector i + R/2, as a perfect shuffle of cards does; after log2(R) rounds the
    first lanes of all vectors come first, then all second lanes, and so on.
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


def to_float32(builder: Any, value: Any, dtype: Any) -> Any:
    """A weight, or a vector of weights, as float32; `dtype` is Numba's float32, int8, or uint16: bfloat16 bits."""

    def like(element: Any) -> Any:
        return ir.VectorType(element, value.type.count) if isinstance(value.type, ir.VectorType) else element

    if dtype == types.float32:
        return value
    if dtype == types.int8:
        return builder.sitofp(value, like(FLOAT))
    words = builder.zext(value, like(INT32))
    sixteen = ir.Constant(words.type, [16] * words.type.count) if isinstance(words.type, ir.VectorType) else INT32(16)
    return builder.bitcast(builder.shl(words, sixteen), like(FLOAT))


def to_bfloat16(builder: Any, vector: Any) -> Any:
    """A vector of float32 as bfloat16, rounded to nearest, ties to even; NaN stays NaN."""
    return builder.fptrunc(vector, ir.VectorType(BFLOAT, vector.type.count))


def to_bfloat16_pairs(builder: Any, first: Any, second: Any) -> Any:
    """Two vectors of float32 as one of pairs."""
    lanes = first.type.count
    halves = [builder.bitcast(to_bfloat16(builder, v), ir.VectorType(INT16, lanes)) for v in (first, second)]
    wide = ir.VectorType(INT32, lanes)
    low, high = (builder.zext(half, wide) for half in halves)
    return builder.or_(low, builder.shl(high, ir.Constant(wide, [16] * lanes)))


def add_squares(builder: Any, vectors: list[Any], place: Any) -> None:
    """Add the squares of vectors of float32 to the vector of float64 at an address, in which each square is exact."""
    wide = ir.VectorType(ir.DoubleType(), vectors[0].type.count)
    sums = [ir.Constant(wide, [0.0] * wide.count)] * 4  # so that four additions are under way
    for number, vector in enumerate(vectors):
        double = builder.fpext(vector, wide)
        square = builder.fmul(double, double, flags=("contract",))
        sums[number % 4] = builder.fadd(sums[number % 4], square, flags=("contract",))
    sums = [builder.fadd(sums[0], sums[1]), builder.fadd(sums[2], sums[3])]
    before = builder.load(place, align=8, typ=wide)
    builder.store(builder.fadd(before, builder.fadd(*sums)), place, align=8)


def loop(builder: Any, count: Any, state: list[Any], body: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """Run `body` `count` times, each time on the values that it returned last; returns the final ones."""
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


def switch(builder: Any, choice: Any, count: int, body: Callable[[int], None]) -> None:
    """Run `body(choice)`, which is emitted once for each choice from 0 to count - 1."""
    done, *blocks = [builder.append_basic_block("choice") for _ in range(count + 1)]
    jump = builder.switch(choice, blocks[0])
    for value, block in enumerate(blocks):
        if value:
            jump.add_case(INT64(value), block)
        builder.position_at_end(block)
        body(value)
        builder.branch(done)
    builder.position_at_end(done)


def numpy_bfloat16_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two arrays of a type that `to_float32` takes as one of uint32, pairs of bfloat16, in NumPy."""
    low, high = (
        (array if array.dtype == np.uint16 else bfloat16.to_bfloat16(array)).astype(np.uint32)
        for array in (first, second)
    )
    return low | high << np.uint32(16)

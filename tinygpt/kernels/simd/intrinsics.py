"""
Instructions that Numba has no name for, as functions that kernels call: conversion to float32, the transpose
of a block in registers, and an atomic counter that several threads share.

With NUMBA_DISABLE_JIT=1 each is a plain Python function that does the same.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.simd import llvm
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.runtime import bfloat16

if numba.config.DISABLE_JIT:

    def fetch_and_increment(counters, index):
        counters[index] += 1
        return counters[index] - 1

    def transpose_block(source, start, stride, target, target_start, target_stride):
        for i in range(LANES):
            for j in range(LANES):
                target[target_start + j * target_stride + i] = source[start + i * stride + j]

    stream_transposed_block = transpose_block

    def to_float32(number):
        return bfloat16.to_float32(number)[()] if number.dtype == np.uint16 else np.float32(number)

else:

    @intrinsic
    def fetch_and_increment(typingctx, counters, index):
        """Add 1 to `counters[index]` atomically and return what it was: the number of the next task to do."""

        def codegen(context, builder, signature, arguments):
            place = llvm.pointer(context, builder, signature.args[0], *arguments)
            return builder.atomic_rmw("add", place, llvm.INT64(1), "monotonic")

        return types.int64(counters, types.int64), codegen

    def _make_transpose_block(non_temporal):
        @intrinsic
        def transpose_block(typingctx, source, start, stride, target, target_start, target_stride):
            def codegen(context, builder, signature, arguments):
                read = llvm.pointer(context, builder, signature.args[0], *arguments[:2])
                write = llvm.pointer(context, builder, signature.args[3], *arguments[3:5])
                rows = []
                for _ in range(LANES):
                    rows.append(llvm.load(builder, read, llvm.FLOAT, LANES))
                    read = llvm.advance(builder, read, arguments[2])
                for row in llvm.transpose(builder, rows):
                    store = builder.store(row, write, align=4 * LANES if non_temporal else 4)
                    if non_temporal:
                        store.set_metadata("nontemporal", builder.module.add_metadata([llvm.INT32(1)]))
                    write = llvm.advance(builder, write, arguments[5])
                return context.get_dummy_value()

            n = types.int64
            return types.void(source, n, n, target, n, n), codegen

        return transpose_block

    # Copy a block of LANES x LANES float32, transposed. Element by element it takes more than twice as long: the
    # columns of a matrix are strided reads. The second writes past the caches, to rows that are aligned to a vector.
    transpose_block, stream_transposed_block = _make_transpose_block(False), _make_transpose_block(True)

    @intrinsic
    def to_float32(typingctx, number):
        """A weight as float32: a float32 itself, an int8, or a uint16 with the bits of a bfloat16."""

        def codegen(context, builder, signature, arguments):
            return llvm.to_float32(builder, arguments[0], number)

        return types.float32(number), codegen

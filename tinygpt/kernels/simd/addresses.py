"""
Arrays by their addresses: one array of integers stands for the weights of all layers.

Whoever calls a compiled function from Python pays about a tenth of a microsecond per array, and a model has more than a
hundred. So a kernel gets the arrays of the first layer, which tell shapes and types, and for each layer the addresses
of as many contiguous arrays of the same shapes and types:

    at_addresses((a, (b, c)), addresses)        such a tuple, of the arrays at these three addresses

Nothing keeps these arrays alive but whoever made the addresses.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from tinygpt.kernels.simd.llvm import INT64

if numba.config.DISABLE_JIT:

    def at_addresses(like, addresses):
        def moved(item):
            if isinstance(item, tuple):
                return tuple(map(moved, item))
            memory = (ctypes.c_char * item.nbytes).from_address(next(remaining))
            return np.frombuffer(memory, item.dtype).reshape(item.shape)

        remaining = iter(addresses.tolist())
        return moved(like)

else:

    @intrinsic
    def at_addresses(typingctx, like, addresses):
        """A tuple like the given one, of the arrays at these addresses."""

        def codegen(context, builder, signature, arguments):
            def moved(kind: Any, value: Any, place: int) -> tuple[Any, int]:
                if isinstance(kind, types.BaseTuple):  # type: ignore[attr-defined]
                    items = []
                    for item_kind, item in zip(kind, cgutils.unpack_tuple(builder, value, len(kind)), strict=True):
                        item, place = moved(item_kind, item, place)
                        items.append(item)
                    return context.make_tuple(builder, kind, items), place
                array = context.make_array(kind)(context, builder, value)
                address = builder.load(builder.gep(first, [INT64(place)]))
                array.data = builder.inttoptr(address, array.data.type)
                array.meminfo = array.parent = cgutils.get_null_value(array.meminfo.type)
                return array._getvalue(), place + 1

            first = context.make_array(signature.args[1])(context, builder, arguments[1]).data
            return moved(signature.args[0], arguments[0], 0)[0]

        return like(like, addresses), codegen

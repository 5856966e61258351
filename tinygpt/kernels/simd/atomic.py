"""
Memory that several threads read and write at once, and what a thread needs to wait for another: a pause, the time, and
sleep until it is woken (Linux's futex).

A *word* is an int64 at an address that is a multiple of 8. `load`, `store`, `add` and `compare_and_swap` are
sequentially consistent: all threads see them in one order. Besides: `read` and `write`, for words that no other thread
writes meanwhile; `call`, to functions whose address is known; and memory on the stack.

Source: `man 2 futex`; the numbers of the system call are Linux's for each kind of processor.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tinygpt.kernels.simd.llvm import INT32, INT64, POINTER

_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine(), 0)
_WAIT, _WAKE = 128, 129  # FUTEX_WAIT and FUTEX_WAKE of threads of one process
_MONOTONIC = 1  # the clock CLOCK_MONOTONIC
_OF_THREAD = 1  # RUSAGE_THREAD
SUPPORTED = sys.platform == "linux" and sys.maxsize > 2**32 and sys.byteorder == "little" and _FUTEX > 0

_ORDER = "seq_cst"


def _place(builder: Any, address: Any, index: Any) -> Any:
    """A pointer to word `index` from an address on."""
    return builder.inttoptr(builder.add(address, builder.shl(index, INT64(3))), INT64.as_pointer())


def _function(builder: Any, name: str, result: Any, arguments: list[Any], more: bool = False) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments, var_arg=more), name)


def _emitted(result: Any, count: int, emit: Callable) -> Any:
    """An intrinsic of `count` int64 arguments, the value of which is what `emit(builder, *arguments)` makes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = emit(builder, *arguments)
        return context.get_dummy_value() if result is types.void else value

    return result(*[types.int64] * count), codegen


@intrinsic
def load(typingctx, address, index):
    """Word `index` from an address on."""
    return _emitted(types.int64, 2, lambda b, *at: b.load_atomic(_place(b, *at), _ORDER, 8, typ=INT64))


@intrinsic
def store(typingctx, address, index, value):
    """Give a word a value."""
    return _emitted(types.void, 3, lambda b, a, i, value: b.store_atomic(value, _place(b, a, i), _ORDER, 8))


@intrinsic
def add(typingctx, address, index, value):
    """Add to a word, and return what it was."""
    return _emitted(types.int64, 3, lambda b, a, i, value: b.atomic_rmw("add", _place(b, a, i), value, _ORDER))


@intrinsic
def compare_and_swap(typingctx, address, index, expected, value):
    """Give a word a value if it is the expected one; whether it was."""

    def emit(builder, a, i, expected, value):
        found = builder.cmpxchg(_place(builder, a, i), expected, value, _ORDER)
        return builder.zext(builder.extract_value(found, 1), INT64)

    return _emitted(types.int64, 4, emit)


@intrinsic
def read(typingctx, address, index):
    """A word, whole, but perhaps of the next job: who reads it must then succeed with `compare_and_swap`."""
    return _emitted(types.int64, 2, lambda b, *at: b.load_atomic(_place(b, *at), "monotonic", 8, typ=INT64))


@intrinsic
def write(typingctx, address, index, value):
    """Give a word a value that other threads read once they are told to."""
    return _emitted(types.void, 3, lambda b, a, i, value: b.store_atomic(value, _place(b, a, i), "monotonic", 8))


@intrinsic
def pause(typingctx):
    """Tell the processor that this is a loop that waits: a few nanoseconds, up to fifty on some."""

    def emit(builder):
        if platform.machine() == "x86_64":
            return builder.call(_function(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        return builder.call(_function(builder, "llvm.aarch64.isb", ir.VoidType(), [INT32]), [INT32(15)])

    return _emitted(types.void, 0, emit)


@intrinsic
def nanoseconds(typingctx):
    """The time of a clock that only goes forward."""

    def emit(builder):
        time = cgutils.alloca_once(builder, ir.ArrayType(INT64, 2))
        at = builder.ptrtoint(time, INT64)
        place = builder.inttoptr(at, POINTER)
        builder.call(_function(builder, "clock_gettime", INT32, [INT32, POINTER]), [INT32(_MONOTONIC), place])
        seconds, rest = (builder.load(_place(builder, at, INT64(i)), align=8, typ=INT64) for i in (0, 1))
        return builder.add(builder.mul(seconds, INT64(10**9)), rest)

    return _emitted(types.int64, 0, emit)


@intrinsic
def preemptions(typingctx):
    """How often this thread was stopped because another was to run on its core; takes some tenths of a microsecond."""

    def emit(builder):
        usage = cgutils.alloca_once(builder, ir.ArrayType(INT64, 18))  # struct rusage; its last number is ru_nivcsw
        at = builder.ptrtoint(usage, INT64)
        place = builder.inttoptr(at, POINTER)
        builder.call(_function(builder, "getrusage", INT32, [INT32, POINTER]), [INT32(_OF_THREAD), place])
        return builder.load(_place(builder, at, INT64(17)), align=8, typ=INT64)

    return _emitted(types.int64, 0, emit)


def _futex(builder: Any, address: Any, index: Any, operation: int, value: Any) -> None:
    system_call = _function(builder, "syscall", INT64, [INT64], more=True)
    null = INT64(0)
    word = builder.add(address, builder.shl(index, INT64(3)))  # little-endian: the futex is the lower half of it
    builder.call(system_call, [INT64(_FUTEX), word, INT64(operation), value, null, null, null])


@intrinsic
def sleep(typingctx, address, index, value):
    """Sleep until `wake`, or return at once if the lower half of the word is not `value`; also without a reason."""
    return _emitted(types.void, 3, lambda b, a, i, value: _futex(b, a, i, _WAIT, value))


@intrinsic
def wake(typingctx, address, index):
    """Wake a thread that sleeps at a word."""
    return _emitted(types.void, 2, lambda b, a, i: _futex(b, a, i, _WAKE, INT64(1)))


def wake_from_python(address: int) -> None:
    """Wake a thread that sleeps at a word; for code that is not compiled."""
    ctypes.CDLL(None).syscall(_FUTEX, ctypes.c_void_p(address), _WAKE, 1)


@intrinsic
def stack(typingctx, words):
    """The address of so many words, which are there until the function returns."""
    return _emitted(types.int64, 1, lambda b, count: b.ptrtoint(b.alloca(INT64, size=count), INT64))


@intrinsic(prefer_literal=True)
def address_of(typingctx, symbol):
    """The address that a name stands for, which `llvmlite.binding.add_symbol` has given it."""
    name = symbol.literal_value

    def codegen(context, builder, signature, arguments):
        variable = builder.module.globals.get(name) or ir.GlobalVariable(builder.module, INT64, name)
        return builder.ptrtoint(variable, INT64)

    return types.int64(symbol), codegen


@intrinsic
def call(typingctx, function, a, b, c, d):
    """Call the function at an address with four words; it returns nothing."""

    def emit(builder, function, *arguments):
        kind = ir.FunctionType(ir.VoidType(), [INT64] * 4)
        builder.call(builder.inttoptr(function, kind.as_pointer()), arguments)

    return _emitted(types.void, 5, emit)

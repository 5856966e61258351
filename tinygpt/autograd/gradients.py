"""
The memory of gradients: who owns it on the way through the graph, and where the gradient of a leaf is kept.

On the way. Most gradients pass through unchanged: the sum of a residual connection returns the same array for both of
its branches. Copying it for each would double the memory traffic of a training step, and writing into it for one would
corrupt the other. So a gradient is *copied on write*: a `SharedGradient` is an array and a reference count,

    one owner      the next share is added in place, nothing is allocated
    more owners    the sum goes into a new array, once, and the others keep what they had

In a leaf. An `Accumulator` holds the `grad` of one tensor. The gradient of a parameter has a fixed place, a slice
of the module's flat array: its `storage`. A kernel writes or adds into it directly.

Ahead of time. The kernel of `linear_cross_entropy` knows its inputs' gradients during its forward, while it has the
logits at hand. `Accumulator.reserve` gives it memory for them: `storage` itself where that is free, so that nothing is
copied later. `Accumulator.release` ends the reservation before another gradient is written there. For GPT-2's token
embeddings this saves an array of 154 MB and a pass over it: see the rows of `benchmarks/bench_linear_cross_entropy.py`.

Private memory. As long as only the engine and its kernels can reach the memory of a gradient, it is `private`, and two
passes over it are saved. For the norm, the kernel that writes the last share leaves the sum of the squares. For the
clip, a `factor` is kept, by which the optimizer multiplies as it reads. Once a user has the array, as `Tensor.grad` or
in a flat array, it may change at any time without notice. `publish` then ends all this, for good: the gradients of
later steps are in the same memory.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygpt.runtime.memory import Slot, SquareSum, copied, empty

# Held while a factor and the memory that it belongs to are changed, or read together: in one thread at a time.
FACTOR_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child must not inherit it from a thread that is not in the child
    os.register_at_fork(
        before=FACTOR_LOCK.acquire, after_in_parent=FACTOR_LOCK.release, after_in_child=FACTOR_LOCK.release
    )


class RefCount:
    """The number of gradients that use one block of memory. Views of an array share the count of its base."""

    __slots__ = ("count",)

    def __init__(self, count: int = 0) -> None:
        self.count = count


@dataclass(slots=True)
class SharedGradient:
    """A gradient in the graph: its array, and the reference count of the array's memory."""

    array: np.ndarray
    owners: RefCount

    def incref(self) -> SharedGradient:
        """Count one more owner."""
        self.owners.count += 1
        return self

    def decref(self) -> None:
        """Count one owner less."""
        self.owners.count -= 1

    @property
    def exclusive(self) -> bool:
        """True if a write changes nothing else: one owner, and no two elements at one address (broadcasting)."""
        own_places = all(stride or size == 1 for size, stride in zip(self.array.shape, self.array.strides, strict=True))
        return self.owners.count == 1 and own_places and self.array.flags.writeable

    def add(self, share: np.ndarray) -> None:
        """Accumulate `share`: in place where this is the only owner, else into a new array."""
        if _same_order(self.array, share):
            self.array = np.add(self.array, share, out=self.own_memory())
        else:  # NumPy chooses the memory order of the sum, as in the reference: BLAS may round by it
            self.decref()
            self.array, self.owners = self.array + share, RefCount(1)

    def own_memory(self) -> np.ndarray:
        """Memory of this gradient alone: its array where it is the only owner, else a new one, uninitialized."""
        if self.exclusive:
            return self.array
        self.decref()
        self.owners = RefCount(1)
        return empty(self.array.shape, self.array.dtype)

    def take(self) -> np.ndarray:
        """The array itself if this is its only owner, else a copy: what becomes a leaf's `grad`."""
        # A view keeps all of its base alive: accept what the memory pool adds to an array, an eighth at most.
        base = self.array.base
        whole = base is None or getattr(base, "nbytes", math.inf) <= self.array.nbytes * 1.125
        return self.array if whole and self.exclusive else copied(self.array)


def _same_order(a: np.ndarray, b: np.ndarray) -> bool:
    x, y = a.flags, b.flags
    return (x.c_contiguous and y.c_contiguous) or (x.f_contiguous and y.f_contiguous)


class Reservation:
    """Memory for a gradient that a kernel computes during its forward, before backward asks for it."""

    __slots__ = ("__weakref__", "array", "squares")

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.squares: SquareSum | None = None


class Accumulator:
    """
    Where the gradient of one tensor stays, and the sum of what backward adds to it.

    Attributes
    ----------
    grad : np.ndarray or None
        The sum so far; None before the first share.
    storage : np.ndarray or None
        The memory that `grad` must have: a parameter's slice of the flat array. Its content counts once `grad` is set.
    reserved : callable or None
        A weak reference to the reservation of `storage`: a loss without a backward frees the place again.
    private : bool
        Whether only the engine and its kernels can reach the memory of `grad` and of `storage`.
    squares : SquareSum or None
        Of the last write to `grad`, by a kernel; None after a write by anything else, or if not private.
    factor : float
        What `grad` is still to be multiplied by; 1 if it is not private.
    """

    __slots__ = ("dtype", "factor", "grad", "private", "reserved", "shape", "squares", "storage")
    shape: tuple[int, ...]
    dtype: np.dtype
    grad: np.ndarray | None
    storage: np.ndarray | None
    reserved: Callable[[], Reservation | None] | None
    private: bool
    squares: SquareSum | None
    factor: float

    def slot(self) -> Slot:
        """Memory for one more share, which the caller must write: from now on it counts as written."""
        self.release()
        self.apply_factor()
        self.squares = SquareSum(self.sum_of_squares()) if self.private else None
        if self.grad is not None:
            return Slot(self.grad, True, self.squares)
        self.grad = empty(self.shape, self.dtype) if self.storage is None else self.storage
        return Slot(self.grad, False, self.squares)

    def accumulate(self, share: SharedGradient) -> None:
        """Add a share to `grad`; the first one becomes `grad`, in `storage` if there is one."""
        self.release()
        self.apply_factor()
        self.squares = None
        if self.storage is not None:
            Slot(self.storage, add=self.grad is not None).write(share.array)
            self.grad = self.storage
        elif self.grad is None:
            self.grad, self.private = share.take(), False  # whoever made the share may have kept its array
        else:
            np.add(self.grad, share.array, out=self.grad)

    def replace(self, gradient: np.ndarray | None) -> None:
        """Set `grad` to None, or to a copy of `gradient`: backward adds to `grad`, never to the caller's array."""
        copy = None if gradient is None else copied(gradient)
        self.squares, self.factor = None, 1.0
        if copy is not None and self.storage is not None:
            self.release()
            np.copyto(self.storage, copy)
            copy = self.storage
        self.grad = copy

    def sum_of_squares(self) -> float | None:
        """The sum of the squares of `grad`; None unless the kernel that wrote it last has left it."""
        known = None if self.squares is None else self.squares.after
        return None if known is None else known * self.factor**2

    def publish(self) -> None:
        """Make the memory of `grad` and `storage` ready for a user: multiplied by the factor, and no longer private."""
        self.apply_factor()
        self.private, self.squares = False, None

    def apply_factor(self) -> Any:
        """Multiply `grad` by its pending factor, in one rounding of each number; returns `grad`."""
        with FACTOR_LOCK:
            factor, self.factor = self.factor, 1.0  # first: Ctrl-C during the multiplication is raised after it
            if factor != 1:
                self.squares = None
                with np.errstate(all="ignore"):  # what underflows is 0, as where an optimizer multiplies
                    np.multiply(self.grad, self.dtype.type(factor), out=self.grad)  # type: ignore[arg-type]
            return self.grad

    def reserve(self) -> Reservation:
        """Memory for a share that is computed ahead: `storage` if that is free, else separate memory."""
        taken = self.grad is not None or (self.reserved is not None and self.reserved() is not None)
        if self.storage is None or taken:
            return Reservation(empty(self.shape, self.dtype))
        reservation = Reservation(self.storage)
        reservation.squares = SquareSum() if self.private else None
        self.reserved = weakref.ref(reservation)
        return reservation

    def release(self, used: Reservation | None = None) -> None:
        """Free `storage`: copy what is reserved there, unless it is `used`, which its kernel now makes `grad`."""
        reservation = None if self.reserved is None else self.reserved()
        if reservation is not None and reservation is not used:
            reservation.array = copied(reservation.array)
        self.reserved = None

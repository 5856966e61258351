"""
The memory of gradients: shared on the way back through the graph, in a place of its own at a leaf.

On the way: copy on write. Most gradients pass through unchanged: the sum of a residual connection returns the same
array for both of its branches. Copying it for each would double the memory traffic of a training step, and writing into
it for one would corrupt the other. So a `SharedGradient` is an array and a reference count,

    one owner      the next share is added in place, nothing is allocated
    more owners    the sum goes into a new array, once, and the others keep what they had

At a leaf: an `Accumulator`. It holds the `grad` of one tensor. The gradient of a parameter has a fixed place, its slice
of the module's flat array: `storage`. A kernel writes or adds its share there itself.

Ahead of time: a `Reservation`. The kernel of `linear_cross_entropy` knows its inputs' gradients during its forward,
while it has the logits at hand. `Accumulator.reserve` gives it memory for them: `storage` itself where that is free, so
that nothing is copied later. `Accumulator.release` ends the reservation before another gradient is written there. For
GPT-2's token embeddings this saves an array of 154 MB and a pass over it (`benchmarks/bench_linear_cross_entropy.py`).

Private: what no user can reach. To clip gradients by their norm takes two passes over all of them, one that reads them
for the norm and one that multiplies them. Both are spared where others have the numbers at hand:

    loss.backward()           the kernel that writes a gradient leaves the sum of its squares: `squares`
    clip_grad_norm(...)       adds these sums up, and only notes the factor, in `pending_scale`
    optimizer.step()          multiplies by `pending_scale` as it reads the gradient

That is right as long as nobody else reads the array or writes into it: while it is `private`. A user gets it from
`Tensor.grad`, or with the flat array of a module. `publish`, called just before, multiplies by what is pending. From
then on the norm and the clip take their passes, in later steps too, since their gradients are in the same memory.
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

from tinygpt.runtime.capture import run
from tinygpt.runtime.memory import Slot, SquareSum, copied, empty

# Held while a gradient and its `pending_scale` must belong together: another thread may publish it at any time.
SCALE_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child must not inherit it from a thread that is not in the child
    os.register_at_fork(
        before=SCALE_LOCK.acquire, after_in_parent=SCALE_LOCK.release, after_in_child=SCALE_LOCK.release
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
            own = self.own_memory()
            run(np.add, self.array, share, own)
            self.array = own
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
    shape, dtype : tuple of int, np.dtype
        Those of the tensor, and so of its gradient.
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
    pending_scale : float
        What `grad` is still to be multiplied by; 1 if it is not private.
    """

    __slots__ = ("dtype", "grad", "pending_scale", "private", "reserved", "shape", "squares", "storage")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.grad: np.ndarray | None = None
        self.storage: np.ndarray | None = None
        self.reserved: Callable[[], Reservation | None] | None = None
        self.squares: SquareSum | None = None
        self.private, self.pending_scale = True, 1.0

    def slot(self) -> Slot:
        """Memory for one more share, which the caller must write: from now on it counts as written."""
        self.release()
        self.apply_pending_scale()
        before = self.squares
        if before is not None:
            before.before = None  # else each would keep all that came before it
        self.squares = SquareSum(before) if self.private else None
        if self.grad is not None:
            return Slot(self.grad, True, self.squares)
        self.grad = empty(self.shape, self.dtype) if self.storage is None else self.storage
        return Slot(self.grad, False, self.squares)

    def accumulate(self, share: SharedGradient) -> None:
        """Add a share to `grad`; the first one becomes `grad`, in `storage` if there is one."""
        self.release()
        self.apply_pending_scale()
        self.squares = None
        if self.storage is not None:
            Slot(self.storage, add=self.grad is not None).write(share.array)
            self.grad = self.storage
        elif self.grad is None:
            self.grad, self.private = share.take(), False  # whoever made the share may have kept its array
        else:
            run(np.add, self.grad, share.array, self.grad)

    def replace(self, gradient: np.ndarray | None) -> None:
        """Set `grad` to None, or to a copy of `gradient`: backward adds to `grad`, never to the caller's array."""
        copy = None if gradient is None else copied(gradient)  # first: Ctrl-C or too little memory then change nothing
        self.squares, self.pending_scale = None, 1.0
        if copy is not None and self.storage is not None:
            self.release()
            np.copyto(self.storage, copy)
            copy = self.storage
        self.grad = copy

    def sum_of_squares(self) -> float | None:
        """The sum of the squares of `grad`; None unless the kernel that wrote it last has left it."""
        known = None if self.squares is None else self.squares.after
        return None if known is None else known * self.pending_scale**2

    def apply_pending_scale(self) -> Any:
        """Multiply `grad` by what is pending, in one rounding of each number; returns `grad`."""
        with SCALE_LOCK:
            # Forgotten first: Ctrl-C during the multiplication is raised after it.
            scale, self.pending_scale = self.pending_scale, 1.0
            if scale != 1:
                self.squares = None
                with np.errstate(all="ignore"):  # what underflows is 0, as where an optimizer multiplies
                    np.multiply(self.grad, self.dtype.type(scale), out=self.grad)  # type: ignore[arg-type]
            return self.grad

    def publish(self) -> None:
        """Make `grad` and `storage` ready for a user to hold: multiplied by what is pending, and private no more."""
        self.apply_pending_scale()
        self.private, self.squares = False, None

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

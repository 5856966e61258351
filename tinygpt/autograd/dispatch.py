"""
Which code runs for an op: its NumPy reference, its kernel, or both side by side.

A kernel is a module, its name, or any other object (a class, a SimpleNamespace) that offers

    accepts(*arrays, **attrs)      optional: whether it takes these inputs. If not, the reference runs
    forward(*arrays, **attrs)      -> out, saved
    backward(dout, saved, into)    writes the gradient of input i into the slot `into[i]`, which says whether to add to
                                   what is there or to overwrite it; None where no gradient is needed. Its memory
                                   must not be kept: nobody writes there later. A kernel without a backward uses the
                                   reference's, on what the kernel's forward saved
    output(saved)                  -> out, optional: computes it again, with the same bits, from what forward saved. It
                                   is called in place of keeping out until the backward of each operation that reads it
    GRADIENTS_IN_FORWARD = True    optional: `forward` has a parameter `reserved` as well, for each input None or a
                                   `Reservation`, memory for its gradient, to compute it ahead (see `gradients.py`)

The reference returns its gradients; a kernel writes them to their final place, so that nothing is allocated and a
second gradient is added while it is computed. `select` makes one `Implementation` of either.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.check_mode import compare, side_by_side
from tinygpt.autograd.contract import Contract
from tinygpt.autograd.graph import WRITTEN, Node, Op
from tinygpt.autograd.watch import current_watch, observed
from tinygpt.runtime import settings
from tinygpt.runtime.capture import current_recorder, results_of
from tinygpt.runtime.launch import kernels_may_run
from tinygpt.runtime.memory import Slot

Destination = Callable[[], Slot]


class Implementation(NamedTuple):
    """
    The functions that the engine calls for one operation.

    Attributes
    ----------
    forward : callable
        ``forward(arrays, attrs, parents) -> (out, saved)``. A parent is the node of an input, None where no gradient is
        needed.
    backward : callable
        ``backward(dout, saved, destinations) -> gradients``. A destination is None where no gradient is needed, else a
        function that returns the slot for it; in place of a gradient that was written there, `WRITTEN` is returned.
    output : callable or None
        ``output(saved) -> out``, where a kernel has it.
    """

    forward: Callable[[Sequence[np.ndarray], dict[str, Any], Sequence[Node | None]], tuple[Any, Any]]
    backward: Callable[[np.ndarray, Any, Sequence[Destination | None]], Sequence[Any]]
    output: Callable[[Any], np.ndarray] | None = None


def select(op: Op, arrays: Sequence[np.ndarray], attrs: dict[str, Any]) -> Implementation:
    """
    The code to run for `op` on these inputs, as the settings of this block say.

    Parameters
    ----------
    op : Op
    arrays, attrs
        What the op is about to be called with: a kernel may leave some inputs to the reference.
    """
    watch = current_watch()
    if watch is not None:
        op = watch.operation(op)
    setting = settings.current_implementation()
    small = arrays[0].size < op.min_size and current_recorder() is None  # a recorder sees kernels only
    if op.kernel is None or setting == "numpy" or small or not kernels_may_run():
        return _reference(op)
    kernel = kernel_of(op)
    accepts = _offer(kernel, "accepts")
    if accepts is not None and not accepts(*arrays, **attrs):
        return _reference(op)
    if watch is not None:
        kernel = watch.kernel(op, kernel)
    return _both(op, kernel) if setting == "check" else _kernel(op, kernel)


def _load(kernel: Any) -> Any:
    """A kernel by its module's name, since a program that runs none need not import Numba; or the kernel itself."""
    return _load_module(kernel) if isinstance(kernel, str) else kernel


@functools.cache  # importlib takes a microsecond to find a module again
def _load_module(name: str) -> Any:
    return importlib.import_module(name)


def kernel_of(op: Op) -> Any:
    """
    The kernel of an operation that has one, imported if it is given by its module's name.

    Raises
    ------
    ImportError
        If there is no such module.
    TypeError
        If it is no kernel.

    Examples
    --------
    >>> double = Op("double", lambda x: (2 * x, None), lambda dout, saved: (2 * dout,), kernel=lambda x: 2 * x)
    >>> kernel_of(double)
    Traceback (most recent call last):
    ...
    TypeError: double: its kernel must be a module or an object with a function forward, got function
    """
    kernel = _load(op.kernel)
    if not callable(getattr(kernel, "forward", None)):
        got = f"the module {kernel.__name__}" if isinstance(kernel, ModuleType) else type(kernel).__name__
        raise TypeError(f"{op.name}: its kernel must be a module or an object with a function forward, got {got}")
    return kernel


def _offer(kernel: Any, name: str) -> Any:
    """What a kernel has by this name, or None; Python takes a microsecond to say that a module has none."""
    return vars(kernel).get(name) if type(kernel) is ModuleType else getattr(kernel, name, None)


def kernel_for(name: Any, *arrays: np.ndarray) -> Any:
    """The kernel module of this name, for work outside of the graph such as AdamW's; None where the reference runs."""
    if settings.current_implementation() == "numpy" or not kernels_may_run():
        return None
    fit = all(array.dtype == np.float32 and array.flags.carray for array in arrays)
    return _load(name) if fit else None


def in_place(who: str, name: Any, reference: Callable, arrays: list[np.ndarray], options: Sequence[Any]) -> None:
    """
    Let the kernel's `update`, or else the reference, change arrays; both, the latter on copies, in check mode.

    Parameters
    ----------
    who : str
        What an error calls it.
    name : str, object or None
        The kernel's module, or what has an `update`; None: there is only the reference.
    reference : callable
        ``reference(*arrays, *options)``, like the kernel's.
    """
    kernel = None if name is None else kernel_for(name, *arrays)
    if kernel is None:
        observed(reference, "numpy")(*arrays, *options)
        return
    copies = [array.copy() for array in arrays] if settings.current_implementation() == "check" else []
    observed(kernel.update, "kernel")(*arrays, *options)
    if copies:
        reference(*copies, *options)
        compare(who, "update", arrays, copies)


def aligned(array: np.ndarray) -> np.ndarray:
    """The array as compiled code takes it: aligned, and writable, since Numba would compile a read-only one anew."""
    return array if array.flags.behaved else array.copy()


def _reference(op: Op) -> Implementation:
    return Implementation(
        lambda arrays, attrs, parents: _pair(op, op.forward(*arrays, **attrs)),
        lambda dout, saved, destinations: op.backward(dout, saved),
    )


def _pair(op: Op, result: Any) -> tuple[Any, Any]:
    """What a forward returned, if it is out and saved: an array of two rows could be taken for them."""
    if not isinstance(result, tuple) or len(result) != 2:
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise TypeError(f"{op.name}.forward: must return a tuple (out, saved), got {got}")
    return result


def _kernel(op: Op, kernel: Any) -> Implementation:
    if _offer(kernel, "GRADIENTS_IN_FORWARD"):
        return _with_reservations(kernel)

    def forward(arrays: Sequence[np.ndarray], attrs: dict[str, Any], parents: Sequence[Node | None]) -> tuple[Any, Any]:
        return _pair(op, kernel.forward(*map(aligned, arrays), **attrs))

    def backward(dout: np.ndarray, saved: Any, destinations: Sequence[Destination | None]) -> Sequence[Any]:
        if _offer(kernel, "backward") is None:
            return results_of(op.backward, dout, saved)
        return _write(kernel, dout, saved, destinations)

    return Implementation(forward, backward, _offer(kernel, "output"))


def _with_reservations(kernel: Any) -> Implementation:
    """A kernel that computes gradients in its forward, into memory that is reserved until backward comes."""

    def forward(arrays: Sequence[np.ndarray], attrs: dict[str, Any], parents: Sequence[Node | None]) -> tuple[Any, Any]:
        reserved = tuple(None if parent is None else parent.reserve() for parent in parents)
        out, saved = kernel.forward(*map(aligned, arrays), reserved=reserved, **attrs)
        return out, (saved, reserved, parents)

    def backward(dout: np.ndarray, saved: Any, destinations: Sequence[Destination | None]) -> Sequence[Any]:
        saved, reserved, parents = saved
        for parent, reservation in zip(parents, reserved, strict=True):
            if parent is not None:
                parent.release(used=reservation)
        return _write(kernel, dout, saved, destinations)

    return Implementation(forward, backward)


def _write(kernel: Any, dout: np.ndarray, saved: Any, destinations: Sequence[Destination | None]) -> Sequence[Any]:
    """Let the kernel's backward write into the slots."""
    into, later = _separate([None if slot is None else slot() for slot in destinations])
    if kernel.backward(aligned(dout), saved, into) is not None:
        where = f"{getattr(kernel, '__name__', type(kernel).__name__)}.backward"
        raise TypeError(f"{where}: a kernel must write its gradients with into[i].write(gradient), and return nothing")
    for slot, gradient in later:
        slot.write(gradient)
    return [WRITTEN] * len(destinations)


def _separate(slots: Sequence[Slot | None]) -> tuple[list[Slot | None], list[tuple[Slot, np.ndarray]]]:
    """
    Slots as kernels need them: C-contiguous, and none twice.

    Where one tensor is several inputs, or a gradient has another memory order, as that of a transposed tensor does, the
    kernel gets memory of its own, which is added afterwards.
    """
    into: list[Slot | None] = []
    later = []
    taken = set()
    for slot in slots:
        if slot is not None:
            if not slot.array.flags.carray or id(slot.array) in taken:
                later.append((slot, np.empty(slot.array.shape, slot.array.dtype)))
                slot = Slot(later[-1][1], add=False)
            taken.add(id(slot.array))
        into.append(slot)
    return into, later


def _both(op: Op, kernel: Any) -> Implementation:
    """
    Check mode: kernel and reference, neither of which may break the contract (see `contract.py`).

    Without the kernel's `output`: what operations read is kept.
    """
    contract = Contract(ValueError)
    checked = _kernel(op, contract.kernel(op, kernel))
    return Implementation(*side_by_side(op, contract.operation(op), checked.forward, checked.backward))

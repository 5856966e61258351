"""
Tensors: NumPy arrays that remember how they were computed, and `apply`, which makes them remember.

What they remember, and the walk back through it, is in `graph.py`. After what a tensor remembers, the class has its
operators, what Python and NumPy read, and its methods in groups. Operators and methods call the functions of `ops/`;
those files import this one, so it names them by a string, in `_ops` alone.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from tinygpt.autograd.conversion import device_and_dtype, numpy_dtype
from tinygpt.autograd.copying import Copying
from tinygpt.autograd.dispatch import select
from tinygpt.autograd.graph import Node, Op, check_gradient, walk_back
from tinygpt.autograd.hooks import HookHandle
from tinygpt.autograd.summary import tensor_html
from tinygpt.runtime.aliases import aliases, refuse
from tinygpt.runtime.memory import copied
from tinygpt.runtime.missing import missing_attribute
from tinygpt.runtime.scope import Block, Setting

Self = TypeVar("Self", bound="Tensor")
recording = Setting("recording", True)


class no_grad(Block):
    """
    Record nothing inside the block, or inside the decorated function: results do not require gradients.

    It holds for this thread, for the asyncio task, and in a generator while the generator runs: see `scope.py`.
    Generator functions, coroutine functions and async generator functions may be decorated too.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> with no_grad():
    ...     y = apply(Op("double", lambda x: (2 * x, None), lambda dout, saved: (2 * dout,)), x)
    >>> y.requires_grad
    False
    """

    def __new__(cls, function: Any = None) -> Any:
        """`@no_grad` is `@no_grad()`."""
        if function is None:
            return super().__new__(cls)
        if not callable(function):
            raise TypeError(f"no_grad: decorates a function, got {function!r}; write with no_grad():")
        return cls()(function)

    def __init__(self) -> None:
        super().__init__(recording, False)


def apply(op: Op, *inputs: Any, **attrs: Any) -> Tensor:
    """
    Run `op` on `inputs` and record it where any of them requires a gradient.

    Parameters
    ----------
    op : Op
    *inputs : Tensor or array
        The differentiable inputs. Arrays count as constants.
    **attrs
        Everything else that the forward takes: axes, indices, masks, seeds. Never differentiated. Arrays are copied.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError, TypeError
        What the op's own check raises; or if the `data` of a tensor that requires gradients was replaced by an array
        of another shape or dtype, which its gradient would not fit.

    Examples
    --------
    >>> square = Op("square", lambda x: (x * x, x), lambda dout, x: (dout * 2 * x,))
    >>> x = Tensor([1.0, 3.0], requires_grad=True)
    >>> y = apply(square, x)
    >>> y.backward(np.ones(2, np.float32))
    >>> x.grad
    array([2., 6.], dtype=float32)
    """
    tensors = [value if isinstance(value, Tensor) else Tensor(value) for value in inputs]
    arrays = [tensor._data for tensor in tensors]
    nodes = tuple([tensor.node for tensor in tensors])
    for array, node in zip(arrays, nodes, strict=True):
        if node is not None and not (array.shape == node.shape and array.dtype == node.dtype):
            raise ValueError(_replaced(op.name, array, node))
    parents = nodes if recording.get() else (None,) * len(nodes)
    attrs = op.checked(arrays, attrs)
    implementation = select(op, arrays, attrs)
    out, saved = implementation.forward(arrays, attrs, parents)
    out = np.asarray(out)
    for array, node in zip(arrays, nodes, strict=True):
        if node is not None and node.output is not None and np.may_share_memory(out, array):
            node.exposed = True  # by a view: see `data`
    if not any(parents) or out.dtype.kind != "f":
        return Tensor(out)
    made = Node(out, op, parents)
    made.backward, made.saved, made.output = implementation.backward, saved, implementation.output
    made.remember(arrays)
    return Tensor(out, _node=made)


def _replaced(who: str, array: np.ndarray, node: Node) -> str:
    got = f"{array.dtype} {array.shape}"
    return (
        f"{who}: a tensor that requires gradients was made as {node.dtype} {node.shape}, and its data is now {got}; "
        "make a new Tensor of the new array"
    )


class Tensor(Copying):
    """
    A NumPy array that remembers how it was computed.

    NumPy's functions keep its gradient, or refuse, or have none to lose; see `numpy_dispatch.py`.

    Parameters
    ----------
    data : array_like
        float32 and float64 arrays are used as they are, without a copy; integers and booleans too, but they cannot
        require gradients. Python floats become float32.
    requires_grad : bool
        Whether `backward` accumulates into `grad`.
    dtype : optional
        float32, float64, an integer type or bool.

    Attributes
    ----------
    data : np.ndarray
        The values. Writing into what a backward needs is an error when it runs (a write into few elements of many is
        not always found: see `checksums` in graph.py).
    grad : np.ndarray or None
        The gradient, of the same shape and dtype. Each `backward` adds to it; set it to None to start from zero.

    Raises
    ------
    TypeError
        If the data is neither float32, float64, integer nor boolean, or is of integers and `requires_grad` is set.

    Examples
    --------
    >>> import tinygpt
    >>> x = tinygpt.Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    array([2., 4., 6.], dtype=float32)
    >>> f"{(x**2).mean():.2f}"
    '4.67'
    """

    __slots__ = ("__weakref__", "_data", "node")

    def __init__(
        self,
        data: Any,
        requires_grad: bool = False,
        dtype: Any = None,
        *,
        _node: Node | None = None,
        **unknown: NoReturn,
    ) -> None:
        if unknown:
            refuse("Tensor", unknown, ("data", "requires_grad", "dtype"))
        self._data = data if _node is not None else _as_array(data, dtype)
        self.node = _node
        if requires_grad:
            self.requires_grad = True

    @property
    def data(self) -> np.ndarray:
        if self.node is not None:
            # A read counts: whoever has the array may write into it later, and nobody is told. So the operations that
            # take this tensor from now on keep the array for their backward: see recomputed_outputs.py.
            self.node.exposed = True
        return self._data

    @data.setter
    def data(self, array: np.ndarray) -> None:
        if not isinstance(array, np.ndarray):
            got = type(array).__name__
            raise TypeError(f"Tensor.data: must be a NumPy array, got {got}; write np.array(..., np.float32)")
        if self.node is not None:
            self.node.exposed = True
        self._data = np.asarray(array)  # a subclass, such as np.matrix, would compute otherwise

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> Size:
        """The number of values, as in NumPy; `x.size()` is the shape and `x.size(0)` its first size, as in PyTorch."""
        return Size(self.shape)

    # what it remembers: the node that `apply` has recorded, and the gradient

    @property
    def is_leaf(self) -> bool:
        """True where no recorded operation made this tensor."""
        return self.node is None or self.node.op is None

    @property
    def requires_grad(self) -> bool:
        """Whether `backward` reaches this tensor. May be set on leaves."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not self.is_leaf:
            if not value:
                raise ValueError("Tensor.requires_grad: only a leaf can be switched off; use detach()")
        elif not value:
            self.node = None
        elif self.node is None:
            if self.dtype.kind != "f":
                raise TypeError(
                    f"Tensor: only float32 and float64 can require gradients, got {self.dtype}; "
                    "write 1.0 in place of 1, or pass dtype=np.float32"
                )
            self.node = Node(self.data)

    @property
    def grad(self) -> np.ndarray | None:
        if self.node is None:
            return None
        if self.node.grad is None and not self.node.keeps_grad:
            warnings.warn(
                f"Tensor.grad: None, since '{self.node.name}' made this tensor, and gradients are kept for leaves "
                "only; call retain_grad() before backward",
                stacklevel=2,
            )
        if self.node.grad is not None:
            self.node.publish()
        return self.node.grad

    @grad.setter
    def grad(self, value: np.ndarray | None) -> None:
        if self.node is None:
            if value is not None:
                raise ValueError("Tensor.grad: this tensor does not require gradients; set requires_grad = True first")
            return
        if value is not None:
            value = np.asarray(value)
            check_gradient("Tensor.grad", value, self.node)
        self.node.replace(value)

    def retain_grad(self) -> None:
        """Keep the gradient of a tensor that is not a leaf, too: it will be in `grad` after backward."""
        self._require_node("retain_grad").keeps_grad = True

    def keep_grad_in(self, memory: np.ndarray) -> None:
        """Give the gradient a place of its own: backward writes into `memory`, which `grad` then is."""
        node = self._require_node("keep_grad_in")
        check_gradient("keep_grad_in", memory, node)
        if not memory.flags.carray:
            raise ValueError("keep_grad_in: the memory must be C-contiguous and writable, for kernels to write into it")
        node.release()
        node.publish()
        node.storage = memory
        node.replace(node.grad)  # one that is there already moves

    def register_hook(self, hook: Callable[[np.ndarray], np.ndarray | None]) -> HookHandle:
        """
        Call `hook` with this tensor's complete gradient each time backward reaches it.

        The hook may return a gradient to use instead; it must not write into the one it is given.

        Returns
        -------
        HookHandle
            `handle.remove()` removes the hook again.

        Examples
        --------
        >>> x = Tensor([1.0, 2.0], requires_grad=True)
        >>> handle = x.register_hook(lambda gradient: 10 * gradient)
        >>> x.backward(np.ones(2, np.float32))
        >>> x.grad
        array([10., 10.], dtype=float32)
        """
        return HookHandle(self._require_node("register_hook").hooks, hook)

    @aliases(gradient="dout")
    def backward(self, dout: Any = None, retain_graph: bool = False) -> None:
        """
        Add the gradient of this tensor with respect to every leaf to that leaf's `grad`.

        Parameters
        ----------
        dout : array_like, optional
            The gradient of the final loss with respect to this tensor, same shape; 1 for a scalar.
        retain_graph : bool
            Keep what the operations saved, so that backward can run again.

        Raises
        ------
        ValueError
            If the tensor requires no gradient, is not a scalar and no `dout` was given, `dout` has another shape, or
            the graph was freed by an earlier backward.
        """
        node = self._require_node("backward")
        if dout is None:
            if self.size != 1:
                raise ValueError(
                    f"Tensor.backward: needs a scalar, got shape {self.shape}; reduce it first, e.g. loss.mean()"
                )
            dout = np.ones(self.shape, self.dtype)
        else:
            dout = copied(np.asarray(dout.data if isinstance(dout, Tensor) else dout, self.dtype))
            check_gradient("Tensor.backward: dout", dout, node)
        walk_back(node, dout, retain_graph)

    def _require_node(self, who: str) -> Node:
        if self.node is None:
            raise ValueError(
                f"Tensor.{who}: this tensor does not require gradients; "
                "none of what it was computed from has requires_grad=True, or it was made under no_grad"
            )
        return self.node

    def detach(self) -> Tensor:
        """The same values (shared, not copied) without their history."""
        return Tensor(self.data)

    # operators; `x += y` makes a new tensor, except for the update of a parameter under `no_grad`

    # fmt: off
    def __add__(self, other: Any) -> Tensor: return _ops().basic.add(self, other)
    def __radd__(self, other: Any) -> Tensor: return _ops().basic.add(other, self)
    def __sub__(self, other: Any) -> Tensor: return _ops().basic.sub(self, other)
    def __rsub__(self, other: Any) -> Tensor: return _ops().basic.sub(other, self)
    def __mul__(self, other: Any) -> Tensor: return _ops().basic.mul(self, other)
    def __rmul__(self, other: Any) -> Tensor: return _ops().basic.mul(other, self)
    def __truediv__(self, other: Any) -> Tensor: return _ops().basic.div(self, other)
    def __rtruediv__(self, other: Any) -> Tensor: return _ops().basic.div(other, self)
    def __matmul__(self, other: Any) -> Tensor: return _ops().basic.matmul(self, other)
    def __rmatmul__(self, other: Any) -> Tensor: return _ops().basic.matmul(other, self)
    def __pow__(self, exponent: Any) -> Tensor: return _ops().basic.pow(self, exponent)
    def __rpow__(self, base: Any) -> Tensor: return _ops().basic.pow(base, self)
    def __mod__(self, other: Any) -> Tensor: return _ops().basic.remainder(self, other)
    def __rmod__(self, other: Any) -> Tensor: return _ops().basic.remainder(other, self)
    def __floordiv__(self, other: Any) -> Tensor: return _ops().basic.floor_divide(self, other)
    def __rfloordiv__(self, other: Any) -> Tensor: return _ops().basic.floor_divide(other, self)
    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]: return self // other, self % other
    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]: return other // self, other % self
    def __neg__(self) -> Tensor: return _ops().basic.neg(self)
    def __pos__(self) -> Tensor: return self
    def __abs__(self) -> Tensor: return _ops().elementwise.abs(self)

    def __iadd__(self, other: Any) -> Tensor: return self._updated(self + other)
    def __isub__(self, other: Any) -> Tensor: return self._updated(self - other)
    def __imul__(self, other: Any) -> Tensor: return self._updated(self * other)
    def __itruediv__(self, other: Any) -> Tensor: return self._updated(self / other)
    def __ifloordiv__(self, other: Any) -> Tensor: return self._updated(self // other)
    def __imod__(self, other: Any) -> Tensor: return self._updated(self % other)
    def __ipow__(self, other: Any) -> Tensor: return self._updated(self**other)
    def __imatmul__(self, other: Any) -> Tensor: return self._updated(self @ other)
    # fmt: on

    def _updated(self, result: Tensor) -> Tensor:
        """
        What `x += y` and the like leave in x: a new tensor, as `x = x + y` would.

        But `weight -= lr * weight.grad` under `no_grad` is an optimizer's update: the weight stays, its values change.
        Outside, a new tensor in its place would be no leaf, and get no gradient at the next step: that is refused.
        """
        if not (self.requires_grad and self.is_leaf):
            return result
        if recording.get():
            raise RuntimeError(
                "Tensor: cannot update a leaf that requires a gradient in place; write `with no_grad(): w -= ...`, or "
                "w = w - ... for a new tensor"
            )
        if result.shape != self.shape:
            raise ValueError(f"Tensor: cannot update shape {self.shape} in place with values of shape {result.shape}; "
                             "sum them to its shape first")  # fmt: skip
        self.data[...] = result.data
        return self

    def __getitem__(self, index: Any) -> Tensor:
        return _ops().shapes.getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("Tensor: items cannot be assigned, backward needs the values as they were; write "
                        "where(mask, new, x) or concatenate, or x.data[index] = value for values alone")  # fmt: skip

    def __delitem__(self, index: Any) -> None:
        raise TypeError("Tensor: items cannot be deleted; take those to keep, x[mask]")

    # comparisons, boolean tensors, and what combines these: without gradient

    # fmt: off
    def __eq__(self, other: Any) -> Tensor: return _compared(np.equal, self, other)  # type: ignore[override]
    def __ne__(self, other: Any) -> Tensor: return _compared(np.not_equal, self, other)  # type: ignore[override]
    def __lt__(self, other: Any) -> Tensor: return _compared(np.less, self, other)
    def __le__(self, other: Any) -> Tensor: return _compared(np.less_equal, self, other)
    def __gt__(self, other: Any) -> Tensor: return _compared(np.greater, self, other)
    def __ge__(self, other: Any) -> Tensor: return _compared(np.greater_equal, self, other)
    def __and__(self, other: Any) -> Tensor: return _combined("&", np.bitwise_and, self, other)
    def __rand__(self, other: Any) -> Tensor: return _combined("&", np.bitwise_and, other, self)
    def __or__(self, other: Any) -> Tensor: return _combined("|", np.bitwise_or, self, other)
    def __ror__(self, other: Any) -> Tensor: return _combined("|", np.bitwise_or, other, self)
    def __xor__(self, other: Any) -> Tensor: return _combined("^", np.bitwise_xor, self, other)
    def __rxor__(self, other: Any) -> Tensor: return _combined("^", np.bitwise_xor, other, self)
    def __invert__(self) -> Tensor: return _combined("~", np.invert, self)
    # fmt: on

    __hash__ = object.__hash__  # a tensor is a key by identity, not by its values

    # what Python and NumPy read: values, detached. What `np.f(tensor)` does is in numpy_dispatch.py

    def numpy(self) -> np.ndarray:
        """The values as an array (shared, not copied, detached); `np.asarray` gives the same."""
        return self.data

    def tolist(self) -> Any:
        """The values as Python numbers, in lists as deep as there are axes."""
        return self.data.tolist()

    def item(self) -> float | int | bool:
        """The only value, as a Python number. ValueError if there is not exactly one."""
        if self.size != 1:
            raise ValueError(f"Tensor.item: needs exactly one value, got shape {self.shape}; tolist() gives all")
        return self.data.item()

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("Tensor: shape () has no length, and cannot be iterated over; use item()")
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"Tensor: true or false needs exactly one value, got shape {self.shape}; write x.any() or x.all()"
            )
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.size != 1 or self.dtype.kind not in "iu":
            raise TypeError(f"Tensor: an index must be one integer, got {self.dtype} of shape {self.shape}")
        return int(self.item())

    def __round__(self, digits: int | None = None) -> float:
        return round(self.item(), digits)

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self.data) if self.ndim == 0 else str(self)
        if self.size != 1:
            raise TypeError(f"Tensor: {spec!r} formats one value, got shape {self.shape}; format those of x.tolist()")
        return format(self.item(), spec)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.data, dtype, copy=copy)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _ops().numpy_dispatch.array_function(function, args, kwargs)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return _ops().numpy_dispatch.array_ufunc(ufunc, method, inputs, kwargs)

    def __repr__(self) -> str:
        made_by = "" if self.node is None else ", requires_grad=True" if self.is_leaf else f", op={self.node.name}"
        return f"Tensor({np.array2string(self.data, separator=', ', prefix='Tensor(')}, dtype={self.dtype}{made_by})"

    def _repr_html_(self) -> str:
        return tensor_html(self)

    if not TYPE_CHECKING:  # a type checker reports unknown names itself

        def __getattr__(self, name):
            raise missing_attribute(self, "Tensor", name)

    # From here on, methods are the functions of the same name in tinygpt.functional, with this tensor as their first
    # input. Element by element:

    # fmt: off
    def exp(self) -> Tensor: return _ops().elementwise.exp(self)
    def log(self) -> Tensor: return _ops().elementwise.log(self)
    def sqrt(self) -> Tensor: return _ops().elementwise.sqrt(self)
    def expm1(self) -> Tensor: return _ops().elementwise.expm1(self)
    def log1p(self) -> Tensor: return _ops().elementwise.log1p(self)
    def exp2(self) -> Tensor: return _ops().elementwise.exp2(self)
    def log2(self) -> Tensor: return _ops().elementwise.log2(self)
    def log10(self) -> Tensor: return _ops().elementwise.log10(self)
    def sin(self) -> Tensor: return _ops().elementwise.sin(self)
    def cos(self) -> Tensor: return _ops().elementwise.cos(self)
    def sinh(self) -> Tensor: return _ops().elementwise.sinh(self)
    def cosh(self) -> Tensor: return _ops().elementwise.cosh(self)
    def tanh(self) -> Tensor: return _ops().elementwise.tanh(self)
    def sigmoid(self) -> Tensor: return _ops().elementwise.sigmoid(self)
    def relu(self) -> Tensor: return _ops().elementwise.relu(self)
    def sign(self) -> Tensor: return _ops().elementwise.sign(self)
    def square(self) -> Tensor: return _ops().basic.square(self)
    def reciprocal(self) -> Tensor: return _ops().basic.reciprocal(self)
    # fmt: on

    add, sub, mul, div, matmul, pow = __add__, __sub__, __mul__, __truediv__, __matmul__, __pow__
    neg, abs = __neg__, __abs__

    # choices between values

    @aliases(min="low", max="high")
    def clip(self, low: Any = None, high: Any = None) -> Tensor:
        """Each element, but at least `low` and at most `high`."""
        return _ops().choices.clip(self, low, high)

    def masked_fill(self, mask: Any, value: Any) -> Tensor:
        """`value` where the mask holds."""
        return _ops().composed.masked_fill(self, mask, value)

    # reductions: along axes, many values into one

    @aliases(dim="axis", keepdim="keepdims")
    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The sum over all elements, or along the axes."""
        return _ops().reductions.sum(self, axis, keepdims)

    @aliases(dim="axis", keepdim="keepdims")
    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The mean of all elements, or along the axes."""
        return _ops().reductions.mean(self, axis, keepdims)

    @aliases(dim="axis", keepdim="keepdims")
    def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The product of all elements, or along the axes."""
        return _ops().reductions.prod(self, axis, keepdims)

    @aliases(correction="ddof")
    def var(self, axis: Any = None, ddof: int | None = None, keepdims: bool = False, *,
            dim: Any = None, keepdim: Any = None, unbiased: Any = None) -> Tensor:  # fmt: skip
        """The variance of all elements, or along the axes; the sum of squares is divided by n - ddof, 0 by default."""
        return _ops().reductions.var(self, axis, ddof, keepdims, dim=dim, keepdim=keepdim, unbiased=unbiased)

    @aliases(correction="ddof")
    def std(self, axis: Any = None, ddof: int | None = None, keepdims: bool = False, *,
            dim: Any = None, keepdim: Any = None, unbiased: Any = None) -> Tensor:  # fmt: skip
        """The standard deviation of all elements, or along the axes: the root of `var`."""
        return _ops().reductions.std(self, axis, ddof, keepdims, dim=dim, keepdim=keepdim, unbiased=unbiased)

    @aliases(p="ord", dim="axis", keepdim="keepdims")
    def norm(self, ord: Any = 2, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The length of the vector of all elements, or along the axes; `ord` is 2, 1 or inf."""
        return _ops().reductions.norm(self, ord, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: Any = None) -> Tensor:
        """The largest element, or the largest ones along the axes."""
        return _ops().reductions.max(self, axis, keepdims, dim=dim, keepdim=keepdim)

    def min(self, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: Any = None) -> Tensor:
        """The smallest element, or the smallest ones along the axes."""
        return _ops().reductions.min(self, axis, keepdims, dim=dim, keepdim=keepdim)

    @aliases(dim="axis", keepdim="keepdims")
    def logsumexp(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """The logarithm of the sum of the exponentials."""
        return _ops().reductions.logsumexp(self, axis, keepdims)

    @aliases(dim="axis")
    def softmax(self, axis: int = -1) -> Tensor:
        """The softmax along the axis."""
        return _ops().reductions.softmax(self, axis)

    @aliases(dim="axis")
    def log_softmax(self, axis: int = -1) -> Tensor:
        """The logarithm of the softmax along the axis."""
        return _ops().reductions.log_softmax(self, axis)

    @aliases(dim="axis")
    def cumsum(self, axis: int | None = None) -> Tensor:
        """The sums up to each place along the axis, or of all elements in a row."""
        return _ops().reductions.cumsum(self, axis)

    @aliases(dim="axis", keepdim="keepdims")
    def any(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Whether any element is true, or any along the axes."""
        return _ops().composed.any(self, axis, keepdims)

    @aliases(dim="axis", keepdim="keepdims")
    def all(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Whether all elements are true, or all along the axes."""
        return _ops().composed.all(self, axis, keepdims)

    @aliases(dim1="axis1", dim2="axis2")
    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        """The sum of a diagonal of two axes."""
        return _ops().composed.trace(self, offset, axis1, axis2)

    # products of two tensors

    def dot(self, other: Any) -> Tensor:
        """The sum of the products with another vector."""
        return _ops().products.dot(self, other)

    def outer(self, other: Any) -> Tensor:
        """Each element times each of another tensor."""
        return _ops().products.outer(self, other)

    # indices, and values by their indices

    @aliases(dim="axis", keepdim="keepdims")
    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """The index of the largest element along the axis, or among all in a row."""
        return _ops().composed.argmax(self, axis, keepdims)

    @aliases(dim="axis", keepdim="keepdims")
    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """The index of the smallest element along the axis, or among all in a row."""
        return _ops().composed.argmin(self, axis, keepdims)

    @aliases(dim="axis")
    def argsort(self, axis: int = -1, descending: bool = False) -> Tensor:
        """The indices that sort along the axis."""
        return _ops().composed.argsort(self, axis, descending)

    @aliases(dim="axis")
    def sort(self, axis: int = -1, descending: bool = False) -> Any:
        """(values, indices), sorted along the axis; the tensor itself stays as it is."""
        return _ops().composed.sort(self, axis, descending)

    @aliases(dim="axis")
    def topk(self, k: int, axis: int = -1, largest: bool = True) -> Any:
        """(values, indices) of the k largest along the axis."""
        return _ops().composed.topk(self, k, axis, largest)

    @aliases(dim="axis")
    def gather(self, axis: int, index: Any) -> Tensor:
        """The values at `index` along the axis, each at its own place along the others."""
        return _ops().composed.gather(self, axis, index)

    @aliases(dim="axis")
    def index_select(self, axis: int, index: Any) -> Tensor:
        """The slices at these indices along the axis."""
        return _ops().composed.index_select(self, axis, index)

    # shapes: the same values in another arrangement

    def reshape(self, *shape: Any) -> Tensor:
        """The same values in another shape; one size may be -1."""
        return _ops().shapes.reshape(self, *shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """The axes from start_dim to end_dim as one; by default all."""
        return _ops().shapes.flatten(self, start_dim, end_dim)

    def ravel(self) -> Tensor:
        """All values along one axis."""
        return _ops().shapes.reshape(self, -1)

    @aliases(dim="axis")
    def squeeze(self, axis: int | tuple[int, ...] | None = None) -> Tensor:
        """Without the axes of size 1: all of them, or those named."""
        return _ops().shapes.squeeze(self, axis)

    @aliases(dim="axis")
    def expand_dims(self, axis: int | tuple[int, ...]) -> Tensor:
        """With new axes of size 1 at these places of the result."""
        return _ops().shapes.expand_dims(self, axis)

    def transpose(self, *axes: Any) -> Tensor:
        """The axes in another order; without arguments, reversed. Two axes of three or more are exchanged."""
        return _ops().shapes.transpose(self, *axes)

    @property
    def T(self) -> Tensor:
        """All axes reversed."""
        return _ops().shapes.transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return _ops().shapes.swapaxes(self, -2, -1)

    @aliases(dim0="axis1", dim1="axis2")
    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        """Two axes exchanged."""
        return _ops().shapes.swapaxes(self, axis1, axis2)

    def broadcast_to(self, shape: tuple[int, ...]) -> Tensor:
        """The same values, repeated to fill the shape by NumPy's rules."""
        return _ops().shapes.broadcast_to(self, shape)

    # parts and repetitions

    @aliases(dim="axis", dims="axis")
    def flip(self, axis: Any = None) -> Tensor:
        """The opposite order along the axes."""
        return _ops().composed.flip(self, axis)

    @aliases(dim="axis", split_size="size")
    def split(self, size: Any, axis: int = 0) -> tuple[Tensor, ...]:
        """Parts of this size, or of these sizes, along the axis; `np.split` and `chunk` take their number."""
        return _ops().composed.split(self, size, axis)

    @aliases(dim="axis")
    def chunk(self, chunks: int, axis: int = 0) -> tuple[Tensor, ...]:
        """At most so many parts of equal size along the axis."""
        return _ops().composed.chunk(self, chunks, axis)

    @aliases(dim="axis")
    def unbind(self, axis: int = 0) -> tuple[Tensor, ...]:
        """The slices along the axis."""
        return _ops().composed.unbind(self, axis)

    @aliases(dim1="axis1", dim2="axis2")
    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        """A diagonal of two axes, as the last axis."""
        return _ops().composed.diagonal(self, offset, axis1, axis2)

    @aliases(diagonal="k")
    def tril(self, k: int = 0) -> Tensor:
        """With 0 above a diagonal of the last two axes."""
        return _ops().composed.tril(self, k)

    @aliases(diagonal="k")
    def triu(self, k: int = 0) -> Tensor:
        """With 0 below a diagonal of the last two axes."""
        return _ops().composed.triu(self, k)

    def tile(self, *reps: Any) -> Tensor:
        """The whole tensor, repeated so many times along each axis."""
        return _ops().composed.tile(self, *reps)

    @aliases(dim="axis")
    def repeat_interleave(self, repeats: Any, axis: int | None = None) -> Tensor:
        """Each value, or slice along the axis, repeated on the spot."""
        return _ops().composed.repeat_interleave(self, repeats, axis)

    def repeat(self, *repeats: Any, **names: Any) -> Tensor:
        """An error: NumPy's `repeat` is `repeat_interleave`, and PyTorch's is `tile`."""
        raise TypeError("Tensor.repeat: repeats each value in NumPy, and the whole tensor in PyTorch; "
                        "write repeat_interleave or tile")  # fmt: skip

    # aliases: PyTorch's names of what is above

    mm, clamp = __matmul__, clip

    def numel(self) -> int:
        """The number of values."""
        return self.data.size

    def dim(self) -> int:
        """The number of axes: `ndim`."""
        return self.data.ndim

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Set `requires_grad`. Returns the tensor."""
        self.requires_grad = requires_grad
        return self

    @aliases(dim="axis", keepdim="keepdims")
    def amax(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """`max`, by the name that has `dim` in PyTorch."""
        return _ops().reductions.amax(self, axis, keepdims)

    @aliases(dim="axis", keepdim="keepdims")
    def amin(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """`min`, by the name that has `dim` in PyTorch."""
        return _ops().reductions.amin(self, axis, keepdims)

    def view(self, *shape: Any) -> Tensor:
        """`reshape`, which copies where no view has the shape; PyTorch's `view` is an error there."""
        return _ops().shapes.reshape(self, *shape)

    def contiguous(self) -> Tensor:
        """The tensor itself: every operation takes any order of the values in memory."""
        return self

    def unsqueeze(self, dim: int) -> Tensor:
        """With a new axis of size 1 at this place of the result."""
        return _ops().shapes.expand_dims(self, dim)

    def permute(self, *axes: Any) -> Tensor:
        """The axes in another order."""
        return _ops().shapes.permute(self, *axes)

    def expand(self, *sizes: Any) -> Tensor:
        """`broadcast_to`, where -1 keeps a size."""
        return _ops().shapes.expand(self, *sizes)

    # dtype and device

    def astype(self, dtype: Any) -> Tensor:
        """The same values in another dtype."""
        return _ops().shapes.astype(self, dtype)

    def to(self, *args: Any, dtype: Any = None, device: Any = "cpu", non_blocking: Any = False) -> Tensor:
        """
        In another dtype; as in PyTorch, the tensor itself where it has that dtype.

        Parameters
        ----------
        *args
            "cpu", a dtype of NumPy, or both; or a tensor, whose dtype is meant.
        dtype, device
            The same by name.
        non_blocking
            Without a meaning on the CPU.

        Raises
        ------
        ValueError
            If another device than the CPU is asked for.
        TypeError
            If the dtype is not one of a tensor's.

        Examples
        --------
        >>> x = Tensor([1.0, 2.0])
        >>> x.to("cpu") is x, x.to("cpu", np.float64).dtype
        (True, dtype('float64'))
        """
        wanted = device_and_dtype("x", args, device, dtype)
        return self if wanted is None or wanted == self.dtype else self.astype(wanted)

    @property
    def device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    def cpu(self: Self) -> Self:
        """The tensor itself."""
        return self

    def clone(self) -> Tensor:
        """A copy, through which gradients flow back."""
        return self.astype(self.dtype)

    # last in the class: below these, `float` and the others are no longer Python's

    def double(self) -> Tensor:
        """In float64."""
        return self.to(dtype=np.float64)

    def long(self) -> Tensor:
        """In int64, rounded towards zero."""
        return self.to(dtype=np.int64)

    def float(self) -> Tensor:
        """In float32."""
        return self.to(dtype=np.float32)

    def int(self) -> Tensor:
        """In int32, rounded towards zero."""
        return self.to(dtype=np.int32)

    def bool(self) -> Tensor:
        """True where an element is not 0."""
        return self.to(dtype=np.bool_)


for _name, _method in vars(Tensor).items():  # for help(): the functions have the parameters and the examples
    if callable(_method) and not (_name.startswith("_") or _method.__doc__):
        _method.__doc__ = f"`tinygpt.functional.{_name}` of this tensor."


class Size(int):
    """
    The number of values of a tensor, an int; called, its shape, or the size of one axis.

    Examples
    --------
    >>> size = Tensor([[1.0, 2.0, 3.0]]).size
    >>> size + 1, size(), size(-1)
    (4, (1, 3), 3)
    """

    shape: tuple[int, ...]

    def __new__(cls, shape: tuple[int, ...]) -> Size:
        size = super().__new__(cls, math.prod(shape))
        size.shape = shape
        return size

    def __call__(self, dim: int | None = None) -> Any:
        if dim is None:
            return self.shape
        if not isinstance(dim, (int, np.integer)) or not -len(self.shape) <= dim < len(self.shape):
            raise IndexError(f"size: there is no axis {dim!r} in shape {self.shape}")
        return self.shape[dim]

    def __reduce__(self) -> Any:
        return int, (int(self),)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Beside an array it is Python's int: NumPy takes other kinds of int for int64, and float32 for float64."""
        return getattr(ufunc, method)(*[int(each) if each is self else each for each in inputs], **kwargs)


def _compared(compare: np.ufunc, a: Tensor, b: Any) -> Tensor:
    b = b.data if isinstance(b, Tensor) else b
    try:
        return Tensor(compare(a.data, b))
    except TypeError:
        if compare in (np.equal, np.not_equal):
            return Tensor(np.full(a.shape, compare is np.not_equal))  # a text, say, is equal to no number
        raise TypeError(f"{compare.__name__}: needs a tensor, an array or a number, got {type(b).__name__}") from None
    except ValueError:
        _ops().shapes.check_broadcast(compare.__name__, a.shape, np.shape(b))
        raise


def _combined(sign: str, combine: np.ufunc, *operands: Any) -> Tensor:
    arrays = [np.asarray(operand) for operand in operands]
    for array in arrays:
        if array.dtype.kind not in "biu":
            raise TypeError(
                f"{sign}: needs boolean or integer operands, got {array.dtype}; "
                "comparisons beside it need parentheses: (x > 0) & (x < 1)"
            )
    _ops().shapes.check_broadcast(sign, *(array.shape for array in arrays))
    return Tensor(combine(*arrays))


def is_masked(data: Any) -> bool:
    """Whether this is one of NumPy's masked arrays, without importing them: whoever has one has imported them."""
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())  # a thread may be in the middle of its import
    return isinstance(data, masked)


_USUAL = (np.dtype(np.float32), np.dtype(np.float64))


def _as_array(data: Any, dtype: Any) -> np.ndarray:
    if isinstance(data, Tensor):
        raise TypeError("Tensor: got a Tensor; use detach() for one without history, or astype() for another dtype")
    if type(data) is np.ndarray and dtype is None and data.dtype in _USUAL:
        return data  # as the results of operations are
    _check_detached(data)
    if is_masked(data):
        raise TypeError("Tensor: got a masked array, whose mask would be lost; write data.filled(...)")
    try:
        array = np.asarray(data)  # without dtype: NumPy would make NaN of None, and 1.5 of "1.5"
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError("Tensor: the rows of a list must have one length, got rows of several; pad them") from None
    if dtype is not None and array.dtype.kind in "fiub":
        array = array.astype(numpy_dtype("Tensor", dtype), copy=False)
    elif array.dtype == np.float64 and not isinstance(data, (np.ndarray, np.generic)):
        array = array.astype(np.float32)  # Python numbers have no precision of their own
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))  # from a file of another machine
    if array.dtype not in (np.float32, np.float64) and array.dtype.kind not in "iub":
        got = f"{array.dtype}" if isinstance(data, (np.ndarray, np.generic, list, tuple)) else type(data).__name__
        remedy = "; pass dtype=np.float32" if array.dtype.kind == "f" else ""
        raise TypeError(f"Tensor: dtype must be float32, float64, an integer type or bool, got {got}{remedy}")
    return array


def _check_detached(data: Any) -> None:
    """Raise TypeError where a list holds tensors that require gradients: an array of them would lose these."""
    if isinstance(data, Tensor) and data.requires_grad:
        raise TypeError("Tensor: got a list of tensors that require gradients, which would be lost; "
                        "use stack([a, b]) of tinygpt.functional, or detach() them")  # fmt: skip
    if isinstance(data, (list, tuple)):
        for item in data:
            if isinstance(item, (Tensor, list, tuple)):
                _check_detached(item)


@functools.cache
def _ops() -> Any:
    """The package `tinygpt.ops`, imported when the first tensor computes: its files import this one."""
    for name in ("basic", "choices", "composed", "elementwise", "numpy_dispatch", "products", "reductions", "shapes"):
        importlib.import_module(f"tinygpt.ops.{name}")
    return sys.modules["tinygpt.ops"]

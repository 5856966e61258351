"""
The chain rule: backward through any computation, in one page of NumPy.

An operation is two functions. Each file of `ops/` defines some:

    op.forward(*arrays, **attrs) -> out, saved        what it computes, and what its backward will need; attrs is
                                                      what has no gradient: axes, indices, targets
    op.backward(dout, saved)     -> one *share* per array: what that array's gradient receives through `out`

`apply` runs the forward and returns a `Value`, which remembers the operation, its inputs, and `saved`.

`backward` is the chain rule. Let the loss L depend on x through y1, y2, ..., each made from x by one operation. Then

    dL/dx = sum over k of  (dL/dyk) (dyk/dx)        where dyk/dx holds the other inputs of that one operation fixed

Term k is the share that the operation of yk returns for x, given dout = dL/dyk. Hence:

    newest value first    A value is newer than everything that it was computed from. Suppose a consumer of x has not
                          had its turn. L was computed from it: so it is waiting, or a value computed from it is, and
                          both are newer than x. Hence, when x is the newest that waits, all of its shares are there,
                          and its gradient is complete.
    ask its operation     op.backward turns the gradient of its output into the shares of its inputs.
    add the shares        The sum starts with the share of the newest consumer. Where an operation has one value as two
                          inputs, their shares are added from left to right. A sum is a new array: an operation may
                          return one array as the share of two inputs.

That is all of it. Floating-point sums depend on their order, so the order is part of the definition: the engine
(`graph.py`), started with empty gradients, computes the same in every bit, with less memory.
`tests/test_engine_reference.py` checks that. Finding the newest value with `max` takes time that grows with the square
of the number of values; the engine has a heap for it.

Source: Linnainmaa 1976, "Taylor expansion of the accumulated rounding error", BIT 16.
        Griewank & Walther, Evaluating Derivatives, 2nd ed. 2008, chapter 3.

Examples
--------
>>> from tinygpt.ops.basic import ADD, MUL
>>> x, y = Value(3.0), Value(4.0)
>>> loss = apply(ADD, apply(MUL, x, y), x)  # x y + x
>>> backward(loss)
>>> x.gradient, y.gradient  # y + 1, x
(np.float64(5.0), np.float64(3.0))
"""

import itertools

import numpy as np

clock = itertools.count()  # how many values there were before


class Value:
    """An array and its origin: `op`, the `inputs` that it was applied to, and what its forward `saved`."""

    def __init__(self, array, op=None, inputs=(), saved=None):
        self.array = np.asarray(array)
        self.op, self.inputs, self.saved = op, inputs, saved
        self.time = next(clock)
        self.gradient = None


def apply(op, *inputs, **attrs):
    """The value of `op` on `inputs`, each a value or an array."""
    inputs = [x if isinstance(x, Value) else Value(x) for x in inputs]
    out, saved = op.forward(*(x.array for x in inputs), **attrs)
    return Value(out, op, inputs, saved)


def backward(loss, dout=1.0):
    """Leave dL/dx in the `gradient` of every value x that L was computed from; `dout` is dL/dloss of each element."""
    waiting = {loss: np.full(loss.array.shape, dout, loss.array.dtype)}
    while waiting:
        newest = max(waiting, key=lambda value: value.time)
        newest.gradient = waiting.pop(newest)  # complete
        if newest.op is not None:
            shares = newest.op.backward(newest.gradient, newest.saved)
            for x, share in zip(newest.inputs, shares, strict=True):
                waiting[x] = waiting[x] + share if x in waiting else share

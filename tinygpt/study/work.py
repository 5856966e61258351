"""
How much an operation must compute or move: its operations (FLOPs), or its bytes, forward and backward.

Divided by the time that it took, and by the machine's peak (kernels/rates.py), it says how good the code is. Products
are counted in multiplications and additions; what is bound by memory in the bytes of the arrays that it must read and
write once. GELU before a product, a softmax and the like are not counted, nor what a kernel moves besides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Work(NamedTuple):
    """
    What one call must do.

    Attributes
    ----------
    unit : {"flops", "bytes"}
    forward : float
    gradients : tuple of float
        Backward, for the gradient of each input; what backward does once for all of them counts as the first's.
    """

    unit: str
    forward: float
    gradients: tuple[float, ...]


def work(name: str, shapes: Sequence[Shape], attrs: Mapping[str, Any]) -> Work | None:
    """
    The work of one call of an operation on float32 arrays, or None where it is not known.

    Parameters
    ----------
    name : str
        Of the operation.
    shapes : sequence of tuple
        Of its differentiable inputs.
    attrs : mapping
        Its attributes, as `apply` takes them.

    Returns
    -------
    Work or None

    Examples
    --------
    >>> work("linear", [(2, 3), (3, 5), (5,)], {})  # 2 * 2 * 3 * 5 operations in each of its three products
    Work(unit='flops', forward=60, gradients=(60, 60, 0))
    >>> work("gelu", [(10,)], {})  # forward reads x and writes out; backward reads x and dout, and writes dx
    Work(unit='bytes', forward=80, gradients=(120,))
    """
    sizes = [math.prod(shape) for shape in shapes]
    if name in ("linear", "gelu_linear"):
        product = 2 * sizes[0] * shapes[1][1]
        return Work("flops", product, (product, product, 0))
    if name == "linear_cross_entropy":
        product = 2 * sizes[0] * shapes[1][0]
        return Work("flops", product, (product, product))
    if name == "attention":  # the future is left out: half of two products forward, and of five backward
        B, T, width = shapes[0]
        return Work("flops", 2 * B * T**2 * width // 3, (5 * B * T**2 * width // 3,))
    if name == "matmul":
        a = shapes[0] if len(shapes[0]) > 1 else (1, *shapes[0])
        b = shapes[1] if len(shapes[1]) > 1 else (*shapes[1], 1)
        product = 2 * math.prod(np.broadcast_shapes(a[:-2], b[:-2])) * a[-2] * a[-1] * b[-1]
        return Work("flops", product, (product, product))
    if name == "embedding":  # the rows in use; backward adds to what the table's gradient holds
        rows = 4 * np.size(attrs["ids"]) * shapes[0][1]
        return Work("bytes", 2 * rows, (3 * rows,))
    if name == "add":  # backward passes dout on
        out = math.prod(np.broadcast_shapes(*shapes))
        return Work("bytes", 4 * (sum(sizes) + out), (0, 0))
    if name in _PASSES:
        forward, backward = _PASSES[name]
        return Work("bytes", forward * 4 * sizes[0], (backward * 4 * sizes[0],))
    return None


# How many arrays of x's size forward reads and writes, and backward.
_PASSES = {"layernorm": (2, 3), "gelu": (2, 3), "dropout": (2, 2), "cross_entropy": (1, 2)}

# The same for what runs outside of the graph: arrays of the first one's size.
FUNCTIONS = {
    "tinygpt.kernels.adamw.update": 7,
    "tinygpt.optim.adamw.adamw_update": 7,
    "tinygpt.kernels.norm.squares": 1,
    "tinygpt.optim.gradient_norm._sum_of_squares": 1,
    "tinygpt.kernels.norm.update": 2,
}

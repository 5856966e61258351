"""
PyTorch's version of each operation, for `tinygpt gradcheck --against torch`.

PyTorch is optional; it is imported only for this comparison.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygpt.study.samples import Sample


def gradients(name: str, sample: Sample, dout: np.ndarray) -> list[np.ndarray] | None:
    """
    PyTorch's gradients in float64; None where it has no such operation or cannot take these attributes.

    Raises
    ------
    ValueError
        If PyTorch is not installed.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise ValueError('gradcheck: --against torch needs PyTorch: pip install "tinygpt[reference]"') from None
    function = _table(torch).get(name)
    if function is None or sample.attrs.get("p"):  # it draws another mask
        return None
    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in sample.arrays]
    try:
        out = function(*tensors, **sample.attrs)
    except (ValueError, TypeError):  # a step of -1 in an index, for one
        return None
    out.backward(torch.tensor(np.asarray(dout)).reshape(out.shape))
    return [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in tensors]


def _table(torch: Any) -> dict[str, Callable]:
    F = torch.nn.functional

    def ids(array: Any) -> Any:
        return torch.as_tensor(array)

    def reduced(function: Callable) -> Callable:
        return lambda x, axis=None, keepdims=False: function(
            x, dim=tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims
        )

    def spread(function: Callable) -> Callable:
        return lambda x, ddof=0, **how: reduced(lambda x, **dims: function(x, correction=ddof, **dims))(x, **how)

    def prod(x: Any, axis: Any = None, keepdims: bool = False) -> Any:  # PyTorch's takes one axis
        for i in range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis:
            x = torch.prod(x, i, keepdim=True)
        return x

    def pad(x: Any, widths: Any, value: float) -> Any:
        return F.pad(x, [width for pair in reversed(widths) for width in pair], value=value)

    def linear(x: Any, weight: Any, bias: Any) -> Any:
        return x @ weight + bias

    def gelu(x: Any) -> Any:
        return F.gelu(x, approximate="tanh")

    def attention(qkv: Any, n_head: int, **_: Any) -> Any:
        B, T, width = qkv.shape
        q, k, v = qkv.reshape(B, T, 3, n_head, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.transpose(1, 2).reshape(B, T, width // 3)

    def cross_entropy(logits: Any, targets: Any, ignore_index: int = -100) -> Any:
        return F.cross_entropy(logits, ids(targets), ignore_index=ignore_index)

    return {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "neg": torch.neg,
        "pow": lambda a, exponent: a**exponent, "power": torch.pow, "remainder": torch.remainder,
        "matmul": torch.matmul, "exp": torch.exp, "log": torch.log, "expm1": torch.expm1, "log1p": torch.log1p,
        "sqrt": torch.sqrt, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "sin": torch.sin, "cos": torch.cos,
        "abs": torch.abs, "relu": torch.relu, "maximum": torch.maximum, "logaddexp": torch.logaddexp,
        "clip": lambda a, low, high: torch.clamp(*torch.broadcast_tensors(a, ids(low), ids(high))),
        "where": lambda a, b, condition: torch.where(ids(condition), a, b),
        "sum": reduced(torch.sum), "mean": reduced(torch.mean), "max": reduced(torch.amax),
        "var": spread(torch.var), "std": spread(torch.std), "norm": reduced(torch.linalg.vector_norm), "prod": prod,
        "logsumexp": reduced(torch.logsumexp), "cumsum": lambda x, axis: torch.cumsum(x, axis), "pad": pad,
        "einsum": lambda *arrays, subscripts: torch.einsum(subscripts, *arrays),
        "softmax": lambda x, axis: torch.softmax(x, axis), "log_softmax": lambda x, axis: torch.log_softmax(x, axis),
        "reshape": lambda x, shape: x.reshape(shape), "transpose": lambda x, axes: x.permute(axes),
        "broadcast_to": lambda x, shape: torch.broadcast_to(x, shape), "getitem": lambda x, index: x[index],
        "concatenate": lambda *arrays, axis: torch.cat(arrays, axis),
        "embedding": lambda weight, ids: F.embedding(torch.as_tensor(ids), weight),
        "linear": linear, "gelu": gelu, "gelu_linear": lambda x, weight, bias: linear(gelu(x), weight, bias),
        "layernorm": lambda x, weight, bias, eps=1e-5: F.layer_norm(x, x.shape[-1:], weight, bias, eps),
        "attention": attention, "cross_entropy": cross_entropy,
        "linear_cross_entropy": lambda x, weight, **how: cross_entropy(x @ weight.T, **how),
    }  # fmt: skip

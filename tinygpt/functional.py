"""Every operation under one name, for ``import tinygpt.functional as F``."""

from typing import TYPE_CHECKING

from tinygpt.ops.attention import attention, scaled_dot_product_attention
from tinygpt.ops.basic import add, div, matmul, mul, neg, pow, sub
from tinygpt.ops.cross_entropy import cross_entropy
from tinygpt.ops.dropout import dropout
from tinygpt.ops.elementwise import exp, log, maximum, minimum, relu, sqrt, tanh, where
from tinygpt.ops.embedding import embedding
from tinygpt.ops.gelu import gelu
from tinygpt.ops.gelu_linear import gelu_linear
from tinygpt.ops.layernorm import layer_norm, layernorm
from tinygpt.ops.linear import linear
from tinygpt.ops.linear_cross_entropy import linear_cross_entropy
from tinygpt.ops.reductions import log_softmax, max, mean, min, softmax, sum, var
from tinygpt.ops.shapes import (
    astype,
    broadcast_to,
    concatenate,
    expand_dims,
    getitem,
    reshape,
    squeeze,
    stack,
    swapaxes,
    transpose,
)

__all__ = [
    "add", "astype", "attention", "broadcast_to", "concatenate", "cross_entropy", "div", "dropout", "embedding",
    "exp", "expand_dims", "gelu", "gelu_linear", "getitem", "layer_norm", "layernorm", "linear",
    "linear_cross_entropy", "log", "log_softmax", "matmul", "max", "maximum", "mean", "min", "minimum", "mul",
    "neg", "pow", "relu", "reshape", "scaled_dot_product_attention", "softmax", "sqrt", "squeeze", "stack", "sub",
    "sum", "swapaxes", "tanh", "transpose", "var", "where",
]  # fmt: skip

if not TYPE_CHECKING:

    def __getattr__(name):
        from tinygpt.runtime.torch_names import missing

        raise missing(__name__, name)

"""Every operation under one name, for ``import tinygpt.functional as F``."""

from tinygpt.ops.attention import attention
from tinygpt.ops.basic import add, div, matmul, mul, neg, pow, sub
from tinygpt.ops.choices import maximum, minimum, where
from tinygpt.ops.cross_entropy import cross_entropy
from tinygpt.ops.dropout import dropout
from tinygpt.ops.elementwise import exp, log, relu, sqrt, tanh
from tinygpt.ops.embedding import embedding
from tinygpt.ops.gelu import gelu
from tinygpt.ops.gelu_linear import gelu_linear
from tinygpt.ops.layernorm import layernorm
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
    "add", "astype", "attention", "broadcast_to", "concatenate", "cross_entropy", "div", "dropout", "embedding", "exp",
    "expand_dims", "gelu", "gelu_linear", "getitem", "layernorm", "linear", "linear_cross_entropy", "log",
    "log_softmax", "matmul", "max", "maximum", "mean", "min", "minimum", "mul", "neg", "pow", "relu", "reshape",
    "softmax", "sqrt", "squeeze", "stack", "sub", "sum", "swapaxes", "tanh", "transpose", "var", "where",
]  # fmt: skip

"""Every operation under one name, for ``import tinygpt.functional as F``."""

from tinygpt.ops.attention import attention
from tinygpt.ops.basic import (
    add,
    div,
    floor_divide,
    matmul,
    mul,
    neg,
    pow,
    power,
    reciprocal,
    remainder,
    square,
    sub,
)
from tinygpt.ops.choices import clamp, clip, logaddexp, maximum, minimum, softplus, where
from tinygpt.ops.cross_entropy import cross_entropy, nll_loss
from tinygpt.ops.dropout import dropout
from tinygpt.ops.elementwise import (
    abs,
    cos,
    cosh,
    exp,
    exp2,
    expm1,
    log,
    log1p,
    log2,
    log10,
    relu,
    sigmoid,
    sign,
    silu,
    sin,
    sinh,
    sqrt,
    tanh,
)
from tinygpt.ops.embedding import embedding
from tinygpt.ops.gelu import gelu
from tinygpt.ops.gelu_linear import gelu_linear
from tinygpt.ops.layernorm import layernorm
from tinygpt.ops.linear import linear
from tinygpt.ops.linear_cross_entropy import linear_cross_entropy
from tinygpt.ops.losses import binary_cross_entropy_with_logits, l1_loss, mse_loss
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
    "abs", "add", "astype", "attention", "binary_cross_entropy_with_logits", "broadcast_to", "clamp", "clip",
    "concatenate", "cos", "cosh", "cross_entropy", "div", "dropout", "embedding", "exp", "exp2", "expand_dims", "expm1",
    "floor_divide", "gelu", "gelu_linear", "getitem", "l1_loss", "layernorm", "linear", "linear_cross_entropy", "log",
    "log1p", "log2", "log10", "log_softmax", "logaddexp", "matmul", "max", "maximum", "mean", "min", "minimum",
    "mse_loss", "mul", "neg", "nll_loss", "pow", "power", "reciprocal", "relu", "remainder", "reshape", "sigmoid",
    "sign", "silu", "sin", "sinh", "softmax", "softplus", "sqrt", "square", "squeeze", "stack", "sub", "sum",
    "swapaxes", "tanh", "transpose", "var", "where",
]  # fmt: skip

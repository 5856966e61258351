"""Every operation under one name, for ``import tinygpt.functional as F``."""

from typing import TYPE_CHECKING

from tinygpt.ops.attention import attention, scaled_dot_product_attention
from tinygpt.ops.basic import add, div, floor_divide, matmul, mul, neg, pow, power, reciprocal, remainder, square, sub
from tinygpt.ops.choices import clamp, clip, logaddexp, maximum, minimum, softplus, where
from tinygpt.ops.composed import (
    all,
    any,
    argmax,
    argmin,
    argsort,
    chunk,
    diagonal,
    flip,
    gather,
    index_select,
    masked_fill,
    repeat_interleave,
    sort,
    split,
    tile,
    topk,
    trace,
    tril,
    triu,
    unbind,
)
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
from tinygpt.ops.layernorm import layer_norm, layernorm
from tinygpt.ops.linear import linear
from tinygpt.ops.linear_cross_entropy import linear_cross_entropy
from tinygpt.ops.losses import binary_cross_entropy_with_logits, l1_loss, mse_loss
from tinygpt.ops.products import dot, einsum, outer
from tinygpt.ops.reductions import (
    amax,
    amin,
    cumsum,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    softmax,
    std,
    sum,
    var,
)
from tinygpt.ops.shapes import (
    astype,
    broadcast_to,
    concatenate,
    expand,
    expand_dims,
    flatten,
    getitem,
    pad,
    permute,
    reshape,
    squeeze,
    stack,
    swapaxes,
    transpose,
)
from tinygpt.runtime.missing import missing_name

__all__ = [
    "abs", "add", "all", "amax", "amin", "any", "argmax", "argmin", "argsort", "astype", "attention",
    "binary_cross_entropy_with_logits", "broadcast_to", "chunk", "clamp", "clip", "concatenate", "cos", "cosh",
    "cross_entropy", "cumsum", "diagonal", "div", "dot", "dropout", "einsum", "embedding", "exp", "exp2", "expand",
    "expand_dims", "expm1", "flatten", "flip", "floor_divide", "gather", "gelu", "gelu_linear", "getitem",
    "index_select", "l1_loss", "layer_norm", "layernorm", "linear", "linear_cross_entropy",
    "log", "log1p", "log2", "log10",
    "log_softmax", "logaddexp", "logsumexp", "masked_fill", "matmul", "max", "maximum", "mean", "min", "minimum",
    "mse_loss", "mul", "neg", "nll_loss", "norm", "outer", "pad", "permute", "pow", "power", "prod", "reciprocal",
    "relu", "remainder", "repeat_interleave", "reshape", "scaled_dot_product_attention",
    "sigmoid", "sign", "silu", "sin", "sinh", "softmax",
    "softplus", "sort", "split", "sqrt", "square", "squeeze", "stack", "std", "sub", "sum", "swapaxes", "tanh", "tile",
    "topk", "trace", "transpose", "tril", "triu", "unbind", "var", "where",
]  # fmt: skip

if not TYPE_CHECKING:

    def __getattr__(name):
        raise missing_name(__name__, name)

"""Every operation under one name, for ``import tinygpt.functional as F``."""

from tinygpt.ops.attention import attention
from tinygpt.ops.basic import add, div, matmul, mul, neg, pow, sub
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
from tinygpt.ops.cross_entropy import cross_entropy
from tinygpt.ops.dropout import dropout
from tinygpt.ops.elementwise import exp, log, maximum, minimum, relu, sqrt, tanh, where
from tinygpt.ops.embedding import embedding
from tinygpt.ops.gelu import gelu
from tinygpt.ops.gelu_linear import gelu_linear
from tinygpt.ops.layernorm import layernorm
from tinygpt.ops.linear import linear
from tinygpt.ops.linear_cross_entropy import linear_cross_entropy
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

__all__ = [
    "add", "all", "amax", "amin", "any", "argmax", "argmin", "argsort", "astype", "attention", "broadcast_to", "chunk",
    "concatenate", "cross_entropy", "cumsum", "diagonal", "div", "dot", "dropout", "einsum", "embedding", "exp",
    "expand", "expand_dims", "flatten", "flip", "gather", "gelu", "gelu_linear", "getitem", "index_select",
    "layernorm", "linear", "linear_cross_entropy", "log", "log_softmax", "logsumexp", "masked_fill", "matmul", "max",
    "maximum", "mean", "min", "minimum", "mul", "neg", "norm", "outer", "pad", "permute", "pow", "prod", "relu",
    "repeat_interleave", "reshape", "softmax", "sort", "split", "sqrt", "squeeze", "stack", "std", "sub", "sum",
    "swapaxes", "tanh", "tile", "topk", "trace", "transpose", "tril", "triu", "unbind", "var", "where",
]  # fmt: skip

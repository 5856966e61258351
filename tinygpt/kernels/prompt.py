"""
A whole prompt, a layer at a time: the twin of `Block` in gpt2/model.py with an empty cache.

    (1) qkv    = ln_1(x) @ c_attn
    (2) heads  = attention of the tokens, whose keys and values go to the cache
    (3) x      = x + heads @ attn.c_proj
    (4) hidden = gelu(ln_2(x) @ c_fc)
    (5) x      = x + hidden @ mlp.c_proj

The steps are those of decode_step.py, which reads one more token of several texts. Here are many tokens of one text,
so time goes into products, not into reading weights: each step is a kernel of its own, on all threads, and its passes
over memory are joined where one follows another (projection.py).

With quantized weights, operands of every product are rounded to bfloat16, also in attention, where the processor
multiplies these; sums, the residual stream and what the cache keeps are float32. Of int4 weights it reads what they
stand for, in float32: unpacking them would take longer than reading four bytes for each.

Cost: 2 operations per token and weight, and 2 T^2 C for attention.
"""

from __future__ import annotations

import numpy as np

from tinygpt.kernels import attention, layernorm
from tinygpt.kernels.decode_step import append
from tinygpt.kernels.projection import project
from tinygpt.runtime import memory


def layer(x, weights, keys, values, sequence, eps, bfloat16=False):
    """
    Replace x (T, C) by the output of the layer, and write the tokens' keys and values to a sequence of the cache.

    `bfloat16`: round the operands of all products, whatever the precision, as those with a quantized weight are.
    """
    ln_1, c_attn, attn_c_proj, ln_2, c_fc, mlp_c_proj = weights
    T, C = x.shape
    qkv = memory.empty((1, T, 3 * C), np.float32)
    project(layernorm.forward(x, *ln_1, eps)[0], c_attn, into=qkv[0], bfloat16=bfloat16)  # (1)
    append(qkv, keys, values, [sequence], [0])  # (2)
    heads = attention.forward(qkv, keys.shape[1], bfloat16=bfloat16)[0]  # (2)
    project(heads[0], attn_c_proj, into=x, add=True, bfloat16=bfloat16)  # (3)
    hidden = memory.empty((T, len(c_fc[2])), np.float32)
    project(layernorm.forward(x, *ln_2, eps)[0], c_fc, into=hidden, gelu=True, bfloat16=bfloat16)  # (4)
    project(hidden, mlp_c_proj, into=x, add=True, bfloat16=bfloat16)  # (5)

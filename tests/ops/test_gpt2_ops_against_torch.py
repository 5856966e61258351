"""Every operation of GPT-2 against PyTorch in float64: the forward, and the gradient of every input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor

torch = pytest.importorskip("torch")
torch_F = torch.nn.functional

# Both sides compute in float64 and differ in the order of their sums: about 1e-15 a step, a few hundred steps.
# 1e-9 is far above that, and far below any wrong term.
TOLERANCE = 1e-9


def torch_value_and_gradients(f, arrays, dout):
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    out = f(*tensors)
    out.backward(None if dout is None else torch.tensor(dout))
    return out.detach().numpy(), [tensor.grad.numpy() for tensor in tensors]


def assert_agree(ours, theirs, arrays, rng):
    """The same values, and the same gradients of a random projection of them."""
    shape = theirs(*map(torch.tensor, arrays)).shape
    dout = rng.standard_normal(tuple(shape))
    expected = torch_value_and_gradients(theirs, arrays, dout)
    assert_same(value_and_gradients(ours, arrays, dout), expected, TOLERANCE)


def draw(rng, *shapes):
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("shape", [(7,), (5, 3), (4, 33), (2, 9, 64), (2, 3, 4, 17)], ids=str)
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layernorm(rng, shape, eps):
    C = shape[-1:]
    assert_agree(
        lambda x, weight, bias: F.layernorm(x, weight, bias, eps),
        lambda x, weight, bias: torch_F.layer_norm(x, C, weight, bias, eps),
        draw(rng, shape, C, C),
        rng,
    )


@pytest.mark.parametrize("shape", [(1,), (24,), (11, 24), (2, 9, 24)], ids=str)
def test_linear(rng, shape):
    """torch.addmm on the flattened tokens is how GPT-2's "Conv1D" is computed."""
    inputs, outputs = shape[-1], 37
    assert_agree(
        F.linear,
        lambda x, weight, bias: torch.addmm(bias, x.reshape(-1, inputs), weight).reshape(*shape[:-1], outputs),
        draw(rng, shape, (inputs, outputs), (outputs,)),
        rng,
    )


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_gelu(rng, scale):
    x = scale * rng.standard_normal((2, 9, 64))
    assert_agree(F.gelu, lambda x: torch_F.gelu(x, approximate="tanh"), [x], rng)


@pytest.mark.parametrize("shape", [(), (1,), (40,), (3, 17)], ids=str)
def test_embedding(rng, shape):
    ids = rng.integers(0, 13, shape)  # 13 rows for up to 51 places: repeats
    assert_agree(
        lambda weight: F.embedding(ids, weight),
        lambda weight: torch_F.embedding(torch.tensor(ids), weight),
        draw(rng, (13, 8)),
        rng,
    )


ATTENTION_SHAPES = {  # B, T, H, D
    "small": (2, 5, 2, 3),
    "one token": (3, 1, 2, 4),
    "one head": (2, 33, 1, 8),
    "GPT-2's heads": (2, 17, 12, 64),
}


def torch_heads(qkv, H):
    """(B, T, 3C) as queries, keys and values of shape (B, H, T, D)."""
    B, T, width = qkv.shape
    return (part.reshape(B, T, H, width // 3 // H).transpose(1, 2) for part in qkv.chunk(3, dim=-1))


def torch_merge(heads):
    B, H, T, D = heads.shape
    return heads.transpose(1, 2).reshape(B, T, H * D)


@pytest.mark.parametrize(("B", "T", "H", "D"), ATTENTION_SHAPES.values(), ids=ATTENTION_SHAPES)
def test_attention(rng, B, T, H, D):
    def theirs(qkv):
        return torch_merge(torch_F.scaled_dot_product_attention(*torch_heads(qkv, H), is_causal=True))

    assert_agree(lambda qkv: F.attention(qkv, H), theirs, draw(rng, (B, T, 3 * H * D)), rng)


@pytest.mark.parametrize(("B", "T", "H", "D"), ATTENTION_SHAPES.values(), ids=ATTENTION_SHAPES)
def test_attention_with_dropout(rng, B, T, H, D):
    """PyTorch composes what its own attention does, with our mask: it draws other random numbers."""
    mask = torch.tensor(F.dropout(Tensor(np.ones((B, H, T, T))), 0.2, seed=31).data)

    def theirs(qkv):
        q, k, v = torch_heads(qkv, H)
        scores = q @ k.transpose(-1, -2) / math.sqrt(D)
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
        return torch_merge(torch_F.softmax(scores, dim=-1) * mask @ v)

    assert_agree(lambda qkv: F.attention(qkv, H, p=0.2, seed=31), theirs, draw(rng, (B, T, 3 * H * D)), rng)


@pytest.mark.parametrize(("p", "seed"), [(0.1, 1), (0.5, 2**64 - 1)])
def test_dropout(rng, p, seed):
    mask = torch.tensor(F.dropout(Tensor(np.ones((2, 9, 16))), p, seed).data)
    assert_agree(lambda x: F.dropout(x, p, seed), lambda x: x * mask, draw(rng, (2, 9, 16)), rng)


@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("shape", [(1, 2), (30, 50), (2, 9, 257)], ids=str)
def test_cross_entropy(rng, shape, scale, ignored):
    targets = rng.integers(0, shape[-1], shape[:-1])
    if ignored:
        targets.flat[1:][rng.random(targets.size - 1) < ignored] = -100
    assert_agree(
        lambda logits: F.cross_entropy(logits, targets),
        lambda logits: torch_F.cross_entropy(logits.reshape(-1, shape[-1]), torch.tensor(targets).reshape(-1)),
        [scale * rng.standard_normal(shape)],
        rng,
    )


def test_cross_entropy_with_an_ignored_token_of_the_vocabulary(rng):
    targets = rng.integers(0, 4, 30)
    assert_agree(
        lambda logits: F.cross_entropy(logits, targets, ignore_index=2),
        lambda logits: torch_F.cross_entropy(logits, torch.tensor(targets), ignore_index=2),
        draw(rng, (30, 4)),
        rng,
    )


def test_a_whole_block_of_gpt2(rng):
    """The operations one after another, with both residual connections: every gradient of a transformer block."""
    C, H = 12, 3
    layers = [(C,), (C, 3 * C), (C, C), (C,), (C, 4 * C), (4 * C, C)]  # ln_1, c_attn, c_proj, ln_2, c_fc, c_proj
    shapes = [(2, 5, C), *(shape for weight in layers for shape in (weight, weight[-1:]))]  # a bias after each weight

    def block(layernorm, linear, attention, gelu):
        def f(*arrays):
            x, *parameters = arrays
            ln_1, c_attn, c_proj, ln_2, c_fc, mlp_proj = zip(parameters[::2], parameters[1::2], strict=True)
            x = x + linear(attention(linear(layernorm(x, *ln_1), *c_attn)), *c_proj)
            return x + linear(gelu(linear(layernorm(x, *ln_2), *c_fc)), *mlp_proj)

        return f

    ours = block(F.layernorm, F.linear, lambda qkv: F.attention(qkv, H), F.gelu)
    theirs = block(
        lambda x, weight, bias: torch_F.layer_norm(x, (C,), weight, bias),
        lambda x, weight, bias: x @ weight + bias,
        lambda qkv: torch_merge(torch_F.scaled_dot_product_attention(*torch_heads(qkv, H), is_causal=True)),
        lambda x: torch_F.gelu(x, approximate="tanh"),
    )
    assert_agree(ours, theirs, draw(rng, *shapes), rng)

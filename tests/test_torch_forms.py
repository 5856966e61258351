"""Functions and methods that take PyTorch's arguments: the same values and gradients as there, and errors."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck, no_grad

torch = pytest.importorskip("torch")


def both(ours, theirs, *arrays, tolerance=1e-12):
    """Assert that two functions of float64 arrays agree in their values and in the gradient of each array."""
    mine = [Tensor(array.copy(), requires_grad=True) for array in arrays]
    other = [torch.tensor(array, requires_grad=True) for array in arrays]
    out, expected = ours(*mine), theirs(*other)
    dout = np.random.default_rng(1).standard_normal(out.shape)
    out.backward(dout)
    expected.backward(torch.tensor(dout))
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    for tensor, twin in zip(mine, other, strict=True):
        np.testing.assert_allclose(tensor.grad, twin.grad.numpy(), rtol=tolerance, atol=tolerance)


# layer_norm


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm_is_pytorchs(rng, eps):
    x, weight, bias = rng.standard_normal((2, 3, 4)), rng.standard_normal(4), rng.standard_normal(4)
    both(lambda *t: F.layer_norm(t[0], (4,), *t[1:], eps),
         lambda *t: torch.nn.functional.layer_norm(t[0], (4,), *t[1:], eps), x, weight, bias)  # fmt: skip


def test_layer_norm_without_weight_and_bias_normalizes_only(rng):
    both(lambda x: F.layer_norm(x, (4,)), lambda x: torch.nn.functional.layer_norm(x, (4,)), rng.normal(size=(3, 4)))
    x = Tensor(rng.standard_normal((3, 4), np.float32))
    assert F.layer_norm(x, 4).dtype == np.float32
    np.testing.assert_array_equal(F.layer_norm(x, [4]), F.layer_norm(x, 4))


@pytest.mark.parametrize("shape", [(3,), (2, 4), (), 2])
def test_layer_norm_of_other_axes_than_the_last_is_refused(shape):
    with pytest.raises(
        ValueError, match=r"^layer_norm: normalized_shape must be the last axis alone, \(4,\) for x \(2"
    ):
        F.layer_norm(Tensor(np.ones((2, 4))), shape)


# scaled_dot_product_attention


def heads(rng, T=3, S=3):
    return [rng.standard_normal((2, 2, length, 4)) for length in (T, S, S)]


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]], bool)},
     {"attn_mask": np.array([[0.0, -1, 2], [1, 0, -np.inf], [0.5, 0, 0]])}],
    ids=["full", "causal", "scale", "mask", "bias"],
)  # fmt: skip
def test_attention_of_separate_heads_is_pytorchs(rng, options):
    twins = {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    both(lambda *qkv: F.scaled_dot_product_attention(*qkv, **options),
         lambda *qkv: torch.nn.functional.scaled_dot_product_attention(*qkv, **twins), *heads(rng))  # fmt: skip


def test_a_causal_mask_of_more_keys_than_queries_is_pytorchs(rng):
    both(lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True),
         lambda *qkv: torch.nn.functional.scaled_dot_product_attention(*qkv, is_causal=True),
         *heads(rng, T=2, S=5))  # fmt: skip


def test_a_mask_may_be_a_tensor_and_broadcast(rng):
    q, k, v = heads(rng)
    mask = np.array([True, False, True])
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=np.tile(mask, (3, 1)))
    np.testing.assert_array_equal(F.scaled_dot_product_attention(q, k, v, attn_mask=Tensor(mask)), expected)


def test_separate_heads_attend_as_packed_ones_do(rng):
    qkv = Tensor(rng.standard_normal((2, 3, 12), np.float32))
    q, k, v = (qkv[..., 4 * i : 4 * i + 4].reshape(2, 3, 2, 2).swapaxes(1, 2) for i in range(3))
    apart = F.scaled_dot_product_attention(q, k, v, is_causal=True).swapaxes(1, 2).reshape(2, 3, 4)
    np.testing.assert_allclose(apart, F.attention(qkv, n_head=2), rtol=1e-5, atol=1e-6)


def test_the_gradients_of_separate_heads_agree_with_finite_differences(rng):
    tensors = [Tensor(array, requires_grad=True) for array in heads(rng)]
    gradcheck(lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True), tensors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout_p": 0.1}, r"dropout_p must be 0, got 0.1; attention\(qkv, n_head, p, seed\) drops weights"),
        ({"is_causal": True, "attn_mask": np.ones((3, 3), bool)}, "takes is_causal=True or attn_mask, got both"),
    ],
)
def test_what_attention_of_separate_heads_cannot_do_is_named(rng, options, message):
    with pytest.raises(ValueError, match=f"^scaled_dot_product_attention: {message}$"):
        F.scaled_dot_product_attention(*heads(rng), **options)


# linear and gelu


def test_linear_without_a_bias_is_the_product(rng):
    x, weight = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
    both(F.linear, lambda x, weight: torch.nn.functional.linear(x, weight.T), x, weight)
    x, weight = (Tensor(array.astype(np.float32)) for array in (x, weight))
    assert F.linear(x, weight).dtype == np.float32


def test_a_weight_in_pytorchs_layout_is_explained():
    message = r"got \(2, 3\) and weight \(5, 3\); a weight of PyTorch's is \(O, I\): write weight.T$"
    with pytest.raises(ValueError, match=message):
        F.linear(Tensor(np.ones((2, 3))), Tensor(np.ones((5, 3))), Tensor(np.ones(5)))


def test_gelu_takes_the_name_of_its_own_form_only(rng):
    both(lambda x: F.gelu(x, approximate="tanh"), lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
         rng.standard_normal(9))  # fmt: skip
    with pytest.raises(ValueError, match=r"^gelu: approximate must be 'tanh', the form of GPT-2, got 'none'; leave it"):
        F.gelu(Tensor([1.0]), approximate="none")


# dtype and device

CONVERSIONS = {"float": "float32", "double": "float64", "long": "int64", "int": "int32", "bool": "bool"}


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.parametrize("source", ["float32", "float64", "int64", "bool"])
def test_a_conversion_has_pytorchs_values_and_dtype(name, source):
    array = np.array([0, 1, -2.7, 3.5]).astype(source)
    found, expected = getattr(Tensor(array), name)(), getattr(torch.tensor(array), name)()
    assert found.dtype == CONVERSIONS[name]
    np.testing.assert_array_equal(found, expected.numpy())


def test_a_conversion_to_the_same_dtype_is_the_tensor_itself():
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert x.float() is x and x.cpu() is x and x.contiguous() is x and x.device == "cpu"
    assert all(same is x for same in (x.to("cpu"), x.to("cpu:0"), x.to(np.float32), x.to(None), x.to(x), x.to()))


def test_a_clone_has_memory_of_its_own_and_passes_gradients_on():
    x = Tensor([1.0, 2.0], requires_grad=True)
    clone = x.clone()
    assert not np.shares_memory(clone.data, x.data) and not clone.is_leaf
    (clone * 3).sum().backward()
    np.testing.assert_array_equal(x.grad, np.array([3, 3], np.float32))
    assert Tensor([True]).clone().dtype == bool and Tensor([1]).clone().dtype == np.int64


def test_gradients_go_through_a_conversion_between_floats():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x.double() * 3).sum().backward()
    np.testing.assert_array_equal(x.grad, np.array([3, 3], np.float32))
    assert x.grad.dtype == np.float32 and not x.long().requires_grad


@pytest.mark.parametrize(
    "arguments",
    [((np.float64,), {}), (("cpu", np.float64), {}), ((), {"dtype": np.float64}), (("float64",), {}),
     ((Tensor(np.ones(1)),), {}), (("cpu",), {"dtype": "float64", "non_blocking": True}),
     ((), {"device": "cpu", "dtype": np.float64}), ((torch.device("cpu"), np.float64), {})],
)  # fmt: skip
def test_to_takes_a_device_a_dtype_or_a_tensor(arguments):
    args, options = arguments
    assert Tensor([1.0]).to(*args, **options).dtype == np.float64


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps", torch.device("cuda"), 0.5])
def test_another_device_is_refused(device):
    with pytest.raises(ValueError, match=r"^x.to: needs 'cpu' or a dtype of NumPy, got .*everything computes on"):
        Tensor([1.0]).to(device)
    with pytest.raises(ValueError, match=r"^x.to: "):
        Tensor([1.0]).to(device=device)


# no_grad


def test_no_grad_decorates_with_and_without_parentheses():
    w = Tensor([1.0], requires_grad=True)

    @no_grad
    def plain(scale):
        """What it does."""
        return w * scale

    @no_grad()
    def called(scale):
        return w * scale

    assert not plain(2).requires_grad and not called(scale=2).requires_grad and (w * 2).requires_grad
    assert plain.__name__ == "plain" and plain.__doc__ == "What it does."


def test_no_grad_without_parentheses_decorates_generators_and_coroutines():
    w = Tensor([1.0], requires_grad=True)

    @no_grad
    def generate():
        yield (w * 2).requires_grad

    @no_grad
    async def wait():
        return (w * 2).requires_grad

    assert list(generate()) == [False] and asyncio.run(wait()) is False


@pytest.mark.parametrize("argument", [0, "x", [1.0]])
def test_no_grad_of_something_else_is_refused(argument):
    with pytest.raises(TypeError, match=r"^no_grad: decorates a function, got "):
        no_grad(argument)

"""
A product always has the weights that are in memory now, however they came there.

Packed or rounded copies of a weight are made and dropped within a product. A copy that outlived it would be stale after
any of these writes, of which NumPy tells nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from tinygpt import GPT, AdamW, GPTConfig, Tensor, no_grad
from tinygpt.nn import Linear
from tinygpt.runtime.settings import float32_matmul_precision

INPUTS, OUTPUTS, ROWS = 96, 160, 40
Write = Callable[[Linear, np.ndarray], None]  # writes an (INPUTS, OUTPUTS) array into a layer's weight


def _by_slices(layer: Linear, new: np.ndarray) -> None:
    layer.weight.data[: INPUTS // 2] = new[: INPUTS // 2]
    layer.weight.data[INPUTS // 2 :, ::2] = new[INPUTS // 2 :, ::2]
    layer.weight.data[INPUTS // 2 :, 1::2] = new[INPUTS // 2 :, 1::2]


def _by_one_number(layer: Linear, new: np.ndarray) -> None:
    new[...] = layer.weight.data
    layer.weight.data[-1, -1] = new[-1, -1] = 100.0


def _by_out(layer: Linear, new: np.ndarray) -> None:
    np.add(new, 0, out=layer.weight.data)


def _by_numpy(layer: Linear, new: np.ndarray) -> None:
    layer.weight.numpy()[...] = new


def _by_replacing(layer: Linear, new: np.ndarray) -> None:
    layer.weight.data = new.copy()


def _by_state_dict(layer: Linear, new: np.ndarray) -> None:
    layer.state_dict()["weight"][...] = new


def _by_loading(layer: Linear, new: np.ndarray) -> None:
    layer.load_state_dict({**layer.state_dict(), "weight": new})


def _by_another_thread(layer: Linear, new: np.ndarray) -> None:
    thread = threading.Thread(target=np.copyto, args=(layer.weight.data, new))
    thread.start()
    thread.join()


def _by_own_optimizer(layer: Linear, new: np.ndarray) -> None:
    for parameter in layer.parameters():
        if parameter.shape == new.shape:
            parameter.data -= parameter.data - new
            new[...] = parameter.data


def _by_adamw(layer: Linear, new: np.ndarray) -> None:
    layer.weight.grad = np.ones((INPUTS, OUTPUTS), np.float32)
    AdamW(layer.parameters(), lr=0.5).step()
    new[...] = layer.weight.data


def _by_in_place_operator(layer: Linear, new: np.ndarray) -> None:
    with no_grad():
        layer.weight.data *= 3
    new[...] = layer.weight.data


WRITES = [value for name, value in list(globals().items()) if name.startswith("_by_")]


def _rounded(array: np.ndarray) -> np.ndarray:
    """float32 to the nearest bfloat16, ties to even, in float64: by the definition, for finite numbers."""
    bits = array.view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__.removeprefix("_by_"))
def test_products_have_the_weights_of_now(write, precision, quantized):
    rng = np.random.default_rng(3)
    x, dout, new = (
        rng.standard_normal(shape, np.float32) for shape in ((ROWS, INPUTS), (ROWS, OUTPUTS), (INPUTS, OUTPUTS))
    )
    with float32_matmul_precision(precision):
        layer = Linear(INPUTS, OUTPUTS)
        if quantized:
            layer.quantize("int8")
            layer.weight.requires_grad = True  # to be trained further
        held = layer.weight.data.reshape(-1)  # handed out before anything is computed
        for _ in range(2):  # a step before: what could have kept a copy has had its chance
            (layer(Tensor(x, requires_grad=True)) * Tensor(dout)).sum().backward()
        write(layer, new)
        inputs = Tensor(x, requires_grad=True)
        out = layer(inputs)
        with no_grad():
            np.testing.assert_array_equal(layer(inputs).data, out.data)
        (out * Tensor(dout)).sum().backward()
    np.testing.assert_array_equal(layer.weight.data, new)
    exact = (np.float64(1) * x @ new + layer.bias.data, np.float64(1) * dout @ new.T)
    rounded = (_rounded(x) @ _rounded(new) + layer.bias.data, _rounded(dout) @ _rounded(new).T)
    for got, wanted, of_bfloat16 in zip((out.data, inputs.grad), exact, rounded, strict=True):
        scale = np.abs(wanted).max()
        near = min(np.abs(got - wanted).max(), np.abs(got - of_bfloat16).max() if precision == "medium" else np.inf)
        assert near < 2e-6 * scale  # float32's rounding of sums of at most 160 products
    assert held.size == new.size


def test_a_view_from_before_writes_too():
    layer = Linear(INPUTS, OUTPUTS)
    view = layer.weight.data[3:5]
    x = np.ones((1, INPUTS), np.float32)
    before = layer(Tensor(x)).data
    view += 1
    np.testing.assert_allclose(layer(Tensor(x)).data, before + 2, rtol=1e-5)


def test_a_model_sees_a_write_into_its_flat_parameters():
    model = GPT(GPTConfig(vocab_size=50, n_positions=8, n_embd=32, n_layer=1, n_head=2), seed=1)
    tokens, targets = np.arange(8)[None], np.arange(1, 9)[None]
    with float32_matmul_precision("medium"):
        model.loss(tokens, targets).backward()
        model.flat_parameters *= 0
        assert model.loss(tokens, targets).item() == pytest.approx(np.log(50), rel=1e-6)

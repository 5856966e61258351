"""Weights in fewer bits: what is kept is the nearest that the form can hold, and the model computes with just that."""

from __future__ import annotations

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.nn import Linear
from tinygpt.quantization import dequantize, quantize, quantize_model

CONFIG = GPTConfig(vocab_size=37, n_positions=16, n_embd=12, n_layer=2, n_head=3)


@pytest.mark.parametrize("axis", [0, 1])
def test_int8_is_the_nearest_of_255_steps_of_each_output_channel(rng, axis):
    weight = rng.standard_normal((6, 9)).astype(np.float32) * 10.0 ** rng.integers(-3, 3, 9)
    weight = np.float32(weight if axis else weight[:, :6].T)
    values, scale, _ = quantized = quantize(weight, "int8", axis)
    for channel in range(weight.shape[axis]):
        column = np.take(weight, channel, axis)
        step = max(abs(float(value)) for value in column) / 127
        assert scale[channel] == pytest.approx(step, rel=1e-6)
        for value, kept in zip(column, np.take(values, channel, axis), strict=True):
            assert abs(float(value) - step * int(kept)) <= step / 2 * (1 + 1e-5)  # the scale is a float32
    assert values.dtype == np.int8 and values.min() >= -127
    np.testing.assert_allclose(dequantize(quantized), weight, atol=float(scale.max()) / 2 * (1 + 1e-5))


def test_a_channel_of_zeros_stays_zero():
    weight = np.zeros((3, 2), np.float32)
    weight[0, 1] = -2
    np.testing.assert_array_equal(dequantize(quantize(weight, "int8")), weight)


@pytest.mark.parametrize("largest", [1e-45, 2.66e-43, 1e-38])
def test_a_channel_that_is_almost_zero_stays_almost_zero(largest):
    weight = np.full((3, 2), -largest, np.float32)
    weight[0, 1] = -2
    with np.errstate(all="raise", under="ignore"):
        values, scale, _ = quantized = quantize(weight, "int8")
    assert (values <= 0).all() and (scale > 0).all()
    np.testing.assert_allclose(dequantize(quantized), weight, atol=1.5e-38)


def test_bfloat16_is_torchs(rng):
    torch = pytest.importorskip("torch")
    weight = (rng.standard_normal((50, 40)) * 10.0 ** rng.integers(-38, 38, (50, 40))).astype(np.float32)
    weight[0, :4] = [np.inf, -np.inf, np.nan, 0.0]
    expected = torch.from_numpy(weight).bfloat16()
    quantized = quantize(weight, "bfloat16")
    np.testing.assert_array_equal(dequantize(quantized), expected.float().numpy())
    finite = ~np.isnan(weight)
    np.testing.assert_array_equal(quantized.values[finite], expected.view(torch.uint16).numpy()[finite])


def test_float32_is_the_array_itself(rng):
    weight = rng.standard_normal((3, 4)).astype(np.float32)
    assert quantize(weight, "float32").values is weight and dequantize(quantize(weight, "float32")) is weight


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_model_computes_with_the_quantized_weights_and_cannot_be_trained(kind):
    model, tokens = GPT(CONFIG).eval(), np.arange(8)[None]
    before = {name: array.copy() for name, array in model.state_dict().items()}
    exact = model(tokens).data
    quantize_model(model, kind)
    assert model.weights == kind
    layers = {"wte.weight": model.wte} | {
        f"h.{i}.{part}.{name}.weight": getattr(getattr(block, part), name)
        for i, block in enumerate(model.h)
        for part, name in (("attn", "c_attn"), ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj"))
    }
    assert model.wpe.quantized is None
    for name, array in model.state_dict().items():
        if array.ndim == 2 and name != "wpe.weight":
            assert layers[name].quantized.kind == kind and layers[name].quantized.axis == int(name != "wte.weight")
            np.testing.assert_array_equal(array, dequantize(layers[name].quantized))
            assert (
                0
                < np.abs(array - before[name]).max()
                < np.abs(array).max() * {"bfloat16": 2**-8, "int8": 1 / 250}[kind]
            )
        else:
            np.testing.assert_array_equal(array, before[name])
    difference = np.abs(model(tokens).data - exact).max()
    assert 0 < difference < 0.02 * np.abs(exact).max()
    with pytest.raises((ValueError, RuntimeError), match="requires"):
        model.loss(tokens, tokens).backward()


def test_rounding_twice_changes_nothing(tmp_path):
    """A model that was saved after rounding rounds to itself, but for the last bit of an int8's scale."""
    model = GPT(CONFIG)
    quantize_model(model, "int8")
    model.save_pretrained(tmp_path)
    again = GPT.from_pretrained(tmp_path, weights="int8")
    np.testing.assert_array_equal(again.wte.quantized.values, model.wte.quantized.values)
    np.testing.assert_allclose(again.flat_parameters, model.flat_parameters, rtol=2.5e-7)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="quantize_model: weights must be one of float32, bfloat16, int8, got 'int4'"):
        quantize_model(GPT(CONFIG), "int4")
    with pytest.raises(TypeError, match="quantize_model: the model must be float32, got float64"):
        quantize_model(GPT(CONFIG, dtype=np.float64), "int8")
    model = GPT(CONFIG)
    model.wte.weight.data[3, 2] = np.nan
    with pytest.raises(ValueError, match="int8: the weights must be finite"):
        quantize_model(model, "int8")


def test_weights_that_are_loaded_take_the_place_of_quantized_ones():
    """Logits and generated tokens are those of the loaded weights, also of a decoder that was made before."""
    model, plain = GPT(CONFIG, seed=1).eval(), GPT(CONFIG, seed=2).eval()
    quantize_model(model, "int8")
    decoder = model.decoder()
    model.load_state_dict(plain.state_dict())
    assert model.weights == "float32" and model.h[1].mlp.c_fc.quantized is None
    other = plain.decoder()
    np.testing.assert_array_equal(decoder.prefill(0, [1, 2]), other.prefill(0, [1, 2]))
    np.testing.assert_array_equal(decoder.step([0], [3]), other.step([0], [3]))


def test_a_layer_is_quantized_by_itself(rng):
    layer = Linear(6, 4, rng)
    before = layer.weight.data.copy()
    layer.quantize("float32")
    assert layer.quantized is None and layer.weight.requires_grad
    np.testing.assert_array_equal(layer.weight.data, before)
    layer.quantize("int8")
    np.testing.assert_array_equal(layer.weight.data, dequantize(quantize(before, "int8")))
    assert not layer.weight.requires_grad and layer.bias.requires_grad
    with pytest.raises(TypeError, match="quantize: the weight must be float32, got float64"):
        Linear(6, 4, rng, dtype=np.float64).quantize("int8")

"""Weights in fewer bits: what is kept is the nearest that the form can hold, and the model computes with just that."""

from __future__ import annotations

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.quantization import restored, round_weights, store

CONFIG = GPTConfig(vocab_size=37, n_positions=16, n_embd=12, n_layer=2, n_head=3)


@pytest.mark.parametrize("outputs", [0, 1])
def test_int8_is_the_nearest_of_255_steps_of_each_output_channel(rng, outputs):
    weight = rng.standard_normal((6, 9)).astype(np.float32) * 10.0 ** rng.integers(-3, 3, 9)
    weight = np.float32(weight if outputs else weight[:, :6].T)
    numbers, scale = stored = store(weight, "int8", outputs)
    for channel in range(weight.shape[outputs]):
        column = np.take(weight, channel, outputs)
        step = max(abs(float(value)) for value in column) / 127
        assert scale[channel] == pytest.approx(step, rel=1e-6)
        for value, kept in zip(column, np.take(numbers, channel, outputs), strict=True):
            assert abs(float(value) - step * int(kept)) <= step / 2 * (1 + 1e-5)  # the scale is a float32
    assert numbers.dtype == np.int8 and numbers.min() >= -127
    np.testing.assert_allclose(restored(stored, outputs), weight, atol=float(scale.max()) / 2 * (1 + 1e-5))


def test_a_channel_of_zeros_stays_zero():
    weight = np.zeros((3, 2), np.float32)
    weight[0, 1] = -2
    np.testing.assert_array_equal(restored(store(weight, "int8")), weight)


def test_bfloat16_is_torchs(rng):
    torch = pytest.importorskip("torch")
    weight = (rng.standard_normal((50, 40)) * 10.0 ** rng.integers(-38, 38, (50, 40))).astype(np.float32)
    weight[0, :4] = [np.inf, -np.inf, np.nan, 0.0]
    expected = torch.from_numpy(weight).bfloat16()
    stored = store(weight, "bfloat16")
    np.testing.assert_array_equal(restored(stored), expected.float().numpy())
    finite = ~np.isnan(weight)
    np.testing.assert_array_equal(stored.numbers[finite], expected.view(torch.uint16).numpy()[finite])


def test_float32_is_the_array_itself(rng):
    weight = rng.standard_normal((3, 4)).astype(np.float32)
    assert store(weight, "float32").numbers is weight and restored(store(weight, "float32")) is weight


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_model_computes_with_what_is_stored_and_cannot_be_trained(kind):
    model, tokens = GPT(CONFIG).eval(), np.arange(8)[None]
    before = {name: array.copy() for name, array in model.state_dict().items()}
    exact = model(tokens).data
    round_weights(model, kind)
    assert model.weights == kind
    for name, array in model.state_dict().items():
        if array.ndim == 2 and name != "wpe.weight":
            np.testing.assert_array_equal(array, restored(model.stored[name], 0 if name == "wte.weight" else 1))
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
    round_weights(model, "int8")
    model.save_pretrained(tmp_path)
    again = GPT.from_pretrained(tmp_path, weights="int8")
    np.testing.assert_array_equal(again.stored["wte.weight"].numbers, model.stored["wte.weight"].numbers)
    np.testing.assert_allclose(again.flat_parameters, model.flat_parameters, rtol=2.5e-7)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="round_weights: weights must be one of float32, bfloat16, int8, got 'int4'"):
        round_weights(GPT(CONFIG), "int4")
    with pytest.raises(TypeError, match="round_weights: the model must be float32, got float64"):
        round_weights(GPT(CONFIG, dtype=np.float64), "int8")
    model = GPT(CONFIG)
    model.wte.weight.data[3, 2] = np.nan
    with pytest.raises(ValueError, match="int8: the weights must be finite"):
        round_weights(model, "int8")

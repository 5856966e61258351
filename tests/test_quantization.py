"""Weights in fewer bits: what is kept is the nearest that the form can hold, and the model computes with just that."""

from __future__ import annotations

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.nn import Linear
from tinygpt.optim import AdamW
from tinygpt.quantization import KINDS, dequantize, quantize, quantize_model

CONFIG = GPTConfig(vocab_size=37, n_positions=16, n_embd=12, n_layer=2, n_head=3)


@pytest.mark.parametrize("axis", [0, 1])
def test_int8_is_the_nearest_of_255_steps_of_each_output_channel(rng, axis):
    weight = rng.standard_normal((6, 9)).astype(np.float32) * 10.0 ** rng.integers(-3, 3, 9)
    weight = np.float32(weight if axis else weight[:, :6].T)
    values, scale, *_ = quantized = quantize(weight, "int8", axis)
    for channel in range(weight.shape[axis]):
        column = np.take(weight, channel, axis)
        step = max(abs(float(value)) for value in column) / 127
        assert scale[channel] == pytest.approx(step, rel=1e-6)
        for value, kept in zip(column, np.take(values, channel, axis), strict=True):
            assert abs(float(value) - step * int(kept)) <= step / 2 * (1 + 1e-5)  # the scale is a float32
    assert values.dtype == np.int8 and values.min() >= -127
    np.testing.assert_allclose(dequantize(quantized), weight, atol=float(scale.max()) / 2 * (1 + 1e-5))


@pytest.mark.parametrize("inputs", [1, 8, 13])
def test_words_of_int8_hold_four_consecutive_inputs_each(rng, inputs):
    """The layout is unpacked here by its description, one number at a time."""
    quantized = quantize(rng.standard_normal((inputs, 5)).astype(np.float32), "int8")
    assert quantized.words.dtype == np.int32 and quantized.words.shape == (2 * -(-inputs // 8), 5)
    for i in range(4 * len(quantized.words)):
        byte = {0: 0, 1: 2, 2: 1, 3: 3}[i % 4]
        for o in range(5):
            value = int(quantized.words[i // 4, o]) >> 8 * byte & 255
            assert value - 256 * (value > 127) == (quantized.values[i, o] if i < inputs else 0)
    assert quantize(np.ones((3, 5), np.float32), "int8", axis=0).words.size == 0


def test_a_channel_of_zeros_stays_zero():
    weight = np.zeros((3, 2), np.float32)
    weight[0, 1] = -2
    np.testing.assert_array_equal(dequantize(quantize(weight, "int8")), weight)


@pytest.mark.parametrize("largest", [1e-45, 2.66e-43, 1e-38])
def test_a_channel_that_is_almost_zero_stays_almost_zero(largest):
    weight = np.full((3, 2), -largest, np.float32)
    weight[0, 1] = -2
    with np.errstate(all="raise", under="ignore"):
        values, scale, *_ = quantized = quantize(weight, "int8")
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


def bits_of(quantized) -> float:
    return 8 * quantized.nbytes / np.prod(quantized.shape)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("inputs", [1, 31, 32, 33, 100])
def test_int4_is_the_nearest_of_16_steps_of_each_group_of_32_inputs(rng, axis, inputs):
    """The layout is unpacked here by its description, one number at a time."""
    weight = rng.standard_normal((inputs, 9)).astype(np.float32) * np.float32(10) ** rng.integers(-3, 3, 9)
    given = np.ascontiguousarray(weight if axis else weight.T).astype(np.float32)
    quantized = quantize(given, "int4", axis)
    assert quantized.kind == "int4" and quantized.shape == given.shape
    scale = (quantized.scale.astype(np.uint32) << 16).view(np.float32)
    kept = np.empty((inputs, 9), np.float32)
    for i in range(inputs):
        low = [0, 16, 4, 20, 8, 24, 12, 28][i % 8]
        for o in range(9):
            q = (int(quantized.values[i // 8, o]) >> low & 15) - 8
            kept[i, o] = q * scale[i // 32, o]
            step = abs(float(scale[i // 32, o]))
            gap = abs(float(weight[i, o]) - kept[i, o])
            # the nearest, but for a float32 rounding; beyond the last step on either side by at most one more
            assert gap <= 0.5001 * step or (q in (-8, 7) and gap <= 1.1 * step)
    np.testing.assert_array_equal(dequantize(quantized), kept if axis else kept.T)
    for group in range(-(-inputs // 32)):
        part, q_part = weight[group * 32 :][:32], kept[group * 32 :][:32]
        extreme = np.abs(part).max(axis=0)
        plain = np.abs(part - np.rint(part / (extreme / 7)) * (extreme / 7))  # of 15 steps, by the largest alone
        assert (np.square(part - q_part).sum(axis=0) <= 1.05 * np.square(plain).sum(axis=0) + 1e-4 * extreme**2).all()


def test_int4_of_int4_is_itself(rng):
    weight = rng.standard_normal((100, 37)).astype(np.float32)
    for axis in (0, 1):
        once = dequantize(quantize(weight, "int4", axis))
        np.testing.assert_array_equal(dequantize(quantize(once, "int4", axis)), once)


def test_each_kind_takes_the_bits_that_it_says(rng):
    weight = rng.standard_normal((768, 2304)).astype(np.float32)
    told = {kind: bits_of(quantize(weight, kind)) for kind in KINDS}
    assert told == {"float32": 32, "bfloat16": 16, "int8": pytest.approx(8, rel=0.01), "int4": 4.5}


def test_groups_that_are_almost_zero_are_zero():
    weight = np.zeros((64, 3), np.float32)
    weight[32:, 0], weight[3, 1], weight[0, 2] = -1e-45, 2e-38, 5
    with np.errstate(all="raise", under="ignore"):
        kept = dequantize(quantize(weight, "int4"))
    np.testing.assert_allclose(kept, weight, atol=1e-37)
    assert not kept[:, :2].any() and kept[0, 2] == 5


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
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
                < np.abs(array).max() * {"bfloat16": 2**-8, "int8": 1 / 250, "int4": 1 / 8}[kind]
            )
        else:
            np.testing.assert_array_equal(array, before[name])
    difference = np.abs(model(tokens).data - exact).max()
    assert 0 < difference < (0.3 if kind == "int4" else 0.02) * np.abs(exact).max()
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
    with pytest.raises(
        ValueError, match="quantize_model: weights must be one of float32, bfloat16, int8, int4, got 'int2'"
    ):
        quantize_model(GPT(CONFIG), "int2")
    with pytest.raises(TypeError, match="quantize_model: the model must be float32, got float64"):
        quantize_model(GPT(CONFIG, dtype=np.float64), "int8")
    model = GPT(CONFIG)
    model.wte.weight.data[3, 2] = np.nan
    for kind in ("int8", "int4"):
        with pytest.raises(ValueError, match=f"{kind}: the weights must be finite"):
            quantize_model(model, kind)


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


@pytest.fixture(scope="module")
def trained() -> tuple[GPT, np.ndarray]:
    """A model that has learned a chain of tokens, each one of four that may follow the one before; and more of it."""
    rng = np.random.default_rng(0)
    followers, tokens = rng.integers(0, 37, (37, 4)), [0]
    for chance in rng.integers(0, 4, 6000):
        tokens.append(int(followers[tokens[-1], chance]))
    chain = np.array(tokens)
    model = GPT(GPTConfig(vocab_size=37, n_positions=32, n_embd=48, n_layer=2, n_head=3), seed=1)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        starts = rng.integers(0, 5000, 16)
        batch = np.stack([chain[start : start + 33] for start in starts])
        optimizer.zero_grad()
        model.loss(batch[:, :-1], batch[:, 1:]).backward()
        optimizer.step()
    return model.eval(), chain[5100:]


def loss_token_by_token(model: GPT, chain: np.ndarray) -> float:
    """The mean loss of 24 windows, read side by side by a decoder, one token after the other."""
    windows = chain[: 24 * 33].reshape(24, 33)
    decoder = model.decoder(sequences=len(windows))
    for i, window in enumerate(windows):
        decoder.prefill(i, window[:1])
    losses = []
    for t in range(1, 32):
        logits = decoder.step(np.arange(len(windows)), windows[:, t]).astype(np.float64)
        right = logits[np.arange(len(windows)), windows[:, t + 1]]
        losses.append(np.log(np.exp(logits).sum(axis=1)) - right)
    return float(np.mean(losses))


def test_fewer_bits_cost_little_and_fewest_most(trained, tmp_path):
    """Of a model that has learned something, as a decoder reads it: 4 bits are 16 times as coarse as 8."""
    model, chain = trained
    model.save_pretrained(tmp_path)
    losses = {kind: loss_token_by_token(GPT.from_pretrained(tmp_path, weights=kind).eval(), chain) for kind in KINDS}
    exact = losses["float32"]
    assert exact < 1.6  # of the chain itself 1.39, of a model that knows nothing 3.6
    assert abs(losses["bfloat16"] - exact) < 2e-3 and abs(losses["int8"] - exact) < 5e-3
    assert abs(losses["int8"] - exact) < abs(losses["int4"] - exact) < 0.15

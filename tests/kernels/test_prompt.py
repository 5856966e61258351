"""A whole prompt, layer by layer: `Block` of the reference, up to the rounding of activations where weights are."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import in_a_process, on_a_processor, using_threads

from tinygpt import GPT, GPTConfig, Tensor, implementation, no_grad
from tinygpt.gpt2.decoder import Decoder
from tinygpt.gpt2.kv_cache import LayerCache
from tinygpt.kernels.simd.cpu import BFLOAT16
from tinygpt.quantization import KINDS, quantize_model

# Both sum the same products in another order. Rounded to bfloat16 each operand is off by up to 2^-9 of itself, at
# random, so that the errors of a sum of many mostly cancel: half a percent of the largest number is left.
BOUND = {"float32": 2e-5, "bfloat16": 5e-3, "int8": 5e-3, "int4": 5e-3}
SHAPES = [(1, 4, 1, 1), (2, 4, 2, 37), (17, 40, 4, 160), (33, 72, 3, 100), (70, 96, 6, 384)]  # T, C, H, inner


def random_model(kind, C=40, H=4, inner=160, T=24, layers=2) -> GPT:
    """Weights so large that no step is negligible, biases included."""
    config = GPTConfig(vocab_size=131, n_positions=T, n_embd=C, n_layer=layers, n_head=H, n_inner=inner)
    model = GPT(config)
    rng = np.random.default_rng(2)
    for parameter in model.parameters():
        scale = 1 if parameter.ndim < 2 or parameter.shape[0] in (131, T) else len(parameter.data) ** -0.5
        parameter.data[...] = scale * rng.standard_normal(parameter.shape)
    quantize_model(model, kind)
    return model.eval()


def read(model, x) -> list[np.ndarray]:
    """x (T, C) after the first layer, and what its cache then holds, of the second of two sequences."""
    T = len(x)
    decoder = Decoder(model, sequences=2)
    decoder._keys[...] = decoder._values[...] = np.nan
    out = decoder._prompt(x.copy(), 0, LayerCache(decoder._keys[0], decoder._values[0], [1], [0]))
    assert np.isfinite(decoder._keys).sum() == np.isfinite(decoder._values).sum() == x.size  # nothing else is written
    return [out, decoder._keys[0, 1, :, :, :T].copy(), decoder._values[0, 1, :, :T].copy()]


def gaps(shape, kind) -> list[float]:
    """How far output, keys and values are from those of `Block` in NumPy, as a share of the largest."""
    T, C, H, inner = shape
    model = random_model(kind, C, H, inner, T + 3)
    x = np.random.default_rng(1).standard_normal((T, C)).astype(np.float32)
    cache = np.empty((1, H, C // H, T), np.float32), np.empty((1, H, T, C // H), np.float32)
    with implementation("numpy"), no_grad():
        out = model.h[0](Tensor(x[None]), LayerCache(*cache, [0], [0])).data[0]
    expected = [out, cache[0][0], cache[1][0]]
    return [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(read(model, x), expected, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_layer_is_the_block(shape, kind):
    assert max(gaps(shape, kind)) < BOUND[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", [1, 2, 17, 511, 512])
def test_logits_after_a_prompt_and_after_the_next_token_are_those_of_the_reference(T, kind):
    """Of layers as wide as GPT-2's; the token after the prompt attends to what the prompt left in the cache."""
    model = random_model(kind, C=768, H=12, inner=3072, T=640)
    tokens = np.random.default_rng(3).integers(0, 131, T + 1)
    decoder = model.decoder()
    logits = [decoder.prefill(0, tokens[:T]), decoder.step([0], tokens[T:])[0]]
    with implementation("numpy"), no_grad():
        expected = model(tokens[None]).data[0, -2:]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2 * BOUND[kind] * scale)
    gap = np.abs(logits[0] - expected[0]).max()
    assert (gap > 1e-4 * scale) == (kind != "float32" and BFLOAT16)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_gives_the_same_bits(kind):
    model = random_model(kind, C=192, H=3, inner=700, T=320)
    x = np.random.default_rng(1).standard_normal((300, 192)).astype(np.float32)
    told = []
    for threads in (1, 2, 4):
        with using_threads(threads):
            told.append(read(model, x))
    for other in told[1:]:
        for a, b in zip(told[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_check_mode_sees_a_wrong_layer(monkeypatch):
    from tinygpt.kernels import prompt

    model = random_model("int8")
    with implementation("check"):
        model.decoder().prefill(0, [1, 2, 3])
        monkeypatch.setattr(prompt, "layer", lambda x, *rest, **options: None)
        with pytest.raises(ValueError, match=r"Decoder\.prefill\.layer: kernel and reference disagree"):
            model.decoder().prefill(0, [1, 2, 3])


CHECK = """
from kernels.test_prompt import *
for kind in KINDS:
    for shape in SHAPES[{shapes}]:
        assert max(gaps(shape, kind)) < BOUND[kind], (shape, kind)
print(BFLOAT16)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generic", "AVX2", "AVX-512", "AVX-512 with bfloat16"])
def test_code_for_other_processors_gives_the_block_too(name):
    assert on_a_processor(name, CHECK.format(shapes=":")) == str(name == "AVX-512 with bfloat16")


def test_plain_python_gives_the_block_too():
    in_a_process(CHECK.format(shapes=":3"), NUMBA_DISABLE_JIT="1")

"""Decoding: with the keys and values kept, every score is that of reading the whole text again."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import using_threads

from tinygpt import GPT, GPTConfig, implementation
from tinygpt.gpt2.kv_cache import Decoder
from tinygpt.quantization import round_weights

SIZES = {"vocab_size": 131, "n_positions": 24, "n_embd": 40, "n_layer": 3, "n_head": 4}
TEXTS = [[5], [1, 2, 3, 4], list(range(100, 120)), [7, 7]]
MORE = [[9, 8, 130], [0, 0, 1], [1, 2, 3], [3, 2, 1]]
# Both sum the same products, but a step sums them along the inputs one by one, and a pass over a text in tiles: each
# sum of n terms in float32 is off by a few times sqrt(n) 6e-8, n = 160 at most, through 3 layers; scores are about 10.
BOUND = {np.float32: 2e-5, np.float64: 1e-13}


def random_model(dtype=np.float32, kind="float32", **changes) -> GPT:
    model = GPT(GPTConfig(**SIZES | changes), dtype=dtype)
    model.flat_parameters[:] = 0.3 * np.random.default_rng(2).standard_normal(model.num_parameters())
    round_weights(model, kind)
    return model.eval()


def uncached(model: GPT, text: list[int]) -> np.ndarray:
    return model(np.array([text])).data[0, -1]


@pytest.mark.parametrize(("dtype", "mode"), [(np.float32, "numpy"), (np.float32, "kernels"), (np.float32, "check"),
                                             (np.float64, "kernels")])  # fmt: skip
def test_texts_of_different_lengths_read_side_by_side_score_as_when_read_whole(dtype, mode):
    model = random_model(dtype)
    with implementation(mode):
        decoder = Decoder(model, sequences=4)
        scores = [decoder.read(i, text) for i, text in enumerate(TEXTS)]
        seen = [list(text) for text in TEXTS]
        for step in range(4):
            for text, row in zip(seen, scores, strict=True):
                expected = uncached(model, text)
                assert row.dtype == dtype
                np.testing.assert_allclose(row, expected, rtol=0, atol=BOUND[dtype] * np.abs(expected).max())
            if step < 3:
                for text, more in zip(seen, MORE, strict=True):
                    text.append(more[step])
                scores = decoder.step(range(4), [more[step] for more in MORE])
    assert decoder.lengths.tolist() == [4, 7, 23, 5]


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("n_embd", [4, 12, 72])
def test_each_form_of_weights_scores_as_the_rounded_model(kind, n_embd):
    """Widths below a vector, not a multiple of one, and over several; in some of them not all threads have columns."""
    model = random_model(kind=kind, n_embd=n_embd)
    decoder = Decoder(model, sequences=2)
    decoder.read(0, [1, 2, 3]), decoder.read(1, [130])
    scores = decoder.step([1, 0], [6, 5])
    for row, text in zip(scores, [[130, 6], [1, 2, 3, 5]], strict=True):
        expected = uncached(model, text)
        np.testing.assert_allclose(row, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("n_inner", [1, 3, 37, 161, 400])
def test_the_hidden_layer_may_have_any_width(kind, n_inner):
    """Fewer features than heads, no multiple of the heads nor of a vector, more than four times the model's."""
    model = random_model(kind=kind, n_inner=n_inner)
    text, more = [1, 2, 3], [5, 130, 0]
    for mode in ("kernels", "numpy"):
        with implementation(mode):
            decoder = Decoder(model, sequences=2)
            decoder.read(0, text), decoder.read(1, text[:1])
            for i in range(3):
                scores = decoder.step([1, 0], [text[i], more[i]])[1]
        expected = uncached(model, text + more)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_a_hidden_layer_of_another_width_than_the_configuration_never_reaches_the_kernel():
    model = random_model(n_inner=20)
    linear = model.h[1].mlp.c_proj
    linear.weight.data = np.zeros((19, 40), np.float32)
    with pytest.raises(
        ValueError, match=r"Decoder: h\.1\.mlp\.c_proj\.weight must be float32 \(20, 40\), got .*19, 40"
    ):
        Decoder(model)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_bits_depend_neither_on_the_threads_nor_on_the_neighbours(kind):
    model = random_model(kind=kind)

    def told(threads: int, sequences: list[int]) -> dict[int, np.ndarray]:
        with using_threads(threads):
            decoder = Decoder(model, sequences=4)
            for i in sequences:
                decoder.read(i, TEXTS[i])
            for step in range(3):
                scores = decoder.step(sequences, [MORE[i][step] for i in sequences])
        return dict(zip(sequences, scores, strict=True))

    all_, reordered = told(2, [0, 1, 2, 3]), told(1, [3, 0, 2])
    for i, scores in [*reordered.items(), *told(2, [1]).items()]:
        np.testing.assert_array_equal(scores, all_[i])


def test_reading_a_prompt_is_reading_its_tokens_one_by_one():
    model, text = random_model(), TEXTS[2]
    whole, single = Decoder(model), Decoder(model)
    expected = whole.read(0, text)
    scores = single.read(0, text[:1])
    for token in text[1:]:
        scores = single.step([0], [token])[0]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_a_sequence_can_be_read_anew_and_filled_to_the_end():
    model = random_model()
    decoder = Decoder(model, capacity=6)
    decoder.read(0, [9, 9, 9, 9])
    decoder.read(0, [1, 2])
    for token in (3, 4, 5, 6):
        scores = decoder.step([0], [token])[0]
    np.testing.assert_allclose(scores, uncached(model, [1, 2, 3, 4, 5, 6]), rtol=0, atol=2e-4)
    with pytest.raises(ValueError, match=r"Decoder\.step: each sequence must have from 1 to 5 tokens, got \[6\]"):
        decoder.step([0], [7])
    assert decoder.lengths.tolist() == [6]
    assert Decoder(model, capacity=100).capacity == 24  # the model has no more positions


def test_damage_is_not_hidden():
    model = random_model()
    model.h[1].mlp.c_fc.weight.data[3, 5] = np.nan
    decoder = Decoder(model)
    assert np.isnan(decoder.read(0, [1, 2])).all()
    assert np.isnan(decoder.step([0], [1])).all()


@pytest.mark.parametrize(
    ("sequences", "tokens", "error", "message"),
    [
        ([0], [131], ValueError, r"Decoder\.step: tokens must be from 0 to 130, got 131"),
        ([0], [0.5], TypeError, r"Decoder\.step: tokens must be integers"),
        ([2], [1], ValueError, r"Decoder\.step: sequences must be from 0 to 1, got 2"),
        ([0, 0], [1, 1], ValueError, "one token for each of different sequences"),
        ([0], [1, 1], ValueError, "one token for each of different sequences"),
        ([1], [1], ValueError, r"must have from 1 to 23 tokens, got \[0\]; read\(\) begins one"),
    ],
)
def test_mistakes_are_named_before_a_kernel_sees_them(sequences, tokens, error, message):
    decoder = Decoder(random_model(), sequences=2)
    decoder.read(0, [1])
    with pytest.raises(error, match=message):
        decoder.step(sequences, tokens)


@pytest.mark.parametrize("tokens", [[], list(range(25))])
def test_a_text_must_fit(tokens):
    with pytest.raises(ValueError, match=rf"Decoder\.read: from 1 to 24 tokens fit, got {len(tokens)}"):
        Decoder(random_model()).read(0, tokens)

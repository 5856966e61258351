"""Decoding: with the keys and values kept, the logits are those of reading the whole text again."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from kernel_checks import using_threads

from tinygpt import GPT, GPTConfig, Tensor, implementation, no_grad
from tinygpt.generation.generate import generate_batch
from tinygpt.generation.sampling import choose
from tinygpt.gpt2.decoder import Decoder
from tinygpt.gpt2.kv_cache import LayerCache
from tinygpt.kernels.simd.cpu import BFLOAT16
from tinygpt.nn import Parameter
from tinygpt.quantization import KINDS, quantize_model

SIZES = {"vocab_size": 131, "n_positions": 24, "n_embd": 40, "n_layer": 3, "n_head": 4}
TEXTS = [[5], [1, 2, 3, 4], list(range(100, 120)), [7, 7]]
MORE = [[9, 8, 130], [0, 0, 1], [1, 2, 3], [3, 2, 1]]
# Both sum the same products, but a step sums them along the inputs one by one, and a pass over a text in tiles: each
# sum of n terms in float32 is off by a few times sqrt(n) 6e-8, n = 160 at most, through 3 layers; logits are about 10.
BOUND = {np.float32: 2e-5, np.float64: 1e-13}
# With int8 and int4 a step rounds activations to whole numbers of 15 bits: each is off by up to 2^-16 of the largest,
# at random, in four products of each of three layers.
BOUND_OF_STEP = {"float32": 2e-5, "bfloat16": 2e-5, "int8": 2e-4, "int4": 2e-4}


def random_model(dtype=np.float32, kind="float32", **changes) -> GPT:
    model = GPT(GPTConfig(**SIZES | changes), dtype=dtype)
    model.flat_parameters[:] = 0.3 * np.random.default_rng(2).standard_normal(model.num_parameters())
    quantize_model(model, kind)
    return model.eval()


def uncached(model: GPT, text: list[int]) -> np.ndarray:
    return model(np.array([text])).data[0, -1]


def in_float32(function, *arguments):
    """A pass over a text by kernels rounds the activations to bfloat16 where weights are; a step of one token does not,
    and neither does the reference, to which a step is held here."""
    with implementation("numpy"):
        return function(*arguments)


@pytest.mark.parametrize(("dtype", "mode"), [(np.float32, "numpy"), (np.float32, "kernels"), (np.float32, "check"),
                                             (np.float64, "kernels")])  # fmt: skip
def test_texts_of_different_lengths_read_side_by_side_score_as_when_read_whole(dtype, mode):
    model = random_model(dtype)
    with implementation(mode):
        decoder = Decoder(model, sequences=4)
        logits = [decoder.prefill(i, text) for i, text in enumerate(TEXTS)]
        seen = [list(text) for text in TEXTS]
        for step in range(4):
            for text, row in zip(seen, logits, strict=True):
                expected = uncached(model, text)
                assert row.dtype == dtype
                np.testing.assert_allclose(row, expected, rtol=0, atol=BOUND[dtype] * np.abs(expected).max())
            if step < 3:
                for text, more in zip(seen, MORE, strict=True):
                    text.append(more[step])
                logits = decoder.step(range(4), [more[step] for more in MORE])
    assert decoder.lengths.tolist() == [4, 7, 23, 5]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_embd", [4, 12, 72])
def test_each_kind_of_weights_gives_the_logits_of_the_rounded_model(kind, n_embd):
    """Widths below a vector, not a multiple of one, and over several; in some of them not all threads have columns."""
    model = random_model(kind=kind, n_embd=n_embd)
    decoder = Decoder(model, sequences=2)
    in_float32(decoder.prefill, 0, [1, 2, 3]), in_float32(decoder.prefill, 1, [130])
    logits = decoder.step([1, 0], [6, 5])
    for row, text in zip(logits, [[130, 6], [1, 2, 3, 5]], strict=True):
        expected = in_float32(uncached, model, text)
        np.testing.assert_allclose(row, expected, rtol=0, atol=BOUND_OF_STEP[kind] * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_inner", [1, 3, 37, 161, 400])
def test_the_hidden_layer_may_have_any_width(kind, n_inner):
    """Fewer features than heads, no multiple of the heads nor of a vector, more than four times the model's."""
    model = random_model(kind=kind, n_inner=n_inner)
    text, more = [1, 2, 3], [5, 130, 0]
    for mode in ("kernels", "numpy"):
        with implementation(mode):
            decoder = Decoder(model, sequences=2)
            in_float32(decoder.prefill, 0, text), in_float32(decoder.prefill, 1, text[:1])
            for i in range(3):
                logits = decoder.step([1, 0], [text[i], more[i]])[1]
        expected = in_float32(uncached, model, text + more)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=BOUND_OF_STEP[kind] * np.abs(expected).max())


def test_a_hidden_layer_of_another_width_than_the_configuration_never_reaches_the_kernel():
    model = random_model(n_inner=20)
    linear = model.h[1].mlp.c_proj
    linear.weight.data = np.zeros((19, 40), np.float32)
    with pytest.raises(
        ValueError, match=r"Decoder: h\.1\.mlp\.c_proj\.weight must be float32 \(20, 40\), got .*19, 40"
    ):
        Decoder(model)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16, np.uint32])
def test_numbers_of_another_type_are_not_taken_for_quantized_weights(dtype):
    model = random_model()
    decoder = Decoder(model)
    decoder.prefill(0, [1, 2])
    weight = model.h[1].mlp.c_fc.weight
    weight.data = weight.data.astype(dtype)
    with pytest.raises(ValueError, match=rf"h\.1\.mlp\.c_fc\.weight must be float32 .*, got {np.dtype(dtype)}"):
        decoder.step([0], [3])


def test_words_of_int8_are_made_where_only_the_values_are_there():
    model, plain = random_model(kind="int8"), random_model(kind="int8")
    for block in plain.h:
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            layer.quantized = layer.quantized._replace(words=np.empty((0, 0), np.int32))
    logits = []
    for each in (model, plain):
        decoder = Decoder(each)
        decoder.prefill(0, [1, 2])
        logits.append(decoder.step([0], [3]))
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_depend_neither_on_the_threads_nor_on_the_neighbours(kind):
    model = random_model(kind=kind)

    def told(threads: int, sequences: list[int]) -> dict[int, np.ndarray]:
        with using_threads(threads):
            decoder = Decoder(model, sequences=4)
            for i in sequences:
                decoder.prefill(i, TEXTS[i])
            for step in range(3):
                logits = decoder.step(sequences, [MORE[i][step] for i in sequences])
        return dict(zip(sequences, logits, strict=True))

    all_, reordered = told(2, [0, 1, 2, 3]), told(1, [3, 0, 2])
    for i, logits in [*reordered.items(), *told(2, [1]).items()]:
        np.testing.assert_array_equal(logits, all_[i])


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("n_embd", [4, 12, 72, 96])
def test_a_prompt_is_read_in_float32_up_to_bfloat16(kind, n_embd):
    """Each activation is off by up to 2^-9 of itself, at random: some thousandths of the logits after three layers."""
    model = random_model(kind=kind, n_embd=n_embd)
    for text in ([3], TEXTS[2]):
        logits, exact = Decoder(model).prefill(0, text), in_float32(uncached, model, text)
        scale = np.abs(exact).max()
        np.testing.assert_allclose(uncached(model, text), exact, rtol=0, atol=2e-5 * scale)
        gap = np.abs(logits - exact).max()
        assert gap < 0.02 * scale and (gap > 1e-4 * scale) == BFLOAT16
        with implementation("check"):
            np.testing.assert_array_equal(Decoder(model).prefill(0, text), logits)


def test_reading_a_prompt_is_reading_its_tokens_one_by_one():
    model, text = random_model(), TEXTS[2]
    whole, single = Decoder(model), Decoder(model)
    expected = whole.prefill(0, text)
    logits = single.prefill(0, text[:1])
    for token in text[1:]:
        logits = single.step([0], [token])[0]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_a_sequence_can_be_read_anew_and_filled_to_the_end():
    model = random_model()
    decoder = Decoder(model, capacity=6)
    decoder.prefill(0, [9, 9, 9, 9])
    decoder.prefill(0, [1, 2])
    for token in (3, 4, 5, 6):
        logits = decoder.step([0], [token])[0]
    np.testing.assert_allclose(logits, uncached(model, [1, 2, 3, 4, 5, 6]), rtol=0, atol=2e-4)
    with pytest.raises(ValueError, match=r"Decoder\.step: each sequence must have from 1 to 5 tokens, got \[6\]"):
        decoder.step([0], [7])
    assert decoder.lengths.tolist() == [6]
    assert Decoder(model, capacity=100).capacity == 24  # the model has no more positions


def test_damage_is_not_hidden():
    model = random_model()
    model.h[1].mlp.c_fc.weight.data[3, 5] = np.nan
    decoder = Decoder(model)
    assert np.isnan(decoder.prefill(0, [1, 2])).all()
    assert np.isnan(decoder.step([0], [1])).all()


@pytest.mark.parametrize(
    ("sequences", "tokens", "error", "message"),
    [
        ([0], [131], ValueError, r"Decoder\.step: tokens must be from 0 to 130, got 131"),
        ([0], [0.5], TypeError, r"Decoder\.step: tokens must be integers"),
        ([2], [1], ValueError, r"Decoder\.step: sequences must be from 0 to 1, got 2"),
        ([0, 0], [1, 1], ValueError, "one token for each of different sequences"),
        ([0], [1, 1], ValueError, "one token for each of different sequences"),
        ([1], [1], ValueError, r"must have from 1 to 23 tokens, got \[0\]; prefill\(\) begins one"),
    ],
)
def test_mistakes_are_named_before_a_kernel_sees_them(sequences, tokens, error, message):
    decoder = Decoder(random_model(), sequences=2)
    decoder.prefill(0, [1])
    with pytest.raises(error, match=message):
        decoder.step(sequences, tokens)


@pytest.mark.parametrize("tokens", [[], list(range(25))])
def test_a_text_must_fit(tokens):
    with pytest.raises(ValueError, match=rf"Decoder\.prefill: from 1 to 24 tokens fit, got {len(tokens)}"):
        Decoder(random_model()).prefill(0, tokens)


# Sampling where the model runs


@pytest.mark.parametrize(("kind", "change"), [("float32", ""), ("bfloat16", ""), ("int8", ""), ("int4", ""),
                                              ("float32", "check"), ("float32", "numpy"), ("float32", "own block"),
                                              ("int8", "a layer of another kind")])  # fmt: skip
@pytest.mark.parametrize(
    "options", [(0.0, None, None), (0.9, None, None), (0.7, 5, None), (1.0, None, 0.6), (2.0, 40, 0.9)]
)
def test_tokens_that_are_sampled_are_chosen_from_the_logits_of_a_step(kind, change, options):
    model, rng = random_model(kind=kind, vocab_size=203), np.random.default_rng(1)
    if change == "own block":
        forward = model.h[1].mlp.forward
        model.h[1].mlp.forward = lambda x: forward(x) * 2
    if change == "a layer of another kind":
        model.h[1].mlp.c_fc.quantized = None
    with implementation(change if change in ("check", "numpy") else "kernels"):
        decoder, other = Decoder(model, sequences=3), Decoder(model, sequences=3)
        for each in (decoder, other):
            each.prefill(2, [1, 2, 3]), each.prefill(0, [4])
        tokens = np.array([7, 8])
        for _ in range(5):
            uniforms = rng.random(2)
            logits = other.step([2, 0], tokens)
            with using_threads(int(rng.integers(1, 5))):
                tokens = decoder.next_tokens([2, 0], tokens, uniforms, *options)
            assert tokens.tolist() == [choose(*row, *options) for row in zip(logits, uniforms, strict=True)]
    assert decoder.lengths.tolist() == [6, 0, 8]


def test_sampling_refuses_what_a_step_does_and_logits_that_are_not_finite():
    model = random_model()
    decoder = Decoder(model, sequences=2)
    decoder.prefill(0, [1])
    for sequences, tokens, message in (
        ([1], [1], "from 1 to 23 tokens, got"),
        ([0], [131], "tokens must be from 0 to 130"),
    ):
        with pytest.raises(ValueError, match=message):
            decoder.next_tokens(sequences, tokens, [0.5])
    with pytest.raises(ValueError, match=r"Decoder\.next_tokens: needs 1 uniforms, got shape \(2,\)"):
        decoder.next_tokens([0], [1], [0.5, 0.5])
    model.wte.weight.data[5] = np.nan
    with pytest.raises(ValueError, match="the logits must be finite"):
        decoder.next_tokens([0], [1], [0.5])
    assert decoder.lengths.tolist() == [1, 0]


# Several tokens of one sequence at once


def by_steps(decoder: Decoder, sequence: int, tokens: list[int]) -> np.ndarray:
    return np.concatenate([decoder.step([sequence], [token]) for token in tokens])


@pytest.mark.parametrize(("kind", "mode"), [("float32", "kernels"), ("bfloat16", "kernels"), ("int8", "kernels"),
                                            ("int4", "kernels"),
                                            ("float32", "check"), ("float32", "numpy")])  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_tokens_read_at_once_have_the_bits_of_as_many_steps(kind, mode, seed):
    """Random pieces of a text of 40 tokens, on any number of threads, while other sequences move on, too."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 6))
    model = random_model(kind=kind, n_positions=48, n_head=heads, n_embd=heads * int(rng.integers(1, 20)))
    text, other = rng.integers(0, 131, 40).tolist(), rng.integers(0, 131, 40).tolist()
    with implementation(mode):
        whole, pieces = Decoder(model), Decoder(model, sequences=3)
        with using_threads(1):
            start = whole.prefill(0, text[:3])
            expected = [start, *by_steps(whole, 0, text[3:])]
        found = [pieces.prefill(1, text[:3])]
        pieces.prefill(2, other[:1])
        while len(found) < len(expected):
            with using_threads(int(rng.integers(1, 5))):
                size = int(rng.choice([1, 2, 3, 4, 5, 7, 19]))
                next_ = text[2 + len(found) :][:size]
                if size == 1:
                    found.append(pieces.step([2, 1], [other[len(found)], *next_])[1])
                else:
                    found.extend(pieces.extend([1], [next_])[0])
    if mode == "numpy":  # whose product of two sequences has other bits than that of one
        np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND_OF_STEP[kind] * np.abs(expected).max())
    else:
        np.testing.assert_array_equal(found, expected)
    assert pieces.lengths.tolist()[:2] == [0, 40]


@pytest.mark.parametrize("change", ["float64", "own block", "hook", "own head", "numpy"])
def test_what_no_kernel_computes_has_the_bits_of_single_steps_too(change):
    model = random_model(np.float64 if change == "float64" else np.float32)
    if change == "own block":
        forward = model.h[1].mlp.forward
        model.h[1].mlp.forward = lambda x: forward(x) * 2
    if change == "hook":
        model.h[2].register_forward_hook(lambda module, inputs, output: output * 2)
    if change == "own head":
        norm = model.ln_f.forward
        model.ln_f.forward = lambda x: norm(x) * 2
    with implementation("numpy" if change == "numpy" else "kernels"):
        decoder = Decoder(model)
        decoder.prefill(0, [1, 2])
        expected = by_steps(decoder, 0, TEXTS[2])
        decoder.truncate(0, 2)
        np.testing.assert_array_equal(decoder.extend([0], [TEXTS[2]])[0], expected)
    assert expected.dtype == model.wte.weight.dtype


@pytest.mark.parametrize("mode", ["kernels", "numpy", "check"])
def test_tokens_that_are_taken_back_leave_no_trace(mode):
    model = random_model()
    with implementation(mode):
        decoder, fresh = Decoder(model, sequences=2), Decoder(model)
        decoder.prefill(0, [9, 8]), decoder.prefill(1, [1, 2, 3]), fresh.prefill(0, [1, 2, 3])
        decoder.extend([1], [[4, 5, 6, 7, 8]])
        decoder.truncate(1, 4)
        fresh.step([0], [4])
        np.testing.assert_array_equal(decoder.extend([1], [[10, 11]])[0], by_steps(fresh, 0, [10, 11]))
        assert decoder.lengths.tolist() == [2, 6]
        decoder.truncate(1, 6)  # all of it stays
        np.testing.assert_array_equal(decoder.step([1], [3]), fresh.step([0], [3]))


@pytest.mark.parametrize("mode", ["kernels", "check", "numpy"])
def test_several_sequences_are_extended_at_once_each_by_its_own_number_of_tokens(mode):
    """More tokens than the kernel reads at once: a sequence's last tokens are read after its first."""
    model = random_model()
    more = {2: [9], 0: list(range(13)), 1: [4, 4, 5, 6, 7]}
    with implementation(mode):
        decoder, single = Decoder(model, sequences=3), Decoder(model, sequences=3)
        for each in (decoder, single):
            each.prefill(0, [1, 2]), each.prefill(1, [3]), each.prefill(2, [5, 6, 7])
        found = decoder.extend([*more], more.values())
        for sequence, logits in zip(more, found, strict=True):
            np.testing.assert_array_equal(logits, by_steps(single, sequence, more[sequence]))
        assert decoder.lengths.tolist() == single.lengths.tolist() == [15, 6, 4]
        assert decoder.extend([], []) == []


@pytest.mark.parametrize(
    ("sequences", "tokens", "error", "message"),
    [
        ([0], [[131]], ValueError, r"Decoder\.extend: tokens must be from 0 to 130, got 131"),
        ([0], [[0.5]], TypeError, r"Decoder\.extend: tokens must be integers"),
        (
            [0],
            [[[1, 2], [3, 4]]],
            ValueError,
            r"needs tokens \(T,\) for each of different sequences, got shapes \[\(2, 2\)",
        ),
        ([0], [1], ValueError, r"needs tokens \(T,\) for each of different sequences, got shapes \[\(\)\]"),
        ([0], [[1], [2]], ValueError, r"needs tokens \(T,\) for each of different sequences, .* for sequences \[0\]"),
        ([0, 0], [[1], [2]], ValueError, r"needs tokens \(T,\) for each of different sequences, .* sequences \[0, 0\]"),
        ([0], [[]], ValueError, r"Decoder\.extend: from 1 to 20 more tokens fit, got 0"),
        ([0], [[1] * 21], ValueError, r"Decoder\.extend: from 1 to 20 more tokens fit, got 21"),
        ([0, 1], [[1], [1]], ValueError, r"Decoder\.extend: sequence 1 has no tokens; prefill\(\) begins one"),
        ([2], [[1]], ValueError, r"Decoder\.extend: sequences must be from 0 to 1, got 2"),
    ],
)
def test_tokens_that_cannot_be_read_at_once_are_refused(sequences, tokens, error, message):
    decoder = Decoder(random_model(), sequences=2)
    decoder.prefill(0, [1, 2, 3, 4])
    with pytest.raises(error, match=message):
        decoder.extend(sequences, tokens)
    assert decoder.lengths.tolist() == [4, 0]


@pytest.mark.parametrize(("length", "error"), [(0, ValueError), (5, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_a_sequence_is_truncated_to_what_it_has(length, error):
    decoder = Decoder(random_model(), sequences=2)
    decoder.prefill(0, [1, 2, 3, 4])
    with pytest.raises(error, match=r"Decoder\.truncate: length must be (from 1 to 4, got|an integer, got 1\.5)"):
        decoder.truncate(0, length)
    with pytest.raises(ValueError, match=r"Decoder\.truncate: sequence 1 has no tokens"):
        decoder.truncate(1, 1)


# The one-token step is held to `Block`


@pytest.mark.parametrize("mode", ["kernels", "numpy"])
@pytest.mark.parametrize("seed", range(6))
def test_steps_of_one_token_are_the_block_on_the_whole_sequence(mode, seed):
    """Of random sizes, with an epsilon that matters: each layer alone, on its own input."""
    rng = np.random.default_rng(seed)
    H = int(rng.integers(1, 5))
    C, T = H * int(rng.integers(1, 20)), int(rng.integers(2, 20))
    model = random_model(n_embd=C, n_head=H, n_inner=int(rng.integers(1, 200)), layer_norm_epsilon=0.3)
    x = rng.standard_normal((T, C)).astype(np.float32)
    for i, block in enumerate(model.h):
        expected = block(Tensor(x[None])).data[0]
        with implementation(mode):
            found = stepped(model, i, x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND[np.float32] * np.abs(expected).max())


def stepped(model: GPT, i: int, x: np.ndarray) -> np.ndarray:
    """x (T, C) after layer i, one token at a time."""
    decoder = Decoder(model)
    rows = []
    for t, row in enumerate(x):
        cache = LayerCache(decoder._keys[i], decoder._values[i], np.array([0]), np.array([t]))
        rows.append(decoder._layer(row[None].copy(), i, cache)[0])
    return np.stack(rows)


LAYER = [name for name, _ in random_model().h[1].named_parameters()]


@pytest.mark.parametrize("kind", ["float32", "int8", "int4"])
@pytest.mark.parametrize("name", LAYER)
def test_a_step_reads_each_weight_of_its_layer_where_the_block_does(name, kind):
    """With one of the layer's weights replaced, both change, and to the same."""
    x = np.random.default_rng(1).standard_normal((5, 40)).astype(np.float32)
    model, changed = random_model(), random_model()
    weight = dict(changed.h[1].named_parameters())[name]
    weight.data[...] = np.random.default_rng(4).permutation(weight.data.reshape(-1)).reshape(weight.shape) + 0.5
    quantize_model(model, kind), quantize_model(changed, kind)
    expected = in_float32(changed.h[1], Tensor(x[None])).data[0]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(stepped(changed, 1, x), expected, rtol=0, atol=BOUND_OF_STEP[kind] * scale)
    assert np.abs(stepped(model, 1, x) - expected).max() > 1e-2 * scale
    for other in (0, 2):
        np.testing.assert_array_equal(stepped(changed, other, x), stepped(model, other, x))


def test_a_step_adds_the_position_that_follows_the_text():
    """Positions that are alike but for one: logits change at that position, and those after it, only."""
    model, changed = random_model(), random_model()
    changed.wpe.weight.data[3] += 1
    told = []
    for each in (model, changed):
        decoder = Decoder(each)
        told.append([decoder.prefill(0, [7]), *(decoder.step([0], [token])[0] for token in (1, 2, 3, 4))])
    for t, (before, after) in enumerate(zip(*told, strict=True)):
        assert np.array_equal(before, after) == (t < 3)


@pytest.mark.parametrize("mode", ["kernels", "numpy"])
def test_a_block_with_a_cache_may_read_texts_in_pieces(mode):
    """Two sequences of different lengths, in pieces of one token and of several, as in one pass."""
    block, H, D, N = random_model().h[0], 4, 10, 12
    x = np.random.default_rng(0).standard_normal((2, N, 40)).astype(np.float32)
    expected = block(Tensor(x)).data
    keys, values = np.full((3, H, D, N), np.nan, np.float32), np.full((3, H, N, D), np.nan, np.float32)
    with implementation(mode), no_grad():
        first = block(Tensor(x[:1, :3]), LayerCache(keys, values, [2], [0])).data
        np.testing.assert_allclose(first[0], expected[0, :3], rtol=0, atol=BOUND[np.float32] * np.abs(expected).max())
        lengths = [3, 0]
        for size in (1, 4, 4):
            piece = np.stack([x[b, n : n + size] for b, n in enumerate(lengths)])
            found = block(Tensor(piece), LayerCache(keys, values, [2, 0], lengths)).data
            for b, n in enumerate(lengths):
                np.testing.assert_allclose(found[b], expected[b, n : n + size], rtol=0,
                                           atol=BOUND[np.float32] * np.abs(expected).max())  # fmt: skip
            lengths = [n + size for n in lengths]
    assert np.isnan(keys[1]).all() and np.isnan(values[1]).all()  # a sequence that was not read is not touched


@pytest.mark.parametrize(
    ("T", "H", "D", "N", "lengths"),
    [(1, 2, 16, 4, [3]), (16, 1, 16, 16, [0]), (37, 3, 20, 64, [5, 9]), (3, 5, 7, 11, [2, 8]), (50, 2, 33, 60, [10])],
)
def test_the_keys_and_values_of_a_text_lie_where_a_step_reads_them(rng, T, H, D, N, lengths):
    """Whole blocks of a vector's width and what is left of them; nothing else is written."""
    B, S, C = len(lengths), len(lengths) + 1, H * D
    qkv = rng.standard_normal((B, T, 3 * C), np.float32)
    keys, values = np.full((S, H, D, N), np.nan, np.float32), np.full((S, H, N, D), np.nan, np.float32)
    sequences = list(range(B, 0, -1))
    with no_grad():
        LayerCache(keys, values, sequences, lengths).attend(Tensor(qkv), H)
    for (b, t, head, d), n in zip(np.ndindex(B, T, H, D), np.repeat(lengths, T * H * D), strict=True):
        assert keys[sequences[b], head, d, n + t] == qkv[b, t, C + head * D + d]
        assert values[sequences[b], head, n + t, d] == qkv[b, t, 2 * C + head * D + d]
    assert np.isfinite(keys).sum() == np.isfinite(values).sum() == qkv.size // 3


def test_what_a_layers_cache_cannot_do_is_refused():
    block = random_model().h[0]
    cache = LayerCache(np.empty((1, 4, 10, 6), np.float32), np.empty((1, 4, 6, 10), np.float32), [0], [4])
    x = Tensor(np.ones((1, 3, 40), np.float32))
    with pytest.raises(ValueError, match=r"no gradient passes through a cache; call the block inside no_grad\(\)"):
        block(x, cache)
    with no_grad(), pytest.raises(ValueError, match="LayerCache: 6 tokens fit, got 3 more after 4"):
        block(x, cache)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"lengths": [0, 4]}, "6 tokens fit, got 3 more after 4"),
    ({"lengths": [0, -1]}, "6 tokens fit, got 3 more after -1"),
    ({"sequences": [1], "lengths": [0]}, "needs a sequence and a length for each of 2 rows, got 1 and 1"),
    ({"lengths": [1]}, "got 2 and 1"),
    ({"sequences": [1, 1]}, "sequences must be different and from 0 to 2"),
    ({"sequences": [1, 3]}, "sequences must be different and from 0 to 2"),
    ({"sequences": [-1, 2]}, "sequences must be different and from 0 to 2"),
    ({"keys": np.full((3, 4, 6, 10), np.nan, np.float32)}, r"keys must be \(S, H, D, N\) and values \(S, H, N, D\)"),
])  # fmt: skip
def test_what_does_not_fit_a_layers_cache_is_refused_before_anything_is_written(wrong, message):
    keys, values = np.full((3, 4, 10, 6), np.nan, np.float32), np.full((3, 4, 6, 10), np.nan, np.float32)
    cache = LayerCache(**{"keys": keys, "values": values, "sequences": [1, 2], "lengths": [0, 0], **wrong})
    with no_grad(), pytest.raises(ValueError, match=f"LayerCache: .*{message}"):
        random_model().h[0](Tensor(np.ones((2, 3, 40), np.float32)), cache)
    assert np.isnan(keys).all() and np.isnan(values).all()


@pytest.mark.parametrize("mode", ["kernels", "numpy"])
def test_dropout_is_off_in_a_decoder_of_a_model_that_trains(mode):
    model = random_model(embd_pdrop=0.5, attn_pdrop=0.5, resid_pdrop=0.5)
    told = []
    with implementation(mode):
        for training in (False, True):
            decoder = Decoder(model.train(training))
            told.append([decoder.prefill(0, [1, 2, 3]), decoder.step([0], [4])[0]])
    np.testing.assert_array_equal(*told)
    assert model.training and model.h[0].mlp.dropout.training


def test_a_hook_that_comes_or_goes_after_the_decoder_was_made_counts():
    model = random_model()
    decoder = Decoder(model)
    decoder.prefill(0, [1, 2])
    for module in (model.h[1].mlp, model.ln_f):
        handle = module.register_forward_hook(lambda module, inputs, output: output * 2)
        np.testing.assert_allclose(decoder.prefill(0, [1, 2]), uncached(model, [1, 2]), rtol=0, atol=2e-4)
        np.testing.assert_allclose(decoder.step([0], [3])[0], uncached(model, [1, 2, 3]), rtol=0, atol=2e-4)
        handle.remove()
    np.testing.assert_allclose(decoder.prefill(0, [1, 2]), uncached(model, [1, 2]), rtol=0, atol=2e-4)


def _a_new_weight(model):
    model.ln_f.weight = Parameter(np.full(40, 5, np.float32))


def _a_new_block(model):
    model.h[0] = random_model(n_layer=1).h[0]


def _a_replaced_forward(model):
    forward = model.h[0].mlp.forward
    model.h[0].mlp.forward = lambda x: forward(x) * 0.5


def _a_wrapped_forward(model):
    """`wraps` gives it the names of the function that it replaces."""
    forward = model.h[0].mlp.forward
    model.h[0].mlp.forward = functools.wraps(forward)(lambda x: forward(x) * 0.5)


def _another_head(model):
    model.head = lambda hidden: Tensor(-GPT.head(model, hidden).data)


def _another_epsilon(model):
    model.h[1].ln_2.eps = 100.0


CHANGES = [_a_new_weight, _a_new_block, _a_replaced_forward, _a_wrapped_forward, _another_head, _another_epsilon]


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_was_changed_before_or_after_decodes_as_it_computes(change):
    model = random_model()
    before = uncached(model, [1, 2, 3])
    decoder = Decoder(model)
    decoder.prefill(0, [1, 2])
    change(model)
    expected = uncached(model, [1, 2, 3])
    assert np.abs(expected - before).max() > 0.1
    bound = {"rtol": 0, "atol": BOUND[np.float32] * np.abs(expected).max()}
    np.testing.assert_allclose(Decoder(model).prefill(0, [1, 2, 3]), expected, **bound)
    decoder.prefill(0, [1, 2])
    np.testing.assert_allclose(decoder.step([0], [3])[0], expected, **bound)


class _Scaled(GPT):
    def hidden(self, tokens):
        return super().hidden(tokens) * 2.0 + 1.0


def _hook_the_embedding(model):
    model.wte.register_forward_hook(lambda module, inputs, output: output * -4.0)


@pytest.mark.parametrize("change", [lambda model: setattr(model, "__class__", _Scaled), _hook_the_embedding])
def test_what_no_cache_computes_is_generated_without_one(change):
    model = random_model()
    plain = list(model.generate([1, 2], max_tokens=8, temperature=0))
    change(model)
    told = list(model.generate([1, 2], max_tokens=8, temperature=0))
    assert told == list(model.generate([1, 2], max_tokens=8, temperature=0, cache=False)) != plain
    with pytest.raises(TypeError, match=r"Decoder: the model's `hidden`.* generate with cache=False"):
        model.decoder()


def test_after_an_error_a_decoder_has_all_of_the_new_weights_or_none():
    model = random_model()
    decoder = Decoder(model)
    decoder.prefill(0, [1, 2])
    quantize_model(model, "int8")
    good, model.ln_f.weight.data = model.ln_f.weight.data, np.ones(3, np.float32)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Decoder: ln_f.weight must be float32 \(40,\)"):
            decoder.step([0], [3])
    model.ln_f.weight.data = good
    decoder.prefill(0, [1, 2])
    fresh = Decoder(model)
    fresh.prefill(0, [1, 2])
    np.testing.assert_array_equal(decoder.step([0], [3]), fresh.step([0], [3]))


def test_a_prompt_that_was_interrupted_leaves_no_mixture_of_two_texts():
    model = random_model()
    decoder = Decoder(model)
    decoder.prefill(0, [1, 2, 3])

    def interrupt(module, inputs, output):
        raise KeyboardInterrupt

    hook = model.h[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        decoder.prefill(0, [4, 5, 6, 7])
    hook.remove()
    with pytest.raises(ValueError, match=r"Decoder.step: each sequence must have from 1 to 23 tokens"):
        decoder.step([0], [8])


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": -1}, {"temperature": -1.0}, {"temperature": np.nan},
                                     {"top_p": 0.0}])  # fmt: skip
def test_sampling_by_no_such_options_is_refused(options):
    decoder = Decoder(random_model())
    decoder.prefill(0, [1, 2])
    with pytest.raises(ValueError, match=next(iter(options))):
        decoder.next_tokens([0], [3], [0.5], **options)
    with pytest.raises(TypeError, match=r"Decoder\.next_tokens: tokens"):
        decoder.next_tokens([0], [0.5], [0.5])


def test_no_prompts_and_no_tokens_give_nothing():
    assert list(generate_batch(random_model(), [], max_tokens=0)) == []

"""Inspection: the attention maps and the logit lens are the model's own, and the pictures are drawn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tests.pictures import drawn_texts, require_readable
from tinygpt import GPT, GPTConfig, Tensor
from tinygpt.study import inspection_pictures
from tinygpt.study.inspection import Inspection, describe, inspect_prompt
from tinygpt.study.inspection_pictures import MOST_TOKENS, draw


@pytest.fixture
def model() -> GPT:
    model = GPT(GPTConfig(vocab_size=23, n_positions=8, n_embd=12, n_layer=3, n_head=2), dtype=np.float64).eval()
    model.flat_parameters[:] = 0.4 * np.random.default_rng(2).standard_normal(model.num_parameters())
    return model


def test_maps_are_the_softmax_of_the_causal_scores(model):
    ids = [3, 1, 4, 1]
    found = inspect_prompt(model, ids)
    assert found.attention.shape == (3, 2, 4, 4)
    np.testing.assert_allclose(found.attention.sum(-1), 1, rtol=1e-12)
    x = model.wte([ids]) + model.wpe(np.arange(4))
    qkv = model.h[0].attn.c_attn(model.h[0].ln_1(x)).data[0]
    for head in range(2):
        q, k = (qkv[:, part * 12 + head * 6 :][:, :6] for part in (0, 1))
        for t in range(4):
            e = [np.exp(q[t] @ k[s] / np.sqrt(6)) for s in range(t + 1)]
            np.testing.assert_allclose(found.attention[0, head, t], [*(e / sum(e)), *[0] * (3 - t)], rtol=1e-10)


def test_the_last_layers_predictions_are_the_models(model):
    ids = [3, 1, 4, 1, 5]
    found = inspect_prompt(model, ids, top_k=3)
    logits = model([ids]).data[0]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    order = np.argsort(-logits, axis=-1)[:, :3]
    np.testing.assert_array_equal(found.ids[-1], order)
    np.testing.assert_allclose(found.probabilities[-1], np.take_along_axis(p, order, 1), rtol=1e-10)
    embedded = model.wte([ids]) + model.wpe(np.arange(5))
    first = model.head(model.ln_f(Tensor(embedded.data)).reshape(5, 12)).data
    np.testing.assert_array_equal(found.ids[0, :, 0], first.argmax(-1))
    text = describe(found, list("abcde"), lambda ids: f"<{ids[0]}>")
    assert text.splitlines()[0] == "after 'abcde', the next token would be"
    assert len(text.splitlines()) == 5 and f"'<{order[-1, 0]}>' {p[-1].max():.0%}" in text.splitlines()[-1]


def test_pictures_are_drawn(model, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    texts = ["$a", " b", "\n", "é"]
    paths = draw(inspect_prompt(model, [3, 1, 4, 1]), texts, lambda ids: f"${ids[0]}", tmp_path / "new")
    assert [path.name for path in paths] == ["attention.png", "predictions.png"]
    for path in paths:
        pixels = image.imread(path)
        assert min(pixels.shape[:2]) > 150 and pixels[..., :3].std() > 0.05  # not blank


def pictures_of(monkeypatch, tmp_path, found, texts, decode=lambda ids: f" {ids[0]}", **options):
    """The figures of `draw`, by name; drawn without a warning."""
    pytest.importorskip("matplotlib")
    kept = {}
    monkeypatch.setattr(inspection_pictures, "save", lambda figure, path: kept.update({path.name: figure}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(found, texts, decode, tmp_path, **options)
        for figure in kept.values():
            figure.canvas.draw()
    return kept["attention.png"], kept["predictions.png"]


def invented(L: int, H: int, T: int) -> Inspection:
    rng = np.random.default_rng(0)
    attention = np.tril(rng.random((L, H, T, T)))
    ids, p = rng.integers(0, 99, (L + 1, T, 2)), rng.random((L + 1, T, 2))
    return Inspection(attention / attention.sum(-1, keepdims=True), ids, p)


@pytest.mark.parametrize(("L", "H", "T"), [(1, 1, 1), (2, 3, 7), (1, 7, 40), (2, 12, 25)])
def test_every_head_has_a_map_with_its_name_and_every_token_a_prediction(L, H, T, monkeypatch, tmp_path):
    found, texts = invented(L, H, T), [f" tok{t}" for t in range(T)]
    maps, lens = pictures_of(monkeypatch, tmp_path, found, texts)
    require_readable(maps), require_readable(lens)
    titled = {axes.get_title(): axes for axes in maps.axes if axes.get_title()}
    assert list(titled) == [f"layer {layer}, head {head}" for layer in range(L) for head in range(H)]
    for (layer, head), axes in zip(np.ndindex(L, H), titled.values(), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), found.attention[layer, head])
    labels = [text for text, _, _ in drawn_texts(maps) if text.startswith("␣tok")]
    every = -(-T // (len(set(labels)) or 1))
    assert set(labels) == {f"␣tok{t}" for t in range(0, T, every)}  # each, or each second, third ...
    assert every == 1 or f"one token in {every} is labelled" in str([text for text, _, _ in drawn_texts(maps)])
    drawn = [text for text, _, _ in drawn_texts(lens)]
    assert [text for text in drawn if text.startswith("␣tok")] == [text.replace(" ", "␣") for text in texts]
    guesses = [text for text in drawn if text.startswith("␣") and not text.startswith("␣tok")]
    assert len(guesses) == (L + 1) * T and set(guesses) == {f"␣{id}" for id in found.ids[:, :, 0].ravel()}


def test_a_long_prompt_is_wrapped_and_of_a_very_long_one_the_end_is_predicted(monkeypatch, tmp_path):
    T = MOST_TOKENS + 30
    _, lens = pictures_of(monkeypatch, tmp_path, invented(1, 1, T), [f"t{t}" for t in range(T)])
    require_readable(lens)
    drawn = [text for text, _, _ in drawn_texts(lens)]
    assert [text for text in drawn if text[:1] == "t" and text[1:].isdigit()] == [f"t{t}" for t in range(30, T)]
    assert "31 to 41" in drawn and f"the last {MOST_TOKENS} of {T} tokens" in " ".join(drawn)


def test_one_layer_or_head_is_drawn_larger_so_that_more_tokens_are_labelled(monkeypatch, tmp_path):
    found, texts = invented(3, 4, 45), [f"t{t}" for t in range(45)]

    def titles_and_labels(**options):
        maps, _ = pictures_of(monkeypatch, tmp_path, found, texts, **options)
        require_readable(maps)
        titles = [axes.get_title() for axes in maps.axes if axes.get_title()]
        return titles, {text for text, _, _ in drawn_texts(maps)} & set(texts)

    assert titles_and_labels(layer=2)[0] == [f"layer 2, head {head}" for head in range(4)]
    assert titles_and_labels(head=1)[0] == [f"layer {layer}, head 1" for layer in range(3)]
    titles, labels = titles_and_labels(layer=0, head=3)
    assert titles == ["layer 0, head 3"] and labels == set(texts)
    assert 5 < len(titles_and_labels()[1]) < 25
    for wrong, message in (
        ({"layer": 3}, "layer must be from 0 to 2, got 3"),
        ({"head": 4}, "head must be from 0 to 3, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(found, texts, str, tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()


def test_odd_tokens_are_drawn_without_a_warning(monkeypatch, tmp_path):
    texts = ["\n", "\t", " ", "$x^2$", "日本", "🦊", "\\xf0\\x9f", "\x1b[2J", "W" * 40, ".", "", "\u202e", "e\u0301"]
    found = invented(2, 2, len(texts))
    maps, lens = pictures_of(monkeypatch, tmp_path, found, texts, decode=lambda ids: texts[ids[0] % len(texts)])
    require_readable(maps), require_readable(lens)
    said = {text for text, _, _ in drawn_texts(maps)}
    assert {r"\n", r"\t", "␣", r"\$x^2\$", r"\U0001f98a", r"\xf0\x9f", r"\x1b[2J", ".", r"\u202e", "é"} <= said


def test_the_text_fits_80_columns_whatever_the_prompt_and_the_number_of_predictions():
    found = invented(2, 1, 90)
    found = found._replace(ids=np.tile(found.ids, 5), probabilities=np.tile(found.probabilities, 5))
    texts = [f" a long prompt {number}" for number in range(90)]
    lines = describe(found, texts, lambda ids: f" guess {ids[0]}").splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "after ..." and "long prompt 89', the next token would be" in " ".join(lines[:9])
    layers = " ".join(line.strip() for line in lines[9:])
    for layer, name in enumerate(("embeddings", "layer 0", "layer 1")):
        expected = "  ".join(
            f"' guess {id}' {p:.0%}" for id, p in zip(found.ids[layer, -1], found.probabilities[layer, -1], strict=True)
        )
        assert f"{name} {expected}".replace("  ", " ") in layers.replace("  ", " ")
    short = describe(found, [" a", " b"], str).splitlines()
    assert short[0] == "after ' a b', the next token would be"


def test_prompts_that_do_not_fit_are_refused(model):
    for ids in ([], [1] * 9):
        with pytest.raises(
            ValueError, match=f"inspect: the prompt must have from 1 to n_positions = 8 tokens, got {len(ids)}"
        ):
            inspect_prompt(model, ids)
    with pytest.raises(ValueError, match="inspect: top must be from 1 to 23, got 24"):
        inspect_prompt(model, [1], top_k=24)

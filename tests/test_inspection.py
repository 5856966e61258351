"""Inspection: the attention maps and the logit lens are the model's own, and the pictures are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tensor
from tinygpt.study.inspection import describe, draw, inspect_prompt


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
        assert min(pixels.shape[:2]) > 200 and pixels[..., :3].std() > 0.05  # not blank


def test_prompts_that_do_not_fit_are_refused(model):
    for ids in ([], [1] * 9):
        with pytest.raises(
            ValueError, match=f"inspect: the prompt must have from 1 to n_positions = 8 tokens, got {len(ids)}"
        ):
            inspect_prompt(model, ids)
    with pytest.raises(ValueError, match="inspect: top must be from 1 to 23, got 24"):
        inspect_prompt(model, [1], top_k=24)

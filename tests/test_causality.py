"""Models that see the future, other rows, or have a part that is not trained are caught; a sound one is not."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import GPT, GPTConfig, Tensor
from tinygpt.cli.main import main
from tinygpt.nn import Dropout, Embedding, LayerNorm, Linear, Module
from tinygpt.runtime.settings import implementation
from tinygpt.study.causality import check_causality

LATER, GRADIENT, ROWS, EVAL, TIED, TRAINED = range(6)
V, C, T = 23, 8, 12


class Small(Module):
    """An embedding, one way in which tokens see others, and a head."""

    def __init__(self, mix, head=None):
        self.wte, self.wpe = Embedding(V, C, np.random.default_rng(1)), Embedding(T, C, np.random.default_rng(2))
        self.linear, self.norm = Linear(C, C, np.random.default_rng(3)), LayerNorm(C)
        self.mix, self.own_head = mix, head

    def forward(self, tokens):
        tokens = np.asarray(tokens)
        x = self.wte(tokens) * 5 + self.wpe(np.arange(tokens.shape[1])) * 5
        x = self.norm(x + self.linear(self.mix(x)))
        return x @ self.wte.weight.T if self.own_head is None else self.own_head(x)


def attention(x, offset=0):
    """Uniform attention over all tokens up to `offset` after a token."""
    T = x.shape[1]
    mask = np.tril(np.ones((T, T), np.float32), offset)
    return Tensor(mask / mask.sum(axis=1, keepdims=True)) @ x


def normalized_over_time(x):
    """A statistic over the whole row, as of batch or group normalization on (B, C, T)."""
    return attention(x) / ((x * x).mean(axis=(1, 2), keepdims=True) + 1e-5) ** 0.5


def shifted(x):
    """A convolution over time, padded on both sides: each token has half of the next one."""
    following = F.concatenate([x[:, 1:], Tensor(np.zeros_like(x.data[:, :1]))], axis=1)
    return 0.5 * attention(x) + 0.5 * following


def of_the_whole_batch(x):
    return attention(x) + x.mean(axis=0, keepdims=True)


def failing(model, **options) -> list[int]:
    claims = check_causality(model, **options)
    return [number for number, claim in enumerate(claims) if claim.holds is False]


@pytest.mark.parametrize("seed", range(3))
def test_gpt2_is_sound_before_and_after_its_weights_grow(seed):
    model = GPT(GPTConfig(vocab_size=37, n_positions=16, n_embd=12, n_layer=2, n_head=3), seed=seed)
    assert all(claim.holds for claim in check_causality(model, seed=seed))
    model.flat_parameters += 0.3 * np.random.default_rng(seed).standard_normal(model.flat_parameters.size, np.float32)
    before = model.flat_parameters.copy()
    assert all(claim.holds for claim in check_causality(model, seed=seed))
    assert model.training and (model.flat_parameters == before).all()


def test_a_small_model_that_sees_no_later_token_is_sound():
    assert failing(Small(attention)) == []


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        (lambda x: attention(x, offset=1), [LATER, GRADIENT]),  # a mask that is off by one
        (lambda x: attention(x, offset=T), [LATER, GRADIENT]),  # a mask that was forgotten
        (normalized_over_time, [LATER, GRADIENT]),
        (shifted, [LATER, GRADIENT]),
        (of_the_whole_batch, [ROWS]),
    ],
    ids=["off by one", "no mask", "statistic over time", "padded convolution", "other rows"],
)
def test_each_leak_is_caught(mix, expected):
    assert failing(Small(mix), context=T) == expected


def test_a_leak_that_gradients_cannot_show_is_caught():
    """Which token is the largest of the row is a comparison: it has no gradient."""
    model = Small(lambda x: attention(x) + Tensor(np.argmax(x.data, axis=1)[:, None].astype(np.float32)))
    assert failing(model, context=T) == [LATER]


def test_a_leak_within_the_gpt_is_caught(monkeypatch):
    model = GPT(GPTConfig(vocab_size=37, n_positions=16, n_embd=12, n_layer=2, n_head=3))
    forward = model.h[1].mlp.forward
    model.h[1].mlp.forward = lambda x: forward(x) + 0.01 * x.mean(axis=1, keepdims=True)
    claims = check_causality(model)
    assert [claim.holds for claim in claims[:3]] == [False, False, True]
    assert claims[LATER].evidence.startswith("logits at token 0 change by ")
    assert "when token 1 does" in claims[LATER].evidence and claims[GRADIENT].evidence.startswith("the loss at token 0")


def test_dropout_that_stays_on_an_untied_head_and_a_frozen_part_are_named():
    class Stubborn(Dropout):
        def forward(self, x):
            return F.dropout(x, 0.5, seed=int(np.random.default_rng().integers(2**31)))

    dropout = Stubborn(0.5)
    assert EVAL in failing(Small(lambda x: dropout(attention(x))))
    head = Linear(C, V, np.random.default_rng(4))
    assert failing(Small(attention, head)) == [TIED]
    unused = Small(attention)
    unused.more = Linear(C, C, np.random.default_rng(4))
    claims = check_causality(unused)
    assert claims[TRAINED].holds is False and claims[TRAINED].evidence.startswith("more.weight and 1 more has none")


def test_what_is_no_language_model_is_refused():
    with pytest.raises(TypeError, match=r"check_causality: needs a tinygpt\.nn\.Module, got int"):
        check_causality(3)
    with pytest.raises(ValueError, match="vocab_size must be given, at least 2"):
        check_causality(Linear(3, 4))
    with pytest.raises(ValueError, match=r"must give logits \(2, 12, 5\), got \(2, 12, 4\)"):
        check_causality(Embedding(5, 4))
    broken = Small(attention)
    broken.linear.weight.data[0, 0] = np.nan
    with pytest.raises(ValueError, match="the logits must be finite numbers"):
        check_causality(broken)
    with pytest.raises(ValueError, match="context must be at least 2, got 1"):
        check_causality(Small(attention), context=1)


def test_by_the_reference_too():
    with implementation("numpy"):
        assert failing(Small(attention)) == [] and failing(Small(shifted), context=T) == [LATER, GRADIENT]


def test_the_command_checks_a_model_of_ones_own(tmp_path, monkeypatch, capsys):
    assert main(["gradcheck", "--causal"]) == 0
    assert capsys.readouterr().out.count("holds ") == 6
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaky.py").write_text("""
from tinygpt import GPT, GPTConfig

def make(leak=0.1):
    model = GPT(GPTConfig(vocab_size=37, n_positions=16, n_embd=12, n_layer=2, n_head=3))
    forward = model.h[1].mlp.forward
    model.h[1].mlp.forward = lambda x: forward(x) + leak * x.mean(axis=1, keepdims=True)
    return model

model = make(0)
number = 3
""")
    assert main(["gradcheck", "--causal", "leaky.py:make"]) == 1
    out = capsys.readouterr().out
    assert out.count("FAILS") == 2 and "FAILS           no logit depends on a later token" in out
    assert main(["gradcheck", "--causal", "leaky", "--json"]) == 0  # its `model`
    assert [each["holds"] for each in json.loads(capsys.readouterr().out)] == [True] * 6
    for name, message in (
        ("leaky:number", "must be a tinygpt.nn.Module"),
        ("leaky:nothing", "there is no nothing in leaky"),
        ("nowhere:model", "there is no model in nowhere"),
    ):
        assert main(["gradcheck", "--causal", name]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1

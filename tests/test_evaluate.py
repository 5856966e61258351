"""Evaluation: every token but the first scored once, window by window; perplexity; bits per byte."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tokenizer
from tinygpt.training.evaluate import Evaluation, count_bytes, evaluate, evaluate_with_beginning

TEXT = "The hen sees the hare. The hare sees the moon: “é” 🌙 — and then\nthe hen sleeps."
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXT, 280, progress=False)


@pytest.fixture(scope="module")
def tokens(tokenizer) -> np.ndarray:
    return tokenizer.encode_to_numpy(TEXT + END + TEXT[::-1], allowed_special="all")


def model_for(tokenizer, dtype=np.float64, **changes) -> GPT:
    """With weights of order one, so that every token's loss is another."""
    sizes = {"vocab_size": tokenizer.n_vocab, "n_positions": 8, "n_embd": 6, "n_layer": 1, "n_head": 2}
    model = GPT(GPTConfig(**sizes | changes), dtype=dtype)
    model.flat_parameters[:] = 0.5 * np.random.default_rng(0).standard_normal(model.num_parameters())
    return model


def literal_loss(model: GPT, tokens: np.ndarray, context: int) -> float:
    """One window, one token at a time, from the model's logits."""
    surprises = []
    for start in range(0, len(tokens) - 1, context):
        window = tokens[start : start + context + 1].astype(int)
        logits = model(window[None, :-1]).data[0]
        for row, target in zip(logits, window[1:], strict=True):
            largest = max(row)
            surprises.append(largest + math.log(sum(math.exp(value - largest) for value in row)) - row[target])
    assert len(surprises) == len(tokens) - 1
    return math.fsum(surprises) / len(surprises)


@pytest.mark.parametrize("context", [1, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_loss_is_that_of_every_window_whatever_the_batch_size(tokenizer, tokens, context, batch_size):
    model = model_for(tokenizer).eval()
    result = evaluate(model, tokens, tokenizer, context=context, batch_size=batch_size)
    # float64: means of batches, weighted by their tokens, against one sum
    assert result.loss == pytest.approx(literal_loss(model, tokens, context), rel=1e-12)
    assert result.tokens == len(tokens) - 1


@pytest.mark.parametrize("beginning", [1, 2, 3, 6, 7, 20, 1000])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_beginning_is_scored_on_its_own_in_the_same_pass(tokenizer, tokens, beginning, batch_size):
    model = model_for(tokenizer)
    whole, first = evaluate_with_beginning(model, tokens, tokenizer, beginning, context=3, batch_size=batch_size)
    assert whole.loss == pytest.approx(literal_loss(model.eval(), tokens, 3), rel=1e-12)
    assert whole._replace(loss=0) == evaluate(model, tokens, tokenizer)._replace(loss=0)
    assert first == evaluate(model, tokens[: beginning + 1], tokenizer, context=3, batch_size=batch_size)
    assert (first is whole) == (beginning >= len(tokens) - 1)


@pytest.mark.parametrize("stride", [1, 3, 5, 8])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_each_protocol_is_its_definition_computed_one_token_at_a_time(tokenizer, tokens, stride, batch_size):
    """Windows of 8 tokens begin `stride` apart; each scores, from the model's logits alone, what none before it did."""
    model = model_for(tokenizer).eval()
    surprises, start = {}, 0
    while len(surprises) < len(tokens) - 1:
        for place in range(start, min(start + 8, len(tokens) - 1)):
            if place + 1 not in surprises:
                scores = model(tokens[None, start : place + 1].astype(int)).data[0, -1]
                largest = max(scores)
                total = largest + math.log(math.fsum(math.exp(score - largest) for score in scores))
                surprises[place + 1] = total - scores[tokens[place + 1]]
        start += stride
    result = evaluate(model, tokens, tokenizer, stride=stride, batch_size=batch_size)
    nats = math.fsum(surprises.values())
    scored = [TEXT[len(tokenizer.decode([int(tokens[0])])) :], TEXT[::-1]]  # the first token is not predicted
    words, size = (sum(len(count(part)) for part in scored) for count in (str.split, str.encode))
    assert (result.tokens, result.text_bytes, result.words) == (len(tokens) - 1, size, words)
    assert result.loss == pytest.approx(nats / len(surprises), rel=1e-9)
    assert result.perplexity == pytest.approx(math.exp(nats / len(surprises)), rel=1e-9)
    assert result.word_perplexity == pytest.approx(math.exp(nats / words), rel=1e-9)
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-9)


def test_by_default_a_window_is_the_models_context(tokenizer, tokens):
    model = model_for(tokenizer)
    assert evaluate(model, tokens, tokenizer) == evaluate(model, tokens, tokenizer, context=8)
    assert evaluate(model, tokens, tokenizer) != evaluate(model, tokens, tokenizer, context=7)


@pytest.mark.parametrize("length", [2, 3, 7, 8, 9, 10, 16, 17, 18, 25, 33])
def test_every_token_but_the_first_is_scored(tokenizer, tokens, length):
    model = model_for(tokenizer).eval()
    result = evaluate(model, tokens[:length], tokenizer, batch_size=2)
    assert result.tokens == length - 1
    assert result.loss == pytest.approx(literal_loss(model, tokens[:length], 8), rel=1e-12)


def test_a_float32_model_is_scored_as_exactly_as_float32_allows(tokenizer, tokens):
    small, large = model_for(tokenizer, np.float32), model_for(tokenizer, np.float64)
    large.load_state_dict(small.state_dict())
    expected = evaluate(large, tokens, tokenizer).loss
    assert evaluate(small, tokens, tokenizer).loss == pytest.approx(expected, rel=1e-5)


def test_the_bytes_are_those_of_the_scored_text_and_special_tokens_have_none(tokenizer, tokens):
    result = evaluate(model_for(tokenizer), tokens, tokenizer)
    first = len(tokenizer.decode_bytes([int(tokens[0])]))
    assert result.text_bytes == len((TEXT + TEXT[::-1]).encode("utf-8")) - first
    assert result.text_bytes > result.tokens  # merges
    assert tokenizer.eot_token in tokens
    assert count_bytes(np.array([tokenizer.eot_token] * 3), tokenizer) == 0
    assert count_bytes(tokens, tokenizer) == result.text_bytes + first


def test_perplexity_and_bits_per_byte_follow_their_formulas():
    result = Evaluation(loss=math.log(8), tokens=30, text_bytes=60)
    assert result.perplexity == pytest.approx(8)
    assert result.bits_per_byte == pytest.approx(1.5)  # 3 bits for each of 30 tokens, over 60 bytes
    assert str(result) == "loss 2.0794, perplexity 8.00, 1.500 bits per byte"
    assert "perplexity above 1,000,000," in str(Evaluation(math.log(1340216.86), 1, 1))
    assert "perplexity 13,402," in str(Evaluation(math.log(13402.1686), 1, 1))
    assert Evaluation(1000.0, 1, 1).perplexity == math.inf
    assert math.isnan(Evaluation(1.0, 2, 0).bits_per_byte)  # nothing but special tokens


def test_a_model_that_knows_nothing_needs_the_bits_of_a_uniform_guess():
    raw = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    model = model_for(raw)
    model.flat_parameters[:] = 0  # all logits are 0
    result = evaluate(model, np.arange(100), raw)
    assert result.perplexity == pytest.approx(256, rel=1e-12)
    assert result.bits_per_byte == pytest.approx(8, rel=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_nothing_is_left_behind(tokenizer, tokens, training, capsys, as_on_a_terminal):
    rates = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.5)
    model = model_for(tokenizer, **rates).train(training)
    before = model.generator.bit_generator.state
    assert evaluate(model, tokens, tokenizer) == evaluate(model_for(tokenizer).eval(), tokens, tokenizer)
    assert model.training is model.h[0].mlp.dropout.training is training
    assert model.generator.bit_generator.state == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert capsys.readouterr() == ("", "")  # a bar only where it is asked for
    evaluate(model, tokens, tokenizer, progress=True)
    assert "evaluate" in capsys.readouterr().err


def test_nothing_is_recorded(tokenizer, tokens, monkeypatch):
    model, losses = model_for(tokenizer), []
    loss = model.loss
    monkeypatch.setattr(model, "loss", lambda *batch: losses.append(loss(*batch)) or losses[-1])
    evaluate(model, tokens, tokenizer)
    assert losses and not any(loss.requires_grad for loss in losses)


@pytest.mark.parametrize(
    ("text", "context", "error", "message"),
    [
        ([], None, ValueError, "needs at least 2 tokens, got 0"),
        ([1], None, ValueError, "needs at least 2 tokens, got 1"),
        ([1, 280], None, ValueError, "must be from 0 to 279, got 280"),
        ([280, 1], None, ValueError, "must be from 0 to 279, got 280"),
        ([1, 2] * 9, 9, ValueError, "at most n_positions = 8 tokens fit, got 9"),
        ([1, 2], -1, ValueError, "context must be at least 1, got context = -1"),
        ([1, 2], 0, ValueError, "context must be at least 1, got context = 0"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_the_mode_stays(tokenizer, text, context, error, message):
    model = model_for(tokenizer)
    assert model.config.vocab_size == 280
    with pytest.raises(error, match=message):
        evaluate(model, np.array(text, np.int64), tokenizer, context=context)
    assert model.training


def test_ids_that_the_tokenizer_does_not_have_are_refused(tokenizer):
    model = model_for(tokenizer, vocab_size=300)  # padded to a round number
    with pytest.raises(ValueError, match="must be from 0 to 279, got 290"):
        evaluate(model, np.array([1, 290, 2]), tokenizer)

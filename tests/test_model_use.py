"""Using a model: what it takes as input, how it is saved, and what opens again."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from tinygpt import GPT, AdamW, GPTConfig, Tokenizer
from tinygpt.gpt2 import checkpoint
from tinygpt.nn import Embedding

CONFIG = GPTConfig(vocab_size=11, n_positions=7, n_embd=6, n_layer=2, n_head=2, embd_pdrop=0.3, attn_pdrop=0.2)
TOKENS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
TARGETS = np.array([[1, 4, 1, 5, 9], [2, 6, 5, 3, 8]])


@pytest.fixture
def model() -> GPT:
    """In evaluation mode, with weights of order one."""
    model = GPT(CONFIG, seed=5).eval()
    model.flat_parameters[:] = np.random.default_rng(0).standard_normal(model.num_parameters())
    return model


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
def test_tokens_may_be_any_integers(model, dtype):
    expected = model.loss(TOKENS, TARGETS).item()
    assert model.loss(TOKENS.astype(dtype), TARGETS.astype(dtype)).item() == expected
    assert model.loss(TOKENS.tolist(), TARGETS.tolist()).item() == expected


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (TOKENS[0], ValueError, r"GPT: tokens must have shape \(B, T\), .*, got \(5,\); write \[tokens\] for a single"),
        (TOKENS[:, :0], ValueError, r"with at least one token, got \(2, 0\)"),
        ([], ValueError, r"with at least one token, got \(0,\)"),
        (np.zeros((1, 8), int), ValueError, r"at most n_positions = 7 tokens fit, got 8; keep the last ones"),
        (
            TOKENS + 2,
            ValueError,
            "GPT: tokens must be from 0 to 10, got 11; use the tokenizer that the model was trained",
        ),
        (TOKENS - 2, ValueError, "GPT: tokens must be from 0 to 10, got -1"),
        (TOKENS * 1.0, TypeError, "GPT: tokens must be integers, got float64"),
    ],
)
def test_tokens_that_cannot_be_are_refused(model, tokens, error, message):
    for use in (model, lambda tokens: model.loss(tokens, np.zeros(np.shape(tokens), int))):
        with pytest.raises(error, match=message):
            use(tokens)


def test_targets_and_dtypes_that_cannot_be_are_refused(model):
    with pytest.raises(ValueError, match=r"GPT\.loss: targets must have the tokens' shape \(2, 5\), got \(2, 4\)"):
        model.loss(TOKENS, TARGETS[:, :4])
    with pytest.raises(ValueError, match=r"GPT\.loss: targets must be from 0 to 10, got 11"):
        model.loss(TOKENS, TARGETS + 2)
    with pytest.raises(ValueError, match=r"GPT\.loss: targets .*, got -1; .* or ignore_index, which is -100"):
        model.loss(TOKENS, np.where(np.arange(5) == 2, -1, TARGETS))
    with pytest.raises(ValueError, match=r"GPT\.loss: no target counts: all 10 are ignore_index = 3"):
        model.loss(TOKENS, np.full_like(TOKENS, 3), ignore_index=3)
    for dtype in (np.float16, "float16", "bfloat16"):
        with pytest.raises(TypeError, match=r"GPT: dtype must be float32 or float64, got b?float16"):
            GPT(CONFIG, dtype=dtype)


def test_targets_are_for_the_loss_not_for_the_call(model):
    with pytest.raises(TypeError, match=r"got targets too; write loss = model\.loss\(tokens, targets\)"):
        model(TOKENS, TARGETS)


@pytest.mark.parametrize("config", ["gpt2", {"n_layer": 2}, None], ids=str)
def test_a_model_is_made_of_a_configuration(config):
    with pytest.raises(TypeError, match=r"GPT: config must be a GPTConfig, got .*; write GPT\(GPTConfig\(\.\.\.\)\)"):
        GPT(config)


# saving and opening


def test_a_saved_model_opens_with_the_same_bits(model, tmp_path):
    model.save_pretrained(tmp_path / "new" / "model")
    assert sorted(os.listdir(tmp_path / "new" / "model")) == ["config.json", "model.safetensors"]
    opened = GPT.from_pretrained(tmp_path / "new" / "model", seed=5)
    assert opened.config == CONFIG
    np.testing.assert_array_equal(opened.flat_parameters, model.flat_parameters)
    np.testing.assert_array_equal(opened.eval()(TOKENS).data, model(TOKENS).data)
    assert opened.generator.bit_generator.state == model.generator.bit_generator.state  # the seed is dropout's
    other = GPT.from_pretrained(tmp_path / "new" / "model", seed=6)
    np.testing.assert_array_equal(other.flat_parameters, model.flat_parameters)
    assert other.generator.bit_generator.state != model.generator.bit_generator.state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.h.pop(), r"h\.1\.ln_1\.weight must have shape \(6,\), as config says, got none; write save_state"),
        (lambda m: setattr(m, "wte", Embedding(30, 8)), r"wte\.weight must have shape \(11, 6\), .* got \(30, 8\)"),
        (lambda m: m.register_buffer("mask", [1.0]), r"save_pretrained: mask must not be there, .*, got \(1,\); write"),
    ],
)
def test_a_model_that_could_not_be_opened_is_not_saved(model, change, message, tmp_path):
    change(model)
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_a_model_with_fewer_layers_generates_what_it_computes(model):
    model.h.pop()
    ids = [1]
    for _ in range(4):
        ids.append(int(model([ids]).data[0, -1].argmax()))
    assert list(model.generate([1], max_tokens=4, temperature=0)) == ids[1:]


def test_an_opened_model_trains_on_and_its_file_stays_as_it_was(model, tmp_path):
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    opened = GPT.from_pretrained(tmp_path)
    assert opened.training
    opened.loss(TOKENS, TARGETS).backward()
    assert opened.wte.weight.grad.any()
    opened.flat_parameters[:] = 0
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_float64_model_opens_rounded_to_float32(tmp_path):
    model = GPT(CONFIG, dtype=np.float64)
    model.save_pretrained(tmp_path)
    opened = GPT.from_pretrained(tmp_path)
    assert opened.flat_parameters.dtype == np.float32
    np.testing.assert_array_equal(opened.flat_parameters, model.flat_parameters.astype(np.float32))


def test_rates_can_be_changed_on_opening_and_nothing_that_does_not_exist(model, tmp_path):
    model.save_pretrained(tmp_path)
    opened = GPT.from_pretrained(tmp_path, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    np.testing.assert_array_equal(opened.train()(TOKENS).data, model(TOKENS).data)
    with pytest.raises(TypeError, match="attn_drop"):
        GPT.from_pretrained(tmp_path, attn_drop=0.0)
    with pytest.raises(ValueError, match=r"load_state_dict: wpe\.weight must have shape \(9, 6\), got \(7, 6\)"):
        GPT.from_pretrained(tmp_path, n_positions=9)


def test_given_a_run_its_best_checkpoint_opens(model, tmp_path):
    model.save_pretrained(tmp_path / "last")
    model.flat_parameters[:] = 7
    model.save_pretrained(tmp_path / "best")
    assert (GPT.from_pretrained(tmp_path).flat_parameters == 7).all()
    assert (GPT.from_pretrained(tmp_path / "last").flat_parameters != 7).any()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        GPT.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 1}, r"must be those of GPT-2 as config.json says, got 12 more: h\.1\."),
        ({"n_layer": 3}, r"must have h\.2\.ln_1\.weight of shape \(6,\), as config.json says, got none"),
        ({"vocab_size": 12}, r"must have wte\.weight of shape \(12, 6\), as config.json says, got shape \(11, 6\)"),
        (
            {"n_inner": 7},
            r"must have h\.0\.mlp\.c_fc\.weight of shape \(6, 7\), as config.json says, got shape \(6, 24\)",
        ),
        ({"n_head": 4}, r"n_embd must be a multiple of n_head, got n_embd = 6, n_head = 4"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_their_config_json_are_refused(model, tmp_path, change, message):
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        GPT.from_pretrained(tmp_path)


def test_the_tokenizer_is_saved_beside_the_model_that_it_fits(tmp_path):
    tokenizer = Tokenizer.train("the hen sees the hen", 260, progress=False)
    model = GPT(GPTConfig(vocab_size=tokenizer.n_vocab, n_positions=7, n_embd=6, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path, tokenizer)
    opened = checkpoint.load_tokenizer(tmp_path)
    assert opened.fingerprint == tokenizer.fingerprint
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == tokenizer.eot_token
    small = GPT(GPTConfig(vocab_size=tokenizer.n_vocab - 1, n_positions=7, n_embd=6, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="they do not belong together"):
        small.save_pretrained(tmp_path / "other", tokenizer)


def test_a_frozen_parameter_is_saved_and_loaded_but_not_learned(tmp_path):
    model = GPT(CONFIG)
    model.wpe.weight.requires_grad = False
    before = model.wpe.weight.data.copy()
    optimizer = AdamW(model.parameters(), lr=0.1)
    model.loss(TOKENS, TOKENS).backward()
    optimizer.step()
    np.testing.assert_array_equal(model.wpe.weight.data, before)
    model.save_pretrained(tmp_path)
    np.testing.assert_array_equal(GPT.from_pretrained(tmp_path).wpe.weight.data, before)

"""The four sizes of GPT-2 with random weights that transformers made: its files, its scores, its continuations."""

from __future__ import annotations

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# The two largest with fewer layers: theirs, ours and the files are in memory at once.
LAYERS = {"gpt2": 12, "gpt2-medium": 24, "gpt2-large": 6, "gpt2-xl": 4}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_gpt2_of_each_size_scores_and_continues_as_in_transformers(name, tmp_path):
    sizes = GPTConfig.preset(name, n_layer=LAYERS[name]).to_dict()
    torch.manual_seed(7)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="300MB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()  # in shards
    ours = GPT.from_pretrained(tmp_path / "theirs").eval()
    tokens = np.random.default_rng(3).integers(0, 50257, (1, 200))
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
        options = {"max_new_tokens": 64, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        told = theirs.generate(torch.from_numpy(tokens[:, :32]), **options)[0, 32:].tolist()
    assert np.abs(ours(tokens).data - expected).max() <= 1e-4
    assert list(ours.generate(tokens[0, :32], max_tokens=64, temperature=0)) == told
    ours.save_pretrained(tmp_path / "ours")
    again, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for (key, tensor), other in zip(theirs.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), key


def test_bfloat16_and_float16_files_are_read_as_the_numbers_they_hold(tmp_path):
    config = transformers.GPT2Config(vocab_size=31, n_positions=8, n_embd=12, n_layer=1, n_head=2)
    for dtype in (torch.bfloat16, torch.float16):
        theirs = transformers.GPT2LMHeadModel(config).to(dtype)
        theirs.save_pretrained(tmp_path / str(dtype))
        ours = GPT.from_pretrained(tmp_path / str(dtype)).state_dict()
        for name, tensor in theirs.transformer.state_dict().items():
            np.testing.assert_array_equal(ours[name], tensor.float().numpy())


def test_what_is_missing_or_too_much_is_named(tmp_path):
    config = transformers.GPT2Config(vocab_size=31, n_positions=8, n_embd=12, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"n_layer": 2', '"n_layer": 3'))
    with pytest.raises(ValueError, match=r"must have h\.2\.ln_1\.weight of shape \(12,\), .* got none"):
        GPT.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"n_layer": 2', '"n_layer": 1'))
    with pytest.raises(ValueError, match=r"got 12 more: h\.1\.attn\.c_attn\.bias, "):
        GPT.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"gpt2"', '"gpt_neo"'))
    with pytest.raises(ValueError, match=r"model_type in .* must be one of: gpt2; got 'gpt_neo'"):
        GPT.from_pretrained(tmp_path)

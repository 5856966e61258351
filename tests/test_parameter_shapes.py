"""A configuration is compared with the header of the weights before a model is built; the model is the oracle."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.files.safetensors_file import read_tensors, write_tensors
from tinygpt.gpt2.parameter_shapes import parameter_shapes, require_shapes, shapes_of_gpt2

CONFIG = GPTConfig(vocab_size=17, n_positions=6, n_embd=12, n_layer=3, n_head=2)


def test_the_shapes_are_those_of_the_model():
    assert dict(parameter_shapes(CONFIG)) == {name: a.shape for name, a in GPT(CONFIG).state_dict().items()}


def test_names_with_any_prefix_are_those_of_gpt2():
    shapes = dict(parameter_shapes(CONFIG))
    for prefix in ("", "transformer.", "module.", "_orig_mod.transformer."):
        stored = {prefix + name: shape for name, shape in shapes.items()} | {"lm_head.weight": shapes["wte.weight"]}
        assert shapes_of_gpt2(stored) == shapes
    require_shapes("test", "here", CONFIG, shapes_of_gpt2(shapes))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_layer": 10**12}, r"h\.3\.ln_1\.weight of shape \(12,\), as config.json says, got none"),
        ({"n_embd": 10**15 * 2}, r"wte\.weight of shape \(17, 2000000000000000\), .* got shape \(17, 12\)"),
        ({"n_positions": 10**18}, r"wpe\.weight of shape \(1000000000000000000, 12\)"),
        ({"vocab_size": 2**62}, r"wte\.weight of shape"),
        ({"n_embd": 24}, r"wte\.weight of shape \(17, 24\)"),
        ({"n_layer": 2}, r"got 12 more: h\.2\."),
    ],
    ids=str,
)
def test_a_configuration_of_another_size_is_refused_before_anything_is_built(tmp_path, monkeypatch, change, named):
    GPT(CONFIG).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.setattr(GPT, "__init__", lambda *arguments, **options: pytest.fail("a model was built"))
    monkeypatch.setattr(np, "empty", lambda *arguments, **options: pytest.fail("weights were read"))
    start = time.monotonic()
    with pytest.raises(ValueError, match=named):
        GPT.from_pretrained(tmp_path)
    assert time.monotonic() - start < 60  # a guard: it would never end


def test_a_million_tiny_layers_are_no_reason_to_build_large_ones(tmp_path):
    GPT(CONFIG).save_pretrained(tmp_path)
    tensors = read_tensors("test", tmp_path / "model.safetensors", "none")
    more = {f"transformer.h.{layer}.ln_1.weight": np.zeros(1, np.float32) for layer in range(3, 5000)}
    write_tensors(tmp_path / "model.safetensors", tensors | more, {"format": "pt"})
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": 5000}))
    with pytest.raises(ValueError, match=r"h\.3\.ln_1\.weight of shape \(12,\), .* got shape \(1,\)"):
        GPT.from_pretrained(tmp_path)


def test_a_sparse_file_of_a_terabyte_is_refused_by_its_header(tmp_path: Path):
    GPT(CONFIG).save_pretrained(tmp_path)
    size = 48 << 34
    header = json.dumps({"wte.weight": {"dtype": "F32", "shape": [size // 48, 12], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    with pytest.raises(ValueError, match=r"wte\.weight of shape \(17, 12\), as config.json says"):
        GPT.from_pretrained(tmp_path)


# What a Hugging Face folder may say otherwise, known from the header alone


def rewritten(folder: Path, rename, more=(), **fields):
    """The folder of a model, its tensors under other names, other fields in its config.json (None: no such field)."""
    GPT(CONFIG).save_pretrained(folder)
    tensors = read_tensors("test", folder / "model.safetensors", "none")
    tensors = {rename(name.removeprefix("transformer.")): array for name, array in tensors.items()}
    write_tensors(folder / "model.safetensors", tensors | {name: np.zeros((17, 12), np.float32) for name in more})
    path = folder / "config.json"
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


@pytest.mark.parametrize(
    ("rename", "more", "fields", "named"),
    [
        (str, ["score.weight"], {}, r"a language model, got score\.weight, the head of a sequence classifier"),
        ("module.transformer.{}".format, ["module.v_head.summary.weight"], {}, r"the value head"),
        (str, ["h.0.crossattention.q_attn.weight"], {}, "cross-attention is not supported"),
        ("base_model.model.transformer.{}".format, [], {}, r"of an adapter \(PEFT\)"),
        (str, ["_orig_mod.wte.weight"], {}, r"must hold wte\.weight once, got .*'_orig_mod\.wte\.weight'"),
        (str, [], {"tie_word_embeddings": False}, r"must hold lm_head\.weight, since tie_word_embeddings is false"),
        ("decoder.{}".format, [], {}, r"must have wte\.weight of .*, got none but decoder\."),
        (str, ["h.0.attn.rotary.weight"], {}, r"got 1 more: h\.0\.attn\.rotary\.weight"),
        (str, [], {"n_inner": 40}, r"h\.0\.mlp\.c_fc\.weight of shape \(12, 40\), .* got shape \(12, 48\)"),
        (str, [], {"n_embd": None, "hidden_size": 16}, r"wte\.weight of shape \(17, 16\)"),
        (str, [], {"num_hidden_layers": 10**12}, r"h\.3\.ln_1\.weight of shape \(12,\), .* got none"),
        (
            str,
            [],
            {"num_attention_heads": "2"},
            r"config\.json: GPTConfig: num_attention_heads must be an integer, got",
        ),
        (str, [], {"n_positions": "9" * 10**6}, r"n_positions must be an integer, got '999"),
    ],
)
def test_a_folder_of_another_kind_is_refused_by_name_before_weights_are_read(
    tmp_path, monkeypatch, rename, more, fields, named
):
    rewritten(tmp_path, rename, more, **fields)
    monkeypatch.setattr(np, "empty", lambda *arguments, **options: pytest.fail("weights were read"))
    with pytest.raises((ValueError, TypeError), match=named) as caught:
        GPT.from_pretrained(tmp_path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700


def test_another_inner_width_other_names_of_sizes_and_the_head_alone_are_read(tmp_path):
    model = GPT(dataclasses.replace(CONFIG, n_inner=20))
    model.save_pretrained(tmp_path)
    tensors = read_tensors("test", tmp_path / "model.safetensors", "none")
    head = tensors.pop("transformer.wte.weight")
    write_tensors(tmp_path / "model.safetensors", tensors | {"_orig_mod.lm_head.weight": head})
    values = json.loads((tmp_path / "config.json").read_text())
    values |= {"hidden_size": values.pop("n_embd"), "num_hidden_layers": values.pop("n_layer")}
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(values).encode())
    for name, array in GPT.from_pretrained(tmp_path).state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])

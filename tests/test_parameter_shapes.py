"""A configuration is compared with the header of the weights before a model is built; the model is the oracle."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig
from tinygpt.parameter_shapes import parameter_shapes, require_shapes, shapes_of_gpt2
from tinygpt.serialization import read_tensors, write_tensors

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

"""Weights in shards: whole where transformers wrote them, and a clear error for every index that lies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tinygpt.files.safetensors_file import write_tensors
from tinygpt.gpt2.weights import read_weights

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
TENSORS = {
    "a": np.arange(3, dtype=np.float32),
    "b": np.ones((2, 2), np.float16),
    "h.0.attn.bias": np.ones(1, np.float32),
}


def write_shards(folder: Path, places: dict[str, str], index: object = None) -> None:
    for shard in set(places.values()):
        write_tensors(folder / shard, {name: TENSORS[name] for name in places if places[name] == shard})
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": places} if index is None else index)
    (folder / "model.safetensors.index.json").write_text(text)


def test_shards_are_read_as_one_and_buffers_are_left_out(tmp_path):
    write_shards(tmp_path, {"a": FIRST, "b": SECOND, "h.0.attn.bias": SECOND})
    read = read_weights("test", tmp_path, "none", (".attn.bias",))
    assert sorted(read) == ["a", "b"]
    np.testing.assert_array_equal(read["a"], TENSORS["a"])
    np.testing.assert_array_equal(read["b"], np.ones((2, 2), np.float32))
    assert {array.dtype for array in read.values()} == {np.dtype(np.float32)}


def test_one_whole_file_comes_before_an_index(tmp_path):
    write_shards(tmp_path, {"a": FIRST})
    write_tensors(tmp_path / "model.safetensors", {"a": np.zeros(1, np.float32)})
    assert read_weights("test", tmp_path, "none")["a"].tolist() == [0.0]


@pytest.mark.parametrize("name", ["../other/secret.safetensors", "/etc/passwd", "..", ".", "", "a\\b", "x\0.safetensor",
                                  "sub/x.safetensors"])  # fmt: skip
def test_a_shard_cannot_be_a_file_elsewhere(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "other").mkdir()
    write_tensors(tmp_path / "other" / "secret.safetensors", {"a": TENSORS["a"]})
    write_shards(folder, {}, {"weight_map": {"a": name}})
    with pytest.raises(ValueError, match=r"test: a shard in .*index\.json must be the name of a file beside it, got"):
        read_weights("test", folder, "none")


@pytest.mark.parametrize("index", [{}, {"weight_map": None}, {"weight_map": ["a"]}, {"weight_map": {"a": 3}}], ids=str)
def test_an_index_that_maps_nothing_is_refused(tmp_path, index):
    write_shards(tmp_path, {}, index)
    with pytest.raises(ValueError, match=r"test: weight_map in .*index\.json must name a file for each tensor"):
        read_weights("test", tmp_path, "none")


def test_a_shard_that_is_missing_or_holds_something_else_is_named(tmp_path):
    write_shards(tmp_path, {"a": FIRST, "b": SECOND})
    write_shards(tmp_path, {"a": FIRST}, {"weight_map": {"a": FIRST, "b": FIRST}})
    with pytest.raises(ValueError, match=f"{FIRST} must hold what .* says, and b is in one of them only"):
        read_weights("test", tmp_path, "none")
    write_shards(tmp_path, {"a": FIRST, "b": FIRST}, {"weight_map": {"a": FIRST}})
    with pytest.raises(ValueError, match=f"{FIRST} must hold what .* says, and b is in one of them only"):
        read_weights("test", tmp_path, "none")
    (tmp_path / FIRST).unlink()
    with pytest.raises(FileNotFoundError, match=f"test: .*{FIRST} must be a file, and is not there; .*fetch the model"):
        read_weights("test", tmp_path, "none")
    (tmp_path / FIRST).write_bytes(b"\xff" * 8 + b"{}")  # a header of 2^64 bytes
    with pytest.raises(ValueError, match=f"{FIRST} must be a whole safetensors file"):
        read_weights("test", tmp_path, "none")


@pytest.mark.parametrize("header", [
    {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 2**62]}},  # beyond the file
    {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 12]}},  # more numbers than bytes
    {"a": {"dtype": "F32", "shape": [3], "data_offsets": [12, 0]}},  # backwards
    {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
     "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},  # one over the other
    {"a": {"dtype": "F33", "shape": [3], "data_offsets": [0, 12]}},
    {"a": {"dtype": "I64", "shape": [3], "data_offsets": [0, 24]}},  # wrongly typed
    {"a": {"dtype": "BF16", "shape": [-1], "data_offsets": [0, 12]}},
], ids=range(7))  # fmt: skip
def test_a_hostile_file_is_an_error_and_no_more(tmp_path, header):
    text = json.dumps(header).encode()
    data = bytes(24 if header.get("a", {}).get("dtype") == "I64" else 12)
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    with pytest.raises(ValueError, match=r"test: .*model\.safetensors must be"):
        read_weights("test", tmp_path, "none")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("target", ["relative", "absolute", "through a folder"])
def test_a_shard_that_is_a_link_to_another_folder_is_not_opened(tmp_path, monkeypatch, target):
    folder, other = tmp_path / "model", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    write_tensors(other / FIRST, {"a": TENSORS["a"]})
    write_shards(folder, {}, {"weight_map": {"a": FIRST}})
    if target == "through a folder":
        (folder / "link").symlink_to(other)
        (folder / FIRST).symlink_to(f"link/{FIRST}")
    else:
        (folder / FIRST).symlink_to(f"../other/{FIRST}" if target == "relative" else other / FIRST)
    opened, before = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *more: opened.append(os.path.realpath(path)) or before(path, *more))
    with pytest.raises(ValueError, match=f"must be a file beside it, got {FIRST}, a link to another folder"):
        read_weights("test", folder, "none")
    assert os.path.realpath(other / FIRST) not in opened


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_the_cache_of_the_hub_which_is_made_of_links_is_read(tmp_path):
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    write_tensors(blobs / "aaaa", {"a": TENSORS["a"]})
    write_shards(snapshot, {}, {"weight_map": {"a": FIRST}})
    (snapshot / FIRST).symlink_to("../../blobs/aaaa")
    assert read_weights("test", snapshot, "none")["a"].tolist() == [0, 1, 2]
    (tmp_path / "mine").symlink_to(snapshot)
    assert read_weights("test", tmp_path / "mine", "none")["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("shard", ["a\nb.safetensors", "\x1b[2J", "\u2028", "x" * 5000])
def test_a_shards_name_is_one_line_of_an_error(tmp_path, shard):
    write_shards(tmp_path, {}, {"weight_map": {"a": shard}})
    with pytest.raises((ValueError, OSError)) as caught:
        read_weights("test", tmp_path, "none")
    assert str(caught.value).isprintable()


def test_an_array_that_is_stored_under_one_of_two_names_is_given_under_both(tmp_path):
    write_tensors(tmp_path / "model.safetensors", {"head": TENSORS["a"]}, {"table": "head", "format": "pt"})
    read = read_weights("test", tmp_path, "none")
    assert sorted(read) == ["head", "table"] and read["table"].tolist() == [0, 1, 2]


def test_what_the_caller_refuses_by_its_shapes_is_not_read(tmp_path, monkeypatch):
    write_shards(tmp_path, {"a": FIRST, "b": SECOND})
    seen = []
    monkeypatch.setattr(np, "empty", lambda *shape: pytest.fail("an array was read"))

    def check(shapes):
        seen.append(dict(shapes))
        raise ValueError("too large")

    with pytest.raises(ValueError, match="too large"):
        read_weights("test", tmp_path, "none", check=check)
    assert seen == [{"a": (3,), "b": (2, 2)}]

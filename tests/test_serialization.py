"""Files of arrays and settings: the safetensors library is the oracle, and every damage is a clear error."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
import safetensors.numpy

from tinygpt.files.input_file import open_input
from tinygpt.files.safetensors_file import (
    load_training_state,
    read_arrays,
    read_header,
    read_json,
    read_tensors,
    save_training_state,
    write_tensors,
)

DTYPES = ["float64", "float32", "float16", "bool"]
DTYPES += [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]


def arrays(rng) -> dict[str, np.ndarray]:
    """One array of each dtype and of several shapes and memory layouts, all bit patterns that are numbers."""
    odd = {dtype: (rng.standard_normal((3, 5)) * 9).astype(dtype) for dtype in DTYPES}
    matrix = rng.standard_normal((4, 6)).astype(np.float32)
    return odd | {
        "transposed": matrix.T,
        "strided": matrix[::2, ::-3],
        "broadcast": np.broadcast_to(matrix[0], (3, 6)),
        "big endian": matrix.astype(">f4"),
        "0-d": np.array(2.5),
        "size 0": np.zeros((0, 7), np.float32),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324]),
        'ключ "quoted"\n': np.arange(3),
    }


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(got) == sorted(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype.newbyteorder("=")
        assert got[name].shape == array.shape
        assert got[name].tobytes() == array.astype(got[name].dtype).tobytes()  # NaN and -0.0 count too


def test_the_library_reads_what_we_write(tmp_path, rng):
    tensors = arrays(rng)
    write_tensors(tmp_path / "a.safetensors", tensors, {"format": "pt"})
    assert_same(safetensors.numpy.load_file(tmp_path / "a.safetensors"), tensors)
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_we_read_what_the_library_writes(tmp_path, rng):
    tensors = {name: np.array(array, order="C") for name, array in arrays(rng).items()}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    got = read_tensors("test", tmp_path / "a.safetensors", "none")
    assert_same(got, tensors)
    for array in got.values():
        array[...] = 0  # they own their memory: neither read-only nor the file
    assert_same(read_tensors("test", tmp_path / "a.safetensors", "none"), tensors)


def test_equal_arrays_give_equal_bytes_in_any_order(tmp_path, rng):
    tensors = arrays(rng)
    write_tensors(tmp_path / "a.safetensors", tensors)
    write_tensors(tmp_path / "b.safetensors", dict(reversed(tensors.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_every_array_starts_at_a_multiple_of_its_element_size(tmp_path, rng):
    write_tensors(tmp_path / "a.safetensors", arrays(rng))
    data = (tmp_path / "a.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    sizes = {name: array.dtype.itemsize for name, array in arrays(rng).items()}
    starts = {name: 8 + length + entry["data_offsets"][0] for name, entry in json.loads(data[8 : 8 + length]).items()}
    assert [name for name, start in starts.items() if start % sizes[name]] == []


def test_a_dtype_that_the_format_lacks_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="c must be of booleans, integers or floats, got dtype <U1"):
        write_tensors(tmp_path / "a.safetensors", {"b": np.zeros(2), "c": np.array(["x"])})
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_anywhere_is_a_clear_error(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": np.arange(3.0), "b": np.arange(4, dtype=np.int8)})
    whole = path.read_bytes()
    for damaged in [whole[:end] for end in range(len(whole))] + [whole + b"x", b"\xff" * 64]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"test: .*a\.safetensors must be a whole .* \d+ bytes .*another") as error:
            read_tensors("test", path, "none")
        assert "\n" not in str(error.value)


def test_a_damaged_header_is_never_anything_but_a_clear_error(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": np.arange(3.0), "b": np.arange(4, dtype=np.int8)})
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    refused = 0
    for position in range(8 + length):
        for flip in (0x01, 0x10, 0x80):
            damaged = bytearray(whole)
            damaged[position] ^= flip
            path.write_bytes(damaged)
            try:
                read_tensors("test", path, "none")  # a name that changed, say, cannot be noticed here
            except ValueError as error:
                refused += "test: " in str(error) and str(path) in str(error)
    assert refused > 1.5 * length


def test_missing_files_and_other_dtypes_are_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"test: .*a\.safetensors must be a file.*; look elsewhere"):
        read_tensors("test", tmp_path / "a.safetensors", "look elsewhere")
    write_tensors(tmp_path / "a.safetensors", {"mask": np.zeros(2, bool), "w": np.zeros(2, np.int16)})
    with pytest.raises(ValueError, match=r"test: w in .* must be one of F32, got I16"):
        read_tensors("test", tmp_path / "a.safetensors", "none", ("F32",), ignore=("mask",))


def test_bfloat16_which_numpy_lacks_becomes_float32_where_it_is_allowed_and_else_is_refused_by_name(tmp_path, rng):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensor = torch.from_numpy(rng.standard_normal((3, 5))).bfloat16()
    save_file({"v": torch.ones(3), "w": tensor}, tmp_path / "a.safetensors")
    read = read_tensors("test", tmp_path / "a.safetensors", "none", ("F32", "BF16"))
    np.testing.assert_array_equal(read["w"], tensor.float().numpy())
    with pytest.raises(ValueError, match=r"test: w in .* must be one of F64, F32, F16, BOOL, .*, got BF16"):
        read_tensors("test", tmp_path / "a.safetensors", "none")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be JSON, and is truncated or corrupt"),
        (b'{"n_layer": 12', "must be JSON, and is truncated or corrupt"),
        (b'{"name": "\xff"}', "must be JSON, and is truncated or corrupt"),
        (b"[1, 2]", "must hold a JSON object, got a list"),
        (b"null", "must hold a JSON object, got a NoneType"),
    ],
)
def test_json_that_is_not_an_object_is_a_clear_error(tmp_path, data, message):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ValueError, match=rf"test: .*config\.json {message}") as error:
        read_json("test", tmp_path / "config.json", "none")
    assert "\n" not in str(error.value)


def test_the_training_state_comes_back_bit_for_bit(tmp_path, rng):
    tensors = arrays(rng)
    generator = np.random.default_rng(7)
    info = {
        "step": 20,
        "best": float("inf"),
        "loss": 0.1 + 0.2,
        "generator": generator.bit_generator.state,  # integers of 128 bits
        "story": "naïve 🦊",
    }
    save_training_state(tmp_path / "last", tensors, info)
    got_tensors, got_info = load_training_state(tmp_path / "last")
    assert_same(got_tensors, tensors)
    assert got_info == info
    restored = np.random.default_rng()
    restored.bit_generator.state = got_info["generator"]
    assert restored.random() == generator.random()


def test_a_training_state_that_cannot_be_kept_leaves_nothing(tmp_path):
    with pytest.raises(TypeError, match="JSON"):
        save_training_state(tmp_path / "last", {}, {"loss": np.float32(1)})
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize("missing", ["training_state.json", "training_state.safetensors"])
def test_a_missing_training_state_says_where_one_is(tmp_path, missing):
    save_training_state(tmp_path, {"m": np.zeros(2)}, {"step": 1})
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"load_training_state: .*{missing} .*the `last` folder of a run"):
        load_training_state(tmp_path)


CHANGES = [0, 1, -1, 2**31, 2**63, 2**64, "F32", "F16", "BF16", "I64", "F8_E4M3", "", None, True, 1.5, [], [1], [0, 24]]
CHANGES += [[24, 0], [0], [3, 1], [2, 2], [0, 2**62], {}, {"a": 1}, [-1, -3], [3, 0], [[3]]]


def test_what_the_library_refuses_is_refused_and_what_both_read_is_equal(tmp_path, rng):
    path, both = tmp_path / "a.safetensors", 0
    tensors = {"a": np.arange(3.0), "b": np.arange(4, dtype=np.float32).reshape(2, 2), "c": np.zeros((0, 3), np.int8)}
    write_tensors(path, tensors, {"format": "pt"})
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    for _ in range(1500):
        header = json.loads(data[8 : 8 + length])
        for _ in range(rng.integers(1, 3)):
            entry = header.get(str(rng.choice(["a", "b", "c", "__metadata__"])))
            if isinstance(entry, dict):
                entry[str(rng.choice(["dtype", "shape", "data_offsets", "x"]))] = CHANGES[rng.integers(len(CHANGES))]
        head = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])
        try:
            expected = safetensors.numpy.load_file(path)
        except Exception:  # of its own kinds
            expected = None
        try:
            got = read_tensors("test", path, "none")
        except ValueError as error:
            assert str(error).isprintable() and "a.safetensors must be " in str(error)
            continue
        assert expected is not None
        assert_same(got, expected)
        both += 1
    assert both > 20


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": np.zeros(10**6)})
    with open_input(path) as file:
        entries = read_header("test", path, file).entries
        os.truncate(path, 5000)
        with pytest.raises(ValueError, match="a is cut short"):
            dict(read_arrays("test", path, file, entries))


def test_a_header_without_end_is_not_read(tmp_path):
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 1 << 30) + b"{")
        file.truncate(1 << 31)
    with pytest.raises(ValueError, match="within the file and at most 16,777,216 bytes, got 1,073,741,824"):
        read_tensors("test", tmp_path / "a.safetensors", "none")

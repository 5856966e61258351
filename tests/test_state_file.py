"""A state in one file comes back as it was, or the place of what cannot be kept is named; nothing is unpickled."""

from __future__ import annotations

import collections
import enum
import io
import json
import math
import os
import pickle
import random
import struct
import zipfile
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

import tinygpt
from tinygpt import GPT, AdamW, GPTConfig, Tensor, load_state, save_state
from tinygpt.files import safetensors_file

DTYPES = ["float64", "float32", "float16", "bool"]
DTYPES += [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
ARRAYS = arrays_of.arrays(
    st.sampled_from(DTYPES), arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
)
SCALARS = (st.none() | st.booleans() | st.integers(-(2**255), 2**255) | st.floats() | TEXTS
           | st.sampled_from(DTYPES).flatmap(lambda name: arrays_of.from_dtype(np.dtype(name))))  # fmt: skip
STATES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(TEXTS | st.integers(-9, 9) | st.sampled_from(["__metadata__", "a.b", "keys"]), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


def assert_same(got, expected) -> None:
    assert type(got) is type(expected), (got, expected)
    if isinstance(expected, dict):
        assert [*map(type, got)] == [*map(type, expected)] and [*got] == [*expected]
        for key, value in expected.items():
            assert_same(got[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, (np.ndarray, np.generic)):
        assert (got.dtype, got.shape, got.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    elif isinstance(expected, float):
        assert struct.pack("d", got) == struct.pack("d", expected) or (math.isnan(got) and math.isnan(expected))
    else:
        assert got == expected


@settings(max_examples=150)
@given(state=STATES)
def test_any_state_comes_back_as_it_was(state, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save_state(state, path)
    assert_same(load_state(path), state)


def test_the_state_of_an_optimizer_of_pytorch(path):
    """Integers as keys, tuples, 0-d steps: as `torch.optim.AdamW` has them; and PyTorch takes back what is loaded."""
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    before = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "best": float("inf")}
    save_state(before, path)
    loaded = load_state(path)
    assert list(loaded["optimizer"]["state"]) == [0, 1] and loaded["best"] == math.inf
    assert loaded["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    assert loaded["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.95)
    for number, state in before["optimizer"]["state"].items():
        for name, tensor in state.items():
            assert_same(loaded["optimizer"]["state"][number][name], tensor.numpy())
    assert_same(loaded["model"], {name: tensor.numpy() for name, tensor in before["model"].items()})


def test_training_goes_on_from_a_state_to_the_bit(path):
    def trained(steps, model, optimizer):
        for _ in range(steps):
            loss = model.loss([[1, 2, 3]], [[2, 3, 4]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def fresh(seed):
        model = GPT(GPTConfig(vocab_size=7, n_positions=4, n_embd=4, n_layer=1, n_head=2), seed=seed)
        return model, AdamW(model.parameters(), lr=1e-2)

    model, optimizer = fresh(1)
    trained(3, model, optimizer)
    generator = model.generator.bit_generator.state  # of dropout's seeds; integers of 128 bits are in it
    save_state({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator}, path)
    other, its_optimizer = fresh(2)
    state = load_state(path)
    other.load_state_dict(state["model"])
    its_optimizer.load_state_dict(state["optimizer"])
    other.generator.bit_generator.state = state["generator"]
    for each in ((model, optimizer), (other, its_optimizer)):
        trained(3, *each)
    np.testing.assert_array_equal(other.flat_parameters, model.flat_parameters)


def test_tensors_and_subclasses_come_back_as_arrays_dicts_and_tuples(path):
    class Size(NamedTuple):
        width: int

    class Kind(enum.IntEnum):
        SMALL = 3

    weights = Tensor([1.0, 2.0], requires_grad=True)
    given = {"w": weights, "ordered": collections.OrderedDict(a=1), "size": Size(5), "kind": Kind.SMALL}
    save_state(given, path)
    expected = {"w": weights.data, "ordered": {"a": 1}, "size": (5,), "kind": 3}
    assert_same(load_state(path), expected)


def test_any_memory_layout_and_byte_order(path):
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    given = [matrix.T, matrix[::2, ::-1], np.broadcast_to(matrix[0], (2, 4)), matrix.astype(">f4"), np.array(5)]
    save_state(given, path)
    for got, array in zip(load_state(path), given, strict=True):
        np.testing.assert_array_equal(got, array)
        assert got.flags.writeable and got.flags.owndata and got.dtype.isnative


def test_other_libraries_read_the_arrays_by_their_places(path):
    save_state({"model": {"wte.weight": np.ones(2)}, 0: [np.zeros(1)], "step": 3}, path)
    assert_same(safetensors.numpy.load_file(path), {"0.0": np.zeros(1), "model.wte.weight": np.ones(2)})


def test_places_that_read_alike_are_kept_apart(path):
    state = {"a": {"b": np.array(1), 0: np.array(2), "0": np.array(3)}, "a.b": np.array(4), "__metadata__": np.array(5)}
    save_state(state, path)
    assert_same(load_state(path), state)


def test_any_safetensors_file_is_a_dict_of_its_arrays(path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensors = {"b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "a": torch.ones(2, 3, dtype=torch.float16)}
    save_file(tensors, path)
    assert_same(load_state(path), {"a": np.ones((2, 3), np.float16), "b": np.array([1.5, -2.0], np.float32)})


# What cannot be kept


class Unknown:
    def state_dict(self):
        return {}


OWN = []
OWN.append(OWN)
REFUSED = [
    (Unknown(), TypeError, "state must be a dict, list, .* or None, got Unknown; save its state_dict()"),
    ({"model": {"hooks": [1, print]}}, TypeError, r"state['model']['hooks'][1] must be a dict, .*, got builtin"),
    ({"seen": {3}}, TypeError, r"state['seen'] must be .*, got set; write sorted(...)"),
    ({"rng": random.Random()}, TypeError, r"state['rng'] must be .*, got Random"),
    ({"a": b"bytes"}, TypeError, r"state['a'] must be .*, got bytes"),
    ({"a": 1j}, TypeError, r"state['a'] must be .*, got complex"),
    ({"a": {1.5: 2}}, TypeError, r"the keys of state['a'] must be str or int, got float 1.5"),
    ({None: 2}, TypeError, r"the keys of state must be str or int, got NoneType None"),
    ({(1, 2): 2}, TypeError, r"the keys of state must be str or int, got tuple (1, 2)"),
    ({np.int64(3): 2}, TypeError, r"the keys of state must be str or int, got int64 "),
    ([np.array(["a"])], TypeError, r"state[0] must be of booleans, integers or floats, got dtype <U1"),
    ([np.array([{}])], TypeError, r"state[0] must be of booleans, integers or floats, got dtype object"),
    ([np.zeros(1, complex)], TypeError, r"state[0] must be of booleans, integers or floats, got dtype complex128"),
    ([np.longdouble(1)], TypeError, r"state[0] must be of booleans, integers or floats, got dtype float128"),
    ([np.datetime64("2020-01-01")], TypeError, r"state[0] must be of booleans, integers or floats, got dtype datetime"),
    ([np.ma.array([1, 2], mask=[0, 1])], TypeError, r"state[0] must be .*, got MaskedArray"),
    ([2**256], ValueError, r"state[0] must have at most 256 bits, got 257"),
    ({"a": ["\ud83d"]}, ValueError, r"state['a'][0] must hold characters only, got the lone surrogate in '\\ud83d'"),
    ({"\ud83d": 1}, ValueError, r"state['\\ud83d'] must hold characters only"),
    (OWN, ValueError, r"state[0][0][0]... must be nested at most 15 deep, and is nested deeper; if it holds itself"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "error", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_what_cannot_be_kept_is_named_with_its_place(path, state, error, message):
    for bracket in "[]().":
        message = message.replace(bracket, "\\" + bracket)
    with pytest.raises(error, match="^save_state: " + message.replace(r"\.*", ".*")) as raised:
        save_state(state, path)
    assert str(raised.value).isprintable()
    assert os.listdir(path.parent) == []


def test_tensors_of_pytorch_that_numpy_cannot_hold_are_named_with_their_place(path):
    torch = pytest.importorskip("torch")
    with pytest.raises(
        TypeError, match=r"save_state: state\['w'\] must be convertible to an array.*BFloat16; write tensor.float\(\)"
    ):
        save_state({"w": torch.ones(1, dtype=torch.bfloat16)}, path)


def test_parameters_of_pytorch_are_arrays(path):
    torch = pytest.importorskip("torch")
    save_state({"w": torch.nn.Parameter(torch.ones(2)), "v": torch.ones(2, requires_grad=True) * 3}, path)
    assert_same(load_state(path), {"w": np.ones(2, np.float32), "v": np.full(2, 3, np.float32)})


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda path: save_state(path, {"w": 1}),
            r"save_state: path must be .*, got dict; write save_state\(state, pa",
        ),
        (lambda path: save_state({"w": 1}, io.BytesIO()), r"save_state: path must be a str or a Path, got BytesIO"),
        (
            lambda path: load_state(None),
            r"load_state: path must be a str or a Path, got NoneType; write load_state\(pat",
        ),
        (lambda path: load_state(b"a"), r"load_state: path must be a str or a Path, got bytes"),
    ],
)
def test_what_is_no_path_is_named(path, act, message):
    with pytest.raises(TypeError, match=message):
        act(path)
    assert os.listdir(path.parent) == []


def test_fifteen_levels_are_kept_and_sixteen_refused(path):
    for state in (np.array(1.5), 1.5):
        for _ in range(15):
            state = [state]
        save_state(state, path)
        assert_same(load_state(path), state)
        with pytest.raises(ValueError, match="nested at most 15 deep"):
            save_state([state], path)


def test_what_is_too_long_for_the_header_is_refused_and_the_old_file_stays(path):
    save_state({"step": 1}, path)
    with pytest.raises(
        ValueError, match=r"state\.safetensors: all that is not in arrays must have at most 16,777,216 by"
    ):
        save_state({"losses": [1 / 3] * 1_000_000}, path)
    assert load_state(path) == {"step": 1} and os.listdir(path.parent) == [path.name]


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    save_state({"step": 1}, path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="unchanged"):
        save_state({"step": 2}, path)
    assert load_state(path) == {"step": 1} and os.listdir(path.parent) == [path.name]
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="must exist"):
        save_state({}, path.parent / "missing" / "state.safetensors")


# What cannot be read


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("kind", ["torch", "torch before 1.6", "pickle 2", "pickle 5", "npz"])
def test_a_pickle_is_never_opened_and_the_way_out_is_named(path, monkeypatch, kind):
    monkeypatch.chdir(path.parent)
    if kind.startswith("torch"):
        torch = pytest.importorskip("torch")
        torch.save({"w": torch.ones(2), "bomb": Bomb()}, path, _use_new_zipfile_serialization=kind == "torch")
    elif kind == "npz":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("w.npy", pickle.dumps(Bomb()))
    else:
        path.write_bytes(pickle.dumps(Bomb(), protocol=int(kind[-1])))
    with pytest.raises(
        ValueError, match=r"load_state: .* must be a safetensors file, got a pickle, or a zip archive"
    ) as raised:
        load_state(path)
    for way in (
        "never opened",
        "tinygpt.save_state(torch.load(path, weights_only=True)",
        "safetensors.torch.save_file(",
    ):
        assert way in str(raised.value)
    assert os.listdir() == [path.name]


def test_a_header_whose_length_begins_like_a_pickle_is_read(path):
    """128 bytes of header: the file begins with 0x80, as pickles do."""
    for length in range(200):
        save_state("x" * length, path)
        assert load_state(path) == "x" * length
        if path.read_bytes()[:1] == b"\x80":
            return
    raise AssertionError("no header of that length")


def header_with(text: object) -> bytes:
    head = json.dumps(
        {"__metadata__": {"tinygpt_state": text}, "a": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}
    )
    return struct.pack("<Q", len(head)) + head.encode() + b"\7"


DAMAGED = [
    *("", "{", "[", "{}", "[]", "1", "nan", '"\\ud83d"', "1" * 5000, "[" * 100 + "]" * 100, '{"a": 1, "a": 2}'),
    '{"list": ' * 17 + "1" + "}" * 17,
    *('[{"array": "a"}]', '{"array": "b"}', '{"array": 1}', '{"array": null}', '{"scalar": "a"}', '{"unknown": 1}'),
    *('{"list": {"array": "a"}}', '{"list": [1]}', '{"list": [{"array": "a"}, {"array": "a"}]}', '{"tuple": 1}'),
    *('{"values": [1]}', '{"keys": ["x"], "values": []}', '{"keys": 1, "values": 1}', '{"keys": [[]], "values": [1]}'),
    '{"keys": ["x", "x"], "values": [1, {"array": "a"}]}',
    *(f'{{"keys": [{key}], "values": [{{"array": "a"}}]}}' for key in ("1.5", "null", "[]")),
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_structure_is_one_line_that_names_the_file(path, text):
    path.write_bytes(header_with(text))
    with pytest.raises(
        ValueError, match=r"^load_state: .*state\.safetensors (is damaged|must).*; use another copy"
    ) as raised:
        load_state(path)
    assert str(raised.value).isprintable()
    path.write_bytes(header_with('{"list": [{"array": "a"}]}'))
    assert_same(load_state(path), [np.array([7], np.int8)])


def test_a_file_that_is_cut_or_changed_is_a_state_or_a_clear_error(path):
    save_state({"model": {"w": np.arange(6.0)}, 3: (1, [None, np.float32(2)])}, path)
    whole, rng = path.read_bytes(), random.Random(1)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"load_state: .*state\.safetensors "):
            load_state(path)
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            load_state(path)
        except ValueError as error:
            assert str(error).startswith("load_state: ") and str(error).isprintable()


def test_files_that_are_none(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"load_state: .* must be a file, and is not there; give a file that save_st"
    ):
        load_state(tmp_path / "none")
    with pytest.raises(ValueError, match=r"load_state: .* must be an ordinary file, got a folder"):
        load_state(tmp_path)
    (tmp_path / "text").write_text("The hen said good night to the moon.")
    with pytest.raises(ValueError, match=r"load_state: .*text must be a whole safetensors file"):
        load_state(tmp_path / "text")


def test_both_are_public_and_the_training_state_of_a_run_is_a_state(tmp_path):
    assert tinygpt.save_state is save_state and tinygpt.load_state is load_state
    safetensors_file.save_training_state(tmp_path, {"m": np.zeros(2)}, {"step": 3})
    assert_same(load_state(tmp_path / "training_state.safetensors"), {"m": np.zeros(2)})

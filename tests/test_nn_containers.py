"""Sequential, ModuleList and ModuleDict: what lists and dicts do, with the names that PyTorch gives parameters."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import Tensor, nn
from tinygpt.nn import Dropout, Identity, LayerNorm, Linear, Module, ModuleDict, ModuleList, ReLU, Sequential, Tanh

X = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)


def test_sequential_computes_in_turn():
    first, second = Linear(2, 3), Linear(3, 1)
    model = Sequential(first, ReLU(), second)
    hidden = np.maximum(X @ first.weight.data + first.bias.data, 0)
    np.testing.assert_allclose(model(Tensor(X)).data, hidden @ second.weight.data + second.bias.data, rtol=1e-5)
    assert Sequential()(7) == 7


def test_sequential_is_a_sequence_of_its_modules():
    parts = [Linear(2, 3), ReLU(), Linear(3, 1)]
    model = Sequential(*parts)
    assert len(model) == 3 and [*model] == parts and model[0] is parts[0] and model[-1] is parts[2]
    assert [*model[1:]] == parts[1:] and type(model[:2]) is Sequential and parts[1] in model
    assert model.append(Tanh()) is model and isinstance(model[3], Tanh)
    model[1] = Tanh()
    assert isinstance(model[np.int64(1)], Tanh) and len(model) == 4


def test_a_slice_keeps_the_names_and_appending_to_it_replaces_nothing():
    tail = Sequential(ReLU(), Linear(2, 2), Linear(2, 2))[1:]
    assert [name for name, _ in tail.named_children()] == ["1", "2"]
    tail.append(Linear(2, 2))
    assert len(tail) == 3


@pytest.mark.parametrize("kind", [Sequential, lambda *parts: ModuleList(parts)])
def test_modules_are_put_in_and_taken_out_and_names_are_the_places_again(kind):
    first, last, new = Linear(2, 3), Linear(3, 1), Linear(3, 3)
    model = kind(first, ReLU(), last)
    assert model.pop() is last and model.pop(0) is first
    assert [name for name, _ in model.named_children()] == ["0"]
    model.insert(0, first)
    model += [new, last]
    del model[1]
    assert [*model] == [first, new, last]
    assert [*model.state_dict()] == [f"{place}.{name}" for place in range(3) for name in ("weight", "bias")]
    del model[1:]
    assert [*model] == [first]
    with pytest.raises(TypeError, match="takes modules, got the class ReLU"):
        model.insert(0, ReLU)
    with pytest.raises(IndexError, match="index 1 of 1 modules"):
        del model[1]
    with pytest.raises(TypeError, match="an index must be an integer, to replace one module, got slice"):
        model[:1] = [ReLU()]
    assert [*model] == [first]


def test_sequential_takes_named_modules():
    model = Sequential(OrderedDict(first=Linear(2, 3), act=ReLU()))
    assert model.first is model[0] and [*model.state_dict()] == ["first.weight", "first.bias"]


def test_module_list_is_a_list():
    parts = [Linear(2, 2) for _ in range(4)]
    layers = ModuleList(parts[:2])
    layers.append(parts[2])
    layers.extend([parts[3]])
    assert [*layers] == parts and [*layers[1:3]] == parts[1:3] and layers[-1] is parts[3]
    new = Linear(2, 2)
    layers.insert(1, new)
    assert [*layers] == [parts[0], new, *parts[1:]]
    del layers[0], layers[-1]
    assert [*layers] == [new, *parts[1:3]] and [name for name, _ in layers.named_children()] == ["0", "1", "2"]
    with pytest.raises(TypeError, match="takes modules"):
        layers.insert(0, 5)
    assert len(layers) == 3


def test_module_dict_is_a_dict():
    a, b, c = (Linear(2, 2) for _ in range(3))
    heads = ModuleDict({"a": a})
    heads["b"] = b
    heads.update([("c", c)])
    assert [*heads] == [*heads.keys()] == ["a", "b", "c"] and [*heads.values()] == [a, b, c] and "b" in heads
    assert dict(heads.items()) == {"a": a, "b": b, "c": c} and len(heads) == 3 and heads["c"] is c
    assert heads.pop("a") is a
    assert "a" not in heads and [*heads.state_dict()] == ["b.weight", "b.bias", "c.weight", "c.bias"]
    for missing in ("a", "training"):
        with pytest.raises(KeyError, match=missing):
            heads[missing]
        with pytest.raises(KeyError, match=missing):
            del heads[missing]
        with pytest.raises(KeyError, match=missing):
            heads.pop(missing)


def build(nn):
    """The same model of every part, out of PyTorch's modules or of ours."""

    class Everything(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)))
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.LayerNorm(2)])
            self.heads = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Identity()})
            self.shared = self.net[1]
            self.scale = nn.Parameter(nn.Linear(1, 1).bias.data)
            self.layers[0].register_buffer("mask", nn.Linear(1, 1).bias.data)
            self.register_buffer("mean", nn.Linear(1, 1).bias.data)
            self.register_buffer("cache", nn.Linear(1, 1).bias.data, persistent=False)

    return Everything()


@pytest.mark.parametrize("part", ["", "net", "layers", "heads", "layers.0"])
def test_names_of_modules_parameters_buffers_and_state_are_those_of_pytorch(part):
    torch = pytest.importorskip("torch")
    ours, theirs = (build(library).get_submodule(part) for library in (nn, torch.nn))
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    for method in ("named_parameters", "named_modules", "named_children", "named_buffers"):
        found, expected = ([name for name, _ in getattr(model, method)()] for model in (ours, theirs))
        assert found == expected, method
    for method in ("named_parameters", "named_modules", "named_buffers"):
        found, expected = ([name for name, _ in getattr(model, method)(prefix="a.b")] for model in (ours, theirs))
        assert found == expected, method
    for method in ("modules", "children"):
        found, expected = ([type(m).__name__ for m in getattr(model, method)()] for model in (ours, theirs))
        assert found == expected, method
    found, expected = [], []
    assert ours.apply(lambda module: found.append(type(module).__name__)) is ours
    theirs.apply(lambda module: expected.append(type(module).__name__))
    assert found == expected


def test_a_plain_list_has_the_names_of_a_module_list():
    plain, listed = Module(), Module()
    plain.layers, listed.layers = [Linear(2, 2), ReLU(), Linear(2, 2)], ModuleList([Linear(2, 2), ReLU(), Linear(2, 2)])
    assert (
        [*plain.state_dict()]
        == [*listed.state_dict()]
        == [f"layers.{i}.{n}" for i in (0, 2) for n in ("weight", "bias")]
    )
    plain.load_state_dict(listed.state_dict())
    assert plain.get_submodule("layers.2") is plain.layers[2]
    assert not plain.eval().layers[1].training


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_the_same_and_is_apart(duplicate):
    model = Sequential(Linear(2, 3), ModuleList([Tanh()])[0], ModuleDict({"a": Linear(3, 1)})["a"])
    twin, out = duplicate(model), model(Tensor(X)).data
    np.testing.assert_array_equal(twin(Tensor(X)).data, out)
    twin[0].weight.data[:] = 0
    np.testing.assert_array_equal(model(Tensor(X)).data, out)


def test_train_and_eval_reach_what_containers_hold():
    model = Sequential(Dropout(0.5), ModuleList([Dropout(0.5)]), ModuleDict({"a": Dropout(0.5)}))
    assert all(module.training for module in model.modules())
    model.eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Sequential(Linear(2, 2), ReLU),
            TypeError,
            r"Sequential: takes modules, got the class ReLU; write ReLU\(\)",
        ),
        (
            lambda: Sequential(F.relu),
            TypeError,
            r"Sequential: takes modules, got a function; write its module, such as",
        ),
        (
            lambda: Sequential([ReLU()]),
            TypeError,
            r"Sequential: takes modules, got list; write Sequential\(\*modules\)",
        ),
        (lambda: Sequential(None), TypeError, r"Sequential: takes modules, got None"),
        (lambda: Sequential({"a.b": ReLU()}), ValueError, r"a name must not be empty or contain a dot, got 'a\.b'"),
        (
            lambda: ModuleList(Linear(2, 2)),
            TypeError,
            r"ModuleList: takes a list of modules, got Linear; write .*\[\.\.\.\]",
        ),
        (
            lambda: ModuleList([[ReLU()]]),
            TypeError,
            r"got list; write ModuleList\(modules\), without a list in the list",
        ),
        (
            lambda: Sequential(Tensor([1.0])),
            TypeError,
            r"Sequential: takes modules, got Tensor\(\[1\.\], dtype=float32\)",
        ),
        (
            lambda: ModuleDict([ReLU()]),
            TypeError,
            r"takes a dict of modules, got list; write ModuleDict\({name: module}\)",
        ),
        (lambda: ModuleDict({"_hooks": ReLU()}), ValueError, r"has an attribute '_hooks' already; choose another name"),
        (lambda: ModuleList()[0], IndexError, r"ModuleList: index 0 of 0 modules"),
        (lambda: Sequential(ReLU())["0"], TypeError, r"Sequential: an index must be an integer or a slice, got '0'"),
        (lambda: ModuleDict({"train": ReLU()}), ValueError, r"has an attribute 'train' already; choose another name"),
        (lambda: ModuleDict({1: ReLU()}), TypeError, r"a name must be a str, got int"),
        (lambda: ModuleList([ReLU()])(X), NotImplementedError, r"ModuleList: call the modules in it; Sequential calls"),
    ],
)
def test_what_a_container_does_not_take_is_named_with_the_remedy(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_sequential_shows_its_parts_and_like_ones_on_one_line():
    blocks = ModuleList(Sequential(Linear(2, 2), Tanh()) for _ in range(3))
    model = Sequential(Linear(2, 2), ReLU(), Sequential(Identity(), Dropout(0.1)), LayerNorm(2))
    assert repr(model).splitlines()[1:] == [
        "  0.weight  (2, 2)          4  none",
        "  0.bias    (2,)            2  none",
        "  1         ReLU()",
        "  2.0       Identity()",
        "  2.1       Dropout(p=0.1)",
        "  3.weight  (2,)            2  none",
        "  3.bias    (2,)            2  none",
    ]
    assert repr(blocks).splitlines()[-2:] == ["  0.1         Tanh()", "  1 to 2      as the one before  12"]
    assert "Dropout(p=0.1)" in model._repr_html_() and repr(Sequential()) == "Sequential()" and repr(ReLU()) == "ReLU()"


def test_extra_repr_stands_behind_the_name():
    class Scaled(Linear):
        def extra_repr(self):
            return "by=2"

    assert repr(Scaled(1, 1)).startswith("Scaled(by=2): 2 parameters")

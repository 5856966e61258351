"""Buffers, registered names, frozen parameters, and state dicts that come from elsewhere or fit in part."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from tinygpt import GPT, AdamW, GPTConfig, Tensor
from tinygpt.nn import Linear, Module, Parameter, Sequential


class Centered(Module):
    """A module with a parameter, a buffer that is saved, and one that is not."""

    def __init__(self):
        super().__init__()
        self.layer = Linear(2, 3)
        self.register_buffer("mean", Tensor([0.0, 0.0]))
        self.register_buffer("count", np.array(0))
        self.register_buffer("scratch", [1.0], persistent=False)

    def forward(self, x):
        return self.layer(x - self.mean)


def bits(module):
    return {name: array.copy() for name, array in module.state_dict().items()}


# buffers


def test_buffers_are_saved_and_loaded_and_not_learned():
    module, other = Centered(), Centered()
    assert [*module.state_dict()] == ["mean", "count", "layer.weight", "layer.bias"]
    assert [name for name, _ in module.named_buffers()] == ["mean", "count", "scratch"]
    assert [id(b) for b in module.buffers()] == [id(module.mean), id(module.count), id(module.scratch)]
    assert [name for name, _ in module.named_parameters()] == ["layer.weight", "layer.bias"]
    module.mean = module.mean + 3.0
    module.count = Tensor(np.array(7))
    other.load_state_dict(module.state_dict())
    assert other.mean.data.tolist() == [3, 3] and other.count.item() == 7
    module.flatten_parameters()
    assert module.flat_parameters.size == module.num_parameters() == 9
    assert module.layer.weight.requires_grad and not module.mean.requires_grad


def test_a_buffer_that_requires_gradients_is_no_parameter():
    module = Centered()
    module.mean = Tensor([0.0, 0.0], requires_grad=True)
    assert len(module.parameters()) == 2 and "mean" in module.state_dict()
    module(Tensor([[1.0, 2.0]])).sum().backward()
    assert module.mean.grad is not None


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_buffers_are_copied(duplicate):
    module = Centered()
    twin = duplicate(module)
    twin.mean.data[:] = 5
    assert not module.mean.data.any() and [*twin.state_dict()] == [*module.state_dict()]
    twin.register_buffer("more", [1.0])
    assert "more" not in module.state_dict() and not hasattr(module, "more")
    shallow = copy.copy(module)
    shallow.register_buffer("more", [1.0])
    assert "more" not in module.state_dict()


def test_a_buffer_may_be_absent_and_its_module_may_be_none():
    module = Centered()
    module.mean = None
    module.add_module("extra", None)
    assert [name for name, _ in module.named_buffers()] == ["count", "scratch"]
    assert [name for name, _ in module.named_modules()] == ["", "layer"]
    module.add_module("extra", Linear(1, 1))
    assert "extra.bias" in module.state_dict()


def test_a_parameter_may_take_the_place_of_a_buffer():
    module = Centered()
    module.mean = Parameter([1.0, 2.0])
    assert "mean" in dict(module.named_parameters()) and "mean" not in dict(module.named_buffers())


def test_the_result_of_an_operation_that_a_module_keeps_is_no_parameter():
    module = Centered()
    module.last = module(Tensor([[1.0, 2.0]]))
    assert len(module.parameters()) == 2 and "last" not in module.state_dict()


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (
            lambda m: m.register_buffer("a.b", [1.0]),
            ValueError,
            r"a name must not be empty or contain a dot, got 'a\.b'",
        ),
        (lambda m: m.register_buffer("", [1.0]), ValueError, r"Centered\.register_buffer: a name must not be empty"),
        (lambda m: m.register_buffer(1, [1.0]), TypeError, r"register_buffer: a name must be a str, got int"),
        (lambda m: m.register_buffer("layer", [1.0]), ValueError, r"Centered has an attribute 'layer' already; choose"),
        (lambda m: m.register_buffer("eval", [1.0]), ValueError, r"has an attribute 'eval' already"),
        (
            lambda m: m.register_parameter("p", Tensor([1.0])),
            TypeError,
            r"p must be a Parameter, got Tensor; write Par",
        ),
        (lambda m: m.register_parameter("mean", Parameter([1.0])), ValueError, r"has an attribute 'mean' already"),
        (lambda m: m.add_module("part", Linear), TypeError, r"add_module: part must be a Module, got the class Linear"),
        (lambda m: m.add_module("mean", Linear(1, 1)), ValueError, r"has an attribute 'mean' already"),
        (
            lambda m: m.get_submodule("layer.x"),
            AttributeError,
            r"there is no 'layer\.x'; named_modules\(\) has all names",
        ),
        (
            lambda m: m.get_parameter("layer"),
            AttributeError,
            r"there is no 'layer'; named_parameters\(\) has all names",
        ),
    ],
)
def test_names_that_cannot_be_registered_or_found_are_refused(act, error, message):
    module = Centered()
    with pytest.raises(error, match=message):
        act(module)
    assert [*module.state_dict()] == ["mean", "count", "layer.weight", "layer.bias"]


def test_a_buffer_that_was_set_to_an_array_is_named():
    module = Centered()
    module.mean = np.zeros(2)
    with pytest.raises(
        TypeError, match=r"Centered\.mean: a buffer must be a Tensor or None, got ndarray; write Tensor"
    ):
        module.state_dict()


# parameters


def test_a_parameter_takes_lists_arrays_and_tensors():
    array, tensor = np.ones((2, 3)), Tensor([1.0, 2.0], requires_grad=True)
    assert Parameter([1.0, 2.0]).dtype == np.float32 and Parameter([1.0]).requires_grad
    assert Parameter(array).data is array
    parameter = Parameter(tensor * 2.0)
    assert parameter.is_leaf and parameter.data.tolist() == [2, 4]
    assert Parameter(tensor).data is tensor.data
    assert not Parameter([1.0], requires_grad=False).requires_grad


def test_parameters_by_name():
    module = Centered()
    module.register_parameter("gain", Parameter([2.0]))
    module.register_parameter("gain", Parameter([3.0]))
    assert module.get_parameter("gain").data.tolist() == [3] and module.gain is module.get_parameter("gain")
    assert module.get_parameter("layer.bias") is module.layer.bias and module.get_submodule("") is module


def test_a_frozen_module_learns_nothing_and_can_be_thawed():
    model = Sequential(Linear(2, 3), Linear(3, 1))
    assert model[0].requires_grad_(False) is model[0]
    model(Tensor([[1.0, 2.0]])).sum().backward()
    assert model[0].weight.grad is None and model[1].weight.grad is not None
    assert [*model.state_dict()] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    model.requires_grad_()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_tensor_can_be_told_to_require_gradients():
    x = Tensor([1.0, 2.0])
    assert x.requires_grad_() is x and x.requires_grad and not x.requires_grad_(False).requires_grad
    with pytest.raises(ValueError, match="only a leaf can be switched off"):
        (x.requires_grad_() * 2.0).requires_grad_(False)


def test_gradients_are_forgotten_or_set_to_zero():
    layer = Linear(2, 3)
    layer.zero_grad(set_to_none=False)
    assert layer.bias.grad is None
    layer(Tensor([[1.0, 2.0]])).sum().backward()
    layer.zero_grad(set_to_none=False)
    assert layer.bias.grad.tolist() == [0, 0, 0]
    layer.zero_grad(set_to_none=True)
    assert layer.bias.grad is None


# states from elsewhere


def test_what_fits_is_loaded_where_strict_is_off_and_the_rest_is_named():
    model = Sequential(Linear(2, 3), Linear(3, 1))
    before = bits(model)
    result = model.load_state_dict(
        {"1.bias": [7.0], "head.weight": np.ones((9, 9)), "0.weight": np.ones((2, 3))}, strict=False
    )
    assert result == (["0.bias", "1.weight"], ["head.weight"])
    assert (result.missing_keys, result.unexpected_keys) == result
    assert model[1].bias.data.tolist() == [7] and (model[0].weight.data == 1).all()
    np.testing.assert_array_equal(model[1].weight.data, before["1.weight"])
    assert model.load_state_dict(before) == ([], [])


@pytest.mark.parametrize("strict", [True, False])
def test_a_weight_in_pytorchs_layout_is_refused_with_the_remedy(strict):
    model = Sequential(Linear(2, 3), Linear(3, 1))
    before = bits(model)
    state = before | {"0.bias": np.ones(3), "1.weight": np.ones((1, 3))}
    message = r"1\.weight must have shape \(3, 1\), got \(1, 3\); transpose it: .* \(inputs, outputs\)"
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(state, strict=strict)
    assert {name: array.tolist() for name, array in bits(model).items()} == {n: a.tolist() for n, a in before.items()}


def test_tensors_of_ours_and_of_pytorch_load():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LayerNorm(3)
    torch.nn.init.normal_(theirs.weight)
    module = Module()
    module.weight, module.bias = Parameter(np.zeros(3, np.float32)), Parameter(np.zeros(3, np.float32))
    ours = {name: Tensor(tensor.numpy(), requires_grad=True) for name, tensor in theirs.state_dict().items()}
    for state in (theirs.state_dict(), dict(theirs.named_parameters()), ours):
        module.weight.data[:] = 0
        module.load_state_dict(state)
        np.testing.assert_array_equal(module.weight.data, theirs.weight.detach().numpy())
    with pytest.raises(TypeError, match=r"load_state_dict: weight must be an array, got Tensor: .*BFloat16"):
        module.load_state_dict({"weight": torch.ones(3, dtype=torch.bfloat16), "bias": torch.ones(3)})


def test_nothing_is_loaded_where_an_array_is_read_only():
    module = Module()
    module.a, module.b = Parameter([0.0, 0.0]), Parameter(np.broadcast_to(np.float32(0), (2,)))
    with pytest.raises(ValueError, match="load_state_dict: b must be writable, and its array is read-only; copy it"):
        module.load_state_dict({"a": np.ones(2), "b": np.ones(2)})
    assert module.a.tolist() == [0, 0]


def test_missing_names_say_how_to_load_a_part():
    with pytest.raises(ValueError, match=r"missing bias; strict=False loads those that it has"):
        Linear(2, 3).load_state_dict({"weight": np.ones((2, 3))})


def test_a_gpt_with_a_buffer_trains_and_is_copied():
    model = GPT(GPTConfig(vocab_size=7, n_positions=4, n_embd=4, n_layer=1, n_head=2))
    model.register_buffer("seen", np.array(0))
    optimizer = AdamW(model.parameters(), lr=0.1)
    model.loss([[1, 2, 3]], [[2, 3, 4]]).backward()
    optimizer.step()
    model.seen.data += 1
    twin = copy.deepcopy(model)
    assert twin.seen.item() == 1 and twin.flat_parameters.size == model.num_parameters()

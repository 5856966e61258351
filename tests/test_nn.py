"""Modules: names, modes, state, and parameters that share one array with one gradient array beside it."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from tinygpt import AdamW, Tensor, no_grad
from tinygpt.nn import Dropout, Embedding, LayerNorm, Linear, Module, no_dropout
from tinygpt.nn.initial import normal


class Net(Module):
    """A module of every kind: parameters of its own, a child, a list, and what is not a parameter."""

    def __init__(self, seed: int = 0, dtype=np.float32):
        rng = np.random.default_rng(seed)
        self.scale = Tensor(np.ones(3, dtype), requires_grad=True)
        self.table = Embedding(5, 3, rng, dtype=dtype)
        self.layers = [Linear(3, 3, rng, dtype=dtype), "no module", LayerNorm(3, dtype=dtype)]
        self.constant = Tensor(np.ones(2, dtype))
        self.drop = Dropout(0.5, rng)
        self.offset = Tensor(np.zeros((), dtype), requires_grad=True)

    def forward(self, ids):
        x = self.table(ids) * self.scale + self.offset
        return self.layers[2](self.layers[0](x))


SHAPES = {
    "scale": (3,),
    "offset": (),
    "table.weight": (5, 3),
    "layers.0.weight": (3, 3),
    "layers.0.bias": (3,),
    "layers.2.weight": (3,),
    "layers.2.bias": (3,),
}
IDS = np.array([[0, 4, 4], [1, 0, 2]])


def loss_of(net: Net) -> Tensor:
    return (net(IDS) * np.arange(18, dtype=net.scale.dtype).reshape(2, 3, 3)).sum()


def gradients_of(net: Module) -> dict[str, np.ndarray | None]:
    return {name: parameter.grad for name, parameter in net.named_parameters()}


# names


def test_parameters_are_named_by_their_paths_and_constants_are_not_parameters():
    net = Net()
    assert {name: parameter.shape for name, parameter in net.named_parameters()} == SHAPES
    assert [id(p) for p in net.parameters()] == [id(p) for _, p in net.named_parameters()]
    assert dict(net.named_parameters())["layers.2.bias"] is net.layers[2].bias
    assert [name for name, _ in net.named_parameters("inner")] == ["inner." + name for name in SHAPES]
    assert [name for name, _ in net.named_children()] == ["table", "layers.0", "layers.2", "drop"]


def test_num_parameters_counts_numbers():
    assert Net().num_parameters() == sum(math.prod(shape) for shape in SHAPES.values()) == 37


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match=r"Module: define forward\(\)"):
        Module()(1)


# the layers, from their definitions


def test_linear_multiplies_and_adds(rng):
    layer = Linear(2, 3, rng, dtype=np.float64)
    layer.bias.data[:] = [10, 20, 30]
    (a, b, c), (d, e, f) = layer.weight.data
    np.testing.assert_allclose(
        layer(Tensor(np.array([[1.0, 2.0]]))).data, [[a + 2 * d + 10, b + 2 * e + 20, c + 2 * f + 30]], rtol=1e-14
    )


def test_embedding_looks_up_rows(rng):
    layer = Embedding(5, 3, rng)
    np.testing.assert_array_equal(layer([[4, 0], [4, 1]]).data, layer.weight.data[[[4, 0], [4, 1]]])


def test_layernorm_starts_as_the_plain_normalization_with_its_eps():
    layer = LayerNorm(2, eps=3.0, dtype=np.float64)
    out = layer(Tensor(np.array([[4.0, 6.0], [5.0, 5.0]]))).data  # variance 1 and 0
    np.testing.assert_allclose(out, [[-1 / 2, 1 / 2], [0, 0]], rtol=1e-14)
    layer.weight.data[:], layer.bias.data[:] = [10, 20], [1, 2]
    np.testing.assert_allclose(layer(Tensor(np.array([4.0, 6.0]))).data, [-5 + 1, 10 + 2], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_draws_what_was_asked_for(dtype):
    array = normal(np.random.default_rng(1), (400, 100), 0.3, dtype)
    assert (array.shape, array.dtype) == ((400, 100), dtype)
    assert array.std() == pytest.approx(0.3, rel=0.02)
    # the shares of a normal distribution within one and two standard deviations: no other shape has both
    assert np.mean(np.abs(array) < 0.3) == pytest.approx(0.6827, abs=0.01)
    assert np.mean(np.abs(array) < 0.6) == pytest.approx(0.9545, abs=0.01)
    np.testing.assert_array_equal(array, normal(np.random.default_rng(1), (400, 100), 0.3, dtype))


# modes


def test_train_and_eval_reach_every_module_inside():
    net = Net()
    inside = [net, net.table, net.layers[0], net.layers[2], net.drop]
    assert all(module.training for module in inside)
    assert net.eval() is net
    assert not any(module.training for module in inside)
    assert net.train() is net
    assert all(module.training for module in inside)
    net.train(False)
    assert not any(module.training for module in inside)
    assert Module.training  # a new module trains


def test_dropout_drops_in_training_with_a_new_mask_each_call(rng):
    layer, x = Dropout(0.25, rng), Tensor(np.ones((100, 100), np.float32))
    first, second = layer(x).data, layer(x).data
    for out in (first, second):
        assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
        assert np.mean(out == 0) == pytest.approx(0.25, abs=0.02)  # 10,000 draws: 0.004 is one standard error
    assert (first != second).any()
    again = Dropout(0.25, np.random.default_rng(1337))
    np.testing.assert_array_equal(again(x).data, first)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True), (0, True)])
def test_dropout_that_drops_nothing_returns_its_input_and_draws_no_random_number(p, training, rng):
    layer, x = Dropout(p, rng).train(training), Tensor(np.ones(4, np.float32))
    before = rng.bit_generator.state
    assert layer(x) is x
    assert layer.seed() is None
    assert rng.bit_generator.state == before


def test_no_dropout_holds_for_its_thread_alone_and_changes_no_module(rng):
    layer, x = Dropout(0.5, rng), Tensor(np.ones(100, np.float32))
    elsewhere = []
    with no_dropout():
        assert layer(x) is x and layer.training
        thread = threading.Thread(target=lambda: elsewhere.append(layer(x).data))
        thread.start(), thread.join()
    assert 0 in elsewhere[0] and 0 in layer(x).data


def test_modules_are_this_one_and_all_inside():
    net = Net()
    assert [*map(id, net.modules())] == [*map(id, (net, net.table, net.layers[0], net.layers[2], net.drop))]


# state


def test_a_state_dict_shows_the_weights_as_they_are_now():
    net = Net()
    state = net.state_dict()
    assert {name: array.shape for name, array in state.items()} == SHAPES
    net.layers[0].weight.data[1, 2] = 7
    assert state["layers.0.weight"][1, 2] == 7


@pytest.mark.parametrize("flat", [False, True])
def test_a_loaded_state_gives_the_same_model_and_is_copied(flat):
    ours, theirs = Net(seed=1), Net(seed=2)
    if flat:
        ours.flatten_parameters()
    memory = {name: id(array) for name, array in ours.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(ours(IDS).data, theirs(IDS).data)
    assert {name: id(array) for name, array in ours.state_dict().items()} == memory
    theirs.table.weight.data[:] = 0
    assert ours.table.weight.data.any()


def test_a_state_is_converted_to_the_parameters_dtype():
    net, state = Net(dtype=np.float32), Net(seed=3, dtype=np.float64).state_dict()
    net.load_state_dict(state | {"scale": [1, 2, 3]})  # a list is an array, too
    assert net.scale.dtype == net.table.weight.dtype == np.float32
    np.testing.assert_array_equal(net.table.weight.data, state["table.weight"].astype(np.float32))
    np.testing.assert_array_equal(net.scale.data, [1, 2, 3])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scale": None}, ValueError, "the names must be those of this Net: missing scale"),
        ({"h.0": 1}, ValueError, "the names must be those of this Net: unknown h.0"),
        ({"scale": None, "a": 1, "b": 1}, ValueError, "missing scale; unknown a, b"),
        (dict.fromkeys("edcba", 1), ValueError, r"unknown a, b, c \(5 in all\)"),
        ({"layers.2.bias": np.ones(4)}, ValueError, r"layers\.2\.bias must have shape \(3,\), got \(4,\)"),
        ({"layers.2.bias": np.ones((1, 3))}, ValueError, r"layers\.2\.bias must have shape \(3,\), got \(1, 3\)"),
        ({"layers.2.bias": 1.0}, ValueError, r"layers\.2\.bias must have shape \(3,\), got \(\)"),
        ({"layers.2.bias": np.ones(3) * 1j}, TypeError, r"layers\.2\.bias must .*float32, got complex128"),
        ({"layers.2.bias": np.array(["1", "2", "3"])}, TypeError, r"layers\.2\.bias must .*float32, got <U1"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_written(changes, error, message):
    net = Net()
    before = {name: array.copy() for name, array in net.state_dict().items()}
    state = {name: array + 1 for name, array in before.items()} | changes
    with pytest.raises(error, match=f"load_state_dict: .*{message}"):
        net.load_state_dict({name: array for name, array in state.items() if array is not None})
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


# one array for all parameters, one for all gradients


def test_flat_parameters_are_the_parameters_own_memory_matrices_first():
    net = Net()
    values = {name: array.copy() for name, array in net.state_dict().items()}
    net.flatten_parameters()
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, values[name])
    assert net.flat_parameters.shape == net.flat_gradients.shape == (37,)
    net.flat_parameters[:] = np.arange(37)  # every number shows up in exactly one parameter
    found = np.concatenate([array.ravel() for array in net.state_dict().values()])
    np.testing.assert_array_equal(np.sort(found), np.arange(37))
    matrices = [array for array in net.state_dict().values() if array.ndim >= 2]
    np.testing.assert_array_equal(np.sort(np.concatenate([m.ravel() for m in matrices])), np.arange(15 + 9))
    net.table.weight.data[:] = -1
    assert np.count_nonzero(net.flat_parameters == -1) == 15


def test_flat_gradients_are_where_backward_writes_and_garbage_is_overwritten():
    plain, flat = Net(dtype=np.float64), Net(dtype=np.float64)
    flat.flatten_parameters()
    for turn in range(2):
        flat.flat_gradients[:] = np.nan  # 0 * NaN is NaN: only overwriting gets rid of it
        for net in (plain, flat):
            loss_of(net).backward()
        expected = gradients_of(plain)
        for name, gradient in gradients_of(flat).items():
            assert np.shares_memory(gradient, flat.flat_gradients)
            np.testing.assert_array_equal(gradient, expected[name])
        everything = np.concatenate([gradient.ravel() for gradient in expected.values()])
        np.testing.assert_array_equal(np.sort(flat.flat_gradients), np.sort(everything))
        if turn == 0:
            loss_of(flat).backward()  # a second backward adds
            np.testing.assert_allclose(flat.table.weight.grad, 2 * expected["table.weight"], rtol=1e-14)
        plain.zero_grad(), flat.zero_grad()
        assert set(gradients_of(flat).values()) == {None}


def test_a_gradient_that_is_there_already_moves_along():
    net, moved = Net(dtype=np.float64), Net(dtype=np.float64)
    for _ in range(2):
        loss_of(net).backward()
    loss_of(moved).backward()
    moved.flatten_parameters()
    moved.flatten_parameters()  # again: from one flat array into the next
    loss_of(moved).backward()
    for name, gradient in gradients_of(moved).items():
        assert np.shares_memory(gradient, moved.flat_gradients)
        np.testing.assert_allclose(gradient, gradients_of(net)[name], rtol=1e-14)


def test_a_step_of_the_optimizer_moves_the_flat_array():
    plain, flat = Net(dtype=np.float64), Net(dtype=np.float64)
    flat.flatten_parameters()
    before = flat.flat_parameters.copy()
    for net in (plain, flat):
        loss_of(net).backward()
        AdamW(net.parameters(), lr=0.1).step()
    assert (flat.flat_parameters != before).any()
    with no_grad():
        np.testing.assert_array_equal(flat(IDS).data, plain(IDS).data)


def test_parameters_of_two_dtypes_cannot_share_an_array():
    net = Net()
    net.scale = Tensor(np.ones(3), requires_grad=True)
    with pytest.raises(TypeError, match="flatten_parameters: all parameters must have one dtype"):
        net.flatten_parameters()
    nothing = Module()
    nothing.flatten_parameters()
    assert nothing.flat_parameters.size == nothing.num_parameters() == 0

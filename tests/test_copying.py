"""Copies of models and optimizers are twins that work: they train as the original does, and touch nothing of it."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import weakref

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import GPT, AdamW, GPTConfig, Tensor, clip_grad_norm
from tinygpt.nn import Dropout, Linear, Module, Parameter
from tinygpt.quantization import quantize_model

CONFIG = GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=2, n_head=2,
                   embd_pdrop=0.2, attn_pdrop=0.2, resid_pdrop=0.2)  # fmt: skip
TOKENS = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])


def pickled(value):
    return pickle.loads(pickle.dumps(value))


both_ways = pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])


def trained(steps=2) -> tuple[GPT, AdamW]:
    model = GPT(CONFIG, seed=7)
    optimizer = AdamW(model.parameters(), lr=0.05)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer) -> float:
    loss = model.loss(TOKENS, TOKENS + 1)
    loss.backward()
    clip_grad_norm(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def bits(model) -> bytes:
    return b"".join(array.tobytes() for array in model.state_dict().values())


@both_ways
@pytest.mark.parametrize("order", [1, -1])
def test_a_twin_trains_on_as_the_original_and_apart_from_it(duplicate, order):
    model, optimizer = trained()
    before = bits(model)
    twin, twin_optimizer = duplicate((model, optimizer)[::order])[::order]
    theirs = [step(twin, twin_optimizer) for _ in range(3)]
    assert bits(model) == before != bits(twin)
    assert [step(model, optimizer) for _ in range(3)] == theirs  # dropout's seeds and the moments as well
    assert bits(model) == bits(twin)


@both_ways
@pytest.mark.parametrize("order", [1, -1])
def test_a_twins_parameters_and_gradients_lie_side_by_side_again(duplicate, order):
    model, optimizer = trained()
    twin, twin_optimizer = duplicate((model, optimizer)[::order])[::order]
    assert twin_optimizer.param_groups[0]["params"][0] is twin.wte.weight
    twin.loss(TOKENS, TOKENS + 1).backward()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert np.shares_memory(theirs.data, twin.flat_parameters)
        assert np.shares_memory(theirs.grad, twin.flat_gradients)
        assert not np.shares_memory(theirs.data, model.flat_parameters) and mine.grad is None
    twin.flat_parameters[:] = 0.5
    assert all((parameter.data == 0.5).all() for parameter in twin.parameters())
    m = [state["exp_avg"] for state in twin_optimizer.state.values()]
    assert m[0].base is m[1].base is not None  # one pass of AdamW for all of a group


@both_ways
def test_a_model_copied_alone_has_the_same_values_and_its_own_memory(duplicate):
    model, _ = trained()
    twin = duplicate(model)
    assert bits(twin) == bits(model) and twin.config == model.config
    np.testing.assert_array_equal(twin.eval()(TOKENS).data, model.eval()(TOKENS).data)
    twin.wte.weight.data[:] = 0
    assert model.wte.weight.data.any()


@both_ways
def test_an_optimizer_copied_alone_moves_copies_as_in_pytorch(duplicate):
    model, optimizer = trained()
    before = bits(model)
    twin = duplicate(optimizer)
    for parameter in twin.param_groups[0]["params"]:
        assert all(parameter is not other for other in model.parameters())
        parameter.grad = np.ones_like(parameter.data)
    twin.step()
    assert bits(model) == before and twin.param_groups[0]["lr"] == 0.05


def test_deepcopy_takes_the_gradient_along_and_pickle_does_not():
    """As PyTorch 2.13: its deepcopy of a leaf copies `grad`, its pickle leaves it out."""
    model, _ = trained()
    model.loss(TOKENS, TOKENS + 1).backward()
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(twin.flat_gradients, model.flat_gradients)
    assert np.shares_memory(twin.wte.weight.grad, twin.flat_gradients)
    assert pickled(model).wte.weight.grad is None
    leaf = Tensor([1.0, 2.0], requires_grad=True)
    (leaf * leaf).sum().backward()
    other = copy.deepcopy(leaf)
    other.grad[0] = 7
    assert leaf.grad.tolist() == [2, 4] and pickled(leaf).grad is None and pickled(leaf).requires_grad


@both_ways
def test_frozen_tied_and_shared_parts_stay_so(duplicate):
    class Tied(Module):
        def __init__(self):
            self.first = Linear(3, 3, np.random.default_rng(0))
            self.second = Linear(3, 3, np.random.default_rng(1))
            self.second.weight = self.first.weight
            self.first.bias.requires_grad = False
            self.drops = [Dropout(0.5, np.random.default_rng(2))]
            self.drops.append(Dropout(0.5, self.drops[0].generator))

        def forward(self, x):
            return self.drops[1](self.second(self.drops[0](self.first(x))))

    if duplicate is pickled:
        globals()["Tied"] = Tied
        Tied.__qualname__ = "Tied"
    module = Tied()
    twin = duplicate(module)
    assert twin.second.weight is twin.first.weight is not module.first.weight
    assert isinstance(twin.first.bias, Parameter) and not twin.first.bias.requires_grad
    assert twin.drops[0].generator is twin.drops[1].generator is not module.drops[0].generator
    x = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(twin(x).data, module(x).data)
    assert twin.second.bias.requires_grad and sorted(twin.state_dict()) == sorted(module.state_dict())


@both_ways
@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_rounded_models_and_decoders_go_on_where_they_were(duplicate, kind):
    model, _ = trained()
    quantize_model(model.eval(), kind)
    decoder = model.decoder(2, 8)
    decoder.prefill(0, [1, 2, 3])
    twin = duplicate(decoder)
    assert twin.model.weights == kind and not twin.model.wte.weight.requires_grad
    np.testing.assert_array_equal(twin.step([0], [4]), decoder.step([0], [4]))
    assert list(duplicate(model).generate([1, 2], max_tokens=4, seed=1)) == list(
        model.generate([1, 2], max_tokens=4, seed=1)
    )


@both_ways
def test_what_has_a_history_is_refused(duplicate):
    x = Tensor([1.0, 2.0], requires_grad=True)
    loss = (x * x).sum()
    for value in (loss, [loss], {"loss": loss}):
        with pytest.raises(ValueError, match=r"a tensor that 'sum' has made cannot be copied with its history.*detach"):
            duplicate(value)
    assert duplicate(loss.detach()).item() == 5.0
    assert copy.copy(loss).requires_grad
    copy.copy(loss).backward()
    assert x.grad.tolist() == [2, 4]


@both_ways
@pytest.mark.parametrize("values", [np.float64(3.0), np.arange(6).reshape(2, 3), np.ones((2, 3)).T, np.ones(0)])
def test_leaves_of_every_kind(duplicate, values):
    leaf = Tensor(values)
    twin = duplicate(leaf)
    np.testing.assert_array_equal(twin.data, leaf.data)
    assert twin.dtype == leaf.dtype and not twin.requires_grad and not np.shares_memory(twin.data, leaf.data)


class Named(Tensor):
    """A user's tensor with an attribute of its own."""

    __slots__ = ("name",)


@both_ways
def test_a_subclass_keeps_its_kind_and_its_attributes(duplicate):
    tensor = Named([1.0], requires_grad=True)
    tensor.name = "weight"
    twin = duplicate(tensor)
    assert type(twin) is Named and twin.name == "weight" and twin.requires_grad and weakref.ref(twin)() is twin


def test_leaves_and_their_copies_live_in_one_graph():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = copy.deepcopy(x)
    seen = []
    for leaf in (x, y):
        leaf.register_hook(lambda gradient: seen.append(gradient.tolist()))  # hooks make leaves wait in the frontier
    F.concatenate([x * 2.0, y * 3.0]).backward(np.ones(4, np.float32))
    assert sorted(seen) == [[2, 2], [3, 3]] and x.grad.tolist() == [2, 2] and y.grad.tolist() == [3, 3]


def test_shallow_copies_are_handles_on_the_same():
    model, optimizer = trained()
    twin = copy.copy(model)
    assert twin.wte is model.wte and twin.flat_parameters is model.flat_parameters
    assert np.shares_memory(model.wte.weight.data, model.flat_parameters)
    assert copy.copy(optimizer).state is optimizer.state


def lose(model):
    return model.loss(TOKENS, TOKENS + 1).item()


@pytest.mark.slow
def test_a_model_travels_to_another_process():
    model, _ = trained()
    model.eval()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(lose, (model,)).get(timeout=300) == pytest.approx(lose(model), rel=1e-5)

"""Initial values by PyTorch's names: the distributions are PyTorch's, for weights of shape (inputs, outputs)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinygpt import Tensor, manual_seed, nn

# Each call's standard deviation for 300 inputs and 400 outputs, and its bound, if it is uniform.
DISTRIBUTIONS = [
    ("normal_", {}, 1.0, None),
    ("normal_", {"std": 0.02}, 0.02, None),
    ("uniform_", {"a": -0.5, "b": 0.5}, 1 / math.sqrt(12), 0.5),
    ("xavier_uniform_", {}, math.sqrt(2 / 700), math.sqrt(6 / 700)),
    ("xavier_normal_", {"gain": 5 / 3}, 5 / 3 * math.sqrt(2 / 700), None),
    ("kaiming_normal_", {"nonlinearity": "relu"}, math.sqrt(2 / 300), None),
    ("kaiming_normal_", {"nonlinearity": "tanh", "mode": "fan_out"}, 5 / 3 / math.sqrt(400), None),
    ("kaiming_uniform_", {"a": math.sqrt(5)}, math.sqrt(1 / 900), math.sqrt(1 / 300)),
]


@pytest.mark.parametrize(("name", "how", "std", "bound"), DISTRIBUTIONS)
def test_each_draws_from_its_distribution(name, how, std, bound):
    weight = nn.Linear(300, 400, dtype=np.float64).weight
    assert getattr(nn.init, name)(weight, **how, generator=np.random.default_rng(0)) is weight
    assert weight.data.mean() == pytest.approx(0, abs=0.01 * std) and weight.data.std() == pytest.approx(std, rel=0.01)
    if bound is not None:
        assert 0.99 * bound < weight.data.max() <= bound


@pytest.mark.parametrize(("name", "how", "std", "bound"), DISTRIBUTIONS)
def test_the_distributions_are_pytorchs(name, how, std, bound):
    torch = pytest.importorskip("torch")
    theirs = torch.empty(400, 300, dtype=torch.float64)  # (outputs, inputs)
    getattr(torch.nn.init, name)(theirs, **how)
    assert theirs.std().item() == pytest.approx(std, rel=0.01)


def test_the_mean_is_added():
    x = nn.init.normal_(Tensor(np.zeros((100, 100))), mean=3.0, std=0.1)
    assert x.data.mean() == pytest.approx(3.0, abs=0.01)


def test_the_numbers_come_from_the_generator_of_the_process():
    manual_seed(5)
    first = nn.init.normal_(Tensor([0.0, 0.0])).data
    manual_seed(5)
    np.testing.assert_array_equal(nn.init.normal_(Tensor([0.0, 0.0])).data, first)


def test_constants():
    w = Tensor([1.0, 2.0], requires_grad=True)
    assert nn.init.constant_(w, 0.5).tolist() == [0.5, 0.5]
    assert nn.init.ones_(w).tolist() == [1.0, 1.0]
    assert nn.init.zeros_(w).tolist() == [0.0, 0.0] and w.requires_grad and w.is_leaf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda init: init.normal_(np.zeros(2)), "normal_: needs a tensor of float32 or float64, got ndarray"),
        (lambda init: init.zeros_(Tensor([1, 2])), "zeros_: needs a tensor of float32 or float64, got int64"),
        (lambda init: init.uniform_(Tensor([1.0]), generator=3), "uniform_: generator must be a np.random.Generator"),
        (
            lambda init: init.xavier_normal_(Tensor([1.0])),
            r"xavier_normal_: needs a weight of shape \(inputs",
        ),
        (
            lambda init: init.kaiming_normal_(Tensor([[1.0]]), mode="fan"),
            "must be 'fan_in' or 'fan_out', got 'fan'",
        ),
        (
            lambda init: init.kaiming_uniform_(Tensor([[1.0]]), nonlinearity="gelu"),
            "kaiming_uniform_: nonlinearity must be one of linear, sigmoid, tanh, relu, leaky_relu, got 'gelu'",
        ),
    ],
)
def test_what_is_wrong_is_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(nn.init)


def test_next_walks_through_parameters_as_through_pytorchs():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4, bias=False))
    parameters = model.parameters()
    assert [next(parameters).shape for _ in range(3)] == [(2, 3), (3,), (3, 4)]
    with pytest.raises(StopIteration):
        next(parameters)
    assert next(model.parameters()) is model[0].weight  # each call begins again
    assert len(parameters) == 3 and [p.shape for p in parameters] == [(2, 3), (3,), (3, 4)]  # it is a list all the same
    assert next(iter(model.buffers()), None) is None and next(model.buffers(), None) is None

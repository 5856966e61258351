"""Every basic operation against PyTorch in float64: the values, and the gradient of every input."""

from __future__ import annotations

import numpy as np
import pytest
from differentiation import assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor

torch = pytest.importorskip("torch")

# Both sides compute in float64, and differ in the order of their sums: about 1e-15 for each of a few hundred steps.
# 1e-9 is far above that, and far below any wrong term.
TOLERANCE = 1e-9


def value_and_gradients_of_torch(f, arrays, dout):
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    out = f(*tensors)
    out.backward(torch.tensor(dout))
    return out.detach().numpy(), [tensor.grad.numpy() for tensor in tensors]


def assert_agree(ours, theirs, arrays, rng):
    shape = tuple(theirs(*map(torch.tensor, arrays)).shape)
    dout = rng.standard_normal(shape)
    expected = value_and_gradients_of_torch(theirs, arrays, dout)
    assert_same(value_and_gradients(ours, arrays, dout), expected, TOLERANCE)


def draw(rng, *shapes):
    return [rng.standard_normal(shape) for shape in shapes]


def positive(rng, *shapes):
    return [rng.uniform(0.1, 3.0, shape) for shape in shapes]


def tied(rng, *shapes):
    """Of three values: most of them are equal to others."""
    return [rng.integers(0, 3, shape).astype(float) for shape in shapes]


# two operands

PAIRS = [((7,), (7,)), ((5, 6), (6,)), ((5, 1), (5, 6)), ((4, 5, 6), (4, 1, 6)), ((3, 1), (2, 1, 6)), ((), (5, 6))]
BINARY = {
    "add": (F.add, torch.add, draw),
    "sub": (F.sub, torch.sub, draw),
    "mul": (F.mul, torch.mul, draw),
    "div": (F.div, torch.div, positive),
    "maximum": (F.maximum, torch.maximum, draw),
    "minimum": (F.minimum, torch.minimum, draw),
    "maximum of ties": (F.maximum, torch.maximum, tied),
    "minimum of ties": (F.minimum, torch.minimum, tied),
}


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_arithmetic_and_choices(name, shapes, rng):
    ours, theirs, make = BINARY[name]
    for a, b in (shapes, shapes[::-1]):
        assert_agree(ours, theirs, make(rng, a, b), rng)


@pytest.mark.parametrize("shapes", PAIRS, ids=str)
def test_where(shapes, rng):
    condition = rng.random(np.broadcast_shapes(*shapes)) < 0.5
    theirs = torch.tensor(condition)
    assert_agree(lambda a, b: F.where(condition, a, b), lambda a, b: torch.where(theirs, a, b), draw(rng, *shapes), rng)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5, 7), (7, 6)),
        ((7,), (7,)),
        ((7,), (7, 6)),
        ((5, 7), (7,)),
        ((3, 5, 7), (3, 7, 6)),
        ((3, 5, 7), (7, 6)),
        ((5, 7), (3, 7, 6)),
        ((2, 1, 5, 7), (3, 7, 6)),
        ((7,), (3, 7, 6)),
        ((3, 5, 7), (7,)),
        ((50, 70), (70, 60)),
    ],
    ids=str,
)
def test_matmul(a, b, rng):
    assert_agree(F.matmul, torch.matmul, draw(rng, a, b), rng)


# one operand

UNARY = {
    "neg": (lambda x: -x, torch.neg, draw),
    "exp": (F.exp, torch.exp, draw),
    "log": (F.log, torch.log, positive),
    "sqrt": (F.sqrt, torch.sqrt, positive),
    "tanh": (F.tanh, torch.tanh, draw),
    "relu": (F.relu, torch.relu, draw),
    "relu with zeros": (F.relu, torch.relu, tied),
    **{f"pow {p}": (lambda x, p=p: x**p, lambda x, p=p: x**p, positive) for p in (3, 2, 1, 0, -1, -2, 0.5, -0.5, 1.7)},
    "2 / x - 1": (lambda x: 2 / x - 1, lambda x: 2 / x - 1, positive),
    "1 - x / 3": (lambda x: 1 - x / 3, lambda x: 1 - x / 3, draw),
}


@pytest.mark.parametrize("shape", [(), (1,), (11,), (4, 5, 6), (0, 3)], ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_functions(name, shape, rng):
    ours, theirs, make = UNARY[name]
    assert_agree(ours, theirs, make(rng, shape), rng)


REDUCTIONS = {
    "sum": (F.sum, torch.sum, draw),
    "mean": (F.mean, torch.mean, draw),
    "var": (F.var, lambda x, dim, keepdim: torch.var(x, dim, correction=0, keepdim=keepdim), draw),
    "var of a sample": (
        lambda x, axis, keepdims: F.var(x, axis, ddof=1, keepdims=keepdims),
        lambda x, dim, keepdim: torch.var(x, dim, correction=1, keepdim=keepdim),
        draw,
    ),
    "max": (F.max, torch.amax, draw),
    "min": (F.min, torch.amin, draw),
    "max of ties": (F.max, torch.amax, tied),
    "min of ties": (F.min, torch.amin, tied),
}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), (-1, 1), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, axis, keepdims, rng):
    ours, theirs, make = REDUCTIONS[name]
    assert_agree(
        lambda x: ours(x, axis=axis, keepdims=keepdims),
        lambda x: theirs(x, dim=axis, keepdim=keepdims),
        make(rng, (4, 5, 6)),
        rng,
    )


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_and_its_logarithm(axis, scale, rng):
    x = scale * rng.standard_normal((4, 5, 6))
    assert_agree(lambda x: F.softmax(x, axis), lambda x: torch.softmax(x, axis), [x], rng)
    assert_agree(lambda x: F.log_softmax(x, axis), lambda x: torch.log_softmax(x, axis), [x], rng)


# arrangements

ROWS, COLUMNS = np.array([3, 0, 3, 3, 1]), np.array([2, 4, 2, 0, 2])
ARRANGEMENTS = {
    "reshape": (lambda x: x.reshape(5, -1), lambda x: x.reshape(5, -1)),
    "transpose": (lambda x: x.transpose(2, 0, 1), lambda x: x.permute(2, 0, 1)),
    "transpose, reshaped": (lambda x: x.transpose(1, 2, 0).reshape(-1), lambda x: x.permute(1, 2, 0).reshape(-1)),
    "swapaxes": (lambda x: x.swapaxes(0, -1), lambda x: x.swapaxes(0, -1)),
    "broadcast_to": (lambda x: x.broadcast_to((3, 4, 5, 6)), lambda x: x.expand(3, 4, 5, 6)),
    "expand_dims": (lambda x: x.expand_dims(1), lambda x: x.unsqueeze(1)),
    "squeeze": (lambda x: x[:, 2:3].squeeze(1), lambda x: x[:, 2:3].squeeze(1)),
    "slices": (lambda x: x[1:, ::2, -1], lambda x: x[1:, ::2, -1]),
    "new axis": (lambda x: x[None, ..., 2], lambda x: x[None, ..., 2]),
    "repeats": (lambda x: x[ROWS], lambda x: x[torch.tensor(ROWS)]),
    "pairs with repeats": (lambda x: x[ROWS, COLUMNS], lambda x: x[torch.tensor(ROWS), torch.tensor(COLUMNS)]),
    "slice and repeats": (lambda x: x[:, COLUMNS], lambda x: x[:, torch.tensor(COLUMNS)]),
    "mask": (lambda x: x[(x > 0).data], lambda x: x[x > 0]),
    "mask as a tensor": (lambda x: x[x > 0], lambda x: x[x > 0]),
    "astype": (lambda x: x.astype(np.float32).astype(np.float64), lambda x: x.float().double()),
    "concatenate": (lambda x: F.concatenate([x, x * 2, x[:1]]), lambda x: torch.cat([x, x * 2, x[:1]])),
    "stack": (lambda x: F.stack([x, x * x], axis=-1), lambda x: torch.stack([x, x * x], dim=-1)),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_arrangements(name, rng):
    assert_agree(*ARRANGEMENTS[name], draw(rng, (4, 5, 6)), rng)


# together


def test_a_network_with_every_kind_of_operation(rng):
    def network(lib, mean, axis):
        def f(x, w, v, b):
            h = lib.tanh(x @ w + b)
            h = h + lib.relu(h @ v) * lib.exp(-h * h)
            h = (h - mean(h)) / lib.sqrt((h * h).sum() / 7 + 1e-5)
            p = lib.softmax(h, **axis)
            return (lib.where(x[:, :1] > 0, p, p * p).sum() + lib.maximum(h, p)[[0, 0, 2]].mean()) ** 2 / 3

        return f

    ours = network(F, lambda h: h.mean(axis=-1, keepdims=True), {"axis": -1})
    theirs = network(torch, lambda h: h.mean(dim=-1, keepdim=True), {"dim": -1})
    assert_agree(ours, theirs, draw(rng, (5, 6), (6, 6), (6, 6), (6,)), rng)


def test_gradients_add_up_over_calls_as_there(rng):
    x = rng.standard_normal((3, 4))
    ours, theirs = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    for tensor in (ours, theirs):
        loss = (tensor * tensor).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        (tensor @ tensor.T).tanh().sum().backward()
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=0, atol=TOLERANCE * np.abs(ours.grad).max())

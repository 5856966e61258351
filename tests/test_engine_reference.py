"""
The engine against its definition, `autograd/reference.py`: the same gradients, in every bit.

A watch records each operation of a computation: its inputs, its attributes, its output, and the gradient of that when
backward reaches it. The record is replayed through the reference. With `implementation("numpy")` both call the same
functions, so that any difference is a difference in what is added to what, in which order, or in which memory order.
"""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

import numpy as np
import pytest
from every_operation import assert_lists
from test_architecture import PACKAGE, lines_of_code

import tinygpt.functional as F
from tinygpt import GPT, GPTConfig, Op, Tensor, implementation
from tinygpt.autograd import reference
from tinygpt.autograd.watch import Watch, watching
from tinygpt.study.samples import SAMPLES, every_op

PATH = PACKAGE / "autograd" / "reference.py"
CONFIG = {"vocab_size": 53, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 4}
TOKENS = np.random.default_rng(5).integers(0, 53, (2, 4, 16))


class Call(NamedTuple):
    op: Op
    arrays: tuple[np.ndarray, ...]
    attrs: dict[str, Any]
    out: np.ndarray


class Recorder(Watch):
    """Keeps every call, and for each output's identity the gradient that its backward was given."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.gradients: dict[int, np.ndarray] = {}

    def operation(self, op: Op) -> Op:
        out = None

        def forward(*arrays, **attrs):
            nonlocal out
            result, saved = op.forward(*arrays, **attrs)
            out = np.asarray(result).view()  # an array of its own, also where forward returns its input
            self.calls.append(Call(op, arrays, attrs, out))
            return out, saved

        def backward(dout, saved):
            self.gradients[id(out)] = dout.copy()
            return op.backward(dout, saved)

        return op._replace(forward=forward, backward=backward)


def replay(calls: list[Call]) -> dict[int, reference.Value]:
    """The value of every array in the record, by the identity of the array."""
    values: dict[int, reference.Value] = {}
    for op, arrays, attrs, out in calls:
        inputs = [values.setdefault(id(array), reference.Value(array)) for array in arrays]
        values[id(out)] = reference.apply(op, *inputs, **attrs)
    return values


def assert_same_bits(ours: np.ndarray, theirs: Any, name: str = "") -> None:
    theirs = np.asarray(theirs)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
    assert ours.tobytes() == theirs.tobytes(), f"{name} differs by {np.abs(ours - theirs).max():.3g}"


def assert_engine_is_reference(compute, leaves: dict[str, Tensor], dout: Any = None) -> int:
    """Every gradient of `compute()`, of leaves and in between, has the reference's bits. Returns how many there are."""
    recorder = Recorder()
    with implementation("numpy"), watching(recorder):
        compute().backward(dout)
    values = replay(recorder.calls)
    root = values[id(recorder.calls[-1].out)]
    reference.backward(root, 1.0 if dout is None else dout)
    assert recorder.gradients
    for name, leaf in leaves.items():
        assert_same_bits(leaf.grad, values[id(leaf.data)].gradient, name)
    for index, call in enumerate(recorder.calls):
        if id(call.out) in recorder.gradients:
            assert_same_bits(
                recorder.gradients[id(call.out)], values[id(call.out)].gradient, f"{index}: {call.op.name}"
            )
    return len(leaves) + len(recorder.gradients)


# the page itself


def test_the_reference_has_at_most_forty_lines_of_code_and_imports_only_numpy():
    assert lines_of_code(PATH) <= 40
    tree = ast.parse(PATH.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"itertools", "numpy"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_it_adds_the_newest_consumers_share_first():
    """In float32 1e8 + 1 is 1e8, so the sum of the shares 1, 1e8 and -1e8 tells in which order they were added."""
    scale = Op("scale", lambda x, by: (x * by, by), lambda dout, by: (dout * by,))
    total = Op("total", lambda *x: (sum(x), len(x)), lambda dout, n: (dout,) * n)
    for factors, expected in (((1.0, 1e8, -1e8), 1.0), ((1e8, -1e8, 1.0), 0.0), ((1e8, 1.0, -1e8), 0.0)):
        x = reference.Value(np.float32(1))
        shares = [reference.apply(scale, x, by=np.float32(factor)) for factor in factors]
        reference.backward(reference.apply(total, *shares))
        assert x.gradient == expected


def test_an_input_twice_and_a_value_from_outside_the_graph():
    multiply = every_op()["mul"]
    x, unused = reference.Value(3.0), reference.Value(1.0)
    reference.backward(reference.apply(multiply, x, x))
    assert x.gradient == 6 and unused.gradient is None


# the engine against it


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_all_gradients_of_a_gpt2_with_three_layers_are_equal_in_every_bit(dropout, dtype):
    rates = {"embd_pdrop": dropout, "attn_pdrop": dropout, "resid_pdrop": dropout}
    model = GPT(GPTConfig(**CONFIG, **rates), seed=3, dtype=dtype).train()
    counted = assert_engine_is_reference(lambda: model.loss(*TOKENS), dict(model.named_parameters()))
    assert counted > len(model.parameters()) + 3 * 6


def test_the_tied_table_collects_its_shares_from_the_head_and_from_the_embedding():
    model = GPT(GPTConfig(**CONFIG), seed=3).eval()
    recorder = Recorder()
    with implementation("numpy"), watching(recorder):
        model.loss(*TOKENS).backward()
    users = [call.op.name for call in recorder.calls if any(array is model.wte.weight.data for array in call.arrays)]
    assert users == ["embedding", "linear_cross_entropy"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tensor_that_is_used_twice(dtype, rng):
    x, w = (Tensor(rng.standard_normal((7, 7)).astype(dtype), requires_grad=True) for _ in range(2))

    def compute():
        h = x * x + x
        return (h @ w + h.T @ w * h - w @ w).exp().sum()

    assert assert_engine_is_reference(compute, {"x": x, "w": w}) > 9


def test_a_chain_of_ten_thousand_operations(rng):
    x = Tensor(rng.standard_normal(3).astype(np.float32), requires_grad=True)

    def compute():
        y = x
        for step in range(2500):
            y = (y * 1.01 + x) * 0.98 - step % 3
        return y.sum()

    assert assert_engine_is_reference(compute, {"x": x}) == 10_002


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed):
    """Products, sums, transposes, slices and copies of what is there already, in any order."""
    rng = np.random.default_rng(seed)
    dtype = (np.float32, np.float64)[seed % 2]
    leaves = {str(i): Tensor(rng.standard_normal((9, 9)).astype(dtype), requires_grad=True) for i in range(3)}
    row = Tensor(rng.standard_normal(9).astype(dtype), requires_grad=True)
    choices = [
        lambda a, b: a + b,
        lambda a, b: a + a,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a @ b / 9,
        lambda a, b: a.T,
        lambda a, b: a[:, ::-1] + row,
        lambda a, b: a.softmax() * b,
        lambda a, b: F.concatenate([a[4:], b[:4]]),
        lambda a, b: F.layernorm(a, row, row),
        lambda a, b: F.gelu(a),
    ]
    picks = [(choices[rng.integers(len(choices))], rng.random(2)) for _ in range(30)]

    def compute():
        made = [*leaves.values()]
        for choice, places in picks:
            made.append(choice(*(made[int(len(made) * place)] for place in places)))
        return sum(made[1:], made[0]).mean() + row.sum()

    assert assert_engine_is_reference(compute, {**leaves, "row": row}) > 30


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SAMPLES)
def test_the_reference_runs_every_operation_of_the_package(name, dtype):
    op = every_op()[name]
    for sample in SAMPLES[name]:
        leaves = {str(i): Tensor(array.astype(dtype), requires_grad=True) for i, array in enumerate(sample.arrays)}
        values = [reference.Value(leaf.data) for leaf in leaves.values()]
        attrs = op.checked([value.array for value in values], sample.attrs)
        out = reference.apply(op, *values, **attrs)
        dout = np.random.default_rng(4).standard_normal(out.array.shape).astype(dtype)
        reference.backward(out, dout)
        with implementation("numpy"):
            sample.f(op)(*leaves.values()).backward(dout)
        for index, (leaf, value) in enumerate(zip(leaves.values(), values, strict=True)):
            assert_same_bits(leaf.grad, value.gradient, f"{name}, input {index}")


def test_the_samples_are_of_every_operation():
    assert_lists(SAMPLES, "SAMPLES in tinygpt/study/samples.py")

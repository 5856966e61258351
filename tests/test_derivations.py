"""
The docstrings' derivations, executed: every numbered step against finite differences, and all of them together against
the operation, so that words and code cannot part.
"""

from __future__ import annotations

import re
import sys

import derivations
import numpy as np
import pytest
from derivations import Names, Step, first_largest, onehot

from tinygpt.ops.dropout import dropout_mask, random_bits
from tinygpt.study.samples import every_op

rng = np.random.default_rng(8)
TARGETS = np.array([3, 0, -100, 1])


def draw(**shapes):
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def classes(targets, V):
    counted = targets >= 0
    return {"counted": counted.astype(float), "happened": onehot(np.where(counted, targets, 0), V)}


# For each operation: its differentiable inputs, its attributes, and what the steps read besides.
CAUSAL_MASK = np.triu(np.ones((4, 4), bool), 1)
CASES = {
    "layernorm": (draw(x=(3, 5), weight=(5,), bias=(5,)), {}, {}),
    "gelu": (draw(x=(4, 3)), {}, {}),
    "linear": (draw(x=(4, 3), weight=(3, 5), bias=(5,)), {}, {}),
    "embedding": (draw(weight=(4, 3)), {"ids": np.array([2, 0, 2])}, {"ids": np.array([2, 0, 2])}),
    "attention": (draw(qkv=(2, 4, 3 * 6)), {"n_head": 2, "p": 0.3, "seed": 5},
                  {"n_head": 2, "causal_mask": CAUSAL_MASK,
                   "dropout_mask": dropout_mask((2, 2, 4, 4), 0.3, 5, np.float64)}),
    "cross_entropy": (draw(logits=(4, 5)), {"targets": TARGETS}, classes(TARGETS, 5)),
    "dropout": (draw(x=(6, 5)), {"p": 0.4, "seed": 6},
                {"p": 0.4, "bits_of_the_seed": random_bits(6, 30).reshape(6, 5)}),
    "gelu_linear": (draw(x=(4, 3), weight=(3, 5), bias=(5,)), {}, {}),
    "linear_cross_entropy": (draw(x=(4, 3), weight=(5, 3)), {"targets": TARGETS}, classes(TARGETS, 5)),
}  # fmt: skip


def steps_of(name: str) -> list[Step]:
    return getattr(derivations, name.upper())


def names_after(name: str) -> Names:
    inputs, _, others = CASES[name]
    names = Names(inputs | others)
    for step in steps_of(name):
        names[step.makes] = step.forward(names)
    return names


def finite(array):
    return np.where(np.isfinite(array), array, 0.0)  # a masked score is minus infinity, whatever it was


@pytest.mark.parametrize("name", CASES)
def test_every_step_of_the_docstring_is_executed(name):
    docstring = sys.modules[every_op()[name].forward.__module__].__doc__
    forward = docstring[docstring.index("\nForward") :].split("\n\n")[0]
    numbers = {int(number) for number in re.findall(r"^    \((\d+)\)", forward, re.MULTILINE)}
    assert numbers and {step.number for step in steps_of(name)} == numbers


def test_they_are_thirty():
    assert sum(len({step.number for step in steps_of(name)}) for name in CASES) == 30
    ops = {name for name, op in every_op().items() if op.forward.__module__.split(".")[-1] == name}
    assert ops == set(CASES)  # every operation with a file of its own


DERIVED = [(name, step) for name in CASES for step in steps_of(name) if step.backward]


@pytest.mark.parametrize(
    ("name", "step"), DERIVED, ids=[f"{name} ({step.number}) {step.makes}" for name, step in DERIVED]
)
def test_each_formula_is_the_derivative_of_its_step(name, step):
    names, d = names_after(name), None
    d = rng.standard_normal(names[step.makes].shape)
    for reads, formula in step.backward.items():
        given = names[reads]
        claimed, numeric = formula(d, names), np.zeros_like(given)
        assert claimed.shape == given.shape
        for index in np.ndindex(given.shape):
            ends = []
            for h in (1e-6, -1e-6):
                moved = given.copy()
                moved[index] += h
                ends.append(np.sum(finite(step.forward(Names(names | {reads: moved}))) * d))
            numeric[index] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(claimed, numeric, rtol=0, atol=1e-8 * max(1, np.abs(numeric).max()))


@pytest.mark.parametrize("name", CASES)
def test_the_steps_together_are_the_operation(name):
    inputs, attrs, _ = CASES[name]
    op, names = every_op()[name], names_after(name)
    out, saved = op.forward(*inputs.values(), **attrs)
    np.testing.assert_allclose(names.out, out, rtol=1e-12, atol=1e-12)
    dout = rng.standard_normal(np.shape(out))
    shares = {"out": dout}
    for step in reversed(steps_of(name)):  # backward, read upwards
        for reads, formula in step.backward.items():
            share = formula(shares[step.makes], names)
            shares[reads] = shares[reads] + share if reads in shares else share
    for key, gradient in zip(inputs, op.backward(dout, saved), strict=True):
        np.testing.assert_allclose(shares[key], gradient, rtol=1e-10, atol=1e-12)


# What the derivations say in words besides


def test_layernorms_terms_make_dx_sum_to_zero():
    inputs, _, _ = CASES["layernorm"]
    op = every_op()["layernorm"]
    dx = op.backward(rng.standard_normal((3, 5)), op.forward(*inputs.values())[1])[0]
    np.testing.assert_allclose(dx.sum(-1), 0, atol=1e-14)


def test_cross_entropy_is_what_was_predicted_minus_what_happened():
    inputs, attrs, others = CASES["cross_entropy"]
    op, names = every_op()["cross_entropy"], names_after("cross_entropy")
    (dlogits,) = op.backward(np.float64(1), op.forward(*inputs.values(), **attrs)[1])
    p = np.exp(names.shifted) / names.z[:, None]
    np.testing.assert_allclose(dlogits, (p - others["happened"]) * others["counted"][:, None] / 3, rtol=1e-12)
    np.testing.assert_allclose(dlogits.sum(-1), 0, atol=1e-15)  # so that the maximum receives nothing extra
    assert first_largest(inputs["logits"]).sum() == 4


def test_dropouts_mask_has_mean_one_and_is_the_same_again():
    mask = dropout_mask((200_000,), 0.4, 9, np.float64)
    assert set(np.unique(mask)) == {0.0, 1 / 0.6}
    assert mask.mean() == pytest.approx(1, abs=5 * np.sqrt(0.4 / 0.6 / 200_000))  # five standard deviations
    np.testing.assert_array_equal(mask, dropout_mask((200_000,), 0.4, 9, np.float64))

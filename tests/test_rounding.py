"""How far rounding carries a result: checked against float32 itself, and what check mode and gradcheck make of it."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import GPT, AdamW, GPTConfig, GradientCheckError, Op, Tensor, apply, gradcheck, implementation
from tinygpt.autograd.rounding import scatter
from tinygpt.ops.cross_entropy import cross_entropy_forward
from tinygpt.ops.layernorm import layernorm_backward, layernorm_forward

FLOAT32 = 2.0**-24


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (5, 0), (1, 300), (1e-3, 1)])
@pytest.mark.parametrize("C", [2, 3, 64])
def test_the_scatter_is_of_the_size_of_float32s_own_error(rng, C, scale, offset):
    x, weight, bias, dout = (rng.standard_normal(shape).astype(np.float32) for shape in ((20, C), C, C, (20, C)))
    x = (scale * x + offset).astype(np.float32)

    def gradients(dout, x, weight, bias):
        return layernorm_backward(dout, layernorm_forward(x, weight, bias)[1])

    arrays = (dout, x, weight, bias)
    exact = gradients(*(array.astype(np.float64) for array in arrays))
    for ours, right, noise in zip(gradients(*arrays), exact, scatter(gradients, arrays, FLOAT32), strict=True):
        error = np.sqrt(np.mean((ours - right) ** 2))
        assert error / 10 < np.sqrt(np.mean(noise**2)) < error * 30


def test_exact_arithmetic_scatters_nothing():
    def moved(x):
        return [x.T.copy(), np.maximum(x, 0), -x]

    zero = np.zeros((3, 2), np.float32)
    assert not any(noise.any() for noise in scatter(moved, [zero], FLOAT32))


# check mode


def alarms(compute, seeds=40) -> list[str]:
    found = []
    for seed in range(seeds):
        with implementation("check"):
            try:
                compute(np.random.default_rng(seed))
            except ValueError as error:
                found.append(str(error))
    return found


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1e-3, 0), (1, 1000), (1e3, 0)])
@pytest.mark.parametrize("shape", [(1, 1), (6, 1), (1, 2), (7, 2), (5, 3)])
def test_a_layer_norm_of_few_features_raises_no_alarm(shape, scale, offset):
    def compute(rng):
        x = Tensor((scale * rng.standard_normal(shape) + offset).astype(np.float32), requires_grad=True)
        weight, bias = (Tensor(rng.standard_normal(shape[1]).astype(np.float32), requires_grad=True) for _ in range(2))
        F.layernorm(x, weight, bias).backward(rng.standard_normal(shape).astype(np.float32))

    assert not alarms(compute)


@pytest.mark.parametrize("scale", [1, 15, 60])
def test_a_loss_that_is_nearly_zero_raises_no_alarm(scale):
    def compute(rng):
        logits = (scale * rng.standard_normal((3, 4))).astype(np.float32)
        F.cross_entropy(Tensor(logits, requires_grad=True), logits.argmax(1)).backward()

    assert not alarms(compute)


def test_a_product_whose_terms_cancel_raises_no_alarm():
    def compute(rng):
        x, weight = rng.standard_normal((3, 40)).astype(np.float32), rng.standard_normal((40, 2)).astype(np.float32)
        x, weight = np.concatenate([x, x], 1), np.concatenate([weight, -weight])
        x, weight, bias = (Tensor(array, requires_grad=True) for array in (x, weight, np.zeros(2, np.float32)))
        F.linear(x, weight, bias).backward(np.ones((3, 2), np.float32))

    assert not alarms(compute)


@pytest.mark.parametrize("n_embd", [1, 2, 3])
def test_a_whole_model_of_few_features_raises_no_alarm(n_embd):
    def compute(rng):
        model = GPT(GPTConfig(vocab_size=7, n_positions=6, n_embd=n_embd, n_layer=2, n_head=1), seed=rng.integers(99))
        optimizer = AdamW(model.parameters(), lr=0.1)
        for _ in range(2):
            tokens = rng.integers(0, 7, (2, 6))
            model.loss(tokens, tokens).backward()
            optimizer.step()
            optimizer.zero_grad()

    assert not alarms(compute, seeds=4)


@pytest.mark.parametrize(("name", "shape"), [("layernorm", (6, 3)), ("layernorm", (6, 64)), ("gelu", (4, 5))])
def test_a_kernel_that_is_off_by_a_thousandth_is_still_found(monkeypatch, rng, name, shape):
    kernel = importlib.import_module(f"tinygpt.kernels.{name}")
    right = kernel.backward

    def off(dout, saved, into):
        right(dout, saved, into)
        into[0].array[...] *= np.float32(1.001)

    monkeypatch.setattr(kernel, "backward", off)
    x = Tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)
    others = [Tensor(np.ones(shape[1], np.float32), requires_grad=True) for _ in range(2 if name == "layernorm" else 0)]
    with implementation("check"), pytest.raises(ValueError, match=f"{name}.backward: kernel and reference disagree"):
        getattr(F, name)(x, *others).backward(rng.standard_normal(shape).astype(np.float32))


# the gradient check

EXP = Op("exp", lambda x: (np.exp(x), np.exp(x)), lambda dout, out: (dout * out,))
both_ways = pytest.mark.parametrize("limit", [200, 0], ids=["by element", "along directions"])


@both_ways
@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1e-9, 1e-3, 1e9, 1e12, 1e100])
def test_the_gradient_check_follows_the_size_of_the_function(rng, scale, limit):
    x = [rng.standard_normal((2, 3))]
    assert gradcheck(lambda x: apply(EXP, x) * scale, x, elementwise_limit=limit)
    for wrong in (1.001, -1.0, 0.0, 5.0):
        op = EXP._replace(backward=lambda dout, out, wrong=wrong: (wrong * dout * out,))
        with pytest.raises(GradientCheckError):
            gradcheck(lambda x, op=op: apply(op, x) * scale, x, elementwise_limit=limit)


@both_ways
@pytest.mark.parametrize("offset", [1e3, 1e6, 1e9])
def test_what_cancels_inside_the_function_raises_no_alarm(rng, offset, limit):
    x = [rng.standard_normal((2, 3))]
    assert gradcheck(lambda x: (apply(EXP, x) + offset) - offset, x, elementwise_limit=limit)
    assert gradcheck(lambda x: apply(EXP, x) + offset, x, elementwise_limit=limit)
    assert gradcheck(lambda x: x * x, [x[0] + offset], elementwise_limit=limit)


@both_ways
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("offset", [1e5, 1e8, -1e9])
def test_a_wrong_gradient_under_a_large_offset_is_found_with_a_larger_step(rng, offset, inside, limit):
    """At the first step the offset's rounding hides a derivative of size 1 altogether."""
    x = [rng.standard_normal((2, 3))]
    for wrong in (1.002, -1.0):
        op = EXP._replace(backward=lambda dout, out, wrong=wrong: (wrong * dout * out,))
        with pytest.raises(GradientCheckError, match="backward gives"):
            gradcheck(lambda x, op=op: (apply(op, x) + offset) - (offset if inside else 0), x, elementwise_limit=limit)


@both_ways
@pytest.mark.parametrize("at", [1e-7, 1e-5, 1e-3, 0.1])
def test_a_corner_or_a_pole_within_reach_of_a_larger_step_raises_no_alarm(at, limit):
    x = np.full((2, 2), at)
    assert gradcheck(lambda x: F.relu(x) + 1e6, [x + 1e-6], elementwise_limit=limit)
    with np.errstate(all="ignore"):
        assert gradcheck(lambda x: F.log(x) * 1e-3 + 1e6, [x + 1e-3], elementwise_limit=limit)


@both_ways
@pytest.mark.parametrize("scale", [1, 20, 60, 300])
def test_a_confident_cross_entropy_raises_no_alarm(rng, scale, limit):
    logits = scale * rng.standard_normal((4, 6))
    targets = logits.argmax(1)
    assert cross_entropy_forward(logits, targets)[0] < 10
    assert gradcheck(lambda x: F.cross_entropy(x, targets), [logits], elementwise_limit=limit)


@both_ways
def test_constant_functions_have_gradient_zero_and_no_other(rng, limit):
    x = [rng.standard_normal((2, 3))]
    for f in (lambda x: x * 0.0, lambda x: x - x, lambda x: F.softmax(x).sum(), lambda x: x * 0.0 + 1e8):
        assert gradcheck(f, x, elementwise_limit=limit)
    small = Op("small", lambda x: (0 * x, None), lambda dout, saved: (1e-20 * dout,))
    with pytest.raises(GradientCheckError):
        gradcheck(lambda x: apply(small, x), x, elementwise_limit=limit)


@both_ways
def test_a_step_that_is_lost_beside_the_input_is_named(limit):
    with pytest.raises(ValueError, match=r"step 1e-06 is lost beside a number like 1e\+15; pass a larger step"):
        gradcheck(lambda x: x * 2.0, [np.full(3, 1e15)], elementwise_limit=limit)
    assert gradcheck(lambda x: x * 2.0, [np.full(3, 1e15)], step=1.0, elementwise_limit=limit)


def test_a_corner_is_no_noise():
    with pytest.raises(GradientCheckError, match="relu"):
        gradcheck(F.relu, [np.zeros(3)])

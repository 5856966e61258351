"""
The gradient check finds what is wrong, and only that.

In every operation's backward a mistake is planted: a gradient scaled by 1.001, a term dropped, an axis transposed, not
summed or wrongly summed. None may pass. What the check says about a mistake, and what it refuses to check, comes after.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from planted_errors import copied, mutants, with_gradient

import tinygpt.functional as F
from tinygpt import GradientCheckError, Op, Tensor, apply, gradcheck
from tinygpt.study.samples import SAMPLES, Sample, every_op

OPS = every_op()
every_operation = pytest.mark.parametrize("name", OPS)
# The default: small samples element by element, large ones along random directions; and everything along directions.
both_ways = pytest.mark.parametrize("limit", [200, 0], ids=["by size", "along directions"])

# Mutants that compute the same on every sample, with the reason why they must.
EQUIVALENT = {
    "attention_backward: -2  ->  2": "the axes of (B, H, T, T) and (B, H, T, D): 2 is -2",
}


def gradients(op, sample):
    """The gradients that `op` gives on a sample for some output gradient."""
    out, saved = op.forward(*sample.arrays, **sample.attrs)
    return op.backward(np.random.default_rng(1).standard_normal(np.shape(out)), saved)


def complaint(op, sample, **options):
    """What the check, or the engine, or the mistake itself, says about `op` on a sample; None if nothing."""
    try:
        gradcheck(sample.f(op), sample.arrays, **options)
    except Exception as error:  # a mutant may divide by zero or index at random: that is to be caught as well
        return error


def computes_the_same(mutant, op, sample):
    try:
        ours, theirs = gradients(mutant, sample), gradients(op, sample)
    except Exception:
        return False
    return len(ours) == len(theirs) and all(
        np.shape(a) == b.shape and np.allclose(a, b, rtol=0, atol=1e-12 * np.max(np.abs(b), initial=0))
        for a, b in zip(ours, theirs, strict=True)
    )


# Right gradients pass


def test_every_operation_has_samples():
    """A new operation without a line in study/samples.py would go unchecked."""
    assert set(OPS) == set(SAMPLES)


@both_ways
@every_operation
def test_a_right_gradient_passes(name, limit):
    for sample in SAMPLES[name]:
        assert gradcheck(sample.f(OPS[name]), sample.arrays, elementwise_limit=limit) is True


@every_operation
def test_a_backward_that_was_copied_without_a_mistake_passes(name):
    """What is caught below is caught for its mistake, not for the way in which it was planted."""
    for sample in SAMPLES[name]:
        assert complaint(copied(OPS[name]), sample) is None


# Wrong gradients are caught


@both_ways
@every_operation
def test_a_gradient_scaled_by_a_thousandth_is_caught(name, limit):
    planted = set()
    for sample in SAMPLES[name]:
        for index, gradient in enumerate(gradients(OPS[name], sample)):
            if np.any(gradient):
                op = with_gradient(OPS[name], index, lambda gradient: 1.001 * gradient)
                with pytest.raises(GradientCheckError, match=rf"^gradcheck: {name}, input {index}, "):
                    gradcheck(sample.f(op), sample.arrays, elementwise_limit=limit)
                planted.add(index)
    assert planted == set(range(max(len(sample.arrays) for sample in SAMPLES[name])))


@both_ways
@every_operation
def test_a_transposed_gradient_is_caught(name, limit):
    planted = 0
    for sample in SAMPLES[name]:
        for index, gradient in enumerate(gradients(OPS[name], sample)):
            square = gradient.ndim > 1 and gradient.shape[-1] == gradient.shape[-2]
            if square and not np.array_equal(gradient, gradient.swapaxes(-1, -2)):
                op = with_gradient(OPS[name], index, lambda gradient: gradient.swapaxes(-1, -2))
                with pytest.raises(GradientCheckError, match=rf"^gradcheck: {name}, input {index}, "):
                    gradcheck(sample.f(op), sample.arrays, elementwise_limit=limit)
                planted += 1
    assert planted > 0


@both_ways
@every_operation
def test_every_mistake_in_the_source_of_a_backward_is_caught(name, limit):
    """
    Terms, factors and signs dropped, sums left out or taken over another axis, one after another, helpers included.

    A mutant may pass on a sample only where its gradients are the right ones there, and on all samples only where it
    is listed, with the reason, as equivalent.
    """
    op, survivors, never_caught, caught = OPS[name], [], [], 0
    for description, mutant in mutants(op):
        seen = False
        for number, sample in enumerate(SAMPLES[name]):
            with np.errstate(all="ignore"):
                error = complaint(mutant, sample, elementwise_limit=limit)
                if error is not None:
                    assert not isinstance(error, NameError), description  # that would be the planter's own mistake
                    seen = True
                elif not computes_the_same(mutant, op, sample):
                    survivors.append(f"{description} on sample {number}")
        caught += seen
        if not seen and description not in EQUIVALENT:
            never_caught.append(description)
    assert not survivors
    assert not never_caught
    moves_values_only = {
        "sum",
        "astype",
        "reshape",
        "cumsum",
    }  # nothing to forget in their one call; scaling them is caught
    assert caught > 0 or name in moves_values_only


@pytest.mark.parametrize(("name", "index"), [("add", 1), ("linear", 2), ("layernorm", 1)])
def test_a_sum_left_out_is_named_by_its_shape(name, index):
    """A gradient that kept the tokens' axis has the output's shape, not its input's."""
    sample = SAMPLES[name][1]
    out = sample.f(OPS[name])(*sample.arrays)
    op = with_gradient(OPS[name], index, lambda gradient: np.ones(out.shape))
    with pytest.raises(ValueError, match=rf"{name}\.backward: input {index}: the gradient must be .* got float64 \("):
        gradcheck(sample.f(op), sample.arrays)


def test_errors_that_cancel_in_a_plain_sum_are_caught():
    """
    Softmax sums to 1, so the sum of its outputs has gradient 0, and so has a backward that forgot the weights of a
    mean. The check weighs outputs differently, and sees it.
    """
    forgotten = Op("softmax", OPS["softmax"].forward, lambda dout, saved: (saved[0] * (dout - dout.mean(-1)[:, None]),))
    x = SAMPLES["softmax"][0].arrays
    assert gradcheck(lambda x: apply(forgotten, x).sum(), x)
    with pytest.raises(GradientCheckError, match="softmax, input 0"):
        gradcheck(lambda x: apply(forgotten, x), x)


@both_ways
def test_errors_of_two_inputs_do_not_hide_each_other(rng, limit):
    """a (1 + e) and b (1 - e) would cancel if both inputs moved together."""
    opposite = with_gradient(with_gradient(OPS["add"], 0, lambda da: 1.01 * da), 1, lambda db: 0.99 * db)
    a = rng.standard_normal((3, 4))
    with pytest.raises(GradientCheckError, match="add, input 0"):
        gradcheck(lambda a, b: apply(opposite, a, b), [a, a], elementwise_limit=limit)


@pytest.mark.parametrize("element", [0, 517, 999])
def test_one_wrong_element_in_a_thousand_is_caught(rng, element):
    op = with_gradient(OPS["exp"], 0, lambda gradient: gradient * (1 + 0.01 * (np.arange(1000) == element)))
    with pytest.raises(GradientCheckError, match="exp, input 0, random direction"):
        gradcheck(lambda x: apply(op, x), [rng.standard_normal(1000)])


@both_ways
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_caught(rng, value, limit):
    """Comparisons with NaN are false, and infinity is within an infinite tolerance: neither is agreement."""
    op = with_gradient(OPS["exp"], 0, lambda gradient: np.where(np.arange(5) == 2, value, gradient))
    with pytest.raises(GradientCheckError, match=f"backward gives -?{value}"), np.errstate(invalid="ignore"):
        gradcheck(lambda x: apply(op, x), [rng.standard_normal(5)], elementwise_limit=limit)


def test_a_path_cut_off_from_the_graph_is_caught(rng):
    """The commonest mistake in a model: .data where the tensor was meant."""
    with pytest.raises(GradientCheckError, match="mul, input 0"):
        gradcheck(lambda x: x * Tensor(x.data), [rng.standard_normal(4)])


# What the error says


def test_the_error_names_operation_input_index_and_both_values():
    """b's gradient of a - b is -1, times the output's weight; element (1, 2) says +2 instead."""
    doubled = np.ones((2, 3))
    doubled[1, 2] = -2
    op = with_gradient(OPS["sub"], 1, lambda gradient: doubled * gradient)
    with pytest.raises(GradientCheckError) as caught:
        gradcheck(lambda a, b: apply(op, a, b), [np.ones((2, 3)), np.zeros((2, 3))])
    number = r"(-?\d[\d.e+-]*)"
    pattern = rf"gradcheck: sub, input 1, index \(1, 2\): backward gives {number}, finite differences give {number} \("
    analytic, numeric = map(float, re.match(pattern, str(caught.value)).groups())
    assert analytic == pytest.approx(-2 * numeric, rel=1e-6)  # the check's own tolerance
    assert "\n" not in str(caught.value)


def test_the_error_names_the_direction_where_no_element_was_looked_at(rng):
    op = with_gradient(OPS["exp"], 0, lambda gradient: -gradient)
    with pytest.raises(GradientCheckError, match="gradcheck: exp, input 0, random direction 0: backward gives "):
        gradcheck(lambda x: apply(op, x), [rng.standard_normal((15, 20))])


def test_it_is_an_assertion_error():
    """So that test runners report it as a failure, not as a crash."""
    assert issubclass(GradientCheckError, AssertionError)


# What it checks, and what it refuses


def test_float32_is_checked_in_float64(rng):
    """Differences of float32 values at a step of 1e-6 would be noise."""
    seen = set()

    def f(x, y):
        seen.update({x.dtype, y.dtype})
        return x * y

    assert gradcheck(f, [rng.standard_normal(3).astype(np.float32), Tensor([1.0, 2.0, 3.0])])
    assert seen == {np.dtype(np.float64)}


@both_ways
@pytest.mark.parametrize("factor", [1, 1.001])
def test_inputs_are_as_before_whether_it_passes_or_not(rng, factor, limit):
    op = with_gradient(OPS["mul"], 1, lambda gradient: factor * gradient)
    arrays = list(rng.standard_normal((2, 3, 4)))
    tensor = Tensor(arrays[1], requires_grad=True)
    before = [array.copy() for array in arrays]
    passed = complaint(op, Sample([arrays[0], tensor]), elementwise_limit=limit) is None
    assert passed == (factor == 1)
    np.testing.assert_array_equal(arrays, before)
    assert tensor.grad is None


@pytest.mark.parametrize("shape", [(), (1,), (0, 3)], ids=str)
def test_a_number_one_element_and_none_can_be_checked(rng, shape):
    assert gradcheck(F.gelu, [rng.standard_normal(shape)])


def test_an_input_used_twice_and_one_not_used_are_checked(rng):
    """The gradient of what has no influence is 0, as its finite differences are."""
    assert gradcheck(lambda x, unused: x * x + x, list(rng.standard_normal((2, 3))))


def test_the_tolerance_is_relative_to_the_largest_derivative():
    """0.1 % off passes at 1 % and fails at 0.01 %, however large the numbers are."""
    op = with_gradient(OPS["exp"], 0, lambda gradient: 1.001 * gradient)
    for x in (np.array([1.0, 2.0]), np.array([11.0, 12.0])):
        assert gradcheck(lambda x: apply(op, x), [x], tolerance=1e-2)
        with pytest.raises(GradientCheckError):
            gradcheck(lambda x: apply(op, x), [x], tolerance=1e-4)


@pytest.mark.parametrize("value", [np.array([1, 2]), [1, 2], np.array([True]), np.array([1j]), Tensor(np.array([3]))])
def test_an_input_that_is_not_float_is_named(value):
    with pytest.raises(ValueError, match=r"gradcheck: input 1 must be a float array, got \w+; bind it inside f"):
        gradcheck(lambda a, b: a, [np.ones(2), value])


def test_no_input_is_an_error():
    with pytest.raises(ValueError, match="gradcheck: needs at least one input, got none"):
        gradcheck(lambda: Tensor([1.0]), [])


@pytest.mark.parametrize("returned", [None, 3.0, np.ones(2), Tensor([1.0, 2.0])], ids=repr)
def test_a_function_without_a_gradient_is_named(returned):
    def constant(x):
        return returned

    message = r"constant must return a Tensor that depends on its inputs, got .*; compute with tensors throughout"
    with pytest.raises(ValueError, match=message):
        gradcheck(constant, [np.ones(2)])


@pytest.mark.parametrize("inputs", [[1.0, 2.0], []], ids=str)
def test_another_number_of_inputs_than_arguments_is_an_error(inputs):
    message = (
        rf"gradcheck: f must take one argument per input, got {len(inputs) + 1} and this: .*; write \[\[1\.0, 2\.0\]\]"
    )
    with pytest.raises(TypeError, match=message):
        gradcheck(lambda a, b: a * b, [*inputs, 3.0])


def test_rows_of_different_lengths_are_named():
    with pytest.raises(ValueError, match="gradcheck: input 0 must be a float array, got rows of different lengths"):
        gradcheck(lambda x: x * x, [[[1.0], [2.0, 3.0]]])

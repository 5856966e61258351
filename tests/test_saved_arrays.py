"""An array that backward needs and that is edited after the forward: an error, or a gradient that it does not touch."""

from __future__ import annotations

import numpy as np
import pytest

from tinygpt import GPT, AdamW, GPTConfig, Op, Tensor, apply, implementation, no_grad
from tinygpt.autograd.graph import arrays_in, checksums
from tinygpt.functional import linear
from tinygpt.runtime import settings
from tinygpt.study.samples import SAMPLES, every_op

CASES = [(name, number, index) for name, samples in SAMPLES.items() for number, sample in enumerate(samples)
         for index in range(len(sample.arrays))]  # fmt: skip


def gradients(op, sample, edited=None, learning=None):
    """
    The gradients of the inputs, or of input `learning` alone; `edited` is overwritten between forward and backward.
    """
    tensors = [Tensor(array.astype(np.float32), learning in (None, i)) for i, array in enumerate(sample.arrays)]
    out = apply(op, *tensors, **sample.attrs)
    if edited is not None:
        tensors[edited].data[...] = 0.25
    out.backward(np.ones(out.shape, out.dtype))
    return [tensor.grad for tensor in tensors]


@pytest.mark.parametrize("setting", ["numpy", "kernels"])
@pytest.mark.parametrize(("name", "number", "index"), CASES)
def test_an_input_that_is_overwritten_is_an_error_or_not_needed(name, number, index, setting):
    op, sample = every_op()[name], SAMPLES[name][number]
    with implementation(setting):
        for learning in (None, *range(len(sample.arrays))):
            right = gradients(op, sample, learning=learning)
            try:
                found = gradients(op, sample, index, learning)
            except RuntimeError as error:
                assert str(error).startswith(f"{name}.backward: has saved an array of shape")
                continue
            for ours, theirs in zip(found, right, strict=True):
                assert (ours is None) == (theirs is None)
                if ours is not None:
                    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operate", [
    lambda x, other: x * 2.0,
    lambda x, other: x * other,
    lambda x, other: other * x,
    lambda x, other: x @ other,
    lambda x, other: other @ x,
    lambda x, other: x % other,
    lambda x, other: linear(other, x, Tensor(np.zeros(3, np.float32), requires_grad=True)),
    lambda x, other: linear(x, other),
])  # fmt: skip
def test_an_array_that_only_a_constant_would_need_may_change_as_in_torch(operate):
    def gradient(edit):
        x = Tensor(np.full((3, 3), 1.5, np.float32), requires_grad=True)
        out = operate(x, np.arange(1, 10, dtype=np.float32).reshape(3, 3))
        x.data += edit
        out.backward(np.ones((3, 3), np.float32))
        return x.grad

    np.testing.assert_array_equal(gradient(edit=1), gradient(edit=0))


def test_a_constant_that_shares_the_memory_of_what_learns_is_needed():
    x = Tensor([1.0, 2.0], requires_grad=True)
    for constant in (x.data, x.data[:], x.detach()):
        out = (x * constant).sum()
        x.data += 1
        with pytest.raises(RuntimeError, match=r"^mul\.backward: has saved"):
            out.backward()


def test_a_weight_may_be_updated_before_the_backward_of_a_second_loss():
    """A linear model of constant inputs: its gradient does not depend on the weight, and PyTorch takes it, too."""
    weight, bias = (Tensor(np.ones(shape, np.float32), requires_grad=True) for shape in ((3, 2), (2,)))
    losses = [linear(np.full((4, 3), value, np.float32), weight, bias).sum() for value in (1.0, 2.0)]
    for loss, expected in zip(losses, (4, 12), strict=True):
        loss.backward()
        np.testing.assert_array_equal(weight.grad, np.full((3, 2), expected))
        weight.data -= 0.1 * weight.grad


def test_the_error_says_which_operation_which_array_and_what_to_do():
    weight = Tensor(np.ones((3, 2), np.float32), requires_grad=True)
    loss = (Tensor(np.ones((4, 3), np.float32), requires_grad=True) @ weight).sum()
    weight.data -= 0.1
    with pytest.raises(RuntimeError) as found:
        loss.backward()
    assert str(found.value) == (
        "matmul.backward: has saved an array of shape (3, 2) that was changed in place after the forward, by an "
        "optimizer's step or a write into data; change a copy, or run the forward again"
    )


@pytest.mark.parametrize("edit", ["x.data[0] = 7", "x.data[-1] = 7", "x.data += 1", "x.data.sort()", "array[1] = 7"])
def test_any_edit_of_a_small_array_is_found(edit):
    array = np.array([3.0, 1.0, 2.0], np.float32)
    x = Tensor(array, requires_grad=True)
    y = (x * x).sum()
    exec(edit, {"x": x, "array": array})
    with pytest.raises(RuntimeError, match=r"^mul\.backward: has saved an array of shape \(3,\)"):
        y.backward()


@pytest.mark.parametrize("shape", [(70,), (1000, 768), (64, 64, 64), (2, 100_000)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_edit_of_the_whole_is_found_in_an_array_of_any_size(shape, order):
    x = Tensor(np.ones(shape, np.float32, order=order), requires_grad=True)
    for edit in (np.negative, np.zeros_like, lambda data: data + 1e-6):
        y = (x * x).sum()
        x.data[...] = edit(x.data)
        with pytest.raises(RuntimeError, match="changed in place"):
            y.backward()


def test_a_sample_has_elements_of_more_than_one_column_and_row():
    data = np.zeros((256, 768), np.float32)
    seen = [
        before != after for before, after in (edited(data, (slice(None), slice(0, 96))), edited(data, slice(0, 32)))
    ]
    assert seen == [True, True]  # an eighth of the columns, of the rows


def edited(data, where):
    """The checksums of an array before and after one part of it is overwritten."""
    after = data.copy()
    after[where] = 1
    return checksums([data]), checksums([after])


def test_one_element_of_many_is_found_in_debug_mode(monkeypatch):
    monkeypatch.setattr(settings, "DEBUG", True)
    x = Tensor(np.ones(1000), requires_grad=True)
    y = (x * x).sum()
    x.data[1] = 2
    with pytest.raises(RuntimeError, match=r"^mul\.backward: has saved an array of shape \(1000,\)"):
        y.backward()


def test_an_edit_that_is_undone_does_no_harm():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    x.data += 1
    x.data -= 1
    y.backward()
    np.testing.assert_array_equal(x.grad, [2, 4])


def test_an_optimizer_step_between_forward_and_backward_is_named():
    model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2), seed=1)
    optimizer = AdamW(model.parameters(), lr=0.1)
    first, second = (model.loss([[1, 2, 3]], [[2, 3, 4]]) for _ in range(2))
    first.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place after the forward, by an optimizer's step"):
        second.backward()


def test_a_graph_that_is_never_walked_does_not_stop_the_optimizer():
    w = Tensor([1.0, 2.0], requires_grad=True)
    optimizer = AdamW([w], lr=0.1)
    kept = (w * w).sum()  # of an evaluation, say
    (w * w).sum().backward()
    optimizer.step()
    with no_grad():
        assert (w * w).sum().item() < kept.item()


def test_arrays_are_found_in_tuples_lists_and_dicts():
    a, b, c = np.ones(1), np.ones(2), np.ones(3)
    assert [array.size for array in arrays_in((a, [b, (2, None)], {"c": {"d": c}}, "text", 4))] == [1, 2, 3]
    assert arrays_in(None) == arrays_in("text") == []


def test_what_an_op_computes_of_an_array_may_change_the_array_afterwards():
    """relu saves a mask of its own: the edit does no harm. An op that saves a copy is free, too."""
    copying = Op("copying", lambda x: (x * x, x.copy()), lambda dout, x: (2 * x * dout,))
    for function, right in ((Tensor.relu, [1, 1]), (lambda x: apply(copying, x), [2, 4])):
        x = Tensor([1.0, 2.0], requires_grad=True)
        out = function(x)
        x.data[...] = -1
        out.sum().backward()
        np.testing.assert_array_equal(x.grad, right)

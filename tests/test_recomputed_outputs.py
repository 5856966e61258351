"""An output that is computed again in backward, in place of being kept: nobody can tell, except by the memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tensor, implementation, no_grad
from tinygpt.autograd import Op, apply, recomputed_outputs
from tinygpt.functional import layernorm, linear
from tinygpt.runtime import memory

SHAPE = (4, 50, 96)
CONFIG = GPTConfig(vocab_size=60, n_positions=32, n_embd=32, n_layer=2, n_head=4)


@pytest.fixture(autouse=True)
def with_kernels_and_small_arrays(monkeypatch):
    monkeypatch.setattr(recomputed_outputs, "LARGE", 0)
    with implementation("kernels"):
        yield


def leaves() -> dict[str, Tensor]:
    rng = np.random.default_rng(3)
    shapes = {"x": SHAPE, "gain": SHAPE[-1:], "shift": SHAPE[-1:], "weight": (SHAPE[-1], 10), "bias": (10,)}
    return {name: Tensor(rng.normal(size=shape).astype(np.float32), requires_grad=True)
            for name, shape in shapes.items()}  # fmt: skip


def normalized(given: dict[str, Tensor]) -> Tensor:
    return layernorm(given["x"], given["gain"], given["shift"])


def gradients_after(edit=lambda normed: None, later=lambda normed: None, setting="kernels") -> dict[str, np.ndarray]:
    """The gradients of the sum of the squares of a linear layer of a norm's output, which is edited before or after."""
    given = leaves()
    with implementation(setting):
        normed = normalized(given)
        edit(normed)
        out = linear(normed, given["weight"], given["bias"])
        later(normed)
        (out * out).sum().backward()
    return {name: leaf.grad for name, leaf in given.items()}


def look(normed: Tensor) -> None:
    assert normed.data.shape == SHAPE  # whoever has seen the array may write into it: from now on it is kept


def test_the_gradients_have_the_bits_of_those_with_the_output_kept():
    again, kept = gradients_after(), gradients_after(look)
    for name, gradient in again.items():
        np.testing.assert_array_equal(gradient, kept[name], err_msg=name)


def test_the_output_is_not_held_between_forward_and_backward():
    def held(edit) -> int:
        given = leaves()
        normed = normalized(given)
        edit(normed)
        gc.collect()
        before = memory.pool.in_use
        out = linear(normed, given["weight"], given["bias"])
        del normed
        change = memory.pool.in_use - before
        assert out.shape == (*SHAPE[:-1], 10)
        return change

    assert held(lambda normed: None) <= held(look) - np.prod(SHAPE) * 4


def set_one_element(array: np.ndarray) -> None:
    array.flat[17] = 9.0


def through_a_view_without_gradients(normed: Tensor) -> None:
    with no_grad():
        set_one_element(normed.reshape(-1).data)


EDITS = {
    "data": lambda normed: set_one_element(normed.data),
    "detach": lambda normed: set_one_element(normed.detach().data),
    "numpy": lambda normed: set_one_element(np.asarray(normed)),
    "view": lambda normed: set_one_element(normed.reshape(-1).data),
    "view without gradients": through_a_view_without_gradients,
    "another array": lambda normed: setattr(normed, "data", np.full(SHAPE, 2.0, np.float32)),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_of_one_element_before_the_layer_counts_as_in_the_reference(edit):
    ours, theirs, untouched = gradients_after(edit), gradients_after(edit, setting="numpy"), gradients_after()
    assert np.abs(ours["weight"] - untouched["weight"]).max() > 1
    for name, gradient in ours.items():
        np.testing.assert_allclose(gradient, theirs[name], rtol=1e-3, atol=2e-2, err_msg=name)


def test_an_edit_after_the_layer_does_not_count():
    untouched = gradients_after()
    for edit in (EDITS["data"], EDITS["view"]):
        for name, gradient in gradients_after(later=edit).items():
            np.testing.assert_array_equal(gradient, untouched[name], err_msg=name)


def test_the_norms_bias_may_change_before_backward_since_no_gradient_depends_on_it():
    untouched, given = gradients_after(), leaves()
    out = linear(normalized(given), given["weight"], given["bias"])
    given["shift"].data += 1
    (out * out).sum().backward()
    for name, leaf in given.items():
        np.testing.assert_array_equal(leaf.grad, untouched[name], err_msg=name)


def test_an_input_of_the_norm_that_was_overwritten_is_an_error():
    given = leaves()
    out = linear(normalized(given), given["weight"], given["bias"])
    given["x"].data[...] = 0
    with pytest.raises(RuntimeError, match="changed in place after the forward"):
        out.sum().backward()


def test_a_graph_is_walked_twice_if_it_is_retained_and_else_an_error_says_what_was_freed():
    given = leaves()
    loss = linear(normalized(given), given["weight"], given["bias"]).sum()
    loss.backward(retain_graph=True)
    once = {name: leaf.grad.copy() for name, leaf in given.items()}
    loss.backward()
    for name, leaf in given.items():
        np.testing.assert_allclose(leaf.grad, 2 * once[name], rtol=1e-6, err_msg=name)
    with pytest.raises(ValueError, match="was freed by an earlier backward"):
        loss.backward()


def test_two_layers_of_one_output_and_the_output_itself():
    def gradients(edit) -> list[np.ndarray]:
        given = leaves()
        normed = normalized(given)
        edit(normed)
        first, second = (linear(normed, given["weight"], given["bias"]) for _ in range(2))
        (first * second + normed.sum(axis=-1, keepdims=True)).sum().backward()
        return [leaf.grad for leaf in given.values()]

    for ours, kept in zip(gradients(lambda normed: None), gradients(look), strict=True):
        np.testing.assert_array_equal(ours, kept)


class Half:
    """A kernel of the user's own that computes its output again."""

    @staticmethod
    def forward(x):
        return x / 2, (x,)

    @staticmethod
    def output(saved):
        return saved[0] / 2

    @staticmethod
    def backward(dout, saved, into):
        into[0].write(dout / 2)


HALF = Op("half", lambda x: (x / 2, (x,)), lambda dout, saved: (dout / 2,), kernel=Half)


def test_an_output_that_is_computed_again_from_one_that_could_be():
    given = leaves()
    halves = normalized(given)
    for _ in range(3):
        halves = apply(HALF, halves)
    (halves * halves).sum().backward()
    normed, dnormed = normalized(leaves()).data, 2.0**-5  # of (normed / 8)^2
    np.testing.assert_allclose(given["shift"].grad, (normed * dnormed).sum(axis=(0, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_models_gradients_are_the_same_bits(monkeypatch, recompute):
    tokens = np.random.default_rng(1).integers(0, 60, (3, 33))

    def gradients() -> np.ndarray:
        model = GPT(CONFIG)
        model.recompute = recompute
        for _ in range(2):  # accumulated
            model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        return model.flat_gradients.copy()

    again = gradients()
    monkeypatch.setattr(recomputed_outputs, "LARGE", 2**40)
    np.testing.assert_array_equal(again, gradients())

"""A tensor of one value is a number to Python, to NumPy and to format strings; of others the error says what to do."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest

from tinygpt import Tensor

SHAPES = [(), (1,), (1, 1)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
SEVERAL = [Tensor([1.0, 2.0, 3.0]), Tensor(np.ones((2, 2)), requires_grad=True), Tensor(np.ones(0))]
several_values = pytest.mark.parametrize("several", SEVERAL, ids=lambda tensor: str(tensor.shape))


def loss_of(shape, value=1.5):
    return Tensor(np.full(shape, value, np.float32), requires_grad=True) * 1.0


@every_shape
def test_a_loss_is_a_number(shape):
    loss = loss_of(shape)
    assert (float(loss), int(loss), complex(loss), bool(loss)) == (1.5, 1, 1.5, True)
    assert math.exp(loss) == math.exp(1.5)
    assert (math.floor(loss), math.ceil(loss)) == (1, 2)
    assert (round(loss), round(loss_of(shape, 1.2345), 2)) == (2, 1.23)
    assert isinstance(round(loss), int) and isinstance(round(loss, 1), float)


@every_shape
@pytest.mark.parametrize("spec", [".3f", "8.2f", "+.1e", "g", ">10", "%"])
def test_a_format_string_formats_the_number(shape, spec):
    assert format(loss_of(shape), spec) == format(1.5, spec)


def test_whole_numbers_have_the_formats_of_int():
    assert f"{Tensor(255):04d} {Tensor(255):x} {Tensor([7]):,}" == "0255 ff 7"


def test_without_a_format_a_number_is_shown_as_such_and_other_tensors_as_by_str():
    assert f"{loss_of(())} {Tensor(3)} {Tensor(True)}" == "1.5 3 True"
    assert f"{Tensor(np.float32(0.1))}" == "0.1"  # not 0.10000000149011612, the same in float64
    for tensor in (Tensor([1.5]), Tensor([1.0, 2.0])):
        assert f"{tensor}" == str(tensor) == repr(tensor)
    assert repr(Tensor(1.5)) == "Tensor(1.5, dtype=float32)"


@several_values
def test_other_shapes_are_no_numbers(several):
    for use in (float, int, math.exp, round):
        with pytest.raises(ValueError, match=r"Tensor.item: needs exactly one value, got shape \(.*\); tolist\(\)"):
            use(several)
    with pytest.raises(ValueError, match=r"Tensor: true or false needs exactly one value.*write x\.any\(\)"):
        bool(several)
    with pytest.raises(TypeError, match=r"Tensor: '.2f' formats one value, got shape \(.*\); format those of x.tolist"):
        f"{several:.2f}"


def test_one_whole_number_is_an_index():
    letters = "abcde"
    for index in (Tensor(3), Tensor([3]), Tensor(np.uint8(3))):
        assert letters[index] == "d" and operator.index(index) == 3 and list(range(index)) == [0, 1, 2]
    for other in (Tensor(3.0), Tensor(True), Tensor([1, 2])):
        with pytest.raises(TypeError, match=r"Tensor: an index must be one integer, got \w+ of shape \(.*\)"):
            letters[other]


@every_shape
def test_lists_of_losses_become_arrays(shape):
    losses = [loss_of(shape), loss_of(shape, 2.5)]
    assert np.mean(losses) == 2 and np.max(losses) == 2.5
    assert np.array(losses).shape == (2, *shape) and np.array(losses).ravel().tolist() == [1.5, 2.5]
    assert sum(map(float, losses)) == 4 and max(losses, key=float) is losses[1]


def test_tolist_gives_python_numbers():
    for data in (1.5, [1.0, 2.5], [[1, 2], [3, 4]], [True, False]):
        listed = Tensor(data, requires_grad=False).tolist()
        assert listed == data and "numpy" not in str(type(np.ravel(np.array(listed, object))[0]))
    assert loss_of(()).tolist() == 1.5


def test_a_number_has_no_length():
    for use in (len, list, iter):
        with pytest.raises(TypeError, match=r"Tensor: shape \(\) has no length, and cannot be iterated over"):
            use(Tensor(1.0))


def test_a_ragged_list_is_explained_in_our_words():
    for ragged in ([[1.0, 2.0], [3.0]], [Tensor(1.0), Tensor([1.0, 2.0])]):
        with pytest.raises(ValueError, match=r"^Tensor: the rows of a list must have one length, got rows of several"):
            Tensor(ragged)

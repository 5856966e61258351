"""Operands whose shapes do not broadcast: the error names the operation, the shapes and the remedy."""

from __future__ import annotations

import operator

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import Tensor, implementation

OPERATIONS = {
    "add": F.add,
    "sub": F.sub,
    "mul": F.mul,
    "div": F.div,
    "maximum": F.maximum,
    "where": lambda a, b: F.where(True, a, b),
    "equal": operator.eq,
    "less": operator.lt,
    "greater_equal": operator.ge,
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("a_shape", "b_shape"), [((2, 3), (2,)), ((4,), (3,)), ((2, 1, 3), (4, 2))])
def test_the_error_names_the_operation_both_shapes_and_the_remedy(name, a_shape, b_shape):
    with pytest.raises(ValueError, match=rf"^{name}: needs shapes that broadcast") as raised:
        OPERATIONS[name](Tensor(np.ones(a_shape)), np.ones(b_shape))
    assert f"got {a_shape} and {b_shape}" in str(raised.value) and "reshape one of them" in str(raised.value)


def test_a_condition_must_broadcast_too_and_is_shown():
    with pytest.raises(ValueError, match=r"^where: needs .* got \(2,\) and \(\) and \(3,\); reshape"):
        F.where([True, False, True], Tensor([1.0, 2.0]), 0.0)


def test_the_batch_axes_of_a_matrix_product_must_broadcast():
    with pytest.raises(ValueError, match=r"^matmul, axes before the last two: needs .* got \(2,\) and \(3,\)"):
        F.matmul(np.ones((2, 4, 4)), np.ones((3, 4, 4)))


@pytest.mark.parametrize("setting", ["kernels", "check"])
def test_large_arrays_which_kernels_add_get_the_same_error(setting):
    with implementation(setting), pytest.raises(ValueError, match=r"^add: needs shapes that broadcast"):
        F.add(Tensor(np.ones((100, 100), np.float32)), Tensor(np.ones((100, 7), np.float32)))

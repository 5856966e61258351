"""What the tests of the operations share: run and differentiate a function, and compare arrays by their magnitude."""

from __future__ import annotations

import numpy as np

from tinygpt import Tensor

# The two ways in which `gradcheck` compares, as its `elementwise_limit`: along random directions, one input at a time,
# which sees a wrong element anywhere; and each element by itself, which says where.
BOTH_WAYS = {"random projection": 0, "element by element": 10**9}


def value_and_gradients(f, arrays, dout=None):
    """f(*arrays), and the gradient that each array receives from `dout` (1 for a scalar)."""
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    out = f(*tensors)
    out.backward(dout)
    return out.data, [tensor.grad for tensor in tensors]


def assert_close(actual, desired, tolerance=1e-12):
    """
    Equal in shape and, element by element, within `tolerance` of the desired array's largest magnitude.

    The default is for float64: sums of a few hundred products of order one round to some 1e-14 of the largest.
    """
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert actual.shape == desired.shape
    np.testing.assert_allclose(actual, desired, rtol=0, atol=tolerance * np.max(np.abs(desired), initial=0))


def assert_same(ours, theirs, tolerance=1e-12):
    """Two results of `value_and_gradients` agree: the values, and every gradient."""
    assert_close(ours[0], theirs[0], tolerance)
    for our_gradient, their_gradient in zip(ours[1], theirs[1], strict=True):
        assert_close(our_gradient, their_gradient, tolerance)

"""
Gradient check: how a reader doubts us.

A gradient is a claim about small changes: moving the input x by h along a direction u changes the loss by

    L(x + h u) - L(x - h u)
    ------------------------ = <dL/dx, u> + O(h^2)            (central difference: the error falls with h squared)
              2 h

The left side needs the forward only. `gradcheck` computes it in float64, compares it with the right side, and reports
the first place where they part.

* Small inputs: element by element, u = each unit vector in turn, so that a report names the element.
* Large inputs: along a few random directions, *one input at a time*: an error in any element shows with probability
  one, and an error in one input cannot hide behind another's.
* An output that is not a scalar is reduced with fixed random weights, L = sum(w * out). Plain sum() would blind the
  check to errors that cancel, such as softmax's, whose outputs always sum to one.

Step and tolerance. Truncation costs about h^2, rounding about 1e-16 / h: their sum is least near h = 1e-5 to 1e-6,
where both are about 1e-10 relative to the loss. The default tolerance of 1e-6 leaves four digits of room for curvature,
and is a thousand times finer than the 0.1 % errors that the tests plant.

Source: Nocedal & Wright, Numerical Optimization, 2nd ed. 2006, section 8.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor, no_grad


class GradientCheckError(AssertionError):
    """A backward disagrees with finite differences."""


def gradcheck(
    f: Callable[..., Tensor],
    inputs: Sequence[Any],
    *,
    step: float = 1e-6,
    tolerance: float = 1e-6,
    elementwise_limit: int = 200,
    directions: int = 3,
    seed: int = 0,
) -> bool:
    """
    Compare the gradients of `f` with central differences, in float64.

    Parameters
    ----------
    f : callable
        Takes one tensor per input and returns a tensor of any shape. Must be deterministic: pass seeds, not generators.
    inputs : sequence of Tensor or array_like
        Float inputs; each is copied to float64 and checked. Bind everything else in `f`.
    step : float
        h, in the units of the inputs.
    tolerance : float
        Largest allowed |analytic - numeric| relative to the largest derivative of that input (but at least relative
        to 1e-3 of the loss's own magnitude, below which float64 differences carry no information).
    elementwise_limit : int
        Inputs with at most this many elements are checked element by element, larger ones along random directions.
    directions : int
        How many random directions.
    seed : int
        Of the directions and of the output's weights.

    Returns
    -------
    bool
        True. Failing raises, so that ``assert gradcheck(...)`` reads well.

    Raises
    ------
    GradientCheckError
        Names the op, the input, the index (or direction) and both values.
    ValueError
        If no input is given, or an input is not a float array.

    Examples
    --------
    >>> import numpy as np, tinygpt
    >>> x = np.linspace(-1, 1, 6).reshape(2, 3)
    >>> tinygpt.gradcheck(lambda x: (x * x).sum(axis=0), [x])
    True
    """
    arrays = [_float64(value, index) for index, value in enumerate(inputs)]
    if not arrays:
        raise ValueError("gradcheck: needs at least one input, got none")
    rng = np.random.default_rng(seed)
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    out = f(*tensors)
    name = _name_of(f, out)
    weights = rng.standard_normal(out.shape)
    out.backward(weights)

    def loss() -> float:
        with no_grad():
            return float(np.sum(f(*(Tensor(array) for array in arrays)).data * weights))

    for index, (array, tensor) in enumerate(zip(arrays, tensors, strict=True)):
        gradient = np.zeros_like(array) if tensor.grad is None else tensor.grad
        comparison = _Comparison(f"gradcheck: {name}, input {index}", tolerance, abs(loss()))
        if array.size <= elementwise_limit:
            _check_elements(comparison, loss, array, gradient, step)
        else:
            _check_directions(comparison, loss, array, gradient, step, rng, directions)
    return True


class _Comparison:
    """Decides whether two derivatives agree, and words the error if they do not."""

    def __init__(self, who: str, tolerance: float, loss_magnitude: float) -> None:
        self.who, self.tolerance = who, tolerance
        self.floor = 1e-3 * max(1.0, loss_magnitude)

    def __call__(self, where: str, analytic: float, numeric: float, scale: float) -> None:
        allowed = self.tolerance * max(scale, self.floor)
        # `not <=` rather than `>`: a NaN on either side must fail too; an infinity makes the allowance infinite as well
        if not abs(analytic - numeric) <= allowed or np.isinf(analytic - numeric):
            raise GradientCheckError(
                f"{self.who}, {where}: backward gives {analytic:.10g}, finite differences give {numeric:.10g} "
                f"(they differ by {abs(analytic - numeric):.3g}, {allowed:.3g} is allowed)"
            )


def numeric_gradient(loss: Callable[[], float], array: np.ndarray, step: float) -> np.ndarray:
    """
    The derivative of `loss` by each element of `array`, which it reads, by central differences.

    Examples
    --------
    >>> x = np.array([1.0, 2.0])
    >>> numeric_gradient(lambda: float(np.sum(x**3)), x, 1e-5).round(6)
    array([ 3., 12.])
    """
    numeric = np.empty_like(array)
    for index in np.ndindex(array.shape):
        before = array[index]
        array[index] = before + step
        above = loss()
        array[index] = before - step
        below = loss()
        array[index] = before
        numeric[index] = (above - below) / (2 * step)
    return numeric


def _check_elements(compare: _Comparison, loss: Callable[[], float], array, gradient, step: float) -> None:
    numeric = numeric_gradient(loss, array, step)
    scale = max(np.max(np.abs(numeric), initial=0), np.max(np.abs(gradient), initial=0))
    for index in np.ndindex(array.shape):
        compare(f"index {tuple(map(int, index))}", gradient[index], numeric[index], scale)


def _check_directions(compare: _Comparison, loss, array, gradient, step: float, rng, directions: int) -> None:
    for number in range(directions):
        direction = rng.standard_normal(array.shape)
        direction /= np.linalg.norm(direction)
        before = array.copy()
        np.add(before, step * direction, out=array)
        above = loss()
        np.subtract(before, step * direction, out=array)
        below = loss()
        np.copyto(array, before)
        numeric = (above - below) / (2 * step)
        analytic = float(np.sum(gradient * direction))
        # Along a random unit vector a gradient g of n elements shows about |g| / sqrt(n): the scale to judge by.
        scale = max(abs(numeric), abs(analytic), np.linalg.norm(gradient) / np.sqrt(array.size))
        compare(f"random direction {number}", analytic, numeric, scale)


def _float64(value: Any, index: int) -> np.ndarray:
    array = np.array(value.data if isinstance(value, Tensor) else value)
    if array.dtype.kind != "f":
        raise ValueError(f"gradcheck: input {index} must be a float array, got {array.dtype}; bind it inside f instead")
    return array.astype(np.float64)


def _name_of(f: Callable[..., Any], out: Any) -> str:
    if not isinstance(out, Tensor) or out.node is None:
        raise ValueError(
            f"gradcheck: {getattr(f, '__name__', f)} must return a Tensor that depends on its inputs, got {out!r}"
        )
    return "identity" if out.node.op is None else out.node.op.name

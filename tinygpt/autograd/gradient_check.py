"""
Gradient check: how a reader doubts us.

A gradient is a claim about small changes: moving the input x by h along a direction u changes the loss by

    L(x + h u) - L(x - h u)
    ------------------------ = <dL/dx, u> + O(h^2)            (central difference: the error falls with h squared)
              2 h

The left side needs the forward only. `gradcheck` computes it in float64, compares it with the right side, and reports
the first place where they differ.

* Small inputs: element by element, u = each unit vector in turn, so that a report names the element.
* Large inputs: along a few random directions, *one input at a time*: an error in any element shows with probability
  one, and an error in one input cannot hide behind another's.
* An output that is not a scalar is reduced with fixed random weights, L = sum(w * out). Plain sum() would blind the
  check to errors that cancel, such as softmax's, whose outputs always sum to one.

Step and tolerance. Truncation costs about h^2, rounding about 1e-16 / h: their sum is least near h = 1e-5 to 1e-6,
where both are about 1e-10 relative to the loss. The default tolerance of 1e-6 leaves four digits of room for curvature,
and is a thousand times finer than the 0.1 % errors that the tests plant.

What counts as the loss's own magnitude is the root of the sum of squares of what is summed, so that it follows the
function, whether its values are of size 1e-12 or 1e12, and does not vanish where terms cancel. Where something large
cancels *inside* the function, its noise is larger than its values show: where a comparison would fail, it is measured
how far rounding alone carries the loss (see `rounding.py`), and a difference below ten times that says nothing. What
passes for that reason only is looked at again with larger steps, whose differences are larger and have the same noise.

Besides the values, a watch tests every operation's contract while the check runs: see `contract.py`.

Source: Nocedal & Wright, Numerical Optimization, 2nd ed. 2006, section 8.1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor, no_grad
from tinygpt.autograd.contract import Contract
from tinygpt.autograd.rounding import Perturbation
from tinygpt.autograd.watch import watching
from tinygpt.runtime.aliases import aliases
from tinygpt.runtime.seeds import check_seed


class GradientCheckError(AssertionError):
    """A backward disagrees with finite differences, or an operation breaks its contract."""


@aliases()
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
        to 1e-3 of the loss's own magnitude, and ten times what its rounding does, below which float64 differences
        with this step carry no information; larger steps are tried then).
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
        Names the op, the input, the index (or direction) and both values; or the op and what it does besides:
        writing into `dout`, `saved` or its inputs, handing out memory that it writes later, another result the second
        time.
    ValueError
        If no input is given, an input is not a float array, or `step` is too small for the numbers in it.

    Examples
    --------
    >>> import numpy as np, tinygpt
    >>> x = np.linspace(-1, 1, 6).reshape(2, 3)
    >>> tinygpt.gradcheck(lambda x: (x * x).sum(axis=0), [x])
    True
    """
    if isinstance(inputs, (Tensor, np.ndarray, str, bytes, Mapping)) or not isinstance(inputs, Iterable):
        got = type(inputs).__name__
        raise TypeError(f"gradcheck: inputs must be a list of arrays, one for each argument of f, got {got}; write [x]")
    arrays = [_float64(value, index) for index, value in enumerate(inputs)]
    if not arrays:
        raise ValueError("gradcheck: needs at least one input, got none")
    check_seed("gradcheck", seed)
    rng = np.random.default_rng(seed)
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    _check_arguments(f, len(tensors))
    before = [array.copy() for array in arrays]
    with watching(Contract(_gradcheck_error)):
        out = f(*tensors)
        name = _name_of(f, out)
        weights = rng.standard_normal(out.shape)
        magnitude = loss_magnitude(out.data, weights)
        out.backward(weights)

    def loss() -> float:
        with no_grad():
            return float(np.sum(f(*(Tensor(array) for array in arrays)).data * weights))

    noise = _noise_of(loss)
    _check_repeatable(name, loss, magnitude, arrays, before)
    for index, (array, tensor) in enumerate(zip(arrays, tensors, strict=True)):
        gradient = np.zeros_like(array) if tensor.grad is None else tensor.grad
        comparison = _Comparison(f"gradcheck: {name}, input {index}", tolerance, magnitude, noise, step)
        if array.size <= elementwise_limit:
            _check_elements(comparison, loss, array, gradient, step)
        else:
            _check_directions(comparison, loss, array, gradient, step, rng, directions)
    return True


def _gradcheck_error(message: str) -> GradientCheckError:
    return GradientCheckError(f"gradcheck: {message}")


def loss_magnitude(out: np.ndarray, weights: np.ndarray) -> float:
    """
    The magnitude of sum(weights * out) as rounding sees it: independent errors of the terms add up as squares do.

    Examples
    --------
    >>> loss_magnitude(np.array([3.0, -4.0]), np.array([1.0, 1.0]))
    5.0
    """
    with np.errstate(all="ignore"):
        terms = out * weights
        magnitude = max(float(np.linalg.norm(terms.reshape(-1))), abs(float(np.sum(terms))))
    return magnitude if np.isfinite(magnitude) else 0.0


def _check_repeatable(name: str, loss: Callable[[], float], magnitude: float, arrays: Any, before: Any) -> None:
    first, second = loss(), loss()
    if not (first == second or abs(first - second) <= 1e-12 * magnitude or first != first):
        raise GradientCheckError(
            f"gradcheck: {name}: f gives {first:.10g}, and {second:.10g} the second time; pass seeds, not generators"
        )
    for index, (array, copy) in enumerate(zip(arrays, before, strict=True)):
        if array.tobytes() != copy.tobytes():
            raise GradientCheckError(f"gradcheck: {name}: f writes into input {index}; compute into a new array")


class _Comparison:
    """Decides whether two derivatives agree, and words the error if they do not."""

    def __init__(self, who: str, tolerance: float, magnitude: float, noise: Callable[[], float], step: float) -> None:
        self.who, self.tolerance, self.step = who, tolerance, step
        self.floor, self.noise = 1e-3 * magnitude, noise

    def __call__(self, where: str, analytic: float, numeric: float, scale: float, at: Callable[[float], Any]) -> None:
        """Raise unless they agree. `at(step)` gives the derivative and its difference with another step."""
        allowed, gap = self.tolerance * max(scale, self.floor), abs(analytic - numeric)
        # `not <=` rather than `>`: a NaN on either side must fail too; an infinity makes the allowance infinite as well
        if not gap <= allowed and np.isfinite(gap):
            allowed += 10 * self.noise() / self.step
        if not gap <= allowed or np.isinf(gap):
            self._fail(where, analytic, numeric, allowed, self.step)
        if gap > self.tolerance * scale:  # within the noise of this step, which a larger one has less of
            for step in self.step * 10.0 ** np.arange(1, 5):
                self._look_again(where, numeric, allowed, scale, at, float(step))

    def _look_again(self, where: str, numeric: float, blur: float, scale: float, at: Any, step: float) -> None:
        with np.errstate(all="ignore"):
            (analytic, larger), (_, half) = at(step), at(step / 2)
        curvature = 4 * abs(larger - half)  # falls with h^2: a third of it is the error at h / 2
        noise = 10 * self.noise() / step + self.tolerance * self.floor * self.step / step
        allowed = self.tolerance * scale + noise + curvature
        # Only what the first step could not have seen counts: else there is a corner between them, or a pole.
        if abs(larger - numeric) <= blur and abs(analytic - larger) > allowed:
            self._fail(where, analytic, larger, allowed, step)

    def _fail(self, where: str, analytic: float, numeric: float, allowed: float, step: float) -> None:
        raise GradientCheckError(
            f"{self.who}, {where}: backward gives {analytic:.10g}, finite differences give {numeric:.10g} "
            f"(they differ by {abs(analytic - numeric):.3g}, {allowed:.3g} is allowed)"
        )


def _noise_of(loss: Callable[[], float]) -> Callable[[], float]:
    """The effect of rounding on the loss, measured at the first call."""
    measured: list[float] = []

    def noise() -> float:
        if not measured:
            values = []
            for seed in range(8):
                with watching(Perturbation(seed)), np.errstate(all="ignore"):
                    values.append(loss())
            spread = float(np.std(values)) * Perturbation.share
            measured.append(spread if np.isfinite(spread) else 0.0)
        return measured[0]

    return noise


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
        numeric[index] = _difference(loss, array, index, step)
    return numeric


def _difference(loss: Callable[[], float], array: np.ndarray, index: tuple[int, ...], step: float) -> float:
    before = array[index]
    above, below = before + step, before - step
    array[index] = above
    loss_above = loss()
    array[index] = below
    loss_below = loss()
    array[index] = before
    if above == below:
        raise ValueError(_lost(step, float(before)))
    return (loss_above - loss_below) / float(above - below)  # what was stored, not 2 h: a large x is rounded


def _lost(step: float, number: float) -> str:
    return f"gradcheck: step {step:g} is lost beside a number like {number:g}; pass a larger step"


def _check_elements(compare: _Comparison, loss: Callable[[], float], array, gradient, step: float) -> None:
    numeric = numeric_gradient(loss, array, step)
    scale = max(np.max(np.abs(numeric), initial=0), np.max(np.abs(gradient), initial=0))
    for index in np.ndindex(array.shape):
        analytic = float(gradient[index])

        def at(step: float, index: tuple[int, ...] = index, analytic: float = analytic) -> tuple[float, float]:
            return analytic, _difference(loss, array, index, step)

        compare(f"index {tuple(map(int, index))}", analytic, float(numeric[index]), scale, at)


def _check_directions(compare: _Comparison, loss, array, gradient, step: float, rng, directions: int) -> None:
    before = array.copy()
    for number in range(directions):
        direction = rng.standard_normal(array.shape)
        direction /= np.linalg.norm(direction)

        def at(step: float, direction: np.ndarray = direction) -> tuple[float, float]:
            np.add(before, step * direction, out=array)
            above, moved = loss(), array.copy()
            np.subtract(before, step * direction, out=array)
            below = loss()
            moved -= array  # what was stored, not 2 h: a large x is rounded
            np.copyto(array, before)
            if not moved.any():
                raise ValueError(_lost(step, float(before.flat[0])))
            return float(np.sum(gradient * (moved / (2 * step)))), (above - below) / (2 * step)

        analytic, numeric = at(step)
        # Along a random unit vector a gradient g of n elements shows about |g| / sqrt(n): the scale to judge by.
        scale = max(abs(numeric), abs(analytic), np.linalg.norm(gradient) / np.sqrt(array.size))
        compare(f"random direction {number}", analytic, numeric, scale, at)


def _check_arguments(f: Callable[..., Any], inputs: int) -> None:
    """Raise TypeError unless `f` takes one argument per input."""
    try:
        inspect.signature(f).bind(*range(inputs))
    except ValueError:  # nothing is known of it, as of some functions in C
        return
    except TypeError as error:
        raise TypeError(
            f"gradcheck: f must take one argument per input, got {inputs} and this: {error}; write [[1.0, 2.0]] for "
            "one input of two numbers"
        ) from None


def _float64(value: Any, index: int) -> np.ndarray:
    try:
        array = np.array(value.data if isinstance(value, Tensor) else value)
    except ValueError:  # NumPy says "inhomogeneous shape"
        raise ValueError(
            f"gradcheck: input {index} must be a float array, got rows of different lengths; make an array of it"
        ) from None
    if array.dtype.kind != "f":
        raise ValueError(f"gradcheck: input {index} must be a float array, got {array.dtype}; bind it inside f instead")
    return array.astype(np.float64)


def _name_of(f: Callable[..., Any], out: Any) -> str:
    if not isinstance(out, Tensor) or out.node is None:
        raise ValueError(
            f"gradcheck: {getattr(f, '__name__', f)} must return a Tensor that depends on its inputs, got {out!r}; "
            "compute with tensors throughout, without .data, detach() and item()"
        )
    return "identity" if out.node.op is None else out.node.op.name

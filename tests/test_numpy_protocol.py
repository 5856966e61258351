"""NumPy's functions on tensors: the gradient is kept, refused by name, or was never there. Never dropped silently."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

import tinygpt
import tinygpt.functional as F
from tinygpt import Tensor, gradcheck, no_grad
from tinygpt.ops.numpy_dispatch import WRITE_INSTEAD

A = np.random.default_rng(5).standard_normal((2, 3))
B = np.random.default_rng(6).standard_normal((2, 3))

MAPPED = {
    "concatenate": lambda x: np.concatenate([x, B, x], axis=1),
    "concatenate, flat": lambda x: np.concatenate((x, x), axis=None),
    "concatenate, by keyword": lambda x: np.concatenate([B, x], axis=-1, out=None),
    "stack": lambda x: np.stack([x, B], axis=1),
    "vstack": lambda x: np.vstack([x, B, x[0]]),
    "hstack": lambda x: np.hstack([x, B]),
    "hstack of vectors": lambda x: np.hstack([x[0], x[1]]),
    "split": lambda x: np.split(x, 3, axis=1)[1],
    "split at places": lambda x: np.split(x, [1, 2], 1)[2],
    "array_split": lambda x: np.array_split(x, 2, axis=1)[0],
    "take": lambda x: np.take(x, [2, 0, 2], axis=1),
    "take nothing": lambda x: np.take(x, []),
    "take of a number": lambda x: np.take(x[0, 0], [0, 0], axis=0),
    "dstack": lambda x: np.dstack([x, B]),
    "dstack of vectors": lambda x: np.dstack([x[0], x[1]]),
    "column_stack": lambda x: np.column_stack([x[:, 0], B]),
    "append": lambda x: np.append(x, [1.0]),
    "append, axis": lambda x: np.append(B, x, axis=1),
    "atleast_1d": lambda x: np.atleast_1d(x[0, 0]),
    "atleast_2d": lambda x: np.atleast_2d(x[0]),
    "atleast_3d": lambda x: np.atleast_3d(x),
    "atleast_3d of several": lambda x: np.atleast_3d(x, x[0])[1],
    "diag of a matrix": lambda x: np.diag(x, 1),
    "diag of a vector": lambda x: np.diag(x[0], 1),
    "diag below": lambda x: np.diag(x[0], k=-2),
    "flipud": lambda x: np.flipud(x),
    "fliplr": lambda x: np.fliplr(x),
    "rot90": lambda x: np.rot90(x),
    "rot90, thrice": lambda x: np.rot90(np.stack([x, x]), -1, axes=(1, 2)),
    "rot90, twice": lambda x: np.rot90(x, 2),
    "roll": lambda x: np.roll(x, 2),
    "roll, backwards": lambda x: np.roll(x, -4, axis=1),
    "roll, shifts in a row": lambda x: np.roll(x, (1, 1)),
    "roll, nowhere": lambda x: np.roll(x, ()),
    "roll, two axes": lambda x: np.roll(x, (1, 2), axis=(0, 1)),
    "diff": lambda x: np.diff(x),
    "diff, twice": lambda x: np.diff(np.concatenate([x, B]), 2, axis=0),
    "ptp": lambda x: np.ptp(x, axis=1),
    "copy": lambda x: np.copy(x),
    "nan_to_num": lambda x: np.nan_to_num(np.where(A > 0, x, np.nan), nan=0.5),
    "linspace": lambda x: np.linspace(x[0], x[1, 0], 5),
    "linspace, NumPy's defaults": lambda x: np.linspace(x[0], 1.0, 3, retstep=False, axis=0),
    "linspace without its end": lambda x: np.linspace(x[0, 0], 2, num=4, endpoint=False),
    "sinc": lambda x: np.sinc(x),
    "take, flat": lambda x: np.take(x, [[5, 0], [1, 1]]),
    "where": lambda x: np.where(A > 0, x, 0.5),
    "where, second": lambda x: np.where(A > 0, B, x),
    "reshape": lambda x: np.reshape(x, (3, -1)),
    "reshape to a vector": lambda x: np.reshape(x, 6),
    "ravel": lambda x: np.ravel(x),
    "transpose": lambda x: np.transpose(x),
    "transpose, axes": lambda x: np.transpose(x, (1, 0)),
    "moveaxis": lambda x: np.moveaxis(np.stack([x, x]), 0, -1),
    "moveaxis, two": lambda x: np.moveaxis(np.stack([x, x]), [0, 2], [1, 0]),
    "swapaxes": lambda x: np.swapaxes(x, 0, -1),
    "expand_dims": lambda x: np.expand_dims(x, (0, 2)),
    "squeeze": lambda x: np.squeeze(np.expand_dims(x, 1), axis=1),
    "broadcast_to": lambda x: np.broadcast_to(x, (4, 2, 3)),
    "sum": lambda x: np.sum(x),
    "sum, axis": lambda x: np.sum(x, 0, keepdims=True),
    "mean": lambda x: np.mean(x, axis=(0, 1)),
    "var": lambda x: np.var(x, 1, ddof=1),
    "std": lambda x: np.std(x, axis=0),
    "max": lambda x: np.max(x, axis=1),
    "amin": lambda x: np.amin(x),
    "dot": lambda x: np.dot(x, B.T),
    "dot of vectors": lambda x: np.dot(x[0], x[1]),
    "dot with a number": lambda x: np.dot(3.0, x),
    "inner": lambda x: np.inner(x, B),
    "inner with a number": lambda x: np.inner(2.0, x),
    "inner of a number": lambda x: np.inner(x[0, 0], B),
    "inner of batches": lambda x: np.inner(np.stack([x, x]), np.stack([B, B, B])),
    "dot with a batch": lambda x: np.dot(x, np.stack([B.T, B.T])),
    "vdot": lambda x: np.vdot(x, B),
    "tensordot": lambda x: np.tensordot(x, B),
    "tensordot, one axis": lambda x: np.tensordot(x, np.stack([B.T, B.T, B.T]), 1),
    "tensordot, no axis": lambda x: np.tensordot(x, B, axes=0),
    "tensordot, pairs of axes": lambda x: np.tensordot(B, np.stack([x, x]), ([1, 0], [-1, 1])),
    "outer": lambda x: np.outer(x, B[0]),
    "einsum": lambda x: np.einsum("ij->i", x),
    "einsum, second operand": lambda x: np.einsum("ij,ij->i", B, x, optimize=True),
    "linalg.norm": lambda x: np.linalg.norm(x),
    "linalg.norm, axis": lambda x: np.linalg.norm(x, 1, axis=0, keepdims=True),
    "linalg.matmul": lambda x: np.linalg.matmul(x, B.T),
    "prod": lambda x: np.prod(x, axis=1, keepdims=True),
    "cumsum": lambda x: np.cumsum(x, axis=1),
    "cumsum, flat": lambda x: np.cumsum(x),
    "sort": lambda x: np.sort(x, axis=0),
    "sort, flat": lambda x: np.sort(x, axis=None),
    "flip": lambda x: np.flip(x),
    "tile": lambda x: np.tile(x, (2, 1, 3)),
    "repeat": lambda x: np.repeat(x, 2),
    "repeat, axis": lambda x: np.repeat(x, [0, 1, 3], axis=1),
    "pad": lambda x: np.pad(x, 1),
    "pad, pairs": lambda x: np.pad(x, ((1, 2), (0, 1)), constant_values=0.5),
    "pad, one pair": lambda x: np.pad(x, (1, 2)),
    "take_along_axis": lambda x: np.take_along_axis(x, np.array([[2, 0], [1, 1]]), axis=1),
    "take_along_axis, stretched": lambda x: np.take_along_axis(x, np.array([[1, 1, 2]]), axis=1),
    "take_along_axis, flat": lambda x: np.take_along_axis(x, np.array([5, 0, 5]), axis=None),
    "diagonal": lambda x: np.diagonal(np.stack([x, x]), 1, 1, 2),
    "trace": lambda x: np.trace(x, offset=-1),
    "tril": lambda x: np.tril(x, -1),
    "triu": lambda x: np.triu(x),
    "multiply.reduce": lambda x: np.multiply.reduce(x, axis=1),
    "exp": lambda x: np.exp(x),
    "log": lambda x: np.log(x * x + 1.0),
    "sqrt": lambda x: np.sqrt(x * x + 1.0),
    "tanh": lambda x: np.tanh(x),
    "square": lambda x: np.square(x),
    "reciprocal": lambda x: np.reciprocal(x),
    "negative": lambda x: np.negative(x),
    "positive": lambda x: np.positive(x),
    "power": lambda x: np.power(x, 3),
    "power of two tensors": lambda x: np.power(x * x + 1.0, x),
    "remainder": lambda x: np.remainder(x, abs(B)),
    "clip": lambda x: np.clip(x, -0.5, 0.5),
    "clip, one bound": lambda x: np.clip(x, None, abs(B)),
    "clip, by keyword": lambda x: np.clip(x, a_min=-0.5, a_max=None),
    "absolute": lambda x: np.abs(x),
    "fabs": lambda x: np.fabs(x),
    "sin": lambda x: np.sin(x),
    "cos": lambda x: np.cos(x),
    "log1p": lambda x: np.log1p(x * x),
    "expm1": lambda x: np.expm1(x),
    "log2": lambda x: np.log2(x * x),
    "log10": lambda x: np.log10(x * x),
    "exp2": lambda x: np.exp2(x),
    "sinh": lambda x: np.sinh(x),
    "tan": lambda x: np.tan(x),
    "arctanh": lambda x: np.arctanh(0.3 * x),
    "deg2rad": lambda x: np.deg2rad(x),
    "radians": lambda x: np.radians(x),
    "rad2deg": lambda x: np.rad2deg(x),
    "degrees": lambda x: np.degrees(x),
    "hypot": lambda x: np.hypot(x, B),
    "logaddexp2": lambda x: np.logaddexp2(B, x),
    "cosh": lambda x: np.cosh(x),
    "logaddexp": lambda x: np.logaddexp(x, B),
    "maximum": lambda x: np.maximum(x, B),
    "minimum": lambda x: np.minimum(0.1, x),
    "add": lambda x: np.add(B, x),
    "subtract": lambda x: np.subtract(B, x),
    "multiply": lambda x: np.multiply(x, x),
    "divide": lambda x: np.divide(B, x),
    "matmul": lambda x: np.matmul(B.T, x),
    "add.reduce": lambda x: np.add.reduce(x),
    "add.reduce, axis": lambda x: np.add.reduce(x, axis=1, keepdims=True),
    "maximum.reduce": lambda x: np.maximum.reduce(x, axis=1),
    "array + tensor": lambda x: B + x,
    "scalar - tensor": lambda x: np.float64(2) - x,
    "array @ tensor": lambda x: B.T @ x,
    "array / tensor": lambda x: B / x,
    "array % tensor": lambda x: B % x,
    "array ** tensor": lambda x: abs(B) ** x,
}


@pytest.mark.parametrize("name", MAPPED)
def test_what_is_mapped_has_numpys_values_and_the_right_gradient(name):
    f = MAPPED[name]
    out = f(Tensor(A.copy(), requires_grad=True))
    assert isinstance(out, Tensor) and out.requires_grad
    expected = f(A)
    np.testing.assert_allclose(out.data, expected, rtol=1e-14)
    assert out.shape == np.shape(expected)
    assert gradcheck(f, [A])


@pytest.mark.parametrize("name", MAPPED)
def test_a_tensor_without_gradient_acts_as_its_array(name):
    out, expected = MAPPED[name](Tensor(A.copy())), MAPPED[name](A)
    np.testing.assert_array_equal(out, expected)
    if name in ("concatenate", "stack", "where", "reshape", "sum", "mean", "var", "max", "transpose", "exp", "tanh"):
        assert isinstance(out, (np.ndarray, np.generic))


REFUSED = {
    "linalg.inv": lambda x: np.linalg.inv(x[:, :2]),
    "fft.fft": lambda x: np.fft.fft(x),
    "median": lambda x: np.median(x),
    "interp": lambda x: np.interp([0.5], x[0], x[1]),
    "copyto": lambda x: np.copyto(np.zeros((2, 3)), x),
    "copyto, by full_like": lambda x: np.full_like(np.zeros(2), x[0, 0]),
    "bincount": lambda x: np.bincount([0, 1, 1], weights=x[0]),
    "cbrt": lambda x: np.cbrt(x),
    "arctan": lambda x: np.arctan(x),
    "arctan2": lambda x: np.arctan2(x, B),
    "fmod": lambda x: np.fmod(B, x),
    "add.at": lambda x: np.add.at(np.zeros(3), [0, 1, 1], x[0]),
    "add.accumulate": lambda x: np.add.accumulate(x),
    "multiply.outer": lambda x: np.multiply.outer(x, x),
    "modf": lambda x: np.modf(x),
    "sum: dtype=": lambda x: np.sum(x, dtype=np.float32),
    "sum: dtype by place": lambda x: np.sum(x, 0, np.float32),
    "sum: where=": lambda x: np.sum(x, where=A > 0),
    "max: initial=": lambda x: np.max(x, initial=0.0),
    "mean: out=": lambda x: np.mean(x, axis=0, out=np.zeros(3)),
    "concatenate: out=": lambda x: np.concatenate([x, x], out=np.zeros((4, 3))),
    "exp: where=": lambda x: np.exp(x, where=A > 0),
    "exp: dtype=": lambda x: np.exp(x, dtype=np.float32),
    "reshape: order": lambda x: np.reshape(x, 6, order="F"),
    "take: mode": lambda x: np.take(x, [7], mode="clip"),
    "linalg.norm of a matrix": lambda x: np.linalg.norm(x, 1),
    "var: correction=": lambda x: np.var(x, correction=1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_gradient_here_is_refused_by_name(name):
    words = name.split(":")[0].split(",")[0].split(" ")[0]
    with pytest.raises(TypeError, match=rf"^np\.(\w+\.)?{words.split('.')[-1]}|^np\.{words}"):
        REFUSED[name](Tensor(A.copy(), requires_grad=True))


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in ("interp", "linalg.inv", "exp: where=")])
def test_it_works_once_the_gradient_is_given_up(name):
    calls = REFUSED[name], Tensor(A.copy()), A
    np.testing.assert_array_equal(calls[0](calls[1]), calls[0](calls[2]))
    with no_grad():  # nothing is recorded, so that nothing is lost
        weight = Tensor(A.copy(), requires_grad=True)
        if ":" not in name:
            np.testing.assert_array_equal(calls[0](weight), calls[0](A))


def test_each_remedy_is_tried():
    assert set(INSTEAD) == set(WRITE_INSTEAD)


SCALAR, V = np.array(3.0), np.arange(3.0)
WRONG = {  # what NumPy refuses, too
    "np.take": [(V, 0, 1), (SCALAR, 0, 1)],
    "np.split": [(V, 2), (V, 0), (V, 2.5), (SCALAR, 1), (V, 2, 3)],
    "np.array_split": [(V, 0), (V, -1), (SCALAR, 1), (V, 2, 3)],
    "np.sort": [(SCALAR,), (SCALAR, 0), (V, 1)],
    "np.flip": [(SCALAR, 0), (V, 1)],
    "np.flipud": [(SCALAR,)],
    "np.fliplr": [(V,)],
    "np.rot90": [(V,)],
    "np.roll": [(SCALAR, 1, 0), (V, 1, 1)],
    "np.repeat": [(SCALAR, 2, 1)],
    "np.pad": [(SCALAR, -1), (V, -1), (V, [[1, 2], [3]]), (np.eye(2), ((1, 1),) * 3)],
    "np.cumsum": [(SCALAR, 1)],
    "np.diff": [(SCALAR,), (V, 1, 1)],
    "np.mean": [(SCALAR, 0)],
    "np.var": [(SCALAR, 0), (SCALAR, np.int64(0))],
    "np.std": [(SCALAR, 0)],
    "np.linalg.norm": [(SCALAR, None, 0)],
    "np.take_along_axis": [(SCALAR, np.array(0), 0)],
    "np.swapaxes": [(SCALAR, 0, 0), (SCALAR, 5, 0), (V, 0, 1)],
    "np.diag": [(SCALAR,), (V, 0.5)],
    "np.tile": [(V, 1.5)],
    "np.inner": [(V, np.ones((2, 4))), (V, np.ones(1))],
    "np.tensordot": [(np.eye(2), np.eye(3), 1), (np.eye(2), np.eye(2), 3), (V, np.ones(1), 1)],
}


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, calls in WRONG.items() for args in calls], ids=str)
def test_what_numpy_refuses_is_refused_in_our_words(name, args):
    function = np.linalg.norm if name == "np.linalg.norm" else getattr(np, name[3:])
    with pytest.raises((ValueError, TypeError, IndexError, ZeroDivisionError)):
        function(*args)
    with pytest.raises((ValueError, TypeError)) as error:
        function(Tensor(args[0], requires_grad=True), *args[1:])
    assert re.match(r"(np\.)?[a-z_0-9.]+: .*(got|in shape|not possible|must)", str(error.value))


def test_an_axis_of_a_number_is_taken_where_numpy_takes_it():
    z = Tensor(3.0, requires_grad=True)
    for call in (lambda a: np.cumsum(a, 0), lambda a: np.repeat(a, 2, axis=0), lambda a: np.take(a, 0, axis=-1),
                 lambda a: np.sum(a, axis=0), lambda a: np.max(a, axis=-1), lambda a: np.squeeze(a, 0)):  # fmt: skip
        out, expected = call(z), call(np.array(3.0))
        assert out.requires_grad and out.shape == np.shape(expected)


def test_the_refusal_says_what_to_write():
    x = Tensor(A, requires_grad=True)
    with pytest.raises(TypeError, match=r"np\.cbrt: has no gradient here.*write sign\(x\).*; .*x\.detach\(\)"):
        np.cbrt(x)
    with pytest.raises(TypeError, match=r"np\.linalg\.norm: a matrix norm, ord=1, has no gradient here; give one axis"):
        np.linalg.norm(x, 1)


POSITIVE, VECTOR = abs(A) + 0.5, np.sort(B[0])
NANS = np.where(A > 0.5, np.nan, A)
INSTEAD = {  # what is refused, and the arrays that the remedy reads; those of floats require a gradient
    "add.accumulate": ("np.add.accumulate(x)", {"x": A}),
    "arccos": ("np.arccos(x)", {"x": A / 4}),
    "arccosh": ("np.arccosh(x)", {"x": POSITIVE + 1}),
    "arcsin": ("np.arcsin(x)", {"x": A / 4}),
    "arcsinh": ("np.arcsinh(x)", {"x": A}),
    "arctan": ("np.arctan(x)", {"x": A}),
    "arctan2": ("np.arctan2(a, b)", {"a": A, "b": B}),
    "average": ("np.average(x, weights=weights)", {"x": A, "weights": POSITIVE}),
    "block": ("np.block([[a, b], [c, d]])", {"a": A, "b": B, "c": B, "d": A}),
    "cbrt": ("np.cbrt(x)", {"x": A}),
    "copysign": ("np.copysign(a, b)", {"a": A, "b": B}),
    "cumprod": ("np.cumprod(x)", {"x": POSITIVE}),
    "delete": ("np.delete(x, i, axis=0)", {"x": A, "i": np.array(1)}),
    "float_power": ("np.float_power(x, p)", {"x": POSITIVE, "p": B}),
    "fmax": ("np.fmax(a, b)", {"a": A, "b": B}),
    "fmin": ("np.fmin(a, b)", {"a": A, "b": B}),
    "fmod": ("np.fmod(a, b)", {"a": 3 * A, "b": B}),
    "gradient": ("np.gradient(x)", {"x": A.ravel()}),
    "heaviside": ("np.heaviside(x, h)", {"x": np.array([-1, 0, 2]), "h": np.array([0.1, 0.2, 0.3])}),
    "hsplit": ("np.hsplit(x, n)", {"x": A, "n": np.array(3)}),
    "insert": ("np.insert(x, i, values)", {"x": A[0], "i": np.array(1), "values": B[0]}),
    "interp": ("np.interp(x, xp, fp)", {"x": np.linspace(VECTOR[0], VECTOR[-1], 8)[:-1], "xp": VECTOR, "fp": A[0]}),
    "kron": ("np.kron(a, b)", {"a": A, "b": B.T}),
    "logaddexp.reduce": ("np.logaddexp.reduce(x)", {"x": A}),
    "median": ("np.median(x)", {"x": A}),
    "modf": ("np.modf(x)[0]", {"x": A}),
    "multiply.outer": ("np.multiply.outer(a, b)", {"a": A[0], "b": B[1]}),
    "nanmax": ("np.nanmax(x)", {"x": NANS}),
    "nanmean": ("np.nanmean(x)", {"x": NANS}),
    "nanmin": ("np.nanmin(x)", {"x": NANS}),
    "nansum": ("np.nansum(x)", {"x": NANS}),
    "vecdot": ("np.vecdot(a, b)", {"a": A, "b": B}),
    "vsplit": ("np.vsplit(x, n)", {"x": A, "n": np.array(2)}),
}


def evaluated(code, names):
    """What a remedy computes: an expression, perhaps with ", with name = expression" and ", for" its limits behind."""
    code, _, definition = code.partition(", for ")[0].partition(", with ")
    scope = {"tinygpt": tinygpt, "np": np, **{name: getattr(F, name) for name in F.__all__}, **names}
    exec(definition, scope)
    value = eval(code, scope)
    return np.concatenate(value) if isinstance(value, list) else value


@pytest.mark.parametrize("name", WRITE_INSTEAD)
def test_a_remedy_is_code_that_has_numpys_value_and_the_gradient(name):
    remedy, (call, arrays) = WRITE_INSTEAD[name], INSTEAD[name]
    floats = {key: array for key, array in arrays.items() if array.dtype.kind == "f"}

    def with_gradient(*tensors):
        return evaluated(remedy, arrays | dict(zip(floats, tensors, strict=True)))

    tensors = {key: Tensor(array.copy(), requires_grad=True) for key, array in floats.items()}
    if hasattr(np, call[3:].split("(")[0].split(".")[0]):  # NumPy 1 has no vecdot
        np.testing.assert_allclose(with_gradient(*tensors.values()).data, evaluated(call, arrays), rtol=1e-12)
        with pytest.raises(TypeError, match=rf"np\.{re.escape(name)}: .*write {re.escape(remedy)}; "):
            evaluated(call, arrays | tensors)
    out = with_gradient(*tensors.values())
    assert out.requires_grad
    if not any(np.isnan(array).any() for array in floats.values()):
        assert gradcheck(with_gradient, list(floats.values()))
    else:
        out.sum().backward()
        assert np.isfinite(tensors["x"].grad).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_that_a_tensor_is_added_to_in_place_is_refused(dtype):
    total, x = np.zeros(2, dtype), Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"np\.add: cannot write into an array.*write a = a \+ x and not a \+= x"):
        total += x
    assert isinstance(total, np.ndarray) and not total.any()
    total += x.detach()
    assert isinstance(total, np.ndarray) and total.tolist() == [1, 2]


WITHOUT = {
    "comparisons": lambda x: [np.isfinite(x), np.isnan(x), np.allclose(x, x), np.array_equal(x, B), np.sign(x)],
    "places": lambda x: [np.argmax(x), np.argmin(x, axis=1), np.argsort(x), *np.nonzero(x), np.argwhere(x)],
    "where": lambda x: [*np.where(x)],
    "shapes": lambda x: [np.shape(x), np.ndim(x), np.size(x), np.size(x, 1)],
    "like": lambda x: [np.zeros_like(x), np.ones_like(x), np.full_like(x, 7.0), np.empty_like(x).shape],
    "rounding": lambda x: [np.round(x, 1), np.floor(x), np.ceil(x), np.rint(x), np.trunc(x)],
    "kinds": lambda x: [np.result_type(x) == np.float64, np.isrealobj(x), np.may_share_memory(x, x)],
    "truth": lambda x: [np.any(x), np.all(x), np.count_nonzero(x), np.logical_and(x, B), np.isin(x, [1.0])],
    "searching": lambda x: [np.searchsorted([0.0, 1.0], x), np.digitize(x, [0.0])],
    "text": lambda x: [len(np.array2string(x)), len(np.array_repr(x)), len(np.array_str(x))],
    "nans": lambda x: [np.nanargmax(x)],
}


@pytest.mark.parametrize("name", WITHOUT)
def test_what_has_no_gradient_gets_the_array(name):
    for tensor in (Tensor(A.copy(), requires_grad=True), Tensor(A.copy()), Tensor(A.copy(), requires_grad=True) * 1.0):
        for ours, theirs in zip(WITHOUT[name](tensor), WITHOUT[name](A), strict=True):
            assert not isinstance(ours, Tensor)
            np.testing.assert_array_equal(ours, theirs)


def test_masks_and_whole_quotients_are_tensors_beside_an_array_on_the_left():
    mask, x = A > 0, Tensor(A.copy(), requires_grad=True)
    for out, expected in (
        (mask & (x > 0.5), A > 0.5), (mask | (x > -0.5), A > -0.5), (mask ^ (x > 0), np.zeros((2, 3), bool)),
        (B // x, B // A), (np.invert(x > 0), A <= 0), (divmod(B, x)[0], B // A), (divmod(B, x)[1], B % A),
    ):  # fmt: skip
        assert isinstance(out, Tensor)
        np.testing.assert_array_equal(out.data, expected)
    with pytest.raises(TypeError, match=r"&: needs boolean or integer operands, got float64"):
        mask & x


@pytest.mark.parametrize("compare", [np.less, np.equal, np.greater_equal])
def test_comparisons_are_tensors_of_truth_values_as_by_the_operators(compare):
    x = Tensor(A.copy(), requires_grad=True)
    for out in (compare(x, B), compare(B, x), compare(x, 0.5)):
        assert isinstance(out, Tensor) and out.dtype == bool
    np.testing.assert_array_equal(compare(x, B).data, compare(A, B))
    np.testing.assert_array_equal((x > B).data, B < A)


def test_files_testing_and_random_numbers_read_the_values(tmp_path):
    x = Tensor(A.copy(), requires_grad=True)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, y=x * 2)
    np.savetxt(tmp_path / "x.txt", x)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), A)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["y"], 2 * A)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "x.txt"), A)
    np.testing.assert_allclose(x, A)
    np.testing.assert_array_equal(x, x)
    assert np.random.default_rng(0).permutation(x).shape == (2, 3)
    assert np.random.default_rng(0).choice(x[0], 5).shape == (5,)
    assert [part.shape for part in x] == [(3,), (3,)] and len(x) == 2


# numbers of tensors


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_list_of_losses_becomes_numbers(requires_grad):
    losses = [(Tensor([value], requires_grad=requires_grad) * 2.0).sum() for value in (1.0, 2.5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array(losses).tolist() == [2.0, 5.0]
        assert np.asarray(losses, np.float64).dtype == np.float64
        assert np.mean(losses) == 3.5
        assert np.array([Tensor(3), Tensor(4)]).tolist() == [3, 4]
        assert np.array([Tensor([1.0]), Tensor([2.0])]).shape == (2, 1)
        array = np.zeros(2)
        array[1] = losses[1]
    assert array.tolist() == [0, 5] and float(losses[0]) == 2.0


def test_torch_does_the_same_where_it_does_not_raise():
    """Recorded of torch 2.13: lists of detached losses become numbers; of recorded ones, np.array raises."""
    torch = pytest.importorskip("torch")
    losses = [torch.tensor([1.0], requires_grad=True).sum(), torch.tensor([2.5], requires_grad=True).sum()]
    assert np.array([loss.detach() for loss in losses]).tolist() == [1.0, 2.5]
    assert float(losses[1].detach()) == 2.5
    with pytest.raises(RuntimeError, match="Can't call numpy"):
        np.array(losses)
    with pytest.raises(TypeError, match="must be tuple of Tensors, not Tensor"):
        torch.stack(torch.ones(2, 2))


@pytest.mark.parametrize("wrap", [list, tuple, lambda pair: [[pair[0]], [pair[1]]], lambda pair: [[1.0, pair[1]]]])
def test_a_tensor_of_tensors_that_require_gradients_is_refused(wrap):
    pair = [Tensor(1.0, requires_grad=True), Tensor([2.0], requires_grad=True).sum()]
    with pytest.raises(TypeError, match=r"got a list of tensors that require gradients.*stack\(\[a, b\]\)"):
        Tensor(wrap(pair))
    with pytest.raises(TypeError, match="list of tensors that require gradients"):
        Tensor([1.0]) * wrap(pair)
    assert Tensor(wrap([tensor.detach() for tensor in pair])).size == 2
    assert F.stack(pair).requires_grad


@pytest.mark.parametrize("join", [F.concatenate, F.stack])
def test_one_tensor_is_not_a_list_of_tensors(join):
    with pytest.raises(TypeError, match=rf"{join.__name__}: needs a list of tensors, got one of shape \(2, 3\)"):
        join(Tensor(A))
    with pytest.raises(TypeError, match=f"{join.__name__}: needs a list of tensors"):
        join("ab")


def test_operators_keep_their_rule_of_precision():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    for out in (np.float64(2) * x, np.array([1, 2]) * x, np.int64(3) + x, np.bool_(True) * x, np.float32(1) / x):
        assert out.dtype == np.float32 and out.requires_grad
    for out in (np.ones(2) * x, np.array(2.0) - x):
        assert out.dtype == np.float64 and out.requires_grad


def test_split_needs_equal_parts_and_array_split_does_not():
    x = Tensor(np.arange(5.0), requires_grad=True)
    assert [part.shape for part in np.array_split(x, 2)] == [(3,), (2,)]
    with pytest.raises(ValueError, match=r"^np\.split: 2 parts must divide the size 5 of axis 0; write np\.arr"):
        np.split(x, 2)


def test_nothing_is_taken_along_an_empty_axis():
    for axis in (1, -1):
        x = Tensor(np.ones((2, 0)), requires_grad=True)
        assert np.take_along_axis(x, np.zeros((2, 0), int), axis).shape == (2, 0)

"""
The docstrings' tables, executed: against the operations, against finite differences, and with a typo in every place, so
that words and code cannot part.
"""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from pathlib import Path

import derivations
import numpy as np
import pytest
from derivations import Nudge, forward, inputs_of, row_backward, row_forward, row_of, rows_of, table_of
from every_operation import assert_lists

import tinygpt.functional as F
from tinygpt import Tensor
from tinygpt.ops import basic, choices, elementwise, products, reductions, shapes
from tinygpt.ops.dropout import dropout_mask
from tinygpt.study.samples import SAMPLES, Sample, every_op, page_of

OPS = every_op()
PAGES = sorted(name for name, op in OPS.items() if op.forward.__module__.split(".")[-1] == name)
ROWS = sorted(set(OPS) - set(PAGES))
NOTATION = (Path(__file__).resolve().parents[1] / "docs" / "notation.md").read_text(encoding="utf-8")
SMALL = 150  # elements of all inputs together: these are differentiated entry by entry


def samples(name):
    assert name in SAMPLES, f"add {name} to SAMPLES in tinygpt/study/samples.py"
    other_dtype = [Sample([np.float32([[1, 2], [3, 5]])], {"dtype": np.dtype(np.float64)})] if name == "astype" else []
    return other_dtype + [sample for sample in SAMPLES[name] if sum(array.size for array in sample.arrays) <= SMALL]


@cache
def reference(name):
    """For each sample: the result, a random gradient of it, the gradients, and the local names of both functions."""
    rng, op, runs = np.random.default_rng(8), OPS[name], []
    for sample in samples(name):
        (out, saved), made = with_locals(op.forward, *sample.arrays, **sample.attrs)
        dout = rng.standard_normal(np.shape(out))
        gradients, made_back = with_locals(op.backward, dout, saved)
        runs.append((sample, np.asarray(out), dout, gradients, made, made_back))
    assert runs, f"SAMPLES[{name!r}] in tinygpt/study/samples.py needs one of at most {SMALL} elements"
    return runs


def with_locals(function, *args, **kwargs):
    """What a function returns, and the arrays that its names, and those of the references it calls, hold in the end."""
    names = {}

    def profile(frame, event, _):
        if event == "return" and frame.f_code.co_name.endswith(("_forward", "_backward")):
            names.update({k: np.array(v) for k, v in frame.f_locals.items() if isinstance(v, (np.ndarray, np.generic))})

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        result = function(*args, **kwargs)
    finally:
        sys.setprofile(before)
    return result, names


def assert_equal(ours, theirs, name, tolerance=1e-12):
    ours = np.asarray(ours, np.float64)
    theirs = np.reshape(theirs, ours.shape) if np.size(theirs) == ours.size else theirs
    finite = np.abs(theirs[np.isfinite(theirs)])
    sides = f"{name}: the first array (ACTUAL) is what the table says, the second (DESIRED) what the code computes"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, finite.max(initial=0)), err_msg=sides)


# The tables against the operations


def check_page(name, docstring):
    """Raise unless a docstring's two columns are what the operation computes, name by name, step by step."""
    op = OPS[name]
    check_numbers(op, docstring)
    compared = 0
    for sample, out, dout, gradients, made, made_back in reference(name):
        page = forward(op, docstring, sample.arrays, sample.attrs)
        assert_equal(page[derivations.result_of(page)].values, out, "the result")
        compared += check_names(page, [*page.table.definitions, *page.table.forward], made)
        derivations.backward(page, dout)
        compared += check_names(page, page.table.backward, made_back)
        for each, gradient in zip(inputs_of(op, sample.arrays), gradients, strict=True):
            assert_equal(page["d" + each].values, gradient, "d" + each, 1e-11)
    return compared


def check_names(page, statements, made):
    """The names that table and code share hold the same numbers, in the shape that the glossary gives."""
    shared = {name for statement in statements for name in statement.names} & made.keys()
    for name in shared:
        counted = page["counted"].values if name == "nll" else 1.0  # of a target that does not count any number will do
        assert_equal(page[name].values * counted, made[name] * counted, name, 1e-11)
        axes, found = page.axes_of(name), made[name].shape
        told = tuple(1 if axis == "1" else page.sizes[axis] for axis in axes if axis not in ("...", "any"))
        leading = len(found) - len(told)
        assert found[leading:] == told and (leading == 0 or len(told) < len(axes)), (
            f"{name}: the glossary says ({', '.join(axes)}), here {told}, and the code has {found}"
        )
    return len(shared)


def check_numbers(op, docstring):
    table = table_of(docstring)
    for function, statements in ((op.forward, table.forward), (op.backward, table.backward)):
        for again in (False, True):
            told = {step for each in statements if (each.sign == "again") == again for step in each.steps}
            comments, kind = numbers_in(function, again), " again" * again
            lacking, surplus = (", ".join(map(str, sorted(steps))) for steps in (told - comments, comments - told))
            assert not lacking, (
                f"{function.__name__}: step {lacking}{kind} of the table is in no comment; write "
                f"# ({lacking}){kind} where the code computes it"
            )
            assert not surplus, f"{function.__name__}: a comment names step {surplus}{kind}, which the table lacks"


def numbers_in(function, again):
    """The step numbers of the comments of a function; those marked "again", or the others."""
    comments = re.findall(r"# \((\d+(?:, \d+)*)\)(.*)", inspect.getsource(function))
    return {int(step) for steps, rest in comments if rest.startswith(" again") == again for step in steps.split(", ")}


@pytest.mark.parametrize("name", PAGES)
def test_both_columns_are_the_operation_step_by_step_and_name_by_name(name):
    assert check_page(name, page_of(OPS[name])) >= len(reference(name))


def check_row(name, docstring):
    """Raise unless an operation's row is what it computes."""
    op = OPS[name]
    for sample, out, dout, gradients, *_ in reference(name):
        names = row_forward(op, docstring, sample.arrays, sample.attrs)
        made = [names["out"], *row_backward(op, docstring, names, dout.reshape(np.shape(names["out"])))]
        for ours, theirs in zip(made, [out, *gradients], strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape or name not in rows_of(shapes.__doc__)  # elsewhere, keepdims and vectors
            assert_equal(ours, theirs, "the result or a gradient", 1e-11)


@pytest.mark.parametrize("name", ROWS)
def test_each_row_is_its_operation(name):
    check_row(name, page_of(OPS[name]))


def test_every_operation_has_a_page_of_its_own_or_a_row():
    assert len(PAGES) >= 9 and len(ROWS) >= 26
    files = (basic, choices, elementwise, products, reductions, shapes)
    told = [name for file in files for name in rows_of(file.__doc__)]
    assert_lists(told, f"the tables of {', '.join(file.__name__ for file in files)}, or give it a file", ROWS)
    assert len(set(told)) == len(told)
    for name in ROWS:
        surprises = page_of(OPS[name]).partition("\nWhat surprises people here\n")[2]
        found = re.search(rf"^    {name} +\S", surprises, re.MULTILINE)
        assert found, f"add an entry {name} below 'What surprises people here' of its file"


def test_they_are_at_least_thirty_numbered_steps():
    steps = {(name, step) for name in PAGES for each in table_of(page_of(OPS[name])).forward for step in each.steps}
    assert len(steps) >= 30


# The tables against finite differences of themselves


def finite(array):
    return np.where(np.isfinite(array), array, 0.0)  # a masked score is minus infinity, whatever it was


def differences(f, value):
    """The derivative of the number f(change) by every entry of a change of `value`."""
    slopes = np.zeros_like(value)
    for index in np.ndindex(value.shape):
        change = np.zeros_like(value)
        change[index] = 1e-6
        slopes[index] = (f(change) - f(-change)) / 2e-6
    return slopes


def assert_derivative(claimed, numeric, name):
    assert claimed.shape == numeric.shape
    scale = max(1, np.abs(numeric).max(initial=0))
    np.testing.assert_allclose(claimed, numeric, rtol=0, atol=1e-8 * scale, err_msg=name)


@pytest.mark.parametrize("name", PAGES)
def test_each_gradient_of_a_page_is_the_derivative_by_what_its_step_made(name):
    op, docstring = OPS[name], page_of(OPS[name])
    for sample, _, dout, *_ in reference(name):
        inputs, seen = inputs_of(op, sample.arrays), set()

        def check(step, each, page, sample=sample, dout=dout, seen=seen):
            def loss(change):
                moved = forward(op, docstring, sample.arrays, sample.attrs, Nudge(step, each, change))
                return np.sum(finite(moved[derivations.result_of(moved)].values).ravel() * dout.ravel())

            numeric = differences(loss, page[each].values)
            assert_derivative(page["d" + each].values, numeric, f"d{each} before step ({step})")
            seen.add(each)

        def before(steps, page, check=check):
            for line in page.table.forward:
                for each in line.names:
                    if line.steps[0] in steps and "d" + each in page:
                        check(line.steps[0], each, page)

        page = derivations.backward(forward(op, docstring, sample.arrays, sample.attrs), dout, before)
        for each in inputs:
            check(0, each, page)
        made = {each.removeprefix("d") for line in page.table.backward if line.sign != "again" for each in line.names}
        assert made <= seen, "a gradient that nothing has checked"


@pytest.mark.parametrize("name", ROWS)
def test_each_row_gives_the_derivative_of_its_forward(name):
    op, docstring = OPS[name], page_of(OPS[name])
    for sample, _, dout, *_ in reference(name):
        if any(array.dtype == np.float32 for array in sample.arrays):
            continue  # too coarse for differences
        names = row_forward(op, docstring, sample.arrays, sample.attrs)
        dout = dout.reshape(np.shape(names["out"]))
        gradients = row_backward(op, docstring, names, dout)
        for i, (array, gradient) in enumerate(zip(sample.arrays, gradients, strict=True)):

            def loss(change, sample=sample, dout=dout, i=i):
                arrays = [each + change if j == i else each for j, each in enumerate(sample.arrays)]
                return np.sum(row_forward(op, docstring, arrays, sample.attrs)["out"] * dout)

            assert_derivative(gradient.reshape(array.shape), differences(loss, array), f"input {i}")


# A typo in every place

EQUAL = {  # typos that say the same in other words
    "norm": {
        "dx = dout * x / (out + 1[x = 0])": "x is the factor, too",
        "dx = dout * x / (out - 1[out = 0])": "0 / -1 is 0, too",
    },
    "std": {
        "dx = dout * centred / (n - ddof) / (out + 1[centred = 0])": "centred is the factor, too",
        "dx = dout * centred / (n - ddof) / (out - 1[out = 0])": "0 / -1 is 0, too",
    },
    "relu": {"da = dout * (1 - 1[out <= 0])": "max(a, 0) <= 0 where a <= 0"},
    "abs": {"da = dout / (1[a > 0] - 1[a < 0])": "1 / 1 is 1, and 1 / -1 is -1"},
    "clip": {
        "da = dout * 1[a >= out] * 1[a <= high]": "a >= clip(a) where a >= low",
        "da = dout * 1[a >= low] * 1[a <= out]": "a <= clip(a) where a <= high",
    },
    "maximum": {
        "da = dout * (1 - 1[a < out] - 1[a = b]/2)": "a < max(a, b) where a < b",
        "db = dout * (1 - 1[b < out] - 1[a = b]/2)": "b < max(a, b) where b < a",
    },
}


def killed(check, name, docstring):
    try:
        with np.errstate(all="ignore"):
            check(name, docstring)
    except Exception:
        return True
    return False


@pytest.mark.parametrize("name", [*PAGES, *ROWS])
def test_a_typo_anywhere_in_a_table_is_found(name):
    docstring = page_of(OPS[name])
    table, check = (table_of(docstring), check_page) if name in PAGES else (row_of(docstring, name), check_row)
    planted = list(derivations.mutants(docstring, table))
    survivors = [each.description for each in planted if not killed(check, name, each.docstring)]
    assert {each.split("  ->  ")[1] for each in survivors} == set(EQUAL.get(name, {})), (
        f"typos that change no result: does one of the samples of at most {SMALL} elements tell them apart?"
    )
    print(name, len(planted), survivors)


@pytest.mark.parametrize("name", [*PAGES, *ROWS])
def test_a_change_that_says_the_same_is_not_called_a_typo(name):
    """Else typos could be found because the table was torn."""
    docstring = page_of(OPS[name])
    table, check = (table_of(docstring), check_page) if name in PAGES else (row_of(docstring, name), check_row)
    rewritten = list(derivations.rewritten(docstring, table))
    assert rewritten
    for each in rewritten:
        assert each.docstring != docstring
        check(name, each.docstring)


# The notation


def test_the_page_on_the_notation_says_what_the_formulas_mean():
    rng, N, C = np.random.default_rng(3), 4, 5
    arrays = {"x": ("N", "C"), "w": ("C", "O"), "a": ("C",), "b": ("C",), "c": ("C",), "d": ("C",), "ids": ("N",)}
    values = {
        name: rng.standard_normal([{"N": N, "C": C, "O": 3}[axis] for axis in axes]) for name, axes in arrays.items()
    } | {"ids": np.array([4, 0, 0, 2])}
    names = derivations.Names()
    names.sizes |= {"N": N, "C": C}
    names |= {name: derivations.Named(values[name], axes) for name, axes in arrays.items()}
    rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| `([^`]+)` \|$", NOTATION, re.MULTILINE)
    assert len(rows) >= 11
    for formula, in_numpy in rows:
        if re.search(r"\bc = ", formula):
            del names["c"]  # the index along C
        ours = derivations.evaluate(derivations.parse(formula), names)
        theirs = eval(in_numpy, {"np": np, "N": N, "C": C} | values)
        axes = ("C", "N") if formula == "x^T" else tuple(axis for axis in ("N", "C", "O") if axis in ours.axes)
        assert_equal(ours.along(axes), theirs, formula)
        if "c" not in names:
            names["c"] = derivations.Named(values["c"], ("C",))


def test_the_pages_examples_are_the_packages_tables():
    blocks = re.findall(r"^```\n(.*?)^```", NOTATION, re.MULTILINE | re.DOTALL)
    for block, docstring in zip(blocks, (page_of(OPS["layernorm"]), basic.__doc__), strict=True):
        assert set(block.splitlines()) <= set(docstring.splitlines())


def test_what_is_ambiguous_or_does_not_fit_is_refused():
    names = derivations.Names()
    names.sizes |= {"N": 2, "C": 3}
    names |= {"x": derivations.Named(np.ones((2, 3)), ("N", "C")), "y": derivations.Named(np.ones((2, 3)), ("N", "C"))}
    for unread in ("x y", "2 x", "x +", "sum_C(x", "x[c = ]", "1[c]", "x & y", ""):
        with pytest.raises(SyntaxError):
            derivations.parse(unread)
    for unfit in ("x @ y", "sum_V(x)", "mean(x)", "z", "x^T @ y^T", "sum_C(x)^T"):
        with pytest.raises((ValueError, KeyError)):
            derivations.evaluate(derivations.parse(unfit), names)
    assert derivations.evaluate(derivations.parse("8 - 3 - 2 * 2^2 / 4"), names) == 3
    assert derivations.evaluate(derivations.parse("-2^2 * -1"), names) == 4


# What the derivations say in words besides


def gradients(f, *arrays, dout=None):
    tensors = [Tensor(np.asarray(array), requires_grad=True) for array in arrays]
    out = f(*tensors)
    out.backward(np.ones(out.shape, out.dtype) if dout is None else dout)
    return [tensor.grad for tensor in tensors]


def test_layernorms_terms_make_dx_sum_to_zero():
    rng = np.random.default_rng(8)
    x, weight, bias = (rng.standard_normal(shape) for shape in ((3, 5), 5, 5))
    op = OPS["layernorm"]
    _, (_, _, mean, rstd) = op.forward(x, weight, bias)
    dx = op.backward(rng.standard_normal((3, 5)), op.forward(x, weight, bias)[1])[0]
    np.testing.assert_allclose(dx.sum(-1), 0, atol=1e-14)
    np.testing.assert_allclose((dx * (x - mean) * rstd).sum(-1), 0, atol=1e-3)  # but for eps


def test_cross_entropy_is_what_was_predicted_minus_what_happened():
    op, targets = OPS["cross_entropy"], np.array([3, 0, -100, 1])
    logits = np.random.default_rng(8).standard_normal((4, 5))
    (dlogits,) = op.backward(np.float64(1), op.forward(logits, targets)[1])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    happened = np.arange(5) == targets[:, None]
    np.testing.assert_allclose(dlogits, (p - happened) * (targets[:, None] >= 0) / 3, rtol=1e-12)
    np.testing.assert_allclose(dlogits.sum(-1), 0, atol=1e-15)  # so that the maximum receives nothing extra


def test_dropouts_mask_has_mean_one_and_is_the_same_again():
    mask = dropout_mask((200_000,), 0.4, 9, np.float64)
    assert set(np.unique(mask)) == {0.0, 1 / 0.6}
    assert mask.mean() == pytest.approx(1, abs=5 * np.sqrt(0.4 / 0.6 / 200_000))  # five standard deviations
    np.testing.assert_array_equal(mask, dropout_mask((200_000,), 0.4, 9, np.float64))


def test_attentions_rows_sum_to_zero_and_the_first_query_gets_none():
    B, T, H, D = 2, 4, 2, 3
    rng = np.random.default_rng(8)
    qkv = rng.standard_normal((B, T, 3 * H * D))
    dqkv = gradients(lambda x: F.attention(x, H), qkv, dout=rng.standard_normal((B, T, H * D)))[0]
    assert np.abs(dqkv[:, 0, : H * D]).max() < 1e-15
    assert np.abs(dqkv[:, 1:, : H * D]).min() > 1e-6


def test_gelus_slope_leaves_0_to_1():
    x = np.array([-0.8, -0.7, 0.7, 0.8])
    assert np.all(np.sign(gradients(F.gelu, x)[0] - [0, 0, 1, 1]) == [-1, 1, -1, 1])


@pytest.mark.parametrize(
    ("name", "f", "x", "gradient"),
    [
        ("sub", lambda x: x - x, [3.0], [0.0]),
        ("mul", lambda x: x * x, [3.0], [6.0]),
        ("pow", lambda x: x**0, [0.0, 2.0], [0.0, 0.0]),
        ("power", lambda x: Tensor([-2.0]) ** x, [2.0], [np.nan]),
        ("remainder", lambda x: 7.0 % x, [3.0], [-2.0]),
        ("log", F.log, [-2.0], [-0.5]),
        ("sigmoid", F.sigmoid, [0.0], [0.25]),
        ("abs", F.abs, [0.0], [0.0]),
        ("clip", lambda x: F.clip(x, -1, 1), [-2.0, -1.0, 1.0, 2.0], [0.0, 1.0, 1.0, 0.0]),
        ("logaddexp", lambda x: F.logaddexp(x, 0.0), np.float32([89.0, -1000.0]), [1.0, 0.0]),
        ("sqrt", lambda x: F.sqrt((x * x).sum()), [0.0], [np.nan]),
        ("tanh", F.tanh, np.float32([-10.5, 10.5]), [0.0, 0.0]),
        ("relu", F.relu, [0.0, np.nan], [0.0, 1.0]),
        ("maximum", lambda x: F.maximum(x, x), [3.0], [1.0]),
        ("maximum", lambda x: F.maximum(x, 3.0), [np.nan], [1.0]),
        ("logaddexp", lambda x: F.logaddexp(x, 0.0), [np.inf, -np.inf], [1.0, 0.0]),
        ("where", lambda x: F.where(x > 0, F.sqrt(x), 0.0), [0.0, 4.0], [np.nan, 0.25]),
        ("sum", F.sum, [1.0, 2.0], [1.0, 1.0]),
        ("mean", F.mean, [1.0, 2.0], [0.5, 0.5]),
        ("max", F.max, [3.0, 1.0, 3.0], [0.5, 0.0, 0.5]),
        ("getitem", lambda x: x[np.array([0, 0])], [1.0, 2.0], [2.0, 0.0]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_surprises_are_true(name, f, x, gradient):
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(gradients(f, x)[0], gradient)
        assert name != "log" or np.isnan(f(Tensor(x)).data)
    if name == "tanh":
        np.testing.assert_array_equal(F.tanh(Tensor(x)).data, [-1.0, 1.0])


@pytest.mark.parametrize("name", ["relu", "maximum", "logaddexp"])
def test_the_tables_are_true_of_nan_and_infinity_too(name):
    op, special = OPS[name], np.array([np.nan, np.inf, -np.inf, 0.0, 1.0])
    arrays = [special] if name == "relu" else [special, special[:, None]]
    with np.errstate(all="ignore"):
        out, saved = op.forward(*arrays)
        names = derivations.row_forward(op, page_of(op), arrays, {})
        theirs = derivations.row_backward(op, page_of(op), names, np.ones(out.shape))
        for ours, expected in zip(op.backward(np.ones(out.shape), saved), theirs, strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_add_hands_the_same_array_to_both_operands_and_concatenate_views():
    dout = np.ones((2, 3))
    assert all(each is dout for each in OPS["add"].backward(dout, ((2, 3), (2, 3))))
    assert all(each.base is dout for each in OPS["concatenate"].backward(dout, ([1, 1], 0)))


def test_log_softmax_survives_where_softmax_underflows():
    x = Tensor(np.float32([0.0, -200.0]))
    assert F.softmax(x).data[1] == 0 and F.log_softmax(x).data[1] == -200

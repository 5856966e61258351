"""Sums of products: letter by letter, their gradients, and what does not fit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

# subscripts as a user writes them, with each axis spelled out, and shapes
PRODUCTS = {
    "matrix product": ("ij,jk->ik", "ij,jk->ik", (2, 3), (3, 4)),
    "implicit output": ("ij,jk", "ij,jk->ik", (2, 3), (3, 4)),
    "implicit output in alphabetical order": ("zb,ba", "zb,ba->az", (2, 3), (3, 4)),
    "capitals first": ("aB", "aB->Ba", (2, 3)),
    "spaces": (" ij , jk -> ki ", "ij,jk->ki", (2, 3), (3, 4)),
    "sum": ("ij->", "ij->", (2, 3)),
    "transpose": ("ijk->kij", "ijk->kij", (2, 3, 4)),
    "diagonal": ("ii->i", "ii->i", (3, 3)),
    "trace": ("ii", "ii->", (3, 3)),
    "diagonal of three": ("iji->ij", "iji->ij", (2, 3, 2)),
    "all three": ("iii->i", "iii->i", (2, 2, 2)),
    "diagonal in a product": ("ii,ij->j", "ii,ij->j", (3, 3), (3, 2)),
    "outer": ("i,j->ij", "i,j->ij", (2,), (3,)),
    "inner": ("i,i", "i,i->", (3,), (3,)),
    "elementwise": ("ij,ij->ij", "ij,ij->ij", (2, 3), (2, 3)),
    "three operands": ("ij,jk,kl->il", "ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
    "bilinear": ("bi,oij,bj->bo", "bi,oij,bj->bo", (2, 3), (4, 3, 2), (2, 2)),
    "summed alone": ("ij,k->k", "ij,k->k", (2, 3), (4,)),
    "summed alone beside others": ("ij,jk->k", "ij,jk->k", (2, 3), (3, 4)),
    "numbers": (",i,->i", ",i,->i", (), (3,), ()),
    "ellipsis": ("...ij,...jk->...ik", "abij,abjk->abik", (2, 2, 2, 3), (2, 2, 3, 4)),
    "ellipsis of different lengths": ("...i,...i->...", "abi,bi->ab", (2, 3, 4), (3, 4)),
    "ellipsis, implicit": ("...ij,jk", "aij,jk->aik", (2, 2, 3), (3, 4)),
    "ellipsis of nothing": ("i...,i...->i...", "i,i->i", (3,), (3,)),
    "ellipsis summed": ("...i->i", "abi->i", (2, 3, 4)),
    "stretched": ("ij,jk->ik", "ij,jk->ik", (2, 1), (3, 4)),
    "stretched the other way": ("ij,ij->i", "ij,ij->i", (2, 3), (2, 1)),
    "stretched ellipsis": ("...i,...i->...", "abi,abi->ab", (2, 1, 4), (1, 3, 4)),
    "nothing": ("ij,jk->ik", "ij,jk->ik", (2, 0), (0, 3)),
}
every_product = pytest.mark.parametrize("name", PRODUCTS)


def literally(letters, arrays):
    """The sum of products, element by element, and the gradient of its sum of squares."""
    inputs, output = letters.split("->")
    terms = inputs.split(",")
    sizes = {}
    for term, array in zip(terms, arrays, strict=True):
        for letter, n in zip(term, array.shape, strict=True):
            sizes[letter] = n if sizes.get(letter, 1) == 1 else sizes[letter]

    def places(values):
        at = dict(zip(sizes, values, strict=True))
        return tuple(at[each] for each in output), [
            tuple(at[each] if n > 1 else 0 for each, n in zip(term, array.shape, strict=True))
            for term, array in zip(terms, arrays, strict=True)
        ]

    everywhere = [places(values) for values in itertools.product(*map(range, sizes.values()))]
    out = np.zeros([sizes[each] for each in output])
    for place, picked in everywhere:
        out[place] += math.prod(array[each] for array, each in zip(arrays, picked, strict=True))
    gradients = [np.zeros_like(array) for array in arrays]
    for place, picked in everywhere:
        for k, gradient in enumerate(gradients):
            others = [array[each] for array, each in zip(arrays, picked, strict=True)]
            gradient[picked[k]] += 2 * out[place] * math.prod(others[:k] + others[k + 1 :])
    return out, gradients


@every_product
def test_it_is_the_sum_of_products_letter_by_letter_and_so_is_its_gradient(name, rng):
    subscripts, letters, *shapes = PRODUCTS[name]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    out, gradients = literally(letters, arrays)
    ours = value_and_gradients(lambda *xs: F.einsum(subscripts, *xs), arrays, 2 * out)
    assert_same(ours, (out, gradients))


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_product
def test_it_agrees_with_finite_differences(name, limit, rng):
    subscripts, _, *shapes = PRODUCTS[name]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    assert gradcheck(lambda *xs: F.einsum(subscripts, *xs), arrays, elementwise_limit=limit)


@every_product
def test_torch_agrees(name, rng):
    torch = pytest.importorskip("torch")
    subscripts, _, *shapes = PRODUCTS[name]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    theirs = [torch.tensor(array, requires_grad=True) for array in arrays]
    out = torch.einsum(subscripts, *theirs)
    dout = rng.standard_normal(out.shape)
    out.backward(torch.tensor(dout))
    ours = value_and_gradients(lambda *xs: F.einsum(subscripts, *xs), arrays, dout)
    assert_same(ours, (out.detach().numpy(), [each.grad.numpy() for each in theirs]))


def test_one_tensor_used_twice_gets_both_gradients(rng):
    x = rng.standard_normal((3, 3))
    out, (dx,) = value_and_gradients(lambda x: F.einsum("ij,ij->", x, x), [x])
    assert_close(out, (x * x).sum())
    assert_close(dx, 2 * x)


def test_precision_is_that_of_the_operands():
    a, b = np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)
    out, gradients = value_and_gradients(lambda a, b: F.einsum("ij,jk->ik", a, b), [a, b], np.ones((2, 2), np.float32))
    assert [out.dtype, *(each.dtype for each in gradients)] == [np.float32] * 3
    out, gradients = value_and_gradients(lambda a: F.einsum("ij,jk->ik", a, b.astype(np.float64)), [a], np.ones((2, 2)))
    assert (out.dtype, gradients[0].dtype) == (np.float64, np.float32)


@pytest.mark.parametrize(
    ("subscripts", "shapes", "said"),
    [
        ("ij,jk->ik", [(2, 3)], r"'ij,jk->ik' is for 2 arrays, got 1"),
        ("ij->i", [(2, 3), (3,)], r"'ij->i' is for 1 arrays, got 2"),
        ("ij->i", [(2, 3, 4)], r"'ij' in 'ij->i' does not have a letter for each axis of \(2, 3, 4\)"),
        ("ijkl...->i", [(2, 3)], r"does not have a letter for each axis of \(2, 3\)"),
        (
            "ij,jk->ik",
            [(2, 3), (4, 5)],
            r"needs one size for each letter of 'ij,jk->ik', got shapes \(2, 3\) and \(4, 5\)",
        ),
        ("ii->i", [(1, 3)], r"needs one size for each letter"),
        ("ij->iz", [(2, 3)], r"the output must have letters of the inputs, each once, got 'ij->iz'"),
        ("ij->ii", [(2, 2)], r"the output must have letters of the inputs, each once"),
        ("i1->i", [(2, 2)], r"needs letters, commas, one -> and \.\.\. at most once a term, got 'i1->i'"),
        ("i..j->i", [(2, 2)], r"needs letters"),
        ("ij->i->j", [(2, 2)], r"needs letters"),
        ("...i...->i", [(2, 2)], r"needs letters"),
    ],
)
def test_what_does_not_fit_is_named(subscripts, shapes, said):
    with pytest.raises(ValueError, match=f"^einsum: .*{said}"):
        F.einsum(subscripts, *(np.ones(shape) for shape in shapes))


def test_the_subscripts_come_first():
    with pytest.raises(TypeError, match=r"^einsum: begins with the subscripts, such as 'ij,jk->ik', got a Tensor"):
        F.einsum(Tensor([1.0]), "i->")


# two operands


def test_outer_and_dot_are_numpys(rng):
    a, b, matrix = rng.standard_normal(3), rng.standard_normal(3), rng.standard_normal((3, 2))
    assert_close(F.outer(a, matrix).data, np.outer(a, matrix))
    for other in (b, matrix, np.float64(2)):
        assert_close(F.dot(a, other).data, np.dot(a, other))
        assert gradcheck(F.dot, [a, np.asarray(other)])
    assert gradcheck(F.outer, [a, b])
    x = Tensor(a)
    assert_close(x.dot(b).data, np.dot(a, b))
    assert_close(x.outer(b).data, np.outer(a, b))
    with pytest.raises(ValueError, match=r"^dot: needs vectors or matrices, .* write matmul"):
        F.dot(a, np.ones((2, 3, 2)))

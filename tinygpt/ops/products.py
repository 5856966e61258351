"""
Sums of products of any number of arrays: einsum, and outer and dot of two.

Each axis of an array has a letter: "ij,jk->ik" is the matrix product. Letters that the output lacks are summed over.

Operation   Forward                              Backward
    einsum  out = einsum(subscripts, arrays)     darrays = exchanged(subscripts, arrays, dout)

einsum. Let each letter have one value, and p be the product of the elements that this picks, one of each array. Then
out is the sum of p over the letters that it lacks, d p / d (the element of array k) is the product of the others, and

    darray_k = sum of dout * (all other arrays) over the letters that array k lacks

which is an einsum as well: dout takes the place of array k, and the letters of array k become the output. For
"ij,jk->ik" the two are "ik,jk->ij" and "ik,ij->jk". There are two exceptions:

    a letter that array k has alone    Forward sums over it, so each element receives the same: the result is stretched.
    a letter that array k has twice    "ii->i" reads a diagonal. The gradient of all elements beside it is zero.

An ellipsis stands for letters, which `check_einsum` writes out. Where an axis of size 1 met a longer one, its
element was used several times: its gradient is the sum, as for all broadcasting.

What surprises people here
    einsum  The gradient of a sum of products is a sum of products. matmul, outer, trace, transpose and sum are all
            einsums, and one rule gives the gradient of each.

Source: the notation is Einstein's of 1916, in the form of NumPy's `einsum`.
"""

from __future__ import annotations

import re
import string
from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.basic import matmul, mul
from tinygpt.ops.shapes import operands, reshape


def einsum_forward(*arrays, subscripts):
    # The subscripts as check_einsum writes them, such as "ij,jk->ik": always with an arrow, never with an ellipsis.
    return np.einsum(subscripts, *arrays, optimize=True), (arrays, subscripts)


def einsum_backward(dout, saved):
    arrays, subscripts = saved
    inputs, output = subscripts.split("->")
    terms = inputs.split(",")
    sizes = {}
    for array, term in zip(arrays, terms, strict=True):
        sizes |= {letter: n for letter, n in zip(term, array.shape, strict=True) if n != 1 or letter not in sizes}
    gradients = []
    for k, (array, term) in enumerate(zip(arrays, terms, strict=True)):
        letters = list(dict.fromkeys(term))  # each once
        others, their_terms = [dout, *arrays[:k], *arrays[k + 1 :]], [output, *terms[:k], *terms[k + 1 :]]
        shared = [letter for letter in letters if any(letter in each for each in their_terms)]
        share = np.einsum(f"{','.join(their_terms)}->{''.join(shared)}", *others, optimize=True)
        alone = [i for i, letter in enumerate(letters) if letter not in shared]
        stretched = np.broadcast_to(np.expand_dims(share, alone), [sizes[letter] for letter in letters])
        own = [array.shape[term.index(letter)] for letter in letters]  # 1 where the axis met a longer one
        darray = stretched.sum(tuple([i for i, n in enumerate(own) if n != stretched.shape[i]]), keepdims=True)
        if len(letters) < len(term):  # a letter twice: darray is the gradient of the diagonal
            diagonal, darray = darray, np.zeros(array.shape, dout.dtype)
            np.einsum(f"{term}->{''.join(letters)}", darray)[...] = diagonal  # a view of darray
        gradients.append(darray)
    return tuple(gradients)


def check_einsum(*arrays, subscripts):
    """The letters fit the arrays, and an ellipsis becomes letters: "...i->..." of a matrix is "ai->a"."""
    written, arrow, output = subscripts.replace(" ", "").partition("->")
    terms, shapes = written.split(","), [array.shape for array in arrays]
    if not all(re.fullmatch(r"[a-zA-Z]*(\.\.\.)?[a-zA-Z]*", term) for term in (*terms, output)):
        raise ValueError(f"einsum: needs letters, commas, one -> and ... at most once a term, got {subscripts!r}")
    if len(terms) != len(arrays):
        raise ValueError(f"einsum: {subscripts!r} is for {len(terms)} arrays, got {len(arrays)}")
    hidden = [len(shape) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True)]
    for term, shape, n in zip(terms, shapes, hidden, strict=True):
        if n < 0 or (n > 0 and "..." not in term):
            raise ValueError(f"einsum: {term!r} in {subscripts!r} does not have a letter for each axis of {shape}")
    free = "".join(letter for letter in string.ascii_letters if letter not in subscripts)[: max(hidden, default=0)]
    if not arrow:
        output = "..." + "".join(sorted(letter for letter in {*written} - {*",."} if written.count(letter) == 1))
    terms = [term.replace("...", free[len(free) - n :]) for term, n in zip(terms, hidden, strict=True)]
    output = output.replace("...", free)
    if len({*output}) < len(output) or not {*output} <= {*"".join(terms)}:
        raise ValueError(f"einsum: the output must have letters of the inputs, each once, got {subscripts!r}")
    sizes = {}
    for term, shape in zip(terms, shapes, strict=True):
        own = dict(zip(term, shape, strict=True))
        for letter, n in zip(term, shape, strict=True):
            if n != own[letter] or (n != 1 and sizes.setdefault(letter, n) != n):
                got = " and ".join(map(str, shapes))
                raise ValueError(f"einsum: needs one size for each letter of {subscripts!r}, got shapes {got}")
    return {"subscripts": f"{','.join(terms)}->{output}"}


EINSUM = Op("einsum", einsum_forward, einsum_backward, check=check_einsum)


def einsum(subscripts: str, *tensors: Any) -> Tensor:
    """
    The sum of products that the letters describe, as NumPy's and PyTorch's.

    Parameters
    ----------
    subscripts : str
        The letters of the axes of each tensor, and after ``->`` those of the result; without it, those that occur once,
        in alphabetical order. ``...`` stands for any number of axes that broadcast.
    *tensors : Tensor or array

    Raises
    ------
    ValueError, TypeError
        If the letters do not fit the shapes, or do not come first.

    Examples
    --------
    >>> einsum("ij,jk->ik", np.ones((2, 3)), np.ones((3, 4))).shape
    (2, 4)
    >>> einsum("ii", Tensor([[1.0, 2.0], [3.0, 4.0]]))
    Tensor(5., dtype=float32)
    """
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: begins with the subscripts, such as 'ij,jk->ik', got a {type(subscripts).__name__}")
    return apply(EINSUM, *operands(*tensors), subscripts=subscripts)


def outer(a: Any, b: Any) -> Tensor:
    """
    Each element of a times each of b, both taken as vectors.

    Examples
    --------
    >>> outer(Tensor([1.0, 2.0]), Tensor([3.0, 4.0]))
    Tensor([[3., 4.],
            [6., 8.]], dtype=float32)
    """
    a, b = operands(a, b)
    return mul(reshape(a, -1, 1), reshape(b, -1))


def dot(a: Any, b: Any) -> Tensor:
    """
    The sum of the products of two vectors; a number multiplies, and a matrix is multiplied as by `matmul`.

    Raises
    ------
    ValueError
        If the sizes do not fit, or b has more than two axes: NumPy's `dot` does not take them as a batch.

    Examples
    --------
    >>> dot(Tensor([1.0, 2.0]), Tensor([3.0, 4.0]))
    Tensor(11., dtype=float32)
    """
    a, b = operands(a, b)
    if a.ndim == 0 or b.ndim == 0:
        return mul(a, b)
    if b.ndim > 2:
        raise ValueError(f"dot: needs vectors or matrices, got shapes {a.shape} and {b.shape}; write matmul")
    return matmul(a, b)

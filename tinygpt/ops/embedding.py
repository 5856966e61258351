"""
Embedding: look up one row of a table for each token id.

Throughout this file
    ids            (...)            integers from 0 to V - 1
    weight         (V, C)           one row per token of the vocabulary, counted by v
    out            (..., C)         dX: gradient of the loss with respect to X, same shape as X
    sum_N          sum over all tokens, the axes of ids

Forward                                Backward
    (1) out = weight[v = ids]          (1) dweight = sum_N(1[v = ids] * dout)

Step (1). Think of the lookup as a product with one-hot rows, out = onehot(ids) @ weight, onehot_nv = 1[ids_n = v]. Then
    dweight = onehot^T dout,   that is   dweight_v = sum_n 1[ids_n = v] dout_n
A token that occurs five times in the text collects five gradients; one that does not occur receives zero. The product
itself would cost V times the work; a scatter-add gives the same.

What surprises people here
    The gradient of a lookup is a scatter, and a token that occurs twice is added twice: dweight[ids] += dout would
    count it once. GPT-2 uses the same table as its output head, which adds a second, dense gradient to it.

Source: the chain rule; the one-hot view is in Bengio et al. 2003, JMLR 3, section 2.
Cost:   forward copies the rows once; backward writes zeros to the whole table and adds to the rows in use.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.autograd.tensor import is_masked
from tinygpt.runtime.memory import copied

OF_ANOTHER_TOKENIZER = "; use the tokenizer that the model was trained with"  # the remedy of `check_ids` for a model


def embedding_forward(weight, ids):
    return weight[ids], (weight.shape, ids)  # (1) (..., C)


def embedding_backward(dout, saved):
    shape, ids = saved
    dweight = np.zeros(shape, dout.dtype)
    np.add.at(dweight, ids, dout)  # (1) (V, C); dweight[ids] += dout would count a repeated id only once
    return (dweight,)


def check_embedding(weight, ids):
    """The attributes as forward takes them, or an error that says what does not fit."""
    if weight.ndim != 2:
        raise ValueError(
            f"embedding: weight must have shape (V, C), got {weight.shape}; the order is embedding(ids, weight)"
        )
    return {"ids": check_ids("embedding: ids", ids, len(weight), "; an id is a row of weight, counted from 0")}


def check_ids(who: str, ids: Any, n_vocab: int, remedy: str = "") -> np.ndarray:
    """`ids` as a copy in int64, or an error that says which is not from 0 to n_vocab - 1, and ends with the remedy."""
    ids = integers(who, ids)
    require_ids(who, ids, n_vocab, remedy)
    return copied(ids, np.int64)


def require_ids(who: str, ids: np.ndarray, n_vocab: int, remedy: str = "") -> None:
    """Raise ValueError unless these integers are from 0 to n_vocab - 1."""
    wrong = (ids < 0) | (ids >= n_vocab)
    if wrong.any():
        raise ValueError(f"{who} must be from 0 to {n_vocab - 1}, got {ids[wrong].flat[0]}{remedy}")


def integers(who: str, ids: Any) -> np.ndarray:
    """A copy of `ids`, in their own integer type; an error names invalid ones."""
    if is_masked(ids):
        raise TypeError(f"{who} must be a plain array, got a masked one, whose mask would be lost; write .filled(...)")
    try:
        ids = np.asarray(ids.data if isinstance(ids, Tensor) else ids)
    except ValueError:  # NumPy says "inhomogeneous shape"
        raise ValueError(f"{who} must be a rectangular array, got rows of different lengths; pad them") from None
    if ids.size == 0 and ids.dtype.kind == "f":
        ids = ids.astype(np.int64)  # an empty list has no type of its own
    if ids.dtype.kind not in "iu":
        got = "text: encode it with tokenizer.encode first" if ids.dtype.kind in "US" else ids.dtype
        remedy = f"; write np.asarray({who.split()[-1]}, int)" if ids.dtype.kind in "fb" else ""
        raise TypeError(f"{who} must be integers, got {got}{remedy}")
    return copied(ids)


EMBEDDING = Op(
    "embedding", embedding_forward, embedding_backward, kernel="tinygpt.kernels.embedding", check=check_embedding
)


def embedding(ids: Any, weight: Tensor) -> Tensor:
    """
    The rows of `weight` that `ids` name.

    Parameters
    ----------
    ids : integer array, any shape (...)
        From 0 to V - 1; negative ids are not counted from the end, they are errors.
    weight : Tensor, shape (V, C)

    Returns
    -------
    Tensor, shape (..., C)

    Raises
    ------
    TypeError
        If `ids` are not integers.
    ValueError
        If an id is out of range, or `weight` is not a matrix.

    Examples
    --------
    >>> embedding([2, 0, 2], Tensor([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]])).data
    array([[2. , 2.5],
           [0. , 0.5],
           [2. , 2.5]], dtype=float32)
    """
    return apply(EMBEDDING, weight, ids=ids)

"""
Layer normalization: centre each token's C features, scale them to unit variance,
then stretch and shift by two learned vectors.

Throughout this file
    x, out         (..., C)         weight, bias   (C,)
    mean, rstd     (..., 1)         rstd is 1 / standard deviation, but for eps
    xc, xhat       (..., C)         x centred, x normalized
    dX             gradient of the loss with respect to X, same shape as X
    mean_C, sum_N  mean over the features of a token, sum over all N tokens: every axis but the last

Forward                                        Backward, read upwards
    (1) mean = mean_C(x)                       (2, 1) dx    = dxc - mean_C(dxc)
    (2) xc   = x - mean                        (3)    dxc  -= rstd * xhat * mean_C(dxhat * xhat)
    (3) rstd = (mean_C(xc^2) + eps)^(-1/2)     (4)    dxc   = rstd * dxhat
    (4) xhat = xc * rstd                       (5)    dxhat = dout * weight
    (5) out  = xhat * weight + bias                   dweight = sum_N(dout * xhat),  dbias = sum_N(dout)
                                               (4)    xhat again

Step (5). Each out_c = xhat_c weight_c + bias_c uses one feature, one weight and one bias:
    dxhat_c   = dout_c weight_c
    dweight_c = sum over tokens of dout_c xhat_c          the same weight_c serves every token, so the shares add up
    dbias_c   = sum over tokens of dout_c

Step (4). xhat_c = xc_c rstd has two factors:
    dxc_c = dxhat_c rstd                                  (a) the direct path
    drstd = sum_c dxhat_c xc_c                            rstd serves all C features of its token

Step (3). Let v = mean_C(xc^2) + eps, so rstd = v^(-1/2):
    d rstd / d v    = -1/2 v^(-3/2) = -rstd^3 / 2
    d v    / d xc_c = 2 xc_c / C
    so xc_c receives a second share
        drstd (-rstd^3 / 2) (2 xc_c / C)
      = -(rstd^3 xc_c / C) sum_j dxhat_j xc_j
      = -rstd (rstd xc_c) (1 / C) sum_j dxhat_j (rstd xc_j)
      = -rstd xhat_c mean_C(dxhat * xhat)                 (b) the path through the scale

Steps (2) and (1), one line in the table. xc_c = x_c - mean, and mean = (1 / C) sum_j x_j:
    dmean = -sum_j dxc_j
    dx_c  = dxc_c + dmean / C
          = dxc_c - mean_C(dxc)                           (c) the last term is the path through the mean
    In mean_C(dxc) the share (b) counts for nothing, as it is a multiple of xhat, whose mean is zero. What is left is
    mean_C(rstd dxhat). So a kernel that computes steps (4) to (1) in one pass, kernels/layernorm.py, may write
    dx = rstd (dxhat - mean_C(dxhat) - xhat mean_C(dxhat * xhat)): one term for each path.

What surprises people here
    dx has three terms: x counts directly, through the mean, and through the standard deviation. Adding one number to
    all features of a token changes nothing, so the slope in that direction, the sum of its row of dx, is zero. Scaling
    them (but for eps) changes nothing either, so the row of dx is orthogonal to the row of xhat.

Source: Ba, Kiros & Hinton 2016, arXiv:1607.06450, eq. 3-4. GPT-2 uses eps = 1e-5.
Cost:   memory-bound. The kernel reads x and writes out in forward; it reads dout and x and writes dx in backward.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.basic import floating
from tinygpt.ops.shapes import operands


# fmt: off
def layernorm_forward(x, weight, bias, eps=1e-5):
    mean = x.mean(axis=-1, keepdims=True)                             # (1) (..., 1)
    xc = x - mean                                                     # (2) (..., C)
    rstd = 1 / np.sqrt((xc * xc).mean(axis=-1, keepdims=True) + eps)  # (3) (..., 1)
    xhat = xc * rstd                                                  # (4) (..., C)
    out = xhat * weight + bias                                        # (5) (..., C)
    return out, (x, weight, mean, rstd)


def layernorm_backward(dout, saved):
    x, weight, mean, rstd = saved
    tokens = tuple(range(x.ndim - 1))                                 # every axis but the features
    xhat = (x - mean) * rstd                                          # (4) again: x is kept anyway, xhat is not
    dbias = dout.sum(axis=tokens)                                     # (5) (C,)
    dweight = (dout * xhat).sum(axis=tokens)                          # (5) (C,)
    dxhat = dout * weight                                             # (5) (..., C)
    dxc = rstd * dxhat                                                # (4) (..., C)
    dxc -= rstd * xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)  # (3) (..., C)
    dx = dxc - dxc.mean(axis=-1, keepdims=True)                       # (2, 1) (..., C)
    return dx, dweight, dbias
# fmt: on


def check_layernorm(x, weight, bias, eps=1e-5):
    """The attributes, here eps alone, as forward takes them; an error says what does not fit."""
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"layernorm: x must have shape (..., C) with C >= 1, got {x.shape}")
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector.shape != x.shape[-1:]:
            raise ValueError(
                f"layernorm: {name} must have shape (C,) = ({x.shape[-1]},) to match x {x.shape}, got {vector.shape}"
            )
    if not isinstance(eps, (int, float, np.integer, np.floating)):
        raise TypeError(f"layernorm: eps must be a number, got {type(eps).__name__}")
    if not eps > 0:
        raise ValueError(f"layernorm: eps must be positive, got {eps}; 1e-5 is GPT-2's")
    return {"eps": float(eps)}


LAYERNORM = Op(
    "layernorm", layernorm_forward, layernorm_backward, kernel="tinygpt.kernels.layernorm", check=check_layernorm
)


def layernorm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """
    Normalize the last axis to mean 0 and variance 1, then scale and shift it.

    Parameters
    ----------
    x : Tensor, shape (..., C), float32 or float64
    weight, bias : Tensor, shape (C,)
    eps : float
        Added to the variance; keeps a constant token finite.

    Returns
    -------
    Tensor, shape (..., C)

    Raises
    ------
    ValueError
        If `x` has no features, `weight` or `bias` does not have shape (C,), or `eps` is not positive.

    Examples
    --------
    >>> x = Tensor([[1.0, 2.0, 3.0]])
    >>> layernorm(x, Tensor([1.0, 1.0, 1.0]), Tensor([0.0, 0.0, 0.0])).data.round(3)
    array([[-1.225,  0.   ,  1.225]], dtype=float32)
    """
    return apply(LAYERNORM, *map(floating, operands(x, weight, bias)), eps=eps)


def layer_norm(x: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """
    `layernorm` with PyTorch's arguments.

    Parameters
    ----------
    x : Tensor, shape (..., C), float32 or float64
    normalized_shape : (int,) or int
        C: only the last axis is normalized.
    weight, bias : Tensor, shape (C,), optional
        Ones and zeros where they are left out.
    eps : float

    Returns
    -------
    Tensor, shape (..., C)

    Raises
    ------
    ValueError
        If `normalized_shape` is not (C,), or as `layernorm`.

    Examples
    --------
    >>> layer_norm(Tensor([[1.0, 2.0, 3.0]]), (3,)).data.round(3)
    array([[-1.225,  0.   ,  1.225]], dtype=float32)
    """
    shape = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if x.ndim == 0 or shape != x.shape[-1:]:
        raise ValueError(
            f"layer_norm: normalized_shape must be the last axis alone, {x.shape[-1:]} for x {x.shape}, got {shape}"
        )
    weight = Tensor(np.ones(shape, x.dtype)) if weight is None else weight
    return layernorm(x, weight, Tensor(np.zeros(shape, x.dtype)) if bias is None else bias, eps)

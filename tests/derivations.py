"""
The derivations of the operations' docstrings, step by step, as code: for every number what the step computes, and what
it does to a gradient. Nothing here calls the operations: it is the docstrings that are executed.

A step reads names and makes one. `backward` has for each name that it reads the formula of the docstring for that
name's share of the gradient; d is the gradient of what the step makes, and e holds all names so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


class Step(NamedTuple):
    """One numbered step."""

    number: int
    makes: str
    forward: Callable[[Any], np.ndarray]
    backward: Mapping[str, Callable[[np.ndarray, Any], np.ndarray]] = MappingProxyType({})


class Names(dict):
    """Names as attributes: e.x is e["x"]."""

    __getattr__ = dict.__getitem__


def mean_C(x):
    return x.mean(-1, keepdims=True)


def sum_N(x):
    return x.reshape(-1, x.shape[-1]).sum(0)


LAYERNORM = [
    Step(1, "mean", lambda e: mean_C(e.x), {"x": lambda d, e: np.ones_like(e.x) * d / e.x.shape[-1]}),
    Step(2, "xc", lambda e: e.x - e.mean, {"x": lambda d, e: d, "mean": lambda d, e: -d.sum(-1, keepdims=True)}),
    Step(3, "rstd", lambda e: (mean_C(e.xc**2) + 1e-5) ** -0.5,
         {"xc": lambda d, e: d * (-(e.rstd**3) / 2) * 2 * e.xc / e.xc.shape[-1]}),
    Step(4, "xhat", lambda e: e.xc * e.rstd,
         {"xc": lambda d, e: d * e.rstd, "rstd": lambda d, e: (d * e.xc).sum(-1, keepdims=True)}),
    Step(5, "out", lambda e: e.xhat * e.weight + e.bias,
         {"xhat": lambda d, e: d * e.weight, "weight": lambda d, e: sum_N(d * e.xhat), "bias": lambda d, e: sum_N(d)}),
]  # fmt: skip

C, A = math.sqrt(2 / math.pi), 0.044715
GELU = [
    Step(1, "u", lambda e: C * (e.x + A * e.x**3), {"x": lambda d, e: d * C * (1 + 3 * A * e.x**2)}),
    Step(2, "t", lambda e: np.tanh(e.u), {"u": lambda d, e: d * (1 - e.t**2)}),
    Step(3, "out", lambda e: e.x / 2 * (1 + e.t), {"x": lambda d, e: d * (1 + e.t) / 2, "t": lambda d, e: d * e.x / 2}),
]

LINEAR = [
    Step(1, "out", lambda e: e.x @ e.weight + e.bias,
         {"x": lambda d, e: d @ e.weight.T, "weight": lambda d, e: e.x.T @ d, "bias": lambda d, e: d.sum(0)}),
]  # fmt: skip


def onehot(ids, V):
    return (np.arange(V) == ids[:, None]).astype(float)


EMBEDDING = [Step(1, "out", lambda e: e.weight[e.ids], {"weight": lambda d, e: onehot(e.ids, len(e.weight)).T @ d})]


def split(packed, parts, H):
    B, T, width = packed.shape
    return packed.reshape(B, T, parts, H, width // parts // H).transpose(2, 0, 3, 1, 4)


def join(parts):
    B, H, T, D = parts[0].shape
    return np.concatenate([part.transpose(0, 2, 1, 3).reshape(B, T, H * D) for part in parts], -1)


def only(d, index):
    return join([d if part == index else 0 * d for part in range(3)])


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


ATTENTION = [
    *(Step(1, name, lambda e, i=i: split(e.qkv, 3, e.n_head)[i], {"qkv": lambda d, e, i=i: only(d, i)})
      for i, name in enumerate("qkv")),
    Step(2, "raw", lambda e: e.q @ e.k.swapaxes(-1, -2) / math.sqrt(e.q.shape[-1]),
         {"q": lambda d, e: d @ e.k / math.sqrt(e.q.shape[-1]),
          "k": lambda d, e: d.swapaxes(-1, -2) @ e.q / math.sqrt(e.q.shape[-1])}),
    Step(3, "scores", lambda e: np.where(e.causal_mask, -np.inf, e.raw),
         {"raw": lambda d, e: np.where(e.causal_mask, 0, d)}),
    Step(4, "weights", lambda e: softmax(e.scores),
         {"scores": lambda d, e: e.weights * (d - (d * e.weights).sum(-1, keepdims=True))}),
    Step(5, "dropped", lambda e: e.weights * e.dropout_mask, {"weights": lambda d, e: d * e.dropout_mask}),
    Step(6, "heads", lambda e: e.dropped @ e.v,
         {"dropped": lambda d, e: d @ e.v.swapaxes(-1, -2), "v": lambda d, e: e.dropped.swapaxes(-1, -2) @ d}),
    Step(7, "out", lambda e: join([e.heads]), {"heads": lambda d, e: split(d, 1, e.n_head)[0]}),
]  # fmt: skip


def first_largest(x):
    return (np.arange(x.shape[-1]) == x.argmax(-1)[:, None]).astype(float)


CROSS_ENTROPY = [
    Step(1, "shifted", lambda e: e.logits - e.logits.max(-1, keepdims=True),
         {"logits": lambda d, e: d - first_largest(e.logits) * d.sum(-1, keepdims=True)}),  # what reaches the maximum
    Step(2, "z", lambda e: np.exp(e.shifted).sum(-1), {"shifted": lambda d, e: d[:, None] * np.exp(e.shifted)}),
    Step(3, "nll", lambda e: np.log(e.z) - (e.shifted * e.happened).sum(-1),
         {"z": lambda d, e: d / e.z, "shifted": lambda d, e: -d[:, None] * e.happened}),
    Step(4, "out", lambda e: np.array((e.nll * e.counted).sum() / e.counted.sum()),
         {"nll": lambda d, e: d * e.counted / e.counted.sum()}),
]  # fmt: skip

DROPOUT = [
    Step(1, "bits", lambda e: e.bits_of_the_seed),
    Step(2, "mask", lambda e: (e.bits >= round(e.p * 2**32)) / (1 - e.p)),
    Step(3, "out", lambda e: e.x * e.mask, {"x": lambda d, e: d * e.mask}),
]


def gelu_slope(x):
    t = np.tanh(C * (x + A * x**3))
    return (1 + t) / 2 + x / 2 * (1 - t**2) * C * (1 + 3 * A * x**2)


GELU_LINEAR = [
    Step(1, "h", lambda e: e.x / 2 * (1 + np.tanh(C * (e.x + A * e.x**3))), {"x": lambda d, e: d * gelu_slope(e.x)}),
    Step(2, "out", lambda e: e.h @ e.weight + e.bias,
         {"h": lambda d, e: d @ e.weight.T, "weight": lambda d, e: e.h.T @ d, "bias": lambda d, e: d.sum(0)}),
]  # fmt: skip

LINEAR_CROSS_ENTROPY = [
    Step(1, "logits", lambda e: e.x @ e.weight.T, {"x": lambda d, e: d @ e.weight, "weight": lambda d, e: d.T @ e.x}),
    *(step._replace(number=max(step.number, 2)) for step in CROSS_ENTROPY),  # the shift is a part of (2) there
]

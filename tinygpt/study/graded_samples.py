"""
Samples for grading: hidden ones, which a seed draws, and one that is large enough to be timed.

A learner has the samples of `samples.py`. A function that was bent until those pass fails on others, so shapes, values
and attributes of the hidden ones depend on the teacher's seed. An exercise without an entry in HIDDEN is graded on its
known samples with other numbers; one without an entry in LARGE is not timed: the reference only makes a view, which
costs the same for every size.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygpt.study.samples import SAMPLES, Sample

HIDDEN_SAMPLES = 4
Rng = np.random.Generator


def hidden_samples(name: str, seed: int) -> list[Sample]:
    """
    Samples of an exercise that nobody has seen; the same for the same seed.

    Examples
    --------
    >>> [sample.arrays[0].shape for sample in hidden_samples("gelu", seed=1)]
    [(4, 2), (3,), (3,), (2, 3)]
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name in HIDDEN:
        return [HIDDEN[name](rng) for _ in range(HIDDEN_SAMPLES)]
    return [Sample([_like(array, rng) for array in sample.arrays], sample.attrs) for sample in SAMPLES.get(name, [])]


def large_sample(name: str, seed: int, turn: int = 0) -> Sample | None:
    """A sample in float32 that takes the reference some milliseconds, each turn another; None if it is not timed."""
    if name not in LARGE:
        return None
    sample = LARGE[name](np.random.default_rng([seed, zlib.crc32(name.encode()), 1, turn]))
    return Sample([np.asarray(array, np.float32) for array in sample.arrays], sample.attrs)


def _like(array: np.ndarray, rng: Rng) -> np.ndarray:
    """Other numbers of the same kind: what an operation needs above 0 stays there."""
    return rng.uniform(0.5, 2, array.shape) if np.min(array, initial=1) > 0 else rng.standard_normal(array.shape)


def _normal(rng: Rng, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [rng.standard_normal(shape) for shape in shapes]


def _positive(rng: Rng, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [rng.uniform(0.5, 2.0, shape) for shape in shapes]


def _not_zero(rng: Rng, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [rng.uniform(0.5, 2.0, shape) * rng.choice([-1, 1], shape) for shape in shapes]


def _sizes(rng: Rng, count: int) -> list[int]:
    """Lengths of axes."""
    return rng.integers(2, 6, count).tolist()


def _shape(rng: Rng) -> tuple[int, ...]:
    return tuple(_sizes(rng, int(rng.integers(1, 4))))


def _pair(rng: Rng) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast."""
    a, b, c = _sizes(rng, 3)
    pairs = [((a, b, c), (b, c)), ((a, 1, c), (b, 1)), ((c,), (a, b, 1)), ((), (a, b)), ((a, b), (a, b))]
    return pairs[rng.integers(len(pairs))]


def _elementwise(make: Callable[..., list[np.ndarray]]) -> Callable[[Rng], Sample]:
    return lambda rng: Sample(make(rng, _shape(rng)))


def _binary(make: Callable[..., list[np.ndarray]]) -> Callable[[Rng], Sample]:
    return lambda rng: Sample(make(rng, *_pair(rng)))


def _reducing(rng: Rng, **attrs: Any) -> Sample:
    axis = [0, 1, -1, -2, (0, 2), (-1, 0), (1,), None][rng.integers(8)]
    return Sample(_normal(rng, tuple(_sizes(rng, 3))), {"axis": axis, "keepdims": bool(rng.integers(2)), **attrs})


def _var(rng: Rng) -> Sample:
    return _reducing(rng, ddof=int(rng.integers(2)))


def _prod(rng: Rng) -> Sample:
    sample = _reducing(rng)
    return Sample([array * (rng.random(array.shape) < 0.7) for array in sample.arrays], sample.attrs)


def _along_an_axis(rng: Rng) -> Sample:
    shape = _shape(rng)
    return Sample(_normal(rng, shape), {"axis": int(rng.integers(-len(shape), len(shape)))})


def _pow(rng: Rng) -> Sample:
    return Sample(_positive(rng, _shape(rng)), {"exponent": [3, -1, 0.5, 2, 1, 1.5, -2][rng.integers(7)]})


def _clip(rng: Rng) -> Sample:
    low, high = sorted(rng.uniform(-1, 1, 2).tolist())
    return Sample(_normal(rng, _shape(rng)), {"low": low, "high": high})


def _where(rng: Rng) -> Sample:
    shapes = _pair(rng)
    return Sample(_normal(rng, *shapes), {"condition": rng.random(np.broadcast_shapes(*shapes)) < 0.5})


def _reshape(rng: Rng) -> Sample:
    a, b, c = _sizes(rng, 3)
    return Sample(_normal(rng, (a, b, c)), {"shape": [(a * b, c), (a, -1), (-1,), (c, b, a)][rng.integers(4)]})


def _transpose(rng: Rng) -> Sample:
    n = int(rng.integers(2, 5))
    return Sample(_normal(rng, tuple(_sizes(rng, n))), {"axes": tuple(rng.permutation(n).tolist())})


def _broadcast_to(rng: Rng) -> Sample:
    a, b, c = _sizes(rng, 3)
    shape = [(b, 1), (c,), (a, 1, c), (1, b, 1), ()][rng.integers(5)]
    return Sample(_normal(rng, shape), {"shape": (a, b, c)})


def _concatenate(rng: Rng) -> Sample:
    axis, lengths = int(rng.integers(3)), _sizes(rng, int(rng.integers(1, 4)))
    shape = _sizes(rng, 3)
    shapes = [tuple(length if i == axis else n for i, n in enumerate(shape)) for length in lengths]
    return Sample(_normal(rng, *shapes), {"axis": axis - 3 * int(rng.integers(2))})


def _pad(rng: Rng) -> Sample:
    shape = _shape(rng)
    widths = tuple(map(tuple, rng.integers(0, 3, (len(shape), 2)).tolist()))
    return Sample(_normal(rng, shape), {"widths": widths, "value": float(rng.integers(3))})


def _einsum(rng: Rng) -> Sample:
    a, b, c, d = _sizes(rng, 4)
    cases: dict[str, list[tuple[int, ...]]] = {
        "ij,jk->ki": [(a, b), (b, c)], "bij,bkj->bk": [(d, a, b), (d, c, b)], "jij->i": [(b, a, b)],
        "i,ij,j->": [(a,), (a, b), (b,)], "ij,k->ijk": [(a, 1), (c,)], "ij,jk,kl->li": [(a, b), (b, c), (c, d)],
        "aab,bc,c->ab": [(a, a, b), (b, c), (c,)],
    }  # fmt: skip
    subscripts = [*cases][rng.integers(len(cases))]
    return Sample(_normal(rng, *cases[subscripts]), {"subscripts": subscripts})


def _getitem(rng: Rng) -> Sample:
    a, b = _sizes(rng, 2)
    rows, columns = rng.integers(0, a, 6), rng.integers(0, b, 6)
    index = [(rows,), (rows, columns), (slice(None), columns), (rng.random((a, b)) < 0.6,), (..., -1),
             (slice(None, None, -2), None), (rows[:, None], columns)][rng.integers(7)]  # fmt: skip
    return Sample(_normal(rng, (a, b)), {"index": index})


def _matmul(rng: Rng) -> Sample:
    a, b, c, d = _sizes(rng, 4)
    pairs = [((a, b), (b, c)), ((d, a, b), (b, c)), ((b,), (b, c)), ((a, b), (b,)), ((d, 1, a, b), (c, b, a)),
             ((b,), (b,)), ((a, b), (d, b, c))]  # fmt: skip
    return Sample(_normal(rng, *pairs[rng.integers(len(pairs))]))


def _linear(rng: Rng) -> Sample:
    *leading, width, out = _sizes(rng, int(rng.integers(2, 5)))
    return Sample(_normal(rng, (*leading, width), (width, out), (out,)))


def _layernorm(rng: Rng) -> Sample:
    *leading, width = _sizes(rng, int(rng.integers(1, 4)))
    width += 2
    eps = float(10 ** rng.uniform(-5, -1))
    return Sample(_normal(rng, (*leading, width), (width,), (width,)), {"eps": eps})


def _cross_entropy(rng: Rng) -> Sample:
    n, vocab = (2 + each for each in _sizes(rng, 2))
    return Sample(_normal(rng, (n, vocab)), _targets(rng, n, vocab))


def _linear_cross_entropy(rng: Rng) -> Sample:
    n, vocab, width = (2 + each for each in _sizes(rng, 3))
    return Sample(_normal(rng, (n, width), (vocab, width)), _targets(rng, n, vocab))


def _targets(rng: Rng, n: int, vocab: int) -> dict[str, Any]:
    """Ids to predict, some of them to be ignored, but not the last."""
    ignored = int(rng.choice([-100, -1, 0]))
    targets = np.where(rng.random(n) < 0.3, ignored, rng.integers(0, vocab, n))
    targets[-1] = vocab - 1
    return {"targets": targets, "ignore_index": ignored}


def _embedding(rng: Rng) -> Sample:
    vocab, width, *shape = _sizes(rng, int(rng.integers(3, 5)))
    return Sample(_normal(rng, (vocab, width)), {"ids": rng.integers(0, vocab, shape)})


def _dropout(rng: Rng) -> Sample:
    return Sample(_normal(rng, _shape(rng)), _drop(rng))


def _attention(rng: Rng) -> Sample:
    batch, tokens, heads, width = _sizes(rng, 4)
    drop = _drop(rng) if rng.random() < 0.5 else {}
    return Sample(_normal(rng, (batch, tokens, 3 * heads * width)), {"n_head": heads, **drop})


def _drop(rng: Rng) -> dict[str, Any]:
    return {"p": round(float(rng.uniform(0.1, 0.6)), 3), "seed": int(rng.integers(1, 2**32))}


HIDDEN: dict[str, Callable[[Rng], Sample]] = {
    **dict.fromkeys(("add", "sub", "mul", "maximum", "logaddexp"), _binary(_normal)),
    **dict.fromkeys(
        ("neg", "exp", "expm1", "tanh", "sigmoid", "sin", "cos", "abs", "relu", "gelu"), _elementwise(_normal)
    ),
    **dict.fromkeys(("log", "log1p", "sqrt"), _elementwise(_positive)),
    "power": _binary(_positive),
    "remainder": _binary(_not_zero),
    "clip": _clip,
    **dict.fromkeys(("sum", "mean", "max", "norm", "logsumexp"), _reducing),
    "prod": _prod,
    **dict.fromkeys(("softmax", "log_softmax", "cumsum"), _along_an_axis),
    **dict.fromkeys(("linear", "gelu_linear"), _linear),
    "div": _binary(_not_zero),
    **dict.fromkeys(("var", "std"), _var),
    "pow": _pow,
    "where": _where,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "concatenate": _concatenate,
    "pad": _pad,
    "getitem": _getitem,
    "matmul": _matmul,
    "einsum": _einsum,
    "layernorm": _layernorm,
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
    "embedding": _embedding,
    "dropout": _dropout,
    "attention": _attention,
}


def _of(make: Callable[..., list[np.ndarray]], *shapes: tuple[int, ...], **attrs: Any) -> Callable[[Rng], Sample]:
    return lambda rng: Sample(make(rng, *shapes), attrs)


def _ids(rng: Rng, count: int, below: int) -> np.ndarray:
    return rng.integers(0, below, count)


_SQUARE, _TALL, _TALLER = (1024, 1024), (2048, 1024), (4096, 1024)
LARGE: dict[str, Callable[[Rng], Sample]] = {
    **dict.fromkeys(("add", "sub"), _of(_normal, _TALLER, (1024,))),
    **dict.fromkeys(("mul", "maximum", "logaddexp"), _of(_normal, _SQUARE, (1024,))),
    **dict.fromkeys(("exp", "expm1", "tanh", "sigmoid", "sin", "cos", "abs", "relu"), _of(_normal, _TALL)),
    "clip": _of(_normal, _TALL, low=-0.5, high=1.0),
    "gelu": _of(_normal, _SQUARE),
    **dict.fromkeys(("log", "log1p", "sqrt"), _of(_positive, _TALL)),
    "power": _of(_positive, _SQUARE, (1024,)),
    **dict.fromkeys(("prod", "var", "std", "max", "norm", "logsumexp"), _of(_normal, _TALL, axis=-1, keepdims=False)),
    **dict.fromkeys(("softmax", "log_softmax", "cumsum"), _of(_normal, _TALL, axis=-1)),
    "neg": _of(_normal, _TALLER),
    **dict.fromkeys(("div", "remainder"), _of(_not_zero, _SQUARE, (1024,))),
    "pow": _of(_positive, _SQUARE, exponent=3),
    "where": lambda rng: Sample(_normal(rng, _SQUARE, (1024,)), {"condition": rng.random(_SQUARE) < 0.5}),
    "broadcast_to": _of(_normal, (1024,), shape=_TALLER),
    "getitem": lambda rng: Sample(_normal(rng, (5000, 64)), {"index": (_ids(rng, 10_000, 5000),)}),
    "astype": _of(_normal, _TALL, dtype=np.float64),
    "einsum": _of(_normal, (8, 256, 128), (8, 256, 128), subscripts="bij,bkj->bik"),
    "matmul": _of(_normal, (512, 512), (512, 512)),
    "linear": _of(_normal, (512, 512), (512, 512), (512,)),
    "gelu_linear": _of(_normal, (512, 512), (512, 512), (512,)),
    "layernorm": _of(_normal, _SQUARE, (1024,), (1024,)),
    "cross_entropy": lambda rng: Sample(_normal(rng, _TALL), {"targets": _ids(rng, 2048, 1024)}),
    "linear_cross_entropy": lambda rng: Sample(
        _normal(rng, (512, 128), (2048, 128)), {"targets": _ids(rng, 512, 2048)}
    ),
    "embedding": lambda rng: Sample(_normal(rng, (5000, 64)), {"ids": _ids(rng, 10_000, 5000)}),
    "dropout": lambda rng: Sample(_normal(rng, _SQUARE), {"p": 0.1, "seed": int(rng.integers(1, 2**32))}),
    "attention": _of(_normal, (2, 256, 3 * 128), n_head=4),
}

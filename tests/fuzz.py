"""
Random calls of everything public that reaches a kernel, with whatever a caller may hand over: `python tests/fuzz.py
--calls 200000 --seed 1`.

Each call is made twice, by the kernels and by the reference, from the same random numbers. The results must be equal
within rounding, or both calls must end in an error of the kinds that a mistake is told by; arguments must not change;
and an id that the caller overwrites between forward and backward must not matter. What kernels do outside of their
arrays shows as a crash, so this runs in a process of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

import tinygpt.functional as F
from tinygpt import GPT, SGD, Adam, AdamW, GPTConfig, Tensor, Tokenizer, clip_grad_norm, implementation

MISTAKES = (ValueError, TypeError, IndexError)
SIZES = (0, 1, 1, 2, 3, 5, 8, 17, 33, 64)
Rng = np.random.Generator

CONFIG = GPTConfig(vocab_size=33, n_positions=12, n_embd=8, n_layer=1, n_head=2)
MODEL = GPT(CONFIG, seed=3).eval()
TOKENIZER = Tokenizer(
    [bytes([b]) for b in range(256)] + [b"he", b"the", b" the"], [(b"h", b"e"), (b"t", b"he"), (b" ", b"the")],
    {"<|endoftext|>": 300},
)  # fmt: skip


# Arrays as callers have them


def numbers(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Mostly float32 of ordinary size; sometimes another type, huge, tiny, or not finite."""
    array = rng.standard_normal(shape).astype(np.float32)
    kind = rng.integers(40)
    if kind == 0:
        array *= np.float32(10.0 ** rng.integers(-30, 30))
    elif kind == 1 and array.size:
        array.flat[rng.integers(array.size)] = rng.choice([np.nan, np.inf, -np.inf])
    elif kind == 2:
        array = array.astype(rng.choice(["f8", ">f4", ">f8", "f2", "i4", "?"]))
    return arranged(rng, array)


def ids(rng: Rng, shape: tuple[int, ...], count: int) -> np.ndarray:
    """Mostly valid; of any integer type, sometimes with one that is out of range."""
    array = rng.integers(max(count, 1), size=shape)
    array = array.astype(rng.choice(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">u2", ">i8"]))
    kind = rng.integers(25)
    if kind == 0 and array.size:
        limits = np.iinfo(array.dtype)
        array.flat[rng.integers(array.size)] = rng.choice([limits.max, limits.min, min(count, limits.max)])
    elif kind == 1:
        array = array.astype(rng.choice(["f4", "?", "c8", "O"]))
    return arranged(rng, array)


def arranged(rng: Rng, array: np.ndarray) -> np.ndarray:
    """The same values in another place or order of memory, or not writable."""
    kind = rng.integers(12)
    if kind == 0:
        array = np.asfortranarray(array)
    elif kind == 1 and array.ndim:
        array = np.repeat(array, 2, axis=0)[::2]
    elif kind == 2 and array.ndim:
        array = np.flip(np.flip(array, -1).copy(), -1)
    elif kind == 3 and array.dtype != object:
        memory = np.empty(array.nbytes + 1, np.uint8)
        memory[1:] = np.frombuffer(array.tobytes(), np.uint8)
        array = memory[1:].view(array.dtype).reshape(array.shape)
    elif kind == 4:
        array = array.copy()
        array.flags.writeable = False
    elif kind == 5 and array.ndim and len(array):
        array = np.broadcast_to(array[:1], array.shape)
    return array


def given(rng: Rng, array: np.ndarray) -> Any:
    """An array as a tensor that learns, a tensor, itself, or a list."""
    kind = rng.integers(10)
    if kind < 6:
        return Tensor(array, requires_grad=array.dtype.kind == "f")
    return Tensor(array) if kind < 8 else array if kind == 8 else array.tolist()


def tensor(rng: Rng, shape: tuple[int, ...]) -> Tensor:
    array = numbers(rng, shape)
    return Tensor(array, requires_grad=array.dtype.kind == "f" and bool(rng.integers(5)))


def spoiled(rng: Rng, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Now and then a shape that does not fit."""
    if rng.integers(25) or not shape:
        return shape
    sizes = list(shape)
    sizes[rng.integers(len(sizes))] = int(rng.choice(SIZES))
    return tuple(sizes[: rng.integers(len(sizes)) + 1] if rng.integers(3) == 0 else sizes)


def size(rng: Rng) -> int:
    return int(rng.choice(SIZES))


def lead(rng: Rng) -> tuple[int, ...]:
    return tuple(size(rng) for _ in range(rng.integers(3)))


# Calls: each returns the arrays to compare


def differentiated(rng: Rng, out: Tensor, *leaves: Any, edited: tuple[np.ndarray, ...] = ()) -> list[np.ndarray]:
    """Forward's result and the gradients of the leaves; what is `edited` is overwritten before backward."""
    results = [np.array(out.data)]
    for array in edited:
        if array.flags.writeable:
            array[...] = 0 if array.dtype == bool else np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    learning = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    if out.requires_grad:
        for _ in range(1 + (rng.integers(4) == 0)):
            out.backward(arranged(rng, rng.standard_normal(out.shape).astype(out.dtype)), retain_graph=True)
        results += [np.array(leaf.grad) for leaf in learning if leaf.grad is not None]
    largest = max((np.max(np.abs(leaf.data), initial=0) for leaf in leaves if isinstance(leaf, Tensor)), default=0)
    return results if largest < 100 else []  # of huge numbers what cancels is rounding: enough that nothing crashes


def call_linear(rng: Rng) -> list[np.ndarray]:
    i, o = size(rng), size(rng)
    x, w, b = (tensor(rng, spoiled(rng, shape)) for shape in ((*lead(rng), i), (i, o), (o,)))
    return differentiated(rng, rng.choice([F.linear, F.gelu_linear])(x, w, b), x, w, b)


def call_layernorm(rng: Rng) -> list[np.ndarray]:
    c = size(rng)
    x, w, b = (tensor(rng, spoiled(rng, shape)) for shape in ((*lead(rng), c), (c,), (c,)))
    eps = float(rng.choice([1e-5, 1.0, 0.0, -1.0, np.nan], p=[0.7, 0.15, 0.05, 0.05, 0.05]))
    results = differentiated(rng, F.layernorm(x, w, b, eps), x, w, b)
    rows = np.array(x.data, np.float64)
    # Of a constant row nothing is left but the rounding of its mean, which the division by its size makes large.
    constant = rows.std(axis=-1) < 1e-3 * np.abs(rows).max(axis=-1)
    return results if not constant.any() else []


def call_elementwise(rng: Rng) -> list[np.ndarray]:
    x = tensor(rng, (*lead(rng), size(rng)) if rng.integers(15) else ())
    function = rng.choice([F.gelu, F.exp, F.tanh, F.relu, F.neg, F.softmax, F.log_softmax, F.sum, F.mean, F.max])
    return differentiated(rng, function(x), x)


def call_dropout(rng: Rng) -> list[np.ndarray]:
    x, p = tensor(rng, lead(rng)), float(rng.choice([0, 0.1, 0.5, 0.9, 1.0, -0.1, np.nan]))
    seed = rng.choice(np.array([0, 1, 2**63, 2**64 - 1, -1, None, 1.5], object))
    return differentiated(rng, F.dropout(x, p, seed), x)


def call_binary(rng: Rng) -> list[np.ndarray]:
    shape = (*lead(rng), size(rng))
    other = shape if rng.integers(2) else shape[rng.integers(len(shape) + 1) :]
    a, b = given(rng, numbers(rng, shape)), given(rng, numbers(rng, spoiled(rng, other)))
    return differentiated(rng, rng.choice([F.add, F.sub, F.mul, F.maximum])(a, b), a, b)


def call_large_addition(rng: Rng) -> list[np.ndarray]:
    shape = (int(rng.integers(1, 4)), 70, 64)
    a, b = tensor(rng, shape), tensor(rng, shape[rng.integers(2) :])
    out = F.add(a, b)
    return differentiated(rng, F.add(out, out.T.T) if rng.integers(2) else out, a, b)


def call_aliased(rng: Rng) -> list[np.ndarray]:
    """One tensor, and transposes of it, as several inputs."""
    n = int(rng.integers(1, 20))
    x = Tensor(arranged(rng, rng.standard_normal((n, n)).astype(np.float32)), requires_grad=True)
    h = x * 1.0 if rng.integers(2) else x
    flat = Tensor(rng.standard_normal(n).astype(np.float32))
    parts = [F.linear(h, h, flat), F.gelu(h.T), F.gelu(h), h.T * h, F.layernorm(h, flat, flat), F.linear(h.T, h, h[0])]
    chosen = rng.permutation(len(parts))[: rng.integers(1, 4)]
    out = parts[chosen[0]]
    for i in chosen[1:]:
        out = out + parts[i]
    return differentiated(rng, out, x)


def call_attention(rng: Rng) -> list[np.ndarray]:
    heads, d = int(rng.integers(1, 4)), int(rng.integers(1, 20))
    qkv = tensor(rng, spoiled(rng, (int(rng.integers(1, 3)), int(rng.choice([1, 2, 5, 63, 64, 65])), 3 * heads * d)))
    p = float(rng.choice([0, 0, 0.3]))
    heads = rng.choice(np.array([heads, heads, heads, np.int64(heads), 0, -1, 7, 2.0], object))
    return differentiated(rng, F.attention(qkv, heads, p, 5 if p else None), qkv)


def call_embedding(rng: Rng) -> list[np.ndarray]:
    v, c = size(rng), size(rng)
    table, named = tensor(rng, spoiled(rng, (v, c))), ids(rng, lead(rng), v)
    out = F.embedding(named if rng.integers(5) else named.tolist(), table)
    return differentiated(rng, out, table, edited=(named,))


def call_cross_entropy(rng: Rng) -> list[np.ndarray]:
    v, shape = size(rng), lead(rng)
    targets = ids(rng, spoiled(rng, shape), v)
    ignored = rng.choice(np.array([-100, 0, 1, 255, 65535, -1, 2**40, np.int32(0)], object))
    if rng.integers(2):
        x = tensor(rng, (*shape, v))
        return differentiated(rng, F.cross_entropy(x, targets, ignored), x, edited=(targets,))
    c = size(rng)
    x, w = tensor(rng, spoiled(rng, (*shape, c))), tensor(rng, (v, c))
    return differentiated(rng, F.linear_cross_entropy(x, w, targets, ignored), x, w, edited=(targets,))


def call_index(rng: Rng) -> list[np.ndarray]:
    n = size(rng)
    x = tensor(rng, (n, size(rng)))
    index = ids(rng, (size(rng),), n) if rng.integers(2) else rng.integers(2, size=n).astype(bool)
    return differentiated(rng, x[index], x, edited=(index,))


def call_optimizer(rng: Rng) -> list[np.ndarray]:
    shapes = [(size(rng), size(rng)) if rng.integers(2) else (size(rng),) for _ in range(rng.integers(1, 4))]
    parameters = [Tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True) for shape in shapes]
    decay = float(rng.choice([0.0, 0.1]))
    optimizer: SGD | Adam = [
        lambda: AdamW(parameters, lr=0.1),
        lambda: Adam(parameters, lr=0.1, weight_decay=decay),
        lambda: SGD(parameters, lr=0.1, momentum=float(rng.choice([0.0, 0.9])), weight_decay=decay),
    ][rng.integers(3)]()
    results = []
    for step in range(2):
        for p in parameters:
            if rng.integers(8):
                p.grad = arranged(rng, rng.standard_normal(p.grad.shape if p.grad is not None else p.shape, np.float32))
        if step or rng.integers(3) == 0:
            for p in parameters:
                kind = rng.integers(12)
                if kind == 0:
                    p.data = numbers(rng, spoiled(rng, p.shape))
                elif kind == 1:
                    p.data = arranged(rng, p.data)
        norm = clip_grad_norm(parameters, float(rng.choice([0.1, 1e9])))
        optimizer.step(scale=float(rng.choice([1.0, 0.5])))
        results += [np.array(norm), *(p.data.copy() for p in parameters)]
    return results


def call_model(rng: Rng) -> list[np.ndarray]:
    b, t = int(rng.integers(1, 4)), int(rng.choice([0, 1, 2, 11, 12, 13]))
    tokens, targets = ids(rng, (b, t), 33), ids(rng, spoiled(rng, (b, t)), 33)
    MODEL.zero_grad()
    if rng.integers(4) == 0:
        return [MODEL(tokens).data]
    loss = MODEL.loss(tokens, targets, int(rng.choice([-100, 0])))
    for array in (tokens, targets):
        if array.flags.writeable and array.dtype.kind in "iu":
            array[...] = np.iinfo(array.dtype).max
    loss.backward()
    return [loss.data, MODEL.flat_gradients.copy()]


def call_decoder(rng: Rng) -> list[np.ndarray]:
    capacity = rng.choice(
        np.array([None, 12, 99, 5, 1, 0, -3, 2.0], object), p=[0.3, 0.2, 0.2, 0.1, 0.05, 0.05, 0.05, 0.05]
    )
    decoder = MODEL.decoder(int(rng.integers(1, 4)), capacity)
    s = len(decoder.lengths)
    results = [decoder.prefill(i, ids(rng, (int(rng.integers(1, 6)),), 33)) for i in range(s)]
    for _ in range(3):
        if rng.integers(3) == 0:
            sequence = int(rng.integers(s + (rng.integers(9) == 0)))
            results.append(decoder.prefill(sequence, ids(rng, (int(rng.integers(14)),), 33)))
        else:
            rows = arranged(rng, rng.permutation(s)[: rng.integers(1, s + 1)])
            results.append(decoder.step(rows, ids(rng, rows.shape, 33)))
    return results


def call_generate(rng: Rng) -> list[np.ndarray]:
    prompt = ids(rng, (int(rng.integers(20)),), 33)
    options = {"max_tokens": int(rng.integers(4)), "temperature": 0, "top_k": int(rng.choice([1, 5, 10**6]))}
    return [np.array(list(MODEL.generate(prompt if rng.integers(2) else prompt.tolist(), **options)))]


def text(rng: Rng) -> str:
    pieces = ["the hen", " ", "\n", "é", "雪", "\ud800", "🐔", "a" * 70, "'ll", "1234", "<|endoftext|>", "\x00", "ѣ"]
    return "".join(rng.choice(pieces, rng.integers(1, 40)))


def call_encode(rng: Rng) -> list[np.ndarray]:
    given_text = text(rng)
    found = TOKENIZER.encode_to_numpy(given_text, disallowed_special=())
    batch = TOKENIZER.encode_batch([given_text, ""], allowed_special="all")
    return [found, np.array(batch[0]), np.frombuffer(TOKENIZER.decode_bytes(found), np.uint8)]


def call_decode(rng: Rng) -> list[np.ndarray]:
    named = ids(rng, (int(rng.integers(200)),), 259)
    return [np.frombuffer(TOKENIZER.decode_bytes(named if rng.integers(3) else named.tolist()), np.uint8)]


def call_train_tokenizer(rng: Rng) -> list[np.ndarray]:
    texts = [text(rng) for _ in range(rng.integers(1, 4))]
    trained = Tokenizer.train(texts, int(rng.integers(257, 300)), progress=False)
    return [np.frombuffer(b"|".join(left + b" " + right for left, right in trained.merges), np.uint8)]


CALLS: list[tuple[Callable[[Rng], list[np.ndarray]], int]] = [
    (call_linear, 4), (call_layernorm, 4), (call_elementwise, 3), (call_dropout, 2), (call_binary, 4),
    (call_large_addition, 1), (call_aliased, 3), (call_attention, 3), (call_embedding, 4), (call_cross_entropy, 6),
    (call_index, 2), (call_optimizer, 4), (call_model, 2), (call_decoder, 2), (call_generate, 1), (call_encode, 2),
    (call_decode, 2), (call_train_tokenizer, 1),
]  # fmt: skip

TEXT_CALLS = {call_encode, call_decode, call_train_tokenizer}  # short texts go by the kernels in check mode only


# Running them


def outcome(call: Callable[[Rng], list[np.ndarray]], seed: tuple[int, int], name: str) -> list[np.ndarray] | str:
    """The results by one implementation, or the kind of error."""
    rng = np.random.default_rng(seed)
    try:
        with implementation("check" if name == "kernels" and call in TEXT_CALLS else name), np.errstate(all="ignore"):
            return call(rng)
    except MISTAKES as error:
        assert len(str(error)) < 700, f"an error of {len(str(error))} characters: {str(error)[:300]}"
        return type(error).__name__


def difference(ours: list[np.ndarray] | str, theirs: list[np.ndarray] | str) -> str:
    """What tells two outcomes apart beyond rounding; "" if nothing does."""
    if isinstance(ours, str) or isinstance(theirs, str):
        kinds = [x if isinstance(x, str) else "a result" for x in (ours, theirs)]
        return "" if kinds[0] == kinds[1] else f"kernels give {kinds[0]}, the reference {kinds[1]}"
    if len(ours) != len(theirs):
        return f"{len(ours)} results and {len(theirs)}"
    if not all(np.isfinite(b).all() and np.max(np.abs(b), initial=0) < 1e4 for b in theirs if b.dtype.kind == "f"):
        return ""  # what overflows in between is not the same
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"result {index}: {a.dtype} {a.shape} and {b.dtype} {b.shape}"
        gap = np.max(np.abs(a.astype(float) - b), initial=0)
        if not gap <= 1e-3 * max(1.0, np.max(np.abs(b.astype(float)), initial=0)):
            return f"result {index} is off by {gap:.3g} of {np.max(np.abs(b)):.3g}"
    return ""


def main() -> int:
    """Make the calls; print what went wrong, and how many calls ended how."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first call, to repeat one")
    parser.add_argument("--verbose", action="store_true", help="name each call before it is made, to find a crash")
    options = parser.parse_args()
    functions, weights = zip(*CALLS, strict=True)
    shares = np.array(weights) / sum(weights)
    told, failed, start = Counter(), 0, time.perf_counter()
    for number in range(options.first, options.first + options.calls):
        seed = (options.seed, number)
        call = functions[np.random.default_rng((*seed, 1)).choice(len(functions), p=shares)]
        if options.verbose:
            print(number, call.__name__, flush=True)
        try:
            ours, theirs = (outcome(call, seed, name) for name in ("kernels", "numpy"))
            wrong = difference(ours, theirs)
        except Exception as error:  # an error that no mistake of a caller may end in
            ours, wrong = type(error).__name__, f"{type(error).__name__}: {str(error)[:300]}"
        told[call.__name__, ours if isinstance(ours, str) else "result"] += 1
        if wrong:
            failed += 1
            print(f"call {number} of seed {options.seed}, {call.__name__}: {wrong}", flush=True)
    for (name, kind), count in sorted(told.items()):
        print(f"{name:22} {kind:12} {count}")
    print(f"{options.calls} calls, {failed} failed, {time.perf_counter() - start:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

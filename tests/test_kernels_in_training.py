"""Kernels where they are used: whole training steps, on any number of threads, in both precisions."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import digest_on_threads, precision

from tinygpt import GPT, AdamW, GPTConfig, Tokenizer, clip_grad_norm, implementation
from tinygpt.runtime import memory
from tinygpt.text.corpus import bundled_stories

SIZES = {"vocab_size": 300, "n_positions": 96, "n_embd": 64, "n_layer": 2, "n_head": 4}


@pytest.fixture(autouse=True)
def with_kernels():
    with implementation("kernels"):
        yield


@pytest.mark.slow
def test_one_two_and_four_threads_have_the_same_weights_after_20_steps():
    program = f"""
import hashlib, numpy as np
from tinygpt import GPT, AdamW, GPTConfig, clip_grad_norm
from tinygpt.runtime import settings
rng = np.random.default_rng(0)
for precision in ("highest", "medium"):
    settings.set_float32_matmul_precision(precision)
    model = GPT(GPTConfig(**{SIZES}))
    optimizer = AdamW(model.parameters(), lr=1e-3)
    for _ in range(20):
        tokens = rng.integers(0, 300, (6, 97))
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    print(hashlib.sha256(model.flat_parameters.tobytes()).hexdigest())
"""
    one, two, four = digest_on_threads(program)
    assert one == two == four
    assert len(set(one.split())) == 2  # and bfloat16 is not float32


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    text = "\n\n".join(bundled_stories())
    return Tokenizer.train(text, 512, progress=False).encode_to_numpy(text).astype(np.int64)


def losses_of(tokens: np.ndarray, steps: int) -> np.ndarray:
    model = GPT(GPTConfig(**SIZES | {"vocab_size": 512}), seed=1)
    optimizer = AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    rng, losses = np.random.default_rng(2), []
    for _ in range(steps):
        rows = tokens[rng.integers(len(tokens) - 97, size=8)[:, None] + np.arange(97)]
        loss = model.loss(rows[:, :-1], rows[:, 1:])
        loss.backward()
        clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return np.array(losses)


@pytest.mark.slow
def test_the_loss_in_bfloat16_stays_within_one_percent_of_float32(tokens):
    """300 steps on the stories; both curves, averaged over 20 steps to take the batches' noise out."""
    float32 = losses_of(tokens, 300)
    with precision("medium"):
        bfloat16 = losses_of(tokens, 300)
    smooth = [np.convolve(curve, np.full(20, 1 / 20), "valid") for curve in (float32, bfloat16)]
    assert float32[-20:].mean() < 0.8 * float32[0]
    np.testing.assert_allclose(smooth[1], smooth[0], rtol=0.01)


def step(model: GPT, optimizer: AdamW, tokens: np.ndarray) -> None:
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    clip_grad_norm(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("recompute", [False, True])
def test_after_the_second_step_no_large_memory_is_asked_for(tokens, recompute):
    """Neither of the system, by the pool, nor of NumPy: the largest array of its own is below a tenth of a layer's."""
    import tracemalloc

    model = GPT(GPTConfig(**SIZES | {"vocab_size": 512}))
    model.recompute = recompute
    optimizer = AdamW(model.parameters())
    rows = tokens[: 8 * 97].reshape(8, 97)
    for _ in range(2):
        step(model, optimizer, rows)
    before, sizes = memory.pool.allocated, []
    tracemalloc.start()
    try:
        for _ in range(3):
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            step(model, optimizer, rows)
            sizes.append(tracemalloc.get_traced_memory()[1] - start)
    finally:
        tracemalloc.stop()
    assert memory.pool.allocated == before
    # All that NumPy and Python took at once; one (B, T, 4C) array of activations has 786,432 bytes.
    assert max(sizes) < 400_000

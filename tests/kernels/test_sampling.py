"""The kernel that samples chooses the tokens of the reference, for the same uniform numbers."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import using_threads

from tinygpt.generation.sampling import choose
from tinygpt.kernels import sampling
from tinygpt.kernels.jit import threads
from tinygpt.runtime.launch import launcher

_choose_tokens = launcher(sampling.choose_tokens)


def chosen(logits: np.ndarray, uniforms: np.ndarray, *options, count: int = 2) -> list[int]:
    """By the kernel, a token per row."""
    with using_threads(count):
        workers = threads()
        scratch = sampling.scratch(workers, *logits.shape)
        choice = sampling.choice(scratch, logits, (uniforms, *options))
        _choose_tokens(logits, choice, workers)
    return choice[1].tolist()


def expected(logits: np.ndarray, uniforms: np.ndarray, *options) -> list[int]:
    return [choose(row, uniform, *options) for row, uniform in zip(logits, uniforms, strict=True)]


OPTIONS = [
    (temperature, top_k, top_p)
    for temperature in (0, 0.01, 0.7, 1.0, 30.0)
    for top_k in (None, 1, 2, 50, 63, 10**6)
    for top_p in (None, 1e-9, 0.3, 0.5, 0.95, 1 - 1e-9, 1.0)
]
SHAPES = {
    "one": lambda rng: np.zeros((3, 1)),
    "fewer than a block": lambda rng: 3 * rng.standard_normal((4, 11)),
    "a block and one": lambda rng: 3 * rng.standard_normal((4, 65)),
    "many": lambda rng: 2 * rng.standard_normal((3, 1000)),
    "ties": lambda rng: rng.integers(-2, 3, (4, 300)),
    "all equal": lambda rng: np.full((2, 200), -7.5),
    "zeros of both signs": lambda rng: rng.choice([0.0, -0.0, -1.0], (3, 130)),
    "far apart": lambda rng: rng.choice([-3e38, -1e30, 0, 1, 3e38], (4, 150)),
    "denormal": lambda rng: rng.integers(0, 9, (3, 90)) * 1e-45,
    "next to one another": lambda rng: 100 + rng.integers(0, 3, (3, 140)) * 2.0**-17,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_the_kernel_chooses_the_tokens_of_the_reference(shape, seed):
    """Limits that fall between equal logits, at the first and at the last token; uniform numbers at both ends."""
    rng = np.random.default_rng(seed)
    logits = SHAPES[shape](rng).astype(np.float32)
    for options in OPTIONS:
        uniforms = rng.random(len(logits))
        uniforms[0] = rng.choice([0.0, 0.5, 0.25, 1 - 2**-53])
        assert chosen(logits, uniforms, *options) == expected(logits, uniforms, *options), options


def test_equal_probabilities_are_limited_by_their_order():
    """A temperature at which float64 cannot tell the logits apart: the probabilities are equal, the logits are not."""
    logits = np.float32([[0, 1, 2, 3] * 40])
    for options in ((1e30, None, 0.1), (1e30, 5, None), (1e30, 5, 0.5)):
        for uniform in np.linspace(0, 0.99, 12):
            assert chosen(logits, uniform[None], *options) == expected(logits, uniform[None], *options)


@pytest.mark.parametrize(
    "options", [(0, None, None), (0.8, None, None), (1.0, 50, None), (0.9, None, 0.9), (1.2, 40, 0.8)]
)
def test_a_vocabulary_of_gpt2s_size_on_any_number_of_threads(rng, options):
    logits = 3 * rng.standard_normal((2, 50257), np.float32)
    uniforms = rng.random(2)
    for count in (1, 2, 3, 4):
        assert chosen(logits, uniforms, *options, count=count) == expected(logits, uniforms, *options)


def test_tokens_come_as_often_as_they_are_probable():
    logits = np.log(np.float32([[0.5, 0.25, 0.15, 0.1]]))
    grid = (np.arange(200) + 0.5) / 200
    counts = np.bincount([chosen(logits, uniform[None], 1.0, None, None)[0] for uniform in grid])
    assert counts.tolist() == [100, 50, 30, 20]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [(0, None, None), (1.0, None, None), (1.0, 3, None), (1.0, None, 0.5)])
def test_what_is_not_finite_is_told_wherever_it_is(bad, options):
    logits = np.zeros((3, 150), np.float32)
    logits[1, 140] = bad
    found = chosen(logits, np.full(3, 0.5), *options)
    assert found[1] == -1 and min(found[0], found[2]) >= 0

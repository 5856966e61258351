"""The four steps of the ladder: each is the matrix product, at every edge of a block and of a tile."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import in_a_process

from tinygpt.kernels.matmul import ladder
from tinygpt.kernels.matmul.ladder import KC, MC, MR, NC, NR

SIZES = [(1, 1, 1), (MR, NR, 16), (MR + 1, NR + 1, 17), (7, 11, 13), (MC + 1, NC + 1, KC + 1), (2, 3, 2 * KC + 5)]
STEPS = [ladder.triple_loop, ladder.blocked, ladder.packed, ladder.register_tile]


def product(step, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What a step writes over memory full of NaN, with packing memory full of NaN."""
    c = np.full((len(a), b.shape[1]), np.nan, np.float32)
    packs = step in (ladder.packed, ladder.register_tile)
    step(a, b, c, *(np.full((rows, KC), np.nan, np.float32) for rows in (MC, NC) if packs))
    return c


def check(step, size, seed=0) -> None:
    """
    Every number is off by at most K 2^-24 / (1 - K 2^-24) times sum_k |a_ik| |b_kj|.

    That bound holds for K products and their sum in any order: Higham 2002, Accuracy and Stability, section 3.1.
    """
    (m, n, k), rng = size, np.random.default_rng(seed)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    exact, size_of_terms = a.astype(np.float64) @ b.astype(np.float64), np.abs(a).astype(np.float64) @ np.abs(b)
    unit = k * 2.0**-24
    assert (np.abs(product(step, a, b) - exact) <= unit / (1 - unit) * size_of_terms).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_every_step_gives_the_product(step, size):
    check(step, size)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_nan_is_seen_where_it_belongs_only(step, rng):
    a, b = rng.standard_normal((9, 20), np.float32), rng.standard_normal((20, 10), np.float32)
    a[4, 3] = np.nan
    c = product(step, a, b)
    assert np.isnan(c[4]).all() and np.isfinite(np.delete(c, 4, axis=0)).all()


@pytest.mark.slow
def test_plain_python_gives_the_product_too():
    program = """
import sys; sys.path.insert(0, "tests/kernels")
from test_ladder import STEPS, check
for step in STEPS:
    check(step, (5, 6, 17))
print("equal")
"""
    assert in_a_process(program, NUMBA_DISABLE_JIT="1").strip() == "equal"

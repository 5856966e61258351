"""Dropout: the definition down to the bits, its gradient, the same from basic operations, statistics, and the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck
from tinygpt.ops import dropout as dropout_module
from tinygpt.ops.dropout import random_bits
from tinygpt.runtime.seeds import splitmix64

SEEDS = [0, 1, 1337, 2**32, 2**64 - 1]
N = 200_000  # elements of a statistical sample


def literal_splitmix64(seed):
    z = (seed + 0x9E3779B97F4A7C15) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def literal_mix(h):
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
    return h


def literal_bits(seed, i):
    """The hash of element i with Python's integers, which neither overflow nor change their type."""
    key1, key0 = divmod(literal_splitmix64(seed), 2**32)
    high, low = divmod(i, 2**32)
    return literal_mix(literal_mix(low ^ key0) ^ key1 ^ (high * 0x9E3779B9 & 0xFFFFFFFF))


def literal_mask(seed, shape, p):
    kept = [literal_bits(seed, i) >= p * 2**32 for i in range(math.prod(shape))]
    return np.array([1 / (1 - p) if keep else 0.0 for keep in kept]).reshape(shape)


def ones_dropped(p, seed, shape=(N,)):
    return F.dropout(Tensor(np.ones(shape)), p, seed).data


# (1) forward is the definition


def test_the_hashes_give_the_numbers_that_their_authors_publish():
    """The first three outputs of splitmix64 from state 0, and MurmurHash3_x86_32 of "" with seeds 1 and 2^32 - 1."""
    states = [0, 0x9E3779B97F4A7C15, 2 * 0x9E3779B97F4A7C15 % 2**64]
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [literal_splitmix64(state) for state in states] == published
    assert [splitmix64(state) for state in states] == published
    assert [literal_mix(1), literal_mix(2**32 - 1)] == [0x514E28B7, 0x81F16F39]


@pytest.mark.parametrize("seed", SEEDS)
def test_bits_are_the_hash_of_seed_and_position(seed):
    bits = random_bits(seed, 1000)
    assert bits.dtype == np.uint32
    assert bits.tolist() == [literal_bits(seed, i) for i in range(1000)]


def test_positions_beyond_32_bits_take_their_high_half_in(monkeypatch):
    """2^32 elements do not fit here: NumPy's stand-in makes the first four words of each round and keeps nothing."""
    written, rounds = {}, []

    class Bits:
        def __setitem__(self, part, words):
            assert part.stop == part.start + len(words)
            written.update(enumerate(words.tolist(), start=part.start))

    class FourWords:
        empty = staticmethod(lambda count, dtype: Bits())
        uint32 = np.uint32

        @staticmethod
        def arange(count, dtype):
            rounds.append(count)
            return np.arange(4, dtype=dtype)

    monkeypatch.setattr(dropout_module, "np", FourWords)
    random_bits(7, 2 * 2**32 + 4)
    assert rounds == [2**32, 2**32, 4]
    assert written == {i: literal_bits(7, i) for start in (0, 2**32, 2 * 2**32) for i in range(start, start + 4)}


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_forward_drops_by_the_bits_and_scales_the_others(rng, seed, p):
    x = rng.standard_normal((3, 5, 7))
    np.testing.assert_array_equal(F.dropout(Tensor(x), p, seed).data, x * literal_mask(seed, x.shape, p))


def test_an_element_exactly_at_the_threshold_stays():
    """Step (2) says >=; a kernel with > would differ once in four thousand million."""
    p = literal_bits(5, 0) / 2**32
    assert F.dropout(Tensor(np.ones(1)), p, seed=5).item() == 1 / (1 - p)


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@pytest.mark.parametrize("shape", [(), (11,), (4, 4), (2, 3, 4)], ids=str)
def test_gradient_agrees_with_finite_differences(rng, shape, limit):
    assert gradcheck(lambda x: F.dropout(x, 0.4, seed=5), [rng.standard_normal(shape)], elementwise_limit=limit)


# (3) fused equals composed


def test_fused_equals_a_product_with_the_mask(rng):
    x, dout = rng.standard_normal((2, 3, 4, 5))
    mask = literal_mask(11, x.shape, 0.3)
    composed = value_and_gradients(lambda x: x * mask, [x], dout)
    assert_same(value_and_gradients(lambda x: F.dropout(x, 0.3, seed=11), [x], dout), composed, tolerance=0)


# Statistics. Seeds are fixed, so that nothing here fails by chance; five standard deviations happen to one honest
# generator in two million.


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", SEEDS)
def test_as_many_stay_as_p_says_and_the_mean_stays_1(p, seed):
    out = ones_dropped(p, seed)
    deviation = math.sqrt(p * (1 - p) / N)  # of a mean of N independent yes or no
    assert abs(np.mean(out != 0) - (1 - p)) < 5 * deviation
    assert abs(np.mean(out) - 1) < 5 * deviation / (1 - p)


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize(("seed", "other"), [(0, 1), (1, 2), (1337, 1338), (1, 2**32 + 1), (0, 2**63), (5, ~5 % 2**64)])
def test_two_seeds_have_nothing_in_common(seed, other):
    """Layer after layer and step after step use neighbouring seeds."""
    assert abs(correlation(ones_dropped(0.5, seed), ones_dropped(0.5, other))) < 5 / math.sqrt(N)


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("distance", [1, 2, 3, 32, 64, 768, 1024, 4096])
def test_neighbours_in_every_direction_have_nothing_in_common(distance, p):
    """The element beside it, and the one above it in a row of 768 or 1024."""
    out = ones_dropped(p, seed=3)
    assert abs(correlation(out[:-distance], out[distance:])) < 5 / math.sqrt(N - distance)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_byte_of_the_bits_is_uniform(seed):
    """Chi-square over 256 values: mean 255, variance 510. Far below would be as wrong: a counter, not chance."""
    octets = random_bits(seed, 2**18).view(np.uint8).reshape(-1, 4)
    for place in range(4):
        counts = np.bincount(octets[:, place], minlength=256)
        chi_square = np.sum((counts - 2**10) ** 2) / 2**10
        assert abs(chi_square - 255) < 5 * math.sqrt(510)


def test_consecutive_seeds_are_uniform_at_one_position():
    """Read across seeds instead of positions, as a single element sees its training steps."""
    kept = [random_bits(seed, 1)[0] >= 2**31 for seed in range(4000)]
    assert abs(np.mean(kept) - 0.5) < 5 * 0.5 / math.sqrt(4000)
    assert abs(correlation(kept[:-1], kept[1:])) < 5 / math.sqrt(3999)


# (5) edge cases


def test_the_mask_is_a_function_of_the_position_only():
    """A longer array begins with the shorter one's mask, and shape is only how it is read: any split is possible."""
    whole = ones_dropped(0.5, 9, (1000,))
    np.testing.assert_array_equal(ones_dropped(0.5, 9, (77,)), whole[:77])
    np.testing.assert_array_equal(ones_dropped(0.5, 9, (10, 20, 5)), whole.reshape(10, 20, 5))


def test_a_view_is_masked_by_position_and_not_by_memory(rng):
    """Element i is counted in C order of the shape, however the array lies in memory."""
    view = rng.standard_normal((6, 4)).T
    dropped = F.dropout(Tensor(view), 0.5, seed=2).data
    np.testing.assert_array_equal(dropped, F.dropout(Tensor(view.copy(order="C")), 0.5, seed=2).data)


def test_forward_and_backward_drop_the_same_elements():
    """Nothing is stored: backward makes the mask again, and again the same on a second call."""
    x = np.ones((8, 8))
    first = value_and_gradients(lambda x: F.dropout(x, 0.5, seed=4), [x], np.ones_like(x))
    np.testing.assert_array_equal(first[0], first[1][0])
    assert_same(first, value_and_gradients(lambda x: F.dropout(x, 0.5, seed=4), [x], np.ones_like(x)), tolerance=0)


def test_p_0_returns_the_tensor_itself_and_needs_no_seed():
    """Outside training there is nothing to pay for."""
    x = Tensor(np.ones(3))
    assert F.dropout(x, 0, seed=None) is x


def test_p_almost_1_drops_almost_all_and_stays_finite():
    """1 / (1 - p) is large but finite; the threshold p 2^32 must not wrap around to 0, which would keep all."""
    out = ones_dropped(1 - 2**-40, seed=1)
    assert np.isfinite(out).all()
    assert np.mean(out != 0) < 1e-3


def test_a_dropped_nan_is_still_a_nan():
    """0 * NaN is NaN: dropout must not hide that a model has diverged."""
    assert np.isnan(F.dropout(Tensor(np.full(100, np.nan)), 0.5, seed=1).data).all()


def test_an_empty_array_passes():
    out, (dx,) = value_and_gradients(lambda x: F.dropout(x, 0.5, seed=1), [np.zeros((0, 3))], np.zeros((0, 3)))
    assert out.shape == dx.shape == (0, 3)


def test_float32_keeps_its_type_and_its_mask(rng):
    """The mask is the same in every precision, so that a check in float64 speaks of the float32 run."""
    x = np.ones(50, np.float32)
    out, (dx,) = value_and_gradients(lambda x: F.dropout(x, 0.1, seed=6), [x], x)
    assert out.dtype == dx.dtype == np.float32
    np.testing.assert_array_equal(out, ones_dropped(0.1, 6, (50,)).astype(np.float32))


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint64])
def test_numpys_integers_are_seeds_too(kind):
    """Seeds are often drawn from a generator: they must neither overflow nor give another mask."""
    np.testing.assert_array_equal(ones_dropped(0.5, kind(3), (20,)), ones_dropped(0.5, 3, (20,)))


@pytest.mark.parametrize("p", [-0.1, 1, 1.5, math.nan])
def test_a_probability_out_of_range_is_named(p):
    with pytest.raises(ValueError, match=rf"dropout: p must be at least 0 and below 1, got {p}"):
        F.dropout(Tensor(np.ones(3)), p, seed=1)


@pytest.mark.parametrize("seed", [None, -1, 2**64, 1.5, True, False])  # PyTorch's third argument is `training`
def test_a_seed_out_of_range_is_named(seed):
    message = rf"dropout: seed must be an integer from 0 to 2\^64 - 1, got {seed}; pass another one at each step"
    with pytest.raises(ValueError, match=message):
        F.dropout(Tensor(np.ones(3)), 0.5, seed)


def test_a_seed_is_needed_where_something_is_dropped():
    x = Tensor(np.ones(3))
    assert F.dropout(x, 0.0) is x
    with pytest.raises(ValueError, match=r"dropout: seed must be an integer from 0 .*, got None"):
        F.dropout(x, 0.5)

"""Causal attention: the definition, its gradient, the same from basic operations, and the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

# name: (B, T, H, D, p). "square": B = T = H = D, where shapes cannot tell one axis from another
CASES = {
    "two heads": (2, 3, 2, 2, 0.0),
    "one head": (2, 3, 1, 4, 0.0),
    "heads of one feature": (1, 4, 3, 1, 0.0),
    "one token": (2, 1, 2, 2, 0.0),
    "square": (3, 3, 3, 3, 0.0),
    "dropout": (2, 4, 2, 3, 0.3),
}
every_case = pytest.mark.parametrize(("B", "T", "H", "D", "p"), CASES.values(), ids=CASES)
SEED = 21


def attend(H, p=0.0, seed=SEED):
    return lambda qkv: F.attention(qkv, H, p, seed)


# (1) forward is the definition


@every_case
def test_forward_is_a_weighted_mean_of_the_values_so_far(rng, B, T, H, D, p):
    qkv = rng.standard_normal((B, T, 3 * H * D))
    mask = F.dropout(Tensor(np.ones((B, H, T, T))), p, SEED).data  # tested by itself in test_dropout.py
    q, k, v = (part.reshape(B, T, H, D) for part in np.split(qkv, 3, axis=-1))
    expected = np.zeros((B, T, H * D))
    for b, h, t in np.ndindex(B, H, T):
        weights = []
        for s in range(t + 1):
            score = sum(q[b, t, h, d] * k[b, s, h, d] for d in range(D)) / math.sqrt(D)
            weights.append(math.exp(score))
        for s, weight in enumerate(weights):
            for d in range(D):
                expected[b, t, h * D + d] += weight / sum(weights) * mask[b, h, t, s] * v[b, s, h, d]
    assert_close(attend(H, p)(Tensor(qkv)).data, expected)


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_case
def test_gradient_agrees_with_finite_differences(rng, B, T, H, D, p, limit):
    assert gradcheck(attend(H, p), [rng.standard_normal((B, T, 3 * H * D))], elementwise_limit=limit)


# (3) fused equals composed


@every_case
def test_fused_equals_the_same_from_basic_operations(rng, B, T, H, D, p):
    qkv, dout = rng.standard_normal((B, T, 3 * H * D)), rng.standard_normal((B, T, H * D))

    def composed(qkv):
        heads = qkv.reshape(B, T, 3, H, D).transpose(2, 0, 3, 1, 4)  # (3, B, H, T, D)
        q, k, v = heads[0], heads[1], heads[2]
        seen = np.tri(T, dtype=bool)
        weights = F.softmax(F.where(seen, q @ k.swapaxes(-1, -2) / math.sqrt(D), -np.inf))
        return (F.dropout(weights, p, SEED) @ v).transpose(0, 2, 1, 3).reshape(B, T, H * D)

    assert_same(value_and_gradients(attend(H, p), [qkv], dout), value_and_gradients(composed, [qkv], dout))


# (5) edge cases


def test_no_token_sees_the_future(rng):
    """A model that peeks has a splendid loss and tells nothing. Exact: a masked weight is 0, not merely small."""
    qkv = rng.standard_normal((1, 6, 3 * 4))
    changed = qkv.copy()
    changed[:, 4:] = rng.standard_normal((1, 2, 12))
    before, after = (attend(2)(Tensor(x)).data for x in (qkv, changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).all()


def test_no_gradient_flows_back_from_the_past_to_the_future(rng):
    """The same from the other side: a loss on the first tokens leaves the later ones exactly alone."""
    dout = np.zeros((1, 6, 4))
    dout[:, :4] = rng.standard_normal((1, 4, 4))
    _, (dqkv,) = value_and_gradients(attend(2), [rng.standard_normal((1, 6, 12))], dout)
    assert not dqkv[:, 4:].any()
    assert dqkv[:, 1:4].all()  # the first token's query has nothing to choose from


def test_a_single_token_looks_at_itself(rng):
    """T = 1: its weight is 1, so the value comes out, and neither query nor key can change that."""
    qkv, dout = rng.standard_normal((2, 1, 12)), rng.standard_normal((2, 1, 4))
    out, (dqkv,) = value_and_gradients(attend(2), [qkv], dout)
    np.testing.assert_array_equal(out, qkv[:, :, 8:])
    np.testing.assert_array_equal(dqkv, np.concatenate([np.zeros((2, 1, 8)), dout], axis=-1))


def test_without_a_preference_the_mean_so_far_comes_out(rng):
    """All scores equal (q = 0): row t has weight 1 / (t + 1) on each token up to t."""
    qkv = rng.standard_normal((2, 5, 12))
    qkv[:, :, :4] = 0
    running_mean = np.cumsum(qkv[:, :, 8:], axis=1) / np.arange(1, 6)[:, None]
    assert_close(attend(2)(Tensor(qkv)).data, running_mean)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_enormous_scores_pick_one_token_and_do_not_overflow(dtype):
    """e^1000 is infinite in both precisions; the largest score of each row must be subtracted first."""
    q, k = np.full((1, 3, 1), 1000.0), np.array([1.0, 3.0, 2.0]).reshape(1, 3, 1)
    v = np.array([10.0, 20.0, 30.0]).reshape(1, 3, 1)
    qkv = np.concatenate([q, k, v], axis=-1).astype(dtype)
    out, (dqkv,) = value_and_gradients(attend(1), [qkv], np.ones((1, 3, 1), dtype))
    assert out[0, :, 0].tolist() == [10.0, 20.0, 20.0]
    assert dqkv[0, :, 2].tolist() == [1.0, 2.0, 0.0]
    assert not dqkv[0, :, :2].any()


def test_heads_do_not_see_each_other(rng):
    """Head h owns features h D to (h + 1) D of each part: one alone gives that slice of the output."""
    B, T, H, D = 2, 4, 3, 2
    qkv = rng.standard_normal((B, T, 3 * H * D))
    out = attend(H)(Tensor(qkv)).data
    for h in range(H):
        own = qkv.reshape(B, T, 3, H, D)[:, :, :, h].reshape(B, T, 3 * D)
        assert_close(attend(1)(Tensor(own)).data, out[:, :, h * D : (h + 1) * D])


def test_sequences_of_a_batch_do_not_see_each_other(rng):
    qkv = rng.standard_normal((3, 4, 12))
    out = attend(2)(Tensor(qkv)).data
    for b in range(3):
        assert_close(attend(2)(Tensor(qkv[b : b + 1])).data[0], out[b])


def test_an_empty_batch_passes():
    out, (dqkv,) = value_and_gradients(attend(2), [np.zeros((0, 3, 12))], np.zeros((0, 3, 4)))
    assert (out.shape, dqkv.shape) == ((0, 3, 4), (0, 3, 12))


def test_dropout_keeps_the_mean_and_depends_on_the_seed(rng):
    """Over many seeds the mean is the output without dropout."""
    qkv = Tensor(rng.standard_normal((1, 4, 12)))
    outs = np.array([attend(2, 0.2, seed)(qkv).data for seed in range(2000)])
    error = outs.std(axis=0) / math.sqrt(2000)
    assert (np.abs(outs.mean(axis=0) - attend(2)(qkv).data) < 5 * error).all()
    np.testing.assert_array_equal(attend(2, 0.2, 7)(qkv).data, outs[7])


def test_without_dropout_no_seed_is_needed(rng):
    qkv = Tensor(rng.standard_normal((1, 3, 6)))
    np.testing.assert_array_equal(F.attention(qkv, 1).data, F.attention(qkv, 1, p=0.0, seed=5).data)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_float32_stays_float32_in_both_directions(rng, p):
    """1 / sqrt(D) and the dropout factor are Python numbers, which must not lift the arrays to float64."""
    qkv, dout = rng.standard_normal((2, 5, 24)), rng.standard_normal((2, 5, 8))
    single = value_and_gradients(attend(2, p), [qkv.astype(np.float32)], dout.astype(np.float32))
    assert single[0].dtype == single[1][0].dtype == np.float32
    assert_same(single, value_and_gradients(attend(2, p), [qkv], dout), tolerance=2e-6)  # some 30 roundings of 6e-8


def test_a_view_gives_the_same_as_a_copy_and_is_not_written_into(rng):
    view, dout = rng.standard_normal((12, 6, 2)).T[:, ::2], rng.standard_normal((2, 3, 4))
    copy = view.copy()
    assert_same(value_and_gradients(attend(2), [view], dout), value_and_gradients(attend(2), [copy], dout))
    np.testing.assert_array_equal(view, copy)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((1, 2, 30), {"n_head": 4}, "n_embd must be a multiple of n_head, got n_embd = 10, n_head = 4"),
        ((1, 2, 30), {"n_head": 0}, "n_embd must be a multiple of n_head, got n_embd = 10, n_head = 0"),
        ((1, 2, 30), {"n_head": -2}, "n_embd must be a multiple of n_head, got n_embd = 10, n_head = -2"),
        ((1, 2, 0), {"n_head": 2}, "n_embd must be a multiple of n_head, got n_embd = 0, n_head = 2"),
        ((1, 2, 31), {"n_head": 1}, r"qkv must have shape \(B, T, 3C\), got \(1, 2, 31\)"),
        ((2, 30), {"n_head": 2}, r"qkv must have shape \(B, T, 3C\), got \(2, 30\); concatenate q, k and v"),
        ((1, 0, 30), {"n_head": 2}, r"needs at least one token, got qkv \(1, 0, 30\)"),
        ((1, 2, 30), {"n_head": 2, "p": 1.0, "seed": 1}, "p must be at least 0 and below 1, got 1.0"),
        ((1, 2, 30), {"n_head": 2, "p": 0.1}, r"seed must be an integer from 0 to 2\^64 - 1, got None"),
    ],
)
def test_wrong_arguments_are_named(shape, arguments, message):
    with pytest.raises(ValueError, match=f"attention: {message}"):
        F.attention(Tensor(np.zeros(shape)), **arguments)

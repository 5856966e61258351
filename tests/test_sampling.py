"""Sampling: every token has the probability that the definitions give it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tinygpt.generation.sampling import sample, top_k_ids

LOGITS = np.array([1.0, -2.0, 3.0, 0.5, 2.5, -1.0, 2.5])  # two are equal


def literal_probabilities(logits, temperature=1.0, top_k=None, top_p=None) -> list[float]:
    """By the definitions: rank by score (ties by id), keep the first k, keep as few of them as reach p, normalize."""
    ids = sorted(range(len(logits)), key=lambda id: (-logits[id], id))[:top_k]
    e = {id: math.exp((logits[id] - max(logits)) / temperature) for id in ids}
    p = {id: e[id] / sum(e.values()) for id in ids}
    kept, reached = [], 0.0
    for id in ids:
        if top_p is None or reached < top_p * (1 - 1e-12):  # a sum that reaches p exactly may round below it
            kept.append(id)
            reached += p[id]
    return [p[id] / reached if id in kept else 0.0 for id in range(len(logits))]


def exact_probabilities(logits, resolution: int = 4000, **options) -> np.ndarray:
    """How often each token is chosen as the random number runs evenly from 0 to 1: exact to 1 / resolution."""
    counts = np.zeros(len(logits))
    for i in range(resolution):
        uniform = SimpleNamespace(random=lambda i=i: (i + 0.5) / resolution)
        counts[sample(logits, uniform, **options)] += 1
    return counts / resolution


OPTIONS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 2},  # cuts between two equal logits
    {"top_k": 4},
    {"top_k": 100},
    {"top_p": 0.3},
    {"top_p": 0.8},
    {"top_p": 1e-9},  # at least one stays
    {"top_p": 1.0},
    {"temperature": 2.0, "top_k": 5, "top_p": 0.7},  # in this order
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_token_has_the_probability_of_the_definition(options):
    expected = literal_probabilities(LOGITS, **options)
    found = exact_probabilities(LOGITS, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.01 / 4000)
    assert not found[np.array(expected) == 0].any()


def test_top_p_stops_at_the_token_that_reaches_it_exactly():
    quarters = np.zeros(4)
    assert exact_probabilities(quarters, 100, top_p=0.5).tolist() == [0.5, 0.5, 0, 0]
    assert exact_probabilities(quarters, 100, top_p=0.500001).tolist() == [0.33, 0.34, 0.33, 0]


@pytest.mark.parametrize("n", [9, 10, 43])
def test_top_p_is_reached_although_sums_round(n):
    for kept in range(1, n + 1):  # 0.1 + 0.1 + 0.1 is not 0.3 in binary
        assert np.count_nonzero(exact_probabilities(np.zeros(n), 2 * n, top_p=kept / n)) == kept


@given(
    logits=st.lists(st.integers(-4, 4), min_size=1, max_size=8),
    temperature=st.sampled_from([0.25, 1.0, 2.0]),
    top_k=st.none() | st.integers(1, 9),
    top_p=st.none() | st.floats(0.01, 1.0),
)
def test_what_is_chosen_is_what_the_definition_keeps(logits, temperature, top_k, top_p):
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    expected = literal_probabilities(logits, **options)
    nearly = {**options, "top_p": top_p and top_p * (1 + 1e-9)}, {**options, "top_p": top_p and top_p * (1 - 1e-9)}
    assume(all(literal_probabilities(logits, **other) == expected for other in nearly))  # ties: see above
    found = exact_probabilities(np.array(logits, np.float32), 200, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.01 / 200)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "top_k": 5, "top_p": 0.95}], ids=str)
def test_draws_from_a_generator_follow_these_probabilities(options):
    draws, rng = 5000, np.random.default_rng(11)
    counts = np.bincount([sample(LOGITS, rng, **options) for _ in range(draws)], minlength=len(LOGITS))
    expected = draws * np.array(literal_probabilities(LOGITS, **options))
    assert not counts[expected == 0].any()
    kept = expected > 0
    chi_square = np.sum((counts[kept] - expected[kept]) ** 2 / expected[kept])
    # Degrees of freedom d = kept - 1, mean d, variance 2d; above d + 4 sqrt(2d) about one time in a thousand.
    d = np.count_nonzero(kept) - 1
    assert chi_square < d + 4 * math.sqrt(2 * d)


@pytest.mark.parametrize("temperature", [0, 1e-300])
def test_without_temperature_the_first_of_the_most_probable_is_chosen(temperature):
    for seed in range(20):
        assert sample(LOGITS, np.random.default_rng(seed), temperature=temperature) == 2
        assert sample(LOGITS[3:], np.random.default_rng(seed), temperature, top_k=1) == 1  # of 4 and 6 in LOGITS


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_damaged_logits_are_reported(bad):
    for temperature in (0, 1):
        with pytest.raises(ValueError, match="sample: the logits must be finite"):
            sample(np.array([0.0, bad]), np.random.default_rng(0), temperature)


@pytest.mark.parametrize("options", [{"top_p": 0.5}, {"top_p": 0.999}, {"top_k": 700}, {"temperature": 2.0}], ids=str)
def test_a_large_vocabulary_follows_the_definition_too(options):
    """Of 3,000 tokens the most probable are found without sorting all, in steps: top_p = 0.999 needs several."""
    logits, draws = np.random.default_rng(4).standard_normal(3000).astype(np.float32), 4000
    expected = np.array(literal_probabilities(logits.tolist(), **options))
    rng = np.random.default_rng(1)
    counts = np.bincount([sample(logits, rng, **options) for _ in range(draws)], minlength=len(logits))
    assert not counts[expected == 0].any()
    groups = np.array_split(np.argsort(-expected, kind="stable")[: np.count_nonzero(expected)], 20)
    observed = np.array([counts[group].sum() for group in groups])
    wanted = draws * np.array([expected[group].sum() for group in groups])
    assert np.sum((observed - wanted) ** 2 / wanted) < 19 + 4 * math.sqrt(2 * 19)  # as above


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.integers(1, 25))
def test_the_top_k_are_those_of_a_stable_sort(logits, k):
    expected = sorted(range(len(logits)), key=lambda id: (-logits[id], id))[:k]
    assert top_k_ids(np.array(logits, np.float32), k).tolist() == expected

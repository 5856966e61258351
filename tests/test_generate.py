"""Generation: the sampler against its definition, and the loop around it against one done by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tinygpt import GPT, GPTConfig, Tensor
from tinygpt.generate import generate, sample

CONFIG = GPTConfig(vocab_size=13, n_positions=6, n_embd=8, n_layer=2, n_head=2)
LOGITS = np.array([1.0, -2.0, 3.0, 0.5, 2.5, -1.0, 2.5])  # two are equal


def random_model(**changes) -> GPT:
    """Weights of order one: its choices are clear, and depend on the whole context."""
    model = GPT(GPTConfig(**(CONFIG.to_dict() | changes)))
    model.flat_parameters[:] = np.random.default_rng(2).standard_normal(model.num_parameters())
    model.ln_f.bias.data[:] = 0  # it would prefer one token whatever the context
    return model


class Counter:
    """A model that always continues 0, 1, 2, ... and writes down what it was shown."""

    config, training = SimpleNamespace(n_positions=4, vocab_size=50), True

    def __init__(self):
        self.shown = []

    def train(self, mode=True):
        self.training = mode

    def eval(self):
        self.train(False)

    def hidden(self, tokens):
        assert not self.training
        self.shown.append(tokens.tolist())
        return Tensor(np.float32(tokens)[:, :, None])

    def head(self, hidden):
        return Tensor(np.eye(50, dtype=np.float32)[(np.int64(hidden.data[:, 0]) + 1) % 50])


# the sampler


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
    {"top_k": 2},  # cuts between two equal scores
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
def test_damaged_scores_are_reported(bad):
    for temperature in (0, 1):
        with pytest.raises(ValueError, match="sample: the scores must be finite"):
            sample(np.array([0.0, bad]), np.random.default_rng(0), temperature)


# the loop


@pytest.mark.parametrize("prompt", [[7], [1, 2, 3], list(range(13))])
def test_greedy_generation_equals_the_loop_done_by_hand(prompt):
    """From one token, over the end of the context of 6 tokens, and from a prompt longer than it."""
    model = random_model().eval()
    by_hand = list(prompt)
    for _ in range(12):
        logits = model(np.array([by_hand[-6:]])).data[0, -1]
        by_hand.append(int(np.argmax(logits)))
    given_prompt = list(prompt)
    ids = list(model.generate(given_prompt, max_tokens=12, temperature=0))
    assert ids == by_hand[len(prompt) :]
    assert all(type(id) is int for id in ids)
    assert len(set(ids)) > 2  # the model has something to say
    assert given_prompt == prompt


def test_sampled_generation_equals_the_loop_done_by_hand():
    model, rng = random_model().eval(), np.random.default_rng(5)
    options = {"temperature": 2.0, "top_k": 6, "top_p": 0.9}
    by_hand = [1, 2]
    for _ in range(12):
        by_hand.append(sample(model(np.array([by_hand[-6:]])).data[0, -1], rng, **options))
    assert [1, 2, *model.generate([1, 2], max_tokens=12, seed=5, **options)] == by_hand


def test_the_model_sees_the_last_tokens_of_its_context_and_no_more():
    counter = Counter()
    assert list(generate(counter, [9, 8, 7, 6, 5, 20], max_tokens=3, temperature=0)) == [21, 22, 23]
    assert counter.shown == [[[7, 6, 5, 20]], [[6, 5, 20, 21]], [[5, 20, 21, 22]]]


def test_the_same_seed_tells_the_same_and_another_seed_or_none_does_not():
    model = GPT(CONFIG)  # fresh: all tokens are about equally probable
    first, same, other, free, free_again = (
        list(model.generate([1], max_tokens=40, seed=seed)) for seed in (3, 3, 4, None, None)
    )
    assert first == same
    assert len({tuple(first), tuple(other), tuple(free), tuple(free_again)}) == 4  # by chance equal: 13^-40
    assert set(first) <= set(range(13))


def test_generation_ends_before_a_stop_id_or_after_max_tokens():
    for stop_ids in ([23], {23, 40}, iter([30, 23])):
        assert list(generate(Counter(), [20], temperature=0, stop_ids=stop_ids)) == [21, 22]
    assert list(generate(Counter(), [20], max_tokens=2, temperature=0, stop_ids=[23])) == [21, 22]
    assert list(generate(Counter(), [20], max_tokens=0)) == []
    assert len(list(generate(Counter(), [20], temperature=0))) == 100  # the default
    assert next(generate(Counter(), [20], temperature=0, stop_ids=[20])) == 21  # a prompt may end with one


@pytest.mark.parametrize(
    "prompt", [(3, 1), np.array([3, 1], np.uint16), np.array([[3, 1]])], ids=["tuple", "uint16", "one row"]
)
def test_a_prompt_may_be_any_integers(prompt):
    model = random_model()
    expected = list(model.generate([3, 1], max_tokens=5, seed=0))
    assert list(model.generate(prompt, max_tokens=np.int64(5), seed=0, top_k=np.int64(13))) == expected


@pytest.mark.parametrize(
    ("ids", "options", "error", "message"),
    [
        ([], {}, ValueError, "generate: the prompt must have at least one token, got none"),
        ([0, 13], {}, ValueError, "generate: ids must be from 0 to 12, got 13"),
        ([-1], {}, ValueError, "generate: ids must be from 0 to 12, got -1"),
        ([1.0], {}, TypeError, "generate: ids must be integers, got float64"),
        ("text", {}, TypeError, "generate: ids must be integers"),
        ([1], {"max_tokens": -1}, ValueError, "generate: max_tokens must be at least 0, got -1"),
        ([1], {"max_tokens": 2.5}, TypeError, r"generate: max_tokens must be an integer, got 2\.5"),
        ([1], {"temperature": -0.1}, ValueError, r"generate: temperature must be at least 0 and finite, got -0\.1"),
        ([1], {"temperature": math.inf}, ValueError, "temperature must be at least 0 and finite, got inf"),
        ([1], {"temperature": math.nan}, ValueError, "temperature must be at least 0 and finite, got nan"),
        ([1], {"top_k": 0}, ValueError, "generate: top_k must be at least 1, got 0"),
        ([1], {"top_k": 2.5}, TypeError, r"generate: top_k must be an integer, got 2\.5"),
        ([1], {"top_p": 0}, ValueError, "generate: top_p must be above 0 and at most 1, got 0"),
        ([1], {"top_p": 1.01}, ValueError, r"generate: top_p must be above 0 and at most 1, got 1\.01"),
        ([1], {"top_p": math.nan}, ValueError, "top_p must be above 0 and at most 1, got nan"),
        ([1], {"seed": -1}, ValueError, "non-negative"),
        ([1], {"stop_ids": 5}, TypeError, "not iterable"),
    ],
)
def test_mistakes_are_reported_at_the_call(ids, options, error, message):
    model = GPT(CONFIG)
    with pytest.raises(error, match=message):
        model.generate(ids, **options)  # no token is asked for


# what it leaves behind


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_and_dropouts_generator_stay_as_they_were(training, monkeypatch):
    model = random_model(embd_pdrop=0.9, attn_pdrop=0.9, resid_pdrop=0.9).train(training)
    before = model.generator.bit_generator.state
    expected = list(random_model().eval().generate([1, 2], max_tokens=8, temperature=0))
    got = []
    for id in model.generate([1, 2], max_tokens=8, temperature=0):
        assert all(part.training is training for part in (model, model.drop, model.h[1].mlp.dropout))  # in between, too
        got.append(id)
    assert got == expected  # dropout was off
    assert model.generator.bit_generator.state == before
    model.wte.weight.data[:] = np.nan
    with pytest.raises(ValueError, match="the scores must be finite"):
        next(model.generate([1]))
    with pytest.raises(ZeroDivisionError):
        monkeypatch.setattr(model, "head", lambda hidden: 1 // 0)
        next(model.generate([1]))
    assert model.training is training


def test_nothing_is_recorded_and_recording_goes_on_in_between(monkeypatch):
    model, tensors = random_model(), []
    hidden, head = model.hidden, model.head
    monkeypatch.setattr(model, "hidden", lambda tokens: tensors.append(hidden(tokens)) or tensors[-1])
    monkeypatch.setattr(model, "head", lambda x: tensors.append(head(x)) or tensors[-1])
    for _ in model.generate([1, 2], max_tokens=3):
        x = Tensor([2.0], requires_grad=True)
        (x * x).backward()
        assert x.grad.tolist() == [4.0]
    assert len(tensors) == 6 and not any(tensor.requires_grad for tensor in tensors)
    assert tensors[1].shape == (1, 13)  # the head is asked about one token only
    assert all(parameter.grad is None for parameter in model.parameters())

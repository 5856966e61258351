"""The loop of generation against one done by hand, alone and in a batch, with a cache and without."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tensor
from tinygpt.generation.generate import generate, generate_batch
from tinygpt.generation.sampling import logprob, sample

CONFIG = GPTConfig(vocab_size=13, n_positions=6, n_embd=8, n_layer=2, n_head=2)


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


# the loop


def continued_by_hand(model, prompt, count, choose) -> list[int]:
    """At most 6 tokens are seen; when a seventh comes, only the newest 3 stay."""
    seen, told = list(prompt)[-6:], []
    for _ in range(count):
        if len(seen) > 6:
            seen = seen[-3:]
        told.append(choose(model(np.array([seen])).data[0, -1]))
        seen.append(told[-1])
    return told


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("prompt", [[7], [1, 2, 3], list(range(13))])
def test_greedy_generation_equals_the_loop_done_by_hand(prompt, cache):
    """From one token, over the end of the context of 6 tokens, and from a prompt longer than it."""
    model = random_model().eval()
    given_prompt = list(prompt)
    ids = list(model.generate(given_prompt, max_tokens=12, temperature=0, cache=cache))
    assert ids == continued_by_hand(model, prompt, 12, lambda logits: int(np.argmax(logits)))
    assert all(type(id) is int for id in ids)
    assert len(set(ids)) > 2  # the model has something to say
    assert given_prompt == prompt


@pytest.mark.parametrize("cache", [True, False])
def test_sampled_generation_equals_the_loop_done_by_hand(cache):
    model, rng = random_model().eval(), np.random.default_rng(5)
    options = {"temperature": 2.0, "top_k": 6, "top_p": 0.9}
    by_hand = continued_by_hand(model, [1, 2], 12, lambda logits: sample(logits, rng, **options))
    assert list(model.generate([1, 2], max_tokens=12, seed=5, cache=cache, **options)) == by_hand


def test_the_model_sees_the_last_tokens_of_its_context_and_half_of_it_when_it_is_full():
    counter = Counter()
    assert list(generate(counter, [9, 8, 7, 6, 5, 20], max_tokens=5, temperature=0)) == [21, 22, 23, 24, 25]
    assert counter.shown == [[[7, 6, 5, 20]], [[20, 21]], [[20, 21, 22]], [[20, 21, 22, 23]], [[23, 24]]]


PROMPTS = [[7], [1, 2, 3], list(range(13)), [4, 4]]


@pytest.mark.parametrize("cache", [True, False])
def test_a_batch_says_what_each_prompt_alone_does(cache):
    model = random_model().eval()
    told = [[] for _ in PROMPTS]
    for number, token in generate_batch(model, PROMPTS, max_tokens=12, temperature=0, cache=cache):
        told[number].append(token.id)
    assert told == [list(model.generate(prompt, max_tokens=12, temperature=0)) for prompt in PROMPTS]


def test_prompts_end_on_their_own_and_can_be_ended_by_the_caller():
    finished = set()
    told = [[], [], []]
    for number, token in generate_batch(Counter(), [[10], [20], [30]], temperature=0, max_tokens=5, stop_ids=[13],
                                        finished=finished):  # fmt: skip
        told[number].append(token.id)
        if token.id == 33:
            finished.add(number)
    assert told == [[11, 12], [21, 22, 23, 24, 25], [31, 32, 33]]


def test_samples_of_one_prompt_differ_and_the_first_is_that_of_the_prompt_alone():
    model = GPT(CONFIG)
    told = [[] for _ in range(4)]
    for number, token in generate_batch(model, [[1]] * 4, max_tokens=20, seed=3):
        told[number].append(token.id)
    assert told[0] == list(model.generate([1], max_tokens=20, seed=3))
    assert len({tuple(ids) for ids in told}) == 4


def test_log_probabilities_are_the_models_own_whatever_the_options():
    model = random_model().eval()
    options = {"temperature": 0.5, "top_k": 2, "seed": 1}
    tokens = [token for _, token in generate_batch(model, [[1, 2]], max_tokens=3, logprobs=True, **options)]
    seen = [1, 2]
    for token in tokens:
        scores = model(np.array([seen])).data[0, -1].astype(np.float64)
        expected = scores[token.id] - math.log(math.fsum(math.exp(score) for score in scores))
        assert token.logprob == pytest.approx(expected, abs=1e-5)  # scores of order 10 in float32
        seen.append(token.id)
    assert logprob(np.zeros(4), 2) == pytest.approx(-math.log(4), rel=1e-15)
    assert all(token.logprob is None for _, token in generate_batch(model, [[1]], max_tokens=2))


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
        ([0, 13], {}, ValueError, "from 0 to 12, got 13; use the tokenizer that the model was trained with"),
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
        ([1], {"temperature": "1"}, TypeError, "generate: temperature must be a number, got '1'"),
        ([1], {"top_p": "0.9"}, TypeError, "generate: top_p must be a number, got '0.9'"),
        ([1], {"top_k": -1}, ValueError, "got -1; None is without a limit"),
        ([1], {"seed": -1}, ValueError, "generate: seed must be at least 0, got -1; any whole number"),
        ([1], {"seed": 1.5}, TypeError, "generate: seed must be an integer, got float; any whole number"),
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
    with pytest.raises(ValueError, match="the logits must be finite"):
        next(model.generate([1]))
    with pytest.raises(ZeroDivisionError):
        monkeypatch.setattr(model, "head", lambda hidden: 1 // 0)
        next(model.generate([1], cache=False))
    assert model.training is training


def test_nothing_is_recorded_and_recording_goes_on_in_between(monkeypatch):
    model, tensors = random_model(), []
    hidden, head = model.hidden, model.head
    monkeypatch.setattr(model, "hidden", lambda tokens: tensors.append(hidden(tokens)) or tensors[-1])
    monkeypatch.setattr(model, "head", lambda x: tensors.append(head(x)) or tensors[-1])
    for _ in model.generate([1, 2], max_tokens=3, cache=False):
        x = Tensor([2.0], requires_grad=True)
        (x * x).backward()
        assert x.grad.tolist() == [4.0]
    assert len(tensors) == 6 and not any(tensor.requires_grad for tensor in tensors)
    assert tensors[1].shape == (1, 13)  # the head is asked about one token only
    assert all(parameter.grad is None for parameter in model.parameters())

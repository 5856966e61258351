"""Prompt look-up decoding: the guesses, what they cost, and never another text than without them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import using_threads

from tinygpt import GPT, GPTConfig, Tokenizer, implementation
from tinygpt.cli import main
from tinygpt.generation.completion import complete, stream
from tinygpt.generation.generate import generate_batch
from tinygpt.generation.lookup import PromptLookup, draft
from tinygpt.quantization import quantize_model

# the guesses

TEXTS = st.lists(st.integers(0, 3), max_size=40)


def copied(text: list[int], source: int, count: int) -> list[int]:
    """The tokens from a position on, as each of them would be read after the one before it was written."""
    text, start = list(text), len(text)
    for i in range(count):
        text.append(text[source + i])
    return text[start:]


@given(TEXTS, st.integers(1, 9))
def test_a_guess_is_what_followed_the_last_tokens_where_they_stood_before(text, count):
    guess = PromptLookup(text).guess(count)
    places = {n: [p for p in range(n, len(text)) if text[p - n : p] == text[len(text) - n :]] for n in (2, 3)}
    if not places[2]:
        assert guess == []
    else:  # of several places any will do, but a longer match is preferred
        assert guess in [copied(text, place, count) for place in places[3] or places[2]]


@given(TEXTS)
def test_an_index_that_grows_is_that_of_the_whole_text(text):
    grown = PromptLookup(text[:5])
    for token in text[5:]:
        grown.append(token)
    assert vars(grown) == vars(PromptLookup(text))


def test_of_several_places_the_last_counts():
    assert PromptLookup([1, 2, 7, 1, 2, 8, 1, 2]).guess(1) == [8]
    assert PromptLookup([0, 1, 2, 7, 3, 1, 2, 8, 0, 1, 2]).guess(1) == [7]  # but a match of three is better than of two


def test_a_guess_goes_on_with_its_own_tokens_at_the_end_of_the_text():
    assert PromptLookup([4, 4, 4]).guess(5) == [4] * 5
    assert PromptLookup([1, 2, 3, 1, 2, 3]).guess(7) == [1, 2, 3, 1, 2, 3, 1]
    for text in ([], [4], [4, 4], [1, 2, 3]):
        assert PromptLookup(text).guess(5) == []


# how many


def drafted(*texts: list[int], room: int = 99) -> list[int]:
    return [len(tokens) for tokens in draft([PromptLookup(text) for text in texts], [room] * len(texts))]


def test_a_text_that_repeats_itself_is_guessed_far_ahead_and_one_that_does_not_is_left_alone():
    rng = np.random.default_rng(0)
    block = rng.integers(0, 1000, 50).tolist()
    assert drafted(block * 4) == [15]
    assert drafted(rng.integers(0, 1000, 400).tolist()) == [0]
    assert drafted(rng.integers(0, 3, 400).tolist()) == [0]  # there are matches, but one guess in three is right
    assert drafted(block + block[:2]) == [0]  # a first match promises little


def test_guesses_that_fail_cost_little_and_guesses_that_come_right_are_noticed():
    rng = np.random.default_rng(1)
    lookup, tried = PromptLookup([1, 2, 3] * 50), []
    for token in rng.integers(0, 7, 400).tolist():
        tried.append(len(draft([lookup], [15])[0]))
        lookup.append(token)
    assert tried[0] == 15 and sum(tried[100:]) < 0.1 * 300
    for token in [1, 2, 3] * 20:
        lookup.append(token)
    assert len(draft([lookup], [15])[0]) == 15


def test_a_draft_fits_into_the_room_that_there_is():
    repeated = [1, 2, 3] * 20
    assert [drafted(repeated, room=room) for room in (-3, 0, 1, 4)] == [[0], [0], [1], [4]]
    lookups = [PromptLookup(repeated), PromptLookup(repeated)]
    assert [len(tokens) for tokens in draft(lookups, [0, 3])] == [0, 3]
    assert draft([], []) == []


def test_beside_other_texts_only_what_is_nearly_certain_is_guessed():
    """A pass over eight texts gives eight tokens for little more than the cost of one; a guess has to keep up."""
    doubtful = np.random.default_rng(0).integers(0, 2, 300).tolist()  # one guess in two is right
    others = [[n, n + 1] for n in range(11)]
    assert drafted(doubtful)[0] >= 1
    assert drafted(doubtful, *others)[0] == 0
    assert drafted([1, 2, 3] * 20, *others)[0] >= 3


# the texts

SIZES = {"vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2}
MODELS = [(kind, n_positions) for kind in ("float32", "bfloat16", "int8") for n_positions in (2, 7, 24, 64)]


def random_model(kind: str = "float32", n_positions: int = 24, dtype=np.float32, **changes) -> GPT:
    """Weights of order one: its choices are clear; in greedy texts it soon repeats itself, in others often."""
    model = GPT(GPTConfig(**SIZES | {"n_positions": n_positions} | changes), dtype=dtype)
    model.flat_parameters[:] = np.random.default_rng(2).standard_normal(model.num_parameters())
    model.ln_f.bias.data[:] = 0
    quantize_model(model, kind)
    return model.eval()


def texts_of(model: GPT, prompts: list[list[int]], ends: dict[int, int] | None = None, **options) -> list[list]:
    """The tokens of each text; text i is finished by the caller after ends[i] tokens."""
    told, finished = [[] for _ in prompts], set()
    for i, token in generate_batch(model, prompts, finished=finished, **options):
        told[i].append(token)
        if len(told[i]) == (ends or {}).get(i):
            finished.add(i)
    return told


@st.composite
def repeated(draw) -> list[int]:
    """A prompt that repeats itself, up to some tokens."""
    tokens = st.integers(0, 10)
    text = draw(st.lists(tokens, min_size=1, max_size=6)) * draw(st.integers(1, 8))
    return text + draw(st.lists(tokens, max_size=3))


CASES = st.fixed_dictionaries(
    {
        "prompts": st.lists(repeated(), min_size=1, max_size=4),
        "max_tokens": st.integers(0, 40),
        "temperature": st.sampled_from([0, 0, 0, 0.2, 0.5, 1.0]),
        "top_k": st.sampled_from([None, 1, 2, 5]),
        "top_p": st.sampled_from([None, 0.3, 0.9]),
        "seed": st.integers(0, 9),
        "stop_ids": st.lists(st.integers(0, 10), max_size=2),
        "logprobs": st.booleans(),
        "allowed": st.sampled_from([None, np.arange(9), np.array([1, 2, 4, 7])]),
        "ends": st.dictionaries(st.integers(0, 3), st.integers(1, 30), max_size=2),
    }
)


@pytest.fixture(scope="module")
def models() -> dict[tuple[str, int], GPT]:
    return {each: random_model(*each) for each in MODELS}


def check_same_texts(models, case, model, threads) -> None:
    with using_threads(threads[0]):
        expected = texts_of(models[model], **case)
    with using_threads(threads[1]):
        assert texts_of(models[model], **case, lookup=True) == expected


CASE = {"case": CASES, "model": st.sampled_from(MODELS), "threads": st.tuples(st.integers(1, 4), st.integers(1, 4))}


@given(**CASE)
@settings(max_examples=40, deadline=None)
def test_it_never_gives_another_text(models, case, model, threads):
    """Greedy or sampled, alone or in a batch, past the end of the context: the same tokens, and log-probabilities."""
    check_same_texts(models, case, model, threads)


@pytest.mark.slow
@given(**CASE)
@settings(max_examples=500, deadline=None)
def test_it_never_gives_another_text_in_500_cases(models, case, model, threads):
    check_same_texts(models, case, model, threads)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_a_model_of_several_layers_and_heads_keeps_its_text_to_the_last_bit(kind):
    """A greedy text of several contexts, and log-probabilities, in which a different rounding would show."""
    model = random_model(kind, 96, vocab_size=211, n_embd=72, n_layer=3, n_head=6)
    for options in ({"temperature": 0}, {"temperature": 0.3, "seed": 4}):
        expected = texts_of(model, [[3, 1, 4] * 5, [7]], max_tokens=250, logprobs=True, **options)
        passes = count_passes(model)
        assert texts_of(model, [[3, 1, 4] * 5, [7]], max_tokens=250, logprobs=True, **options, lookup=True) == expected
        assert max(passes) > 4  # texts side by side, and a draft for one of them at least


def count_passes(model: GPT) -> list[int]:
    """The rows of each pass over the model that its next decoder makes, after the first."""
    passes, decoder_of = [], type(model).decoder

    def decoder(*arguments):
        decoder = decoder_of(model, *arguments)
        step, extend = decoder.step, decoder.extend
        decoder.step = lambda sequences, tokens: passes.append(len(tokens)) or step(sequences, tokens)
        decoder.extend = lambda sequences, tokens: passes.append(sum(map(len, tokens))) or extend(sequences, tokens)
        return decoder

    model.decoder = decoder
    return passes


class Reciter:
    """A model that goes on with a text of its own after any prompt of its length, and whose decoder keeps account."""

    training = False

    def __init__(self, script: list[int], n_positions: int = 500):
        self.config = SimpleNamespace(vocab_size=50, n_positions=n_positions)
        self.script = script

    def decoder(self, sequences: int, capacity: int):
        assert sequences == 1
        self.capacity, self.passes, self.text, self.dropped = min(capacity, self.config.n_positions), [], [], 0
        return self

    extends_at_once = True

    def prefill(self, sequence: int, tokens: list[int]) -> np.ndarray:
        self.dropped += len(self.text) + 1 - len(tokens) if self.text else 0
        self.text = []
        return self._read(tokens)[-1]

    def step(self, sequences: list[int], tokens: list[int]) -> np.ndarray:
        return self._read(tokens)

    def extend(self, sequences: list[int], tokens: list[list[int]]) -> list[np.ndarray]:
        return [self._read(tokens[0])]

    def truncate(self, sequence: int, length: int) -> None:
        assert 0 < length <= len(self.text)
        del self.text[length:]

    def _read(self, tokens: list[int]) -> np.ndarray:
        """Logits of the script's tokens while the text is the script's, of token 0 after anything else."""
        assert self.text == self.script[self.dropped :][: len(self.text)]  # what was rejected has been taken back
        rows = []
        for token in tokens:
            self.text.append(token)
            end = self.dropped + len(self.text)
            rows.append(self.script[end] if self.text == self.script[self.dropped : end] else 0)
        assert len(self.text) <= self.capacity
        self.passes.append(len(tokens))
        return np.eye(50, dtype=np.float32)[rows]


def recited(model: Reciter, prompt: list[int], **options) -> list[int]:
    return [token.id for _, token in generate_batch(model, [prompt], temperature=0, lookup=True, **options)]


BLOCK = [7, 8, 9, 10, 11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("max_tokens", [0, 1, 2, 3, 17, 60])
def test_repeated_text_takes_few_passes_and_no_draft_goes_past_the_last_token(max_tokens):
    model = Reciter(BLOCK * 20)
    assert recited(model, BLOCK * 3, max_tokens=max_tokens) == (BLOCK * 10)[:max_tokens]
    assert len(model.passes) <= 2 + max_tokens / 10
    assert sum(model.passes[1:]) <= max(0, max_tokens - 1)  # the last token is not read


def test_what_was_rejected_is_taken_back():
    rng = np.random.default_rng(0)
    changed = [token if rng.random() < 0.9 else int(rng.integers(20, 50)) for token in BLOCK * 20]
    model = Reciter([*BLOCK * 3, *changed])
    assert recited(model, BLOCK * 3, max_tokens=150) == changed[:150]
    assert 30 < len(model.passes) < 100 and sum(model.passes) > 200


@pytest.mark.parametrize("n_positions", [2, 3, 8, 31, 40])
def test_a_context_that_becomes_full_within_a_draft_is_read_again(n_positions):
    """The decoder refuses more tokens than its capacity."""
    model = Reciter(BLOCK * 30, n_positions)
    model.dropped = 0
    assert recited(model, BLOCK[:2], max_tokens=200) == (BLOCK * 30)[2:202]


@pytest.mark.parametrize("prompt", [[4], [4, 4], [4] * 30])
def test_one_token_for_ever(prompt):
    model = Reciter([4] * 200)
    assert recited(model, prompt, max_tokens=100) == [4] * 100
    assert len(model.passes) < 20


def test_a_text_ends_before_a_stop_id_within_a_draft():
    model = Reciter(BLOCK * 10)
    for stop_id in BLOCK:
        assert recited(model, BLOCK * 4, stop_ids=[stop_id]) == BLOCK[: BLOCK.index(stop_id)]


def test_a_text_that_the_caller_finishes_gives_no_more_tokens_of_its_draft():
    for count in range(1, 30):
        model, finished, told = Reciter(BLOCK * 20), set(), []
        for _, token in generate_batch(model, [BLOCK * 4], temperature=0, finished=finished, lookup=True):
            told.append(token.id)
            if len(told) == count:
                finished.add(0)
        assert told == (BLOCK * 3)[:count]


@pytest.mark.parametrize("change", ["numpy", "float64", "hook", "no cache", "own decoder"])
def test_where_several_tokens_cannot_be_read_as_exactly_as_one_nothing_changes(change):
    model = random_model(dtype=np.float64 if change == "float64" else np.float32)
    options = {"prompts": [[1, 2] * 5, [3]], "max_tokens": 40, "temperature": 0, "cache": change != "no cache"}
    if change == "hook":
        model.h[1].register_forward_hook(lambda module, inputs, output: output * 2)
    if change == "own decoder":
        decoder_of = model.decoder
        model.decoder = lambda *arguments: PrefillAndStep(decoder_of(*arguments))
    with implementation("numpy" if change == "numpy" else "kernels"):
        expected = texts_of(model, **options)
        assert texts_of(model, **options, lookup=True) == expected


class PrefillAndStep:
    """What a decoder needs without look-up."""

    def __init__(self, decoder):
        self.prefill, self.step = decoder.prefill, decoder.step


def test_reference_and_kernels_agree_on_a_draft_beside_other_texts():
    model, prompts = random_model(), [[1, 2] * 5, [3], [4, 4, 4]]
    expected = texts_of(model, prompts, max_tokens=30, temperature=0)
    with implementation("check"):
        assert texts_of(model, prompts, max_tokens=30, temperature=0, lookup=True) == expected


# from text to text

BYTES = Tokenizer([bytes([byte]) for byte in range(256)], [], {"<|endoftext|>": 256})


def test_completions_and_streams_are_those_without_it():
    """Stop texts that end within a draft, ids that the tokenizer does not have, and each text's own end."""
    model = random_model(vocab_size=300, n_positions=64)
    model.wte.weight.data[257:] *= 100
    prompts = ["abab" * 4, "\u00e9" * 5, "x", None]
    [plain, *_] = complete(model, BYTES, prompts, max_tokens=60, temperature=0)
    for stop in ([], [plain.text[20:22]], [plain.text[7:9], "q"]):
        for options in ({"temperature": 0}, {"temperature": 0.3, "seed": 1, "top_k": 20, "logprobs": True}):
            options |= {"stop": stop, "max_tokens": 60}
            expected = complete(model, BYTES, prompts, **options)
            assert complete(model, BYTES, prompts, **options, lookup=True) == expected
            assert [*stream(model, BYTES, prompts[0], **options, lookup=True)] == [
                *stream(model, BYTES, prompts[0], **options)
            ]


def test_the_command_prints_the_same_text(tmp_path, capsys):
    model = random_model(vocab_size=257, n_positions=64)
    model.save_pretrained(tmp_path / "model", BYTES)
    command = ["generate", str(tmp_path / "model"), "--prompt", "abab" * 4, "--max-tokens", "60"]
    for options in (["--temperature", "0"], ["--seed", "3", "--samples", "3", "--json"]):
        assert main([*command, *options]) == 0
        expected = capsys.readouterr().out
        assert main([*command, *options, "--lookup"]) == 0
        assert capsys.readouterr().out == expected

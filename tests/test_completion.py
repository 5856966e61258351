"""Text in, text out: whole characters, stop texts that are never shown, and each text's own end."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tensor, Tokenizer
from tinygpt.generation.completion import Ending, complete, stream

BYTES = Tokenizer([bytes([byte]) for byte in range(256)], [], {})


class Reciter:
    """A model that continues each beginning of a text with the rest of it, byte by byte."""

    config, training = SimpleNamespace(n_positions=99, vocab_size=257), False

    def __init__(self, *texts: str):
        self.texts = [[*text.encode(), 256] for text in texts]

    def train(self, mode=True):
        pass

    eval = train

    def hidden(self, tokens):
        read = tokens[0].tolist()
        text = next(text for text in self.texts if text[: len(read)] == read)
        return Tensor(np.full((1, 1, 1), text[len(read)], np.float32))

    def head(self, hidden):
        return Tensor(
            np.eye(257, dtype=np.float32)[np.int64(hidden.data[:, 0, 0] if hidden.ndim == 3 else hidden.data[:, 0])]
        )


def with_end() -> Tokenizer:
    return Tokenizer([bytes([byte]) for byte in range(256)], [], {"<|endoftext|>": 256})


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 5}, {"top_p": 0.5}, {"cache": False}, {}], ids=str)
def test_ids_that_the_tokenizer_does_not_have_are_never_chosen(options):
    """Padding behind the tokenizer's ids, and holes between them; the untrained rows are the most probable."""
    vocab = {id: bytes([id]) for id in range(256)}
    tokenizer = Tokenizer(vocab, [], {"<|other|>": 270})
    model = GPT(GPTConfig(vocab_size=320, n_positions=16, n_embd=8, n_layer=1, n_head=2), seed=1)
    unknown = [id for id in range(320) if id not in vocab and id != 270]
    model.wte.weight.data[unknown] *= 100
    results = complete(model, tokenizer, ["a", "b", "c"], max_tokens=40, seed=2, logprobs=True, **options)
    tokens = [token for result in results for token in result.tokens]
    assert len(tokens) == 120 and not {token.id for token in tokens} & set(unknown)
    scores = model.eval()([tokenizer.encode("a")]).data[0, -1].astype(np.float64)
    first = results[0].tokens[0]  # its probability is the model's own: that of the unknown ids is part of the whole
    assert first.logprob == pytest.approx(scores[first.id] - np.log(np.exp(scores).sum()), abs=1e-5)


def test_a_tokenizer_that_has_all_ids_changes_nothing():
    model = GPT(GPTConfig(vocab_size=256, n_positions=16, n_embd=8, n_layer=1, n_head=2), seed=1)
    [result] = complete(model, BYTES, ["a"], max_tokens=9, seed=2)
    assert [token.id for token in result.tokens] == list(model.generate([97], max_tokens=9, seed=2))


def told(pieces: list[str], stop: list[str]) -> list[str]:
    ending = Ending(stop)
    shown = [ending.push(piece) for piece in pieces]
    return shown if ending.reached else [*shown, ending.flush()]


@pytest.mark.parametrize(("pieces", "stop", "expected"), [
    (["ab", "cd", "ef"], [], "abcdef"), (["ab", "cd", "ef"], ["cd"], "ab"), (["ab", "cd", "ef"], ["bc"], "a"),
    (["a", "a", "b"], ["aab"], ""), (["a", "a", "a", "b"], ["aab"], "a"), (["ab", "a"], ["abc"], "aba"),
    ([""], ["x"], ""), (["abcd"], ["d", "bc"], "a"), (["ab", "cx"], ["bcd", "cx"], "ab"),
])  # fmt: skip
def test_a_stop_text_is_never_shown_even_across_pieces(pieces, stop, expected):
    ending = Ending(stop)
    shown = ""
    for piece in pieces:
        shown += ending.push(piece)
        if ending.reached:
            break
    else:
        shown += ending.flush()
    assert shown == expected


def test_only_what_may_be_the_beginning_of_a_stop_text_is_held_back():
    assert told(["once ", "upon END"], ["END"]) == ["once ", "upon "]
    assert told(["once ", "upon E", "LSE"], ["END"]) == ["once ", "upon ", "ELS", "E"]
    assert told(["once E"], ["END"]) == ["once ", "E"]


def test_texts_side_by_side_end_each_in_its_own_way():
    model = Reciter("hen: cluck", "owl: hoo. The end", "cat: é🌙 and so on")
    results = complete(model, with_end(), ["hen:", "owl:", "cat:"], stop=[". The", "xyz"], max_tokens=9, temperature=0,
                       logprobs=True)  # fmt: skip
    assert [result.text for result in results] == [" cluck", " hoo", " é🌙 a"]
    assert [result.reason for result in results] == ["end of text", "stop", "length"]
    assert [len(result.tokens) for result in results] == [6, 9, 9]  # the tokens of the stop text are among them
    assert all(token.logprob < 0 for result in results for token in result.tokens)


def test_a_stream_gives_whole_characters_and_stops_asking(monkeypatch):
    model = Reciter("cat: é🌙 and so on")
    pieces = list(stream(model, with_end(), "cat:", stop=[" so"], temperature=0))
    assert pieces == ["", "", " é", "", "", "", "🌙", "", " a", "n", "d", "", "", ""]  # " " may begin the stop text
    assert "".join(stream(model, with_end(), "cat:", max_tokens=2, temperature=0)) == " \N{REPLACEMENT CHARACTER}"


def test_special_tokens_in_prompts_take_effect_where_they_are_allowed(monkeypatch):
    read = []
    monkeypatch.setattr(
        "tinygpt.generation.completion.generate_batch", lambda model, ids, **options: read.extend(ids) or []
    )
    model, tokenizer, prompt = Reciter(), with_end(), "a<|endoftext|>"
    for options, expected in (
        ({"allowed_special": "all"}, [97, 256]),
        ({"allowed_special": {"<|endoftext|>"}}, [97, 256]),
        ({"disallowed_special": ()}, [*prompt.encode()]),
    ):
        complete(model, tokenizer, [prompt, "b"], **options)
        stream(model, tokenizer, prompt, **options)
        assert read == [expected, [98], expected]
        read.clear()
    for refusing in (lambda: complete(model, tokenizer, [prompt]), lambda: stream(model, tokenizer, prompt)):
        with pytest.raises(
            ValueError, match=r"must not hold the special token '<\|endoftext\|>', got it at character 1"
        ):
            refusing()


def test_mistakes_are_named_at_the_call():
    with pytest.raises(ValueError, match="the prompt must not be empty; leave it out to start a new text"):
        stream(Reciter("a"), BYTES, "")
    with pytest.raises(ValueError, match="a stop text must not be empty"):
        stream(Reciter("a"), BYTES, "a", stop=["x", ""])
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        complete(Reciter("a"), BYTES, ["a"], temperature=-1)

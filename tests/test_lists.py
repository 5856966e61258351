"""A str, a dict or one tensor where a list is meant is refused: who, what was required, what came, and the remedy."""

from __future__ import annotations

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import GPT, AdamW, GPTConfig, Tensor, Tokenizer, clip_grad_norm, grad_norm, gradcheck
from tinygpt.generation.completion import complete, stream
from tinygpt.generation.generate import generate_batch
from tinygpt.study.inspection import inspect_prompt
from tinygpt.text.corpus import encode_documents, sample_batch, split_documents
from tinygpt.text.gutenberg import write_corpus
from tinygpt.training.evaluate import evaluate

BYTES = [bytes([byte]) for byte in range(256)]
TOKENIZER = Tokenizer(BYTES, [], {"<|endoftext|>": 256})
MODEL = GPT(GPTConfig(vocab_size=257, n_positions=32, n_embd=4, n_layer=1, n_head=1), seed=3)
WEIGHT = Tensor(np.ones((2, 2)), requires_grad=True)


# texts


def continued(**options):
    return complete(MODEL, TOKENIZER, ["Once", None], max_tokens=12, seed=4, **options)


def test_one_stop_text_is_the_list_of_it():
    letters = [letter for letter in continued()[0].text if letter.isascii()]
    never, once = letters[1] + letters[0] + "never", continued()[0].text[2:4]
    assert [c.text for c in continued(stop=never)] == [c.text for c in continued()]
    assert [c.text for c in continued(stop=once)] == [c.text for c in continued(stop=[once])]
    assert continued(stop=once)[0].text == continued()[0].text[:2]
    streamed = "".join(stream(MODEL, TOKENIZER, "Once", max_tokens=12, seed=4, stop=once))
    assert streamed == "".join(stream(MODEL, TOKENIZER, "Once", max_tokens=12, seed=4, stop=(once,)))


@pytest.mark.parametrize("make", [tuple, iter, set])
def test_stop_texts_may_be_any_collection_and_are_read_once(make):
    once = continued()[1].text[2:4]
    assert [c.reason for c in continued(stop=make(["zzzz", once]))] == [
        c.reason for c in continued(stop=["zzzz", once])
    ]


@pytest.mark.parametrize("stop", [b"the", [b"the"], [3], 3, {"the": 1}, [["the"]]], ids=repr)
def test_other_stops_are_refused(stop):
    with pytest.raises(TypeError, match="generate: stop must be a list of str, got "):
        continued(stop=stop)


@pytest.mark.parametrize("prompts", ["abc", b"abc", {"a": 1}, None, 7], ids=repr)
def test_prompts_are_a_list(prompts):
    with pytest.raises(TypeError, match=r"complete: prompts must be a list of str or None, got \w+; write \[prompt\]"):
        complete(MODEL, TOKENIZER, prompts, max_tokens=1)


@pytest.mark.parametrize("prompt", [b"abc", ["abc"], [97, 98], 97], ids=repr)
def test_a_prompt_is_a_text(prompt):
    with pytest.raises(TypeError, match="generate: a prompt must be a str, or None for a new text, got "):
        complete(MODEL, TOKENIZER, [prompt], max_tokens=1)
    with pytest.raises(TypeError, match="generate: a prompt must be a str"):
        stream(MODEL, TOKENIZER, prompt, max_tokens=1)


def test_prompts_may_be_an_iterator():
    results = complete(MODEL, TOKENIZER, iter(["a", "b"]), max_tokens=1, seed=0)
    assert [result.prompt for result in results] == ["a", "b"]


@pytest.mark.parametrize("documents", ["one text", b"one text", {"one": "text"}, [b"one"], [["one"]], 3], ids=repr)
def test_documents_are_a_list_of_texts(documents, tmp_path):
    for use in (split_documents, lambda documents: encode_documents(documents, TOKENIZER),
                lambda documents: write_corpus(tmp_path / "corpus.txt", documents)):  # fmt: skip
        with pytest.raises(TypeError, match=r"_(documents|corpus): documents must be a list of str, got "):
            use(documents)
    assert not list(tmp_path.iterdir())


# ids


@pytest.mark.parametrize("ids", ["12", b"12", 12, [[1, 2], [3, 4]], [[1], [2]], np.ones((2, 2), int), [1, [2]], ["1"],
                                 [1.0], [True], np.ones((1, 1, 2), int)], ids=repr)  # fmt: skip
def test_a_prompt_of_ids_is_one_list_of_integers(ids):
    with pytest.raises(TypeError, match=r"generate: ids must be (a list of )?integers"):
        MODEL.generate(ids, max_tokens=1)


@pytest.mark.parametrize("prompts", ["12", b"12", 12, [1, 2], np.array([1, 2]), {1: [2]}], ids=repr)
def test_a_batch_is_a_list_of_lists_of_ids(prompts):
    with pytest.raises(TypeError, match=r"generate(_batch)?: (prompts must be a list of lists|ids must be a list)"):
        generate_batch(MODEL, prompts, max_tokens=1)


@pytest.mark.parametrize("stop_ids", ["12", b"12", 12, None, ["1"], [1.0], [True], [[1, 2]], {1: 2}, [None]], ids=repr)
def test_stop_ids_are_integers(stop_ids):
    with pytest.raises(TypeError, match="generate: stop_ids must be a list of ids"):
        MODEL.generate([1], max_tokens=1, stop_ids=stop_ids)


@pytest.mark.parametrize("stop_ids", [[[1, 2]], [[1], [2, 3]]], ids=str)
def test_texts_of_several_tokens_are_not_stop_ids(stop_ids):
    with pytest.raises(
        TypeError, match=r"generate: stop_ids must be .*; to stop at a text of several tokens, use `stop`"
    ):
        MODEL.generate([1], max_tokens=1, stop_ids=stop_ids)


@pytest.mark.parametrize("stop_ids", [[], (), {5}, np.array([5], np.uint16), range(3), iter([5])], ids=type)
def test_any_collection_of_integers_is_one_of_stop_ids(stop_ids):
    assert len(list(MODEL.generate([1], max_tokens=2, seed=0, stop_ids=stop_ids))) <= 2


@pytest.mark.parametrize("ids", ["123", b"12", bytearray(b"12"), {72, 73}, {72: 1}, 72, None, ["72"], [72.0], [[72]],
                                 np.array([72.0]), np.array([True]), b"", ""], ids=repr)  # fmt: skip
@pytest.mark.parametrize("repeat", [1, 100])
def test_what_is_decoded_is_a_sequence_of_integers(ids, repeat):
    if isinstance(ids, (str, bytes, bytearray, list)):
        ids = ids * repeat
    for decode in (TOKENIZER.decode, TOKENIZER.decode_bytes):
        with pytest.raises(TypeError, match=r"Tokenizer\.decode: ids must be a sequence of integers"):
            decode(ids)


@pytest.mark.parametrize("batch", [[72, 73], np.array([72, 73]), "ab", b"ab", {72: [1]}, 72, [np.int64(7)]], ids=repr)
def test_a_batch_to_decode_is_a_list_of_lists(batch):
    for decode, name in (
        (TOKENIZER.decode_batch, "decode_batch"),
        (TOKENIZER.decode_bytes_batch, "decode_bytes_batch"),
    ):
        with pytest.raises(TypeError, match=rf"Tokenizer\.{name}: needs a sequence of sequences of ids, got"):
            decode(batch)
    assert TOKENIZER.decode_batch(np.array([[72, 73], [74, 75]])) == ["HI", "JK"]
    assert TOKENIZER.decode_batch(iter([[72], ()])) == ["H", ""]


@pytest.mark.parametrize("texts", ["ab", b"ab", {"ab": 1}, 5], ids=repr)
def test_a_batch_to_encode_is_a_list_of_texts(texts):
    for encode in (TOKENIZER.encode_batch, TOKENIZER.encode_ordinary_batch):
        with pytest.raises(TypeError, match=r"needs a sequence of str, got \w+; write \[text\]"):
            encode(texts)


@pytest.mark.parametrize("names", ["<|endoftext|>", "", b"all", None, 5, [5], {b"<|endoftext|>"}, [["a"]], [""]],
                         ids=repr)  # fmt: skip
@pytest.mark.parametrize("argument", ["allowed_special", "disallowed_special"])
def test_special_tokens_are_all_or_a_set_of_names(argument, names):
    with pytest.raises(TypeError, match=rf"Tokenizer\.encode: {argument} must (be 'all' or a set of str|hold names)"):
        TOKENIZER.encode("a", **{argument: names})


@pytest.mark.parametrize("special", ["<|endoftext|>", ["<|endoftext|>"], [("<|endoftext|>", 256)], None], ids=repr)
def test_special_tokens_have_ids(special):
    with pytest.raises(TypeError, match="Tokenizer: special_tokens must map str to int, got "):
        Tokenizer(BYTES, [], special)


@pytest.mark.parametrize("tokens", ["a text of some length", np.ones(40), np.ones((40, 2), int), [True] * 40], ids=repr)
def test_batches_are_drawn_from_one_row_of_integers(tokens):
    with pytest.raises(TypeError, match=r"sample_batch: tokens must be integers of shape \(N,\), got "):
        sample_batch(tokens, batch_size=1, context=4, seed=0, step=0)


def test_a_decoder_reads_one_text_per_sequence():
    with pytest.raises(ValueError, match=r"Decoder\.prefill: tokens must have shape \(T,\), got \(2, 2\)"):
        MODEL.decoder(2).prefill(0, [[1, 2], [3, 4]])


def test_one_prompt_is_inspected_at_a_time():
    with pytest.raises(ValueError, match=r"inspect_prompt: ids must have shape \(T,\), got \(2, 2\)"):
        inspect_prompt(MODEL, [[1, 2], [3, 4]])


# tensors


@pytest.mark.parametrize("params", [MODEL, {"w": WEIGHT}, MODEL.state_dict(), WEIGHT, Tensor(np.ones((2, 2))), "ab",
                                    np.ones(2), 5, {"params": [WEIGHT]}], ids=lambda p: type(p).__name__)  # fmt: skip
def test_parameters_of_an_optimizer_are_a_list(params):
    with pytest.raises(TypeError, match=r"AdamW: parameters must be a list of tensors or of dicts, got \w+; write "):
        AdamW(params)
    with pytest.raises(TypeError, match="AdamW: "):
        AdamW([{"params": "ab" if isinstance(params, Tensor) else params}])  # one tensor may be a group, as in PyTorch


def test_groups_and_tensors_are_not_mixed():
    for params in ([{"params": [WEIGHT]}, WEIGHT], [WEIGHT, {"params": [WEIGHT]}], [{"param": [WEIGHT]}]):
        with pytest.raises(TypeError, match="AdamW: "):
            AdamW(params)


@pytest.mark.parametrize("parameters", [MODEL, {"w": WEIGHT}, "ab", "", 5, [np.ones(2)], [[WEIGHT]],
                                        list(MODEL.named_parameters())], ids=lambda p: type(p).__name__)  # fmt: skip
def test_parameters_whose_norm_is_taken_are_a_list_of_tensors(parameters):
    for use in (grad_norm, lambda parameters: clip_grad_norm(parameters, 1.0)):
        with pytest.raises(TypeError, match="grad_norm: parameters must be a list of tensors, got "):
            use(parameters)


@pytest.mark.parametrize(
    "inputs", [np.ones((1, 3)), WEIGHT, "ab", {"x": np.ones(3)}, 5], ids=lambda i: type(i).__name__
)
def test_inputs_of_a_gradient_check_are_a_list(inputs):
    with pytest.raises(TypeError, match=r"gradcheck: inputs must be a list of arrays, .* got \w+; write \[x\]"):
        gradcheck(lambda x: x * 1.0, inputs)


def test_the_mode_of_a_module_is_true_or_false():
    with pytest.raises(TypeError, match=r"Module\.train: mode must be True or False, got 'no'"):
        MODEL.train("no")
    assert MODEL.train(np.bool_(False)) is MODEL and not MODEL.training


def test_a_state_is_a_mapping():
    for state in ([("wte.weight", 1)], "wte.weight"):
        with pytest.raises(TypeError, match="load_state_dict: state must map names to arrays, got "):
            MODEL.load_state_dict(state)


TEXT = "the hens"
WANTS_IDS = {
    "model": lambda text: MODEL(text),
    "model, row by row": lambda text: MODEL([text]),
    "loss": lambda text: MODEL.loss([[1]], [[text]]),
    "generate": lambda text: MODEL.generate(text),
    "generate, listed": lambda text: MODEL.generate([text]),
    "generate_batch": lambda text: generate_batch(MODEL, text),
    "stop_ids": lambda text: MODEL.generate([1], stop_ids=[text]),
    "decoder": lambda text: MODEL.decoder().prefill(0, text),
    "embedding": lambda text: F.embedding(text, MODEL.wte.weight),
    "evaluate": lambda text: evaluate(MODEL, list(text), TOKENIZER),
    "inspect_prompt": lambda text: inspect_prompt(MODEL, text),
    "decode": lambda text: TOKENIZER.decode(text),
    "decode, listed": lambda text: TOKENIZER.decode([text]),
    "decode, letters": lambda text: TOKENIZER.decode(100 * list(text)),
    "decode, array": lambda text: TOKENIZER.decode(np.array([text])),
    "decode_batch": lambda text: TOKENIZER.decode_batch([text]),
    "decode_single_token_bytes": lambda text: TOKENIZER.decode_single_token_bytes(text),
    "push": lambda text: TOKENIZER.stream_decoder().push(text),
}


@pytest.mark.parametrize("name", WANTS_IDS)
@pytest.mark.parametrize("text", [TEXT, "12"])
def test_who_gives_text_for_ids_is_told_to_encode_it(name, text):
    with pytest.raises(TypeError, match=r"text\b.*encode"):
        WANTS_IDS[name](text)

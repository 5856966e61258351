"""
Folders as transformers and the programs around it write them: ids and logits equal theirs, or the folder is refused
by name.

Each case writes a folder with random weights or with a small tokenizer, in one of the ways in which people have them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tinygpt import GPT, Tokenizer
from tinygpt.gpt2 import checkpoint
from tinygpt.gpt2.decoder import Decoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.slow  # half a minute in all

SIZES = {"n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 2}
VOCABULARY = 300
END = "<|endoftext|>"
CORPUS = ["The hen counts her eggs, and the fox counts the hens: 12, 345 of them.", "Then the moon <b>rose</b>.\n"] * 9
TEXTS = [
    "The hen's 12345 eggs",
    " the  fox\n\n and é 汉字",
    f"hen {END} fox",
    "a [PAD]  b",
    "hen<t>fox <t> , <t>\n",
    "Ünï",
]
TOKENS = np.array([[5, 1, 250, 7, 7, 299, 0, 31]])


class Case(NamedTuple):
    """
    A folder.

    Attributes
    ----------
    write : callable
        Writes it; returns the model that transformers has, or its tokenizer, or None: then transformers opens it.
    refused : str, optional
        What our error says, a regular expression.
    """

    write: Callable[[Path], Any]
    refused: str | None = None


MODELS: dict[str, Case] = {}
TOKENIZERS: dict[str, Case] = {}


def model_case(name: str, refused: str | None = None) -> Callable:
    return lambda write: MODELS.setdefault(name, Case(write, refused)).write


def tokenizer_case(name: str, refused: str | None = None) -> Callable:
    return lambda write: TOKENIZERS.setdefault(name, Case(write, refused)).write


def config(**changes: Any) -> Any:
    fields = SIZES | {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2Config(**fields | changes)


def random_model(kind: str = "GPT2LMHeadModel", **changes: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # larger than GPT-2's, so that what is read wrongly shows
            parameter.normal_(0, 0.3)
    return model


def saved(folder: Path, model: Any, **options: Any) -> Any:
    model.save_pretrained(folder, **options)
    return model


def rewritten(folder: Path, **fields: Any) -> None:
    """Change fields of config.json; those that are `...` are taken away."""
    path = folder / "config.json"
    found = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not ...}))


def renamed(folder: Path, model: Any, rename: Callable[[str], str]) -> Any:
    """The model's tensors under other names."""
    model.config.save_pretrained(folder)
    tensors = {rename(name): tensor.clone() for name, tensor in model.state_dict().items()}
    safetensors_torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return model


# Models


@model_case("GPT2LMHeadModel")
def _(folder):
    return saved(folder, random_model())


@model_case("GPT2Model, without a head")
def _(folder):
    model = random_model()
    model.transformer.save_pretrained(folder)
    return model


@model_case("GPT2DoubleHeadsModel", r"multiple_choice_head\.\S+, the multiple choice head")
def _(folder):
    saved(folder, random_model("GPT2DoubleHeadsModel"))


@model_case("GPT2ForSequenceClassification", r"score\.weight, the head of a sequence classifier: not supported")
def _(folder):
    saved(folder, random_model("GPT2ForSequenceClassification"))


@model_case("GPT2ForTokenClassification", r"classifier\.\S+, the head of a token classifier")
def _(folder):
    saved(folder, random_model("GPT2ForTokenClassification"))


@model_case("GPT2ForQuestionAnswering", r"qa_outputs\.\S+, the head of a question answering model")
def _(folder):
    saved(folder, random_model("GPT2ForQuestionAnswering"))


@model_case("float16")
def _(folder):
    return saved(folder, random_model().to(torch.float16)).float()


@model_case("bfloat16")
def _(folder):
    return saved(folder, random_model().to(torch.bfloat16)).float()


@model_case("norms in float32, the rest in bfloat16")
def _(folder):
    model = random_model().to(torch.bfloat16)
    for name, module in model.named_modules():
        if re.search(r"ln_\w$", name):
            module.float()
    return saved(folder, model).float()


@model_case("shards (max_shard_size)")
def _(folder):
    model = saved(folder, random_model(), max_shard_size="10KB")
    assert (folder / "model.safetensors.index.json").exists()
    return model


@model_case('variant="fp16"', r"got model\.fp16\.safetensors, a variant that is never read by itself; rename it")
def _(folder):
    saved(folder, random_model(), variant="fp16")


@model_case("safetensors' save_model: the head alone is stored")
def _(folder):
    model = random_model()
    model.config.save_pretrained(folder)
    safetensors_torch.save_model(model, str(folder / "model.safetensors"), {"format": "pt"})
    assert "transformer.wte.weight" not in safetensors_torch.load_file(folder / "model.safetensors")
    return model


@model_case("DataParallel: module.")
def _(folder):
    model = random_model()
    wrapped = torch.nn.DataParallel(model)
    return renamed(folder, model, dict(zip(model.state_dict(), wrapped.state_dict(), strict=True)).__getitem__)


@model_case("torch.compile: _orig_mod.")
def _(folder):
    model = random_model()
    names = torch.compile(model).state_dict()
    assert next(iter(names)).startswith("_orig_mod.transformer.")
    return renamed(folder, model, dict(zip(model.state_dict(), names, strict=True)).__getitem__)


@model_case("a compiled model in DataParallel, its blocks compiled too: module._orig_mod.")
def _(folder):
    return renamed(folder, random_model(), lambda name: "module._orig_mod." + re.sub(r"(h\.\d)", r"\1._orig_mod", name))


@model_case("n_inner=20")
def _(folder):
    return saved(folder, random_model(n_inner=20))


@model_case("n_inner=101, in shards of float16")
def _(folder):
    return saved(folder, random_model(n_inner=101).half(), max_shard_size="10KB").float()


@model_case("activation_function gelu_pytorch_tanh")
def _(folder):
    return saved(folder, random_model(activation_function="gelu_pytorch_tanh"))


@model_case("activation_function gelu_fast")
def _(folder):
    return saved(folder, random_model(activation_function="gelu_fast"))


@model_case("activation_function gelu", r"activation_function in .* must be 'gelu_new', got 'gelu': not supported")
def _(folder):
    saved(folder, random_model(activation_function="gelu"))


@model_case("sizes under the names of all models: hidden_size, num_hidden_layers, ...")
def _(folder):
    model = saved(folder, random_model())
    aliases = {alias: getattr(model.config, name) for alias, name in model.config.attribute_map.items()}
    rewritten(folder, **dict.fromkeys(model.config.attribute_map.values(), ...), **aliases)


@model_case("a config.json of 2019: n_ctx, no bos, no eos, task_specific_params")
def _(folder):
    saved(folder, random_model())
    rewritten(folder, n_ctx=16, bos_token_id=..., eos_token_id=..., dtype=..., task_specific_params={"text": {}})


@model_case("tie_word_embeddings false, the head equal")
def _(folder):
    model = random_model(tie_word_embeddings=False)
    model.lm_head.weight.data.copy_(model.transformer.wte.weight.data)
    return saved(folder, model)


@model_case("tie_word_embeddings false, a head of its own", r"lm_head\.weight in .* must equal wte\.weight")
def _(folder):
    saved(folder, random_model(tie_word_embeddings=False))


@model_case("tie_word_embeddings false, no head", r"must hold lm_head\.weight, since tie_word_embeddings is false")
def _(folder):
    random_model(tie_word_embeddings=False).transformer.save_pretrained(folder)


@model_case("reorder_and_upcast_attn")
def _(folder):
    return saved(folder, random_model(reorder_and_upcast_attn=True))


@model_case("scale_attn_by_inverse_layer_idx", r"scale_attn_by_inverse_layer_idx in .* must be False, got True")
def _(folder):
    saved(folder, random_model(scale_attn_by_inverse_layer_idx=True))


@model_case("add_cross_attention", r"add_cross_attention in .* must be False, got True")
def _(folder):
    saved(folder, random_model(add_cross_attention=True))


@model_case("quantization_config", r"quantization_config in .* must be null, got .*bitsandbytes")
def _(folder):
    saved(folder, random_model())
    rewritten(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})


@model_case(
    "a LoRA adapter", r"must hold a whole model, got an adapter \(adapter_config\.json\): not supported; merge it"
)
def _(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2", "peft_type": "LORA"}')
    safetensors_torch.save_file({"a": torch.ones(1)}, folder / "adapter_model.safetensors")


@model_case("pytorch_model.bin", r"got pytorch_model\.bin, which is pickled and never opened")
def _(folder):
    model = random_model()
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


@model_case("numbers as text", r"n_layer must be an integer, got '2'")
def _(folder):
    saved(folder, random_model())
    rewritten(folder, n_layer="2")


@model_case("null for a rate", r"attn_pdrop must be a number, got None")
def _(folder):
    saved(folder, random_model())
    rewritten(folder, attn_pdrop=None)


@model_case("embeddings resized to a multiple of 64")
def _(folder):
    model = random_model()
    model.resize_token_embeddings(VOCABULARY, pad_to_multiple_of=64)
    assert model.config.vocab_size == 320
    return saved(folder, model.eval())


@model_case("the mask's buffers, as before transformers 4.20")
def _(folder):
    model = random_model()
    saved(folder, model)
    tensors = safetensors_torch.load_file(folder / "model.safetensors")
    for layer in range(2):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8).tril()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    safetensors_torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return model


@model_case("a byte order mark before config.json")
def _(folder):
    model = saved(folder, random_model())
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return model


# Tokenizers


def library(special: tuple[str, ...] = (END,), pattern: str | None = None) -> Any:
    """A small byte-level BPE, trained by the library."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    trained.pre_tokenizer = byte_level(add_prefix_space=False)
    if pattern is not None:
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        trained.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level(False, use_regex=False)])
    trained.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special), initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    return trained


def gpt2(**options: Any) -> Any:
    model = json.loads(library().to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return transformers.GPT2Tokenizer(vocab=model["vocab"], merges=merges, **options)


def pair(folder: Path, **config: Any) -> Any:
    """vocab.json, merges.txt and tokenizer_config.json, as the slow class wrote them."""
    trained = library()
    trained.model.save(str(folder))
    config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return trained


@tokenizer_case("GPT2Tokenizer")
def _(folder):
    gpt2().save_pretrained(folder)


@tokenizer_case("a chat template and extra special tokens")
def _(folder):
    tokenizer = gpt2(pad_token="[PAD]", extra_special_tokens=["<t>", "<b>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)


@tokenizer_case("AddedToken(lstrip, rstrip, single_word, normalized)")
def _(folder):
    tokenizer = gpt2()
    tokenizer.add_tokens([
        tokenizers.AddedToken("<t>", lstrip=True, normalized=False),
        tokenizers.AddedToken("[PAD]", rstrip=True),
        tokenizers.AddedToken("fox", single_word=True),
    ])  # fmt: skip
    tokenizer.save_pretrained(folder)


@tokenizer_case("the tokenizers library's save()")
def _(folder):
    trained = library((END, "[PAD]"))
    trained.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


@tokenizer_case("PreTrainedTokenizerFast with a split pattern")
def _(folder):
    trained = library(pattern=r"\p{N}{1,3}|\p{L}+|[^\p{L}\p{N}]+")
    transformers.PreTrainedTokenizerFast(tokenizer_object=trained, eos_token=END).save_pretrained(folder)


@tokenizer_case("a split pattern under the name of GPT2Tokenizer", "tokenizer_class must not be 'GPT2Tokenizer'")
def _(folder):
    library(pattern=r"\p{N}{1,3}|\p{L}+|[^\p{L}\p{N}]+").save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')


@tokenizer_case("vocab.json, merges.txt and added_tokens.json, as before transformers 4.34")
def _(folder):
    pair(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"<t>": VOCABULARY + 1, "[PAD]": VOCABULARY}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": END, "pad_token": "[PAD]"}))


@tokenizer_case("added_tokens.json with an id that is not the next one", r"with id 400 contradicts the vocabulary")
def _(folder):
    pair(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": 400}))


@tokenizer_case("vocab.json and merges.txt, the added tokens in tokenizer.json alone")
def _(folder):
    trained = pair(folder)
    trained.add_special_tokens(["[PAD]"])
    trained.add_tokens([tokenizers.AddedToken("<t>", lstrip=True)])
    trained.save(str(folder / "tokenizer.json"))


@tokenizer_case("all files of transformers 4.40: vocab.json, merges.txt, tokenizer.json, added_tokens_decoder")
def _(folder):
    flags = {"lstrip": False, "normalized": False, "rstrip": True, "single_word": False, "special": True}
    decoder = {"0": {"content": END, **flags, "rstrip": False}, str(VOCABULARY): {"content": "[PAD]", **flags}}
    trained = pair(folder, added_tokens_decoder=decoder, eos_token=END, pad_token="[PAD]")
    trained.add_special_tokens([tokenizers.AddedToken("[PAD]", rstrip=True)])
    trained.save(str(folder / "tokenizer.json"))
    written = {"eos_token": END, "pad_token": {"content": "[PAD]", "rstrip": True, "lstrip": False}}
    (folder / "special_tokens_map.json").write_text(json.dumps(written))


@tokenizer_case("a token that is named by its role alone")
def _(folder):
    pair(folder, pad_token="[PAD]", additional_special_tokens=["<t>"])


@tokenizer_case("files of two tokenizers", r"tokenizer\.json: must be of the same tokenizer as vocab\.json")
def _(folder):
    pair(folder)
    other = json.loads(library().to_str())
    other["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(other))


@tokenizer_case("add_prefix_space=True", r"add_prefix_space of ByteLevel must be false, as GPT-2's own is")
def _(folder):
    gpt2(add_prefix_space=True).save_pretrained(folder)


@tokenizer_case("add_prefix_space=True beside vocab.json and merges.txt", r"add_prefix_space must be false")
def _(folder):
    pair(folder, add_prefix_space=True)


@tokenizer_case("another class beside vocab.json and merges.txt", r"must be GPT2Tokenizer .*, got 'Qwen2Tokenizer'")
def _(folder):
    pair(folder, tokenizer_class="Qwen2Tokenizer")


@tokenizer_case("byte order marks before every file")
def _(folder):
    pair(folder, added_tokens_decoder={"0": {"content": END, "special": True}})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for path in folder.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return theirs


@tokenizer_case("ByteLevelBPETokenizer.save_model: the two files alone")
def _(folder):
    library().model.save(str(folder))
    return transformers.GPT2Tokenizer.from_pretrained(folder)


# What is asked of each


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_the_logits_of_transformers_or_is_refused_by_name(name, tmp_path):
    theirs = MODELS[name].write(tmp_path)
    if MODELS[name].refused is not None:
        with pytest.raises((ValueError, TypeError), match=MODELS[name].refused) as caught:
            GPT.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)
        return
    if theirs is None:
        theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(TOKENS)).logits.numpy()
    ours = GPT.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(ours(TOKENS).data, expected, rtol=0, atol=1e-4)
    decoder = Decoder(ours)
    decoder.prefill(0, TOKENS[0, :-1])
    np.testing.assert_allclose(decoder.step([0], TOKENS[0, -1:])[0], expected[0, -1], rtol=0, atol=1e-4)
    ours.save_pretrained(tmp_path / "ours")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    assert again.config.eos_token_id is None
    with torch.no_grad():
        np.testing.assert_allclose(again(torch.from_numpy(TOKENS)).logits.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_gives_the_ids_of_transformers_or_is_refused_by_name(name, tmp_path):
    theirs = TOKENIZERS[name].write(tmp_path)
    if TOKENIZERS[name].refused is not None:
        with pytest.raises(ValueError, match=TOKENIZERS[name].refused) as caught:
            Tokenizer.from_pretrained(tmp_path)
        assert "\n" not in str(caught.value)
        return
    theirs = theirs or transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_pretrained(tmp_path)
    ours.save_pretrained(tmp_path / "ours")
    for tokenizer in (ours, Tokenizer.from_pretrained(tmp_path / "ours")):
        for text in TEXTS:
            expected = theirs(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.encode(text, allowed_special="all") == expected, text
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    for text in TEXTS:
        assert again(text)["input_ids"] == ours.encode(text, allowed_special="all"), text


def test_a_model_and_its_tokenizer_travel_together(tmp_path):
    """The vocabulary padded, the token that ends a text named: transformers opens what we save, and back."""
    tokenizer = gpt2(pad_token="[PAD]")
    model = random_model()
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    saved(tmp_path / "theirs", model), tokenizer.save_pretrained(tmp_path / "theirs")
    read = checkpoint.load_tokenizer(tmp_path / "theirs")
    assert read.special_tokens == {END: 0, "[PAD]": VOCABULARY}
    GPT.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours", read)
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours")
    assert (again.config.bos_token_id, again.config.eos_token_id, again.config.vocab_size) == (0, 0, 320)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").eos_token_id == 0

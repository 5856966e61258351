"""tokenizer.json: the same ids as Hugging Face's tokenizers in both directions; what is not supported is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.gpt2 import checkpoint
from tinygpt.tokenizer import Tokenizer
from tinygpt.tokenizer.files.onig_dialect import from_onig, to_onig

END = "<|endoftext|>"
BYTES = [bytes([byte]) for byte in range(256)]
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
# As Llama 3's own tokenizer.json has it.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SNIPPETS = [
    "'s",
    "'LL",
    "'",
    " ",
    "  ",
    "\n",
    "\r\n\n",
    "\u3000",
    "the",
    " hen",
    "é",
    "12345",
    "²",
    "!?\n",
    "汉字",
    "😀",
]
FUZZ = st.lists(
    st.sampled_from(SNIPPETS) | st.characters(categories=["L", "N", "P", "S", "Z"], max_codepoint=0x2FFF), max_size=30
).map("".join)
TEXT = "the hen, then the other hen and the fox: é, 汉字, 12345 #hash ##version\n" * 2
TRAINED = Tokenizer.train(TEXT, 290, special_tokens=("<|user|>", END), progress=False)


def with_(tokenizer: Tokenizer, pattern: str | None = None, whole_pieces: bool = False) -> Tokenizer:
    return Tokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, pattern, whole_pieces)


@pytest.fixture(scope="module")
def tokenizers():
    return pytest.importorskip("tokenizers")


@pytest.fixture(scope="module", params=[None, CL100K, LLAMA3], ids=["gpt2", "cl100k", "llama3"])
def both(request, gpt2, tokenizers, tmp_path_factory):
    """Ours, and what the library reads from the file that we wrote."""
    ours = with_(gpt2, request.param)
    path = tmp_path_factory.mktemp("both") / "tokenizer.json"
    ours.to_tokenizer_json(path)
    return ours, tokenizers.Tokenizer.from_file(str(path))


# From us to the library


def test_the_library_gives_our_ids_of_real_texts(both, texts):
    ours, theirs = both
    for name, text in texts.items():
        ids = theirs.encode(text).ids
        assert ours.encode(text) == ids, name
        assert theirs.decode(ids) == text


@given(text=FUZZ)
def test_the_library_gives_our_ids_of_odd_texts(both, text):
    ours, theirs = both
    special = f"{text}{END}{text}"
    assert theirs.encode(special).ids == ours.encode(special, allowed_special="all")


@pytest.mark.parametrize("pattern", [None, CL100K, r"\p{L}+"])
@pytest.mark.parametrize("whole_pieces", [False, True])
def test_what_is_written_is_read_again(pattern, whole_pieces, tmp_path):
    tokenizer = with_(TRAINED, pattern, whole_pieces)
    tokenizer.to_tokenizer_json(tmp_path / "t.json")
    again = Tokenizer.from_tokenizer_json(tmp_path / "t.json")
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.pattern, again.whole_pieces) == (pattern, whole_pieces)
    again.to_tokenizer_json(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "t.json").read_bytes()


def test_whole_pieces_are_the_same_there(tokenizers, tmp_path):
    vocab = dict(enumerate(BYTES)) | {300: b"he", 400: b"hen"}
    ours = Tokenizer(vocab, [(b"h", b"e")], {END: 500}, r"\p{L}+|\P{L}+", whole_pieces=True)
    ours.to_tokenizer_json(tmp_path / "t.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    text = "hen, hens 12"
    assert ours.encode(text) == theirs.encode(text).ids == [400, *b", ", 300, *b"ns", *b" 12"]
    assert theirs.token_to_id(END) == 500


# From the library to us


FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
CONTENTS = ["<a>", "<a><b>", "b>", "hen", "> <", "x y", "_y", "zé"]
AROUND = [*CONTENTS, " ", "  ", "\n", "\u3000", "\x1c", "a", "the", "_", "1"]


@given(
    flags=st.lists(st.tuples(*[st.booleans()] * 4), min_size=len(CONTENTS), max_size=len(CONTENTS)),
    chosen=st.sets(st.integers(0, len(CONTENTS) - 1), min_size=1),
    text=st.lists(st.sampled_from(AROUND), max_size=12).map("".join),
)
def test_added_tokens_are_looked_for_as_the_library_does(tokenizers, tmp_path_factory, flags, chosen, text):
    path = tmp_path_factory.mktemp("flags") / "tokenizer.json"
    TRAINED.to_tokenizer_json(path)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    for number in sorted(chosen):
        own = dict(zip(FLAGS, flags[number], strict=True))
        theirs.add_tokens([tokenizers.AddedToken(CONTENTS[number], special=number % 2 == 0, **own)])
    theirs.save(str(path))
    ours = Tokenizer.from_tokenizer_json(path)
    expected = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text, allowed_special="all") == expected
    again = copy.deepcopy(ours)
    assert (again.fingerprint, again.encode(text, allowed_special="all")) == (ours.fingerprint, expected)
    ours.save_pretrained(path.parent / "ours")
    assert Tokenizer.from_pretrained(path.parent / "ours").encode(text, allowed_special="all") == expected


@pytest.fixture(params=["strings", "pairs"])
def trained_there(request, tokenizers, texts, tmp_path) -> tuple[Path, object]:
    """A tokenizer that the library trained and wrote, its merges in either form."""
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level(False, use_regex=False)])
    theirs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=byte_level.alphabet(), special_tokens=[END, "<pad>"], show_progress=False
    )
    theirs.train_from_iterator([texts["tinyshakespeare.txt"][:100_000]], trainer)
    theirs.add_tokens(["<|user|>"])
    theirs.post_processor = tokenizers.processors.TemplateProcessing(f"{END} $A", None, [(END, 0)])
    written = json.loads(theirs.to_str())
    assert all(isinstance(merge, list) for merge in written["model"]["merges"])
    if request.param == "strings":
        written["model"]["merges"] = [" ".join(merge) for merge in written["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    return tmp_path, theirs


def test_we_give_the_librarys_ids(trained_there, texts):
    folder, theirs = trained_there
    ours = Tokenizer.from_pretrained(folder)
    assert ours.special_tokens == {END: 0, "<pad>": 1, "<|user|>": 700}
    for text in (*texts.values(), f"<|user|>the hen{END}<pad>", "'LL 12345\r\n \n!?\n", ""):
        assert ours.encode(text, allowed_special="all") == theirs.encode(text, add_special_tokens=False).ids


def test_isolated_keeps_what_no_match_covers(trained_there, tokenizers):
    folder, theirs = trained_there
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\p{L}+|\d$"), "isolated"),
        tokenizers.pre_tokenizers.ByteLevel(False, use_regex=False),
    ])  # fmt: skip
    theirs.save(str(folder / "tokenizer.json"))
    ours = Tokenizer.from_pretrained(folder)
    for text in ("the   hen, 12\n34 \n\nand 5", " the ", "  "):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_a_file_without_the_newer_fields_is_read(tmp_path):
    TRAINED.to_tokenizer_json(tmp_path / "tokenizer.json")
    written = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    model = {"vocab": written["model"]["vocab"], "merges": written["model"]["merges"]}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    older = {"added_tokens": written["added_tokens"], "pre_tokenizer": byte_level, "model": model}
    (tmp_path / "tokenizer.json").write_text(json.dumps(older), encoding="utf-8")
    assert Tokenizer.from_pretrained(tmp_path).fingerprint == TRAINED.fingerprint


# Folders


def test_a_folder_with_a_pattern_holds_a_tokenizer_json(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = with_(TRAINED, CL100K)
    ours.save_pretrained(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert Tokenizer.from_pretrained(tmp_path / "new").fingerprint == ours.fingerprint
    assert checkpoint.load_tokenizer(tmp_path / "new").fingerprint == ours.fingerprint
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    text = f"the hen 12345{END}\n\n"
    assert theirs(text)["input_ids"] == ours.encode(text, allowed_special="all")
    assert theirs.eos_token_id == ours.eot_token


def test_saving_leaves_no_file_that_says_otherwise(tmp_path):
    ours = with_(TRAINED, CL100K)
    for tokenizer in (TRAINED, ours, TRAINED):
        tokenizer.save_pretrained(tmp_path)
        assert Tokenizer.from_pretrained(tmp_path).fingerprint == tokenizer.fingerprint
        assert (tmp_path / "tokenizer.json").exists() == (tokenizer is ours)


def test_the_single_file_beside_the_pair_must_say_the_same(tmp_path):
    """transformers reads the single file, its older slow classes the pair."""
    TRAINED.save_pretrained(tmp_path)
    TRAINED.to_tokenizer_json(tmp_path / "tokenizer.json")
    assert Tokenizer.from_pretrained(tmp_path).fingerprint == TRAINED.fingerprint
    other = Tokenizer.train(TEXT, 289, special_tokens=("<|user|>", END), progress=False)
    fewer = Tokenizer(TRAINED.vocab, TRAINED.merges[:-1], TRAINED.special_tokens)
    for tokenizer, message in (
        (other, "contradicts"),
        (fewer, "must be of the same tokenizer as vocab.json and merges.txt beside it"),
        (with_(TRAINED, CL100K), "with another split pattern"),
        (
            with_(TRAINED, None, whole_pieces=True),
            "must split as GPT-2 does where vocab.json and merges.txt",
        ),
    ):
        tokenizer.to_tokenizer_json(tmp_path / "tokenizer.json")
        with pytest.raises(ValueError, match=message):
            Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="the pre_tokenizer must be"):
        Tokenizer.from_pretrained(tmp_path)


# What is not supported


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        ("normalizer", {"type": "NFC"}, "the normalizer must be null, got 'NFC'"),
        ("pre_tokenizer", None, "the pre_tokenizer must be ByteLevel, or Split and ByteLevel, got None"),
        ("pre_tokenizer", {"type": "Metaspace"}, "the pre_tokenizer must be .* got 'Metaspace'"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": []}, "the pre_tokenizer must be .* got None"),
        ("pre_tokenizer", {"type": "ByteLevel"}, "add_prefix_space of ByteLevel must be false"),
        ("pre_tokenizer.add_prefix_space", True, "add_prefix_space of ByteLevel must be false"),
        ("pre_tokenizer.use_regex", False, "use_regex of ByteLevel must be true where there is no Split, got false"),
        ("model", None, "the model must be BPE, got None"),
        ("model.type", "WordPiece", "the model must be BPE, got 'WordPiece'"),
        ("model.dropout", 0.1, "the model's dropout must be null, got 0.1"),
        ("model.end_of_word_suffix", "</w>", "the model's end_of_word_suffix must be null, got '</w>'"),
        ("model.byte_fallback", True, "the model's byte_fallback must be null, got True"),
        ("model.vocab", [], "the model must hold an object vocab and a list merges"),
        ("model.merges", None, "the model must hold an object vocab and a list merges"),
        ("model.merges.0", "Ġ", 'merge 0: must be "a b" or .*, got \'Ġ\''),
        ("model.merges.1", ["h", "e", "n"], 'merge 1: must be "a b"'),
        ("model.merges.0", ["q", "x"], "merge 0: names 'qx', which is not in the vocabulary"),
        ("model.merges.1", "h e", "merge 1: must be a new merge, got merge 0 again"),
        ("model.vocab.!", 5, "ids must be unique, '!' and '&' both have id 5"),
        ("model.vocab.a b", 999, "'a b' .id 999. is neither bytes nor one of added_tokens"),
        ("added_tokens.0", 5, "added_tokens must hold .*, got 5"),
        ("added_tokens.0.id", "5", "added_tokens must hold"),
        ("added_tokens.0.id", 5, "the added token '<.user.>' with id 5 contradicts another entry"),
        ("added_tokens.0.lstrip", "yes", "lstrip of the added token '<.user.>' must be true or false, got 'yes'"),
        ("added_tokens.0.content", "he", "'he' is an ordinary token; it cannot be one of added_tokens as well"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(where, value, expected, tmp_path):
    TRAINED.to_tokenizer_json(tmp_path / "tokenizer.json")
    written = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert written["model"]["merges"][0] == "h e"
    *parents, last = [int(name) if name.isdigit() else name for name in where.split(".")]
    inner = written
    for name in parents:
        inner = inner[name]
    inner[last] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json(:|,) ?" + expected) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"behavior": "MergedWithNext"}, "Split must be by a Regex"),
        ({"pattern": {"String": " "}}, "Split must be by a Regex"),
        ({"pattern": {"Regex": r"(?m:.)+"}}, r"the split pattern must do without '\(\?m:'"),
        ({"pattern": {"Regex": r"("}}, "pattern must be a regular expression"),
    ],
)
def test_splits_that_are_not_supported_are_named(change, expected, tmp_path):
    with_(TRAINED, LLAMA3).to_tokenizer_json(tmp_path / "tokenizer.json")
    written = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    written["pre_tokenizer"]["pretokenizers"][0].update(change)
    (tmp_path / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(ValueError, match=expected):
        Tokenizer.from_pretrained(tmp_path)


def test_files_that_are_missing_or_cut_off(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"from_tokenizer_json: .* must be a file, and is not there"):
        Tokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    TRAINED.to_tokenizer_json(tmp_path / "tokenizer.json")
    data = (tmp_path / "tokenizer.json").read_bytes()
    for end in range(0, len(data) - 2, 211):
        (tmp_path / "tokenizer.json").write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"tokenizer\.json"):
            Tokenizer.from_pretrained(tmp_path)


# Two dialects


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"a{1,3}+|b", "aaaaab"),
        (r"[a$^]+$|.", "aa\naa$^\n"),
        (r"^a|.|\n", "aa\na"),
        (r"\n\Z|a\Z|.", "a\na\n"),
        (r"[a-c]{2}+|(?<=a)b(?!c)|[[:alpha:]]|\]|[]x]|.", "abbcx]]"),
        (r"a{2,}+a?|\{1\}+|.", "aaa{1}}"),
        (r"(?>ab|a)c|(?i:X)|.", "abcxX"),
    ],
)
def test_a_pattern_means_the_same_in_both_dialects(pattern, text, tokenizers):
    split = tokenizers.pre_tokenizers.Split
    there = [piece for piece, _ in split(tokenizers.Regex(to_onig(pattern)), "removed", True).pre_tokenize_str(text)]
    here = [match[0] for match in regex.finditer(pattern, text) if match[0]]
    assert there == here
    back = from_onig(to_onig(pattern))
    assert [match[0] for match in regex.finditer(back, text) if match[0]] == here


@pytest.mark.parametrize("pattern", [r"a{1,3}+|a", r"^a$|.|\n", r"a\Z|.|\n", r"\h+|."])
def test_a_pattern_of_the_other_dialect_means_the_same_here(pattern, tokenizers):
    text = "aaaaa\na\nfa\n"
    split = tokenizers.pre_tokenizers.Split
    there = [piece for piece, _ in split(tokenizers.Regex(pattern), "removed", True).pre_tokenize_str(text)]
    assert [match[0] for match in regex.finditer(from_onig(pattern), text) if match[0]] == there


@pytest.mark.parametrize("pattern", [r"(?s:.)+", r"(ab){1,2}+", r"(?P<name>a)", r"(?#a)b"])
def test_what_the_other_dialect_cannot_say_is_refused(pattern, tmp_path):
    with pytest.raises(ValueError, match="the split pattern must do without"):
        with_(TRAINED, pattern).to_tokenizer_json(tmp_path / "tokenizer.json")
    assert list(tmp_path.iterdir()) == []

"""
The tokenizer against tiktoken, Hugging Face's tokenizers and rustbpe: training, encoding, decoding, start.

    python -m benchmarks.bench_tokenizer                  the table
    python -m benchmarks.bench_tokenizer --verify-only    only that ids, bytes and merges are equal

One thread each, in turns; a ratio is a median by ours. "cold": a tokenizer that has seen no text, and remembers tokens
only; "warm": one that has encoded this text before. "tinygpt again" is ours against ourselves: the noise. A ratio of
times that spread too far is marked "~ noisy": see `table.py`.
"""

from __future__ import annotations

import os

os.environ["RAYON_NUM_THREADS"] = "1"  # read when tokenizers and rustbpe are imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rustbpe
import tiktoken
import tokenizers

import tinygpt
from benchmarks.race import race
from tinygpt import Tokenizer
from tinygpt.tokenizer.reference import BYTE_CHARACTERS

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("TINYGPT_TEST_DATA", ROOT.parent / "shared" / "data"))
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"  # as tiktoken has it
START = """
from tinygpt import Tokenizer
print(Tokenizer.from_pretrained({folder!r}).encode("Once upon a time there was a hen."))
"""
START_TIKTOKEN = """
import json, tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
ranks = data_gym_to_mergeable_bpe_ranks({folder!r} + "/vocab.bpe", {folder!r} + "/encoder.json")
encoding = tiktoken.Encoding("gpt2", pat_str={pattern!r}, mergeable_ranks=ranks, special_tokens={{}})
print(encoding.encode("Once upon a time there was a hen."))
"""


def texts() -> dict[str, str]:
    """The books, or the bundled stories where they are absent, and the source of the standard library."""
    books = [*sorted((DATA / "gutenberg").glob("*.txt"))] or sorted((ROOT / "data").glob("*.txt"))
    source = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return {
        "books": "".join(path.read_bytes().decode("utf-8") for path in books),
        "Python source": "".join(path.read_bytes().decode("utf-8") for path in source),
    }


def our_tokenizer(corpus: str) -> Tokenizer:
    """GPT-2's, or one with as many tokens as the corpus teaches quickly where its files are absent."""
    if (DATA / "gpt2").is_dir():
        return Tokenizer.from_pretrained(DATA / "gpt2")
    return Tokenizer.train(corpus, 8192, progress=False)


def written(token: bytes) -> str:
    """A token as Hugging Face's files write it."""
    return "".join(BYTE_CHARACTERS[byte] for byte in token)


def as_tiktoken(ours: Tokenizer) -> tiktoken.Encoding:
    """The same vocabulary in tiktoken."""
    ranks = {token: id for id, token in ours.vocab.items()}
    return tiktoken.Encoding("ours", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=ours.special_tokens)


def byte_level(model: tokenizers.models.BPE) -> tokenizers.Tokenizer:
    """GPT-2's pattern and byte alphabet around a model of Hugging Face's."""
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    return theirs


def as_tokenizers(ours: Tokenizer) -> tokenizers.Tokenizer:
    """The same vocabulary in Hugging Face's tokenizers."""
    ids = {written(token): id for id, token in ours.vocab.items()}
    return byte_level(tokenizers.models.BPE(ids, [(written(left), written(right)) for left, right in ours.merges]))


def train_ours(text: str, size: int, byte_order: str) -> Tokenizer:
    """Train tinygpt's."""
    return Tokenizer.train(text, size, special_tokens=(), byte_order=byte_order, progress=False)


def train_rustbpe(text: str, size: int) -> list[bytes]:
    """Train rustbpe and return its tokens."""
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator([text], size, pattern=PATTERN)
    return [bytes(token) for token, _ in theirs.get_mergeable_ranks()]


def train_tokenizers(text: str, size: int) -> tokenizers.Tokenizer:
    """Train Hugging Face's."""
    theirs = byte_level(tokenizers.models.BPE())
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator([text], trainer)
    return theirs


def fresh(ours: Tokenizer) -> Tokenizer:
    """The same tokenizer with its tables made and nothing remembered."""
    new = Tokenizer(ours.vocab, ours.merges, ours.special_tokens)
    with tinygpt.implementation("check"):  # which uses the kernels however short the text
        new.encode("a")
        new.decode([0])
    return new


def verify(what: str, ours: object, theirs: object) -> None:
    """Stop unless two results are equal."""
    if ours != theirs:
        raise SystemExit(f"bench_tokenizer: {what} must be equal before they are timed, and are not")
    print(f"equal: {what}", flush=True)


def verify_all(ours: Tokenizer, corpora: dict[str, str], vocab_sizes: dict[str, int]) -> None:
    """Compare all that will be timed."""
    for name, text in corpora.items():
        ids = fresh(ours).encode_to_numpy(text)
        warm = ours.encode_ordinary(text)
        verify(f"ids of {name}, array and list", ids.tolist(), warm)
        verify(f"ids of {name}, tiktoken's", warm, as_tiktoken(ours).encode_ordinary(text))
        verify(f"ids of {name}, tokenizers'", warm, as_tokenizers(ours).encode(text).ids)
        verify(f"bytes of {name}, from an array", fresh(ours).decode_bytes(ids), text.encode("utf-8"))
        verify(f"bytes of {name}, from a list", fresh(ours).decode_bytes(warm), text.encode("utf-8"))
        size = vocab_sizes[name]
        raw, gpt2 = train_ours(text, size, "raw"), train_ours(text, size, "gpt2")
        verify(f"tokens that {name} teaches, rustbpe's", list(raw.vocab.values()), train_rustbpe(text, size))
        theirs = train_tokenizers(text, size).get_vocab()
        verify(f"tokens that {name} teaches, tokenizers'", {written(t): id for id, t in gpt2.vocab.items()}, theirs)


def show(row: str, size: int, contestants: dict[str, Callable], rounds: int) -> None:
    """Race and print a line for each contestant; the first is ours."""
    times = race(contestants, rounds)
    ours, _, _, our_noise = next(iter(times.values()))
    for name, (median, fastest, slowest, noisy) in times.items():
        speed = f"{size / median / 1e6:8.1f} MB/s" if size else " " * 13
        ratio = median / ours
        print(
            f"{row:34s} {name:14s} {median * 1e3:9.2f} ms  ({fastest * 1e3:.2f} to {slowest * 1e3:.2f}) {speed} "
            f"{ratio:7.2f}x{' ~ noisy' if noisy or our_noise else ''}",
            flush=True,
        )


def again(function: Callable, *arguments: object) -> Callable[[], Callable]:
    """A contestant that needs no preparation."""
    return lambda: partial(function, *arguments)


def time_encoding(ours: Tokenizer, name: str, text: str, rounds: int) -> None:
    """Encode and decode a text."""
    size, encoding, theirs = len(text.encode("utf-8")), as_tiktoken(ours), as_tokenizers(ours)
    warm = fresh(ours)
    ids = warm.encode_to_numpy(text)
    listed = ids.tolist()
    array_rival = again(partial(encoding.encode_to_numpy, disallowed_special=()), text)
    cold = {
        "tinygpt": lambda: partial(fresh(ours).encode_to_numpy, text),
        "tiktoken": array_rival,
        "tinygpt again": lambda: partial(fresh(ours).encode_to_numpy, text),
    }
    to_array = {"tinygpt": again(warm.encode_to_numpy, text), "tiktoken": array_rival}
    to_array["tinygpt again"] = to_array["tinygpt"]
    to_list = {
        "tinygpt": again(warm.encode_ordinary, text),
        "tiktoken": again(encoding.encode_ordinary, text),
        "tokenizers": lambda: lambda: theirs.encode(text).ids,
    }
    cold_list = {"tinygpt": lambda: partial(fresh(ours).encode_ordinary, text), "tiktoken": to_list["tiktoken"]}
    from_array = {"tinygpt": again(warm.decode_bytes, ids), "tiktoken": again(encoding.decode_bytes, ids)}
    from_list = {
        "tinygpt": again(warm.decode_bytes, listed),
        "tiktoken": again(encoding.decode_bytes, listed),
        "tokenizers": again(theirs.decode, listed),
    }
    show(f"encode {name}, array, cold", size, cold, rounds)
    show(f"encode {name}, array, warm", size, to_array, rounds)
    show(f"encode {name}, list, cold", size, cold_list, rounds)
    show(f"encode {name}, list, warm", size, to_list, max(3, rounds // 3))
    show(f"decode {name}, array", size, from_array, rounds)
    show(f"decode {name}, list", size, from_list, max(3, rounds // 3))


def time_training(name: str, text: str, size: int, rounds: int) -> None:
    """Train on a text."""
    contestants = {
        "tinygpt": again(train_ours, text, size, "raw"),
        "rustbpe": again(train_rustbpe, text, size),
        "tokenizers": again(train_tokenizers, text, size),
        "tinygpt again": again(train_ours, text, size, "raw"),
    }
    show(f"train on {name}, {size} tokens", len(text.encode("utf-8")), contestants, rounds)


def time_start(rounds: int) -> None:
    """A new process that encodes a sentence."""
    codes = {"tinygpt": START, "tiktoken": START_TIKTOKEN}
    commands = {
        name: [sys.executable, "-c", code.format(folder=str(DATA / "gpt2"), pattern=PATTERN)]
        for name, code in codes.items()
    }
    run = partial(subprocess.run, cwd=ROOT, check=True, capture_output=True)
    outputs = [run(command).stdout for command in commands.values()]
    verify("ids of the sentence", outputs[0], outputs[1])
    show("start and encode a sentence", 0, {name: again(run, command) for name, command in commands.items()}, rounds)


def main() -> None:
    """Verify, and print the table."""
    parser = argparse.ArgumentParser(description="The tokenizer against tiktoken, tokenizers and rustbpe.")
    parser.add_argument("--verify-only", action="store_true", help="compare results and time nothing")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="times each contestant runs (9)")
    options = parser.parse_args()
    names = ("numpy", "numba", "tiktoken", "tokenizers", "rustbpe")
    print(f"tinygpt {tinygpt.__version__};", ", ".join(f"{name} {version(name)}" for name in names))
    corpora = texts()
    vocab_sizes = {"books": 8192, "Python source": 32768}
    ours = our_tokenizer(corpora["books"])
    verify_all(ours, corpora, vocab_sizes)
    run = "a" * 1_000_000
    verify(
        "ids of a million a's", fresh(ours).encode_to_numpy(run).tolist(), [*np.repeat(ours.encode("aaaa"), 250_000)]
    )
    if options.verify_only:
        return
    for name, text in corpora.items():
        time_encoding(ours, name, text, options.rounds)
    show("encode a million a's, cold", len(run), {"tinygpt": lambda: partial(fresh(ours).encode_to_numpy, run)}, 3)
    for name, text in corpora.items():
        time_training(name, text, vocab_sizes[name], max(3, options.rounds // 3))
    if (DATA / "gpt2").is_dir():
        time_start(max(3, options.rounds // 3))


if __name__ == "__main__":
    main()

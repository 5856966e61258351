"""What `tinygpt generate`, `evaluate` and `inspect` do, once their arguments are read."""

from __future__ import annotations

import argparse
import sys
import warnings

import numpy as np

from tinygpt.files.locate import locate
from tinygpt.generation.completion import Completion, complete, known_ids, stream
from tinygpt.generation.sampling import check_sampling
from tinygpt.gpt2 import checkpoint
from tinygpt.gpt2.model import GPT
from tinygpt.quantization import round_weights
from tinygpt.runtime.streams import print_json, tell
from tinygpt.study import inspection
from tinygpt.text import corpus
from tinygpt.text.decoding import plain_text
from tinygpt.text.token_file import is_token_file, open_token_file
from tinygpt.tokenizer import Tokenizer
from tinygpt.training.evaluate import Evaluation
from tinygpt.training.evaluate import evaluate as evaluate_model


def generate(options: argparse.Namespace) -> int:
    """tinygpt generate"""
    check_sampling(options.temperature, options.top_k or None, options.top_p)
    model, tokenizer = _open(options.model, None, options.weights)
    prompt = _prompt(options)  # now, when nothing else can be wrong: someone may have to type it
    settings = {
        "max_tokens": options.max_tokens, "temperature": options.temperature, "top_k": options.top_k or None,
        "top_p": options.top_p, "seed": options.seed, "stop": options.stop or (), "cache": not options.no_cache,
    }  # fmt: skip
    _warn_of_length(model, tokenizer, prompt)
    if not options.json and options.samples == 1:
        pieces = stream(model, tokenizer, prompt, **settings)
        sys.stdout.write(prompt or "")
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
        return 0
    results = complete(model, tokenizer, [prompt] * options.samples, logprobs=options.json, **settings)
    if options.json:
        for result in results:
            print_json(_described(result, tokenizer))
    else:
        print("\n\n---\n\n".join(result.prompt + result.text for result in results))
    return 0


def _prompt(options: argparse.Namespace) -> str | None:
    """
    The text of --prompt or --file, else what comes through a pipe; None starts a new text.

    All three are read alike: UTF-8, byte order mark off, every line end a newline. The line end at the end of a file or
    of what comes through a pipe is that of its last line, and not a part of the prompt.
    """
    if options.prompt is not None:
        return _prompt_argument("generate", options.prompt, "; leave --prompt out to start a new text")
    if options.file is not None:
        text = plain_text(options.file.read_bytes(), f"generate: {options.file}").removesuffix("\n")
        if not text:
            raise ValueError(f"generate: {options.file} must hold a prompt, and is empty")
        return text
    if sys.stdin is None or sys.stdin.isatty():
        return None
    return plain_text(sys.stdin.buffer.read(), "generate: standard input").removesuffix("\n") or None


def _prompt_argument(who: str, given: str, remedy: str = "") -> str:
    """The text of --prompt: the bytes that the shell has passed, which Python keeps as surrogates, read as UTF-8."""
    text = plain_text(given.encode("utf-8", "surrogateescape"), f"{who}: --prompt")
    if not text:
        raise ValueError(f"{who}: the prompt must not be empty{remedy}")
    return text


def _warn_of_length(model: GPT, tokenizer: Tokenizer, prompt: str | None) -> None:
    count, context = len(tokenizer.encode(prompt or "")), model.config.n_positions
    if count > context:
        warnings.warn(f"the prompt has {count} tokens; the model sees its last {context}", stacklevel=2)


def _described(result: Completion, tokenizer: Tokenizer) -> dict:
    tokens = [
        {"id": token.id, "text": tokenizer.decode([token.id]), "logprob": token.logprob} for token in result.tokens
    ]
    return {"prompt": result.prompt, "text": result.text, "reason": result.reason, "tokens": tokens}


def evaluate(options: argparse.Namespace) -> int:
    """tinygpt evaluate"""
    model, tokenizer = _open(options.model, options.tokenizer, "float32")
    if is_token_file(options.data):
        tokens: np.ndarray = open_token_file(options.data, tokenizer.fingerprint, tokenizer.ids).tokens
    else:
        tokens = corpus.encode_documents(corpus.read_documents(options.data), tokenizer)
    if len(tokens) < 2:
        raise ValueError(f"evaluate: {options.data} must have at least two tokens, got {len(tokens)}")
    how = {
        "context": options.context or model.config.n_positions,
        "stride": options.stride,
        "batch_size": options.batch_size,
    }
    exact = evaluate_model(model, tokens, tokenizer, progress=True, **how)
    result = exact
    if options.weights != "float32":
        round_weights(model, options.weights)
        result = evaluate_model(model, tokens, tokenizer, progress=True, **how)
    if options.json:
        figures = {"float32": _figures(exact), options.weights: _figures(result)}
        print_json({"context": how["context"], "stride": options.stride or how["context"], **figures}, indent=1)
        return 0
    print(f"{result} ({result.tokens:,} tokens, {result.text_bytes:,} bytes)")
    print(f"word perplexity {result.word_perplexity:.2f} ({result.words:,} words)")
    if options.weights != "float32":
        change = result.perplexity / exact.perplexity - 1
        print(f"{options.weights} weights: perplexity {change:+.3%} of float32's {exact.perplexity:.4f}")
    return 0


def _figures(result: Evaluation) -> dict:
    derived = {"perplexity": result.perplexity, "word_perplexity": result.word_perplexity}
    return {**result._asdict(), **derived, "bits_per_byte": result.bits_per_byte}


def inspect(options: argparse.Namespace) -> int:
    """tinygpt inspect"""
    model, tokenizer = _open(options.model, options.tokenizer, "float32")
    ids = tokenizer.encode(_prompt_argument("inspect", options.prompt))
    texts = [tokenizer.decode([id]) for id in ids]
    found = inspection.inspect_prompt(model, ids, options.top, known_ids(tokenizer, model.config.vocab_size))
    tell(inspection.describe(found, texts, tokenizer.decode))
    for path in inspection.draw(found, texts, tokenizer.decode, options.out):
        tell(str(path))
    return 0


def _open(path: str, tokenizer_path: str | None, weights: str) -> tuple[GPT, Tokenizer]:
    """The model in a folder, or of a name on the hub, and its tokenizer."""
    folder = locate(path)
    model = GPT.from_pretrained(folder, weights=weights)
    tokenizer = Tokenizer.from_pretrained(tokenizer_path) if tokenizer_path else checkpoint.load_tokenizer(folder)
    if tokenizer is None:
        raise FileNotFoundError(f"{folder} has no tokenizer beside its weights: put vocab.json and merges.txt there")
    if tokenizer.n_vocab > model.config.vocab_size:
        warnings.warn(f"{folder}: the tokenizer has more tokens than the model", stacklevel=2)
    return model, tokenizer

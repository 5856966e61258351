"""What each subcommand of `tinygpt` does, once its arguments are read."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tinygpt import checkpoint, corpus, gutenberg
from tinygpt.config import GPTConfig
from tinygpt.evaluate import evaluate as evaluate_model
from tinygpt.initial_model import initial_config
from tinygpt.ledger import number_of_parameters, predict
from tinygpt.model import GPT
from tinygpt.settings import TrainingSettings
from tinygpt.tokenizer import Tokenizer
from tinygpt.train import load_settings
from tinygpt.train import train as train_model

_SETTINGS = [field.name for field in dataclasses.fields(TrainingSettings)]


def train(options: argparse.Namespace) -> int:
    """tinygpt train"""
    given = {name: getattr(options, name, None) for name in _SETTINGS}
    run = Path(options.out or f"runs/{options.preset or 'tiny'}")
    resume = options.resume
    if resume:
        settings = load_settings(run)
        changed = settings.changed(given)
        if changed:
            raise ValueError(
                f"train: --resume goes on with the settings of {run}, where {'; '.join(changed)}; leave them out, or "
                f"start a new run with --init-from {run}"
            )
    else:
        settings = TrainingSettings.from_preset(given.pop("preset") or "tiny", **given)
    if options.dry_run:
        print(memory_of(settings))
        return 0
    result = train_model(settings, run, resume=resume, stop_after=options.stop_after,
                         progress=not options.quiet)  # fmt: skip
    if result.final is None:
        print(f"stopped after step {result.step} of {settings.steps}; to go on: tinygpt train --resume --out {run}")
        return 0
    start = f" (it was {result.first.loss:.4f} before training)" if result.first else ""
    print(f"final validation {result.final}{start}")
    print(f"best validation loss {result.best_loss:.4f}, in {run / 'best'}")
    curve = result.plot or 'not drawn: "pip install matplotlib" for a picture'
    print(f"curve: {curve}\nstory: {result.story}")
    print(f'more: tinygpt generate {run} --prompt "Once upon a time"')
    return 0


def memory_of(settings: TrainingSettings) -> str:
    """What `tinygpt train --dry-run` says."""
    if settings.init_from is not None:
        stored, _ = checkpoint.load_model(checkpoint.resolve(settings.init_from, prefer="best"))
        config = GPTConfig.from_dict(stored)
    else:
        n_vocab = Tokenizer.from_pretrained(settings.tokenizer).n_vocab if settings.tokenizer else settings.vocab_size
        config = initial_config(settings, n_vocab)
    ledger = predict(config, settings.batch_size, settings.context, settings.recompute)
    what = f"{number_of_parameters(config):,} parameters, batches of {settings.batch_size} x {settings.context} tokens"
    return f"{what}; at the peak\n{ledger}"


def generate(options: argparse.Namespace) -> int:
    """tinygpt generate"""
    model, tokenizer = _open(options.model, None)
    prompt = options.prompt
    if prompt == "":
        raise ValueError("generate: the prompt must not be empty; leave --prompt out to start a new text")
    if prompt is not None:
        ids = tokenizer.encode(prompt)
    else:
        ids = [tokenizer.eot_token] if tokenizer.eot_token is not None else tokenizer.encode("\n")
    tokens = model.generate(
        ids,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k or None,
        top_p=options.top_p,
        seed=options.seed,
        stop_ids=() if tokenizer.eot_token is None else (tokenizer.eot_token,),
    )
    sys.stdout.write(prompt or "")
    for text in until(decoded(tokens, tokenizer), options.stop):
        sys.stdout.write(text)
        sys.stdout.flush()
    print()
    return 0


def decoded(tokens: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Token ids as text, whole characters only."""
    decoder = tokenizer.stream_decoder()
    for token in tokens:
        yield decoder.push(token)
    yield decoder.flush()


def until(pieces: Iterator[str], stop: str | None) -> Iterator[str]:
    """The pieces up to the first occurrence of `stop`, holding back what may be its beginning."""
    if not stop:
        yield from pieces
        return
    held = ""
    for piece in pieces:
        held += piece
        if stop in held:
            yield held[: held.index(stop)]
            return
        safe = next(n for n in range(min(len(stop) - 1, len(held)), -1, -1) if held.endswith(stop[:n]))
        yield held[: len(held) - safe]
        held = held[len(held) - safe :]
    yield held


def evaluate(options: argparse.Namespace) -> int:
    """tinygpt evaluate"""
    model, tokenizer = _open(options.model, options.tokenizer)
    if corpus.is_token_file(options.data):
        tokens: np.ndarray = corpus.open_token_file(options.data, tokenizer.fingerprint).tokens
    else:
        tokens = corpus.encode_documents(corpus.read_documents(options.data), tokenizer)
    if len(tokens) < 2:
        raise ValueError(f"evaluate: {options.data} must have at least two tokens, got {len(tokens)}")
    context = options.context
    result = evaluate_model(model, tokens, tokenizer, context=context, batch_size=options.batch_size, progress=True)
    print(f"{result} ({result.tokens:,} tokens, {result.text_bytes:,} bytes)")
    return 0


def data_gutenberg(options: argparse.Namespace) -> int:
    """tinygpt data gutenberg"""
    places = {"base_url": options.base_url, "cache_dir": options.cache}
    paths = gutenberg.download_books(options.books, **{key: value for key, value in places.items() if value})
    documents = [story for path in paths for story in gutenberg.split_stories(gutenberg.read_book(path))]
    gutenberg.write_corpus(options.out, documents)
    print(f"{options.out}: {len(documents)} documents from {len(paths)} books")
    return 0


def _open(path: str, tokenizer_path: str | None) -> tuple[GPT, Tokenizer]:
    """The model in a folder, and its tokenizer."""
    folder = checkpoint.resolve(path, prefer="best")
    model = GPT.from_pretrained(folder)
    tokenizer = Tokenizer.from_pretrained(tokenizer_path) if tokenizer_path else checkpoint.load_tokenizer(folder)
    if tokenizer is None:
        raise FileNotFoundError(f"{folder} has no tokenizer beside its weights: put vocab.json and merges.txt there")
    if tokenizer.n_vocab > model.config.vocab_size:
        warnings.warn(f"{folder}: the tokenizer has more tokens than the model", stacklevel=2)
    return model, tokenizer

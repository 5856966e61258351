"""`tinygpt evaluate`: how well a model predicts a text."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import (
    DATA,
    add_json,
    add_model,
    add_models_tokenizer,
    add_threads,
    add_weights,
    name,
    positive,
)
from tinygpt.runtime.plural import counted

if TYPE_CHECKING:
    import numpy as np

    from tinygpt.training.evaluate import Evaluation

_ABOUT = """\
Windows of the model's context lie side by side, or --stride tokens apart; each
token but the first is predicted once. The loss is in nats per token; perplexity
is e^loss, and word perplexity the same per word. Bits per byte can be compared
between models with different tokenizers.

examples:
  tinygpt evaluate runs/tiny --data other.txt
  tinygpt evaluate gpt2 --data wikitext-2-test.txt --stride 512 --weights int8
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _ABOUT)
    add_model(parser)
    parser.add_argument("--data", required=True, type=name, metavar="PATH", help=f"required: {DATA}")
    add_models_tokenizer(parser)
    add = parser.add_argument_group("windows").add_argument
    add("--context", type=positive, metavar="T", help="tokens per window (default: the model's context)")
    add(
        "--stride",
        type=positive,
        metavar="S",
        help="tokens from one window to the next: the fewer, the more each token sees (default: a window)",
    )
    add("--batch-size", type=positive, default=8, metavar="B", help="windows per batch (default: 8)")
    speed = parser.add_argument_group("speed")
    add_weights(speed, "also score matrices rounded to this, and say what the rounding costs")
    add_threads(speed)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Score the text, with rounded weights too if --weights says so, and print the figures."""
    from tinygpt.gpt2.compile_ahead import compile_ahead
    from tinygpt.gpt2.model_and_tokenizer import load
    from tinygpt.quantization import quantize_model
    from tinygpt.runtime.streams import print_json
    from tinygpt.training.evaluate import evaluate, perplexity_in_words

    model, tokenizer = load(options.model, options.tokenizer)
    tokens = _tokens(options.data, tokenizer)
    context = options.context or model.config.n_positions
    if context > model.config.n_positions:
        limit = counted(model.config.n_positions, "token")
        raise ValueError(f"--context must be at most the model's {limit}, got {context}")
    if (options.stride or 1) > context:
        raise ValueError(f"--stride must be at most the context of {counted(context, 'token')}, or some would be left "
                         f"out, got {options.stride}")  # fmt: skip
    how = {"context": context, "stride": options.stride, "batch_size": options.batch_size, "progress": True}
    compile_ahead("scoring")
    exact = evaluate(model, tokens, tokenizer, **how)
    result = exact
    if options.weights != "float32":
        quantize_model(model, options.weights)
        result = evaluate(model, tokens, tokenizer, **how)
    if options.json:
        figures = {"float32": _figures(exact), options.weights: _figures(result)}
        print_json({"context": context, "stride": options.stride or context, **figures}, indent=1)
        return 0
    print(result)
    of = ", ".join([counted(result.tokens, "token"), counted(result.words, "word"), counted(result.text_bytes, "byte")])
    print(f"word perplexity {perplexity_in_words(result.word_perplexity)} ({of})")
    if options.weights != "float32":
        change, before = math.expm1(min(result.loss - exact.loss, 700)), perplexity_in_words(exact.perplexity)
        print(f"{options.weights} weights: perplexity {change:+.3%} of float32's {before}")
    return 0


def _tokens(data: str, tokenizer) -> np.ndarray:
    from tinygpt.text.corpus import encode_documents, read_documents
    from tinygpt.text.token_file import is_token_file, open_token_file

    if is_token_file(data):
        tokens: np.ndarray = open_token_file(data, tokenizer.fingerprint, tokenizer.ids).tokens
    else:
        tokens = encode_documents(read_documents(data), tokenizer)
    if len(tokens) < 2:
        raise ValueError(f"{data} must have at least two tokens, got {len(tokens)}")
    return tokens


def _figures(result: Evaluation) -> dict:
    derived = {"perplexity": result.perplexity, "word_perplexity": result.word_perplexity}
    return {**result._asdict(), **derived, "bits_per_byte": result.bits_per_byte}

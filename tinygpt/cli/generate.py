"""`tinygpt generate`: continue a text."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import TYPE_CHECKING

from tinygpt.cli.parser import Parser
from tinygpt.cli.prompt import require_ordinary, typed, typed_prompt
from tinygpt.cli.shared_options import (
    add_allow_special,
    add_escape,
    add_json,
    add_model,
    add_models_tokenizer,
    add_threads,
    add_weights,
    integer,
    not_negative,
    number,
    path,
    positive,
    seed,
)

if TYPE_CHECKING:
    from tinygpt.generation.completion import Completion
    from tinygpt.gpt2.model import GPT
    from tinygpt.tokenizer import Tokenizer

_EXAMPLES = """\
examples:
  tinygpt generate runs/tiny --prompt "Once upon a time" --temperature 0.8
  tinygpt generate runs/tiny --file chapter.txt --weights int8
  tinygpt generate runs/code --file module.py --lookup
  tinygpt generate runs/tiny --prompt "The end.\\n" --stop "\\n\\n" --escape
  echo Once upon a time | tinygpt generate runs/tiny --json --samples 4
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _EXAMPLES)
    add_model(parser)
    add_models_tokenizer(parser)
    text = parser.add_argument_group("text")
    source = text.add_mutually_exclusive_group()
    source.add_argument(
        "--prompt", metavar="TEXT", help="text to continue (default: what comes through a pipe, else a new text)"
    )
    source.add_argument(
        "--file", type=path, metavar="FILE", help="file with the text to continue, without its last line end"
    )
    text.add_argument(
        "--samples", type=positive, default=1, metavar="N", help="continuations, generated as one batch (default: 1)"
    )
    text.add_argument(
        "--max-tokens", type=integer, default=200, metavar="N", help="maximum number of new tokens (default: 200)"
    )
    text.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="end before this text; may be repeated; --stop=--- for one that begins with dashes (default: none)",
    )
    add_escape(text, "--prompt and --stop")
    add_allow_special(text, "a prompt that holds one is refused")
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument(
        "--temperature",
        type=number,
        default=0.8,
        metavar="T",
        help="divides the logits; 0: always the most probable token (default: 0.8)",
    )
    sampling.add_argument(
        "--top-k",
        type=not_negative,
        default=50,
        metavar="K",
        help="sample from the K most probable tokens; 0: from all (default: 50)",
    )
    sampling.add_argument(
        "--top-p",
        type=number,
        default=1.0,
        metavar="P",
        help="sample from the fewest tokens whose probabilities add up to P (default: 1, all)",
    )
    sampling.add_argument(
        "--seed",
        type=seed,
        metavar="N",
        help="a whole number from 0 on: same seed, same text (default: another text each time)",
    )
    speed = parser.add_argument_group("speed")
    add_weights(speed, "keep the matrices in fewer bits: a new token takes less time; int4 costs quality")
    reading = speed.add_mutually_exclusive_group()
    reading.add_argument(
        "--lookup",
        action="store_true",
        help="guess tokens where the text repeats itself, as in code, and verify several at once: the same text",
    )
    reading.add_argument(
        "--no-cache",
        action="store_true",
        help="no KV cache: compute everything again for each token; slow; the same text up to roundings",
    )
    add_threads(speed)
    add_json(parser, "print one JSON object per continuation: text, tokens, log-probabilities, reason for its end")


def run(options: argparse.Namespace) -> int:
    """Print the continuation as it is generated; with --samples or --json, when all are complete."""
    from tinygpt.generation.completion import complete, stream
    from tinygpt.generation.sampling import check_sampling
    from tinygpt.gpt2.compile_ahead import compile_ahead
    from tinygpt.gpt2.model_and_tokenizer import load
    from tinygpt.runtime.streams import print_json

    top_k = options.top_k or None
    check_sampling(options.temperature, top_k, options.top_p)
    model, tokenizer = load(options.model, options.tokenizer, weights=options.weights)
    stop = [typed("--stop", text, options.escape) for text in options.stop or ()]
    prompt = _prompt(options)  # last, after all other checks: a user may have to type it
    if prompt and not options.allow_special:
        require_ordinary(prompt, tokenizer)
    settings = {
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_k": top_k,
        "top_p": options.top_p,
        "seed": options.seed,
        "stop": stop,
        "cache": not options.no_cache,
        "lookup": options.lookup,
        "allowed_special": "all",  # none is there that is not allowed
    }
    _warn_of_length(model, tokenizer, prompt)
    compile_ahead(f"generating-{options.weights}")
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
    from tinygpt.text.decoding import plain_text

    if options.prompt is not None:
        return typed_prompt(options.prompt, options.escape, "; leave --prompt out to start a new text")
    if options.file is not None:
        text = plain_text(options.file.read_bytes(), str(options.file)).removesuffix("\n")
        if not text:
            raise ValueError(f"{options.file} must hold a prompt, and is empty")
        return text
    if sys.stdin is None or sys.stdin.isatty():
        return None
    return plain_text(sys.stdin.buffer.read(), "standard input").removesuffix("\n") or None


def _warn_of_length(model: GPT, tokenizer: Tokenizer, prompt: str | None) -> None:
    count, context = len(tokenizer.encode(prompt or "", allowed_special="all")), model.config.n_positions
    if count > context:
        warnings.warn(f"the prompt has {count} tokens; the model sees its last {context}", stacklevel=2)


def _described(result: Completion, tokenizer: Tokenizer) -> dict:
    tokens = [
        {"id": token.id, "text": tokenizer.decode([token.id]), "logprob": token.logprob} for token in result.tokens
    ]
    return {"prompt": result.prompt, "text": result.text, "reason": result.reason, "tokens": tokens}

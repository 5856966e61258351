"""`tinygpt inspect`: attention maps, and the predictions after each layer (the logit lens)."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinygpt.cli.parser import Parser
from tinygpt.cli.prompt import require_ordinary, typed_prompt
from tinygpt.cli.shared_options import (
    add_allow_special,
    add_escape,
    add_model,
    add_models_tokenizer,
    add_threads,
    folder_to_write,
    not_negative,
    positive,
)

_EXAMPLES = """\
examples:
  tinygpt inspect runs/tiny --prompt "Once upon a time" --out seen
  tinygpt inspect runs/tiny --prompt "Once upon a time" --layer 3 --head 0
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _EXAMPLES)
    add_model(parser)
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="required: the text that the model reads")
    add_escape(parser, "--prompt")
    add_allow_special(parser, "a prompt that holds one is refused")
    add_models_tokenizer(parser)
    parser.add_argument(
        "--out",
        type=folder_to_write,
        default=Path("inspection"),
        metavar="DIR",
        help="folder for attention.png and predictions.png (default: inspection)",
    )
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="predictions per layer (default: 5)")
    parser.add_argument("--layer", type=not_negative, metavar="L", help="draw this layer's maps only (default: all)")
    parser.add_argument("--head", type=not_negative, metavar="H", help="draw this head's maps only (default: all)")
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Print the predictions after each layer for the last token, and draw both pictures."""
    from tinygpt.generation.completion import known_ids
    from tinygpt.gpt2.compile_ahead import compile_ahead
    from tinygpt.gpt2.model_and_tokenizer import load
    from tinygpt.runtime.streams import tell
    from tinygpt.study.inspection import describe, inspect_prompt
    from tinygpt.study.inspection_pictures import draw

    model, tokenizer = load(options.model, options.tokenizer)
    prompt = typed_prompt(options.prompt, options.escape)
    if not options.allow_special:
        require_ordinary(prompt, tokenizer)
    ids = tokenizer.encode(prompt, allowed_special="all")
    compile_ahead("scoring")
    found = inspect_prompt(model, ids, options.top, known_ids(tokenizer, model.config.vocab_size))
    tell(describe(found, [tokenizer.decode(ids)], tokenizer.decode))

    def as_text(ids: list[int]) -> str:  # part of a character, as many tokens are, is shown as its bytes
        return tokenizer.decode(ids, errors="backslashreplace")

    texts = [as_text([id]) for id in ids]
    for drawn in draw(found, texts, as_text, options.out, options.layer, options.head):
        tell(str(drawn))
    return 0

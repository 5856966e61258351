"""The arguments of the commands that open a model: generate, evaluate, inspect."""

from __future__ import annotations

from pathlib import Path

from tinygpt.cli.arguments import add_command, add_threads, positive

WEIGHTS = ("float32", "bfloat16", "int8")
_MODEL = "a run, a checkpoint, any Hugging Face GPT-2 folder, or a name on its hub, such as gpt2"


def add_generate(commands) -> None:
    """tinygpt generate"""
    parser = add_command(
        commands,
        "generate",
        "model_commands.generate",
        "Continue a text, shown as it is made.",
        "examples:\n"
        '  tinygpt generate runs/tiny --prompt "Once upon a time" --temperature 0.8\n'
        "  echo Once upon a time | tinygpt generate runs/tiny --json --samples 4\n",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=_MODEL)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", metavar="TEXT",
                        help="text to continue (default: what comes through a pipe, else a new text)")  # fmt: skip
    source.add_argument(
        "--file", type=Path, metavar="FILE", help="a file with the text to continue, without its last line end"
    )
    add("--max-tokens", type=int, default=200, metavar="N", help="most tokens to make (default: 200)")
    add("--temperature", type=float, default=0.8, metavar="T",
        help="0: always the likeliest token; higher: more surprises (default: 0.8)")  # fmt: skip
    add("--top-k", type=int, default=50, metavar="K", help="choose among the K likeliest tokens; 0: all (default: 50)")
    add("--top-p", type=float, default=1.0, metavar="P",
        help="choose among the likeliest that reach probability P (default: 1, all)")  # fmt: skip
    add("--seed", type=int, help="same seed, same text (default: a new text each time)")
    add("--stop", action="append", metavar="TEXT", help="end before this text; may be given several times")
    add("--samples", type=positive, default=1, metavar="N", help="continuations, made side by side (default: 1)")
    add(
        "--json",
        action="store_true",
        help="a line of JSON a continuation: text, tokens, log-probabilities, why it ends",
    )
    add("--weights", choices=WEIGHTS, default="float32",
        help="what matrices are rounded to: bfloat16 is faster, int8 the fastest (default: float32)")  # fmt: skip
    add("--no-cache", action="store_true", help="read everything again for each token: the same text, slowly")
    add_threads(parser)


def add_evaluate(commands) -> None:
    """tinygpt evaluate"""
    parser = add_command(
        commands,
        "evaluate",
        "model_commands.evaluate",
        "Loss, perplexity and bits per byte of a model on a text.",
        "Windows of the model's context lie side by side, or --stride tokens apart; each token but the first is\n"
        "predicted once. loss: nats a token; perplexity: e^loss; word perplexity: the same for words;\n"
        "bits per byte: comparable between tokenizers.\n",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=_MODEL)
    add("--data", required=True, help="a .txt file, a folder of them, or a token file")
    add("--tokenizer", metavar="DIR", help="where the model's folder has none (default: the model's own)")
    add("--context", type=positive, metavar="T", help="tokens a window (default: the model's)")
    add("--stride", type=positive, metavar="S",
        help="tokens from a window to the next: the fewer, the more each sees (default: a window)")  # fmt: skip
    add("--batch-size", type=positive, default=8, metavar="B", help="windows at a time (default: 8)")
    add("--weights", choices=WEIGHTS, default="float32",
        help="score the rounded matrices too, and say what the rounding costs (default: float32)")  # fmt: skip
    add("--json", action="store_true", help="the same for programs")
    add_threads(parser)


def add_inspect(commands) -> None:
    """tinygpt inspect"""
    parser = add_command(
        commands,
        "inspect",
        "model_commands.inspect",
        "Draw where each head looks, and what would be predicted after each layer.",
        'example:\n  tinygpt inspect runs/tiny --prompt "Once upon a time"\n',
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=_MODEL)
    add("--prompt", required=True, metavar="TEXT", help="what the model reads")
    add("--out", type=Path, default=Path("inspection"), metavar="DIR",
        help="where attention.png and predictions.png are drawn (default: inspection)")  # fmt: skip
    add("--top", type=positive, default=5, metavar="K", help="predictions that are listed (default: 5)")
    add("--tokenizer", metavar="DIR", help="where the model's folder has none (default: the model's own)")
    add_threads(parser)

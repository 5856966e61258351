"""
The `tinygpt` command: arguments only. What the subcommands do is in `commands.py` and its like, which
are imported when one runs, so that `tinygpt --help` waits for nothing and `--threads` is set before NumPy starts its
threads.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from tinygpt.cli.arguments import add_command, add_quiet, add_threads, positive
from tinygpt.cli.ctrl_c import take_over
from tinygpt.cli.model_arguments import add_evaluate, add_generate, add_inspect
from tinygpt.cli.study_arguments import add_diff, add_exercise, add_explain, add_gradcheck, add_museum
from tinygpt.files.one_line import one_line
from tinygpt.runtime.streams import run_command, say

PRESETS = ("tiny", "shakespeare-char", "bedtime", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
# A user's mistake (or a machine's: a full disk, no network) is one line and exit status 2; anything else is our bug.
MISTAKES = (ValueError, TypeError, OSError, FloatingPointError, MemoryError)

_WHICH = "folder with the tokenizer's files, or gpt2 once it is fetched"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. Without `arguments` the process is the command's, Ctrl-C included."""
    try:
        with take_over() if arguments is None else contextlib.nullcontext():
            return run_command(lambda: _run(arguments))
    except KeyboardInterrupt:
        say("tinygpt: interrupted")
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    options = build_parser().parse_args(arguments)
    module, _, function = options.command.rpartition(".")
    try:
        _check_threads(getattr(options, "threads", None))
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *details: say(f"tinygpt: warning: {one_line(message)}")
            return getattr(importlib.import_module(f"tinygpt.cli.{module or 'commands'}"), function)(options)
    except MISTAKES as error:
        if os.environ.get("TINYGPT_TRACEBACK"):
            raise
        say(f"tinygpt: {one_line(error) or 'no memory is left'}")
        return 2
    except KeyboardInterrupt:
        say("tinygpt: interrupted")
        return 130


def _check_threads(threads: int | None) -> None:
    """Refuse numbers beyond reason before anything is loaded; then hand on what was asked for."""
    from tinygpt.runtime import settings

    if threads is None:
        settings.threads_from_environment()
    else:
        set_thread_variables(settings.checked_threads("--threads", threads))


def set_thread_variables(threads: int) -> None:
    """Tell Numba, and every BLAS that NumPy may be built with, how many threads to use; read when they are imported."""
    for name in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "VECLIB_MAXIMUM", "NUMBA_NUM"):
        os.environ[f"{name}_THREADS"] = str(threads)


def build_parser() -> argparse.ArgumentParser:
    """The command line as a whole."""
    from tinygpt import __version__

    parser = argparse.ArgumentParser(
        prog="tinygpt", description="GPT-2 in pure Python, with the gradients written by hand."
    )
    parser.add_argument("--version", action="version", version=f"tinygpt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_train(commands)
    add_generate(commands)
    add_evaluate(commands)
    add_inspect(commands)
    add_gradcheck(commands)
    add_museum(commands)
    add_diff(commands)
    add_explain(commands)
    add_exercise(commands)
    _add_data(commands)
    _add_tokenizer(commands)
    doctor = add_command(
        commands, "doctor", "machine_commands.doctor", "Say what this machine can do, and what to change."
    )
    doctor.add_argument("--json", action="store_true", help="the same for programs")
    add_threads(doctor)
    warmup = add_command(
        commands, "warmup", "machine_commands.warmup", "Compile everything now, so that no run has to wait."
    )
    add_quiet(warmup)
    _add_cache(commands)
    return parser


def _add_train(commands) -> None:
    parser = add_command(
        commands,
        "train",
        "train",
        "Train a GPT-2 on the bundled bedtime stories, or on your own text.",
        "examples:\n"
        "  tinygpt train                                    a minute on two cores, into runs/tiny\n"
        "  tinygpt train --data book.txt --out runs/book    your own text\n"
        "  tinygpt train --out runs/book --resume           go on after Ctrl-C\n"
        "  tinygpt train --preset shakespeare-char --data tinyshakespeare.txt\n"
        "  tinygpt train --init-from gpt2 --data book.txt   fine-tune OpenAI's weights, into runs/fine-tuned\n"
        "\npreset sizes (layers, heads, dimensions, context, vocabulary):\n"
        "  tiny 4, 4, 128, 128, 2048               shakespeare-char 4, 4, 128, 64, 256 (bytes)\n"
        "  bedtime 12, 12, 768, 512, 50257         gpt2 12, 12, 768, 1024, 50257\n"
        "  gpt2-medium 24, 16, 1024, 1024, 50257   gpt2-large 36, 20, 1280    gpt2-xl 48, 25, 1600\n",
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, metavar="NAME", help=_recipe("sizes and recipe: " + ", ".join(PRESETS), "tiny"))
    add("--data", metavar="PATH", help=_recipe("a .txt file, a folder of them, or a token file", "the bundled stories"))
    add("--tokenizer", metavar="DIR", help=_recipe("folder with a tokenizer's files", "train one on the text"))
    add("--vocab-size", type=int, metavar="N", help=_recipe("tokens of a tokenizer to be trained"))
    add("--init-from", metavar="MODEL", help=_recipe("go on from the weights of a run, a GPT-2 folder, or gpt2 on the "
        "Hugging Face hub, with a recipe for that unless --preset names another", "random weights"))  # fmt: skip
    add("--out", metavar="DIR", help=_recipe("the run's folder", "runs/PRESET"))
    add("--resume", action="store_true", help="go on with the run in --out, with its settings")
    add("--stop-after", type=int, metavar="K", help="stop and save after K steps in all, schedule unchanged")
    add("--steps", type=int, metavar="N", help=_recipe("optimizer steps"))
    add("--batch-size", type=int, metavar="B", help=_recipe("windows of text at a time"))
    add("--context", type=int, metavar="T", help=_recipe("tokens a window; the model's n_positions"))
    add("--grad-accumulation", type=int, metavar="N", help=_recipe("batches a step", "1"))
    add("--lr", type=float, help=_recipe("highest learning rate"))
    add("--min-lr", type=float, metavar="LR", help=_recipe("last learning rate", "a tenth of the highest"))
    add("--warmup", type=int, metavar="N", help=_recipe("steps of rising learning rate"))
    add("--beta1", type=float, metavar="B", help=_recipe("AdamW's first beta", "0.9"))
    add("--beta2", type=float, metavar="B", help=_recipe("AdamW's second beta"))
    add("--weight-decay", type=float, metavar="W", help=_recipe("decay of the matrices", "0.1"))
    add("--clip", type=float, metavar="NORM", help=_recipe("largest gradient norm", "1.0"))
    add("--dropout", type=float, metavar="P", help=_recipe("probability, at GPT-2's three places"))
    add("--eval-every", type=int, metavar="N", help=_recipe("steps between validations"))
    add("--eval-tokens", type=int, metavar="N", help=_recipe("validation tokens scored while training"))
    add("--seed", type=int, metavar="N", help=_recipe("of weights, batches, dropout and stories", "1337"))
    add("--precision", choices=["float32", "bfloat16"], help=_recipe("of what matrix products multiply", "float32"))
    add("--dry-run", action="store_true", help="say how much memory the run will need, by kind, and stop")
    add("--recompute", action="store_const", const=True, help="less memory, a third more work, the same weights")
    add_threads(parser)
    add("--quiet", action="store_true", help="no progress bar, no stories: the final lines only")


def _recipe(what: str, default: str = "the preset's") -> str:
    return f"{what} (default: {default})"


def _add_cache(commands) -> None:
    cache = add_command(
        commands,
        "cache",
        "cache_commands.cache",
        "Show what tinygpt keeps for later: compiled kernels and downloads; or remove it.",
        "Nothing of it is needed: kernels are compiled again, downloads fetched again. It lies in\n"
        "$XDG_CACHE_HOME/tinygpt or ~/.cache/tinygpt, kernels in $NUMBA_CACHE_DIR/tinygpt if that\n"
        "variable is set. Relative paths are ignored.\n"
        "\nexamples:\n"
        "  tinygpt cache\n"
        "  tinygpt cache --clear old        kernels of other versions and processors only\n",
    )
    cache.add_argument("--clear", nargs="?", const="kernels", choices=("old", "kernels", "downloads", "all"),
                       metavar="WHAT", help="remove files that tinygpt made: old (kernels of other versions), kernels "
                       "(the default), downloads, or all")  # fmt: skip
    cache.add_argument("--json", action="store_true", help="print as JSON")


def _add_data(commands) -> None:
    data = commands.add_parser("data", help="Get texts to train on.", description="Get texts to train on.")
    sources = data.add_subparsers(metavar="SOURCE", required=True)
    parser = add_command(
        sources,
        "gutenberg",
        "data_gutenberg",
        "Download books of Project Gutenberg, without their licence texts, split into stories.",
        "example:\n  tinygpt data gutenberg 2591 1597 -o corpus.txt     Grimm and Andersen\n",
    )
    parser.add_argument("books", metavar="NUMBER", type=positive, nargs="+", help="number of a book")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the .txt file to write")
    parser.add_argument("--base-url", metavar="URL",
                        help="a mirror (default: https://www.gutenberg.org)")  # fmt: skip
    parser.add_argument("--cache", type=Path, metavar="DIR",
                        help="where downloads are kept (default: tinygpt/gutenberg in the user's cache)")  # fmt: skip


def _add_tokenizer(commands) -> None:
    summary = "Train a tokenizer, use it, or see what it does."
    tokenizer = commands.add_parser("tokenizer", help=summary, description=summary)
    actions = tokenizer.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, what: str, function: str = "", epilog: str = "") -> argparse.ArgumentParser:
        return add_command(actions, name, f"tokenizer_commands.{function or name}", what, epilog)

    parser = add("train", "Learn a byte-pair vocabulary from a text.")
    parser.add_argument("text", help="a .txt file or a folder of them, of any size")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR",
                        help="folder for vocab.json, merges.txt")  # fmt: skip
    parser.add_argument("--vocab-size", type=positive, default=4096, metavar="N",
                        help="256 bytes, merges and <|endoftext|> together (default: 4096)")  # fmt: skip
    parser.add_argument("--pattern", default="gpt2", metavar="PATTERN",
                        help="how text is split before it is merged: gpt2, cl100k, or a regular expression; all but "
                        "gpt2 hold one document at a time in memory (default: gpt2)")  # fmt: skip
    parser.add_argument("--byte-order", choices=["gpt2", "raw"], default="gpt2",
                        help="the ids of single bytes: as GPT-2 and Hugging Face number them, or 0 to 255")  # fmt: skip
    add_quiet(parser)
    parser = add("encode", "Write a text's token ids to a token file.")
    parser.add_argument("text", help="a .txt file or a folder of them, of any size")
    add_quiet(parser)
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="the token file to write")
    _add_which(parser)
    parser = add("decode", "Turn token ids back into text.", epilog="example:\n"
                 "  tinygpt tokenizer decode 15496 995 --tokenizer gpt2     Hello world\n")  # fmt: skip
    parser.add_argument("tokens", nargs="+", metavar="TOKENS", help="a token file, or ids")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="the text file to write (default: the screen)")
    _add_which(parser)
    parser = add("info", "Say what a tokenizer holds.")
    parser.add_argument("tokenizer", metavar="DIR", help=_WHICH)
    parser = add("fetch", "Download a published tokenizer, so that --tokenizer gpt2 means it.")
    parser.add_argument("name", choices=["gpt2"], help="which: gpt2")
    parser.add_argument("--base-url", metavar="URL", help="where its files are (default: $TINYGPT_TOKENIZER_URL, "
                        "else https://openaipublic.blob.core.windows.net/gpt-2/models/124M/)")  # fmt: skip
    add_quiet(parser)
    parser = add("explain", "Draw the pieces of a text and the merges that make its tokens.", "explain_text",
                 'example:\n  tinygpt tokenizer explain "the hens" --tokenizer runs/tiny/best\n')  # fmt: skip
    parser.add_argument("text", help="a few words")
    parser.add_argument("--tokenizer", default="gpt2", metavar="DIR", help=f"{_WHICH} (default: gpt2)")


def _add_which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help=_WHICH)

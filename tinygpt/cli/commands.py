"""What each subcommand of `tinygpt` does, once its arguments are read."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import importlib.util
from pathlib import Path

from tinygpt.files.locate import locate
from tinygpt.files.one_line import one_line
from tinygpt.files.ownership import own_run
from tinygpt.gpt2 import checkpoint
from tinygpt.gpt2.config import GPTConfig
from tinygpt.gpt2.memory_estimate import Ledger, number_of_parameters, predict
from tinygpt.runtime.memory_limit import require_memory
from tinygpt.runtime.streams import tell
from tinygpt.text import gutenberg
from tinygpt.tokenizer import Tokenizer
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.train import Result, initial_config, load_settings
from tinygpt.training.train import train as train_model

_SETTINGS = [field.name for field in dataclasses.fields(TrainingSettings)]


def train(options: argparse.Namespace) -> int:
    """tinygpt train"""
    run = Path(options.out or f"runs/{options.preset or ('fine-tuned' if options.init_from else 'tiny')}")
    if options.dry_run:
        print(memory_of(settings_of(options, run)))
        return 0
    with contextlib.ExitStack() as owning:
        owner = owning.enter_context(own_run(run, create=False)) if options.resume else None
        settings = settings_of(options, run)
        _require_memory(settings)
        try:
            result = train_model(settings, run, resume=options.resume, stop_after=options.stop_after,
                                 progress=not options.quiet, owner=owner,
                                 summary=lambda result: _tell_figures(result, settings, run))  # fmt: skip
        except (MemoryError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.ENOMEM:
                raise
            raise MemoryError(_out_of_memory(settings, error)) from error
    if result.final is not None:
        if result.story:
            tell(f"story: {result.story}")
        tell(f'more: tinygpt generate {run} --prompt "Once upon a time"')
    return 0


def _tell_figures(result: Result, settings: TrainingSettings, run: Path) -> None:
    """How a run went, once it is saved."""
    if result.final is None:
        tell(f"stopped after step {result.step} of {settings.steps}; to go on: tinygpt train --resume --out {run}")
        return
    if not result.new_steps:
        tell(f"{run} is finished: its {result.step} steps are done; for more, start a new run with --init-from {run}")
    start = f" (it was {result.first.loss:.4f} before training)" if result.first else ""
    tell(f"final validation {result.final}{start}")
    tell(f"best validation loss {result.best_loss:.4f}, in {run / 'best'}")
    missing = "" if importlib.util.find_spec("matplotlib") else ': "pip install matplotlib" for a picture'
    tell(f"curve: {result.plot or f'not drawn{missing}'}")


def settings_of(options: argparse.Namespace, run: Path) -> TrainingSettings:
    """What `tinygpt train` was told; with --resume, the settings of `run`, which it must not contradict."""
    given = {name: getattr(options, name, None) for name in _SETTINGS}
    if options.resume:
        settings = load_settings(run)
        changed = settings.changed(given)
        if changed:
            raise ValueError(
                f"train: --resume goes on with the settings of {run}, where {'; '.join(changed)}; leave them out, or "
                f"start a new run with --init-from {run}"
            )
        return settings
    if given["init_from"] and not given["preset"]:
        given.pop("preset")
        config = GPTConfig.from_dict(checkpoint.read_config(locate(given["init_from"])))
        return TrainingSettings.fine_tuning(config, **given)
    return TrainingSettings.from_preset(given.pop("preset") or "tiny", **given)


def memory_of(settings: TrainingSettings) -> str:
    """What `tinygpt train --dry-run` says."""
    config, ledger = _ledger_of(settings)
    what = f"{number_of_parameters(config):,} parameters, batches of {settings.batch_size} x {settings.context} tokens"
    return f"{what}; at the peak\n{ledger}"


def _ledger_of(settings: TrainingSettings) -> tuple[GPTConfig, Ledger]:
    if settings.init_from is not None:
        config = GPTConfig.from_dict(checkpoint.read_config(locate(settings.init_from)))
    else:
        n_vocab = Tokenizer.from_pretrained(settings.tokenizer).n_vocab if settings.tokenizer else settings.vocab_size
        config = initial_config(settings, n_vocab)
    return config, predict(config, settings.batch_size, settings.context, settings.recompute)


def _require_memory(settings: TrainingSettings) -> None:
    """Now, and not after minutes in which the memory that there is has been filled."""
    with contextlib.suppress(ValueError, TypeError, OSError):  # what is wrong with the settings, training says
        ledger = _ledger_of(settings)[1]
        needed = ledger.parameters + ledger.gradients + ledger.moments + ledger.program  # all of which is written to
        require_memory(needed, _out_of_memory(settings))


def _out_of_memory(settings: TrainingSettings, error: object = "") -> str:
    """What the run needed, and what would need less."""
    try:
        needed = f"this run needs about {_ledger_of(settings)[1].total / 1e9:,.1f} GB at its peak"
    except (ValueError, TypeError, OSError, MemoryError):
        needed = "this run needs more than there is"
    reason = f" ({one_line(error)})" if str(error) else ""
    less = "a smaller --preset, --batch-size or --context"
    return (
        f"train: there is not enough memory: {needed}{reason}; what was saved is unharmed; --dry-run shows what "
        f"needs it; "
        f"for less, use {less if settings.recompute else f'--recompute, or {less}'}"
    )


def data_gutenberg(options: argparse.Namespace) -> int:
    """tinygpt data gutenberg"""
    places = {"base_url": options.base_url, "cache_dir": options.cache}
    paths = gutenberg.download_books(options.books, **{key: value for key, value in places.items() if value})
    documents = [story for path in paths for story in gutenberg.split_stories(gutenberg.read_book(path))]
    gutenberg.write_corpus(options.out, documents)
    tell(f"{options.out}: {len(documents)} documents from {len(paths)} books")
    return 0

"""`tinygpt train`: train a GPT-2 into the folder of a run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import importlib.util
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import (
    DATA,
    MODEL,
    TOKENIZER,
    add_json,
    add_quiet,
    add_threads,
    folder_to_write,
    integer,
    name,
    number,
    positive,
    seed,
)
from tinygpt.files.one_line import shown
from tinygpt.gpt2.config import PRESETS, GPTConfig
from tinygpt.runtime.plural import counted
from tinygpt.training.settings import PRECISIONS, RECIPE_OF_FINE_TUNING, RECIPES, TrainingSettings

if TYPE_CHECKING:
    from tinygpt.gpt2.memory_estimate import Ledger
    from tinygpt.training.train import Result

_SETTINGS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(TrainingSettings)}
_EXAMPLES = """\
examples:
  tinygpt train                          one or two minutes, into runs/tiny
  tinygpt train --data book.txt --out runs/book
  tinygpt train --out runs/book --resume                  continue after Ctrl-C
  tinygpt train --out runs/book --resume --steps 900      go on beyond its end
  tinygpt train --config book.toml --lr 1e-3              settings from a file
  tinygpt train --preset shakespeare-char --data tinyshakespeare.txt
  tinygpt train --init-from gpt2 --data book.txt          into runs/fine-tuned

presets          layers heads features context vocabulary steps batch       lr
"""


def add_arguments(parser: Parser) -> None:
    """The arguments. Those of the settings have no default: None means not given."""
    rows = "".join(
        f"{preset:16} {size['n_layer']:6} {size['n_head']:5} {size['n_embd']:8} {size['n_positions']:7} "
        f"{size['vocab_size']:10} {RECIPES[preset]['steps']:5} {RECIPES[preset]['batch_size']:5} "
        f"{RECIPES[preset]['lr']:8.2g}\n"
        for preset, size in PRESETS.items()
    )
    parser.describe(run, _EXAMPLES + rows)
    add = parser.add_argument_group("what to learn").add_argument
    add(
        "--preset",
        choices=PRESETS,
        metavar="NAME",
        help=_or(f"sizes and recipe: {', '.join(PRESETS)}", _SETTINGS["preset"]),
    )
    add("--data", type=name, metavar="PATH", help=_or(DATA, "the bundled stories"))
    add(
        "--tokenizer",
        type=name,
        metavar="NAME",
        help=_or(TOKENIZER, "train one on the text, or with --init-from the model's own"),
    )
    add("--vocab-size", type=integer, metavar="N", help=_or("number of tokens of a tokenizer that is trained"))
    add(
        "--init-from",
        type=name,
        metavar="MODEL",
        help=_or(
            f"fine-tune {MODEL}, with a recipe for that unless --preset names another",
            "random weights",
        ),
    )
    the_run = parser.add_argument_group("the run")
    add = the_run.add_argument
    add("--out", type=folder_to_write, metavar="DIR", help=_or("the run's folder", "runs/PRESET"))
    add(
        "--config",
        type=name,
        metavar="FILE",
        help=_or(
            "a TOML file with settings, named as the options are, such as the config.toml in every run; options that "
            "are given here override it, and what neither says is the preset's; a relative path in it is looked for "
            "beside the file first",
            "none",
        ),
    )
    add(
        "--resume",
        action="store_true",
        help="resume the run in --out, with its settings; of those only --steps (more of them, to go on beyond the "
        "planned end), --keep-every and --recompute may be changed",
    )
    add(
        "--stop-after",
        type=integer,
        metavar="K",
        help="stop and save at step K; the schedule stays as it is",
    )
    add(
        "--keep-every",
        type=integer,
        metavar="N",
        help=_or(
            "keep a checkpoint of every Nth step, as checkpoints/step-000200 in the run, with all that training needs "
            "to go on from it; each takes 16 bytes of disk per parameter; 0 for none",
            _SETTINGS["keep_every"],
        ),
    )
    instead = the_run.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry-run", action="store_true", help="print how much memory and disk the run will need, by kind, and exit"
    )
    instead.add_argument(
        "--profile",
        type=positive,
        metavar="N",
        help="print where the time of a step goes, measured over N steps in this configuration (N more are not "
        "measured, for comparison), and exit; no run is left behind",
    )
    add_json(the_run, "with --profile: print as JSON")
    what = "of weights, batches, dropout and stories, from 0 on"
    add("--seed", type=seed, metavar="N", help=_or(what, _SETTINGS["seed"]))
    add = parser.add_argument_group("batches").add_argument
    add("--steps", type=integer, metavar="N", help=_or("optimizer steps"))
    add("--batch-size", type=integer, metavar="B", help=_or("windows per micro-batch"))
    add("--context", type=integer, metavar="T", help=_or("tokens per window; the model's n_positions"))
    add(
        "--grad-accumulation",
        type=integer,
        metavar="N",
        help=_or("micro-batches per optimizer step", _SETTINGS["grad_accumulation"]),
    )
    add = parser.add_argument_group("AdamW and its schedule").add_argument
    add("--lr", type=number, help=_or("highest learning rate"))
    add("--min-lr", type=number, metavar="LR", help=_or("last learning rate", "a tenth of the highest"))
    add("--warmup", type=integer, metavar="N", help=_or("steps of rising learning rate"))
    add("--beta1", type=number, metavar="B", help=_or("decay rate of the first moment", _SETTINGS["beta1"]))
    add("--beta2", type=number, metavar="B", help=_or("decay rate of the second moment"))
    add("--weight-decay", type=number, metavar="W", help=_or("of the matrices", _SETTINGS["weight_decay"]))
    add("--clip", type=number, metavar="NORM", help=_or("largest gradient norm", _SETTINGS["clip"]))
    add("--dropout", type=number, metavar="P", help=_or("probability, at GPT-2's three places"))
    add = parser.add_argument_group("validation").add_argument
    add("--eval-every", type=integer, metavar="N", help=_or("steps between validations"))
    add("--eval-tokens", type=integer, metavar="N", help=_or("validation tokens that are scored while training"))
    speed = parser.add_argument_group("speed and memory")
    speed.add_argument(
        "--precision", choices=PRECISIONS, help=_or("of the operands of matrix products", _SETTINGS["precision"])
    )
    speed.add_argument(
        "--recompute",
        action="store_const",
        const=True,
        help="activation checkpointing: keep only each block's input for backward; less memory, a third more work, "
        "the same weights",
    )
    add_threads(speed)
    add_quiet(parser, "show no progress bar and no stories: the last lines only")


def _or(what: str, default: object = "the preset's") -> str:
    return f"{what} (default: {default})"


def run(options: argparse.Namespace) -> int:
    """Train, and say how it went; or estimate the memory (--dry-run), or measure where the time goes (--profile)."""
    from tinygpt.files.ownership import own_run
    from tinygpt.runtime.streams import tell
    from tinygpt.training.train import train

    given, from_file = _given(options)
    preset = _preset(given)
    folder = options.out or Path("runs") / ("fine-tuned" if preset == RECIPE_OF_FINE_TUNING else preset)
    if options.dry_run:
        print(_needed(_settings(options, folder, given, from_file)))
        return 0
    if options.profile:
        return _profile(_settings(options, folder, given, from_file), options)
    if options.json:
        raise ValueError("--json needs --profile; the figures of a run are in its metrics.jsonl")
    with contextlib.ExitStack() as owning:
        owner = owning.enter_context(own_run(folder, create=False)) if options.resume else None
        settings = _settings(options, folder, given, from_file)
        _require_memory(settings)
        with _memory_errors(settings):
            result = train(
                settings,
                folder,
                resume=options.resume,
                stop_after=options.stop_after,
                progress=not options.quiet,
                owner=owner,
                summary=lambda result: _tell_figures(result, settings, folder),
                command=options.typed,
            )
    if result.final is not None:
        if result.story:
            tell(f"story: {result.story}", wrap=True)
        tell(f'more: tinygpt generate {_typed(folder)} --prompt "Once upon a time"')
    return 0


def _typed(folder: Path) -> str:
    """The name of a folder in a command that can be typed."""
    return shlex.quote(str(folder))


def _tell_figures(result: Result, settings: TrainingSettings, folder: Path) -> None:
    """How a run went, once it is saved."""
    from tinygpt.runtime.streams import tell

    if result.final is None:
        again = f"tinygpt train --resume --out {_typed(folder)}"
        tell(f"stopped after step {result.step} of {settings.steps}")
        tell(f"to continue: {again}")
        return
    if not result.new_steps:
        again = f"tinygpt train --resume --out {_typed(folder)} --steps {2 * result.step}"
        tell(f"{folder} is finished after {counted(result.step, 'step')}")
        tell(f"to go on: {again}")
    first, after = result.first, result.final_beginning
    if first is not None and first.tokens == result.final.tokens:
        after = result.final
    if first is None or after is None:  # an older run, which has not stored them
        tell(f"final validation {result.final}")
    elif after.tokens == result.final.tokens:
        tell(f"final validation {result.final} (it was {first.loss:.4f} before training)", wrap=True)
    else:
        tell(f"final validation {result.final}, over all {result.final.tokens:,} tokens", wrap=True)
        of_both = f"loss {first.loss:.4f} before training, {after.loss:.4f} after"
        tell(f"on the first {after.tokens:,} of them: {of_both}", wrap=True)
    tell(f"best validation loss {result.best_loss:.4f}, in {folder / 'best'}")
    missing = "" if importlib.util.find_spec("matplotlib") else ': "pip install matplotlib" for a picture'
    tell(f"curve: {result.plot or f'not drawn{missing}'}")


def _given(options: argparse.Namespace) -> tuple[dict[str, Any], set[str]]:
    """The settings that are given, by the command line or else by --config, and the names of those from the file."""
    from tinygpt.files.locate import named_run
    from tinygpt.training.config_file import read_config

    typed = {name: getattr(options, name, None) for name in _SETTINGS}
    typed = {name: value for name, value in typed.items() if value is not None}
    read = read_config(options.config) if options.config else {}
    if "steps" in typed:
        read.pop("extended", None)  # of a run with the file's steps
    given = read | typed
    for setting in {"tokenizer", "init_from"} & given.keys():  # settings.json says where the run is, not "tiny"
        given[setting] = str(named_run(Path(given[setting])))
    return given, read.keys() - typed.keys()


def _preset(given: dict[str, Any]) -> str:
    return given.get("preset", RECIPE_OF_FINE_TUNING if "init_from" in given else _SETTINGS["preset"])


def _settings(
    options: argparse.Namespace, folder: Path, given: dict[str, Any], from_file: set[str]
) -> TrainingSettings:
    """What was given; with --resume, the settings of the run, of which few may be changed."""
    try:
        if options.resume:
            return _settings_of_run(options, folder, given, from_file)
        return _new_settings(options, given)
    except (TypeError, ValueError) as error:
        reason = str(error).removeprefix("train: ")
        if reason.partition(" ")[0] not in from_file:
            raise
        raise type(error)(f"train: {shown(options.config)}: {reason}") from None


def _new_settings(options: argparse.Namespace, given: dict[str, Any]) -> TrainingSettings:
    others = {name: value for name, value in given.items() if name != "preset"}
    preset = _preset(given)
    if preset != RECIPE_OF_FINE_TUNING:
        return TrainingSettings.from_preset(preset, **others)
    if "init_from" not in given:
        raise ValueError(f"train: {shown(options.config)}: preset {preset!r} needs a model: name it with init_from")
    return TrainingSettings.fine_tuning(GPTConfig.from_pretrained(given["init_from"]), **others)


def _settings_of_run(
    options: argparse.Namespace, folder: Path, given: dict[str, Any], from_file: set[str]
) -> TrainingSettings:
    from tinygpt.training.train import load_settings

    settings = load_settings(folder)
    changed = [
        f"{said} (in {shown(options.config)})" if said.partition(" ")[0] in from_file else _as_option(said)
        for said in settings.changed(given)
    ]
    if changed:
        raise ValueError(
            f"--resume goes on with the settings of {folder}, where {'; '.join(changed)}; leave them out, or start "
            f"a new run with --init-from {folder}"
        )
    return settings.resumed(given, folder)


def _as_option(said: str) -> str:
    setting, _, rest = said.partition(" ")
    return f"--{setting.replace('_', '-')} {rest}"


def _needed(settings: TrainingSettings) -> str:
    """What --dry-run prints."""
    from tinygpt.gpt2.memory_estimate import number_of_parameters

    config, ledger = _ledger_of(settings)
    sizes = f"batches of {settings.batch_size} x {settings.context} tokens"
    parameters = number_of_parameters(config)
    weights, checkpoint = 4 * parameters, 16 * parameters  # with both moments, and the weights once more beside them
    disk = [f"on disk: best {_megabytes(weights)}, last {_megabytes(checkpoint)}"]
    if settings.keep_every:
        kept = counted(number := settings.steps // settings.keep_every, "kept checkpoint")
        disk.append(f"{kept} of {_megabytes(checkpoint)}: {_megabytes(number * checkpoint)}")
    return f"{parameters:,} parameters, {sizes}; at the peak\n{ledger}\n{'; '.join(disk)}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _profile(settings: TrainingSettings, options: argparse.Namespace) -> int:
    """Print where the time of a step goes."""
    from tinygpt.runtime.streams import print_json
    from tinygpt.study.training_profile import profile_training

    _require_memory(settings)
    with _memory_errors(settings):
        found = profile_training(settings, options.profile, progress=not options.quiet)
    if options.json:
        print_json(found.to_json_values(), indent=1)
    else:
        print(found)
    return 0


def _ledger_of(settings: TrainingSettings) -> tuple[GPTConfig, Ledger]:
    from tinygpt.gpt2.memory_estimate import predict
    from tinygpt.tokenizer import Tokenizer
    from tinygpt.training.train import initial_config

    if settings.init_from is not None:
        config = GPTConfig.from_pretrained(settings.init_from)
    else:
        n_vocab = Tokenizer.from_pretrained(settings.tokenizer).n_vocab if settings.tokenizer else settings.vocab_size
        config = initial_config(settings, n_vocab)
    return config, predict(config, settings.batch_size, settings.context, settings.recompute)


def _require_memory(settings: TrainingSettings) -> None:
    """Now, and not after minutes in which the memory that there is has been filled."""
    from tinygpt.runtime.memory_limit import require_memory

    with contextlib.suppress(ValueError, TypeError, OSError):  # invalid settings: training raises the error
        ledger = _ledger_of(settings)[1]
        needed = ledger.parameters + ledger.gradients + ledger.moments + ledger.program  # all of which is written to
        require_memory(needed, _out_of_memory(settings))


@contextlib.contextmanager
def _memory_errors(settings: TrainingSettings) -> Iterator[None]:
    """Where memory is exhausted in this block, say what the run needs, and what would need less."""
    try:
        yield
    except (MemoryError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOMEM:
            raise
        raise MemoryError(_out_of_memory(settings, error)) from error


def _out_of_memory(settings: TrainingSettings, error: object = "") -> str:
    """What the run needed, and what would need less."""
    try:
        needed = f"this run needs about {_ledger_of(settings)[1].total / 1e9:,.1f} GB at its peak"
    except (ValueError, TypeError, OSError, MemoryError):
        needed = "this run needs more than there is"
    reason = f" ({error})" if str(error) else ""
    less = "a smaller --preset, --batch-size or --context"
    return (
        f"there is not enough memory: {needed}{reason}; what was saved is unharmed; --dry-run shows what needs it; "
        f"for less, use {less if settings.recompute else f'--recompute, or {less}'}"
    )

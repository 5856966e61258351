"""
The training loop: batches, gradients, AdamW; validation, checkpoints, a story now and then.

A run is a folder:

    settings.json     its settings                metrics.jsonl, loss.png    its losses
    config.toml       the same, for `tinygpt train --config` and for people
    best/             the checkpoint with the lowest validation loss, a Hugging Face GPT-2 folder
    last/             the newest one, and beside it what resuming needs
    checkpoints/      those that `keep_every` keeps, step-000200 and so on, each like `last`
    owner.json        while it is trained: the process that trains it; see `ownership.py`

Output that is only shown, a story, a bar, a picture or a line of the log, comes after saving and never stops a run.

Resuming is exact to the last bit. The batches of a step are a function of the seed and the step's number, dropout's
seeds come from one generator whose state is saved, and so are AdamW's moments: there is no other state. That holds for
runs that were extended too: the settings say at which steps, and the learning rate is a function of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinygpt.files.atomic import atomic_write
from tinygpt.files.directory_swap import recover, swap_in
from tinygpt.files.json_file import read_object
from tinygpt.files.one_line import one_line, shown
from tinygpt.files.ownership import Ownership, own_run
from tinygpt.files.safetensors_file import save_training_state
from tinygpt.files.sealed_json import seal, unseal
from tinygpt.generation.completion import known_ids
from tinygpt.gpt2.captured_step import CapturedStep
from tinygpt.gpt2.compile_ahead import compile_ahead
from tinygpt.gpt2.config import GPTConfig
from tinygpt.gpt2.model import GPT
from tinygpt.gpt2.model_and_tokenizer import load
from tinygpt.kernels.simd.cpu import BFLOAT16
from tinygpt.optim import AdamW
from tinygpt.runtime.interrupt import Interrupt
from tinygpt.runtime.plural import counted
from tinygpt.runtime.settings import float32_matmul_precision
from tinygpt.runtime.streams import say, to_json
from tinygpt.training.config_file import write_config
from tinygpt.training.dataset import Dataset, load_dataset
from tinygpt.training.evaluate import Evaluation, evaluate, evaluate_with_beginning
from tinygpt.training.log import MetricsLog
from tinygpt.training.plot import plot_losses
from tinygpt.training.progress import TrainingProgress
from tinygpt.training.restore import restore
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.state import flat_state
from tinygpt.training.step import training_step

if TYPE_CHECKING:
    from tinygpt.tokenizer import Tokenizer

STORY_TOKENS = 80
KEPT = "checkpoints"  # the folder of those that are kept


class Result(NamedTuple):
    """
    How a run ended.

    Attributes
    ----------
    step : int
        Steps done.
    first, final : Evaluation or None
        Before the first step, over the beginning of the validation text, and after the last, over all of it; None where
        the run did not get there.
    best_loss : float
        The lowest validation loss over that beginning, that of `best/`.
    story : str
        What the final model tells; empty if it could not, or the run was interrupted.
    plot : Path or None
        The picture of the losses, if it could be drawn: with matplotlib.
    new_steps : int
        How many of the steps this call has done: 0 if nothing was left to do.
    final_beginning : Evaluation or None
        After the last step, over the tokens of `first`; equal to `final` if the validation text has no more. None also
        where an older run has not stored it.
    """

    step: int
    first: Evaluation | None
    final: Evaluation | None
    best_loss: float
    story: str
    plot: Path | None
    new_steps: int = 0
    final_beginning: Evaluation | None = None


def train(
    settings: TrainingSettings,
    run: Path | str,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    progress: bool = True,
    owner: Ownership | None = None,
    summary: Callable[[Result], object] = lambda result: None,
    command: str = "",
) -> Result:
    """
    Train a GPT-2 into the folder `run`.

    Parameters
    ----------
    settings : TrainingSettings
    run : path
        Must not exist yet, unless `resume`.
    resume : bool
        Go on where `run` stopped; `settings` must be its own (`load_settings` reads them), but for those in
        `settings.RESUMABLE`: with more `steps` it is extended (see `TrainingSettings.learning_rate`). Of a finished
        run, what was not written is: its final validation, or the picture.
    stop_after : int, optional
        Stop, and save, at this step; the schedule stays that of `settings.steps`.
    progress : bool
        Show a bar and tell stories while training.
    owner : Ownership, optional
        What `own_run(run)` gave, if the caller owns the run already; otherwise the run is owned until this returns.
    summary : callable
        Called with the result once everything is saved, before its story, which may take long, is generated.
    command : str
        What was typed, for a comment in config.toml.

    Returns
    -------
    Result

    Raises
    ------
    BlockingIOError
        If another process, or another thread of this one, owns `run`.
    FileExistsError
        If `run` exists and is not to be resumed.
    FloatingPointError
        If the loss or the gradient is not finite; the last checkpoint stays.
    ValueError, FileNotFoundError, OSError
        If settings, data, tokenizer and checkpoint do not fit together, or files cannot be read or written.

    Examples
    --------
    >>> import tempfile
    >>> settings = TrainingSettings.from_preset("tiny", steps=2, batch_size=1, context=8, vocab_size=300)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train(settings, Path(folder) / "run", progress=False).step
    2
    """
    run = Path(run)
    if stop_after is not None and stop_after < 1:
        raise ValueError(f"train: stop_after must be at least 1, got {stop_after}")
    with contextlib.ExitStack() as owning:
        owner = owner or owning.enter_context(own_run(run, create=not resume))
        if not resume and not owner.is_new():
            raise FileExistsError(f"train: {run} exists; add --resume to continue it, or choose another --out")
        try:
            trainer = Trainer(settings, run, resume, progress, owner, command)
            with Interrupt() as interrupt, products_in(settings.precision):
                return trainer.run_until(min(stop_after or settings.steps, settings.steps), interrupt, summary)
        except Exception:
            if not resume and owner.is_held():
                _remove_unsaved(run)
            raise


def _remove_unsaved(run: Path) -> None:
    """After a failure: a new run that has saved nothing goes, so that the next one can have its name."""
    if not any((run / name).exists() for name in ("best", "last", KEPT)):
        for name in ("settings.json", "config.toml", "metrics.jsonl"):
            with contextlib.suppress(OSError):
                (run / name).unlink()


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Inside, the kernels multiply "float32" or "bfloat16" numbers; warns where the processor lacks the latter."""
    if precision == "bfloat16" and not BFLOAT16:
        warnings.warn("this processor has no bfloat16 instructions: products are computed in float32", stacklevel=3)
    with float32_matmul_precision("medium" if precision == "bfloat16" else "highest"):
        yield


def kept_checkpoint(run: Path | str, step: int) -> Path:
    """
    The folder of a checkpoint that `keep_every` keeps.

    Examples
    --------
    >>> kept_checkpoint("runs/tiny", 200).name
    'step-000200'
    """
    return Path(run) / KEPT / f"step-{step:06}"


def load_settings(run: Path | str) -> TrainingSettings:
    """The settings of an existing run."""
    path = Path(run) / "settings.json"
    if not path.exists():
        raise FileNotFoundError(f"train: {shown(run)} is not a run to resume: it has no settings.json; check --out, or "
                                "leave --resume out if the run was stopped as it began")  # fmt: skip
    values = read_object(path, "train", "restore it or start a new run")
    values = unseal(values, f"train: {shown(path)}", "restore it from a copy")
    try:
        return TrainingSettings.from_json_values(values)
    except (TypeError, ValueError, AttributeError) as error:
        reason = one_line(error).removeprefix("train: ")
        raise ValueError(f"train: {shown(path)} is damaged ({reason}); restore it or start a new run") from None


def start_from(settings: TrainingSettings) -> tuple[GPT | None, Tokenizer | None]:
    """The model that --init-from names, and its tokenizer or the one that --tokenizer names; None without it."""
    if settings.init_from is None:
        return None, None
    return load(settings.init_from, settings.tokenizer, seed=settings.seed, **_dropout(settings))


def initial_model(settings: TrainingSettings, data: Dataset, model: GPT | None) -> GPT:
    """
    A model ready for the data: a new one, or the one that --init-from names.

    Raises
    ------
    ValueError
        If --init-from names a model that the context or the data do not fit.
    """
    if model is None:
        return GPT(initial_config(settings, data.tokenizer.n_vocab), seed=settings.seed)
    if settings.context > model.config.n_positions:
        raise ValueError(
            f"train: --context must be at most the {model.config.n_positions} positions of {settings.init_from}, "
            f"got {settings.context}"
        )
    if np.max(data.train) >= model.config.vocab_size:
        raise ValueError(f"train: the data has token {np.max(data.train)}, the model only {model.config.vocab_size}")
    return model


def initial_optimizer(model: GPT, settings: TrainingSettings) -> AdamW:
    """AdamW as the settings have it, before the first step."""
    betas = (settings.beta1, settings.beta2)
    return AdamW(model.parameters(), lr=settings.lr, betas=betas, weight_decay=settings.weight_decay)


def initial_config(settings: TrainingSettings, n_vocab: int) -> GPTConfig:
    """The preset's sizes with the settings' context and dropout, and this number of tokens."""
    config = GPTConfig.preset(settings.preset)
    return dataclasses.replace(config, vocab_size=n_vocab, n_positions=settings.context, **_dropout(settings))


def _dropout(settings: TrainingSettings) -> dict[str, Any]:
    return dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), settings.dropout)


class Trainer:
    """A model, its optimizer, its data, and the state of the run."""

    def __init__(
        self,
        settings: TrainingSettings,
        run: Path,
        resume: bool,
        progress: bool,
        owner: Ownership | None = None,
        command: str = "",
    ) -> None:
        self.run, self.progress, self.owner, self._command = run, progress, owner, command
        stored = load_settings(run) if resume and (run / "settings.json").exists() else None
        self.settings = settings = stored.resumed(vars(settings), run) if stored else settings
        last = self._last_checkpoint() if resume else None
        model, tokenizer = load(last) if last else start_from(settings)
        self.data: Dataset = load_dataset(settings, tokenizer, progress)
        self.model = model if last is not None and model is not None else initial_model(settings, self.data, model)
        self.model.recompute = settings.recompute
        self._compute = CapturedStep(self.model)
        self.optimizer = initial_optimizer(self.model, settings)
        self._fingerprint = self.data.fingerprint  # once: of a large corpus it takes seconds
        self.step, self.best_loss, self._validation_loss = 0, math.inf, math.nan
        self.first: Evaluation | None = None
        self.final: Evaluation | None = None
        self.final_beginning: Evaluation | None = None
        self._logged = self._validated = -1  # the last steps that a log which is resumed may have
        self._unlogged: list[str] = []
        self._saved: tuple[int, int, bool] | None = None  # what `last` holds: step, last validation, whether the final
        self._kept = 0  # the last step that was kept
        if last is not None:
            self._restore(last)
        self._resumed = self.step
        self._planned = stored.steps if stored and settings.steps != stored.steps else None  # before it was extended
        if stored is not None:
            self.settings = dataclasses.replace(settings, steps=stored.steps).extend(self.step, settings.steps)
        if self.step < self.settings.steps:  # else the run is finished
            self.final = self.final_beginning = None
        compile_ahead("scoring", f"training-{settings.precision}", "generating-float32", progress=progress)
        run.mkdir(parents=True, exist_ok=True)
        if self.settings == stored:
            write_config(run / "config.toml", self.settings)  # older runs have none
        else:
            self._write_settings()

    def _write_settings(self) -> None:
        text = to_json(seal(self.settings.to_json_values()), indent=2) + "\n"
        atomic_write(self.run / "settings.json", text)
        write_config(self.run / "config.toml", self.settings, self._command)

    def _hold(self) -> None:
        """Called before saving: the run must still be owned. If its folder was deleted, it is created again."""
        if self.owner is not None and self.owner.hold():
            self._write_settings()
            self._saved = None

    def run_until(
        self, stop: int, interrupt: Interrupt, summary: Callable[[Result], object] = lambda result: None
    ) -> Result:
        """Train from the current step until `stop` steps are done or the user interrupts; then finish the run."""
        start, steps = self.step, self.settings.steps
        with (
            MetricsLog(self.run / "metrics.jsonl", self._logged, self._validated, self._unlogged) as log,
            TrainingProgress(start, steps, self.progress, self.progress and start < stop) as shown,
        ):
            if start < stop:
                self._introduce(shown)
            if self._validated < 0:
                self.first = self._validate(log, shown)
            if self.step < steps:  # a kill came between a step and what follows it, or this was the planned end
                self._validate_and_keep(log, shown)
            while self.step < stop and not interrupt.requested:
                self._log_extension(log)
                shown.stepped(self._take_step(log), self._validation_loss)
                if self.step < steps and self._validate_and_keep(log, shown) and self.progress:
                    shown.tell(textwrap.indent(self.story(interrupt), "    "))
            if self.step < steps or np.isfinite(self.model.flat_parameters).all():  # else the validation says so
                self._save(log)
            if self.step == steps and not interrupt.requested:
                if self.final is None:
                    self.final = self._validate(log, shown, everything=True)
                    self._save(log)
                self._keep()
        result = Result(self.step, self.first, self.final, self.best_loss, "", self._draw(), self.step - start,
                        self.final_beginning)  # fmt: skip
        summary(result)
        return result if interrupt.requested else result._replace(story=self.story(interrupt))

    def _validate_and_keep(self, log: MetricsLog, shown: TrainingProgress) -> bool:
        """What follows a step that is not the last, unless it was done before a kill; whether it validated."""
        s = self.settings
        due = self.step % s.eval_every == 0 or s.planned_end(self.step)
        validated = due and self._validated < self.step
        if validated:
            self._validate(log, shown)
        if validated or self._to_keep() is not None:
            self._save(log)
        self._keep()
        return validated

    def _log_extension(self, log: MetricsLog) -> None:
        """A line at each step where the run was extended, once."""
        s = self.settings
        for (at, planned), steps in zip(s.extended, s.planned[1:], strict=True):
            if at == self.step:
                log.write_extension(at, planned, steps)

    def _draw(self) -> Path | None:
        """The picture of the losses. If matplotlib fails for any reason, the run is saved."""
        path = self.run / "loss.png"
        try:
            return path if plot_losses(self.run / "metrics.jsonl", path) else None
        except Exception as error:
            say(f"tinygpt: warning: {path} was not drawn: {_one_line(error)}; the run is saved, and --resume draws it")
            return None

    def _take_step(self, log: MetricsLog) -> dict[str, float]:
        """One step; returns its figures."""
        s, start = self.settings, time.perf_counter()
        lr = s.learning_rate(self.step)
        mean_loss, norm = training_step(self._compute, self.optimizer, self.data.train, s, self.step, lr)
        if not (math.isfinite(mean_loss) and math.isfinite(norm)):
            raise FloatingPointError(self._not_finite(mean_loss, norm))
        self.step += 1
        seconds = time.perf_counter() - start
        rate = s.grad_accumulation * s.batch_size * s.context / seconds
        figures = {"loss": mean_loss, "lr": lr, "grad_norm": norm, "ms": 1000 * seconds, "tokens_per_second": rate}
        log.write(step=self.step, **figures)
        return figures

    def _validate(self, log: MetricsLog, shown: TrainingProgress, everything: bool = False) -> Evaluation:
        """
        Score the beginning of the validation text, and keep the model if it is the best so far.

        All losses of a run are over the same tokens, so that they can be compared. With `everything` the rest is scored
        too, and the result is that of the whole text.
        """
        s, tokens, tokenizer = self.settings, self.data.validation, self.data.tokenizer
        with shown.validating():
            if everything:
                whole, result = evaluate_with_beginning(self.model, tokens, tokenizer, s.eval_tokens, context=s.context)
            else:
                whole = result = evaluate(self.model, tokens[: s.eval_tokens + 1], tokenizer, context=s.context)
        for loss in (result.loss, whole.loss):
            if not math.isfinite(loss):  # the weights of the last step, which do not deserve a checkpoint
                raise FloatingPointError(self._diverged(loss))
        self._validation_loss, self._validated = result.loss, self.step
        log.write(step=self.step, **_logged(result), **({} if whole is result else _logged(whole, "final_")))
        shown.validated(result.loss)
        shown.tell(f"step {self.step}: validation {result}")
        if result.loss < self.best_loss:
            self.best_loss = result.loss
            if self.step > 0:  # an untrained model is not saved
                self._hold()
                with swap_in(self.run / "best") as folder:
                    self.model.save_pretrained(folder, self.data.tokenizer)
        if everything:
            self.final_beginning = result
        return whole

    def _save(self, log: MetricsLog) -> None:
        """Write `last`, unless it holds this state already."""
        log.flush(to_disk=True)
        self._hold()
        state = self.step, self._validated, self.final is not None
        if self._saved == state:
            return
        finished = {"final": _figures(self.final), "final_beginning": _figures(self.final_beginning)}
        self._write_checkpoint(self.run / "last", finished | ({"unlogged": log.waiting} if log.waiting else {}))
        self._saved = state

    def _to_keep(self) -> Path | None:
        """The folder that keeps this step, if it is to be kept and is not."""
        every = self.settings.keep_every
        if not every or not self.step or self.step % every:
            return None
        folder = kept_checkpoint(self.run, self.step)
        return None if self.step == self._kept or (self.step == self._resumed and folder.exists()) else folder

    def _keep(self) -> None:
        """Keep this step; without the final figures, because a run can be extended from there."""
        if (folder := self._to_keep()) is not None:
            self._hold()
            self._write_checkpoint(folder, {"final": None, "final_beginning": None})
            self._kept = self.step

    def _write_checkpoint(self, directory: Path, more: dict[str, Any]) -> None:
        info = {
            "step": self.step,
            "best_loss": _finite(self.best_loss),  # JSON has no infinity: null if there was no validation that is one
            "validation_loss": _finite(self._validation_loss),
            "validated": self._validated,
            "first": _figures(self.first),
            "data": self._fingerprint,
            "generator": self.model.generator.bit_generator.state,
        }
        with swap_in(directory) as folder:
            self.model.save_pretrained(folder, self.data.tokenizer)
            state = flat_state(self.optimizer.state_dict()["state"]) | {"weights": self.model.flat_parameters}
            save_training_state(folder, state, seal(info | more))

    def _restore(self, last: Path) -> None:
        source = self.settings.data or "the bundled stories"
        info = restore(last, self.run, self.model, self.optimizer, self._fingerprint, source)
        best_loss, validation_loss = info["best_loss"], info["validation_loss"]
        self.best_loss = math.inf if best_loss is None else best_loss
        self._validation_loss = math.nan if validation_loss is None else validation_loss
        self.step = self._logged = info["step"]
        # Older runs lack the following fields; a finished one validates once more, for its figures.
        self._validated = info.get("validated", self.step - (self.step == self.settings.steps))
        names = ("first", "final", "final_beginning")
        self.first, self.final, self.final_beginning = (_evaluation(info.get(name)) for name in names)
        self._unlogged = info.get("unlogged", [])
        self._saved = self.step, self._validated, self.final is not None

    def _last_checkpoint(self) -> Path | None:
        """The step to resume from; None if the run was stopped before it saved anything."""
        interrupted = {path.name.partition(".")[0] for path in (self.run / KEPT).glob("step-*.tinygpt-*")}
        for name in ("best", "last", *(f"{KEPT}/{each}" for each in interrupted)):
            recover(self.run / name)
        return self.run / "last" if (self.run / "last").is_dir() else None

    def story(self, interrupt: Interrupt | None = None) -> str:
        """
        What the model tells after an end-of-text token (or a line end, where there is none), up to an interrupt.

        It only shows how the training goes: if the model cannot tell one, a line says so, and the story is empty.
        """
        try:
            return self._story(interrupt)
        except Exception as error:
            say(f"tinygpt: warning: no story: {_one_line(error)}")
            return ""

    def _story(self, interrupt: Interrupt | None) -> str:
        tokenizer = self.data.tokenizer
        eot = tokenizer.eot_token
        prompt = [eot] if eot is not None else tokenizer.encode("\n")
        stop = () if eot is None else (eot,)
        length = STORY_TOKENS if eot is not None else 3 * STORY_TOKENS
        allowed = known_ids(tokenizer, self.model.config.vocab_size)
        ids = []
        for id in self.model.generate(prompt, max_tokens=length, temperature=0.7, top_k=50, seed=self.settings.seed,
                                      stop_ids=stop, allowed=allowed):  # fmt: skip
            ids.append(id)
            if interrupt is not None and interrupt.requested:
                break
        return tokenizer.decode(ids).strip()

    def _introduce(self, shown: TrainingProgress) -> None:
        s, config = self.settings, self.model.config
        shown.tell(
            f"{self.run}: {self.model.num_parameters():,} parameters\n"
            f"  {counted(config.n_layer, 'layer')}, {counted(config.n_head, 'head')}, "
            f"{counted(config.n_embd, 'feature')}, context {s.context}\n"
            f"  vocabulary {config.vocab_size:,}, "
            f"{counted(s.batch_size * s.grad_accumulation * s.context, 'token')} per step\n"
            f"  {counted(len(self.data.train), 'token')} to learn from, {len(self.data.validation):,} to validate on"
        )
        if self._planned is not None:
            shown.tell(f"{self.run}: extended from {self._planned} to {s.steps} steps after step {self.step};")
            shown.tell(f"  the learning rate {self._rates()}")

    def _rates(self) -> str:
        """How the learning rate goes on from here. It is highest before the warm-up, or another as long, is over."""
        s, start = self.settings, self.step
        rates = [s.learning_rate(step) for step in range(start, min(s.steps, start + s.warmup + 1))]
        before, peak, last = s.learning_rate(max(start - 1, 0)), max(rates), s.learning_rate(s.steps - 1)
        at = start + 1 + rates.index(peak)
        up = f" to {peak:.1e} at step {at}" if peak > before else ""
        down = f"{', then' if up else ''} down to {last:.1e} at step {s.steps}" if at < s.steps else ""
        return f"goes from {before:.1e}{up}{down}"

    def _diverged(self, loss: float) -> str:
        stored = self._saved is not None and self._saved[0] == self.step  # before the final validation
        state = "the checkpoint `last` holds the weights of this step" if stored else self._unharmed()
        return (f"train: the validation loss is {loss} after step {self.step}: training diverged; {state}; "
                f"start again with a lower --lr (it is {self.settings.lr})")  # fmt: skip

    def _unharmed(self) -> str:
        return "the last checkpoint is unharmed" if (self.run / "last").is_dir() else "nothing was saved yet"

    def _not_finite(self, loss: float, norm: float) -> str:
        return (f"train: step {self.step + 1} gave loss {loss} and gradient norm {norm}: training diverged; "
                f"{self._unharmed()}; start again with a lower --lr (it is {self.settings.lr})")  # fmt: skip


def _figures(result: Evaluation | None) -> dict[str, Any] | None:
    return None if result is None else {**result._asdict(), "loss": _finite(result.loss)}


def _evaluation(figures: dict[str, Any] | None) -> Evaluation | None:
    if figures is None:
        return None
    return Evaluation(**{**figures, "loss": math.nan if figures["loss"] is None else figures["loss"]})


def _logged(result: Evaluation, of: str = "") -> dict[str, float]:
    figures = {"validation_loss": result.loss, "perplexity": result.perplexity, "bits_per_byte": result.bits_per_byte}
    return {of + name: figure for name, figure in figures.items()}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _one_line(error: BaseException) -> str:
    return one_line(error) or type(error).__name__

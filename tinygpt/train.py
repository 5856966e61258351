"""
The training loop: batches, gradients, AdamW; validation, checkpoints, a story now and then.

A run is a folder:

    settings.json     what it was told            metrics.jsonl, loss.png    how it went
    best/             the checkpoint with the lowest validation loss, a Hugging Face GPT-2 folder
    last/             the newest one, and beside it what resuming needs
    owner.json        while it is trained: by whom; see `ownership.py`

Resuming is exact to the last bit. The batch of a step is a function of the seed and the step's number, dropout's seeds
come from one generator whose state is saved, and so are AdamW's moments: there is nothing else to remember.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tinygpt import checkpoint, runtime
from tinygpt.corpus import sample_batch
from tinygpt.dataset import Dataset, load_dataset
from tinygpt.evaluate import Evaluation, evaluate
from tinygpt.gradient_norm import grad_norm
from tinygpt.initial_model import initial_model
from tinygpt.interrupt import Interrupt
from tinygpt.json_file import read_object
from tinygpt.kernels.processor import BFLOAT16
from tinygpt.model import GPT
from tinygpt.one_line import one_line, shown
from tinygpt.optim import AdamW, cosine_schedule
from tinygpt.ownership import Ownership, own_run
from tinygpt.run_log import MetricsLog, plot_losses
from tinygpt.settings import TrainingSettings
from tinygpt.training_state import require_training_state

STORY_TOKENS = 80


class Result(NamedTuple):
    """
    How a run ended.

    Attributes
    ----------
    step : int
        Steps done.
    first, final : Evaluation or None
        Before the first step, and after the last, both over the whole validation text; None where this call did not
        get there.
    best_loss : float
        The lowest validation loss, that of `best/`.
    story : str
        What the final model tells.
    plot : Path or None
        The picture of the losses, where matplotlib is installed.
    """

    step: int
    first: Evaluation | None
    final: Evaluation | None
    best_loss: float
    story: str
    plot: Path | None


def train(
    settings: TrainingSettings,
    run: Path | str,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    progress: bool = True,
    owner: Ownership | None = None,
) -> Result:
    """
    Train a GPT-2 into the folder `run`.

    Parameters
    ----------
    settings : TrainingSettings
    run : path
        Must not exist yet, unless `resume`.
    resume : bool
        Go on where `run` stopped; `settings` must be its own (`load_settings` reads them).
    stop_after : int, optional
        Stop, and save, when so many steps are done in all; the schedule stays that of `settings.steps`.
    progress : bool
        Show a bar and tell stories while training.
    owner : Ownership, optional
        What `own_run(run)` gave, if the caller owns the run already; otherwise the run is owned until this returns.

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
            raise FileExistsError(f"train: {run} exists; add --resume to go on with it, or choose another --out")
        trainer = Trainer(settings, run, resume, progress, owner)
        with Interrupt() as interrupt, products_in(settings.precision):
            return trainer.run_until(min(stop_after or settings.steps, settings.steps), interrupt)


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Inside, the kernels multiply "float32" or "bfloat16" numbers; warns where the processor lacks the latter."""
    if precision == "bfloat16" and not BFLOAT16:
        warnings.warn("this processor has no bfloat16 instructions: products are computed in float32", stacklevel=3)
    with runtime.float32_matmul_precision("medium" if precision == "bfloat16" else "highest"):
        yield


def load_settings(run: Path | str) -> TrainingSettings:
    """The settings of an existing run."""
    path = Path(run) / "settings.json"
    if not path.exists():
        raise FileNotFoundError(f"train: {shown(run)} is not a run to resume: it has no settings.json; check --out")
    values = read_object(path, "train", "restore it or start a new run")
    try:
        return TrainingSettings(**values)
    except (TypeError, ValueError) as error:
        reason = one_line(error).removeprefix("train: ")
        raise ValueError(f"train: {shown(path)} is damaged ({reason}); restore it or start a new run") from None


class Trainer:
    """A model, its optimizer and its data, and where they are in the run."""

    def __init__(
        self, settings: TrainingSettings, run: Path, resume: bool, progress: bool, owner: Ownership | None = None
    ) -> None:
        self.settings, self.run, self.progress, self.owner = settings, run, progress, owner
        last = self._last_checkpoint() if resume else None
        tokenizer = checkpoint.load_tokenizer(last) if last else None
        self.data: Dataset = load_dataset(settings, tokenizer, progress)
        self.model = initial_model(settings, self.data) if last is None else GPT.from_pretrained(last)
        self.model.recompute = settings.recompute
        self.optimizer = AdamW(self.model.parameters(), lr=settings.lr, betas=(settings.beta1, settings.beta2),
                               weight_decay=settings.weight_decay)  # fmt: skip
        self.step, self.best_loss, self._validation_loss = 0, math.inf, math.nan
        if last is not None:
            self._restore(last)
        run.mkdir(parents=True, exist_ok=True)
        self._write_settings()

    def _write_settings(self) -> None:
        text = json.dumps(dataclasses.asdict(self.settings), indent=2) + "\n"
        checkpoint.atomic_write(self.run / "settings.json", text)

    def _hold(self) -> None:
        """Before anything is saved: the run must still be ours. If its folder was deleted, there is a new one."""
        if self.owner is not None and self.owner.hold():
            self._write_settings()

    def run_until(self, stop: int, interrupt: Interrupt) -> Result:
        """Train, from wherever the run is, until `stop` steps are done or the user interrupts."""
        if self.step >= stop:
            raise ValueError(f"train: {self.run} has done {self.step} steps of {stop}: nothing is left to do; "
                             "for more, start a new run with --init-from")  # fmt: skip
        first = final = None
        with MetricsLog(self.run / "metrics.jsonl", self.step) as log, self._bar() as bar:
            self._announce()
            if self.step == 0:
                first = self._validate(log, bar)
            while self.step < stop and not interrupt.requested:
                bar.set_postfix_str(self._take_step(log))
                bar.update()
                if self.step % self.settings.eval_every == 0 and self.step < self.settings.steps:
                    self._validate(log, bar)
                    self._tell(textwrap.indent(self.story(), "    "))
                    self._save()
            if self.step == self.settings.steps:
                final = self._validate(log, bar, everything=True)
            self._save()
        plot = self.run / "loss.png"
        drawn = plot_losses(self.run / "metrics.jsonl", plot)
        return Result(self.step, first, final, self.best_loss, self.story(), plot if drawn else None)

    def _take_step(self, log: MetricsLog) -> str:
        """One step; returns what the bar shows of it."""
        s, start = self.settings, time.perf_counter()
        lr = cosine_schedule(self.step, lr=s.lr, min_lr=s.min_lr, warmup=s.warmup, steps=s.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        mean_loss = 0.0
        for part in range(s.grad_accumulation):
            number = self.step * s.grad_accumulation + part
            inputs, targets = sample_batch(self.data.train, s.batch_size, s.context, s.seed, number)
            loss = self.model.loss(inputs, targets) / s.grad_accumulation
            loss.backward()
            mean_loss += loss.item()
        norm = grad_norm(self.model.parameters())
        if not (math.isfinite(mean_loss) and math.isfinite(norm)):
            raise FloatingPointError(self._not_finite(mean_loss, norm))
        self.optimizer.step(scale=min(1.0, s.clip / norm) if norm else 1.0)
        self.optimizer.zero_grad()
        self.step += 1
        seconds = time.perf_counter() - start
        rate = s.grad_accumulation * s.batch_size * s.context / seconds
        log.write(step=self.step, loss=mean_loss, lr=lr, grad_norm=norm, ms=1000 * seconds, tokens_per_second=rate)
        return (
            f"loss {mean_loss:.3f}, val {self._validation_loss:.3f}, lr {lr:.1e}, norm {norm:.2f}, "
            f"{rate:,.0f} tok/s, {1000 * seconds:.0f} ms"
        )

    def _validate(self, log: MetricsLog, bar: tqdm, everything: bool = False) -> Evaluation:
        """Score the validation text (its beginning, if it is long), and keep the model if it is the best so far."""
        s = self.settings
        tokens = self.data.validation if everything else self.data.validation[: s.eval_tokens + 1]
        bar.set_description("validating")
        result = evaluate(self.model, tokens, self.data.tokenizer, context=s.context)
        bar.set_description("training")
        if not math.isfinite(result.loss):  # the weights of the last step: they are not worth a checkpoint
            raise FloatingPointError(self._diverged(result.loss))
        self._validation_loss = result.loss
        log.write(step=self.step, validation_loss=result.loss, perplexity=result.perplexity,
                  bits_per_byte=result.bits_per_byte)  # fmt: skip
        self._tell(f"step {self.step}: validation {result}")
        if result.loss < self.best_loss:
            self.best_loss = result.loss
            if self.step > 0:  # an untrained model is not worth keeping
                self._hold()
                with checkpoint.swap_in(self.run / "best") as folder:
                    self.model.save_pretrained(folder, self.data.tokenizer)
        return result

    def _save(self) -> None:
        self._hold()
        info = {
            "step": self.step,
            "best_loss": self.best_loss,
            "validation_loss": self._validation_loss,
            "data": self.data.fingerprint,
            "generator": self.model.generator.bit_generator.state,
        }
        with checkpoint.swap_in(self.run / "last") as folder:
            self.model.save_pretrained(folder, self.data.tokenizer)
            state = self.optimizer.state_dict() | {"weights": self.model.flat_parameters}
            checkpoint.save_training_state(folder, state, info)

    def _restore(self, last: Path) -> None:
        tensors, info = checkpoint.load_training_state(last, require_training_state)
        if info["data"] != self.data.fingerprint:
            raise ValueError(
                f"train: {self.run} was trained on other data than {self.settings.data or 'the bundled stories'} holds "
                "now; restore the text, or start a new run with --init-from"
            )
        if (weights := tensors.pop("weights", None)) is not None:  # of one moment with the rest, even in a copy that
            self.model.flat_parameters[:] = weights  # was made during a save; older runs have none
        self.optimizer.load_state_dict(tensors)
        self.model.generator.bit_generator.state = info["generator"]
        self.step, self.best_loss = info["step"], info["best_loss"]
        self._validation_loss = info["validation_loss"]

    def _last_checkpoint(self) -> Path | None:
        """Where to go on from; None where the run was stopped before it saved anything."""
        for name in ("best", "last"):
            checkpoint.recover(self.run / name)
        return self.run / "last" if (self.run / "last").is_dir() else None

    def story(self) -> str:
        """What the model tells after an end-of-text token (or a line end, where there is none)."""
        tokenizer = self.data.tokenizer
        eot = tokenizer.eot_token
        prompt = [eot] if eot is not None else tokenizer.encode("\n")
        stop = () if eot is None else (eot,)
        length = STORY_TOKENS if eot is not None else 3 * STORY_TOKENS
        ids = self.model.generate(prompt, max_tokens=length, temperature=0.7, top_k=50, seed=self.settings.seed,
                                  stop_ids=stop)  # fmt: skip
        return tokenizer.decode(list(ids)).strip()

    def _bar(self) -> tqdm:
        return tqdm(total=self.settings.steps, initial=self.step, unit="step", desc="training",
                    disable=not self.progress, dynamic_ncols=True)  # fmt: skip

    def _tell(self, line: str) -> None:
        if self.progress:
            tqdm.write(line)

    def _announce(self) -> None:
        s, config = self.settings, self.model.config
        self._tell(
            f"{self.run}: {self.model.num_parameters():,} parameters ({config.n_layer} layers, {config.n_head} heads, "
            f"{config.n_embd} dimensions, context {s.context}, vocabulary {config.vocab_size:,}); "
            f"{len(self.data.train):,} tokens to learn from, {len(self.data.validation):,} to validate on; "
            f"{s.batch_size * s.grad_accumulation * s.context:,} tokens a step"
        )

    def _diverged(self, loss: float) -> str:
        return (f"train: the validation loss is {loss} after step {self.step}: training diverged; {self._saved()}; "
                f"start again with a lower --lr (it is {self.settings.lr})")  # fmt: skip

    def _saved(self) -> str:
        return "the last checkpoint is unharmed" if (self.run / "last").is_dir() else "nothing was saved yet"

    def _not_finite(self, loss: float, norm: float) -> str:
        return (f"train: step {self.step + 1} gave loss {loss} and gradient norm {norm}: training diverged; "
                f"{self._saved()}; start again with a lower --lr (it is {self.settings.lr})")  # fmt: skip

"""
A step of a run again, to the last bit, from the nearest checkpoint before it.

A step is a function of the weights, the optimizer's moments and the generator of dropout before it, and of the batch,
which is a function of the seed and the step's number (training/train.py). A checkpoint of the run has all of these;
`tinygpt train --keep-every N` keeps one every N steps. So loss, gradient norm and learning rate have the digits of the
log, for any number of threads, on a processor of the same kind and by the same version of tinygpt.

The figures are those of the step as training takes it. What operations compute is recorded in another pass over the
same batch with the same dropout, since recording keeps an operation from adding to a gradient in place.

Nothing of the run is written.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import no_grad
from tinygpt.autograd.watch import watching
from tinygpt.files.json_file import read_object
from tinygpt.files.one_line import shown
from tinygpt.files.sealed_json import unseal
from tinygpt.gpt2.captured_step import CapturedStep
from tinygpt.gpt2.model_and_tokenizer import load
from tinygpt.nn import no_dropout
from tinygpt.runtime.plural import counted
from tinygpt.runtime.streams import bar
from tinygpt.runtime.whole_number import whole_number
from tinygpt.study.recorder import Recorder
from tinygpt.training.dataset import load_dataset
from tinygpt.training.log import read_metrics
from tinygpt.training.restore import restore
from tinygpt.training.step import micro_batches, step_gradients, training_step
from tinygpt.training.train import (
    KEPT,
    initial_model,
    initial_optimizer,
    kept_checkpoint,
    load_settings,
    products_in,
    start_from,
)

FIGURES = ("loss", "lr", "grad_norm")


class Replay(NamedTuple):
    """
    A step that was computed again.

    Attributes
    ----------
    step : int
        Counted from 1, as in the log.
    start : int
        After how many steps the checkpoint was that it was computed from; 0 for the beginning of the run.
    loss, lr, grad_norm : float
        As in the log: the mean of the micro-batches in nats per token, the learning rate, the norm before the clip.
    logged : dict or None
        The figures of the log's line of this step; None where it has none, as of a step that diverged.
    values : dict of str to ndarray
        What was asked for, by name: see `replay`.
    """

    step: int
    start: int
    loss: float
    lr: float
    grad_norm: float
    logged: dict[str, float | None] | None
    values: dict[str, np.ndarray]

    @property
    def differing(self) -> list[str]:
        """Which of the figures are not those of the log."""
        if self.logged is None:
            return []
        return [name for name in FIGURES if self.logged[name] != _finite(getattr(self, name))]


def replay(run: Path | str, step: int, values: Sequence[str] = (), progress: bool = False) -> Replay:
    """
    Compute a step of a run again.

    Parameters
    ----------
    run : path
        The folder of a run.
    step : int
        Which one, counted from 1, as in the log.
    values : sequence of str
        Names of values to return; ``*``, ``?`` and ``[...]`` stand for others, as in names of files:

            inputs, targets                      the batch, int64 (B, T), or (N, B, T) of N micro-batches
            weight.h.0.mlp.c_fc.bias             a parameter before the step
            gradient.h.0.mlp.c_fc.bias           its gradient, before the clip
            forward.h.0.attn.c_proj.linear       what an operation returns
            backward.h.0.attn.c_proj.linear.0    the gradient that it passes to its first input

        A second use of an operation in the same module has "(2)" behind its name. Of N micro-batches, what operations
        compute for the second has "micro-batch 2." in front of its name; without it, a name stands for all of them.
    progress : bool
        Show a bar.

    Returns
    -------
    Replay

    Raises
    ------
    FileNotFoundError
        If `run` is no run.
    ValueError
        If it has no such step, a name stands for nothing, its data has changed, or a file is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from tinygpt.training.settings import TrainingSettings
    >>> from tinygpt.training.train import train
    >>> settings = TrainingSettings.from_preset("tiny", steps=3, batch_size=1, context=8, vocab_size=300)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = train(settings, f"{folder}/run", progress=False)
    ...     again = replay(f"{folder}/run", 2, ["gradient.wte.weight"])
    >>> again.differing, again.values["gradient.wte.weight"].shape
    ([], (300, 128))
    """
    rerun = Rerun(run, progress)
    return rerun.replay(step, values)


class Rerun:
    """
    A run, from which steps are computed again, without a change to its folder.

    Parameters
    ----------
    run : path
    progress : bool
        Show a bar.

    Attributes
    ----------
    settings : TrainingSettings
    data : Dataset
    model : GPT
        As it was after `position` steps.
    """

    def __init__(self, run: Path | str, progress: bool = False) -> None:
        self.run, self._progress = Path(run), progress
        if not (self.run / "settings.json").is_file():
            raise FileNotFoundError(f"replay: {shown(run)} is not a run: it has no settings.json; "
                                    '"tinygpt runs" lists those that there are')  # fmt: skip
        self.settings = load_settings(self.run)
        self._log = {line["step"]: line for line in _log_of(self.run) if "loss" in line}
        checkpoints = self.checkpoints()
        model, tokenizer = load(checkpoints[max(checkpoints)]) if checkpoints else start_from(self.settings)
        self.data = load_dataset(self.settings, tokenizer, progress)
        self.model = initial_model(self.settings, self.data, model)
        self.optimizer = initial_optimizer(self.model, self.settings)
        self._fingerprint = self.data.fingerprint
        self.position = -1  # nowhere yet
        if checkpoints:
            self._restore(max(checkpoints))  # that it can be, and the data is that of the run

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints from which steps can be computed, by the number of steps before each."""
        numbers = [path.name.removeprefix("step-") for path in (self.run / KEPT).glob("step-*")]
        found = {int(number): kept_checkpoint(self.run, int(number)) for number in numbers if number.isdecimal()}
        last = self.run / "last"
        return found | ({_step_of(last): last} if last.is_dir() else {})

    @property
    def logged_steps(self) -> set[int]:
        """The steps of which the log has a line."""
        return set(self._log)

    def logged(self, step: int) -> dict[str, float | None] | None:
        """The figures of the log's line of a step."""
        line = self._log.get(step)
        return None if line is None else {name: line.get(name) for name in FIGURES}

    def start_for(self, step: int) -> int:
        """After how many steps the checkpoint is that `replay` of a step would start from; 0 for the beginning."""
        return max((each for each in self.checkpoints() if each < step), default=0)

    def seconds_for(self, step: int) -> float | None:
        """How long `replay` of a step will take, by the times in the log; None where it has none."""
        times = [line["ms"] for line in self._log.values() if isinstance(line.get("ms"), (int, float))]
        return float(np.median(times)) / 1000 * (step - self.start_for(step)) if times else None

    def replay(self, step: int, values: Sequence[str] = ()) -> Replay:
        """See the function of that name."""
        step = self.checked(step)
        start = self.start_for(step)
        with products_in(self.settings.precision):
            self._go_to(step - 1)
            self.position = -1  # nowhere: the next step begins at a checkpoint
            generator = self.model.generator.bit_generator
            before, wanted = generator.state, _Wanted(values)
            found = self._batch(step - 1) | {f"weight.{name}": p.data for name, p in self.model.named_parameters()}
            kept = {name: np.array(array) for name, array in found.items() if wanted(name)}
            loss, norm = step_gradients(CapturedStep(self.model, enabled=False), self.optimizer, self.data.train,
                                        self.settings, step - 1)  # fmt: skip
            for name, parameter in self.model.named_parameters():
                if wanted(f"gradient.{name}"):
                    kept[f"gradient.{name}"] = np.array(parameter.grad)
            if wanted.of_operations:
                after, generator.state = generator.state, before
                self.optimizer.zero_grad()
                kept |= self._operations(step - 1, wanted)
                generator.state = after
        self.optimizer.zero_grad()
        wanted.require_all(self.run)
        return Replay(step, start, loss, self.settings.learning_rate(step - 1), norm, self.logged(step), kept)

    def row_losses(self, step: int) -> np.ndarray:
        """The loss of each row of a step's batch, (micro-batches, B), without dropout, by the weights before it."""
        with products_in(self.settings.precision):
            return self._row_losses(self.checked(step))

    def _row_losses(self, step: int) -> np.ndarray:
        self._go_to(step - 1)
        batches = micro_batches(self.data.train, self.settings, step - 1)
        with no_grad(), no_dropout():
            losses = [[self.model.loss(*row).item() for row in zip(*(each[:, None] for each in batch), strict=True)]
                      for batch in batches]  # fmt: skip
        return np.array(losses)

    def checked(self, step: int) -> int:
        """The number of a step that the run has."""
        step, last = whole_number("replay: step", step), self.settings.steps
        if not 1 <= step <= last:
            raise ValueError(f"replay: step must be from 1 to {last}, the steps of {shown(self.run)}, got {step}")
        return step

    def _restore(self, start: int) -> None:
        """Go to a checkpoint."""
        checkpoint = self.checkpoints().get(start)
        if checkpoint is None:
            raise ValueError(f"replay: {shown(self.run)} has replaced its checkpoint meanwhile; try again")
        self.optimizer = initial_optimizer(self.model, self.settings)
        self.optimizer.zero_grad()
        source = self.settings.data or "the bundled stories"
        info = restore(checkpoint, self.run, self.model, self.optimizer, self._fingerprint, source)
        self.position = info["step"]

    def _begin(self) -> None:
        """Go to the beginning."""
        model, _ = start_from(self.settings)
        self.model = initial_model(self.settings, self.data, model)
        self.optimizer = initial_optimizer(self.model, self.settings)
        self.position = 0

    def _go_to(self, position: int) -> None:
        """Take all steps up to this one, from the nearest checkpoint before it."""
        start = self.start_for(position + 1)
        if not start <= self.position <= position:
            if start:
                self._restore(start)
            else:
                self._begin()
        self.model.recompute = self.settings.recompute
        compute, steps = CapturedStep(self.model), range(self.position, position)
        for step in bar(iterable=steps, desc="replay", unit="step", leave=False, disable=not self._progress):
            lr, self.position = self.settings.learning_rate(step), -1  # nowhere, until the step is whole
            loss, norm = training_step(compute, self.optimizer, self.data.train, self.settings, step, lr)
            if not np.isfinite([loss, norm]).all():
                raise ValueError(
                    f"replay: {shown(self.run)} ends at step {step + 1}, of loss {loss} and gradient norm {norm}; "
                    "replay that one"
                )
            self.position = step + 1

    def _batch(self, step: int) -> dict[str, np.ndarray]:
        batches = [*micro_batches(self.data.train, self.settings, step)]
        inputs, targets = (np.stack(each) if len(batches) > 1 else each[0] for each in zip(*batches, strict=True))
        return {"inputs": inputs, "targets": targets}

    def _operations(self, step: int, wanted: _Wanted) -> dict[str, np.ndarray]:
        """What operations compute; of a model that recomputes its blocks too, whose values are the same, once each."""
        kept: dict[str, np.ndarray] = {}
        self.model.recompute, parts = False, self.settings.grad_accumulation
        for number, (inputs, targets) in enumerate(micro_batches(self.data.train, self.settings, step), 1):
            recorder = Recorder(self.model)
            with watching(recorder):
                loss = self.model.loss(inputs, targets)
                (loss / parts if parts > 1 else loss).backward()
            prefix = f"micro-batch {number}." if parts > 1 else ""
            kept |= {prefix + name: array for name, array in _named(recorder) if wanted(name, prefix + name)}
        self.model.recompute = self.settings.recompute
        return kept


class _Wanted:
    """Which names are asked for."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns, self._found = list(patterns), set[str]()
        others = ("inputs", "targets", "weight.", "gradient.")
        self.of_operations = any(not pattern.startswith(others) for pattern in patterns)

    def __call__(self, *names: str) -> bool:
        """Whether one of the names of a value is."""
        matching = [pattern for pattern in self._patterns if any(fnmatch.fnmatchcase(name, pattern) for name in names)]
        self._found.update(matching)
        return bool(matching)

    def require_all(self, run: Path) -> None:
        """Raise ValueError if one stands for nothing."""
        for pattern in self._patterns:
            if pattern not in self._found:
                raise ValueError(f"replay: no value of {shown(run)} is named {pattern!r}; '*' gives all of them")


def _named(recorder: Recorder) -> Iterator[tuple[str, np.ndarray]]:
    """The results of operations by name."""
    seen: Counter[str] = Counter()
    for where, direction, arrays in recorder.results:
        seen[where] += direction == "forward"
        again = f"({seen[where]})" if seen[where] > 1 else ""
        seen[where] -= direction == "backward"  # which meets the uses in reverse
        name = f"{direction}.{where.replace(': ', '.')}{again}"
        for index, array in enumerate(arrays):
            yield (name if direction == "forward" else f"{name}.{index}"), array


def _log_of(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def _step_of(checkpoint: Path) -> int:
    where = checkpoint / "training_state.json"
    info = unseal(read_object(where, "replay", "use a copy", finite=False), f"replay: {shown(where)}", "use a copy")
    return whole_number(f"replay: {shown(where)}: step", info.get("step"))


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


def cost(rerun: Rerun, step: int) -> str:
    """What `replay` of a step will take, for people."""
    start, seconds = rerun.start_for(step), rerun.seconds_for(step)
    about = "" if seconds is None else f", about {counted(max(1, round(seconds)), 'second')}"
    source = f"from the checkpoint after step {start}" if start else "from the beginning, since none is kept before"
    return f"{counted(step - start, 'step')} {source}{about}"

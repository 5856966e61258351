"""The profile of a training run's first steps, on its own data, in its own configuration: `tinygpt train --profile`."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any, NamedTuple

from tinygpt.gpt2.captured_step import CapturedStep
from tinygpt.gpt2.compile_ahead import compile_ahead
from tinygpt.kernels.rates import rates
from tinygpt.runtime import settings as runtime
from tinygpt.runtime.plural import counted
from tinygpt.runtime.streams import bar
from tinygpt.study.profile import Profile, profile
from tinygpt.training.dataset import load_dataset
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.step import training_step
from tinygpt.training.train import initial_model, initial_optimizer, products_in, start_from

WARMUP = 3  # steps that touch memory for the first time, and fill the memory pool


class TrainingProfile(NamedTuple):
    """
    Where the time of a run's steps goes.

    Attributes
    ----------
    settings : TrainingSettings
    profile : Profile
    plain, measured : list of float
        Milliseconds of the steps that were not measured, and of those that were: they took turns.
    losses : list of float
        Of all steps: the same bits as those of the run itself.
    """

    settings: TrainingSettings
    profile: Profile
    plain: list[float]
    measured: list[float]
    losses: list[float]

    def to_json_values(self) -> dict[str, Any]:
        """Everything as plain values."""
        found = self.profile
        return {
            "steps": found.steps,
            "tokens_per_step": self._tokens,
            "threads": runtime.num_threads(),
            "implementation": runtime.current_implementation(),
            "precision": self.settings.precision,
            "ms": found.ms,
            "plain_ms": self.plain_ms,
            "overhead": self.overhead[0],
            "overhead_noise": self.overhead[1],
            "python_share": found.python_share,
            "peak": found.peak,
            "rows": [row._asdict() for row in found.rows()],
        }

    @property
    def plain_ms(self) -> float:
        """The median time of a step that is not measured."""
        return statistics.median(self.plain)

    @property
    def overhead(self) -> tuple[float, float]:
        """What measuring adds to a step, as a share of its time: the median of the pairs, and twice its error."""
        gaps = [measured - plain for plain, measured in zip(self.plain, self.measured, strict=True)]
        middle = statistics.median(gaps)
        deviation = 1.4826 * statistics.median(abs(gap - middle) for gap in gaps)  # that of a normal distribution
        return middle / self.plain_ms, 2 * 1.2533 * deviation / math.sqrt(len(gaps)) / self.plain_ms

    @property
    def _tokens(self) -> int:
        return self.settings.grad_accumulation * self.settings.batch_size * self.settings.context

    def __str__(self) -> str:
        s, peak, (extra, noise) = self.settings, self.profile.peak, self.overhead
        parts = f"{s.grad_accumulation} x " if s.grad_accumulation > 1 else ""
        lines = [
            f"{counted(self.profile.steps, 'step')} of {parts}{s.batch_size} x {s.context} tokens, after {WARMUP} for "
            f"warm-up; {counted(runtime.num_threads(), 'thread')}",
            "",
            str(self.profile),
        ]
        if max(self.measured) > 2 * statistics.median(self.measured):
            lines.append(f"Steps took from {min(self.measured):.1f} to {max(self.measured):.1f} ms: something else ran "
                         "on this machine.")  # fmt: skip
        lines.append(f"Without measuring, a step took {self.plain_ms:.1f} ms (median): "
                     f"{self._tokens / self.plain_ms * 1e3:,.0f} tokens per second.")  # fmt: skip
        if noise < extra < self.profile.rows()[-1].share:
            lines.append(f'Measuring added {extra:.1%}, which is part of "everything else".')
        else:
            lines.append(f"Measuring made no difference beyond the noise of {max(noise, abs(extra), 0.001):.1%}.")
        if peak is not None:
            product = "bfloat16" if s.precision == "bfloat16" else "float32"
            lines.append(f"Peak, measured now: {peak[f'{product}_gflops']:.0f} GFLOP/s ({product} product), "
                         f"{peak['read_gbytes']:.0f} GB/s (reading memory).")  # fmt: skip
        return "\n".join(lines)


def profile_training(settings: TrainingSettings, steps: int, progress: bool = True) -> TrainingProfile:
    """
    Train for a few steps without leaving a run, and measure every second one.

    Parameters
    ----------
    settings : TrainingSettings
        Of the run: its data, model, batches, precision and dropout.
    steps : int
        How many steps are measured, at least 1. As many run in turns with them, timed as a whole, to know what
        measuring costs, and three run before, uncounted.
    progress : bool
        Show a bar.

    Returns
    -------
    TrainingProfile

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        As `train`, if settings, data and tokenizer do not fit together.
    FloatingPointError
        If the loss or the gradient is not finite.

    Examples
    --------
    >>> settings = TrainingSettings.from_preset("tiny", batch_size=1, context=8, vocab_size=300)
    >>> found = profile_training(settings, steps=2, progress=False)
    >>> found.profile.steps, len(found.losses)
    (2, 7)
    """
    if steps < 1:
        raise ValueError(f"profile_training: steps must be at least 1, got {steps}")
    named, tokenizer = start_from(settings)
    data = load_dataset(settings, tokenizer, progress)
    model = initial_model(settings, data, named)
    model.recompute = settings.recompute
    optimizer = initial_optimizer(model, settings)
    compute = CapturedStep(model, enabled=False)  # a replay has no operations to be timed
    compile_ahead(f"training-{settings.precision}", progress=progress)
    losses: list[float] = []

    def take_step() -> float:
        """Milliseconds of the next step."""
        start, step = time.perf_counter(), len(losses)
        loss, norm = training_step(compute, optimizer, data.train, settings, step, settings.learning_rate(step))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"profile_training: step {step + 1} gave loss {loss} and gradient norm {norm}: training diverged; "
                f"start again with a lower --lr (it is {settings.lr})"
            )
        losses.append(loss)
        return 1e3 * (time.perf_counter() - start)

    found, plain, measured = Profile(), [], []
    with (
        products_in(settings.precision),
        bar(total=WARMUP + 2 * steps, unit="step", desc="profiling", disable=not progress, leave=False,
            dynamic_ncols=True) as shown,
    ):  # fmt: skip
        for _ in range(WARMUP):
            take_step()
            shown.update()
        for _ in range(steps):
            plain.append(take_step())
            with profile(found):
                measured.append(take_step())
                found.step()
            shown.update(2)
    found.peak = rates()
    return TrainingProfile(settings, found, plain, measured, losses)

"""One optimizer step: the gradients of its micro-batches, the clip of their norm, AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tinygpt.autograd.watch import observed
from tinygpt.gpt2.captured_step import CapturedStep
from tinygpt.optim import AdamW, grad_norm
from tinygpt.text.corpus import sample_batch
from tinygpt.training.settings import TrainingSettings


def training_step(
    compute: CapturedStep, optimizer: AdamW, tokens: np.ndarray, settings: TrainingSettings, step: int, lr: float
) -> tuple[float, float]:
    """
    Train on the batch of one step.

    Parameters
    ----------
    compute : CapturedStep
        Of the model to train, whose losses and gradients it computes.
    optimizer : AdamW
        Of its parameters. Model and optimizer change, unless the loss or the norm is not finite: then the weights stay
        as they were.
    tokens : integer array, shape (N,)
        The training text.
    settings : TrainingSettings
    step : int
        Counted from 0: it decides which windows of the text the batch has.
    lr : float
        The learning rate of this step.

    Returns
    -------
    loss, norm : float
        The mean of the micro-batches, in nats per token, and the norm of the gradients before the clip.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    mean_loss, norm = step_gradients(compute, optimizer, tokens, settings, step)
    if math.isfinite(mean_loss) and math.isfinite(norm):
        optimizer.step(scale=min(1.0, settings.clip / norm) if norm else 1.0)
        optimizer.zero_grad()
    return mean_loss, norm


def step_gradients(
    compute: CapturedStep, optimizer: AdamW, tokens: np.ndarray, settings: TrainingSettings, step: int
) -> tuple[float, float]:
    """
    The first half of `training_step`: the loss, and the norm of the gradients, which are left in the parameters.

    Parameters
    ----------
    compute, optimizer, tokens, settings, step
        As there.

    Returns
    -------
    loss, norm : float
    """
    parts, mean_loss = settings.grad_accumulation, 0.0
    for inputs, targets in micro_batches(tokens, settings, step):
        mean_loss += compute(inputs, targets, parts=parts)
    norm = grad_norm(parameter for group in optimizer.param_groups for parameter in group["params"])
    return mean_loss, norm


def micro_batches(tokens: np.ndarray, settings: TrainingSettings, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The inputs and targets, each (B, T), of the micro-batches of a step."""
    parts, sample = settings.grad_accumulation, observed(sample_batch, "python")
    for number in range(step * parts, (step + 1) * parts):
        yield sample(tokens, settings.batch_size, settings.context, settings.seed, number)

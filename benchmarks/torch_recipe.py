"""
The rival of a whole training run: nanoGPT's recipe for a laptop's CPU in plain PyTorch, from start to exit.

    python -m benchmarks.torch_recipe TEXT RESULT [STEPS]

The model is that of `torch_gpt2.py`, over bytes. As in nanoGPT: batches of 12 x 64 from the first nine tenths of the
text, AdamW, a warm-up of 100 steps and a cosine to a tenth, the gradients' norm clipped at 1, and every 250 steps the
loss over 20 batches of each part and a checkpoint. The last loss is over all of the validation text, as tinygpt's is.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.torch_gpt2 import TorchGPT2, optimizer_for, train_step

SIZES = {"vocab_size": 256, "n_positions": 64, "n_embd": 128, "n_layer": 4, "n_head": 4}
B, T, LR, WARMUP, EVAL_EVERY, EVAL_BATCHES = 12, 64, 1e-3, 100, 250, 20


def initial_model() -> TorchGPT2:
    """GPT-2's initial weights: normal, smaller where a block adds to the residual stream."""
    model = TorchGPT2(**SIZES)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            scale = 0.02 / math.sqrt(2 * SIZES["n_layer"]) if name.endswith("c_proj.weight") else 0.02
            torch.nn.init.normal_(parameter, std=scale)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    return model


def learning_rate(step: int, steps: int) -> float:
    """Up in the warm-up, down along a cosine to a tenth."""
    if step < WARMUP:
        return LR * (step + 1) / (WARMUP + 1)
    part = (step - WARMUP) / max(1, steps - WARMUP)
    return LR * (0.1 + 0.45 * (1 + math.cos(math.pi * part)))


def batch(tokens: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of one step."""
    starts = rng.integers(len(tokens) - T, size=B)
    rows = torch.from_numpy(tokens[starts[:, None] + np.arange(T + 1)])
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@torch.no_grad()
def loss_over(model: TorchGPT2, tokens: np.ndarray) -> float:
    """The mean loss of all whole windows, side by side."""
    count = (len(tokens) - 1) // T
    inputs, targets = (torch.from_numpy(tokens[i : i + count * T].reshape(count, T)) for i in (0, 1))
    parts = [(model(x, y).item(), len(x)) for x, y in zip(inputs.split(64), targets.split(64), strict=True)]
    return sum(loss * rows for loss, rows in parts) / count


def main(text: str, result: str, steps: int = 2000) -> None:
    """Train, and write the last validation loss as JSON."""
    torch.manual_seed(1337)
    rng = np.random.default_rng(1337)
    tokens = np.frombuffer(Path(text).read_bytes(), np.uint8).astype(np.int64)
    parts = np.split(tokens, [len(tokens) * 9 // 10])
    model = initial_model()
    optimizer = optimizer_for(model, LR, weight_decay=0.1, betas=(0.9, 0.99))
    for step in range(steps):
        if step % EVAL_EVERY == 0:
            with torch.no_grad():
                losses = [np.mean([model(*batch(part, rng)).item() for _ in range(EVAL_BATCHES)]) for part in parts]
            print(f"step {step}: train {losses[0]:.4f}, validation {losses[1]:.4f}", flush=True)
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, f"{result}.pt")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        train_step(model, optimizer, *batch(parts[0], rng), bfloat16=False)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, f"{result}.pt")
    Path(result).write_text(json.dumps({"loss": loss_over(model, parts[1])}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))

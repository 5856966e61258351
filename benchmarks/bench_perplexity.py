"""
The perplexity of each type of weights on three texts, against another checkout.

Read as generation reads it: token by token through a `Decoder`, so that everything which rounds there is in the figure,
activations too. Windows lie side by side, and several are read at once. In float32 the loss must be that of `evaluate`
for the same tokens, which reads whole windows.

The model is the one that --model names: a run, a folder or a name of the hub, such as gpt2. The table says which.
Without one, nothing can be said about perplexity, and there are no rows.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_generate
from benchmarks.kernel_race import WrongResult
from benchmarks.texts import TEXTS, ids_of
from benchmarks.worker import ROOT, Worker
from tinygpt.quantization import KINDS
from tinygpt.runtime.streams import bar

CASES = tuple(TEXTS)
SIDES = tuple(f"tinygpt {kind}" for kind in KINDS)
TOKENS = 2048  # of each text
CONTEXT, STREAMS = 256, 8  # at most: tokens of a window, and windows that are read at once
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-3, "int8": 2e-2, "int4": 2e-2}  # of the loss of whole windows

_side: dict[str, Any] = {}


def prepare(kind: str, model: str | None) -> float:
    """Load the model with such weights in this process; the bytes of weights that a token reads."""
    from tinygpt import GPT, GPTConfig, load
    from tinygpt.quantization import quantize_model

    if model is None:
        _side["tokenizer"] = None
        _side["model"] = GPT(GPTConfig(**bench_generate.SIZES["tiny"]), seed=1337).eval()
        quantize_model(_side["model"], kind)
    else:
        _side["model"], _side["tokenizer"] = load(model, weights=kind)
        _side["model"].eval()
    return bench_generate.weights_read(_side["model"])


def score(text: str, count: int) -> dict[str, float]:
    """The mean loss of some tokens of a text, through a decoder and in whole windows, and how many were scored."""
    from tinygpt.training.evaluate import windows

    model, tokenizer = _side["model"], _side["tokenizer"]
    if tokenizer is None:
        ids = np.random.default_rng(len(text)).integers(0, model.config.vocab_size, count)
    else:
        ids = np.array(ids_of(text, tokenizer, count))
    context = min(CONTEXT, model.config.n_positions)
    batches = [*windows(ids, context, STREAMS)]
    scored = sum(targets.size for _, targets in batches)
    return {
        "loss": sum(decoded_loss(model, *batch) for batch in batches) / scored,
        "whole": sum(model.loss(*batch).item() * batch[1].size for batch in batches) / scored,
        "tokens": scored,
    }


def decoded_loss(model: Any, inputs: np.ndarray, targets: np.ndarray) -> float:
    """The sum of the losses of `targets` (B, T), each after the tokens of `inputs` up to it, read one at a time."""
    B, T = inputs.shape
    decoder, total = model.decoder(B, T), 0.0
    for t in range(T):
        if t:
            logits = decoder.step(range(B), inputs[:, t])
        else:
            logits = np.stack([decoder.prefill(b, inputs[b, :1]) for b in range(B)])
        logits = logits.astype(np.float64)
        top = logits.max(axis=1)
        total += float(
            (np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[range(B), targets[:, t]]).sum()
        )
    return total


def verify(side: str, text: str, found: dict[str, float]) -> None:
    """Raise WrongResult unless the decoder's loss is that of whole windows, up to rounding."""
    loss, whole, tolerance = found["loss"], found["whole"], TOLERANCE[side.split()[1]]
    if not abs(loss - whole) <= tolerance * whole:
        raise WrongResult(f"{text}: {side} has a loss of {loss:.5f} token by token, {whole:.5f} in whole windows")


def race(
    rounds: int, cases: Sequence[str] = CASES, sides: Sequence[str] = SIDES, until: float = np.inf,
    against: Path | None = None, model: str | None = None, tokens: int = TOKENS,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """
    The rows of the table, one for each text; none with 0 rounds, when the losses of a tiny model are verified.

    Parameters
    ----------
    rounds : int
        Nothing is random: any number but 0 is 1.
    cases, sides, until, against
        As in `bench_generate.race`.
    model : str, optional
        Which one; None is a random model, of which nothing but correctness is of interest.
    tokens : int
        Of each text.
    """
    model = _named(model)
    with contextlib.ExitStack() as processes:
        roots = {"against": against or ROOT}
        workers, read, left_out = {}, {}, {}
        for side in sides:
            framework, kind = side.split()
            worker = processes.enter_context(Worker(side, roots.get(framework, ROOT), harness=ROOT))
            if framework == "against" and kind not in worker.ask("benchmarks.bench_generate", "kinds"):
                worker.close()
                left_out[side] = f"it has no weights in {kind}"
                continue
            read[side] = worker.ask(__name__, "prepare", kind=kind, model=model)
            workers[side] = worker
        for case in bar(iterable=cases, desc="perplexity", unit="text", leave=False, disable=not rounds):
            if time.monotonic() > until:
                return
            losses, scored = {}, 0
            for side, worker in workers.items():
                found = worker.ask(__name__, "score", text=case, count=tokens if rounds else 40)
                verify(side, case, found)
                losses[side], scored = found["loss"], found["tokens"]
            if rounds:
                yield {"case": case, "model": Path(str(model)).name, "losses": losses, "tokens": scored, "bytes": read,
                       "left_out": left_out}  # fmt: skip


def _named(model: str | None) -> str | None:
    """A folder's full name: processes of another checkout run elsewhere."""
    return str(Path(model).resolve()) if model is not None and Path(model).exists() else model

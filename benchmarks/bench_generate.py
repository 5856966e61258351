"""
Generation by GPT-2 124M and reading a prompt, against transformers' own `generate`.

All sides have the same weights. Before anything is timed, the greedy continuations of float32 must be PyTorch's, and
each token's logits those of a reading of the whole text by the same model, its weights quantized or not. Each side has
a process of its own, and they take turns. "python" is the time per token outside the decoder: sampling, and the loop.

Several streams read the weights once for all of them: the share of the bandwidth is that of the weights alone, so it
says how far one is from the time that reading them takes. The bandwidth is that of an array beyond the caches, which is
read in turns with the sides: on a shared machine the best of some other minute says little.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kernel_race import WrongResult
from benchmarks.machine import HAS_TRANSFORMERS
from benchmarks.worker import ROOT, Worker
from tinygpt.quantization import KINDS
from tinygpt.runtime.streams import bar

GPT2 = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
SIZES = {
    "gpt2": GPT2,
    "small": {"vocab_size": 8192, "n_positions": 640, "n_embd": 128, "n_layer": 4, "n_head": 4},
    "tiny": {"vocab_size": 97, "n_positions": 640, "n_embd": 24, "n_layer": 2, "n_head": 2},
}
NAMES = {"gpt2": "GPT-2 124M", "small": "4 layers of 128 features"}
PROMPT, NEW, LONG = 32, 256, 512
STREAMS = (1, 2, 4, 8)
OURS = tuple(f"tinygpt {kind}" for kind in KINDS)
SIDES = (*OURS, "torch float32", "torch bfloat16") if HAS_TRANSFORMERS else OURS
# What is run, for how many streams, and how many tokens of a stream that makes.
CASES = {
    "one stream": ("generate", 1, NEW),
    **{f"{batch} streams": ("generate", batch, NEW * batch) for batch in STREAMS[1:]},
    f"reading {LONG} tokens": ("prefill", 1, 1),
    "python's share": ("python", 1, NEW),
}
PAUSE = 0.2
READS = 20  # of the array that tells the bandwidth, in a turn: about as long as a short text
# How far the logits of a token may be from those of a reading of the whole text, as a share of the largest: rounding of
# activations, where a product of quantized weights does that, is in it.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "int8": 2e-2, "int4": 2e-2}

_side: dict[str, Any] = {}


def kinds() -> list[str]:
    """The types of weights that the tinygpt of this process has."""
    return [*KINDS]


def prepare(side: str, size: str) -> dict[str, Any]:
    """Build a side in this process; 16 tokens of its greedy continuation, and the bytes of weights that each reads."""
    from tinygpt import GPT, GPTConfig
    from tinygpt.quantization import quantize_model

    model = GPT(GPTConfig(**SIZES[size]), seed=1337).eval()
    model.wte.weight.data *= 5  # random logits lie close together: now no rounding decides between two of them
    framework, kind = side.split()
    prompt = np.random.default_rng(5).integers(0, model.config.vocab_size, LONG)
    if framework == "torch":
        _side.update(_theirs(model, prompt, kind))
        read = bytes_per_token(size) / (2 if kind == "bfloat16" else 1)
    else:
        quantize_model(model, kind)
        _side.update(_ours(model, prompt, TOLERANCE[kind]))
        read = weights_read(model)
    return {"greedy": _side["greedy"](16), "bytes": read}


def weights_read(model: Any) -> int:
    """The bytes of all matrices that each token reads, in the form in which they are kept; positions are not."""
    total = 0
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and name != "wpe.weight":
            layer = model
            for part in name.removesuffix(".weight").split("."):
                layer = layer[int(part)] if part.isdigit() else getattr(layer, part)
            stored = layer.quantized  # of an earlier checkout, too, which counts no bytes itself
            arrays = [parameter.data] if stored is None else [stored.values, stored.scale]
            total += sum(array.nbytes for array in arrays)
    return total


def verify_logits(model: Any, prompt: Sequence[int], told: Sequence[int], tolerance: float) -> None:
    """Raise WrongResult unless a decoder has the logits of each token of a continuation that the whole text gives."""
    from tinygpt import no_grad

    decoder, text = model.decoder(), [*map(int, prompt), *map(int, told)]
    got = [decoder.prefill(0, text[: len(prompt)]), *(decoder.step([0], [id])[0] for id in text[len(prompt) : -1])]
    with no_grad():
        expected = model.head(model.hidden(np.array([text[:-1]]))[:, len(prompt) - 1 :]).data[0]
    gap, scale = float(np.max(np.abs(np.array(got) - expected))), float(np.max(np.abs(expected)))
    if not gap <= tolerance * scale:
        raise WrongResult(f"cached logits are off by {gap:.3g}, allowed {tolerance:.3g} of {scale:.3g}; not timed")


def _ours(model: Any, prompt: np.ndarray, tolerance: float) -> dict[str, Any]:
    from tinygpt.generation.generate import UncachedDecoder, generate_batch

    options = {"temperature": 0.8, "top_k": 50, "seed": 1}

    def generate(batch: int) -> None:
        count = sum(1 for _ in generate_batch(model, [prompt[:PROMPT]] * batch, max_tokens=NEW, **options))
        assert count == NEW * batch

    def greedy(count: int) -> list[int]:
        told = list(model.generate(prompt[:PROMPT], max_tokens=count, temperature=0))
        verify_logits(model, prompt[:PROMPT], told, tolerance)
        return told

    class Nothing(UncachedDecoder):
        logits = np.random.default_rng(0).standard_normal(model.config.vocab_size).astype(np.float32)

        def prefill(self, sequence, tokens):
            return self.logits

        def next_tokens(self, sequences, tokens, uniforms, temperature, top_k, top_p):
            return np.zeros(len(sequences), np.int64)

    def python(batch: int) -> None:
        stub = type("Stub", (), {"config": model.config, "decoder": lambda self, n, capacity: Nothing(self, n)})()
        assert sum(1 for _ in generate_batch(stub, [prompt[:PROMPT]], max_tokens=NEW, **options)) == NEW

    decoder = model.decoder()

    def prefill(batch: int) -> None:
        decoder.prefill(0, prompt)

    return {"generate": generate, "greedy": greedy, "python": python, "prefill": prefill}


def bandwidth() -> float:
    """GB/s of reading memory, now."""
    from tinygpt.kernels import rates

    if "array" not in _side:
        _side["array"] = rates.reading(rates.beyond_caches())
    size, read = _side["array"]
    start = time.perf_counter()
    for _ in range(READS):
        read()
    return READS * size / (time.perf_counter() - start) / 1e9


def as_transformers(model: Any, kind: str) -> Any:
    """The same model of transformers, in float32 or bfloat16."""
    import torch
    import transformers

    config = transformers.GPT2Config(**model.config.to_dict(), bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    weights = {f"transformer.{name}": torch.from_numpy(array) for name, array in model.state_dict().items()}
    theirs.load_state_dict(weights, strict=False)
    theirs = theirs.to(torch.bfloat16 if kind == "bfloat16" else torch.float32)
    theirs.generation_config.pad_token_id = 0
    theirs.generation_config.eos_token_id = None
    return theirs


def _theirs(model: Any, prompt: np.ndarray, kind: str) -> dict[str, Any]:
    import torch

    theirs = as_transformers(model, kind)

    def told(batch: int, count: int, **options: Any) -> Any:
        ids = torch.from_numpy(np.tile(prompt[None, :PROMPT], (batch, 1)))
        with torch.inference_mode():
            return theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **options)

    def prefill(batch: int) -> Any:
        with torch.inference_mode():
            return theirs(torch.from_numpy(prompt[None]), use_cache=True, logits_to_keep=1)

    sampling = {"do_sample": True, "temperature": 0.8, "top_k": 50}
    return {"generate": lambda batch: told(batch, NEW, **sampling), "prefill": prefill,
            "greedy": lambda count: told(1, count, do_sample=False)[0, PROMPT:].tolist()}  # fmt: skip


def measure(what: str, batch: int) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    _side[what](batch)
    return time.perf_counter() - start


def race(
    rounds: int, size: str = "gpt2", sides: Sequence[str] = SIDES, cases: Sequence[str] = (*CASES,),
    until: float = np.inf, against: Path | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """
    The rows of the table, each as soon as it is measured; with 0 rounds the continuations are verified, that is all.

    Times are seconds per token of a stream in decoding, seconds in reading a prompt. No row is begun after `until`, a
    time of `time.monotonic`. `against` is another checkout, which sides named "against" in place of "tinygpt" run.
    """
    if time.monotonic() > until:
        return
    with contextlib.ExitStack() as processes:
        roots = {"against": against or ROOT}
        workers, told, left_out = {}, {}, {}
        for side in dict.fromkeys(("tinygpt float32", *sides)):
            framework, kind = side.split()
            worker = processes.enter_context(Worker(side, roots.get(framework, ROOT), harness=ROOT))
            if framework == "against" and kind not in worker.ask(__name__, "kinds"):
                worker.close()
                left_out[side] = f"it has no weights in {kind}"
                continue
            told[side] = worker.ask(__name__, "prepare", side=side.replace("against", "tinygpt"), size=size)
            workers[side] = worker
        greedy = {side: found["greedy"] for side, found in told.items() if side.endswith("float32")}
        for side, theirs in greedy.items():
            if theirs != greedy["tinygpt float32"]:
                raise WrongResult(f"tinygpt continues {greedy['tinygpt float32']}, {side} {theirs}; not timed")
        for case in bar(
            iterable=cases if rounds else [], desc="generation", unit="case", leave=False, disable=not rounds
        ):
            if time.monotonic() > until:
                return
            what, batch, units = CASES[case]
            racing = [side for side in workers if side in sides and (what != "python" or not side.startswith("torch"))]
            readings: dict[str, list[float]] = {side: [] for side in racing}
            bandwidths: list[float] = []
            for turn in range(rounds + 1):
                if turn > 1 and time.monotonic() > until:
                    break
                if what == "generate" and size == "gpt2":  # smaller ones stay in a cache
                    time.sleep(PAUSE)
                    bandwidths.append(workers["tinygpt float32"].ask(__name__, "bandwidth"))
                for side, times in readings.items():
                    time.sleep(PAUSE)
                    seconds = workers[side].ask(__name__, "measure", what=what, batch=batch)
                    if turn:  # the first warms up
                        times.append(seconds / units)
            if readings:
                weights = {side: told[side]["bytes"] for side in readings}
                yield {"case": case, "size": size, "readings": readings, "bytes": weights, "bandwidth": bandwidths[1:],
                       "left_out": left_out}  # fmt: skip


def bytes_per_token(size: str) -> float:
    """Of the float32 matrices that each token reads."""
    sizes = SIZES[size]
    return 4 * (sizes["vocab_size"] * sizes["n_embd"] + 12 * sizes["n_layer"] * sizes["n_embd"] ** 2)

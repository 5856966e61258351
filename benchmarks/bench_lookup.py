"""
Prompt look-up decoding, against generation without it, and transformers' own: on stories, code and repeated text.

The model is the one that --model names; without one there are no rows, for how many guesses a model accepts depends on
what it has learned. Each text gives several prompts. Before anything is timed, the greedy text with look-up must be the
one without, token by token, and so must a sampled text with the same seed.

"repeated text" is a passage of the stories that stands in the prompt three times.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_generate
from benchmarks.bench_perplexity import _named
from benchmarks.kernel_race import WrongResult
from benchmarks.machine import HAS_TRANSFORMERS
from benchmarks.texts import ids_of
from benchmarks.worker import ROOT, Worker
from tinygpt.generation.generate import generate_batch
from tinygpt.quantization import KINDS
from tinygpt.runtime.streams import bar

HAS_LOOKUP = "lookup" in inspect.signature(generate_batch).parameters
CASES = {"stories": "the bundled stories", "code": "Python's library", "repeated text": "the bundled stories"}
OURS = tuple(f"tinygpt {kind}{how}" for kind in KINDS for how in ("", " lookup")) if HAS_LOOKUP else ()
THEIRS = ("torch float32", "torch float32 lookup") if HAS_TRANSFORMERS and HAS_LOOKUP else ()
SIDES = (*OURS, *THEIRS)
DEFAULT = tuple(side for side in SIDES if "float32" in side)
PROMPTS, PROMPT, NEW = 4, 256, 128  # prompts of a text, and the most tokens of a prompt and of its continuation
GUESSES = 10  # transformers' number of tokens that are guessed at a time, that of its documentation
ROUNDS, PAUSE = 3, 0.2

_side: dict[str, Any] = {}


def prepare(kind: str, framework: str, model: str | None) -> None:
    """Load the model in this process, for texts with and without look-up."""
    from tinygpt import GPT, GPTConfig, load
    from tinygpt.quantization import quantize_model

    if model is None:
        ours, tokenizer = GPT(GPTConfig(**bench_generate.SIZES["tiny"]), seed=1337).eval(), None
        quantize_model(ours, kind)
    else:
        ours, tokenizer = load(model, weights=kind)
    _side.update(model=ours.eval(), tokenizer=tokenizer)
    if framework == "torch":
        _side["theirs"] = bench_generate.as_transformers(ours, kind)


def prompts(case: str) -> list[list[int]]:
    """Those of a text, each from another place of it."""
    model, tokenizer = _side["model"], _side["tokenizer"]
    length = min(PROMPT, model.config.n_positions // 2)
    part = length // 3 if case == "repeated text" else length
    if tokenizer is None:
        ids = np.random.default_rng(len(case)).integers(0, 20, PROMPTS * part).tolist()
    else:
        ids = ids_of(CASES[case], tokenizer, PROMPTS * part)
    passages = [ids[i * part : (i + 1) * part] for i in range(PROMPTS)]
    return [passage * 3 for passage in passages] if case == "repeated text" else passages


def texts(case: str, lookup: bool, temperature: float = 0.0) -> list[list[int]]:
    """The continuation of each prompt."""
    return [_continue(prompt, lookup, temperature) for prompt in prompts(case)]


def measure(case: str, lookup: bool) -> float:
    """Seconds per token of the greedy continuations."""
    given = prompts(case)
    start = time.perf_counter()
    count = sum(len(_continue(prompt, lookup, 0.0)) for prompt in given)
    return (time.perf_counter() - start) / count


def _continue(prompt: list[int], lookup: bool, temperature: float) -> list[int]:
    count = min(NEW, _side["model"].config.n_positions // 2)
    if "theirs" in _side:
        import torch

        ids = torch.tensor([prompt])
        with torch.inference_mode():
            told = _side["theirs"].generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
                prompt_lookup_num_tokens=GUESSES if lookup else None,
            )  # fmt: skip
        return told[0, len(prompt) :].tolist()
    options = {"lookup": True} if lookup else {}  # an earlier checkout has no such option
    return list(_side["model"].generate(prompt, max_tokens=count, temperature=temperature, seed=1, **options))


def verify(case: str, side: str, plain: list[list[int]], guessed: list[list[int]]) -> None:
    """Raise WrongResult unless the texts with look-up are those without."""
    for number, (expected, got) in enumerate(zip(plain, guessed, strict=True)):
        if got != expected:
            raise WrongResult(f"{case}: {side} continues prompt {number} by {got}, without it {expected}; not timed")


def race(
    rounds: int, cases: Sequence[str] = tuple(CASES), sides: Sequence[str] = DEFAULT, until: float = np.inf,
    against: Path | None = None, model: str | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """
    The rows of the table, each as soon as it is measured; none with 0 rounds, when texts are verified.

    Times are seconds per token of one stream, the reading of the prompts included.

    Parameters
    ----------
    rounds, cases, sides, until, against
        As in `bench_generate.race`; another checkout's look-up races only if it has one.
    model : str, optional
        Which one; None is a random model, of which nothing but correctness is of interest.
    """
    model = _named(model)
    with contextlib.ExitStack() as processes:
        roots = {"against": against or ROOT}
        workers: dict[str, Worker] = {}
        racing, left_out = [], {}
        for side in sides:
            framework, kind, *how = side.split()
            name = f"{framework} {kind}"
            if name not in workers:
                workers[name] = processes.enter_context(Worker(name, roots.get(framework, ROOT), harness=ROOT))
            if framework == "against":
                if kind not in workers[name].ask("benchmarks.bench_generate", "kinds"):
                    left_out[side] = f"it has no weights in {kind}"
                    continue
                if how and not workers[name].ask(__name__, "has_lookup"):
                    left_out[side] = "it has no look-up decoding"
                    continue
            racing.append(side)
        for name, worker in workers.items():
            if any(side.startswith(name) for side in racing):
                framework, kind = name.split()
                worker.ask(__name__, "prepare", kind=kind, framework=framework, model=model)
        for case in bar(iterable=cases, desc="look-up", unit="text", leave=False, disable=not rounds):
            if time.monotonic() > until:
                return
            for side in racing:
                if side.endswith("lookup") and not side.startswith("torch"):
                    worker = workers[side.removesuffix(" lookup")]
                    for temperature in (0.0, 0.8):
                        given = {"case": case, "temperature": temperature}
                        plain, guessed = (worker.ask(__name__, "texts", lookup=how, **given) for how in (False, True))
                        verify(case, side, plain, guessed)
            readings: dict[str, list[float]] = {side: [] for side in racing}
            for turn in range(rounds):
                if turn and time.monotonic() > until:
                    break
                for side, times in readings.items():
                    time.sleep(PAUSE)
                    worker = workers[side.removesuffix(" lookup")]
                    times.append(worker.ask(__name__, "measure", case=case, lookup=side.endswith("lookup")))
            if rounds and racing:
                yield {"case": case, "model": Path(str(model)).name, "readings": readings, "left_out": left_out}


def has_lookup() -> bool:
    """Whether the tinygpt of this process has look-up decoding."""
    return HAS_LOOKUP

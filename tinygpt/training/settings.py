"""The settings of a training run, and each preset's defaults for those that are not given."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from typing import Any

from tinygpt.files.one_line import brief
from tinygpt.gpt2.config import PRESETS, GPTConfig

# Decay, clip and second beta of the large models are GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix B), and its
# learning rates are halved (6e-4 for 125M to 2e-4 for 1.3B, table 2.1), since a laptop's batches are far smaller.
# The small models take beta2 = 0.99, as nanoGPT does for batches of few tokens.
PATHS = ("data", "tokenizer", "init_from")  # each may be relative to the folder in which the run was started
PRECISIONS = ("float32", "bfloat16")
_LARGE = {"steps": 1000, "batch_size": 4, "lr": 3e-4, "warmup": 50, "beta2": 0.95, "eval_every": 100}
RECIPES: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 600, "batch_size": 8, "lr": 2e-3, "warmup": 50, "beta2": 0.99, "eval_every": 100},
    # nanoGPT's recipe for a laptop's CPU, from its README and config/train_shakespeare_char.py; like it, this scores 20
    # batches of 12 x 64 while training
    "shakespeare-char": {
        "steps": 2000,
        "batch_size": 12,
        "lr": 1e-3,
        "warmup": 100,
        "beta2": 0.99,
        "eval_every": 250,
        "eval_tokens": 15360,
    },
    # 100 stories are 30,000 tokens: seven passes, a quarter of an hour on two cores, and the loss still falls
    "bedtime": _LARGE | {"steps": 100, "warmup": 20, "eval_every": 20},
    "gpt2": _LARGE,
    "gpt2-medium": _LARGE | {"lr": 1.5e-4, "batch_size": 2},
    "gpt2-large": _LARGE | {"lr": 1.25e-4, "batch_size": 1},
    "gpt2-xl": _LARGE | {"lr": 1e-4, "batch_size": 1},
}

# A trained model needs few steps and small ones: the learning rate is a sixth of that of training, and
# 200 steps of 1,024 tokens see a book of 200,000 once: with GPT-2 at full size 200 times 2.6 s in bfloat16, two cores.
FINE_TUNING = {"steps": 200, "batch_size": 4, "context": 256, "lr": 5e-5, "warmup": 20, "beta2": 0.95, "eval_every": 25}

_MOST = 1 << 40  # of anything that is counted
_KINDS: dict[str, tuple[Any, str]] = {
    "int": (numbers.Integral, "an integer"),
    "float": (numbers.Real, "a number"),
    "str": (str, "text"),
    "str | None": ((str, os.PathLike, type(None)), "text or None"),
    "bool": (bool, "True or False"),
}


def _require_kind(name: str, annotation: str, value: Any) -> None:
    kind, required = _KINDS[annotation]
    if not isinstance(value, kind) or (isinstance(value, bool) and annotation != "bool"):
        raise TypeError(f"train: {name} must be {required}, got {brief(value)}")


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """
    Everything that decides what a run computes: equal settings give equal weights, to the last bit.

    Parameters
    ----------
    preset : str
        Which sizes and which recipe.
    data : str or None
        A .txt file, a folder of them, or a token file; None: the bundled stories.
    tokenizer : str or None
        A folder with a tokenizer's files; None: train one on the training text (or take that of `init_from`).
    vocab_size : int
        Of a tokenizer that is to be trained.
    init_from : str or None
        A checkpoint to start from; its sizes replace the preset's.
    steps, batch_size, context, grad_accumulation : int
        Each optimizer step adds the gradients of `grad_accumulation` micro-batches: `batch_size` windows with `context`
        tokens per window.
    lr, min_lr, warmup
        The schedule: up to `lr` in `warmup` steps, down to `min_lr` at the end.
    beta1, beta2, weight_decay : float
        AdamW's.
    clip : float
        The largest gradient norm; infinity for no limit.
    dropout : float
        At GPT-2's three places.
    eval_every : int
        Validate, save and generate a story every so many steps.
    eval_tokens : int
        How many tokens of the validation text to score while training; the final figure takes all of them.
    seed : int
        Of the initial weights, the batches, dropout and the stories.
    precision : {"float32", "bfloat16"}
        Of the numbers that matrix products multiply; weights, gradients, sums and all else are float32 in any case.
    recompute : bool
        Keep only the input of each block for backward, and recompute the rest: less memory, same weights.

    Raises
    ------
    TypeError, ValueError
        If one of them is impossible.
    """

    preset: str = "tiny"
    data: str | None = None
    tokenizer: str | None = None
    vocab_size: int = 0
    init_from: str | None = None
    steps: int = 0
    batch_size: int = 0
    context: int = 0
    grad_accumulation: int = 1
    lr: float = 0.0
    min_lr: float = 0.0
    warmup: int = 0
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    clip: float = 1.0
    dropout: float = 0.0
    eval_every: int = 0
    eval_tokens: int = 131072
    seed: int = 1337
    precision: str = "float32"
    recompute: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _require_kind(field.name, str(field.type), getattr(self, field.name))
        positive = ("vocab_size", "steps", "batch_size", "context", "grad_accumulation", "eval_every", "eval_tokens")
        for name in positive:
            if not 1 <= getattr(self, name) < _MOST:
                limit = "at least 1" if getattr(self, name) < 1 else f"below {_MOST:,}"
                raise ValueError(f"train: {name} must be {limit}, got {brief(getattr(self, name))}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train: {name} must be positive, got {getattr(self, name)}")
        for name in ("lr", "min_lr", "weight_decay"):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"train: {name} must be finite, got {getattr(self, name)}")
        for name in ("warmup", "min_lr", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"train: {name} must be at least 0, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"train: precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.min_lr > self.lr:
            raise ValueError(f"train: min_lr must be at most lr = {self.lr}, got {self.min_lr}")
        for name in ("beta1", "beta2", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train: {name} must be at least 0 and below 1, got {getattr(self, name)}")

    @classmethod
    def from_preset(cls, preset: str = "tiny", **given: Any) -> TrainingSettings:
        """
        The preset's recipe, with the given values (None counts as not given) in place of its own.

        Examples
        --------
        >>> TrainingSettings.from_preset("shakespeare-char", steps=10).batch_size
        12
        """
        config = GPTConfig.preset(preset)
        values = RECIPES[preset] | {"context": config.n_positions, "vocab_size": config.vocab_size}
        return cls._from_recipe(preset, values | {"dropout": config.resid_pdrop}, given)

    @classmethod
    def fine_tuning(cls, config: GPTConfig, **given: Any) -> TrainingSettings:
        """
        The recipe for fine-tuning a model of these sizes, with the given values in place of its own.

        Examples
        --------
        >>> TrainingSettings.fine_tuning(GPTConfig.preset("gpt2"), steps=10).context
        256
        """
        values = FINE_TUNING | {"context": min(FINE_TUNING["context"], config.n_positions)}
        return cls._from_recipe("fine-tuning", values | {"vocab_size": config.vocab_size, "dropout": 0.1}, given)

    @classmethod
    def _from_recipe(cls, preset: str, values: dict[str, Any], given: dict[str, Any]) -> TrainingSettings:
        """A recipe, with the given values (None counts as not given) in place of its own."""
        values = values | {name: value for name, value in given.items() if value is not None}
        values.setdefault("min_lr", values["lr"] / 10)
        return cls(preset=preset, **values)

    def changed(self, given: dict[str, Any]) -> list[str]:
        """What `given` (None counts as not given) says otherwise, each as "name: mine, not theirs"."""
        return [
            f"{name} is {getattr(self, name)!r}, not {value!r}"
            for name, value in given.items()
            if value is not None and not self._says(name, value)
        ]

    def _says(self, name: str, value: Any) -> bool:
        mine = getattr(self, name)
        same_path = name in PATHS and mine is not None and os.path.realpath(mine) == os.path.realpath(value)
        return mine == value or same_path

    def to_json_values(self) -> dict[str, Any]:
        """
        What `settings.json` says: each setting, and under "paths" where relative paths lead from here.

        A `clip` of infinity, which JSON lacks, is null.

        Examples
        --------
        >>> settings = TrainingSettings.from_preset("tiny", clip=math.inf)
        >>> TrainingSettings.from_json_values(settings.to_json_values()) == settings
        True
        """
        values = dataclasses.asdict(self)
        values |= {name: os.fspath(values[name]) for name in PATHS if values[name] is not None}
        if math.isinf(self.clip):
            values["clip"] = None
        paths = {name: os.path.abspath(values[name]) for name in PATHS if values[name] and os.path.exists(values[name])}
        return values | {"paths": {name: path for name, path in paths.items() if path != values[name]}}

    @classmethod
    def from_json_values(cls, values: dict[str, Any]) -> TrainingSettings:
        """
        The settings that `to_json_values` wrote, wherever it is called.

        A relative path means what it meant where it was written; if nothing is there any more, as where a project was
        moved as a whole, what it means here.

        Raises
        ------
        TypeError, ValueError
            If these are no settings.
        """
        values = dict(values)
        for name, path in values.pop("paths", {}).items():
            if name not in PATHS or not isinstance(path, str) or not isinstance(values.get(name), str):
                raise ValueError(f"paths must name files of {', '.join(PATHS)}, got {name!r}: {path!r}")
            if os.path.exists(path) or not os.path.exists(values[name]):
                values[name] = path
        if "clip" in values and values["clip"] is None:
            values["clip"] = math.inf
        return cls(**values)


assert RECIPES.keys() == PRESETS.keys()

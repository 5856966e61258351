"""The settings of a training run, and each preset's defaults for those that are not given."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Mapping
from typing import Any

from tinygpt.files.one_line import brief, shown
from tinygpt.gpt2.config import PRESETS, GPTConfig
from tinygpt.runtime.seeds import check_seed

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
RECIPE_OF_FINE_TUNING = "fine-tuning"  # what `preset` says then
FINE_TUNING = {"steps": 200, "batch_size": 4, "context": 256, "lr": 5e-5, "warmup": 20, "beta2": 0.95, "eval_every": 25}

_MOST = 1 << 40  # of anything that is counted
RESUMABLE = ("steps", "keep_every", "recompute")  # what a resumed run may change: no step before depends on it
_KINDS: dict[str, tuple[Any, str]] = {
    "int": (numbers.Integral, "an integer"),
    "float": (numbers.Real, "a number"),
    "str": (str, "text"),
    "str | None": ((str, os.PathLike, type(None)), "text or None"),
    "bool": (bool, "True or False"),
    "tuple[tuple[int, int], ...]": (tuple, "pairs of integers"),
}


def require_kind(name: str, value: Any) -> None:
    """
    Raise TypeError unless a setting may have a value of this type, and ValueError if it is too large for a float.

    Examples
    --------
    >>> require_kind("steps", "600")
    Traceback (most recent call last):
    TypeError: train: steps must be an integer, got '600'
    """
    annotation = str(next(field.type for field in dataclasses.fields(TrainingSettings) if field.name == name))
    kind, required = _KINDS[annotation]
    if not isinstance(value, kind) or (isinstance(value, bool) and annotation != "bool"):
        raise TypeError(f"train: {name} must be {required}, got {brief(value)}")
    if annotation == "float":
        try:
            float(value)
        except OverflowError:  # an integer of hundreds of digits
            raise ValueError(f"train: {name} must be below 1.8e308, got {brief(value)}") from None


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
    keep_every : int
        Keep a checkpoint, with the state of the optimizer, every so many steps; 0 keeps none.
    extended : sequence of pairs of int
        Where a run was extended: the step, and how many steps were planned until then. ``((600, 600),)`` with 900 steps
        is a run of 600 steps that went on to 900 once it was finished. `learning_rate` depends on it.

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
    keep_every: int = 0
    extended: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.extended, list):  # as JSON and TOML have it
            pairs = tuple(tuple(pair) if isinstance(pair, list) else pair for pair in self.extended)
            object.__setattr__(self, "extended", pairs)
        for field in dataclasses.fields(self):
            require_kind(field.name, getattr(self, field.name))
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
        for name in ("warmup", "min_lr", "weight_decay", "keep_every"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"train: {name} must be at least 0, got {getattr(self, name)}")
        check_seed("train", self.seed)
        if self.warmup >= _MOST:
            raise ValueError(f"train: warmup must be below {_MOST:,}, got {brief(self.warmup)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"train: precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.min_lr > self.lr:
            raise ValueError(f"train: min_lr must be at most lr = {self.lr}, got {self.min_lr}")
        for name in ("beta1", "beta2", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train: {name} must be at least 0 and below 1, got {getattr(self, name)}")
        self._check_extended()

    def _check_extended(self) -> None:
        """Each extension is at a later step than the one before, within the steps planned there, and plans more."""
        before = 0
        for number, pair in enumerate(self.extended):
            if not (isinstance(pair, tuple) and len(pair) == 2 and all(type(value) is int for value in pair)):
                raise TypeError(f"train: extended must be pairs of integers, got {brief(pair)}")
            (at, planned), after = pair, self.planned[number + 1]
            if not before < at <= planned < after:
                raise ValueError(
                    f"train: extended must name a step, the steps planned until then and more steps after it, "
                    f"got {brief([at, planned])} before {after} steps"
                )
            before = at

    @property
    def planned(self) -> list[int]:
        """How many steps were planned: at first, and since each extension."""
        return [*(planned for _, planned in self.extended), self.steps]

    def learning_rate(self, step: int) -> float:
        """
        The learning rate of a step, counted from 0.

        It is the cosine schedule of all steps that were planned at that time. Where a run was extended, the gap between
        the schedule before and the new one closes linearly, in as many steps as the warm-up has, or in a tenth of those
        that are left if that is fewer.

        Examples
        --------
        >>> settings = TrainingSettings.from_preset("tiny", steps=600).extend(600, 900)
        >>> [float(f"{settings.learning_rate(step):.2g}") for step in (0, 50, 599, 600, 629, 899)]
        [3.9e-05, 0.002, 0.0002, 0.00022, 0.0006, 0.0002]
        """
        return self._rate(step, len(self.extended))

    def _rate(self, step: int, extensions: int) -> float:
        """The learning rate as it was planned after so many extensions."""
        from tinygpt.optim import cosine_schedule  # late: the help page needs no NumPy

        s = self

        def cosine(step: int) -> float:
            return cosine_schedule(step, lr=s.lr, min_lr=s.min_lr, warmup=s.warmup, steps=s.planned[extensions])

        if not extensions:
            return cosine(step)
        at = self.extended[extensions - 1][0]
        if step < at:
            return self._rate(step, extensions - 1)
        gap = cosine(at) - self._rate(at, extensions - 1)
        rewarm = min(self.warmup, (self.planned[extensions] - at) // 10)
        return cosine(step) - gap * max(0.0, 1 - (step - at + 1) / (rewarm + 1))

    def planned_end(self, step: int) -> bool:
        """Whether the run ends here, or was planned to until it was extended here."""
        return step == self.steps or any(at == planned == step for at, planned in self.extended)

    def extend(self, step: int, steps: int) -> TrainingSettings:
        """
        The settings of a run that has done `step` steps, and is now to do `steps`.

        Examples
        --------
        >>> settings = TrainingSettings.from_preset("tiny", steps=600).extend(600, 900)
        >>> settings.steps, settings.extended
        (900, ((600, 600),))
        >>> settings.extend(600, 1000).extended  # before a step of it was done: as if it had been 1000 at once
        ((600, 600),)
        >>> settings.extend(200, 1000).extended  # also of a run that repeats this one, and is not there yet
        ((600, 600),)
        """
        if steps == self.steps:
            return self
        last = self.extended[-1][0] if self.extended else 0  # not begun yet where the run of a config.toml is earlier
        extended = self.extended if step <= last else (*self.extended, (step, self.steps))
        return dataclasses.replace(self, steps=steps, extended=extended)

    def resumed(self, given: Mapping[str, Any], run: str | os.PathLike[str]) -> TrainingSettings:
        """
        These settings, of a run, with what `given` (None counts as not given) changes of them while it is resumed.

        Parameters
        ----------
        given : mapping
            Settings by name. Those in `RESUMABLE` may be other than the run's, all others must be the same; `extended`,
            which is the run's own, is not looked at.
        run : path
            The run, for the error.

        Returns
        -------
        TrainingSettings
            With `steps` as given, and `extended` as it is: `extend` adds the step at which that is done.

        Raises
        ------
        ValueError
            If another setting is changed, or fewer steps are given than planned.
        """
        given = {name: value for name, value in given.items() if value is not None}
        if changed := self.changed(given):
            raise ValueError(
                f"train: --resume goes on with the settings of {shown(run)}, where {'; '.join(changed)}; leave them "
                f"out, or start a new run with --init-from {shown(run)}"
            )
        changes = {name: given[name] for name in RESUMABLE if name in given}
        if (steps := changes.get("steps", self.steps)) < self.steps:
            raise ValueError(
                f"train: steps must be at least the {self.steps} that {shown(run)} was planned for, got {steps}; to "
                f"stop sooner, use --stop-after {steps}"
            )
        return dataclasses.replace(self, **changes)

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
        values |= {"vocab_size": config.vocab_size, "dropout": 0.1}
        return cls._from_recipe(RECIPE_OF_FINE_TUNING, values, given)

    @classmethod
    def _from_recipe(cls, preset: str, values: dict[str, Any], given: dict[str, Any]) -> TrainingSettings:
        """A recipe, with the given values (None counts as not given) in place of its own."""
        values = values | {name: value for name, value in given.items() if value is not None}
        if "min_lr" not in values:
            require_kind("lr", values["lr"])
            values["min_lr"] = values["lr"] / 10
        return cls(preset=preset, **values)

    def changed(self, given: Mapping[str, Any]) -> list[str]:
        """What `given` says otherwise and a resumed run may not change, each as "name is mine, not theirs"."""
        return [
            f"{name} is {getattr(self, name)!r}, not {value!r}"
            for name, value in given.items()
            if value is not None and name not in (*RESUMABLE, "extended") and not self._says(name, value)
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

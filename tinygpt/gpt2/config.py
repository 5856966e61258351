"""The configuration of a GPT-2, with the field names of GPT-2's own configuration files, and the presets."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from tinygpt.files.one_line import brief, shown

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 2048, "n_positions": 128, "n_embd": 128, "n_layer": 4, "n_head": 4},
    "shakespeare-char": {"vocab_size": 256, "n_positions": 64, "n_embd": 128, "n_layer": 4, "n_head": 4, "dropout": 0},
    "bedtime": {"vocab_size": 50257, "n_positions": 512, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-medium": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 1600, "n_layer": 48, "n_head": 25},
}

# Aliases of fields, as in `attribute_map` of transformers' GPT2Config.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """
    The sizes and dropout rates of a GPT-2.

    Parameters
    ----------
    vocab_size : int
        V, the number of tokens in the vocabulary.
    n_positions : int
        The context length: the most tokens that the model reads at once.
    n_embd, n_layer, n_head : int
        C features per token, L blocks, H heads per block; C must be a multiple of H.
    embd_pdrop, attn_pdrop, resid_pdrop : float
        Dropout rates after the embeddings, on the attention weights, and before each residual sum.
    layer_norm_epsilon : float
        Added to the variance in each layer norm.
    initializer_range : float
        Standard deviation of the initial weights.
    n_inner : int, optional
        I, the number of hidden features of the MLP. By default 4 C, as in GPT-2.

    Raises
    ------
    TypeError, ValueError
        If a size or a rate is impossible.

    Examples
    --------
    >>> GPTConfig.preset("gpt2").n_layer
    12
    >>> GPTConfig.preset("gpt2", n_layer=2, dropout=0.0).attn_pdrop
    0.0
    >>> GPTConfig(n_embd=8, n_head=2).inner, GPTConfig(n_embd=8, n_head=2, n_inner=20).inner
    (32, 20)
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    n_inner: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"):
            value = getattr(self, name)
            if name == "n_inner" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"GPTConfig: {name} must be an integer, got {brief(value)}")
            if value < 1:
                raise ValueError(f"GPTConfig: {name} must be at least 1, got {value}")
        if self.n_embd % self.n_head:
            fits = -(-self.n_embd // self.n_head) * self.n_head
            raise ValueError(
                f"GPTConfig: n_embd must be a multiple of n_head, got n_embd = {self.n_embd}, n_head = {self.n_head}; "
                f"n_embd = {fits} would fit"
            )
        for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
            if not 0 <= self._number(name) < 1:
                raise ValueError(f"GPTConfig: {name} must be at least 0 and below 1, got {getattr(self, name)}")
        for name in ("layer_norm_epsilon", "initializer_range"):
            if not 0 < self._number(name) < math.inf:
                raise ValueError(f"GPTConfig: {name} must be positive and finite, got {getattr(self, name)}")

    def _number(self, name: str) -> float:
        value = getattr(self, name)
        if isinstance(value, (str, bool)) or not isinstance(value, SupportsFloat):
            raise TypeError(f"GPTConfig: {name} must be a number, got {brief(value)}")
        return float(value)

    @property
    def inner(self) -> int:
        """The number of hidden features of the MLP: `n_inner`, or 4 C where that is None."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @classmethod
    def preset(cls, name: str, **changes: Any) -> GPTConfig:
        """
        A named configuration, with changes.

        Parameters
        ----------
        name : str
            A key of `PRESETS`, such as "tiny" or "gpt2".
        **changes
            Fields to replace. `dropout` sets all three dropout rates.

        Returns
        -------
        GPTConfig

        Raises
        ------
        ValueError
            If there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"GPTConfig.preset: must be one of {', '.join(PRESETS)}, got {name!r}")
        values = PRESETS[name] | changes
        if "dropout" in values:
            rate = values.pop("dropout")
            values = {"embd_pdrop": rate, "attn_pdrop": rate, "resid_pdrop": rate} | values
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary, with the names of a Hugging Face config.json."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPTConfig:
        """
        A configuration from the contents of a config.json.

        Missing fields have GPT-2's values; unknown fields are ignored. Sizes may have the aliases that transformers
        gives them in all models, such as `hidden_size`; where both names are present, the alias counts, as in
        transformers. Strings and null in place of numbers are refused, as there. `n_ctx`, in files from before 2020, is
        ignored: it has the value of `n_positions`.

        Parameters
        ----------
        values : mapping of str to value

        Returns
        -------
        GPTConfig

        Raises
        ------
        TypeError, ValueError
            If a size or a rate is impossible. The message has the name that the file has.

        Examples
        --------
        >>> GPTConfig.from_dict({"num_hidden_layers": 2, "n_ctx": 1024}).n_layer
        2
        """
        names = {field.name: field.name for field in dataclasses.fields(cls)}
        names |= {name: alias for alias, name in ALIASES.items() if alias in values}
        try:
            return cls(**{name: values[source] for name, source in names.items() if source in values})
        except (TypeError, ValueError) as error:
            message = str(error)
            for name, source in names.items():
                if name != source:
                    message = message.replace(f"{name} must", f"{source} must")
            raise type(error)(message) from None

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str]) -> GPTConfig:
        """
        The configuration of a model that was saved, without reading its weights.

        Parameters
        ----------
        name : path or str
            A run, a checkpoint, a Hugging Face folder, or a name of the hub, from which only the configuration is
            downloaded; see files/locate.py.

        Returns
        -------
        GPTConfig

        Raises
        ------
        OSError
            If there is no such model, or it has no config.json.
        TypeError, ValueError
            If the file is damaged, or a size or a rate in it is impossible.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "config.json").write_text('{"n_layer": 2}')
        ...     GPTConfig.from_pretrained(folder).n_layer
        2
        """
        from tinygpt.files import locate  # late: a configuration needs no files
        from tinygpt.files.json_file import read_object

        def read(folder: Path) -> GPTConfig:
            values = read_object(folder / "config.json", "GPTConfig.from_pretrained", "give the folder of a GPT-2")
            try:
                return cls.from_dict(values)
            except (TypeError, ValueError) as error:
                where = shown(folder / "config.json")
                raise type(error)(f"{where}: {str(error).removeprefix('GPTConfig: ')}") from None

        return locate.read(name, read, "config")

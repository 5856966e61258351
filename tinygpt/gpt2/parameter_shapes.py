"""
The names and shapes of GPT-2's parameters, as its configuration implies them: what a file of weights must hold.

They are compared with the header of the file before a model is built. So a configuration of a billion layers costs
nothing: the first layer that the file does not have ends the comparison.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tinygpt.files.one_line import brief, one_line, shown
from tinygpt.gpt2.config import GPTConfig
from tinygpt.gpt2.hugging_face import plain_name

_OF_GPT2 = re.compile(r"(?:wte|wpe|ln_f|h\.\d+)\.")
_HEAD, _TABLE = "lm_head.weight", "wte.weight"


def parameter_shapes(config: GPTConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """
    Yield the name and the shape of each parameter.

    Parameters
    ----------
    config : GPTConfig

    Yields
    ------
    str, tuple of int

    Examples
    --------
    >>> shapes = dict(parameter_shapes(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=2, n_head=2)))
    >>> len(shapes), shapes["wte.weight"], shapes["h.1.mlp.c_fc.weight"]
    (28, (11, 4), (4, 16))
    """
    C = config.n_embd
    yield "wte.weight", (config.vocab_size, C)
    yield "wpe.weight", (config.n_positions, C)
    yield from _affine("ln_f", (C,), C)
    for layer in range(config.n_layer):
        start = f"h.{layer}."
        yield from _affine(start + "ln_1", (C,), C)
        yield from _affine(start + "attn.c_attn", (C, 3 * C), 3 * C)
        yield from _affine(start + "attn.c_proj", (C, C), C)
        yield from _affine(start + "ln_2", (C,), C)
        yield from _affine(start + "mlp.c_fc", (C, config.inner), config.inner)
        yield from _affine(start + "mlp.c_proj", (config.inner, C), C)


def _affine(name: str, weight: tuple[int, ...], bias: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name + ".weight", weight
    yield name + ".bias", (bias,)


def shapes_of_gpt2(stored: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """
    The shapes of a file's arrays under GPT-2's own names, without the prefixes of wrappers.

    The head is left out: it is the table of embeddings. Where a file holds the head only, the table has its shape.

    Parameters
    ----------
    stored : mapping of str to shape
        By the names that the file has.

    Returns
    -------
    dict of str to shape

    Examples
    --------
    >>> shapes_of_gpt2({"transformer.h.0.ln_1.bias": (4,), "lm_head.weight": (11, 4)})
    {'h.0.ln_1.bias': (4,), 'wte.weight': (11, 4)}
    """
    found = {plain_name(name): shape for name, shape in stored.items()}
    head = found.pop(_HEAD, None)
    return found if head is None else found | {_TABLE: found.get(_TABLE, head)}


def require_model(who: str, folder: Path, values: Mapping[str, Any], found: Mapping[str, tuple[int, ...]]) -> int:
    """
    Check the shapes in a file of weights against a config.json, and return how many numbers the file holds.

    Parameters
    ----------
    who : str
        The function that errors name.
    folder : Path
        The folder that errors name.
    values : mapping of str to value
        The fields of config.json.
    found : mapping of str to shape
        The header of the file, with GPT-2's names.

    Returns
    -------
    int

    Raises
    ------
    TypeError, ValueError
        If the configuration is impossible, or the shapes are not those of its model.

    Examples
    --------
    >>> require_model("example", Path("runs/tiny"), {"n_layer": "12"}, {})
    Traceback (most recent call last):
    TypeError: runs/tiny/config.json: GPTConfig: n_layer must be an integer, got '12'
    """
    try:
        config = GPTConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{shown(folder / 'config.json')}: {error}") from None
    require_shapes(who, shown(folder), config, found)
    return sum(map(math.prod, found.values()))


def require_shapes(who: str, where: str, config: GPTConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    """
    Raise ValueError unless a file of weights holds exactly the parameters of a configuration.

    Parameters
    ----------
    who : str
        The function that the error names.
    where : str
        The folder that the error names.
    config : GPTConfig
    found : mapping of str to shape
        The header of the file, with GPT-2's names.

    Examples
    --------
    >>> require_shapes("example", "runs/tiny", GPTConfig(n_layer=10**9), {})
    Traceback (most recent call last):
    ValueError: example: the weights in runs/tiny must have wte.weight of shape (50257, 768), as config.json says, got none; use files of one model
    """  # noqa: E501
    count = 0
    for name, shape in parameter_shapes(config):
        if found.get(name) != shape:
            got = f"shape {brief(found[name])}" if name in found else "none" + _instead(found)
            raise ValueError(
                f"{who}: the weights in {where} must have {name} of shape {brief(shape)}, as config.json says, "
                f"got {got}; use files of one model"
            )
        count += 1
    if count < len(found):
        known = dict(parameter_shapes(config))
        more = sorted(found.keys() - known.keys())
        names = ", ".join(one_line(name)[:80] for name in more[:3])
        raise ValueError(
            f"{who}: the weights in {where} must be those of GPT-2 as config.json says, got {len(more)} more: {names}; "
            "use files of one model"
        )


def _instead(found: Iterable[str]) -> str:
    """For the message: a name in the file that GPT-2 does not have, perhaps of another program."""
    other = next((name for name in found if not _OF_GPT2.match(name)), None)
    return "" if other is None else f" but {one_line(other)[:80]}"

"""
GPT-2 folders of other programs: the fields of config.json, and the names of the tensors.

transformers and the programs around it save the same model in many ways. A field that changes the computation must have
the value that our forward pass implements; a tensor must be one of GPT-2's, without the prefixes that wrappers add to
its name. Everything else is refused, by name: a model that is read wrongly generates text all the same.

    module. _orig_mod. ...     prefixes of PyTorch's wrappers (DataParallel, torch.compile, FSDP, checkpointing)
    transformer.               the prefix that GPT2LMHeadModel adds to the names of GPT2Model
    lm_head.weight             the head, which is `wte.weight` under another name

Source: GPT2Config, GPT2LMHeadModel and `activations.py` of transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.files.one_line import brief, shown

PREFIX = "transformer."
BUFFERS = (".attn.bias", ".attn.masked_bias")  # the causal mask, which old versions of transformers saved
ADAPTER = "adapter_config.json"
_HEAD, _TABLE = "lm_head.weight", "wte.weight"
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# What our forward pass computes. These are transformers' defaults too, for fields that are missing.
ARCHITECTURE: dict[str, Any] = {
    "activation_function": "gelu_new",
    "add_cross_attention": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}
# Other names of the same function, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); `gelu` itself is another one.
_SAME_AS_GELU_NEW = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh")
# Fields that change the computation or the storage of the weights with any value.
_MUST_BE_EMPTY = ("quantization_config", "pruned_heads", "per_layer_config")
_OTHER_HEADS = {
    "score": "the head of a sequence classifier",
    "classifier": "the head of a token classifier",
    "qa_outputs": "the head of a question answering model",
    "multiple_choice_head": "the multiple choice head of GPT2DoubleHeadsModel",
    "v_head": "the value head of reinforcement learning",
}


def check_architecture(who: str, config: Mapping[str, Any], where: str | Path) -> None:
    """
    Raise ValueError, naming the field, unless a config.json is of a model that we compute.

    A head that is not tied is accepted here: it may equal the table of embeddings, which `state_of` checks.

    Parameters
    ----------
    who : str
        The function that the error names.
    config : mapping
        The fields of config.json.
    where : path
        The file that the error names.

    Examples
    --------
    >>> check_architecture("example", {"model_type": "gpt2", "activation_function": "relu"}, "config.json")
    Traceback (most recent call last):
        ...
    ValueError: example: activation_function in config.json must be 'gelu_new', got 'relu': not supported
    """
    if config.get("model_type") != "gpt2":
        raise ValueError(
            f"{who}: model_type in {shown(where)} must be one of: gpt2; got {brief(config.get('model_type'))}"
        )
    for field, required in ARCHITECTURE.items():
        got = config.get(field, required)
        if got == required or (field == "activation_function" and got in _SAME_AS_GELU_NEW):
            continue
        if field == "tie_word_embeddings" and got is False:
            continue
        raise ValueError(f"{who}: {field} in {shown(where)} must be {required!r}, got {brief(got)}: not supported")
    for field in _MUST_BE_EMPTY:
        if config.get(field):
            raise ValueError(
                f"{who}: {field} in {shown(where)} must be null, got {brief(config[field])}: not supported"
            )


def state_of(
    who: str, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], where: str | Path
) -> dict[str, np.ndarray]:
    """
    The weights of a folder, under GPT-2's names.

    Parameters
    ----------
    who : str
        The function that errors name.
    tensors : mapping of str to array
        By the names that the files have.
    config : mapping
        The fields of config.json.
    where : path
        The folder.

    Returns
    -------
    dict of str to array
        Without a head. Where only the head is stored, it becomes the table of embeddings.

    Raises
    ------
    ValueError
        If a tensor is present twice or belongs to another architecture, or the head is not the table of embeddings.

    Examples
    --------
    >>> tensors = {"module._orig_mod.lm_head.weight": np.ones((4, 2), np.float32)}
    >>> list(state_of("example", tensors, {}, "folder"))
    ['wte.weight']
    """
    state = {name: tensors[stored] for name, stored in names_in_gpt2(who, tensors, config, where).items()}
    head = state.pop(_HEAD, None)
    if head is None:
        return state
    if config.get("tie_word_embeddings", True) and _TABLE not in state:
        state[_TABLE] = head
    if not np.array_equal(head, state.get(_TABLE, np.empty(0)), equal_nan=True):
        raise ValueError(f"{who}: {_HEAD} in {shown(where)} must equal {_TABLE}: a head of its own is not supported")
    return state


def names_in_gpt2(
    who: str, stored_names: Iterable[str], config: Mapping[str, Any], where: str | Path
) -> dict[str, str]:
    """
    The names of a folder's tensors: a dictionary from GPT-2's names to those that the files have.

    Parameters
    ----------
    who : str
        The function that errors name.
    stored_names : iterable of str
        The names that the files have.
    config : mapping
        The fields of config.json.
    where : path
        The folder.

    Returns
    -------
    dict of str to str

    Raises
    ------
    ValueError
        If a tensor is present twice or belongs to another architecture, or an untied head is missing.

    Examples
    --------
    >>> names_in_gpt2("example", ["transformer.wte.weight"], {}, "folder")
    {'wte.weight': 'transformer.wte.weight'}
    """
    names: dict[str, str] = {}
    for stored in stored_names:
        name = plain_name(stored)
        if name in names:
            raise ValueError(
                f"{who}: {shown(where)} must hold {_short(name)} once, got {brief(names[name])} and {brief(stored)}"
            )
        _refuse_other_parts(who, name, stored, where)
        names[name] = stored
    if _HEAD not in names and not config.get("tie_word_embeddings", True):
        raise ValueError(
            f"{who}: {shown(where)} must hold {_HEAD}, since tie_word_embeddings is false in its config.json, and does "
            "not; if the head is the table of embeddings, set tie_word_embeddings to true"
        )
    return names


def _short(name: str) -> str:
    return name if len(name) <= 80 and name.isprintable() else brief(name)


def plain_name(stored: str) -> str:
    """
    GPT-2's name of a tensor: without the parts that wrappers add, wherever they are, and without `transformer.`.

    Parameters
    ----------
    stored : str
        The name that a file has.

    Returns
    -------
    str

    Examples
    --------
    >>> plain_name("_orig_mod.module.transformer.h.0._orig_mod.ln_1.weight")
    'h.0.ln_1.weight'
    """
    return ".".join(part for part in stored.split(".") if part not in _WRAPPERS).removeprefix(PREFIX)


def _refuse_other_parts(who: str, name: str, stored: str, where: str | Path) -> None:
    """Raise ValueError if a tensor is known to belong to another architecture; the model refuses unknown ones."""
    kind = _OTHER_HEADS.get(name.split(".")[0])
    if kind is not None:
        raise ValueError(
            f"{who}: {shown(where)} must hold a language model, got {_short(stored)}, {kind}: not supported; to use "
            "the rest, save model.transformer alone"
        )
    if ".crossattention." in name or ".ln_cross_attn." in name:
        raise ValueError(
            f"{who}: {shown(where)} must be a decoder alone, got {_short(stored)}: cross-attention is not supported"
        )
    if ".lora_" in name or name.startswith("base_model."):
        raise ValueError(
            f"{who}: {shown(where)} must hold the weights of a whole model, got {_short(stored)}, of an adapter "
            "(PEFT): not supported; merge it into its model first (merge_and_unload) and save that"
        )

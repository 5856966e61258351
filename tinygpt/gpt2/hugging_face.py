"""
What a GPT-2 folder from elsewhere says, in our terms: the fields of its config.json, and the names of its tensors.

transformers and the programs around it write the same model in many ways. A field that changes what is computed must
have the value that our forward pass computes; a tensor must be one of GPT-2's, whatever the wrappers that it was saved
from have put into its name. Anything else is refused by name, because a model that is read otherwise than it was
meant still gives text.

    module. _orig_mod. ...     a wrapper of PyTorch (DataParallel, torch.compile, FSDP, checkpointing) was saved
    transformer.               what GPT2LMHeadModel puts before the names of GPT2Model
    lm_head.weight             the head: `wte.weight` under another name

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
# What our forward pass computes. A field that is missing means the same to transformers.
ARCHITECTURE: dict[str, Any] = {
    "activation_function": "gelu_new",
    "add_cross_attention": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}
# Other names of the same function, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); `gelu` itself is another one.
_SAME_AS_GELU_NEW = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh")
# Fields that change what is computed, or how weights are stored, if they say anything at all.
_MUST_BE_EMPTY = ("quantization_config", "pruned_heads", "per_layer_config")
_OTHER_HEADS = {
    "score": "the head of a classifier of texts",
    "classifier": "the head of a classifier of tokens",
    "qa_outputs": "the head that answers questions",
    "multiple_choice_head": "the head for multiple choice of GPT2DoubleHeadsModel",
    "v_head": "the head that estimates values in reinforcement learning",
}


def check_architecture(who: str, config: Mapping[str, Any], where: str | Path) -> None:
    """
    Raise ValueError, naming the field, unless these are fields of a model that we compute.

    That a head is not tied is no matter here: it may be equal to the table, which `state_of` looks at.

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
    The weights of a folder under GPT-2's names.

    Parameters
    ----------
    who : str
        The function that errors name.
    tensors : mapping of str to array
        By the names under which they are stored.
    config : mapping
        The fields of config.json.
    where : path
        The folder.

    Returns
    -------
    dict of str to array
        Without a head: where only the head is stored, it is the table of embeddings.

    Raises
    ------
    ValueError
        If a tensor is there twice, belongs to another architecture, or the head is not the table of embeddings.

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
    GPT-2's names of a folder's tensors, and the name under which each is stored. Only names are needed for that.

    Raises
    ------
    ValueError
        If a tensor is there twice, belongs to another architecture, or a head that must be there is not.

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
    GPT-2's name of a tensor: without the wrappers' parts, wherever they stand, and without `transformer.`.

    Examples
    --------
    >>> plain_name("_orig_mod.module.transformer.h.0._orig_mod.ln_1.weight")
    'h.0.ln_1.weight'
    """
    return ".".join(part for part in stored.split(".") if part not in _WRAPPERS).removeprefix(PREFIX)


def _refuse_other_parts(who: str, name: str, stored: str, where: str | Path) -> None:
    """Say what a tensor is, where it is known to be of another architecture; of others the model says `unknown`."""
    kind = _OTHER_HEADS.get(name.split(".")[0])
    if kind is not None:
        raise ValueError(
            f"{who}: {shown(where)} must hold a language model, got {_short(stored)}, {kind}: not supported; to use "
            "the rest, save "
            "model.transformer alone"
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

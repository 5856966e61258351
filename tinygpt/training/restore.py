"""A model and its optimizer as they were at a checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinygpt.files.json_file import read_object
from tinygpt.files.one_line import shown
from tinygpt.files.safetensors_file import load_training_state
from tinygpt.files.sealed_json import unseal
from tinygpt.gpt2.model import GPT
from tinygpt.optim import AdamW
from tinygpt.training.state import nested_state, require_training_state


def restore(checkpoint: Path, run: Path, model: GPT, optimizer: AdamW, fingerprint: str, source: str) -> dict[str, Any]:
    """
    Set weights, the optimizer's state and the generator of dropout to those of a checkpoint.

    Parameters
    ----------
    checkpoint : Path
        The folder `last`, or one that `keep_every` keeps.
    run : Path
        Its run, which an error names.
    model : GPT
        Of the checkpoint's sizes.
    optimizer : AdamW
        Of the parameters of the model.
    fingerprint, source : str
        Of the data (`Dataset.fingerprint`), and where it came from.

    Returns
    -------
    dict
        What else the checkpoint knows of its run.

    Raises
    ------
    ValueError
        If the checkpoint is damaged, or the data is not that of the run. Nothing was changed then.
    """
    tensors, info = load_training_state(checkpoint, require_training_state)
    remedy = f"restore it from a copy, start a new run with --init-from {shown(run)}"
    info = unseal(info, f"train: {shown(checkpoint / 'training_state.safetensors')}", remedy)
    text = checkpoint / "training_state.json"  # the same for people; damage is reported
    unseal(read_object(text, "train", remedy, finite=False), f"train: {shown(text)}", remedy)
    if info["data"] != fingerprint:
        raise ValueError(
            f"train: {run} was trained on other data than {source} holds now; restore the text, or start a new run "
            "with --init-from"
        )
    weights = tensors.pop("weights", None)
    state = nested_state(tensors, len(model.parameters()), f"train: {shown(checkpoint / 'training_state.safetensors')}")
    if weights is not None:  # of one moment with the rest, even in a copy that was made during a save; older runs have
        model.flat_parameters[:] = weights  # none
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    model.generator.bit_generator.state = info["generator"]
    return info

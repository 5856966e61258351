"""
What resuming reads: the state of the optimizer, and the fields of `training_state.json`, each present and possible.

All fields are checked before anything of the run is changed. A step that is not a number would otherwise be
found when it is used, in a traceback, or never.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinygpt.files.one_line import brief

_REMEDY = "use another copy of the run, or start a new one with --init-from"


def flat_state(state: Mapping[int, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """
    The state of an optimizer as a file has it.

    Examples
    --------
    >>> flat_state({0: {"step": np.array(2.0)}})
    {'0.step': array(2.)}
    """
    return {f"{number}.{name}": array for number, each in state.items() for name, array in each.items()}


def nested_state(tensors: Mapping[str, np.ndarray], count: int, where: str) -> dict[int, dict[str, np.ndarray]]:
    """
    What `flat_state` was given: the state of `count` parameters, or of none before the first step.

    Raises
    ------
    ValueError
        If a name is another one, such as those of older files, or a parameter has no state; it names the file, `where`.

    Examples
    --------
    >>> nested_state({"0.step": np.array(2.0)}, 1, "last/training_state.safetensors")
    {0: {'step': array(2.)}}
    """
    state: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
    for name, array in tensors.items():
        found = re.fullmatch(r"([0-9]{1,9})\.(step|exp_avg|exp_avg_sq)", name, re.ASCII)
        if found is None:
            raise ValueError(
                f"{where}: the optimizer's state must have step, exp_avg and exp_avg_sq, got {brief(name)}: "
                "another version of tinygpt wrote it; start a new run with --init-from"
            )
        state[int(found[1])][found[2]] = array
    if state and state.keys() != set(range(count)):
        raise ValueError(f"{where} is damaged: it must have the state of parameters 0 to {count - 1}, got that of "
                         f"{len(state)}; {_REMEDY}")  # fmt: skip
    return dict(state)


def require_training_state(info: Mapping[str, Any], where: str) -> None:
    """
    Raise ValueError unless a run can go on from this.

    Parameters
    ----------
    info : mapping
        Needs `step`, `best_loss`, `validation_loss`, `data` and `generator`; what else it has is not looked at.
    where : str
        The file that the error names.

    Examples
    --------
    >>> require_training_state({"step": float("nan")}, "last/training_state.json")
    Traceback (most recent call last):
    ValueError: last/training_state.json is damaged: step must be an integer of at least 0, got nan; use another copy of the run, or start a new one with --init-from
    """  # noqa: E501
    step, data = info.get("step"), info.get("data")
    if type(step) is not int or not 0 <= step < 1 << 53:
        raise _damaged(where, "step must be an integer of at least 0", step)
    for name in ("best_loss", "validation_loss"):
        loss: Any = info.get(name, "nothing")
        if loss is None:  # not finite, which JSON cannot express
            continue
        if type(loss) not in (int, float) or loss < 0 or (name == "best_loss" and math.isnan(loss)):
            raise _damaged(where, f"{name} must be a number of at least 0", loss)
    if not isinstance(data, str):
        raise _damaged(where, "data must be a fingerprint", data)
    if not _is_generator_state(info.get("generator")):
        raise _damaged(where, "generator must be the state of a random generator", info.get("generator"))


def _damaged(where: str, required: str, got: Any) -> ValueError:
    return ValueError(f"{where} is damaged: {required}, got {brief(got)}; {_REMEDY}")


def _is_generator_state(state: Any) -> bool:
    """Whether NumPy accepts it, unchanged."""
    generator = np.random.default_rng(0).bit_generator
    try:
        generator.state = state
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return False
    return generator.state == state

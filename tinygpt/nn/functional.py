"""Every operation by PyTorch's path, for ``import tinygpt.nn.functional as F``: all of `tinygpt.functional`."""

from typing import Any

from tinygpt import functional
from tinygpt.functional import *  # noqa: F403


def __getattr__(name: str) -> Any:
    return getattr(functional, name)

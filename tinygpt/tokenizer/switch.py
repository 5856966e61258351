"""
The choice between reference and kernels, the same for encoding, decoding and training.

Kernels are ten times as fast, but have to be made ready: tables take a tenth of a second, importing Numba half a
second, the very first compilation several seconds. So the reference runs until it has done as much work as that
would take. Only a process that has imported Numba, or a mark in the user's cache, tells that nothing must be compiled.
"""

from __future__ import annotations

import sys
from functools import cache
from itertools import zip_longest
from typing import Any

from tinygpt.files.user_cache import was_compiled
from tinygpt.runtime.launch import kernels_may_run
from tinygpt.runtime.settings import current_implementation

# Characters or tokens that one tokenizer has processed. The reference does about five per microsecond.
_WORTH_TABLES = 1 << 16
_WORTH_IMPORTING = 1 << 20
_WORTH_COMPILING = 1 << 25


class Switch:
    """
    Count what one tokenizer has processed, and so decide whether kernels are worth their start.

    Parameters
    ----------
    stage : {"encoding", "decoding", "training"}
        What the kernels are needed for.

    Examples
    --------
    >>> switch = Switch("encoding")
    >>> switch.to_kernels(100), switch.to_kernels(1 << 25)
    (False, True)
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._seen = 0

    def to_kernels(self, size: int, ready: bool = False) -> bool:
        """Whether kernels run for the next `size` characters or tokens; `ready` says that their tables exist."""
        implementation = current_implementation()
        if implementation != "kernels":
            return implementation == "check" and kernels_may_run(parallel=False)
        self._seen += size  # two threads at once may lose a count, which only delays the switch
        worth = ready or self._seen >= _WORTH_COMPILING or (self._seen >= _WORTH_TABLES and self._is_compiled())
        return worth and kernels_may_run(parallel=False)

    def _is_compiled(self) -> bool:
        """Whether nothing has to be compiled; importing Numba to find out must be worth it, too."""
        imported = "tinygpt.tokenizer.kernels" in sys.modules
        if not imported and (self._seen < _WORTH_IMPORTING or not _may_be_compiled(self._stage)):
            return False
        from tinygpt.tokenizer.kernels import compiler

        return compiler.has_compiled(self._stage)


@cache  # not looked up again for each text: a mark that another process leaves meanwhile only comes too late
def _may_be_compiled(stage: str) -> bool:
    return was_compiled("tokenizer", stage)


def must_check() -> bool:
    """Whether the reference runs as well, for comparison."""
    return current_implementation() == "check"


def check_agreement(who: str, kernels: Any, reference: Any) -> None:
    """Raise ValueError unless two sequences are equal, naming the first place where they differ."""
    differing = (at for at, (ours, theirs) in enumerate(zip_longest(kernels, reference)) if ours != theirs)
    at = next(differing, None)
    if at is None:
        return
    raise ValueError(
        f"{who}: kernels and reference must agree, got {kernels[at : at + 1]} and {reference[at : at + 1]} at place "
        f"{at}; implementation('numpy') runs the reference alone"
    )

"""
Where a kernel computes in float64: a constant without a type, `1.0`, makes a loop over float32 do so, which shows in
no result, only in its speed.

Types are inferred anew from the source of each function that has run, since what comes out of the kernel cache keeps
no types; nothing is compiled.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from tinygpt.autograd.dispatch import kernel_of
from tinygpt.autograd.graph import Op


def float64_notes(op: Op) -> list[str]:
    """
    A line for each compiled function of an operation's kernel that has run and computes in float64.

    It is no fault: a long sum may be meant so. Empty where Numba does not tell, or is not used.

    Examples
    --------
    >>> from tinygpt.ops.gelu import GELU
    >>> float64_notes(GELU)
    []
    """
    if op.kernel is None or "numba" not in sys.modules:
        return []
    kernel = kernel_of(op)
    notes = []
    for name, function in getattr(kernel, "__dict__", {}).items():
        compiled = getattr(function, "dispatcher", function)
        lines: set[int] = set()
        with contextlib.suppress(Exception):  # Numba's own stages, which another version may call otherwise
            lines = set(_float64_lines(compiled))
        if lines:
            where = f"line{'s' * (len(lines) > 1)} {', '.join(map(str, sorted(lines)))}"
            owner = getattr(kernel, "__name__", type(kernel).__name__)
            notes.append(f"{owner}.{name} computes in float64 ({where}): write constants as np.float32(1), unless a "
                         "sum is meant to be more exact")  # fmt: skip
    return notes


def _float64_lines(compiled: Any) -> Iterator[int]:
    """The lines that compute a float64, for the types of arguments that a function was compiled for."""
    from numba.core import compiler, ir, typed_passes, types

    for arguments in getattr(compiled, "overloads", ()):
        target = compiled.targetdescr
        code = compiler.run_frontend(compiled.py_func)
        kinds = typed_passes.type_inference_stage(
            target.typing_context, target.target_context, code, arguments, None
        ).typemap
        for block in code.blocks.values():
            for statement in block.find_insts(ir.Assign):
                computes = getattr(statement.value, "op", None) in ("binop", "inplace_binop", "unary", "call")
                if computes and kinds.get(statement.target.name) == types.float64:
                    yield statement.loc.line

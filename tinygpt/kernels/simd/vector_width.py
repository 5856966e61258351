"""
How wide the vectors are that the compiler turns a plain loop into: as wide as the processor's registers.

For most of Intel's processors LLVM prefers vectors of 256 bits although there are registers of 512. On the first ones
that had them, a wide instruction here and there lowered the clock rate for all the others. A training step is no such
program: its matrix products consist of wide instructions on every one of these processors.

An attribute of a function in LLVM code, "prefer-vector-width", overrules the preference for that function alone. So the
kernels are compiled with it, and whatever else Numba compiles in the process is left as it is. AMD's processors, and
those without AVX-512, get the code that they would get anyway.

Measured on two cores of an Intel Granite Rapids, 512 bits against 256: cross-entropy takes 0.80 of the time, layer
normalization 0.70 to 0.95, GELU 0.89, attention 0.88 to 0.95; dropout, AdamW and the norm stay as they are.
"""

from __future__ import annotations

from typing import Any

from numba.core.compiler import Compiler
from numba.core.cpu import CPUContext

from tinygpt.kernels.simd.cpu import LANES

_ATTRIBUTE = '"prefer-vector-width"="512"'


class WideVectors(Compiler):
    """Numba's compiler, for functions whose loops become vectors of LANES float32."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if LANES == 16:
            self.state.targetctx.__class__ = _WideContext  # Numba made this object for this function alone


class _WideContext(CPUContext):
    """Numba's view of the processor; it also compiles the bodies of a function's parallel loops, as functions."""

    def post_lowering(self, mod: Any, library: Any) -> None:
        for function in mod.functions:
            if not function.is_declaration:
                set.add(function.attributes, _ATTRIBUTE)  # llvmlite's own `add` knows attributes without a value only
        super().post_lowering(mod, library)

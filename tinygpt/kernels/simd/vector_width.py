"""
The width of the vectors that LLVM makes of a plain loop: that of the processor's registers.

For most of Intel's processors LLVM prefers vectors of 256 bits although there are registers of 512: on the first ones
that had them, a few wide instructions lowered the clock rate for all the code around them. That is no reason here. The
matrix products of a training step use 512 bits anyway.

The attribute "prefer-vector-width" of a function in LLVM code overrules the preference for that function alone. So the
kernels are compiled with it, and other code that Numba compiles in the process is left as it is. Without AVX-512
nothing changes.

Measured on two cores of an Intel Granite Rapids, time with 512 bits divided by time with 256: cross-entropy 0.80,
layer normalization 0.70 to 0.95, GELU 0.89, attention 0.88 to 0.95, the norm of the gradients 0.98 to 0.99; dropout
1.03 to 1.10, so it is slower. The optimizers were not measured.
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
        self.state.targetctx.__class__ = Context  # Numba made this object for this function alone


class _WideContext(CPUContext):
    """Numba's view of the processor; it also compiles the bodies of a function's parallel loops, as functions."""

    def post_lowering(self, mod: Any, library: Any) -> None:
        for function in mod.functions:
            if not function.is_declaration:
                set.add(function.attributes, _ATTRIBUTE)  # llvmlite's own `add` knows attributes without a value only
        super().post_lowering(mod, library)


Context: type[CPUContext] = _WideContext if LANES == 16 else CPUContext  # what the functions here are compiled with

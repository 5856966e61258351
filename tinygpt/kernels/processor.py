"""
What the processor can do, and the shape of the register tile that follows from it.

A matrix product is computed in tiles of ROWS x COLUMNS numbers that stay in registers while the inner dimension passes by.
In each step a tile takes ROWS + VECTORS loads for ROWS * VECTORS vector multiplications: the larger the tile the better,
until it no longer fits, with one register for each number of A and one for each vector of B besides.

    AVX-512     32 registers of 16    8 x 48: 24 + 3 + 1
    AVX2        16 registers of 8     4 x 24: 12 + 3 + 1
    otherwise   16 registers of 4     4 x 8:   8 + 2 + 1

Other processors can be emulated, for tests: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say what code is made for.
"""

from __future__ import annotations

import llvmlite.binding
import numba


def _features() -> frozenset[str]:
    if numba.config.CPU_FEATURES is not None:
        return frozenset(part[1:] for part in numba.config.CPU_FEATURES.split(",") if part.startswith("+"))
    if numba.config.CPU_NAME not in (None, "", "host"):
        return frozenset()  # a named processor without a list of features: what every one of its kind has
    return frozenset(name for name, has in llvmlite.binding.get_host_cpu_features().items() if has)


FEATURES = _features()
FUSED = "fma" in FEATURES  # a * b + c in one instruction, rounded once
BFLOAT16 = {"avx512f", "avx512bf16", "avx512bw"} <= FEATURES

if "avx512f" in FEATURES:
    LANES, ROWS, VECTORS = 16, 8, 3
elif "avx2" in FEATURES and FUSED:
    LANES, ROWS, VECTORS = 8, 4, 3
else:
    LANES, ROWS, VECTORS = 4, 4, 2
COLUMNS = LANES * VECTORS

"""
What the processor can do, and the shape of the tile that a matrix product is computed in.

A product is made of tiles of C that stay in registers while the loop over the inner dimension k adds to them. A
`Format` says how large they are, and how the numbers of A and B are packed for them. In each step a tile takes rows +
vectors loads for rows x vectors multiplications, so the larger the tile the better, until it no longer fits into the
registers:

    float32     AVX-512     32 registers of 16    8 x 48: 24 sums, 3 vectors of B, 1 number of A
                AVX2        16 registers of 8     4 x 24: 12 sums, 3 vectors of B, 1 number of A
                otherwise   16 registers of 4     4 x 8:   8 sums, 2 vectors of B, 1 number of A
    bfloat16    AMX          8 tiles of 16 x 16   32 x 32: 4 tiles of sums, 2 of B, 2 of A
                AVX-512     32 registers of 16    8 x 48, two k at a time

The sizes of the tile follow from the registers, those of `Prefetching` were measured:

                                 A      B    non-temporal
    AVX-512, Intel              64      -    above 4 MB      Xeon with AMX (Granite Rapids), two cores
    all others                   -      8    above 8 MB      EPYC of Zen 4, two cores

`A` and `B` are how many lines ahead of the one in use the micro-kernel prefetches a panel. `non-temporal` says above
which size C is written by stores that bypass the caches; for AMX, amx_blocks.py has its own. On the Xeon half of A's
panels were packed by the other core and arrive late: prefetching them saves 2.5 % of the time of products. B's arrive
without help, from a second-level cache of 2 MB.

Tests emulate other processors: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say which one code is generated for.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import NamedTuple

import llvmlite.binding
import numba


class Format(NamedTuple):
    """
    The tile of a product, and how A and B are packed for it.

    Attributes
    ----------
    rows, vectors : int
        The tile is `rows` rows and `vectors` vectors of LANES columns.
    block : int
        How many k are packed at once.
    lines : int
        How many lines a block of B becomes: one for each k, or one for each pair of k.
    unit : int
        How many elements of the packed array a line has per column of B: 2 with AMX, whose lines hold pairs of k as
        two uint16; else 1.
    """

    rows: int
    vectors: int
    block: int
    lines: int
    unit: int


class Prefetching(NamedTuple):
    """
    What a product prefetches, and when it writes C by non-temporal stores, which bypass the caches.

    Attributes
    ----------
    a, b : int
        How many lines of a panel lie between the one in use and the one that is prefetched; 0: none is.
    large : int
        In bytes. A C above this is written by non-temporal stores.
    """

    a: int
    b: int
    large: int


def _features() -> frozenset[str]:
    if numba.config.CPU_FEATURES is not None:
        return frozenset(part[1:] for part in numba.config.CPU_FEATURES.split(",") if part.startswith("+"))
    if numba.config.CPU_NAME not in (None, "", "host"):
        return frozenset()  # a named processor without a list of features: what every one of its kind has
    return frozenset(name for name, has in llvmlite.binding.get_host_cpu_features().items() if has)


# x86-64's number of the system call arch_prctl; then ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA, as Linux names them.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


def _may_use_tiles() -> bool:
    """Request permission to use AMX's registers, as Linux demands of each process before their first use."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0


FEATURES = _features()
FUSED = "fma" in FEATURES  # a * b + c in one instruction, rounded once
TILES = {"avx512f", "avx512bf16", "amx-tile", "amx-bf16"} <= FEATURES and _may_use_tiles()
BFLOAT16 = TILES or {"avx512f", "avx512bf16", "avx512bw"} <= FEATURES

if "avx512f" in FEATURES:
    LANES, FLOAT32 = 16, Format(rows=8, vectors=3, block=16, lines=16, unit=1)
elif "avx2" in FEATURES and FUSED:
    LANES, FLOAT32 = 8, Format(rows=4, vectors=3, block=8, lines=8, unit=1)
else:
    LANES, FLOAT32 = 4, Format(rows=4, vectors=2, block=4, lines=4, unit=1)
# float32 arrays hold numbers, uint32 arrays pairs of bfloat16, uint16 arrays bfloat16 as AMX has them.
PAIRS = Format(rows=8, vectors=3, block=16, lines=8, unit=1)
AMX = Format(rows=32, vectors=2, block=32, lines=16, unit=2)
COLUMNS = FLOAT32.vectors * LANES
_PMADDWD = (
    (4, "", "llvm.x86.sse2.pmadd.wd"),
    (8, "avx2", "llvm.x86.avx2.pmadd.wd"),
    (16, "avx512bw", "llvm.x86.avx512.pmaddw.d.512"),
)
# x86's instruction that multiplies pairs of int16 and adds both products, by how many int32 it gives: LLVM's names.
PMADDWD = {
    lanes: name
    for lanes, feature, name in _PMADDWD
    if platform.machine().lower() in ("x86_64", "amd64") and (not feature or feature in FEATURES)
}
AMD = "sse4a" in FEATURES  # no processor of Intel's has these instructions
PREFETCHING = Prefetching(a=64, b=0, large=2**22) if LANES == 16 and not AMD else Prefetching(a=0, b=8, large=2**23)


def facts() -> tuple:
    """What the code of kernels depends on besides its text: the same processor may give AMX to some processes only."""
    return LANES, FUSED, TILES, BFLOAT16, FLOAT32, PAIRS, AMX, PREFETCHING, PMADDWD

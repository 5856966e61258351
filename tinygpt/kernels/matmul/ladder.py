"""
The matrix product C = A B in four steps, to be read before vector_gemm.py: from three loops to a register tile.

    (1) triple_loop      the definition
    (2) blocked          vectors along the rows of C; each block of B is read from memory once, then from the cache
    (3) packed           both operands copied so that k runs along memory; one number of C at a time is in a register
    (4) register_tile    4 x 4 numbers of C at a time are in registers; each vector that is loaded is used four times

Every step does the same M N K multiplications and additions. What changes is how often a number is loaded, and from
where: a core does 16 to 32 products of float32 per cycle and loads about as many numbers per cycle from the first-level
cache (L1), a fraction of that from the second-level cache (L2), and one or two from memory. So a product is fast when a
number that is loaded is used many times before it has to be loaded again.

`python -m benchmarks.bench_ladder` times the steps and the real product on one thread. (3) alone gains little over (2):
it makes (4) possible. What vector_gemm.py adds to (4): threads, prefetching (requesting a cache line before it is
needed), bfloat16, and a tile that is written for the processor's registers, 8 x 48 numbers with AVX-512.

From here to AMX
    Newer Xeons have a unit beside the vectors, AMX, that multiplies small matrices of bfloat16. With it a core does 512
    products per cycle, where its vectors do 32 of float32. Nothing else that a product consists of becomes faster by
    that. This is for how many cycles a core multiplies, per number that it has to pack or to write:

                                                               vectors    AMX
        a number of b: packed once, then used by 512 rows         16      1
        a number of c: a sum of K = 768 products                  24      1.5

    With vectors, packing b and writing c cost little beside the multiplications. With AMX, to read a number of b from
    memory, round it and store it in its place takes a good part of that one cycle; and 24 cycles after one cache line
    of c, 16 numbers, the next is due, sooner than a line arrives from memory. The loops remain those of (4). What
    decides now is what happens around the multiplications, and amx_gemm.py is written for that:

    loads      The register tile is 32 x 32 and loads a cache line per cycle. L2 cannot sustain that, so panels of b are
               small enough for L1 (KC = 256), and only those of a come from L2.
    packing    The vectors have nothing to do while AMX multiplies. They pack the next panel of b meanwhile.
    c          Sums are kept in a small dense piece of memory until they are complete. Then c is written once, and if it
               is large, by stores that bypass the caches and do not read the old line first.

    Read amx.py next, the instructions; then amx_gemm.py, the plan, and what each part of it is worth, with
    amx_blocks.py, its sizes; then amx_packed.py, which is better where b is large and stored by rows.

Words
    vector, lane   a register of 8 or 16 numbers that one instruction works on; a lane is the place of one of them
    cache line     the 64 bytes that come from memory or a cache together
    packed         copied to memory of its own, in the order in which it is read
    M, N, K        a is (M, K), b is (K, N), c is (M, N): float32, C-contiguous; c is overwritten; nothing is checked
    MC, NC, KC     the size of a block along i, j and k; ic, jc and pc are where a block begins (BLIS's names)
    MR, NR         the size of a register tile

(3) and (4) also take memory for a block of each operand: `packed_a` (MC, KC), and `packed_b` (NC, KC), the block of b
transposed.

Source: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3); names of the
        block sizes as in Van Zee & van de Geijn 2015, "BLIS", ACM TOMS 41(3). There, as in microkernel.py, the lanes of
        a vector hold neighbouring columns of C; here neighbouring k, because the compiler finds that in plain loops.
        There the block of A is the one that stays in L2, here that of B.
"""

from __future__ import annotations

import numpy as np

from tinygpt.kernels.compiler import FAST
from tinygpt.kernels.jit import compiler, kernel

MC, NC, KC = 128, 256, 512  # a block of A is 256 kB, one of B 512 kB: for an L2 of 1 MB or more
MR, NR = 4, 4  # divide MC and NC; a tile needs 24 registers: AVX-512 has 32, AVX2 has 16


def kernel_that_reorders(function):
    """`kernel` that may change the order of sums: each lane of a vector adds its share, the lanes are added last."""
    return compiler.kernel(function, fastmath=FAST | {"reassoc"})


@kernel
def triple_loop(a, b, c):
    """
    (1) Three loops: c[i, j] = sum_k a[i, k] b[k, j].

    The loop over k reads a column of b. Its numbers lie N apart, so each lies in a cache line of its own, and the other
    15 numbers of the line are used only if it is still in the cache for the next j. And each addition waits for the one
    before it, for some four cycles.
    """
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            c[i, j] = total


@kernel
def blocked(a, b, c):
    """
    (2) The loop over j becomes the innermost, and b is used block by block.

    The first change makes vectors: along j, the numbers of b and c are neighbours, and no addition waits for another.
    The second saves memory traffic: a block of b is read from memory once, and the other rows of a find it in L2, where
    without blocks each row of a would read all of b. What is left: every product loads and stores a number of c.
    """
    c[:] = np.float32(0)
    for pc in range(0, a.shape[1], KC):
        for jc in range(0, b.shape[1], NC):
            for i in range(a.shape[0]):
                row_of_c = c[i, jc : jc + NC]
                for k in range(pc, min(pc + KC, a.shape[1])):
                    factor, row_of_b = a[i, k], b[k, jc : jc + NC]
                    for j in range(len(row_of_c)):
                        row_of_c[j] += factor * row_of_b[j]


@kernel
def pack(source, target):
    """Copy a block to the first rows and columns of `target`; the rest becomes 0, so that all tiles are whole."""
    target[:] = np.float32(0)
    for i in range(source.shape[0]):
        for k in range(source.shape[1]):
            target[i, k] = source[i, k]


@kernel_that_reorders
def packed(a, b, c, packed_a, packed_b):
    """
    (3) Both blocks are copied: rows of a and columns of b, each with its numbers side by side.

    In its matrix, a block of b is spread over memory: in a large one each of its rows lies on another page, and where N
    is a power of two, its rows compete for the same few places of a cache. Packed, it is one piece, read from front to
    back. Packing costs little: a block of b is copied once and used by all rows of a, a block of a is used for NC
    columns. As k now runs along memory on both sides, the innermost loop sums up one number of c in a register: two
    loads per product, as in (2), but no store. More is gained when the loads are shared, in (4).
    """
    c[:] = np.float32(0)
    for pc in range(0, a.shape[1], KC):
        for jc in range(0, b.shape[1], NC):
            pack(b[pc : pc + KC, jc : jc + NC].T, packed_b)
            for ic in range(0, a.shape[0], MC):
                pack(a[ic : ic + MC, pc : pc + KC], packed_a)
                kc, tile = min(KC, a.shape[1] - pc), c[ic : ic + MC, jc : jc + NC]
                for j in range(tile.shape[1]):
                    for i in range(tile.shape[0]):
                        left, right = packed_a[i, :kc], packed_b[j, :kc]
                        total = np.float32(0)
                        for k in range(len(left)):
                            total += left[k] * right[k]
                        tile[i, j] += total


@kernel
def register_tile(a, b, c, packed_a, packed_b):
    """
    (4) As (3), with MR x NR numbers of c at a time: see `micro_kernel`.

    This is the structure of fast matrix products since Goto. The blocks of b and of a stay in L2. NR columns of b stay
    in L1, while the block of a is gone through, MR rows at a time.
    """
    c[:] = np.float32(0)
    for pc in range(0, a.shape[1], KC):
        for jc in range(0, b.shape[1], NC):
            pack(b[pc : pc + KC, jc : jc + NC].T, packed_b)
            for ic in range(0, a.shape[0], MC):
                pack(a[ic : ic + MC, pc : pc + KC], packed_a)
                kc = min(KC, a.shape[1] - pc)
                for j in range(jc, min(jc + NC, b.shape[1]), NR):
                    for i in range(ic, min(ic + MC, a.shape[0]), MR):
                        left, right = packed_a[i - ic : i - ic + MR], packed_b[j - jc : j - jc + NR]
                        micro_kernel(left, right, kc, c[i : i + MR, j : j + NR])


@kernel_that_reorders
def micro_kernel(left, right, kc, tile):
    """
    tile += left right^T, for MR packed rows of a and NR packed columns of b.

    A step along k loads 4 + 4 vectors for 16 products of vectors, where (3) loads 32. So the limit is what the
    processor can multiply and add, not what it can load; if it has registers for all 24 vectors. A tile at the edge of
    c is smaller; packing has put zeros into the missing rows.
    """
    a0, a1, a2, a3 = left[0], left[1], left[2], left[3]
    b0, b1, b2, b3 = right[0], right[1], right[2], right[3]
    c00 = c01 = c02 = c03 = c10 = c11 = c12 = c13 = np.float32(0)
    c20 = c21 = c22 = c23 = c30 = c31 = c32 = c33 = np.float32(0)
    for k in range(kc):
        x0, x1, x2, x3 = a0[k], a1[k], a2[k], a3[k]
        y0, y1, y2, y3 = b0[k], b1[k], b2[k], b3[k]
        c00, c01, c02, c03 = c00 + x0 * y0, c01 + x0 * y1, c02 + x0 * y2, c03 + x0 * y3
        c10, c11, c12, c13 = c10 + x1 * y0, c11 + x1 * y1, c12 + x1 * y2, c13 + x1 * y3
        c20, c21, c22, c23 = c20 + x2 * y0, c21 + x2 * y1, c22 + x2 * y2, c23 + x2 * y3
        c30, c31, c32, c33 = c30 + x3 * y0, c31 + x3 * y1, c32 + x3 * y2, c33 + x3 * y3
    sums = ((c00, c01, c02, c03), (c10, c11, c12, c13), (c20, c21, c22, c23), (c30, c31, c32, c33))
    for r in range(tile.shape[0]):
        for s in range(tile.shape[1]):
            tile[r, s] += sums[r][s]

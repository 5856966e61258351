"""
The operations as loops that Numba compiles. A file with a namesake in `ops/` is its fast twin, with the same names and
the same step numbers, and works in memory that it is given.

Reading order
    layernorm.py                                the pattern: forward, backward, and what each keeps
    gelu.py, dropout.py, add.py, embedding.py   an element or a row at a time
    cross_entropy.py                            a sum and a maximum per row
    simd/                                       what the processor can do, and instructions that Numba lacks
        cpu.py, vector_width.py                     its features, the tile that follows from them; how wide vectors are
        llvm.py, intrinsics.py                      pieces of LLVM code; what kernels call of them
        atomic.py                                   memory that threads share, and how one waits for another
        addresses.py                                the weights of all layers, as their addresses
        math.py, softmax.py, gemv.py                exp and sums; softmax of columns; matrix-vector products
    matmul/                                     the matrix product: most of a training step
        ladder.py                                   from three loops to a register tile, and on to AMX: begin here
        gemm.py                                     `multiply`: what is checked, and which plan does it
        matrix.py, packing.py                       a block of a matrix, and how it is packed
        epilogue.py, microkernel.py                 how C is written; the register tile
        panels.py                                   packed operands, and their product on one thread: for attention
        vector_gemm.py                              the loops and threads around the register tile
        small_gemm.py                               the plan for small products: one region, no barrier
        amx.py                                      AMX: its instructions and its tiles
        amx_gemm.py, amx_blocks.py                  its plan; the sizes of blocks and tasks
        amx_packed.py                               the same by a B that is packed first
    linear.py, gelu_linear.py                   calls of the product
    linear_cross_entropy.py, attention.py       products of which only a block exists at a time
    adamw.py, adam.py, sgd.py, norm.py          the twins of functions in optim/: updates, the norm and its clip
    matvec.py                                   a few rows times a weight as a decoder holds it
    projection.py                               a product with a quantized weight, and what follows it in the same pass
    decode_step.py, prompt.py                   generation: twins of `Block` with a cache, in gpt2/, for one token of
                                                each text and for a whole prompt
    sampling.py                                 the twin of `choose` in generation/: from logits to a token
    jit.py, compiler.py, kernel_cache.py        how kernels are compiled and kept
    thread_pool.py, parallel_loops.py           the threads that parallel loops run on; how loops are sent to them
    dependencies.py                             which files and values a user's kernel was compiled from
    notice.py, rates.py                         what a user sees of compilation; how fast this machine is

What a kernel module offers
    accepts(*arrays, **attrs)      whether the kernel takes these; where not, the reference runs
    forward(*arrays, **attrs)      -> out, saved
    backward(dout, saved, into)    writes each input's gradient into its place: `into[i]` is a `Slot`, memory and
                                   whether to add to it or to overwrite it, or None where no gradient is needed. It
                                   may leave the sum of the squares of the result in `into[i].squares`
    output(saved)                  optional: out again, with the same bits, in place of keeping it
    GRADIENTS_IN_FORWARD           optional: forward computes gradients too. autograd/dispatch.py has the whole contract

Names and steps
    x_n is row n of x, x_part a part of a flat x, x_c or x_i one number of it. `n_` is n as `prange` counts it.
    A comment `# (3)` says which step of the derivation in ops/ a statement computes. A step of the reference that the
    kernel does without is named in the docstring, with the direction and the reason:

        No step (3) forward: the future is left out of the product.

What to know before changing anything here
    No index is checked, so whatever comes from outside is validated in `ops/`, before a kernel sees it.
    `prange` counts in uint64, and uint64 with int64 gives float64: the first line of such a loop makes an int64 of it.
    An index that the compiler cannot prove to be at least 0 keeps a loop from being vectorized: take a part of the
    arrays, `x[here]`, and count from 0.
    In a `prange`, unpack views that are written to from a tuple of arrays alone: from `a, b, c, d = x[n], dx[n], s[n],
    t[n]`, where s[n] and t[n] are numbers, Numba 0.68 takes a later `b[i] -= c` for dead code and drops it.
    Write to an array through an argument only, or a slice of one. Where a tuple is built and a function is inlined,
    Numba does not track arrays in that tuple, takes writes into them for dead code, and removes them.
    A kernel called with a literal number, or with True, is compiled again for that number alone: pass np.int64(0)
    (ZERO in jit.py), or another constant of such a type.
    A number without a type is a float64 and makes the whole loop float64: write np.float32(0.5).
    Results do not depend on the number of threads: sums are cut into parts by size alone, and the parts are added in
    order. They do depend on the order of statements: of two products that are added the compiler fuses one with the
    sum, and which one follows from the order in which the numbers are loaded.
    NUMBA_DISABLE_JIT=1 makes every kernel plain Python, for a debugger.
"""

import tinygpt.kernels.compiler  # noqa: F401 - first: it decides how Numba starts, and kernels import Numba themselves

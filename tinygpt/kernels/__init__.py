"""
The operations once more, as loops that Numba compiles: each file is the fast twin of the file of the same name in
`ops/`, with the same names and the same step numbers, and works in memory that it is given.

What a kernel module offers
    accepts(*arrays, **attrs)      whether the kernel takes these; where not, the reference runs
    forward(*arrays, **attrs)      -> out, saved
    backward(dout, saved, into)    writes each input's gradient into its place: `into[i]` is a `Slot`, memory and
                                   whether to add to it or to overwrite it, or None where nobody wants that gradient

What to know before changing anything here
    No index is checked, so whatever comes from outside is validated in `ops/`, before a kernel sees it.
    `prange` counts in uint64, and uint64 with int64 gives float64: the first line of such a loop makes an int64 of it.
    An index that could be negative, for all the compiler knows, keeps a loop from being vectorized: take a part of the
    arrays, `x[here]`, and count from 0.
    A kernel that another one calls with a number written there, or True, is compiled once more for just that number:
    pass np.int64(0), or a constant of such a type.
    Write to an array through an argument only, or a slice of one. Where a tuple is built and a function is inlined,
    Numba loses sight of arrays in that tuple, takes what is written there for dead code, and removes it.
    A number without a type is a float64 and makes the whole loop one: np.float32(0.5).
    Results do not depend on the number of threads: sums are cut into parts by size alone, and joined in their order.
    NUMBA_DISABLE_JIT=1 makes all of it plain Python, to be stepped through.
"""

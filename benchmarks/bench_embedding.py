"""Embedding, forward and backward into a table that holds a gradient already, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given
from tinygpt.kernels import embedding as kernel
from tinygpt.ops.embedding import embedding_backward, embedding_forward
from tinygpt.runtime.memory import Slot

CASES = {f"N={rows}, V=50257": {"rows": rows, "table": (50257, 768)} for rows in (256, 1024)}
TOLERANCE = 1e-6


def given(case, rng):
    """A table, ids, the gradient of the output."""
    dout = rng.standard_normal((case["rows"], case["table"][1]), np.float32)
    ids = (rng.pareto(1.0, case["rows"]) * 20).astype(np.int64) % case["table"][0]  # a few often, as words are
    return Given([rng.standard_normal(case["table"], np.float32)], dout, {"ids": ids})


def ours(given):
    """The tied table: the rows in use are added to what is there."""
    (weight,), ids = given.arrays, given.attrs["ids"]
    table = np.zeros_like(weight)

    def run():
        out, saved = kernel.forward(weight, ids)
        kernel.backward(given.dout, saved, [Slot(table, add=True)])
        return [out, table[np.unique(ids)]]

    return run


def numpy(given):
    """The reference, which makes a table of zeros."""

    def run():
        out, saved = embedding_forward(*given.arrays, **given.attrs)
        (table,) = embedding_backward(given.dout, saved)
        return [out, table[np.unique(given.attrs["ids"])]]

    return run


def torch(given):
    """index_add into a gradient that is there."""
    import torch

    weight, dout = torch.from_numpy(given.arrays[0]), torch.from_numpy(given.dout)
    ids = torch.from_numpy(given.attrs["ids"])
    table, used = torch.zeros_like(weight), torch.unique(ids)

    def run():
        out = torch.nn.functional.embedding(ids, weight)
        table.index_add_(0, ids, dout)
        return [out.numpy(), table[used].numpy()]

    return run


def cost(case):
    """Reads and writes the rows forward; reads dout, reads and writes the table's rows backward."""
    return {"bytes": 5 * 4 * case["rows"] * case["table"][1]}

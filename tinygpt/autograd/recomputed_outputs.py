"""
Outputs that backward computes again in place of keeping them: rematerialization, one array at a time.

A linear layer needs its input for backward. If that is the output of a layer norm, it follows again from what the norm
has saved itself, in a small part of the time of the layer's products. So the layer, its *reader*, does not keep it:

    forward of the reader     `drop_outputs` puts an `OutputOf` into `saved`, in place of the array
    backward of the reader    `restore_outputs` computes the array, just before it is needed

Between the two the array's memory is free for others. An output is dropped where all of this holds:

    its kernel has a function `output`     see dispatch.py
    it is large                            see `LARGE`
    it is not `exposed`                    Nobody but the engine has had the array. Whoever has it, from `Tensor.data`
                                           or as a view, may have written into it before the reader ran. The reader's
                                           gradients then depend on what was written, and `output` knows nothing of it.
    its reader has no `output`             That would need the array too, at any time.

A write after the reader's forward does no harm: what is computed again is what the reader has read.

Not to be confused with recompute.py, which does without the activations of a whole block, if the user says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

LARGE = 2**20  # bytes: a smaller output is kept, since a call costs more than its memory is worth


class OutputOf(NamedTuple):
    """In `saved`, in place of an array: the node whose output that is. Nodes are those of graph.py, which uses this."""

    node: Any

    def again(self) -> np.ndarray:
        """The array."""
        self.node.check_not_freed()
        return self.node.output(self.node.saved).reshape(self.node.shape)


def drop_outputs(reader: Any, inputs: Sequence[np.ndarray]) -> None:
    """Put an `OutputOf` in place of each input that `reader`, a node, has saved and that can be computed again."""
    if type(reader.saved) is not tuple or reader.output is not None:
        return
    nodes = {}
    for array, node in zip(inputs, reader.parents, strict=True):
        if node is not None and node.output is not None and not node.exposed and array.nbytes >= LARGE:
            nodes[id(array)] = node
    if nodes:
        _substitute(reader, {id(item): OutputOf(nodes[id(item)]) for item in reader.saved if id(item) in nodes})


def restore_outputs(reader: Any) -> None:
    """Compute again what `saved` has an `OutputOf` for."""
    if type(reader.saved) is tuple:
        dropped = [item for item in reader.saved if type(item) is OutputOf]
        _substitute(reader, {id(item): item.again() for item in dropped} if dropped else {})


def _substitute(reader: Any, items: dict[int, Any]) -> None:
    """Put other items, given by the ids of the former ones, into `saved`, and into `needed`, which holds them too."""
    if items:
        reader.saved = tuple([items.get(id(item), item) for item in reader.saved])
        reader.needed = [items.get(id(item), item) for item in reader.needed]

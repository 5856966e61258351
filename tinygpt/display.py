"""
How tensors and models show themselves: in a terminal, and as HTML in a notebook. Importing this file gives the classes
their methods; nothing is computed, and no value is changed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.nn import Module


def parameter_table(module: Module) -> list[tuple[str, str, str, str]]:
    """
    Name, shape, count and gradient of each parameter; layers that are like the one before are one line.

    Examples
    --------
    >>> from tinygpt.nn import Linear
    >>> parameter_table(Linear(2, 3, np.random.default_rng(0)))
    [('weight', '(2, 3)', '6', 'none'), ('bias', '(3,)', '3', 'none')]
    """
    rows: list[tuple[str, str, str, str]] = []
    for prefix, members in _groups(module):
        if prefix is None:
            rows += [_row(name, parameter) for name, parameter in members]
        else:
            first, last = prefix
            count = sum(parameter.size for _, parameter in members)
            rows.append((f"{first} to {last}", "as the one before", f"{count:,}", ""))
    return rows


def _groups(module: Module) -> Iterator[tuple[tuple[str, str] | None, list[tuple[str, Tensor]]]]:
    """The parameters by layer; what comes after a layer and has its shapes is a group, with the names of its ends."""
    layers: dict[str, list[tuple[str, Tensor]]] = {}
    for name, parameter in module.named_parameters():
        match = re.match(r"(.*?\.\d+)\.|(\d+)\.", name)
        layers.setdefault(match.group(1) or match.group(2) if match else "", []).append((name, parameter))
        if not match:
            yield None, layers.pop("")
    kinds: list[tuple[list[str], list[list[tuple[str, Tensor]]]]] = []
    for members in layers.values():
        shapes = [str(parameter.shape) for _, parameter in members]
        if kinds and kinds[-1][0] == shapes:
            kinds[-1][1].append(members)
        else:
            kinds.append((shapes, [members]))
    for _, alike in kinds:
        yield None, alike[0]
        if len(alike) > 1:
            ends = [members[0][0].rsplit(".", members[0][0].count(".") - 1)[0] for members in (alike[1], alike[-1])]
            yield (ends[0], ends[1]), [pair for members in alike[1:] for pair in members]


def _row(name: str, parameter: Tensor) -> tuple[str, str, str, str]:
    return name, str(parameter.shape), f"{parameter.size:,}", _gradient_state(parameter)


def _gradient_state(tensor: Tensor) -> str:
    if not tensor.requires_grad:
        return "not wanted"
    if tensor.grad is None:
        return "none"
    norm = float(np.linalg.norm(np.asarray(tensor.grad, np.float64)))
    return f"norm {norm:.3g}"


def _title(module: Module) -> str:
    kinds = sorted({str(parameter.dtype) for parameter in module.parameters()})
    mode = "training" if module.training else "evaluating"
    return f"{type(module).__name__}: {module.num_parameters():,} parameters, {', '.join(kinds) or 'none'}, {mode}"


def module_repr(module: Module) -> str:
    """
    A module as a table of its parameters.

    Examples
    --------
    >>> from tinygpt.nn import Linear
    >>> Linear(2, 3, np.random.default_rng(0))
    Linear: 9 parameters, float32, training
      weight  (2, 3)  6  none
      bias    (3,)    3  none
    """
    rows = parameter_table(module)
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    cells = [[f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [("  " + "  ".join(row)).rstrip() for row in cells]
    return "\n".join([_title(module), *lines])


def module_html(module: Module) -> str:
    """The same as an HTML table."""
    cells = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in parameter_table(module)
    )
    head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("parameter", "shape", "numbers", "gradient"))
    return f"<b>{html.escape(_title(module))}</b><table><tr>{head}</tr>{cells}</table>"


def tensor_html(tensor: Tensor) -> str:
    """
    A tensor's shape, dtype and gradient state, and its values where they are few.

    Examples
    --------
    >>> tensor_html(Tensor([1.0, 2.0], requires_grad=True))
    '<b>Tensor</b> (2,), float32, gradient: none<pre>[1. 2.]</pre>'
    """
    made = f", made by {html.escape(tensor.node.op.name)}" if tensor.node is not None and tensor.node.op else ""
    state = f", gradient: {_gradient_state(tensor)}" if tensor.requires_grad and not made else made
    values = np.array2string(tensor.data, precision=4, suppress_small=True, threshold=60, edgeitems=3)
    return f"<b>Tensor</b> {tensor.shape}, {tensor.dtype}{state}<pre>{html.escape(values)}</pre>"


Module.__repr__ = module_repr  # type: ignore[method-assign,assignment]
Module._repr_html_ = module_html  # type: ignore[attr-defined]
Tensor._repr_html_ = tensor_html  # type: ignore[attr-defined]

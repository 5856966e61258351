"""
The `repr` of tensors and modules: a line, or a table, in a terminal and as HTML in a notebook.

Only the norm of an existing gradient is computed.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np

Row = tuple[str, str, str, str]
_HEAD = ("parameter", "shape", "numbers", "gradient")


def gradient_state(tensor: Any) -> str:
    """
    A tensor's gradient in one or two words.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> gradient_state(Tensor([1.0], requires_grad=True)), gradient_state(Tensor([1.0]))
    ('none', 'not required')
    """
    if not tensor.requires_grad:
        return "not required"
    if tensor.grad is None:
        return "none"
    return f"norm {np.linalg.norm(np.asarray(tensor.grad, np.float64)):.3g}"


def tensor_html(tensor: Any) -> str:
    """
    A tensor's shape, dtype and gradient, and its values where they are few.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> tensor_html(Tensor([1.0, 2.0], requires_grad=True))
    '<b>Tensor</b> (2,), float32, gradient: none<pre>[1. 2.]</pre>'
    """
    if not tensor.is_leaf:
        state = f", made by {html.escape(tensor.node.name)}"
    else:
        state = f", gradient: {gradient_state(tensor)}" if tensor.requires_grad else ""
    values = np.array2string(tensor.data, precision=4, suppress_small=True, threshold=60, edgeitems=3)
    return f"<b>Tensor</b> {tensor.shape}, {tensor.dtype}{state}<pre>{html.escape(values)}</pre>"


def parameter_table(named: Iterable[tuple[str, Any]]) -> list[Row]:
    """
    Name, shape, count and gradient of each parameter; layers with the shapes of the one before share a line.

    In place of a parameter there may be a text, for what has none.

    Examples
    --------
    >>> from tinygpt.nn import Linear
    >>> parameter_table(Linear(2, 3, np.random.default_rng(0)).named_parameters())
    [('weight', '(2, 3)', '6', 'none'), ('bias', '(3,)', '3', 'none')]
    """
    layers = [(layer, [*members]) for layer, members in groupby(named, lambda pair: _layer_of(pair[0]))]
    rows: list[Row] = []
    for _, equal in groupby(layers, lambda layer: (layer[0] != "", [_shape(p) for _, p in layer[1]])):
        (_, first), *others = equal
        rows += [
            (name, p, "", "") if isinstance(p, str) else (name, _shape(p), f"{p.size:,}", gradient_state(p))
            for name, p in first
        ]
        if others:
            count = sum(p.size for _, members in others for _, p in members if not isinstance(p, str))
            names = others[0][0] if len(others) == 1 else f"{others[0][0]} to {others[-1][0]}"
            rows.append((names, "as the one before", f"{count:,}", ""))
    return rows


def _shape(parameter: Any) -> str:
    return parameter if isinstance(parameter, str) else str(parameter.shape)


def table_as_text(title: str, rows: list[Row]) -> str:
    """The table in columns, one line per row."""
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    lines = ["  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([title, *(line.rstrip() for line in lines)])


def table_as_html(title: str, rows: list[Row]) -> str:
    """The table as HTML."""
    lines = [
        "<tr>" + "".join(f"<{tag} style='text-align:left'>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in [("th", _HEAD), *(("td", row) for row in rows)]
    ]
    return f"<b>{html.escape(title)}</b><table>{''.join(lines)}</table>"


def _layer_of(name: str) -> str:
    """The layer, among equal ones, that a parameter is in: "h.0" for "h.0.ln_1.weight"; "" outside of them."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts[:-1], 1) if part.isdigit()), 0)
    return ".".join(parts[:number])

"""
The statements of a function, each whole, and the steps of the derivation that they carry out.

A statement names its steps in a comment, `# (3)` or `# (2, 1)`, on one of its own lines or on a line of its own above.
A statement that spans several lines is joined into one; a loop or a condition that names a step comes with its body.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

NO_SOURCE = (OSError, TypeError, SyntaxError, tokenize.TokenError)  # typed in, or cut out of a longer expression
_STEPS = re.compile(r"#\s*\((\d+(?:\s*,\s*\d+)*)\)")


class Statement(NamedTuple):
    """
    A statement.

    Attributes
    ----------
    text : str
        Without its comments; several lines only where it is a block.
    steps : tuple of int
        The steps that its comments name; () if none.
    first, last : int
        Its lines in the file.
    function : str
        The function that it is in.
    """

    text: str
    steps: tuple[int, ...]
    first: int
    last: int
    function: str = ""

    @property
    def label(self) -> str:
        """(3) or (2,1); "" if it names no step."""
        return f"({','.join(map(str, self.steps))})" if self.steps else ""


def plain(function: Callable) -> Callable:
    """The Python function under a compiled, a wrapped or a partial one."""
    function = inspect.unwrap(getattr(function, "py_func", function))
    return plain(function.func) if isinstance(function, partial) else function


def source(function: Callable) -> str:
    """
    The source of a function without its docstring, dedented.

    Raises
    ------
    OSError, TypeError
        If there is none (see `NO_SOURCE`).

    Examples
    --------
    >>> from tinygpt.ops.basic import square
    >>> print(source(square))
    def square(a: Any) -> Tensor:
        return mul(a, a)
    """
    text = textwrap.dedent(inspect.getsource(plain(function))).rstrip()
    try:
        definition = ast.parse(text).body[0]
    except SyntaxError:  # a lambda inside of a longer expression
        return text
    if not isinstance(definition, ast.FunctionDef) or ast.get_docstring(definition) is None:
        return text
    docstring, lines = definition.body[0], text.splitlines()
    return "\n".join(lines[: docstring.lineno - 1] + lines[docstring.end_lineno :])


def statements(function: Callable) -> list[Statement]:
    """
    The statements of a function's body, blocks as one statement for each of their lines.

    Examples
    --------
    >>> from tinygpt.ops.layernorm import layernorm_forward
    >>> statements(layernorm_forward)[1].text, statements(layernorm_forward)[1].steps
    ('xc = x - mean', (2,))
    """
    lines, first = inspect.getsourcelines(plain(function))
    found = _with_blocks(_logical_lines("".join(lines), first))
    return [statement._replace(function=plain(function).__name__) for statement in found]


def numbered(function: Callable) -> list[Statement]:
    """The statements of a function that name steps; none if it has no source."""
    try:
        return [statement for statement in statements(function) if statement.steps]
    except NO_SOURCE:
        return []


def global_names(function: Callable) -> list[str]:
    """
    The names from outside that a function reads, in the order of their first use.

    Examples
    --------
    >>> from tinygpt.ops.basic import mul_backward
    >>> global_names(mul_backward)
    ['unbroadcast']
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(plain(function))))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    names = dict.fromkeys(node.id for node in sorted(found, key=lambda node: (node.lineno, node.col_offset)))
    code = plain(function).__code__
    return [name for name in names if name in plain(function).__globals__ and name not in code.co_varnames]


def _logical_lines(text: str, first: int) -> list[Statement]:
    """The body of a function as logical lines, without comments, still indented."""
    lines = textwrap.dedent(text).splitlines()
    found: list[Statement] = []
    pieces: dict[int, str] = {}
    comments: list[str] = []
    bare = True  # whether there is nothing but strings: a docstring
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
        (row, column), (end, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            comments.append(token.string)
            if row in pieces:
                pieces[row] = lines[row - 1][:column].rstrip()
        elif token.type == tokenize.NEWLINE:
            steps = tuple(dict.fromkeys(int(step) for comment in comments for step in _numbers(comment)))
            if not bare:
                found.append(Statement(_joined(pieces), steps, first + min(pieces) - 1, first + row - 1))
            pieces, comments, bare = {}, [], True
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            bare &= token.type == tokenize.STRING
            for number in range(row, end + 1):
                pieces.setdefault(number, lines[number - 1].rstrip())
    definition = next((index for index, line in enumerate(found) if line.text.startswith("def ")), -1)
    return found[definition + 1 :]


def _numbers(comment: str) -> list[str]:
    match = _STEPS.match(comment)
    return match.group(1).split(",") if match else []


def _joined(pieces: dict[int, str]) -> str:
    first, *rest = (pieces[row] for row in sorted(pieces))
    text = first.removesuffix("\\").rstrip()
    for piece in (piece.strip().removesuffix("\\").rstrip() for piece in rest):
        if not piece:
            continue
        if piece[0] in ")]}":
            text = text.removesuffix(",") + piece
        else:
            text += piece if text[-1] in "([{" else f" {piece}"
    return text


def _with_blocks(lines: list[Statement]) -> list[Statement]:
    """The same; but a header that names steps includes its body."""
    result = []
    for index, line in enumerate(lines):
        block = [line]
        if line.steps and line.text.endswith(":"):
            for inner in lines[index + 1 :]:
                if _depth(inner) <= _depth(line):
                    break
                block.append(inner)
        text = textwrap.dedent("\n".join(part.text for part in block))
        result.append(line._replace(text=text, last=block[-1].last))
    return result


def _depth(line: Statement) -> int:
    return len(line.text) - len(line.text.lstrip())

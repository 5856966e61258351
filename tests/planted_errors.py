"""
Plants mistakes in a backward: by changing what it returns, and by rewriting its source, one mistake at a time.

The mistakes are those that people make in derivations: a term, a factor or a sign forgotten, an axis transposed, not
summed, or summed in place of another.
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType

import numpy as np

# These make dropout's bits from integers, where a rewritten line may read memory that nobody wrote, and would give
# the right bits by accident. tests/ops/test_dropout.py holds them to the hash bit by bit.
LEFT_ALONE = {"random_bits", "_mix"}


def with_gradient(op, index, change):
    """`op` with a backward that returns change(gradient) for one of its inputs."""

    def backward(dout, saved):
        gradients = list(op.backward(dout, saved))
        gradients[index] = change(gradients[index])
        return tuple(gradients)

    return op._replace(backward=backward, kernel=None)


def copied(op):
    """`op` with a backward that was taken apart and put together again as mutants are, but says the same."""
    return op._replace(backward=_rebuilt(op.backward, op.backward, op.backward.__code__), kernel=None)


def mutants(op) -> Iterator[tuple[str, object]]:
    """A description and an op for each mistake in the source of `op.backward` and of the helpers that it calls."""
    for function in _family(op.backward):
        for description, code in _mutated(function):
            backward = _rebuilt(op.backward, function, code)
            yield f"{function.__name__}: {description}", op._replace(backward=backward, kernel=None)


def _first_slice(array, axis=None, keepdims=False):
    """An axis left unsummed: its first entry for the sum."""
    axes = tuple(range(array.ndim)) if axis is None else axis
    axes = tuple(np.atleast_1d(axes).astype(int) % max(array.ndim, 1))
    index = tuple(slice(0, 1) if i in axes else slice(None) for i in range(array.ndim))
    return array[index] if keepdims else array[index].squeeze(axes)


def _wrong_axis(array, axis=None, keepdims=False):
    """The sum over another axis of the same size, where there is one."""
    axes = range(array.ndim) if axis is None else np.atleast_1d(axis).astype(int) % max(array.ndim, 1)
    for summed in axes:
        for other in set(range(array.ndim)) - set(axes):
            if array.shape[summed] == array.shape[other]:
                return array.swapaxes(summed, other).sum(axis=axis, keepdims=keepdims)
    return array.sum(axis=axis, keepdims=keepdims)


def _assign_at(array, index, values):
    """Repeated indices written over each other instead of added up."""
    array[index] = values


PLANTED = {function.__name__: function for function in (_first_slice, _wrong_axis, _assign_at)}


def _alternatives(node: ast.AST) -> list[ast.AST]:
    """What a mistaken author might have written in place of this piece of source."""
    match node:
        case ast.BinOp():
            return [node.left, node.right]
        case ast.UnaryOp(op=ast.USub()):
            return [node.operand]
        case ast.AugAssign() | ast.Expr(value=ast.Call()):
            return [ast.Pass()]
        case ast.Attribute(attr="T"):
            return [node.value]
        case ast.Call(func=ast.Attribute(attr="swapaxes" | "transpose")):
            return [node.func.value]
        case ast.Call(func=ast.Attribute(attr="where") as where, args=[condition, a, b]):
            return [a, ast.Call(where, [condition, b, a], [])]
        case ast.Call(func=ast.Attribute(attr="at", value=ast.Attribute(attr="add"))):
            return [ast.Call(_name("_assign_at"), node.args, [])]
        case ast.Call(func=ast.Attribute(attr="sum" | "mean" as reduction, value=array)):
            other = ast.Attribute(array, "mean" if reduction == "sum" else "sum", ast.Load())
            planted = [ast.Call(_name(f), [array, *node.args], node.keywords) for f in ("_first_slice", "_wrong_axis")]
            return [*planted, ast.Call(other, node.args, node.keywords)]
    return []


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


class _Replacement(ast.NodeTransformer):
    """Takes the alternative of the given number, in the order of the source."""

    def __init__(self, number: int) -> None:
        self.left, self.description = number, None

    def visit(self, node: ast.AST) -> ast.AST:
        for alternative in _alternatives(node):
            if self.left == 0:
                self.description = f"{ast.unparse(node)}  ->  {ast.unparse(alternative)}"
            self.left -= 1
            if self.left == -1:
                return alternative
        return self.generic_visit(node)


def _mutated(function: FunctionType) -> Iterator[tuple[str, CodeType]]:
    """A description and the code of `function` for each alternative to each piece of its body."""
    original = _tree(function)
    for number in itertools.count():
        tree = copy.deepcopy(original)
        replacement = _Replacement(number)
        definition = tree.body[0]
        definition.body = [replacement.visit(statement) for statement in definition.body]
        if replacement.description is None:
            return
        namespace = dict(function.__globals__)
        exec(compile(ast.fix_missing_locations(tree), f"<mutant of {function.__name__}>", "exec"), namespace)
        yield replacement.description, namespace[function.__name__].__code__


def _tree(function: FunctionType) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _helpers(function: FunctionType) -> dict[str, FunctionType]:
    """The functions of the package that the source of `function` names."""
    names = {node.id for node in ast.walk(_tree(function)) if isinstance(node, ast.Name)}
    found = {name: function.__globals__.get(name) for name in names}
    return {
        name: value
        for name, value in sorted(found.items())
        if isinstance(value, FunctionType) and value.__module__.startswith("tinygpt.ops") and name not in LEFT_ALONE
    }


def _family(function: FunctionType) -> list[FunctionType]:
    """`function` and all helpers that it reaches."""
    family = [function]
    for member in family:  # grows while it is walked
        family += [helper for helper in _helpers(member).values() if helper not in family]
    return family


def _rebuilt(function: FunctionType, original: FunctionType, code: CodeType) -> FunctionType:
    """A copy of `function` in which `original`, itself or a helper, has other code; the package is not touched."""
    namespace = {**function.__globals__, **PLANTED}
    for name, helper in _helpers(function).items():
        namespace[name] = _rebuilt(helper, original, code)
    code = code if function is original else function.__code__
    return FunctionType(code, namespace, function.__name__, function.__defaults__)

"""
Reads the tables in the docstrings of `tinygpt/ops` and executes them. docs/notation.md says how they are written.

Three parts: a parser, from a docstring to statements; an evaluator, which knows every array by the names of its axes;
and `mutants`, which plants one typo at a time in a docstring. No operation is called here: the text is what runs. Only
dropout's random bits are the package's own; tests/ops/test_dropout.py holds them to their hash bit by bit.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygpt.ops.dropout import dropout_mask, random_bits
from tinygpt.study.samples import every_op, page_of

# The parser


class Node(NamedTuple):
    """A piece of an expression: its kind, the name or number it is, its parts, and where it stands in the text."""

    kind: str
    value: Any
    parts: tuple[Node, ...]
    start: int
    end: int


class Statement(NamedTuple):
    """`names sign tree where condition`, or `names again`; and its place in the docstring."""

    steps: tuple[int, ...]
    names: tuple[str, ...]
    sign: str
    tree: Node | None
    condition: Node | None
    text: str
    line: int
    column: int
    cell_ends: int


class Table(NamedTuple):
    """What a docstring says: the axes of each name, definitions, and both columns in the order of execution."""

    axes: dict[str, tuple[str, ...]]
    definitions: list[Statement]
    forward: list[Statement]
    backward: list[Statement]


_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?)|([A-Za-z_]\w*(?:\.[a-z]\w*)?'?)|(<=|>=|!=|[-+*/@^()\[\],=<>]))")
_COMPARISONS = {"=": np.equal, "!=": np.not_equal, "<": np.less, ">": np.greater, "<=": np.less_equal,
                ">=": np.greater_equal}  # fmt: skip


class Parser:
    """An expression, by recursive descent; Python's precedence, with ^ for powers and ^T for the transpose."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.tokens = text, 0, []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if not match:
                raise SyntaxError(f"cannot read {text[position:]!r} in {text!r}")
            kind = ("number", "name", "sign")[match.lastindex - 1]
            self.tokens.append((kind, match[match.lastindex], match.start(match.lastindex), match.end()))
            position = match.end()
        self.tokens.append(("end", "", len(text), len(text)))

    def whole(self, rule: Callable[[], Node]) -> Node:
        node = rule()
        if self.kind() != "end":
            raise SyntaxError(f"did not expect {self.peek()!r} in {self.text!r}")
        return node

    def kind(self) -> str:
        return self.tokens[self.at][0]

    def peek(self) -> str:
        return self.tokens[self.at][1]

    def take(self, *expected: str) -> tuple[str, str, int, int]:
        token = self.tokens[self.at]
        if expected and token[1] not in expected:
            raise SyntaxError(f"expected {' or '.join(expected)}, got {token[1]!r} in {self.text!r}")
        self.at += 1
        return token

    def binary(self, signs: str, operand: Callable[[], Node]) -> Node:
        node = operand()
        while self.kind() == "sign" and self.peek() in signs:
            sign, right = self.take()[1], operand()
            node = Node("binary", sign, (node, right), node.start, right.end)
        return node

    def sum(self) -> Node:
        return self.binary("+-", self.product)

    def product(self) -> Node:
        return self.binary("*/@", self.factor)

    def factor(self) -> Node:
        if self.peek() == "-":
            start, operand = self.take()[2], self.factor()
            return Node("minus", "-", (operand,), start, operand.end)
        return self.power()

    def power(self) -> Node:
        node = self.atom()
        while self.peek() == "^":
            self.take()
            if self.peek() == "T":
                node = Node("transposed", "^T", (node,), node.start, self.take()[3])
            else:
                exponent = self.atom()
                node = Node("power", "^", (node, exponent), node.start, exponent.end)
        return node

    def atom(self) -> Node:
        kind, text, start, end = self.take()
        if kind == "number":
            if text == "1" and self.peek() == "[":
                self.take()
                condition = self.condition()
                return Node("indicator", None, (condition,), start, self.take("]")[3])
            return Node("number", text, (), start, end)
        if text == "(":
            inside = self.sum()
            return Node("parentheses", None, (inside,), start, self.take(")")[3])
        if kind != "name":
            raise SyntaxError(f"did not expect {text!r} in {self.text!r}")
        name = Node("name", text, (), start, end)
        if self.peek() == "(":
            arguments = []
            while not arguments or self.peek() == ",":
                self.take("(", ",")
                arguments.append(self.sum())
            return Node("call", text, tuple(arguments), start, self.take(")")[3])
        if self.peek() == "[":
            self.take()
            first = self.sum()
            if self.peek() == "=":
                self.take()
                return Node("select", first.value, (name, self.sum()), start, self.take("]")[3])
            return Node("index", None, (name, first), start, self.take("]")[3])
        return name

    def condition(self) -> Node:
        left = self.sum()
        sign, right = self.take(*_COMPARISONS)[1], self.sum()
        return Node("comparison", sign, (left, right), left.start, right.end)


def parse(text: str) -> Node:
    parser = Parser(text)
    return parser.whole(parser.sum)


def parse_condition(text: str) -> Node:
    parser = Parser(text)
    return parser.whole(parser.condition)


_STATEMENT = re.compile(r"(\w+(?:, \w+)*) *(\+=|-=|=) *(.+?)(?: where (.+))?")


def statements(cell: str, steps: tuple[int, ...], line: int, column: int, cell_ends: int) -> list[Statement]:
    """Of one cell: separated by commas outside of brackets."""
    if cell.endswith(" again"):
        names = tuple(cell.removesuffix(" again").split(", "))
        return [Statement(steps, names, "again", None, None, cell, line, column, cell_ends)]
    pieces, depth, start = [], 0, 0
    for i, character in enumerate(cell + ","):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0 and "=" in cell[start:i]:  # in `q, k, v = ...` the first commas join names
            pieces.append((start, cell[start:i]))
            start = i + 1
    if cell[start:].strip():
        raise SyntaxError(f"{cell[start:]!r} is no statement")
    found = []
    for start, piece in pieces:
        text = piece.strip()
        match = _STATEMENT.fullmatch(text)
        if not match:
            raise SyntaxError(f"{text!r} is no statement")
        condition = parse_condition(match[4]) if match[4] else None
        place = column + start + piece.index(text)
        found.append(Statement(steps, tuple(match[1].split(", ")), match[2], parse(match[3]), condition, text, line,
                               place, cell_ends))  # fmt: skip
    return found


def table_of(docstring: str) -> Table:
    """The glossary and the two columns of an operation's docstring."""
    lines = docstring.splitlines()
    axes, definitions = _glossary(lines, _line(lines, r"Throughout this file$", "Throughout this file") + 1)
    header = _line(lines, r"Forward\b.*\bBackward", "Forward ... Backward, the header of the table")
    split = lines[header].index("Backward")
    columns: tuple[list[Statement], list[Statement]] = ([], [])
    for (start, end), column in zip(((4, split), (split, None)), columns, strict=True):
        steps: tuple[int, ...] = ()
        for i in range(header + 1, _end_of_block(lines, header)):
            match = re.fullmatch(r"(\s*)(?:\((\d+(?:, \d+)*)\)(\s+))?(.*?)\s*", lines[i][start:end])
            if match[2]:
                steps = tuple(map(int, match[2].split(", ")))
            if match[4]:
                place = start + match.start(4)
                column += statements(match[4], steps, i, place, len(lines[i]) if end is None else end)
    forward, backward = columns
    upwards: list[Statement] = []  # the steps from below; within one, as written
    for steps in reversed(list(dict.fromkeys((each.steps, each.sign == "again") for each in backward))):
        upwards += [each for each in backward if (each.steps, each.sign == "again") == steps]
    return Table(axes, definitions, forward, upwards)


def _line(lines: list[str], pattern: str, what: str) -> int:
    """The first line that matches."""
    found = next((i for i, line in enumerate(lines) if re.match(pattern, line)), None)
    if found is None:
        raise SyntaxError(f"the docstring that begins with {lines[0]!r} lacks the line: {what}")
    return found


def _end_of_block(lines: list[str], start: int) -> int:
    return next((i for i in range(start, len(lines)) if not lines[i]), len(lines))


def _glossary(lines: list[str], start: int) -> tuple[dict[str, tuple[str, ...]], list[Statement]]:
    axes: dict[str, tuple[str, ...]] = {}
    definitions: list[Statement] = []
    for i in range(start, _end_of_block(lines, start)):
        fields = list(re.finditer(r"\S(?:\s?\S)*", lines[i]))
        for field, following in zip(fields, [*fields[1:], None], strict=True):
            if re.match(r"[A-Za-z_]\w* = ", field[0]):
                definitions += statements(field[0].rstrip(","), (), i, field.start(), len(lines[i]))
            elif following and re.match(r"\(.*\)$|any shape", following[0]):
                named = re.findall(r"\.\.\.|^any(?= shape)|\w+", following[0])
                if "..." in named[1:]:
                    raise SyntaxError(f"{field[0]} {following[0]}: ... stands for leading axes")
                axes |= dict.fromkeys(field[0].split(", "), tuple(named[:1] if named[:1] == ["any"] else named))
    return axes, definitions


def row_of(docstring: str, name: str) -> Table:
    """One operation's row in the table of a file that has several."""
    lines = docstring.splitlines()
    header = _line(lines, r"Operation\b.*\bForward\b.*\bBackward", "Operation ... Forward ... Backward")
    starts = [lines[header].index("Forward"), lines[header].index("Backward")]
    columns: tuple[list[Statement], list[Statement]] = ([], [])
    current = ""
    for i in range(header + 1, _end_of_block(lines, header)):
        current = lines[i][: starts[0]].strip() or current
        if current == name:
            for (start, end), column in zip(((starts[0], starts[1]), (starts[1], None)), columns, strict=True):
                cell = lines[i][start:end].rstrip()
                text = cell.strip()
                if text:
                    place = start + cell.index(text)
                    column += statements(text, (), i, place, len(lines[i]) if end is None else end)
    return Table({}, [], *columns)


def rows_of(docstring: str) -> list[str]:
    """The names of all operations in the table of a file that has several."""
    lines = docstring.splitlines()
    header = _line(lines, r"Operation\b.*\bForward\b.*\bBackward", "Operation ... Forward ... Backward")
    width = lines[header].index("Forward")
    return [name for line in lines[header + 1 : _end_of_block(lines, header)] if (name := line[:width].strip())]


# The evaluator


class Named(np.lib.mixins.NDArrayOperatorsMixin):
    """An array whose axes have names: axes of the same name meet, whatever their order; none is stretched."""

    def __init__(self, values: Any, axes: tuple[str, ...]) -> None:
        self.values, self.axes = np.asarray(values, np.float64), axes
        if self.values.ndim != len(axes) or len(set(axes)) != len(axes):
            raise ValueError(f"axes {axes} do not fit shape {self.values.shape}")

    def along(self, axes: tuple[str, ...]) -> np.ndarray:
        """The values with their axes in this order, and size 1 for those that they lack."""
        ordered = self.values.transpose([self.axes.index(axis) for axis in axes if axis in self.axes])
        return ordered[tuple(slice(None) if axis in self.axes else None for axis in axes)]

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        operands = [each if isinstance(each, Named) else Named(each, ()) for each in inputs]
        if ufunc is np.matmul:
            return _matrix_product(*operands)
        longest = max((each.axes for each in operands), key=len)
        axes = tuple(dict.fromkeys([*longest, *(axis for each in operands for axis in each.axes)]))
        return Named(ufunc(*(each.along(axes) for each in operands)), axes)


def _matrix_product(a: Named, b: Named) -> Named:
    if len(a.axes) < 2 or len(b.axes) < 2 or a.axes[-1] != b.axes[-2]:
        raise ValueError(f"{a.axes} @ {b.axes}: the last axis of the first must be the last but one of the second")
    out = (*dict.fromkeys(a.axes[:-2] + b.axes[:-2]), a.axes[-2], b.axes[-1])
    if len(set(out)) != len(out) or a.axes[-1] in out:
        raise ValueError(f"{a.axes} @ {b.axes} has an axis twice")
    letters = {axis: chr(ord("a") + i) for i, axis in enumerate((*out, a.axes[-1]))}
    written = ["".join(letters[axis] for axis in axes) for axes in (a.axes, b.axes, out)]
    return Named(np.einsum("{},{}->{}".format(*written), a.values, b.values), out)


def _transposed(a: Any) -> Any:
    if not isinstance(a, Named):
        return a.swapaxes(-1, -2)
    if len(a.axes) < 2:
        raise ValueError(f"^T of axes {a.axes}")
    return Named(a.values.swapaxes(-1, -2), (*a.axes[:-2], a.axes[-1], a.axes[-2]))


def _softmax(values: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(values - values.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


_REDUCTIONS = {"sum": np.sum, "mean": np.mean, "max": np.max}
_FUNCTIONS = {"sqrt": np.sqrt, "ln": np.log, "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "floor": np.floor}
_BINARY = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.true_divide, "@": np.matmul}


class Names(dict):
    """What a formula may name: what was bound, sizes (capital letters), indices (small ones), pi, e and inf."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}

    def __missing__(self, name: str) -> Any:
        if name in ("pi", "inf"):
            return getattr(math, name)
        if name in self.sizes:
            return self.sizes[name]
        if len(name) == 1 and name.upper() in self.sizes:
            return Named(np.arange(self.sizes[name.upper()]), (name.upper(),))
        owner, _, attribute = name.partition(".")
        if attribute:
            return getattr(self[owner], attribute)
        raise KeyError(f"{name} has no meaning here")


def evaluate(node: Node, names: Names) -> Any:
    """The value of an expression."""
    if node.kind == "select":  # X[v = Y]: the entry at Y along v, 0 where there is none
        array, at = (evaluate(part, names) for part in node.parts)
        return _reduce("sum", node.value.upper(), array * np.equal(names[node.value], at))
    if node.kind == "power" and node.parts[0].value == "e" and "e" not in names:
        return np.exp(evaluate(node.parts[1], names))
    parts = [evaluate(part, names) for part in node.parts]
    match node.kind:
        case "number":
            return float(node.value)
        case "name":
            return names[node.value]
        case "parentheses":
            return parts[0]
        case "minus":
            return np.negative(parts[0])
        case "binary":
            return _BINARY[node.value](*parts)
        case "power":
            return np.float_power(*parts)
        case "transposed":
            return _transposed(parts[0])
        case "comparison":
            return _COMPARISONS[node.value](*parts)
        case "indicator":
            return parts[0] * 1.0
        case "index":
            return parts[0][parts[1]]
        case "call":
            return _call(node.value, parts, names)
    raise AssertionError(node.kind)


def _call(function: str, arguments: list[Any], names: Names) -> Any:
    if function in names:
        return names[function](*arguments)
    if function in _FUNCTIONS:
        return _FUNCTIONS[function](*arguments)
    kind, _, axis = function.rpartition("_")
    return _reduce(kind, axis, *arguments)


def _reduce(kind: str, axis: str, array: Named) -> Named:
    if axis not in array.axes:
        raise ValueError(f"{kind}_{axis} of an array with the axes {array.axes}")
    place = array.axes.index(axis)
    if kind == "softmax":
        return Named(_softmax(array.values, place), array.axes)
    return Named(_REDUCTIONS[kind](array.values, place), (*array.axes[:place], *array.axes[place + 1 :]))


_JOINED = {"...": "N", "any": "I"}  # several axes taken as one


class Page(Names):
    """The names of one run of a table with a glossary. Every array that is bound must have the axes it has there."""

    def __init__(self, table: Table, numbers: Iterable[str]) -> None:
        super().__init__()
        self.table, self.numbers = table, frozenset(numbers)

    def __setitem__(self, name: str, value: Any) -> None:
        if callable(value):
            super().__setitem__(name, value)
            return
        axes = self.axes_of(name)
        kept = tuple(_JOINED.get(axis, axis) for axis in axes if axis != "1")
        if not isinstance(value, Named):
            values = np.asarray(value)
            if axes[:1] in (("...",), ("any",)):
                values = values.reshape(-1, *values.shape[values.ndim - len(axes) + 1 :])
            value = Named(values, kept)
        if set(value.axes) != set(kept):
            raise ValueError(f"{name} has the axes {axes}, got {value.axes}")
        value = Named(value.along(kept), kept)
        for axis, size in zip(kept, value.values.shape, strict=True):
            if self.sizes.setdefault(axis, size) != size:
                raise ValueError(f"{name} has size {size} along {axis}, not {self.sizes[axis]}")
            if axis[0].isdigit():  # 3C
                self.sizes.setdefault(axis[1:], size // int(axis[0]))
        super().__setitem__(name, value)

    def axes_of(self, name: str) -> tuple[str, ...]:
        """The axes of a name; dX has those of X; numbers have none."""
        known = self.table.axes
        if name in known or name.removeprefix("d") in known:
            return known.get(name, known.get(name.removeprefix("d")))
        if any(name in each.names for each in self.table.definitions) or name in self.numbers:
            return ()
        raise KeyError(f"the glossary does not have {name}")

    def execute(self, statement: Statement) -> None:
        """One statement of the table; what is made again is made by the lines of forward."""
        if statement.sign == "again":
            missing = set(statement.names)
            for line in self.table.forward:
                if missing & set(line.names):
                    missing -= set(line.names)
                    self.execute(line)
            if missing:
                raise ValueError(f"forward makes no {missing}")
            return
        value = evaluate(statement.tree, self)
        if statement.condition is not None:
            (name,) = statement.names
            old = self[name]
            chosen = evaluate(statement.condition, self).along(old.axes)
            value = value if isinstance(value, Named) else Named(value, ())
            value = Named(np.where(chosen, value.along(old.axes), old.values), old.axes)
        if len(statement.names) > 1:
            for name, part in zip(statement.names, value, strict=True):
                self[name] = part
        elif statement.sign == "=":
            self[statement.names[0]] = value
        else:
            (name,) = statement.names
            self[name] = self[name] + value if statement.sign == "+=" else self[name] - value


# What the glossaries say in words: the functions and masks that an operation's table calls by name


def _attention(page: Page, attrs: dict[str, Any]) -> None:
    H = page.sizes["H"] = attrs["n_head"]
    B, T, C = (page.sizes[axis] for axis in "BTC")
    page.sizes |= {"S": T, "D": C // H}

    def split(packed: Named) -> Any:
        parts = packed.values.shape[-1] // C
        heads = [[part[..., h * C // H : (h + 1) * C // H] for h in range(H)]
                 for part in np.split(packed.values, parts, axis=-1)]  # fmt: skip
        stacked = [np.stack(each, axis=1) for each in heads]
        return stacked if parts > 1 else stacked[0]

    def merge(*parts: Named) -> np.ndarray:
        return np.concatenate([part.values[:, h] for part in parts for h in range(H)], axis=-1)

    page["split"], page["merge"] = split, merge
    p, shape = attrs.get("p", 0.0), (B, H, T, T)
    page["dropout_mask"] = dropout_mask(shape, p, attrs["seed"], np.float64) if p else np.ones(shape)


def _dropout(page: Page, attrs: dict[str, Any]) -> None:
    page["hash"] = lambda seed, i: Named(random_bits(int(seed.values), page.sizes["I"])[i.values.astype(int)], i.axes)


def _gelu_linear(page: Page, attrs: dict[str, Any]) -> None:
    gelu = every_op()["gelu"]

    def both(x: Named) -> tuple[np.ndarray, np.ndarray]:
        page = forward(gelu, page_of(gelu), [x.values], {})
        slope = backward(page, np.ones(x.values.shape))["dx"]
        return page["out"].values.reshape(x.values.shape), slope.values.reshape(x.values.shape)

    page["gelu"] = lambda x: Named(both(x)[0], x.axes)
    page["gelu'"] = lambda x: Named(both(x)[1], x.axes)


GIVEN = {"attention": _attention, "dropout": _dropout, "gelu_linear": _gelu_linear}


def inputs_of(op: Any, arrays: list[np.ndarray]) -> list[str]:
    """The names of the differentiable inputs."""
    return list(inspect.signature(op.forward).parameters)[: len(arrays)]


def attributes_of(op: Any, attrs: dict[str, Any]) -> dict[str, Any]:
    """Those given, and the defaults of the others."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(op.forward).parameters.items()
                if parameter.default is not parameter.empty}  # fmt: skip
    return defaults | attrs


class Nudge(NamedTuple):
    """Added to a name right after the step that made it; step 0 is before the first, for inputs."""

    step: int
    name: str
    change: np.ndarray


def forward(
    op: Any, docstring: str, arrays: list[np.ndarray], attrs: dict[str, Any], nudge: Nudge | None = None
) -> Page:
    """All names after the table's left column."""
    table, attrs = table_of(docstring), attributes_of(op, attrs)
    page = Page(table, [name for name, value in attrs.items() if np.ndim(value) == 0])
    for name, array in zip(inputs_of(op, arrays), arrays, strict=True):
        page[name] = array
    for name, value in attrs.items():
        if value is not None:
            page[name] = value
    GIVEN.get(op.name, lambda page, attrs: None)(page, attrs)
    for statement in table.definitions:
        page.execute(statement)
    nudges = [] if nudge is None else [nudge]
    for step in (0, *dict.fromkeys(each.steps[0] for each in table.forward)):
        for statement in table.forward:
            if statement.steps[0] == step:
                page.execute(statement)
        for each in nudges:
            if each.step == step:
                page[each.name] = Named(page[each.name].values + each.change, page[each.name].axes)
    return page


def result_of(page: Page) -> str:
    """The name of the operation's result: what the last step makes."""
    return page.table.forward[-1].names[-1]


def backward(
    page: Page, dout: np.ndarray, before: Callable[[tuple[int, ...], Page], None] = lambda steps, page: None
) -> Page:
    """All names after the table's right column, read upwards; `before` is called before each of its steps."""
    page["d" + result_of(page)] = dout
    last: tuple[int, ...] = ()
    for statement in page.table.backward:
        if statement.steps != last and statement.sign != "again":
            last = statement.steps
            before(last, page)
        page.execute(statement)
    return page


# Operations of a row: plain arrays, NumPy's broadcasting; a gradient is summed where its operand was stretched


def _summed_to(shape: tuple[int, ...], gradient: np.ndarray) -> np.ndarray:
    """The sum over all places of `gradient` that broadcasting made of each place of `shape`; stretched where short."""
    if gradient.shape == shape:
        return gradient
    common = np.broadcast_shapes(shape, gradient.shape)
    gradient = np.broadcast_to(gradient, common)
    places = np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), common)
    return np.bincount(places.ravel(), gradient.ravel(), minlength=math.prod(shape)).reshape(shape)


def _scatter_add(values: np.ndarray, index: Any, shape: tuple[int, ...]) -> np.ndarray:
    places = np.arange(math.prod(shape)).reshape(shape)[index]
    return np.bincount(np.ravel(places), np.ravel(values), minlength=math.prod(shape)).reshape(shape)


def _product_of_others(x: np.ndarray, axis: Any) -> np.ndarray:
    """Value by value: the product of its group with a 1 in its place."""
    product = np.empty_like(x)
    for place in np.ndindex(x.shape):
        others = x.copy()
        others[place] = 1.0
        product[place] = np.broadcast_to(np.prod(others, axis, keepdims=True), x.shape)[place]
    return product


def _exchanged(subscripts: str, arrays: list[np.ndarray], dout: np.ndarray) -> list[np.ndarray]:
    """Letter by letter: each product of one element of every array, and what each of its factors receives."""
    inputs, output = subscripts.split("->")
    terms, sizes = inputs.split(","), {}
    for term, array in zip(terms, arrays, strict=True):
        sizes |= {letter: max(n, sizes.get(letter, 0)) for letter, n in zip(term, array.shape, strict=True)}
    shares = [np.zeros_like(array) for array in arrays]
    for values in np.ndindex(*sizes.values()):
        at = dict(zip(sizes, values, strict=True))
        places = [tuple(min(at[letter], n - 1) for letter, n in zip(term, array.shape, strict=True))
                  for term, array in zip(terms, arrays, strict=True)]  # fmt: skip
        gradient = dout[tuple(at[letter] for letter in output)]
        for k, share in enumerate(shares):
            others = [array[place] for array, place in zip(arrays, places, strict=True)]
            others[k] = 1.0
            share[places[k]] += gradient * math.prod(others)
    return shares


def _row_functions(names: Names, attrs: dict[str, Any]) -> None:
    axis = attrs.get("axis")

    def reduction(function: Callable, pairwise: Callable | None = None) -> Callable:
        return lambda *arrays: pairwise(*arrays) if len(arrays) > 1 else function(arrays[0], axis=axis, keepdims=True)

    names |= {
        "sum": reduction(np.sum),
        "mean": reduction(np.mean),
        "max": reduction(np.max, np.maximum),
        "prod": reduction(np.prod),
        "product_of_others": lambda x: _product_of_others(x, axis),
        "cumsum": lambda x: np.cumsum(x, axis),
        "reverse": lambda x: np.flip(x, axis),
        "min": np.minimum,
        "where": np.where,
        "astype": lambda a, dtype: a.astype(dtype),
        "reshape": np.reshape,
        "transpose": np.transpose,
        "argsort": np.argsort,
        "broadcast_to": np.broadcast_to,
        "unbroadcast": lambda gradient, shape: _summed_to(shape, gradient),
        "scatter_add": _scatter_add,
        "concatenate": np.concatenate,
        "pad": lambda x, widths, value: np.pad(x, widths, constant_values=value),
        "cut": lambda whole, widths: whole[
            tuple(slice(before, n - after) for n, (before, after) in zip(whole.shape, widths, strict=True))
        ],
        "einsum": lambda subscripts, arrays: np.einsum(subscripts, *arrays),
        "exchanged": _exchanged,
        "split": lambda whole, parts, axis: np.split(whole, np.cumsum([p.shape[axis] for p in parts])[:-1], axis),
    }


def row_names(op: Any, arrays: list[np.ndarray], attrs: dict[str, Any]) -> Names:
    """The names that an operation's row may use before its first statement."""
    names, attrs = Names(), attributes_of(op, attrs)
    if op.name == "matmul":  # a vector is one row on the left, one column on the right
        a, b = arrays
        arrays = [a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b]
    _row_functions(names, attrs)
    names |= attrs
    if op.name in ("concatenate", "einsum"):
        names["arrays"] = arrays
    else:
        names |= dict(zip(inputs_of(op, arrays), arrays, strict=True))
    return names


def row_forward(op: Any, docstring: str, arrays: list[np.ndarray], attrs: dict[str, Any]) -> Names:
    """All names after an operation's forward; `out` with the axes that keepdims keeps."""
    names = row_names(op, arrays, attrs)
    if "axis" in names and op.name != "concatenate":
        shape = arrays[0].shape
        names["n"] = math.prod(shape) // max(1, np.sum(arrays[0], axis=names["axis"]).size)
    for statement in row_of(docstring, op.name).forward:
        (name,) = statement.names
        names[name] = evaluate(statement.tree, names)
    return names


def row_backward(op: Any, docstring: str, names: Names, dout: np.ndarray) -> list[np.ndarray]:
    """The gradients of an operation's inputs; `dout` has the axes that keepdims keeps."""
    names["dout"] = dout
    made = []
    for statement in row_of(docstring, op.name).backward:
        (name,) = statement.names
        value = evaluate(statement.tree, names)
        if not op.forward.__module__.endswith(("shapes", "products")):  # there, nothing is left out
            value = _summed_to(np.shape(names[name.removeprefix("d")]), np.asarray(value))
        names[name] = value
        made.append(name)
    gradients = [names[name] for name in made]
    return gradients[0] if isinstance(gradients[0], list) else gradients


# One typo at a time


class Mutant(NamedTuple):
    """A docstring with one typo, and what was changed."""

    description: str
    docstring: str


_SWAPPED = {"+": "-", "-": "+", "*": "/", "/": "*", "@": "*", "=": "!=", "!=": "=", "<": ">", ">": "<=", ">=": "<",
            "<=": ">", "+=": "-=", "-=": "+="}  # fmt: skip


def mutants(docstring: str, table: Table) -> Iterator[Mutant]:
    """A docstring for each sign, factor, term, axis, name, number or statement of a table that could be mistyped."""
    yield from _misnumbered(docstring)
    yield from _misshaped(docstring)
    everything = [*table.definitions, *table.forward, *table.backward]
    known = sorted(set().union(*(each.names for each in everything), *(_names_in(each) for each in everything)))
    letters = sorted({axis for axes in table.axes.values() for axis in axes if axis.isalpha()} | {"N"})
    for statement in everything:
        if statement.sign == "again":
            continue
        text = statement.text
        for start, end, new in _edits(statement, known, letters):
            if new != text[start:end]:
                changed = text[:start] + new + text[end:]
                yield Mutant(f"{text}  ->  {changed}", _replaced(docstring, statement, changed))
        yield Mutant(f"{text}  ->  nothing", _replaced(docstring, statement, ""))


def rewritten(docstring: str, table: Table) -> Iterator[Mutant]:
    """A docstring for each formula, with brackets that change nothing."""
    for statement in (*table.definitions, *table.forward, *table.backward):
        if statement.sign != "again":
            text, start = statement.text, statement.text.index("=") + 1
            formula, *condition = text[start:].split(" where ")
            changed = " where ".join([f"{text[:start]} ((({formula.strip()})))", *condition])
            yield Mutant(changed, _replaced(docstring, statement, changed))


def _misnumbered(docstring: str) -> Iterator[Mutant]:
    """Every step number of the table, one too high."""
    if "\nForward" in docstring:
        start = docstring.index("\nForward")
        for label in re.finditer(r"(?<=  )\(\d(?:, \d)*\) ", docstring[start : docstring.index("\n\n", start)]):
            for digit in re.finditer(r"\d", label[0]):
                at = start + label.start() + digit.start()
                changed = docstring[:at] + str(int(digit[0]) + 1) + docstring[at + 1 :]
                yield Mutant(f"{label[0].strip()}  ->  {changed[start + label.start() : at + 2]}", changed)


def _misshaped(docstring: str) -> Iterator[Mutant]:
    """Every shape of the glossary with two neighbouring axes exchanged."""
    end = docstring.find("\nForward")
    start = docstring.find("Throughout this file")
    for shape in re.finditer(r"(?<=  )\(\S+(?:, \w+)+\)", docstring[: max(end, 0)]):
        axes = shape[0][1:-1].split(", ")
        for i in range(len(axes) - 1) if shape.start() > start else ():
            exchanged = "(" + ", ".join([*axes[:i], axes[i + 1], axes[i], *axes[i + 2 :]]) + ")"
            line = docstring[docstring.rindex("\n", 0, shape.start()) + 1 : shape.end()].strip()
            yield Mutant(f"{line}  ->  {exchanged}", docstring[: shape.start()] + exchanged + docstring[shape.end() :])


def _names_in(statement: Statement) -> set[str]:
    return {node.value for tree in (statement.tree, statement.condition) if tree for node in _nodes(tree)
            if node.kind == "name" and node.value not in ("pi", "e", "inf")}  # fmt: skip


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for part in node.parts:
        yield from _nodes(part)


def _edits(statement: Statement, known: list[str], letters: list[str]) -> Iterator[tuple[int, int, str]]:
    """Start, end and replacement in the statement's text."""
    text = statement.text
    match = _STATEMENT.fullmatch(text)
    if statement.sign != "=":
        yield match.start(2), match.end(2), _SWAPPED[statement.sign]
        yield match.start(2), match.end(2), "="
    yield match.start(3), match.end(3), f"-({match[3]})"
    if match[4]:
        yield match.end(3), len(text), ""
    for tree, shift in ((statement.tree, match.start(3)), (statement.condition, match.start(4) if match[4] else 0)):
        for node in _nodes(tree) if tree else ():
            for start, end, new in _alternatives(node, text[shift:], known, letters):
                yield start + shift, end + shift, new


def _alternatives(node: Node, text: str, known: list[str], letters: list[str]) -> Iterator[tuple[int, int, str]]:
    start, end = node.start, node.end
    parts = [text[part.start : part.end] for part in node.parts]
    match node.kind:
        case "binary" | "comparison":
            sign = text.index(node.value, node.parts[0].end)
            yield sign, sign + len(node.value), _SWAPPED[node.value]
            if node.kind == "binary":
                yield start, end, parts[0]
                yield start, end, parts[1]
            if node.value in "-/@":
                yield start, end, f"{parts[1]} {node.value} {parts[0]}"
            if node.value == "@":
                for part, written in zip(node.parts, parts, strict=True):
                    if part.kind != "transposed":
                        yield part.start, part.end, written + "^T"
        case "minus" | "transposed":
            yield start, end, parts[0]
        case "power":
            yield start, end, parts[0]
        case "number":
            yield start, end, str(float(node.value) + 1)
        case "name":
            for other in known:
                yield start, end, other
        case "call":
            yield start, end, f"({', '.join(parts)})" if len(parts) == 1 else parts[0]
            kind, _, axis = node.value.rpartition("_")
            for other in letters if kind in (*_REDUCTIONS, "softmax") else ():
                yield start, start + len(node.value), f"{kind}_{other}"
            for other in _REDUCTIONS if kind in _REDUCTIONS else ():
                yield start, start + len(node.value), f"{other}_{axis}"
            for other in _REDUCTIONS if node.value in _REDUCTIONS and len(parts) == 1 else ():
                yield start, start + len(node.value), other
        case "select":
            yield start, end, parts[0]
        case "index":
            yield start, end, parts[0]


def _replaced(docstring: str, statement: Statement, new: str) -> str:
    """The docstring with another statement in the place of this one, and every column where it was."""
    lines = docstring.splitlines()
    line, begin = lines[statement.line], statement.column
    end = begin + len(statement.text)
    if not new:  # with the comma that follows it, or that it follows
        after = re.match(r", *", line[end : statement.cell_ends])
        before = re.search(r", *$", line[:begin])
        if after:
            end += after.end()
        elif before:
            begin = before.start()
    grown = len(new) - (end - begin)
    cell_ends = statement.cell_ends
    if cell_ends == len(line):
        lines[statement.line] = (line[:begin] + new + line[end:]).rstrip()
        return "\n".join(lines)
    slack = cell_ends - len(line[:cell_ends].rstrip())
    rest = line[end:cell_ends].rstrip()
    lines[statement.line] = line[:begin] + new + rest + " " * max(slack - grown, 1) + line[cell_ends:]
    pushed = max(grown - slack + 1, 0)  # the other column moves to the right in all other lines
    if pushed:
        i = statement.line - 1
        while lines[i].startswith("    "):
            i -= 1
        for j in range(i, _end_of_block(lines, i)):
            if j != statement.line and len(lines[j]) > cell_ends:
                lines[j] = lines[j][:cell_ends] + " " * pushed + lines[j][cell_ends:]
    return "\n".join(lines)
